"""The ideal (Bayes-optimal) observer: somebody who knows all objects and how boards are drawn, and sees the
same masked board as the network. No network can be right more often, so the observer's accuracy is the
ceiling.

The observer lists every row (see numbering.py) that could have drawn the visible cells, with its probability.
A row with fuzzy cells draws several pictures, and two rows may draw the same one. Backgrounds are left out
of the list: token 0 stands for all of them, as those that the visible cells allow are equally likely.

Axis letters: n boards, T = h * w cells, d = abs_dim, R = places: rows at which a root fits, k rows that are
possible, m objects, c hidden cells, V tokens.
"""
from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from parts.boards.numbering import NO_NUMBERS
from parts.boards.objects import footprints, objects_of
from parts.boards.params import TYPES, DatasetParams, padded, weights_of
from parts.checks import integer_array, naming

MAX_LIVE = 10**7  # hypotheses about a masked board; more would need too much memory


@dataclasses.dataclass
class Hypotheses:
    """The k rows that could have drawn a masked board, backgrounds aside."""

    weights: np.ndarray  # (k,) posterior probability, sum 1
    types: np.ndarray  # (k,) 0 single, 1 double, 2 composition
    composites: np.ndarray  # (k,) index or -1
    objects: np.ndarray  # (k, m, 3) root (-1: none), row, column of each object in the order they are drawn
    backgrounds: np.ndarray  # (b,) possible backgrounds, all equally likely whatever the row


@dataclasses.dataclass
class Reconstruction:
    """The best reconstruction of n masked boards."""

    board: np.ndarray  # (n, h, w) the most probable board (any of them, if several are)
    mass: np.ndarray  # (n,) its posterior probability
    marginal: np.ndarray  # (n, h, w) the most probable token of each cell by itself
    consistent: np.ndarray  # (n,) how many pictures are possible


@dataclasses.dataclass
class Pictures:
    """The distinct pictures of c hidden cells that hypotheses allow, with token 0 for any background."""

    tokens: np.ndarray  # (k, c)
    masses: np.ndarray  # (k,) posterior probability
    marginals: np.ndarray  # (c, V - 1) each cell's own distribution over tokens


def covering(params: DatasetParams, objects: np.ndarray) -> np.ndarray:
    """Objects (k, m, 3) of root, row, column in drawing order, root -1 for none -> (k, T): for each cell the
    number of the topmost object that covers it x d * d + the cell's number in its footprint, else -1."""
    d2 = params.abs_dim**2
    covers = np.full((len(objects), params.board_dim**2), -1, np.int32)
    for j, there, cells in footprints(params, *np.moveaxis(objects, -1, 0)):
        covers[there[:, None], cells] = j * d2 + np.arange(d2)
    return covers


class Observer:
    """The ideal observer of a data set with roots (abs_n, d, d, abs_w_m) and compositions (comp_n, comp_dim,
    comp_dim).

    In all methods the prior of a row is the probability of its type (proba: weights in the order of
    board_types; None: board_types_proba), divided equally among all rows of the family, held-out rows
    included: the observer does not know what is held out.
    """

    def __init__(self, params: DatasetParams, roots: np.ndarray, compositions: np.ndarray):
        self.params, self.compositions = params, compositions
        self.likely, self.options, self.ways = cell_table(params, roots)

    def hypotheses(self, masked_board, proba=None) -> Hypotheses:
        """The rows that could have drawn a masked board (h, w). ValueError if there is none, or if more than
        MAX_LIVE pairs of objects are possible."""
        board = integer_array("masked_board", masked_board, (self.params.board_dim,) * 2, 0,
                              self.params.masking_token)
        possible = self._possible(board, proba)
        if not len(possible.weights):
            raise ValueError("no board of this data set looks like it.")
        return possible

    def posterior(self, masked_boards, proba=None) -> np.ndarray:
        """As `AbstractionDataset.posterior`: (n, h, w, V) for masked boards (n, h, w)."""
        p, masked = self.params, self._checked(masked_boards)
        out = np.zeros((*masked.shape, p.vocab_size))
        for b, board in enumerate(masked):
            with naming(f"masked_boards[{b}]"):
                possible = self._possible(board, proba)
            if len(possible.weights):
                out[b] = board[..., None] == np.arange(p.vocab_size)  # visible cells are certain
                hidden = np.flatnonzero(board == p.masking_token)
                counts = np.zeros((len(hidden), len(self.likely)))
                for weights, cells in self._in_parts(possible, hidden):
                    _add_up(counts, weights, cells)
                marginals = self._marginals(counts, possible.backgrounds)
                out[b].reshape(-1, p.vocab_size)[hidden] = np.pad(marginals, ((0, 0), (0, 1)))  # never UNK
        return out

    def best_reconstruction(self, masked_boards, proba=None) -> Reconstruction:
        """The best reconstruction of masked boards (n, h, w), hidden cells UNK. ValueError names a board that
        needs more than MAX_LIVE hypotheses, or that the data set cannot have drawn."""
        p, masked = self.params, self._checked(masked_boards)
        n = len(masked)
        best, marginal, mass, consistent = masked.copy(), masked.copy(), np.ones(n), np.ones(n, np.int64)
        for b in range(n):
            hidden = np.flatnonzero(masked[b] == p.masking_token)
            with naming(f"masked_boards[{b}]"):
                pictures, backgrounds, copies = self._pictures_of(masked[b], hidden, proba)
            top = (pictures.masses / copies).argmax()
            mass[b], consistent[b] = (pictures.masses / copies)[top], copies.sum()
            tokens = pictures.tokens[top]
            best[b].flat[hidden] = np.where(tokens == 0, backgrounds[0], tokens)
            marginal[b].flat[hidden] = pictures.marginals.argmax(1)
        return Reconstruction(best, mass, marginal, consistent)

    def success(self, masked_boards, boards, proba=None) -> tuple[np.ndarray, np.ndarray]:
        """How often the observer names boards (n, h, w) exactly, from masked ones: by the most probable board
        (n,), and each cell by its most probable token (n, h, w). Equally probable answers are drawn at
        random, so these are expectations. ValueError as best_reconstruction's."""
        p, masked = self.params, self._checked(masked_boards)
        by_board, of_cells = np.zeros(len(masked)), np.ones(masked.shape)
        for b, board in enumerate(np.asarray(boards)):
            hidden = np.flatnonzero(masked[b] == p.masking_token)
            with naming(f"masked_boards[{b}]"):
                pictures, _, copies = self._pictures_of(masked[b], hidden, proba)
            truth = board.flat[hidden]
            best = _ties(pictures.masses / copies)
            right = (pictures.tokens == np.where(truth < p.vocab_bck, 0, truth)).all(1)
            by_board[b] = (best & right).any() / copies[best].sum()
            ties = _ties(pictures.marginals)
            of_cells[b].flat[hidden] = ties[np.arange(len(hidden)), truth] / ties.sum(1)
        return by_board, of_cells

    def _pictures_of(self, board: np.ndarray, hidden: np.ndarray, proba) -> tuple:
        """The pictures of a masked board's hidden cells (c,), the possible backgrounds, and how many boards
        each picture stands for (k,)."""
        possible = self.hypotheses(board, proba)
        pictures = self.pictures(possible, hidden)
        # a picture with a background cell is as many pictures as there are possible backgrounds
        copies = np.where((pictures.tokens == 0).any(1), len(possible.backgrounds), 1)
        return pictures, possible.backgrounds, copies

    def pictures(self, possible: Hypotheses, hidden: np.ndarray) -> Pictures:
        """The distinct pictures of the hidden cells (c,). Rows that draw the same picture are summed."""
        live, packed, masses = 0, [], []
        counts = np.zeros((len(hidden), len(self.likely)))
        for weights, cells in self._in_parts(possible, hidden):
            _add_up(counts, weights, cells)
            ways = self.ways[cells]
            live += ways.prod(1, dtype=float).sum()
            if live > MAX_LIVE:
                raise ValueError(f"it leaves more than {MAX_LIVE} live hypotheses.")
            for which, tokens in self._variants(cells):
                packed.append(pack(tokens, self.params.vocab_size))
                masses.append((weights / ways.prod(1))[which])
        packed, masses = np.concatenate(packed), np.concatenate(masses)
        order = np.lexsort(packed.T)  # equal pictures side by side
        packed = packed[order]
        first = np.flatnonzero(np.r_[True, (packed[1:] != packed[:-1]).any(1)])
        tokens = unpack(packed[first], self.params.vocab_size, len(hidden))
        return Pictures(tokens, np.add.reduceat(masses[order], first),
                        self._marginals(counts, possible.backgrounds))

    def _checked(self, masked_boards) -> np.ndarray:
        h = self.params.board_dim
        return integer_array("masked_boards", masked_boards, (None, h, h), 0, self.params.masking_token)

    # Which rows are possible

    def _possible(self, board: np.ndarray, proba=None) -> Hypotheses:
        """`hypotheses` of a checked board; none of them if the data set cannot have drawn it."""
        p = self.params
        proba = p.board_types_proba if proba is None else weights_of(proba, p.board_types)
        sight, backgrounds = Sight(self, board), np.unique(board[board < p.vocab_bck])
        prior = dict(zip(p.board_types, proba, strict=True))
        parts = [(np.zeros(0), NO_NUMBERS, NO_NUMBERS, np.zeros((0, 1, 3), np.int64))]
        for type_, fitting in ((0, self._one_object), (2, self._one_object), (1, self._two_objects)):
            if prior.get(TYPES[type_]) and len(backgrounds) < 2:  # no board has two
                for weights, composites, objects in fitting(sight, type_):
                    weights = weights * prior[TYPES[type_]] * p.vocab_bck / p.families[type_].size
                    parts.append((weights, np.full(len(weights), type_), composites, objects))
        *arrays, objects = zip(*parts, strict=True)
        weights, types, composites = map(np.concatenate, arrays)
        backgrounds = backgrounds if len(backgrounds) else np.arange(p.vocab_bck)
        total = weights.sum() if len(weights) else 1
        return Hypotheses(weights / total, types, composites, padded(objects), backgrounds)

    def _one_object(self, sight: Sight, type_: int) -> Iterator[tuple]:
        """(likelihoods, composites, objects) of the rows with one root or composite that fit what is seen."""
        family, bck_n = self.params.families[type_], self.params.vocab_bck
        rows = family.unrank(np.arange(0, family.size, bck_n))  # each on one background
        root, row, col, _ = objects_of(self.params, self.compositions, type_, rows)
        weights = np.where(root < 0, 1, sight.fit[root, row, col]).prod(1)
        explained = np.where(root < 0, 0, sight.count[row, col]).sum(1) == sight.total
        k = np.flatnonzero((weights > 0) & explained)
        composites = rows[k, 0] if type_ == 2 else np.full(len(k), -1)
        yield weights[k], composites, np.stack([root[k], row[k], col[k]], axis=-1)

    def _two_objects(self, sight: Sight, type_: int) -> Iterator[tuple]:
        """As _one_object, of double boards: first those whose footprints do not overlap, then, for each
        distance between the two, those of which the second covers a part of the first."""
        over = np.argwhere(sight.fit)  # (k, 3) root, row, column of objects that fit, covered by nothing
        yield self._apart(sight, over)
        d = self.params.abs_dim
        for y, x in itertools.product(range(1 - d, d), repeat=2) if self.params.allow_overlap else ():
            if y and x:  # no two objects share a row or column
                yield self._overlapping(sight, over, y, x)

    def _apart(self, sight: Sight, over: np.ndarray) -> tuple:
        """Pairs of the objects over (k, 3) that do not overlap and together explain all that is seen."""
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

    def _overlapping(self, sight: Sight, over: np.ndarray, y: int, x: int) -> tuple:
        """Pairs of one of the objects over (k, 3) and one y rows and x columns away, partly covered by it."""
        d, at = self.params.abs_dim, over[:, 1:] + [y, x]
        over = over[((at >= 0) & (at < self.params.places)).all(1)]  # both are on the board
        root, row, col = over.T
        i, j = np.divmod(np.arange(d * d), d)
        # cells of the lower object that are not covered
        free = np.flatnonzero((i + y < 0) | (i + y >= d) | (j + x < 0) | (j + x >= d))
        row1, col1 = row + y, col + x
        cells = row1[:, None] + i[free], col1[:, None] + j[free]
        fit1 = sight.likely[:, i[free], j[free], sight.shown[cells]].prod(-1)  # (abs_n, k)
        explained = sight.seen[cells].sum(-1) + sight.count[row, col] == sight.total
        root1, k = np.nonzero((fit1 > 0) & explained)
        under = np.stack([root1, row1[k], col1[k]], axis=-1)
        weights = fit1[root1, k] * sight.fit[root[k], row[k], col[k]]
        return weights, np.full(len(k), -1), np.stack([under, over[k]], axis=1)

    # What hidden cells may show

    def _in_parts(self, possible: Hypotheses, hidden: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Hypotheses in parts that fit into memory: weights (k,), and at each hidden cell (k, c) the root's
        cell in the table of cells, or the background."""
        T, d2 = self.params.board_dim**2, self.params.abs_dim**2
        for k in np.array_split(np.arange(len(possible.weights)), len(possible.weights) * T // 2**21 + 1):
            objects = possible.objects[k]
            covers = covering(self.params, objects)[:, hidden]
            root = np.take_along_axis(objects[:, :, 0], np.maximum(covers, 0) // d2, 1)
            background = len(self.likely) - 1  # the last row of the table
            yield possible.weights[k], np.where(covers < 0, background, root * d2 + covers % d2)

    def _marginals(self, counts: np.ndarray, backgrounds: np.ndarray) -> np.ndarray:
        """Counts (c, cells of the table) -> each cell's own distribution over tokens (c, V - 1)."""
        marginals = counts @ self.likely[:, :-1]
        marginals[:, backgrounds] = marginals[:, :1] / len(backgrounds)  # token 0 stood for all of them
        marginals[:, np.setdiff1d(np.arange(self.params.vocab_bck), backgrounds)] = 0
        return marginals

    def _variants(self, cells: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All that cells (k, c) of the table may show, in parts: which of k, and tokens (part, c)."""
        count, T = self.ways[cells], self.params.board_dim**2
        end = count.prod(1).cumsum()  # variants are numbered; each digit of a number chooses a cell's token
        for part in np.array_split(np.arange(end[-1]), end[-1] * T // 2**22 + 1):
            which = np.searchsorted(end, part, "right")
            radix = (count.cumprod(1) // count)[which]
            choice = (end[which] - 1 - part)[:, None] // radix % count[which]
            yield which, self.options[cells[which], choice]


def _ties(probabilities: np.ndarray) -> np.ndarray:
    """Which probabilities (..., k) are the highest of their row, up to rounding."""
    return probabilities >= probabilities.max(-1, keepdims=True) * (1 - 1e-9)


class Sight:
    """What an observer sees of a masked board (h, w), and how well each root fits at each position."""

    def __init__(self, observer: Observer, board: np.ndarray):
        p, d = observer.params, observer.params.abs_dim
        self.shown = np.where(board < p.vocab_bck, 0, board)  # token 0 for every background
        self.seen = (board >= p.vocab_bck) & (board < p.masking_token)  # object tokens
        self.likely = observer.likely[:-1].reshape(p.abs_n, d, d, p.vocab_size)
        i, j = np.divmod(np.arange(d * d), d)
        window = np.lib.stride_tricks.sliding_window_view
        windows = window(self.shown, (d, d)).reshape(p.places, p.places, d * d)
        self.fit = self.likely[:, i, j, windows].prod(-1)  # (abs_n, R, R) probability of what is seen there
        self.count = window(self.seen, (d, d)).sum((-1, -2))  # (R, R) object tokens seen in each window
        self.total = self.seen.sum()  # the objects of a row must explain all of them


def cell_table(params: DatasetParams, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A table of each root's cells (abs_n * d * d,) and, last, the background: the probability of each token
    (cells, V), the tokens a cell may show (cells, abs_w_m), and how many these are (cells,).

    Token 0 stands for every background. UNK has probability 1: a hidden cell fits everything.
    """
    none = np.full((1, params.abs_w_m), -1)
    cells = np.concatenate([roots.reshape(-1, params.abs_w_m), none])
    ways = np.maximum((cells >= 0).sum(-1), 1)
    options = np.maximum(-np.sort(-cells, axis=-1), 0)
    used = np.arange(params.abs_w_m) < ways[:, None]
    shows = (options[..., None] == np.arange(params.vocab_size)) & used[..., None]
    likely = shows.sum(1) / ways[:, None]
    likely[:, params.masking_token] = 1
    return likely, options, ways


def _add_up(counts: np.ndarray, weights: np.ndarray, cells: np.ndarray) -> None:
    """Adds the weights (k,) of cells (k, c) of the table to counts (c, cells of the table)."""
    for c in range(len(counts)):
        counts[c] += np.bincount(cells[:, c], weights, counts.shape[1])


def pack(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Tokens (k, c) as few integers each, (k, ...), so that pictures are compared exactly and fast."""
    bits = vocab_size.bit_length()
    per = 62 // bits  # tokens in one integer
    tokens = np.pad(tokens, ((0, 0), (0, per - tokens.shape[1] % per)))
    return (tokens.reshape(len(tokens), -1, per) << bits * np.arange(per)).sum(-1)


def unpack(packed: np.ndarray, vocab_size: int, c: int) -> np.ndarray:
    """The inverse of `pack`: tokens (k, c)."""
    bits = vocab_size.bit_length()
    tokens = packed[..., None] >> bits * np.arange(62 // bits) & (1 << bits) - 1
    return tokens.reshape(len(packed), -1)[:, :c]
