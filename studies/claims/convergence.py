"""Claim: embeddings of semantically related tokens transiently converge on low-dimensional manifolds.

Question: are cells of one root nearer to each other than cells with one token, inside the stack more than at
its ends, and do the roots lie in few dimensions?
Measure: three things at object cells, hidden and visible apart. The mean cosine of cells of one root with
different tokens, minus that of cells of different roots with one token (nearness), at the stage where it is
largest. Nearness inside the stack minus the larger of that at its ends (extremum). And 1 - the participation
ratio of the roots' means / (roots - 1), the dimensions that they could span (manifold); the means' moments go
less those of roots shuffled over objects, which are noise, and means no larger than these are no manifold: 0.
The stage is chosen on half of the boards and judged on the others.
Upper bound: a code of the root alone; a return to the first stage's nearness; means on a line.
Controls: no difference; an untrained network; for the manifold also the first stage; both where they are more
than noise.
Row: each of the three, for hidden and for visible cells.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from studies.claims.networks import Network, acts_at
from studies.claims.sample import Sample
from studies.claims.scores import Row, Table, interval, spread
from studies.claims.statistics import moments, participation, several, unit

DIMENSION_DRAWS = 200  # bootstrap samples for dimensions, which take long
CURVE_DRAWS = 100  # bootstrap samples for curves, which no verdict looks at
SHUFFLES = 20  # of the roots over objects
HALVINGS = 10  # of the boards, to correct a bias


@dataclass
class Cells:
    """N object cells of the masked test boards."""

    board: np.ndarray  # (N,) number of the masked test board
    cell: np.ndarray  # (N,)
    root: np.ndarray  # (N,)
    token: np.ndarray  # (N,) number of the token among those that occur
    thing: np.ndarray  # (N,) number of the object, the same for all cells of an object on a board


TABLE = Table(
    "convergence",
    "embeddings of semantically related tokens transiently converge on low-dimensional manifolds",
    "difference of mean cosines, or share of dimensions saved",
    {"convergence_stages": "nearness by root - by token"})


Points = dict[str, np.ndarray]  # {stage: (N, D)} activations of N cells


def points_of(network: Network, tokens: np.ndarray, cells: dict[str, Cells]) -> dict[str, Points]:
    """{kind of cells: points at every stage} of masked boards (n, T)."""
    use = np.zeros(tokens.shape, bool)
    for of in cells.values():
        use[of.board, of.cell] = True
    number = use.ravel().cumsum().reshape(use.shape) - 1  # of a cell among those in use
    acts = acts_at(network, tokens, network.stages, use)
    return {which: {stage: X[number[of.board, of.cell]] for stage, X in acts.items()}
            for which, of in cells.items()}


def measure(points: Iterable[tuple[str, dict[str, Points]]], cells: dict[str, Cells], sample: Sample,
            W: np.ndarray, rng: np.random.Generator) -> tuple[list[Row], list[dict]]:
    """Rows on whether tokens of a root transiently converge on low-dimensional manifolds, and nearness over
    stages, for `plot_stages`.

    points: ('network' or 'untrained network', {kind of cells: points}), in this order; those of one network
    are in memory at a time. W (R + 1, test boards).
    """
    half = rng.permutation(W.shape[1]) % 2
    # to choose by, then to judge, then all for the curves
    halves = np.concatenate([W[:1] * (half == 0), W * (half == 1), W[: CURVE_DRAWS + 1]])
    near, curves, kept = {which: {} for which in cells}, [], {which: {} for which in cells}
    for source, by_cells in points:
        for which, of in cells.items():
            board, scores = sample.test_board[of.board], {}
            for stage, X in by_cells[which].items():
                scores[stage], of_curve = np.split(nearness(unit(X), of.root, of.token, board, halves),
                                                   [len(W) + 1])
                curves.append({"label": "nearness", "cells": which, "source": source, "stage": stage}
                              | spread("value", of_curve))
            near[which][source] = scores
            wanted = next(iter(scores)), _nearest(near[which]["network"])  # the first stage first
            kept[which][source] = {stage: by_cells[which][stage] for stage in wanted}
        del by_cells
    rows = []
    for which, of in cells.items():
        rows += _rows_of_nearness(which, near[which], len(np.unique(of.root)))
        rows.append(_row_of_dimensions(which, kept[which], _nearest(near[which]["network"]), of,
                                       sample.test_board[of.board], W[: DIMENSION_DRAWS + 1], rng))
    return rows, curves


def cells_of(sample: Sample) -> dict[str, Cells]:
    """{'hidden cells' or 'visible cells': object cells}, those with two roots and two tokens at least."""
    cells = {"hidden cells": object_cells(sample, True), "visible cells": object_cells(sample, False)}
    return {which: of for which, of in cells.items() if several(of.root) and several(of.token)}


def object_cells(sample: Sample, hidden: bool) -> Cells:
    """Object cells of the test boards whose token is no background and whose root can be known."""
    tokens = sample.drawn.tokens[sample.test]
    labels = {name: values[sample.test] for name, values in sample.labels.items()}
    root = labels["root"]
    use = (root >= 0) & sample.known["root"][sample.test]
    use &= (sample.hidden[sample.test] == hidden) & (tokens != labels["background"])
    board, cell = np.nonzero(use)
    things = [sample.test_board[board], *(labels[name][board, cell] for name in ("root", "row", "column"))]
    return Cells(board, cell, root[board, cell], np.unique(tokens[board, cell], return_inverse=True)[1],
                 np.unique(things, axis=1, return_inverse=True)[1].ravel())


def nearness(X: np.ndarray, root: np.ndarray, token: np.ndarray, board: np.ndarray,
             W: np.ndarray) -> np.ndarray:
    """Score of the mean cosine between cells of the same root with different tokens, minus that between cells
    of different roots with the same token; pairs of different boards. X (N, D) of unit length; root, token,
    board (N,); W (R + 1, boards)."""
    points = np.column_stack([X, np.ones(len(X))])  # the last column counts cells
    of_tokens = np.zeros((W.shape[1], token.max() + 1, points.shape[1]))
    one_root, one_of_both = 0, 0
    for r in range(root.max() + 1):  # root by root, to save memory
        some, sums = root == r, np.zeros_like(of_tokens)
        np.add.at(sums, (board[some], token[some]), points[some])
        one_root, one_of_both = one_root + _pairs(sums.sum(1), W), one_of_both + _pairs(sums, W)
        of_tokens += sums
    one_token = _pairs(of_tokens, W) - one_of_both
    root_mean, token_mean = (total / np.where(count > 0.5, count, np.nan)
                             for total, count in (one_root - one_of_both, one_token))
    return root_mean - token_mean


def _pairs(sums: np.ndarray, W: np.ndarray) -> np.ndarray:
    """(2, R + 1): products of cells' vectors summed over pairs of cells of a group on different boards, and
    how many pairs. sums (boards, ..., D + 1) over each group's cells, the last column their number.

    The sum over all pairs of a group is the square of the group's sum, so no loop over pairs is needed; pairs
    on the same board are subtracted.
    """
    def squares(vectors: np.ndarray) -> np.ndarray:
        squared = vectors.reshape(len(vectors), -1, sums.shape[-1]) ** 2
        return np.stack([squared[..., :-1].sum((1, 2)), squared[..., -1].sum(1)])

    return squares(np.tensordot(W, sums, 1)) - squares(sums) @ (W**2).T


def manifold(X: np.ndarray, cells: Cells, board: np.ndarray, W: np.ndarray,
             rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two scores of the roots' means of points X (N, D) of cells: how few dimensions they span, 0 for all
    directions, 1 - 1 / (roots - 1) for a line; and their energy / that of the means of shuffled roots. Roots
    are shuffled over objects, so that cells of an object stay together. The bias of few boards is taken from
    halves of the boards (the jackknife of Quenouille 1956)."""
    roots, first = np.unique(cells.root), np.unique(cells.thing, return_index=True)[1]
    noise = np.mean([moments(X, rng.permutation(cells.root[first])[cells.thing], np.ones(len(X)))
                     for _ in range(SHUFFLES)], axis=0)
    sides = rng.integers(2, size=(HALVINGS, W.shape[1]))

    def dimensions_saved(of_roots: np.ndarray) -> float:
        return 1 - participation(of_roots) / (len(roots) - 1)

    saved, energy = np.zeros((2, len(W)))
    for k, weights in enumerate(W):
        of_roots = moments(X, cells.root, weights[board])
        # a ratio of noisy moments is too large by an amount that doubles if boards are halved
        halves = [dimensions_saved(moments(X, cells.root, (weights * (side == half))[board]) - 2 * noise)
                  for side in (sides if k == 0 else sides[k % HALVINGS, None]) for half in (0, 1)]
        halves = [value for value in halves if np.isfinite(value)]  # not those of a single root
        saved[k] = dimensions_saved(of_roots - noise)
        saved[k] += saved[k] - np.mean(halves) if halves else 0
        energy[k] = of_roots.trace() / max(noise.trace(), 1e-30)
    for score in (saved, energy):  # biased by boards that are drawn twice
        score[1:] += score[0] - score[1:].mean() if len(score) > 1 else 0
    return saved, energy


def _nearest(near: dict[str, np.ndarray]) -> str:
    """The stage that is chosen on half of the boards, the first value of each score."""
    return max(near, key=lambda stage: near[stage][0])


def _rows_of_nearness(cells: str, near: dict[str, dict[str, np.ndarray]], roots: int) -> list[Row]:
    network, fresh = near["network"], near["untrained network"]
    first, *between, last = network
    top, inner = _nearest(network), _nearest({stage: network[stage] for stage in between})

    def rise(of: dict[str, np.ndarray]) -> np.ndarray:
        return (of[inner] - np.maximum(of[first], of[last]))[1:]

    none = np.zeros(len(network[top]) - 1)
    of_root_alone = 1 + 1 / (roots - 1)  # equidistant roots have cosines of -1 / (roots - 1)
    return [
        Row(TABLE.name, f"nearer by root than by token, {cells}", network[top][1:],
            {"as near": none, "untrained network": fresh[top][1:]}, of_root_alone, top),
        Row(TABLE.name, f"an extremum inside the stack, {cells}", rise(network),
            {"stays": none, "untrained network": rise(fresh)}, network[inner][1] - network[first][1], inner)]


def _row_of_dimensions(which: str, points: dict[str, Points], stage: str, cells: Cells, board: np.ndarray,
                       W: np.ndarray, rng: np.random.Generator) -> Row:
    first = next(iter(points["network"]))
    found, fresh, start = (manifold(unit(X), cells, board, W, rng) for X in (
        points["network"][stage], points["untrained network"][stage], points["network"][first]))

    def unless_noise(of: tuple, else_: np.ndarray | float) -> np.ndarray | float:
        return of[0] if interval(of[1])[0] > 1 else else_

    controls = {"no manifold": np.zeros(len(W)), "untrained network": unless_noise(fresh, np.nan)}
    if stage != first:
        controls["first stage"] = unless_noise(start, np.nan)
    effect, on_a_line = unless_noise(found, np.zeros(len(W))), 1 - 1 / (len(np.unique(cells.root)) - 1)
    return Row(TABLE.name, f"roots' means on a manifold, {which}", effect, controls, on_a_line, stage,
               extras={"energy over shuffled roots": found[1], "the same, untrained": fresh[1]})
