"""Rows: the parameters of a data set, and a number for every board that they allow.

A row names what a board shows, where, and on which background: [root, row, col, bck], [root1, row1, col1,
root2, row2, col2, bck] or [composite, row, col, bck]. All rows of one type are a family. There can be far
more rows than fit into memory, so a family numbers them and computes a row from its number.

Axis letters: n boards, h = board_dim, m objects on a board, d = abs_dim, R = places, k rows.
"""
from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from parts.checks import integer_array
from parts.params import Params, param
from utils import MAX_SEED, shown

TYPES = ("single", "double", "composition")  # a board's type is its place here
FAMILIES = ("singleRoot", "doubleRoot", "singleComposite")  # as the tables of `sets` are called
SPLITS = ("train", "val", "test")
ROOTS, COMPOSITIONS, HELD_OUT, DRAWS, WORKERS = range(5)  # random streams of a data set
NO_NUMBERS = np.zeros(0, np.int64)


@dataclasses.dataclass(kw_only=True)
class DatasetParams(Params):
    """What a data set is made of.

    `check` looks at whether a board can hold its objects, `check_makeable` at whether enough different ones
    exist.
    """

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
    board_types: list[str] = param(
        TYPES, "families of board in use, of single, double, composition", choices=TYPES)
    board_types_proba: list[float] | None = param(
        None, "sampling weights of board_types, normalised; none: alike", low=0)
    run_name: str = param("", "label stored with the export")
    bool_split: bool = param(True, "hold boards out for validation and test")
    split_method: str = param(
        "balanced", "which boards are held out: balanced, some of each object or pair; fraction, a share of "
        "each family; stringent, one position of each root; places, a share of each root's positions; pairs, "
        "double boards of some pairs of roots",
        choices=("balanced", "fraction", "stringent", "places", "pairs"))
    card_val: float = param(
        0, "validation boards: with balanced, boards per object or pair; with fraction, a share from 0 to 1; "
        "otherwise above 0 for half of the boards held out", low=0)
    card_test: float = param(
        4, "test boards: with balanced, boards per object or pair; with fraction, a share from 0 to 1; with "
        "places, the share of each root's positions; with pairs, the number of pairs of roots", low=0)
    keep_twins: bool = param(
        True, "put the two rows that name a double board's objects in either order in one split")
    allow_overlap: bool = param(True, "let the objects of a double board overlap; 0 keeps them apart")
    seed: int | None = param(
        None, "seed of everything random in the data set; none draws one", low=0, high=MAX_SEED)

    def check(self) -> None:
        if self.abs_w_c is None:
            self.abs_w_m = 1
        self._check_limits()
        if not self.board_types or len(set(self.board_types)) < len(self.board_types):
            raise ValueError("board_types must name each family once and at least one, not "
                             f"{shown(self.board_types)}.")
        self.board_types_proba = weights_of(self.board_types_proba, self.board_types)
        self._check_room()
        self._check_memory()

    def _check_limits(self) -> None:
        """Raises ValueError where a parameter is larger than another one allows."""
        for name, value, limit, most in (
            ("abs_dim", self.abs_dim, "board_dim", self.board_dim),
            ("abs_c", self.abs_c, "abs_dim squared", self.abs_dim**2),
            ("abs_w_c", self.abs_w_c or 0, "abs_c", self.abs_c),
            ("abs_w_m", self.abs_w_m, "vocab_token", self.vocab_token),
            ("comp_c", self.comp_c, "comp_dim squared", self.comp_dim**2),
        ):
            if value > most:
                raise ValueError(f"{name} = {value} must be at most {limit} = {most}.")

    def _check_room(self) -> None:
        """Raises ValueError where a board is too small for the objects of its type."""
        if "composition" in self.board_types and self.comp_side > self.board_dim:
            raise ValueError(
                f"board_dim = {self.board_dim} must be at least {self.comp_side}, the side of a composite "
                "(comp_dim * abs_dim + (comp_dim - 1) * comp_margin), as board_types has 'composition'.")
        if "double" in self.board_types and not self.families[1].size:
            least = self.abs_dim + 1 if self.allow_overlap else 2 * self.abs_dim
            raise ValueError(
                f"board_dim = {self.board_dim} must be at least {least}, for two roots of abs_dim = "
                f"{self.abs_dim} with allow_overlap {self.allow_overlap}, as board_types has 'double'.")

    def _check_memory(self) -> None:
        """Raises ValueError where the objects fill the memory or the boards are too many to be numbered."""
        for name, count, each in (
            ("abs_n", self.abs_n, self.abs_dim**2 * self.abs_w_m),
            ("comp_n", self.comp_n, self.comp_dim**2),
        ):
            if count * each > 2**24:
                raise ValueError(f"{name} = {count} makes {count * each} numbers, more than 2**24.")
        if max(family.size for family in self.families) >= 2**62:
            raise ValueError(f"abs_n = {self.abs_n} and board_dim = {self.board_dim} allow more than 2**62 "
                             "boards.")

    def check_makeable(self) -> None:
        """Raises ValueError where there are fewer distinct objects than asked for."""
        fuzzy = (self.abs_w_c or 0) if self.abs_w_m > 1 else 0
        plain = self.abs_c - fuzzy
        roots = _ways(
            (self.abs_dim**2, self.abs_c, 1),  # which cells hold tokens
            (self.abs_c, fuzzy, 1),  # which of these are fuzzy
            (self.vocab_token, 1, plain),  # a plain cell's token
            (self.vocab_token, self.abs_w_m, fuzzy),  # a fuzzy cell's tokens
        )
        compositions = _ways((self.comp_dim**2, self.comp_c, 1), (self.abs_n, 1, self.comp_c))
        for name, value, most, what in (
            ("abs_n", self.abs_n, roots, "roots"),
            ("comp_n", self.comp_n, compositions, "compositions"),
        ):
            if value > most:
                raise ValueError(f"{name} = {value} must be at most {most}: with the other parameters "
                                 f"there are no more different {what}.")

    @property
    def places(self) -> int:
        """R, the rows (and the columns) at which a root fits."""
        return self.board_dim - self.abs_dim + 1

    @property
    def comp_side(self) -> int:
        """Cells across a composite."""
        return self.comp_dim * self.abs_dim + (self.comp_dim - 1) * self.comp_margin

    @property
    def masking_token(self) -> int:
        """The UNK token that hides a cell."""
        return self.vocab_bck + self.vocab_token

    @property
    def vocab_size(self) -> int:
        """V: backgrounds, object tokens and UNK."""
        return self.masking_token + 1

    @functools.cached_property
    def families(self) -> tuple[Family, Doubles, Family]:
        """The boards of type 0, 1, 2; a family that does not fit on the board is empty."""
        comp_places = max(self.board_dim - self.comp_side + 1, 0)
        apart = 0 if self.allow_overlap else self.abs_dim
        return (Family(self.abs_n, self.places, self.vocab_bck),
                Doubles(self.abs_n, self.places, self.vocab_bck, apart, self.keep_twins),
                Family(self.comp_n, comp_places, self.vocab_bck))


def _ways(*choices: tuple[int, int, int]) -> float:
    """In how many ways one can choose: the product of comb(n, k) ** times over choices (n, k, times),
    infinity from about 2**60 on."""
    log = 0.0
    for n, k, times in choices:
        log += times * (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1))
    if log > 60 * math.log(2):
        return math.inf
    return math.prod(math.comb(n, k) ** times for n, k, times in choices if times)


def weights_of(values, board_types: Sequence[str]) -> list[float]:
    """Probabilities from non-negative weights, one for each of board_types; ones that sum to 1 stay as they
    are, None makes all alike. TypeError or ValueError where they are no such weights."""
    try:
        weights = np.asarray([1] * len(board_types) if values is None else values, float)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"board_types_proba must be numbers, not {values!r}.") from None
    possible = np.isfinite(weights).all() and (weights >= 0).all() and weights.any()
    if not possible or weights.shape != (len(board_types),):
        raise ValueError(
            f"board_types_proba must be {len(board_types)} non-negative numbers, one for each of "
            f"{list(board_types)} and not all zero, not {shown(weights.tolist())}.")
    if weights.max() > 1 or abs(weights.sum() - 1) > 1e-12:
        weights = weights / weights.max()  # sums of large weights would overflow
        weights /= weights.sum()
    return weights.tolist()


def split_name(name: str, value: str) -> str:
    """value, where it names a split; else TypeError or ValueError, which call it `name`."""
    if not isinstance(value, str) or value not in SPLITS:
        error = ValueError if isinstance(value, str) else TypeError
        raise error(f"{name} must be one of {', '.join(SPLITS)}, not {shown(value)}.")
    return value


def apart(params: DatasetParams, rows: np.ndarray) -> np.ndarray:
    """(n,) whether the objects of rows do not overlap: those of double boards (n, 7) may, others never do."""
    if rows.shape[1] != 7:
        return np.ones(len(rows), bool)
    return (abs(rows[:, 1:3] - rows[:, 4:6]) >= params.abs_dim).any(1)


# Numbers of rows


class Family:
    """The boards with one object. Row [object, row, col, bck] has number ((object * R + row) * R + col) *
    bck_n + bck, where R = places is the number of rows, and of columns, at which an object fits."""

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
        digits = np.unravel_index(numbers, self.shape)
        return np.stack(self._columns(*digits), axis=-1)

    def rank(self, rows: np.ndarray) -> np.ndarray:
        """Rows (k, width) -> numbers (k,); ValueError where a row is none of the family's."""
        if not len(rows):
            return NO_NUMBERS
        return np.ravel_multi_index(self._digits(*rows.T), self.shape)

    def with_twins(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (k,) and, where twins stay together, those of their twins."""
        return np.concatenate([numbers, self.twin(numbers)]) if self.twins else numbers

    def _columns(self, *digits: np.ndarray) -> tuple[np.ndarray, ...]:
        """The digits of numbers in the radix `shape` -> the columns of rows."""
        return digits

    def _digits(self, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
        """The inverse of `_columns`."""
        return columns


class Doubles(Family):
    """The boards with two roots: row [root1, row1, col1, root2, row2, col2, bck] has number
    ((root1 * abs_n + root2) * Q + q) * bck_n + bck, where q ranks the Q ordered pairs of places.

    apart = 0: the second object shares neither row nor column with the first. apart = d: their d x d
    footprints are disjoint. Pairs are ranked by the first place, then the second, both in reading order of
    the places allowed.
    """

    width = 7

    def __init__(self, objects: int, places: int, bck_n: int, apart: int, twins: bool = False):
        self.places, self.twins = places, twins
        self.second = _Disjoint(places, apart) if apart else _OtherLines(places)
        row1, col1 = np.divmod(np.arange(places**2), places)
        pairs = np.cumsum(self.second.count(row1, col1))
        self.before = np.concatenate([[0], pairs])  # pairs before each first place
        self.shape = (objects, objects, int(self.before[-1]), bck_n)
        self.groups = objects**2
        self.size = math.prod(self.shape)

    def _columns(self, root1, root2, q, bck):
        first = np.searchsorted(self.before, q, "right") - 1
        row1, col1 = np.divmod(first, self.places)
        row2, col2 = self.second.unrank(row1, col1, q - self.before[first])
        return root1, row1, col1, root2, row2, col2, bck

    def _digits(self, root1, row1, col1, root2, row2, col2, bck):
        board = (self.places, self.places)
        first = np.ravel_multi_index((row1, col1), board)
        np.ravel_multi_index((row2, col2), board)  # raises ValueError where it lies outside
        q = self.before[first] + self.second.rank(row1, col1, row2, col2)
        return root1, root2, q, bck

    def twin(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (k,) of the rows that name the same two objects in the other order."""
        twins = []
        for part in np.array_split(numbers, len(numbers) // 10**6 + 1):
            rows = self.unrank(part)
            twins.append(self.rank(rows[:, [3, 4, 5, 0, 1, 2, 6]]))
        return np.concatenate(twins)


class _OtherLines:
    """The second places of a double board that share neither row nor column with the first, in reading order:
    those of a board without that row and that column."""

    def __init__(self, places: int):
        self.side = places - 1

    def count(self, row1, col1):
        """How many there are for first places (k,)."""
        return np.full(len(row1), self.side**2)

    def unrank(self, row1, col1, rest):
        """The row and the column of second place number `rest`."""
        row2, col2 = np.divmod(rest, self.side)
        return row2 + (row2 >= row1), col2 + (col2 >= col1)

    def rank(self, row1, col1, row2, col2):
        """The inverse of `unrank`; ValueError where a second place is none of these."""
        if np.any((row1 == row2) | (col1 == col2)):
            raise ValueError("two objects share a row or a column")
        return (row2 - (row2 > row1)) * self.side + col2 - (col2 > col1)


class _Disjoint:
    """The second places of a double board whose d x d footprint leaves the first one free, in reading order:
    all places but a window, the rows and columns less than d away from the first place."""

    def __init__(self, places: int, d: int):
        self.places, self.d = places, d

    def _near(self, line):
        """The first and the number of the rows (or columns) less than d away from `line`."""
        first = np.maximum(line - self.d + 1, 0)
        last = np.minimum(line + self.d - 1, self.places - 1)
        return first, last - first + 1

    def count(self, row1, col1):
        """How many there are for first places (k,)."""
        return self.places**2 - self._near(row1)[1] * self._near(col1)[1]

    def unrank(self, row1, col1, rest):
        """The row and the column of second place number `rest`."""
        top, height = self._near(row1)
        left, width = self._near(col1)
        free = self.places - width  # columns beside the window
        above = top * self.places  # places in the rows above the window
        beside = height * free  # places left and right of it
        is_beside = (rest >= above) & (rest < above + beside)

        line, col_beside = np.divmod(rest - above, np.maximum(free, 1))
        col_beside = col_beside + width * (col_beside >= left)
        skipped = np.where(rest < above, 0, height * width)
        row_far, col_far = np.divmod(rest + skipped, self.places)
        return np.where(is_beside, top + line, row_far), np.where(is_beside, col_beside, col_far)

    def rank(self, row1, col1, row2, col2):
        """The inverse of `unrank`; ValueError where a second place is none of these."""
        top, height = self._near(row1)
        left, width = self._near(col1)
        in_rows = (row2 >= top) & (row2 < top + height)
        if np.any(in_rows & (col2 >= left) & (col2 < left + width)):
            raise ValueError("two objects overlap")
        lines_passed = np.clip(row2 - top, 0, height) + (
            in_rows & (col2 >= left)
        )  # the window's, before this place
        return row2 * self.places + col2 - width * lines_passed


# Tables of rows


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
        which, columns = _rows_and_columns(key)
        if isinstance(which, slice):
            rows = self.take(np.arange(*which.indices(len(self))))
            return rows[(slice(None), *columns)]
        places = np.asarray(which, None if np.size(which) else np.int64)
        np.broadcast_to(0, len(self))[places]  # numpy's IndexError for what is no index
        places = np.flatnonzero(places) if places.dtype == bool else places.astype(np.int64) % len(self)
        rows = self.take(places.ravel())
        return rows[(np.arange(places.size).reshape(places.shape), *columns)]

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), 4096):
            yield from self[start : start + 4096]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("a RowTable is computed, so an array of it is always a copy.")
        return self[:].astype(dtype or self.dtype, copy=False)


def _rows_and_columns(key) -> tuple:
    """The index of a table as (index of its rows, indices of its columns)."""
    key = key if isinstance(key, tuple) else (key,)
    if not key:
        return slice(None), ()
    first, *rest = key
    if first is not Ellipsis:
        return first, rest
    return (rest[0], rest[1:]) if len(rest) == 2 else (slice(None), rest)


# Objects of rows


def checked_roots(params: DatasetParams, values) -> np.ndarray:
    """values as roots (abs_n, d, d, abs_w_m), object tokens or -1; TypeError or ValueError where they are
    none."""
    p, last = params, params.masking_token - 1
    roots = integer_array("roots", values, (p.abs_n, p.abs_dim, p.abs_dim, p.abs_w_m), -1, last)
    if ((roots >= 0) & (roots < p.vocab_bck)).any():
        raise ValueError(f"roots must be -1 or object tokens, {p.vocab_bck} to {last}.")
    return _fixed(roots)


def checked_compositions(params: DatasetParams, values) -> np.ndarray:
    """values as compositions (comp_n, comp_dim, comp_dim), root indices or -1; TypeError or ValueError where
    they are none."""
    p = params
    return _fixed(integer_array("compositions", values, (p.comp_n, p.comp_dim, p.comp_dim), -1, p.abs_n - 1))


def _fixed(array: np.ndarray) -> np.ndarray:
    """The array, into which nothing can be written any longer: what is assigned whole is checked."""
    array.setflags(write=False)
    return array


def objects_of(params: DatasetParams, compositions: np.ndarray, type_: int, rows: np.ndarray,
               margin: int | None = None) -> tuple[np.ndarray, ...]:
    """The objects that rows (k, width) of a type name -> root (-1: none), row, column of each (k, m), and the
    background (k,).

    margin: the gap between the roots of a composite, None for comp_margin.
    """
    if type_ == 1:
        return rows[:, [0, 3]], rows[:, [1, 4]], rows[:, [2, 5]], rows[:, 6]
    what, row, col, bck = rows.T
    if type_ == 0:
        return what[:, None], row[:, None], col[:, None], bck
    step = params.abs_dim + (params.comp_margin if margin is None else margin)
    a, b = np.divmod(np.arange(params.comp_dim**2), params.comp_dim)
    root = compositions[what].reshape(len(rows), len(a))
    return root, row[:, None] + a * step, col[:, None] + b * step, bck


def footprints(params: DatasetParams, root: np.ndarray, row: np.ndarray,
               col: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Where objects (n, m), root -1 none, lie on their boards, in the order they are drawn: for each of m its
    place in that order, the boards that have it (k,), and the cells of its footprint on each of these (k, d *
    d)."""
    h, line = params.board_dim, np.arange(params.abs_dim)
    footprint = (line[:, None] * h + line).ravel()
    for j in range(root.shape[1]):
        there = np.flatnonzero(root[:, j] >= 0)
        corner = row[there, j] * h + col[there, j]
        yield j, there, corner[:, None] + footprint


def padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays (k, m, c) of various m in one, filled up with -1."""
    m = max(part.shape[1] for part in parts)
    missing = [((0, 0), (0, m - part.shape[1]), (0, 0)) for part in parts]
    return np.concatenate([np.pad(part, widths, constant_values=-1)
                           for part, widths in zip(parts, missing, strict=True)])


@dataclasses.dataclass
class Boards:
    """n boards and what stands on them."""

    boards: np.ndarray  # (n, h, w) int64
    types: np.ndarray  # (n,) 0 single, 1 double, 2 composition
    slots: np.ndarray  # (n, h, w) index of the root whose footprint covers the cell (holes included), else -1
    objects: np.ndarray  # (n, m, 3) root, row and column of each object, in drawing order; -1 for none
    composites: np.ndarray  # (n,) index of the composite, -1 on other boards
    backgrounds: np.ndarray  # (n,) token of the background

    def __len__(self) -> int:
        return len(self.boards)

    @property
    def corners(self) -> np.ndarray:
        """(n, m, 2) top left cell of each root's footprint, -1 where there is none."""
        return self.objects[..., 1:]

    @property
    def tokens(self) -> np.ndarray:
        """(n, T) the boards, cell after cell."""
        return self.boards.reshape(len(self), -1)

    def take(self, which: np.ndarray | slice) -> Boards:
        """The boards that `which`, an index of the first axis, picks."""
        return Boards(*(values[which] for values in vars(self).values()))

    @classmethod
    def join(cls, parts: Sequence[Boards]) -> Boards:
        """The boards of all parts, in order."""
        fields = {name: [vars(part)[name] for part in parts] for name in vars(parts[0])}
        objects = padded(fields.pop("objects"))  # boards of several types have room for the most objects
        return cls(objects=objects, **{name: np.concatenate(arrays) for name, arrays in fields.items()})
