"""Pictures of boards, and figures that need no display.

Axis letters: h x w cells of a board, V tokens of the vocabulary.
"""
from __future__ import annotations

import functools
import io

import numpy as np
from einops import rearrange


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6, 4), **kwargs):
    """(Figure, axes (rows, columns)) that needs no display and is not in pyplot's list of open figures."""
    figure = blank_figure(size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def blank_figure(size: tuple[float, float], **kwargs):
    """A Figure of `size` inches; a notebook shows it as a cell's value, also without %matplotlib inline."""
    from matplotlib.figure import Figure  # in the function: matplotlib is slow to import

    figure = Figure(figsize=size, **kwargs)
    figure._repr_png_ = functools.partial(png_of, figure)  # what IPython asks an object for
    return figure


def png_of(figure) -> bytes:
    """A figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def token_colors(n_background: int, n_token: int) -> np.ndarray:
    """RGBA (V, 4): backgrounds in pale greys, object tokens in strong colours, UNK black."""
    from matplotlib import colormaps

    greys = np.tile(np.linspace(0.95, 0.72, n_background)[:, None], (1, 3))
    greys[:, 2] += 0.04  # a cool tint keeps backgrounds apart from white paper
    strong = colormaps["turbo"](np.linspace(0.06, 0.94, n_token))[:, :3]
    rgb = np.concatenate([greys, strong, [[0.1, 0.1, 0.1]]])
    return np.clip(np.concatenate([rgb, np.ones((len(rgb), 1))], axis=1), 0, 1)


def draw_board(ax, board, colors, numbers=None, mask=None, wrong=None, font: float = 8) -> None:
    """Draws a board (h, w) of tokens: a colour for each token, its number where `numbers` (h, w) is true,
    hatching where `mask` (h, w) is 1, a cross where `wrong` (h, w) is true. colors: RGBA (V, 4); font: size
    of the numbers in points."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline
    from matplotlib.patheffects import withStroke

    board = np.asarray(board)
    h, w = board.shape
    ax.imshow(np.asarray(colors)[board], interpolation="nearest", origin="upper")
    ax.set(xticks=[], yticks=[])
    ax.hlines(np.arange(1, h) - 0.5, -0.5, w - 0.5, color="white", linewidth=0.6)
    ax.vlines(np.arange(1, w) - 0.5, -0.5, h - 0.5, color="white", linewidth=0.6)
    for i, j in np.argwhere(np.zeros((h, w)) if numbers is None else np.asarray(numbers)):
        # black on light tokens, white on dark ones, by luma
        light = np.dot(colors[board[i, j]][:3], (0.3, 0.59, 0.11)) > 0.55
        ax.text(j, i, str(board[i, j]), ha="center", va="center", fontsize=font,
                color="black" if light else "white")
    hidden = np.argwhere(np.zeros((h, w)) if mask is None else np.asarray(mask))
    if len(hidden):
        square = Outline.unit_rectangle()  # one path for all hidden cells: hatching many patches is slow
        shape = Outline.make_compound_path(*(Outline(square.vertices + (j - 0.5, i - 0.5), square.codes)
                                             for i, j in hidden))
        ax.add_patch(PathPatch(shape, facecolor=(0, 0, 0, 0.25), hatch="////", edgecolor=(1, 1, 1, 0.6),
                               linewidth=0))
    i, j = np.nonzero(np.zeros((h, w)) if wrong is None else np.asarray(wrong))
    if len(i):
        ends = [np.stack([[j - 0.35, i - 0.35 * way], [j + 0.35, i + 0.35 * way]]) for way in (1, -1)]
        crosses = rearrange(ends, "way end xy n -> (n way) end xy")
        rim = [withStroke(linewidth=3, foreground="white")]  # to be seen on red tokens
        ax.add_collection(LineCollection(crosses, color="crimson", linewidth=1.5, path_effects=rim))


def draw_boards(boards, colors, numbers, masks, wrong, titles=(), columns: int = 6, size: float = 1.8):
    """A figure of boards (n, h, w) side by side, `columns` in a row, each `size` inches wide. numbers, masks
    and wrong (n, h, w) as in `draw_board`; titles: at most one for each board."""
    n, h, w = boards.shape
    columns = max(min(n, columns), 1)
    rows = max(-(-n // columns), 1)
    height = size * h / w + 0.12 + 0.2 * max([0, *(1 + title.count("\n") for title in titles)])
    figure, axes = new_figure(rows, columns, (columns * (size + 0.12), rows * height))
    for k, ax in enumerate(axes.flat):
        if k < n:
            draw_board(ax, boards[k], colors, numbers[k], masks[k], wrong[k], 28 * size / w)
            ax.set_title(titles[k] if k < len(titles) else "", fontsize=8)
        else:
            ax.remove()
    return figure
