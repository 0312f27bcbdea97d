"""Scenes: boards drawn from rows of a data set, and what is on them."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from module_dataset import TYPES, AbstractionDataset

MASKING = (0.25, 0.5)  # as at the end of training: share of cells hidden, of boards that lose a patch


@dataclass
class Scenes:
    """n boards and what is on them."""

    boards: np.ndarray  # (n, h, w)
    types: np.ndarray  # (n,) 0 single, 1 double, 2 composition
    composites: np.ndarray  # (n,) index or -1
    backgrounds: np.ndarray  # (n,)
    objects: np.ndarray  # (n, m, 3) root (-1: none), row and column, in drawing order

    def __len__(self) -> int:
        return len(self.boards)

    @property
    def tokens(self) -> np.ndarray:
        """The boards, cell after cell: (n, T)."""
        return self.boards.reshape(len(self), -1)

    def take(self, which: np.ndarray | slice) -> Scenes:
        """The scenes that which, an index of the first axis, picks."""
        return Scenes(*(values[which] for values in vars(self).values()))

    @classmethod
    def join(cls, parts: Sequence[Scenes]) -> Scenes:
        """The scenes of all parts, in order; as many objects in each."""
        fields = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*map(np.concatenate, fields))


def types_in_use(dataset: AbstractionDataset, proba: Sequence[float]) -> dict[int, float]:
    """{type: probability} of the board types that are drawn; proba in the order of the data set's
    board_types."""
    return {TYPES.index(name): float(p) for name, p in zip(dataset.board_types, proba, strict=True) if p > 0}


def rows_of(dataset: AbstractionDataset, type_: int, split: str, count: int, rng: np.random.Generator,
            distinct: bool = False) -> np.ndarray:
    """(count, width) random rows of a family's split (of train where that is empty), with repetition.

    distinct: without repetition, and all there are where they are fewer.
    """
    table = dataset._table(type_, split)
    if not len(table):
        table = dataset._table(type_, "train")
    if distinct:
        count = min(count, len(table))
    return table.take(rng.choice(len(table), count, replace=not distinct))


def scenes_of(dataset: AbstractionDataset, type_: int, rows: np.ndarray, rng: np.random.Generator) -> Scenes:
    """The scenes of rows (n, width) of a family."""
    root, row, column, backgrounds = dataset._objects(type_, rows)
    boards, _ = dataset._draw(root, row, column, backgrounds, root, rng)
    composites = rows[:, 0] if type_ == 2 else np.full(len(rows), -1)
    objects = np.full((len(rows), max(2, dataset.params.comp_dim**2), 3), -1)
    objects[:, : root.shape[1]] = np.stack([root, row, column], -1)
    return Scenes(boards, np.full(len(rows), type_), composites, backgrounds, objects)


def held_out(dataset: AbstractionDataset, type_: int, count: int, rng: np.random.Generator) -> Scenes:
    """At most count held-out scenes of a family, no picture twice, though two rows may draw it."""
    scenes = scenes_of(dataset, type_, rows_of(dataset, type_, "test", count, rng, distinct=True), rng)
    return scenes.take(np.unique(scenes.tokens, axis=0, return_index=True)[1])


def hide(dataset: AbstractionDataset, scenes: Scenes, rng: np.random.Generator) -> np.ndarray:
    """Masks (n, h, w) as at the end of training."""
    corners = np.where(scenes.objects[..., :1] >= 0, scenes.objects[..., 1:], -1)
    return dataset.mask(scenes.boards, *MASKING, scenes.types, corners, rng)[0]


def footprints(dataset: AbstractionDataset, objects: np.ndarray) -> np.ndarray:
    """Cells (n, m * d * d) of objects (n, m, 3), object by object; -1 for one that is not there."""
    h, d = dataset.params.board_dim, dataset.params.abs_dim
    inside = (np.arange(d)[:, None] * h + np.arange(d)).ravel()
    corners = objects[..., 1, None] * h + objects[..., 2, None]
    return np.where(objects[..., :1] >= 0, corners + inside, -1).reshape(len(objects), -1)
