"""Two parts of stress.py: kills of runs of two processes, and exceptions at every point of an epoch."""
from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults import SCRIPTS, Steps, differences, flags, make, paired, same

ROOT = Path(__file__).resolve().parents[2]
AT_STEPS, SECOND, BOTH = 24, 14, 14  # kills of the first process at a step of its, of the second, of both at once
REAL = 3  # kills of runs that torchrun itself has started, some seconds each; the others are started as it does


# Runs of two processes


def pairs(folder: Path) -> dict:
    return {kind: pairs_of(kind, folder / kind) for kind in SCRIPTS}


def pairs_of(kind: str, folder: Path) -> dict:
    """Kills of small runs of two processes, resumed by two to the end and compared with such a run that nothing
    interrupted."""
    folder.mkdir(parents=True)
    rng, tally, wrong = np.random.default_rng(2), collections.Counter(), []
    print(f"{kind}: runs of two processes are killed", flush=True)
    steps_file, run, wanted = folder / "steps", folder / "runs" / "r", folder / "whole" / "r"
    argv = flags(kind, folder / "runs", epoch=8)

    def noting(rank):
        if rank == 0:
            Steps(log=steps_file).install()

    start = time.monotonic()
    if paired(kind, flags(kind, folder / "whole", epoch=8), folder, noting) != [0, 0]:
        return {"wrong": [said(folder)]}
    length, steps = time.monotonic() - start, len(steps_file.read_text().splitlines())

    def finish(what: str, killed: bool) -> None:
        tally["kills"] += killed
        tally[what] += killed
        faults = []
        if killed and paired(kind, ["--resume", str(run)], folder) != [0, 0]:
            text = said(folder)
            if "Traceback" in text or "nothing to resume" not in text and "params_training.json" not in text:
                faults.append(f"not resumed: {text}")
            shutil.rmtree(folder / "runs", ignore_errors=True)
            tally["runs with nothing saved yet, said so and started again"] += 1
            if paired(kind, argv, folder) != [0, 0]:
                faults.append(f"not started again: {said(folder)}")
        faults += differences(run, wanted) if not faults else []
        tally["survived"] += killed and not faults
        wrong.extend(f"{what}: {fault}" for fault in faults)
        shutil.rmtree(folder / "runs", ignore_errors=True)

    for at in rng.integers(1, steps + 1, AT_STEPS):
        def dying(rank, at=int(at)):
            if rank == 0:
                Steps(at).install()

        codes = paired(kind, argv, folder, dying)
        finish("of the first process, at a write, flush, rename or removal", codes[0] == -signal.SIGKILL)
    for what, ranks, times in (("of the second process, at a random moment", (1,), SECOND),
                               ("of both, at a random moment", (0, 1), BOTH)):
        for _ in range(times):
            codes = paired(kind, argv, folder, at=float(rng.random() * length), killed=ranks)
            finish(what, any(codes[rank] == -signal.SIGKILL for rank in ranks))
    for _ in range(REAL):
        finish("of one process of torchrun's, at a random moment", killed_under_torchrun(kind, argv, folder, rng))
    print(f"{kind}: {tally['survived']} of {tally['kills']} kills' runs as if never interrupted", flush=True)
    return dict(tally) | {"wrong": wrong}


def said(folder: Path) -> str:
    return " | ".join((folder / f"out{rank}").read_text()[-300:] for rank in range(2))


def killed_under_torchrun(kind: str, argv: list[str], folder: Path, rng) -> bool:
    """Starts a run by torchrun and kills one of the processes that train, at random."""
    script = Path(SCRIPTS[kind].__file__).name
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "tests/without_pictures.py", script]
    with open(folder / "out0", "w") as out:
        running = subprocess.Popen([*command, *argv], cwd=ROOT, stdout=out, stderr=out)
        log = Path(argv[argv.index("--runs") + 1]) / "r" / "run_log.csv"
        while running.poll() is None and not log.exists():
            time.sleep(0.001)
        time.sleep(float(rng.random() * 0.3))
        found = subprocess.run(["pgrep", "-P", str(running.pid)], capture_output=True, text=True).stdout.split()
        if found:
            os.kill(int(rng.choice(found)), signal.SIGKILL)
        return running.wait() != 0


# Exceptions


class Raised(Exception):
    """What a user's hook raises."""


def exceptions(folder: Path) -> dict:
    folder.mkdir(parents=True)
    return {kind: exceptions_of(kind) for kind in SCRIPTS}


def exceptions_of(kind: str) -> dict:
    """A user's hooks are called at every module and place, before and after, forward and backward, and around the
    optimiser's step; each call of the second epoch raises once. The training that then goes on must be the one that
    nothing disturbed."""
    calls: list[tuple[int, str]] = []
    plain = watched(kind, calls, lambda n: None)
    trained(plain)
    first, wanted, wrong = [epoch for epoch, _ in calls].index(1), plain.state(), []
    points = [name for epoch, name in calls if epoch == 1]
    print(f"{kind}: {len(points)} points of an epoch raise", flush=True)
    for at, point in enumerate(points):
        calls, error = [], (Raised, KeyboardInterrupt)[at % 2]

        def fail(count, at=at, error=error):
            if count == first + at + 1:
                raise error

        trainer, faults = watched(kind, calls, fail), []
        try:
            trained(trainer)
            faults.append("nothing was raised")
        except error:
            pass
        if trainer.epoch != 1 or any(module.training for module in trainer.transformer.modules()):
            faults.append(f"left in epoch {trainer.epoch}, or in training mode")
        trained(trainer)
        if not same(trainer.state(), wanted):
            faults.append("another training")
        wrong += [f"{at}, {point}: {fault}" for fault in faults]
    lost = {text.split(",")[0] for text in wrong}
    where = dict(collections.Counter(point.rpartition(" ")[2] for point in points))
    return {"points of an epoch": len(points), "survived": len(points) - len(lost), "where": where, "wrong": wrong}


def trained(trainer) -> None:
    """Trains without a word."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        trainer.train()


def watched(kind: str, calls: list[tuple[int, str]], then: Callable):
    """A trainer whose hooks note their calls and do then(how many there were)."""
    warnings.simplefilter("ignore")  # of the data set
    trainer = make(kind, epochs=3, epoch2test=100, save_model=False, run_name="", masking_patch_epoch=1)

    def hook(name: str):
        def called(*args, **kwargs):
            calls.append((trainer.epoch, name))
            then(len(calls))

        return called

    for name, module in trainer.transformer.named_modules():
        module.register_forward_pre_hook(hook(f"{name} before"))
        module.register_forward_hook(hook(f"{name} after"))
    for name, weight in trainer.transformer.named_parameters():
        weight.register_post_accumulate_grad_hook(hook(f"{name} gradient"))
    trainer.optim.register_step_pre_hook(hook("optimiser step"))
    trainer.optim.register_step_post_hook(hook("optimiser stepped"))
    return trainer
