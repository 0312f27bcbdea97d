"""Claim: the network has abstractions that encode all semantic features of the data.

Question: can each label of a cell be read off its activations?
Measure: skill of a linear (ridge) read-out from [z, p], a cell's activations and its position code, which is
what the next block reads; hidden and visible cells apart, on held-out boards, at cells where the posterior of
the true label given the visible cells is at least 0.99. The same from z alone, which does not count.
Controls: the majority class; an untrained network; a cell's own token and position; the whole masked board;
and a control task (Hewitt and Liang 2019), a random class for each true token and position, whose skill shows
what a read-out can learn by heart: the gain over it is called selectivity.
Row: a label of hidden or of visible cells, at the stage that was best on other boards.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from studies.claims.figures import plot_stages
from studies.claims.readouts import ReadOut, best_stage, readouts
from studies.claims.sample import Sample
from studies.claims.scores import Row, Table, spread

TABLE = Table("decodability", "abstractions that encode all semantic features of the data",
              "skill of a linear read-out", {"decodability_stages": partial(plot_stages, label="skill")})


def measure(sources: dict[str, dict[str, np.ndarray]], codes: dict[str, np.ndarray], sample: Sample,
            W: np.ndarray, rng: np.random.Generator, bar: Callable = iter) -> tuple[list[Row], list[dict]]:
    """Rows on whether every label can be read off linearly, and the curves of skill over stages.

    sources: {'network': {stage: (n, T, D)}, control: {stage: features}}; codes: position codes (T, P) of
    the sources that have one. W (R + 1, masked test boards).
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
        from_z, from_zp = {}, {}  # {source: {stage: read-out}}
        for source, stages in sources.items():
            # of the whole board each cell has a read-out of its own: hidden cells alone are too few examples
            train = where | (source == "whole masked board")
            from_z[source] = from_zp[source] = readouts(stages, values, train, judged, sample, W)
            if source in codes:
                from_zp[source] = readouts(stages, values, train, judged, sample, W, codes[source])
        for found, code in ((from_z, None), (from_zp, codes["network"])):
            train = where & (values >= 0)
            found["control task"] = readouts(sources["network"], random, train, judged, sample, W, code)
        is_label = which != "all cells"  # whether a cell is hidden is no feature of the data
        if is_label:
            curves += _curves(label, which, from_z)
        tested = int(judged[sample.test].sum())
        rows.append(_row(f"{label}, {which}", from_z, False, tested))
        rows.append(_row(f"{label}, {which}, from [z, p]", from_zp, is_label, tested))
    return rows, curves


def _control_task(sample: Sample, classes: int, rng: np.random.Generator) -> np.ndarray:
    """(n, T) a random class for each true token and position."""
    tokens = sample.drawn.tokens
    T = tokens.shape[1]
    return rng.integers(classes, size=(T, tokens.max() + 1))[np.arange(T), tokens]


def _curves(label: str, cells: str, by_source: dict[str, dict[str, ReadOut]]) -> list[dict]:
    curve = {"label": label, "cells": cells}
    return [curve | {"source": source, "stage": stage} | spread("value", readout.score)
            for source, by_stage in by_source.items() for stage, readout in by_stage.items()]


def _row(feature: str, by_source: dict[str, dict[str, ReadOut]], counts: bool, cells: int) -> Row:
    stage, effect = best_stage(by_source["network"])
    task = by_source["control task"][stage].score  # at the stage of the effect, the others at their own best
    controls = {"majority class": np.zeros_like(effect), "control task": task}
    for source, by_stage in by_source.items():
        if source not in ("network", "control task"):
            controls[source] = best_stage(by_stage)[1]
    return Row(TABLE.name, feature, effect, controls, stage=stage, counts=counts, extras={"cells": cells})
