"""Objects of a data set: roots, small patterns of tokens, and compositions of roots, all different."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from module_rows import DatasetParams
from module_splits import distinct


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
    """The first two of roots (n, d, d, m) that can draw one picture, each at a place of its own, as shifts of
    each other can; None where there are none."""
    groups: dict[tuple, list[int]] = {}
    cut = []
    for i, root in enumerate(roots):
        there = (root >= 0).any(-1)
        rows, columns = (np.flatnonzero(there.any(axis)) for axis in (1, 0))
        if len(rows):
            window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            groups.setdefault((there[window].shape, there[window].tobytes()), []).append(i)
            cut.append(root[window][there[window]])
        else:
            cut.append(root[there])
    for group in groups.values():
        tokens = np.stack([cut[i] for i in group])  # (g, cells, m)
        for first, own in enumerate(tokens[:-1]):
            others = tokens[first + 1 :]
            same = (others[..., :, None] == own[:, None]) & (others >= 0)[..., None]
            share = same.any((-1, -2)).all(-1)
            if share.any():
                return group[first], group[first + 1 + int(share.argmax())]
    return None


def draw_compositions(p: DatasetParams, rng: np.random.Generator) -> np.ndarray:
    """Distinct compositions (comp_n, comp_dim, comp_dim)."""
    drawn = _distinct_objects(p.comp_n, lambda n: _scatter(rng, n, p.comp_dim**2, p.comp_c, p.abs_n)[0])
    return drawn.reshape(-1, p.comp_dim, p.comp_dim)
