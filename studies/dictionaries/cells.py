"""The cells of masked boards with their labels: what dictionaries are trained on, and judged on.

Labels of a cell, each from 0: object (0 on every cell that an object covers), root, place in the root, root x
place, composite, row and column of the object's corner, and background. NONE stands for a cell without the
label, LEFT_OUT for one of which the ideal observer cannot tell the label.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from module_dataset import Boards
from studies.claims.runs import proba_of
from studies.claims.sample import labels_of
from studies.claims.scenes import boards_of, hashed, held_out, rows_of, types_in_use
from studies.dictionaries.scoring import LEFT_OUT, NONE

KNOWN = 0.99  # posterior probability from which a label can be known
FIT, CHOOSE, FRESH, TEST = range(4)  # what a board is for; all but TEST are of train


@dataclass
class Cells:
    """n masked boards and the labels of their cells."""

    drawn: Boards
    hidden: np.ndarray  # (n, T)
    part: np.ndarray  # (n,) FIT, CHOOSE, FRESH or TEST
    labels: dict[str, np.ndarray]  # (n, T) each; on boards to fit, nothing is left out
    new: np.ndarray  # (n, T) whether the object is where no single board of train shows its root
    board: np.ndarray  # (n,) which of the distinct boards of its part a board is

    def of(self, part: int, hidden: bool) -> np.ndarray:
        """(n, T) the hidden or the visible cells of the boards of a part."""
        return (self.part == part)[:, None] & (self.hidden == hidden)


def cells_of(trainer, rng: np.random.Generator, fit: int, choose: int, test: int, masks: int,
             bar: Callable = iter) -> Cells:
    """Cells of about `fit` boards of train to fit on, `choose` others to choose by and `test` others, and of
    at most `test` held-out boards; all of these numbers are per type. masks: how often each of the last two
    kinds is masked, as the run's recipe ends."""
    dataset, parts = trainer.dataset, {FIT: [], CHOOSE: [], FRESH: [], TEST: []}
    proba = proba_of(trainer)
    for type_ in types_in_use(dataset, proba):
        rows = rows_of(dataset, type_, "train", 2 * (fit + choose), rng)
        lot = hashed(dataset, type_, rows) // 2**12 % 8  # the same of every copy of a row
        for part, lots, count in ((FIT, lot < 5, fit), (CHOOSE, (lot == 5) | (lot == 6), choose),
                                  (FRESH, lot == 7, test)):
            chosen = rows[lots][:count]
            chosen = np.unique(chosen, axis=0) if part == FRESH else chosen
            parts[part].append(boards_of(dataset, type_, chosen, rng))
        parts[TEST].append(held_out(dataset, type_, test, rng))
    parts = {part: Boards.join(boards * (masks if part in (FRESH, TEST) else 1))
             for part, boards in parts.items()}
    drawn, part = Boards.join(list(parts.values())), np.repeat(list(parts), list(map(len, parts.values())))
    hidden = dataset.mask(drawn.boards, trainer.masking_p, trainer.masking_patch_p, drawn.types,
                          drawn.corners, rng)[0]
    labels = named(dataset, labels_of(dataset, drawn.objects, drawn.composites, drawn.backgrounds))
    masked = np.where(hidden, dataset.masking_token, drawn.boards)
    for b in bar(np.flatnonzero(part != FIT)):
        for name, known in knowable(dataset, masked[b], {n: v[b] for n, v in labels.items()}, proba).items():
            labels[name][b][~known] = LEFT_OUT
    board = np.zeros(len(part), int)
    for which in parts:
        board[part == which] = np.unique(drawn.tokens[part == which], axis=0, return_inverse=True)[1].ravel()
    return Cells(drawn, hidden.reshape(len(hidden), -1), part, labels, unseen(dataset, drawn), board)


def named(dataset, labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The labels (..., T) of this study from those of `labels_of`."""
    places, on = dataset.params.abs_dim**2, labels["root"] >= 0
    both = np.where(on, labels["root"] * places + labels["place in the root"], NONE)
    object_ = np.where(on, 0, NONE)
    order = {"object": object_, "root": labels["root"], "place in the root": labels["place in the root"],
             "root x place": both}
    return {name: values.astype(np.int64) for name, values in (order | {
        name: labels[name] for name in ("composite", "row", "column", "background")}).items()}


def knowable(dataset, masked_board: np.ndarray, truth: dict[str, np.ndarray], proba) -> dict[str, np.ndarray]:
    """{label: (T,)} whether the ideal observer of a masked board (h, w) gives the true labels {label: (T,)} a
    posterior probability of at least KNOWN."""
    possible = dataset.hypotheses(masked_board, proba)
    nothing = np.zeros(len(possible.weights), int)
    labels = named(dataset, labels_of(dataset, possible.objects, possible.composites, nothing))
    known = {name: possible.weights @ (labels[name] == values) >= KNOWN for name, values in truth.items()}
    known["background"][:] = len(possible.backgrounds) == 1  # the observer lists them apart, equally probable
    return known


def unseen(dataset, drawn: Boards) -> np.ndarray:
    """(n, T) whether a cell belongs to an object at a position where no single board of train shows its
    root."""
    seen = np.zeros((dataset.params.abs_n, dataset.params.places, dataset.params.places), bool)
    seen[tuple(np.asarray(dataset.table(0, "train"))[:, :3].T)] = True
    covers = dataset.covering(drawn.objects)
    number = np.maximum(covers, 0) // dataset.params.abs_dim**2
    root, row, column = np.moveaxis(np.take_along_axis(drawn.objects, number[..., None], 1), -1, 0)
    return (covers >= 0) & ~seen[root, row, column]
