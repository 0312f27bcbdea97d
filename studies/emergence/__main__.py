"""What emerges when: runs followed through their checkpoints, by the measures of the claims.

    python -m studies.emergence runs/<run> [more runs = seeds]

writes runs/<run>/analysis/emergence.csv and .png, of the first run; with --train boards of train are
measured, and the files are called emergence_train.
"""
from __future__ import annotations

import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

import argparse
from collections.abc import Sequence
from pathlib import Path

import utils
from parts import files
from parts.probing.panels import own_style, save_figure
from studies.claims.runs import bars, boards_note, command, folder_for, open_run
from studies.emergence.measures import follow, plot_emergence

EMERGENCE = 10  # the stream of a run's seed that the measurements draw from


def follow_all(runs: Sequence[str | Path], device: str = "auto", train: bool = False) -> Path:
    """Follows runs, if train on boards of train; returns the picture's path. Errors as of `folder_for`."""
    path, rows = folder_for(runs) / ("emergence_train" if train else "emergence"), []
    for run in runs:
        trainer = open_run(run, device)
        if not train:
            boards_note(trainer)
        of_run = follow(trainer, utils.numpy_rng(trainer.seed, EMERGENCE), bars(run)("checkpoints"),
                        train=train)
        rows += [{"run": Path(run).name, "seed": trainer.seed} | row for row in of_run]
    files.save_table(path.with_suffix(".csv"), rows)
    save_figure(plot_emergence(rows), path.with_suffix(".png"), 100)
    return path.with_suffix(".png")


def main() -> None:
    """The command line: prints the picture's path."""
    parser = argparse.ArgumentParser(prog="studies.emergence", description=__doc__.split("\n\n")[0],
                                     allow_abbrev=False)
    parser.add_argument("runs", nargs="+", help="run folders of the factor network, seeds of one recipe")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, mps or auto (default: auto)")
    parser.add_argument("--train", action="store_true",
                        help="measure boards of train, not held-out ones; read-outs are fitted on others")
    flags = parser.parse_args()
    with command(parser), own_style():
        print(follow_all(flags.runs, flags.device, flags.train))


if __name__ == "__main__":
    main()
