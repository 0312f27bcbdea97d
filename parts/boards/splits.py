"""Splits: which boards of a data set are held out of training, for validation and for test.

A board is known by its index in its family (numbering.py), and only indices of boards held out are stored.

Axis letters: k rows, R = places: the rows (and columns) at which a root fits.
"""
from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator

import numpy as np

from parts.boards.numbering import NO_NUMBERS, Family, RowTable, distinct
from parts.boards.objects import alike, objects_of
from parts.boards.params import FAMILIES, HELD_OUT, SPLITS, TYPES, DatasetParams
from parts.checks import refuse
from utils import numpy_rng

MAX_HELD_OUT = 5 * 10**7  # rows


@dataclasses.dataclass
class Draw:
    """How many boards to hold out at random: of each of `groups` runs of `size` consecutive indices, val +
    test, but never more than there are.

    paired: twins lie in the same group, so the lower index of each pair {row, twin} is drawn. among: which
    pairs (root1, root2) are groups; None: all.
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
        self.enough = self.val + self.test < choices or not self.groups  # some are left to train on
        self.val = min(self.val, choices)
        self.test = min(self.test, choices - self.val)
        self.count = self.groups * (self.val + self.test)


def draws_of(family: Family, params: DatasetParams) -> list[Draw]:
    """The random draws by which 'balanced' and 'fraction' hold boards of a family out."""
    if params.split_method == "fraction":
        wanted = [math.floor(family.size * card) for card in (params.card_val, params.card_test)]
        return [Draw(1, family.size, *wanted, family.twins)]
    wanted = (family.size // family.groups, int(params.card_val), int(params.card_test))
    if not family.twins:
        return [Draw(family.groups, *wanted)]
    n = params.abs_n
    # a twin is in group (root2, root1), so groups with root1 < root2 decide for both
    return [Draw(n * (n - 1) // 2, *wanted, False, operator.lt), Draw(n, *wanted, True, operator.eq)]


def check_splits(params: DatasetParams) -> None:
    """Raises ValueError if the splits leave nothing to train on or hold out too much. Whole numbers of boards
    become integers."""
    if not params.bool_split:
        return
    refuse(_complaints(params))
    if params.split_method == "balanced":
        params.card_val, params.card_test = int(params.card_val), int(params.card_test)


def _complaints(params: DatasetParams) -> Iterator[str]:
    """A sentence for each reason why the splits cannot be."""
    method, cards = params.split_method, f"card_val = {params.card_val} and card_test = {params.card_test}"
    n_double = params.families[1].size
    if method in ("stringent", "places"):
        if params.places < 2:
            yield f"split_method {method!r} needs board_dim above abs_dim, to leave boards to train on."
        if method == "places" and not 0 < params.card_test < 1:
            yield ("card_test, with split_method 'places' the share of each root's positions, must be above "
                   f"0 and below 1, not {params.card_test}.")
        share = 1 / params.places**2 if method == "stringent" else params.card_test
        held = int(n_double * (1 - (1 - share) ** 2))  # either of two roots
    elif method == "pairs":
        if "double" not in params.board_types:
            yield "split_method 'pairs' needs 'double' in board_types: it holds out double boards."
        if params.card_test != int(params.card_test) or params.card_test < 1:
            yield ("card_test, with split_method 'pairs' the number of pairs of roots, must be a whole "
                   f"number of at least 1, not {params.card_test}.")
        yield from _too_many_pairs(params, params.abs_n * (params.abs_n - 1) // 2)
        held = 2 * int(params.card_test) * n_double // params.families[1].groups
    else:
        yield from _wrong_cards(params, cards)
        draws = [draws_of(family, params) for family in params.families]
        for type_, family, parts in zip(TYPES, params.families, draws, strict=True):
            if type_ in params.board_types and not all(draw.enough for draw in parts):
                per, groups = ("", 1) if method == "fraction" else (" of each object or pair", family.groups)
                yield f"{cards} must leave {type_} boards to train on, of {family.size // groups}{per}."
        held = max((1 + family.twins) * sum(draw.count for draw in parts)
                   for family, parts in zip(params.families, draws, strict=True))
    if held > MAX_HELD_OUT:
        yield (f"split_method {method!r} with abs_n = {params.abs_n}, {cards} would hold out {held} boards "
               f"of a family, more than {MAX_HELD_OUT}.")


def _wrong_cards(params: DatasetParams, cards: str) -> Iterator[str]:
    """Complaints about card_val and card_test that do not suit 'balanced' or 'fraction'."""
    for name in ("card_val", "card_test"):
        value = getattr(params, name)
        if params.split_method == "balanced" and value != int(value):
            yield f"{name} must be a whole number with split_method 'balanced', not {value}."
        if params.split_method == "fraction" and value >= 1:
            yield f"{name} must be below 1 with split_method 'fraction', not {value}."
    if params.split_method == "fraction" and params.card_val + params.card_test >= 1:
        yield f"{cards} must sum to less than 1 with split_method 'fraction'."


def _too_many_pairs(params: DatasetParams, free: int) -> Iterator[str]:
    """A complaint if 'pairs' shall hold out more pairs than are free."""
    if params.card_test > free:
        yield (f"card_test = {params.card_test} must be at most {free}, the number of pairs of different "
               "roots that no composition contains.")


def _hold_out_evenly(family: Family, params: DatasetParams, rng: np.random.Generator) -> list[np.ndarray]:
    """Indices for val and for test, by 'balanced' or 'fraction'."""
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
    """Indices for val and for test in each family, by 'stringent' or 'places': the boards that show a root at
    a position held out for that root."""
    held = _held_positions(params, rng)
    showing = (_showing(params, compositions, 0, held), _showing_either(params, held),
               _showing(params, compositions, 2, held))
    return [_val_and_test(family, numbers, params, rng)
            for family, numbers in zip(params.families, showing, strict=True)]


def _hold_out_pairs(
    params: DatasetParams, compositions: np.ndarray, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """Indices for val and for test in each family, by 'pairs': the boards that show a held-out pair."""
    free = pairs_apart(params, compositions)
    refuse(_too_many_pairs(params, len(free)))
    double, n = params.families[1], params.abs_n
    pairs = free[rng.permutation(len(free))[: int(params.card_test)]]
    groups = np.stack([pairs @ [n, 1], pairs @ [1, n]], axis=1).ravel()  # either order
    size = double.size // double.groups
    numbers = (groups[:, None] * size + np.arange(size)).ravel()
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
    """Indices to hold out (k,), of twins that stay together only the lower one -> those for val and those for
    test: a random half is val if card_val > 0, else none. With 'places' and 'pairs' each part is sorted, so
    that its file can be a bit for each board."""
    numbers = rng.permutation(numbers)
    n_val = len(numbers) // 2 if params.card_val > 0 else 0
    parts = [family.with_twins(numbers[:n_val]), family.with_twins(numbers[n_val:])]
    return parts if params.split_method == "stringent" else [np.unique(part) for part in parts]


def _held_positions(params: DatasetParams, rng: np.random.Generator) -> np.ndarray:
    """(abs_n, R * R) whether a position, counted in reading order, is held out for a root: one position of
    each root with 'stringent', the share card_test with 'places'."""
    held = np.zeros((params.abs_n, params.places**2), bool)
    if params.split_method == "stringent":
        chosen = rng.integers(params.places**2, size=params.abs_n)[:, None]
    else:
        count = min(max(round(params.card_test * params.places**2), 1), params.places**2 - 1)
        chosen = rng.random(held.shape).argsort(1)[:, :count]
    np.put_along_axis(held, chosen, True, axis=1)
    return held


def _showing(
    params: DatasetParams, compositions: np.ndarray, type_: int, held: np.ndarray
) -> np.ndarray:
    """Indices of the boards of type 0 or 2 that show a root at a position held out for it."""
    family, bck_n = params.families[type_], params.vocab_bck
    rows = family.unrank(np.arange(0, family.size, bck_n))  # each on one background
    root, row, col, _ = objects_of(params, compositions, type_, rows)
    scenes = np.flatnonzero(((root >= 0) & held[root, row * params.places + col]).any(1))
    return (scenes[:, None] * bck_n + np.arange(bck_n)).ravel()


def _showing_either(params: DatasetParams, held: np.ndarray) -> np.ndarray:
    """Indices of the double boards of which either root is at a position held out for it; of twins that stay
    together only the lower one."""
    double = params.families[1]
    first = [NO_NUMBERS]  # root1 at such a position, any root2 at any position
    for root, at in np.argwhere(held) if double.size else ():
        pairs = np.arange(double.before[at], double.before[at + 1])
        digits = np.ix_([root], np.arange(params.abs_n), pairs, np.arange(params.vocab_bck))
        first.append(np.ravel_multi_index(digits, double.shape).ravel())
    first = np.concatenate(first)
    second = double.twin(first)
    return np.unique(np.minimum(first, second) if double.twins else np.concatenate([first, second]))


def make_splits(params: DatasetParams, compositions: np.ndarray) -> dict[str, RowTable] | None:
    """The nine tables, or None without splits. ValueError if a board type has nothing to train on."""
    if not params.bool_split:
        return None
    rng = numpy_rng(params.seed, HELD_OUT)
    if params.split_method in ("stringent", "places"):
        held = _hold_out_shown(params, compositions, rng)
    elif params.split_method == "pairs":
        held = _hold_out_pairs(params, compositions, rng)
    else:
        held = [_hold_out_evenly(family, params, rng) for family in params.families]
    sets = row_tables(params, held)
    refuse(f"split_method {params.split_method!r} with seed = {params.seed} leaves no {type_!r} boards to "
           "train on; choose another seed or larger boards."
           for type_, family in zip(TYPES, FAMILIES, strict=True)
           if type_ in params.board_types and not len(sets[f"{family}_train"]))
    return sets


def shared_pictures(params: DatasetParams, roots: np.ndarray) -> list[str]:
    """Why pictures held out may be drawn in training: different rows may draw the same picture."""
    reasons = []
    if pair := alike(roots):
        reasons.append(f"roots {pair[0]} and {pair[1]} are shifts of each other")
    twin = {1: "single", 2: "double"}.get(params.comp_c)
    if {"composition", twin} <= set(params.board_types):
        reasons.append(f"composites of comp_c = {params.comp_c} roots are {twin} boards too")
    return reasons


def row_tables(params: DatasetParams, held: list[list[np.ndarray] | None]) -> dict[str, RowTable]:
    """The nine tables, from the indices held out of each family for val and for test. None: the family is not
    in use, and its three tables are empty."""
    sets = {}
    for name, family, parts in zip(FAMILIES, params.families, held, strict=True):
        val, test = parts or [NO_NUMBERS] * 2
        train = RowTable(family, val)
        if parts:
            train = RowTable(family, without=np.sort(np.concatenate([val, test])))
        tables = (train, RowTable(family, val), RowTable(family, test))
        sets |= {f"{name}_{split}": table for split, table in zip(SPLITS, tables, strict=True)}
    return sets
