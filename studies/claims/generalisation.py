"""Claim: what is encoded is abstract.

Question: do read-outs of a label carry over to contexts in which they were not fitted?
Measure: the contexts of a label are halved; skill of a linear read-out fitted in one half and tested in the
other, both ways (Bernardi et al. 2020). From single boards to double ones or composites there is one way
only, and the row belongs to the claim of compositionality.
Upper bound: a read-out fitted in both halves.
Controls: the same from an untrained network and from the input.
Row: a label across what divides its contexts. Beside it the parallelism score at that stage: the mean cosine
between the two halves' differences of class means, and the same with classes shuffled.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from module_dataset import AbstractionDataset
from studies.claims.readouts import best_stage, readouts
from studies.claims.sample import Sample
from studies.claims.scores import Row, Table

TABLE = Table("generalisation", "what is encoded is abstract: read-outs carry over to unseen contexts",
              "skill in the other contexts")
CROSSINGS = (  # (label, what divides its contexts)
    ("root", "background"), ("root", "place on the board"), ("root", "companion"), ("background", "root"),
    ("place in the root", "root"), ("row", "root"), ("column", "root"), ("composite", "background"),
    ("composite", "place on the board"), ("root", "double boards"), ("root", "composites"))
ONE_WAY = ("double boards", "composites")  # contexts to which read-outs of single boards are carried


@dataclass
class Crossing:
    """A label and what halves its contexts."""

    label: str
    condition: str
    values: np.ndarray  # (n, T) of the label
    half: np.ndarray  # (n, T) 0 or 1, -1 for neither
    usable: np.ndarray  # (n, T) cells that have a half and the label, which the visible cells determine

    @property
    def one_way(self) -> bool:
        """Whether read-outs are carried from half 0 to half 1 only."""
        return self.condition in ONE_WAY

    def within(self, half: int | np.ndarray) -> np.ndarray:
        """(n, T) the usable cells of a half."""
        return self.usable & (self.half == half)


def measure(sources: dict[str, dict[str, np.ndarray]], sample: Sample, contexts: dict[str, np.ndarray],
            W: np.ndarray, rng: np.random.Generator, crossings: Sequence[tuple[str, str]] = CROSSINGS,
            bar: Callable = iter) -> list[Row]:
    """Rows on whether codes are abstract; those of ONE_WAY contexts belong to the table on composition.

    sources: {'network': {stage: (n, T, D)}, control: {stage: features}}. contexts: as `contexts_of` makes
    them. crossings: (label, what divides its contexts). W (R + 1, masked test boards).
    """
    rows = []
    for label, condition in bar(crossings):
        crossing = crossing_of(sample, contexts, label, condition)
        if _can_be_measured(crossing, sample):
            rows.append(_row(crossing, sources, sample, W, rng))
    return rows


def contexts_of(sample: Sample, dataset: AbstractionDataset) -> dict[str, np.ndarray]:
    """{what divides contexts: (n, T)}: the half, 0 or 1, that a cell's context belongs to; -1 for neither."""
    labels, objects = sample.labels, sample.drawn.objects
    root = labels["root"]
    types = np.broadcast_to(sample.drawn.types[:, None], root.shape)
    number = np.clip(dataset.covering(objects) // dataset.params.abs_dim**2, 0, 1)  # of two objects
    companion = objects[np.arange(len(objects))[:, None], 1 - number, 0]
    of_the_board = _half(objects[:, :1, 0], types == 0)
    return {"background": _half(labels["background"]),
            "place on the board": _half(labels["row"] + labels["column"], root >= 0),
            "root": np.where(root >= 0, _half(root), of_the_board),
            "companion": _half(companion, (types == 1) & (root >= 0)),
            "double boards": np.where(types < 2, types, -1),
            "composites": np.array([0, -1, 1])[types]}


def _half(values: np.ndarray, where: np.ndarray | bool = True) -> np.ndarray:
    return np.where(where & (values >= 0), values % 2, -1)


def crossing_of(sample: Sample, contexts: dict[str, np.ndarray], label: str, condition: str) -> Crossing:
    """The crossing of a label with what divides its contexts."""
    values, half = sample.labels[label], contexts[condition]
    usable = (half >= 0) & (values >= 0) & sample.known[label]
    if label == "background":  # of single boards only, whose one root is the context of all cells
        usable &= (sample.drawn.types == 0)[:, None]
    return Crossing(label, condition, values, half, usable)


def _can_be_measured(crossing: Crossing, sample: Sample) -> bool:
    """Whether each half has two classes among the boards to fit, to choose by and to test."""
    for half in (0, 1):
        for part in range(3):
            cells = crossing.within(half) & (sample.part == part)[:, None]
            if len(np.unique(crossing.values[cells])) < 2:
                return False
    return True


def _row(crossing: Crossing, sources: dict, sample: Sample, W: np.ndarray, rng: np.random.Generator) -> Row:
    fitted_in = (0,) if crossing.one_way else (0, 1)
    stage, scores = "", {}
    for source, stages in sources.items():
        ways = [_carried(crossing, stages, half, sample, W) for half in fitted_in]
        if source == "network":
            stage = ways[-1][0]
        scores[source] = np.mean([score for _, score in ways], axis=0)
    tested = crossing.usable & np.isin(crossing.half, [1 - half for half in fitted_in])
    in_both = readouts(sources["network"], crossing.values, crossing.usable, tested, sample, W)
    parallel, shuffled = parallelism(sources["network"][stage], crossing, rng)
    untrained, _ = parallelism(sources["untrained network"][stage], crossing, rng)
    if crossing.one_way:
        table = "composition"
        feature = f"read-out of the root learnt on single boards, on {crossing.condition}"
    else:
        table = TABLE.name
        feature = f"{crossing.label} across {crossing.condition}"
    return Row(table, feature, scores.pop("network"), scores, best_stage(in_both)[1], stage, extras={
        "parallelism": parallel, "parallelism, shuffled": shuffled, "parallelism, untrained": untrained})


def _carried(crossing: Crossing, stages: dict, half: int, sample: Sample,
             W: np.ndarray) -> tuple[str, np.ndarray]:
    """(stage, score) of the best read-out that is fitted and chosen in a half and tested in the other."""
    judged_in = np.where(sample.part < 2, half, 1 - half)[:, None]
    return best_stage(readouts(stages, crossing.values, crossing.within(half), crossing.within(judged_in),
                               sample, W))


def parallelism(X: np.ndarray, crossing: Crossing, rng: np.random.Generator) -> tuple[float, float]:
    """Parallelism score of a crossing's label at activations X (n, T, D), and with the classes shuffled
    within each half."""
    cells = [crossing.within(half) for half in (0, 1)]
    points = [X[where] for where in cells]
    classes = [crossing.values[where] for where in cells]
    shuffled = [rng.permutation(c) for c in classes]
    return _parallelism(points, classes), _parallelism(points, shuffled)


def _parallelism(points: list[np.ndarray], classes: list[np.ndarray]) -> float:
    """Mean cosine between the two halves' differences of class means, over pairs of classes in both
    halves."""
    common = np.intersect1d(*classes)
    i, j = np.triu_indices(len(common), 1)
    differences = []
    for x, y in zip(points, classes, strict=True):
        means = np.array([x[y == c].mean(0) for c in common])
        differences.append(means[i] - means[j])
    a, b = differences
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(lengths, 1e-30)).mean())
