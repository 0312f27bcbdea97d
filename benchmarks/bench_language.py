"""What LEA's sentences are worth: boards rebuilt from them alone, and whether words mean the same everywhere.

    python benchmarks/bench_language.py runs/<run> [more runs] --csv benchmarks/results/language.csv

Rebuilt: all held-out boards with one or two objects, nothing hidden, share of whole boards. Elsewhere: the
words by which two other boards with the same change differ are put into a board's sentence; share of boards
that come out exactly as wanted (claims/steering.py), of 200 pairs a feature; same place: the two other boards
have their object where this one has it. Percent.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from machine import measure_runs  # noqa: E402

from module_train_probe_lea import TrainTransformer  # noqa: E402
from studies.claims import ceiling, steering  # noqa: E402
from studies.claims.networks import Speaker  # noqa: E402
from studies.claims.scenes import Scenes, held_out  # noqa: E402
from utils import numpy_rng  # noqa: E402

ALL = 10**6  # boards
REBUILT = {  # columns: groups of boards
    "rebuilt: single": "single",
    "rebuilt: double": "double",
    "of these apart": ceiling.APART,
    "overlapping": ceiling.OVERLAPPING,
}


def rebuilt(speaker: Speaker, dataset, rng: np.random.Generator) -> dict[str, float]:
    """Shares of held-out boards rebuilt whole from their sentence, by type and by whether objects overlap."""
    scenes = Scenes.join([held_out(dataset, type_, ALL, rng) for type_ in (0, 1)])
    right = (speaker.rebuild(speaker.speak(scenes.boards)) == scenes.boards).all((1, 2))
    groups = ceiling.groups_of(dataset, scenes)
    return {title: right[groups[group]].mean() for title, group in REBUILT.items()}


def elsewhere(speaker: Speaker, dataset, rng: np.random.Generator) -> dict[str, float]:
    """Shares of boards that words learnt elsewhere change as wanted, by feature."""
    found = {}
    rows = steering.measure(speaker, dataset, {0, 1}, rng, draws=1)
    for way, heading in ((steering.ELSEWHERE, "elsewhere"), (steering.SAME_PLACE, "same place")):
        of_way = [row for row in rows if row["feature"].endswith(f" boards{way}")]
        for row in of_way:
            found[f"{heading}: {row['feature'].partition(' boards')[0]}"] = float(np.mean(row["effect"]))
    return found


def rows_of(folder: Path) -> Iterator[dict]:
    """The row of a run, which it prints."""
    trainer = TrainTransformer.from_run(folder)
    speaker = Speaker(trainer)
    shares = rebuilt(speaker, trainer.dataset, numpy_rng(0))
    shares |= elsewhere(speaker, trainer.dataset, numpy_rng(1))
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
