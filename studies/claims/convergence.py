"""Claim: embeddings of semantically related tokens transiently converge on low-dimensional manifolds.

Measure: three things at object cells, hidden and visible apart. Nearness: the mean cosine of cells of one
root with different tokens, minus that of cells of different roots with one token, at the stage where it is
largest. Transience: nearness inside the stack minus the larger of that at its ends. Dimensions: the
participation ratio of the roots' means, of all that they could span. A stage is chosen on half of the boards
and judged on the others. Controls: no difference; an untrained network; for dimensions also the first stage,
and, for a row that counted before, equally large random classes.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from studies.claims.figures import plot_components, plot_stages
from studies.claims.sample import Sample
from studies.claims.scores import Table, judge, spread
from studies.claims.statistics import participation, unit

DIMENSION_DRAWS = 100  # bootstrap draws for dimensions, which take long
AT_ONCE = 2**26  # numbers in one array of drawn sums
SHUFFLES = 20  # random classes that the measured number of dimensions is a mean over


@dataclass
class Cells:
    """N object cells of the masked test boards."""

    board: np.ndarray  # (N,) number of the masked test board
    cell: np.ndarray  # (N,)
    root: np.ndarray  # (N,)
    token: np.ndarray  # (N,) number of the token among those that occur


@dataclass
class Nearness:
    """`nearness` on the two halves of the boards and on all."""

    chosen_by: float  # on the half by which a stage is chosen
    judged: np.ndarray  # score on the other half
    overall: np.ndarray  # score on all boards


@dataclass
class Manifolds:
    """The visible object cells of a network as points, for a picture."""

    stages: dict[str, np.ndarray]  # {stage: (N, D)} of unit length
    root: np.ndarray  # (N,)
    token: np.ndarray  # (N,)

    def plot(self):
        """Two principal components of each stage's points, coloured by root and by token."""
        return plot_components(self.stages, {"root": self.root, "token": self.token})


TABLE = Table(
    "convergence",
    "embeddings of semantically related tokens transiently converge on low-dimensional manifolds",
    "difference of mean cosines, or share of dimensions saved",
    "Nearness: mean cosine of cells of one root with different tokens minus that of different roots with "
    "one token; upper bound: a code of the root alone. Extremum: nearness inside the stack minus the "
    "larger at its ends; upper bound: a return to the first stage's. The stage is chosen on half of the "
    "boards, judged on the others. Manifold: 1 - participation ratio of the roots' means / (roots - 1). "
    "Fewer dimensions: 1 - that ratio / that of equally large random classes.",
    figures={"convergence_stages": partial(plot_stages, label="nearness by root - by token"),
             "convergence_pca": Manifolds.plot})


def measure(sources: dict[str, dict[str, np.ndarray]], sample: Sample, W: np.ndarray,
            rng: np.random.Generator,
            dimension_draws: int = DIMENSION_DRAWS) -> tuple[list[dict], list[dict]]:
    """Rows on whether tokens of a root transiently converge on low-dimensional manifolds; curves over stages.

    sources {who: {stage: (masked test boards, T, D)}}: network, untrained network, further curves. W (R + 1,
    test boards).
    """
    rows, curves = [], []
    half = rng.permutation(W.shape[1]) % 2
    for hidden, which in ((True, "hidden cells"), (False, "visible cells")):
        cells = object_cells(sample, hidden)
        if len(np.unique(cells.root)) < 2 or len(np.unique(cells.token)) < 2:
            continue
        board = sample.boards[cells.board]
        points, near = {}, {}
        for source, stages in sources.items():
            points[source], near[source] = {}, {}
            for stage in sources["network"]:
                X = points[source][stage] = unit(stages[stage][cells.board, cells.cell])
                near[source][stage] = nearness_by_halves(X, cells, board, W, half)
                saved = dimensions_saved(X, cells.root, board, W[:1], rng)[0]
                curves.append(_curve(which, source, stage, near[source][stage].overall, saved))
        rows += _rows_of_nearness(which, near, len(np.unique(cells.root)))
        few = W[: dimension_draws + 1]
        rows.append(_row_of_dimensions(which, points, near, cells.root, board, few, rng))
        rows.append(_row_of_manifold(which, points, near, cells.root, board, few))
    return rows, curves


def object_cells(sample: Sample, hidden: bool) -> Cells:
    """The object cells of the masked test boards, hidden or visible, that show no background and whose root
    can be known."""
    tokens, root = sample.scenes.tokens[sample.test], sample.labels["root"][sample.test]
    use = (root >= 0) & sample.known["root"][sample.test]
    use &= (sample.hidden[sample.test] == hidden) & (tokens != sample.labels["background"][sample.test])
    board, cell = np.nonzero(use)
    return Cells(board, cell, root[board, cell], np.unique(tokens[board, cell], return_inverse=True)[1])


def nearness(X: np.ndarray, root: np.ndarray, token: np.ndarray, board: np.ndarray,
             W: np.ndarray) -> np.ndarray:
    """Score of the mean cosine between cells of the same root with different tokens, minus that between cells
    of different roots with the same token; pairs of different boards. X (N, D) of unit length; root, token,
    board (N,); W (R + 1, boards)."""
    points = np.column_stack([X, np.ones(len(X))])  # the last column counts cells
    sums = np.zeros((W.shape[1], root.max() + 1, token.max() + 1, points.shape[1]))
    np.add.at(sums, (board, root, token), points)
    root_sum, token_sum = _pairs(sums[..., :-1], W)
    root_count, token_count = (np.where(count > 0.5, count, np.nan) for count in _pairs(sums[..., -1:], W))
    return root_sum / root_count - token_sum / token_count


def _pairs(sums: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Products of cells' vectors summed over pairs of cells on different boards: of one root, and of one
    token, not of both. sums (boards, roots, tokens, D)."""
    if len(W) > 1 and len(W) * sums[0].size > AT_ONCE:  # with many roots and tokens, draws in parts
        halves = [_pairs(sums, half) for half in np.array_split(W, 2)]
        return tuple(map(np.concatenate, zip(*halves, strict=True)))
    joined = np.tensordot(W, sums, 1)
    one_root = _square(joined.sum(2)) - W**2 @ _square(sums.sum(2))
    one_token = _square(joined.sum(1)) - W**2 @ _square(sums.sum(1))
    one_of_both = _square(joined) - W**2 @ _square(sums)
    return one_root - one_of_both, one_token - one_of_both


def _square(vectors: np.ndarray) -> np.ndarray:
    return (vectors**2).reshape(len(vectors), -1).sum(1)


def nearness_by_halves(X: np.ndarray, cells: Cells, board: np.ndarray, W: np.ndarray,
                       half: np.ndarray) -> Nearness:
    """The `Nearness` of points X (N, D); board (N,) of the points, half (boards,) 0 to choose by and 1 to
    judge."""
    weights = np.concatenate([W[:1] * (half == 0), W * (half == 1), W])
    score = nearness(X, cells.root, cells.token, board, weights)
    return Nearness(score[0], score[1 : len(W) + 1], score[len(W) + 1 :])


def dimensions_saved(X: np.ndarray, classes: np.ndarray, board: np.ndarray, W: np.ndarray,
                     rng: np.random.Generator) -> np.ndarray:
    """Score of 1 - participation ratio of the class means / that of equally large random classes.

    X (N, D), classes and board (N,). Random classes are drawn anew for each draw. Boards that count twice
    bias the ratio, so the draws are moved to have the measured value as their mean.
    """
    ratios = []  # of the class means and of random classes
    for weights in (*[W[0]] * SHUFFLES, *W[1:]):
        mixed = rng.permutation(classes)
        ratios.append([participation(X, which, weights[board]) for which in (classes, mixed)])
    true, chance = np.mean(ratios[:SHUFFLES], axis=0)
    drawn = np.array([1 - true / chance for true, chance in ratios[SHUFFLES:]])
    return _centred(1 - true / chance, drawn)


def manifold(X: np.ndarray, classes: np.ndarray, board: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Score of 1 - participation ratio of the class means / the directions that they could span: 0 for means
    in all directions, 1 - 1 / (classes - 1) for means on a line. X (N, D), classes and board (N,); the draws
    are moved as in `dimensions_saved`."""
    most = len(np.unique(classes)) - 1
    saved = np.array([1 - participation(X, classes, weights[board]) / most for weights in W])
    return _centred(saved[0], saved[1:])


def _centred(measured: float, drawn: np.ndarray) -> np.ndarray:
    """Score of a measured value and draws, moved to have it as their mean."""
    return np.r_[measured, drawn - drawn.mean() + measured] if len(drawn) else np.array([measured])


def _curve(cells: str, source: str, stage: str, near: np.ndarray, saved: float) -> dict:
    label = "over training, one run" if source.startswith("epoch") else "trained"
    row = {"label": label, "cells": cells, "source": source, "stage": stage, "dimensions saved": saved}
    return row | spread("value", near)


def _nearest(near: dict[str, Nearness]) -> str:
    """The stage that is chosen on half of the boards."""
    return max(near, key=lambda stage: near[stage].chosen_by)


def _rows_of_nearness(cells: str, near: dict[str, dict[str, Nearness]], roots: int) -> list[dict]:
    network, fresh = near["network"], near["untrained network"]
    stages = list(network)
    first, last, top = stages[0], stages[-1], _nearest(network)
    inner = _nearest({stage: network[stage] for stage in stages[1:-1]})

    def rise(of: dict[str, Nearness]) -> np.ndarray:
        return of[inner].judged - np.maximum(of[first].judged, of[last].judged)

    none = np.zeros_like(network[top].judged)
    controls = {"as near": none, "untrained network": fresh[top].judged}
    nearer = judge(TABLE.name, f"nearer by root than by token, {cells}", network[top].judged, controls,
                   1 + 1 / (roots - 1), stage=top)
    controls = {"stays": none, "untrained network": rise(fresh)}
    full_return = network[inner].judged[0] - network[first].judged[0]
    extremum = judge(TABLE.name, f"an extremum inside the stack, {cells}", rise(network), controls,
                     full_return, stage=inner)
    return [nearer, extremum]


def _row_of_dimensions(cells: str, points: dict, near: dict, root: np.ndarray, board: np.ndarray,
                       W: np.ndarray, rng: np.random.Generator) -> dict:
    stage = _nearest(near["network"])
    saved = dimensions_saved(points["network"][stage], root, board, W, rng)
    fresh = dimensions_saved(points["untrained network"][stage], root, board, W, rng)
    controls = {"random classes": np.zeros(len(saved)), "untrained network": fresh}
    return judge(TABLE.name, f"class means in fewer dimensions, {cells}", saved, controls, counts=False,
                 stage=stage, counted_before=True)


def _row_of_manifold(cells: str, points: dict, near: dict, root: np.ndarray, board: np.ndarray,
                     W: np.ndarray) -> dict:
    stage, first = _nearest(near["network"]), next(iter(points["network"]))
    saved, fresh, start = (manifold(points[who][at], root, board, W) for who, at in
                           (("network", stage), ("untrained network", stage), ("network", first)))
    controls = {"untrained network": fresh}
    if stage != first:
        controls["first stage"] = start
    line = 1 - 1 / (len(np.unique(root)) - 1)
    return judge(TABLE.name, f"roots' means on a manifold, {cells}", saved, controls, line, stage=stage,
                 counted_before=False)


def manifolds(sample: Sample, stages: dict[str, np.ndarray]) -> Manifolds:
    """The visible object cells at the first stage, after each attention, and at the last stage.

    stages {stage: (n, T, D)}, n boards of the sample.
    """
    cells, names = object_cells(sample, False), list(stages)
    shown = [name for name in names if name.endswith(("_z", "z_attn"))] + names[-1:]
    points = {name: unit(stages[name][sample.test][cells.board, cells.cell]) for name in shown}
    return Manifolds(points, cells.root, cells.token)
