"""Two processes train as one does, started by torchrun or as it starts them, against the same flags in this process.

Runs draw no pictures, but for the one that torchrun starts and a signal stops.
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

from parts.files import load_tensors
from parts.training.run import newest_states
from tests.faults import SCRIPTS, forks, paired
from tests.trainers import draw_nothing

pytestmark = forks

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--dtype", "float64", "--n_embd", "16", "--n_embd_pos", "8", "--n_layer", "2", "--dataset_len", "150", "--save", "1",
         "--seed", "3", "--run_name", "r", "--epoch2test", "2", "--device", "cpu"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
MORE = {"factor": [], "lea": ["--vq_expire", "0", "--loss_rfs_epoch_start", "0"]}


def as_torchrun(kind, folder, *args) -> str:
    """Runs a script by two processes as torchrun starts them; what the first one prints."""
    codes = paired(kind, [*map(str, args)], folder)
    assert codes == [0, 0], [(folder / f"out{rank}").read_text()[-2000:] for rank in (0, 1)]
    return (folder / "out0").read_text()


def rows(folder: Path) -> list[dict]:
    with open(folder / "run_log.csv") as file:
        return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]


def alone(kind, *args) -> None:
    """Runs a script in this process, without pictures."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch.setattr)
        SCRIPTS[kind].main([*map(str, args)])


@pytest.fixture(scope="module", params=SCRIPTS)
def runs(request, tmp_path_factory):
    """The network, and the folder of a run alone and of one by two processes, of two epochs: 150 boards leave a last batch of
    22, a third process would get 8, 7 and 7."""
    folder, kind = tmp_path_factory.mktemp("runs"), request.param
    args = [*SMALL, *MORE[kind], "--epoch", 2, "--runs"]
    alone(kind, *args, folder / "alone")
    args.append(folder / "two")
    assert as_torchrun(kind, folder, *args).count("trained:") == 1
    return kind, folder / "alone" / "r", folder / "two" / "r"


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


@pytest.mark.parametrize("runs", ["factor"], indirect=True)
def test_two_processes_resume(runs):
    """Rank 0 reads the state; the others take it from there."""
    kind, one, two = runs
    alone(kind, "--resume", one, "--epoch", 3)
    as_torchrun(kind, two.parent, "--resume", two, "--epoch", 3)
    assert_same_run(one, two, 2)


def test_expiry_with_two_processes(tmp_path):
    """Words that expire are replaced, and both processes go on with the first one's codebook: training stays sound."""
    options = ["--vq_expire", "0.25", "--loss_rfs_epoch_start", "0", "--epoch", "4", "--epoch2test", "4"]
    as_torchrun("lea", tmp_path, *SMALL, *options, "--runs", tmp_path)
    log = rows(tmp_path / "r")
    assert log[-1]["words_used"] > 8
    assert log[-1]["loss_total"] < log[0]["loss_total"]


@pytest.mark.parametrize("runs", ["factor"], indirect=True)
def test_torchrun_trains_as_one_process_and_a_signal_stops_all(runs, tmp_path):
    args = [sys.executable, *TORCHRUN, "train_model.py", *SMALL, "--epoch2test", "99", "--plot_dpi", "20", "--epoch", "100000",
            "--runs", str(tmp_path)]
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
    log = rows(tmp_path / "r")
    assert state.name == f"state_{len(log)}.pt"
    assert [row["loss"] for row in log[:2]] == pytest.approx([row["loss"] for row in rows(runs[1])[:2]], rel=1e-9)
