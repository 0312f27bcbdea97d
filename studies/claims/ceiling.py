"""Question: how much of a masked board can be known at all, and how near does the network come? No claim of
the paper, but the scale beside which its claims stand.

Measure: accuracy of greedy reconstruction, in one pass and easy first (hidden cells filled one at a time, the
surest first), on held-out boards. Double boards are also reported by overlap, because overlapping objects are
the ambiguous case.
Upper bound: the ideal (Bayes-optimal) observer, who knows how boards are generated and sees the same masked
boards: the most probable token of each cell (the bound for tokens, and all that one pass can reach), or the
most probable board as a whole (the bound for whole boards).
Row: an accuracy on a group of boards; none counts for a verdict. Avoidable error: wrong tokens, as a share of
all, under masks that leave the most probable picture a posterior of at least 0.99 (sure: how many masks do).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from module_dataset import TYPES, Boards
from parts.probing.evaluation import DECODES
from studies.claims.sample import KNOWN
from studies.claims.scenes import hide
from studies.claims.scores import DRAWS, Row, Table, ratio, resample

TABLE = Table("ceiling", "how near the network comes to the ceiling", "share that is right", is_claim=False)
COUNTED = ("tokens", "hidden tokens", "whole boards")
EASY_FIRST = DECODES[1]
APART, OVERLAPPING = "double apart", "double overlapping"  # by whether two objects share a cell


@dataclass
class Tally:
    """What is right on each of n boards, summed over masks; (3, n) in the order of COUNTED, unless noted."""

    one_pass: np.ndarray
    easy_first: np.ndarray
    best_tokens: np.ndarray  # the most probable token of each cell
    best_board: np.ndarray  # the most probable board
    all: np.ndarray  # how many there are
    avoidable: np.ndarray  # (n,) the network's wrong tokens under masks that leave no doubt
    sure: np.ndarray  # (n,) how many masks leave no doubt


def measure(trainer, drawn: Boards, proba: Sequence[float], rng: np.random.Generator, masks: int = 20,
            draws: int = DRAWS, bar: Callable = iter) -> list[Row]:
    """Rows on a trainer's reconstruction of boards under `masks` masks each: first in one pass by board type,
    then easy first, double boards also apart and overlapping. proba: prior of the board types."""
    [own] = rng.spawn(1)  # easy first has random numbers of its own, so that the other rows stay as they were
    tally, rows = tally_of(trainer, drawn, proba, rng, masks, bar), []
    groups = groups_of(trainer.dataset, drawn)
    for group, use in groups.items():
        if group not in (APART, OVERLAPPING):
            W = resample(int(use.sum()), rng, draws)
            rows += [_row(tally, i, group, use, W, masks, False) for i in range(len(COUNTED))]
    for group, use in groups.items():
        W = resample(int(use.sum()), own, draws)
        rows += [_row(tally, i, group, use, W, masks, True) for i in range(1, len(COUNTED))]
    return rows


def groups_of(dataset, drawn: Boards) -> dict[str, np.ndarray]:
    """{name: (n,) which boards}: all, each board type, and double boards whose objects are apart or overlap;
    groups without boards are left out."""
    groups = {"all": np.ones(len(drawn), bool)}
    groups |= {name: drawn.types == type_ for type_, name in enumerate(TYPES)}
    steps = abs(drawn.objects[:, 0, 1:] - drawn.objects[:, 1, 1:])  # (n, 2) between the two corners
    overlap = (steps < dataset.params.abs_dim).all(1)
    groups |= {APART: groups["double"] & ~overlap, OVERLAPPING: groups["double"] & overlap}
    return {name: use for name, use in groups.items() if use.any()}


def tally_of(trainer, drawn: Boards, proba: Sequence[float], rng: np.random.Generator, masks: int,
             bar: Callable) -> Tally:
    """The `Tally` of boards under `masks` masks each."""
    n, boards = len(drawn), drawn.boards
    tally = Tally(*np.zeros((5, 3, n)), *np.zeros((2, n)))
    for _ in bar(range(masks)):
        hidden = hide(trainer.dataset, drawn, rng)
        masked = np.where(hidden, trainer.dataset.masking_token, boards)
        best = trainer.dataset.best_reconstruction(masked, proba)
        right = trainer.reconstruct(boards, hidden)[""] == boards
        sure = best.mass >= KNOWN
        tally.one_pass += counts(right, hidden)
        tally.easy_first += counts(trainer.reconstruct(boards, hidden, EASY_FIRST)[""] == boards, hidden)
        tally.best_tokens += counts(best.marginal == boards, hidden)
        tally.best_board += counts(best.board == boards, hidden)
        tally.all += counts(np.ones_like(right), hidden)
        tally.avoidable += (~right & sure[:, None, None]).sum((1, 2))
        tally.sure += sure
    return tally


def counts(right: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(3, n), as COUNTED, of right and hidden (n, h, w)."""
    return np.stack([right.sum((1, 2)), (right & hidden).sum((1, 2)), right.all((1, 2))])


def _row(tally: Tally, i: int, group: str, use: np.ndarray, W: np.ndarray, masks: int,
         easy_first: bool) -> Row:
    """The row of COUNTED[i] on the boards in use (n,); of easy first with one pass beside it."""
    one_pass, filled, best_tokens, best_board = (
        ratio(right[i, use], tally.all[i, use], W)
        for right in (tally.one_pass, tally.easy_first, tally.best_tokens, tally.best_board))
    effect = filled if easy_first else one_pass
    upper = best_board if COUNTED[i] == "whole boards" else best_tokens
    extras = {"boards": int(use.sum()), "masks": masks, "short of the bound": upper - effect,
              "best board": best_board[0]}
    if easy_first:
        extras |= {"one pass": one_pass, "best of one pass": best_tokens[0],
                   "gain of easy first": filled - one_pass}
    else:
        extras |= {"avoidable error": ratio(tally.avoidable[use], tally.all[0, use], W),
                   "sure": tally.sure[use].mean() / masks}
    feature = f"{COUNTED[i]}, {group}" + (f", {EASY_FIRST}" if easy_first else "")
    return Row(TABLE.name, feature, effect, upper=upper, counts=False, extras=extras)
