"""How much of a masked board can be known at all, and how near the network comes: no claim, but what the
others stand beside.

Measure: greedy reconstruction beside the best possible one, on the same held-out boards and masks. An exact
observer, who knows how boards are made, reconstructs each cell by its own posterior (the bound for tokens) or
the board as a whole (the bound for whole boards). The former is also all that a network can reach that
answers every cell at once; one that fills cells in, the surest first, may come nearer to the latter. Double
boards are counted once more by whether their objects overlap, which is where knowledge runs out.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from module_dataset import TYPES
from parts.probing.evaluation import DECODES
from studies.claims.sample import KNOWN
from studies.claims.scenes import Scenes, hide
from studies.claims.scores import DRAWS, Table, judge, ratio, resample, spread

TABLE = Table(
    "ceiling", "the ceiling", "share that is right",
    "Upper bound: the best possible on the same boards and masks. Avoidable error: wrong tokens, of all, "
    "on boards whose best picture has a posterior >= 0.99. Easy first: hidden cells are filled one at a "
    "time, the surest first; besides, the same boards in one pass, and what one pass can reach at most, "
    "each cell's own best token.", is_claim=False)
COUNTED = ("tokens", "hidden tokens", "whole boards")
EASY_FIRST = DECODES[1]
APART, OVERLAPPING = "double apart", "double overlapping"  # by whether two objects share a cell


@dataclass
class Tally:
    """What is right of n boards, summed over masks; (3, n) in the order of COUNTED, unless noted."""

    network: np.ndarray  # in one pass
    easy_first: np.ndarray
    cell_by_cell: np.ndarray  # the most probable token of each cell
    whole: np.ndarray  # the most probable board
    all: np.ndarray  # how many there are
    avoidable: np.ndarray  # (n,) the network's wrong tokens where the board could be known
    sure: np.ndarray  # (n,) masks under which it could


def measure(trainer, scenes: Scenes, proba: Sequence[float], rng: np.random.Generator, masks: int = 20,
            draws: int = DRAWS, bar: Callable = iter) -> list[dict]:
    """Rows of a trainer's greedy reconstruction beside the best possible one on the same scenes and masks:
    in one pass by board type, then easy first, double boards also apart and overlapping.

    proba: prior of the board types, in the data set's order. masks: how many masks a board.
    """
    [own] = rng.spawn(1)  # leaves the draws of rng as they are
    tally, rows = tally_of(trainer, scenes, proba, rng, masks, bar), []
    groups = groups_of(trainer.dataset, scenes)
    for group, use in groups.items():
        if group not in (APART, OVERLAPPING):
            rows += _rows(tally, group, use, resample(int(use.sum()), rng, draws), masks)
    for group, use in groups.items():
        rows += _easy_first_rows(tally, group, use, resample(int(use.sum()), own, draws), masks)
    return rows


def groups_of(dataset, scenes: Scenes) -> dict[str, np.ndarray]:
    """{name: (n,) which scenes}: all, each board type, and double boards whose objects are apart and
    overlapping; those that there are."""
    groups = {"all": np.ones(len(scenes), bool)}
    groups |= {name: scenes.types == type_ for type_, name in enumerate(TYPES)}
    steps = abs(scenes.objects[:, 0, 1:] - scenes.objects[:, 1, 1:])  # (n, 2) between corners
    overlap = (steps < dataset.params.abs_dim).all(1)
    groups |= {APART: groups["double"] & ~overlap, OVERLAPPING: groups["double"] & overlap}
    return {name: use for name, use in groups.items() if use.any()}


def tally_of(trainer, scenes: Scenes, proba: Sequence[float], rng: np.random.Generator, masks: int,
             bar: Callable) -> Tally:
    """The `Tally` of scenes under masks masks each."""
    n = len(scenes)
    tally = Tally(*np.zeros((5, 3, n)), *np.zeros((2, n)))
    for _ in bar(range(masks)):
        hidden = hide(trainer.dataset, scenes, rng)
        masked = np.where(hidden, trainer.dataset.masking_token, scenes.boards)
        best = trainer.dataset.best_reconstruction(masked, proba)
        right = trainer._reconstruct(scenes.boards, hidden)[""] == scenes.boards
        sure = best.mass >= KNOWN
        filled = trainer._reconstruct(scenes.boards, hidden, EASY_FIRST)[""]
        tally.network += counts(right, hidden)
        tally.easy_first += counts(filled == scenes.boards, hidden)
        tally.cell_by_cell += counts(best.marginal == scenes.boards, hidden)
        tally.whole += counts(best.board == scenes.boards, hidden)
        tally.all += counts(np.ones_like(right), hidden)
        tally.avoidable += (~right & sure[:, None, None]).sum((1, 2))
        tally.sure += sure
    return tally


def counts(right: np.ndarray, hidden: np.ndarray) -> np.ndarray:
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


def _easy_first_rows(tally: Tally, group: str, use: np.ndarray, W: np.ndarray, masks: int) -> list[dict]:
    """The rows of the boards in use (n,) filled easy first, beside one pass and both ceilings."""
    rows = []
    for i, what in enumerate(COUNTED[1:], 1):
        easy_first, one_pass, cell_by_cell, whole = (
            ratio(right[i, use], tally.all[i, use], W)
            for right in (tally.easy_first, tally.network, tally.cell_by_cell, tally.whole))
        upper = whole if what == "whole boards" else cell_by_cell
        row = judge(TABLE.name, f"{what}, {group}, {EASY_FIRST}", easy_first, {}, upper, counts=False,
                    boards=int(use.sum()), masks=masks)
        row |= spread("short of the bound", upper - easy_first) | {"best board": whole[0]}
        row |= spread("one pass", one_pass) | {"best of one pass": cell_by_cell[0]}
        rows.append(row | spread("gain of easy first", easy_first - one_pass))
    return rows
