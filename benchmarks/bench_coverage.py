"""How often the 95% intervals of the claims contain the truth, simulated for each kind of row.

    python benchmarks/bench_coverage.py --csv benchmarks/results/coverage.csv

Boards differ: a board's chance of a right answer is drawn from a beta distribution whose intraclass
correlation is given, so that its masks or cells are alike. 20, 40 and 150 boards are as many as held-out
composites, single boards and doubles have. Truth is known (shares, skills, gains) or measured on 16,000
boards (nearness, manifold). An interval has as many bootstrap samples as in the claims. With 2,000 repeats
a coverage of 95% is known to 1 point (two standard errors).
"""
from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from parts.files import save_table  # noqa: E402
from studies.claims.convergence import DIMENSION_DRAWS, Cells, manifold, nearness  # noqa: E402
from studies.claims.scores import Skill, interval, interval_between, ratio, resample  # noqa: E402
from studies.claims.statistics import unit  # noqa: E402

SIZES, SHARES = (20, 40, 150), (0.5, 0.8, 0.9, 0.95, 0.98, 0.995)


def chances(share: float, alike: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) a chance for each board, of the given mean and intraclass correlation."""
    if not alike:
        return np.full(n, share)
    size = (1 - alike) / alike
    return rng.beta(share * size, (1 - share) * size, n)


def a_share(n, share, answers, alike, rng) -> bool:
    """Ceilings, swaps, steering: `answers` masks of each board."""
    right = rng.binomial(answers, chances(share, alike, n, rng))
    low, high = interval(ratio(right, answers, resample(n, rng)))
    return low <= share <= high


def answers_to_cells(n, share, classes, alike, rng):
    """Truth and right answers (n, 12) of cells; wrong ones are any other class."""
    truth = rng.integers(classes, size=(n, 12))
    right = rng.random(truth.shape) < chances(share, alike, n, rng)[:, None]
    return truth, np.where(right, truth, (truth + rng.integers(1, classes, truth.shape)) % classes)


def a_skill(n, share, classes, alike, rng) -> bool:
    """Read-outs: 12 cells of each board."""
    truth, answers = answers_to_cells(n, share, classes, alike, rng)
    low, high = interval(Skill(truth, truth >= 0, resample(n, rng))(answers.ravel()))
    return low <= (share - 1 / classes) / (1 - 1 / classes) <= high


def a_gain(n, share, less, alike, rng) -> bool:
    """An effect over a control on the same boards, which are right together more often than by chance."""
    easy, W = rng.random(n), resample(n, rng)
    mixed = np.where(rng.random(n) < alike, easy, rng.random(n))  # the control shares some boards' difficulty
    low, high = interval_between(ratio(easy < share, 1, W), ratio(mixed < share - less, 1, W))
    return low <= less <= high


def a_gain_of_skills(n, share, less, alike, rng) -> bool:
    """The same of two read-outs of ten classes, 12 cells of each board."""
    W, seed = resample(n, rng), int(rng.integers(2**32))
    scores = []
    for mean in (share, share - less):  # the same boards are difficult for both
        truth, answers = answers_to_cells(n, mean, 10, alike, np.random.default_rng(seed))
        scores.append(Skill(truth, truth >= 0, W)(answers.ravel()))
    low, high = interval_between(*scores)
    return low <= less / 0.9 <= high


def cells_of(n: int, roots: float, rng: np.random.Generator) -> tuple[np.ndarray, Cells]:
    """Points and cells of n boards, one object each; roots: how far apart the ten roots' codes are."""
    board = np.repeat(np.arange(n), 6)
    root, token = np.repeat(rng.integers(10, size=n), 6), rng.integers(10, size=6 * n)
    code = np.random.default_rng(0).standard_normal((2, 10, 16))
    X = roots * code[0, root] + code[1, token] + rng.standard_normal((n, 16))[board]
    return unit(X + rng.standard_normal(X.shape)), Cells(board, board, root, token, board)


def a_nearness(n, roots, truth, rng) -> bool:
    """Convergence: nearness by root."""
    X, of = cells_of(n, roots, rng)
    low, high = interval(nearness(X, of.root, of.token, of.board, resample(n, rng)))
    return low <= truth["nearness"] <= high


def a_manifold(n, roots, truth, rng) -> bool:
    """Convergence: roots' means on a manifold."""
    X, of = cells_of(n, roots, rng)
    low, high = interval(manifold(X, of, of.board, resample(n, rng, DIMENSION_DRAWS), rng)[0])
    return low <= truth["manifold"] <= high


def truths(roots: float) -> dict[str, float]:
    """Nearness and manifold of very many boards."""
    rng, once = np.random.default_rng(0), np.ones((1, 16_000))
    X, of = cells_of(16_000, roots, rng)
    return {"nearness": float(nearness(X, of.root, of.token, of.board, once)[0]),
            "manifold": float(manifold(X, of, of.board, once, rng)[0][0])}


def settings() -> Iterator[tuple]:
    """(kind of row, function, its arguments) of all that is simulated."""
    for n, share, (answers, alike) in itertools.product(SIZES, SHARES, ((1, 0), (2, 0.3), (4, 0.5))):
        yield "share", a_share, (n, share, answers, alike)
    for n, share, classes, alike in itertools.product(SIZES, SHARES, (5, 10), (0.1, 0.5)):
        yield "skill", a_skill, (n, share, classes, alike)
    pairs = (0.5, 0.1), (0.9, 0.3), (0.98, 0.05), (0.995, 0.2)  # the effect, its gain
    for n, (share, less), alike in itertools.product(SIZES, pairs, (0, 0.7)):
        yield "gain of a share", a_gain, (n, share, less, alike)
    pairs = (0.8, 0.2), (0.95, 0.05), (0.99, 0.1)
    for n, (share, less), alike in itertools.product(SIZES, pairs, (0.1, 0.5)):
        yield "gain of a skill", a_gain_of_skills, (n, share, less, alike)
    for roots in (0.5, 1.0):
        truth = truths(roots)
        yield "nearness", a_nearness, (230, roots, truth)
        yield "manifold", a_manifold, (460, roots, truth)


def main() -> None:
    """Prints a line for each setting and the least and mean coverage of each kind of row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--repeats", type=int, default=2000)
    flags, rows = parser.parse_args(), []
    found: dict[str, list[float]] = {}
    for number, (kind, covers, values) in enumerate(settings()):
        rng = np.random.default_rng(number)
        found.setdefault(kind, []).append(np.mean([covers(*values, rng) for _ in range(flags.repeats)]))
        print(kind, *values, f"{found[kind][-1]:.3f}", flush=True)
    for kind, shares in found.items():
        least, mean = (f"{100 * share:.1f}%" for share in (min(shares), np.mean(shares)))
        rows.append({"kind of row": kind, "settings": len(shares), "least coverage": least,
                     "mean coverage": mean})
        print(*rows[-1].values())
    if flags.csv:
        save_table(flags.csv, rows)


if __name__ == "__main__":
    main()
