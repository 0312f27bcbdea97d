"""Two checkouts of the project in turns, as their users run them: seconds an epoch, and around training.

    python benchmarks/bench_versions.py OTHER_CHECKOUT [--rounds 3] [--threads 2] [--csv FILE]

Each command runs in both checkouts for 2 and for 22 epochs: an epoch is 1/20 of the difference, and what a
command of 2 epochs takes beside these is start-up, the tests at the first and the last epoch and their
pictures. Medians over rounds, after a warm-up; for changes of speed compare with the commit before.
"""
from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import alternate, describe, save_table

HERE = Path(__file__).resolve().parent.parent
EPOCHS = 2, 22
COMMANDS = {
    "factor": ["train_model.py"],
    "factor, Muon": ["train_model.py", "--optimizer", "muon"],
    "LEA": ["train_model_lea.py"],
    "LEA, Muon": ["train_model_lea.py", "--optimizer", "muon"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("other", type=Path, metavar="OTHER_CHECKOUT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    print(describe())
    checkouts = {"other": args.other.resolve(), "here": HERE}
    rows = []
    for name in args.commands:
        flags = ["--threads", str(args.threads), "--epoch"]
        ways = {(at, epochs): functools.partial(run, folder, [*COMMANDS[name], *flags, str(epochs)])
                for epochs in EPOCHS for at, folder in checkouts.items()}
        found = alternate(ways, args.rounds)
        few, many = EPOCHS
        epoch = {at: (found[at, many] - found[at, few]) / (many - few) for at in checkouts}
        around = {at: found[at, few] - few * epoch[at] for at in checkouts}
        for what, value in ((f"{name}: an epoch", epoch), (f"{name}: around training", around)):
            ratio = value["other"] / value["here"]
            rows.append({"": what, **{at: f"{value[at]:.2f} s" for at in checkouts}, "ratio": f"{ratio:.2f}"})
            print(*rows[-1].values(), sep="; ", flush=True)
    if args.csv:
        save_table(args.csv, rows)


def run(checkout: Path, command: list[str]) -> None:
    """A training command in a checkout; its run folder is thrown away."""
    with tempfile.TemporaryDirectory() as runs:
        whole = [sys.executable, *command, "--seed", "0", "--runs", runs]
        subprocess.run(whole, cwd=checkout, check=True, capture_output=True)


if __name__ == "__main__":
    main()
