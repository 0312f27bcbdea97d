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

from module_rows import FAMILIES, HELD_OUT, NO_NUMBERS, TYPES, DatasetParams, Family, RowTable
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
    if params.split_method == "stringent":
        if params.places < 2:
            raise ValueError(
                "split_method 'stringent' needs board_dim above abs_dim, to leave boards to train on."
            )
        held = 2 * params.families[1].size // params.places**2
    else:
        _check_cards(params, cards)
        held = _check_rest(params, cards)
    if held > MAX_HELD_OUT:
        raise ValueError(
            f"split_method {params.split_method!r} with abs_n = {params.abs_n}, {cards} would hold out "
            f"{held} boards of a family, more than {MAX_HELD_OUT}."
        )


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


def _hold_out_stringent(
    params: DatasetParams, compositions: np.ndarray, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """Numbers for val and for test in each family: the boards that show any root at that root's held-out
    place."""
    place = rng.integers(params.places**2, size=params.abs_n)  # held out, of each root
    single, _, composite = params.families
    shown = (
        _showing(params, single, np.arange(params.abs_n)[:, None, None], place),
        _showing_either(params, place),
        _showing(params, composite, compositions, place),
    )
    held = []
    for family, numbers in zip(params.families, map(rng.permutation, shown), strict=True):
        n_val = len(numbers) // 2 if params.card_val > 0 else 0
        held.append([family.with_twins(numbers[:n_val]), family.with_twins(numbers[n_val:])])
    return held


def _showing(params: DatasetParams, family: Family, shapes: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Numbers of the rows of a family that show a root at its place (n,); shapes (objects, side, side) of
    roots, -1 where none is."""
    step = params.abs_dim + params.comp_margin
    what, a, b = np.nonzero(shapes >= 0)
    row, col = np.divmod(place[shapes[what, a, b]], params.places) - np.stack([a, b]) * step
    inside = (np.minimum(row, col) >= 0) & (np.maximum(row, col) < family.shape[1])
    rows = np.stack([what, row, col, np.zeros_like(what)], axis=1)[inside]
    return np.unique(family.rank(rows)[:, None] + np.arange(params.vocab_bck))


def _showing_either(params: DatasetParams, place: np.ndarray) -> np.ndarray:
    """Numbers of the double boards of which either root is at its place (n,); of twins that stay together the
    lower."""
    double = params.families[1]
    first = [NO_NUMBERS]  # root1 at its place, any root2 anywhere
    for root, at in enumerate(place) if double.size else ():
        pairs = np.arange(double.before[at], double.before[at + 1])
        digits = np.ix_([root], np.arange(params.abs_n), pairs, np.arange(params.vocab_bck))
        first.append(np.ravel_multi_index(digits, double.shape).ravel())
    first = np.concatenate(first)
    second = double.twin(first)
    return np.unique(np.minimum(first, second) if double.twins else np.concatenate([first, second]))


def hold_out(params: DatasetParams, compositions: np.ndarray) -> list[list[np.ndarray]]:
    """Numbers held out for val and for test in each family."""
    rng = numpy_rng(params.seed, HELD_OUT)
    if params.split_method == "stringent":
        return _hold_out_stringent(params, compositions, rng)
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
