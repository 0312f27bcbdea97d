"""Claim: the network has abstractions that encode all semantic features of the data.

Question: can each label of a cell be read off its activations?
Measure: skill of a linear (ridge) read-out from [z, p], a cell's activations and its position code, which is
what the next block reads; hidden and visible cells apart, on held-out boards, at cells where the posterior of
the true label given the visible cells is at least 0.99. Fits grow until they no longer help (`readouts`).
Controls: the majority class; an untrained network; a cell's own token and position; the masked tokens of its
5 x 5 neighbourhood and its position; the whole masked board; and a control task (Hewitt and Liang 2019), a
random class for each true token and position, which shows what a read-out can learn by heart.
Row: a label of hidden or of visible cells, at the stage that was best on other boards.
"""
from __future__ import annotations

import numpy as np

from studies.claims.readouts import ReadOut, Task, best_stage
from studies.claims.sample import Sample
from studies.claims.scores import Row, Table, spread
from studies.claims.statistics import several

TABLE = Table("decodability", "abstractions that encode all semantic features of the data",
              "skill of a linear read-out", {"decodability_stages": "skill"})
CONTROL_TASK = "control task"
Found = dict[str, dict[str, dict[str, ReadOut]]]  # {source: {task: {stage: read-out}}}


def tasks_of(sample: Sample, rng: np.random.Generator) -> dict[str, Task]:
    """Every label of hidden and of visible cells, and the control task of each."""
    tasks, tokens = {}, sample.drawn.tokens
    T = tokens.shape[1]
    for label, values in sample.labels.items():
        if values.max() < 1:
            continue
        table = rng.integers(values.max() + 1, size=(T, tokens.max() + 1)).astype(values.dtype)
        random = table[np.arange(T), tokens]  # a class for each true token and position
        # from the whole board each cell has its own read-out: hidden cells alone are too few examples
        each = np.packbits(values >= 0, axis=1)
        for cells, where in (("hidden cells", sample.hidden), ("visible cells", ~sample.hidden)):
            judged = where & (values >= 0) & sample.known[label]
            if several(values[sample.test][judged[sample.test]]):
                train, judged = (np.packbits(at, axis=1) for at in (where & (values >= 0), judged))
                tasks[f"{label}, {cells}"] = Task(values, train, judged, each)
                tasks[f"{CONTROL_TASK}, {label}, {cells}"] = Task(random, train, judged, each, True)
    return tasks


def measure(found: Found) -> tuple[list[Row], list[dict]]:
    """Rows on whether every label can be read off linearly, and the curves of skill over stages. found: of
    the network and of each control, the tasks of `tasks_of` among others."""
    rows, curves, prefix = [], [], f"{CONTROL_TASK}, "
    for name in (task.removeprefix(prefix) for task in found["network"] if task.startswith(prefix)):
        stage, effect = best_stage(found["network"][name])
        task = found["network"][prefix + name][stage].score  # at the stage of the effect
        controls = {"majority class": np.zeros_like(effect), CONTROL_TASK: task}
        for source, of_source in found.items():
            if source != "network":
                controls[source] = best_stage(of_source[name])[1]
            label, cells = name.split(", ")
            curves += [{"label": label, "cells": cells, "source": source, "stage": stage}
                       | spread("value", readout.score) for stage, readout in of_source[name].items()]
        rows.append(Row(TABLE.name, name, effect, controls, stage=stage))
    return rows, curves
