"""Pictures as functions of arrays: boards, panels of matrices, curves."""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from einops import rearrange

from utils import dist, dist_cosine, dist_unit, in_notebook

# of Okabe and Ito, told apart by colour-blind readers
OBJECT_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#000000")


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6, 4), **kwargs):
    """(Figure, axes (rows, columns)) that needs no display and is on nobody's list of open figures."""
    figure = blank_figure(size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def blank_figure(size: tuple[float, float], **kwargs):
    """A Figure of size inches that a notebook shows as a picture when a cell ends in it, also without
    %matplotlib inline."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, **kwargs)
    figure._repr_png_ = functools.partial(png_of, figure)
    return figure


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Inside, pictures are drawn with matplotlib's own settings, whatever a matplotlibrc says: a font or a
    TeX that is missing must not end a training."""
    from matplotlib import style

    with style.context("default"):
        yield


def png_of(figure) -> bytes:
    """A figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def save_figure(figure, path: str | Path, dpi: int = 150):
    """Writes a figure to path, making missing folders, and returns it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    return figure


def show_figure(figure) -> None:
    """Shows a figure in a notebook; nothing elsewhere."""
    if in_notebook():
        from IPython.display import display

        display(figure)


def token_colors(n_background: int, n_token: int) -> np.ndarray:
    """RGBA (V, 4): backgrounds in pale greys, object tokens in strong colours, UNK black."""
    from matplotlib import colormaps

    greys = np.tile(np.linspace(0.95, 0.72, n_background)[:, None], (1, 3))
    greys[:, 2] += 0.04  # a cool tint keeps backgrounds apart from white paper
    strong = colormaps["turbo"](np.linspace(0.06, 0.94, n_token))[:, :3]
    rgb = np.concatenate([greys, strong, [[0.1, 0.1, 0.1]]])
    return np.clip(np.concatenate([rgb, np.ones((len(rgb), 1))], axis=1), 0, 1)


def draw_board(ax, board, colors, numbers=None, mask=None, wrong=None, font: float = 8) -> None:
    """Draws a board (h, w) of tokens: a colour a token, a number where `numbers` (h, w) is true, hatched
    where `mask` is 1, a cross where `wrong` is true."""
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
        light = np.dot(colors[board[i, j]][:3], (0.3, 0.59, 0.11)) > 0.55
        ax.text(
            j,
            i,
            str(board[i, j]),
            ha="center",
            va="center",
            fontsize=font,
            color="black" if light else "white",
        )
    hidden = np.argwhere(np.zeros((h, w)) if mask is None else np.asarray(mask))
    if len(hidden):
        square = Outline.unit_rectangle()
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


def object_colors(labels) -> np.ndarray:
    """RGBA (..., 4) of labels (...), told apart by colour-blind readers: a colour for each label >= 0, clear
    at -1."""
    from matplotlib.colors import to_rgba_array

    labels = np.asarray(labels)
    rank = np.searchsorted(np.unique(labels[labels >= 0]), labels)
    return np.where((labels >= 0)[..., None], to_rgba_array(OBJECT_COLORS)[rank % len(OBJECT_COLORS)], 0)


def outline(ax, inside, color) -> None:
    """Draws a line around the cells of a board where inside (h, w) is true."""
    padded = np.pad(np.asarray(inside, bool), 1)
    i, j = np.nonzero(padded[1:] != padded[:-1])
    ax.hlines(i - 0.5, j - 1.5, j - 0.5, color=color, linewidth=2, clip_on=False, zorder=3)
    i, j = np.nonzero(padded[:, 1:] != padded[:, :-1])
    ax.vlines(j - 0.5, i - 1.5, i - 0.5, color=color, linewidth=2, clip_on=False, zorder=3)


@dataclasses.dataclass
class BoardView:
    """A board (h, w) as the panel beside other pictures: tokens by colour; those of objects (h, w; -1 is
    none) numbered and outlined in their object's colour; cells hidden by mask (h, w) hatched. colors: RGBA
    (V, 4) of the tokens."""

    board: np.ndarray
    objects: np.ndarray
    mask: np.ndarray
    colors: np.ndarray

    def draw(self, ax) -> None:
        """Draws it into ax."""
        draw_board(ax, self.board, self.colors, self.objects >= 0, self.mask, font=56 / len(self.board))
        for label in np.unique(self.objects[self.objects >= 0]):
            color = object_colors(self.objects)[self.objects == label][0]
            outline(ax, self.objects == label, color)
        ax.set_title("board (hatched: hidden)" if self.mask.any() else "board", fontsize=8, y=1)


def panel_figure(rows: int, columns: int, size: float, view: BoardView | None = None, gap: float = 0.14,
                 left: float = 0.5, bottom: float = 0.45):
    """(Figure, axes (rows, columns)) of square panels, `size` inches wide and gap apart, with room for
    titles, labels and a colour bar, and a board at the left. Placed by arithmetic: matplotlib takes seconds
    to lay out that many panels."""
    left += 2.2 * (view is not None)
    width, height = left + columns * (size + gap) + 0.75, rows * (size + 0.3) + bottom + 0.25
    figure = blank_figure((width, height))

    def place(x, top, size):
        return figure.add_axes((x / width, (height - top - size) / height, size / width, size / height))

    axes = [
        [place(left + j * (size + gap), 0.5 + i * (size + 0.3), size) for j in range(columns)]
        for i in range(rows)
    ]
    if view is not None:
        view.draw(place(0.08, 0.5, min(size, 2)))
    return figure, np.array(axes)


def mirrored(upper: np.ndarray) -> np.ndarray:
    """Symmetric matrices (..., n, n) from their upper triangles."""
    return upper + np.triu(upper, 1).swapaxes(-1, -2)


def tiled(maps: np.ndarray) -> np.ndarray:
    """Maps (..., h, w, a, b), one for each cell of a board, laid out as that board: (..., h * a, w * b)."""
    return rearrange(maps, "... h w a b -> ... (h a) (w b)")


def draw_matrix(ax, values, groups=((), ()), limits=(None, None), cmap="viridis", title="", names=("", "")):
    """Draws a matrix with lines between groups [(name, size), ...] of rows and of columns; returns the image.
    names: what rows and columns are, None leaves the groups' names out."""
    image = ax.imshow(
        values, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest", aspect="auto",
        origin="upper",
    )
    sides = (ax.yaxis, ax.hlines, values.shape[1]), (ax.xaxis, ax.vlines, values.shape[0])
    for (axis, lines, length), group, name in zip(sides, groups, names, strict=True):
        ends = np.cumsum([0, *(size for _, size in group)])
        if len(ends) > 2:
            lines(ends[1:-1] - 0.5, -0.5, length - 0.5, color="0.8", linewidth=0.5)
        shown = [] if name is None else (ends[1:] + ends[:-1] - 1) / 2
        axis.set_ticks(shown, labels=[label for label, _ in group][: len(shown)], fontsize=6)
        axis.set_label_text(name or "", fontsize=7)
    ax.tick_params(length=0, pad=2)
    ax.set_title(title, fontsize=8, y=1)  # a given y spares matplotlib the search for one
    return image


def draw_bar(image, ax, label: str, height: float = 1, extend: str = "neither") -> None:
    """The colour bar of an image, right of ax, `height` times as high."""
    from matplotlib.ticker import MaxNLocator

    box, inch = ax.get_position(), 1 / image.figure.get_figwidth()
    place = (box.x1 + 0.07 * inch, box.y0, 0.1 * inch, height * box.height)
    ticks = MaxNLocator(5 * round(height), steps=[1, 2, 2.5, 5, 10])
    bar = image.figure.colorbar(image, cax=image.figure.add_axes(place), extend=extend, ticks=ticks)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6, length=2, pad=1)
    bar.ax.yaxis.get_offset_text().set_fontsize(6)
    bar.formatter.set_powerlimits((-2, 4))  # short numbers, which leave the next panel alone


def plot_panels(values, titles, label, groups=((), ()), scale=None, cmap="viridis", objects=None, view=None,
                names=("", ""), size: float = 2, extend: str = "neither"):
    """Matrices values (R, C, a, b) as titled panels, titles (R, C), with lines between groups of rows and of
    columns.

    scale: None gives each panel its own and a colour bar, 'shared' one over all values, (low, high) that one.
    objects (T,): only upper triangles are drawn, and below them the pairs of tokens of an object are marked
    in its colour. view: a BoardView at the left. names: what rows and columns are. size: of a panel, in
    inches. extend: of the colour bar.
    """
    values = np.asarray(values)
    R, C, a, _ = values.shape
    figure, axes = panel_figure(R, C, size, view, gap=0.6 if scale is None else 0.14)
    if objects is not None:
        below = np.tri(a, k=-1, dtype=bool)
        values = np.where(below, np.nan, values)
        marks = object_colors(np.where(below & (objects[:, None] == objects), objects, -1))
    limits = (np.nanmin(values), np.nanmax(values)) if scale == "shared" else scale or (None, None)
    for i, j in np.ndindex(R, C):
        shown = (names[0] if j == 0 else None, names[1] if i == R - 1 else None)
        image = draw_matrix(axes[i, j], values[i, j], groups, limits, cmap, titles[i][j], shown)
        if objects is not None:
            axes[i, j].imshow(marks, interpolation="nearest", aspect="auto", origin="upper")
        if scale is None:
            draw_bar(image, axes[i, j], label if j == C - 1 else "")
    if scale is not None:
        draw_bar(image, axes[-1, -1], label, R + 0.3 * (R - 1) / size, extend)
    return figure


def plot_table(table, groups, title, name):
    """An embedding table (n, d) beside the Euclidean, unit-norm Euclidean and cosine matrices of its rows,
    with lines between groups [(name, size), ...] of rows. name: what rows are."""
    figure, axes = panel_figure(1, 4, 2.3, gap=0.65)
    panels = [(title, table, "viridis", (None, None)),
              ("Euclidean distance", mirrored(dist(table)), "magma", (0, None)),
              ("unit-norm Euclidean distance", mirrored(dist_unit(table)), "magma", (0, 2)),
              ("cosine", mirrored(dist_cosine(table)), "cividis", (-1, 1))]
    for ax, (title, values, cmap, limits) in zip(axes[0], panels, strict=True):
        first = ax is axes[0, 0]
        names = (name, "dimension") if first else ("", name)
        image = draw_matrix(ax, values, (groups, () if first else groups), limits, cmap, title, names)
        ax.tick_params(axis="y", labelrotation=90)
        draw_bar(image, ax, "")
    return figure


def plot_across(values, names, label, scale, view):
    """A matrix (S, S) of distances between stages for each cell of a board, values (h, w, S, S), upper
    triangles; on the right the mean over cells, with the stages' names. scale: (low, high) of the colours or
    None."""
    h, w, S, _ = values.shape
    values = np.where(np.tri(S, k=-1, dtype=bool), np.nan, values)
    figure, axes = panel_figure(1, 2, 5, view, gap=1, bottom=0.9)
    cells = [[(str(i), S) for i in range(n)] for n in (h, w)]
    limits = scale or (0, np.nanmax(values))
    draw_matrix(
        axes[0, 0],
        tiled(values),
        cells,
        limits,
        "magma",
        "stages by stages of each token, laid out as the board",
        ("row of the token", "column of the token"),
    )
    stages = [(name, 1) for name in names]
    image = draw_matrix(
        axes[0, 1], values.mean((0, 1)), (stages, stages), limits, "magma", "mean over tokens"
    )
    axes[0, 1].tick_params(axis="x", labelrotation=90)
    draw_bar(image, axes[0, 1], label)
    return figure


def plot_queries(maps, cells, names, label, title="", view=None):
    """A map (h, w) for each query, maps (Q, h, w), on one scale from 0; the query's cell, of cells (Q, 2), is
    outlined."""
    columns = min(len(maps), 5)
    figure, axes = panel_figure(-(-len(maps) // columns), columns, 2, view, left=0.1, bottom=0)
    figure.suptitle(title, fontsize=9, y=0.98)
    for ax in axes.flat[len(maps):]:
        ax.remove()
    for ax, values, (i, j), name in zip(axes.flat, maps, cells, names, strict=False):
        image = draw_matrix(ax, values, limits=(0, np.max(maps)), title=f"query {name}")
        ax.plot(
            [j - 0.4, j + 0.4, j + 0.4, j - 0.4, j - 0.4],
            [i - 0.4, i - 0.4, i + 0.4, i + 0.4, i - 0.4],
            "#D55E00",
        )
    draw_bar(image, axes[0, -1], label)
    return figure


def plot_curves(log: dict[str, np.ndarray], panels: Sequence[tuple[str, bool, dict[str, str]]]):
    """Curves over epochs, a panel each: (y label, logarithmic scale, {curve label: column of log}). Values
    that were not measured (NaN, or -1 without test boards) are left out."""
    figure, axes = new_figure(1, len(panels), (4.6 * len(panels), 3.6))
    for ax, (label, logarithmic, curves) in zip(axes[0], panels, strict=True):
        for name, column in curves.items():
            y = np.asarray(log[column], float)
            shown = np.isfinite(y) & (y >= 0)
            ax.plot(np.asarray(log["epoch"])[shown], y[shown], label=name, linewidth=1.3,
                    marker="o" if shown.sum() < 30 else None, markersize=3)
        ax.set(xlabel="epoch", ylabel=label, yscale="log" if logarithmic else "linear")
        ax.grid(alpha=0.3)
        if len(curves) > 1:
            ax.legend(fontsize=7)
    return figure


def plot_reconstructions(boards, recons: dict[str, np.ndarray], masks, n_background: int, n_token: int):
    """Masked board, reconstructions and truth, a board a row; hidden cells hatched, mistakes crossed out.

    boards, masks (n, h, w); recons {title: (n, h, w)}. n_background, n_token: how many tokens there are of
    each; the one after them is UNK.
    """
    figure, axes = panel_figure(len(boards), len(recons) + 2, 2)
    colors, unk = token_colors(n_background, n_token), n_background + n_token
    for i, row in enumerate(axes):
        objects = boards[i] >= n_background
        masked = np.where(masks[i], unk, boards[i])
        draw_board(row[0], masked, colors, objects & (masks[i] == 0), masks[i], font=6)
        for ax, recon in zip(row[1:], recons.values(), strict=False):
            draw_board(ax, recon[i], colors, recon[i] >= n_background, None, recon[i] != boards[i], 6)
        draw_board(row[-1], boards[i], colors, objects, font=6)
    for ax, title in zip(axes[0], ["masked board", *recons, "truth"], strict=True):
        ax.set_title(title, fontsize=9)
    return figure
