"""Claim: the network has abstractions that encode all semantic features of the data.

Measure: the skill with which each label of a cell can be read off linearly from [z, p], the cell's
activations and position code, as the next block reads them, hidden and visible cells apart, on held-out
boards, where an exact observer could know the answer. From z alone, as counted before, likewise.
Controls: the majority class; an untrained network; a cell's own token and position; the whole masked board;
and a control task (Hewitt and Liang 2019), a random class for each true token and position, whose skill shows
what a read-out can learn by heart.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from studies.claims.figures import plot_stages
from studies.claims.readouts import best_stage, readouts
from studies.claims.sample import Sample
from studies.claims.scores import Table, judge, spread

TABLE = Table(
    "decodability", "abstractions that encode all semantic features of the data",
    "skill of a linear read-out",
    "Skill of a ridge read-out from a cell's activations, and from [z, p], these beside its position code, "
    "fitted on the hidden or the visible cells that "
    "have the label, at the stage that was best on other boards; on held-out boards, where the posterior "
    "of the true label is >= 0.99. Control task: a random class for each true token and position; the "
    "gain over it is selectivity.",
    figures={"decodability_stages": partial(plot_stages, label="skill")})


def measure(sources: dict[str, dict[str, np.ndarray]], codes: dict[str, np.ndarray], sample: Sample,
            W: np.ndarray, rng: np.random.Generator, bar: Callable = iter) -> tuple[list[dict], list[dict]]:
    """Rows on whether every label can be read off linearly, and the curves of the same over stages.

    sources: {'network': {stage: (n, T, D)}, control: {stage: features}}; codes: position codes (T, P) of
    those that have one. W (R + 1, masked test boards).
    """
    rows, curves = [], []
    cells = {"hidden cells": sample.hidden, "visible cells": ~sample.hidden,
             "all cells": np.ones_like(sample.hidden)}
    cases = [(label, which) for label in sample.labels for which in cells
             if (label == "hidden or visible") == (which == "all cells")]
    for label, which in bar(cases):
        values, where = sample.labels[label], cells[which]
        judged = where & (values >= 0) & sample.known[label]
        if len(np.unique(values[sample.test][judged[sample.test]])) < 2:
            continue
        random = _control_task(sample, values.max() + 1, rng)
        alone, beside = {}, {}  # read-outs from z and from [z, p]
        for source, stages in sources.items():
            # of the whole board each cell has a read-out of its own: hidden cells alone are too few examples
            train = where | (source == "whole masked board")
            alone[source] = beside[source] = readouts(stages, values, train, judged, sample, W)
            if source in codes:
                beside[source] = readouts(stages, values, train, judged, sample, W, codes[source])
        for found, code in ((alone, None), (beside, codes["network"])):
            found["control task"] = readouts(sources["network"], random, where & (values >= 0), judged,
                                             sample, W, code)
        once = which == "all cells"  # whether a cell is hidden: a row beside the claim
        if not once:
            curves += _curves(label, which, alone)
        tested = int(judged[sample.test].sum())
        rows.append(_row(f"{label}, {which}", alone, False, not once, tested))
        rows.append(_row(f"{label}, {which}, from [z, p]", beside, not once, False, tested))
    return rows, curves


def _control_task(sample: Sample, classes: int, rng: np.random.Generator) -> np.ndarray:
    """(n, T) a random class for each true token and position."""
    tokens = sample.scenes.tokens
    T = tokens.shape[1]
    return rng.integers(classes, size=(T, tokens.max() + 1))[np.arange(T), tokens]


def _curves(label: str, cells: str, found: dict) -> list[dict]:
    rows = []
    for source, stages in found.items():
        for stage, readout in stages.items():
            row = {"label": label, "cells": cells, "source": source, "stage": stage}
            rows.append(row | spread("value", readout.score))
    return rows


def _row(feature: str, found: dict, counts: bool, before: bool, cells: int) -> dict:
    stage, effect = best_stage(found["network"])
    controls = {"majority class": np.zeros_like(effect), "control task": found["control task"][stage].score}
    for source in found:
        if source not in ("network", "control task"):
            controls[source] = best_stage(found[source])[1]
    return judge(TABLE.name, feature, effect, controls, 1, counts, stage, before, cells=cells)
