"""Every board has an index: `unrank` computes the board from its index, `rank` the index from the board.

Possible boards are too many to list (900,000 with two objects in the default data set, and their number grows
with the fourth power of the board's side). So a board is written as a row of integers,

    [root, row, col, bck]                             one root at (row, col) on background bck
    [root1, row1, col1, root2, row2, col2, bck]       two roots, the second drawn over the first
    [composite, row, col, bck]                        one composite

and all rows of one kind, a family, are counted in a fixed order, as digits of a number are.

Axis letters: k rows, R = places: the rows (and the columns) of a board at which an object fits.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

NO_NUMBERS = np.zeros(0, np.int64)


class Family:
    """The boards with one object. Row [object, row, col, bck] has index
    ((object * R + row) * R + col) * bck_n + bck."""

    width = 4  # integers in a row
    twins = False  # whether two rows name the same objects and must be in the same split

    def __init__(self, objects: int, places: int, bck_n: int):
        self.shape = (objects, places, places, bck_n)  # how many values each digit of an index has
        self.groups = objects  # 'balanced' holds out as many boards of each
        self.size = math.prod(self.shape)

    def unrank(self, numbers: np.ndarray) -> np.ndarray:
        """Indices (k,) -> rows (k, width)."""
        if not len(numbers):
            return np.zeros((0, self.width), np.int64)
        digits = np.unravel_index(numbers, self.shape)
        return np.stack(self._columns(*digits), axis=-1)

    def rank(self, rows: np.ndarray) -> np.ndarray:
        """Rows (k, width) -> indices (k,). ValueError if a row is not in the family."""
        if not len(rows):
            return NO_NUMBERS
        return np.ravel_multi_index(self._digits(*rows.T), self.shape)

    def with_twins(self, numbers: np.ndarray) -> np.ndarray:
        """Indices (k,) and, if twins must be in the same split, those of their twins."""
        return np.concatenate([numbers, self.twin(numbers)]) if self.twins else numbers

    def _columns(self, *digits: np.ndarray) -> tuple[np.ndarray, ...]:
        """Digits of indices -> the columns of rows; here they are the same."""
        return digits

    def _digits(self, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
        """The inverse of `_columns`."""
        return columns


class Doubles(Family):
    """The boards with two roots. Row [root1, row1, col1, root2, row2, col2, bck] has index
    ((root1 * abs_n + root2) * Q + q) * bck_n + bck; q counts the Q allowed pairs of positions.

    apart = 0: the two objects share neither row nor column. apart = d: their d x d footprints are disjoint.
    Pairs are counted by the first position, then by the second, both in reading order.
    """

    width = 7

    def __init__(self, objects: int, places: int, bck_n: int, apart: int, twins: bool = False):
        self.places, self.twins = places, twins
        self.second = _Disjoint(places, apart) if apart else _OtherLines(places)
        row1, col1 = np.divmod(np.arange(places**2), places)
        pairs = np.cumsum(self.second.count(row1, col1))
        self.before = np.concatenate([[0], pairs])  # pairs before those of each first position
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
        np.ravel_multi_index((row2, col2), board)  # raises ValueError if the second lies outside the board
        q = self.before[first] + self.second.rank(row1, col1, row2, col2)
        return root1, root2, q, bck

    def twin(self, numbers: np.ndarray) -> np.ndarray:
        """Indices (k,) of the rows that name the same two objects in the other order."""
        twins = []
        for part in np.array_split(numbers, len(numbers) // 10**6 + 1):  # rows need 7 times the memory
            rows = self.unrank(part)
            twins.append(self.rank(rows[:, [3, 4, 5, 0, 1, 2, 6]]))
        return np.concatenate(twins)


class _OtherLines:
    """Second positions that share neither row nor column with the first: those of a board from which that row
    and that column have been removed, in reading order."""

    def __init__(self, places: int):
        self.side = places - 1

    def count(self, row1, col1):
        """How many second positions each first position (k,) has."""
        return np.full(len(row1), self.side**2)

    def unrank(self, row1, col1, rest):
        """The row and the column of second position number `rest`."""
        row2, col2 = np.divmod(rest, self.side)
        return row2 + (row2 >= row1), col2 + (col2 >= col1)

    def rank(self, row1, col1, row2, col2):
        """The inverse of `unrank`. ValueError if a second position is not allowed."""
        if np.any((row1 == row2) | (col1 == col2)):
            raise ValueError("two objects share a row or a column")
        return (row2 - (row2 > row1)) * self.side + col2 - (col2 > col1)


class _Disjoint:
    """Second positions whose d x d footprint does not overlap the first one's: all but a window, the rows and
    columns less than d away from the first position, in reading order."""

    def __init__(self, places: int, d: int):
        self.places, self.d = places, d

    def _near(self, line):
        """The first and the number of the rows (or columns) less than d away from `line`."""
        first = np.maximum(line - self.d + 1, 0)
        last = np.minimum(line + self.d - 1, self.places - 1)
        return first, last - first + 1

    def count(self, row1, col1):
        """How many second positions each first position (k,) has."""
        return self.places**2 - self._near(row1)[1] * self._near(col1)[1]

    def unrank(self, row1, col1, rest):
        """The row and the column of second position number `rest`."""
        top, height = self._near(row1)
        left, width = self._near(col1)
        free = self.places - width  # columns beside the window
        above = top * self.places  # positions in the rows above the window
        beside = height * free  # positions left and right of it
        is_beside = (rest >= above) & (rest < above + beside)

        line, col_beside = np.divmod(rest - above, np.maximum(free, 1))
        col_beside = col_beside + width * (col_beside >= left)
        skipped = np.where(rest < above, 0, height * width)
        row_far, col_far = np.divmod(rest + skipped, self.places)
        return np.where(is_beside, top + line, row_far), np.where(is_beside, col_beside, col_far)

    def rank(self, row1, col1, row2, col2):
        """The inverse of `unrank`. ValueError if a second position is not allowed."""
        top, height = self._near(row1)
        left, width = self._near(col1)
        in_rows = (row2 >= top) & (row2 < top + height)
        if np.any(in_rows & (col2 >= left) & (col2 < left + width)):
            raise ValueError("two objects overlap")
        # lines of the window that lie before this position
        lines_passed = np.clip(row2 - top, 0, height) + (in_rows & (col2 >= left))
        return row2 * self.places + col2 - width * lines_passed


class RowTable:
    """Some rows of a family as a table of integers (k, width), indexed and sliced like an array.

    Only indices are stored: those of the table's rows or, with `without`, those of the family's other rows,
    sorted. So a train split of millions of rows needs no more memory than the boards held out of it.
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
        """Positions in the table (k,), each from 0 to len - 1 -> indices of these rows in the family (k,)."""
        if self._numbers is not None:
            return self._numbers[places]
        return places + np.searchsorted(self._gaps, places, "right")

    def take(self, places: np.ndarray) -> np.ndarray:
        """Positions in the table (k,) -> rows (k, width)."""
        return self.family.unrank(self.numbers(places))

    def __getitem__(self, key):
        which, *columns = (key if isinstance(key, tuple) else (key,)) or (...,)
        if which is Ellipsis:
            return self[:][key]
        if isinstance(which, slice):
            rows = self.take(np.arange(*which.indices(len(self))))
            return rows[(slice(None), *columns)]
        places = np.asarray(which, None if np.size(which) else np.int64)
        np.broadcast_to(0, len(self))[places]  # raises numpy's own IndexError for a wrong index
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


def distinct(
    rng: np.random.Generator, groups: int, n: int, m: int, twin: Callable | None = None
) -> np.ndarray:
    """(groups, m) random numbers below n, distinct in each row, all choices and orders equally likely.

    twin: maps each number to its partner. Of two partners only the lower is drawn, so m distinct pairs are.
    """
    if 2 * m > (n // 2 if twin else n):  # so many that a list of all takes little more memory
        every = np.arange(n)
        every = every[every < twin(every)] if twin else every
        return rng.permuted(np.broadcast_to(every, (groups, len(every))), axis=1)[:, :m]

    def draw(size):
        numbers = rng.integers(n, size=size) if m else np.zeros(size, np.int64)
        return np.minimum(numbers, twin(numbers.ravel()).reshape(numbers.shape)) if twin else numbers

    picks = draw((groups, m))
    while True:  # repeated numbers are drawn again
        picks.sort(axis=1)
        again = picks[:, 1:] == picks[:, :-1]
        if not again.any():
            return rng.permuted(picks, axis=1)
        picks[:, 1:][again] = draw(np.count_nonzero(again))
