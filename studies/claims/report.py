"""The report: verdicts on the rows of all runs, a CSV per table, a PNG per figure, and report.md."""
from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
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
from studies.claims.scores import Row, interval, verdict

CLAIMS = (ceiling, decodability, generalisation, convergence, manipulation, composition, words, steering)
TABLES = {claim.TABLE.name: claim.TABLE for claim in CLAIMS}  # in the report's order
ABOUT = {claim.TABLE.name: claim.__doc__ for claim in CLAIMS}  # question, measure, controls, row
QUICK = "**Quick look: do not quote.** Few boards were measured.\n\n"
INTRODUCTION = """\
Runs: {}. These are operational definitions of what the abstract of arXiv 2312.05361 claims, not
reproductions of the paper's figures. A feature is *supported* if the 95% interval (over boards) of its effect
minus its strongest control lies above 0 and the effect is at least half of its upper bound. A claim is
*supported* if all of its features are, in every run, *partly supported* if some are, and else *not
supported*. docs/claims.md tells when rules and measures were fixed. *Skill* is balanced accuracy above
chance: 0 is the majority class, 1 perfect. Stages: b0_z is what block 0 reads, b(i)_z_attn and
b(i)_z_attn_mlp are the residual stream after block i's attention and after the block. Masks are those with
which each run's recipe ends. Learning curves of all read-outs: readouts_curves.csv.
"""


@dataclass
class Findings:
    """What was measured on one run, or on several."""

    rows: list[Row] = field(default_factory=list)  # of all tables
    curves: dict[str, list[dict]] = field(default_factory=dict)  # further tables by name
    notes: list[str] = field(default_factory=list)  # sentences for the report

    def add_(self, run: str, new: Findings) -> None:
        """Adds the findings on one run, whose name their rows get."""
        self.rows += [replace(row, run=run) for row in new.rows]
        for name, lines in new.curves.items():
            self.curves.setdefault(name, []).extend({"run": run} | line for line in lines)
        self.notes += new.notes

    def tables(self) -> dict[str, list[Row]]:
        """The rows of each table that has any, in the report's order."""
        tables = {name: [row for row in self.rows if row.table == name] for name in TABLES}
        return {name: rows for name, rows in tables.items() if rows}


def write(folder: Path, findings: Findings, seconds: float, quick: bool) -> list[dict]:
    """Writes tables, figures and report.md to folder; returns the verdicts. seconds: that measuring took."""
    tables = findings.tables()
    draw_figures(folder, findings)
    verdicts = [{"claim": TABLES[name].title, "table": name} | verdict(rows)
                for name, rows in tables.items() if TABLES[name].is_claim]
    of_rows = {name: [row.as_dict() for row in rows] for name, rows in tables.items()}
    for name, lines in (of_rows | findings.curves | {"verdicts": verdicts}).items():
        files.save_table(folder / f"{name}.csv", lines)
    with files.atomic_write(folder / "report.md", "w") as file:
        file.write(report_of(tables, verdicts, findings.notes, quick))
        file.write(f"\nMeasured in {seconds:.0f} s. Every table is a CSV in this folder.\n")
    return verdicts


@panels.own_style()
def draw_figures(folder: Path, findings: Findings) -> None:
    """Draws the rows of each table that have an upper bound, and the curves by stage."""
    rows_of = findings.tables()
    for name, table in TABLES.items():
        rows = [row for row in rows_of.get(name, ()) if np.isfinite(row.upper)]
        if rows:
            panels.save_figure(figures.plot_rows(rows, table.axis), folder / f"{name}.png")
        for figure, label in table.figures.items():
            if curves := findings.curves.get(figure):
                panels.save_figure(figures.plot_stages(curves, label), folder / f"{figure}.png")


def report_of(tables: dict[str, list[Row]], verdicts: list[dict], notes: list[str], quick: bool) -> str:
    """report.md, but for its last line."""
    runs = dict.fromkeys(row.run for rows in tables.values() for row in rows)
    parts = ["# What the paper claims, measured on these networks\n\n", QUICK if quick else "",
             INTRODUCTION.format(", ".join(runs)), *(f"**{note}**\n\n" for note in notes), "## Verdicts\n\n"]
    shown = [line | {"verdict": f"**{line['verdict']}**"} for line in verdicts]
    parts.append(files.markdown(list(verdicts[0]), (line.values() for line in shown)))
    word_of = {line["table"]: f": {line['verdict']}" for line in verdicts}
    for name, rows in tables.items():
        title = TABLES[name].title[0].upper() + TABLES[name].title[1:] + word_of.get(name, "")
        about = re.sub(r"^(\w[\w ]*:)", r"\n**\1**", ABOUT[name].strip(), flags=re.MULTILINE)
        shown = [f"![{figure}]({figure}.png)\n\n" for figure in (name, *TABLES[name].figures)]
        cells = list(map(cells_of, rows))
        lines = files.markdown(list(cells[0]), (line.values() for line in cells))
        parts += [f"\n## {title}\n{about}\n\n", *shown, lines]
    return "".join(parts)


def cells_of(row: Row) -> dict[str, str]:
    """A row's cells in the report, by column."""
    def with_interval(score: np.ndarray, ends: tuple[float, float] | None = None) -> str:
        low, high = map(files.as_text, interval(score) if ends is None else ends)
        return f"{files.as_text(score[0])} [{low}, {high}]"

    controls = "; ".join(f"{name} {files.as_text(score[0])}" for name, score in row.controls.items())
    further = "; ".join(f"{name} {with_interval(value) if np.ndim(value) else files.as_text(value)}"
                        for name, value in row.extras.items())
    over = f"{with_interval(row.gain, row.gain_interval)} over {row.strongest}" if controls else "-"
    word = ("supported" if row.supported else "not supported") if row.counts else "not counted"
    return {"feature": row.feature, "run": row.run, "stage": row.stage,
            "effect [95%]": with_interval(row.effect), "upper bound": files.as_text(row.upper),
            "effect - strongest control [95%]": over, "controls": controls, "further measures": further,
            "verdict": word}
