"""Claim: the abstractions are compositional, independent of context, part and whole.

Question: do codes of objects learnt on single boards serve on others, and do parts determine the whole?
Measure: four things. Read-outs of a root learnt on single boards and tried on others (`generalisation` has
the method). Activations taken from a single board and given to a double one. The hidden root of a composite,
filled in from its other roots, against the best possible: wholly hidden, as a patch hides it in training, so
that the mask shows where it is, and with one of its cells shown. The wholly hidden root when the visible
constituents are swapped for another composite's.
Controls: those of the read-outs and of the swaps; for the hidden root an untrained network and the root most
frequent there.
Row: a read-out, a swap at a stage, or the hidden root.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from module_dataset import AbstractionDataset
from studies.claims.manipulation import DIFFERENCE, SWAP, Store, swap_rows
from studies.claims.networks import Network
from studies.claims.scenes import Masking
from studies.claims.scores import DRAWS, Row, Table, ratio, resample
from studies.claims.swaps import Swaps, swaps_of

TABLE = Table("composition", "they are compositional: independent of context, part and whole",
              "skill or exact success")


def measure(network: Network, fresh: Network, dataset: AbstractionDataset, types: Iterable[int],
            proba: Sequence[float], store: Store, masking: Masking, rng: np.random.Generator,
            count: int = 200, draws: int = DRAWS) -> list[Row]:
    """Rows on whether codes are compositional. store: of the network."""
    rows = []
    if 0 in types and 1 in types:
        swaps = swaps_of(dataset, 1, count, rng, masking=masking)
        if swaps is not None:
            where = "from single boards into double ones"
            rows += swap_rows(network, swaps, TABLE.name, where, rng, draws, store, store.class_means([0]),
                              alone(dataset, swaps), counted=(SWAP, DIFFERENCE))
    if 2 in types:
        for one_shown in (False, True):
            swaps = swaps_of(dataset, 2, count, rng, one_shown)
            if swaps is not None:
                rows.append(part_whole(network, fresh, dataset, swaps, proba, rng, draws, one_shown))
        swaps = swaps_of(dataset, 2, count, rng)
        if swaps is not None:
            visible = dataset.params.comp_c - 1
            where = f"{visible} of {visible} visible constituents of a composite"
            rows += swap_rows(network, swaps, TABLE.name, where, rng, draws, store, fresh=fresh)
    return rows


def alone(dataset: AbstractionDataset, swaps: Swaps) -> np.ndarray:
    """The donor's tokens (n, T) with the swapped object alone: every other visible cell is background."""
    donor = swaps.tokens["donor"]
    elsewhere = swaps.away & (donor != dataset.masking_token)
    background = (swaps.base[..., None] == np.arange(dataset.params.vocab_bck)).sum(1).argmax(1)
    return np.where(elsewhere, background[:, None], donor)


def part_whole(network: Network, fresh: Network, dataset: AbstractionDataset, swaps: Swaps,
               proba: Sequence[float], rng: np.random.Generator, draws: int = DRAWS,
               one_shown: bool = False) -> Row:
    """The row on the hidden root of held-out composites. one_shown: whether one of its cells is visible."""
    tokens, n, side = swaps.tokens["base"], len(swaps.rows), dataset.params.board_dim
    hidden, W = tokens == dataset.masking_token, resample(swaps.base, rng, draws)

    def exact(answers: np.ndarray) -> np.ndarray:
        return ratio(((answers == swaps.base) | ~hidden).all(1), 1, W)

    masked, whole = (cells.reshape(n, side, side) for cells in (tokens, swaps.base))
    best = dataset.observer.success(masked, whole, proba)[0]
    controls = {"untrained network": exact(fresh.run(tokens)[0].argmax(-1)),
                "the root most frequent there": ratio(_most_frequent(dataset, swaps, hidden), 1, W)}
    effect = exact(network.run(tokens)[0].argmax(-1))
    feature = "hidden root of a composite, from the others" + (", one cell shown" if one_shown else "")
    return Row(TABLE.name, feature, effect, controls, ratio(best, 1, W))


def _most_frequent(dataset: AbstractionDataset, swaps: Swaps, hidden: np.ndarray) -> np.ndarray:
    """(n,) whether the hidden root is the one that most composites have in that slot. hidden (n, T)."""
    d2, at = dataset.params.abs_dim**2, np.arange(len(swaps.rows))[:, None]
    gone = hidden[at, swaps.cells] & (swaps.cells >= 0)  # (n, c)
    slot = gone.reshape(len(gone), -1, d2).any(-1).argmax(1)
    slots = dataset.compositions.reshape(dataset.params.comp_n, -1)  # -1: no root there
    frequent = np.array([np.bincount(roots[roots >= 0], minlength=1).argmax() for roots in slots.T])
    return slots[swaps.rows[:, 0], slot] == frequent[slot]
