"""Linear read-outs of labels from activations, tokens or words: fitted on more and more boards, chosen by
their skill, and tested on other boards."""
from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from studies.claims.networks import Network
from studies.claims.sample import Parts
from studies.claims.scores import skill
from studies.claims.statistics import NormalEquations

# Strengths, times the mean variance of a feature; chosen on boards of their own. Features of boards are many
# and go without the first.
RIDGE = (1e-5, 1e-3, 1e-1)
FIRST, ENOUGH = 2000, 0.01  # boards of the first fit; the rise of skill that makes a larger one worth while
AT_ONCE = 250  # boards whose features are in memory together
PORTION = 2**22  # numbers in the weights of read-outs that are tried together
NEAR = 2  # cells from a cell to the edge of its neighbourhood

# The features of some boards: {stage: (n, T, F) of cells, or (n, F) of boards, from which each cell has a
# read-out of its own}
Features = Callable[[slice], dict[str, np.ndarray]]


@dataclass
class Task:
    """A label to be read off, at which cells: (n, T) each, of all boards of a sample."""

    values: np.ndarray
    train: np.ndarray  # where a read-out for all cells is fitted
    judged: np.ndarray  # where skill is measured
    train_each: np.ndarray | None = None  # where a read-out of each cell's own is fitted; None: as train


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
    found: dict[str, dict[str, ReadOut]] = {task: {} for task in tasks}
    fits, start, end, going, best = Fits(tasks), 0, min(FIRST, sample.n_fit), set(tasks), {}
    curves: dict[tuple[str, str], dict[int, float]] = {}
    once = np.ones((1, sample.n_valid))
    while going:
        for where in _batches(start, end):
            for stage, X in features(where).items():
                fits.add(stage, X, where, going)
        chosen = {}
        for weights in _portions(fits.weights(going)):
            for key, predicted in predictions(features, weights, tasks, sample.to_choose).items():
                task = tasks[key[1]]
                skills = [skill(p, task.values[sample.to_choose], task.judged[sample.to_choose], once)[0]
                          for p in predicted]
                skills = np.nan_to_num(skills, nan=-np.inf)
                curves.setdefault(key, {})[end] = float(max(skills))
                chosen[key] = weights[key][[int(np.argmax(skills))]]
        before, best = best, {}
        for stage, task in chosen:
            best[task] = max(best.get(task, -np.inf), curves[stage, task][end])
        stopped = {task for task in going if end == sample.n_fit
                   or best[task] - before.get(task, -np.inf) < ENOUGH or best[task] == -np.inf}
        last = {key: weights for key, weights in chosen.items() if key[1] in stopped}
        for (stage, name), [predicted] in predictions(features, last, tasks, sample.test).items():
            task, curve = tasks[name], curves[stage, name]
            score = skill(predicted, task.values[sample.test], task.judged[sample.test], W)
            found[name][stage] = ReadOut(curve[end], score, curve)
        going -= stopped
        start, end = end, min(2 * end, sample.n_fit)
    return found


def _portions(weights: Iterator[tuple]) -> Iterator[dict[tuple[str, str], np.ndarray]]:
    """Weights of several read-outs at a time, as many as PORTION numbers."""
    portion: dict[tuple[str, str], np.ndarray] = {}
    for key, matrices in weights:
        portion[key] = matrices.astype(np.float32)
        if sum(w.size for w in portion.values()) > PORTION:
            yield portion
            portion = {}
    if portion:
        yield portion


class Fits:
    """Read-outs of several tasks from several stages, fitted batch by batch. Tasks that are fitted at the
    same cells share their sums."""

    def __init__(self, tasks: dict[str, Task]):
        self.tasks, self.sums = tasks, {}
        self.groups = [self._grouped(each=False), self._grouped(each=True)]

    def _grouped(self, each: bool) -> list[tuple[np.ndarray, dict[bytes, np.ndarray], dict[str, bytes]]]:
        """[(cells (n, T), {target: values (n, T)}, {task: target})]"""
        groups: dict[bytes, tuple] = {}
        for name, task in self.tasks.items():
            train = task.train if not each or task.train_each is None else task.train_each
            _, targets, of_task = groups.setdefault(_digest(train), (train, {}, {}))
            of_task[name] = _digest(task.values)
            targets[of_task[name]] = task.values
        return list(groups.values())

    def add(self, stage: str, X: np.ndarray, where: slice, wanted: Container[str]) -> None:
        """Adds the features X, (n, T, F) of cells or (n, F), of the boards `where`. wanted: tasks."""
        each = X.ndim == 2
        for number, (train, targets, of_task) in enumerate(self.groups[each]):
            train = train[where]
            use = train.any(1) if each else train
            if use.any() and any(task in wanted for task in of_task):
                Y = [_one_hot(values, where, train, each) for values in targets.values()]
                equations = self.sums.setdefault((stage, each, number), NormalEquations())
                equations.add(X[use], np.concatenate(Y, -1))

    def weights(self, wanted: Container[str]) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
        """((stage, task), (strengths, F + 1, columns)) of each of the tasks wanted; columns: classes, or
        cells x classes."""
        for (stage, each, number), equations in self.sums.items():
            _, targets, of_task = self.groups[each][number]
            tasks = {task: target for task, target in of_task.items() if task in wanted}
            if tasks:
                solved, at, columns = equations.weights(RIDGE[each:]), 0, {}
                for target, values in targets.items():
                    wide = (int(values.max()) + 1) * (values.shape[1] if each else 1)
                    columns[target] = slice(at, at := at + wide)
                yield from (((stage, task), solved[..., columns[target]]) for task, target in tasks.items())


def _digest(array: np.ndarray) -> bytes:
    return sha256(np.ascontiguousarray(array)).digest()


def _one_hot(values: np.ndarray, where: slice, train: np.ndarray, each: bool) -> np.ndarray:
    """Targets: (cells, C) of the cells in train (n, T), or (n, T * C) of boards, zero at other cells."""
    classes = np.arange(values.max() + 1)
    if not each:
        return (values[where][train][:, None] == classes).astype(np.float32)
    used = train.any(1)
    one_hot = (values[where][used][..., None] == classes) & train[used][..., None]
    return one_hot.reshape(len(one_hot), -1).astype(np.float32)


def predictions(features: Features, weights: dict[tuple[str, str], np.ndarray], tasks: dict[str, Task],
                boards: slice) -> dict[tuple[str, str], np.ndarray]:
    """{(stage, task): (strengths, n, T)} the classes read off some boards, 0 at cells that are not judged."""
    start, stop, _ = boards.indices(len(next(iter(tasks.values())).values))
    shape = stop - start, next(iter(tasks.values())).values.shape[1]
    predicted = {key: np.zeros((len(w), *shape), np.int16) for key, w in weights.items()}
    for where in _batches(start, stop):
        X_of = {stage: X.astype(np.float32) for stage, X in features(where).items()}
        here = slice(where.start - start, where.stop - start)
        for (stage, task), w in weights.items():
            X, (n, cells) = X_of[stage], np.nonzero(tasks[task].judged[where])
            examples = X[n, cells] if X.ndim == 3 else X
            for strength, matrix in enumerate(w):
                evidence = examples @ matrix[:-1] + matrix[-1]
                if X.ndim == 2:
                    evidence = evidence.reshape(len(X), shape[1], -1)[n, cells]
                predicted[stage, task][strength, here][n, cells] = evidence.argmax(-1)
    return predicted


def _batches(start: int, stop: int) -> Iterator[slice]:
    return (slice(at, min(at + AT_ONCE, stop)) for at in range(start, stop, AT_ONCE))


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
    """[z, p] of every stage: activations of masked boards (n, T) and the position code, which the next block
    reads beside them."""
    def features(where: slice) -> dict[str, np.ndarray]:
        acts = network.run(tokens[where], network.stages)[1]
        code = np.broadcast_to(network.position_code, (len(tokens[where]), *network.position_code.shape))
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
