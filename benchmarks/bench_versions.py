"""Two checkouts of the project in turns: seconds of an epoch, and around a training.

    python benchmarks/bench_versions.py OTHER_CHECKOUT [--rounds 9] [--commands factor LEA] [--csv FILE]

A process of each checkout trains, and they take turns epoch by epoch, 16 steps of 64 boards with LEA's
sentences in full. Around: a command of 2 epochs less these, that is start-up, the tests at the first and the
last epoch and their pictures. Medians, after a warm-up; for changes of speed compare with the commit before.
"""
from __future__ import annotations

import argparse
import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from machine import alternate, describe, save_table

HERE = Path(__file__).resolve().parent.parent
EPOCHS = 2  # of a command
COMMANDS = {  # script, parameters of training, in the scripts' words and in the wrapper's
    "factor": ("train_model.py", {}),
    "factor, Muon": ("train_model.py", {"optimizer": "muon"}),
    "LEA": ("train_model_lea.py", {"loss_rfs_val_start": 1.0}),
    "LEA, Muon": ("train_model_lea.py", {"loss_rfs_val_start": 1.0, "optimizer": "muon"}),
}
EPOCHS_ON_DEMAND = """
import sys
import torch
from {module} import TrainTransformer
from module_dataset import AbstractionDataset
torch.set_num_threads({threads})
trainer = TrainTransformer(AbstractionDataset(seed=0), seed=0, **{parameters})
for _ in sys.stdin:
    trainer._train_epoch(0)
    print(flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("other", type=Path, metavar="OTHER_CHECKOUT")
    parser.add_argument("--rounds", type=int, default=9, help="epochs; a third as many commands")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    print(describe())
    checkouts = {"other": args.other.resolve(), "here": HERE}
    rows = []
    for name in args.commands:
        script, parameters = COMMANDS[name]
        with contextlib.ExitStack() as stack:
            epochs = {at: stack.enter_context(training(folder, script, parameters, args.threads))
                      for at, folder in checkouts.items()}
            epoch = alternate(epochs, args.rounds)
        commands = {at: functools.partial(run, folder, script, parameters, args.threads)
                    for at, folder in checkouts.items()}
        whole = alternate(commands, max(args.rounds // 3, 1))
        around = {at: whole[at] - EPOCHS * epoch[at] for at in checkouts}
        for what, value in ((f"{name}: an epoch", epoch), (f"{name}: around training", around)):
            ratio = value["other"] / value["here"]
            rows.append({"": what, **{at: f"{value[at]:.2f} s" for at in checkouts}, "ratio": f"{ratio:.2f}"})
            print(*rows[-1].values(), sep="; ", flush=True)
    if args.csv:
        save_table(args.csv, rows)


@contextlib.contextmanager
def training(checkout: Path, script: str, parameters: dict, threads: int) -> Iterator:
    """Inside, a process of a checkout waits to train: a function that has it train an epoch."""
    module = {"train_model.py": "module_train_probe", "train_model_lea.py": "module_train_probe_lea"}[script]
    code = EPOCHS_ON_DEMAND.format(module=module, parameters=parameters, threads=threads)
    sleepy = os.environ | {"GOMP_SPINCOUNT": "20000"}  # idle threads leave their cores to the other
    with subprocess.Popen([sys.executable, "-c", code], cwd=checkout, env=sleepy, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def epoch() -> None:
            with contextlib.suppress(BrokenPipeError):
                print(file=process.stdin, flush=True)
            if not process.stdout.readline():
                raise SystemExit(f"{checkout}: training an epoch failed.")

        yield epoch


def run(checkout: Path, script: str, parameters: dict, threads: int) -> None:
    """A training command in a checkout; its run folder is thrown away."""
    flags = [text for name, value in parameters.items() for text in (f"--{name}", str(value))]
    flags += ["--epoch", str(EPOCHS), "--threads", str(threads), "--seed", "0"]
    with tempfile.TemporaryDirectory() as runs:
        subprocess.run([sys.executable, script, *flags, "--runs", runs], cwd=checkout, check=True,
                       capture_output=True)


if __name__ == "__main__":
    main()
