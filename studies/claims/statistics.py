"""Statistics of embeddings and sentences: linear read-outs, spread of class means, topographic similarity."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def ridge(X: np.ndarray, Y: np.ndarray, strengths: Sequence[float]) -> Iterator[np.ndarray]:
    """Linear read-outs of Y (N, C) from X (N, F): weights (F + 1, C), the last row an offset, for each of the
    strengths, times the mean variance of a feature; one after the other, as they may fill the memory."""
    mean, mean_y = X.mean(0, dtype=np.float64), Y.mean(0, dtype=np.float64)
    x, y = X - mean, Y - mean_y
    of_examples = X.shape[0] < X.shape[1]  # the smaller Gram matrix will do
    gram, target = (x @ x.T, y) if of_examples else (x.T @ x, x.T @ y)
    variance = max(gram.trace() / x.shape[1], 1e-30)
    for strength in strengths:
        weights = np.linalg.solve(gram + strength * variance * np.eye(len(gram)), target)
        if of_examples:
            weights = x.T @ weights
        offset = mean_y - mean @ weights
        weights = weights.astype(np.float32)
        yield np.concatenate([weights, offset[None].astype(np.float32)])


def unit(X: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) centred and of unit length."""
    X = X - X.mean(0, dtype=np.float64)
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)


def participation(X: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> float:
    """Participation ratio of the means of classes (N,) of X (N, D), weighted (N,): over how many directions
    they spread."""
    member = np.eye(classes.max() + 1)[classes] * weights[:, None]
    size = member.sum(0)
    means = (member.T @ X)[size > 0] / size[size > 0, None]
    centred = means - means.mean(0)
    moments = centred.T @ centred
    if not moments.any():
        return np.nan
    return float(np.trace(moments) ** 2 / (moments**2).sum())


def mantel(words: np.ndarray, distances: np.ndarray, rng: np.random.Generator,
           permutations: int = 200) -> tuple[float, float, float]:
    """Topographic similarity (Mantel's test): whether scenes far from each other have sentences that are.

    words (n, S), distances of the scenes (n, n). Returns the rank correlation of the sentences' Hamming
    distances with the scenes' distances, the 95% quantile of it over permutations of the boards, and p.
    """
    pairs = np.triu_indices(len(words), 1)
    x = _ranks((words[:, None] != words).sum(-1), pairs)
    y = _ranks(distances, pairs)[pairs]
    orders = [np.arange(len(words)), *(rng.permutation(len(words)) for _ in range(permutations))]
    found, *chance = (float(x[order][:, order][pairs] @ y / len(y)) for order in orders)
    p = (1 + np.sum(np.array(chance) >= found)) / (1 + permutations)
    return found, float(np.quantile(chance, 0.95)), float(p)


def _ranks(distances: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Ranks (n, n) of symmetric distances (n, n), equal ones shared; over pairs of mean 0 and variance 1."""
    _, inverse, counts = np.unique(distances[pairs], return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts + 1) / 2)[inverse]
    full = np.zeros(distances.shape)
    full[pairs] = (rank - rank.mean()) / max(rank.std(), 1e-30)
    return full + full.T
