"""Statistics of labels and embeddings: linear read-outs, spread of class means."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch


class NormalEquations:
    """Sums over examples X (N, F), Y (N, C), which may come in batches, from which linear read-outs of Y from
    X follow. sums (F + 1, F + 1 + C): products of [X, 1] with [X, 1, Y]."""

    def __init__(self, sums: np.ndarray | None = None):
        self.sums = sums

    def add(self, X: np.ndarray, Y: np.ndarray) -> None:
        """Adds a batch of examples. The sums of whole numbers are exact: a batch is multiplied in float32,
        which has no error below 2^24, and added up as integers; others are float64."""
        kind = np.float64 if X.dtype.kind == "f" or Y.dtype.kind == "f" else np.float32
        Z = np.ones((len(X), X.shape[1] + 1), kind)
        Z[:, :-1] = X
        if self.sums is None:
            shape = Z.shape[1], Z.shape[1] + Y.shape[1]
            self.sums = np.zeros(shape, np.float64 if kind == np.float64 else np.int32)
        self.sums[:, : Z.shape[1]] += (Z.T @ Z).astype(self.sums.dtype, copy=False)
        self.sums[:, Z.shape[1] :] += (Z.T @ Y.astype(kind)).astype(self.sums.dtype, copy=False)

    def weights(self, strengths: Sequence[float], parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """For each part, some columns of Y, (F + 1, strengths, columns) of ridge regression in float32, the
        last row an offset; each strength is in units of a feature's mean variance."""
        F = len(self.sums) - 1
        of_ones = self.sums[F] / self.sums[F, F]
        gram = self._centred(slice(F), of_ones)
        variance, size = gram.trace() / F, self.sums.diagonal()[:F].sum()
        variance = variance if variance > 1e-12 * size else 1.0  # features that do not vary
        diagonal, solvers = gram.diagonal().copy(), []
        for strength in strengths:
            gram.flat[:: F + 1] = diagonal + strength * variance
            solvers.append(torch.linalg.lu_factor(torch.from_numpy(gram)))  # faster than numpy's
        del gram
        for part in parts:  # each by itself: of many columns memory counts
            columns = F + 1 + part
            target = torch.from_numpy(self._centred(columns, of_ones))
            weights = np.empty((F + 1, len(strengths), len(part)), np.float32)
            for i, solver in enumerate(solvers):
                w = torch.linalg.lu_solve(*solver, target).numpy()
                weights[:F, i], weights[F, i] = w, of_ones[columns] - of_ones[:F] @ w
            yield weights

    def _centred(self, columns: slice | np.ndarray, of_ones: np.ndarray) -> np.ndarray:
        """(F, columns) products of X and some columns of [X, 1, Y], all about their means."""
        F = len(self.sums) - 1
        products = np.outer(-self.sums[:F, F], of_ones[columns])
        products += self.sums[:F, columns]
        return products


def several(values: np.ndarray) -> bool:
    """Whether two different values occur."""
    return len(values) > 0 and values.min() < values.max()


def unit(X: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) centred and of unit length."""
    X = X - X.mean(0, dtype=np.float64)
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)


def moments(X: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Second moments (D, D) of the means of classes (N,) of X (N, D), weighted (N,), about their mean."""
    member = np.eye(classes.max() + 1)[classes] * weights[:, None]
    size = member.sum(0)
    means = (member.T @ X)[size > 0] / size[size > 0, None]
    centred = means - means.mean(0) if len(means) else means  # no cells: zeros
    return centred.T @ centred


def participation(moments: np.ndarray) -> float:
    """Participation ratio of second moments (D, D): over how many directions they spread. Negative ones,
    which differences of moments can have, count as 0."""
    spread = np.maximum(np.linalg.eigvalsh(moments), 0)
    return float(spread.sum() ** 2 / (spread**2).sum()) if spread.any() else np.nan
