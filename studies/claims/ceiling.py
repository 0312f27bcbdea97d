"""Question: how much of a masked board can be known at all, and how near does the network come? No claim of
the paper, but the scale beside which its claims stand.

Measure: accuracy of greedy reconstruction, in one pass and easy first (hidden cells filled one at a time, the
surest first), on held-out boards. Double boards are also reported by overlap, because overlapping objects are
the ambiguous case, and composites also under masks that do not depend on the board: their patch is a window
anywhere on the board, not the footprint of a root.
Upper bound: the ideal (Bayes-optimal) observer, who knows how boards are generated and sees the same masked
boards: the most probable token of each cell (the bound for tokens, and the optimum of the training loss), or
the most probable board as a whole (the bound for whole boards). Equally probable answers count as drawn at
random.
Row: an accuracy on a group of boards; none counts for a verdict. `all` is the mean over board types.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from module_dataset import TYPES, Boards
from parts.probing.evaluation import DECODES
from studies.claims.scenes import Masking, hide
from studies.claims.scores import DRAWS, Row, Table, mean, ratio, resample

TABLE = Table("ceiling", "how near the network comes to the ceiling", "share that is right", is_claim=False)
COUNTED = ("tokens", "hidden tokens", "whole boards")
EASY_FIRST = DECODES[1]
AT_ONCE = 32  # boards in a forward pass
APART, OVERLAPPING = "double apart", "double overlapping"  # by whether two objects share a cell
ANYWHERE = "composition, patch anywhere"
ONE_PASS, FILLED, BEST_TOKENS, BEST_BOARD = range(4)  # whose answers


def measure(trainer, drawn: Boards, proba: Sequence[float], rng: np.random.Generator, masks: int = 20,
            draws: int = DRAWS, bar: Callable = iter, masking: Masking = (0.25, 0.5)) -> list[Row]:
    """Rows on a trainer's reconstruction of boards under `masks` masks each: first in one pass by board type,
    then easy first, double boards also apart and overlapping. proba: prior of the board types."""
    groups = groups_of(trainer.dataset, drawn)
    W = resample(drawn.tokens, rng, draws)
    right, all_ = tally_of(trainer, drawn, proba, masking, rng, masks, bar)
    tallies = {group: (right[:, :, use], all_[:, use], W[:, use]) for group, use in groups.items()}
    if "composition" in groups and masking[1]:
        few = drawn.take(groups["composition"])
        anywhere = tally_of(trainer, few, proba, masking, rng, masks, iter, True)
        tallies[ANYWHERE] = *anywhere, W[:, groups["composition"]]

    @functools.cache  # easy first's rows ask for what the others have asked for
    def score(group: str, who: int, i: int) -> np.ndarray:
        """Of what is COUNTED[i] in the answers `who`."""
        if group != "all":
            right, all_, W = tallies[group]
            return ratio(right[who, i], all_[i], W)
        of_types = [score(TYPES[type_], who, i) for type_ in np.unique(drawn.types)]
        joint = mean(of_types)
        joint.boards = sum(of_type.boards for of_type in of_types)  # no board is of two types
        return joint

    def row(group: str, i: int, easy_first: bool) -> Row:
        """The row of COUNTED[i] of a group of boards; of easy first with one pass beside it."""
        one_pass, filled, best_tokens, best_board = (score(group, who, i) for who in range(4))
        effect = filled if easy_first else one_pass
        upper = best_board if COUNTED[i] == "whole boards" else best_tokens
        extras = {"masks": masks, "short of the bound": np.asarray(upper - effect),
                  "best board": best_board[0]}
        if easy_first:
            extras |= {"one pass": one_pass, "best of one pass": best_tokens[0],
                       "gain of easy first": np.asarray(filled - one_pass)}
        feature = f"{COUNTED[i]}, {group}" + (f", {EASY_FIRST}" if easy_first else "")
        return Row(TABLE.name, feature, effect, upper=upper, counts=False, extras=extras)

    rows = [row(group, i, False) for group in tallies
            if group not in (APART, OVERLAPPING) for i in range(len(COUNTED))]
    return rows + [row(group, i, True) for group in tallies for i in (1, 2)]


def groups_of(dataset, drawn: Boards) -> dict[str, np.ndarray]:
    """{name: (n,) which boards} of all groups that have any: all, each board type, doubles by overlap."""
    groups = {"all": np.ones(len(drawn), bool)}
    groups |= {name: drawn.types == type_ for type_, name in enumerate(TYPES)}
    steps = abs(drawn.objects[:, 0, 1:] - drawn.objects[:, 1, 1:])  # (n, 2) between the two corners
    overlap = (steps < dataset.params.abs_dim).all(1)
    groups |= {APART: groups["double"] & ~overlap, OVERLAPPING: groups["double"] & overlap}
    return {name: use for name, use in groups.items() if use.any()}


def tally_of(trainer, drawn: Boards, proba: Sequence[float], masking: Masking, rng: np.random.Generator,
             masks: int, bar: Callable = iter, anywhere: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """What is right on each of n boards, summed over masks, (4, 3, n): one pass, easy first, the most
    probable tokens, the most probable board; in the order of COUNTED; and how many there are, (3, n).
    anywhere: see `hide`."""
    n, boards, dataset = len(drawn), drawn.boards.astype(np.int64), trainer.dataset
    right, all_ = np.zeros((4, 3, n)), np.zeros((3, n))
    for _ in bar(range(masks)):
        hidden = hide(dataset, drawn, masking, rng, anywhere)
        masked = np.where(hidden, dataset.masking_token, boards)
        right[ONE_PASS] += counts(reconstructed(trainer, boards, hidden) == boards, hidden)
        right[FILLED] += counts(reconstructed(trainer, boards, hidden, decode=EASY_FIRST) == boards, hidden)
        right[[BEST_TOKENS, BEST_BOARD]] += ideal(dataset, masked, boards, proba)
        all_ += counts(np.ones_like(hidden), hidden)
    return right, all_


def reconstructed(trainer, boards: np.ndarray, hidden: np.ndarray, **decode: str) -> np.ndarray:
    """Reconstructions of boards, both (n, h, w), few boards at a time to save memory."""
    starts = range(AT_ONCE, len(boards), AT_ONCE)
    pieces = zip(np.split(boards, starts), np.split(hidden, starts), strict=True)
    return np.concatenate([trainer.reconstruct(*piece, **decode)[""] for piece in pieces])


def ideal(dataset, masked: np.ndarray, boards: np.ndarray, proba: Sequence[float]) -> np.ndarray:
    """(2, 3, n), as BEST_TOKENS and BEST_BOARD, COUNTED: what the ideal observer expects to have right of
    boards from masked ones, both (n, h, w). Equally probable answers count as drawn at random."""
    whole, cells = dataset.observer.success(masked, boards, proba)
    of_tokens = counts(cells, masked == dataset.masking_token)[:2]
    return np.array([[*of_tokens, cells.prod((1, 2))], [*of_tokens, whole]])


def counts(right: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(3, n), as COUNTED, of right and hidden (n, h, w)."""
    return np.stack([right.sum((1, 2)), (right * hidden).sum((1, 2)), right.all((1, 2))])
