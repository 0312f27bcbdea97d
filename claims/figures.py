"""Pictures of the claims' tables."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from module_figures import OBJECT_COLORS, draw_board, draw_matrix, new_figure

INKS = [OBJECT_COLORS[i] for i in (4, 5, 2, 3, 7, 0, 1)]


def plot_rows(rows: Sequence[dict], label: str):
    """A line a feature: the effect of each run with its interval, its controls, its upper bound. rows: as module_analysis.judge
    makes them, with 'run'; those that count are marked by whether they hold in every run."""
    features, runs = (list(dict.fromkeys(row[name] for row in rows)) for name in ("feature", "run"))
    figure, axes = new_figure(1, 1, (9, 1.4 + 0.34 * len(features)))
    ax, marks = axes[0, 0], dict(zip(runs, zip("so^D*vP", INKS, strict=True), strict=False))
    for row in rows:
        (marker, ink), step = marks[row["run"]], min(0.24, 0.7 / len(runs))
        y = features.index(row["feature"]) + (runs.index(row["run"]) - (len(runs) - 1) / 2) * step
        for name, value in row.items():
            if name.startswith("control: "):
                strongest = name.endswith(f": {row['strongest control']}")
                ax.plot(value, y, "o", color="black" if strongest else "0.7", markersize=4.5 if strongest else 3.5,
                        markerfacecolor="none", zorder=4 if strongest else 2)
        ax.plot([row["upper"]] * 2, [y - 0.1, y + 0.1], color="black", linewidth=2, zorder=2)
        error = np.abs([[row["effect"] - row["effect low"]], [row["effect high"] - row["effect"]]])
        ax.errorbar(row["effect"], y, xerr=error, fmt=marker, color=ink, markersize=5, zorder=3)
    signs = {row["feature"]: "✓ " if row["counts"] else "" for row in rows}
    signs |= {row["feature"]: "✗ " for row in rows if row["counts"] and not row["holds"]}
    ax.set_yticks(range(len(features)), [signs[feature] + feature for feature in features], fontsize=8)
    ax.set(xlabel=label, ylim=(len(features) - 0.4, -0.6))
    ax.grid(axis="x", alpha=0.3)
    for run, (marker, ink) in marks.items():
        ax.plot([], [], marker, color=ink, label=run)
    if any(row["strongest control"] for row in rows):
        ax.plot([], [], "o", color="black", markerfacecolor="none", label="strongest control")
        ax.plot([], [], "o", color="0.7", markerfacecolor="none", label="other controls")
    ax.plot([], [], "|", color="black", markersize=9, markeredgewidth=2, label="upper bound")
    figure.legend(fontsize=8, loc="outside upper center", ncols=6)
    return figure


def plot_stages(curves: Sequence[dict], label: str):
    """Values by stage with their intervals. curves: rows with run, cells (a line of panels each), label (a column each), source
    (a colour each; those named 'epoch ...' of the first run alone), stage, 'value', 'value low', 'value high'."""
    from matplotlib import colormaps

    kinds, labels, runs, sources = (list(dict.fromkeys(row[name] for row in curves))
                                    for name in ("cells", "label", "run", "source"))
    figure, axes = new_figure(len(kinds), len(labels), ((2 if len(labels) > 3 else 4) * len(labels) + 1, 2.6 * len(kinds) + 0.6),
                              sharex=True, sharey=True)
    epochs, handles = [name for name in sources if name.startswith("epoch")], {}
    inks = {name: (ink, line) for name, ink, line in zip(
        (name for name in sources if name not in epochs), INKS, ("-", "--", ":", "-.", (0, (1, 3)), "-", "--"), strict=False)}
    inks |= {name: (colormaps["viridis"](0.9 * i / max(len(epochs) - 1, 1)), "-") for i, name in enumerate(epochs)}
    groups: dict[tuple, list] = {}
    for row in curves:
        if row["source"] not in epochs or row["run"] == runs[0]:
            groups.setdefault((row["cells"], row["label"], row["source"], row["run"]), []).append(row)
    for (kind, name, source, _), here in groups.items():
        ax, (ink, line) = axes[kinds.index(kind), labels.index(name)], inks[source]
        value, low, high = ([row[key] for row in here] for key in ("value", "value low", "value high"))
        if len(here) > 1:
            handles[source] = ax.plot(value, linestyle=line, color=ink, marker=".", linewidth=1.2)[0]
            ax.fill_between(range(len(here)), low, high, color=ink, alpha=0.12)
            ax.set_xticks(range(len(here)), [row["stage"] for row in here], rotation=90, fontsize=7)
        else:
            handles[source] = ax.axhline(value[0], color=ink, linestyle=line, linewidth=1.2)
    for (i, j), ax in np.ndenumerate(axes):
        ax.grid(alpha=0.3)
        ax.axhline(0, color="0.6", linewidth=0.8)
        ax.set_title(labels[j] if i == 0 else "", fontsize=9)
        ax.set_ylabel(f"{label},\n{kinds[i]}" if j == 0 else "", fontsize=8)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def plot_examples(groups: Sequence[Sequence[np.ndarray]], titles: Sequence[str], colors):
    """Groups of boards, each [(h, w), ...], under a title each, two groups side by side. colors: RGBA (V, 4) of the tokens."""
    most, lines = max(map(len, groups)), -(-len(groups) // 2)
    figure, axes = new_figure(lines, 2 * most, (2.2 * most, 1.4 * lines))
    for ax in axes.flat:
        ax.axis("off")
    for line, boards, title in zip(axes.reshape(-1, most), groups, titles, strict=False):
        line[0].set_title(title, fontsize=8, loc="left")
        for ax, board in zip(line, boards, strict=False):
            draw_board(ax, board, colors)
    return figure


def plot_components(stages: dict[str, np.ndarray], **labels):
    """Two principal components of the points X (N, D) of each stage, a column each, a line of panels for each of labels (N,):
    a colour a label, and its number at its mean."""
    from matplotlib import colormaps

    figure, axes = new_figure(len(labels), len(stages), (2.6 * len(stages), 2.8 * len(labels)))
    for column, (stage, X) in zip(axes.T, stages.items(), strict=True):
        X = X - X.mean(0)
        X = X @ np.linalg.svd(X[:: len(X) // 4000 + 1], full_matrices=False)[2][:2].T
        for ax, (name, values) in zip(column, labels.items(), strict=True):
            ax.scatter(*X.T, s=3, c=colormaps["tab10"](values % 10), alpha=0.35, linewidths=0)
            for c in np.unique(values):
                ax.text(*X[values == c].mean(0), str(c), ha="center", va="center", fontsize=7,
                        bbox=dict(boxstyle="circle,pad=0.15", fc="white", ec=colormaps["tab10"](c % 10), lw=1.5))
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{stage}, by {name}", fontsize=9)
    return figure


def plot_shares(shares, names: Sequence[str], across: str, label: str):
    """A matrix of shares 0 ... 1 with the names of its rows and the numbers of its columns, which are `across`."""
    shares = np.asarray(shares)
    figure, axes = new_figure(1, 1, (0.36 * shares.shape[1] + 3, 0.26 * len(shares) + 1.2))
    groups = [(name, 1) for name in names], [(str(j), 1) for j in range(shares.shape[1])]
    image = draw_matrix(axes[0, 0], shares, groups, (0, 1), names=("", across))
    axes[0, 0].tick_params(labelsize=8)
    axes[0, 0].xaxis.label.set_size(8)
    figure.colorbar(image, ax=axes[0, 0]).set_label(label, fontsize=8)
    return figure
