"""What a network generalises to: whole boards filled in, held-out and train boards beside the ceiling.

    python benchmarks/bench_held_out.py runs/<run> [more runs] --csv benchmarks/results/held_out.csv

What is held out depends on the run's split (docs/held_out.md). Up to 400 boards a type of the test split,
and as many of train. Masks: recipe, as the run's recipe ends; 25%, a quarter of the cells and no patches;
LEA also sentence: nothing is hidden, and the board is rebuilt from its sentence alone. The ceiling is the
ideal observer's on the same boards and masks; equally probable answers are drawn at random. It does not
know which boards are held out, so a network can be above it on train boards.

With --checkpoints every checkpoint of a run is measured, in one pass and without patches: when does an object
work where training never showed it? With --words single boards rebuilt from LEA's sentences are looked at:
from words and from the vectors that these replace, and what is wrong.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from machine import measure_runs  # noqa: E402

from module_dataset import Boards  # noqa: E402
from parts.files import numbered  # noqa: E402
from studies.claims.ceiling import groups_of  # noqa: E402
from studies.claims.runs import is_lea, open_run  # noqa: E402
from utils import numpy_rng  # noqa: E402

COUNT = 400  # boards of a type


def boards_of(dataset, split: str) -> Boards:
    """Boards of a split, at most COUNT of each type."""
    if split == "test":
        return dataset.all_boards("test", COUNT, numpy_rng(0, 1))
    one_type = np.eye(len(dataset.board_types))
    return Boards.join([dataset.sample(COUNT, "train", proba, numpy_rng(0, 2)) for proba in one_type])


def shares(trainer, drawn: Boards, masking: tuple[float, float]) -> dict[str, np.ndarray]:
    """{column: (n,) whether a board is right, or how often the ideal observer is} under one mask each."""
    dataset = trainer.dataset
    hidden, _ = dataset.mask(drawn.boards, *masking, drawn.types, drawn.corners, numpy_rng(0, 3))
    masked = np.where(hidden, dataset.masking_token, drawn.boards)
    alike = [1 / len(dataset.board_types)] * len(dataset.board_types)
    ceiling, of_cells = dataset.observer.success(masked, drawn.boards, alike)
    output = next(iter(trainer.outputs))  # LEA: from the board
    right = {decode: (trainer.reconstruct(drawn.boards, hidden, decode)[output] == drawn.boards).all((1, 2))
             for decode in ("one pass", "easy first")}
    return right | {"ceiling of one pass": of_cells.prod((1, 2)), "ceiling": ceiling}


def as_percent(right: np.ndarray) -> str:
    """The share of right answers; '' if there are none."""
    return f"{100 * right.mean():.1f}" if right.size else ""


def rows_of(folder: Path) -> Iterator[dict]:
    """The rows of a run, which it prints."""
    trainer = open_run(folder, "cpu")
    dataset, lea = trainer.dataset, is_lea(folder)
    maskings = {"25%": (0.25, 0.0)} if lea else {
        "recipe": (trainer.masking_p, trainer.masking_patch_p), "25%": (0.25, 0.0)}
    for split in ("test", "train"):
        drawn = boards_of(dataset, split)
        columns = {name: shares(trainer, drawn, masking) for name, masking in maskings.items()}
        if lea:
            rebuilt = trainer.reconstruct(drawn.boards, np.zeros_like(drawn.boards))["l1_"]
            columns["sentence"] = {"one pass": (rebuilt == drawn.boards).all((1, 2))}
        for masks, values in columns.items():
            for group, use in groups_of(dataset, drawn).items():
                row = {"run": folder.name, "split_method": dataset.split_method,
                       "card_test": dataset.card_test, "seed": trainer.seed, "boards of": split,
                       "masks": masks, "type": group, "boards": int(use.sum())}
                row |= {name: as_percent(right[use]) for name, right in values.items()}
                if group != "all":
                    print(*row.values(), flush=True)
                    yield row


def checkpoint_rows(folder: Path) -> Iterator[dict]:
    """Whole boards right in one pass at each checkpoint of a run, 25% of cells hidden, which it prints."""
    trainer = open_run(folder, "cpu")
    dataset, output = trainer.dataset, next(iter(trainer.outputs))
    for split in ("test", "train"):
        drawn = boards_of(dataset, split)
        hidden, _ = dataset.mask(drawn.boards, 0.25, 0.0, drawn.types, drawn.corners, numpy_rng(0, 3))
        for epoch, path in numbered(trainer.folder / "checkpoints", r"model_(\d+)\.pth"):
            trainer.load_transformer(path)
            right = (trainer.reconstruct(drawn.boards, hidden)[output] == drawn.boards).all((1, 2))
            for group, use in groups_of(dataset, drawn).items():
                if group != "all":
                    row = {"run": folder.name, "epoch": epoch, "boards of": split, "type": group,
                           "boards": int(use.sum()), "one pass": as_percent(right[use])}
                    print(*row.values(), flush=True)
                    yield row


@torch.no_grad()
def word_rows(folder: Path) -> Iterator[dict]:
    """What is right of single boards rebuilt from their sentences, percent, which it prints."""
    trainer = open_run(folder, "cpu")
    network, dataset = trainer.transformer, trainer.dataset
    for split in ("test", "train"):
        drawn = boards_of(dataset, split)
        boards = drawn.boards[drawn.types == 0]
        tokens = torch.as_tensor(boards.reshape(len(boards), -1))
        vectors = network.write(network.infer(tokens, network.blank())[1])  # (n, S, D), not quantised
        words = network.ss_vector_quantizer.get_codebook_entries(network.ss_vector_quantizer(vectors)[3])
        hidden = network.hidden_board()
        rebuilt, of_vectors = (network.infer(hidden, x)[0].argmax(-1).numpy().reshape(boards.shape)
                               for x in (words, vectors))
        right, wrong = rebuilt == boards, (rebuilt != boards).any((1, 2))
        thing = boards >= dataset.vocab_bck  # the object's cells
        outline = ((rebuilt >= dataset.vocab_bck) == thing).all((1, 2))
        row = {"run": folder.name, "boards of": split, "boards": len(boards), "right from words": ~wrong,
               "right from vectors": (of_vectors == boards).all((1, 2)),
               "wrong: background right": (right | thing).all((1, 2))[wrong],
               "wrong: outline right": outline[wrong],
               "wrong: object cells right": right[wrong][thing[wrong]]}
        row = {name: as_percent(value) if isinstance(value, np.ndarray) else value
               for name, value in row.items()}
        row["distance to word"] = f"{(vectors - words).norm(dim=-1).mean():.2f}"
        print(*row.values(), flush=True)
        yield row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--checkpoints", action="store_true")
    parser.add_argument("--words", action="store_true")
    args = parser.parse_args()
    rows = checkpoint_rows if args.checkpoints else word_rows if args.words else rows_of
    measure_runs(args.runs, args.csv, rows)
