"""Statistics of embeddings and sentences: linear read-outs, spread of class means, topographic similarity."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ridge(X: np.ndarray, Y: np.ndarray, strengths: Sequence[float]) -> list[np.ndarray]:
    """Weights (F + 1, C), the last row an offset, of linear read-outs of Y (N, C) from X (N, F), one for each of the
    strengths, times the mean variance of a feature; from one Gram matrix, of features or, where there are fewer, of examples."""
    mean, mean_y = X.mean(0, dtype=np.float64), Y.mean(0, dtype=np.float64)
    x, y, dual, found = X - mean, Y - mean_y, X.shape[0] < X.shape[1], []
    gram, target = (x @ x.T, y) if dual else (x.T @ x, x.T @ y)
    for strength in strengths:
        penalty = strength * max(gram.trace() / x.shape[1], 1e-30) * np.eye(len(gram))
        weights = np.linalg.solve(gram + penalty, target)
        weights = x.T @ weights if dual else weights
        found.append(np.concatenate([weights, (mean_y - mean @ weights)[None]]).astype(np.float32))
    return found


def unit(X: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) centred and of unit length."""
    X = X - X.mean(0, dtype=np.float64)
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)


def participation(X: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> float:
    """Participation ratio of the means of classes (N,) of X (N, D), weighted (N,): over how many directions they spread."""
    member = np.eye(classes.max() + 1)[classes] * weights[:, None]
    size = member.sum(0)
    means = (member.T @ X)[size > 0] / size[size > 0, None]
    moments = (means - means.mean(0)).T @ (means - means.mean(0))
    return float(np.trace(moments) ** 2 / (moments**2).sum()) if moments.any() else np.nan


def mantel(words: np.ndarray, distances: np.ndarray, rng, permutations: int = 200) -> tuple[float, float, float]:
    """Topographic similarity: (rank correlation of the sentences' Hamming distances with the scenes' distances, the 95%
    quantile over permutations of the boards, p). words (n, S)."""
    upper = np.triu_indices(len(words), 1)

    def ranks(D):  # symmetric, with mean 0 and variance 1 over pairs
        _, inverse, counts = np.unique(D[upper], return_inverse=True, return_counts=True)
        rank = (np.cumsum(counts) - (counts + 1) / 2)[inverse]
        full = np.zeros(D.shape)
        full[upper] = (rank - rank.mean()) / max(rank.std(), 1e-30)
        return full + full.T

    x, y = ranks((words[:, None] != words).sum(-1)), ranks(distances)[upper]
    orders = [np.arange(len(words)), *(rng.permutation(len(words)) for _ in range(permutations))]
    found, *chance = (float(x[o][:, o][upper] @ y / len(y)) for o in orders)
    return found, float(np.quantile(chance, 0.95)), float((1 + np.sum(np.array(chance) >= found)) / (1 + permutations))
