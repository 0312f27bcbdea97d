"""The report: tables as CSV, report.md with the verdicts, and pictures."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from parts import files
from parts.boards.pictures import draw_board, new_figure, token_colors
from parts.probing.panels import OBJECT_COLORS, outline, save_figure
from studies.claims.scores import Row, interval, spread
from studies.dictionaries.cells import TEST, Cells
from studies.dictionaries.scoring import Reading
from studies.dictionaries.sources import SUPERVISED, Source
from studies.dictionaries.training import KINDS

LABELS = ("object", "root", "place in the root", "root x place", "composite", "row", "column", "background")
YES = {True: "yes", False: "no"}
BEST, EXAMPLES = 16, 2  # latents that are shown, and boards of each
ABOUT = """\
Run {}, dictionaries of kind {}. docs/dictionaries.md defines measures and rules. Scores are mean F1 over the
values of a label, means of the dictionary seeds; in brackets 95% bootstrap intervals over boards. A label
counts on cells where the ideal observer knows it; the ideal observer's F1 is 1 there.

"""


@dataclass
class Pictures:
    """What the picture of the best latents is drawn from."""

    trainer: object
    cells: Cells
    source: Source  # the dictionary, of the first seed
    readings: dict[str, Reading]  # of hidden cells


def pooled(lines: Sequence[dict]) -> list[dict]:
    """Lines with a score, joined over seeds: `score` is their mean, `seeds` their values."""
    keys, groups = ("source", "cells", "label", "boards", "measure"), {}
    for line in lines:
        groups.setdefault(tuple(line.get(key, "") for key in keys), []).append(line)
    return [dict(zip(keys, key, strict=True)) | {
        "score": np.mean([line["score"] for line in of], axis=0), "seeds": [line["score"][0] for line in of],
        "judged": of[0].get("judged", np.nan)} for key, of in groups.items()]


def verdicts(lines: Sequence[dict], kind: str) -> list[Row]:
    """A row per label and kind of cells, by the announced rule. lines: as `pooled` makes them."""
    rows = []
    for of in by(best_latents(lines), lambda line: (line["cells"], line["label"])):
        scores = {line["source"]: line["score"] for line in of}
        probe, near = (scores[name] for name in SUPERVISED)
        controls = {name: score for name, score in scores.items() if name not in (*KINDS, *SUPERVISED)}
        name = "{label}, {cells} cells".format(**of[0])
        row = Row("coverage", name, scores[kind], controls, probe, counts=of[0]["label"] != "background")
        beyond = row.supported and interval(row.effect - near)[0] > 0
        row.extras |= {"linear probe": probe, "5 x 5 read-out": near, "beyond the input": beyond}
        rows.append(row)
    return rows


def best_latents(lines: Sequence[dict]) -> list[dict]:
    """The lines of single latents on held-out boards."""
    return [line for line in lines if (line["boards"], line["measure"]) == ("held out", "single")]


def write(folder: Path, run: str, kind: str, lines: Sequence[dict], facts: Sequence[dict],
          causal: Sequence[Row], of_boards: Sequence[dict], pictures: Pictures, note: str, seconds: float,
          quick: bool) -> None:
    """Writes table.csv, facts.csv, coverage.csv, clamping.csv, report.md and two pictures to folder."""
    lines, rows = pooled(lines), []
    judged = verdicts(lines, kind)
    clamped = [replace(of[0], effect=np.mean([row.effect for row in of], axis=0), controls={
        name: np.mean([row.controls[name] for row in of], axis=0) for name in of[0].controls})
        for of in by(causal, lambda row: (row.stage, row.feature))]
    words = pooled([{"boards": "held out", "measure": "single"} | line
                    | {"source": line["source"].rsplit(", ", 1)[0]} for line in of_boards])
    for line in [*lines, *words]:
        row = {key: line[key] for key in ("source", "cells", "label", "boards", "measure")}
        rows.append(row | spread("score", line["score"]) | {
            "lowest seed": min(line["seeds"]), "highest seed": max(line["seeds"]),
            "seeds": len(line["seeds"]), "cells judged": line["judged"]})
    flat = [{name: part for key, of in fact.items()
             for name, part in (spread(key, of) if np.ndim(of) else {key: of}).items()} for fact in facts]
    files.save_table(folder / "table.csv", rows)
    files.save_table(folder / "facts.csv", flat)
    for name, of in (("coverage", judged), ("clamping", clamped)):
        if of:
            files.save_table(folder / f"{name}.csv", [row.as_dict() for row in of])
    save_figure(plot_coverage({run: [row.as_dict() for row in judged]}), folder / "coverage.png")
    save_figure(plot_latents(pictures), folder / "latents.png")
    parts = ["# Dictionaries against the truth\n\n",
             "**Quick look: do not quote.** Few boards were measured.\n\n" if quick else "",
             ABOUT.format(run, kind), f"**{note}**\n\n" if note else "", "## Verdicts\n\n",
             verdict_table([row for row in judged if row.counts]), "\n## Clamping\n\n", clamp_table(clamped)]
    for of in by(best_latents([*lines, *words]), lambda line: line["cells"]):
        parts += [f"\n## Coverage by the best latent, {of[0]['cells']}\n\n", score_table(of, "source")]
    for cells in ("hidden", "visible"):
        mine = [line for line in lines if line["source"] == kind and line["cells"] == cells]
        parts += [f"\n## Measures and boards, {kind}, {cells} cells\n\n",
                  score_table(mine, "measure", "boards")]
    parts += ["\n## Dictionaries\n\nfacts.csv: variance explained, latents on (L0), alive; loss and hidden "
              "cells kept; matching; absorption; stability.\n\n![coverage](coverage.png)\n\n"
              "![latents](latents.png)\n", f"\nMeasured in {seconds:.0f} s of processor time.\n"]
    with files.atomic_write(folder / "report.md", "w") as file:
        file.write("".join(parts))


def by(items: Sequence, key: Callable) -> list[list]:
    """items in groups of equal keys, in order."""
    groups: dict = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def shown(score: np.ndarray) -> str:
    """A score with its interval."""
    value, low, high = (files.as_text(float(part), ".2f") for part in spread("", score).values())
    return f"{value} [{low}, {high}]"


def verdict_table(rows: Sequence[Row]) -> str:
    """The verdicts in Markdown."""
    columns = ["label", "dictionary", "strongest control without labels", "linear probe", "5 x 5 read-out",
               "found by single latents", "beyond the input"]
    return files.markdown(columns, ([
        row.feature, shown(row.effect), f"{row.strongest} {shown(row.controls[row.strongest])}",
        shown(row.extras["linear probe"]), shown(row.extras["5 x 5 read-out"]), YES[row.supported],
        YES[row.extras["beyond the input"]]] for row in rows))


def clamp_table(rows: Sequence[Row]) -> str:
    """Clamping in Markdown."""
    columns = ["site", "clamped", "success", "controls", "class means", "the other root's tokens",
               "supported"]
    return files.markdown(columns, ([
        row.stage, row.feature, shown(row.effect),
        "; ".join(f"{name} {of[0]:.2f}" for name, of in row.controls.items()),
        shown(row.extras["class means"]), f"{row.upper:.2f}", YES[row.supported]] for row in rows))


def score_table(lines: Sequence[dict], *keys: str) -> str:
    """Scores in Markdown, a row per value of keys and a column per label."""
    table = []
    for of in by(lines, lambda line: tuple(line[key] for key in keys)):
        cells = {line["label"]: shown(line["score"]) for line in of}
        table.append([*(of[0][key] for key in keys), *(cells.get(label, "") for label in LABELS)])
    return files.markdown([*keys, *LABELS], table)


def plot_coverage(networks: Mapping[str, Sequence[Mapping]]):
    """Coverage by label, a mark per network and source; hidden cells above visible ones. networks: {name:
    rows of coverage.csv}."""
    columns = [name for name in next(iter(networks.values()))[0] if name.startswith("control: ")]
    sources = {"effect": "dictionary", **{name: name.removeprefix("control: ") for name in columns},
               **{name: f"{name} (with labels)" for name in SUPERVISED}}
    figure, axes = new_figure(2, 1, (11, 6), sharex=True)
    for ax, cells in zip(axes[:, 0], ("hidden", "visible"), strict=True):
        for i, (source, name) in enumerate(sources.items()):
            for j, rows in enumerate(networks.values()):
                of = {row["feature"]: float(row[source]) for row in rows}
                place = np.arange(len(LABELS)) + 0.08 * (i - len(sources) / 2)
                place += 0.04 * ((j + 0.5) / len(networks) - 0.5)
                ax.plot(place, [of[f"{label}, {cells} cells"] for label in LABELS], linestyle="none",
                        marker="os^"[i // 8 if name != "dictionary" else 2], markersize=4 + 2 * (i == 0),
                        color=OBJECT_COLORS[i % 8], label=name if j == 0 else None)
        ax.set(ylabel=f"mean F1, {cells} cells", ylim=(-0.02, 1.03))
        ax.set_xticks(range(len(LABELS)), LABELS)
        ax.grid(axis="y", linewidth=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, ncols=5, loc="outside upper center")
    return figure


def plot_latents(pictures: Pictures):
    """The latents with the best F1 (on the cells to choose by) for a root, or a root x place, on hidden
    cells: held-out boards on which each is strongest, outlined where it exceeds its threshold; hatched cells
    are hidden."""
    cells, p = pictures.cells, pictures.trainer.dataset.params
    found = sorted(((reading.f1[v], label, v, reading.latent[v], reading.threshold[v])
                    for label, reading in pictures.readings.items() if label in ("root", "root x place")
                    for v in range(len(reading.f1))), key=lambda each: -each[0])
    first = {}
    for each in found:
        first.setdefault(each[3], each)
    test = np.flatnonzero(cells.part == TEST)
    z = pictures.source.made.encode(pictures.source.acts[test])
    chosen, colors = list(first.values())[:BEST], token_colors(p.vocab_bck, p.vocab_token)
    columns = 4 * EXAMPLES
    figure, axes = new_figure(-(-len(chosen) * EXAMPLES // columns), columns, (1.5 * columns, 7))
    for ax in axes.flat:
        ax.axis("off")
    for i, (f1, label, value, latent, threshold) in enumerate(chosen):
        strength = np.where(cells.hidden[test], z[..., latent], 0).max(1)
        distinct = np.unique(cells.board[test], return_index=True)[1]
        for j, b in enumerate(distinct[np.argsort(-strength[distinct], kind="stable")][:EXAMPLES]):
            ax, side = axes.flat[i * EXAMPLES + j], p.board_dim
            truth, hidden = cells.drawn.boards[test[b]], cells.hidden[test[b]].reshape(side, side)
            draw_board(ax, truth, colors, truth >= p.vocab_bck, hidden, font=5)
            outline(ax, (z[b, :, latent] > threshold).reshape(side, side), "black")
            places = p.abs_dim**2
            name = f"root {value}" if label == "root" else f"root {value // places}, place {value % places}"
            ax.set_title(f"latent {latent}: {name}" if j == 0 else f"F1 {f1:.2f}", fontsize=7)
    return figure
