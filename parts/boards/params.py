"""What a data set is made of: its parameters, and `Boards`, boards together with what is on them.

Axis letters: n boards, h = w = board_dim, T = h * w cells, m objects on a board, k rows.
"""
from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from parts.boards.numbering import Doubles, Family
from parts.checks import refuse
from parts.params import Params, param
from utils import MAX_SEED, shown

TYPES = ("single", "double", "composition")  # a board's type is its position here
FAMILIES = ("singleRoot", "doubleRoot", "singleComposite")  # the same, as the tables of `sets` are called
SPLITS = ("train", "val", "test")
# Each kind of random number comes from a stream of its own, so that asking for more boards, say, does not
# change the objects of a seed.
ROOTS, COMPOSITIONS, HELD_OUT, DRAWS, WORKERS = range(5)
MOST_NUMBERS = 2**24  # in the arrays of roots and of compositions

# most parameters say which boards exist, so they cannot change once the data set is made
fixed = functools.partial(param, fixed=True)


@dataclasses.dataclass(kw_only=True)
class DatasetParams(Params):
    """The parameters of a data set, checked against each other."""

    dataset_len: int = param(1000, "number of boards in an epoch", low=1, high=2**31)
    board_dim: int = fixed(8, "height and width of a board, in cells", low=1, high=256)
    vocab_bck: int = fixed(10, "number of background tokens", low=1, high=10**6)
    vocab_token: int = fixed(10, "number of object tokens", low=1, high=10**6)
    abs_n: int = fixed(10, "number of root objects", low=1, high=10**6)
    abs_dim: int = fixed(3, "height and width of a root's footprint, in cells", low=1, high=256)
    abs_c: int = fixed(
        9, "tokens placed in a root's footprint, at most abs_dim squared; the other cells are holes", low=1)
    abs_w_c: int | None = fixed(
        None, "fuzzy cells in a root, whose token is drawn again each time the root is drawn; none: no fuzzy "
        "cells, and abs_w_m is 1", low=0)
    abs_w_m: int = fixed(1, "number of distinct tokens that a fuzzy cell may take", low=1)
    comp_n: int = fixed(5, "number of composite objects", low=1, high=10**6)
    comp_dim: int = fixed(2, "height and width of a composite, in roots", low=1, high=256)
    comp_margin: int = fixed(1, "cells between two neighbouring roots of a composite", low=0, high=256)
    comp_c: int = fixed(4, "number of roots placed in a composite, at most comp_dim squared", low=1)
    board_types: list[str] = fixed(
        TYPES, "types of board in use: single (one root), double (two roots), composition (one composite)",
        choices=TYPES)
    board_types_proba: list[float] | None = param(
        None, "sampling weights of board_types, in their order, normalised; none: all equal", low=0)
    run_name: str = param("", "label stored with the exported data set")
    bool_split: bool = fixed(True, "whether boards are held out of training for validation and test")
    split_method: str = fixed(
        "balanced", "which boards are held out; balanced: some of each object or pair of objects; fraction: "
        "a share of each type of board; stringent: one position of each root; places: a share of each root's "
        "positions; pairs: double boards of some pairs of roots",
        choices=("balanced", "fraction", "stringent", "places", "pairs"))
    card_val: float = fixed(
        0, "validation boards; balanced: number for each object or pair; fraction: share of boards, 0 to 1; "
        "stringent, places, pairs: above 0 makes half of the boards held out validation boards", low=0)
    card_test: float = fixed(
        4, "test boards; balanced: number for each object or pair; fraction: share of boards, 0 to 1; "
        "places: share of each root's positions to hold out; pairs: number of pairs of roots to hold out; "
        "stringent: no effect", low=0)
    keep_twins: bool = fixed(
        True, "keep A-then-B and B-then-A, double boards that often look alike, in the same split")
    allow_overlap: bool = fixed(True, "whether the two objects of a double board may overlap")
    seed: int | None = fixed(
        None, "seed of everything random in the data set; none: a new one is chosen and stored", low=0,
        high=MAX_SEED)

    def check(self) -> None:
        if self.abs_w_c is None:
            self.abs_w_m = 1
        refuse(self._contradictions())
        self.board_types_proba = weights_of(self.board_types_proba, self.board_types)

    def _contradictions(self) -> Iterator[str]:
        """A sentence for each pair of parameters that do not fit each other."""
        for name, value, limit, most in (
            ("abs_dim", self.abs_dim, "board_dim", self.board_dim),
            ("abs_c", self.abs_c, "abs_dim squared", self.abs_dim**2),
            ("abs_w_c", self.abs_w_c or 0, "abs_c", self.abs_c),
            ("abs_w_m", self.abs_w_m, "vocab_token", self.vocab_token),
            ("comp_c", self.comp_c, "comp_dim squared", self.comp_dim**2),
        ):
            if value > most:
                yield f"{name} = {value} must be at most {limit} = {most}."
        if not self.board_types or len(set(self.board_types)) < len(self.board_types):
            yield ("board_types must name at least one type, and each only once, not "
                   f"{shown(self.board_types)}.")
        if "composition" in self.board_types and self.comp_side > self.board_dim:
            yield (f"board_dim = {self.board_dim} must be at least {self.comp_side}, the side of a composite "
                   "(comp_dim * abs_dim + (comp_dim - 1) * comp_margin), as board_types has 'composition'.")
        if "double" in self.board_types and not self.families[1].size:
            least = self.abs_dim + 1 if self.allow_overlap else 2 * self.abs_dim
            yield (f"board_dim = {self.board_dim} must be at least {least}, for two roots of abs_dim = "
                   f"{self.abs_dim} with allow_overlap {self.allow_overlap}, as board_types has 'double'.")
        for name, count, each in (
            ("abs_n", self.abs_n, self.abs_dim**2 * self.abs_w_m),
            ("comp_n", self.comp_n, self.comp_dim**2),
        ):
            if count * each > MOST_NUMBERS:
                yield f"{name} = {count} makes {count * each} numbers, more than {MOST_NUMBERS}."
        if max(family.size for family in self.families) >= 2**62:  # an index must fit into 64 bits
            yield f"abs_n = {self.abs_n} and board_dim = {self.board_dim} allow more than 2**62 boards."

    def check_makeable(self) -> None:
        """Raises ValueError if there are fewer distinct objects than asked for. An official file may hold
        the same object twice, so only a new data set is checked for it."""
        fuzzy = (self.abs_w_c or 0) if self.abs_w_m > 1 else 0
        plain = self.abs_c - fuzzy
        roots = _ways(
            (self.abs_dim**2, self.abs_c, 1),  # which cells hold tokens
            (self.abs_c, fuzzy, 1),  # which of these are fuzzy
            (self.vocab_token, 1, plain),  # a plain cell's token
            (self.vocab_token, self.abs_w_m, fuzzy),  # a fuzzy cell's tokens
        )
        compositions = _ways((self.comp_dim**2, self.comp_c, 1), (self.abs_n, 1, self.comp_c))
        refuse(f"{name} = {value} must be at most {most}: with the other parameters there are no more "
               f"different {what}."
               for name, value, most, what in (("abs_n", self.abs_n, roots, "roots"),
                                               ("comp_n", self.comp_n, compositions, "compositions"))
               if value > most)

    @property
    def places(self) -> int:
        """R, the number of rows (and of columns) at which a root fits."""
        return self.board_dim - self.abs_dim + 1

    @property
    def comp_side(self) -> int:
        """Height and width of a composite, in cells."""
        return self.comp_dim * self.abs_dim + (self.comp_dim - 1) * self.comp_margin

    @property
    def masking_token(self) -> int:
        """The UNK token, which hides a cell."""
        return self.vocab_bck + self.vocab_token

    @property
    def vocab_size(self) -> int:
        """V: backgrounds, object tokens and UNK."""
        return self.masking_token + 1

    @functools.cached_property
    def families(self) -> tuple[Family, Doubles, Family]:
        """All boards of type 0, 1 and 2. A family whose objects do not fit on the board is empty."""
        comp_places = max(self.board_dim - self.comp_side + 1, 0)
        apart = 0 if self.allow_overlap else self.abs_dim
        return (Family(self.abs_n, self.places, self.vocab_bck),
                Doubles(self.abs_n, self.places, self.vocab_bck, apart, self.keep_twins),
                Family(self.comp_n, comp_places, self.vocab_bck))


def _ways(*choices: tuple[int, int, int]) -> float:
    """The product of comb(n, k) ** times over choices (n, k, times), infinity from about 2**60 on."""
    log = 0.0
    for n, k, times in choices:
        log += times * (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1))
    if log > 60 * math.log(2):
        return math.inf
    return math.prod(math.comb(n, k) ** times for n, k, times in choices if times)


def weights_of(values, board_types: Sequence[str]) -> list[float]:
    """Probabilities from non-negative weights, one for each of board_types. None makes all equal; weights
    that sum to 1 stay as they are, to the bit."""
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
        weights = weights / weights.max()  # the sum of large weights would overflow
        weights /= weights.sum()
    return weights.tolist()


def apart(params: DatasetParams, rows: np.ndarray) -> np.ndarray:
    """(k,) whether the objects of rows (k, width) do not overlap. Only those of double boards may."""
    if rows.shape[1] != 7:
        return np.ones(len(rows), bool)
    return (abs(rows[:, 1:3] - rows[:, 4:6]) >= params.abs_dim).any(1)


def padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays (k, m, c) of different m as one, with -1 where an array has fewer."""
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
