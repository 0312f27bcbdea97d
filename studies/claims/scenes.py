"""Boards of a data set for a study: which types are in use, random and held-out boards, and their masks."""
from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import numpy as np

from module_dataset import TYPES, AbstractionDataset, Boards
from parts.boards.numbering import NO_NUMBERS, RowTable

Masking = tuple[float, float]  # share of cells hidden, share of boards that lose a patch


def types_in_use(dataset: AbstractionDataset, proba: Sequence[float]) -> dict[int, float]:
    """{type: probability} of the board types that are drawn. proba: in the order of dataset.board_types."""
    return {TYPES.index(name): float(p) for name, p in zip(dataset.board_types, proba, strict=True) if p > 0}


def without_held_out(dataset: AbstractionDataset, types: Iterable[int]) -> list[str]:
    """The names of types of which no board is held out."""
    return [TYPES[type_] for type_ in types if dataset.sets is None or not len(dataset.table(type_, "test"))]


def only_train(dataset: AbstractionDataset) -> AbstractionDataset:
    """The same data set with nothing held out, so that studies measure boards of train; see `rows_of`."""
    seen = copy.copy(dataset)
    if seen.sets is not None:
        seen.sets = {name: table if name.endswith("_train") else RowTable(table.family, NO_NUMBERS)
                     for name, table in seen.sets.items()}
    return seen


def rows_of(dataset: AbstractionDataset, type_: int, split: str, count: int, rng: np.random.Generator,
            distinct: bool = False) -> np.ndarray:
    """(count, width) random rows of a type, with repetition; split: 'train', or 'test' for held-out ones.

    Of a type without held-out boards a quarter of train is taken in their place and kept out of what is
    fitted. distinct: without repetition, so there may be fewer than count.
    """
    table = dataset.table(type_, split)
    if without_held_out(dataset, [type_]):
        train = dataset.table(type_, "train")
        some = train.take(rng.choice(len(train), min(len(train), 8 * count), replace=False))
        table = some[(hashed(dataset, type_, some) >= 3 * 2**30) == (split == "test")]
        if not len(table):
            raise ValueError(f"{TYPES[type_]!r} boards are too few to keep some apart from those fitted on.")
    if distinct:
        count = min(count, len(table))
    return table[rng.choice(len(table), count, replace=not distinct)]


def hashed(dataset: AbstractionDataset, type_: int, rows: np.ndarray) -> np.ndarray:
    """(n,) a number below 2^32 for each of rows (n, width), the same for every copy of a row."""
    return dataset.params.families[type_].rank(rows) * 2654435761 % 2**32  # Knuth's multiplicative hash


def boards_of(dataset: AbstractionDataset, type_: int, rows: np.ndarray, rng: np.random.Generator) -> Boards:
    """The boards of rows (n, width) of a type. Boards of all types have room for as many objects (two at
    least), so that code that looks at two objects needs no special case for boards of one."""
    root, row, column, backgrounds = dataset.objects(type_, rows)
    boards, slots = dataset.draw_objects(root, row, column, backgrounds, root, rng)
    objects = np.full((len(rows), max(2, dataset.params.comp_dim**2), 3), -1)
    objects[:, : root.shape[1]] = np.where(root[..., None] >= 0, np.stack([root, row, column], -1), -1)
    composites = rows[:, 0] if type_ == 2 else np.full(len(rows), -1)
    return Boards(boards, np.full(len(rows), type_), slots, objects, composites, backgrounds)


def held_out(dataset: AbstractionDataset, type_: int, count: int, rng: np.random.Generator) -> Boards:
    """At most count held-out boards of a type, each row at most once; two rows may draw the same picture."""
    return boards_of(dataset, type_, rows_of(dataset, type_, "test", count, rng, distinct=True), rng)


def hide(dataset: AbstractionDataset, boards: Boards, masking: Masking, rng: np.random.Generator,
         anywhere: bool = False) -> np.ndarray:
    """Masks (n, h, w). A patch on a composite is one of its roots' footprints, as in training, or with
    `anywhere` a window anywhere on the board, as on other boards, which does not depend on the board."""
    types = np.zeros_like(boards.types) if anywhere else boards.types
    return dataset.mask(boards.boards, *masking, types, boards.corners, rng)[0]


def footprints(dataset: AbstractionDataset, objects: np.ndarray) -> np.ndarray:
    """Cells (n, m * d * d) that objects (n, m, 3) cover, object by object; -1 for a missing object."""
    h, d = dataset.params.board_dim, dataset.params.abs_dim
    inside = (np.arange(d)[:, None] * h + np.arange(d)).ravel()
    corners = objects[..., 1, None] * h + objects[..., 2, None]
    return np.where(objects[..., :1] >= 0, corners + inside, -1).reshape(len(objects), -1)
