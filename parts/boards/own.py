"""Boards of a user's own, without objects that are known: what a data set must offer to train on it."""
from __future__ import annotations

import numpy as np

from parts.boards.params import SPLITS, TYPES, Boards
from parts.checks import check_numbers, integer_array
from utils import shown

NEEDED = ("board_dim", "vocab_size", "sample", "__len__")
OBJECTS = ("mask", "all_boards", "holds", "board_types", "params")  # what a data set with objects also has


class OwnBoards:
    """A data set of a user's own as trainers use it. It is of any class and offers

        board_dim                 side of the square boards
        vocab_size                V; tokens are 0 to V - 2, and V - 1, UNK, stands on no board
        len()                     boards in an epoch
        sample(n, split, rng)     n boards, whole numbers (n, h, w), of 'train' and any other of its `splits`,
                                  drawn by the numpy generator rng alone, so that runs can be repeated

    and if it likes

        splits                    of 'train', 'val', 'test' those that it has; otherwise ('train',)
        vocab_bck                 number of the first tokens that are background, grey in figures; otherwise 0
        patch_dim                 side of the patches that masking hides, otherwise 3, as a root's by default

    All its boards count as single ones. Whatever needs known objects, such as claims, is an AttributeError.
    """

    board_types, board_types_proba = [TYPES[0]], [1.0]

    def __init__(self, own):
        self.own, self.board_dim, self.vocab_size = own, int(own.board_dim), int(own.vocab_size)
        self.masking_token = self.vocab_size - 1
        self.vocab_bck = getattr(own, "vocab_bck", 0)
        self.vocab_token = self.masking_token - self.vocab_bck
        self.patch_dim = min(getattr(own, "patch_dim", 3), self.board_dim)
        self.params = self

    def __len__(self) -> int:
        return len(self.own)

    def __getattr__(self, name):
        raise AttributeError(f"{name} needs the objects of an AbstractionDataset; this trainer's boards are "
                             f"of {type(self.__dict__.get('own')).__name__}.")

    def holds(self, split: str) -> bool:
        """Whether a split has boards."""
        return split in getattr(self.own, "splits", SPLITS[:1])

    def sample(self, n: int, split: str = "train", proba=None, rng=None) -> Boards:
        """n boards of a split. ValueError if it has none, or for what is no board."""
        if not self.holds(split):
            raise ValueError(f"there are no boards in the {split} split.")
        rng = np.random.default_rng() if rng is None else rng
        shape, name = (n, self.board_dim, self.board_dim), f"sample of {type(self.own).__name__}"
        boards = integer_array(name, self.own.sample(n, split, rng), shape, 0, self.masking_token - 1)
        none = np.full(n, -1)
        return Boards(boards, np.zeros(n, np.int64), np.full(shape, -1), np.full((n, 1, 3), -1), none, none)

    def all_boards(self, split: str = "test", count_max: int | None = None, rng=None) -> Boards:
        """count_max boards of a split, as these cannot be listed; None: as many as an epoch has."""
        return self.sample(len(self) if count_max is None else count_max, split, None, rng)

    def mask(self, boards, p: float, patch_p: float = 0.0, types=None, corners=None, rng=None):
        """As `AbstractionDataset.mask`, every patch a window at random."""
        check_numbers(p=p, patch_p=patch_p)
        rng, n, d = np.random.default_rng() if rng is None else rng, len(boards), self.patch_dim
        hidden, patched = rng.random(boards.shape) < p, rng.random(n) < patch_p
        corner = rng.integers(self.board_dim - d + 1, size=(2, n, 1))
        row, col = (np.arange(self.board_dim) >= corner) & (np.arange(self.board_dim) < corner + d)  # (n, h)
        hidden |= patched[:, None, None] & row[:, :, None] & col[:, None, :]
        return hidden, patched.astype(np.int64)

    def as_dict(self) -> dict:
        """What params_dataset.json holds."""
        name = type(self.own).__name__
        return {"own_boards": name, "board_dim": self.board_dim, "vocab_size": self.vocab_size}

    def export(self, filename) -> None:
        """Writes nothing: the boards are the user's."""

    def check_cells(self, n: int, name: str) -> None:
        """Nothing: only the data set knows how many it can draw."""


def as_dataset(dataset):
    """A data set with objects as it is, one of a user's own as OwnBoards. TypeError if it is neither."""
    if all(hasattr(dataset, name) for name in NEEDED + OBJECTS):
        return dataset
    lacking = [name for name in NEEDED if not hasattr(dataset, name)]
    if lacking or isinstance(dataset, type):
        raise TypeError(f"dataset must be an AbstractionDataset, or an object with {', '.join(NEEDED)} (see "
                        f"parts/boards/own.py), not {shown(dataset)}.")
    return OwnBoards(dataset)
