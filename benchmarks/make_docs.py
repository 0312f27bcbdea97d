"""Writes the tables of README.md and docs/: the flags from the parsers, the rest from committed results.

    python benchmarks/make_docs.py            # rewrites the documents
    python benchmarks/make_docs.py --check    # exit code 1 if one is out of step, and its name

A table stands between <!-- name --> and <!-- /name -->; PARTS names the function that makes it. Results are
the CSVs in benchmarks/results and tests/stress/results.json. Programs of benchmarks/ and studies/ write them,
but reached, lea, times, scale and settings were written by hand from single measurements, and the programs
behind codebook and together are gone, as what they compared is decided.
"""
from __future__ import annotations

import csv
import functools
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench_accuracy import settings_of  # noqa: E402

import train_model  # noqa: E402
import train_model_lea  # noqa: E402
from parts.boards.params import TYPES  # noqa: E402
from parts.files import as_text, markdown  # noqa: E402
from parts.training.recipe import TrainParams  # noqa: E402
from studies.emergence import measures as emergence  # noqa: E402

SCRIPTS = {"factor": "`train_model.py`", "lea": "`train_model_lea.py`"}  # as the stress program calls the two
FAST_RUNS = "fast150"  # the runs of recipes/factor_fast.args in accuracy.csv
EPOCH, EPOCH_LEA = "an epoch of the recipe: 1,000 boards, 16 steps, two threads", "the same epoch of LEA"
WHOLE_BOARDS = ("whole boards, single", "whole boards, double", "whole boards, composition")
NETWORKS = {  # tables of claims: whose they are
    "factor": "`factor`, `factor_s1`; `lea_paper`",
    "factor_best": "`factor_best`; `lea`",
    "factor_falling": "`factor_falling`; `lea_half`",
    "factor_places": "`factor_places`; `lea_places`",
}
SHORT = ("authors' recipe, 2 seeds", "factor_best", "falling rate", "factor_places")  # in README
CURVES = (  # read-outs whose learning curves docs/claims.md shows
    "root, hidden cells", "root, visible cells", "place in the root, hidden cells", "row, hidden cells",
    "root across background, from 0", "root across place on the board, from 0")
SOURCES = ("network", "neighbourhood", "whole masked board")
BOARDS = (2000, 4000, 8000, 16_000, 32_000)  # of the fits, at most
WAYS = {  # of decoding: the columns of accuracy and of what can be reached
    "one pass": ("one pass", "ceiling of one pass"), "easy first": ("accuracy", "ceiling"),
}
DECODED = {  # columns of the table of decoding: the rows of accuracy_decode.csv
    "hidden tokens": "hidden tokens, all",
    "single": "whole boards, single",
    "double": "whole boards, double",
    "of these apart": "whole boards, double apart",
    "overlapping": "whole boards, double overlapping",
    "composition": "whole boards, composition",
}
EMERGING = (  # the measures that docs/results.md follows
    (emergence.HIDDEN, "single"),
    (emergence.ATTENTION, "b1"),
    (emergence.SEEN, "b1"),
    (emergence.SEEN, "b2"),
    (emergence.OWN, "b1"),
    (emergence.OWN, "b2"),
    (emergence.READ_OUT, "b1_z_attn"),
    (emergence.READ_OUT, "b2_z_attn"),
    (emergence.SWAPS, "b0_z_attn_mlp, single"),
    (emergence.WHOLE, "single"),
    (emergence.WHOLE, "double"),
    (emergence.WHOLE, "composition"),
    (emergence.NEARNESS, "b1_z_attn"),
    (emergence.NEARNESS, "b2_z_attn"),
)
EMERGING_AT = (2, 20, 100, 200, 250, 500, 750, 1000)  # epochs
AT_PLACES = (  # the measures that docs/held_out.md follows at positions shown and never shown
    (emergence.HIDDEN, "single"),
    (emergence.OWN, "b1"),
    (emergence.OWN, "b2"),
    (emergence.READ_OUT, "b1_z_attn"),
    (emergence.READ_OUT, "b2_z_attn"),
    (emergence.WHOLE, "single"),
    (emergence.WHOLE, "double"),
    (emergence.SWAPS, "b0_z_attn_mlp, single"),
    (emergence.SWAPS, "b0_z_attn_mlp, double"),
    (emergence.NEARNESS, "b2_z_attn"),
)
AT_PLACES_EPOCHS = (emergence.UNTRAINED, 20, 30, 40, 60, 100, 149)
HELD_OUT = {  # what a held-out board shows: split_method and card_test
    "new background (`balanced`)": ("balanced", 4),
    "new pair (`pairs` 6)": ("pairs", 6),
    "new position, 1 of 36 (`stringent`)": ("stringent", 4),
    "new position, 7 of 36 (`places` 0.2)": ("places", 0.2),
    "new position, 18 of 36 (`places` 0.5)": ("places", 0.5),
}
HELD_OUT_GROUPS = ("single", "double apart", "double overlapping", "composition")
DICTIONARIES = {  # networks of docs/dictionaries.md by their folders of results; the last is not judged
    "factor": "`factor`", "factor_s1": "`factor_s1`", "ff_p05_s0": "`places` 0.5, seed 0",
    "ff_p05_s1": "`places` 0.5, seed 1", "ff_p05_s3": "`places` 0.5, seed 3",
    "ff_bal_s0": "`balanced`, seed 0", "factor_best": "`factor_best`"}
NOT_JUDGED = "factor_best"
Rows = list[dict[str, str]]


def documents() -> list[Path]:
    """Every file that may hold a generated table."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "pretrained" / "README.md"]


@functools.cache
def read_results(name: str) -> Rows:
    """The rows of a table of benchmarks/results."""
    with open(ROOT / "benchmarks" / "results" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def stress_results() -> dict:
    """What `make stress` found."""
    return json.loads((ROOT / "tests" / "stress" / "results.json").read_text(encoding="utf-8"))


def plain_table(name: str) -> str:
    """A table of benchmarks/results as it stands, in Markdown."""
    rows = read_results(name)
    return markdown(list(rows[0]), [row.values() for row in rows])


def spread(shares: list[str]) -> str:
    """The least and the greatest of some percentages, one where they are alike."""
    least, most = (pick(shares, key=lambda share: float(share.rstrip("%"))) for pick in (min, max))
    return least if least == most else f"{least} to {most}"


def headline_table() -> str:
    """README's figures, in Markdown: accuracy, LEA, speed, reliability."""
    paper, ceiling = read_results("reached")[:2]
    paper_hidden = f"{paper['hidden tokens']}; the ideal observer {ceiling['hidden tokens']}"
    fast = [row for row in read_results("accuracy") if row["run"].startswith(FAST_RUNS)]
    fast_hidden = reached(fast, "hidden tokens, all").replace(" of ", "%; the ideal observer ") + "%"
    from_sentence = [row for row in read_results("lea") if row["read from"] == "the sentence alone"]
    one, two = (from_sentence[0][f"{type_}: whole boards"] for type_ in ("single", "double"))
    rebuilt = f"one object {one}, two objects {two}"
    of_slots = [row for row in from_sentence if "lea_slots" in row["run"]]
    one, two = (spread([row[f"{type_}: whole boards"] for row in of_slots]) for type_ in ("single", "double"))
    rebuilt_slots = f"one object {one}, two {two}"
    times = {row["what"]: row["time"] for row in read_results("times")}
    kills = [stress_results()["kills"][kind] for kind in SCRIPTS]
    survived = f"{sum(row['survived'] for row in kills)} of {sum(row['kills'] for row in kills)}"
    rows = [
        ("hidden tokens of held-out boards: authors' recipe, 1,500 epochs", paper_hidden, "results"),
        (f"the same: `recipes/factor_fast.args`, {fast[0]['epochs']} epochs, {seeds_in(fast)} seeds",
         fast_hidden, "speed"),
        ("LEA, authors' recipe: held-out boards rebuilt whole from their sentence", rebuilt, "results"),
        (f"the same: `recipes/lea_slots.args`, {len(of_slots)} seeds", rebuilt_slots, "results"),
        ("an epoch of 1,000 boards on two CPU cores (LEA)", f"{times[EPOCH]} ({times[EPOCH_LEA]})", "speed"),
        ("killed runs that, started again, end with the same weights, bit for bit", survived, "reliability"),
    ]
    linked = [(what, figure, f"[{doc}](docs/{doc}.md)") for what, figure, doc in rows]
    return markdown(["measured", "figure", "more"], linked)


def flag_table() -> str:
    """Every flag of both scripts, in Markdown."""
    parsers = (train_model.make_parser(), train_model_lea.make_parser())
    flags_of = [dict(flags_of_parser(parser)) for parser in parsers]
    rows = []
    for flag in dict.fromkeys([*flags_of[0], *flags_of[1]]):
        defaults = [flags[flag][1] if flag in flags else "-" for flags in flags_of]
        meaning = next(flags[flag][0] for flags in reversed(flags_of) if flag in flags)
        rows.append([f"`{flag}`", *defaults, meaning])
    return markdown(["flag", "train_model.py", "train_model_lea.py", "meaning"], rows)


def flags_of_parser(parser) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each flag of a script with (its meaning, its default), as --help says them."""
    for action in parser._actions:
        flag = action.option_strings[-1]
        text = action.help.replace("%%", "%")
        meaning, found, default = text.partition(" (default: ")
        if flag != "--help":
            yield flag, (meaning, default.removesuffix(")") if found else "")


def claims_of(name: str, table: str) -> Rows:
    """The rows of a table of the claims of one of NETWORKS; none if it was not measured."""
    path = f"claims/{name}/{table}"
    return read_results(path) if (ROOT / "benchmarks" / "results" / f"{path}.csv").exists() else []


def verdicts(before: bool = False) -> list[dict[str, dict]]:
    """{table: row} of the verdicts on each of NETWORKS; before: by the rules that held before 29 November."""
    return [{row["table"]: row for row in claims_of(name, "verdicts_before" if before else "verdicts")}
            for name in NETWORKS]


def verdict_table() -> str:
    """The verdict on each claim, in Markdown, a column for each kind of network; in brackets how many
    features were supported by the rules before."""
    after, before, rows = verdicts(), verdicts(True), []
    for name, row in after[0].items():
        claim = row["claim"][0].upper() + row["claim"][1:]
        rows.append([claim, *(verdict_cell(new.get(name), old.get(name))
                              for new, old in zip(after, before, strict=True))])
    return markdown(["claim", *NETWORKS.values()], rows)


def verdict_cell(row: dict[str, str] | None, before: dict[str, str] | None) -> str:
    """Verdict, features supported in every run, of how many, and before, in how many runs."""
    if row is None:
        return ""
    old = "" if before is None else f" (before: {before['supported']} of {before['features']})"
    return f"**{row['verdict']}** {row['supported']} of {row['features']}{old}, n = {row['runs']}"


def verdict_summary() -> str:
    """How many features of each claim are supported in every run of a kind of network, in Markdown."""
    tables, rows = verdicts(), []
    for name, first in tables[0].items():
        cells = [of.get(name, {"supported": "", "features": first["features"]}) for of in tables]
        rows.append([f"{name}, {first['features']}", *(
            cell["supported"] + (f" of {cell['features']}" if cell["features"] != first["features"] else "")
            for cell in cells)])
    return markdown(["features, of", *SHORT], rows)


def turned_table() -> str:
    """The features whose verdict the rules of 29 November turned, in Markdown: effect / strongest control
    of each run."""
    lines = []
    for name, title in NETWORKS.items():
        for old in claims_of(name, "verdicts_before"):
            rows = [row for row in claims_of(name, old["table"]) if row["counts"] == "True"]
            features = {feature.replace(", from [z, p]", ""): word for words, word in (
                (old["supported features"], "supported"), (old["other features"], "not supported"))
                for feature in words.split("; ") if feature}
            for feature, word in features.items():
                now = [row for row in rows if row["feature"] == feature]
                new = "supported" if all(row["supported"] == "True" for row in now) else "not supported"
                if now and new != word:
                    values = [f"{two_digits(row, 'effect')} / {two_digits(row, 'control')}" for row in now]
                    controls = dict.fromkeys(row["strongest control"] for row in now)
                    who = title.partition("; ")[:: 2][old["table"] in ("words", "steering")]
                    lines.append([old["table"], feature, who, new, "; ".join(values), ", ".join(controls)])
    heads = ["claim", "feature", "network", "now", "effect / control", "strongest control"]
    return markdown(heads, lines)


def measure_table() -> str:
    """Every counted feature, in Markdown: ✓ or ✗, the effect with its interval, and the strongest control, of
    each run."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for name in NETWORKS:
        for table in (row["table"] for row in claims_of(name, "verdicts")):
            rows = [row for row in claims_of(name, table) if row["counts"] == "True"]
            for feature in dict.fromkeys(row["feature"] for row in rows):
                of = [row for row in rows if row["feature"] == feature]
                sign = "✓" if all(row["supported"] == "True" for row in of) else "✗"
                cells.setdefault((table, feature), {})[name] = f"{sign} {'; '.join(map(effect_cell, of))}"
    order = [row["table"] for row in claims_of("factor", "verdicts")]
    lines = [[table, feature, *(of.get(name, "") for name in NETWORKS)]
             for (table, feature), of in sorted(cells.items(), key=lambda item: order.index(item[0][0]))]
    return markdown(["claim", "feature", *NETWORKS.values()], lines)


def curve_table() -> str:
    """Learning curves of read-outs and controls, in Markdown: skill on the boards to choose by."""
    lines = []
    for name in NETWORKS:
        rows = claims_of(name, "readouts_curves")
        rows = [row for row in rows if row["run"] == rows[0]["run"]]
        for task in CURVES:
            for source in SOURCES:
                of = [row for row in rows if (row["read-out"], row["source"]) == (task, source)]
                skills = {min(BOARDS, key=lambda size, row=row: abs(size - int(row["boards"]))):
                          two_digits(row, "skill") for row in of}
                if skills:
                    lines.append([of[0]["run"], task, source, *(skills.get(size, "") for size in BOARDS)])
    return markdown(["run", "read-out", "from", *(f"{size:,} boards" for size in BOARDS)], lines)


def composite_table() -> str:
    """Whole composite boards under both kinds of masks, in percent, in Markdown."""
    lines = []
    for name in NETWORKS:
        of_run = {(row["run"], row["feature"]): row for row in claims_of(name, "ceiling")}
        for run in dict.fromkeys(run for run, _ in of_run):
            cells = []
            for group in ("composition", "composition, patch anywhere"):
                for way in ("", ", easy first"):
                    row = of_run[run, f"whole boards, {group}{way}"]
                    low, high = (100 * float(row[f"effect {end}"]) for end in ("low", "high"))
                    cells.append(f"{100 * float(row['effect']):.1f} [{low:.0f}, {high:.0f}]")
            lines.append([f"`{run}`", row["boards"], *cells, f"{100 * float(row['upper']):.1f}"])
    heads = ["a root's footprint, one pass", "easy first", "anywhere, one pass", "easy first", "ceiling"]
    return markdown(["run", "boards", *heads], lines)


def two_digits(row: dict[str, str], name: str) -> str:
    """A number of a row with two digits after the point, "-" where it has none."""
    return as_text(float(row[name] or "nan"), ".2f")


def effect_cell(row: dict[str, str]) -> str:
    """effect [low, high] / control, the last where there is one."""
    cell = f"{two_digits(row, 'effect')} [{two_digits(row, 'effect low')}, {two_digits(row, 'effect high')}]"
    return f"{cell} / {two_digits(row, 'control')}" if row["control"] else cell


def settings_of_accuracy() -> list[Rows]:
    """The rows of accuracy.csv by the settings of training, several seeds each."""
    groups: dict[tuple, Rows] = {}
    for row in read_results("accuracy"):
        names = list(row)  # settings stand between the seed and what is measured
        settings = names[names.index("seed") + 1 : names.index("what")]
        groups.setdefault(tuple(row[name] for name in settings), []).append(row)
    return list(groups.values())


def seeds_in(rows: Rows) -> int:
    """How many seeds were trained."""
    return len({row["seed"] for row in rows})


def reached(rows: Rows, what: str) -> str:
    """Accuracy and ceiling in percent, means over seeds."""
    found = [row for row in rows if row["what"] == what]
    means = [100 * sum(float(row[name]) for row in found) / len(found) for name in ("accuracy", "ceiling")]
    return f"{means[0]:.1f} of {means[1]:.1f}"


def accuracy_table() -> str:
    """Settings of training and how near they come to the ceiling, in Markdown; percent, means over seeds."""
    recipe, lines = settings_of(TrainParams().as_dict()), []
    for rows in settings_of_accuracy():
        first = rows[0]
        start, end = first["board_proba_epoch_start"], first["board_proba_epoch_end"]
        ramps = f"{first['masking_patch_epoch']}; {start} to {end}"
        if first["board_proba_end"] != recipe["board_proba_end"]:
            ramps += f", then {first['board_proba_end'].replace(' ', ' : ')}"
        cells = [reached(rows, what) for what in ("hidden tokens, all", *WHOLE_BOARDS)]
        lines.append([first["epochs"], rate_cell(first), ramps, seeds_in(rows), *cells])
    heads = ["epochs", "learning rate", "patches; curriculum", "seeds", "hidden tokens"]
    return markdown([*heads, "single", "double", "composition"], lines)


def rate_cell(row: dict[str, str]) -> str:
    """The learning rate of a setting, and what else differs from the recipe, in words."""
    parts = [f"{float(row['learning_rate']):g}"]
    if row["optimizer"] != "adamw":
        parts[0] += f", {row['optimizer'].capitalize()}"
    if row["lr_warmup"] != "0":
        parts.append(f"rises over {row['lr_warmup']}")
    if row["lr_schedule"] != "constant":
        parts.append(f"{row['lr_schedule']} fall from {row['lr_decay_start']}")
    if row["overlap_weight"] != "1":  # a parameter of earlier versions, as is weight_average
        parts.append(f"overlapping boards {row['overlap_weight']} times as likely")
    if row["batch_size"] != "64":
        parts.append(f"batches of {row['batch_size']}")
    if row["weight_average"] != "0":
        parts.append(f"weights averaged ({float(row['weight_average']):g})")
    return ", ".join(parts)


def decoded() -> dict[str, dict[str, dict]]:
    """{run: {what: row}} of the networks that were measured in one pass and easy first."""
    of_run: dict[str, dict[str, dict]] = {}
    for row in read_results("accuracy_decode"):
        of_run.setdefault(row["run"], {})[row["what"]] = row
    return of_run


def accuracy_and_bound(row: dict[str, str], way: str) -> list[str]:
    """What was reached and what can be, of the WAYS, in percent."""
    return [f"{100 * float(row[name]):.1f}" for name in WAYS[way]]


def decode_table() -> str:
    """Networks in one pass and easy first, each beside what it can reach at most, in Markdown; percent."""
    tried = {row["run"] for row in read_results("settings")}
    lines = []
    for run, rows in decoded().items():
        if run in tried:
            continue
        found = [rows[f"{what}, easy first"] for what in DECODED.values()]
        for way in WAYS:
            lines.append([f"`{run}`", way, *(" of ".join(accuracy_and_bound(row, way)) for row in found)])
    return markdown(["network", "decoding", *DECODED], lines)


def settings_table() -> str:
    """Settings that were tried, one change each, and whole double boards, in Markdown; percent."""
    of_run, lines = decoded(), []
    for tried in read_results("settings"):
        rows = [of_run[tried["run"]][f"whole boards, double{group}, easy first"]
                for group in ("", " apart", " overlapping")]
        cells, bounds = zip(*(accuracy_and_bound(row, way) for way in WAYS for row in rows), strict=True)
        lines.append([f"`{tried['run']}`", tried["setting"], tried["epochs"], tried["minutes"], *cells])
    lines.append(["", "can be reached", "", "", *bounds])  # alike for all, of one seed
    heads = [f"{way}{group}" for way in WAYS for group in ("", ": apart", ": overlapping")]
    return markdown(["run", "setting", "epochs", "minutes", *heads], lines)


def emergence_table() -> str:
    """How far the measures of EMERGING have come at some checkpoints, in Markdown; a value for each seed."""
    rows = read_results("emergence")
    rows = [row for row in rows if not row["bound"]]
    ways, runs = emergence.ways(rows), list(dict.fromkeys(row["run"] for row in rows))
    lines = []
    for measured, where in EMERGING:
        values = [[float(row["value"]) for row in rows
                   if (row["run"], row["measure"], row["where"]) == (run, measured, where)] for run in runs]
        ends = [" / ".join(f"{course[end]:.2f}" for course in values) for end in (0, -1)]
        found = [ways[run, measured, where] for run in runs]
        shares = [" / ".join(f"{100 * way[epoch]:.0f}" for way in found) + "%" for epoch in EMERGING_AT]
        half = " / ".join(str(emergence.halfway(way)) for way in found)
        lines.append([measured, where, ends[0], *shares, ends[1], half])
    heads = [f"epoch {epoch}" for epoch in EMERGING_AT]
    return markdown(["measured", "where", "untrained", *heads, "last", "half-way at"], lines)


def emergence_places_table() -> str:
    """The measures of AT_PLACES over a training, at positions never shown and at those shown, in Markdown."""
    rows = [row for row in read_results("emergence_places") if not row["bound"]]
    ways, lines = emergence.ways(rows), []
    for measured, where in AT_PLACES:
        for boards in ("held out", "train"):
            course = {int(row["epoch"]): float(row["value"]) for row in rows
                      if (row["run"], row["measure"], row["where"]) == (boards, measured, where)}
            way = ways.get((boards, measured, where))
            first = [measured, where] if boards == "held out" else ["", ""]
            lines.append([*first, boards, *(f"{course[epoch]:.2f}" for epoch in AT_PLACES_EPOCHS),
                          "-" if way is None else str(emergence.halfway(way))])
    heads = ["untrained", *(f"epoch {epoch}" for epoch in AT_PLACES_EPOCHS[1:-1]), "last"]
    return markdown(["measured", "where", "boards", *heads, "half-way at"], lines)


def held_out_runs(prefix: str) -> dict[str, list[str]]:
    """{what is held out: runs}, of the runs in held_out.csv whose names start with prefix."""
    rows, found = read_results("held_out"), {}
    for name, (method, card) in HELD_OUT.items():
        runs = dict.fromkeys(row["run"] for row in rows if row["run"].startswith(prefix)
                             and (row["split_method"], float(row["card_test"])) == (method, card))
        if runs:
            found[name] = list(runs)
    return found


def held_out_values(
    runs: list[str], masks: str, boards: str, group: str, columns: Sequence[str]
) -> list[list[float]]:
    """A list of percentages for each column, a value a run; an empty one if the split has no such boards."""
    rows = [row for row in read_results("held_out") if row["run"] in runs and row["boards of"] == boards
            and row["masks"] == masks and row["type"] == group]
    return [[float(row[column]) for row in rows if row[column]] for column in columns]


def mean_cell(values: list[float], ranges: bool = False) -> str:
    """A mean of percentages with one digit, "-" if there are none; ranges: with least and greatest."""
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.1f}"
    return f"{mean} [{min(values)}, {max(values)}]" if ranges and len(values) > 1 else mean


def held_out_table(masks: str, prefix: str = "ff_") -> str:
    """Whole boards, held-out and train: one pass [range over seeds] / easy first of the ceiling, means."""
    lines = []
    for name, runs in held_out_runs(prefix).items():
        for boards, label in (("test", "held out"), ("train", "train")):
            cells = []
            for group in HELD_OUT_GROUPS:
                values = held_out_values(runs, masks, boards, group, ("one pass", "easy first", "ceiling"))
                easy, ceiling = map(mean_cell, values[1:])
                cells.append(f"{mean_cell(values[0], True)} / {easy} of {ceiling}" if values[0] else "-")
            lines.append([f"{name}, seeds: {len(runs)}" if boards == "test" else "", label, *cells])
    return markdown(["held out", "boards", *HELD_OUT_GROUPS], lines)


def generalised_table() -> str:
    """README's table: whole boards in one pass, held out (train), means over seeds, in Markdown."""
    lines = []
    for name, runs in held_out_runs("ff_").items():
        cells = []
        for group in HELD_OUT_GROUPS:
            held, train = (held_out_values(runs, "25%", boards, group, ["one pass"])[0]
                           for boards in ("test", "train"))
            cells.append(f"{mean_cell(held)} ({mean_cell(train)})" if held else "-")
        lines.append([name, len(runs), *cells])
    return markdown(["held out (split)", "seeds", *HELD_OUT_GROUPS], lines)


def sentence_table() -> str:
    """Whole boards that LEA rebuilds from the sentence alone, a line a setting: held out (train), means over
    seeds and their range, in Markdown."""
    runs: dict[tuple[str, str], list[str]] = {}
    for row in read_results("held_out_lea"):
        runs.setdefault((row["held out"], row["setting"]), []).append(row["run"])
    lines = []
    for (held_out, setting), names in runs.items():
        cells = []
        for group in TYPES:
            held, train = (held_out_values(names, "sentence", boards, group, ["one pass"])[0]
                           for boards in ("test", "train"))
            cells.append(f"{mean_cell(held, True)} ({mean_cell(train)})" if held or train else "-")
        lines.append([held_out, setting, len(names), *cells])
    return markdown(["held out", "setting", "seeds", *TYPES], lines)


def moved_words_table() -> str:
    """Boards that moved words turn into the wanted board, in Markdown: share [interval] of the upper bound /
    strongest control, of the two published languages of `places` 0.5."""
    of = [{row["feature"]: row for row in claims_of(folder, "steering")}
          for folder in ("factor_places", "lea_groups")]
    lines = []
    for feature in of[0]:
        rows = [table[feature] for table in of]
        cells = [f"{with_interval(row, 'effect')} of {two_digits(row, 'upper')}"
                 f" / {two_digits(row, 'control')}"
                 for row in rows]
        lines.append([feature, *cells])
    return markdown(["changed", "`lea_places`, 32 words", "`lea_groups`, 16 x 4 words"], lines)


def dictionary_results(table: str) -> dict[str, Rows]:
    """{folder: rows} of a table of studies.dictionaries, of the networks measured."""
    return {run: read_results(f"dictionaries/{run}/{table}") for run in DICTIONARIES
            if (ROOT / "benchmarks" / "results" / "dictionaries" / run / f"{table}.csv").exists()}


def with_interval(row: dict[str, str], name: str) -> str:
    """A column of a row with its interval."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(float(row[name + end]) for end in ("", " low", " high")))


def between(values: Iterable[str]) -> str:
    """The least and the greatest of some figures."""
    least, *_, most = sorted([float(value) for value in values] * 2)
    return f"{least:.2f}" if f"{least:.2f}" == f"{most:.2f}" else f"{least:.2f} to {most:.2f}"


def by_feature(table: str) -> Iterator[tuple[dict[str, dict[str, str]], Rows]]:
    """Of each feature that counts: {folder: row}, and the rows of the networks that are judged."""
    results = dictionary_results(table)
    for first in next(iter(results.values())):
        if first["counts"] == "True":
            rows = {run: row for run, of in results.items() for row in of
                    if (row["stage"], row["feature"]) == (first["stage"], first["feature"])}
            yield rows, [row for run, row in rows.items() if run != NOT_JUDGED]


def tally(judged: Rows, column: str) -> str:
    """In how many networks a column is True, of those judged."""
    return f"{sum(row[column] == 'True' for row in judged)} of {len(judged)}"


def dictionary_table() -> str:
    """Coverage of each label in each network, with its interval, in Markdown."""
    runs = dictionary_results("coverage")
    return markdown(["label", *(DICTIONARIES[run] for run in runs)], (
        [next(iter(rows.values()))["feature"], *(
            with_interval(rows[run], "effect") + (", found" if rows[run]["supported"] == "True" else "")
            for run in runs)] for rows, _ in by_feature("coverage")))


def dictionary_verdicts() -> str:
    """Coverage beside its controls, over the networks that are judged, in Markdown."""
    lines = []
    for _, judged in by_feature("coverage"):
        strongest = ", ".join(dict.fromkeys(row["strongest control"] for row in judged))
        found = tally(judged, "supported")
        lines.append([judged[0]["feature"], between(row["effect"] for row in judged),
                      f"{between(row['control'] for row in judged)} ({strongest})",
                      between(row["linear probe"] for row in judged),
                      between(row["5 x 5 read-out"] for row in judged), found,
                      tally(judged, "beyond the input"),
                      "supported" if found == f"{len(judged)} of {len(judged)}" else "not supported"])
    return markdown(["label", "dictionary", "strongest control without labels", "linear probe",
                     "5 x 5 read-out", "found", "beyond the input", "found by single latents"], lines)


def clamping_table() -> str:
    """Clamped latents beside their controls, over the networks that are judged, in Markdown."""
    names = ("effect", "control", "class means", "upper")
    return markdown(["site", "clamped", "success", "strongest control", "difference of class means",
                     "the other root's tokens", "supported"], (
        [judged[0]["stage"], judged[0]["feature"], *(between(row[name] for row in judged) for name in names),
         tally(judged, "supported")] for _, judged in by_feature("clamping")))


def position_table() -> str:
    """Coverage and recall at positions that train shows and at others, in Markdown."""
    lines = []
    for run, rows in dictionary_results("table").items():
        scores = {tuple(row[key] for key in ("cells", "label", "boards", "measure")):
                  with_interval(row, "score") for row in rows if row["source"] == "topk"}
        for cells, label in itertools.product(("hidden", "visible"), ("root", "root x place")):
            keys = [(cells, label, f"{which} positions", measure) for measure in ("single", "recall")
                    for which in ("seen", "new")]
            if keys[0] in scores:
                lines.append([DICTIONARIES[run], f"{label}, {cells} cells", *(scores[key] for key in keys)])
    return markdown(["network", "label", "F1, seen", "F1, new", "recall, seen", "recall, new"], lines)


def words_table() -> str:
    """Which words and which latents tell what is on a whole board, in Markdown."""
    lines, labels = [], ("root", "composite", "row", "column")
    for run, rows in dictionary_results("table").items():
        found: dict[tuple[str, str], dict[str, str]] = {}
        for row in rows:
            if row["cells"].startswith("boards of "):
                lea = row["cells"].removeprefix("boards of ")
                found.setdefault((lea, row["source"]), {})[row["label"]] = with_interval(row, "score")
        for (lea, source), of in found.items():
            name = "dictionaries" if source == "topk" else source
            name += f" of {DICTIONARIES[run]}" if source in ("topk", "neurons") else ""
            lines.append([f"`{lea}`", name, *(of.get(label, "-") for label in labels)])
    lines = sorted(dict.fromkeys(map(tuple, lines)), key=lambda line: line[0])  # words once, not by network
    return markdown(["boards and words of", "F1 of", *labels], lines)


def measures_table() -> str:
    """What several latents tell together, over the networks that are judged, in Markdown."""
    scores: dict[str, dict[tuple[str, str], list[str]]] = {}
    for run, rows in dictionary_results("table").items():
        for row in rows if run != NOT_JUDGED else ():
            if row["boards"] == "held out" and row["cells"] in ("hidden", "visible"):
                of = scores.setdefault(row["measure"], {})
                of.setdefault((row["label"], row["cells"]), []).append(row["score"])
    keys = list(itertools.product(("root", "root x place"), ("hidden", "visible")))
    return markdown(["measure", *(f"{label}, {cells} cells" for label, cells in keys)], (
        [measure, *(between(of[key]) if key in of else "-" for key in keys)]
        for measure, of in scores.items()))


def fact_table() -> str:
    """Variance explained, what reconstructions keep, stability, matching and absorption, in Markdown."""
    lines = []
    for run, rows in dictionary_results("facts").items():
        def of(name: str, source: str = "topk", cells: str = "all", label: str = "", rows=rows) -> str:
            values = [row[name] for row in rows if row[name]
                      and (row["source"], row["cells"], row["label"]) == (source, cells, label)]
            return between(values) if values else "-"

        both = ("hidden", "visible")
        lines.append([DICTIONARIES[run], f"{of('explained')} ({of('explained', 'untrained network')})",
                      f"{of('hidden cells kept')} ({of('hidden cells kept', 'frozen decoder')})",
                      of("loss kept"), of("stability"),
                      *(f"{of('matching', cells=cells, label='root')} "
                        f"({of('matching, permuted', cells=cells, label='root')})" for cells in both),
                      *(of("absorption gap", cells=cells) for cells in both)])
    return markdown(["network", "variance explained (untrained network)",
                     "hidden cells kept (frozen decoder)", "loss kept", "stability",
                     "matching of roots, hidden (permuted)", "visible", "absorption gap, hidden", "visible"],
                    lines)


def kinds_table() -> str:
    """Kinds of dictionary on one network: single latents' F1, and what reconstructions keep, in Markdown."""
    table, facts = (read_results(f"dictionaries/kinds/{name}") for name in ("table", "facts"))
    keys = [("object", "hidden"), *itertools.product(("root", "root x place"), ("hidden", "visible"))]
    lines = []
    for kind in dict.fromkeys(row["source"] for row in table):
        f1 = {(row["label"], row["cells"]): with_interval(row, "score")
              for row in table if row["source"] == kind}
        kept = ([row[name] for row in facts if row["source"] == kind and row[name]]
                for name in ("explained", "L0", "alive", "hidden cells kept"))
        lines.append([kind, *map(between, kept), *(f1[key] for key in keys)])
    return markdown(["kind", "variance explained", "latents on in a cell", "latents in use",
                     "hidden cells kept", *(f"{label}, {cells} cells" for label, cells in keys)], lines)


def rebuilt_table() -> str:
    """What is right of single boards rebuilt from sentences, in Markdown."""
    settings = {row["run"]: row["setting"] for row in read_results("held_out_lea")}
    rows = read_results("held_out_words")
    columns = [name for name in rows[0] if name not in ("run", "boards")]
    lines = [[settings[row["run"]],
              *("held out" if row[name] == "test" else row[name] or "-" for name in columns)] for row in rows]
    return markdown(["setting", *columns], lines)


def codebook_table() -> str:
    """The last epoch of each run of bench_codebook.py, in Markdown."""
    last = {(row["way"], row["seed"]): row for row in read_results("codebook")}
    lines = []
    for (way, seed), row in sorted(last.items()):
        shares = [percent(row[name]) for name in ("tokens_single", "boards_single", "tokens_double")]
        use = [f"{float(row[name]):.0f}" for name in ("words", "perplexity")]
        lines.append([f"`{way}`", seed, row["epoch"], *shares, *use, f"{float(row['longest_word']):.1f}"])
    heads = ["way", "seed", "epochs", "single: tokens", "boards", "double: tokens"]
    return markdown([*heads, "words in use", "perplexity", "longest word"], lines)


def percent(share: str) -> str:
    """A share between 0 and 1 in percent."""
    return f"{100 * float(share):.1f}%"


def kills_table() -> str:
    """Kills of small runs and how many survived, in Markdown."""
    names = {
        "aimed at a write, flush, rename or removal":
            "killed once, at each of a run's writes, flushes, renames and removals",
        "runs killed again and again":
            "killed again and again, at random steps",
        "at a random moment, by another process":
            "killed by another process, at random moments",
        "kills":
            "kills in all",
        "survived":
            "**survived**: bit-identical weights and the same log at the end",
        "runs with nothing saved yet, said so and started again":
            "of these, before anything was saved: said so, started again",
    }
    kills = stress_results()["kills"]
    rows = [[text, *(kills[kind][name] for kind in SCRIPTS)] for name, text in names.items()]
    return markdown(["kills (SIGKILL) of small runs", *SCRIPTS.values()], rows)


def pairs_table() -> str:
    """Kills of runs of two processes and exceptions in an epoch, in Markdown."""
    found = stress_results()
    pairs, raised = found["pairs"], found["exceptions"]
    names = [name for name in pairs["factor"] if name.startswith("of ")]
    names += ["kills", "survived", "runs with nothing saved yet, said so and started again"]
    rows = [[f"kills {name}" if name.startswith("of ") else name,
             *(pairs[kind].get(name, 0) for kind in SCRIPTS)]
            for name in names]
    rows += [["exceptions: points of an epoch at which a user's hook raises",
              *(raised[kind]["points of an epoch"] for kind in SCRIPTS)],
             ["of these, training that then went on as if nothing had happened",
              *(raised[kind]["survived"] for kind in SCRIPTS)]]
    return markdown(["two processes; exceptions", *SCRIPTS.values()], rows)


def damage_table() -> str:
    """Damaged files and what became of them, in Markdown."""
    rows = []
    for name, tally in stress_results()["fuzz"].items():
        if isinstance(tally, dict):
            memory = f"{tally['most memory taken, MB']:.0f} MB"
            rows.append([name, tally["files"], tally["refused by name"], tally["loaded"], memory])
    return markdown(["file", "tried", "refused", "loaded", "most memory taken"], rows)


def soak_table() -> str:
    """Memory and speed along a long training, in Markdown, every fifth of its marks."""
    rows = []
    for kind, script in SCRIPTS.items():
        curve = stress_results()["soak"][kind]["curve"]
        marks = list(zip(*curve.values(), strict=True))
        for epoch, memory, count, time, fixed in marks[4::5]:
            rows.append([script, epoch, f"{memory:.0f} MB", count, f"{time:.1f} ms", f"{fixed:.2f} ms"])
    heads = ["run", "epoch", "memory", "open files", "time of an epoch", "of 50 products of 64 × 64 matrices"]
    return markdown(heads, rows)


def stress_time() -> str:
    """What a run of the stress program takes, a sentence."""
    found = stress_results()
    minutes = sum(found[part]["CPU minutes"] for part in ("kills", "pairs", "exceptions", "fuzz", "soak"))
    return f"One `make stress`, all of it, took {minutes:.0f} minutes of CPU time (AMD EPYC, no GPU).\n"


PARTS = {
    "headlines": headline_table,
    "flags": flag_table,
    "reached": functools.partial(plain_table, "reached"),
    "lea": functools.partial(plain_table, "lea"),
    "language": functools.partial(plain_table, "language"),
    "codebook": codebook_table,
    "times": functools.partial(plain_table, "times"),
    "together": functools.partial(plain_table, "together"),
    "dictionaries": dictionary_table,
    "dictionaries verdicts": dictionary_verdicts,
    "dictionaries clamping": clamping_table,
    "dictionaries positions": position_table,
    "dictionaries words": words_table,
    "dictionaries measures": measures_table,
    "dictionaries facts": fact_table,
    "dictionaries kinds": kinds_table,
    "scale": functools.partial(plain_table, "scale"),
    "accuracy": accuracy_table,
    "decode": decode_table,
    "settings": settings_table,
    "emergence": emergence_table,
    "emergence places": emergence_places_table,
    "verdicts": verdict_table,
    "features": verdict_summary,
    "turned": turned_table,
    "measures": measure_table,
    "curves": curve_table,
    "composites": composite_table,
    "coverage": functools.partial(plain_table, "coverage"),
    "held out recipe": functools.partial(held_out_table, "recipe"),
    "held out no patch": functools.partial(held_out_table, "25%"),
    "held out best": functools.partial(held_out_table, "25%", "fb_"),
    "generalised": generalised_table,
    "sentences": sentence_table,
    "sentences wrong": rebuilt_table,
    "sentences moved": moved_words_table,
    "kills": kills_table,
    "pairs": pairs_table,
    "damage": damage_table,
    "soak": soak_table,
    "stress time": stress_time,
}


def rendered(text: str) -> str:
    """A document with its generated parts made anew."""
    for name, make in PARTS.items():
        opening, closing = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if opening in text:
            before, _, rest = text.partition(opening)
            text = before + opening + make() + closing + rest.partition(closing)[2]
    return text


def main() -> int:
    """Rewrites the documents, or with --check names those out of step; the exit code."""
    stale = []
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = rendered(before)
        if after != before:
            stale.append(path)
            if "--check" not in sys.argv:
                path.write_text(after, encoding="utf-8", newline="\n")
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'out of step' if '--check' in sys.argv else 'written'}")
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
