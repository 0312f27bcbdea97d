"""What emerges when: the course of a run, from the untrained network on. It has no verdict; it is what the
paper's title is about.

Measure: the same things at every checkpoint, on the same held-out boards and masks. Accuracy on hidden tokens
and whole boards, in one pass; the skill of a linear read-out of the root from hidden cells, and their
nearness by root, at each stage; exact success of swaps after each block; and which share of the attention of
a hidden object cell stays in its object, itself included, or goes to the object's visible cells: hidden cells
that look at all hidden cells find many in their own object without knowing it. And of the attention to
visible objects, which share goes to its own where there is another: cells may look at whatever is no
background.
Beside them: what an exact observer can reach by the best token of each cell and by the best board; swaps of
the tokens in the input; the share that attention would have that is the same for every cell. `ways` says how
far each measure has come at each checkpoint, so that their order can be seen.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from module_dataset import TYPES
from parts.files import numbered
from parts.probing.panels import new_figure
from studies.claims.ceiling import APART, OVERLAPPING, counts, groups_of
from studies.claims.convergence import Cells, nearness, object_cells
from studies.claims.figures import INKS, LINES
from studies.claims.manipulation import Trial
from studies.claims.networks import Network, untrained
from studies.claims.readouts import readouts
from studies.claims.sample import Sample, make_sample
from studies.claims.scenes import types_in_use
from studies.claims.scores import ratio, resample, spread
from studies.claims.statistics import unit
from studies.claims.swaps import Swaps, swaps_of

UNTRAINED = -1  # the epoch of a network before its first step
BOUND = ""  # the epoch of what no network has a part in
HIDDEN, WHOLE = ACCURACIES = ("hidden tokens", "whole boards")
READ_OUT, NEARNESS = "read-out of the root, hidden cells", "nearness by root, hidden cells"
SWAPS, ATTENTION = "exact success of swaps", "attention that stays in the object"
OWN = "attention to visible objects: share of its own, two objects apart"
MEASURES = (HIDDEN, WHOLE, READ_OUT, NEARNESS, SWAPS, ATTENTION, OWN)
BEST_TOKEN, BEST_BOARD, EVEN = ", best token", ", best board", ", the same for every cell"
INPUT = "tokens in the input"
VISIBLE = ", visible cells"
SWAPPED = (0, 1)  # types of boards of which a root is swapped
VALUES = ("value", "value low", "value high")
LEFT = 0.2  # where the picture has the untrained network, in epochs trained
WAY = 0.1  # what rises less has no way to speak of
NOT_DRAWN = ("all", APART, OVERLAPPING)  # kinds of boards that the picture leaves out


@dataclass
class Material:
    """What every checkpoint of a run is measured on."""

    sample: Sample
    W: np.ndarray  # (R + 1, test boards)
    groups: dict[str, np.ndarray]  # {name: (n,)} which masked test boards; see `groups_of`
    bounds: dict[str, np.ndarray]  # {best token or best board: (n, T)} answers of an exact observer
    swaps: dict[str, Swaps]  # by the name of the board type
    swaps_W: dict[str, np.ndarray]  # likewise, (R + 1, swaps)

    @property
    def W_masked(self) -> np.ndarray:
        """(R + 1, n) how often each masked test board counts."""
        return self.W[:, self.sample.boards]


def make_material(trainer, rng: np.random.Generator, fit: int = 900, test: int = 60, masks: int = 4,
                  swaps: int = 100, draws: int = 200) -> Material:
    """What a run is followed on: fit boards for read-outs, at most test held-out boards a type, each under
    masks masks; swaps a board type; bootstrap draws."""
    dataset, proba = trainer.dataset, trainer._board_proba(max(trainer.epoch - 1, 0))
    sample = make_sample(dataset, proba, rng, fit, test, masks)
    side = dataset.params.board_dim
    best = dataset.best_reconstruction(sample.tokens[sample.test].reshape(-1, side, side), proba)
    answers = {BEST_TOKEN: best.marginal, BEST_BOARD: best.board}
    made = {TYPES[t]: swaps_of(dataset, t, swaps, rng) for t in types_in_use(dataset, proba) if t in SWAPPED}
    made = {name: found for name, found in made.items() if found is not None}
    return Material(
        sample=sample, W=resample(sample.boards.max() + 1, rng, draws),
        groups=groups_of(dataset, sample.scenes.take(sample.test)),
        bounds={name: answer.reshape(-1, side * side) for name, answer in answers.items()},
        swaps=made, swaps_W={name: resample(found.base, rng, draws) for name, found in made.items()})


def follow(trainer, rng: np.random.Generator, bar: Callable = iter, **amounts: int) -> list[dict]:
    """Rows {epoch, measure, where, value, value low, value high} of a trainer's run at every checkpoint, the
    untrained network and the bounds; where: board type, stage, or both. trainer: as `from_run` makes it; it
    is left with the last checkpoint. amounts: see `make_material`."""
    material = make_material(trainer, rng, **amounts)
    rows = _at(BOUND, bounds(material))
    checkpoints = numbered(trainer.folder / "checkpoints", r"model_(\d+)\.pth")
    for epoch, path in bar([(UNTRAINED, None), *checkpoints]):
        if path is None:
            network = Network(untrained(trainer))
        else:
            trainer.load_transformer(path)
            network = Network(trainer)
        rows += _at(epoch, measure(network, material))
    return rows


def _at(epoch: int | str, rows: Iterable[dict]) -> list[dict]:
    return [{"epoch": epoch} | row for row in rows]


def _row(measure: str, where: str, score: np.ndarray) -> dict:
    return {"measure": measure, "where": where} | spread("value", score)


def bounds(material: Material) -> list[dict]:
    """Rows of what no network has a part in: both ceilings, and attention that is the same for every cell."""
    rows = []
    for name, answer in material.bounds.items():
        rows += _accuracy(material, answer, name)
    cells = object_cells(material.sample, True)
    even = np.full((len(cells.board), material.sample.tokens.shape[1]), 1 / material.sample.tokens.shape[1])
    return rows + _attention({"every block": even}, cells, material, EVEN)


def measure(network: Network, material: Material) -> list[dict]:
    """Rows of one network."""
    sample, blocks = material.sample, range(network.trainer.n_layer)
    maps = {f"b{i}": f"b{i}_a" for i in blocks}
    logits, acts = network.run(sample.tokens, [*network.stages, *maps.values()])
    stages = {name: acts[name] for name in network.stages}
    cells = object_cells(sample, True)
    rows = _accuracy(material, logits[sample.test].argmax(-1))
    rows += _read_outs(stages, material) + _nearness(stages, cells, material)
    for name, swaps in material.swaps.items():
        rows += _swaps(network, swaps, material.swaps_W[name], name)
    attention = {block: acts[site][sample.test][cells.board, :, cells.cell].mean(1)  # of all heads
                 for block, site in maps.items()}
    return rows + _attention(attention, cells, material)


def _accuracy(material: Material, answer: np.ndarray, bound: str = "") -> list[dict]:
    """Rows of answers (n, T) to the masked test boards."""
    sample, W, rows = material.sample, material.W_masked, []
    truth, hidden = sample.scenes.tokens[sample.test], sample.hidden[sample.test]
    right = answer == truth
    found, most = (counts(cells[:, None], hidden[:, None])[1:] for cells in (right, np.ones_like(right)))
    for measured, part, whole in zip(ACCURACIES, found, most, strict=True):
        for group, use in material.groups.items():
            rows.append(_row(measured + bound, group, ratio(part[use], whole[use], W[:, use])))
    return rows


def _read_outs(stages: dict[str, np.ndarray], material: Material) -> list[dict]:
    sample = material.sample
    root = sample.labels["root"]
    judged = sample.hidden & (root >= 0) & sample.known["root"]
    found = readouts(stages, root, sample.hidden, judged, sample, material.W_masked)
    return [_row(READ_OUT, stage, readout.score) for stage, readout in found.items()]


def _nearness(stages: dict[str, np.ndarray], cells: Cells, material: Material) -> list[dict]:
    sample, rows = material.sample, []
    if len(np.unique(cells.root)) < 2 or len(np.unique(cells.token)) < 2:
        return rows
    for stage, X in stages.items():
        points = unit(X[sample.test][cells.board, cells.cell])
        near = nearness(points, cells.root, cells.token, sample.boards[cells.board], material.W)
        rows.append(_row(NEARNESS, stage, near))
    return rows


def _swaps(network: Network, swaps: Swaps, W: np.ndarray, type_: str) -> list[dict]:
    """Rows of the donor's activations after each block, and of its tokens in the input."""
    trial = Trial(network, swaps, W)
    rows = [_row(SWAPS, f"{INPUT}, {type_}", trial.success(trial.wanted, swaps.donor))]
    for stage in network.editable:
        logits = trial.patched(network, stage, trial.acts["base"][stage], trial.of_object("donor", stage))
        rows.append(_row(SWAPS, f"{stage}, {type_}", trial.success(logits, swaps.donor)))
    return rows


def _attention(attention: dict[str, np.ndarray], cells: Cells, material: Material,
               bound: str = "") -> list[dict]:
    """Rows of what N hidden object cells look at, {where: (N, T)}."""
    sample, rows = material.sample, []
    own = _own_object(sample, cells)
    visible = ~sample.hidden[sample.test][cells.board]
    objects = visible & (sample.labels["root"][sample.test][cells.board] >= 0)
    apart = material.groups.get(APART, np.zeros(0, bool))
    for where, weights in attention.items():
        all_, seen, of_objects = ((weights * there).sum(1) for there in (own, own & visible, objects))
        ones = np.ones_like(all_)
        rows.append(_row(ATTENTION + bound, where, _over_cells(all_, ones, cells, material)))
        rows.append(_row(ATTENTION + bound, where + VISIBLE, _over_cells(seen, ones, cells, material)))
        if apart.any():
            use = apart[cells.board]
            rows.append(_row(OWN + bound, where, _over_cells(seen * use, of_objects * use, cells, material)))
    return rows


def _own_object(sample: Sample, cells: Cells) -> np.ndarray:
    """(N, T) which cells of its board belong to the object of each of the N cells."""
    same = np.ones((len(cells.board), sample.tokens.shape[1]), bool)
    for name in ("root", "row", "column"):
        values = sample.labels[name][sample.test][cells.board]
        same &= values == np.take_along_axis(values, cells.cell[:, None], 1)
    return same


def _over_cells(part: np.ndarray, whole: np.ndarray, cells: Cells, material: Material) -> np.ndarray:
    """Score of sum(part) / sum(whole) over cells, both (N,)."""
    n = len(material.sample.boards)
    of_boards = (np.bincount(cells.board, values, n) for values in (part, whole))
    return ratio(*of_boards, material.W_masked)


def ways(rows: Iterable[dict]) -> dict[tuple[str, str, str], dict[int, float]]:
    """{(run, measure, where): {epoch: share}} of the way from the untrained network's value (0) to the last
    one's (1) that a measure has gone; only of what has a way up of WAY at least. rows: as `follow` makes
    them, with 'run'; or read from their CSV."""
    courses: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in rows:
        if row["epoch"] != BOUND:
            key = row["run"], row["measure"], row["where"]
            courses.setdefault(key, {})[int(row["epoch"])] = _number(row["value"])
    found = {}
    for key, course in courses.items():
        first, last = course[min(course)], course[max(course)]
        if last - first >= WAY:
            found[key] = {epoch: (course[epoch] - first) / (last - first) for epoch in sorted(course)}
    return found


def halfway(way: dict[int, float]) -> int:
    """The first checkpoint at which a measure has gone half of its way, one of `ways`."""
    return next(epoch for epoch, share in way.items() if share >= 0.5)


def _number(cell: float | str) -> float:
    """A value, or a cell of a CSV, which is empty where there is no number."""
    return float("nan") if cell == "" else float(cell)


def plot_emergence(rows: Sequence[dict]):
    """A panel a measure: values over epochs on a logarithmic scale, the untrained network at the left edge; a
    colour a board type or stage, a kind of line a run, bounds of the first run as level lines. rows: as
    `ways` takes them."""
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure, axes = new_figure(2, 4, (19, 8.4))
    for ax, measured in zip(axes.flat, MEASURES, strict=False):
        shown = [row for row in rows if row["where"] not in NOT_DRAWN]
        _draw_measure(ax, [row for row in shown if row["measure"] == measured], runs)
        level = [row for row in shown if row["epoch"] == BOUND and row["run"] == runs[0]]
        _draw_bounds(ax, [row for row in level if row["measure"].startswith(f"{measured}, ")])
        ax.set_title(measured.replace(": ", ":\n"), fontsize=11)
        ax.set(xscale="log", xlabel="epochs trained")
        ax.set_xticks([LEFT, 1, 10, 100, 1000], ["untrained", "1", "10", "100", "1000"])
        ax.grid(alpha=0.3)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=7)
    last = axes[-1, -1]  # has no measure
    last.axis("off")
    for run, line in zip(runs, LINES, strict=False):
        last.plot([], [], color="black", linestyle=line, label=run)
    last.legend(fontsize=10, loc="center")
    return figure


def _draw_measure(ax, rows: Iterable[dict], runs: Sequence[str]) -> None:
    """The courses of one measure, with their intervals."""
    courses: dict[str, dict[str, list]] = {}
    for row in rows:
        courses.setdefault(row["where"], {}).setdefault(row["run"], []).append(row)
    for (where, by_run), ink in zip(courses.items(), INKS, strict=False):
        for run, line in zip(runs, LINES, strict=False):
            course = sorted(by_run.get(run, ()), key=lambda row: int(row["epoch"]))
            x = [LEFT if int(row["epoch"]) == UNTRAINED else int(row["epoch"]) + 1 for row in course]
            y, low, high = ([_number(row[name]) for row in course] for name in VALUES)
            label = where if run == runs[0] else None
            ax.plot(x, y, linestyle=line, color=ink, marker=".", linewidth=1.2, label=label)
            ax.fill_between(x, low, high, color=ink, alpha=0.1, linewidth=0)


def _draw_bounds(ax, rows: Iterable[dict]) -> None:
    """Level lines in the colours of the courses: the best token's dotted, all others dashed."""
    inks = {line.get_label(): line.get_color() for line in ax.lines}
    for row in rows:
        style = ":" if row["measure"].endswith(BEST_TOKEN) else "--"
        ax.axhline(_number(row["value"]), color=inks.get(row["where"], "0.5"), linestyle=style, linewidth=1)
