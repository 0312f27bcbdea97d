"""Objects: roots, which are small patterns of tokens, and compositions of roots; and where the objects that a
row names lie on a board.

Axis letters: n boards or objects, m objects on a board, d = abs_dim, k rows.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from parts.boards.numbering import distinct
from parts.boards.params import COMPOSITIONS, ROOTS, DatasetParams
from parts.checks import integer_array
from utils import numpy_rng

EMPTY = -2  # stands for no object, among the tokens of a cell; -1 fills up the list of a cell's tokens


def _scatter(rng: np.random.Generator, n: int, cells: int, c: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, cells) random numbers below `end` in c random cells of each, else -1; and these cells (n, c)."""
    where, filled = distinct(rng, n, cells, c), np.full((n, cells), -1)
    filled[np.arange(n)[:, None], where] = rng.integers(end, size=(n, c))
    return filled, where


def _distinct_objects(count: int, draw: Callable, key: Callable = np.asarray) -> np.ndarray:
    """`count` objects from draw(how_many), no two with the same key(objects). There must be that many."""
    objects = draw(count)
    while True:
        first = np.unique(key(objects).reshape(len(objects), -1), axis=0, return_index=True)[1]
        objects = objects[np.sort(first)][:count]
        if len(objects) == count:
            return objects
        objects = np.concatenate([objects, draw(max(64, count // 4))])


def draw_roots(p: DatasetParams) -> np.ndarray:
    """Distinct roots (abs_n, d, d, abs_w_m): the tokens that each cell may take, filled up with -1."""
    fuzzy, rng = p.abs_w_c or 0, numpy_rng(p.seed, ROOTS)

    def draw(n):
        plain, where = _scatter(rng, n, p.abs_dim**2, p.abs_c, p.vocab_token)
        roots = np.full((*plain.shape, p.abs_w_m), -1)
        roots[..., 0] = plain
        tokens = distinct(rng, n * fuzzy, p.vocab_token, p.abs_w_m)
        roots[np.arange(n)[:, None], where[:, :fuzzy]] = tokens.reshape(n, fuzzy, p.abs_w_m)
        return np.where(roots < 0, -1, roots + p.vocab_bck)

    # the order of a fuzzy cell's tokens makes no other root
    return _distinct_objects(p.abs_n, draw, lambda roots: np.sort(roots, axis=-1)).reshape(
        -1, p.abs_dim, p.abs_dim, p.abs_w_m
    )


def draw_compositions(p: DatasetParams) -> np.ndarray:
    """Distinct compositions (comp_n, comp_dim, comp_dim): root indices, -1 for no root."""
    rng = numpy_rng(p.seed, COMPOSITIONS)
    drawn = _distinct_objects(p.comp_n, lambda n: _scatter(rng, n, p.comp_dim**2, p.comp_c, p.abs_n)[0])
    return drawn.reshape(-1, p.comp_dim, p.comp_dim)


def checked_roots(p: DatasetParams, values) -> np.ndarray:
    """values as roots (abs_n, d, d, abs_w_m), read-only. TypeError or ValueError unless they are
    object tokens or -1."""
    last = p.masking_token - 1
    roots = integer_array("roots", values, (p.abs_n, p.abs_dim, p.abs_dim, p.abs_w_m), -1, last)
    if ((roots >= 0) & (roots < p.vocab_bck)).any():
        raise ValueError(f"roots must be -1 or object tokens, {p.vocab_bck} to {last}.")
    roots.setflags(write=False)  # else single cells could be changed without a check
    return roots


def checked_compositions(p: DatasetParams, values) -> np.ndarray:
    """values as compositions (comp_n, comp_dim, comp_dim), read-only. TypeError or ValueError unless they
    are root indices or -1."""
    shape = (p.comp_n, p.comp_dim, p.comp_dim)
    compositions = integer_array("compositions", values, shape, -1, p.abs_n - 1)
    compositions.setflags(write=False)
    return compositions


def alike(roots: np.ndarray) -> tuple[int, int] | None:
    """Two of roots (n, d, d, abs_w_m) that can draw the same picture at different positions, as shifts of
    each other can; None if there are none."""
    n, d = roots.shape[:2]
    there = (roots >= 0).any(-1)
    # each root is shifted into the top left corner of its footprint; cells that roll over are empty
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


def objects_of(params: DatasetParams, compositions: np.ndarray, type_: int, rows: np.ndarray,
               margin: int | None = None) -> tuple[np.ndarray, ...]:
    """Rows (k, width) of a type -> root (-1: none), row, column of each object (k, m), background (k,).

    margin: the gap between the roots of a composite; None: comp_margin.
    """
    if type_ == 1:
        return rows[:, [0, 3]], rows[:, [1, 4]], rows[:, [2, 5]], rows[:, 6]
    index, row, col, bck = rows.T
    if type_ == 0:
        return index[:, None], row[:, None], col[:, None], bck
    step = params.abs_dim + (params.comp_margin if margin is None else margin)
    a, b = np.divmod(np.arange(params.comp_dim**2), params.comp_dim)
    root = compositions[index].reshape(len(rows), len(a))
    return root, row[:, None] + a * step, col[:, None] + b * step, bck


def random_tokens(roots: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Roots (k, d, d, abs_w_m) -> tokens (k, d * d), -1 in holes. A fuzzy cell takes one of its tokens."""
    tokens = roots.reshape(len(roots), roots.shape[1] ** 2, roots.shape[-1])
    if tokens.shape[-1] == 1:
        return tokens[..., 0]
    allowed = tokens >= 0
    pick = (rng.random(tokens.shape[:2]) * allowed.sum(-1)).astype(np.int64)
    mode = (allowed.cumsum(-1) > pick[..., None]).argmax(-1)  # where allowed token number `pick` is
    return np.take_along_axis(tokens, mode[..., None], -1)[..., 0]


def random_positions(p: DatasetParams, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 2) rows and columns for n roots: for two roots those of a random double board; for more no row or
    column twice, if the board is large enough."""
    R, doubles = p.places, p.families[1]
    if n == 2 and doubles.size:
        return doubles.unrank(rng.integers(doubles.size, size=1))[0, [1, 2, 4, 5]].reshape(2, 2)
    if 2 < n <= R:
        return np.stack([rng.permutation(R)[:n], rng.permutation(R)[:n]], axis=1)
    return rng.integers(R, size=(n, 2))


def footprints(params: DatasetParams, root: np.ndarray, row: np.ndarray,
               col: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The cells that objects (n, m) cover, root -1: none. For each of the m, in drawing order: its number,
    the boards that have it (k,), and the cells of its footprint on each of these boards (k, d * d)."""
    h, line = params.board_dim, np.arange(params.abs_dim)
    footprint = (line[:, None] * h + line).ravel()
    for j in range(root.shape[1]):
        there = np.flatnonzero(root[:, j] >= 0)
        corner = row[there, j] * h + col[there, j]
        yield j, there, corner[:, None] + footprint
