"""What the paper (arXiv 2312.05361) claims of such networks, measured on trained runs, with controls, and judged.

    python module_analysis.py runs/<run> [more runs = seeds] [--lea runs/<lea_run>] [--quick]

writes runs/<run>/analysis/: a CSV a table, a PNG a figure and report.md. The measurements, in module_analysis_measures,
_swaps and _language, are this project's operational definitions of what the abstract claims, not reproductions of the
paper's figures. The rules of judgement, `judge` and `verdict`, were fixed before any number was seen.
"""
from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

import module_train_probe
import module_train_probe_lea
from module_analysis_language import language
from module_analysis_measures import (
    DRAWS,
    KNOWN,
    Network,
    Sample,
    Scenes,
    ceiling,
    conditions_of,
    convergence,
    decodability,
    generalisation,
    input_features,
    interval,
    make_sample,
    nearness,
    object_cells,
    resample,
    unit,
    verdict,
)
from module_analysis_swaps import class_means, composition, root_swaps, swap_rows
from module_dataset import TYPES, AbstractionDataset
from utils import atomic_write, draw_board, new_figure, numpy_rng, progress_bar, read_json, save_figure, token_colors

INKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")  # told apart by colour-blind eyes
TEN = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000")

SIZES = {  # of the full analysis and of a look
    False: dict(n_fit=1500, n_valid=300, n_test=60, rounds=4, masks=20, count=200, draws=DRAWS, words=10_000),
    True: dict(n_fit=450, n_valid=90, n_test=15, rounds=2, masks=5, count=60, draws=200, words=1500),
}
CLAIMS = {  # claim: (the table its rows are in, the figure, what it says)
    "encodes every feature": ("decodability", "decodability.png",
                              "abstractions that encode all semantic features of the data"),
    "abstract": ("generalisation", "generalisation.png",
                 "what is encoded is abstract: read-outs carry over to unseen contexts"),
    "converges transiently": ("convergence", "convergence.png", "embeddings of semantically related tokens transiently "
                              "converge on low-dimensional manifolds"),
    "drives decisions": ("manipulation", "manipulation.png", "precise manipulations show that they drive its decisions"),
    "compositional": ("composition", "composition.png", "they are compositional: independent of context, part and whole"),
    "language speaks of the features": ("words", "words.png", "LEA's language speaks of them"),
    "language steers": ("steering", "steering.png", "LEA's language lets one steer the network"),
}


def analyse(trainer, quick: bool = False, bar=lambda what: iter) -> tuple[dict[str, list], dict]:
    """Every table of a trained factor run, {name: rows}, and what its pictures need. bar(what) makes a progress bar."""
    size, dataset, rng = SIZES[quick], trainer.dataset, numpy_rng(trainer.seed, 8)
    proba = [float(p) for p in trainer._board_proba(max(trainer.epoch - 1, 0))]
    network = Network(trainer)
    untrained, draws = network.untrained(), size["draws"]
    sample = make_sample(dataset, proba, rng, *(size[k] for k in ("n_fit", "n_valid", "n_test", "rounds")), bar("labels"))
    sources = {"network": network.run(sample.tokens, network.stages)[1],
               "untrained network": untrained.run(sample.tokens, network.stages)[1]}
    inputs = input_features(sample.tokens, dataset.vocab_size)
    n_boards, first = sample.groups.max() + 1, sample.n_fit + sample.n_valid
    W = resample(n_boards, rng, draws)
    test = sample.scenes.take(slice(first, first + n_boards))
    tables = {"ceiling": ceiling(trainer, test, proba, rng, size["masks"], bar("ceiling"))}
    tables["decodability"], tables["decodability_stages"] = decodability(sources | inputs, sample, W, rng)
    tables["generalisation"] = generalisation(sources | inputs, sample, conditions_of(sample, dataset), W,
                                              bar=bar("generalisation"), rng=rng)
    tables["convergence"], tables["convergence_stages"] = convergence(sources, sample, W, rng)
    scenes = sample.scenes.take(slice(sample.n_fit))
    means, tables["manipulation"] = class_means(network, dataset, scenes, rng), []
    for type_ in bar("manipulation")([t for t in (0, 1) if (sample.scenes.types == t).any()]):
        swaps = root_swaps(dataset, type_, size["count"], rng)
        if swaps is not None:
            tables["manipulation"] += swap_rows(network, swaps, f"{TYPES[type_]} boards", "drives decisions", rng, draws,
                                                means, untrained=untrained)
    tables["composition"], tables["hidden_root"] = composition(
        network, untrained, dataset, sources | inputs, sample, W, proba, rng, size["count"], draws, bar("composition"))
    tables["convergence_training"] = convergence_training(trainer, sample, W, bar("checkpoints"))
    board, cell, root, token = object_cells(sample, False)
    stages = [network.stages[0], *(stage for stage in network.stages if stage.endswith("z_attn")), network.stages[-1]]
    pictures = {stage: sources["network"][stage][first:][board, cell] for stage in stages}
    return tables, {"pca": (pictures, root, token)}


def convergence_training(trainer, sample: Sample, W: np.ndarray, bar=iter) -> list[dict]:
    """Nearness by stage at each checkpoint of a run, visible cells."""
    first, rows = sample.n_fit + sample.n_valid, []
    board, cell, root, token = object_cells(sample, False)
    found = sorted((trainer.folder / "checkpoints").glob("model_*.pth"), key=lambda path: int(path.stem.split("_")[1]))
    for path in bar(found if len(found) > 1 else []):
        network = Network(type(trainer).from_run(trainer.folder, path.name, str(trainer.device)))
        acts = network.run(sample.tokens[first : first + board.max() + 1], network.stages)[1]
        for stage, features in acts.items():
            X = unit(features[board, cell].astype(np.float64))
            score = nearness(X, root, token, sample.groups[first:][board], W[:101])
            low, high = interval(score)
            epoch = int(path.stem.split("_")[1])
            rows.append({"epoch": epoch, "stage": stage, "nearness": score[0], "low": low, "high": high})
    return rows


def save_table(path: Path, rows: list[dict]) -> None:
    """Writes rows as a CSV with all their columns; floats with 6 digits, nothing where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _text(value, 6, "") for name, value in row.items()})


def _text(value, digits: int = 3, none: str = "-") -> str:
    if isinstance(value, (float, np.floating)):
        return none if np.isnan(value) else f"{value:.{digits}g}" if digits > 3 else f"{value:.{digits}f}"
    return str(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(lines) + "\n"


JUDGED = ("run", "claim", "feature", "stage", "effect", "low", "high", "upper", "strongest control", "gain", "gain low",
          "gain high", "counts", "holds")


def _judged_table(rows: list[dict]) -> str:
    """Judged rows as Markdown: each with its interval, upper bound, every control and what follows."""
    lines = []
    for row in rows:
        controls = [f"{name[9:]} {_text(value)}" for name, value in row.items() if name.startswith("control: ")]
        more = [f"{name} {_text(value)}" for name, value in row.items() if name not in JUDGED and "control: " not in name]
        lines.append([row["feature"] + ("" if row["counts"] else " (not counted)"), row["run"], row.get("stage", ""),
                      f"{_text(row['effect'])} [{_text(row['low'])}, {_text(row['high'])}]", _text(row["upper"]),
                      f"{_text(row['gain'])} [{_text(row['gain low'])}, {_text(row['gain high'])}] over "
                      f"{row['strongest control']}", "; ".join(controls), "; ".join(more),
                      "holds" if row["holds"] else "does not"])
    return _table(["feature", "run", "stage", "effect [95%]", "upper bound", "effect - strongest control [95%]", "controls",
                   "besides", "verdict"], lines)


def _plain_table(rows: list[dict]) -> str:
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if not name.startswith("place ")]
    return _table(columns, [[_text(row.get(name, "")) for name in columns] for row in rows])


INTRODUCTION = """# What the paper claims, measured on this network

Runs: {runs}. These are operational definitions of what the abstract of arXiv 2312.05361 claims, not reproductions of
the paper's figures. A row *holds* if the 95% bootstrap interval (over boards) of its effect minus its strongest
control lies above 0 and the effect is at least half of its upper bound; a feature holds if its row holds for every
run. A claim *holds* if every feature does, holds *in part* if some do, and else *does not*. The rules were fixed
before any number was seen.

*Skill* is balanced accuracy above chance: 0 is the majority class, 1 perfect. Stages: b0_z is what block 0 reads,
b{{i}}_z_attn and b{{i}}_z_attn_mlp are the residual stream after block i's attention and after the block.

"""
NOTES = {
    "ceiling":
    "Shares of right tokens, hidden tokens and whole boards, beside the best possible on the same boards and masks. "
    "Avoidable error: wrong tokens on boards whose best picture has a posterior of at least {known}.",
    "decodability":
    "Skill of a linear read-out (ridge) from a cell's activations, on held-out boards, at the stage that was best on "
    "other boards. Labels of hidden cells count only where the exact posterior of the true label is at least {known}. "
    "Gain over the control task (a random class for each true token and position) is selectivity.",
    "generalisation":
    "Skill of read-outs fitted in one half of the contexts and tested in the other, both ways; upper bound: fitted in "
    "both. Parallelism: mean cosine between the two halves' differences of class means.",
    "convergence":
    "Nearness: mean cosine between cells of the same root with different tokens minus that between cells of different "
    "roots with the same token. Extremum inside the stack: nearness there minus the larger of those at the ends; its "
    "upper bound is a complete return to the first stage's. Fewer dimensions: 1 - participation ratio / that of "
    "equally large random classes.",
    "manipulation":
    "Share of boards on which every unedited hidden cell where two roots differ shows the donor's token, when the "
    "visible cells of the object get the donor's activations at one stage. Upper bound: the donor's tokens in the "
    "input. Moved: (patched - clean) / (donor - clean) of the difference of the two tokens' logits. Collateral: share "
    "of the cells elsewhere whose reconstruction changes.",
    "composition":
    "Read-outs (skill) and swaps (exact success) learnt on single boards and applied to others; the wholly hidden "
    "root of a composite, from its other roots, against the best possible; that root when the others are swapped.",
    "words":
    "Skill of a linear read-out of each feature from all words of a sentence, held-out boards.",
    "steering":
    "Share of boards rebuilt exactly as wanted when words are transplanted. 'pair' makes the other board's own "
    "sentence, so that it succeeds exactly as often as that board is rebuilt; 'transfer' takes the words from another "
    "pair that makes the same change, and is the test of words that mean the same everywhere.",
}


def write_report(folder: Path, tables: dict[str, list], runs: Sequence[str], seconds: float) -> list[dict]:
    """Writes report.md and a CSV for each table; returns the verdicts."""
    verdicts = []
    for claim, (table, _, says) in CLAIMS.items():
        if tables.get(table):
            rows = [row for row in tables[table] if row["claim"] == claim]
            verdicts.append({"claim": claim, "says": says} | verdict(rows))
    parts = [INTRODUCTION.format(runs=", ".join(runs)), "## Verdicts\n\n", _table(
        ["claim", "verdict", "features that hold", "n runs", "holds for", "does not for"],
        [[v["says"], f"**{v['verdict']}**", f"{v['holding']} of {v['features']}", v["seeds"], v["holds for"], v["not for"]]
         for v in verdicts])]
    if tables.get("ceiling"):
        parts += [f"\n## The ceiling\n\n{NOTES['ceiling'].format(known=KNOWN)}\n\n![ceiling](ceiling.png)\n\n",
                  _plain_table(tables["ceiling"])]
    for claim, (table, figure, says) in CLAIMS.items():
        if not tables.get(table):
            continue
        word = next(v["verdict"] for v in verdicts if v["claim"] == claim)
        parts += [f"\n## {says[0].upper() + says[1:]}: {word}\n\n{NOTES[table].format(known=KNOWN)}\n\n",
                  f"![{claim}]({figure})\n\n", _judged_table(tables[table])]
        if table == "decodability":
            parts += ["\n![skill by stage](decodability_stages.png)\n"]
        if table == "convergence":
            parts += ["\n![embeddings by label](pca.png)\n"]
        if table == "composition" and tables.get("hidden_root"):
            parts += ["\nWhat the hidden root becomes:\n\n![what it becomes](hidden_root.png)\n\n",
                      _plain_table(tables["hidden_root"])]
        if table == "words":
            parts += ["\n", _plain_table(tables["facts"]), "\nInformation between words and features, less the mean over "
                      "permutations:\n\n![information](words_information.png)\n\n", _plain_table(tables["words_mi"]),
                      "\n![dictionary](dictionary.png)\n"]
    parts.append(f"\nMade in {seconds:.0f} s. Every table is a CSV in this folder.\n")
    for name, rows in (tables | {"verdicts": verdicts}).items():
        if rows:
            save_table(folder / f"{name}.csv", rows)
    with atomic_write(folder / "report.md", "w") as file:
        file.write("".join(parts))
    return verdicts


# Pictures


def plot_rows(rows: list[dict], label: str):
    """A line a feature: the effect of each run with its interval, its controls, its upper bound."""
    features = list(dict.fromkeys(row["feature"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure, axes = new_figure(1, 1, (9, 1.3 + 0.36 * len(features)))
    ax = axes[0, 0]
    for row in rows:
        i = runs.index(row["run"])
        y = features.index(row["feature"]) + (i - (len(runs) - 1) / 2) * 0.22
        for name, value in row.items():
            if name.startswith("control: "):
                strongest = name[9:] == row["strongest control"]
                ax.plot(value, y, "o", color="black" if strongest else "0.6", markersize=5 if strongest else 4,
                        markerfacecolor="none", zorder=4 if strongest else 2)
        ax.plot([row["upper"]] * 2, [y - 0.1, y + 0.1], color="black", linewidth=1.5, zorder=2)
        error = np.abs([[row["effect"] - row["low"]], [row["high"] - row["effect"]]])
        ax.errorbar(row["effect"], y, xerr=error, fmt="so^D"[i % 4], color=INKS[i % len(INKS)], markersize=5,
                    alpha=1 if row["holds"] else 0.45, zorder=3)
    ax.set_yticks(range(len(features)), [_mark(rows, f) for f in features], fontsize=7)
    ax.set(xlabel=label, ylim=(len(features) - 0.4, -0.6))
    ax.grid(axis="x", alpha=0.3)
    ax.axvline(0, color="0.5", linewidth=0.8)
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="so^D"[i % 4], color=INKS[i % len(INKS)], linestyle="", label=run)
               for i, run in enumerate(runs)]
    handles += [Line2D([], [], marker="o", color="black", markerfacecolor="none", linestyle="", label="strongest control"),
                Line2D([], [], marker="o", color="0.6", markerfacecolor="none", linestyle="", label="other controls"),
                Line2D([], [], marker="|", color="black", markersize=10, linestyle="", label="upper bound")]
    figure.legend(handles=handles, fontsize=7, loc="outside upper right", ncols=4)
    return figure


def _mark(rows, feature) -> str:
    return ("✓ " if all(row["holds"] for row in rows if row["feature"] == feature) else "✗ ") + feature


def plot_ceiling(rows: list[dict]):
    """Network and ceiling by board type, hidden tokens and whole boards."""
    figure, axes = new_figure(1, 3, (11, 3.4))
    names = {"network": "o", "ceiling, cell by cell": "^", "ceiling, whole board": "s"}
    groups = list(dict.fromkeys(row["boards"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    for ax, what in zip(axes[0], ("tokens", "hidden tokens", "boards"), strict=True):
        for row in (row for row in rows if row["share of"] == what):
            for j, (name, marker) in enumerate(names.items()):
                x = groups.index(row["boards"]) + 0.22 * (j - 1) + 0.05 * (runs.index(row["run"]) - (len(runs) - 1) / 2)
                error = [[row[name] - row[f"{name}, low"]], [row[f"{name}, high"] - row[name]]]
                first = row["boards"] == groups[0] and row["run"] == runs[0]
                ax.errorbar(x, row[name], yerr=np.abs(error), fmt=marker, color=INKS[j], markersize=5,
                            label=name if first else None)
        ax.set_xticks(range(len(groups)), groups)
        ax.set(title=f"right {what}")
        ax.grid(axis="y", alpha=0.3)
    axes[0, 0].legend(fontsize=8, loc="lower left")
    return figure


def _short(stage: str) -> str:
    return stage.replace("z_attn_mlp", "out").replace("z_attn", "attn")


def plot_stages(rows: list[dict]):
    """Skill by stage, a column a label, hidden and visible cells; levels of the controls that have no stages."""
    labels = list(dict.fromkeys(row["label"] for row in rows if row["cells"] != "all"))
    figure, axes = new_figure(2, len(labels), (2.3 * len(labels), 5), sharex=True, sharey=True)
    styles = {"network": (INKS[0], "-"), "untrained network": (INKS[1], "--"), "own token and position": (INKS[2], ":"),
              "whole masked board": (INKS[3], "-.")}
    runs = list(dict.fromkeys(row["run"] for row in rows))
    for i, cells in enumerate(("hidden", "visible")):
        for ax, label in zip(axes[i], labels, strict=True):
            for source, (ink, line) in styles.items():
                for run in runs:
                    here = [row for row in rows if row["run"] == run and (row["label"], row["cells"], row["source"]) ==
                            (label, cells, source)]
                    if len(here) > 1:
                        x = range(len(here))
                        ax.plot(x, [row["skill"] for row in here], line, color=ink, marker=".",
                                label=source if run == runs[0] else None)
                        ax.fill_between(x, [r["low"] for r in here], [r["high"] for r in here], color=ink, alpha=0.15)
                        ax.set_xticks(x, [_short(row["stage"]) for row in here], rotation=90, fontsize=7)
                    elif here:
                        ax.axhline(here[0]["skill"], color=ink, linestyle=line, label=source if run == runs[0] else None)
            ax.grid(alpha=0.3)
            if i == 0:
                ax.set_title(label, fontsize=9)
        axes[i, 0].set_ylabel(f"skill, {cells} cells")
    handles = {h: n for ax in axes.flat for h, n in zip(*ax.get_legend_handles_labels(), strict=True)}
    unique = {name: handle for handle, name in handles.items()}
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def plot_convergence(curves: list[dict], training: list[dict]):
    """Nearness by stage, visible and hidden cells, trained and untrained; and over training."""
    figure, axes = new_figure(1, 2 + bool(training), (4.4 * (2 + bool(training)), 3.6), sharey=True)
    runs = list(dict.fromkeys(row["run"] for row in curves))
    for ax, cells in zip(axes[0], ("visible cells", "hidden cells"), strict=False):
        for source, ink, line in (("network", INKS[0], "-"), ("untrained network", INKS[1], "--")):
            for run in runs:
                here = [r for r in curves if (r["run"], r["cells"], r["source"]) == (run, cells, source)]
                _curve(ax, here, ink, line, source if run == runs[0] else None)
        ax.set(title=f"{cells}", xlabel="stage")
    axes[0, 0].set_ylabel("nearness: same root, other token\n- other root, same token")
    axes[0, 0].legend(fontsize=8)
    if training:
        from matplotlib import colormaps

        here = [row for row in training if row["run"] == training[0]["run"]]
        epochs = sorted({row["epoch"] for row in here})
        for i, epoch in enumerate(epochs):
            ink = colormaps["viridis"](0.9 * i / max(len(epochs) - 1, 1))
            _curve(axes[0, 2], [row for row in here if row["epoch"] == epoch], ink, "-", f"epoch {epoch}")
        axes[0, 2].set(title=f"over training, visible cells, {training[0]['run']}", xlabel="stage")
        axes[0, 2].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _curve(ax, rows, ink, line, label):
    if not rows:
        return
    x = range(len(rows))
    ax.plot(x, [row["nearness"] for row in rows], line, color=ink, marker=".", label=label)
    ax.fill_between(x, [row["low"] for row in rows], [row["high"] for row in rows], color=ink, alpha=0.15)
    ax.set_xticks(x, [_short(row["stage"]) for row in rows], rotation=45)
    ax.axhline(0, color="0.5", linewidth=0.8)
    ax.grid(alpha=0.3)


def plot_pca(pictures: dict[str, np.ndarray], root: np.ndarray, token: np.ndarray):
    """Two principal components of visible object cells, a column a stage, by root and by token; numbers at the means."""
    figure, axes = new_figure(2, len(pictures), (3 * len(pictures), 6.2))
    for column, (stage, features) in zip(axes.T, pictures.items(), strict=True):
        X = unit(features.astype(np.float64))
        X = X @ np.linalg.svd(X, full_matrices=False)[2][:2].T
        for ax, name, labels in zip(column, ("root", "token"), (root, token), strict=True):
            ax.scatter(*X.T, s=3, c=[TEN[c % 10] for c in labels], alpha=0.4, linewidths=0)
            for c in np.unique(labels):
                ax.text(*X[labels == c].mean(0), str(c), ha="center", va="center", fontsize=8, color="black",
                        bbox=dict(boxstyle="circle,pad=0.15", fc="white", ec=TEN[c % 10], lw=1.5))
            ax.set(xticks=[], yticks=[], title=f"{stage}, by {name}")
    return figure


def plot_hidden_root(outcomes: list[dict]):
    """What the hidden root of a composite becomes when visible constituents are swapped, first run."""
    first = [row for row in outcomes if row["run"] == outcomes[0]["run"]]
    kinds = ("stays", "becomes the donor's", "something else")
    figure, axes = new_figure(1, 1, (6.4, 0.9 + 0.34 * len(first)))
    left = np.zeros(len(first))
    for name, ink, hatch in zip(kinds, (INKS[0], INKS[1], "0.8"), ("", "//", ".."), strict=True):
        share = np.array([row[name] for row in first])
        axes[0, 0].barh(range(len(first)), share, left=left, color=ink, hatch=hatch, edgecolor="white", label=name)
        left += share
    names = [f"{row['constituents swapped']} swapped, {row['where']}" for row in first]
    axes[0, 0].set_yticks(range(len(first)), names, fontsize=8)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set(xlabel="share of boards", xlim=(0, 1))
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure


def plot_information(rows: list[dict]):
    """Information between the word at each place and each feature, as a share of the feature's entropy."""
    places = [name for name in rows[0] if name.startswith("place ")]
    figure, axes = new_figure(1, 1, (0.5 * len(places) + 3, 0.34 * len(rows) + 1.4))
    shares = np.array([[row[name] for name in places] for row in rows])
    image = axes[0, 0].imshow(shares, aspect="auto", cmap="viridis", vmin=0)
    axes[0, 0].set_yticks(range(len(rows)), [row["feature"] for row in rows], fontsize=8)
    axes[0, 0].set_xticks(range(len(places)), [name[6:] for name in places], fontsize=8)
    axes[0, 0].set(xlabel="place in the sentence")
    figure.colorbar(image, ax=axes[0, 0], label="information / entropy of the feature")
    return figure


def plot_dictionary(words: np.ndarray, scenes: Scenes, dataset: AbstractionDataset, entries: int = 12, examples: int = 6):
    """Of much-used words, each where it is most often said: boards that call for it, a row a word."""
    K = words.max() + 1
    counts = np.array([np.bincount(w, minlength=K) for w in words.T]) / len(words)  # (S, K)
    counts = np.where(counts > 0.6, 0, counts)  # what is nearly always said tells nothing
    said = np.argsort(-counts.max(0), kind="stable")[:entries]
    figure, axes = new_figure(len(said), examples, (1.35 * examples + 1.2, 1.4 * len(said)))
    colors = token_colors(dataset.vocab_bck, dataset.vocab_token)
    for row, word in zip(axes, said, strict=True):
        place = counts[:, word].argmax()
        where = np.flatnonzero(words[:, place] == word)[:examples]
        for ax, i in zip(row, where, strict=False):
            draw_board(ax, scenes.boards[i], colors, scenes.boards[i] >= dataset.vocab_bck, font=4)
        for ax in row[len(where) :]:
            ax.axis("off")
        row[0].set_ylabel(f"word {word}, place {place}\n{100 * counts[place, word]:.0f}% of boards", fontsize=7)
    return figure


def save_pictures(folder: Path, tables: dict, extras: dict) -> list[str]:
    """Draws every figure whose tables are there; returns their names."""
    made = {}
    if tables.get("ceiling"):
        made["ceiling"] = plot_ceiling(tables["ceiling"])
    if tables.get("decodability_stages"):
        made["decodability_stages"] = plot_stages(tables["decodability_stages"])
    if tables.get("convergence_stages"):
        made["convergence"] = plot_convergence(tables["convergence_stages"], tables.get("convergence_training", []))
    if tables.get("hidden_root"):
        made["hidden_root"] = plot_hidden_root(tables["hidden_root"])
    if tables.get("words_mi"):
        made["words_information"] = plot_information(tables["words_mi"])
    for table, label in (("decodability", "skill"), ("generalisation", "skill in the other half of the contexts"),
                         ("manipulation", "share of boards with exact success"), ("composition", "skill or exact success"),
                         ("words", "skill"), ("steering", "share of boards rebuilt as wanted")):
        if tables.get(table):
            made[table] = plot_rows(tables[table], label)
    if "pca" in extras:
        made["pca"] = plot_pca(*extras["pca"])
    if "dictionary" in extras:
        made["dictionary"] = plot_dictionary(*extras["dictionary"])
    for name, figure in made.items():
        save_figure(figure, folder / f"{name}.png")
    return list(made)


def run_all(runs: Sequence[str | Path], lea: str | Path | None = None, quick: bool = False) -> list[dict]:
    """Analyses factor runs (seeds of one recipe) and a LEA run, writes <first run>/analysis/ and returns the verdicts."""
    start, tables, extras = time.time(), {}, {}
    folder = Path(runs[0] if runs else lea) / "analysis"

    def collect(name, found):
        for table, rows in found.items():
            tables.setdefault(table, []).extend({"run": name} | row for row in rows)

    def bar_of(name):
        return lambda what: lambda steps: progress_bar(steps, 20, desc=f"{name}, {what} ", leave=False)

    for run in runs:
        if "vocab_speech_size" in read_json(Path(run) / "params_training.json"):
            raise ValueError(f"{run}: is a LEA run; give it as --lea {run}.")
        trainer = module_train_probe.TrainTransformer.from_run(run)
        found, pictures = analyse(trainer, quick, bar_of(Path(run).name))
        collect(Path(run).name, found)
        extras = extras or pictures
    if lea is not None:
        if "vocab_speech_size" not in read_json(Path(lea) / "params_training.json"):
            raise ValueError(f"{lea}: is no LEA run.")
        trainer, size = module_train_probe_lea.TrainTransformer.from_run(lea), SIZES[quick]
        found = language(trainer, numpy_rng(trainer.seed, 8), size["words"], 4 * size["n_test"], size["count"],
                         size["draws"], bar_of(Path(lea).name)("language"))
        (words, scenes), = found.pop("dictionary")
        extras["dictionary"] = words, scenes, trainer.dataset
        collect(Path(lea).name, found)
    save_pictures(folder, tables, extras)
    names = [Path(run).name for run in [*runs, *([lea] if lea else [])]]
    return write_report(folder, tables, names, time.time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="*", help="run folders of the factor network, seeds of one recipe")
    parser.add_argument("--lea", help="a run folder of LEA")
    parser.add_argument("--quick", action="store_true", help="fewer boards and draws, for a look")
    flags = parser.parse_args()
    try:
        if not flags.runs and not flags.lea:
            raise ValueError("runs: give at least one run folder, or --lea and one.")
        verdicts = run_all(flags.runs, flags.lea, flags.quick)
    except (TypeError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(f"{v['verdict']:>9}  {v['says']} ({v['holding']} of {v['features']} features, n = {v['seeds']})"
                    for v in verdicts))
    print(f"{Path(flags.runs[0] if flags.runs else flags.lea) / 'analysis' / 'report.md'}")


if __name__ == "__main__":
    main()
