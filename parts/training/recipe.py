"""A recipe: the parameters of a training, and what they mean for each of its epochs (arXiv 2312.05361)."""
from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parts.boards.params import TYPES
from parts.params import Params, param, pick_device
from utils import MAX_SEED, ramp, shown

MOST = 10**6  # the largest value of most parameters; larger ones are mistakes
# parameters without effect, accepted in old parameter files: the official program's, and this one's that are
# gone
IGNORED = ("n_unmasked", "masking_patch_dim", "test_nb_instances", "scan_patch_dim", "scan_nb_instances",
           "epoch2scan", "bool_wandb", "weight_average", "overlap_weight", "product_way", "attention_way")


# kinds of parameters; what network and optimiser are made of cannot be assigned once they are made
made_of = functools.partial(param, fixed=True)
count = functools.partial(param, low=1, high=MOST)
epoch_of = functools.partial(param, low=0, high=MOST)
share = functools.partial(param, low=0, high=1)
type_weights = functools.partial(param, low=0, high=MOST, length=3)


@dataclass(kw_only=True)
class TrainParams(Params):
    """Network, masking, curriculum, optimiser and bookkeeping of a run.

    Methods named ..._at give a value at an epoch, counted from 0.
    """

    recipe_length = 1500  # epochs of the full recipe
    # epochs at which something starts or has ended, scaled with recipe_epochs
    ramps = ("lr_warmup", "lr_decay_start", "masking_patch_epoch", "board_proba_epoch_start",
             "board_proba_epoch_end")

    transformer_type: str = made_of("factor", "type of network: factor", choices=("factor",), flag="type")
    vocab_size: int | None = made_of(None, "number of tokens V, UNK included; none: the data set's", low=1)
    block_size: int | None = made_of(None, "number of cells of a board T; none: the data set's", low=1)
    masking_token: int | None = made_of(
        None, "index of the UNK token, which hides a cell; none: the data set's", low=0
    )
    n_layer: int = made_of(3, "number of transformer blocks", low=1, high=200)
    n_head: int = count(2, "number of attention heads H", fixed=True)
    n_embd: int = count(64, "width of the residual stream D", fixed=True)
    n_embd_pos: int = count(32, "width of the position code P", fixed=True)
    embd_pdrop: float = share(0, "dropout after the token embedding", fixed=True)
    resid_pdrop: float = share(0, "dropout after each attention and MLP layer", fixed=True)
    attn_pdrop: float = share(0, "dropout on attention weights", fixed=True)
    masking_p: float = share(0.25, "final probability that a cell is hidden")
    masking_patch_epoch: int | None = epoch_of(
        750,
        "epoch at which the hiding probability, which rises from 0.01, reaches masking_p and patches start; "
        "none: the number of epochs",
    )
    masking_patch_p: float = share(0.5, "share of boards that also lose a patch of a root's size")
    board_curriculum: bool = param(
        True, "1: board-type probabilities move from board_proba_start to board_proba_end; 0: the data set's"
    )
    board_proba_epoch_start: int = epoch_of(250, "epoch at which board-type probabilities start to move")
    board_proba_epoch_end: int = epoch_of(
        1000, "epoch at which board-type probabilities reach board_proba_end"
    )
    board_proba_start: list[float] = type_weights(
        (0.8, 0.1, 0.1), "first probabilities of single, double and composition boards"
    )
    board_proba_end: list[float] = type_weights(
        (1 / 3, 1 / 3, 1 / 3), "final probabilities of single, double and composition boards"
    )
    recipe_epochs: int | None = count(
        None,
        "number of epochs that the epochs of all ramps are written for (1500, LEA 3000): scales them to the "
        "run's number of epochs; none: not scaled, so a run of 20 epochs hides hardly a cell",
    )
    optimizer: str = made_of(
        "adamw",
        "optimiser: adamw, or muon (Muon on the blocks' matrices, AdamW on all other weights)",
        choices=("adamw", "muon"),
    )
    learning_rate: float = param(1e-3, "learning rate of the optimiser", low=0, high=1000)
    weight_decay: float = made_of(
        0.01, "weight decay of the weights of Linear layers, by AdamW and by Muon", low=0, high=1000
    )
    betas: list[float] = share(
        (0.9, 0.95), "AdamW's decay rates of its two moments, each below 1", length=2, fixed=True
    )
    grad_clip: float = param(
        0, "largest norm of a step's gradient, which is scaled down to it; 0: not clipped", low=0, high=MOST
    )
    init_from: str | None = made_of(
        None, "checkpoint whose weights a new run starts from; epochs, ramps and optimiser start anew"
    )
    lr_schedule: str = param(
        "constant",
        "learning rate over epochs: constant, or linear (falls to zero at the end)",
        choices=("constant", "linear"),
    )
    lr_warmup: int = epoch_of(0, "number of epochs over which the learning rate rises to its value")
    lr_decay_start: int = epoch_of(
        0,
        "epoch at which the learning rate starts to fall, if lr_schedule is linear; after the last epoch: "
        "it stays constant",
    )
    batch_size: int = count(64, "boards in a step", flag="batch")
    epochs: int = count(1, "number of epochs to train", flag="epoch")
    epoch2print: int = count(25, "number of epochs between reports")
    epoch2test: int = count(250, "number of epochs between tests")
    epoch2save: int = count(250, "number of epochs between checkpoints")
    save_epochs: list[int] | None = epoch_of(
        None, "further epochs whose checkpoint is kept, or log: 0, 1, 2, 5, 10, 20, 50, ...", word="log"
    )
    save_model: bool = param(
        False, "1: save checkpoints, and the states that a stopped run resumes from", flag="save"
    )
    run_name: str = param("", "name of the run folder; empty: the script makes one, train() writes nothing")
    device: str = param("auto", "cpu, cuda, cuda:N, mps or auto (CUDA if present, else cpu)")
    threads: int | None = param(None, "CPU threads of the run; none: torch's own number", low=1, high=1024)
    plot_dpi: int = param(150, "dots per inch of figures", low=1, high=2400)
    dtype: str = made_of(
        "float32",
        "arithmetic: float32, float64 (as the official program), or bfloat16 (matrix products of training "
        "only)",
        choices=("float32", "float64", "bfloat16"),
    )
    seed: int | None = made_of(
        None, "seed of initial weights, boards, masks and dropout; none: a new one is drawn", low=0,
        high=MAX_SEED,
    )
    runs: str = param("./runs", "folder that holds the run folders")

    def check(self) -> None:
        if self.recipe_epochs is not None:
            self._scale_ramps()
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd = {self.n_embd} must be divisible by n_head = {self.n_head}.")
        self._check_order("board_proba_epoch_start", "board_proba_epoch_end")
        if max(self.betas) >= 1:
            raise ValueError(f"betas = {self.betas} must each be below 1.")
        self.runs, name = os.path.expanduser(self.runs), self.run_name
        printable = os.fsencode(name).decode("utf-8", "replace").isprintable()  # whatever the locale
        if name != Path(name).name or name == ".." or len(name) > 200 or not printable:
            raise ValueError("run_name must be a folder's name without a path, at most 200 characters, not "
                             f"{shown(name)}.")
        pick_device(self.device)

    def _scale_ramps(self) -> None:
        """Scales the epochs of all ramps from recipe_epochs to epochs. The scaled epochs are what is stored,
        and recipe_epochs becomes None."""
        for name in self.ramps:
            if (value := getattr(self, name)) is not None:
                setattr(self, name, self.checked(name, round(value * self.epochs / self.recipe_epochs)))
        self.recipe_epochs = None

    def _check_order(self, start: str, end: str) -> None:
        """ValueError if the epoch named `end` comes before the one named `start`."""
        first, last = getattr(self, start), getattr(self, end)
        if last < first:
            raise ValueError(f"{end} = {last} must not come before {start} = {first}.")

    def masking_at(self, epoch: int) -> tuple[float, float]:
        """(hiding probability, share of boards with a patch) at an epoch."""
        last = self.epochs if self.masking_patch_epoch is None else self.masking_patch_epoch
        # never below 1%: an epoch that hides nothing would only train copying
        hidden = max(ramp(epoch, 0, self.masking_p, 0, last), min(0.01, self.masking_p))
        return float(hidden), self.masking_patch_p if epoch >= last else 0.0

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate at an epoch."""
        if epoch < self.lr_warmup:
            return self.learning_rate * (epoch + 1) / self.lr_warmup
        start = max(self.lr_warmup, self.lr_decay_start)
        if self.lr_schedule == "constant" or start >= self.epochs:
            return self.learning_rate
        return float(self.learning_rate * (1 - ramp(epoch, 0.0, 1.0, start, self.epochs)))

    def beyond_the_end(self) -> list[str]:
        """The ramps' epochs that the run does not reach, as 'name = epoch'."""
        late = {name: getattr(self, name) or 0 for name in self.ramps}
        if self.lr_schedule == "constant":
            del late["lr_decay_start"]
        if not self.board_curriculum:
            late = {name: epoch for name, epoch in late.items() if not name.startswith("board_proba")}
        return [f"{name} = {epoch}" for name, epoch in late.items() if epoch > self.epochs]

    def board_proba_at(self, epoch: int, board_types: Sequence[str]) -> np.ndarray:
        """Probabilities of board_types at an epoch of the curriculum; ValueError if all are zero."""
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

    def due_at(self, epoch: int, period: int) -> bool:
        """Whether something that falls on each epoch % period == 0, and on the last, is due."""
        return epoch % period == 0 or epoch == self.epochs - 1

    def keeps_checkpoint_at(self, epoch: int) -> bool:
        """Whether a checkpoint is kept after an epoch, because it is due or named by save_epochs."""
        if self.due_at(epoch, self.epoch2save):
            return True
        if self.save_epochs == "log":
            return epoch == 0 or str(epoch).rstrip("0") in ("1", "2", "5")
        return epoch in (self.save_epochs or ())
