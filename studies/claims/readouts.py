"""Linear read-outs of labels from activations, tokens or words: fitted, chosen by their skill, and tested on
other boards."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studies.claims.sample import Sample
from studies.claims.scores import skill
from studies.claims.statistics import ridge

RIDGE = (1e-5, 1e-3, 1e-1)  # strengths, times the mean variance of a feature; chosen on boards of their own


@dataclass
class ReadOut:
    """The read-out of the strength that was best on the boards to choose by."""

    chosen_by: float  # its skill there
    score: np.ndarray  # on the test boards


def predict(X: np.ndarray, values: np.ndarray, train: np.ndarray,
            beside: np.ndarray | None = None) -> list[np.ndarray]:
    """Linear read-outs of values (n, T), fitted on the cells in train (n_fit, T), one for each strength of
    RIDGE.

    X (n, T, D) of cells, to which features of the position (T, P) may be joined; or (n, F) of boards, from
    which each cell has a read-out of its own. Returns predictions (n - n_fit, T) for the other boards.
    """
    n_fit, T, C = len(train), values.shape[1], values.max() + 1
    b, t = np.nonzero(train & (values[:n_fit] >= 0))
    one_hot = np.eye(C, dtype=np.float32)[values[b, t]]
    if X.ndim == 3:
        examples, targets = X[b, t], one_hot
        if beside is not None:
            examples = np.concatenate([examples, beside[t]], -1)
    else:
        boards, row = np.unique(b, return_inverse=True)
        examples, targets = X[boards], np.zeros((len(boards), T, C), np.float32)
        targets[row, t] = one_hot
    rest = X[n_fit:].reshape(-1, X.shape[-1])
    if beside is not None:
        rest = np.concatenate([rest, np.tile(beside, (len(X) - n_fit, 1))], -1)
    predictions = []
    for weights in ridge(examples, targets.reshape(len(targets), -1), RIDGE):
        evidence = rest @ weights[:-1] + weights[-1]
        predictions.append(evidence.reshape(-1, T, C).argmax(-1))
    return predictions


def choose(predictions: list[np.ndarray], values: np.ndarray, judged: np.ndarray, n_valid: int,
           W: np.ndarray) -> ReadOut:
    """Of several predictions, those with the best skill on the boards to choose by.

    predictions, values, judged all (n_valid + n_test, T); skill is over the cells judged. W (R + 1, n_test).
    """
    once = np.ones((1, n_valid))
    skills = [skill(p[:n_valid], values[:n_valid], judged[:n_valid], once)[0] for p in predictions]
    best = int(np.argmax(np.nan_to_num(skills, nan=-np.inf)))
    return ReadOut(skills[best], skill(predictions[best][n_valid:], values[n_valid:], judged[n_valid:], W))


def readouts(stages: dict[str, np.ndarray], values: np.ndarray, train: np.ndarray, judged: np.ndarray,
             sample: Sample, W: np.ndarray, beside: np.ndarray | None = None) -> dict[str, ReadOut]:
    """{stage: read-out of values} from stages {name: features}, joined with features of the position (T, P);
    values, train, judged (n, T) as the sample's boards."""
    by_stage, rest = {}, slice(sample.n_fit, None)
    for stage, X in stages.items():
        predictions = predict(X, values, train[: sample.n_fit], beside)
        by_stage[stage] = choose(predictions, values[rest], judged[rest], sample.n_valid, W)
    return by_stage


def best_stage(by_stage: dict[str, ReadOut]) -> tuple[str, np.ndarray]:
    """(stage, score on the test boards) of the stage that was best on the boards to choose by."""
    stage = max(by_stage, key=lambda name: np.nan_to_num(by_stage[name].chosen_by, nan=-np.inf))
    return stage, by_stage[stage].score


def input_features(tokens: np.ndarray, vocab: int) -> dict[str, dict[str, np.ndarray]]:
    """What a read-out could use without any network: a cell's own token and position, one-hot; the whole
    masked board."""
    n, T = tokens.shape
    one_hot = np.eye(vocab, dtype=np.float32)[tokens]
    position = np.broadcast_to(np.eye(T, dtype=np.float32), (n, T, T))
    own = np.concatenate([one_hot, position], -1)
    return {"own token and position": {"": own}, "whole masked board": {"": one_hot.reshape(n, -1)}}
