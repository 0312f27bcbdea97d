"""Masked boards with the labels of every cell: what read-outs are fitted on, chosen by and tested on."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from module_dataset import AbstractionDataset, Boards
from studies.claims.scenes import Masking, boards_of, hashed, held_out, hide, rows_of, types_in_use

AT_ONCE = 1000  # boards whose labels are computed together
KNOWN = 0.99  # posterior probability from which the visible cells are taken to determine an answer


def labels_of(dataset: AbstractionDataset, objects: np.ndarray, composites: np.ndarray,
              backgrounds: np.ndarray) -> dict[str, np.ndarray]:
    """{label: (n, T)}, -1 for a cell without it; objects (n, m, 3), composites and backgrounds (n,).
    Labels but the first two are those of the object that covers a cell; row and column, of its corner."""
    d2 = dataset.params.abs_dim**2
    covers = dataset.covering(objects)
    on = covers >= 0
    number = np.maximum(covers, 0) // d2  # of the object on its board
    root, row, column = np.moveaxis(np.take_along_axis(objects, number[..., None], 1), -1, 0)  # (n, T) each
    of_objects = {"root": root, "place in the root": covers % d2, "composite": composites[:, None],
                  "row": row, "column": column}
    return {"background": np.repeat(backgrounds[:, None], covers.shape[1], 1),
            "object or not": on.astype(np.int64),
            **{name: np.where(on, values, -1) for name, values in of_objects.items()}}


def known_labels(dataset: AbstractionDataset, masked_board: np.ndarray, truth: dict[str, np.ndarray],
                 proba: Sequence[float]) -> dict[str, np.ndarray]:
    """{label: (T,)} whether the exact posterior of each cell's true label {label: (T,)}, given the visible
    cells of a masked board, is at least KNOWN. proba: the prior of the board types."""
    possible, known = dataset.hypotheses(masked_board, proba), {}
    labels = labels_of(dataset, possible.objects, possible.composites, np.zeros(len(possible.weights), int))
    for name, values in truth.items():
        which, cell = np.nonzero(labels[name] == values)
        known[name] = np.bincount(cell, possible.weights[which], len(values)) >= KNOWN
    known["background"][:] = len(possible.backgrounds) == 1  # listed apart, all as probable
    return known


@dataclass(kw_only=True)
class Parts:
    """Boards in three parts, in this order: to fit read-outs, to choose among them, to test them."""

    n_fit: int
    n_valid: int

    @property
    def to_choose(self) -> slice:
        """Where the boards to choose by are."""
        return slice(self.n_fit, self.n_fit + self.n_valid)

    @property
    def test(self) -> slice:
        """Where the test boards are."""
        return slice(self.n_fit + self.n_valid, None)


@dataclass
class Sample(Parts):
    """n masked boards: those to fit in random order, each test board masked several times."""

    drawn: Boards
    hidden: np.ndarray  # (n, T)
    tokens: np.ndarray  # (n, T) as the network sees them
    labels: dict[str, np.ndarray]  # (n, T) each
    known: dict[str, np.ndarray]  # (n, T) each: `known_labels`, and True for the boards to fit
    test_board: np.ndarray  # (masked test boards,) number of the test board that is masked

    @property
    def part(self) -> np.ndarray:
        """(n,) 0 to fit, 1 to choose by, 2 to test."""
        return np.digitize(np.arange(len(self.tokens)), [self.n_fit, self.n_fit + self.n_valid])


def make_sample(dataset: AbstractionDataset, proba: Sequence[float], masking: Masking,
                rng: np.random.Generator, fit: int = 32_000, choose: int = 900, test: int = 400,
                masks: int = 2, bar: Callable = iter) -> Sample:
    """A `Sample` of `fit` boards of train to fit read-outs and `choose` to choose by, the types equally
    frequent, and at most `test` held-out boards a type, each under `masks` masks."""
    types = types_in_use(dataset, proba)
    to_fit, to_choose, to_test = boards_in_parts(
        dataset, types, (fit + 7 * choose) // len(types), fit // len(types), choose // len(types), test, rng)
    n_fit, n_valid, n_test = map(len, (to_fit, to_choose, to_test))
    drawn = Boards.join([to_fit, to_choose] + [to_test] * masks)
    del to_fit, to_choose, to_test
    p = dataset.params
    largest = max(p.vocab_size, p.abs_n, p.abs_dim**2, p.comp_n, p.places)
    small = np.min_scalar_type(-largest - 2)  # a signed type; with many boards memory counts
    drawn.boards, drawn.slots = drawn.boards.astype(small), drawn.slots.astype(small)
    hidden = hide(dataset, drawn, masking, rng)
    masked = np.where(hidden, dataset.masking_token, drawn.boards)
    parts = []
    for at in range(0, len(drawn), AT_ONCE):
        some = drawn.take(slice(at, at + AT_ONCE))
        labels = labels_of(dataset, some.objects, some.composites, some.backgrounds)
        parts.append({name: values.astype(small) for name, values in labels.items()})
    labels = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # boards to fit may teach what cannot be known
    known = {name: np.ones(values.shape, bool) for name, values in labels.items()}
    for b in bar(range(n_fit, len(masked))):
        truth = {name: values[b] for name, values in labels.items()}
        for name, flags in known_labels(dataset, masked[b], truth, proba).items():
            known[name][b] = flags
    hidden = hidden.reshape(len(hidden), -1)
    test_board = np.tile(np.arange(n_test), masks)
    return Sample(drawn, hidden, masked.reshape(hidden.shape), labels, known, test_board, n_fit=n_fit,
                  n_valid=n_valid)


def boards_in_parts(dataset: AbstractionDataset, types: Iterable[int], train: int, fit: int, choose: int,
                    test: int, rng: np.random.Generator) -> tuple[Boards, Boards, Boards]:
    """Boards to fit on, in random order, to choose by and to test, at most fit, choose and test of each type;
    the first two from `train` random rows of train a type."""
    parts: tuple[list[Boards], ...] = [], [], []
    for type_ in types:
        rows = rows_of(dataset, type_, "train", train, rng)
        chosen = to_choose_by(dataset, type_, rows)
        parts[0].append(boards_of(dataset, type_, rows[~chosen][:fit], rng))
        parts[1].append(boards_of(dataset, type_, rows[chosen][:choose], rng))
        parts[2].append(held_out(dataset, type_, test, rng))
    to_fit, to_choose, to_test = map(Boards.join, parts)
    return to_fit.take(rng.permutation(len(to_fit))), to_choose, to_test


def to_choose_by(dataset: AbstractionDataset, type_: int, rows: np.ndarray) -> np.ndarray:
    """(n,) whether rows (n, width) are among the sixth to choose by, as all copies of a row or none."""
    return hashed(dataset, type_, rows) < 2**32 / 6
