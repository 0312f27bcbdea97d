"""Swaps: held-out boards beside donors that differ in one object (or several of a composite), and which cells
to edit.

The visible cells of the object get the donor's activations; the effect is read at its hidden cells, none of
which is edited.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from module_dataset import AbstractionDataset
from parts.boards.params import apart
from studies.claims.scenes import Masking, boards_of, footprints, rows_of

HIDDEN_OF_OBJECT = 1 / 3  # share of a swapped object's cells that is hidden, to be read
ROWS_FOR_ONE = 12  # rows drawn for each swap that is wanted: not all can be used
COMPOSITION = 2  # the type of boards of which constituents are swapped


@dataclass
class Swaps:
    """n boards and the donors of what they are given."""

    rows: np.ndarray  # (n, width) of the base
    tokens: dict[str, np.ndarray]  # (n, T) masked: base; donor, third: other roots in the edited cells; same
    cells: np.ndarray  # (n, c) footprints of what may be edited, -1 for a missing object
    same_cells: np.ndarray  # (n, c) those of `same`, the same object on another board
    edit: np.ndarray  # (n, c) which are edited
    read: np.ndarray  # (n, T) hidden cells, not edited, where base and donor differ
    away: np.ndarray  # (n, T) cells on which the swap should have no effect
    base: np.ndarray  # (n, T) whole boards
    donor: np.ndarray  # (n, T)
    kinds: dict[str, np.ndarray]  # (n, c) root x d * d + place of each of cells, in base and donor

    def take(self, which: np.ndarray) -> Swaps:
        """The swaps that `which`, an index of the first axis, picks."""
        return Swaps(**{name: {key: array[which] for key, array in value.items()} if isinstance(value, dict)
                        else value[which] for name, value in vars(self).items()})


def swaps_of(dataset: AbstractionDataset, type_: int, count: int, rng: np.random.Generator,
             one_shown: bool = False, masking: Masking = (0.25, 0.5)) -> Swaps | None:
    """At most count swaps on held-out boards without overlap; all but the swapped objects stays the same.

    Single and double boards: the first root is swapped, a third of its cells hidden and the visible ones
    edited. Composites: one constituent is wholly hidden, or with one_shown but for one cell, and the others
    become another composite's. masking: of the other cells of single and double boards. None if fewer than
    two swaps can be made.
    """
    rows = _rows(dataset, type_, count, rng)
    if rows is None:
        return None
    boards = {name: boards_of(dataset, type_, r, rng) for name, r in rows.items()}
    objects = {name: b.objects if type_ == COMPOSITION else b.objects[:, :1] for name, b in boards.items()}
    cells, same_cells = (footprints(dataset, objects[name]) for name in ("base", "same"))
    if type_ == COMPOSITION:
        # the slots that base, donor and third all use
        used = np.all([objects[name][..., 0] >= 0 for name in ("base", "donor", "third")], axis=0)
        gone = _one_of(used, rng)
        gone, edit = (np.repeat(slots, dataset.params.abs_dim**2, axis=1) for slots in (gone, used & ~gone))
        if one_shown:
            gone = gone & ~_one_of(gone, rng)
    else:
        gone = rng.random(cells.shape) < HIDDEN_OF_OBJECT
        edit = ~gone
    base, donor = boards["base"].tokens, boards["donor"].tokens
    hidden_elsewhere = rng.random(base.shape) < (0 if type_ == COMPOSITION else masking[0])
    inside, edited = (_on_board(values, cells, base.shape) for values in (cells >= 0, edit))
    hidden = _hidden(gone, cells, hidden_elsewhere)
    differ = (base != donor) & inside
    masked = np.where(hidden, dataset.masking_token, base)  # none of the edited cells is hidden
    tokens = {"base": masked}
    tokens |= {name: np.where(edited, boards[name].tokens, masked) for name in ("donor", "third")}
    hidden_same = _hidden(gone, same_cells, hidden_elsewhere)
    tokens["same"] = np.where(hidden_same, dataset.masking_token, boards["same"].tokens)
    swaps = Swaps(
        rows=rows["base"], tokens=tokens, cells=cells, same_cells=same_cells, edit=edit,
        read=differ & hidden, away=~inside, base=base, donor=donor,
        kinds={name: _kinds(dataset, objects[name]) for name in ("base", "donor")})
    # something to read, and enough in the edited cells to tell the roots apart
    enough = swaps.read.any(1) & ((differ & edited).sum(1) >= 2)
    keep = np.flatnonzero(enough)[:count]
    return swaps.take(keep) if len(keep) >= 2 else None


def _rows(dataset: AbstractionDataset, type_: int, count: int,
          rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    """{base, donor, third, same: (n, width)}: the base's rows with two other roots (or composites), and rows
    elsewhere with the same root. None if there are too few roots or rows."""
    kinds = dataset.params.comp_n if type_ == COMPOSITION else dataset.params.abs_n
    base = rows_of(dataset, type_, "test", ROWS_FOR_ONE * count, rng)
    base = base[apart(dataset.params, base)]
    n = len(base)
    if kinds < 3 or not n:
        return None
    steps = np.argsort(rng.random((n, kinds - 1)), axis=1)[:, :2] + 1  # two different ones, none 0
    others = (base[:, :1] + steps) % kinds
    donor, third, same = base.copy(), base.copy(), base[rng.permutation(n)]
    donor[:, 0], third[:, 0], same[:, 0] = others[:, 0], others[:, 1], base[:, 0]
    return {"base": base, "donor": donor, "third": third, "same": same}


def _one_of(flags: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flags (n, c) of which one of each row's is left, at random."""
    chosen = np.where(flags, rng.random(flags.shape), 2).argmin(1)
    return flags & (np.arange(flags.shape[1]) == chosen[:, None])


def _on_board(values: np.ndarray, cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Flags (n, c) of cells (n, c) as flags (n, T) of the whole board, elsewhere False."""
    flags = np.zeros(shape, bool)
    b, k = np.nonzero(cells >= 0)
    flags[b, cells[b, k]] = values[b, k]
    return flags


def _hidden(gone: np.ndarray, cells: np.ndarray, hidden_elsewhere: np.ndarray) -> np.ndarray:
    """(n, T) what is hidden of boards whose objects have cells (n, c), of which `gone` (n, c) are hidden."""
    inside = _on_board(cells >= 0, cells, hidden_elsewhere.shape)
    return _on_board(gone, cells, hidden_elsewhere.shape) | (hidden_elsewhere & ~inside)


def _kinds(dataset: AbstractionDataset, objects: np.ndarray) -> np.ndarray:
    """(n, c) root x d * d + place of each cell of objects (n, m, 3)."""
    d2 = dataset.params.abs_dim**2
    root = np.maximum(objects[..., 0], 0)
    return np.repeat(root, d2, axis=1) * d2 + np.tile(np.arange(d2), root.shape[1])
