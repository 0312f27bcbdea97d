"""How near trained networks come to the best that the data allow: accuracy beside the ceiling, on the same
boards and masks.

    python benchmarks/bench_accuracy.py runs/<run> [more runs] --csv benchmarks/results/accuracy.csv

At most 160 held-out boards of each type in use, 20 masks each, as at the end of the recipe: 25% of cells
hidden and a patch on half of the boards. Rows of easy first, where hidden cells are filled one at a time,
give beside them the accuracy of one pass on the same boards and the most that one pass can reach: the most
probable token of each cell.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from machine import measure_runs  # noqa: E402

from module_dataset import TYPES, Boards  # noqa: E402
from module_train_probe import TrainTransformer  # noqa: E402
from studies.claims import ceiling  # noqa: E402
from studies.claims.scenes import held_out  # noqa: E402
from studies.claims.scores import Row  # noqa: E402
from utils import numpy_rng  # noqa: E402

SETTINGS = ("epochs", "optimizer", "learning_rate", "lr_schedule", "lr_warmup", "lr_decay_start",
            "masking_patch_epoch", "board_proba_epoch_start", "board_proba_epoch_end", "board_proba_end",
            "batch_size")


def settings_of(params: dict) -> dict:
    """The columns of a row that name a training's parameters."""
    shares = " ".join(f"{share:.3g}" for share in params["board_proba_end"])
    return {name: shares if name == "board_proba_end" else params[name] for name in SETTINGS}


def cells_of(row: Row) -> dict[str, float]:
    """The columns of a row of the ceiling."""
    cells = {"what": row.feature, "accuracy": row.effect[0], "ceiling": row.upper,
             "short": row.extras["short of the bound"][0]}
    if "one pass" in row.extras:
        cells |= {"one pass": row.extras["one pass"][0],
                  "ceiling of one pass": row.extras["best of one pass"]}
    return cells


def line_of(run: str, cells: dict) -> str:
    """The line that is printed of a row, in percent."""
    line = f"{run:20}{cells['what']:46}{100 * cells['accuracy']:7.1f} of {100 * cells['ceiling']:5.1f}"
    if "one pass" not in cells:
        return line
    return f"{line}; one pass {100 * cells['one pass']:5.1f} of {100 * cells['ceiling of one pass']:5.1f}"


def rows_of(folder: Path) -> Iterator[dict]:
    """The rows of a run; prints those of all hidden tokens and of whole boards."""
    trainer = TrainTransformer.from_run(folder)
    dataset, rng = trainer.dataset, numpy_rng(0)
    types = [type_ for type_, name in enumerate(TYPES) if name in dataset.board_types]
    drawn = Boards.join([held_out(dataset, type_, 160, rng) for type_ in types])
    for row in ceiling.measure(trainer, drawn, [1 / len(types)] * len(types), rng):
        cells = cells_of(row)
        if row.feature.startswith(("whole", "hidden tokens, all")):
            print(line_of(folder.name, cells), flush=True)
        yield {"run": folder.name, "seed": trainer.seed} | settings_of(trainer.params) | cells


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    measure_runs(args.runs, args.csv, rows_of)
