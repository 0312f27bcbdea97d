"""Weights & Biases from the command line: what cannot start leaves nothing, and what its users set counts."""
import subprocess
import sys

import pytest

import train_model
from parts.files import read_json
from tests.test_scripts import environment, flags, wandb_records


def records_of(folder):
    """The run records in the files of a folder of wandb's, in the order of their making."""
    found = []
    for path in sorted(folder.glob("offline-run-*/run-*.wandb")):
        found += [record.run for record in wandb_records(path) if record.WhichOneof("record_type") == "run"]
    return found


def run(tmp_path, settings, *argv):
    """The script with WANDB_ variables, which wandb reads once a process: (exit code, stderr)."""
    done = subprocess.run([sys.executable, train_model.__file__, *map(str, argv)], cwd=tmp_path, text=True, timeout=300,
                          env=environment(tmp_path) | settings, stdin=subprocess.DEVNULL, capture_output=True)  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize(("settings", "mode", "reason", "name"), [
    ({}, "online", "API key", []), ({"WANDB_BASE_URL": "foo"}, "offline", "base_url", ["--run_name", "on"]),
    ({"WANDB_API_KEY": "short"}, "online", "API key", ["--run_name", "on"]), ({"WANDB_MODE": "sideways"}, "offline", "sideways", []),
])  # fmt: skip
def test_what_cannot_start_is_one_line_and_leaves_nothing(settings, mode, reason, name, tmp_path):
    code, err = run(tmp_path, settings, *flags("factor", "runs", "--wandb", mode), *name)
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


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(tmp_path):
    """In the project and the folder that the user has set."""
    settings = {"WANDB_PROJECT": "mine", "WANDB_DIR": str(tmp_path / "elsewhere")}
    (tmp_path / "elsewhere").mkdir()
    more = ["--save", 1, "--run_name", "r", "--wandb", "offline"]
    for argv in (flags("factor", "runs", *more), ["--resume", "runs/r", "--epoch", "4", "--wandb", "offline"]):
        code, err = run(tmp_path, settings, *argv)
        assert code == 0, err
    first, second = records_of(tmp_path / "elsewhere" / "wandb")
    assert first.run_id == second.run_id == read_json(tmp_path / "runs" / "r" / "wandb.json")["id"]
    assert {first.project, second.project} == {"mine"}
    assert not (tmp_path / "runs" / "r" / "wandb").exists()
