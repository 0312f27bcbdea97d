"""Masked boards with the labels of every cell: what read-outs are fitted on, chosen by and tested on."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from module_dataset import AbstractionDataset
from studies.claims.scenes import Scenes, held_out, hide, rows_of, scenes_of, types_in_use

KNOWN = 0.99  # posterior from which an answer can be known


def label_names(dataset: AbstractionDataset) -> dict[str, int]:
    """The labels of a cell and how many values each has."""
    p = dataset.params
    return {"background": p.vocab_bck, "object or not": 2, "root": p.abs_n, "place in the root": p.abs_dim**2,
            "composite": p.comp_n, "row": p.places, "column": p.places}


def labels_of(dataset: AbstractionDataset, objects: np.ndarray, composites: np.ndarray,
              backgrounds: np.ndarray) -> dict[str, np.ndarray]:
    """{label: (n, T)}, -1 where a cell has none; objects (n, m, 3), composites (n,), backgrounds (n,) as in
    `Scenes`.

    All labels but the first two belong to cells that an object covers; row and column are those of the
    object's corner.
    """
    d2 = dataset.params.abs_dim**2
    covers = dataset.covering(objects)
    on = covers >= 0
    number = np.maximum(covers, 0) // d2  # of the object in the scene
    what = np.take_along_axis(objects, number[..., None], 1)  # (n, T, 3)
    root, row, column = np.where(on, np.moveaxis(what, -1, 0), -1)
    return {"background": np.repeat(backgrounds[:, None], covers.shape[1], 1),
            "object or not": on.astype(np.int64),
            "root": root,
            "place in the root": np.where(on, covers % d2, -1),
            "composite": np.where(on, composites[:, None], -1),
            "row": row,
            "column": column}


def label_posterior(dataset: AbstractionDataset, masked_board: np.ndarray,
                    proba: Sequence[float] | None = None) -> dict[str, np.ndarray]:
    """{label: (T, values + 1)}: the exact posterior of each cell's labels given the visible cells; the last
    column: none."""
    found, T = dataset.hypotheses(masked_board, proba), masked_board.size
    labels = labels_of(dataset, found.objects, found.composites, np.zeros(len(found.weights), np.int64))
    weights = np.repeat(found.weights, T)
    posterior = {}
    for name, values in label_names(dataset).items():
        columns = values + 1
        column = labels[name] % columns  # -1 becomes the last
        place = np.arange(T) * columns + column
        posterior[name] = np.bincount(place.ravel(), weights, T * columns).reshape(T, columns)
    posterior["background"][:] = 0
    posterior["background"][:, found.backgrounds] = 1 / len(found.backgrounds)
    return posterior


@dataclass
class Sample:
    """Masked scenes to fit read-outs, to choose among them, and test boards masked several times; in this
    order, n in all."""

    scenes: Scenes
    hidden: np.ndarray  # (n, T)
    tokens: np.ndarray  # (n, T) as the network sees them
    labels: dict[str, np.ndarray]  # (n, T) each
    known: dict[str, np.ndarray]  # (n, T) each: whether the posterior of the true label is at least KNOWN
    boards: np.ndarray  # which board each masked test board is
    n_fit: int
    n_valid: int

    @property
    def test(self) -> slice:
        """Where the masked test boards are."""
        return slice(self.n_fit + self.n_valid, None)

    @property
    def part(self) -> np.ndarray:
        """(n,) 0 to fit, 1 to choose by, 2 to test."""
        return np.digitize(np.arange(len(self.tokens)), [self.n_fit, self.n_fit + self.n_valid])


def make_sample(dataset: AbstractionDataset, proba: Sequence[float], rng: np.random.Generator,
                fit: int = 1800, test: int = 100, masks: int = 4, bar: Callable = iter) -> Sample:
    """A `Sample` of fit train boards, a sixth of their rows to choose by, and test held-out boards a type,
    under masks masks each. proba: the prior of the board types, in the data set's order. bar: shows progress
    over what it is given."""
    in_use = types_in_use(dataset, proba)
    to_fit, to_choose, to_test = [], [], []
    for type_ in in_use:
        rows = rows_of(dataset, type_, "train", fit // len(in_use), rng)
        chosen = _to_choose_by(dataset, type_, rows)
        to_fit.append(scenes_of(dataset, type_, rows[~chosen], rng))
        to_choose.append(scenes_of(dataset, type_, rows[chosen], rng))
        to_test.append(held_out(dataset, type_, test, rng))
    n_fit, n_valid, n_test = (sum(map(len, part)) for part in (to_fit, to_choose, to_test))
    scenes = Scenes.join(to_fit + to_choose + to_test * masks)
    hidden = hide(dataset, scenes, rng)
    masked = np.where(hidden, dataset.masking_token, scenes.boards)
    labels = labels_of(dataset, scenes.objects, scenes.composites, scenes.backgrounds)
    known = _known(dataset, masked, labels, proba, n_fit, bar)
    hidden = hidden.reshape(len(hidden), -1)
    labels["hidden or visible"], known["hidden or visible"] = hidden.astype(np.int64), np.ones_like(hidden)
    which = np.tile(np.arange(n_test), masks)
    return Sample(scenes, hidden, masked.reshape(hidden.shape), labels, known, which, n_fit, n_valid)


def _to_choose_by(dataset, type_: int, rows: np.ndarray) -> np.ndarray:
    """(n,) whether rows (n, width) are among the sixth to choose by: by a hash, so that all copies of a row
    are on one side."""
    return dataset.params.families[type_].rank(rows) * 2654435761 % 2**32 < 2**32 / 6


def _known(dataset, masked: np.ndarray, labels: dict, proba, n_fit: int,
           bar: Callable) -> dict[str, np.ndarray]:
    """{label: (n, T)} whether the posterior of the true label is at least KNOWN; not asked of the first n_fit
    boards."""
    known = {name: np.ones(values.shape, bool) for name, values in labels.items()}
    for b in bar(range(n_fit, len(masked))):
        for name, posterior in label_posterior(dataset, masked[b], proba).items():
            of_truth = np.take_along_axis(posterior, labels[name][b][:, None], 1)[:, 0]
            known[name][b] = of_truth >= KNOWN
    return known
