"""The course of a run, from the untrained network on. It has no verdict; it is what the paper's title is
about.

Measure: the same things at every checkpoint, on the same held-out boards and masks. Accuracy on hidden tokens
and whole boards, in one pass; the skill of a linear read-out of the root from hidden cells, and their
nearness by root, at each stage; exact success of swaps after each block; the shares of a hidden object cell's
attention that stay in its object (itself included) and that go to its object's visible cells; and, of the
attention to visible cells of any object, the share of its own if there are two.
Bounds: the ideal observer's accuracy by the most probable token of each cell and by the most probable board;
swaps of the tokens in the input; the same attention for every cell, which already scores well, because many
hidden cells lie in the same object, or because a cell may attend to all that is no background.

A row: `epoch` (-1 before the first step, empty for bounds), `measure`, `where` (board type, stage, or both),
`bound` (empty for the network itself), `value` and its interval.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from module_dataset import TYPES
from parts.boards.pictures import new_figure
from parts.files import numbered
from studies.claims.ceiling import APART, OVERLAPPING, counts, groups_of, ideal
from studies.claims.convergence import Cells, nearness, object_cells
from studies.claims.figures import INKS, LINES
from studies.claims.manipulation import Trial
from studies.claims.networks import Network, untrained
from studies.claims.readouts import Task, readouts
from studies.claims.runs import masking_of, proba_of
from studies.claims.sample import make_sample
from studies.claims.scenes import only_train, types_in_use
from studies.claims.scores import ratio, resample, spread
from studies.claims.statistics import several, unit
from studies.claims.swaps import Swaps, swaps_of

UNTRAINED = -1  # the epoch of a network before its first step
HIDDEN, WHOLE = ACCURACIES = ("hidden tokens", "whole boards")
READ_OUT, NEARNESS = "read-out of the root, hidden cells", "nearness by root, hidden cells"
SWAPS, ATTENTION = "exact success of swaps", "attention that stays in the object"
SEEN = "attention to the object's visible cells"
OWN = "attention to visible objects: share of its own, two objects apart"
MEASURES = (HIDDEN, WHOLE, READ_OUT, NEARNESS, SWAPS, ATTENTION, SEEN, OWN)
BEST_TOKEN, BEST_BOARD, EVEN = "best token", "best board", "the same for every cell"  # bounds
INPUT, EVERY_BLOCK = "tokens in the input", "every block"  # further places
SWAPPED = (0, 1)  # types of boards of which a root is swapped
VALUES = ("value", "value low", "value high")
LEFT = 0.2  # where the picture has the untrained network, in epochs trained
LEAST_RISE = 0.1  # a measure that rises less is not followed
NOT_DRAWN = ("all", APART, OVERLAPPING)  # groups of boards that the picture leaves out


class Material:
    """What every checkpoint of a run is measured on: `fit` boards for read-outs, at most `test` held-out
    boards a type, or with `train` as many boards of train, each under `masks` masks, `swaps` a board type;
    `draws` bootstrap samples."""

    def __init__(self, trainer, rng: np.random.Generator, fit: int = 900, test: int = 60, masks: int = 4,
                 swaps: int = 100, draws: int = 200, train: bool = False):
        dataset, proba = only_train(trainer.dataset) if train else trainer.dataset, proba_of(trainer)
        masking, side = masking_of(trainer), dataset.params.board_dim
        self.sample = sample = make_sample(dataset, proba, masking, rng, fit, fit // 6, test, masks)
        drawn, masked = sample.drawn.take(sample.test), sample.tokens[sample.test].reshape(-1, side, side)
        self.groups = groups_of(dataset, drawn)  # {name: (n,) which masked test boards}
        best = ideal(dataset, masked, drawn.boards, proba)[:, 1:]
        # {best token or best board: (2, n) right hidden tokens, whole boards}
        self.ideal = dict(zip((BEST_TOKEN, BEST_BOARD), best, strict=True))
        types = [type_ for type_ in types_in_use(dataset, proba) if type_ in SWAPPED]
        made = {TYPES[type_]: swaps_of(dataset, type_, swaps, rng, masking=masking) for type_ in types}
        self.W = resample(sample.test_board.max() + 1, rng, draws)  # (R + 1, test boards)
        self.W_masked = self.W[:, sample.test_board]  # (R + 1, n)
        # {board type: (swaps, (R + 1, swaps))}
        self.swaps = {name: (of_type, resample(of_type.base, rng, draws))
                      for name, of_type in made.items() if of_type is not None}


def follow(trainer, rng: np.random.Generator, bar: Callable = iter, **amounts: int | bool) -> list[dict]:
    """Rows of a trainer's run: the bounds, the untrained network, and every checkpoint in order. trainer: as
    `from_run` makes it; it is left with the last checkpoint. amounts: see `Material`."""
    material = Material(trainer, rng, **amounts)
    rows = [{"epoch": ""} | row for row in bounds(material)]
    checkpoints = numbered(trainer.folder / "checkpoints", r"model_(\d+)\.pth")
    for epoch, path in bar([(UNTRAINED, None), *checkpoints]):
        if path is not None:
            trainer.load_transformer(path)
        network = Network(untrained(trainer) if path is None else trainer)
        rows += [{"epoch": epoch} | row for row in measure(network, material)]
    return rows


def bounds(material: Material) -> list[dict]:
    """Rows without a network: the ideal observer, and attention that is the same for every cell."""
    rows = []
    for name, right in material.ideal.items():
        rows += _accuracy(material, right, name)
    cells, T = object_cells(material.sample, True), material.sample.tokens.shape[1]
    return rows + _attention({EVERY_BLOCK: np.full((len(cells.board), T), 1 / T)}, cells, material, EVEN)


def measure(network: Network, material: Material) -> list[dict]:
    """Rows of one network."""
    sample = material.sample
    maps = {f"b{i}": f"b{i}_a" for i in range(network.trainer.n_layer)}
    logits, acts = network.run(sample.tokens, [*network.stages, *maps.values()])
    stages = {name: acts[name] for name in network.stages}
    cells = object_cells(sample, True)
    right = logits[sample.test].argmax(-1) == sample.drawn.tokens[sample.test]
    rows = _accuracy(material, counts(right[:, None], sample.hidden[sample.test][:, None])[1:])
    rows += _read_outs(stages, material) + _nearness(stages, cells, material)
    for name, (swaps, W) in material.swaps.items():
        rows += _swaps(network, swaps, W, name)
    attention = {block: acts[site][sample.test][cells.board, :, cells.cell].mean(1)  # over heads
                 for block, site in maps.items()}
    return rows + _attention(attention, cells, material)


def _row(measure: str, where: str, score: np.ndarray, bound: str = "") -> dict:
    return {"measure": measure, "where": where, "bound": bound} | spread("value", score)


def _accuracy(material: Material, right: np.ndarray, bound: str = "") -> list[dict]:
    """Rows of how many hidden tokens, and whether all tokens, are right (2, n) on the masked test boards."""
    W, hidden = material.W_masked, material.sample.hidden[material.sample.test].sum(1)
    return [_row(name, group, ratio(part[use], whole[use], W[:, use]), bound)
            for name, part, whole in zip(ACCURACIES, right, (hidden, np.ones_like(hidden)), strict=True)
            for group, use in material.groups.items()]


def _read_outs(stages: dict[str, np.ndarray], material: Material) -> list[dict]:
    sample = material.sample
    root = sample.labels["root"]
    train = sample.hidden & (root >= 0)
    task = Task(root, train, train & sample.known["root"])
    found = readouts(lambda where: {stage: X[where] for stage, X in stages.items()}, {READ_OUT: task}, sample,
                     material.W_masked)
    return [_row(READ_OUT, stage, readout.score) for stage, readout in found[READ_OUT].items()]


def _nearness(stages: dict[str, np.ndarray], cells: Cells, material: Material) -> list[dict]:
    sample, rows = material.sample, []
    if not several(cells.root) or not several(cells.token):
        return rows
    for stage, X in stages.items():
        points = unit(X[sample.test][cells.board, cells.cell])
        near = nearness(points, cells.root, cells.token, sample.test_board[cells.board], material.W)
        rows.append(_row(NEARNESS, stage, near))
    return rows


def _swaps(network: Network, swaps: Swaps, W: np.ndarray, type_: str) -> list[dict]:
    """Rows of the donor's activations after each block, and of its tokens in the input."""
    trial = Trial(network, swaps, W, names=["donor"])
    logits = {INPUT: trial.wanted}
    logits |= {stage: trial.patched(stage, trial.acts["donor"][stage]) for stage in network.editable}
    return [_row(SWAPS, f"{place}, {type_}", trial.success(made)) for place, made in logits.items()]


def _attention(attention: dict[str, np.ndarray], cells: Cells, material: Material,
               bound: str = "") -> list[dict]:
    """Rows of the attention {where: (N, T)} of N hidden object cells."""
    sample, rows = material.sample, []
    own = np.ones((len(cells.board), sample.tokens.shape[1]), bool)  # cells of the same object
    for name in ("root", "row", "column"):
        values = sample.labels[name][sample.test][cells.board]
        own &= values == np.take_along_axis(values, cells.cell[:, None], 1)
    visible = ~sample.hidden[sample.test][cells.board]
    objects = visible & (sample.labels["root"][sample.test][cells.board] >= 0)
    apart = material.groups.get(APART, np.zeros(0, bool))

    def over_cells(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """Score of sum(part) / sum(whole) over cells, both (N,)."""
        of_boards = (np.bincount(cells.board, values, len(sample.test_board)) for values in (part, whole))
        return ratio(*of_boards, material.W_masked)

    for where, weights in attention.items():
        inside, seen, of_objects = ((weights * there).sum(1) for there in (own, own & visible, objects))
        ones = np.ones_like(inside)
        rows.append(_row(ATTENTION, where, over_cells(inside, ones), bound))
        rows.append(_row(SEEN, where, over_cells(seen, ones), bound))
        if apart.any():
            use = apart[cells.board]
            rows.append(_row(OWN, where, over_cells(seen * use, of_objects * use), bound))
    return rows


def courses_of(rows: Iterable[dict]) -> dict[tuple[str, str, str], list[dict]]:
    """{(run, measure, where): rows in the order of epochs}, without bounds. rows: as `follow` makes them,
    with 'run'; or read from their CSV."""
    courses: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows:
        if not row["bound"]:
            courses.setdefault((row["run"], row["measure"], row["where"]), []).append(row)
    return {key: sorted(course, key=lambda row: int(row["epoch"])) for key, course in courses.items()}


def ways(rows: Iterable[dict]) -> dict[tuple[str, str, str], dict[int, float]]:
    """{(run, measure, where): {epoch: share}}: how far each measure has come from the untrained network's
    value (0) to the last one's (1), if it rises by LEAST_RISE. rows: as `courses_of` takes them."""
    shares = {}
    for key, course in courses_of(rows).items():
        values = [_number(row["value"]) for row in course]
        first, last = values[0], values[-1]
        if last - first >= LEAST_RISE:
            shares[key] = {int(row["epoch"]): (value - first) / (last - first)
                           for row, value in zip(course, values, strict=True)}
    return shares


def halfway(way: dict[int, float]) -> int:
    """The first checkpoint at which a measure has gone half of its way, one of `ways`."""
    return next(epoch for epoch, share in way.items() if share >= 0.5)


def _number(cell: float | str) -> float:
    """A value, or a cell of a CSV, which is empty for a missing number."""
    return float("nan") if cell == "" else float(cell)


def plot_emergence(rows: Sequence[dict]):
    """A panel per measure: values over epochs on a logarithmic scale, the untrained network at the left edge;
    a colour per board type or stage, a kind of line per run, bounds of the first run as level lines. rows: as
    `courses_of` takes them."""
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure, axes = new_figure(2, 4, (19, 8.8))
    shown = [row for row in rows if row["where"] not in NOT_DRAWN]
    for ax, measured in zip(axes.flat, MEASURES, strict=True):
        here = [row for row in shown if row["measure"] == measured]
        _draw_courses(ax, here, runs)
        for row in here:
            if row["bound"] and row["run"] == runs[0]:
                ink = {line.get_label(): line.get_color() for line in ax.lines}.get(row["where"], "0.5")
                style = ":" if row["bound"] == BEST_TOKEN else "--"
                ax.axhline(_number(row["value"]), color=ink, linestyle=style, linewidth=1)
        ax.set_title(measured.replace(": ", ":\n"), fontsize=11)
        ax.set(xscale="log", xlabel="epochs trained")
        ax.set_xticks([LEFT, 1, 10, 100, 1000], ["untrained", "1", "10", "100", "1000"])
        ax.grid(alpha=0.3)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=7)
    lines = [axes[0, 0].plot([], [], color="black", linestyle=line)[0] for line in LINES[: len(runs)]]
    figure.legend(lines, runs, loc="outside lower center", ncols=len(runs), fontsize=10)
    return figure


def _draw_courses(ax, rows: Sequence[dict], runs: Sequence[str]) -> None:
    """The courses of one measure, with their intervals."""
    courses = courses_of(rows)
    for (measured, where), ink in zip(dict.fromkeys(key[1:] for key in courses), INKS, strict=False):
        for run, line in zip(runs, LINES, strict=False):
            course = courses.get((run, measured, where), [])
            x = [LEFT if int(row["epoch"]) == UNTRAINED else int(row["epoch"]) + 1 for row in course]
            y, low, high = ([_number(row[name]) for row in course] for name in VALUES)
            label = where if run == runs[0] else None
            ax.plot(x, y, linestyle=line, color=ink, marker=".", linewidth=1.2, label=label)
            ax.fill_between(x, low, high, color=ink, alpha=0.1, linewidth=0)
