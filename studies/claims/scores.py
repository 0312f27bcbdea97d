"""Scores with intervals, the rows made of them, and the rule of judgement, which was fixed beforehand.

A *score* is an array (R + 1,): the measured value, then its value on each of R bootstrap samples of the
boards (`resample`). All scores of a row share these samples, so that differences have intervals too.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

DRAWS = 500  # bootstrap samples


@dataclass(frozen=True)
class Table:
    """The rows of one claim's file, and the figures that the report draws besides them."""

    name: str
    title: str  # what the paper claims, or what the table shows
    axis: str  # label of the effect in the figure
    figures: Mapping[str, Callable] = field(default_factory=dict)  # {name: function of what has that name}
    is_claim: bool = True  # whether its rows get a verdict


@dataclass
class Row:
    """A feature's effect beside its controls; effect and controls are scores, or single numbers."""

    table: str
    feature: str
    effect: np.ndarray
    controls: dict[str, np.ndarray] = field(default_factory=dict)
    upper: float = 1.0  # upper bound of the effect; of a score, the measured value
    stage: str = ""  # where in the network
    counts: bool = True  # whether the verdict counts the feature
    extras: dict = field(default_factory=dict)  # further columns; a score gets an interval
    run: str = ""

    def __post_init__(self):
        self.effect, self.upper = np.atleast_1d(self.effect), float(np.ravel(self.upper)[0])
        self.controls = {name: np.atleast_1d(control) for name, control in self.controls.items()}

    @property
    def interval(self) -> tuple[float, float]:
        """The effect's 95% bootstrap interval."""
        return interval(self.effect)

    @property
    def strongest(self) -> str:
        """The control with the greatest measured value; '' without controls."""
        known = [name for name, control in self.controls.items() if np.isfinite(control[0])]
        return max(known, key=lambda name: self.controls[name][0], default="")

    @property
    def gain(self) -> np.ndarray:
        """Score of the effect minus its strongest control."""
        return self.effect - self.controls.get(self.strongest, 0)

    @property
    def supported(self) -> bool:
        """The rule: the interval of the gain lies above 0, and the effect is at least half of its upper
        bound."""
        return bool(interval(self.gain)[0] > 0 and self.effect[0] >= self.upper / 2)

    def as_dict(self) -> dict:
        """The row as columns of a CSV."""
        control = self.controls.get(self.strongest, [np.nan])[0]
        cells = {"run": self.run, "table": self.table, "feature": self.feature, "stage": self.stage}
        cells |= spread("effect", self.effect)
        cells |= {"upper": self.upper, "strongest control": self.strongest, "control": control}
        cells |= spread("gain", self.gain) | {"counts": self.counts, "supported": self.supported}
        for name, value in self.extras.items():
            cells |= spread(name, value) if np.ndim(value) else {name: value}
        return cells | {f"control: {name}": score[0] for name, score in self.controls.items()}


def verdict(rows: Sequence[Row]) -> dict:
    """The verdict on the rows of one claim, of all runs together.

    A feature is supported if it was measured and is supported in every run. The claim is supported if all its
    features are, partly supported if some are.
    """
    runs = {row.run for row in rows}
    by_feature: dict[str, list[bool]] = {}
    for row in rows:
        if row.counts:
            by_feature.setdefault(row.feature, []).append(row.supported)
    supported = [name for name, each in by_feature.items() if all(each) and len(each) >= len(runs)]
    others = [name for name in by_feature if name not in supported]
    if not supported:
        word = "not supported"
    else:
        word = "partly supported" if others else "supported"
    return {"verdict": word, "features": len(by_feature), "supported": len(supported), "runs": len(runs),
            "supported features": "; ".join(supported), "other features": "; ".join(others)}


def resample(boards: int | np.ndarray, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """How often each of n boards counts: W (draws + 1, n), once in the first row, then as drawn with
    replacement.

    boards: n, or the boards (n, T), of which equal ones are drawn together.
    """
    if np.ndim(boards) == 0:
        which = np.arange(boards)
    else:
        which = np.unique(boards, axis=0, return_inverse=True)[1].ravel()
    distinct = which.max() + 1
    drawn = rng.multinomial(distinct, np.full(distinct, 1 / distinct), size=draws)
    return np.concatenate([np.ones((1, distinct)), drawn])[:, which]


def ratio(part: np.ndarray, whole: np.ndarray | float, W: np.ndarray) -> np.ndarray:
    """Score of sum(part) / sum(whole) over boards, both (n,)."""
    part = np.asarray(part, float)
    whole = np.broadcast_to(np.asarray(whole, float), W.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return (W @ part) / (W @ whole)


def interval(score: np.ndarray) -> tuple[float, float]:
    """A score's 95% bootstrap interval."""
    draws = score[1:][np.isfinite(score[1:])]
    return tuple(np.quantile(draws, [0.025, 0.975])) if len(draws) else (np.nan, np.nan)


def spread(name: str, score: np.ndarray) -> dict[str, float]:
    """A score's value and interval as three columns."""
    low, high = interval(score)
    return {name: score[0], f"{name} low": low, f"{name} high": high}


def skill(predicted: np.ndarray, truth: np.ndarray, use: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Score of balanced accuracy above chance: 0 for the majority class (or any constant answer), 1 if
    perfect.

    predicted, truth, use (n, T): over the cells in use. NaN if fewer than two classes occur.
    """
    names, classes = np.unique(truth[use], return_inverse=True)
    n, C = len(truth), len(names)
    if C < 2:
        return np.full(len(W), np.nan)
    place = np.nonzero(use)[0] * C + classes  # of a cell's board and class in the tables (n, C)
    occurs = np.bincount(place, minlength=n * C).reshape(n, C)
    right = np.bincount(place, predicted[use] == truth[use], n * C).reshape(n, C)
    occurs, right = W @ occurs, W @ right
    drawn = occurs > 0  # a class that was not drawn is left out
    recall = right / np.maximum(occurs, 1)
    with np.errstate(invalid="ignore"):
        accuracy = recall.sum(1, where=drawn) / drawn.sum(1)
        return (accuracy - 1 / C) / (1 - 1 / C)
