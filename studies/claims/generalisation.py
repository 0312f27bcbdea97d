"""Claim: what is encoded is abstract.

Question: do read-outs of a label carry over to contexts in which they were not fitted?
Measure: the contexts of a label are halved; skill of a linear read-out from [z, p] fitted in one half and
tested in the other, both ways (Bernardi et al. 2020). In runs that hold out positions or pairs of roots,
read-outs fitted on boards of train are also tested at positions, or in pairs, on which neither read-out nor
network was trained. From single boards to double ones or composites there is one way too; these rows belong
to the claim of compositionality.
Upper bound: a read-out fitted in both halves; for what was never shown, the same read-out on boards of train
that it was not fitted on.
Controls: the same from an untrained network and from the input: a cell's own token, its neighbourhood, the
whole masked board.
Row: a label across what divides its contexts.
"""
from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from module_dataset import AbstractionDataset
from studies.claims.readouts import ReadOut, Task, best_stage
from studies.claims.sample import Sample
from studies.claims.scores import Row, Table, mean
from studies.claims.statistics import several

TABLE = Table("generalisation", "what is encoded is abstract: read-outs carry over to unseen contexts",
              "skill in the other contexts")
NEW = {"stringent": "positions never shown", "places": "positions never shown", "pairs": "pairs never shown"}
CROSSINGS = (  # (label, what divides its contexts)
    ("root", "background"), ("root", "place on the board"), ("root", "companion"), ("background", "root"),
    ("place in the root", "root"), ("row", "root"), ("column", "root"), ("composite", "background"),
    ("composite", "place on the board"), ("root", "double boards"), ("root", "composites"),
    *((label, new) for new in sorted(set(NEW.values()))
      for label in ("root", "place in the root", "row", "column")))
BOUND = ", in both"  # ends the names of the read-outs that are the upper bound
ONE_WAY = ("double boards", "composites", *NEW.values())  # contexts to which read-outs are carried


def halves_of(condition: str) -> tuple[int, ...]:
    """The halves of contexts in which read-outs are fitted."""
    return (0,) if condition in ONE_WAY else (0, 1)


def tasks_of(sample: Sample, dataset: AbstractionDataset,
             wanted: Iterable[tuple[str, str]] = CROSSINGS) -> dict[str, Task]:
    """The read-outs of those wanted, (label, what divides its contexts), that the boards allow: 'LABEL across
    CONDITION, from 0' and, both ways, '..., from 1', fitted in a half and tested in the other; and '..., in
    both', the bound."""
    contexts, tasks, before = contexts_of(sample, dataset), {}, (sample.part < 2)[:, None]
    for label, condition in wanted:
        if condition not in contexts:
            continue
        values, half = sample.labels[label], contexts[condition]
        usable = (half >= 0) & (values >= 0) & sample.known[label]
        if label == "background":  # of single boards only, whose one root is the context of all cells
            usable &= (sample.drawn.types == 0)[:, None]
        half = np.where(usable, half, -1)  # neither, without the label or if visible cells leave it open
        if not _can_be_measured(values, half, condition, sample):
            continue
        name = f"{label} across {condition}"
        for way in halves_of(condition):
            within, beyond = half == way, half == 1 - way
            tasks[f"{name}, from {way}"] = Task(values, within, np.where(before, within, beyond))
        judged = usable & (before | (half == 1) | (condition not in ONE_WAY))
        tasks[name + BOUND] = Task(values, usable, judged, network_only=True)
    return tasks


def measure(found: dict[str, dict[str, dict[str, ReadOut]]]) -> list[Row]:
    """Rows on whether codes are abstract; from single boards to others they belong to the table on
    composition. found: {source: {task: {stage: read-out}}}, the tasks of `tasks_of` among others."""
    rows = []
    for name in (task.removesuffix(BOUND) for task in found["network"] if task.endswith(BOUND)):
        condition = name.split(" across ")[1]
        ways = [f"{name}, from {half}" for half in halves_of(condition)]
        scores = {source: mean([best_stage(of_source[way])[1] for way in ways])
                  for source, of_source in found.items()}
        stage = best_stage(found["network"][ways[-1]])[0]
        bound, table = best_stage(found["network"][name + BOUND])[1], TABLE.name
        if condition in NEW.values():  # its new contexts are not among the boards to fit
            name = name.replace("across", "at" if "positions" in name else "in")
            bound = found["network"][ways[0]][stage].chosen_by
        elif condition in ONE_WAY:
            table = "composition"
            name = f"read-out of the root learnt on single boards, on {condition}"
        rows.append(Row(table, name, scores.pop("network"), scores, bound, stage))
    return rows


def contexts_of(sample: Sample, dataset: AbstractionDataset) -> dict[str, np.ndarray]:
    """{what divides contexts: (n, T)}: the half, 0 or 1, that a cell's context belongs to; -1 for neither."""
    labels, objects = sample.labels, sample.drawn.objects
    root = labels["root"]
    types = np.broadcast_to(sample.drawn.types[:, None], root.shape)
    # of two objects; in a small type, as all arrays of cells of all boards are large
    number = np.clip(dataset.covering(objects) // dataset.params.abs_dim**2, 0, 1).astype(np.int8)
    companion = objects[np.arange(len(objects))[:, None], 1 - number, 0].astype(root.dtype)
    of_the_board = _half(objects[:, :1, 0], types == 0)
    contexts = {"background": _half(labels["background"]),
                "place on the board": _half(labels["row"] % 2 + labels["column"] % 2, root >= 0),
                "root": np.where(root >= 0, _half(root), of_the_board),
                "companion": _half(companion, (types == 1) & (root >= 0)),
                "double boards": np.where(types < 2, types, -1),
                "composites": np.array([0, -1, 1])[types]}
    if dataset.sets is not None and dataset.split_method in NEW:
        train = (root >= 0) & (sample.part < 2)[:, None]
        new = np.where(never_shown(sample, dataset), 1, -1)
        contexts[NEW[dataset.split_method]] = np.where(train, 0, new)
    return {name: half.astype(np.int8) for name, half in contexts.items()}


def never_shown(sample: Sample, dataset: AbstractionDataset) -> np.ndarray:
    """(n, T) object cells of held-out boards whose position, or companion, training never shows."""
    root, labels = sample.labels["root"], sample.labels
    test = (root >= 0) & (sample.part == 2)[:, None]
    if dataset.split_method == "pairs":
        return test & (sample.drawn.types == 1)[:, None]  # held-out boards of other types are of train
    train = dataset.table(0, "train")
    shown = np.zeros((dataset.abs_n, dataset.params.places, dataset.params.places), bool)
    shown[tuple(train.take(np.arange(len(train)))[:, :3].T)] = True
    return test & ~shown[root, labels["row"], labels["column"]]


def _half(values: np.ndarray, where: np.ndarray | bool = True) -> np.ndarray:
    return np.where(where & (values >= 0), values % 2, -1).astype(np.int8)


def _can_be_measured(values: np.ndarray, half: np.ndarray, condition: str, sample: Sample) -> bool:
    """Whether each half has two classes in each part; what was never shown has them in the test part."""
    new, parts = condition in NEW.values(), (slice(sample.n_fit), sample.to_choose, sample.test)
    return all(several(values[part][half[part] == way])
               for way in (0, 1) for number, part in enumerate(parts) if not new or way == (number == 2))
