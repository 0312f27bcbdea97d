"""Scores with intervals, and the rules by which claims are judged, which were fixed before any number was
seen.

A *score* is an array (R + 1,): the measured value, then the same over boards drawn with replacement by
`resample`, whose weights all scores of a comparison share, so that their difference has an interval too. A
*row* of a table is what `judge` makes; a claim's rows together have the verdict that `verdict` gives.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

DRAWS = 500  # bootstrap draws


@dataclass(frozen=True)
class Table:
    """What the report says about a table of rows, and how it draws more than the rows."""

    name: str
    title: str  # what the paper claims, or what the table is
    axis: str  # of the figure of its rows
    measured: str  # what is measured, in whole sentences
    is_claim: bool = True  # whether its rows have a verdict
    # further figures {name: function that draws what was found under that name}
    figures: Mapping[str, Callable] = field(default_factory=dict)


def resample(boards: int | np.ndarray, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """How often each of n boards counts: (draws + 1, n), once in the first row, then as drawn with
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


def spread(name: str, score: np.ndarray) -> dict[str, float]:
    """A score's value and its 95% bootstrap interval as cells of a row."""
    draws = score[1:][np.isfinite(score[1:])]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (np.nan, np.nan)
    return {name: score[0], f"{name} low": low, f"{name} high": high}


def skill(predicted: np.ndarray, truth: np.ndarray, use: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Score of balanced accuracy above chance: 0 is what the majority class (or any constant answer) reaches,
    1 is perfect.

    predicted, truth, use (n, T): over the cells in use. NaN where fewer than two classes occur.
    """
    names, classes = np.unique(truth[use], return_inverse=True)
    n, C = len(truth), len(names)
    if C < 2:
        return np.full(len(W), np.nan)
    place = np.nonzero(use)[0] * C + classes  # of a cell's board and class in the tables (n, C)
    occurs = np.bincount(place, minlength=n * C).reshape(n, C)
    found = np.bincount(place, predicted[use] == truth[use], n * C).reshape(n, C)
    occurs, found = W @ occurs, W @ found
    drawn = occurs > 0  # a class that was not drawn is left out
    recall = found / np.maximum(occurs, 1)
    with np.errstate(invalid="ignore"):
        accuracy = recall.sum(1, where=drawn) / drawn.sum(1)
        return (accuracy - 1 / C) / (1 - 1 / C)


def judge(table: str, feature: str, effect: np.ndarray, controls: dict[str, np.ndarray],
          upper: np.ndarray | float = 1.0, counts: bool = True, stage: str = "",
          counted_before: bool | None = None, **more) -> dict:
    """A row of a table: a feature's effect beside its controls, and whether it holds.

    It holds where the 95% interval of the effect minus its strongest control (by measured value) lies above 0
    and the effect is at least half of its upper bound. effect and controls are scores; upper is a number, or
    a score whose measured value is used. counts: whether `verdict` looks at the row; counted_before: whether
    it did by the rules before those announced in docs/claims.md, None: as now. more: further cells of the
    row.
    """
    known = {name: score for name, score in controls.items() if np.isfinite(score[0])}
    strongest = max(known, key=lambda name: known[name][0], default="")
    gain = spread("gain", effect - known.get(strongest, 0))
    upper = float(np.ravel(upper)[0])
    row = {"table": table, "feature": feature, "stage": stage} | spread("effect", effect)
    row |= {"upper": upper, "strongest control": strongest}
    row |= {"control": known[strongest][0] if known else np.nan} | gain
    row |= {"counts": counts, "counted before": counts if counted_before is None else counted_before}
    row |= {"holds": bool(gain["gain low"] > 0 and effect[0] >= upper / 2)}
    return row | more | {f"control: {name}": score[0] for name, score in controls.items()}


def verdict(rows: Sequence[dict], rules: str = "counts") -> dict:
    """What the rows of one claim, all runs' together, come to: it holds, holds in part (and for what) or does
    not.

    A feature holds if it was measured and holds in every run. rules: 'counts', or 'counted before' for those
    before the ones announced in docs/claims.md.
    """
    runs = {row.get("run") for row in rows}
    by_feature: dict[str, list[bool]] = {}
    for row in rows:
        if row[rules]:
            by_feature.setdefault(row["feature"], []).append(row["holds"])
    holding = [name for name, each in by_feature.items() if all(each) and len(each) >= len(runs)]
    failing = [name for name in by_feature if name not in holding]
    if not holding:
        word = "does not"
    else:
        word = "in part" if failing else "holds"
    return {"verdict": word, "features": len(by_feature), "holding": len(holding), "runs": len(runs),
            "holds for": "; ".join(holding), "not for": "; ".join(failing)}
