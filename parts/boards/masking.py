"""Masking: which cells of a board are hidden, by patches that cover an object (arXiv 2312.05361).

Axis letters: n boards, h = w = board_dim, m roots of a composite, d = abs_dim, k boards that lose a patch.
"""
from __future__ import annotations

import numpy as np

from parts.boards.params import DatasetParams


def object_tokens(params: DatasetParams, boards: np.ndarray) -> np.ndarray:
    """Where boards (n, h, w) show the token of an object: (n, h, w) bool."""
    return (boards >= params.vocab_bck) & (boards < params.masking_token)


def patches(
    params: DatasetParams,
    boards: np.ndarray,
    types: np.ndarray | None,
    corners: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A patch of d x d cells on each of k boards: (cells (k, h, w) bool, whether it is a root of a composite
    (k,)).

    On a composite it is the footprint of one of its roots, on any other board it lies anywhere, each place as
    likely. types (k,), where they are known; corners (k, m, 2) of the composite's roots, -1 where there is
    none.
    """
    d, found = params.abs_dim, (corners >= 0).all(-1)  # (k, m)
    if types is None:
        tokens = object_tokens(params, boards).sum((1, 2))
        composite = (tokens > 2 * params.abs_c) | (found.any(1) & (params.comp_c == 2))
    else:
        composite = types == 2
    at = rng.integers(params.places, size=(len(boards), 2))
    root = (rng.random(found.shape) + found).argmax(1)  # one of those found
    chosen = np.take_along_axis(corners, root[:, None, None], 1)[:, 0]
    at = np.where((composite & found.any(1))[:, None], chosen, at)
    line = np.arange(params.board_dim)
    inside = (line >= at[..., None]) & (line < at[..., None] + d)  # (k, 2, h)
    return inside[:, 0, :, None] & inside[:, 1, None, :], composite


def find_corners(
    params: DatasetParams, roots: np.ndarray, compositions: np.ndarray, boards: np.ndarray
) -> np.ndarray:
    """Boards (n, h, w) -> corners (n, comp_dim ** 2, 2) of the roots of the composite each board shows, else
    -1.

    roots (abs_n, d, d, abs_w_m) and compositions (comp_n, comp_dim, comp_dim) as the data set has them.
    """
    step, last = params.abs_dim + params.comp_margin, params.board_dim - params.comp_side
    corners = np.full((len(boards), params.comp_dim**2, 2), -1)
    shows = object_tokens(params, boards)
    count, top, left = shows.sum((1, 2)), shows.any(2).argmax(1), shows.any(1).argmax(1)
    for composition in compositions if len(boards) else ():
        picture = composite_picture(params, roots, composition)
        rows, cols = np.nonzero((picture >= 0).any(-1))
        if not len(rows):
            continue
        row, col = top - rows.min(), left - cols.min()
        fits = (count == len(rows)) & (np.minimum(row, col) >= 0) & (np.maximum(row, col) <= last)
        here = np.flatnonzero(fits)
        tokens = boards[here[:, None], row[here, None] + rows, col[here, None] + cols]
        here = here[(tokens[..., None] == picture[rows, cols]).any(-1).all(1)]
        a, b = np.nonzero(composition >= 0)
        corner = np.stack([row, col], axis=1)[here, None] + np.stack([a, b], axis=1) * step
        corners[here[:, None], a * params.comp_dim + b] = corner
    return corners


def composite_picture(params: DatasetParams, roots: np.ndarray, composition: np.ndarray) -> np.ndarray:
    """What each cell of a composite may show, (side, side, abs_w_m), -1 where there is nothing."""
    d, step = params.abs_dim, params.abs_dim + params.comp_margin
    picture = np.full((params.comp_side, params.comp_side, params.abs_w_m), -1)
    for i, j in np.argwhere(composition >= 0):
        picture[i * step : i * step + d, j * step : j * step + d] = roots[composition[i, j]]
    return picture
