"""Statistics of embeddings: linear read-outs, spread of class means."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class NormalEquations:
    """Sums over examples X (N, F), Y (N, C), which may come in batches, from which linear read-outs of Y from
    X follow."""

    def __init__(self):
        self.count = 0

    def add(self, X: np.ndarray, Y: np.ndarray) -> None:
        """Adds a batch of examples. Whole numbers are added up in float32, which is exact below 2^24, others
        in float64."""
        X = X.astype(np.float32 if X.dtype.kind in "biu" else np.float64)
        if not self.count:
            self.gram, self.products = (np.zeros((X.shape[1], A.shape[1]), X.dtype) for A in (X, Y))
            self.sum_x, self.sum_y = np.zeros(X.shape[1]), np.zeros(Y.shape[1])
        self.count += len(X)
        self.gram += X.T @ X
        self.products += X.T @ Y
        self.sum_x += X.sum(0, dtype=np.float64)
        self.sum_y += Y.sum(0, dtype=np.float64)

    def weights(self, strengths: Sequence[float]) -> np.ndarray:
        """(strengths, F + 1, C) of ridge regression, the last row an offset; each strength is in units of a
        feature's mean variance."""
        mean, mean_y = self.sum_x / self.count, self.sum_y / self.count
        gram = self.gram - np.outer(self.sum_x, mean)
        target = self.products - np.outer(self.sum_x, mean_y)
        variance = gram.trace() / len(gram)
        variance = variance if variance > 1e-12 * self.gram.trace() else 1.0  # features that do not vary
        penalties = [strength * variance * np.eye(len(gram)) for strength in strengths]
        solved = [np.linalg.solve(gram + penalty, target) for penalty in penalties]
        return np.array([np.vstack([w, mean_y - mean @ w]) for w in solved])


def unit(X: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) centred and of unit length."""
    X = X - X.mean(0, dtype=np.float64)
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)


def moments(X: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Second moments (D, D) of the means of classes (N,) of X (N, D), weighted (N,), about their mean."""
    member = np.eye(classes.max() + 1)[classes] * weights[:, None]
    size = member.sum(0)
    means = (member.T @ X)[size > 0] / size[size > 0, None]
    centred = means - means.mean(0)
    return centred.T @ centred


def participation(moments: np.ndarray) -> float:
    """Participation ratio of second moments (D, D): over how many directions they spread. Negative ones,
    which differences of moments can have, count as 0."""
    spread = np.maximum(np.linalg.eigvalsh(moments), 0)
    return float(spread.sum() ** 2 / (spread**2).sum()) if spread.any() else np.nan
