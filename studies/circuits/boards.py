"""The boards of a run that circuits are measured on: held-out ones, pairs for patches, boards of train."""
from __future__ import annotations

import numpy as np

from module_dataset import Boards
from studies.claims.runs import proba_of
from studies.claims.scenes import boards_of, held_out, rows_of, types_in_use
from studies.claims.swaps import swaps_of


def held_out_boards(trainer, count: int, rng: np.random.Generator) -> tuple[Boards, np.ndarray]:
    """At most count held-out boards of each type in use, and masks (n, h, w)."""
    types = types_in_use(trainer.dataset, proba_of(trainer))
    drawn = Boards.join([held_out(trainer.dataset, type_, count, rng) for type_ in types])
    return drawn, hide(trainer, drawn, rng)


def reference_boards(trainer, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Boards and masks (n, h, w) of train, at least count in all, the types as frequent as at the run's
    end."""
    dataset, drawn = trainer.dataset, []
    for type_, share in types_in_use(dataset, proba_of(trainer)).items():
        rows = rows_of(dataset, type_, "train", int(np.ceil(share * count)), rng)
        drawn.append(boards_of(dataset, type_, rows, rng))
    drawn = Boards.join(drawn)
    return drawn.boards, hide(trainer, drawn, rng)


def hide(trainer, drawn: Boards, rng: np.random.Generator) -> np.ndarray:
    """Masks (n, h, w) as the run's recipe ends."""
    p, patch_p = trainer.masking_p, trainer.masking_patch_p
    return trainer.dataset.mask(drawn.boards, p, patch_p, drawn.types, drawn.corners, rng)[0]


def pairs_of(trainer, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Base, donor and masks (n, h, w) of at most count pairs of held-out boards with one or two objects: in
    the donor another root is in the place of the first one, of which a third is hidden, and nothing else
    differs. ValueError if there are fewer than two."""
    types = [type_ for type_ in types_in_use(trainer.dataset, proba_of(trainer)) if type_ < 2]
    swaps = [swaps_of(trainer.dataset, type_, -(-count // len(types)), rng) for type_ in types]
    swaps = [of_type for of_type in swaps if of_type is not None]
    if not swaps:
        raise ValueError("pairs of boards need single or double boards and three roots.")
    unk, side = trainer.masking_token, trainer.dataset.board_dim
    arrays = []
    for of_type in swaps:
        # fuzzy cells of the other object were drawn anew; pairs must differ in the swapped object alone
        donor = np.where(of_type.away, of_type.base, of_type.donor)
        arrays.append([of_type.base, donor, of_type.tokens["base"] == unk])
    return tuple(np.concatenate(parts).reshape(-1, side, side) for parts in zip(*arrays, strict=True))
