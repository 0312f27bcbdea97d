"""Objects of a data set: roots, small patterns of tokens, and compositions of roots, all different."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from parts.boards.params import DatasetParams
from parts.boards.splits import distinct

EMPTY = -2  # among the tokens that a cell may take; -1 is none


def _scatter(rng: np.random.Generator, n: int, cells: int, c: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, cells) -1 but for c random cells of each, which hold random numbers below end; which cells these
    are (n, c)."""
    where, filled = distinct(rng, n, cells, c), np.full((n, cells), -1)
    filled[np.arange(n)[:, None], where] = rng.integers(end, size=(n, c))
    return filled, where


def _distinct_objects(count: int, draw: Callable, key: Callable = np.asarray) -> np.ndarray:
    """count objects from draw(how_many), no two with the same key(objects); there must be that many."""
    objects = draw(count)
    while True:
        first = np.unique(key(objects).reshape(len(objects), -1), axis=0, return_index=True)[1]
        objects = objects[np.sort(first)][:count]
        if len(objects) == count:
            return objects
        objects = np.concatenate([objects, draw(max(64, count // 4))])


def draw_roots(p: DatasetParams, rng: np.random.Generator) -> np.ndarray:
    """Distinct roots (abs_n, d, d, abs_w_m)."""
    fuzzy = p.abs_w_c or 0

    def draw(n):
        plain, where = _scatter(rng, n, p.abs_dim**2, p.abs_c, p.vocab_token)
        roots = np.full((*plain.shape, p.abs_w_m), -1)
        roots[..., 0] = plain
        tokens = distinct(rng, n * fuzzy, p.vocab_token, p.abs_w_m)
        roots[np.arange(n)[:, None], where[:, :fuzzy]] = tokens.reshape(n, fuzzy, p.abs_w_m)
        return np.where(roots < 0, -1, roots + p.vocab_bck)

    return _distinct_objects(p.abs_n, draw, lambda roots: np.sort(roots, axis=-1)).reshape(
        -1, p.abs_dim, p.abs_dim, p.abs_w_m
    )


def alike(roots: np.ndarray) -> tuple[int, int] | None:
    """Two of roots (n, d, d, m) that can draw one picture, each at a place of its own, as shifts of each
    other can; None where there are none."""
    n, d = roots.shape[:2]
    there = (roots >= 0).any(-1)
    # each root shifted into its corner; what comes in at the other end is empty
    rows, columns = ((there.any(axis).argmax(1)[:, None] + np.arange(d)) % d for axis in (2, 1))
    where = np.arange(n)[:, None, None], rows[:, :, None], columns[:, None]
    filled = there[where].reshape(n, -1)
    options = np.where(filled[..., None], roots[where].reshape(n, d * d, -1), EMPTY)[:, filled.any(0)]
    if options.shape[-1] == 1:
        _, first, which = np.unique(options, axis=0, return_index=True, return_inverse=True)
        again = np.flatnonzero(first[which.ravel()] != np.arange(n))
        return (int(first[which.ravel()[again[0]]]), int(again[0])) if len(again) else None
    for root in range(n - 1):
        others = np.arange(root + 1, n)
        for cell in range(options.shape[1]):
            own = options[root, cell]
            others = others[np.isin(options[others, cell], own[own != -1]).any(-1)]
            if not len(others):
                break
        else:
            return root, int(others[0])
    return None


def draw_compositions(p: DatasetParams, rng: np.random.Generator) -> np.ndarray:
    """Distinct compositions (comp_n, comp_dim, comp_dim)."""
    drawn = _distinct_objects(p.comp_n, lambda n: _scatter(rng, n, p.comp_dim**2, p.comp_c, p.abs_n)[0])
    return drawn.reshape(-1, p.comp_dim, p.comp_dim)
