"""Figures of the claims' tables."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parts.boards.pictures import new_figure
from parts.probing.panels import OBJECT_COLORS
from studies.claims.scores import Row, interval

INKS = [OBJECT_COLORS[i] for i in (4, 5, 2, 3, 7, 0, 1)]
MARKERS = "so^D*vP"  # of runs
LINES = ("-", "--", ":", "-.", (0, (1, 3)), "-", "--")  # of sources


def plot_rows(rows: Sequence[Row], label: str):
    """A line per feature: the effect of each run with its interval, its controls, its upper bound. Features
    that count are marked by whether they are supported in every run. label: of the effect."""
    features, runs = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("feature", "run"))
    marks = {run: (marker, ink) for run, marker, ink in zip(runs, MARKERS, INKS, strict=False)}
    step = min(0.24, 0.7 / len(runs))
    figure, axes = new_figure(1, 1, (9, 1.4 + 0.34 * len(features)))
    ax = axes[0, 0]
    for row in rows:
        y = features.index(row.feature) + (runs.index(row.run) - (len(runs) - 1) / 2) * step
        _draw_row(ax, row, y, *marks[row.run])
    signs = {row.feature: "✓ " if row.counts else "" for row in rows}
    signs |= {row.feature: "✗ " for row in rows if row.counts and not row.supported}
    ax.set_yticks(range(len(features)), [signs[feature] + feature for feature in features], fontsize=8)
    ax.set(xlabel=label, ylim=(len(features) - 0.4, -0.6))
    ax.grid(axis="x", alpha=0.3)
    for run, (marker, ink) in marks.items():
        ax.plot([], [], marker, color=ink, label=run)
    if any(row.strongest for row in rows):
        ax.plot([], [], "o", color="black", markerfacecolor="none", label="strongest control")
        ax.plot([], [], "o", color="0.7", markerfacecolor="none", label="other controls")
    ax.plot([], [], "|", color="black", markersize=9, markeredgewidth=2, label="upper bound")
    figure.legend(fontsize=8, loc="outside upper center", ncols=6)
    return figure


def _draw_row(ax, row: Row, y: float, marker: str, ink) -> None:
    """A row's controls, upper bound and effect at height y."""
    for name, control in row.controls.items():
        color, size, order = ("black", 4.5, 4) if name == row.strongest else ("0.7", 3.5, 2)
        ax.plot(control[0], y, "o", color=color, markersize=size, markerfacecolor="none", zorder=order)
    ax.plot([row.upper] * 2, [y - 0.1, y + 0.1], color="black", linewidth=2, zorder=2)
    effect, (low, high) = row.effect[0], interval(row.effect)
    error = np.abs([[effect - low], [high - effect]])
    ax.errorbar(effect, y, xerr=error, fmt=marker, color=ink, markersize=5, zorder=3)


def plot_stages(curves: Sequence[dict], label: str):
    """Values by stage with their intervals; label: of the values.

    curves: rows with run, cells (a line of panels each), label (a column each), source (a colour each),
    stage, 'value', 'value low', 'value high'.
    """
    kinds, labels, sources = (list(dict.fromkeys(row[name] for row in curves))
                              for name in ("cells", "label", "source"))
    inks = {name: (ink, line) for name, ink, line in zip(sources, INKS, LINES, strict=False)}
    groups: dict[tuple, list] = {}
    for row in curves:
        groups.setdefault((row["cells"], row["label"], row["source"], row["run"]), []).append(row)
    width = 2 if len(labels) > 3 else 4
    size = (width * len(labels) + 1, 2.6 * len(kinds) + 0.6)
    figure, axes = new_figure(len(kinds), len(labels), size, sharex=True, sharey=True)
    handles = {}
    for (kind, name, source, _), rows in groups.items():
        handles[source] = _draw_curve(axes[kinds.index(kind), labels.index(name)], rows, *inks[source])
    for (i, j), ax in np.ndenumerate(axes):
        ax.grid(alpha=0.3)
        ax.axhline(0, color="0.6", linewidth=0.8)
        ax.set_title(labels[j] if i == 0 else "", fontsize=9)
        ax.set_ylabel(f"{label},\n{kinds[i]}" if j == 0 else "", fontsize=8)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _draw_curve(ax, rows: Sequence[dict], ink, line):
    """The values of a stage each with intervals, or a level line of a single row; returns the curve."""
    value, low, high = ([row[name] for row in rows] for name in ("value", "value low", "value high"))
    if len(rows) == 1:
        return ax.axhline(value[0], color=ink, linestyle=line, linewidth=1.2)
    curve = ax.plot(value, linestyle=line, color=ink, marker=".", linewidth=1.2)[0]
    ax.fill_between(range(len(rows)), low, high, color=ink, alpha=0.12)
    ax.set_xticks(range(len(rows)), [row["stage"] for row in rows], rotation=90, fontsize=7)
    return curve
