"""Figures as functions of arrays: panels of matrices, maps laid out as the board, curves, reconstructions.

Axis letters: R x C panels of a figure, n boards, h x w cells of a board, T = h * w tokens, Q queries, S words
of a sentence, K words of the codebook, V tokens of the vocabulary.
"""
from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from einops import rearrange

from parts.boards.pictures import blank_figure, draw_board, token_colors
from utils import dist, dist_cosine, dist_unit, in_notebook

# of Okabe and Ito, told apart by colour-blind readers
OBJECT_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#000000")


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Inside, figures are drawn with matplotlib's default settings, whatever a matplotlibrc says: a missing
    font or TeX must not end a training."""
    from matplotlib import style

    with style.context("default"):
        yield


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


def object_colors(labels) -> np.ndarray:
    """RGBA (..., 4) of labels (...): a colour for each label >= 0, transparent at -1."""
    from matplotlib.colors import to_rgba_array

    labels = np.asarray(labels)
    rank = np.searchsorted(np.unique(labels[labels >= 0]), labels)
    return np.where((labels >= 0)[..., None], to_rgba_array(OBJECT_COLORS)[rank % len(OBJECT_COLORS)], 0)


def outline(ax, inside, color) -> None:
    """Draws a line around the cells of a board where inside (h, w) is true."""
    padded = np.pad(np.asarray(inside, bool), 1)
    # a line runs wherever neighbours differ, so objects of any shape are outlined
    i, j = np.nonzero(padded[1:] != padded[:-1])
    ax.hlines(i - 0.5, j - 1.5, j - 0.5, color=color, linewidth=2, clip_on=False, zorder=3)
    i, j = np.nonzero(padded[:, 1:] != padded[:, :-1])
    ax.vlines(j - 0.5, i - 1.5, i - 0.5, color=color, linewidth=2, clip_on=False, zorder=3)


@dataclasses.dataclass
class BoardView:
    """A board (h, w) as the panel left of other panels: a colour for each token, numbers and an outline in
    the object's colour where objects (h, w) >= 0, hatching where mask (h, w) is 1. colors: RGBA (V, 4) of the
    tokens."""

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
    """(Figure, axes (rows, columns)) of square panels, `size` inches wide and `gap` inches apart, with room
    for titles, labels and a colour bar, and the board of `view` at the left."""
    # placed by arithmetic: matplotlib's layout takes seconds for that many panels
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
    """Maps (..., h, w, a, b), one for each cell of a board, laid out as the board: (..., h * a, w * b)."""
    return rearrange(maps, "... h w a b -> ... (h a) (w b)")


def draw_matrix(ax, values, groups=((), ()), limits=(None, None), cmap="viridis", title="", names=("", "")):
    """Draws a matrix with lines between groups [(name, size), ...] of rows and of columns; returns the image.
    names: labels of the two axes; None also leaves out the names of the groups."""
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
    ax.set_title(title, fontsize=8, y=1)  # with y given, matplotlib does not search for one
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
    bar.formatter.set_powerlimits((-2, 4))  # short numbers, which do not reach into the next panel


def plot_panels(values, titles, label, groups=((), ()), scale=None, cmap="viridis", objects=None, view=None,
                names=("", ""), size: float = 2, extend: str = "neither"):
    """Matrices values (R, C, a, b) as titled panels, titles (R, C), with lines between groups of rows and of
    columns.

    scale: None: each panel has its own scale and colour bar; 'shared': one scale over all values; (low,
    high): that scale. objects (T,), -1 is none: only upper triangles are drawn, and below the diagonal the
    pairs of tokens of each object are marked in its colour. view: a BoardView at the left. names: labels of
    rows and columns. size: width of a panel in inches. extend: of the colour bar.
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
    with lines between groups [(name, size), ...] of rows. name: label of the rows."""
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
    """A matrix of distances between k stages for each cell of a board, values (h, w, k, k), upper triangles;
    on the right the mean over cells, with the stages' names. scale: (low, high) of the colours, or None."""
    h, w, k, _ = values.shape
    values = np.where(np.tri(k, k=-1, dtype=bool), np.nan, values)
    figure, axes = panel_figure(1, 2, 5, view, gap=1, bottom=0.9)
    cells = [[(str(i), k) for i in range(n)] for n in (h, w)]
    limits = scale or (0, np.nanmax(values))
    draw_matrix(axes[0, 0], tiled(values), cells, limits, "magma",
                "stages by stages of each token, laid out as the board",
                ("row of the token", "column of the token"))
    stages = [(name, 1) for name in names]
    mean = values.mean((0, 1))
    image = draw_matrix(axes[0, 1], mean, (stages, stages), limits, "magma", "mean over tokens")
    axes[0, 1].tick_params(axis="x", labelrotation=90)
    draw_bar(image, axes[0, 1], label)
    return figure


def plot_queries(maps, cells, names, label, title="", view=None):
    """A map for each query, maps (Q, h, w), on one scale from 0; its own cell, cells (Q, 2), is outlined."""
    columns = min(len(maps), 5)
    figure, axes = panel_figure(-(-len(maps) // columns), columns, 2, view, left=0.1, bottom=0)
    figure.suptitle(title, fontsize=9, y=0.98)
    for ax in axes.flat[len(maps):]:
        ax.remove()
    for ax, values, (i, j), name in zip(axes.flat, maps, cells, names, strict=False):
        image = draw_matrix(ax, values, limits=(0, np.max(maps)), title=f"query {name}")
        right, down = np.array([-0.4, 0.4, 0.4, -0.4, -0.4]), np.array([-0.4, -0.4, 0.4, 0.4, -0.4])
        ax.plot(j + right, i + down, "#D55E00")  # a square around the cell
    draw_bar(image, axes[0, -1], label)
    return figure


def plot_curves(log: dict[str, np.ndarray], panels: Sequence[tuple[str, bool, dict[str, str]]]):
    """Curves over epochs; panels: (y label, whether the scale is logarithmic, {curve label: column of log}).
    Values that were not measured (NaN, or -1 without test boards) are left out."""
    # placed by arithmetic, as in `panel_figure`
    width, height = 4.6 * len(panels), 3.6
    figure = blank_figure((width, height))
    places = [(4.6 * j + 0.65, 0.5) for j in range(len(panels))]
    axes = [figure.add_axes((x / width, y / height, 3.85 / width, 3 / height)) for x, y in places]
    for ax, (label, logarithmic, curves) in zip(axes, panels, strict=True):
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


def board_sheet(rows: int, titles: Sequence[str], side: int, size: float = 2):
    """(Figure, Axes, corners (rows, columns, 2)) of a sheet of boards, each `size` inches wide, below titles.
    One Axes holds them all, in units of cells, at these corners: sixty Axes take a second."""
    width, height = 1.25 + len(titles) * (size + 0.14), 0.7 + rows * (size + 0.3)
    figure, cell = blank_figure((width, height)), size / side
    x = np.arange(len(titles)) * (size + 0.14) / cell
    y = np.arange(rows) * (size + 0.3) / cell
    left, top = np.array([-0.5, -0.5]) / cell - 0.5
    ax = figure.add_axes((0, 0, 1, 1), xlim=(left, left + width / cell), ylim=(top + height / cell, top))
    ax.axis("off")
    corners = np.stack(np.meshgrid(x, y), -1)
    for start, title in zip(x, titles, strict=True):
        ax.text(start + side / 2 - 0.5, -0.5 - 6 / 72 / cell, title, fontsize=9, ha="center")
    return figure, ax, corners


def plot_reconstructions(boards, recons: dict[str, np.ndarray], masks, n_background: int, n_token: int):
    """Masked board, reconstructions and truth, one board a row; hidden cells hatched, mistakes crossed out.

    boards, masks (n, h, w); recons {title: (n, h, w)}. n_background, n_token: number of background and of
    object tokens; the token after them is UNK.
    """
    titles = ["masked board", *recons, "truth"]
    figure, ax, corners = board_sheet(len(boards), titles, boards.shape[-1])
    colors, unk = token_colors(n_background, n_token), n_background + n_token
    for i, (first, *between, last) in enumerate(corners):
        objects = boards[i] >= n_background
        masked = np.where(masks[i], unk, boards[i])
        draw_board(ax, masked, colors, objects & (masks[i] == 0), masks[i], font=6, at=first)
        for at, recon in zip(between, recons.values(), strict=True):
            draw_board(ax, recon[i], colors, recon[i] >= n_background, None, recon[i] != boards[i], 6, at)
        draw_board(ax, boards[i], colors, objects, font=6, at=last)
    return figure


def plot_sentences(boards, rebuilt, sentences, n_background: int, n_token: int):
    """Boards (n, h, w), their sentences (n, S), each word below the number of its place, and the boards
    (n, h, w) rebuilt from the sentences alone, one board a row; mistakes crossed out."""
    side = boards.shape[-1]
    figure, ax, corners = board_sheet(len(boards), ("board", "words", "from the words alone"), side)
    colors = token_colors(n_background, n_token)
    for corner, board, words, answer in zip(corners, boards, sentences, rebuilt, strict=True):
        every = np.ones_like(board)  # backgrounds too: their greys look alike
        draw_board(ax, board, colors, every, font=6, at=corner[0])
        draw_board(ax, answer, colors, every, None, answer != board, 6, corner[2])
        cells = [["place", *range(len(words))], ["word", *words]]
        rows = [[row[0], *row[start : start + 8]] for start in range(1, len(words) + 1, 8) for row in cells]
        lines = [f"{head:5}" + "".join(f"{number:4d}" for number in row) for head, *row in rows]
        ax.text(*(corner[1] + (side - 1) / 2), "\n".join(lines), ha="center", va="center", family="monospace",
                fontsize=6)
    return figure


def plot_codebook(sentences, n_words: int):
    """How often each of n_words words stands at each place of sentences (n, S); words ordered by use."""
    used = np.eye(n_words)[sentences].mean(0)  # (S, K)
    order = np.argsort(-used.sum(0), kind="stable")
    figure = blank_figure((9, 5))
    bottom = figure.add_axes((0.08, 0.1, 0.79, 0.5))
    top = figure.add_axes((0.08, 0.64, 0.79, 0.29), sharex=bottom)
    top.tick_params(labelbottom=False)
    beside = figure.add_axes((0.89, 0.1, 0.02, 0.5))
    top.stairs(used.sum(0)[order], np.arange(len(order) + 1) - 0.5, fill=True)
    top.set(ylabel="times in a sentence", title="use of the words, unmasked boards")
    image = bottom.imshow(
        used[:, order], aspect="auto", cmap="viridis", vmin=0, interpolation="nearest", origin="upper"
    )
    bottom.set(xlabel="word, by use", ylabel="place in the sentence")
    figure.colorbar(image, cax=beside, label="share of boards")
    return figure
