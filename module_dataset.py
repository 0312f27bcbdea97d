"""Boards of abstract objects (arXiv 2312.05361): what a board is, drawing, sampling, masking.

What it is made of lies in parts/boards: parameters (params), an index for every board (numbering), objects,
splits, patches (masking), files, and the ideal observer.

Axis letters: n boards, h = w = board_dim, m objects on a board, d = abs_dim, k rows.
"""
from __future__ import annotations

import numbers
import operator
from pathlib import Path

import numpy as np
import torch

from parts.boards import files, ideal_observer, masking, objects, splits
from parts.boards.numbering import RowTable, distinct
from parts.boards.params import DRAWS, FAMILIES, SPLITS, TYPES, WORKERS, Boards, DatasetParams, weights_of
from parts.boards.pictures import draw_board, draw_boards, new_figure, token_colors
from parts.checks import check_choice, check_numbers, check_shape, integer_array
from parts.params import assigned, keywords_of
from utils import caution, fresh_seed, numpy_rng, print_dict

__all__ = ["AbstractionDataset", "Boards", "DatasetParams", "FAMILIES", "SPLITS", "TYPES"]

MAX_CELLS = 2**31  # in one array of boards


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

    A wrong value raises ValueError, an unknown keyword or a wrong type TypeError. All random numbers come
    from `rng` and from streams of their own, and all of these are seeded by `seed`. Every parameter is also
    an attribute. dataset_len, run_name and board_types_proba may be assigned, and so may

    set_type: 'train', 'val' or 'test', the split that draws come from;
    roots: (abs_n, d, d, abs_w_m) the tokens that each cell may take, filled up with -1;
    compositions: (comp_n, comp_dim, comp_dim) root indices, -1 for no root.

    New roots or compositions leave the splits as they are.

    sets: None, or nine tables of rows, {singleRoot, doubleRoot, singleComposite}_{train, val, test}.
    """

    def __init__(self, **params):
        self.params = DatasetParams.from_dict(params)
        self.params.check_makeable()
        splits.check_splits(self.params)
        if self.params.seed is None:
            self.params.seed = fresh_seed()
        self.rng = numpy_rng(self.params.seed, DRAWS)
        self.roots = objects.draw_roots(self.params)
        self.compositions = objects.draw_compositions(self.params)
        self.sets = splits.make_splits(self.params, self.compositions)
        self.set_type = "train"
        self._worker = None  # (seed, generator) in a worker process of a DataLoader
        if self.sets and (reasons := splits.shared_pictures(self.params, self.roots)):
            caution(f"some pictures held out may be drawn in training: {'; '.join(reasons)}.")

    def __getattr__(self, name):  # called for names that are not found otherwise
        if name in DatasetParams.__dataclass_fields__ and "params" in self.__dict__:
            value = getattr(self.params, name)
            return list(value) if isinstance(value, list) else value
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}.")

    def __setattr__(self, name, value):
        if name in DatasetParams.__dataclass_fields__:
            name, value = "params", assigned(self.params, name, value)
        elif name == "set_type":
            check_choice(name, value, SPLITS)
        elif name == "roots":
            value = objects.checked_roots(self.params, value)
        elif name == "compositions":
            value = objects.checked_compositions(self.params, value)
        super().__setattr__(name, value)

    @property
    def masking_token(self) -> int:
        """The UNK token, which hides a cell."""
        return self.params.masking_token

    @property
    def vocab_size(self) -> int:
        """V: backgrounds, object tokens and UNK."""
        return self.params.vocab_size

    # Sampling

    def sample(self, n: int, split: str | None = None, proba=None,
               rng: np.random.Generator | None = None) -> Boards:
        """n random boards.

        Types are drawn by proba (weights in the order of board_types; None: board_types_proba), rows
        uniformly within the split (None: set_type; ignored if the data set has no splits). ValueError if a
        type of positive probability has no boards in that split.
        """
        n = int(integer_array("n", n, (), 0, 2**62))
        rng = self._generator() if rng is None else rng
        split = self.set_type if split is None else check_choice("split", split, SPLITS)
        names = self.params.board_types
        edges = np.cumsum(self.params.board_types_proba if proba is None else weights_of(proba, names))
        self.check_cells(n, "n")
        types = np.array([TYPES.index(name) for name in names])
        used = sorted(types[np.diff(edges, prepend=0) > 0].tolist())
        tables = {type_: self.table(type_, split, needed=True) for type_ in used}
        drawn = types[np.searchsorted(edges / edges[-1], rng.random(n), "right")]
        counts = np.bincount(drawn, minlength=3)
        rows = {type_: table.take(rng.integers(len(table), size=counts[type_]))
                for type_, table in tables.items()}
        return self._assemble(drawn, rows, rng)

    def all_boards(self, split: str = "test", count_max: int | None = None, rng=None) -> Boards:
        """Every board of a split in random order within its family, at most count_max of each family.

        The families are those of board_types, whatever their probability, in the order single, double,
        composition. ValueError if the data set has no splits.
        """
        check_choice("target_set", split, SPLITS)
        if self.sets is None:
            raise ValueError("bool_split is False: this data set has no splits whose boards could be listed.")
        rng = self._generator() if rng is None else rng
        most = MAX_CELLS if count_max is None else int(integer_array("count_max", count_max, (), 0, 2**62))
        used = [type_ for type_ in range(3) if TYPES[type_] in self.params.board_types]
        tables = {type_: self.table(type_, split) for type_ in used}
        counts = {type_: min(len(table), most) for type_, table in tables.items()}
        self.check_cells(sum(counts.values()), "count_max")
        rows = {type_: table.take(distinct(rng, 1, len(table), counts[type_])[0])
                for type_, table in tables.items()}
        return self._assemble(np.repeat(used, list(counts.values())), rows, rng)

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
        """A board (h, w), int64, drawn at random. IndexError unless i is below len, to end iteration."""
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} is out of range for a data set of {len(self)} boards.")
        return self.sample(1).boards[0]

    def table(self, type_: int, split: str, needed: bool = False) -> RowTable:
        """The rows of a type in a split, or all without splits. needed: ValueError if there are none."""
        table = (
            RowTable(self.params.families[type_])
            if self.sets is None
            else self.sets[f"{FAMILIES[type_]}_{split}"]
        )
        if needed and not len(table):
            where = "this data set" if self.sets is None else f"the {split} split"
            raise ValueError(f"there are no {TYPES[type_]!r} boards in {where}; give them probability 0.")
        return table

    def holds(self, split: str) -> bool:
        """Whether the data set has splits and boards in this one."""
        return any(len(table) for name, table in (self.sets or {}).items() if name.endswith(f"_{split}"))

    def _generator(self) -> np.random.Generator:
        """This process's random generator: `rng`, or in a worker of a DataLoader one of its own, so that
        workers draw different boards. The loader's `generator` decides the worker's seed."""
        info = torch.utils.data.get_worker_info()
        if info is None:
            return self.rng
        if self._worker is None or self._worker[0] != info.seed:
            self._worker = info.seed, numpy_rng(self.params.seed, WORKERS, info.seed)
        return self._worker[1]

    def check_cells(self, n: int, name: str) -> None:
        """ValueError, naming the number n of boards, if these are too large for one array."""
        if n * self.params.board_dim**2 > MAX_CELLS:
            raise ValueError(f"{name} must keep boards below {MAX_CELLS} cells in all, not {n} boards of "
                             f"{self.params.board_dim**2}.")

    def _assemble(self, types: np.ndarray, rows: dict[int, np.ndarray], rng) -> Boards:
        """Boards of the given types (n,); those of each type show its rows, in order."""
        n, h = len(types), self.params.board_dim
        m = max((1, 2, self.params.comp_dim**2)[type_] for type_ in rows)
        out = Boards(
            boards=np.empty((n, h, h), np.int64), types=types, slots=np.empty((n, h, h), np.int64),
            objects=np.full((n, m, 3), -1), composites=np.full(n, -1), backgrounds=np.empty(n, np.int64))
        for type_, chosen in rows.items():
            if len(chosen):
                where = np.flatnonzero(types == type_)
                root, row, col, bck = self.objects(type_, chosen)
                out.boards[where], out.slots[where] = self.draw_objects(root, row, col, bck, root, rng)
                there = (root >= 0)[..., None]
                out.objects[where, : root.shape[1]] = np.where(there, np.stack([root, row, col], -1), -1)
                out.composites[where], out.backgrounds[where] = chosen[:, 0] if type_ == 2 else -1, bck
        return out

    # Drawing

    def objects(self, type_: int, rows: np.ndarray, margin: int | None = None) -> tuple[np.ndarray, ...]:
        """Rows (k, width) of a type -> root (-1: none), row, column of each object (k, m), background (k,).
        margin: the gap between the roots of a composite; None: comp_margin."""
        return objects.objects_of(self.params, self.compositions, type_, rows, margin)

    def draw_objects(self, root, row, col, bck, labels, rng) -> tuple[np.ndarray, np.ndarray]:
        """Draws objects, later ones over the whole footprint of earlier ones -> boards (n, h, w), slots
        (n, h, w).

        root (-1: none), row, col (n, m); bck (n,); labels (n, m): what slots holds for each object.
        """
        n, h = len(bck), self.params.board_dim
        boards, slots = np.repeat(bck, h * h), np.full(n * h * h, -1)
        for j, there, cells in objects.footprints(self.params, root, row, col):
            tokens = objects.random_tokens(self.roots[root[there, j]], rng)
            cells = there[:, None] * (h * h) + cells
            boards[cells] = np.where(tokens < 0, bck[there, None], tokens)  # holes show background
            slots[cells] = labels[there, j, None]
        return boards.reshape(n, h, h), slots.reshape(n, h, h)

    def draw(self, roots=None, positions=None, composite: int | None = None, composite_position=None,
             composite_margin: int | None = None, background: int | None = None):
        """The board (h, w) that shows the named objects, and its slots (h, w).

        roots (n,) at positions (n, 2), each (row, column), later ones on top; slots holds the position in
        roots (0, 1, ...). Or a composite at composite_position (2,), its roots composite_margin apart (None:
        comp_margin); slots holds root indices. Whatever is None is drawn at random; without roots and
        composite, one root is.
        """
        if composite is None and composite_position is None:
            return self._draw_roots(roots, positions, background)
        if roots is not None or positions is not None:
            raise ValueError("roots and positions cannot be given together with a composite.")
        margin = self.params.comp_margin if composite_margin is None else composite_margin
        return self._draw_composite(composite, composite_position, margin, background)

    def _draw_board(self, board_type: int | str) -> tuple[np.ndarray, np.ndarray]:
        """A random board (h, w) of a type, 0, 1, 2 or its name, from the split set_type, and its slots
        (h, w)."""
        if isinstance(board_type, str):
            board_type = TYPES.index(check_choice("board_type", board_type, TYPES))
        type_, rng = int(integer_array("board_type", board_type, (), 0, 2)), self._generator()
        table = self.table(type_, self.set_type, needed=True)
        drawn = self._assemble(np.array([type_]), {type_: table.take(rng.integers(len(table), size=1))}, rng)
        return drawn.boards[0], drawn.slots[0]

    def _draw_board_deterministic(
        self, mode: str = "root", root_abstractions=(0,), root_positions=None, composite: int | None = None,
        composite_position=None, composite_margin: int = 0, token_bck: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """`draw` by the names of the official program; mode 'root' or 'composite' says which objects. If the
        first of root_abstractions is -1, all of them are drawn at random."""
        if check_choice("mode", mode, ("root", "composite")) == "root":
            return self._draw_roots(root_abstractions, root_positions, token_bck,
                                    ("root_abstractions", "root_positions", "token_bck"))
        return self._draw_composite(composite, composite_position, composite_margin, token_bck, "token_bck")

    def _draw_roots(self, roots, positions, background, names=("roots", "positions", "background")):
        """`draw` for roots. names: what error messages call the arguments."""
        p, rng = self.params, self._generator()
        bck = np.reshape(self._given(names[2], background, (), p.vocab_bck), 1)
        roots = -1 if roots is None else roots
        roots = [roots] if isinstance(roots, numbers.Integral) else roots
        roots = integer_array(names[0], roots, (None,), -1, p.abs_n - 1)
        if not len(roots):
            raise ValueError(f"{names[0]} must name at least one root.")
        n = len(roots)
        roots = self._given(names[0], None if roots[0] == -1 else roots, (n,), p.abs_n)
        positions = objects.random_positions(p, n, rng) if positions is None else positions
        row, col = self._given(names[1], positions, (n, 2), p.places).T
        boards, slots = self.draw_objects(roots[None], row[None], col[None], bck, np.arange(n)[None], rng)
        return boards[0], slots[0]

    def _given(self, name: str, values, shape: tuple[int, ...], end: int) -> np.ndarray:
        """values as integers from 0 to end - 1; random ones for None."""
        if values is None:
            return self._generator().integers(end, size=shape)
        return integer_array(name, values, shape, 0, end - 1)

    def _draw_composite(self, composite, position, margin, background, background_name="background"):
        """`draw` for a composite."""
        p = self.params
        bck = np.reshape(self._given(background_name, background, (), p.vocab_bck), 1)
        margin = int(integer_array("composite_margin", margin, (), 0, p.board_dim))
        places = p.board_dim - p.comp_dim * p.abs_dim - (p.comp_dim - 1) * margin + 1
        if places < 1:
            raise ValueError(
                f"composite_margin = {margin} makes composites larger than board_dim = {p.board_dim}."
            )
        index = self._given("composite", composite, (), p.comp_n)
        row, col = self._given("composite_position", position, (2,), places)
        root, row, col, _ = self.objects(2, np.array([[index, row, col, bck[0]]]), margin)
        boards, slots = self.draw_objects(root, row, col, bck, root, self._generator())
        return boards[0], slots[0]

    # Masking

    def mask(self, boards, p: float, patch_p: float = 0.0, types=None, corners=None,
             rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Which cells of boards (n, h, w) to hide -> (mask (n, h, w) bool, kinds (n,) int).

        Each cell is hidden with probability p. With probability patch_p a board also loses a patch: a
        composite board the footprint of one of its roots, any other board a d x d window; all are equally
        likely. kinds: 0 no patch, 1 a patch on a root board, 3 one on a composite. types (n,) and corners
        (n, m, 2) are those of `Boards`. Without them, a board with more than 2 * abs_c object tokens counts
        as a composite's, and its roots are found by comparing it with all composites.
        """
        boards, h = np.asarray(boards), self.params.board_dim
        check_shape("boards", boards, (None, h, h))
        check_numbers(p=p, patch_p=patch_p)
        rng = self._generator() if rng is None else rng
        hidden, kinds = rng.random(boards.shape) < p, np.zeros(len(boards), np.int64)
        if not patch_p:
            return hidden, kinds

        where = np.flatnonzero(rng.random(len(boards)) < patch_p)
        if types is None or corners is None:
            corners = masking.find_corners(self.params, self.roots, self.compositions, boards[where])
        else:
            corners = np.asarray(corners)[where]
        types = None if types is None else np.asarray(types)[where]
        cells, composite = masking.patches(self.params, boards[where], types, corners, rng)
        hidden[where] |= cells
        kinds[where] = np.where(composite, 3, 1)
        return hidden, kinds

    # The ideal observer, who knows all objects and how boards are drawn

    @property
    def observer(self) -> ideal_observer.Observer:
        """The ideal observer of this data set."""
        return ideal_observer.Observer(self.params, self.roots, self.compositions)

    def posterior(self, masked, proba=None) -> np.ndarray:
        """(n, h, w, V) probability of each token in each cell of masked boards (n, h, w), hidden cells UNK,
        given the visible cells. All zero for a board that no board of the data set fits."""
        return self.observer.posterior(masked, proba)

    def hypotheses(self, masked_board, proba=None) -> ideal_observer.Hypotheses:
        """The rows that could have drawn a masked board (h, w), with their probabilities."""
        return self.observer.hypotheses(masked_board, proba)

    def best_reconstruction(self, masked_boards, proba=None) -> ideal_observer.Reconstruction:
        """The most probable reconstruction of masked boards (n, h, w): the ceiling for any network."""
        return self.observer.best_reconstruction(masked_boards, proba)

    def covering(self, objects: np.ndarray) -> np.ndarray:
        """Which object, and which of its cells, covers each cell; see `ideal_observer.covering`."""
        return ideal_observer.covering(self.params, objects)

    # Showing

    def render_board(
        self, board, board_abs=None, mask=None, figsize=(10, 10), label_size=(8, 0.2), save_path=None
    ):
        """Draws a board (h, w): a colour for each token, its number where board_abs (h, w) >= 0, grid lines,
        cells with mask 1 shaded. board_abs and mask may be None. Saves the figure if given save_path, and
        returns it.

        label_size: the numbers' size in points; its second value is accepted for old calls.
        """
        side = (self.params.board_dim,) * 2
        for name, cells in (("board_abs", board_abs), ("mask", mask)):
            if cells is not None:
                check_shape(name, np.asarray(cells), side)
        board = integer_array("board", board, side, 0, self.masking_token)
        figure, axes = new_figure(1, 1, figsize)
        numbers = None if board_abs is None else np.asarray(board_abs) >= 0
        colors = token_colors(self.params.vocab_bck, self.params.vocab_token)
        draw_board(axes[0, 0], board, colors, numbers, mask, font=label_size[0])
        if save_path is not None:
            path = Path(save_path).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
        return figure

    def render_boards(self, boards, masks=None, titles=(), wrong=None, columns=6, size=1.8):
        """Draws boards (n, h, w) of any h and w side by side, `columns` in a row, each `size` inches wide: a
        colour for each token, numbers on object tokens, cells hatched that are UNK or have masks (n, h, w) 1,
        cells crossed out where wrong (n, h, w) is true. titles: one for each board. Returns the figure."""
        boards = integer_array("boards", boards, (None, None, None), 0, self.masking_token)
        masks, wrong = (np.zeros(boards.shape, bool) if cells is None else np.asarray(cells, bool)
                        for cells in (masks, wrong))
        check_shape("masks", masks, boards.shape)
        check_shape("wrong", wrong, boards.shape)
        colors = token_colors(self.params.vocab_bck, self.params.vocab_token)
        numbers = masking.object_tokens(self.params, boards)
        masks = masks | (boards == self.masking_token)
        return draw_boards(boards, colors, numbers, masks, wrong, titles, columns, size)

    def whoamI(self) -> None:
        """Prints the parameters, the roots, the compositions and the sizes of the splits."""
        print_dict(self.params.as_dict())
        print(f"set_type: {self.set_type}")
        roots = self.roots.squeeze(-1) if self.params.abs_w_m == 1 else self.roots
        print(f"roots:\n{roots}\ncompositions:\n{self.compositions}")
        print_dict({"sets": self.sets and {name: table.shape for name, table in self.sets.items()}})

    # Files

    def export(self, filename: str | Path) -> None:
        """Writes <filename>.json and, beside it, the arrays; missing folders are created. See
        parts/boards/files.py."""
        files.write_export(filename, self)

    def load(self, filename: str | Path) -> None:
        """Becomes the data set of an export, with or without '.json', in this or the official program's
        format.

        An official file has no seed, so this data set keeps its own, and its twins may be in different
        splits, so keep_twins becomes False. ValueError names a file that is missing, cut off or inconsistent,
        and then nothing changes.
        """
        self.__dict__.update(files.read_export(filename, self.params.seed), _worker=None)
