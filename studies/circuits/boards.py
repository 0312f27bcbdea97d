"""The boards of a run that circuits are measured on: held-out ones, pairs for patches, boards of train."""
from __future__ import annotations

import numpy as np

from module_dataset import Boards
from studies.claims.runs import masking_of, proba_of
from studies.claims.scenes import boards_of, held_out, hide, rows_of, types_in_use
from studies.claims.swaps import swaps_of


def held_out_boards(trainer, count: int, rng: np.random.Generator) -> tuple[Boards, np.ndarray]:
    """At most count held-out boards of each type in use, and masks (n, h, w)."""
    types = types_in_use(trainer.dataset, proba_of(trainer))
    drawn = Boards.join([held_out(trainer.dataset, type_, count, rng) for type_ in types])
    return drawn, hide(trainer.dataset, drawn, masking_of(trainer), rng)


def reference_boards(trainer, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Boards of train and masks (n, h, w), at least count, the types as frequent as at the run's end."""
    dataset, drawn = trainer.dataset, []
    for type_, share in types_in_use(dataset, proba_of(trainer)).items():
        rows = rows_of(dataset, type_, "train", int(np.ceil(share * count)), rng)
        drawn.append(boards_of(dataset, type_, rows, rng))
    drawn = Boards.join(drawn)
    return drawn.boards, hide(dataset, drawn, masking_of(trainer), rng)


def pairs_of(trainer, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Base, donor and masks (n, h, w) of at most count pairs of held-out boards with one or two objects: in
    the donor another root is in the place of the first one, of which a third is hidden, and nothing else
    differs. ValueError if there are fewer than two."""
    types = [type_ for type_ in types_in_use(trainer.dataset, proba_of(trainer)) if type_ < 2]
    arrays, side = [], trainer.dataset.board_dim
    for type_ in types:
        swaps = swaps_of(trainer.dataset, type_, -(-count // len(types)), rng)
        if swaps is not None:
            # fuzzy cells of the other object were drawn anew; pairs must differ in the swapped object alone
            donor = np.where(swaps.away, swaps.base, swaps.donor)
            arrays.append([swaps.base, donor, swaps.tokens["base"] == trainer.masking_token])
    if not arrays:
        raise ValueError("pairs of boards need single or double boards and three roots.")
    return tuple(np.concatenate(parts).reshape(-1, side, side) for parts in zip(*arrays, strict=True))
