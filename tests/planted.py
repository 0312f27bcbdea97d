"""Boards that tell everything about themselves, which the tests of claims plant codes and languages in."""
import functools

import numpy as np

from module_dataset import AbstractionDataset
from studies.claims.sample import make_sample
from studies.claims.scenes import boards_of, rows_of
from studies.claims.scores import verdict

PROBA, MASKING = [1 / 3] * 3, (0.25, 0.5)


def _telling(**more):
    made = AbstractionDataset(vocab_token=90, seed=0, **more)
    made.roots = 10 + np.arange(90).reshape(10, 3, 3, 1)
    return made


@functools.cache
def dataset():
    """Default boards, but every token of a root names the root and its place in it."""
    return _telling()


@functools.cache
def singles():
    """The same, single boards only."""
    return _telling(board_types=["single"], board_types_proba=[1])


@functools.cache
def sample():
    return make_sample(dataset(), PROBA, MASKING, np.random.default_rng(0), 270, 54, 12, 2)


def drawn(dataset, type_, count, split, seed=0):
    """Random boards of a type in a split."""
    rng = np.random.default_rng(seed)
    return boards_of(dataset, type_, rows_of(dataset, type_, split, count, rng), rng)


def noise_like(sample, seed, width=16):
    """Activations that say nothing, for every cell of a sample."""
    return np.random.default_rng(seed).standard_normal((*sample.tokens.shape, width)).astype(np.float32)


def source(**stages):
    """Features of a sample's boards from arrays {stage: (n, T, F) or (n, F)}."""
    return lambda where: {stage: X[where] for stage, X in stages.items()}


def verdict_of(rows):
    return verdict(rows)["verdict"]


def cells_of(rows):
    """The columns of each row."""
    return [row.as_dict() for row in rows]
