"""Claim: embeddings of semantically related tokens transiently converge on low-dimensional manifolds.

Question: are cells of one root nearer to each other than cells with one token, inside the stack more than at
its ends, and do the roots lie in few dimensions?
Measure: three things at object cells, hidden and visible apart. The mean cosine of cells of one root with
different tokens, minus that of cells of different roots with one token (nearness), at the stage where it is
largest. Nearness inside the stack minus the larger of that at its ends (extremum). And 1 - the participation
ratio of the roots' means / (roots - 1), the dimensions that they could span (manifold). The stage is chosen
on half of the boards and judged on the others.
Upper bound: a code of the root alone; a return to the first stage's nearness; means on a line.
Controls: no difference; an untrained network; for the manifold also the first stage.
Row: each of the three, for hidden and for visible cells; and, not counted, fewer dimensions: 1 - the
participation ratio / that of the means of random classes of the same sizes.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from studies.claims.figures import plot_components, plot_stages
from studies.claims.sample import Sample
from studies.claims.scores import Row, Table, spread
from studies.claims.statistics import participation, unit

DIMENSION_DRAWS = 100  # bootstrap samples for dimensions, which take long
AT_ONCE = 2**26  # numbers in one array of sums over bootstrap samples
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


TABLE = Table(
    "convergence",
    "embeddings of semantically related tokens transiently converge on low-dimensional manifolds",
    "difference of mean cosines, or share of dimensions saved",
    {"convergence_stages": partial(plot_stages, label="nearness by root - by token"),
     "convergence_pca": lambda material: plot_components(*material)})


def measure(sources: dict[str, dict[str, np.ndarray]], sample: Sample, W: np.ndarray,
            rng: np.random.Generator,
            dimension_draws: int = DIMENSION_DRAWS) -> tuple[list[Row], list[dict]]:
    """Rows on whether tokens of a root transiently converge on low-dimensional manifolds; curves over stages.

    sources {name: {stage: (masked test boards, T, D)}}: network, untrained network, and others for curves
    alone. W (R + 1, test boards).
    """
    rows, curves = [], []
    half = rng.permutation(W.shape[1]) % 2
    for hidden, which in ((True, "hidden cells"), (False, "visible cells")):
        cells = object_cells(sample, hidden)
        if len(np.unique(cells.root)) < 2 or len(np.unique(cells.token)) < 2:
            continue
        board = sample.test_board[cells.board]
        points, near = {}, {}
        for source, stages in sources.items():
            points[source], near[source] = {}, {}
            for stage in sources["network"]:
                X = points[source][stage] = unit(stages[stage][cells.board, cells.cell])
                near[source][stage] = nearness_by_halves(X, cells, board, W, half)
                saved = dimensions_saved(X, cells.root, board, W[:1], rng)[0]
                label = "over training, one run" if source.startswith("epoch") else "trained"
                curves.append({"label": label, "cells": which, "source": source, "stage": stage,
                               "dimensions saved": saved} | spread("value", near[source][stage].overall))
        rows += _rows_of_nearness(which, near, len(np.unique(cells.root)))
        rows += _rows_of_dimensions(which, points, near, cells.root, board, W[: dimension_draws + 1], rng)
    return rows, curves


def object_cells(sample: Sample, hidden: bool) -> Cells:
    """The object cells of the masked test boards, hidden or visible, whose token is no background and whose
    root can be known."""
    tokens, root = sample.drawn.tokens[sample.test], sample.labels["root"][sample.test]
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
    token, not of both. sums (boards, roots, tokens, D).

    The sum over all pairs of a group is the square of the group's sum, so no loop over pairs is needed; pairs
    on the same board are subtracted.
    """
    if len(W) > 1 and len(W) * sums[0].size > AT_ONCE:  # many roots and tokens: in parts, to save memory
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
    """Score of 1 - participation ratio of the class means / that of equally large random classes, which are
    drawn anew for each bootstrap sample. X (N, D), classes and board (N,)."""
    ratios = []  # of the class means and of random classes
    for weights in (*[W[0]] * SHUFFLES, *W[1:]):
        mixed = rng.permutation(classes)
        ratios.append([participation(X, which, weights[board]) for which in (classes, mixed)])
    true, chance = np.mean(ratios[:SHUFFLES], axis=0)
    drawn = np.array([1 - true / chance for true, chance in ratios[SHUFFLES:]])
    return _centred(1 - true / chance, drawn)


def manifold(X: np.ndarray, classes: np.ndarray, board: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Score of 1 - participation ratio of the class means / the dimensions that they could span: 0 for means
    in all directions, 1 - 1 / (classes - 1) for means on a line. X (N, D), classes and board (N,)."""
    most = len(np.unique(classes)) - 1
    saved = np.array([1 - participation(X, classes, weights[board]) / most for weights in W])
    return _centred(saved[0], saved[1:])


def _centred(measured: float, drawn: np.ndarray) -> np.ndarray:
    """Score of a measured value and bootstrap values, moved to have it as their mean: a board that is drawn
    twice biases the participation ratio."""
    return np.r_[measured, drawn - drawn.mean() + measured] if len(drawn) else np.array([measured])


def _nearest(near: dict[str, Nearness]) -> str:
    """The stage that is chosen on half of the boards."""
    return max(near, key=lambda stage: near[stage].chosen_by)


def _rows_of_nearness(cells: str, near: dict[str, dict[str, Nearness]], roots: int) -> list[Row]:
    network, fresh = near["network"], near["untrained network"]
    first, *between, last = network
    top, inner = _nearest(network), _nearest({stage: network[stage] for stage in between})

    def rise(of: dict[str, Nearness]) -> np.ndarray:
        return of[inner].judged - np.maximum(of[first].judged, of[last].judged)

    none = np.zeros_like(network[top].judged)
    of_root_alone = 1 + 1 / (roots - 1)  # equidistant roots have cosines of -1 / (roots - 1)
    full_return = network[inner].judged[0] - network[first].judged[0]
    return [
        Row(TABLE.name, f"nearer by root than by token, {cells}", network[top].judged,
            {"as near": none, "untrained network": fresh[top].judged}, of_root_alone, top),
        Row(TABLE.name, f"an extremum inside the stack, {cells}", rise(network),
            {"stays": none, "untrained network": rise(fresh)}, full_return, inner)]


def _rows_of_dimensions(cells: str, points: dict, near: dict, root: np.ndarray, board: np.ndarray,
                        W: np.ndarray, rng: np.random.Generator) -> list[Row]:
    stage, first = _nearest(near["network"]), next(iter(points["network"]))
    network, fresh = points["network"], points["untrained network"]
    saved = dimensions_saved(network[stage], root, board, W, rng)
    controls = {"random classes": np.zeros(len(saved)),
                "untrained network": dimensions_saved(fresh[stage], root, board, W, rng)}
    # planted means in a plane fail here, as random classes of cells in a plane lie in it too: not counted
    fewer = Row(TABLE.name, f"class means in fewer dimensions, {cells}", saved, controls, stage=stage,
                counts=False)
    controls = {"untrained network": manifold(fresh[stage], root, board, W)}
    if stage != first:
        controls["first stage"] = manifold(network[first], root, board, W)
    effect, on_a_line = manifold(network[stage], root, board, W), 1 - 1 / (len(np.unique(root)) - 1)
    on_manifold = Row(TABLE.name, f"roots' means on a manifold, {cells}", effect, controls, on_a_line, stage)
    return [fewer, on_manifold]


def manifolds(sample: Sample, stages: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """What `plot_components` draws: the visible object cells of a network at the first stage, after each
    attention, and at the last stage, by root and by token. stages {stage: (n, T, D)}, n boards of the
    sample."""
    cells, names = object_cells(sample, False), list(stages)
    shown = [name for name in names if name.endswith(("_z", "z_attn"))] + names[-1:]
    points = {name: unit(stages[name][sample.test][cells.board, cells.cell]) for name in shown}
    return points, {"root": cells.root, "token": cells.token}
