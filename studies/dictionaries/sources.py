"""What is scored: the latents of dictionaries, and of controls, on the same cells.

Controls without labels: the untrained network's dictionary; a dictionary whose decoder stays random; the
activation's dimensions (neurons), principal axes and random directions, each with both signs; the masked
tokens of the 5 x 5 cells around a cell and its position (raw tokens). Controls that learn the labels, on the
boards that dictionaries are trained on: linear read-outs of the activation (linear probe) and of those 5 x 5
tokens.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from studies.claims.readouts import nearby
from studies.claims.statistics import NormalEquations
from studies.dictionaries.cells import FIT, Cells
from studies.dictionaries.scoring import MEASURES, RIDGE, one_hot
from studies.dictionaries.training import Dictionary

PROBE_CELLS = 60_000  # that a supervised read-out is fitted on, at most
SUPERVISED = ("linear probe", "5 x 5 read-out")


@dataclass
class Source:
    """Latents by name: of (n, T) cells that are asked for, in their order."""

    name: str
    of: Callable[[np.ndarray], np.ndarray]  # cells (n, T) bool -> latents (N, F)
    directions: np.ndarray | None = None  # (F, D) what each latent stands for in the activation
    acts: np.ndarray | None = None  # (n, T, D) the activations that these are directions of
    seed: int = 0
    measures: tuple[str, ...] = MEASURES
    made: Dictionary | None = None


def of_dictionary(name: str, made: Dictionary, acts: np.ndarray, seed: int) -> Source:
    """A dictionary's latents of activations (n, T, D)."""
    return Source(name, lambda cells: made.encode(acts[cells]), made.W_dec, acts, seed, made=made)


def without_labels(cells: Cells, acts: np.ndarray, tokens: np.ndarray, vocab: int, width: int,
                   rng: np.random.Generator) -> list[Source]:
    """The controls that are not trained, on activations (n, T, D) of masked tokens (n, T)."""
    some = acts[cells.part == FIT].reshape(-1, acts.shape[-1])
    mean, D = some.mean(0), acts.shape[-1]
    axes = np.linalg.eigh(np.cov(some[:: -(-len(some) // PROBE_CELLS)].T))[1].T
    random = rng.standard_normal((width // 2, D))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    sources = []
    for name, directions in (("neurons", np.eye(D)), ("PCA", axes), ("random directions", random)):
        both = np.concatenate([directions, -directions]).astype(np.float32)
        sources.append(Source(name, lambda where, both=both: (acts[where] - mean) @ both.T, both, acts))
    near = nearby(tokens, vocab)
    return [*sources, Source("raw tokens", lambda where: near_one_hot(near, where, vocab))]


def with_labels(cells: Cells, acts: np.ndarray, tokens: np.ndarray, vocab: int, hidden: bool,
                rng: np.random.Generator) -> list[Source]:
    """The supervised controls, fitted on the hidden or on the visible cells."""
    where, near = cells.of(FIT, hidden), nearby(tokens, vocab)
    keep = np.flatnonzero(where)
    where = np.zeros_like(where)
    where.flat[rng.choice(keep, min(len(keep), PROBE_CELLS), replace=False)] = True
    Y = np.concatenate([one_hot(values[where], values.max() + 1) for values in cells.labels.values()], 1)

    def source(name: str, features: Callable[[np.ndarray], np.ndarray]) -> Source:
        fit = NormalEquations()
        fit.add(features(where), Y)
        weights = next(fit.weights([RIDGE], [np.arange(Y.shape[1])]))[:, 0]
        return Source(name, lambda cells: features(cells) @ weights[:-1] + weights[-1], measures=("single",))

    return [source(SUPERVISED[0], lambda cells: acts[cells]),
            source(SUPERVISED[1], lambda cells: near_one_hot(near, cells, vocab))]


def near_one_hot(near: np.ndarray, where: np.ndarray, vocab: int) -> np.ndarray:
    """(N, 25 (V + 1) + T) uint8: those tokens (n, T, 25) and the position of the cells `where` (n, T),
    one-hot."""
    chosen, (_, position) = near[where], np.nonzero(where)
    tokens = chosen[..., None] == np.arange(vocab + 1)
    place = position[:, None] == np.arange(where.shape[1])
    return np.concatenate([tokens.reshape(len(chosen), -1), place], 1).astype(np.uint8)


def matching(source: Source, labels: np.ndarray, where: np.ndarray, rng: np.random.Generator) -> dict:
    """Mean over the values of labels (n, T) of the largest cosine between a latent's direction and the mean
    activation of the value's cells, less that of all cells with the label; and the same with labels permuted
    over these cells."""
    use = where & (labels >= 0)
    x, values = source.acts[use], labels[use]
    x = x - x.mean(0)
    shown = {}
    for name, of in (("matching", values), ("matching, permuted", rng.permutation(values))):
        member = one_hot(of).T.astype(np.float32)
        means = (member @ x)[member.any(1)]
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        shown[name] = float((means @ source.directions.T).max(1).mean())
    return shown


def stability(sources: list[Source]) -> float:
    """Mean over pairs of dictionaries, and over the latents of one, of the largest cosine with a direction of
    the other; NaN of a single one."""
    pairs = [(a, b) for a in sources for b in sources if a is not b]
    return float(np.mean([(a.directions @ b.directions.T).max(1).mean() for a, b in pairs] or [np.nan]))
