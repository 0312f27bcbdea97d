"""The figures of the wrappers' analyze_ methods, as functions of activations; each returns {name: Figure}.

Axis letters: n boards, h x w cells of a board, T = h * w tokens, L blocks, H heads, Q queries, D width.

Activations come as {name: array, batch first}, as `recording.recorded` returns them. names: the stages of a
network, a list [z, attn_update, ...] of activation names for each block. view: the board that a figure is
about. What each figure shows is said in the docstrings of `TrainTransformer`.
"""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from parts.probing import panels
from parts.probing.panels import BoardView, mirrored, plot_panels, tiled
from utils import dist, dist_cosine, dist_unit, get_ij, shown

TOKEN = "token, by row of the board"
UNIT = "unit-norm Euclidean distance"


def rows_of(side: int) -> list[tuple[str, int]]:
    """Tokens by row of the board, as groups of a matrix."""
    return [(str(row), side) for row in range(side)]


def embedding_tables(tokens: np.ndarray, positions: np.ndarray, vocab_bck: int, vocab_token: int) -> dict:
    """The figures of token embeddings (V, D) and of position codes (T, P) on a square board."""
    side = math.isqrt(len(positions))
    families = [("background", vocab_bck), ("object", vocab_token), ("UNK", 1)]
    measures = {"Euclidean distance": dist, UNIT: dist_unit, "cosine": dist_cosine}
    maps = np.stack([mirrored(measure(positions)) for measure in measures.values()])
    return {
        "embedding_token": panels.plot_table(tokens, families, "token embeddings", "token"),
        "embedding_pos": panels.plot_table(
            positions, rows_of(side), "position codes", "cell, by row of the board"
        ),
        "embedding_pos_2d": plot_panels(
            tiled(maps.reshape(1, -1, side, side, side, side)), [list(measures)], "", (rows_of(side),) * 2,
            size=3.6, names=("row of the cell", "column of the cell"),
        ),
    }


def stacked(acts: dict[str, np.ndarray], names: Sequence[Sequence[str]]) -> np.ndarray:
    """The first board's activations by block and stage, (L, stages, T, D)."""
    return np.stack([[acts[name][0] for name in block] for block in names])


def stage_figures(z: np.ndarray, names: list[list[str]], view: BoardView) -> dict:
    """embeddings_z, _z_dist, _z_norm, _z_dist_unit, _z_2D and _z_dist_across of one board's activations z."""
    side = len(view.board)
    unit, lengths, rows = dist_unit(z), np.linalg.norm(z, axis=-1), rows_of(side)  # unit: (L, stages, T, T)
    return activations_and_distances(z, names, view) | {
        "embeddings_z_norm": plot_panels(
            lengths.reshape(*lengths.shape[:2], side, side), names, "length", cmap="cividis", view=view
        ),
        "embeddings_z_dist_unit": plot_panels(
            unit, names, UNIT, (rows, rows), "shared", "magma", view.objects.ravel(), view, (TOKEN, TOKEN)
        ),
        "embeddings_z_2D": plot_panels(
            tiled(mirrored(unit).reshape(*unit.shape[:2], side, side, side, side)), names, UNIT, (rows, rows),
            "shared", "magma", view=view, names=("row of the token", "column of the token"), size=2.8,
        ),
    } | distances_across_stages(z, names, view, dist_unit, UNIT, (0, 2))


def activations_and_distances(z: np.ndarray, names: list[list[str]], view: BoardView, scale=None) -> dict:
    """embeddings_z and embeddings_z_dist of one board; scale as `plot_panels` takes it."""
    rows = rows_of(len(view.board))
    return {
        "embeddings_z": plot_panels(
            z, names, "activation", (rows, ()), scale, view=view, names=(TOKEN, "dimension")
        ),
        "embeddings_z_dist": plot_panels(
            dist(z), names, "Euclidean distance", (rows, rows), scale, "magma", view.objects.ravel(), view,
            (TOKEN, TOKEN),
        ),
    }


def distances_across_stages(
    z: np.ndarray, names: list[list[str]], view: BoardView, measure=dist, label: str = "Euclidean distance",
    scale=None,
) -> dict:
    """embeddings_z_dist_across of one board: for each token the distances between its stages."""
    z = z.reshape(-1, *z.shape[2:]).swapaxes(0, 1)  # (T, L * stages, D)
    maps = measure(z).reshape(*view.board.shape, z.shape[1], z.shape[1])
    return {"embeddings_z_dist_across": panels.plot_across(maps, sum(names, []), label, scale, view)}


@dataclasses.dataclass
class Queries:
    """The cells whose attention is shown: tokens (Q,), cells (Q, 2) as row and column, and names (Q,)."""

    tokens: np.ndarray
    cells: np.ndarray
    names: list[str]

    @classmethod
    def of(cls, numbered: np.ndarray) -> Queries:
        """The queries that an array (h, w) numbers: -1 none, i >= 0 the i-th; of a number that occurs twice
        the first cell counts. ValueError if there are none."""
        numbers = np.unique(numbered[numbered >= 0])
        if not len(numbers):
            raise ValueError("queries must number at least one cell, from 0 on.")
        cells = np.array([get_ij(numbered, number) for number in numbers])
        names = [f"{number} at ({i}, {j})" for number, (i, j) in zip(numbers, cells, strict=True)]
        return cls(cells @ [numbered.shape[1], 1], cells, names)


def attention_figures(
    weights: np.ndarray, prefix: str, over_cells: bool, queries: Queries, view: BoardView
) -> dict:
    """{prefix}_b{i}_h{j} for every block and head, j = -1 the mean of heads, and {prefix} of all cells as
    queries, of one board's attention weights (L, H, T, keys). over_cells: whether keys are cells of the
    board, or else words of a sentence."""
    seen = weights[:, :, queries.tokens]
    maps = np.concatenate([seen.mean(1, keepdims=True), seen], axis=1)
    figures = query_figures(maps, range(-1, seen.shape[1]), prefix, over_cells, queries, "attention", view)
    return figures | {prefix: attention_overview(weights, over_cells, view)}


def query_figures(
    maps: np.ndarray, heads: Sequence[int], prefix: str, over_cells: bool, queries: Queries, label: str,
    view: BoardView | None = None,
) -> dict:
    """{prefix}_b{i}_h{j} of maps (L, heads, Q, keys): for each query a board or, if keys are words, a row."""
    figures, side = {}, math.isqrt(maps.shape[-1])
    for i, of_block in enumerate(maps):
        for head, keys in zip(heads, of_block, strict=True):
            title = f"block {i}, " + (f"head {head}" if head >= 0 else "mean of heads")
            if over_cells:
                boards = keys.reshape(-1, side, side)
                figure = panels.plot_queries(boards, queries.cells, queries.names, label, title, view)
            else:
                rows = [(name, 1) for name in queries.names]
                figure = plot_panels(
                    keys[None, None], [[f"{title}: query by word"]], label, (rows, ()), (0, keys.max()),
                    view=view, names=("", "word of the sentence"), size=3,
                )
            figures[f"{prefix}_b{i}_h{head}"] = figure
    return figures


def attention_overview(weights: np.ndarray, over_cells: bool, view: BoardView):
    """Log of attention (L, H, T, keys) over its row's maximum, heads downwards and blocks across."""
    (L, H), side = weights.shape[:2], len(view.board)
    relative = weights / weights.max(-1, keepdims=True)
    tiny = np.finfo(weights.dtype).tiny  # a weight that underflowed to 0 has a finite logarithm
    logs = np.log(np.maximum(relative, tiny)).swapaxes(0, 1)  # (H, L, T, keys)
    titles = [[f"block {i}, head {j}" for i in range(L)] for j in range(H)]
    columns, names = (), ("query, by row of the board", "word of the sentence")
    if over_cells:
        logs = tiled(logs.reshape(H, L, side, side, side, side))
        columns, names = rows_of(side), ("row of the query", "column of the query")
    return plot_panels(
        logs, titles, "log(attention / its maximum over keys)", (rows_of(side), columns), (-6, 0), "cividis",
        view=view, names=names, size=3.2, extend="min",
    )


def attention_variance(
    weights: Sequence[np.ndarray], prefix: str, over_cells: bool, queries: Queries
) -> dict:
    """{prefix}Var_b{i}_h{j}: variance over boards of attention weights, for each block (n, H, T, keys)."""
    maps = np.stack([of_block[:, :, queries.tokens].var(0) for of_block in weights])  # (L, H, Q, keys)
    return query_figures(maps, range(maps.shape[1]), f"{prefix}Var", over_cells, queries, "variance")


def matched_cells(focus: np.ndarray) -> np.ndarray:
    """The cells (n, s * s) that masks (n, h, w) mark, in reading order. ValueError for fewer than two boards,
    or unless each marks the same square number of cells."""
    n, counts = len(focus), focus.sum((1, 2))
    s = math.isqrt(counts[0])
    if n < 2:
        raise ValueError("boards must be at least two to be compared.")
    if (counts != s * s).any() or not s:
        raise ValueError("focus_masks must mark the same square number of cells on every board.")
    return np.nonzero(focus.reshape(n, -1))[1].reshape(n, s * s)


def distances_across_boards(acts, names: list[list[str]], cells: np.ndarray) -> dict:
    """embeddings_z_acrossBoards: the mean over pairs of boards of the distance between their unit-norm
    activations at cells (n, s * s), laid out as s x s."""
    n, s = len(cells), math.isqrt(cells.shape[1])
    at = cells[:, :, None]
    picked = [np.take_along_axis(acts[name], at, axis=1) for name in sum(names, [])]  # each (n, s * s, D)
    tokens = np.concatenate(picked, axis=1).swapaxes(0, 1)
    pairs = n * (n - 1) / 2
    spread = np.array([dist_unit(token).sum() for token in tokens]) / pairs  # n x n distances at a time
    return {
        "embeddings_z_acrossBoards": plot_panels(
            spread.reshape(len(names), -1, s, s), names, "mean unit-norm distance between boards",
            scale="shared", cmap="magma",
        )
    }


def with_defaults(name: str, values: dict | None, **defaults) -> dict:
    """defaults, with values in their place; TypeError for no dict, ValueError for an unknown key."""
    if not isinstance(values, (dict, type(None))):
        raise TypeError(f"{name} must be a dict with keys among {', '.join(defaults)}, not {shown(values)}.")
    for key in values or {}:
        if key not in defaults:
            raise ValueError(f"{name} has no key {key!r}; there are {', '.join(defaults)}.")
    return defaults | (values or {})
