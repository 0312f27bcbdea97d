"""How good LEA's sentences are: boards rebuilt from them alone, and whether words mean the same everywhere.

    python benchmarks/bench_language.py runs/<run> [more runs] --csv benchmarks/results/language.csv

Rebuilt: share of held-out boards with one or two objects, nothing hidden, that are rebuilt whole. Transfer:
the words by which two other boards with the same change differ are put into a board's sentence; share of
boards that come out exactly as wanted (studies/claims/steering.py), of 200 pairs a feature; same place: the
object stands at the same place on the two other boards. Percent.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from machine import measure_runs  # noqa: E402

from module_dataset import AbstractionDataset, Boards  # noqa: E402
from module_train_probe_lea import TrainTransformer  # noqa: E402
from studies.claims import ceiling, steering  # noqa: E402
from studies.claims.networks import Speaker  # noqa: E402
from studies.claims.scenes import held_out  # noqa: E402
from utils import numpy_rng  # noqa: E402

ALL = 10**6  # boards
REBUILT = {  # columns: groups of boards
    "rebuilt: single": "single",
    "rebuilt: double": "double",
    "of these apart": ceiling.APART,
    "overlapping": ceiling.OVERLAPPING,
}


def rebuilt(speaker: Speaker, dataset: AbstractionDataset, rng: np.random.Generator) -> dict[str, float]:
    """Shares of held-out boards rebuilt whole from their sentence, by type and by whether objects overlap."""
    drawn = Boards.join([held_out(dataset, type_, ALL, rng) for type_ in (0, 1)])
    right = (speaker.rebuild(speaker.speak(drawn.boards)) == drawn.boards).all((1, 2))
    groups = ceiling.groups_of(dataset, drawn)
    return {title: right[groups[group]].mean() for title, group in REBUILT.items()}


def transfer(speaker: Speaker, dataset: AbstractionDataset, rng: np.random.Generator) -> dict[str, float]:
    """Shares of boards that words taken from other boards change as wanted, by feature."""
    shares = {}
    rows = steering.measure(speaker, dataset, {0, 1}, rng, draws=1)
    for source, heading in ((steering.ELSEWHERE, "transfer"), (steering.SAME_PLACE, "same place")):
        for row in rows:
            if row.feature.endswith(f" boards{source}"):
                shares[f"{heading}: {row.feature.partition(' boards')[0]}"] = row.effect[0]
    return shares


def rows_of(folder: Path) -> Iterator[dict]:
    """The row of a run, which it prints."""
    trainer = TrainTransformer.from_run(folder)
    speaker = Speaker(trainer)
    shares = rebuilt(speaker, trainer.dataset, numpy_rng(0))
    shares |= transfer(speaker, trainer.dataset, numpy_rng(1))
    row = {"run": folder.name, "epochs": trainer.epochs}
    row |= {name: f"{100 * share:.1f}" for name, share in shares.items()}
    row["words in use"] = int(trainer.test_sentences("test", None)["words"])
    print(row, flush=True)
    yield row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    measure_runs(args.runs, args.csv, rows_of)
