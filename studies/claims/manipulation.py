"""Claim: precise manipulations show that the abstractions drive the network's decisions.

Question: does an object's hidden part become another root if the activations of its visible cells do?
Measure: the visible cells of an object get the activations that a donor board, with another root there, has
in the same cells at one stage. The swap succeeds on a board if every hidden cell in which the two roots
differ then shows the donor's token; none of these cells is edited. A second method adds the difference of the
two roots' mean activations instead.
Upper bound: the donor's tokens in the input.
Controls: a third root's activations; the donor's tokens in other roots, each cell's activations from a board
of train on which another root shows the donor's token in that cell; the donor's activations at permuted
places; noise of the same covariance; the same root's from another board; nothing; the donor's in an untrained
network.
Row: a method, on boards of a type, at a stage.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from module_dataset import TYPES, AbstractionDataset
from studies.claims.networks import Network, acts_at
from studies.claims.sample import Sample
from studies.claims.scenes import Masking
from studies.claims.scores import DRAWS, Row, Table, ratio, resample
from studies.claims.swaps import Swaps, swaps_of

TABLE = Table("manipulation", "precise manipulations show that they drive its decisions",
              "share of boards with exact success")
STORED = 2000  # boards of train whose activations are kept, at most
METHODS = SWAP, DIFFERENCE = "swap", "difference of class means"


def measure(network: Network, fresh: Network, dataset: AbstractionDataset, types: Iterable[int],
            store: Store, masking: Masking, rng: np.random.Generator, count: int = 200, draws: int = DRAWS,
            bar: Callable = iter) -> list[Row]:
    """Rows on swaps of the root of single boards and of the first root of double ones."""
    rows, means = [], store.class_means()
    for type_ in bar([type_ for type_ in (0, 1) if type_ in types]):
        swaps = swaps_of(dataset, type_, count, rng, masking=masking)
        if swaps is not None:
            where = f"{TYPES[type_]} boards"
            rows += swap_rows(network, swaps, TABLE.name, where, rng, draws, store, means, fresh=fresh)
    return rows


class Store:
    """Activations of the N visible object cells of the first boards to fit on, and what these cells are."""

    def __init__(self, network: Network, sample: Sample, dataset: AbstractionDataset):
        fit = slice(min(STORED, sample.n_fit))
        root, tokens = sample.labels["root"][fit], sample.tokens[fit]
        use = (root >= 0) & ~sample.hidden[fit]
        self.acts = acts_at(network, tokens, network.editable, use)  # {stage: (N, D)}
        board, self.cell = np.nonzero(use)  # (N,) each; the cell on the board
        self.type, self.token, self.root = sample.drawn.types[fit][board], tokens[use], root[use]
        self.n_roots, self.d2 = dataset.params.abs_n, dataset.params.abs_dim**2
        self.kind = self.root.astype(int) * self.d2 + sample.labels["place in the root"][fit][use]

    def class_means(self, types: Sequence[int] = (0, 1, 2)) -> dict[str, np.ndarray]:
        """{stage: (roots * d * d, D)}: mean of each root at each place in it, over boards of some types."""
        use = np.isin(self.type, types)
        member = np.eye(self.n_roots * self.d2, dtype=np.float32)[self.kind[use]].T
        counts = np.maximum(member.sum(1, keepdims=True), 1)
        return {stage: member @ X[use] / counts for stage, X in self.acts.items()}

    def elsewhere(self, swaps: Swaps, rng: np.random.Generator) -> np.ndarray:
        """(n, c) for each edited cell one of the N at random that shows the donor's token in the same cell of
        its board as part of a third root; -1: there is none, or the cell is not edited."""
        numbers = np.full(swaps.edit.shape, -1)
        for b, k in zip(*np.nonzero(swaps.edit), strict=True):
            cell = swaps.cells[b, k]
            some = np.flatnonzero((self.cell == cell) & (self.token == swaps.tokens["donor"][b, cell]))
            roots = [swaps.kinds[name][b, k] // self.d2 for name in ("base", "donor")]
            some = some[~np.isin(self.root[some], roots)]
            if len(some):
                numbers[b, k] = rng.choice(some)
        return numbers


class Trial:
    """A network on swaps before anything is patched, and the scores of a patched pass. names: of the boards
    whose activations are wanted."""

    def __init__(self, network: Network, swaps: Swaps, W: np.ndarray, given: np.ndarray | None = None,
                 names: Sequence[str] = ("base", "donor", "third", "same")):
        self.network, self.swaps, self.W = network, swaps, W
        self.at = np.arange(len(swaps.rows))[:, None]
        self.board, self.place = np.nonzero(swaps.edit)
        self.edited_cells = swaps.cells[self.board, self.place]
        self.edited = np.zeros(swaps.base.shape, bool)
        self.edited[self.board, self.edited_cells] = True
        tokens, stages = swaps.tokens, network.editable
        self.clean, self.base = network.run(tokens["base"], stages)  # {stage: (n, T, D)}
        self.wanted, _ = network.run(tokens["donor"])
        self.acts = {}  # {base, donor, third or same: {stage: (n, c, D)}} of the cells that may be edited
        for name in names:
            shown = tokens[name] if name != "donor" or given is None else given
            acts = self.base if name == "base" else network.run(shown, stages)[1]
            cells = swaps.same_cells if name == "same" else swaps.cells
            self.acts[name] = {stage: X[self.at, cells] for stage, X in acts.items()}

    def patched(self, stage: str, values: np.ndarray) -> np.ndarray:
        """Logits of the base's tokens when the activations of the edited cells become values (n, c, D)."""
        acts = self.base[stage].copy()
        acts[self.board, self.edited_cells] = values[self.board, self.place]
        return self.network.run(self.swaps.tokens["base"], (), {stage: (acts, self.edited)})[0]

    def success(self, logits: np.ndarray) -> np.ndarray:
        """Score of boards on which all cells to be read show the donor's tokens."""
        return ratio(((logits.argmax(-1) == self.swaps.donor) | ~self.swaps.read).all(1), 1, self.W)


def swap_rows(network: Network, swaps: Swaps, table: str, where: str, rng: np.random.Generator, draws: int,
              store: Store, means: dict[str, np.ndarray] | None = None, given: np.ndarray | None = None,
              fresh: Network | None = None, counted: Sequence[str] = (SWAP,)) -> list[Row]:
    """Rows on how the donor's activations at one stage change cells that are not edited.

    where: part of the rows' names. store: of the network, for the control of the same tokens in other roots.
    means {stage: (roots * d * d, D)}: class means, for the second method. given: other tokens (n, T) to take
    the donor's activations from. fresh: the untrained network. counted: the methods that count.
    """
    trial = Trial(network, swaps, resample(swaps.base, rng, draws), given)
    untrained = None if fresh is None else Trial(fresh, swaps, trial.W, names=["donor"])
    numbers, rows = store.elsewhere(swaps, rng), []
    for stage in network.editable:
        base, donor, third, same = (trial.acts[name][stage] for name in ("base", "donor", "third", "same"))
        noise = noise_like(base, swaps.edit, rng)
        patches = {SWAP: donor, "a third root": third, "permuted places": _permuted(donor, swaps.edit, rng),
                   "noise": noise, "the same root": same}
        if means is not None:
            to, away_from = (means[stage][swaps.kinds[name]] for name in ("donor", "base"))
            patches[DIFFERENCE] = base + to - away_from
        # a token that no other root has in this cell leaves the cell as it is
        patches["the same tokens in other roots"] = np.where(
            (numbers >= 0)[..., None], store.acts[stage][numbers], base)
        scores = {name: trial.success(trial.patched(stage, values)) for name, values in patches.items()}
        controls = {name: score for name, score in scores.items() if name not in METHODS}
        controls["nothing"] = trial.success(trial.clean)
        if untrained is not None:  # with its own activations
            own = untrained.patched(stage, untrained.acts["donor"][stage])
            controls["untrained network"] = untrained.success(own)
        rows += [Row(table, f"{method}, {where}, {stage}", scores[method], controls,
                     trial.success(trial.wanted), stage, method in counted)
                 for method in METHODS if method in scores]
    return rows


def noise_like(acts: np.ndarray, edit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise with the mean and covariance of activations (n, c, D) in the edited places (n, c)."""
    cloud = acts[edit]
    mean = cloud.mean(0)
    _, width, axes = np.linalg.svd(cloud - mean, full_matrices=False)
    noise = rng.standard_normal((*edit.shape, len(width))) * width / np.sqrt(max(len(cloud) - 1, 1)) @ axes
    return (noise + mean).astype(acts.dtype)


def _permuted(acts: np.ndarray, edit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Activations (n, c, D) with the edited places (n, c) of each board shuffled among themselves."""
    # both orders put the edited places first
    shuffled = np.where(edit, rng.random(edit.shape), 2).argsort(1)
    in_order = (~edit).argsort(1, kind="stable")
    permuted = acts.copy()
    np.put_along_axis(permuted, in_order[..., None], np.take_along_axis(acts, shuffled[..., None], 1), 1)
    return permuted
