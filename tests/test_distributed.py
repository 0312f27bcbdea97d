"""Two processes under torchrun train as one does: the real command line against the same flags in this process.

Runs that are compared draw no pictures; those whose words expire, and those that a signal stops, draw them.
"""
from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train_model
import train_model_lea
from module_dataset import AbstractionDataset
from module_train_probe import TrainTransformer
from parts.files import load_tensors
from parts.training.run import newest_states
from tests.trainers import draw_nothing

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--dtype", "float64", "--n_embd", "16", "--n_embd_pos", "8", "--n_layer", "2", "--dataset_len", "150", "--save", "1",
         "--seed", "3", "--run_name", "r", "--epoch2test", "2", "--device", "cpu"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
PLAIN = "tests/without_pictures.py"
SCRIPTS = {train_model: [], train_model_lea: ["--vq_expire", "0", "--loss_rfs_epoch_start", "0"]}


def command(*args) -> list[str]:
    return [sys.executable, *map(str, args)]


def run(*args, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, timeout=300, **kwargs)


def rows(folder: Path) -> list[dict]:
    with open(folder / "run_log.csv") as file:
        return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]


def alone(script, *args) -> None:
    """Runs a script in this process, without pictures."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch.setattr)
        script.main([*map(str, args)])


@pytest.fixture(scope="module", params=SCRIPTS, ids=lambda script: script.__name__)
def runs(request, tmp_path_factory):
    """The script, and the folder of a run alone and of one by two processes, of two epochs: 150 boards leave a last batch
    of 22, a third process would get 8, 7 and 7."""
    folder, script = tmp_path_factory.mktemp("runs"), request.param
    args = [*SMALL, *SCRIPTS[script], "--epoch", 2, "--runs"]
    alone(script, *args, folder / "alone")
    done = run(*TORCHRUN, PLAIN, f"{script.__name__}.py", *args, folder / "two")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("trained:") == 1
    return script, folder / "alone" / "r", folder / "two" / "r"


def assert_same_run(one: Path, two: Path, epoch: int):
    expected, found = (load_tensors(folder / "checkpoints" / f"model_{epoch}.pth") for folder in (one, two))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)
    for row, other in zip(rows(one), rows(two), strict=True):
        assert other == pytest.approx(row, rel=1e-9, nan_ok=True)


def test_two_processes_train_as_one(runs):
    """The mean gradient, the optimiser's steps, the codebook's moving averages and the log are those of the joint batch."""
    _, one, two = runs
    assert_same_run(one, two, 1)


@pytest.mark.parametrize("runs", [train_model], indirect=True)
def test_two_processes_resume(runs):
    """Rank 0 reads the state; the others take it from there."""
    script, one, two = runs
    alone(script, "--resume", one, "--epoch", 3)
    done = run(*TORCHRUN, PLAIN, f"{script.__name__}.py", "--resume", two, "--epoch", 3)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_run(one, two, 2)


def test_expiry_with_two_processes(tmp_path):
    """Words that expire are replaced, and both processes go on with the first one's codebook: training stays sound."""
    options = ["--vq_expire", "0.25", "--loss_rfs_epoch_start", "0", "--epoch", "4", "--epoch2test", "4", "--plot_dpi", "20",
               "--runs", tmp_path]
    done = run(*TORCHRUN, "train_model_lea.py", *SMALL, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    log = rows(tmp_path / "r")
    assert log[-1]["words_used"] > 8
    assert log[-1]["loss_total"] < log[0]["loss_total"]


def test_a_signal_stops_all_processes(tmp_path):
    args = command(*TORCHRUN, "train_model.py", *SMALL, "--plot_dpi", 20, "--epoch", 100000, "--runs", tmp_path)
    process = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "r" / "run_log.csv"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") > 3) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert stderr.count("resume with --resume") == 1
    state = newest_states(tmp_path / "r")[0]
    assert state.name == f"state_{len(rows(tmp_path / 'r'))}.pt"


def test_more_processes_than_boards_is_refused(monkeypatch):
    monkeypatch.setattr("module_train_probe.rank_and_world", lambda: (0, 2))
    with pytest.raises(ValueError, match="2 processes must be at most the boards of the smallest batch; batch_size = 1"):
        TrainTransformer(AbstractionDataset(dataset_len=150, seed=3), batch_size=1, device="cpu")
