"""Weights & Biases from the command line: what cannot start leaves nothing, and what its users set counts."""
import json
import struct
import subprocess
import sys

import numpy as np
import pytest

import train_model
from parts.files import read_json
from parts.training.run import read_run_log
from tests.faults import forks, ran
from tests.test_scripts import environment, flags


def wandb_records(path):
    """The records of an offline run, from the file's own format: a header of 7 bytes, then blocks of 32 KiB, of chunks that
    each have checksum, length and kind (1 whole, 2 first, 3 middle, 4 last)."""
    from wandb.proto import wandb_internal_pb2  # here, as it takes a second

    content, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def records_of(folder):
    """The run records in the files of a folder of wandb's, in the order of their making."""
    found = []
    for path in sorted(folder.glob("offline-run-*/run-*.wandb")):
        found += [record.run for record in wandb_records(path) if record.WhichOneof("record_type") == "run"]
    return found


def run(tmp_path, settings, *argv):
    """The script with WANDB_ variables, which wandb reads once a process: (exit code, stderr). A fork of this process
    might share wandb's service."""
    done = subprocess.run([sys.executable, train_model.__file__, *map(str, argv)], cwd=tmp_path, text=True, timeout=300,
                          env=environment(tmp_path) | settings, stdin=subprocess.DEVNULL, capture_output=True)  # fmt: skip
    return done.returncode, done.stderr


@forks  # nothing here starts wandb's service before
@pytest.mark.parametrize(("settings", "mode", "reason", "name"), [
    ({}, "online", "API key", []), ({"WANDB_BASE_URL": "foo"}, "offline", "base_url", ["--run_name", "on"]),
    ({"WANDB_API_KEY": "short"}, "online", "API key", ["--run_name", "on"]), ({"WANDB_MODE": "sideways"}, "offline", "sideways", []),
])  # fmt: skip
def test_what_cannot_start_is_one_line_and_leaves_nothing(settings, mode, reason, name, tmp_path):
    code, _, err = ran("factor", [*flags("factor", "runs", "--wandb", mode), *name], tmp_path, settings)
    assert code == 2
    [line] = err.splitlines()
    assert f"--wandb {settings.get('WANDB_MODE', mode)} cannot start: " in line
    assert reason in line
    assert not (tmp_path / "runs").exists()


def test_wandb_that_is_not_installed_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SystemExit):
        train_model.main(flags("factor", tmp_path / "runs", "--wandb", "offline"))
    assert "--wandb offline cannot start: import of wandb" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_what_fails_leaves_what_was_there(tmp_path, monkeypatch, capsys, no_pictures):
    """A saved run that is resumed keeps all its files."""
    train_model.main(flags("factor", tmp_path, "--save", 1, "--run_name", "r"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"}
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SystemExit):
        train_model.main(["--resume", str(tmp_path / "r"), "--epoch", "4", "--wandb", "offline"])
    assert {path: path.read_bytes() for path in before} == before


def test_offline_really_logs_and_a_resumed_run_goes_on_in_the_same_run(tmp_path):
    """Config, curves and pictures, read back; then in the project and the folder that the user has set."""
    argv = flags("factor", "runs", "--wandb", "offline", "--save", 1, "--epoch", 3, "--epoch2test", 2)
    code, err = run(tmp_path, {}, *argv)
    assert code == 0, err
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "home"}
    (folder,) = (tmp_path / "runs").iterdir()
    [started] = records_of(folder / "wandb")
    assert started.display_name == folder.name
    config = {item.key: json.loads(item.value_json) for item in started.config.update}
    assert config["training"] == read_json(folder / "params_training.json")
    assert config["data set"] == read_json(folder / "params_dataset.json")
    log = read_run_log(folder / "run_log.csv")
    (wandb_run,) = folder.glob("wandb/offline-run-*")
    records = wandb_records(next(wandb_run.glob("run-*.wandb")))
    rows = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    assert [row.step.num for row in rows] == [3, 6, 9]  # trainer.step
    pictures = {path.stem for path in folder.glob("figures/*")}
    for epoch, row in enumerate(rows):
        logged = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        for name, column in log.items():
            if np.isfinite(column[epoch]):
                assert logged[name] == pytest.approx(column[epoch], rel=1e-6), name
        shown = {name.removesuffix("/path"): wandb_run / "files" / value for name, value in logged.items() if name.endswith("/path")}
        assert set(shown) == (pictures if epoch != 1 else set())  # a test's
        for path in shown.values():
            assert path.read_bytes().startswith(b"\x89PNG")
    settings = {"WANDB_PROJECT": "mine", "WANDB_DIR": str(tmp_path / "elsewhere")}
    (tmp_path / "elsewhere").mkdir()
    code, err = run(tmp_path, settings, "--resume", folder, "--epoch", 4, "--wandb", "offline")
    assert code == 0, err
    [second] = records_of(tmp_path / "elsewhere" / "wandb")
    assert started.run_id == second.run_id == read_json(folder / "wandb.json")["id"]
    assert second.project == "mine"
    assert len(records_of(folder / "wandb")) == 1
