"""Linear read-outs of labels from activations, tokens or words: fitted on more and more boards, chosen by
their skill, and tested on other boards."""
from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

import utils
from studies.claims.networks import Network
from studies.claims.sample import Parts
from studies.claims.scores import Skill
from studies.claims.statistics import NormalEquations

# Strengths, times the mean variance of a feature; chosen on boards of their own. Features of boards are many
# and go without the first.
RIDGE = (1e-5, 1e-3, 1e-1)
FIRST, ENOUGH = 2000, 0.01  # boards of the first fit; the rise of skill that makes a larger one worth while
AT_ONCE, AT_ONCE_EACH = 100, 1000  # boards whose features of cells, or of boards, are in memory together
AT_ONCE_JUDGED = 64  # the same when classes are read off
PORTION = 2**20  # numbers in the weights of read-outs that are tried together
NEAR = 2  # cells from a cell to the edge of its neighbourhood

# The features of some boards: {stage: (n, T, F) of cells, or (n, F) of boards, from which each cell has a
# read-out of its own}
Features = Callable[[slice], dict[str, np.ndarray]]
# {(stage, task): (F + 1, strengths, columns)}, the last row offsets; columns: classes, or cells x classes
Weights = dict[tuple[str, str], np.ndarray]


@dataclass
class Task:
    """A label to be read off, at which cells: (n, T) each, of all boards of a sample. Cells are kept, and may
    come, as bits (n, T / 8), as many tasks of many boards take much memory."""

    values: np.ndarray
    train: np.ndarray  # where a read-out for all cells is fitted
    judged: np.ndarray  # where skill is measured
    train_each: np.ndarray | None = None  # where a read-out of each cell's own is fitted; None: as train
    network_only: bool = False  # whether controls go without it

    def __post_init__(self):
        self.classes = int(self.values.max()) + 1
        for name in ("train", "judged", "train_each"):
            cells = getattr(self, name)
            if cells is not None and cells.dtype == bool:
                setattr(self, name, np.packbits(cells, axis=1))
        if self.train_each is None:
            self.train_each = self.train

    def cells(self, name: str, where: slice) -> np.ndarray:
        """(n, T) train, judged or train_each of some boards."""
        return np.unpackbits(getattr(self, name)[where], axis=1, count=self.values.shape[1]).view(bool)


@dataclass
class ReadOut:
    """The read-out of the strength that was best on the boards to choose by."""

    chosen_by: float  # its skill there
    score: np.ndarray  # on the test boards
    curve: dict[int, float] = field(default_factory=dict)  # {boards fitted on: skill on those to choose by}


def readouts(features: Features, tasks: dict[str, Task], sample: Parts,
             W: np.ndarray) -> dict[str, dict[str, ReadOut]]:
    """{task: {stage: read-out}} of a source of features. W (R + 1, masked test boards).

    A task's read-outs are fitted on the first FIRST boards, on twice as many and so on, until skill at its
    best stage, on the boards to choose by, rises by less than ENOUGH, or the sample's boards are used up.
    """
    each = any(X.ndim == 2 for X in features(slice(1)).values())
    fits = Fits(tasks, each)
    if each and len(fits.groups) > 1:  # sums of so many features are large, so one group after the other
        parts = [readouts(features, {name: tasks[name] for name in names}, sample, W)
                 for names in fits.groups.values()]
        return {name: next(part[name] for part in parts if name in part) for name in tasks}
    start, end, best, last = 0, min(FIRST, sample.n_fit), {}, {}
    curves: dict[tuple[str, str], dict[int, float]] = {}
    once = np.ones((1, sample.n_valid))
    choose = {name: _judge(task, sample.to_choose, once) for name, task in tasks.items()}
    while fits.tasks:
        for where in _batches(start, end, AT_ONCE_EACH if each else AT_ONCE):
            fits.add(features(where), where)
        chosen = {}
        for weights in _portions(fits.weights()):
            for key, predicted in predictions(features, weights, tasks, sample.to_choose).items():
                skills = np.nan_to_num([choose[key[1]](p)[0] for p in predicted], nan=-np.inf)
                curves.setdefault(key, {})[end] = float(max(skills))
                chosen[key] = weights[key][:, [int(np.argmax(skills))]]
        before, best = best, {}
        for stage, task in chosen:
            best[task] = max(best.get(task, -np.inf), curves[stage, task][end])
        going = [task for task in fits.tasks if end < sample.n_fit
                 and best[task] - before.get(task, -np.inf) >= ENOUGH and best[task] > -np.inf]
        last |= {key: weights for key, weights in chosen.items() if key[1] not in going}
        fits.keep(going)
        start, end = end, min(2 * end, sample.n_fit)
    found: dict[str, dict[str, ReadOut]] = {task: {} for task in tasks}
    judge = {name: _judge(task, sample.test, W) for name, task in tasks.items()}
    for (stage, task), [predicted] in predictions(features, last, tasks, sample.test).items():
        curve = curves[stage, task]
        found[task][stage] = ReadOut(list(curve.values())[-1], judge[task](predicted), curve)
    return found


def _judge(task: Task, boards: slice, W: np.ndarray) -> Skill:
    return Skill(task.values[boards], task.cells("judged", boards), W)


def _portions(weights: Iterator[tuple]) -> Iterator[Weights]:
    """Weights of several read-outs at a time, as many as PORTION numbers."""
    portion: Weights = {}
    for key, of_readout in weights:
        portion[key] = of_readout
        if sum(w.size for w in portion.values()) > PORTION:
            yield portion
            portion = {}
    if portion:
        yield portion


class Fits:
    """Read-outs of several tasks from several stages, fitted batch by batch.

    Tasks that are fitted at the same cells are a group. A cell's products are summed once however many groups
    it is in: there is one sum for each stage and each set of groups that has a cell of its own, and a group's
    sums are those of all sets with it. From features of boards (`each`), one group at a time.
    """

    def __init__(self, tasks: dict[str, Task], each: bool = False):
        self.tasks, self.each, self.groups = tasks, each, {}
        self.trained = "train_each" if each else "train"  # the cells that read-outs are fitted at
        for name, task in tasks.items():
            self.groups.setdefault(getattr(task, self.trained).tobytes(), []).append(name)
        self.groups = dict(enumerate(self.groups.values()))  # {number: tasks}
        self.sums: dict[tuple[str, int], NormalEquations] = {}  # by stage and set of groups, bits of a number
        self.columns = self._columns()

    def _columns(self) -> dict[int, tuple[Task, np.ndarray]]:
        """{target: (a task that has it, its columns)}; the same array of values is the same target."""
        columns, end = {}, 0
        for task in self.tasks.values():
            if id(task.values) not in columns:
                width = task.classes * (task.values.shape[1] if self.each else 1)
                columns[id(task.values)] = task, np.arange(end, end := end + width)
        return columns

    def add(self, features: dict[str, np.ndarray], where: slice) -> None:
        """Adds the features of the boards `where`."""
        sets = 0
        for number, [name, *_] in self.groups.items():
            train = self.tasks[name].cells(self.trained, where)
            sets = sets | (train.any(1) if self.each else train).astype(np.int64) << number  # at most 63
        sets = sets.ravel()
        order = np.argsort(sets, kind="stable")
        order = order[np.searchsorted(sets[order], 1) :]
        kinds, first = np.unique(sets[order], return_index=True)
        if not len(kinds):
            return
        Y = []
        for task, _ in self.columns.values():
            values = task.values[where] if self.each else task.values[where].reshape(-1, 1)
            one_hot = values[order, :, None] == np.arange(task.classes)
            Y.append((one_hot & train[order, :, None] if self.each else one_hot).reshape(len(order), -1))
        Y = np.concatenate(Y, 1)
        for stage, X in features.items():
            X = X.reshape(len(sets), -1)[order]
            Y = Y.astype(float if X.dtype.kind == "f" else np.uint8, copy=False)
            for kind, x, y in zip(kinds, np.split(X, first[1:]), np.split(Y, first[1:]), strict=True):
                self.sums.setdefault((stage, int(kind)), NormalEquations()).add(x, y)

    def keep(self, going: Collection[str]) -> None:
        """Forgets all other tasks, and the sums for them."""
        if len(going) == len(self.tasks):
            return
        self.tasks = {name: self.tasks[name] for name in going}
        self.groups = {number: left for number, names in self.groups.items()
                       if (left := [name for name in names if name in self.tasks])}
        old, self.columns = self.columns, self._columns()
        columns = np.concatenate([old[target][1] for target in self.columns] or [[]]).astype(int)
        before, self.sums = self.sums, {}
        for (stage, kind), of_set in before.items():
            key = stage, kind & sum(1 << number for number in self.groups)
            if key[1]:
                F = len(of_set.sums)
                sums = np.concatenate([of_set.sums[:, :F], of_set.sums[:, F + columns]], 1)
                self.sums[key] = NormalEquations(sums + self.sums[key].sums if key in self.sums else sums)

    def weights(self) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
        """Items of `Weights` of all tasks, stage by stage."""
        for stage in dict.fromkeys(stage for stage, _ in self.sums):
            for number, names in self.groups.items():
                sums = [of_set.sums for (own, kind), of_set in self.sums.items()
                        if own == stage and kind >> number & 1]
                if not sums:
                    continue
                targets = dict.fromkeys(id(self.tasks[name].values) for name in names)
                group = NormalEquations(functools.reduce(np.add, sums))
                solved = group.weights(RIDGE[self.each :], [self.columns[target][1] for target in targets])
                del sums, group  # large
                for target, of_target in zip(targets, solved, strict=True):
                    yield from (((stage, name), of_target) for name in names
                                if id(self.tasks[name].values) == target)


def predictions(features: Features, weights: Weights, tasks: dict[str, Task],
                boards: slice) -> dict[tuple[str, str], np.ndarray]:
    """{(stage, task): (strengths, N)} the classes read off the N judged cells of some boards, in order."""
    parts: dict[tuple[str, str], list] = {key: [] for key in weights}
    start, stop, _ = boards.indices(len(next(iter(tasks.values())).values))
    for where in _batches(start, stop, AT_ONCE_JUDGED):
        judged = {task: tasks[task].cells("judged", where) for _, task in weights}
        acts = features(where)
        for (stage, task), w in weights.items():
            X, cells = acts[stage], judged[task]
            each = X.ndim == 2
            some = X[cells.any(1)] if each else X[cells]
            evidence = some.astype(np.float32, copy=False) @ w[:-1].reshape(len(w) - 1, -1) + w[-1].ravel()
            C = tasks[task].classes
            evidence = evidence.reshape(len(some), w.shape[1], w.shape[2] // C, C)
            if each:
                evidence = evidence.swapaxes(1, 2)[cells[cells.any(1)]]  # (N, strengths, C)
            else:
                evidence = evidence[:, :, 0]
            parts[stage, task].append(evidence.argmax(-1).astype(tasks[task].values.dtype).T)
    return {key: np.concatenate(parts.pop(key), 1) for key in weights}  # one by one, as they are large


def _batches(start: int, stop: int, step: int) -> Iterator[slice]:
    return (slice(at, min(at + step, stop)) for at in range(start, stop, step))


def best_stage(by_stage: dict[str, ReadOut]) -> tuple[str, np.ndarray]:
    """(stage, score on the test boards) of the stage that was best on the boards to choose by."""
    stage = max(by_stage, key=lambda name: by_stage[name].chosen_by)
    return stage, by_stage[stage].score


def curves_of(source: str, found: dict[str, dict[str, ReadOut]]) -> list[dict]:
    """The learning curves of a source's read-outs at their best stage: a line a task and number of boards."""
    stages = {task: best_stage(by_stage)[0] for task, by_stage in found.items()}
    return [{"source": source, "read-out": task, "stage": stage, "boards": boards, "skill": skill}
            for task, stage in stages.items() for boards, skill in found[task][stage].curve.items()]


# sources of features


def of_network(network: Network, tokens: np.ndarray) -> Features:
    """[z, p] of every stage: activations and the position code, which the next block reads as well."""
    code_of_board = utils.to_numpy(network.trainer.transformer.pos_emb[0])  # (T, P)

    def features(where: slice) -> dict[str, np.ndarray]:
        acts = network.run(tokens[where], network.stages)[1]
        code = np.broadcast_to(code_of_board, (len(tokens[where]), *code_of_board.shape))
        return {stage: np.concatenate([z, code], -1) for stage, z in acts.items()}
    return features


def nearby(tokens: np.ndarray, vocab: int) -> np.ndarray:
    """(n, T, 25) the tokens of the 5 x 5 cells around each cell of boards (n, T); vocab beyond the edge."""
    side, width = round(tokens.shape[1] ** 0.5), 2 * NEAR + 1
    padded = np.pad(tokens.reshape(-1, side, side), ((0, 0), (NEAR, NEAR), (NEAR, NEAR)),
                    constant_values=vocab)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (width, width), axis=(1, 2))
    return windows.reshape(*tokens.shape, width * width)


def of_input(tokens: np.ndarray, vocab: int) -> dict[str, Features]:
    """What a read-out could use without any network: the one-hot tokens of the cell, of its neighbourhood (5
    x 5, zero off the board), both with the cell's position, and of the whole masked board."""
    T = tokens.shape[1]

    def own(where: slice) -> dict[str, np.ndarray]:
        return {"": with_position(one_hot(tokens[where])[..., None, :])}

    def near(where: slice) -> dict[str, np.ndarray]:
        return {"": with_position(one_hot(nearby(tokens[where], vocab)))}

    def whole(where: slice) -> dict[str, np.ndarray]:
        return {"": one_hot(tokens[where]).reshape(-1, T * vocab)}

    def one_hot(some: np.ndarray) -> np.ndarray:
        return (some[..., None] == np.arange(vocab)).astype(np.uint8)

    def with_position(cells: np.ndarray) -> np.ndarray:
        position = np.broadcast_to(np.eye(T, dtype=np.uint8), (len(cells), T, T))
        return np.concatenate([cells.reshape(len(cells), T, -1), position], -1)

    return {"own token and position": own, "neighbourhood": near, "whole masked board": whole}
