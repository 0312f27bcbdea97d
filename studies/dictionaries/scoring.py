"""How well latents tell labels: chosen on some cells, reported on others.

A *value* is one value of a label, such as root 3. Each measure predicts for every cell whether it has the
value, and is scored by F1 = 2 TP / (predicted + positives) on the cells to report:

    single           the best latent, where it exceeds the best threshold
    best 2, 3, ...   the union of that many latents, added greedily: is a value split over several?
    precise          the union of all latents of precision 0.95, as in arXiv 2408.00113
    probe of 2, 5    least squares on that many latents, added by orthogonal matching pursuit

Latents, thresholds and weights are chosen on the cells to choose by. A latent that falls where a value occurs
counts only if it is also given with the other sign.

Axis letters: N cells, F latents, C values of a label, R bootstrap samples.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import utils
from parts.checks import check_shape
from studies.claims.scores import DRAWS, resample, spread

NONE, LEFT_OUT = -1, -2  # labels: a cell without the label; a cell that does not count
SHARES = (0.9, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.09, 0.06, 0.04, 0.03, 0.02, 0.014, 0.01, 0.007, 0.005,
          0.003, 0.002)  # of cells above a threshold: the thresholds that are tried
UNIONS, PROBES = (2, 3, 5, 9), (2, 5)
MEASURES = ("single", *(f"best {m}" for m in UNIONS), "precise", *(f"probe of {m}" for m in PROBES))
PRECISION, FIRED = 0.95, 10  # of a precise latent: precision, and cells on which it is on
RIDGE = 1e-3  # of least squares, times the mean variance of a latent


@dataclass
class Reading:
    """What was chosen to tell the C values of a label from latents."""

    latent: np.ndarray  # (C,) the best
    threshold: np.ndarray  # (C,) its
    f1: np.ndarray  # (C,) on the cells to choose by
    predict: dict[str, Callable]  # {measure: function of latents (N, F) -> (N, C) bool}


def read(z: np.ndarray, Y: np.ndarray, measures: Sequence[str] = MEASURES) -> Reading:
    """Chooses latents, thresholds and weights for values Y (N, C) bool on latents z (N, F)."""
    z = np.asarray(z, np.float32)
    f1, threshold, precise, tp, fired = _best_thresholds(z, Y)
    at, latent = np.arange(Y.shape[1]), f1.argmax(1)
    chosen = threshold[at, latent]
    predict = {"single": lambda z: z[:, latent] > chosen}
    if any(name.startswith("best ") for name in measures):
        members = [_union(z, Y[:, c], threshold[c], latent[c], tp[c], fired[c]) for c in at]
        for m in UNIONS:
            predict[f"best {m}"] = lambda z, m=m: np.stack(
                [(z[:, of[:m]] > threshold[c, of[:m]]).any(1) for c, of in enumerate(members)], 1)
    if "precise" in measures:
        some = [np.flatnonzero(np.isfinite(row)) for row in precise]
        predict["precise"] = lambda z: np.stack(
            [(z[:, of] > precise[c, of]).any(1) for c, of in enumerate(some)], 1)
    sizes = [int(name.split()[-1]) for name in measures if name.startswith("probe of ")]
    for size, weights in _pursuit(z, Y.astype(np.float32), sizes).items():
        cut = _best_thresholds(z @ weights, Y)[1].diagonal()
        predict[f"probe of {size}"] = lambda z, weights=weights, cut=cut: z @ weights > cut
    return Reading(latent, chosen, f1[at, latent], predict)


def _best_thresholds(z: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each latent for each value, (C, F) each: the best F1, the threshold that gives it, the lowest
    threshold of precision PRECISION (infinite if there is none); and at the best threshold the cells that are
    on and have the value, and all that are on."""
    (N, F), S = z.shape, len(SHARES)
    ordered = np.sort(np.ascontiguousarray(z.T))
    tried = ordered[:, np.floor((N - 1) * (1 - np.array(SHARES))).astype(int)]  # (F, S), from low to high
    fired = N - np.stack([np.searchsorted(*of, "right") for of in zip(ordered, tried, strict=True)])
    fired, some, best = fired.astype(np.float32), Y.any(1), []
    z, Y = z[some], Y[some]
    exceeded = np.zeros(z.shape, np.uint8)  # how many thresholds
    for threshold in tried.T:
        exceeded += z > threshold
    cells, latents = np.nonzero(exceeded)
    bins = latents * (S + 1) + exceeded[cells, latents]
    lengths = np.bincount(cells, minlength=len(z))
    for y in Y.T:
        tp = np.bincount(bins[np.repeat(y, lengths)], minlength=F * (S + 1)).reshape(F, S + 1)
        tp = tp[:, :0:-1].cumsum(1)[:, ::-1].astype(np.float32)  # (F, S) cells above each threshold
        scores = 2 * tp / np.maximum(fired + np.float32(y.sum()), 1)
        pure = (tp >= PRECISION * fired) & (fired >= FIRED)
        at = np.arange(F), scores.argmax(1)
        precise = np.where(pure.any(1), tried[at[0], pure.argmax(1)], np.inf)
        best.append((scores[at], tried[at], precise.astype(np.float32), tp[at], fired[at]))
    return tuple(np.stack(each) for each in zip(*best, strict=True))


def _union(z: np.ndarray, y: np.ndarray, threshold: np.ndarray, latent: int, tp: np.ndarray,
           fired: np.ndarray) -> list[int]:
    """The latents (at most the largest of UNIONS) whose union has the best F1, added greedily to the first.
    y (N,) where the value occurs; threshold, tp, fired (F,) as `_best_thresholds` returns them."""
    members, left, both, covered = [], np.ones(len(z), bool), 0.0, 0.0
    while True:
        members.append(int(latent))
        both, covered = both + tp[latent], covered + fired[latent]
        if len(members) == max(UNIONS):
            return members
        new = np.flatnonzero(left & (z[:, latent] > threshold[latent]))  # no longer to be covered
        on, left[new] = z[new] > threshold, False
        tp, fired = tp - on[y[new]].sum(0), fired - on.sum(0)
        latent = ((both + tp) / (covered + fired + y.sum() + 1e-9)).argmax()


def _pursuit(z: np.ndarray, Y: np.ndarray, sizes: Sequence[int]) -> dict[int, np.ndarray]:
    """{k: weights (F, C)}, k of them not 0 for each value: each step adds the latent most correlated with
    what is left, and fits anew."""
    if not sizes:
        return {}
    z = z - z.mean(0)
    gram, cross = z.T @ z, z.T @ (Y - Y.mean(0))
    size, weights = np.sqrt(np.maximum(gram.diagonal(), 1e-12)), np.zeros(cross.shape, np.float32)
    members: list[list[int]] = [[] for _ in range(cross.shape[1])]
    fitted = {}
    for k in range(1, max(sizes) + 1):
        left = np.abs(cross - gram @ weights) / size[:, None]
        for c, of in enumerate(members):
            left[of, c] = -1
            if len(of) < len(gram):
                of.append(int(left[:, c].argmax()))
            inner = gram[np.ix_(of, of)].astype(np.float64)
            inner += (RIDGE * inner.trace() / len(inner) + 1e-12) * np.eye(len(inner))
            weights[of, c] = np.linalg.solve(inner, cross[of, c])
        if k in sizes:
            fitted[k] = weights.copy()
    return fitted


def f1_of(predicted: np.ndarray, Y: np.ndarray, boards: np.ndarray, W: np.ndarray) -> np.ndarray:
    """F1 (R + 1, C) of predictions (N, C) of Y (N, C), on cells of boards (N,), which count as W (R + 1,
    boards) says; NaN for a value that does not occur."""
    shape = W.shape[1], Y.shape[1]

    def by_board(flags):
        rows, values = np.nonzero(flags)
        return np.bincount(boards[rows] * shape[1] + values, minlength=shape[0] * shape[1]).reshape(shape)

    positives, both = W @ by_board(Y), W @ (by_board(predicted) + by_board(Y))
    return np.where(positives > 0, 2 * (W @ by_board(predicted & Y)) / np.maximum(both, 1e-9), np.nan)


def recall_of(predicted: np.ndarray, Y: np.ndarray, boards: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Recall (R + 1, C); arguments as of `f1_of`."""
    f1 = f1_of(predicted & Y, Y, boards, W)  # without a false alarm it is 2 recall / (1 + recall)
    return f1 / (2 - f1)


def mean_of(scores: np.ndarray) -> np.ndarray:
    """Coverage (R + 1,): the mean F1 over the values that occur, of scores (R + 1, C)."""
    there = np.isfinite(scores)
    return np.where(there, scores, 0).sum(1) / np.maximum(there.sum(1), 1)


def one_hot(labels: np.ndarray, values: int | None = None) -> np.ndarray:
    """Labels (N,), NONE for none -> (N, C) bool."""
    return labels[:, None] == np.arange(labels.max() + 1 if values is None else values)


def score(latents: np.ndarray, labels: dict[str, np.ndarray], chosen: np.ndarray,
          boards: np.ndarray | None = None, measures: Sequence[str] = MEASURES) -> list[dict]:
    """How well single latents, and few together, tell each value of labels.

    latents (N, F); labels {name: (N,) int}, NONE (-1) for a cell without the label, LEFT_OUT (-2) for one
    that does not count; chosen (N,) bool: the cells to choose by, the others are reported; boards (N,): the
    board of each cell, by which bootstrap intervals are drawn (None: each cell by itself).

    Returns a row per value: label, value, the best latent and its threshold, `cells` with the value, `always
    on`, the F1 of a latent that is always on, and F1 by each of measures with a 95% interval. ValueError if
    there are no cells on either side, or a label with one value only.
    """
    chosen, boards = np.asarray(chosen, bool), np.arange(len(latents)) if boards is None else boards
    check_shape("latents", latents, (None, None))
    check_shape("chosen", chosen, (len(latents),))
    if not chosen.any() or chosen.all():
        raise ValueError(f"chosen must leave cells to choose by and cells to report, not {int(chosen.sum())} "
                         f"of {len(chosen)}.")
    if not np.isfinite(latents).all():
        raise ValueError("latents must be finite, not NaN or infinite.")
    rows, numbers = [], np.unique(boards[~chosen], return_inverse=True)[1]
    W = resample(numbers.max() + 1, utils.numpy_rng(0), DRAWS)
    for name, values in labels.items():
        check_shape(f"labels[{name!r}]", np.asarray(values), (len(latents),))
        counts = values != LEFT_OUT
        there = np.unique(values[counts & chosen])
        if len(there) < 2:
            raise ValueError(f"labels[{name!r}] must take at least two values on the cells to choose by, not "
                             f"only {', '.join(map(str, there)) or 'none'}.")
        Y = one_hot(values)
        reading = read(latents[counts & chosen], Y[counts & chosen], measures)
        here = counts & ~chosen
        z, y, of = latents[here], Y[here], numbers[counts[~chosen]]
        scores = {measure: f1_of(reading.predict[measure](z), y, of, W) for measure in measures}
        always = f1_of(np.ones_like(y), y, of, W)[0]
        for c in range(Y.shape[1]):
            rows.append({"label": name, "value": c, "latent": int(reading.latent[c]),
                         "threshold": float(reading.threshold[c]), "cells": int(y[:, c].sum()),
                         "always on": always[c]})
            for measure in measures:
                rows[-1] |= spread(measure, scores[measure][:, c])
    return rows


def edges(labels: dict[str, np.ndarray]) -> Iterator[tuple[str, int, str, int, np.ndarray]]:
    """The known hierarchy, composite -> root -> root x place: (parent label, its value, child label, its
    value, cells (N,) that have both)."""
    for parent, child in (("root", "root x place"), ("composite", "root")):
        both = (labels[parent] >= 0) & (labels[child] >= 0)
        for p, c in np.unique(np.stack([labels[parent][both], labels[child][both]]), axis=1).T:
            yield parent, p, child, c, both & (labels[parent] == p) & (labels[child] == c)


def absorption(z: np.ndarray, readings: dict[str, Reading], labels: dict[str, np.ndarray],
               least: float = 0.5) -> dict[str, float]:
    """Absorption gap on cells (N,): on cells that have both a parent and its child, how much more often the
    parent's latent is off if the child's is on than if it is off.

    Positive: the child's latent stands in for the parent's. The differences of the edges are weighted as
    Mantel and Haenszel do. Edges count if the two latents differ and both have F1 of at least `least` on the
    cells to choose by. Returns the gap (NaN without such edges) and the number of edges.
    """
    top, weight, count = 0.0, 0.0, 0
    for parent, p, child, c, cells in edges(labels):
        over, under = readings[parent], readings[child]
        if over.latent[p] == under.latent[c] or min(over.f1[p], under.f1[c]) < least:
            continue
        off = z[cells, over.latent[p]] <= over.threshold[p]
        on = z[cells, under.latent[c]] > under.threshold[c]
        if on.any() and not on.all():
            w = on.sum() * (~on).sum() / len(on)
            top, weight, count = top + w * (off[on].mean() - off[~on].mean()), weight + w, count + 1
    return {"absorption gap": top / weight if weight else np.nan, "edges": count}
