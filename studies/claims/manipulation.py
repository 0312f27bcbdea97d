"""Claim: precise manipulations show that the abstractions drive the network's decisions.

Measure: the visible cells of an object get the activations that a donor board, with another root there, has
in the same cells at one stage. It succeeds on a board where every hidden cell in which the two roots differ
then shows the donor's token; none of these cells is edited. A second method adds the difference of the two
roots' mean activations instead.
Upper bound: the donor's tokens in the input.
Controls: a third root's activations; the donor's at permuted places; noise of the same covariance; the same
root's from another board; nothing; the donor's in an untrained network.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from module_dataset import TYPES, AbstractionDataset
from studies.claims.networks import Network
from studies.claims.sample import Sample
from studies.claims.scores import DRAWS, Table, judge, ratio, resample, spread
from studies.claims.swaps import Swaps, swaps_of

TABLE = Table(
    "manipulation", "precise manipulations show that they drive its decisions",
    "share of boards with exact success",
    "Share of boards on which every hidden cell where two roots differ shows the donor's token when the "
    "visible cells of the object get the donor's activations; no cell looked at is edited. Upper bound: "
    "the donor's tokens in the input. Moved: (patched - clean) / (donor - clean) of the two tokens' logit "
    "difference. Collateral: cells elsewhere that change.")
METHODS = SWAP, DIFFERENCE = "swap", "difference of class means"


def measure(network: Network, fresh: Network, dataset: AbstractionDataset, types: Iterable[int],
            means: dict[str, np.ndarray], rng: np.random.Generator, count: int = 200, draws: int = DRAWS,
            bar: Callable = iter) -> list[dict]:
    """Rows on swaps of the root of single boards and of the first root of double ones. fresh: the untrained
    network. types: the board types in use. means: as `class_means` makes them."""
    rows = []
    for type_ in bar([type_ for type_ in (0, 1) if type_ in types]):
        swaps = swaps_of(dataset, type_, count, rng)
        if swaps is not None:
            where = f"{TYPES[type_]} boards"
            rows += swap_rows(network, swaps, TABLE.name, where, rng, draws, means, fresh=fresh)
    return rows


def class_means(sample: Sample, sources: dict[str, np.ndarray], editable: Sequence[str],
                dataset: AbstractionDataset, types: Sequence[int] = (0, 1, 2)) -> dict[str, np.ndarray]:
    """{stage: (roots * d * d, D)}: mean activation of a visible cell of each root at each place of its
    footprint, over the boards to fit on of the given types. sources {stage: (n, T, D)}."""
    d2, fit = dataset.params.abs_dim**2, slice(sample.n_fit)
    root, place = sample.labels["root"][fit], sample.labels["place in the root"][fit]
    use = (root >= 0) & ~sample.hidden[fit] & np.isin(sample.scenes.types[fit], types)[:, None]
    kind = (root * d2 + place)[use]
    member = np.eye(dataset.params.abs_n * d2, dtype=np.float32)[kind].T
    counts = np.maximum(member.sum(1, keepdims=True), 1)
    return {stage: member @ sources[stage][fit][use] / counts for stage in editable}


class Trial:
    """What a network does with swaps before anything is patched, and how a patched pass is scored."""

    def __init__(self, network: Network, swaps: Swaps, W: np.ndarray, given: np.ndarray | None = None):
        self.swaps, self.W = swaps, W
        self.at = np.arange(len(swaps.rows))[:, None]
        self.board, self.place = np.nonzero(swaps.edit)
        self.edited_cells = swaps.cells[self.board, self.place]
        self.edited = np.zeros(swaps.base.shape, bool)
        self.edited[self.board, self.edited_cells] = True
        tokens, stages = swaps.tokens, network.editable
        self.clean, base = network.run(tokens["base"], stages)
        self.wanted, _ = network.run(tokens["donor"])
        donor = tokens["donor"] if given is None else given
        self.acts = {"base": base}  # {whose: {stage: (n, T, D)}}
        for who, shown in (("third", tokens["third"]), ("same", tokens["same"]), ("donor", donor)):
            self.acts[who] = network.run(shown, stages)[1]

    def of_object(self, who: str, stage: str) -> np.ndarray:
        """Activations (n, c, D) of the cells that may be edited, of base, donor, third or same."""
        cells = self.swaps.same_cells if who == "same" else self.swaps.cells
        return self.acts[who][stage][self.at, cells]

    def patched(self, network: Network, stage: str, base: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Logits of the base's tokens when the edited cells of base (n, T, D) become values (n, c, D)."""
        acts = base.copy()
        acts[self.board, self.edited_cells] = values[self.board, self.place]
        return network.run(self.swaps.tokens["base"], (), (stage, acts, self.edited))[0]

    def success(self, logits: np.ndarray, board: np.ndarray) -> np.ndarray:
        """Score of boards whose cells to be read all show the tokens of board (n, T)."""
        return ratio(((logits.argmax(-1) == board) | ~self.swaps.read).all(1), 1, self.W)

    def moved(self, logits: np.ndarray) -> np.ndarray:
        """Score of how far logits have moved, from the clean ones (0) to those of the donor's tokens (1)."""
        clean = self._difference(self.clean)
        return ratio(self._difference(logits) - clean, self._difference(self.wanted) - clean, self.W)

    def collateral(self, logits: np.ndarray) -> float:
        """Share of cells away from the object that show another token than in the clean pass."""
        changed = (logits.argmax(-1) != self.clean.argmax(-1)) & self.swaps.away
        return ratio(changed.sum(1), self.swaps.away.sum(1), self.W)[0]

    def _difference(self, logits: np.ndarray) -> np.ndarray:
        """(n,) logit of the donor's token minus that of the base's, over the cells to be read."""
        donor = np.take_along_axis(logits, self.swaps.donor[..., None], 2)[..., 0]
        base = np.take_along_axis(logits, self.swaps.base[..., None], 2)[..., 0]
        return np.where(self.swaps.read, donor - base, 0).sum(1)


def swap_rows(network: Network, swaps: Swaps, table: str, where: str, rng: np.random.Generator,
              draws: int = DRAWS, means: dict[str, np.ndarray] | None = None, given: np.ndarray | None = None,
              fresh: Network | None = None, counts: Sequence[str] = (SWAP,)) -> list[dict]:
    """Rows on what giving a board the donor's activations at one stage does to cells that were not edited.

    where: said in the rows' names. means {stage: (roots * d * d, D)}: class means, for the second method.
    given: other tokens (n, T) to take the donor's activations from. fresh: the untrained network. counts: the
    methods that count.
    """
    trial = Trial(network, swaps, resample(swaps.base, rng, draws), given)
    rows = []
    for stage in network.editable:
        patches = _patches(trial, stage, rng)
        if means is not None:
            to, away_from = (means[stage][swaps.kinds[who]] for who in ("donor", "base"))
            patches[DIFFERENCE] = trial.of_object("base", stage) + to - away_from
        base = trial.acts["base"][stage]
        made = {name: trial.patched(network, stage, base, values) for name, values in patches.items()}
        controls = _controls(trial, made, stage, fresh)
        for method in METHODS:
            if method in made:
                feature = f"{method}, {where}, {stage}"
                rows.append(_row(trial, made, method, controls, table, feature, stage, method in counts))
    return rows


def _patches(trial: Trial, stage: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """{method: (n, c, D)} what the edited cells get: the swap and its controls."""
    edit = trial.swaps.edit
    base, donor = trial.of_object("base", stage), trial.of_object("donor", stage)
    noise = _noise(base, edit, rng)
    return {SWAP: donor, "a third root": trial.of_object("third", stage),
            "permuted places": _permuted(donor, edit, rng), "noise": noise,
            "the same root": trial.of_object("same", stage)}


def _noise(acts: np.ndarray, edit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise (n, c, D) with the mean and covariance of activations (n, c, D) in the edited places (n,
    c)."""
    cloud = acts[edit]
    mean = cloud.mean(0)
    _, width, axes = np.linalg.svd(cloud - mean, full_matrices=False)
    noise = rng.standard_normal((*edit.shape, len(width))) * width / np.sqrt(max(len(cloud) - 1, 1)) @ axes
    return (noise + mean).astype(acts.dtype)


def _permuted(acts: np.ndarray, edit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Activations (n, c, D) with the edited places (n, c) of each board shuffled among themselves."""
    # in both orders the edited places come first
    shuffled = np.where(edit, rng.random(edit.shape), 2).argsort(1)
    in_order = (~edit).argsort(1, kind="stable")
    permuted = acts.copy()
    np.put_along_axis(permuted, in_order[..., None], np.take_along_axis(acts, shuffled[..., None], 1), 1)
    return permuted


def _controls(trial: Trial, made: dict[str, np.ndarray], stage: str,
              fresh: Network | None) -> dict[str, np.ndarray]:
    """{control: score of success} of the logits made by each patch, of nothing, and of the swap in an
    untrained network."""
    donor = trial.swaps.donor
    controls = {name: trial.success(logits, donor) for name, logits in made.items() if name not in METHODS}
    controls["nothing"] = trial.success(trial.clean, donor)
    if fresh is not None:
        base, given = (fresh.run(trial.swaps.tokens[who], [stage])[1][stage] for who in ("base", "donor"))
        logits = trial.patched(fresh, stage, base, given[trial.at, trial.swaps.cells])
        controls["untrained network"] = trial.success(logits, donor)
    return controls


def _row(trial: Trial, made: dict[str, np.ndarray], method: str, controls: dict[str, np.ndarray], table: str,
         feature: str, stage: str, counts: bool) -> dict:
    swaps, logits = trial.swaps, made[method]
    effect, upper = trial.success(logits, swaps.donor), trial.success(trial.wanted, swaps.donor)
    row = judge(table, feature, effect, controls, upper, counts, stage, boards=len(swaps.rows))
    moved_by_others = [trial.moved(other)[0] for name, other in made.items() if name not in METHODS]
    return row | spread("moved", trial.moved(logits)) | {
        "moved, strongest control": max(moved_by_others),
        "collateral": trial.collateral(logits),
        "stays": trial.success(logits, swaps.base)[0],
        "stays, tokens swapped": trial.success(trial.wanted, swaps.base)[0]}
