"""A recipe: the parameters of a training, and what they say of each of its epochs (arXiv 2312.05361)."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parts.boards.params import TYPES
from parts.params import Params, param, pick_device
from utils import MAX_SEED, ramp, shown

MOST = 10**6  # of a parameter; larger ones are mistakes
# parameters of the authors' files that have no effect
IGNORED = (
    "n_unmasked",
    "masking_patch_dim",
    "test_nb_instances",
    "scan_patch_dim",
    "scan_nb_instances",
    "epoch2scan",
    "bool_wandb",
    "product_way",
    "attention_way",
)


@dataclass(kw_only=True)
class TrainParams(Params):
    """Network, masking, curriculum, optimiser and bookkeeping of a run.

    Methods named ..._at say what holds in an epoch, counted from 0.
    """

    # epochs at which something starts or has ended, scaled with recipe_epochs
    ramps = (
        "lr_warmup",
        "lr_decay_start",
        "masking_patch_epoch",
        "board_proba_epoch_start",
        "board_proba_epoch_end",
    )

    transformer_type: str = param("factor", "type of network: factor", choices=("factor",), flag="type")
    vocab_size: int | None = param(None, "tokens V; none: the data set's", low=1)
    block_size: int | None = param(None, "cells of a board T; none: the data set's", low=1)
    masking_token: int | None = param(None, "index of the UNK token; none: the data set's", low=0)
    n_layer: int = param(3, "blocks", low=1, high=200)
    n_head: int = param(2, "attention heads", low=1, high=MOST)
    n_embd: int = param(64, "width of the residual stream D", low=1, high=MOST)
    n_embd_pos: int = param(32, "width of the position code P", low=1, high=MOST)
    embd_pdrop: float = param(0, "dropout after the token embedding", low=0, high=1)
    resid_pdrop: float = param(0, "dropout after each sub-layer", low=0, high=1)
    attn_pdrop: float = param(0, "dropout on attention weights", low=0, high=1)
    masking_p: float = param(0.25, "final probability that a cell is hidden", low=0, high=1)
    masking_patch_epoch: int | None = param(
        750,
        "epoch at which masking_p is reached and patches start; none: the number of epochs",
        low=0,
        high=MOST,
    )
    masking_patch_p: float = param(
        0.5, "share of boards that also lose a patch of a root's size", low=0, high=1
    )
    board_curriculum: bool = param(True, "whether board-type probabilities move over epochs")
    board_proba_epoch_start: int = param(250, "epoch at which they start to move", low=0, high=MOST)
    board_proba_epoch_end: int = param(1000, "epoch at which they have moved", low=0, high=MOST)
    board_proba_start: list[float] = param(
        (0.8, 0.1, 0.1), "probabilities of single, double, composition before", low=0, high=MOST, length=3
    )
    board_proba_end: list[float] = param(
        (1 / 3, 1 / 3, 1 / 3),
        "probabilities of single, double, composition after",
        low=0,
        high=MOST,
        length=3,
    )
    overlap_weight: float = param(
        1, "how many times likelier training draws a double board whose objects overlap", low=1, high=1000
    )
    recipe_epochs: int | None = param(
        None, "scale the epochs of every ramp, the learning rate's too, by epochs / recipe_epochs (the "
        "recipe's are 1500, LEA's 3000); none: as they are", low=1, high=MOST,
    )
    optimizer: str = param("adamw", "adamw, or muon: Muon on the blocks' matrices, AdamW on the rest",
                           choices=("adamw", "muon"))
    learning_rate: float = param(1e-3, "of the optimiser", low=0, high=1000)
    lr_schedule: str = param(
        "constant",
        "learning rate over epochs: constant, or down to zero by cosine or linear",
        choices=("constant", "cosine", "linear"),
    )
    lr_warmup: int = param(0, "epochs over which the learning rate rises to its value", low=0, high=MOST)
    lr_decay_start: int = param(
        0, "epoch at which cosine or linear starts to fall; after the last epoch: it does not fall",
        low=0, high=MOST,
    )
    weight_average: float = param(
        0,
        "share that an epoch leaves of the moving average of weights, which tests, checkpoints and probing "
        "see; 0: no average",
        low=0,
        high=0.9999,
    )
    batch_size: int = param(64, "boards in a step", low=1, high=MOST, flag="batch")
    epochs: int = param(1, "epochs to train", low=1, high=MOST, flag="epoch")
    epoch2print: int = param(25, "epochs between reports", low=1, high=MOST)
    epoch2test: int = param(250, "epochs between tests", low=1, high=MOST)
    epoch2save: int = param(250, "epochs between checkpoints", low=1, high=MOST)
    save_epochs: list[int] | None = param(
        None,
        "further epochs whose checkpoint is kept, or log: 0, 1, 2, 5, 10, 20, 50, ...",
        low=0,
        high=MOST,
        word="log",
    )
    save_model: bool = param(False, "whether to save checkpoints, 1 or 0", flag="save")
    run_name: str = param("", "name of the run folder; empty: the script makes one, train() writes nothing")
    device: str = param("auto", "cpu, cuda, cuda:N, mps or auto (CUDA where there is one, else cpu)")
    threads: int | None = param(None, "threads of a run on a CPU; none: torch's own number", low=1, high=1024)
    plot_dpi: int = param(150, "dots per inch of figures", low=1, high=2400)
    dtype: str = param(
        "float32", "arithmetic; float64 is the official program's, bfloat16 that of training's products only",
        choices=("float32", "float64", "bfloat16"),
    )
    seed: int | None = param(
        None, "of weights, boards, masks and dropout; none draws one", low=0, high=MAX_SEED
    )
    runs: str = param("./runs", "folder that holds the run folders")

    def check(self) -> None:
        if self.recipe_epochs is not None:
            self._scale_ramps()
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd = {self.n_embd} must be divisible by n_head = {self.n_head}.")
        self._check_order("board_proba_epoch_start", "board_proba_epoch_end")
        name = self.run_name
        printable = os.fsencode(name).decode("utf-8", "replace").isprintable()  # whatever the locale
        if name != Path(name).name or name == ".." or len(name) > 200 or not printable:
            raise ValueError("run_name must be a folder's name without a path, at most 200 characters, not "
                             f"{shown(name)}.")
        pick_device(self.device)

    def _scale_ramps(self) -> None:
        """Scales the epochs of the ramps; what is stored are the epochs themselves, and recipe_epochs is
        None."""
        for name in self.ramps:
            if (value := getattr(self, name)) is not None:
                setattr(self, name, self.checked(name, round(value * self.epochs / self.recipe_epochs)))
        self.recipe_epochs = None

    def _check_order(self, start: str, end: str) -> None:
        """ValueError where the epoch named end comes before the one named start."""
        first, last = getattr(self, start), getattr(self, end)
        if last < first:
            raise ValueError(f"{end} = {last} must not come before {start} = {first}.")

    def masking_at(self, epoch: int) -> tuple[float, float]:
        """(hiding probability, share of boards with a patch) of an epoch."""
        last = self.epochs if self.masking_patch_epoch is None else self.masking_patch_epoch
        hidden = max(ramp(epoch, 0, self.masking_p, 0, last), min(0.01, self.masking_p))
        return float(hidden), self.masking_patch_p if epoch >= last else 0.0

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch."""
        if epoch < self.lr_warmup:
            return self.learning_rate * (epoch + 1) / self.lr_warmup
        if self.lr_schedule == "constant":
            return self.learning_rate
        start = max(self.lr_warmup, self.lr_decay_start)
        if start >= self.epochs:
            return self.learning_rate
        left = 1 - ramp(epoch, 0.0, 1.0, start, self.epochs)
        share = left if self.lr_schedule == "linear" else (1 - np.cos(np.pi * left)) / 2
        return float(self.learning_rate * share)

    def beyond_the_end(self) -> list[str]:
        """The ramps' epochs that the run ends before, as 'name = epoch'."""
        late = {name: getattr(self, name) or 0 for name in self.ramps}
        if self.lr_schedule == "constant":
            del late["lr_decay_start"]
        if not self.board_curriculum:
            late = {name: epoch for name, epoch in late.items() if not name.startswith("board_proba")}
        return [f"{name} = {epoch}" for name, epoch in late.items() if epoch > self.epochs]

    def board_proba_at(self, epoch: int, board_types: Sequence[str]) -> np.ndarray:
        """Probabilities of board_types at an epoch of the curriculum; ValueError where none of them is ever
        drawn."""
        start, end = np.asarray(self.board_proba_start), np.asarray(self.board_proba_end)
        now = ramp(epoch, 0.0, 1.0, self.board_proba_epoch_start, self.board_proba_epoch_end)
        proba = (start + now * (end - start))[[TYPES.index(name) for name in board_types]]
        if proba.sum() <= 0:
            name = "board_proba_start" if now < 1 else "board_proba_end"
            raise ValueError(
                f"{name} = {getattr(self, name)} must give a positive probability to one of the data set's "
                f"board types, {', '.join(board_types)}."
            )
        return proba / proba.sum()

    def tests_at(self, epoch: int) -> bool:
        """Whether the network is tested after an epoch."""
        return self._due_at(epoch, self.epoch2test)

    def saves_at(self, epoch: int) -> bool:
        """Whether a period, or the end, asks for a checkpoint and a state after an epoch."""
        return self._due_at(epoch, self.epoch2save)

    def keeps_checkpoint_at(self, epoch: int) -> bool:
        """Whether a checkpoint is kept after an epoch, by the period or by save_epochs."""
        if self.saves_at(epoch):
            return True
        if self.save_epochs == "log":
            return epoch == 0 or str(epoch).rstrip("0") in ("1", "2", "5")
        return epoch in (self.save_epochs or ())

    def _due_at(self, epoch: int, period: int) -> bool:
        return epoch % period == 0 or epoch == self.epochs - 1
