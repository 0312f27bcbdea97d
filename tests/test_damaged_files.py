"""Files of runs that are damaged are refused by name, at no cost in memory. `make stress` tries more of it."""
import json
from pathlib import Path

import numpy as np
import pytest

import module_train_probe
import train_model
from parts.files import load_tensors, read_json
from parts.training.run import read_run_log
from tests.faults import LOADERS, damaged, damaged_json, flags, forked, only, resume, same

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert forked("factor", flags("factor", folder, epoch=2), folder / "out") == 0
    return folder / "r"


def loaded(call, path: Path):
    """What call() loads, or None after a look at the error, which must say what is damaged."""
    try:
        return call()
    except ValueError as error:
        assert str(path.parent) in str(error), error
        return None


@pytest.mark.parametrize("name", LOADERS)
def test_damaged_files(name, run):
    path, rng = run / name, np.random.default_rng(7)
    load, sealed = LOADERS[name]
    data, wanted = path.read_bytes(), load(run)
    refused = 0
    for _ in range(60):
        other = damaged(data, rng)
        if name.endswith(".json") and rng.random() < 0.5:
            other = damaged_json(data.decode(), rng).encode()
        with only(path, other):
            found = loaded(lambda: load(run), path)
        refused += found is None
        assert found is None or not sealed or same(found, wanted)
    assert refused > 20


@pytest.mark.parametrize("part", ["roots", "doubleRoot_test"])
def test_a_corrupted_data_set_is_named(part, run):
    path = run / "datasets" / f"dataset_{part}.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    for content in (bytes(data), bytes(data[:-1]), b""):
        with only(path, content):
            code, text = resume("factor", run)
            assert code == 2
            assert f"{path}: " in text


@pytest.mark.parametrize("damage", [b'{"board_dimx": 7}', b'{"board_dim": "7"}', b'{"abs_c": 99}', b"{", b"[]"])
def test_damaged_parameters_of_the_data_set_are_not_taken_for_a_wrong_flag(damage, run):
    path = run / "params_dataset.json"
    with only(path, damage):
        code, text = resume("factor", run, "--board_dim", "7")
    assert (code, text.count("\n")) == (2, 1)
    assert f"{path}: " in text
    assert resume("factor", run, "--board_dim", "7")[0] == 0


@pytest.mark.parametrize("size", [dict(n_embd=4000), dict(n_embd_pos=10**6), dict(n_layer=200, n_embd=100)])
def test_no_memory_for_a_network_larger_than_any_saved(size, run):
    path = run / "params_training.json"
    changed = json.dumps(read_json(path) | size).encode()
    with only(path, changed), pytest.raises(ValueError, match="params_training.json: n_layer, n_embd and the other sizes are of"):
        module_train_probe.TrainTransformer.from_run(run, device="cpu")


def test_a_log_without_epochs_is_refused(run):
    path = run / "run_log.csv"
    with only(path, path.read_bytes().replace(b"epoch", b"epoc(", 1)), pytest.raises(ValueError, match="is not a run log"):
        read_run_log(path)


def test_no_code_and_no_memory_from_a_checkpoint(run, tmp_path):
    """Files that torch itself would read: a flipped bit of a weight, and a pickle that asks for a gigabyte."""
    import zipfile

    path = run / "checkpoints" / "model_1.pth"
    with zipfile.ZipFile(path) as parts:
        where = parts.getinfo(next(name for name in parts.namelist() if name.endswith("data/0")))
        content = {name: parts.read(name) for name in parts.namelist()}
    data = bytearray(path.read_bytes())
    data[where.header_offset + 128] ^= 64
    (tmp_path / "flipped.pth").write_bytes(data)
    greedy = b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x40\x85R."
    with zipfile.ZipFile(tmp_path / "greedy.pth", "w") as parts:
        for name, value in content.items():
            parts.writestr(name, greedy if name.endswith("data.pkl") else value)
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as parts:
        for name, value in content.items():
            parts.writestr(name, bytes(10**7) if name.endswith("data/0") else value)
    for name, reason in (("flipped", "checksum"), ("greedy", "it names __builtin__ bytearray"), ("bomb", "checksum")):
        with pytest.raises(ValueError, match=f"{name}.pth: .*{reason}"):
            load_tensors(tmp_path / f"{name}.pth")


def test_the_script_s_folder_is_the_one_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trainer = train_model.main(flags("factor", "my runs", epoch=1, save=1))
    assert f"trained: {trainer.folder}" in capsys.readouterr().out
    assert train_model.main(["--resume", "my runs/r"]).epoch == 1
