"""Exports of runs: what is written, and each file read by its library where that is installed."""
import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from studies.export import __main__ as command
from studies.export import boards as exported
from studies.export.card import write_card
from tests.trainers import boards as small_boards
from tests.trainers import make

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("no_pictures")


def installed(*names):
    """The modules of those names; the test is skipped if one is missing."""
    return [pytest.importorskip(name, reason=f"{name} is not installed (pip install -e '.[export]')") for name in names]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(exported, "TRAIN", 12)
    monkeypatch.setattr(exported, "HELD_OUT", 4)


def run_of(tmp_path, kind="factor", **data):
    trainer = make(kind, small_boards(**data), runs=str(tmp_path), run_name="run", save_model=True)
    trainer.train()
    return trainer


@pytest.mark.parametrize("data", [{}, dict(abs_w_c=1, abs_w_m=2), dict(board_types=["double"]), dict(bool_split=False)])
def test_labels_say_what_stands_on_the_boards(data, few):
    trainer = make("factor", small_boards(**data))
    splits = exported.tables(trainer)
    assert list(splits) == (["train"] if "bool_split" in data else ["train", "test"])
    for table in splits.values():
        assert list(table) == list(exported.COLUMNS)
        for i, board in enumerate(table["board"]):
            root, place, objects = (table[name][i].reshape(board.shape) for name in ("root", "place", "object"))
            assert np.array_equal(root < 0, place < 0)
            assert np.array_equal(root < 0, objects < 0)
            assert (board[root < 0] == table["background"][i]).all()
            for token, r, k in zip(board[root >= 0], root[root >= 0], place[root >= 0], strict=True):
                choices = trainer.dataset.roots[r].reshape(-1, trainer.dataset.roots.shape[-1])[k]
                assert token in choices or (choices < 0).all() and token == table["background"][i]
            count = len({(x, y) for x, y in zip(objects.flat, root.flat, strict=True) if x >= 0})
            assert 1 <= count <= {"single": 1, "double": 2, "composition": 4}[table["type"][i]]
            posterior = table["posterior"][i]
            assert np.allclose(posterior.sum(-1), 1)
            assert (np.take_along_axis(posterior, board[..., None], -1) > 0).all()
            visible = table["mask"][i] == 0
            assert (posterior.argmax(-1) == board)[visible].all()
    if "test" in splits:
        train, test = ({row.tobytes() for row in splits[split]["board"]} for split in ("train", "test"))
        assert "abs_w_c" in data or not train & test  # other pictures, but fuzzy cells may make them alike


def test_card_is_of_the_run(tmp_path, few):
    trainer = run_of(tmp_path, "lea")
    write_card(trainer, tmp_path, exported.tables(trainer), 1e-6)
    card, config = (tmp_path / "README.md").read_text("utf-8"), json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["architecture"] == "LEAFactor"
    assert "module_train_probe_lea import TrainTransformer" in card
    assert "opset 20; within 1e-06" in card
    assert all(f"- `{name}`: " in card for name in exported.COLUMNS)
    assert not re.search(r"[{}]{2}|\{[a-z]", card.replace('"run_name"', ""))


def test_command_refuses_in_one_sentence(tmp_path, capsys, monkeypatch):
    def refused(*args):
        monkeypatch.setattr(sys, "argv", ["studies.export", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            command.main()
        assert stop.value.code == 2
        return capsys.readouterr().err

    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    assert "must name a new folder" in refused("run", "--to", tmp_path / "kept")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "file"]
    monkeypatch.setitem(sys.modules, "mlcroissant", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "safetensors.torch", json)
    monkeypatch.setitem(sys.modules, "pyarrow", json)
    error = refused(ROOT / "pretrained" / "factor", "--to", tmp_path / "new")
    assert error == "studies.export: mlcroissant is missing; pip install -e '.[export]' installs what exports need.\n"
    assert not (tmp_path / "new").exists()


def test_the_extra_has_what_exports_import():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]["export"]
    imported = [name.split(".")[0] for name in command.NEEDED + command.FOR_ONNX]
    assert [re.match("[a-z]+", line)[0] for line in extra] == imported


def test_files_are_read_by_their_libraries(tmp_path, few):
    safetensors, parquet, mlcroissant = installed("safetensors.torch", "pyarrow.parquet", "mlcroissant")
    trainer = run_of(tmp_path)
    folder = command.export(trainer.folder, tmp_path / "deep" / "out")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md", "croissant.json",
                                                        "boards_train.parquet", "boards_test.parquet"}
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    config, weights = json.loads((folder / "config.json").read_text("utf-8")), safetensors.load_file(folder / "model.safetensors")
    again = type(trainer)(type(trainer.dataset)(**config["dataset"]), **config["training"])
    again.transformer.load_state_dict(weights)
    table, expected = parquet.read_table(folder / "boards_test.parquet"), exported.tables(trainer)["test"]
    assert table["type"].to_pylist() == expected["type"].tolist()
    for name in ("board", "mask", "root", "place", "object", "posterior"):
        assert np.array_equal(np.reshape(table[name].to_pylist(), expected[name].shape), expected[name].astype(np.float32))
    for masks in (expected["mask"], 0 * expected["mask"]):
        assert np.array_equal(*(one.reconstruct(expected["board"], masks)[""] for one in (trainer, again)))
    described = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    assert "croissant/1.1" in str(described.metadata.conforms_to)
    rows = list(described.records("test"))
    assert np.array_equal([row["test/board"] for row in rows], expected["board"].reshape(len(rows), -1))


@pytest.mark.parametrize("kind", ["factor", "lea vanilla"])
def test_onnx_gives_every_named_activation(kind, tmp_path, few):
    *_, onnxruntime = installed(*command.NEEDED, *command.FOR_ONNX)
    trainer = run_of(tmp_path, kind)
    folder = command.export(trainer.folder, tmp_path / "out", onnx=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    assert set(names) == {*trainer.transformer.sites, *["sentence"] * (kind != "factor")}
    for n in (1, 5):
        boards = trainer.dataset.sample(n, "train").boards
        with trainer.record() as acts, torch.no_grad():
            said = trainer.speaker_sentence(boards, 0 * boards) if kind != "factor" else trainer.reconstruct(boards, 0 * boards)
        for name, value in zip(names, session.run(None, {"tokens": boards.reshape(n, -1)}), strict=True):
            expected = said if name == "sentence" else acts[name].numpy()
            assert np.abs(value - expected).max() < 1e-5, name
