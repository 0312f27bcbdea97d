"""Pictures of circuits: functions of the rows that the measures return."""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parts.boards.pictures import new_figure
from parts.probing.panels import draw_bar, draw_matrix, panel_figure, plot_panels


def plot_lens(rows: Sequence[dict]):
    """Accuracy on hidden cells over stages, a curve with its interval per board type."""
    figure, axes = new_figure(size=(7, 4))
    places = list(dict.fromkeys(row["place"] for row in rows))
    for name in dict.fromkeys(row["type"] for row in rows):
        here = [row for row in rows if row["type"] == name]
        middle, low, high = (np.array([row[f"hidden{end}"] for row in here]) for end in ("", " low", " high"))
        [line] = axes[0, 0].plot(middle, marker="o", markersize=3, label=name)
        axes[0, 0].fill_between(range(len(here)), low, high, alpha=0.15, color=line.get_color())
    axes[0, 0].set_xticks(range(len(places)), places, rotation=45, ha="right", fontsize=7)
    axes[0, 0].set(ylabel="accuracy on hidden cells", ylim=(0, 1))
    axes[0, 0].legend(fontsize=7)
    return figure


def plot_patch(rows: Sequence[dict]):
    """`recovered` as a board per activation if rows are of cells, else as bars with intervals."""
    if "cell" not in rows[0]:
        return bars(rows, "recovered")
    places = list(dict.fromkeys(row["place"] for row in rows))
    maps = np.array([row["recovered"] for row in rows]).reshape(len(places), -1)
    side, columns = math.isqrt(maps.shape[1]), min(len(places), 5)
    blank = -len(places) % columns  # panels that fill the last row of the figure
    maps = np.pad(maps, ((0, blank), (0, 0)), constant_values=np.nan)
    grid = np.array([*places, *[""] * blank]).reshape(-1, columns)
    limit = max(np.nanmax(abs(maps)) if np.isfinite(maps).any() else 1, 1e-6)
    return plot_panels(maps.reshape(-1, columns, side, side), grid, "recovered", scale=(-limit, limit),
                       cmap="RdBu_r", names=("row", "column"))


def bars(rows: Sequence[dict], value: str = "lost"):
    """A column of rows, a bar with its interval per activation or head; by default the accuracy lost."""
    names = [row["place"] + (f" head {row['head']}" if "head" in row else "") for row in rows]
    figure, axes = new_figure(size=(6, 1 + 0.22 * len(rows)))
    middle, low, high = (np.array([row[f"{value}{end}"] for row in rows]) for end in ("", " low", " high"))
    error = np.nan_to_num(np.maximum([middle - low, high - middle], 0))
    axes[0, 0].barh(range(len(rows)), middle, xerr=error, color="#56B4E9", error_kw={"linewidth": 0.8})
    axes[0, 0].set_yticks(range(len(rows)), names, fontsize=7)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_xlabel(value)
    return figure


def plot_paths(rows: Sequence[dict]):
    """A matrix of `recovered`, senders down and receivers across; white if there is no such path."""
    senders = [name for name in dict.fromkeys(row["sender"] for row in rows) if name != "all"] + ["all"]
    receivers = list(dict.fromkeys(row["receiver"] for row in rows))
    values = np.full((len(senders), len(receivers)), np.nan)
    for row in rows:
        values[senders.index(row["sender"]), receivers.index(row["receiver"])] = row["recovered"]
    figure, axes = panel_figure(1, 1, 6, left=0.9, bottom=1)
    groups = [[(name, 1) for name in names] for names in (senders, receivers)]
    image = draw_matrix(axes[0, 0], values, groups, (-1, 1), "RdBu_r", "recovered", ("sender", "receiver"))
    axes[0, 0].tick_params(axis="x", labelrotation=90)
    draw_bar(image, axes[0, 0], "recovered", extend="both")
    return figure


def plot_attribution(rows: Sequence[dict]):
    """The first-order estimate over the exact value, a panel per activation, a dot per cell."""
    places = list(dict.fromkeys(row["place"] for row in rows))
    columns = min(len(places), 5)
    count = -(-len(places) // columns)
    figure, axes = new_figure(count, columns, (2.4 * columns, 2.4 * count))
    for ax in axes.flat[len(places) :]:
        ax.remove()
    for ax, place in zip(axes.flat, places, strict=False):
        here = [row for row in rows if row["place"] == place]
        ax.scatter([row["recovered"] for row in here], [row["estimate"] for row in here], s=5)
        ax.axline((0, 0), slope=1, color="0.7", linewidth=0.8)
        ax.set_title(f"{place}\nrank correlation {here[0]['rank correlation']:.2f}", fontsize=7)
        ax.tick_params(labelsize=6)
    figure.supxlabel("exact", fontsize=8)
    figure.supylabel("estimate", fontsize=8)
    return figure
