"""Splits: which rows of a data set are held out for validation and for test.

Rows are known by their numbers in a family (module_rows); only those held out are stored.

Axis letters: k rows, R = places, n = abs_n.
"""
from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable

import numpy as np

from parts.boards.params import (
    FAMILIES,
    HELD_OUT,
    NO_NUMBERS,
    TYPES,
    DatasetParams,
    Family,
    RowTable,
    objects_of,
)
from utils import numpy_rng

MAX_HELD_OUT = 5 * 10**7  # rows


@dataclasses.dataclass
class Draw:
    """Numbers to hold out: in each of `groups` stretches of `size` numbers, val + test of them, never more
    than there are; where `paired`, the lower ones of as many rows' pairs {row, twin}. among: which (root1,
    root2) are groups; None: all.
    """

    groups: int
    size: int
    val: int
    test: int
    paired: bool = False
    among: Callable | None = None

    def __post_init__(self):
        choices = self.size
        if self.paired:
            choices, self.val, self.test = choices // 2, -(-self.val // 2), -(-self.test // 2)
        self.enough = self.val + self.test < choices or not self.groups
        self.val = min(self.val, choices)
        self.test = min(self.test, choices - self.val)
        self.count = self.groups * (self.val + self.test)


def draws_of(family: Family, params: DatasetParams) -> list[Draw]:
    """What 'balanced' and 'fraction' hold out of a family."""
    if params.split_method == "fraction":
        wanted = [math.floor(family.size * card) for card in (params.card_val, params.card_test)]
        return [Draw(1, family.size, *wanted, family.twins)]
    wanted = (family.size // family.groups, int(params.card_val), int(params.card_test))
    if not family.twins:
        return [Draw(family.groups, *wanted)]
    n = params.abs_n
    return [Draw(n * (n - 1) // 2, *wanted, False, operator.lt), Draw(n, *wanted, True, operator.eq)]


def check_splits(params: DatasetParams) -> None:
    """Raises ValueError where the splits leave nothing to train on or hold out too much. Whole numbers of
    boards become integers."""
    if not params.bool_split:
        return
    cards = f"card_val = {params.card_val} and card_test = {params.card_test}"
    if params.split_method in ("stringent", "places"):
        if params.places < 2:
            raise ValueError(f"split_method {params.split_method!r} needs board_dim above abs_dim, to leave "
                             "boards to train on.")
        if params.split_method == "places" and not 0 < params.card_test < 1:
            raise ValueError("card_test, with split_method 'places' the share of each root's positions, must "
                             f"be above 0 and below 1, not {params.card_test}.")
        share = 1 / params.places**2 if params.split_method == "stringent" else params.card_test
        held = int(params.families[1].size * (1 - (1 - share) ** 2))
    elif params.split_method == "pairs":
        _check_pairs(params)
        held = 2 * int(params.card_test) * params.families[1].size // params.families[1].groups
    else:
        _check_cards(params, cards)
        held = _check_rest(params, cards)
    if held > MAX_HELD_OUT:
        raise ValueError(
            f"split_method {params.split_method!r} with abs_n = {params.abs_n}, {cards} would hold out "
            f"{held} boards of a family, more than {MAX_HELD_OUT}."
        )


def _check_pairs(params: DatasetParams, compositions: np.ndarray | None = None) -> None:
    """Raises ValueError where card_test is not a number of pairs of roots that can be held out."""
    if "double" not in params.board_types:
        raise ValueError("split_method 'pairs' needs 'double' in board_types: it holds out double boards.")
    if params.card_test != int(params.card_test) or params.card_test < 1:
        raise ValueError("card_test, with split_method 'pairs' the number of pairs of roots, must be a whole "
                         f"number of at least 1, not {params.card_test}.")
    free = params.abs_n * (params.abs_n - 1) // 2
    if compositions is not None:
        free = len(pairs_apart(params, compositions))
    if params.card_test > free:
        raise ValueError(f"card_test = {params.card_test} must be at most {free}, the pairs of different "
                         "roots that no composition contains.")


def _check_cards(params: DatasetParams, cards: str) -> None:
    """Raises ValueError where card_val and card_test are not of the kind that split_method wants."""
    for name in ("card_val", "card_test"):
        value = getattr(params, name)
        if params.split_method == "balanced":
            if value != int(value):
                raise ValueError(f"{name} must be a whole number with split_method 'balanced', not {value}.")
            setattr(params, name, int(value))
        elif value >= 1:
            raise ValueError(f"{name} must be below 1 with split_method 'fraction', not {value}.")
    if params.split_method == "fraction" and params.card_val + params.card_test >= 1:
        raise ValueError(f"{cards} must sum to less than 1 with split_method 'fraction'.")


def _check_rest(params: DatasetParams, cards: str) -> int:
    """The most rows that are held out of a family; ValueError where none of them is left to train on."""
    draws = [draws_of(family, params) for family in params.families]
    for type_, family, parts in zip(TYPES, params.families, draws, strict=True):
        if type_ in params.board_types and not all(draw.enough for draw in parts):
            whole = params.split_method == "fraction"
            per, groups = ("", 1) if whole else (" of each object or pair", family.groups)
            raise ValueError(
                f"{cards} must leave {type_} boards to train on, of {family.size // groups}{per}."
            )
    held = ((1 + family.twins) * sum(draw.count for draw in parts)
            for family, parts in zip(params.families, draws, strict=True))
    return max(held)


def distinct(
    rng: np.random.Generator, groups: int, n: int, m: int, twin: Callable | None = None
) -> np.ndarray:
    """(groups, m) numbers below n in random order, distinct in each row, all choices equally likely.

    twin: maps each number to its partner; of partners only the lower one is drawn, so m distinct pairs are.
    """
    if 2 * m > (n // 2 if twin else n):
        every = np.arange(n)
        every = every[every < twin(every)] if twin else every
        return rng.permuted(np.broadcast_to(every, (groups, len(every))), axis=1)[:, :m]

    def draw(size):
        numbers = rng.integers(n, size=size) if m else np.zeros(size, np.int64)
        return np.minimum(numbers, twin(numbers.ravel()).reshape(numbers.shape)) if twin else numbers

    picks = draw((groups, m))
    while True:
        picks.sort(axis=1)
        again = picks[:, 1:] == picks[:, :-1]
        if not again.any():
            return rng.permuted(picks, axis=1)
        picks[:, 1:][again] = draw(np.count_nonzero(again))


def _hold_out_evenly(family: Family, params: DatasetParams, rng: np.random.Generator) -> list[np.ndarray]:
    """Numbers for val and for test, by 'balanced' or 'fraction'."""
    held = [[NO_NUMBERS], [NO_NUMBERS]]
    for draw in draws_of(family, params):
        if not draw.count:
            continue
        groups = np.arange(draw.groups)
        if draw.among:
            groups = np.flatnonzero(draw.among(*np.ogrid[: params.abs_n, : params.abs_n]))
        twin = family.twin if draw.paired else None
        picks = (
            distinct(rng, draw.groups, draw.size, draw.val + draw.test, twin) + groups[:, None] * draw.size
        )
        for part, chosen in zip(held, (picks[:, : draw.val], picks[:, draw.val :]), strict=True):
            part.append(family.with_twins(chosen.ravel()))
    return [np.concatenate(part) for part in held]


def _hold_out_shown(
    params: DatasetParams, compositions: np.ndarray, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """Numbers for val and for test in each family by 'stringent' or 'places': the boards that show any root
    at a position held out for that root."""
    held = _held_positions(params, rng)
    single, double, composite = params.families
    showing = (
        _on_every_background(np.flatnonzero(held), params),
        _showing_either(params, held),
        _on_every_background(_composite_scenes(params, compositions, held), params),
    )
    return [_val_and_test(family, numbers, params, rng)
            for family, numbers in zip((single, double, composite), showing, strict=True)]


def _hold_out_pairs(
    params: DatasetParams, compositions: np.ndarray, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """Numbers for val and for test in each family by 'pairs': the double boards that show both roots of a
    held-out pair."""
    free = pairs_apart(params, compositions)
    double = params.families[1]
    held = [NO_NUMBERS]
    for i, j in free[rng.permutation(len(free))[: int(params.card_test)]]:
        for group in (i * params.abs_n + j, j * params.abs_n + i):
            size = double.size // double.groups
            held.append(np.arange(group * size, (group + 1) * size))
    numbers = np.concatenate(held)
    if double.twins:
        numbers = np.unique(np.minimum(numbers, double.twin(numbers)))
    nothing = [NO_NUMBERS, NO_NUMBERS]
    return [nothing, _val_and_test(double, numbers, params, rng), nothing]


def pairs_apart(params: DatasetParams, compositions: np.ndarray) -> np.ndarray:
    """(k, 2) the unordered pairs of different roots that no composition contains, the lower root first."""
    together = np.zeros((params.abs_n, params.abs_n), bool)
    for roots in compositions.reshape(len(compositions), -1):
        there = roots[roots >= 0]
        together[np.ix_(there, there)] = True
    return np.argwhere(np.triu(~together, 1))


def _val_and_test(
    family: Family, numbers: np.ndarray, params: DatasetParams, rng: np.random.Generator
) -> list[np.ndarray]:
    """Held-out numbers (k,), of twins that stay together the lower ones, shuffled and divided: half of them
    val if card_val > 0. With 'places' and 'pairs' each part is sorted, so that its file can be a bit mask."""
    numbers = rng.permutation(numbers)
    n_val = len(numbers) // 2 if params.card_val > 0 else 0
    parts = [family.with_twins(numbers[:n_val]), family.with_twins(numbers[n_val:])]
    return parts if params.split_method == "stringent" else [np.unique(part) for part in parts]


def _held_positions(params: DatasetParams, rng: np.random.Generator) -> np.ndarray:
    """(abs_n, R * R) whether a position, counted in reading order, is held out for a root: one of each root
    with 'stringent', the share card_test with 'places'."""
    held = np.zeros((params.abs_n, params.places**2), bool)
    if params.split_method == "stringent":
        chosen = rng.integers(params.places**2, size=params.abs_n)[:, None]
    else:
        count = min(max(round(params.card_test * params.places**2), 1), params.places**2 - 1)
        chosen = rng.random(held.shape).argsort(1)[:, :count]
    np.put_along_axis(held, chosen, True, axis=1)
    return held


def _on_every_background(scenes: np.ndarray, params: DatasetParams) -> np.ndarray:
    """Numbers of the rows of scenes (k,), which are numbers // vocab_bck."""
    return (scenes[:, None] * params.vocab_bck + np.arange(params.vocab_bck)).ravel()


def _composite_scenes(params: DatasetParams, compositions: np.ndarray, held: np.ndarray) -> np.ndarray:
    """The scenes (k,) of composite boards that show a root at a position held out for it."""
    family = params.families[2]
    rows = family.unrank(np.arange(0, family.size, params.vocab_bck))
    root, row, col, _ = objects_of(params, compositions, 2, rows)
    return np.flatnonzero(((root >= 0) & held[root, row * params.places + col]).any(1))


def _showing_either(params: DatasetParams, held: np.ndarray) -> np.ndarray:
    """Numbers of the double boards of which either root is at a position held out for it; of twins that stay
    together the lower."""
    double = params.families[1]
    first = [NO_NUMBERS]  # root1 at such a position, any root2 anywhere
    for root, at in np.argwhere(held) if double.size else ():
        pairs = np.arange(double.before[at], double.before[at + 1])
        digits = np.ix_([root], np.arange(params.abs_n), pairs, np.arange(params.vocab_bck))
        first.append(np.ravel_multi_index(digits, double.shape).ravel())
    first = np.concatenate(first)
    second = double.twin(first)
    return np.unique(np.minimum(first, second) if double.twins else np.concatenate([first, second]))


def hold_out(params: DatasetParams, compositions: np.ndarray) -> list[list[np.ndarray]]:
    """Numbers held out for val and for test in each family."""
    rng = numpy_rng(params.seed, HELD_OUT)
    if params.split_method in ("stringent", "places"):
        return _hold_out_shown(params, compositions, rng)
    if params.split_method == "pairs":
        _check_pairs(params, compositions)
        return _hold_out_pairs(params, compositions, rng)
    return [_hold_out_evenly(family, params, rng) for family in params.families]


def row_tables(params: DatasetParams, held: list[list[np.ndarray] | None]) -> dict[str, RowTable]:
    """The nine tables, from the numbers held out of each family for val and for test; None empties all
    three."""
    sets = {}
    for name, family, parts in zip(FAMILIES, params.families, held, strict=True):
        val, test = parts or [NO_NUMBERS] * 2
        train = RowTable(family, val)
        if parts:
            train = RowTable(family, without=np.sort(np.concatenate([val, test])))
        sets |= {
            f"{name}_train": train,
            f"{name}_val": RowTable(family, val),
            f"{name}_test": RowTable(family, test),
        }
    return sets
