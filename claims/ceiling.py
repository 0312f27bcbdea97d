"""How much of a masked board can be known at all, and how near the network comes: no claim, but what the
others stand beside.

Measure: greedy reconstruction beside the best possible one, on the same held-out boards and masks. An exact
observer, who knows how boards are made, reconstructs each cell by its own posterior (the bound for tokens) or
the board as a whole (the bound for whole boards).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from claims.sample import KNOWN
from claims.scenes import Scenes, hide
from claims.scores import DRAWS, Table, judge, ratio, resample, spread
from module_dataset import TYPES

TABLE = Table(
    "ceiling", "the ceiling", "share that is right",
    "Upper bound: the best possible on the same boards and masks. Avoidable error: wrong tokens, of all, "
    "on boards whose best picture has a posterior >= 0.99.", is_claim=False)
COUNTED = ("tokens", "hidden tokens", "whole boards")


@dataclass
class Tally:
    """What is right of n boards, summed over masks; (3, n) in the order of COUNTED, unless noted."""

    network: np.ndarray
    cell_by_cell: np.ndarray  # the most probable token of each cell
    whole: np.ndarray  # the most probable board
    all: np.ndarray  # how many there are
    avoidable: np.ndarray  # (n,) the network's wrong tokens where the board could be known
    sure: np.ndarray  # (n,) masks under which it could


def measure(trainer, scenes: Scenes, proba: Sequence[float], rng: np.random.Generator, masks: int = 20,
            draws: int = DRAWS, bar: Callable = iter) -> list[dict]:
    """Rows of a trainer's greedy reconstruction beside the best possible one on the same scenes and masks.

    proba: prior of the board types, in the data set's order. masks: how many masks a board.
    """
    tally, rows = tally_of(trainer, scenes, proba, rng, masks, bar), []
    for group in ("all", *(TYPES[type_] for type_ in np.unique(scenes.types))):
        use = np.ones(len(scenes), bool) if group == "all" else scenes.types == TYPES.index(group)
        rows += _rows(tally, group, use, resample(int(use.sum()), rng, draws), masks)
    return rows


def tally_of(trainer, scenes: Scenes, proba: Sequence[float], rng: np.random.Generator, masks: int,
             bar: Callable) -> Tally:
    """The `Tally` of scenes under masks masks each."""
    n = len(scenes)
    tally = Tally(*np.zeros((4, 3, n)), *np.zeros((2, n)))
    for _ in bar(range(masks)):
        hidden = hide(trainer.dataset, scenes, rng)
        masked = np.where(hidden, trainer.dataset.masking_token, scenes.boards)
        best = trainer.dataset.best_reconstruction(masked, proba)
        right = trainer._reconstruct(scenes.boards, hidden)[""] == scenes.boards
        sure = best.mass >= KNOWN
        tally.network += _counts(right, hidden)
        tally.cell_by_cell += _counts(best.marginal == scenes.boards, hidden)
        tally.whole += _counts(best.board == scenes.boards, hidden)
        tally.all += _counts(np.ones_like(right), hidden)
        tally.avoidable += (~right & sure[:, None, None]).sum((1, 2))
        tally.sure += sure
    return tally


def _counts(right: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(3, n), as COUNTED, of right and hidden (n, h, w)."""
    return np.stack([right.sum((1, 2)), (right & hidden).sum((1, 2)), right.all((1, 2))])


def _rows(tally: Tally, group: str, use: np.ndarray, W: np.ndarray, masks: int) -> list[dict]:
    """The rows of the boards in use (n,)."""
    rows = []
    avoidable = ratio(tally.avoidable[use], tally.all[0, use], W)
    for i, what in enumerate(COUNTED):
        network, cell_by_cell, whole = (ratio(right[i, use], tally.all[i, use], W)
                                        for right in (tally.network, tally.cell_by_cell, tally.whole))
        upper = whole if what == "whole boards" else cell_by_cell
        row = judge(TABLE.name, f"{what}, {group}", network, {}, upper, counts=False, boards=int(use.sum()),
                    masks=masks)
        row |= spread("short of the bound", upper - network) | {"best board": whole[0]}
        row |= spread("avoidable error", avoidable) | {"sure": tally.sure[use].mean() / masks}
        rows.append(row)
    return rows
