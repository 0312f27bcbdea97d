"""Scores with intervals, the rows made of them, and the rule of judgement, which was fixed beforehand.

A *score* is an array (R + 1,): the measured value, then its value on each of R bootstrap samples of the
boards (`resample`). All scores of a row share these samples, so that differences have intervals too. A
`Score` also knows its range and how many boards it is about.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

DRAWS = 500  # bootstrap samples
MOST_PER_BOARD = 2  # independent answers, however many masks or cells a board has


class Score(np.ndarray):
    """A score of a share or a skill: `boards`, how many distinct boards it is about (0: unknown), and
    `least`, the value if every answer is wrong; 1 is the greatest."""

    boards, least = 0, 0.0

    def __array_finalize__(self, other):
        self.boards, self.least = getattr(other, "boards", 0), getattr(other, "least", 0.0)

    @classmethod
    def of(cls, values: np.ndarray, boards: int, least: float = 0.0) -> Score:
        """The score with these values."""
        score = np.asarray(values, float).view(cls)
        score.boards, score.least = boards, least
        return score


@dataclass(frozen=True)
class Table:
    """The rows of one claim's file, and the figures that the report draws besides them."""

    name: str
    title: str  # what the paper claims, or what the table shows
    axis: str  # label of the effect in the figure
    figures: Mapping[str, str] = field(default_factory=dict)  # {name of curves by stage: label of the values}
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
        if boards := getattr(self.effect, "boards", 0):
            self.extras = {"boards": boards} | self.extras

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
    def gain_interval(self) -> tuple[float, float]:
        """The gain's 95% interval."""
        return interval_between(self.effect, self.controls.get(self.strongest, np.zeros(len(self.effect))))

    @property
    def supported(self) -> bool:
        """The rule: the gain's interval lies above 0, and the effect is at least half of its upper bound."""
        return bool(self.gain_interval[0] > 0 and self.effect[0] >= self.upper / 2)

    def as_dict(self) -> dict:
        """The row as columns of a CSV."""
        control = self.controls.get(self.strongest, [np.nan])[0]
        cells = {"run": self.run, "table": self.table, "feature": self.feature, "stage": self.stage}
        cells |= spread("effect", self.effect)
        cells |= {"upper": self.upper, "strongest control": self.strongest, "control": control}
        low, high = self.gain_interval
        cells |= {"gain": self.gain[0], "gain low": low, "gain high": high,
                  "counts": self.counts, "supported": self.supported}
        for name, value in self.extras.items():
            cells |= spread(name, value) if np.ndim(value) else {name: value}
        return cells | {f"control: {name}": score[0] for name, score in self.controls.items()}


def verdict(rows: Sequence[Row]) -> dict:
    """The verdict on the rows of one claim, of all runs together. A feature is supported if it is measured
    and supported in every run; the claim, if all its features are, and partly supported if some are."""
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
    """W (draws + 1, n), how often each board counts: once in the first row, then as drawn with replacement.
    boards: their number n, or the boards (n, T), of which equal ones are drawn together."""
    if np.ndim(boards) == 0:
        which = np.arange(boards)
    else:
        which = np.unique(boards, axis=0, return_inverse=True)[1].ravel()
    distinct = which.max() + 1
    drawn = rng.multinomial(distinct, np.full(distinct, 1 / distinct), size=draws)
    return np.concatenate([np.ones((1, distinct)), drawn])[:, which]


def distinct(W: np.ndarray, use: np.ndarray) -> int:
    """How many distinct boards are in use (n,); equal ones are drawn together in W (R + 1, n)."""
    drawn = W[1:33, use]  # so many samples tell all boards apart
    return np.unique(drawn, axis=1).shape[1] if len(drawn) else int(use.sum())


def ratio(part: np.ndarray, whole: np.ndarray | float, W: np.ndarray) -> np.ndarray:
    """Score of sum(part) / sum(whole) over boards, both (n,); a `Score` if it is a share."""
    part = np.asarray(part, float)
    whole = np.broadcast_to(np.asarray(whole, float), W.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        score = (W @ part) / (W @ whole)
    if (part >= 0).all() and (part <= whole + 1e-9).all():
        return Score.of(score, distinct(W, whole > 0))
    return score


def student(df: int) -> float:
    """The 97.5% quantile of Student's t (Abramowitz and Stegun 26.7.5)."""
    z, df = 1.959964, max(df, 3)
    return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)


def interval(score: np.ndarray) -> tuple[float, float]:
    """A score's 95% interval.

    Of a `Score`: Agresti and Coull (1998), with as many boards as would give independent answers the
    bootstrap's variance (the effective number of Korn and Graubard 1998) and Student's t for the number of
    boards, so that it is right near 1 and for few boards. Of another score: the bootstrap's quantiles.
    """
    draws = np.asarray(score[1:])[np.isfinite(score[1:])]
    if not len(draws):
        return np.nan, np.nan
    boards = getattr(score, "boards", 0)
    if not boards:
        return tuple(np.quantile(draws, [0.025, 0.975]))
    scale = 1 - score.least
    variance = float(draws.var()) / scale**2 * boards / max(boards - 1, 1)
    share, t2 = min(max((float(score[0]) - score.least) / scale, 0.0), 1.0), student(boards - 1) ** 2
    n = share * (1 - share) / variance if variance > 0 else boards
    n = min(max(n, 1.0), MOST_PER_BOARD * boards)
    middle = (n * share + t2 / 2) / (n + t2)
    half = np.sqrt(t2 * middle * (1 - middle) / (n + t2))
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return score.least + scale * low, score.least + scale * high


def interval_between(effect: np.ndarray, control: np.ndarray) -> tuple[float, float]:
    """The 95% interval of effect - control, two scores on the same bootstrap samples.

    Of two of the kind `Score`: their intervals combined, with the correlation of the samples (Newcombe 1998,
    Zou and Donner 2008). Else the bootstrap's quantiles.
    """
    if not getattr(effect, "boards", 0) or len(effect) != len(control):
        return interval(np.asarray(effect - control))
    (low, high), (low2, high2) = interval(effect), (control[0], control[0])
    if getattr(control, "boards", 0):
        low2, high2 = interval(control)
    pairs = np.stack([effect[1:], control[1:]])
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    fixed = len(pairs.T) < 2 or not pairs.std(1).all()
    rho = 0.0 if fixed else float(np.corrcoef(pairs)[0, 1])

    def reach(ours: float, theirs: float) -> float:
        return np.sqrt(max(ours**2 - 2 * rho * ours * theirs + theirs**2, 0.0))

    gain = float(effect[0] - control[0])
    least = gain - reach(effect[0] - low, high2 - control[0])
    return least, gain + reach(high - effect[0], control[0] - low2)


def spread(name: str, score: np.ndarray) -> dict[str, float]:
    """A score's value and interval as three columns."""
    low, high = interval(score)
    return {name: score[0], f"{name} low": low, f"{name} high": high}


class Skill:
    """Balanced accuracy above chance, as a function of what is predicted: 0 for the majority class (or any
    constant answer), 1 if perfect, NaN if fewer than two classes occur. truth, use (n, T): over the cells in
    use. W (R + 1, n)."""

    def __init__(self, truth: np.ndarray, use: np.ndarray, W: np.ndarray):
        self.truth, self.W = truth[use], W
        there = np.bincount(self.truth) > 0 if use.any() else np.zeros(0)  # the classes that occur
        self.classes = int(there.sum())
        if self.classes > 1:
            number = (there.cumsum() - 1)[self.truth]
            # of board and class in tables (n, C); of many tasks, so in a small type
            self.place = (np.nonzero(use)[0] * self.classes + number).astype(np.int32)
            self.occurs = self._drawn(np.ones(len(number)))
            self.boards = distinct(W, use.any(1))

    def _drawn(self, at_cells: np.ndarray) -> np.ndarray:
        """(R + 1, C) sums over the cells in use (N,), by class."""
        table = np.bincount(self.place, at_cells, self.W.shape[1] * self.classes)
        return self.W @ table.reshape(-1, self.classes)

    def __call__(self, predicted: np.ndarray) -> np.ndarray:
        """Score of the classes that are predicted for the cells in use (N,)."""
        C = self.classes
        if C < 2:
            return np.full(len(self.W), np.nan)
        drawn = self.occurs > 0  # a class that was not drawn is left out
        recall = self._drawn(predicted == self.truth) / np.maximum(self.occurs, 1)
        with np.errstate(invalid="ignore"):
            accuracy = recall.sum(1, where=drawn) / drawn.sum(1)
            return Score.of((accuracy - 1 / C) / (1 - 1 / C), self.boards, -1 / (C - 1))


def mean(scores: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of scores, about as many boards as the first."""
    return sum(scores[1:], scores[0]) / len(scores)
