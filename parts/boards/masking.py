"""Patches: masking that hides the whole footprint of an object (arXiv 2312.05361).

Axis letters: n boards, h = w = board_dim, m roots of a composite, d = abs_dim, k boards that lose a patch.
"""
from __future__ import annotations

import numpy as np

from parts.boards.params import DatasetParams


def object_tokens(params: DatasetParams, boards: np.ndarray) -> np.ndarray:
    """Where boards (n, h, w) show the token of an object: (n, h, w) bool."""
    return (boards >= params.vocab_bck) & (boards < params.masking_token)


def patches(
    params: DatasetParams, boards: np.ndarray, types: np.ndarray | None, corners: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A patch of d x d cells on each of boards (k, h, w) -> (cells (k, h, w) bool, whether it is on a
    composite (k,)).

    On a composite the patch is the footprint of one of its roots, on any other board a window at any
    position; all are equally likely. types (k,), or None if they are not known; corners (k, m, 2) of the
    composite's roots, -1 for none.
    """
    d, known = params.abs_dim, (corners >= 0).all(-1)  # (k, m)
    if types is None:  # more tokens than two roots have; two roots may be a composite that was recognised
        tokens = object_tokens(params, boards).sum((1, 2))
        composite = (tokens > 2 * params.abs_c) | (known.any(1) & (params.comp_c == 2))
    else:
        composite = types == 2
    at = rng.integers(params.places, size=(len(boards), 2))
    root = (rng.random(known.shape) + known).argmax(1)  # one of the known roots, all equally likely
    chosen = np.take_along_axis(corners, root[:, None, None], 1)[:, 0]
    at = np.where((composite & known.any(1))[:, None], chosen, at)
    line = np.arange(params.board_dim)
    inside = (line >= at[..., None]) & (line < at[..., None] + d)  # (k, 2, h)
    return inside[:, 0, :, None] & inside[:, 1, None, :], composite


def find_corners(
    params: DatasetParams, roots: np.ndarray, compositions: np.ndarray, boards: np.ndarray
) -> np.ndarray:
    """The corners (n, comp_dim ** 2, 2) of the roots of the composite that each of boards (n, h, w) shows, by
    comparing it with every composite; -1 on other boards. roots and compositions are the data set's."""
    step, last = params.abs_dim + params.comp_margin, params.board_dim - params.comp_side
    corners = np.full((len(boards), params.comp_dim**2, 2), -1)
    shows = object_tokens(params, boards)
    count, top, left = shows.sum((1, 2)), shows.any(2).argmax(1), shows.any(1).argmax(1)
    for composition in compositions if len(boards) else ():
        picture = composite_picture(params, roots, composition)
        rows, cols = np.nonzero((picture >= 0).any(-1))
        if not len(rows):
            continue
        row, col = top - rows.min(), left - cols.min()  # where the composite would have to be
        fits = (count == len(rows)) & (np.minimum(row, col) >= 0) & (np.maximum(row, col) <= last)
        here = np.flatnonzero(fits)
        tokens = boards[here[:, None], row[here, None] + rows, col[here, None] + cols]
        here = here[(tokens[..., None] == picture[rows, cols]).any(-1).all(1)]
        a, b = np.nonzero(composition >= 0)
        corner = np.stack([row, col], axis=1)[here, None] + np.stack([a, b], axis=1) * step
        corners[here[:, None], a * params.comp_dim + b] = corner
    return corners


def composite_picture(params: DatasetParams, roots: np.ndarray, composition: np.ndarray) -> np.ndarray:
    """The tokens that each cell of a composite may show (side, side, abs_w_m), filled up with -1."""
    d, step = params.abs_dim, params.abs_dim + params.comp_margin
    picture = np.full((params.comp_side, params.comp_side, params.abs_w_m), -1)
    for i, j in np.argwhere(composition >= 0):
        picture[i * step : i * step + d, j * step : j * step + d] = roots[composition[i, j]]
    return picture
