"""Boards of abstract objects (arXiv 2312.05361): what a board is, drawing, sampling, masking.

The parameters and numbers of boards are module_rows', what is held out module_splits', files module_exports',
and what can be known of a masked board ideal_observer's.

Axis letters: n boards, h = w = board_dim, m objects on a board, d = abs_dim, k rows of a table.
"""
from __future__ import annotations

import operator
from pathlib import Path

import numpy as np
import torch

from parts.boards import ideal_observer
from parts.boards.files import OBJECTS, json_path, read_export, write_export
from parts.boards.masking import find_corners, object_tokens, patches
from parts.boards.objects import alike, draw_compositions, draw_roots
from parts.boards.params import (
    COMPOSITIONS,
    DRAWS,
    FAMILIES,
    ROOTS,
    SPLITS,
    TYPES,
    WORKERS,
    Boards,
    DatasetParams,
    RowTable,
    apart,
    checked_compositions,
    checked_roots,
    footprints,
    objects_of,
    split_name,
    weights_of,
)
from parts.boards.splits import check_splits, distinct, hold_out, row_tables
from parts.checks import integer_array, naming
from parts.params import keywords_of
from parts.probing.panels import draw_board, new_figure, token_colors
from utils import caution, fresh_seed, numpy_rng, print_dict, shown

__all__ = ["AbstractionDataset", "Boards", "DatasetParams", "FAMILIES", "SPLITS", "TYPES"]

MAX_CELLS = 2**31  # of one array of boards


@keywords_of(DatasetParams)
class AbstractionDataset(torch.utils.data.Dataset):
    """Boards of abstract objects, drawn at random from a split (arXiv 2312.05361, figure 1).

    A board of 4 x 4 with background tokens 0 and 1, object tokens 2, 3, 4, UNK token 5, and one root of side
    2, roots[0] = [[2, 4], [3, 3]], at row 1, column 2 on background 0:

        row [root, row, col, bck]   [0, 1, 2, 0]

        board         slots          mask          what the network sees   target
        0 0 0 0       -1 -1 -1 -1    0 0 0 1       0 0 0 5                 the board: every token of it,
        0 0 2 4       -1 -1  0  0    0 0 1 0       0 0 5 4                 hidden or not
        0 0 3 3       -1 -1  0  0    0 0 0 0       0 0 3 3
        0 0 0 0       -1 -1 -1 -1    1 0 0 0       5 0 0 0

    A wrong value raises ValueError, an unknown keyword or wrong type TypeError. All random numbers come from
    `rng` and from streams of their own, all seeded by `seed`. Every parameter can be read as an attribute;
    dataset_len, run_name and board_types_proba may be assigned, and so may

    set_type: 'train', 'val' or 'test', the split that draws come from; roots: (abs_n, d, d, abs_w_m), the
    tokens each cell may take, else -1; compositions: (comp_n, comp_dim, comp_dim), root indices, else -1.
    Assigning either leaves the splits as they are.

    sets: None, or nine tables of rows, {singleRoot, doubleRoot, singleComposite}_{train, val, test}.
    """

    def __init__(self, **params):
        self.params = DatasetParams.from_dict(params)
        self.params.check_makeable()
        check_splits(self.params)
        if self.params.seed is None:
            self.params.seed = fresh_seed()
        self.rng = numpy_rng(self.params.seed, DRAWS)
        self.roots = draw_roots(self.params, numpy_rng(self.params.seed, ROOTS))
        self.compositions = draw_compositions(self.params, numpy_rng(self.params.seed, COMPOSITIONS))
        self.sets = (
            row_tables(self.params, hold_out(self.params, self.compositions))
            if self.params.bool_split
            else None
        )
        for type_, name in enumerate(TYPES):
            if name in self.params.board_types and not len(self._table(type_, "train")):
                raise ValueError(
                    f"split_method {self.params.split_method!r} with seed = {self.params.seed} leaves "
                    f"no {name!r} boards to train on; choose another seed or larger boards."
                )
        self.set_type = "train"
        self._worker = None  # (seed, generator) in a DataLoader's worker
        self._warn_of_shared_pictures()

    def _warn_of_shared_pictures(self) -> None:
        """Warns where a picture held out may be one that train draws too: what splits keep apart are rows,
        by family and by root."""
        p, reasons = self.params, []
        if not p.bool_split:
            return
        if pair := alike(self.roots):
            reasons.append(f"roots {pair[0]} and {pair[1]} are shifts of each other")
        twin = {1: "single", 2: "double"}.get(p.comp_c)
        if {"composition", twin} <= set(p.board_types):
            reasons.append(f"composites of comp_c = {p.comp_c} roots are {twin} boards too")
        if reasons:
            caution(f"some pictures held out may be drawn in training: {'; '.join(reasons)}.", 4)

    def __getattr__(self, name):
        if name in DatasetParams.__dataclass_fields__ and "params" in self.__dict__:
            value = getattr(self.params, name)
            return list(value) if isinstance(value, list) else value
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}.")

    def __setattr__(self, name, value):
        if name in DatasetParams.__dataclass_fields__:
            if name not in ("dataset_len", "run_name", "board_types_proba"):
                raise AttributeError(
                    f"{name} is fixed when a data set is made; make one with {name}={value!r}."
                )
            proba = name == "board_types_proba"
            setattr(
                self.params,
                name,
                weights_of(value, self.params.board_types) if proba else DatasetParams.checked(name, value),
            )
            return
        checks = {"set_type": lambda value: split_name("set_type", value),
                  "roots": lambda value: checked_roots(self.params, value),
                  "compositions": lambda value: checked_compositions(self.params, value)}
        value = checks[name](value) if name in checks else value
        super().__setattr__(name, value)

    @property
    def masking_token(self) -> int:
        """The UNK token that hides a cell."""
        return self.params.masking_token

    @property
    def vocab_size(self) -> int:
        """V: backgrounds, object tokens and UNK."""
        return self.params.vocab_size

    # Drawing

    def _generator(self) -> np.random.Generator:
        """This process's generator: `rng`, in a DataLoader's worker one of its own, named by the seed that it
        has from the loader, whose `generator` fixes it."""
        info = torch.utils.data.get_worker_info()
        if info is None:
            return self.rng
        if self._worker is None or self._worker[0] != info.seed:
            self._worker = info.seed, numpy_rng(self.params.seed, WORKERS, info.seed)
        return self._worker[1]

    def _table(self, type_: int, split: str, needed: bool = False) -> RowTable:
        """The rows of a type in a split, without splits all of them. needed: ValueError where there are
        none."""
        table = (
            RowTable(self.params.families[type_])
            if self.sets is None
            else self.sets[f"{FAMILIES[type_]}_{split}"]
        )
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
        """Rows of a family (n, width) -> root index (-1: none), row, column of each object (n, m), background
        (n,)."""
        return objects_of(self.params, self.compositions, type_, rows, margin)

    def _draw(self, root, row, col, bck, labels, rng) -> tuple[np.ndarray, np.ndarray]:
        """Objects, later ones over the whole footprint of earlier ones -> boards (n, h, w), slots (n, h, w).

        root (-1: none), row, col (n, m); bck (n,); labels (n, m): what slots holds.
        """
        n, h = len(bck), self.params.board_dim
        boards, slots = np.repeat(bck, h * h), np.full(n * h * h, -1)
        for j, there, cells in footprints(self.params, root, row, col):
            tokens, cells = self._tokens(root[there, j], rng), there[:, None] * (h * h) + cells
            boards[cells] = np.where(tokens < 0, bck[there, None], tokens)
            slots[cells] = labels[there, j, None]
        return boards.reshape(n, h, h), slots.reshape(n, h, h)

    def _assemble(self, types: np.ndarray, rows: dict[int, np.ndarray], rng) -> Boards:
        """Boards of the given types (n,), those of each type from its rows in order."""
        n, h = len(types), self.params.board_dim
        m = max((1, 2, self.params.comp_dim**2)[type_] for type_ in rows)
        out = Boards(
            boards=np.empty((n, h, h), np.int64), types=types, slots=np.empty((n, h, h), np.int64),
            objects=np.full((n, m, 3), -1), composites=np.full(n, -1), backgrounds=np.empty(n, np.int64))
        for type_, chosen in rows.items():
            if len(chosen):
                where = np.flatnonzero(types == type_)
                root, row, col, bck = self._objects(type_, chosen)
                out.boards[where], out.slots[where] = self._draw(root, row, col, bck, root, rng)
                there = (root >= 0)[..., None]
                out.objects[where, : root.shape[1]] = np.where(there, np.stack([root, row, col], -1), -1)
                out.composites[where], out.backgrounds[where] = chosen[:, 0] if type_ == 2 else -1, bck
        return out

    def sample(
        self, n: int, split: str | None = None, proba=None, rng: np.random.Generator | None = None,
        overlap_weight: float = 1,
    ) -> Boards:
        """n random boards: types by proba (None: board_types_proba; else weights in the order of
        board_types), rows uniform within the split (None: set_type; ignored where there are no splits), but
        double boards whose objects overlap overlap_weight (at least 1) times as likely as others.

        ValueError where a type of positive probability has no boards in that split.
        """
        n = int(integer_array("n", n, (), 0, 2**62))
        rng = self._generator() if rng is None else rng
        split = self.set_type if split is None else split_name("split", split)
        names = self.params.board_types
        edges = np.cumsum(self.params.board_types_proba if proba is None else weights_of(proba, names))
        self._check_cells(n, "n")
        types = np.array([TYPES.index(name) for name in names])
        used = sorted(types[np.diff(edges, prepend=0) > 0].tolist())
        tables = {type_: self._table(type_, split, needed=True) for type_ in used}
        drawn = types[np.searchsorted(edges / edges[-1], rng.random(n), "right")]
        counts = np.bincount(drawn, minlength=3)
        rows = {
            type_: self._random_rows(table, counts[type_], overlap_weight, rng)
            for type_, table in tables.items()
        }
        return self._assemble(drawn, rows, rng)

    def _random_rows(self, table: RowTable, count: int, overlap_weight: float, rng) -> np.ndarray:
        """count rows of a table, those whose objects overlap overlap_weight times as likely as others."""
        rows = table.take(rng.integers(len(table), size=count))
        if overlap_weight == 1 or table.shape[1] != 7:
            return rows
        kept = rows[:0]
        while True:  # of the rows whose objects are apart one in overlap_weight is kept
            stay = ~apart(self.params, rows) | (rng.random(len(rows)) * overlap_weight < 1)
            kept = np.concatenate([kept, rows[stay]])
            if len(kept) >= count:
                return kept[:count]
            rows = table.take(rng.integers(len(table), size=2 * count))

    def all_boards(self, split: str = "test", count_max: int | None = None, rng=None) -> Boards:
        """Every board of a split in random order within its family, at most count_max of each: the families
        of board_types, whatever their probability, in the order single, double, composition.

        ValueError where the data set has no splits.
        """
        if self.sets is None:
            raise ValueError(
                "this data set has no splits (bool_split is False), so no set of all their boards."
            )
        split, rng = split_name("target_set", split), self._generator() if rng is None else rng
        most = MAX_CELLS if count_max is None else int(integer_array("count_max", count_max, (), 0, 2**62))
        tables = [self._table(type_, split) for type_ in range(3)]
        counts = {
            type_: min(len(tables[type_]), most)
            for type_ in range(3)
            if TYPES[type_] in self.params.board_types
        }
        self._check_cells(sum(counts.values()), "count_max")
        rows = {
            type_: tables[type_].take(distinct(rng, 1, len(tables[type_]), count)[0])
            for type_, count in counts.items()
        }
        return self._assemble(np.repeat(list(counts), list(counts.values())), rows, rng)

    def _check_cells(self, n: int, name: str) -> None:
        if n * self.params.board_dim**2 > MAX_CELLS:
            raise ValueError(f"{name} must keep boards below {MAX_CELLS} cells in all, not {n} boards of "
                             f"{self.params.board_dim**2}.")

    def get_all_boards(
        self, target_set: str = "test", count_max: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
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
        """A board (h, w), int64, drawn at random whatever i is; IndexError from len on, so that iteration
        ends."""
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} is out of range for a data set of {len(self)} boards.")
        return self.sample(1).boards[0]

    def _draw_board(self, board_type: int | str) -> tuple[np.ndarray, np.ndarray]:
        """(board (h, w), slots (h, w)) of a type, 0, 1, 2 or its name, drawn from set_type."""
        if isinstance(board_type, str):
            if board_type not in TYPES:
                raise ValueError(
                    f"board_type must be one of {', '.join(TYPES)}, or 0, 1, 2, not {board_type!r}."
                )
            board_type = TYPES.index(board_type)
        type_, rng = int(integer_array("board_type", board_type, (), 0, 2)), self._generator()
        table = self._table(type_, self.set_type, needed=True)
        drawn = self._assemble(np.array([type_]), {type_: table.take(rng.integers(len(table), size=1))}, rng)
        return drawn.boards[0], drawn.slots[0]

    def _draw_board_deterministic(
        self, mode: str = "root", root_abstractions=(0,), root_positions=None, composite: int | None = None,
        composite_position=None, composite_margin: int = 0, token_bck: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(board (h, w), slots (h, w)) of named objects.

        mode 'root': root_abstractions (n,) at root_positions (n, 2), later ones on top; slots holds places in
        root_abstractions. mode 'composite': that composite at composite_position (2,), its roots
        composite_margin apart; slots holds root indices. What is None is drawn at random, as are all n roots
        where the first is -1. Random places: for two roots a double board's; for more no row or column twice,
        where they fit.
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
                raise TypeError(
                    f"root_abstractions must be whole numbers, not {shown(root_abstractions)}."
                ) from None
            if not roots.size:
                raise ValueError("root_abstractions must name at least one root.")
            n = roots.size
            roots = self._given("root_abstractions", None if roots.flat[0] == -1 else roots, (n,), p.abs_n)
            at = self._random_places(n, rng) if root_positions is None else root_positions
            at = self._given("root_positions", at, (n, 2), p.places)
            objects, labels = (roots[None], at[None, :, 0], at[None, :, 1]), np.arange(n)[None]
        else:
            margin = int(integer_array("composite_margin", composite_margin, (), 0, p.board_dim))
            places = p.board_dim - p.comp_dim * p.abs_dim - (p.comp_dim - 1) * margin + 1
            if places < 1:
                raise ValueError(
                    f"composite_margin = {margin} makes composites larger than board_dim = {p.board_dim}."
                )
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
        return integer_array(name, values, shape, 0, end - 1)

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

        Each cell is hidden with probability p. With probability patch_p a board also loses a patch: a
        composite board the footprint of one of its roots, any other board a d x d window, each uniform.
        kinds: 0 no patch, 1 a root board's, 3 a composite's. types (n,) and corners (n, m, 2) come with
        `Boards`. Without them, a composite board is one with more than 2 * abs_c object tokens, and its roots
        are found by matching it with the composites.
        """
        boards, h = np.asarray(boards), self.params.board_dim
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
        if types is None or corners is None:
            corners = find_corners(self.params, self.roots, self.compositions, boards[where])
        else:
            corners = np.asarray(corners)[where]
        types = None if types is None else np.asarray(types)[where]
        cells, composite = patches(self.params, boards[where], types, corners, rng)
        hidden[where] |= cells
        kinds[where] = np.where(composite, 3, 1)
        return hidden, kinds

    # What an exact observer can know

    @property
    def observer(self) -> ideal_observer.Observer:
        """Somebody who knows the objects and how boards are made."""
        return ideal_observer.Observer(self.params, self.roots, self.compositions)

    def hypotheses(self, masked_board, proba=None) -> ideal_observer.Hypotheses:
        """What the visible cells of a masked board (h, w) allow; see `ideal_observer.Observer.hypotheses`."""
        return self.observer.hypotheses(masked_board, proba)

    def best_reconstruction(self, masked_boards, proba=None) -> ideal_observer.Reconstruction:
        """The best that can be done with masked boards (n, h, w); see
        `ideal_observer.Observer.best_reconstruction`."""
        return self.observer.best_reconstruction(masked_boards, proba)

    def covering(self, objects: np.ndarray) -> np.ndarray:
        """Which object, and which of its cells, covers each cell; see `ideal_observer.covering`."""
        return ideal_observer.covering(self.params, objects)

    # Showing

    def render_board(
        self, board, board_abs=None, mask=None, figsize=(10, 10), label_size=(8, 0.2), save_path=None
    ):
        """Draws a board (h, w): a colour a token, its number where board_abs (h, w) >= 0, grid lines, cells
        with mask 1 shaded; board_abs and mask may be None. Saves it when given save_path; returns the figure.

        label_size: the numbers' size in points; its second value is accepted for old calls.
        """
        side = (self.params.board_dim,) * 2
        for name, cells in (("board_abs", board_abs), ("mask", mask)):
            if cells is not None and np.shape(cells) != side:
                raise ValueError(f"{name} must have shape {side}, not {np.shape(cells)}.")
        board = integer_array("board", board, side, 0, self.masking_token)
        figure, axes = new_figure(1, 1, figsize)
        numbers = None if board_abs is None else np.asarray(board_abs) >= 0
        draw_board(
            axes[0, 0],
            board,
            token_colors(self.params.vocab_bck, self.params.vocab_token),
            numbers,
            mask,
            font=label_size[0],
        )
        if save_path is not None:
            Path(save_path).parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(save_path)
        return figure

    def render_boards(self, boards, masks=None, titles=(), wrong=None, columns=6, size=1.8):
        """Draws boards (n, h, w) of any h and w side by side, `columns` in a row, `size` inches wide each: a
        colour a token, numbers on object tokens, cells hatched that are UNK or have masks (n, h, w) 1, cells
        crossed out where wrong (n, h, w) is true; titles: one a board. Returns the figure."""
        boards = np.asarray(boards)
        if boards.ndim != 3 or not boards.size:
            raise ValueError(f"boards must have shape (n, h, w), not {boards.shape}.")
        boards = integer_array("boards", boards, boards.shape, 0, self.masking_token)
        n, h, w = boards.shape
        masks, wrong = (
            np.zeros(boards.shape, bool) if cells is None else np.asarray(cells, bool)
            for cells in (masks, wrong)
        )
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
            draw_board(
                ax,
                boards[k],
                colors,
                object_tokens(self.params, boards[k]),
                masks[k] | (boards[k] == self.masking_token),
                wrong[k],
                28 * size / w,
            )
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
        """Writes <filename>.json and the arrays beside it; folders are created. See
        `module_exports.write_export`."""
        write_export(filename, self)

    def load(self, filename: str | Path) -> None:
        """Becomes the data set of an export, with or without '.json', in this or the official program's
        format.

        An official file has no seed, so the one of this data set stays, and its twins may stand in different
        splits, so keep_twins is False. ValueError names a file that is missing, cut off or inconsistent;
        nothing changes then.
        """
        stored, new = read_export(filename, self.params.seed), object.__new__(AbstractionDataset)
        new.params, new.rng, new.sets, new._worker = stored.params, stored.rng, stored.sets, None
        with naming(json_path(filename)):
            new.set_type = stored.set_type
        for name in OBJECTS:
            with naming(stored.files[name]):
                setattr(new, name, stored.arrays[name])
        self.__dict__.update(new.__dict__)
