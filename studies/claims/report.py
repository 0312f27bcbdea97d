"""The report: verdicts of all runs' rows, a CSV a table, a PNG a figure, and report.md, which shows them."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from parts import files
from parts.probing import panels
from studies.claims import (
    ceiling,
    composition,
    convergence,
    decodability,
    figures,
    generalisation,
    manipulation,
    steering,
    words,
)
from studies.claims.scores import Table, verdict

CLAIMS = (ceiling, decodability, generalisation, convergence, manipulation, composition, words, steering)
TABLES = {claim.TABLE.name: claim.TABLE for claim in CLAIMS}  # in the report's order
COLUMNS = ["feature", "run", "stage", "effect [95%]", "upper bound", "effect - strongest control [95%]",
           "controls", "besides", "verdict"]
INTRODUCTION = (
    "# What the paper claims, measured on these networks\n\n"
    "Runs: {}. These are operational definitions of what the abstract of arXiv 2312.05361 claims, not "
    "reproductions of the paper's\nfigures. A row *holds* if the 95% bootstrap interval (over boards) of "
    "its effect minus its strongest control lies above 0 and the\neffect is at least half of its upper "
    "bound; a feature holds if it does in every run. A claim *holds* if every feature does, holds\n*in "
    "part* if some do, and else *does not*. The rules were fixed before any number was seen. *Skill* is "
    "balanced accuracy above\nchance: 0 is the majority class, 1 perfect. Stages: b0_z is what block 0 "
    "reads, b(i)_z_attn and b(i)_z_attn_mlp are the residual\nstream after block i's attention and after "
    "the block.\n\n"
    "## Verdicts\n\n")


@dataclass
class Findings:
    """What was measured on one run, or on several."""

    rows: list[dict] = field(default_factory=list)  # of all tables
    curves: dict[str, list[dict]] = field(default_factory=dict)  # further tables by name
    pictures: dict = field(default_factory=dict)  # what figures are drawn from, by the figure's name

    def add_(self, run: str, found: Findings) -> None:
        """Takes in what was found on a run; the rows say which. A picture is that of the first run that has
        it."""
        self.rows += [{"run": run} | row for row in found.rows]
        for name, lines in found.curves.items():
            self.curves.setdefault(name, []).extend({"run": run} | line for line in lines)
        self.pictures = found.pictures | self.pictures

    def tables(self) -> dict[str, list[dict]]:
        """The rows of each table that has any, in the report's order."""
        tables = {name: [row for row in self.rows if row["table"] == name] for name in TABLES}
        return {name: rows for name, rows in tables.items() if rows}


def write(folder: Path, findings: Findings, seconds: float) -> list[dict]:
    """Writes the tables, figures and report.md of findings to folder; returns the verdicts, a row a claim.
    seconds: how long it took."""
    tables = findings.tables()
    draw_figures(folder, findings)
    verdicts = []
    for name, rows in tables.items():
        if TABLES[name].is_claim:
            now, before = verdict(rows), verdict(rows, "counted before")
            before = {f"{what}, rules before": before[what] for what in ("verdict", "features", "holding")}
            verdicts.append({"claim": TABLES[name].title, "table": name} | now | before)
    for name, rows in (tables | findings.curves | {"verdicts": verdicts}).items():
        files.save_table(folder / f"{name}.csv", rows)
    with files.atomic_write(folder / "report.md", "w") as file:
        file.write(report_of(tables, verdicts))
        file.write(f"\nMade in {seconds:.0f} s. Every table is a CSV in this folder.\n")
    return verdicts


def draw_figures(folder: Path, findings: Findings) -> None:
    """Draws every table's rows that have an upper bound, and its further figures, as far as there is
    something to draw."""
    rows_of, material = findings.tables(), findings.curves | findings.pictures
    for name, table in TABLES.items():
        rows = [row for row in rows_of.get(name, ()) if np.isfinite(row["upper"])]
        if rows:
            panels.save_figure(figures.plot_rows(rows, table.axis), folder / f"{name}.png")
        for figure, draw in table.figures.items():
            if material.get(figure):
                panels.save_figure(draw(material[figure]), folder / f"{figure}.png")


def report_of(tables: dict[str, list[dict]], verdicts: list[dict]) -> str:
    """report.md, but for its last line."""
    runs = dict.fromkeys(row["run"] for rows in tables.values() for row in rows)
    shown = [line | {"verdict": f"**{line['verdict']}**"} for line in verdicts]
    parts = [INTRODUCTION.format(", ".join(runs))]
    parts.append(files.markdown(list(verdicts[0]), (line.values() for line in shown)))
    words_of = {line["table"]: line["verdict"] for line in verdicts}
    for name, rows in tables.items():
        parts += section_of(TABLES[name], rows, words_of.get(name))
    return "".join(parts)


def section_of(table: Table, rows: Iterable[dict], word: str | None) -> list[str]:
    """A table's section in the report; word: the verdict, None for a table that is no claim."""
    title = table.title[0].upper() + table.title[1:] + (f": {word}" if word else "")
    shown = [f"![{figure}]({figure}.png)\n\n" for figure in (table.name, *table.figures)]
    cells = files.markdown(COLUMNS, map(cells_of, rows))
    return [f"\n## {title}\n\n{table.measured}\n\n", *shown, cells]


def cells_of(row: dict) -> list[str]:
    """A row's cells in the report, as COLUMNS."""
    text = {name: files.as_text(value) for name, value in row.items()}
    effect = f"{text['effect']} [{text['effect low']}, {text['effect high']}]"
    gain = f"{text['gain']} [{text['gain low']}, {text['gain high']}]"
    names = list(text)
    after = names[names.index("holds") + 1 :]
    named = [name for name in after if name.startswith("control: ")]
    controls = "; ".join(f"{name.removeprefix('control: ')} {text[name]}" for name in named)
    besides = "; ".join(f"{name} {text[name]}" for name in after if name not in named)
    over = f"{gain} over {row['strongest control']}" if controls else "-"
    if row["counts"]:
        word = "holds" if row["holds"] else "does not"
    else:
        word = "not counted"
    return [row["feature"], row["run"], row["stage"], effect, text["upper"], over, controls, besides, word]
