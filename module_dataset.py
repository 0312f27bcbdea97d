"""Boards of abstract objects (arXiv 2312.05361): what a board is, which ones are held out, drawing, masking, files.

Axis letters: n boards, h = w = board_dim, m objects on a board, d = abs_dim, k rows of a table.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import operator
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PureWindowsPath

import numpy as np
import torch

from module_figures import draw_board, new_figure, token_colors
from module_files import load_array, read_json, save_array, write_json
from module_params import Params, keywords_of, param
from utils import MAX_SEED, fresh_seed, numpy_rng, print_dict, shown

TYPES = ("single", "double", "composition")  # a board's type is its place here
FAMILIES = ("singleRoot", "doubleRoot", "singleComposite")
SPLITS = ("train", "val", "test")
OBJECTS = ("roots", "compositions")
MAX_HELD_OUT = 5 * 10**7  # rows
MAX_CELLS = 2**31  # of one array of boards
MAX_LIVE = 10**7  # hypotheses about a masked board
ROOTS, COMPOSITIONS, HELD_OUT, DRAWS, WORKERS = range(5)  # random streams of a data set
NO_NUMBERS = np.zeros(0, np.int64)


@dataclasses.dataclass(kw_only=True)
class DatasetParams(Params):
    """What a data set is made of. `check` looks at whether a board can hold its objects, `check_makeable` at whether
    enough different objects exist and whether the splits leave something to train on."""

    dataset_len: int = param(1000, "boards an epoch", low=1, high=2**31)
    board_dim: int = param(8, "height and width of a board", low=1, high=256)
    vocab_bck: int = param(10, "number of background tokens", low=1, high=10**6)
    vocab_token: int = param(10, "number of object tokens", low=1, high=10**6)
    abs_n: int = param(10, "number of root objects", low=1, high=10**6)
    abs_dim: int = param(3, "side of a root's footprint", low=1, high=256)
    abs_c: int = param(9, "tokens placed in a root's footprint, at most abs_dim squared", low=1)
    abs_w_c: int | None = param(None, "fuzzy cells in a root; none: no fuzzy cells, and abs_w_m is 1", low=0)
    abs_w_m: int = param(1, "distinct tokens a fuzzy cell may take", low=1)
    comp_n: int = param(5, "number of composite objects", low=1, high=10**6)
    comp_dim: int = param(2, "side of a composite, in roots", low=1, high=256)
    comp_margin: int = param(1, "gap between the roots of a composite", low=0, high=256)
    comp_c: int = param(4, "roots placed in a composite, at most comp_dim squared", low=1)
    board_types: list[str] = param(TYPES, "families of board in use, of single, double, composition", choices=TYPES)
    board_types_proba: list[float] | None = param(None, "sampling weights of board_types, normalised; none: alike", low=0)
    run_name: str = param("", "label stored with the export")
    bool_split: bool = param(True, "hold boards out for validation and test")
    split_method: str = param("balanced", "how boards are held out", choices=("balanced", "fraction", "stringent"))
    card_val: float = param(0, "boards per object (or pair) for validation; or fraction; or > 0", low=0)
    card_test: float = param(4, "boards per object (or pair) held out for test; or fraction", low=0)
    keep_twins: bool = param(True, "put the two rows that name a double board's objects in either order in one split")
    allow_overlap: bool = param(True, "let the objects of a double board overlap; 0 keeps them apart")
    seed: int | None = param(None, "seed of everything random in the data set; none draws one", low=0, high=MAX_SEED)

    def check(self) -> None:
        d, side = self.abs_dim, self.comp_side
        if self.abs_w_c is None:
            self.abs_w_m = 1
        for name, value, most, limit in (
            ("abs_dim", d, self.board_dim, "board_dim"),
            ("abs_c", self.abs_c, d**2, "abs_dim squared"),
            ("abs_w_c", self.abs_w_c or 0, self.abs_c, "abs_c"),
            ("abs_w_m", self.abs_w_m, self.vocab_token, "vocab_token"),
            ("comp_c", self.comp_c, self.comp_dim**2, "comp_dim squared"),
        ):
            if value > most:
                raise ValueError(f"{name} = {value} must be at most {limit} = {most}.")
        if not self.board_types or len(set(self.board_types)) < len(self.board_types):
            raise ValueError(f"board_types must name each family once and at least one, not {shown(self.board_types)}.")
        self.board_types_proba = _weights(self.board_types_proba, self.board_types)
        if "composition" in self.board_types and side > self.board_dim:
            raise ValueError(f"board_dim = {self.board_dim} must be at least {side}, the side of a composite "
                             "(comp_dim * abs_dim + (comp_dim - 1) * comp_margin), as board_types has 'composition'.")
        if "double" in self.board_types and not self.families[1].size:
            least = d + 1 if self.allow_overlap else 2 * d
            raise ValueError(f"board_dim = {self.board_dim} must be at least {least}, for two roots of abs_dim = {d} "
                             f"with allow_overlap {self.allow_overlap}, as board_types has 'double'.")
        for name, entries in (("abs_n", self.abs_n * d**2 * self.abs_w_m), ("comp_n", self.comp_n * self.comp_dim**2)):
            if entries > 2**24:
                raise ValueError(f"{name} = {getattr(self, name)} makes {entries} numbers, more than 2**24.")
        if max(family.size for family in self.families) >= 2**62:
            raise ValueError(f"abs_n = {self.abs_n} and board_dim = {self.board_dim} allow more than 2**62 boards.")

    def check_makeable(self) -> None:
        """Raises ValueError where distinct objects or boards to train on run out."""
        c, fuzzy = self.abs_c, (self.abs_w_c or 0) if self.abs_w_m > 1 else 0
        roots = _product((self.abs_dim**2, c, 1), (c, fuzzy, 1), (self.vocab_token, 1, c - fuzzy),
                         (self.vocab_token, self.abs_w_m, fuzzy))
        compositions = _product((self.comp_dim**2, self.comp_c, 1), (self.abs_n, 1, self.comp_c))
        for name, most, what in (("abs_n", roots, "roots"), ("comp_n", compositions, "compositions")):
            if getattr(self, name) > most:
                raise ValueError(f"{name} = {getattr(self, name)} must be at most {most}: with the other parameters "
                                 f"there are no more different {what}.")
        if not self.bool_split:
            return
        cards = f"card_val = {self.card_val} and card_test = {self.card_test}"
        if self.split_method == "stringent":
            if self.places < 2:
                raise ValueError("split_method 'stringent' needs board_dim above abs_dim, to leave boards to train on.")
            held = 2 * self.families[1].size // self.places**2
        else:
            for name in ("card_val", "card_test"):
                value = getattr(self, name)
                if self.split_method == "balanced":
                    if value != int(value):
                        raise ValueError(f"{name} must be a whole number with split_method 'balanced', not {value}.")
                    setattr(self, name, int(value))
                elif value >= 1:
                    raise ValueError(f"{name} must be below 1 with split_method 'fraction', not {value}.")
            if self.split_method == "fraction" and self.card_val + self.card_test >= 1:
                raise ValueError(f"{cards} must sum to less than 1 with split_method 'fraction'.")
            draws = [_draws_of(family, self) for family in self.families]
            for type_, family, parts in zip(TYPES, self.families, draws, strict=True):
                if type_ in self.board_types and not all(draw.enough for draw in parts):
                    whole = self.split_method == "fraction"
                    per, groups = ("", 1) if whole else (" of each object or pair", family.groups)
                    raise ValueError(f"{cards} must leave {type_} boards to train on, of {family.size // groups}{per}.")
            held = max((1 + family.twins) * sum(draw.count for draw in parts)
                       for family, parts in zip(self.families, draws, strict=True))
        if held > MAX_HELD_OUT:
            raise ValueError(f"split_method {self.split_method!r} with abs_n = {self.abs_n}, {cards} would hold out "
                             f"{held} boards of a family, more than {MAX_HELD_OUT}.")

    @property
    def places(self) -> int:
        """Rows (and columns) at which a root fits."""
        return self.board_dim - self.abs_dim + 1

    @property
    def comp_side(self) -> int:
        """Cells across a composite."""
        return self.comp_dim * self.abs_dim + (self.comp_dim - 1) * self.comp_margin

    @functools.cached_property
    def families(self) -> tuple[Family, Family, Family]:
        """The boards of type 0, 1, 2; a family that does not fit on the board is empty."""
        comp_places = max(self.board_dim - self.comp_side + 1, 0)
        return (Family(self.abs_n, self.places, self.vocab_bck),
                Doubles(self.abs_n, self.places, self.vocab_bck, 0 if self.allow_overlap else self.abs_dim, self.keep_twins),
                Family(self.comp_n, comp_places, self.vocab_bck))


def _product(*powers: tuple[int, int, int]) -> float:
    """The product of comb(n, k) ** e over powers (n, k, e), infinity from about 2**60 on."""
    logs = (e * (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) for n, k, e in powers)
    return math.inf if sum(logs) > 60 * math.log(2) else math.prod(math.comb(n, k) ** e for n, k, e in powers if e)


def _weights(values, board_types) -> list[float]:
    """Probabilities from non-negative weights, one for each of board_types; ones that sum to 1 stay as they are, None makes
    all alike."""
    try:
        weights = np.asarray([1] * len(board_types) if values is None else values, float)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"board_types_proba must be numbers, not {values!r}.") from None
    possible = np.isfinite(weights).all() and (weights >= 0).all() and weights.any()
    if not possible or weights.shape != (len(board_types),):
        raise ValueError(f"board_types_proba must be {len(board_types)} non-negative numbers, one for each of "
                         f"{list(board_types)} and not all zero, not {shown(weights.tolist())}.")
    if weights.max() > 1 or abs(weights.sum() - 1) > 1e-12:
        weights = weights / weights.max()
        weights /= weights.sum()
    return weights.tolist()


# Rows and their numbers


class Family:
    """The boards with one object. Row [object, row, col, bck] has number ((object * R + row) * R + col) * bck_n + bck,
    where R = places is the number of rows, and of columns, at which an object fits."""

    width = 4  # columns of a row
    twins = False  # whether two rows name the same objects and stay in one split

    def __init__(self, objects: int, places: int, bck_n: int):
        self.shape = (objects, places, places, bck_n)
        self.groups = objects  # boards are held out evenly from each
        self.size = math.prod(self.shape)

    def unrank(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (k,) -> rows (k, width)."""
        if not len(numbers):
            return np.zeros((0, self.width), np.int64)
        return np.stack(self._columns(*np.unravel_index(numbers, self.shape)), axis=-1)

    def rank(self, rows: np.ndarray) -> np.ndarray:
        """Rows (k, width) -> numbers (k,); ValueError where a row is none of the family's."""
        return np.ravel_multi_index(self._digits(*rows.T), self.shape) if len(rows) else np.zeros(0, np.int64)

    def with_twins(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (k,) and, where twins stay together, those of their twins."""
        return np.concatenate([numbers, self.twin(numbers)]) if self.twins else numbers

    def _columns(self, *digits):
        """The digits of numbers -> the columns of rows; `_digits` is its inverse."""
        return digits

    _digits = _columns


class Doubles(Family):
    """The boards with two roots: row [root1, row1, col1, root2, row2, col2, bck] has number
    ((root1 * abs_n + root2) * Q + q) * bck_n + bck, where q ranks the Q ordered pairs of places.

    apart = 0: the second object shares neither row nor column with the first. apart = d: their d x d footprints are
    disjoint. Pairs are ranked by the first place, then the second, both in reading order of the places allowed.
    """

    width = 7

    def __init__(self, objects: int, places: int, bck_n: int, apart: int, twins: bool = False):
        self.places, self.apart, self.twins = places, apart, twins
        width = self._near(np.arange(places))[1] * np.ones(places, np.int64)
        height, (far, near) = width[:, None], self._seconds(width)
        self.before = np.concatenate([[0], np.cumsum((places - height) * far + height * near)])  # pairs before each first place
        self.shape = (objects, objects, int(self.before[-1]), bck_n)
        self.groups = objects**2
        self.size = math.prod(self.shape)

    def _near(self, line):
        """First and number of the rows (or columns) that are near to `line`: less than max(apart, 1) away."""
        if not self.apart:
            return line, 1
        reach = self.apart - 1
        first = np.maximum(line - reach, 0)
        return first, np.minimum(line + reach, self.places - 1) - first + 1

    def _seconds(self, width):
        """How many second places a row holds that is far from the first object, or near to it, where `width` columns are
        near: apart, a near row has its far columns; else a far row has them, and a near one nothing."""
        return (self.places, self.places - width) if self.apart else (self.places - width, 0)

    def _columns(self, root1, root2, q, bck):
        first = np.searchsorted(self.before, q, "right") - 1
        (row1, col1), rest = np.divmod(first, self.places), q - self.before[first]
        (top, height), (left, width) = self._near(row1), self._near(col1)
        far, near = self._seconds(width)
        size, is_near = far, False
        if self.apart:
            above, beside = top * far, height * near  # second places in the rows above the near ones, and in these
            is_near = (rest >= above) & (rest < above + beside)
            rest = rest - np.where(rest < above, 0, np.where(is_near, above, beside))
            size = np.where(is_near, near, far)
        row2, col2 = np.divmod(rest, size)
        row2 = row2 + np.where(is_near, top, height * (row2 >= top))
        col2 = col2 + width * ((is_near == bool(self.apart)) & (col2 >= left))
        return root1, row1, col1, root2, row2, col2, bck

    def _digits(self, root1, row1, col1, root2, row2, col2, bck):
        first, _ = (np.ravel_multi_index(place, (self.places,) * 2) for place in ((row1, col1), (row2, col2)))
        (top, height), (left, width) = self._near(row1), self._near(col1)
        passed = np.clip(row2 - top, 0, height)  # near rows above row2
        is_near = (row2 >= top) & (row2 < top + height)
        skips = is_near == bool(self.apart)  # whether row2 has only its far columns
        if np.any(skips & (col2 >= left) & (col2 < left + width) | (is_near & (not self.apart))):
            raise ValueError("two objects are too near to each other")
        far, near = self._seconds(width)
        rest = row2 * far - passed * (far - near) + col2 - width * (skips & (col2 >= left))
        return root1, root2, self.before[first] + rest, bck

    def twin(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (k,) of the rows that name the same two objects in the other order."""
        parts = np.array_split(numbers, len(numbers) // 10**6 + 1)
        return np.concatenate([self.rank(self.unrank(part)[:, [3, 4, 5, 0, 1, 2, 6]]) for part in parts])


class RowTable:
    """Some rows of a family as a table of integers (k, width), indexed and sliced like an array.

    Stored are the numbers of its rows or, with `without`, only those of the family's other rows, sorted.
    """

    dtype, ndim = np.dtype(np.int64), 2

    def __init__(self, family: Family, numbers: np.ndarray | None = None, without: np.ndarray = NO_NUMBERS):
        self.family, self._numbers = family, numbers
        self._gaps = without - np.arange(len(without))  # rows of the table before each row left out
        self.shape = (family.size - len(without) if numbers is None else len(numbers), family.width)
        self.size = math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"RowTable{self.shape}"

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """Places in the table (k,), each in 0 … len - 1 -> the rows' numbers (k,)."""
        if self._numbers is not None:
            return self._numbers[places]
        return places + np.searchsorted(self._gaps, places, "right")

    def take(self, places: np.ndarray) -> np.ndarray:
        """Places (k,) -> rows (k, width)."""
        return self.family.unrank(self.numbers(places))

    def __getitem__(self, key):
        first, *rest = (key if isinstance(key, tuple) else (key,)) or (...,)
        if first is Ellipsis:
            first, rest = (rest[0], rest[1:]) if len(rest) == 2 else (slice(None), rest)
        if isinstance(first, slice):
            return self.take(np.arange(*first.indices(len(self))))[(slice(None), *rest)]
        places = np.asarray(first, None if np.size(first) else np.int64)
        np.broadcast_to(0, len(self))[places]  # numpy's IndexError for what is no index
        places = np.flatnonzero(places) if places.dtype == bool else places.astype(np.int64) % len(self)
        return self.take(places.ravel())[(np.arange(places.size).reshape(places.shape), *rest)]

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), 4096):
            yield from self[start : start + 4096]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("a RowTable is computed, so an array of it is always a copy.")
        return self[:].astype(dtype or self.dtype, copy=False)


# Held-out rows


@dataclasses.dataclass
class _Draw:
    """Numbers to hold out: in each of `groups` stretches of `size` numbers, val + test of them, never more than there are;
    where `paired`, the lower ones of as many rows' pairs {row, twin}. among: which (root1, root2) are groups; None: all."""

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


def _draws_of(family: Family, params: DatasetParams) -> list[_Draw]:
    """What 'balanced' and 'fraction' hold out of a family."""
    if params.split_method == "fraction":
        wanted = [math.floor(family.size * card) for card in (params.card_val, params.card_test)]
        return [_Draw(1, family.size, *wanted, family.twins)]
    wanted, n = (family.size // family.groups, int(params.card_val), int(params.card_test)), params.abs_n
    if not family.twins:
        return [_Draw(family.groups, *wanted)]
    return [_Draw(n * (n - 1) // 2, *wanted, False, operator.lt), _Draw(n, *wanted, True, operator.eq)]


def _distinct(rng: np.random.Generator, groups: int, n: int, m: int, twin: Callable | None = None) -> np.ndarray:
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
    for draw in _draws_of(family, params):
        if not draw.count:
            continue
        groups = np.flatnonzero(draw.among(*np.ogrid[: params.abs_n, : params.abs_n])) if draw.among else np.arange(draw.groups)
        picks = _distinct(rng, draw.groups, draw.size, draw.val + draw.test, family.twin if draw.paired else None)
        picks += groups[:, None] * draw.size
        for part, chosen in zip(held, (picks[:, : draw.val], picks[:, draw.val :]), strict=True):
            part.append(family.with_twins(chosen.ravel()))
    return [np.concatenate(part) for part in held]


def _hold_out_stringent(params: DatasetParams, compositions: np.ndarray, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Numbers for val and for test in each family: the boards that show any root at that root's held-out place."""
    R, n, step, bck = params.places, params.abs_n, params.abs_dim + params.comp_margin, np.arange(params.vocab_bck)
    place = rng.integers(R * R, size=n)  # held out, of each root
    single, double, composite = params.families

    def showing(family, shapes):  # shapes (objects, side, side) of roots, -1 where none is
        what, a, b = np.nonzero(shapes >= 0)
        row, col = np.divmod(place[shapes[what, a, b]], R) - np.stack([a, b]) * step
        inside = (np.minimum(row, col) >= 0) & (np.maximum(row, col) < family.shape[1])
        rows = np.stack([what, row, col, np.zeros_like(what)], axis=1)[inside]
        return np.unique(family.rank(rows)[:, None] + bck)

    first = [NO_NUMBERS]  # root1 at its place, any root2 anywhere
    for root, at in enumerate(place) if double.size else ():
        pairs = np.arange(double.before[at], double.before[at + 1])
        first.append(np.ravel_multi_index(np.ix_([root], np.arange(n), pairs, bck), double.shape).ravel())
    first = np.concatenate(first)
    second = double.twin(first)
    either = np.unique(np.minimum(first, second) if double.twins else np.concatenate([first, second]))

    held = []
    shown = showing(single, np.arange(n)[:, None, None]), either, showing(composite, compositions)
    for family, numbers in zip(params.families, map(rng.permutation, shown), strict=True):
        n_val = len(numbers) // 2 if params.card_val > 0 else 0
        held.append([family.with_twins(numbers[:n_val]), family.with_twins(numbers[n_val:])])
    return held


def _hold_out(params: DatasetParams, compositions: np.ndarray) -> list[list[np.ndarray]]:
    """Numbers for val and for test in each family."""
    rng = numpy_rng(params.seed, HELD_OUT)
    if params.split_method == "stringent":
        return _hold_out_stringent(params, compositions, rng)
    return [_hold_out_evenly(family, params, rng) for family in params.families]


def _row_tables(params: DatasetParams, held: list[list[np.ndarray] | None]) -> dict[str, RowTable]:
    """The nine tables, from the numbers held out of each family for val and for test; None empties all three."""
    sets = {}
    for name, family, parts in zip(FAMILIES, params.families, held, strict=True):
        val, test = parts or [NO_NUMBERS] * 2
        train = RowTable(family, without=np.sort(np.concatenate([val, test]))) if parts else RowTable(family, val)
        sets |= {f"{name}_train": train, f"{name}_val": RowTable(family, val), f"{name}_test": RowTable(family, test)}
    return sets


# Objects


def _scatter(rng: np.random.Generator, n: int, cells: int, c: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, cells) -1 but for c random cells of each, which hold random numbers below end; which cells these are (n, c)."""
    where, filled = _distinct(rng, n, cells, c), np.full((n, cells), -1)
    filled[np.arange(n)[:, None], where] = rng.integers(end, size=(n, c))
    return filled, where


def _distinct_objects(count: int, draw: Callable, key: Callable = np.asarray) -> np.ndarray:
    """count objects from draw(how_many), no two with the same key(objects); there must be that many."""
    objects = draw(count)
    while True:
        first = np.unique(key(objects).reshape(len(objects), -1), axis=0, return_index=True)[1]
        objects = objects[np.sort(first)][:count]
        if len(objects) == count:
            return objects
        objects = np.concatenate([objects, draw(max(64, count // 4))])


def _draw_roots(p: DatasetParams, rng: np.random.Generator) -> np.ndarray:
    """Distinct roots (abs_n, d, d, abs_w_m)."""
    fuzzy = p.abs_w_c or 0

    def draw(n):
        plain, where = _scatter(rng, n, p.abs_dim**2, p.abs_c, p.vocab_token)
        roots = np.full((*plain.shape, p.abs_w_m), -1)
        roots[..., 0] = plain
        tokens = _distinct(rng, n * fuzzy, p.vocab_token, p.abs_w_m)
        roots[np.arange(n)[:, None], where[:, :fuzzy]] = tokens.reshape(n, fuzzy, p.abs_w_m)
        return np.where(roots < 0, -1, roots + p.vocab_bck)

    return _distinct_objects(p.abs_n, draw, lambda roots: np.sort(roots, axis=-1)).reshape(-1, p.abs_dim, p.abs_dim, p.abs_w_m)


def _draw_compositions(p: DatasetParams, rng: np.random.Generator) -> np.ndarray:
    """Distinct compositions (comp_n, comp_dim, comp_dim)."""
    drawn = _distinct_objects(p.comp_n, lambda n: _scatter(rng, n, p.comp_dim**2, p.comp_c, p.abs_n)[0])
    return drawn.reshape(-1, p.comp_dim, p.comp_dim)


@dataclasses.dataclass
class Boards:
    """n boards and what stands on them."""

    boards: np.ndarray  # (n, h, w) int64
    types: np.ndarray  # (n,) 0 single, 1 double, 2 composition
    slots: np.ndarray  # (n, h, w) index of the root whose footprint covers the cell (holes included), else -1
    corners: np.ndarray  # (n, m, 2) top left cell of each root's footprint, -1 where there is none

    def __len__(self) -> int:
        return len(self.boards)

    @classmethod
    def join(cls, parts: Sequence[Boards]) -> Boards:
        """The boards of all parts, in order."""
        *same, corners = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*map(np.concatenate, same), _padded(corners))


@dataclasses.dataclass
class Hypotheses:
    """The k rows that could have made a masked board, backgrounds aside."""

    weights: np.ndarray  # (k,) posterior, sum 1
    types: np.ndarray  # (k,) as Boards.types
    composites: np.ndarray  # (k,) index or -1
    objects: np.ndarray  # (k, m, 3) root (-1: none), row, column of each object in the order they are drawn
    backgrounds: np.ndarray  # (b,) all equally likely whatever the row


@dataclasses.dataclass
class Reconstruction:
    """What n masked boards allow."""

    board: np.ndarray  # (n, h, w) the most probable one (any, where several are)
    mass: np.ndarray  # (n,) its posterior
    marginal: np.ndarray  # (n, h, w) each cell's own most probable token
    consistent: np.ndarray  # (n,) how many pictures are possible


def _padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays (k, m, c) of various m in one, filled up with -1."""
    m = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, m - part.shape[1]), (0, 0)), constant_values=-1) for part in parts])


def _integers(name: str, values, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """values as an int64 array of that shape, each from low to high; TypeError or ValueError names them."""
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole numbers, not {shown(values)}.")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}.")
    if array.size and (array.min() < low or array.max() > high):
        found = array.max() if array.max() > high else array.min()
        raise ValueError(f"{name} must be from {low} to {high}, not {found}.")
    return array.astype(np.int64)


def _split_name(name: str, value: str) -> str:
    if not isinstance(value, str) or value not in SPLITS:
        error = ValueError if isinstance(value, str) else TypeError
        raise error(f"{name} must be one of {', '.join(SPLITS)}, not {shown(value)}.")
    return value


@keywords_of(DatasetParams)
class AbstractionDataset(torch.utils.data.Dataset):
    """Boards of abstract objects, drawn at random from a split (arXiv 2312.05361, figure 1).

    A board of 4 x 4 with background tokens 0 and 1, object tokens 2, 3, 4, UNK token 5, and one root of side 2,
    roots[0] = [[2, 4], [3, 3]], at row 1, column 2 on background 0:

        row [root, row, col, bck]   [0, 1, 2, 0]

        board         slots          mask          what the network sees   target
        0 0 0 0       -1 -1 -1 -1    0 0 0 1       0 0 0 5                 the board: every token of it,
        0 0 2 4       -1 -1  0  0    0 0 1 0       0 0 5 4                 hidden or not
        0 0 3 3       -1 -1  0  0    0 0 0 0       0 0 3 3
        0 0 0 0       -1 -1 -1 -1    1 0 0 0       5 0 0 0

    A wrong value raises ValueError, an unknown keyword or wrong type TypeError. All random numbers come from `rng` and from
    streams of their own, all seeded by `seed`. Every parameter can be read as an attribute; dataset_len, run_name and
    board_types_proba may be assigned, and so may

    set_type: 'train', 'val' or 'test', the split that draws come from;
    roots: (abs_n, d, d, abs_w_m), the tokens each cell may take, else -1;
    compositions: (comp_n, comp_dim, comp_dim), root indices, else -1. Assigning either leaves the splits as they are.

    sets: None, or nine tables of rows, {singleRoot, doubleRoot, singleComposite}_{train, val, test}.
    """

    def __init__(self, **params):
        self.params = DatasetParams.from_dict(params)
        self.params.check_makeable()
        if self.params.seed is None:
            self.params.seed = fresh_seed()
        self.rng = numpy_rng(self.params.seed, DRAWS)
        self.roots = _draw_roots(self.params, numpy_rng(self.params.seed, ROOTS))
        self.compositions = _draw_compositions(self.params, numpy_rng(self.params.seed, COMPOSITIONS))
        self.sets = _row_tables(self.params, _hold_out(self.params, self.compositions)) if self.params.bool_split else None
        for type_, name in enumerate(TYPES):
            if name in self.params.board_types and not len(self._table(type_, "train")):
                raise ValueError(f"split_method {self.params.split_method!r} with seed = {self.params.seed} leaves no {name!r} "
                                 "boards to train on; choose another seed or larger boards.")
        self.set_type = "train"
        self._worker = None  # (seed, generator) in a DataLoader's worker

    def __getattr__(self, name):
        if name in DatasetParams.__dataclass_fields__ and "params" in self.__dict__:
            value = getattr(self.params, name)
            return list(value) if isinstance(value, list) else value
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}.")

    def __setattr__(self, name, value):
        if name in DatasetParams.__dataclass_fields__:
            if name not in ("dataset_len", "run_name", "board_types_proba"):
                raise AttributeError(f"{name} is fixed when a data set is made; make one with {name}={value!r}.")
            proba = name == "board_types_proba"
            setattr(self.params, name, _weights(value, self.params.board_types) if proba else DatasetParams.checked(name, value))
            return
        if name == "set_type":
            value = _split_name(name, value)
        elif name == "roots":
            p, last = self.params, self.masking_token - 1
            value = _integers(name, value, (p.abs_n, p.abs_dim, p.abs_dim, p.abs_w_m), -1, last)
            if ((value >= 0) & (value < p.vocab_bck)).any():
                raise ValueError(f"roots must be -1 or object tokens, {p.vocab_bck} to {last}.")
        elif name == "compositions":
            p = self.params
            value = _integers(name, value, (p.comp_n, p.comp_dim, p.comp_dim), -1, p.abs_n - 1)
        super().__setattr__(name, value)

    @property
    def masking_token(self) -> int:
        """The UNK token that hides a cell."""
        return self.params.vocab_bck + self.params.vocab_token

    @property
    def vocab_size(self) -> int:
        """V: backgrounds, object tokens and UNK."""
        return self.masking_token + 1

    # Drawing

    def _generator(self) -> np.random.Generator:
        """This process's generator: `rng`, in a DataLoader's worker one of its own."""
        info = torch.utils.data.get_worker_info()
        if info is None:
            return self.rng
        if self._worker is None or self._worker[0] != info.seed:
            self._worker = info.seed, numpy_rng(self.params.seed, WORKERS, info.seed)
        return self._worker[1]

    def _table(self, type_: int, split: str, needed: bool = False) -> RowTable:
        """The rows of a type in a split, without splits all of them. needed: ValueError where there are none."""
        table = RowTable(self.params.families[type_]) if self.sets is None else self.sets[f"{FAMILIES[type_]}_{split}"]
        if needed and not len(table):
            where = "this data set" if self.sets is None else f"the {split} split"
            raise ValueError(f"there are no {TYPES[type_]!r} boards in {where}; give them probability 0.")
        return table

    def _tokens(self, roots: np.ndarray, rng) -> np.ndarray:
        """Root indices (k,) -> tokens (k, d * d), -1 in holes; a fuzzy cell takes one of its tokens."""
        tokens = self.roots[roots].reshape(len(roots), self.params.abs_dim**2, self.params.abs_w_m)
        if self.params.abs_w_m == 1:
            return tokens[..., 0]
        allowed = tokens >= 0
        pick = (rng.random(tokens.shape[:2]) * allowed.sum(-1)).astype(np.int64)
        mode = (allowed.cumsum(-1) > pick[..., None]).argmax(-1)
        return np.take_along_axis(tokens, mode[..., None], -1)[..., 0]

    def _objects(self, type_: int, rows: np.ndarray, margin: int | None = None) -> tuple[np.ndarray, ...]:
        """Rows of a family (n, width) -> root index (-1: none), row, column of each object (n, m), background (n,)."""
        if type_ == 1:
            return rows[:, [0, 3]], rows[:, [1, 4]], rows[:, [2, 5]], rows[:, 6]
        what, row, col, bck = rows.T
        if type_ == 0:
            return what[:, None], row[:, None], col[:, None], bck
        step = self.params.abs_dim + (self.params.comp_margin if margin is None else margin)
        a, b = np.divmod(np.arange(self.params.comp_dim**2), self.params.comp_dim)
        return self.compositions[what].reshape(len(rows), len(a)), row[:, None] + a * step, col[:, None] + b * step, bck

    def _footprints(self, root, row, col) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Of objects (n, m), root -1 none, in the order they are drawn: which one, the boards that have it (k,), and the
        cells of its footprint on each (k, d * d)."""
        h, line = self.params.board_dim, np.arange(self.params.abs_dim)
        footprint = (line[:, None] * h + line).ravel()
        for j in range(root.shape[1]):
            there = np.flatnonzero(root[:, j] >= 0)
            yield j, there, (row[there, j] * h + col[there, j])[:, None] + footprint

    def _draw(self, root, row, col, bck, labels, rng) -> tuple[np.ndarray, np.ndarray]:
        """Objects, later ones over the whole footprint of earlier ones -> boards (n, h, w), slots (n, h, w).

        root (-1: none), row, col (n, m); bck (n,); labels (n, m): what slots holds.
        """
        n, h = len(bck), self.params.board_dim
        boards, slots = np.repeat(bck, h * h), np.full(n * h * h, -1)
        for j, there, cells in self._footprints(root, row, col):
            tokens, cells = self._tokens(root[there, j], rng), there[:, None] * (h * h) + cells
            boards[cells] = np.where(tokens < 0, bck[there, None], tokens)
            slots[cells] = labels[there, j, None]
        return boards.reshape(n, h, h), slots.reshape(n, h, h)

    def _assemble(self, types: np.ndarray, rows: dict[int, np.ndarray], rng) -> Boards:
        """Boards of the given types (n,), those of each type from its rows in order."""
        n, h = len(types), self.params.board_dim
        m = max((1, 2, self.params.comp_dim**2)[type_] for type_ in rows)
        out = Boards(np.empty((n, h, h), np.int64), types, np.empty((n, h, h), np.int64), np.full((n, m, 2), -1))
        for type_, chosen in rows.items():
            if len(chosen):
                where = np.flatnonzero(types == type_)
                root, row, col, bck = self._objects(type_, chosen)
                out.boards[where], out.slots[where] = self._draw(root, row, col, bck, root, rng)
                out.corners[where, : root.shape[1]] = np.where((root >= 0)[..., None], np.stack([row, col], axis=-1), -1)
        return out

    def sample(self, n: int, split: str | None = None, proba=None, rng: np.random.Generator | None = None) -> Boards:
        """n random boards: types by proba (None: board_types_proba; else weights in the order of board_types), rows
        uniform within the split (None: set_type; ignored where there are no splits).

        ValueError where a type of positive probability has no boards in that split.
        """
        n = int(_integers("n", n, (), 0, 2**62))
        rng = self._generator() if rng is None else rng
        split = self.set_type if split is None else _split_name("split", split)
        names = self.params.board_types
        edges = np.cumsum(self.params.board_types_proba if proba is None else _weights(proba, names))
        self._check_cells(n, "n")
        types = np.array([TYPES.index(name) for name in names])
        used = sorted(types[np.diff(edges, prepend=0) > 0].tolist())
        tables = {type_: self._table(type_, split, needed=True) for type_ in used}
        drawn = types[np.searchsorted(edges / edges[-1], rng.random(n), "right")]
        counts = np.bincount(drawn, minlength=3)
        rows = {type_: table.take(rng.integers(len(table), size=counts[type_])) for type_, table in tables.items()}
        return self._assemble(drawn, rows, rng)

    def all_boards(self, split: str = "test", count_max: int | None = None, rng=None) -> Boards:
        """Every board of a split in random order within its family, at most count_max of each: the families of
        board_types, whatever their probability, in the order single, double, composition.

        ValueError where the data set has no splits.
        """
        if self.sets is None:
            raise ValueError("this data set has no splits (bool_split is False), so no set of all their boards.")
        split, rng = _split_name("target_set", split), self._generator() if rng is None else rng
        most = MAX_CELLS if count_max is None else int(_integers("count_max", count_max, (), 0, 2**62))
        tables = [self._table(type_, split) for type_ in range(3)]
        counts = {type_: min(len(tables[type_]), most) for type_ in range(3) if TYPES[type_] in self.params.board_types}
        self._check_cells(sum(counts.values()), "count_max")
        rows = {type_: tables[type_].take(_distinct(rng, 1, len(tables[type_]), count)[0]) for type_, count in counts.items()}
        return self._assemble(np.repeat(list(counts), list(counts.values())), rows, rng)

    def _check_cells(self, n: int, name: str) -> None:
        if n * self.params.board_dim**2 > MAX_CELLS:
            raise ValueError(f"{name} must keep boards below {MAX_CELLS} cells in all, not {n} boards of "
                             f"{self.params.board_dim**2}.")

    def get_all_boards(self, target_set: str = "test", count_max: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(boards (n, h, w), types (n,)) of `all_boards`."""
        every = self.all_boards(target_set, count_max)
        return every.boards, every.types

    def get_n_training_boards(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(boards (n, h, w), types (n,)) drawn at random from train, whatever set_type is."""
        drawn = self.sample(n, "train")
        return drawn.boards, drawn.types

    def __len__(self) -> int:
        return self.params.dataset_len

    def __getitem__(self, i: int) -> np.ndarray:
        """A board (h, w), int64, drawn at random whatever i is; IndexError from len on, so that iteration ends."""
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} is out of range for a data set of {len(self)} boards.")
        return self.sample(1).boards[0]

    def _draw_board(self, board_type: int | str) -> tuple[np.ndarray, np.ndarray]:
        """(board (h, w), slots (h, w)) of a type, 0, 1, 2 or its name, drawn from set_type."""
        if isinstance(board_type, str):
            if board_type not in TYPES:
                raise ValueError(f"board_type must be one of {', '.join(TYPES)}, or 0, 1, 2, not {board_type!r}.")
            board_type = TYPES.index(board_type)
        type_, rng = int(_integers("board_type", board_type, (), 0, 2)), self._generator()
        table = self._table(type_, self.set_type, needed=True)
        drawn = self._assemble(np.array([type_]), {type_: table.take(rng.integers(len(table), size=1))}, rng)
        return drawn.boards[0], drawn.slots[0]

    def _draw_board_deterministic(
        self, mode: str = "root", root_abstractions=(0,), root_positions=None, composite: int | None = None,
        composite_position=None, composite_margin: int = 0, token_bck: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(board (h, w), slots (h, w)) of named objects.

        mode 'root': root_abstractions (n,) at root_positions (n, 2), later ones on top; slots holds places in
        root_abstractions. mode 'composite': that composite at composite_position (2,), its roots composite_margin
        apart; slots holds root indices. What is None is drawn at random, as are all n roots where the first is -1.
        Random places: for two roots a double board's; for more no row or column twice, where they fit.
        """
        p, rng = self.params, self._generator()
        if not isinstance(mode, str) or mode not in ("root", "composite"):
            error = ValueError if isinstance(mode, str) else TypeError
            raise error(f"mode must be 'root' or 'composite', not {shown(mode)}.")
        bck = np.reshape(self._given("token_bck", token_bck, (), p.vocab_bck), 1)
        if mode == "root":
            try:
                roots = np.atleast_1d(-1 if root_abstractions is None else root_abstractions)
            except ValueError:
                raise TypeError(f"root_abstractions must be whole numbers, not {shown(root_abstractions)}.") from None
            if not roots.size:
                raise ValueError("root_abstractions must name at least one root.")
            n = roots.size
            roots = self._given("root_abstractions", None if roots.flat[0] == -1 else roots, (n,), p.abs_n)
            at = self._random_places(n, rng) if root_positions is None else root_positions
            at = self._given("root_positions", at, (n, 2), p.places)
            objects, labels = (roots[None], at[None, :, 0], at[None, :, 1]), np.arange(n)[None]
        else:
            margin = int(_integers("composite_margin", composite_margin, (), 0, p.board_dim))
            places = p.board_dim - p.comp_dim * p.abs_dim - (p.comp_dim - 1) * margin + 1
            if places < 1:
                raise ValueError(f"composite_margin = {margin} makes composites larger than board_dim = {p.board_dim}.")
            which = self._given("composite", composite, (), p.comp_n)
            row, col = self._given("composite_position", composite_position, (2,), places)
            objects = self._objects(2, np.array([[which, row, col, bck[0]]]), margin)[:3]
            labels = objects[0]
        boards, slots = self._draw(*objects, bck, labels, rng)
        return boards[0], slots[0]

    def _given(self, name: str, values, shape: tuple[int, ...], end: int) -> np.ndarray:
        """values as integers below end; random ones for None."""
        if values is None:
            return self._generator().integers(end, size=shape)
        return _integers(name, values, shape, 0, end - 1)

    def _random_places(self, n: int, rng) -> np.ndarray:
        """(n, 2) rows and columns for n roots."""
        R, doubles = self.params.places, self.params.families[1]
        if n == 2 and doubles.size:
            return doubles.unrank(rng.integers(doubles.size, size=1))[0, [1, 2, 4, 5]].reshape(2, 2)
        if 2 < n <= R:
            return np.stack([rng.permutation(R)[:n], rng.permutation(R)[:n]], axis=1)
        return rng.integers(R, size=(n, 2))

    # Masking

    def mask(self, boards, p: float, patch_p: float = 0.0, types=None, corners=None,
             rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Which cells of boards (n, h, w) to hide -> (mask (n, h, w) bool, kinds (n,) int).

        Each cell is hidden with probability p. With probability patch_p a board also loses a patch: a composite board
        the footprint of one of its roots, any other board a d x d window, each uniform. kinds: 0 no patch, 1 a root
        board's, 3 a composite's. types (n,) and corners (n, m, 2) come with `Boards`. Without them, a composite board
        is one with more than 2 * abs_c object tokens, and its roots are found by matching it with the composites.
        """
        boards, h, d = np.asarray(boards), self.params.board_dim, self.params.abs_dim
        if boards.ndim != 3 or boards.shape[1:] != (h, h):
            raise ValueError(f"boards must have shape (n, {h}, {h}), not {boards.shape}.")
        for name, value in (("p", p), ("patch_p", patch_p)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability from 0 to 1, not {value!r}.")
        rng = self._generator() if rng is None else rng
        hidden, kinds = rng.random(boards.shape) < p, np.zeros(len(boards), np.int64)
        if not patch_p:
            return hidden, kinds

        where = np.flatnonzero(rng.random(len(boards)) < patch_p)
        find = types is None or corners is None
        corners = self._find_corners(boards[where]) if find else np.asarray(corners)[where]
        found = (corners >= 0).all(-1)  # (k, m)
        if types is None:
            tokens = self._is_object(boards[where]).sum((1, 2))
            composite = (tokens > 2 * self.params.abs_c) | (found.any(1) & (self.params.comp_c == 2))
        else:
            composite = np.asarray(types)[where] == 2
        at = rng.integers(self.params.places, size=(len(where), 2))
        chosen = np.take_along_axis(corners, (rng.random(found.shape) + found).argmax(1)[:, None, None], 1)[:, 0]
        at = np.where((composite & found.any(1))[:, None], chosen, at)
        line = np.arange(h)
        inside = (line >= at[..., None]) & (line < at[..., None] + d)  # (k, 2, h)
        hidden[where] |= inside[:, 0, :, None] & inside[:, 1, None, :]
        kinds[where] = np.where(composite, 3, 1)
        return hidden, kinds

    def _is_object(self, boards: np.ndarray) -> np.ndarray:
        return (boards >= self.params.vocab_bck) & (boards < self.masking_token)

    def _find_corners(self, boards: np.ndarray) -> np.ndarray:
        """Boards (n, h, w) -> corners (n, comp_dim ** 2, 2) of the roots of the composite each board shows, else -1."""
        d, step = self.params.abs_dim, self.params.abs_dim + self.params.comp_margin
        corners = np.full((len(boards), self.params.comp_dim**2, 2), -1)
        is_object = self._is_object(boards)
        count, top, left = is_object.sum((1, 2)), is_object.any(2).argmax(1), is_object.any(1).argmax(1)
        for composition in self.compositions if len(boards) else ():
            a, b = np.nonzero(composition >= 0)
            picture = np.full((self.params.comp_side, self.params.comp_side, self.params.abs_w_m), -1)
            for i, j in zip(a, b, strict=True):
                picture[i * step : i * step + d, j * step : j * step + d] = self.roots[composition[i, j]]
            rows, cols = np.nonzero((picture >= 0).any(-1))
            if not len(rows):
                continue
            row, col = top - rows.min(), left - cols.min()
            last = self.params.board_dim - self.params.comp_side
            here = np.flatnonzero((count == len(rows)) & (np.minimum(row, col) >= 0) & (np.maximum(row, col) <= last))
            tokens = boards[here[:, None], row[here, None] + rows, col[here, None] + cols]
            here = here[(tokens[..., None] == picture[rows, cols]).any(-1).all(1)]
            shift = np.stack([a, b], axis=1) * step
            corners[here[:, None], a * self.params.comp_dim + b] = np.stack([row, col], axis=1)[here, None] + shift
        return corners

    # The best possible reconstruction

    def hypotheses(self, masked_board, proba=None) -> Hypotheses:
        """What the visible cells of a masked board (h, w) allow, with its posterior: see `Hypotheses`.

        The prior is the weight of a board's type (proba, in the order of board_types; None: board_types_proba) x uniform
        over all rows of its family, held-out ones included. ValueError where no row fits, or MAX_LIVE are not enough.
        """
        p, d = self.params, self.params.abs_dim
        board = _integers("masked_board", masked_board, (p.board_dim,) * 2, 0, self.masking_token)
        proba = p.board_types_proba if proba is None else _weights(proba, p.board_types)
        weight = dict(zip(p.board_types, proba, strict=True))
        shown, seen = np.where(board < p.vocab_bck, 0, board), self._is_object(board)  # token 0 for every background
        likely = self._cell_table()[0][:-1].reshape(p.abs_n, d, d, self.vocab_size)
        i, j = np.divmod(np.arange(d * d), d)
        window = np.lib.stride_tricks.sliding_window_view
        fit = likely[:, i, j, window(shown, (d, d)).reshape(p.places, p.places, d * d)].prod(-1)  # (abs_n, R, R)
        count, total = window(seen, (d, d)).sum((-1, -2)), seen.sum()  # object tokens seen in each window, in all
        parts = []

        def add(type_, composite, weights, root, row, col):
            weights = weights * weight[TYPES[type_]] * p.vocab_bck / p.families[type_].size
            parts.append((weights, np.full(len(weights), type_), composite, np.stack([root, row, col], axis=-1)))

        for type_ in (0, 2):
            if weight.get(TYPES[type_]):
                rows = p.families[type_].unrank(np.arange(0, p.families[type_].size, p.vocab_bck))
                root, row, col, _ = self._objects(type_, rows)
                weights = np.where(root < 0, 1, fit[root, row, col]).prod(1)
                k = np.flatnonzero((weights > 0) & (np.where(root < 0, 0, count[row, col]).sum(1) == total))
                composite = rows[k, 0] if type_ == 2 else np.full(len(k), -1)
                add(type_, composite, weights[k], root[k], row[k], col[k])
        if weight.get("double"):
            root, row, col = np.nonzero(fit)  # objects that nothing covers
            weights, there = fit[root, row, col], count[row, col]
            sizes = np.bincount(there, minlength=total + 1)[: total + 1]
            if sizes @ sizes[::-1] > MAX_LIVE:
                raise ValueError(f"it leaves {sizes @ sizes[::-1]} pairs of objects, more than {MAX_LIVE}.")
            down, right = (abs(x[:, None] - x) for x in (row, col))
            apart = (down >= d) | (right >= d)
            if p.allow_overlap:
                apart &= (down > 0) & (right > 0)
            pairs = np.argwhere(apart & (there[:, None] + there == total))
            add(1, np.full(len(pairs), -1), weights[pairs].prod(1), root[pairs], row[pairs], col[pairs])
            for y, x in np.argwhere(np.ones((2 * d - 1, 2 * d - 1))) - d + 1 if p.allow_overlap else ():
                row1, col1 = row + y, col + x  # an object that b covers in part
                b = np.flatnonzero((np.minimum(row1, col1) >= 0) & (np.maximum(row1, col1) < p.places))
                if not (y and x and len(b)):
                    continue
                free = np.flatnonzero((i + y < 0) | (i + y >= d) | (j + x < 0) | (j + x >= d))
                cells = row1[b, None] + i[free], col1[b, None] + j[free]
                fit1 = likely[:, i[free], j[free], shown[cells]].prod(-1)  # (abs_n, len(b))
                root1, k = np.nonzero((fit1 > 0) & (seen[cells].sum(-1) + there[b] == total))
                b = b[k]
                both = (np.stack(pair, axis=1) for pair in ((root1, root[b]), (row1[b], row[b]), (col1[b], col[b])))
                add(1, np.full(len(b), -1), fit1[root1, k] * weights[b], *both)
        bck = np.unique(board[board < p.vocab_bck])
        if len(bck) > 1 or not sum(len(part[0]) for part in parts):
            raise ValueError("no board of this data set looks like it.")
        *same, objects = zip(*parts, strict=True)
        weights, types, composites = map(np.concatenate, same)
        bck = bck if len(bck) else np.arange(p.vocab_bck)
        return Hypotheses(weights / weights.sum(), types, composites, _padded(objects), bck)

    def _cell_table(self) -> tuple[np.ndarray, ...]:
        """Of each root's cells (abs_n * d * d,), and last the background: the probability of each token (cells, V), what it
        may show (cells, abs_w_m), in how many ways (cells,); 0 for every background, and UNK for what is not seen."""
        roots = np.concatenate([self.roots.reshape(-1, self.params.abs_w_m), np.full((1, self.params.abs_w_m), -1)])
        ways = np.maximum((roots >= 0).sum(-1), 1)
        options = np.maximum(-np.sort(-roots, axis=-1), 0)
        used = np.arange(self.params.abs_w_m) < ways[:, None]
        likely = ((options[..., None] == np.arange(self.vocab_size)) & used[..., None]).sum(1) / ways[:, None]
        likely[:, self.masking_token] = 1
        return likely, options, ways

    def covering(self, objects: np.ndarray) -> np.ndarray:
        """Objects (k, m, 3) of root, row, column, drawn in order, root -1 none -> (k, T): for each cell the number of the
        topmost object whose footprint covers it x d * d + its place in the footprint, else -1."""
        d2 = self.params.abs_dim**2
        covers = np.full((len(objects), self.params.board_dim**2), -1, np.int32)
        for j, there, cells in self._footprints(*np.moveaxis(objects, -1, 0)):
            covers[there[:, None], cells] = j * d2 + np.arange(d2)
        return covers

    def best_reconstruction(self, masked_boards, proba=None) -> Reconstruction:
        """The best that an exact observer, who knows how boards are made, can do with masked boards (n, h, w), hidden cells
        UNK: see `Reconstruction`. Prior: that of `hypotheses`. Rows that draw the same picture are summed before any
        arg max. ValueError names a board that needs more than MAX_LIVE live hypotheses, or that is none."""
        masked = np.asarray(masked_boards)
        n, h = len(masked), self.params.board_dim
        masked = _integers("masked_boards", masked, (n, h, h), 0, self.masking_token)
        best, marginal, mass, consistent = masked.copy(), masked.copy(), np.ones(n), np.ones(n, np.int64)
        for b in range(n):
            hidden = np.flatnonzero(masked[b] == self.masking_token)
            with _naming(f"masked_boards[{b}]"):
                found = self.hypotheses(masked[b], proba)
                pictures, weights, shares = self._pictures(found, hidden)
            shown = (pictures == 0).any(1)  # otherwise boards that differ in background alone look alike
            single = weights / np.where(shown, len(found.backgrounds), 1)
            shares[:, found.backgrounds] = shares[:, :1] / len(found.backgrounds)
            shares[:, np.setdiff1d(np.arange(self.params.vocab_bck), found.backgrounds)] = 0
            top = single.argmax()
            mass[b], consistent[b] = single[top], np.where(shown, len(found.backgrounds), 1).sum()
            best[b].flat[hidden] = np.where(pictures[top] == 0, found.backgrounds[0], pictures[top])
            marginal[b].flat[hidden] = shares.argmax(1)
        return Reconstruction(best, mass, marginal, consistent)

    def _pictures(self, found: Hypotheses, hidden: np.ndarray) -> tuple[np.ndarray, ...]:
        """Distinct pictures of the hidden cells (c,), 0 for any background: tokens (k, c), their masses (k,), and each
        cell's own distribution over tokens (c, V)."""
        bits, d2, T = self.vocab_size.bit_length(), self.params.abs_dim**2, self.params.board_dim**2
        likely, options, ways = self._cell_table()
        per = 62 // bits  # tokens packed into one integer, so that pictures are compared exactly
        place = bits * np.arange(per)
        words, weights, shares, live = [], [], np.zeros((len(hidden), len(likely))), 0
        for k in np.array_split(np.arange(len(found.weights)), len(found.weights) * T // 2**21 + 1):
            covers = self.covering(found.objects[k])[:, hidden]
            root = np.take_along_axis(found.objects[k, :, 0], np.maximum(covers, 0) // d2, 1)
            cells = np.where(covers < 0, len(likely) - 1, root * d2 + covers % d2)
            for c in range(len(hidden)):
                shares[c] += np.bincount(cells[:, c], found.weights[k], len(likely))
            count = ways[cells]
            live += count.prod(1, dtype=float).sum()
            if live > MAX_LIVE:
                raise ValueError(f"it leaves more than {MAX_LIVE} live hypotheses.")
            end = count.prod(1).cumsum()  # what fuzzy cells may show is counted out
            for part in np.array_split(np.arange(end[-1]), end[-1] * T // 2**22 + 1):
                each = np.searchsorted(end, part, "right")
                choice = (end[each] - 1 - part)[:, None] // (count.cumprod(1) // count)[each] % count[each]
                tokens = np.pad(options[cells[each], choice], ((0, 0), (0, per - len(hidden) % per)))
                words.append((tokens.reshape(len(part), -1, per) << place).sum(-1))
                weights.append((found.weights[k] / count.prod(1))[each])
        words, weights = np.concatenate(words), np.concatenate(weights)
        order = np.lexsort(words.T)
        words = words[order]
        first = np.flatnonzero(np.r_[True, (words[1:] != words[:-1]).any(1)])
        pictures = (words[first, :, None] >> place & (1 << bits) - 1).reshape(len(first), -1)[:, : len(hidden)]
        return pictures, np.add.reduceat(weights[order], first), shares @ likely[:, :-1]

    # Showing

    def render_board(self, board, board_abs=None, mask=None, figsize=(10, 10), label_size=(8, 0.2), save_path=None):
        """Draws a board (h, w): a colour a token, its number where board_abs (h, w) >= 0, grid lines, cells with mask 1
        shaded; board_abs and mask may be None. Saves it when given save_path; returns the figure.

        label_size: the numbers' size in points; its second value is accepted for old calls.
        """
        side = (self.params.board_dim,) * 2
        for name, cells in (("board_abs", board_abs), ("mask", mask)):
            if cells is not None and np.shape(cells) != side:
                raise ValueError(f"{name} must have shape {side}, not {np.shape(cells)}.")
        board = _integers("board", board, side, 0, self.masking_token)
        figure, axes = new_figure(1, 1, figsize)
        numbers = None if board_abs is None else np.asarray(board_abs) >= 0
        draw_board(axes[0, 0], board, token_colors(self.params.vocab_bck, self.params.vocab_token), numbers, mask,
                   font=label_size[0])
        if save_path is not None:
            Path(save_path).parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(save_path)
        return figure

    def render_boards(self, boards, masks=None, titles=(), wrong=None, columns=6, size=1.8):
        """Draws boards (n, h, w) of any h and w side by side, `columns` in a row, `size` inches wide each: a colour a token,
        numbers on object tokens, cells hatched that are UNK or have masks (n, h, w) 1, cells crossed out where wrong
        (n, h, w) is true; titles: one a board. Returns the figure."""
        boards = np.asarray(boards)
        if boards.ndim != 3 or not boards.size:
            raise ValueError(f"boards must have shape (n, h, w), not {boards.shape}.")
        boards = _integers("boards", boards, boards.shape, 0, self.masking_token)
        n, h, w = boards.shape
        masks, wrong = (np.zeros(boards.shape, bool) if cells is None else np.asarray(cells, bool) for cells in (masks, wrong))
        for name, cells in (("masks", masks), ("wrong", wrong)):
            if cells.shape != boards.shape:
                raise ValueError(f"{name} must have the boards' shape {boards.shape}, not {cells.shape}.")
        columns = min(n, columns)
        rows = -(-n // columns)
        height = size * h / w + 0.12 + 0.2 * max([0, *(1 + title.count("\n") for title in titles)])
        figure, axes = new_figure(rows, columns, (columns * (size + 0.12), rows * height))
        colors = token_colors(self.params.vocab_bck, self.params.vocab_token)
        for k, ax in enumerate(axes.flat):
            if k >= n:
                ax.remove()
                continue
            draw_board(ax, boards[k], colors, self._is_object(boards[k]), masks[k] | (boards[k] == self.masking_token),
                       wrong[k], 28 * size / w)
            ax.set_title(titles[k] if k < len(titles) else "", fontsize=8)
        return figure

    def whoamI(self) -> None:
        """Prints the parameters, the roots, the compositions and the sizes of the splits."""
        print_dict(self.params.as_dict())
        print(f"set_type: {self.set_type}")
        for name, objects in (("roots", self.roots), ("compositions", self.compositions)):
            print(f"{name}:\n{objects.squeeze(-1) if objects.shape[-1] == 1 else objects}")
        print_dict({"sets": self.sets and {name: table.shape for name, table in self.sets.items()}})

    # Files

    def export(self, filename: str | Path) -> None:
        """Writes <filename>.json (parameters, set_type, state of `rng`) and the arrays beside it: <filename>_roots.npy,
        _compositions.npy and the held-out rows of each family, _{family}_{val, test}.npy. Folders are created."""
        path = _json_path(filename)
        arrays = {name: getattr(self, name) for name in OBJECTS}
        for name, family in zip(FAMILIES, self.params.families, strict=True) if self.sets is not None else ():
            if family.size and not any(len(self.sets[f"{name}_{split}"]) for split in SPLITS):
                continue  # an official file's family that is not in use
            for table in (f"{name}_val", f"{name}_test"):
                rows = self.sets[table][:]
                arrays[table] = rows.astype(np.min_scalar_type(rows.max(initial=0)))
        for name, array in arrays.items():
            save_array(_beside(path, name), array)
        checksums = {name: zlib.crc32(array.tobytes()) for name, array in arrays.items()}
        write_json(path, {"format": 1, **self.params.as_dict(), "set_type": self.set_type, "checksums": checksums,
                          "checksum": _checksum(self.params, checksums), "rng": self.rng.bit_generator.state})

    def load(self, filename: str | Path) -> None:
        """Becomes the data set of an export, with or without '.json', in this or the official program's format.

        An official file has no seed, so the one of this data set stays, and its twins may stand in different splits, so
        keep_twins is False. ValueError names a file that is missing, cut off or inconsistent; nothing changes then.
        """
        path = _json_path(filename)
        values, new = read_json(path), object.__new__(AbstractionDataset)
        official, checksums = "sets" in values, {}
        if official:
            values, files, arrays = _from_official(path, values, self.params.seed)
        elif values.pop("format", None) != 1:
            raise ValueError(f"{path}: is not an exported data set.")
        with _naming(path):
            new.set_type, new.rng, new._worker = values.pop("set_type"), numpy_rng(0), None
            new.rng.bit_generator.state = values.pop("rng")
            if not official:
                checksums, checksum = values.pop("checksums"), values.pop("checksum")
            new.params = DatasetParams.from_dict(values)
            if not official and (new.params.seed is None or _checksum(new.params, checksums) != checksum):
                raise ValueError("its parameters or checksums are not those that it was written with.")
        if not official:
            names = [*OBJECTS, *(f"{family}_{split}" for family in FAMILIES for split in SPLITS[1:])]
            files = {name: _beside(path, name) for name in names if name in OBJECTS or name in checksums}
            arrays = {name: load_array(file) for name, file in files.items()}
        for name in files if not official else ():
            if zlib.crc32(arrays[name].tobytes()) != checksums.get(name):
                raise ValueError(f"{files[name]}: is not the file that was written with {path.name}.")
        for name in OBJECTS:
            with _naming(files[name]):
                setattr(new, name, arrays[name])
        with _naming(path):
            held = [_held_in(arrays, name, family, whole=official)
                    for name, family in zip(FAMILIES, new.params.families, strict=True)]
        new.sets = _row_tables(new.params, held) if any(held) else None
        self.__dict__.update(new.__dict__)


def _from_official(path: Path, values: dict, seed: int) -> tuple[dict, dict[str, Path], dict[str, np.ndarray]]:
    """The values of an official file as an export has them, the arrays' files, and the arrays, tables of rows among them."""
    with _naming(path):
        files = {name: path.parent / PureWindowsPath(str(values[name])).name  # splits at / and \
                 for name in (*OBJECTS, "board_types_proba")}
    arrays = {name: load_array(file) for name, file in files.items()}
    missing = {"card_val": 0, "card_test": 0, "split_method": "balanced", "bool_split": False, "set_type": "train"}
    own = {"keep_twins": False, "allow_overlap": True, "seed": seed, "rng": numpy_rng(seed, DRAWS).bit_generator.state}
    given = missing | values | own
    with _naming(path):
        given["board_types_proba"] = arrays["board_types_proba"].tolist()
        for type_, family in zip(TYPES, FAMILIES, strict=True) if values["sets"] is not None else ():
            tables = {f"{family}_{split}": values["sets"][f"{family}_{split}"] for split in SPLITS}
            if not all(isinstance(table, list) for table in tables.values()):
                raise ValueError(f"the tables of {family} must be lists.")
            if type_ in given["board_types"] or any(tables.values()):
                arrays |= {name: np.array(table) for name, table in tables.items()}
        return {name: given[name] for name in (*DatasetParams.__dataclass_fields__, "set_type", "rng")}, files, arrays


def _held_in(arrays: dict[str, np.ndarray], name: str, family: Family, whole: bool) -> list[np.ndarray] | None:
    """The numbers held out for val and for test by the tables of a family; None where there is no table. whole: train
    is there too, and the three must hold every row."""
    tables = [_numbers_of(arrays[f"{name}_{split}"], family) for split in SPLITS if f"{name}_{split}" in arrays]
    if len(tables) not in (0, 2 + whole):
        raise ValueError(f"a table of {name} is missing.")
    rows = np.concatenate([NO_NUMBERS, *tables])
    if len(np.unique(rows)) < len(rows) or (whole and tables and len(rows) < family.size):
        raise ValueError(f"the tables of {name} do not hold each of its {family.size} rows once.")
    return tables[-2:] or None


def _numbers_of(rows: np.ndarray, family: Family) -> np.ndarray:
    """The numbers (k,) of rows (k, width) read from a file; ValueError where they are no rows of the family."""
    if not rows.size:
        return NO_NUMBERS
    if rows.ndim != 2 or rows.shape[1] != family.width or rows.dtype.kind not in "iu":
        raise ValueError(f"a table's rows must be {family.width} whole numbers each.")
    try:
        return family.rank(rows.astype(np.int64))
    except ValueError:
        raise ValueError("a table has a row that the parameters do not allow.") from None


def _json_path(filename: str | Path) -> Path:
    if not isinstance(filename, (str, Path)):
        raise TypeError(f"filename must be a string or a Path, not {shown(filename)}.")
    path = Path(filename)
    if not path.name:
        raise ValueError(f"filename must end in a file's name, not {str(filename)!r}.")
    return path if path.suffix == ".json" else path.with_name(path.name + ".json")


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}_{name}.npy")


def _checksum(params: DatasetParams, checksums: dict[str, int]) -> int:
    """Of the parameters that say which rows there are and which are held out, and of the arrays' checksums."""
    free = ("dataset_len", "run_name", "board_types_proba", "seed")
    values = {name: value for name, value in params.as_dict().items() if name not in free}
    return zlib.crc32(json.dumps([values, checksums], sort_keys=True).encode())


@contextlib.contextmanager
def _naming(path: Path):
    """Turns what goes wrong inside into a ValueError that names the file."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]} is missing.") from None
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None
