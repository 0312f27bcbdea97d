"""The ceiling: what an exact observer, who knows how boards are made, can know of a masked board.

Axis letters: n boards, T = h * w cells, d = abs_dim, R = places, k hypotheses, m objects, c hidden cells, V
tokens.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from parts.boards.params import TYPES, DatasetParams, footprints, objects_of, padded, weights_of
from parts.checks import integer_array, naming

MAX_LIVE = 10**7  # hypotheses about a masked board


@dataclasses.dataclass
class Hypotheses:
    """The k rows that could have made a masked board, backgrounds aside."""

    weights: np.ndarray  # (k,) posterior, sum 1
    types: np.ndarray  # (k,) 0 single, 1 double, 2 composition
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


@dataclasses.dataclass
class Pictures:
    """The distinct pictures of c hidden cells that hypotheses allow, 0 for any background."""

    tokens: np.ndarray  # (k, c)
    masses: np.ndarray  # (k,)
    shares: np.ndarray  # (c, V) each cell's own distribution over tokens


def covering(params: DatasetParams, objects: np.ndarray) -> np.ndarray:
    """Objects (k, m, 3) of root, row, column, drawn in order, root -1 none -> (k, T): for each cell the
    number of the topmost object whose footprint covers it x d * d + its place in the footprint, else -1."""
    d2 = params.abs_dim**2
    covers = np.full((len(objects), params.board_dim**2), -1, np.int32)
    for j, there, cells in footprints(params, *np.moveaxis(objects, -1, 0)):
        covers[there[:, None], cells] = j * d2 + np.arange(d2)
    return covers


class Observer:
    """Somebody who knows the objects of a data set and how its boards are made, and sees masked boards.

    roots (abs_n, d, d, abs_w_m) and compositions (comp_n, comp_dim, comp_dim) as the data set has them.
    """

    def __init__(self, params: DatasetParams, roots: np.ndarray, compositions: np.ndarray):
        self.params, self.compositions = params, compositions
        self.likely, self.options, self.ways = cell_table(params, roots)

    def hypotheses(self, masked_board, proba=None) -> Hypotheses:
        """What the visible cells of a masked board (h, w) allow, with its posterior: see `Hypotheses`.

        The prior is the weight of a board's type (proba, in the order of board_types; None:
        board_types_proba) x uniform over all rows of its family, held-out ones included. ValueError where no
        row fits, or where more than MAX_LIVE pairs of objects do.
        """
        p = self.params
        board = integer_array("masked_board", masked_board, (p.board_dim,) * 2, 0, p.masking_token)
        proba = p.board_types_proba if proba is None else weights_of(proba, p.board_types)
        sight = Sight(self, board)
        prior = dict(zip(p.board_types, proba, strict=True))
        found = []
        for type_, make in ((0, self._one_object), (2, self._one_object), (1, self._two_objects)):
            if prior.get(TYPES[type_]):
                for weights, composites, objects in make(sight, type_):
                    weights = weights * prior[TYPES[type_]] * p.vocab_bck / p.families[type_].size
                    found.append((weights, np.full(len(weights), type_), composites, objects))
        backgrounds = np.unique(board[board < p.vocab_bck])
        if len(backgrounds) > 1 or not sum(len(weights) for weights, *_ in found):
            raise ValueError("no board of this data set looks like it.")
        *same, objects = zip(*found, strict=True)
        weights, types, composites = map(np.concatenate, same)
        backgrounds = backgrounds if len(backgrounds) else np.arange(p.vocab_bck)
        return Hypotheses(weights / weights.sum(), types, composites, padded(objects), backgrounds)

    def _one_object(self, sight: Sight, type_: int) -> Iterator[tuple]:
        """(likelihoods, composites, objects) of the rows of single boards, or of composites, that fit what is
        seen."""
        family, bck_n = self.params.families[type_], self.params.vocab_bck
        rows = family.unrank(np.arange(0, family.size, bck_n))
        root, row, col, _ = objects_of(self.params, self.compositions, type_, rows)
        weights = np.where(root < 0, 1, sight.fit[root, row, col]).prod(1)
        explained = np.where(root < 0, 0, sight.count[row, col]).sum(1) == sight.total
        k = np.flatnonzero((weights > 0) & explained)
        composites = rows[k, 0] if type_ == 2 else np.full(len(k), -1)
        yield weights[k], composites, np.stack([root[k], row[k], col[k]], axis=-1)

    def _two_objects(self, sight: Sight, type_: int) -> Iterator[tuple]:
        """As _one_object, of double boards: first those whose footprints are apart, then, for each shift
        between the two, those of which the second covers a part of the first."""
        over = np.argwhere(sight.fit)  # objects that nothing covers, (k, 3)
        yield self._apart(sight, over)
        d = self.params.abs_dim
        for y, x in np.argwhere(np.ones((2 * d - 1, 2 * d - 1))) - d + 1 if self.params.allow_overlap else ():
            if y and x and len(under := self._inside(over, y, x)):
                yield self._overlapping(sight, over[under], y, x)

    def _apart(self, sight: Sight, over: np.ndarray) -> tuple:
        """Pairs of the objects over (k, 3) that are seen whole and explain all that is seen."""
        d, (root, row, col) = self.params.abs_dim, over.T
        weights, there = sight.fit[root, row, col], sight.count[row, col]
        sizes = np.bincount(there, minlength=sight.total + 1)[: sight.total + 1]
        if sizes @ sizes[::-1] > MAX_LIVE:
            raise ValueError(f"it leaves {sizes @ sizes[::-1]} pairs of objects, more than {MAX_LIVE}.")
        down, right = (abs(x[:, None] - x) for x in (row, col))
        apart = (down >= d) | (right >= d)
        if self.params.allow_overlap:
            apart &= (down > 0) & (right > 0)
        pairs = np.argwhere(apart & (there[:, None] + there == sight.total))
        return weights[pairs].prod(1), np.full(len(pairs), -1), over[pairs]

    def _inside(self, over: np.ndarray, y: int, x: int) -> np.ndarray:
        """Which of the objects over (k, 3) can lie on one that is y rows and x columns away, on the same
        board."""
        row, col = over[:, 1] + y, over[:, 2] + x
        return np.flatnonzero((np.minimum(row, col) >= 0) & (np.maximum(row, col) < self.params.places))

    def _overlapping(self, sight: Sight, over: np.ndarray, y: int, x: int) -> tuple:
        """Pairs of an object y rows and x columns away from one of over (k, 3), covered by it in part, and
        that one."""
        d, (root, row, col) = self.params.abs_dim, over.T
        i, j = np.divmod(np.arange(d * d), d)
        free = np.flatnonzero(
            (i + y < 0) | (i + y >= d) | (j + x < 0) | (j + x >= d)
        )  # cells that are not covered
        row1, col1 = row + y, col + x
        cells = row1[:, None] + i[free], col1[:, None] + j[free]
        fit1 = sight.likely[:, i[free], j[free], sight.shown[cells]].prod(-1)  # (abs_n, k)
        explained = sight.seen[cells].sum(-1) + sight.count[row, col] == sight.total
        root1, k = np.nonzero((fit1 > 0) & explained)
        under = np.stack([root1, row1[k], col1[k]], axis=-1)
        weights = fit1[root1, k] * sight.fit[root[k], row[k], col[k]]
        return weights, np.full(len(k), -1), np.stack([under, over[k]], axis=1)

    def best_reconstruction(self, masked_boards, proba=None) -> Reconstruction:
        """The best that can be done with masked boards (n, h, w), hidden cells UNK: see `Reconstruction`.

        Prior: that of `hypotheses`. Rows that draw the same picture are summed before any arg max. ValueError
        names a board that needs more than MAX_LIVE live hypotheses, or that is none.
        """
        p, masked = self.params, np.asarray(masked_boards)
        n, h = len(masked), p.board_dim
        masked = integer_array("masked_boards", masked, (n, h, h), 0, p.masking_token)
        best, marginal, mass, consistent = masked.copy(), masked.copy(), np.ones(n), np.ones(n, np.int64)
        for b in range(n):
            hidden = np.flatnonzero(masked[b] == p.masking_token)
            with naming(f"masked_boards[{b}]"):
                found = self.hypotheses(masked[b], proba)
                pictures = self.pictures(found, hidden)
            likely = found.backgrounds
            # pictures without a background cell are one picture each, others one for each background
            copies = np.where((pictures.tokens == 0).any(1), len(likely), 1)
            top = (pictures.masses / copies).argmax()
            mass[b], consistent[b] = (pictures.masses / copies)[top], copies.sum()
            best[b].flat[hidden] = np.where(pictures.tokens[top] == 0, likely[0], pictures.tokens[top])
            shares = pictures.shares
            shares[:, likely] = shares[:, :1] / len(likely)
            shares[:, np.setdiff1d(np.arange(p.vocab_bck), likely)] = 0
            marginal[b].flat[hidden] = shares.argmax(1)
        return Reconstruction(best, mass, marginal, consistent)

    def pictures(self, found: Hypotheses, hidden: np.ndarray) -> Pictures:
        """The distinct pictures of the hidden cells (c,) that hypotheses allow."""
        T, live = self.params.board_dim**2, 0
        packed, weights, shares = [], [], np.zeros((len(hidden), len(self.likely)))
        for k in np.array_split(np.arange(len(found.weights)), len(found.weights) * T // 2**21 + 1):
            cells = self._cells_at(found.objects[k], hidden)
            for c in range(len(hidden)):
                shares[c] += np.bincount(cells[:, c], found.weights[k], len(self.likely))
            variants = self.ways[cells].prod(1, dtype=float)  # of what fuzzy cells may show
            live += variants.sum()
            if live > MAX_LIVE:
                raise ValueError(f"it leaves more than {MAX_LIVE} live hypotheses.")
            for which, tokens in self._variants(cells):
                packed.append(pack(tokens, self.params.vocab_size))
                weights.append((found.weights[k] / self.ways[cells].prod(1))[which])
        packed, weights = np.concatenate(packed), np.concatenate(weights)
        order = np.lexsort(packed.T)
        packed = packed[order]
        first = np.flatnonzero(np.r_[True, (packed[1:] != packed[:-1]).any(1)])
        tokens = unpack(packed[first], self.params.vocab_size, len(hidden))
        return Pictures(tokens, np.add.reduceat(weights[order], first), shares @ self.likely[:, :-1])

    def _cells_at(self, objects: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """Objects (k, m, 3) -> (k, c): at each hidden cell the root's cell in the table of cells, or the
        background."""
        d2 = self.params.abs_dim**2
        covers = covering(self.params, objects)[:, hidden]
        root = np.take_along_axis(objects[:, :, 0], np.maximum(covers, 0) // d2, 1)
        return np.where(covers < 0, len(self.likely) - 1, root * d2 + covers % d2)

    def _variants(self, cells: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All that cells (k, c) of the table may show, in parts: which of k, and tokens (part, c)."""
        count, T = self.ways[cells], self.params.board_dim**2
        end = count.prod(1).cumsum()  # what fuzzy cells may show is counted out
        for part in np.array_split(np.arange(end[-1]), end[-1] * T // 2**22 + 1):
            which = np.searchsorted(end, part, "right")
            radix = (count.cumprod(1) // count)[which]
            choice = (end[which] - 1 - part)[:, None] // radix % count[which]
            yield which, self.options[cells[which], choice]


class Sight:
    """What an observer sees of a masked board (h, w), and how well each root fits to each place."""

    def __init__(self, observer: Observer, board: np.ndarray):
        p, d = observer.params, observer.params.abs_dim
        self.shown = np.where(board < p.vocab_bck, 0, board)  # token 0 for every background
        self.seen = (board >= p.vocab_bck) & (board < p.masking_token)  # object tokens
        self.likely = observer.likely[:-1].reshape(p.abs_n, d, d, p.vocab_size)
        i, j = np.divmod(np.arange(d * d), d)
        window = np.lib.stride_tricks.sliding_window_view
        windows = window(self.shown, (d, d)).reshape(p.places, p.places, d * d)
        self.fit = self.likely[:, i, j, windows].prod(-1)  # (abs_n, R, R)
        self.count = window(self.seen, (d, d)).sum((-1, -2))  # (R, R) object tokens seen in each window
        self.total = self.seen.sum()


def cell_table(params: DatasetParams, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each root's cells (abs_n * d * d,), and last the background: the probability of each token (cells,
    V), what it may show (cells, abs_w_m), in how many ways (cells,); 0 for every background, and UNK for what
    is not seen."""
    none = np.full((1, params.abs_w_m), -1)
    cells = np.concatenate([roots.reshape(-1, params.abs_w_m), none])
    ways = np.maximum((cells >= 0).sum(-1), 1)
    options = np.maximum(-np.sort(-cells, axis=-1), 0)
    used = np.arange(params.abs_w_m) < ways[:, None]
    shows = (options[..., None] == np.arange(params.vocab_size)) & used[..., None]
    likely = shows.sum(1) / ways[:, None]
    likely[:, params.masking_token] = 1
    return likely, options, ways


def pack(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Tokens (k, c) as few integers each, (k, ...), so that pictures are compared exactly."""
    bits = vocab_size.bit_length()
    per = 62 // bits  # tokens in one integer
    tokens = np.pad(tokens, ((0, 0), (0, per - tokens.shape[1] % per)))
    return (tokens.reshape(len(tokens), -1, per) << bits * np.arange(per)).sum(-1)


def unpack(packed: np.ndarray, vocab_size: int, c: int) -> np.ndarray:
    """The inverse of `pack`: tokens (k, c)."""
    bits = vocab_size.bit_length()
    tokens = packed[..., None] >> bits * np.arange(62 // bits) & (1 << bits) - 1
    return tokens.reshape(len(packed), -1)[:, :c]
