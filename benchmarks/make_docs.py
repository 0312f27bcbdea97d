"""Writes README's generated parts: the table of flags, from the parameters themselves; the others from the files in
benchmarks/results and tests/stress.

    python benchmarks/make_readme.py            # rewrites README.md
    python benchmarks/make_readme.py --check    # exit code 1 where README.md is out of step
"""
from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench_accuracy import SETTINGS  # noqa: E402

import module_files  # noqa: E402
import train_model  # noqa: E402
import train_model_lea  # noqa: E402

HEADLINES = {  # table: the rows that README shows
    "ceiling": ("hidden tokens, all", "whole boards, single", "whole boards, double", "whole boards, composition"),
    "decodability": ("root, hidden cells", "place in the root, hidden cells", "composite, hidden cells", "row, hidden cells",
                     "background, hidden cells"),
    "generalisation": ("root across background", "root across place on the board", "root across companion"),
    "convergence": ("an extremum inside the stack, hidden cells", "an extremum inside the stack, visible cells",
                    "nearer by root than by token, hidden cells", "class means in fewer dimensions, hidden cells"),
    "manipulation": ("swap, single boards, b0_z_attn_mlp", "swap, single boards, b1_z_attn_mlp"),
    "composition": ("read-out of the root learnt on single boards, on composites",
                    "swap, from single boards into double ones, b0_z_attn_mlp", "hidden root of a composite, from the others",
                    "swap, 3 of 3 visible constituents of a composite, b0_z_attn_mlp"),
    "words": ("which roots are there", "row", "background"),
    "steering": ("root of single boards", "root of single boards, words from elsewhere", "root of double boards"),
}


def flag_table() -> str:
    """Every flag of both scripts as Markdown."""
    found: dict[str, list[tuple[str, str]]] = {}
    parsers = (train_model.make_parser(), train_model_lea.make_parser())
    for which, parser in enumerate(parsers):
        for action in parser._actions:
            flag = action.option_strings[-1]
            if flag == "--help":
                continue
            meaning, _, default = action.help.replace("%%", "%").rpartition(" (default: ")
            found.setdefault(flag, [("", ""), ("", "")])[which] = (meaning or action.help, default.rstrip(")") if meaning else "")
    lines = ["| flag | train_model.py | train_model_lea.py | meaning |", "|---|---|---|---|"]
    for flag, (factor, lea) in found.items():
        defaults = [f"{default}" if meaning else "-" for meaning, default in (factor, lea)]
        lines.append(f"| `{flag}` | {defaults[0]} | {defaults[1]} | {lea[0] or factor[0]} |")
    return "\n".join(lines)


def read_results(name: str) -> list[dict[str, str]]:
    """The rows of a table of benchmarks/results."""
    with open(ROOT / "benchmarks" / "results" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def verdict_table() -> str:
    """The verdict on each claim as Markdown, and beside it that on networks trained with a falling learning rate."""
    falling = {v["claim"]: v for v in read_results("claims/falling_rate/verdicts")}

    def cells(v):
        return [f"**{v['verdict']}**", f"{v['holding']} of {v['features']}", v["runs"]] if v else [""] * 3

    rows = [[v["claim"][0].upper() + v["claim"][1:], *cells(v), *cells(falling.get(v["claim"]))[:2]]
            for v in read_results("claims/verdicts")]
    heads = ["claim", "verdict", "features that hold in every run", "runs", "falling rate: verdict", "features"]
    return module_files.markdown(heads, rows).rstrip()


def measure_table() -> str:
    """The rows of HEADLINES as Markdown, a column a run: effect, its interval, and the strongest control."""
    lines, most = [], 0
    for table, features in HEADLINES.items():
        for feature in features:
            rows = [row for row in read_results(f"claims/{table}") if row["feature"] == feature]
            number = lambda row, name: module_files.as_text(float(row[name] or "nan"), ".2f")  # noqa: E731
            cells = [f"{number(row, 'effect')} [{number(row, 'effect low')}, {number(row, 'effect high')}]"
                     + (f" / {number(row, 'control')}" if row["control"] else "") for row in rows]
            bounds = sorted({number(row, "upper") for row in rows})
            controls = ", ".join(dict.fromkeys(row["strongest control"] for row in rows if row["control"]))
            held = "✓" if all(row["holds"] == "True" for row in rows) else "✗"
            held = held if all(row["counts"] == "True" for row in rows) else ""
            most = max(most, len(cells))
            lines.append([table, held, feature, *cells, "-".join(dict.fromkeys((bounds[0], bounds[-1]))), controls])
    lines = [[*line[:-2], *[""] * (most + 5 - len(line)), *line[-2:]] for line in lines]
    seeds = [f"run {i + 1}" for i in range(most)]
    return module_files.markdown(["table", "holds", "measured", *seeds, "bound", "strongest control"], lines).rstrip()


def accuracy_table() -> str:
    """Settings of training and how near they come to the ceiling, as Markdown; percent, means over seeds."""
    groups: dict[tuple, list[dict[str, str]]] = {}
    for row in read_results("accuracy"):
        groups.setdefault(tuple(row[name] for name in SETTINGS), []).append(row)
    lines = []
    for rows in groups.values():
        first, cells = rows[0], []
        for what in ("hidden tokens, all", "whole boards, single", "whole boards, double", "whole boards, composition"):
            found = [row for row in rows if row["what"] == what]
            reached, best = (100 * sum(float(row[name]) for row in found) / len(found) for name in ("accuracy", "ceiling"))
            cells.append(f"{reached:.1f} of {best:.1f}")
        rate = f"{float(first['learning_rate']):g}"
        if first["lr_warmup"] != "0":
            rate += f", rises over {first['lr_warmup']}"
        if first["lr_schedule"] != "constant":
            rate += f", {first['lr_schedule']} fall from {first['lr_decay_start']}"
        if first["batch_size"] != "64":
            rate += f", batches of {first['batch_size']}"
        if first["weight_average"] != "0":
            rate += f", weights averaged ({float(first['weight_average']):g})"
        ramps = f"{first['masking_patch_epoch']}; {first['board_proba_epoch_start']} to {first['board_proba_epoch_end']}"
        lines.append([first["epochs"], rate, ramps, str(len({row["seed"] for row in rows})), *cells])
    heads = ["epochs", "learning rate", "patches; curriculum", "seeds", "hidden tokens", "single", "double", "composition"]
    return module_files.markdown(heads, lines).rstrip()


def codebook_table() -> str:
    """The last epoch of each run of bench_codebook.py as Markdown."""
    last = {(row["way"], row["seed"]): row for row in read_results("codebook")}
    lines = []
    for (way, seed), row in sorted(last.items()):
        shares = [f"{100 * float(row[name]):.1f}%" for name in ("tokens_single", "boards_single", "tokens_double")]
        uses = [f"{float(row[name]):.{digits}f}" for name, digits in (("words", 0), ("perplexity", 0), ("longest_word", 1))]
        lines.append([f"`{way}`", seed, row["epoch"], *shares, *uses])
    heads = ["way", "seed", "epochs", "single: tokens", "boards", "double: tokens", "words in use", "perplexity", "longest word"]
    return module_files.markdown(heads, lines).rstrip()


def stress_tables() -> str:
    """What `make stress` found as Markdown: kills, damaged files, memory and speed of a long training."""
    found = json.loads((ROOT / "tests" / "stress" / "results.json").read_text(encoding="utf-8"))
    minutes = sum(found[part]["CPU minutes"] for part in ("kills", "fuzz", "soak"))
    scripts = {"factor": "`train_model.py`", "lea": "`train_model_lea.py`"}
    kills = [[text, *(found["kills"][kind][name] for kind in scripts)] for text, name in {
        "killed once, at each of a run's writes, flushes, renames and removals": "aimed at a write, flush, rename or removal",
        "killed again and again, at random steps": "runs killed again and again",
        "killed by another process, at random moments": "at a random moment, by another process",
        "kills in all": "kills",
        "**survived**: bit-identical weights and the same log at the end": "survived",
        "of these, before anything was saved: said so, started again": "runs with nothing saved yet, said so and started again",
    }.items()]
    files = [[name, tally["files"], tally["refused by name"], tally["loaded"], f"{tally['most memory taken, MB']:.0f} MB"]
             for name, tally in found["fuzz"].items() if isinstance(tally, dict)]
    curve = [[script, epoch, f"{memory:.0f} MB", count, f"{time:.1f} ms", f"{fixed:.2f} ms"] for kind, script in scripts.items()
             for epoch, memory, count, time, fixed in list(zip(*found["soak"][kind]["curve"].values(), strict=True))[4::5]]
    return "\n".join([
        module_files.markdown(["kills (SIGKILL) of small runs", *scripts.values()], kills),
        "Damaged files, each of which must be refused in a sentence that names it or load as something sound:\n",
        module_files.markdown(["file", "tried", "refused", "loaded", "most memory taken"], files),
        "Long trainings of short epochs, with tests, figures and saved states; beside an epoch's CPU time that of a fixed\n"
        "computation, which other work on the machine slows alike:\n",
        module_files.markdown(["run", "epoch", "memory", "open files", "time of an epoch", "of 50 products of 64 × 64 matrices"], curve),
        f"All of it, one `make stress`, took {minutes:.0f} minutes of CPU time on 2 cores (AMD EPYC, no GPU); more in\n"
        "[tests/stress/results.json](tests/stress/results.json).",
    ])


PARTS = {"flags": flag_table, "codebook": codebook_table, "accuracy": accuracy_table, "verdicts": verdict_table,
         "measures": measure_table, "stress": stress_tables}


def rendered(readme: str) -> str:
    """README with its generated parts made anew."""
    for name, make in PARTS.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        readme = re.sub(pattern, lambda m, make=make: f"{m[1]}{make()}\n{m[2]}", readme, flags=re.DOTALL)
    return readme


if __name__ == "__main__":
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = rendered(before)
    if "--check" in sys.argv:
        sys.exit(before != after)
    path.write_text(after, encoding="utf-8")
