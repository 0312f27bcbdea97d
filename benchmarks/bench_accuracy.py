"""How near trained networks come to the best that the data allow: accuracy beside the ceiling, on the same
boards and masks.

    python benchmarks/bench_accuracy.py runs/<run> [more runs] --csv benchmarks/results/accuracy.csv

Held-out boards, 160 a type at most, 20 masks each, as the recipe ends: 25% of cells hidden and a patch on
half of the boards. Rows of easy first, where hidden cells are filled one at a time, have the same boards in
one pass beside them, and what one pass can reach at most: the best token of each cell.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from machine import measure_runs  # noqa: E402

from module_train_probe import TrainTransformer  # noqa: E402
from studies.claims import ceiling  # noqa: E402
from studies.claims.scenes import Scenes, held_out  # noqa: E402
from utils import numpy_rng  # noqa: E402

SETTINGS = ("epochs", "optimizer", "learning_rate", "lr_schedule", "lr_warmup", "lr_decay_start",
            "masking_patch_epoch", "board_proba_epoch_start", "board_proba_epoch_end", "board_proba_end",
            "overlap_weight", "weight_average", "batch_size")


def settings_of(params: dict) -> dict:
    """What a row says of a training's parameters."""
    shares = " ".join(f"{share:.3g}" for share in params["board_proba_end"])
    return {name: shares if name == "board_proba_end" else params[name] for name in SETTINGS}


def line_of(run: str, found: dict) -> str:
    """What is printed of a row, in percent."""
    line = f"{run:20}{found['what']:46}{100 * found['accuracy']:7.1f} of {100 * found['ceiling']:5.1f}"
    if "one pass" not in found:
        return line
    return f"{line}; one pass {100 * found['one pass']:5.1f} of {100 * found['ceiling of one pass']:5.1f}"


def rows_of(folder: Path) -> Iterator[dict]:
    """The rows of a run; prints those of all hidden tokens and of whole boards."""
    trainer = TrainTransformer.from_run(folder)
    rng = numpy_rng(0)
    scenes = Scenes.join([held_out(trainer.dataset, type_, 160, rng) for type_ in range(3)])
    for row in ceiling.measure(trainer, scenes, [1 / 3] * 3, rng):
        found = {"what": row["feature"], "accuracy": row["effect"], "ceiling": row["upper"],
                 "short": row["short of the bound"]}
        if "one pass" in row:
            found |= {"one pass": row["one pass"], "ceiling of one pass": row["best of one pass"]}
        if row["feature"].startswith(("whole", "hidden tokens, all")):
            print(line_of(folder.name, found), flush=True)
        yield {"run": folder.name, "seed": trainer.seed} | settings_of(trainer.params) | found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    measure_runs(args.runs, args.csv, rows_of)
