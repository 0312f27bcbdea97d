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


def draw_board(ax, board, colors, numbers=None, mask=None, wrong=None, font: float = 8,
               at: tuple[float, float] = (0, 0)) -> None:
    """Draws a board (h, w) of tokens: a colour for each token, its number where `numbers` (h, w) is true,
    hatching where `mask` (h, w) is 1, a cross where `wrong` (h, w) is true. colors: RGBA (V, 4); font: size
    of the numbers in points; at: x and y of its first cell."""
    from matplotlib.collections import LineCollection, PathCollection
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import IdentityTransform

    board = np.asarray(board)
    (h, w), (x, y) = board.shape, at
    ax.imshow(np.asarray(colors)[board], interpolation="nearest", origin="upper",
              extent=(x - 0.5, x + w - 0.5, y + h - 0.5, y - 0.5))
    ax.set(xticks=[], yticks=[])
    ax.hlines(y + np.arange(1, h) - 0.5, x - 0.5, x + w - 0.5, color="white", linewidth=0.6)
    ax.vlines(x + np.arange(1, w) - 0.5, y - 0.5, y + h - 0.5, color="white", linewidth=0.6)
    if not ax.axison:  # a sheet of boards; else the axes have a frame
        ax.hlines([y - 0.5, y + h - 0.5], x - 0.5, x + w - 0.5, color="black", linewidth=0.8, zorder=2.5)
        ax.vlines([x - 0.5, x + w - 0.5], y - 0.5, y + h - 0.5, color="black", linewidth=0.8, zorder=2.5)
    i, j = np.nonzero(np.zeros((h, w)) if numbers is None else np.asarray(numbers))
    if len(i):
        # black on light tokens, white on dark ones, by luma
        light = np.asarray(colors)[board[i, j], :3] @ (0.3, 0.59, 0.11) > 0.55
        shapes = [number_shape(int(token)) for token in board[i, j]]  # texts are laid out one by one, slowly
        ax.add_collection(PathCollection(
            shapes, sizes=[font**2], offsets=np.stack([x + j, y + i], 1), offset_transform=ax.transData,
            transform=IdentityTransform(), facecolors=np.where(light, "black", "white"), linewidths=0),
            autolim=False)
    hidden = np.argwhere(np.zeros((h, w)) if mask is None else np.asarray(mask))
    if len(hidden):
        square = Outline.unit_rectangle()  # one path for all hidden cells: hatching many patches is slow
        corners = hidden[:, ::-1] + np.array([x, y]) - 0.5
        shape = Outline.make_compound_path(*(Outline(square.vertices + corner, square.codes)
                                             for corner in corners))
        ax.add_patch(PathPatch(shape, facecolor=(0, 0, 0, 0.25), hatch="////", edgecolor=(1, 1, 1, 0.6),
                               linewidth=0))
    i, j = np.nonzero(np.zeros((h, w)) if wrong is None else np.asarray(wrong))
    if len(i):
        i, j = y + i, x + j
        ends = [np.stack([[j - 0.35, i - 0.35 * way], [j + 0.35, i + 0.35 * way]]) for way in (1, -1)]
        crosses = rearrange(ends, "way end xy n -> (n way) end xy")
        rim = [withStroke(linewidth=3, foreground="white")]  # to be seen on red tokens
        ax.add_collection(LineCollection(crosses, color="crimson", linewidth=1.5, path_effects=rim))


@functools.cache
def number_shape(number: int):
    """The outline of a number's digits, 1 high and centred as a line of text."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    font = FontProperties("DejaVu Sans")  # comes with matplotlib
    digits, line = (TextPath((0, 0), text, size=1, prop=font) for text in (str(number), "lp"))
    x, y = digits.get_extents(), line.get_extents()  # the box of a line has room for l and p
    return digits.transformed(Affine2D().translate(-(x.x0 + x.x1) / 2, -(y.y0 + y.y1) / 2))


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
