"""Trains and probes GPTFactor on boards (arXiv 2312.05361): the one training loop, the one evaluation, the one recorder.

Axis letters: n boards, h x w cells of a board, B boards in a batch, T = h * w tokens.

A run is a function of its parameters and its seed: the boards and masks of an epoch, its dropout and its test draw from
streams of their own, named by (seed, what, epoch), so that nothing depends on what was evaluated in between.
"""
from __future__ import annotations

import contextlib
import json
import math
import numbers
import shlex
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from module_dataset import TYPES, AbstractionDataset, Boards
from module_figures import (
    BoardView,
    draw_board,
    mirrored,
    new_figure,
    plot_across,
    plot_curves,
    plot_panels,
    plot_queries,
    plot_table,
    save_figure,
    show_figure,
    tiled,
    token_colors,
)
from module_files import load_tensors, numbered, read_json, save_array, save_tensors, write_json
from module_optimizers import make_optimizer
from module_params import Params, keywords_of, param, pick_device
from module_run import RunLog, lock, newest_states, save_state
from module_transformer_factor import GPTFactor, check_sizes, cut_edits, editing, recording
from utils import (
    MAX_SEED,
    dist,
    dist_cosine,
    dist_unit,
    divide_into_batches,
    fresh_seed,
    from_leader,
    get_ij,
    merge_attn_plots,
    numpy_rng,
    out_of_memory,
    progress_bar,
    ramp,
    rank_and_world,
    shown,
    sum_over_processes_,
    torch_entropy,
)

__all__ = ["TrainTransformer", "TrainParams", "torch_entropy", "dist", "dist_unit", "dist_cosine", "ramp"]

MOST = 10**6  # of a parameter; larger ones are mistakes
EVAL_BATCH = 512  # boards in a forward pass without gradient
CELLS_AT_ONCE = 2**22  # cells of boards drawn in one array operation
STREAM_TRAIN, STREAM_TEST, STREAM_DROPOUT, STREAM_USER = range(1, 5)
SAVE_SECONDS = 300  # at most, between saved states
CHANGEABLE = ("epochs", "device", "epoch2print", "epoch2test", "epoch2save", "plot_dpi")  # when a run is resumed
LATER = ("optimizer", "save_epochs")  # not in the files of earlier versions, whose runs are as by default
# parameters of the authors' files that have no effect
IGNORED = ("n_unmasked", "masking_patch_dim", "test_nb_instances", "scan_patch_dim", "scan_nb_instances", "epoch2scan",
           "bool_wandb")


@dataclass(kw_only=True)
class TrainParams(Params):
    """Network, masking, curriculum, optimiser and bookkeeping of a run."""

    ramps = ("masking_patch_epoch", "board_proba_epoch_start", "board_proba_epoch_end")  # scaled with recipe_epochs

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
        750, "epoch at which masking_p is reached and patches start; none: the number of epochs", low=0, high=MOST
    )
    masking_patch_p: float = param(0.5, "share of boards that also lose a patch of a root's size", low=0, high=1)
    board_curriculum: bool = param(True, "whether board-type probabilities move over epochs")
    board_proba_epoch_start: int = param(250, "epoch at which they start to move", low=0, high=MOST)
    board_proba_epoch_end: int = param(1000, "epoch at which they have moved", low=0, high=MOST)
    board_proba_start: list[float] = param(
        (0.8, 0.1, 0.1), "probabilities of single, double, composition before", low=0, high=MOST, length=3
    )
    board_proba_end: list[float] = param(
        (1 / 3, 1 / 3, 1 / 3), "probabilities of single, double, composition after", low=0, high=MOST, length=3
    )
    recipe_epochs: int | None = param(
        None, "scale the epochs of every ramp by epochs / recipe_epochs (the recipe's are 1500, LEA's 3000); none: as they are",
        low=1, high=MOST,
    )
    optimizer: str = param("adamw", "adamw, or muon: Muon on the blocks' matrices, AdamW on the rest",
                           choices=("adamw", "muon"))
    learning_rate: float = param(1e-3, "of the optimiser", low=0, high=1000)
    lr_schedule: str = param("constant", "learning rate over epochs: constant, or down to zero by cosine or linear",
                             choices=("constant", "cosine", "linear"))
    lr_warmup: int = param(0, "epochs over which the learning rate rises to its value", low=0, high=MOST)
    lr_decay_start: int = param(0, "epoch at which cosine or linear starts to fall", low=0, high=MOST)
    weight_average: float = param(
        0, "share that an epoch leaves of the moving average of weights, which tests, checkpoints and probing see; 0: no average",
        low=0, high=0.9999,
    )
    batch_size: int = param(64, "boards in a step", low=1, high=MOST, flag="batch")
    epochs: int = param(1, "epochs to train", low=1, high=MOST, flag="epoch")
    epoch2print: int = param(25, "epochs between reports", low=1, high=MOST)
    epoch2test: int = param(250, "epochs between tests", low=1, high=MOST)
    epoch2save: int = param(250, "epochs between checkpoints", low=1, high=MOST)
    save_epochs: list[int] | None = param(
        None, "further epochs whose checkpoint is kept, or log: 0, 1, 2, 5, 10, 20, 50, ...", low=0, high=MOST, word="log"
    )
    save_model: bool = param(False, "whether to save checkpoints, 1 or 0", flag="save")
    run_name: str = param("", "name of the run folder; empty: the script makes one, train() writes nothing")
    device: str = param("auto", "cpu, cuda, cuda:N, mps or auto (CUDA where there is one, else cpu)")
    plot_dpi: int = param(150, "dots per inch of figures", low=1, high=2400)
    dtype: str = param("float32", "arithmetic; float64 is the official program's", choices=("float32", "float64"))
    seed: int | None = param(None, "of weights, boards, masks and dropout; none draws one", low=0, high=MAX_SEED)
    runs: str = param("./runs", "folder that holds the run folders")

    def check(self):
        if self.recipe_epochs is not None:
            for name in self.ramps:
                if (value := getattr(self, name)) is not None:
                    setattr(self, name, self.checked(name, round(value * self.epochs / self.recipe_epochs)))
            self.recipe_epochs = None  # done: what is stored are the epochs themselves
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd = {self.n_embd} must be divisible by n_head = {self.n_head}.")
        if self.board_proba_epoch_end < self.board_proba_epoch_start:
            raise ValueError(
                f"board_proba_epoch_end = {self.board_proba_epoch_end} must not come before "
                f"board_proba_epoch_start = {self.board_proba_epoch_start}."
            )
        name = self.run_name
        if name != Path(name).name or name == ".." or len(name) > 200 or not name.isprintable():
            raise ValueError(f"run_name must be a folder's name without a path, at most 200 characters, not {shown(name)}.")
        pick_device(self.device)


class TrainingStopped(RuntimeError):
    """Training ended before its last epoch; the message says why and how to go on. exit_code: for a script."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


class Accuracy(tuple):
    """(acc_tokens, acc_boards, boards, rec_boards, masks, acc_boards_breakdown); acc_hidden is the accuracy on hidden
    tokens alone. Shares 0 ... 1; the breakdown is by board type, NaN for a type without boards."""

    acc_hidden: float


def score(boards: np.ndarray, recons: np.ndarray, masks: np.ndarray, types: np.ndarray) -> dict:
    """acc_tokens, acc_hidden (NaN where nothing is hidden), acc_boards and acc_boards_breakdown (3,), shares 0 ... 1,
    of reconstructions (n, h, w); types (n,): 0 single, 1 double, 2 composition."""
    right = boards == recons
    whole = right.reshape(len(right), -1).all(1)
    hidden = masks.astype(bool)
    mean = lambda x: float(x.mean()) if x.size else float("nan")  # noqa: E731
    return {
        "acc_tokens": mean(right),
        "acc_hidden": mean(right[hidden]),
        "acc_boards": mean(whole),
        "acc_boards_breakdown": np.array([mean(whole[types == t]) for t in range(3)]),
    }


@contextlib.contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; every module's own mode restored after, also after an exception."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@keywords_of(TrainParams, first=["dataset"])
class TrainTransformer:
    """A data set, a network and its optimiser: train, test, record, edit.

    Keywords are those of TrainParams, each also an attribute of the object. Other attributes: dataset, transformer (the
    network; with weight_average the average of what is trained), optim, step (optimiser steps taken), epoch (epochs
    trained), device, log (RunLog of the run, or None).
    TypeError for an unknown keyword or a wrong type, ValueError for a wrong value.

    >>> trainer = TrainTransformer(AbstractionDataset(seed=0), epochs=2, seed=0)
    >>> losses = trainer.train()
    """

    params_class = TrainParams
    run_suffix = {"factor": "_factor"}  # of run_name, by transformer_type
    outputs = {"": "reconstruction"}  # of the network, with a title each
    loss_columns = ("loss", "error")
    count_columns = ("nb_boards", "nb_boards_singleRoot", "nb_boards_doubleRoot", "nb_boards_composite")
    stages = ("z", "attn_update", "z_attn", "mlp_update", "z_attn_mlp")  # of a block, in figures
    attention = {"attn": ("a", True)}  # prefix of figures: (site of a block, whether the keys are cells)
    curves = (
        ("loss of an epoch", True, {"": "loss"}),
        ("share of right tokens", False, {
            f"{split}, {name}": f"{split}_acc_{key}"
            for split in ("train", "test") for name, key in (("all", "tokens"), ("hidden", "hidden"))
        }),
        ("share of right boards, test", False,
         {name: f"test_breakdown_{t}" for t, name in enumerate(("single", "double", "composition"))}),
    )

    def __init__(self, dataset: AbstractionDataset, **params):
        if not isinstance(dataset, AbstractionDataset):
            raise TypeError(f"dataset must be an AbstractionDataset, not {type(dataset).__name__}.")
        self.dataset = dataset
        checked = self.params_class.from_dict(params, ignored=IGNORED)
        own = {"vocab_size": dataset.vocab_size, "block_size": dataset.board_dim**2,
               "masking_token": dataset.masking_token}
        for name, value in own.items():
            if getattr(checked, name) not in (None, value):
                raise ValueError(f"{name} = {getattr(checked, name)} must be the data set's, {value}.")
            setattr(checked, name, value)
        checked.seed = fresh_seed() if checked.seed is None else checked.seed
        self.rank, self.world = rank_and_world()
        if self.rank > 0:  # the first process keeps the run
            checked.run_name, checked.save_model = "", False
        if self.world > min(checked.batch_size, len(dataset) % checked.batch_size or checked.batch_size):
            raise ValueError(f"{self.world} processes must be at most the boards of the smallest batch; batch_size = "
                             f"{checked.batch_size}, dataset_len = {len(dataset)}.")
        self._device_name = checked.device
        for name, value in checked.as_dict().items():
            setattr(self, name, value)
        self.device = pick_device(checked.device)
        dataset._check_cells(min(self.batch_size, len(dataset)), "batch_size")
        for epoch in (0, self.board_proba_epoch_end):
            dataset.sample(1, "train", self._board_proba(epoch), numpy_rng(self.seed))
        self.transformer = self._trained = self._network().to(self.device, self._dtype)
        self.optim = make_optimizer(self._trained, self.learning_rate, kind=self.optimizer)
        if self.weight_average:
            self._average = AveragedModel(self._trained, multi_avg_fn=get_ema_multi_avg_fn(self.weight_average), use_buffers=True)
            self.transformer = self._average.module
        self._parallel: DistributedDataParallel | None = None
        self.step = self.epoch = 0
        self.log: RunLog | None = None
        self._user_rng = numpy_rng(self.seed, STREAM_USER)
        self._signal = 0
        self._lock = None

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def params(self) -> dict:
        """Every parameter as it stands, checked: what params_training.json holds and the constructor takes."""
        values = {name: getattr(self, name) for name in self.params_class.__dataclass_fields__}
        return self.params_class.from_dict(values | {"device": self._device_name}).as_dict()

    @property
    def folder(self) -> Path:
        """The run folder, runs/<run_name>."""
        return Path(self.runs) / self.run_name

    # what a subclass with another network supplies

    def _network(self) -> torch.nn.Module:
        return GPTFactor(
            self.vocab_size, self.block_size, self.n_layer, self.n_head, self.n_embd, self.n_embd_pos,
            self.embd_pdrop, self.resid_pdrop, self.attn_pdrop, seed=self.seed,
        )

    def _loss(self, masked: torch.Tensor, boards: torch.Tensor, epoch: int) -> tuple[torch.Tensor, dict]:
        """Loss of a batch (B, T) and the tensors to sum over an epoch's steps, all left on the device: means over the batch,
        counts as whole numbers."""
        logits = self._forward(masked)
        loss = F.cross_entropy(logits.flatten(0, 1), boards.flatten())
        return loss, {"loss": loss.detach(), "error": (logits.argmax(-1) != boards).sum()}

    def _loss_row(self, totals: dict[str, np.ndarray], epoch: int) -> dict[str, float]:
        """Log columns of an epoch from the sums over its steps."""
        return {"loss": totals["loss"], "error": totals["error"] / (self.dataset_len * self.block_size)}

    def _predict(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits (B, T, V) for masked boards (B, T), one for each of `outputs`."""
        return (self.transformer(tokens),)

    def _test_masking(self, epoch: int) -> tuple[float, float]:
        """(hiding probability, share of boards with a patch) of a test during training."""
        return self._masking(epoch)

    @staticmethod
    def _test_columns(split: str, output: str) -> list[str]:
        """Log columns of a test: accuracy on tokens, hidden tokens, boards, and boards by type."""
        return [*(f"{split}_acc_{name}" for name in ("tokens", "hidden", "boards")),
                *(f"{split}_breakdown_{t}" for t in range(3))]

    def _count_row(self, counts: Sequence[int], tested: bool) -> dict[str, float]:
        """Log columns of how many boards a test took; counts: boards by type, each masked twice."""
        return dict(zip(self.count_columns, [2 * sum(counts), *counts], strict=True))

    def _report_line(self, row: dict[str, float]) -> str:
        return f"epoch {row['epoch']}: loss {row['loss']:.4f}, wrong tokens {100 * row['error']:.2f}%"

    # schedule

    def _masking(self, epoch: int) -> tuple[float, float]:
        """(hiding probability, share of boards with a patch) of an epoch."""
        last = self.epochs if self.masking_patch_epoch is None else self.masking_patch_epoch
        hidden = max(ramp(epoch, 0, self.masking_p, 0, last), min(0.01, self.masking_p))
        return float(hidden), self.masking_patch_p if epoch >= last else 0.0

    def _learning_rate(self, epoch: int) -> float:
        if epoch < self.lr_warmup:
            return self.learning_rate * (epoch + 1) / self.lr_warmup
        if self.lr_schedule == "constant":
            return self.learning_rate
        left = 1 - ramp(epoch, 0.0, 1.0, max(self.lr_warmup, self.lr_decay_start), self.epochs)
        return float(self.learning_rate * (left if self.lr_schedule == "linear" else (1 - np.cos(np.pi * left)) / 2))

    def _board_proba(self, epoch: int) -> np.ndarray:
        """Probabilities of the data set's board types at an epoch."""
        if not self.board_curriculum:
            return np.asarray(self.dataset.board_types_proba)
        start, end = np.asarray(self.board_proba_start), np.asarray(self.board_proba_end)
        now = ramp(epoch, 0.0, 1.0, self.board_proba_epoch_start, self.board_proba_epoch_end)
        proba = (start + now * (end - start))[[TYPES.index(t) for t in self.dataset.board_types]]
        if proba.sum() <= 0:
            name = "board_proba_start" if now < 1 else "board_proba_end"
            raise ValueError(
                f"{name} = {getattr(self, name)} must give a positive probability to one of the data set's board types, "
                f"{', '.join(self.dataset.board_types)}."
            )
        return proba / proba.sum()

    # training

    @property
    def dataset_len(self) -> int:
        """Boards in an epoch."""
        return len(self.dataset)

    def _forward(self, masked: torch.Tensor):
        """The network on a training batch; with several processes, gradients are then averaged over them."""
        if self.world == 1:
            return self._trained(masked)
        if self._parallel is None:
            self._parallel = DistributedDataParallel(self._trained)
        return self._parallel(masked)

    def _batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Masked boards and boards (B, T) of an epoch on the device, drawn as one array as far as memory allows."""
        rng = numpy_rng(self.seed, STREAM_TRAIN, epoch)
        p, patch_p = self._masking(epoch)
        proba = self._board_proba(epoch)
        at_once = max(1, CELLS_AT_ONCE // (self.batch_size * self.block_size)) * self.batch_size
        for start in range(0, self.dataset_len, at_once):
            drawn = self.dataset.sample(min(at_once, self.dataset_len - start), "train", proba, rng)
            mask, _ = self.dataset.mask(drawn.boards, p, patch_p, drawn.types, drawn.corners, rng)
            boards = self._tokens(drawn.boards)
            masked = boards.masked_fill(self._tokens(mask), self.masking_token)
            yield from zip(masked.split(self.batch_size), boards.split(self.batch_size), strict=True)

    def _tokens(self, boards: np.ndarray) -> torch.Tensor:
        """(n, h, w) -> (n, T) on the device."""
        return torch.from_numpy(np.ascontiguousarray(boards).reshape(len(boards), -1)).to(self.device, non_blocking=True)

    def _train_epoch(self, epoch: int) -> dict[str, np.ndarray]:
        """One epoch of steps; sums over them, read from the device once. TrainingStopped for a loss or weights that are not
        finite, or at a step's end once a signal has come."""
        self._trained.train()
        self._trained.noise.reseed(self.seed, STREAM_DROPOUT, epoch, *[self.rank] * (self.rank > 0))
        for group in self.optim.param_groups:
            group["lr"] = self._learning_rate(epoch)
        totals: dict[str, torch.Tensor] = {}
        losses = []
        for batch in self._batches(epoch):
            masked, boards = (x[self.rank :: self.world] for x in batch)
            share = len(boards) / len(batch[1])  # of the batch, this process's
            loss, parts = self._loss(masked, boards, epoch)
            self.optim.zero_grad(set_to_none=True)
            (loss if self.world == 1 else loss * (share * self.world)).backward()
            self.optim.step()
            self.step += 1
            losses.append(loss.detach())
            for name, part in parts.items():
                part = part * share if part.is_floating_point() else part
                totals[name] = totals[name] + part if name in totals else part
            if self.world == 1:
                self._heed_signal(f"in epoch {epoch}")
        sum_over_processes_(*totals.values())
        read = {name: total.cpu().numpy() for name, total in totals.items()}
        values = [value for value in self._trained.state_dict().values() if value.is_floating_point()]
        if not np.isfinite(read[self.loss_columns[0]]) or not torch.nn.utils.get_total_norm(values).isfinite():
            finite = torch.stack(losses).isfinite().tolist() + [False]
            step = finite.index(False)
            what = "the loss is " + str(losses[step].item()) if step < len(losses) else "weights are no longer finite"
            raise TrainingStopped(
                f"{what} at epoch {epoch}, step {self.step - len(losses) + step}, with learning_rate "
                f"{self.learning_rate}, batch_size {self.batch_size}, dtype {self.dtype}, seed {self.seed}"
            )
        if self.weight_average:
            self._average.update_parameters(self._trained)
        return read

    def _share_signal(self) -> None:
        """With several processes, all stop after the same epoch."""
        if self.world > 1:
            signals = torch.tensor([self._signal], device=self.device)
            torch.distributed.all_reduce(signals, torch.distributed.ReduceOp.MAX)
            self._signal = int(signals)

    def _heed_signal(self, where: str) -> None:
        if self._signal:
            raise TrainingStopped(f"stopped by {signal.Signals(self._signal).name} {where}", 128 + self._signal)

    def train(self, bool_wandb: bool = False) -> np.ndarray:
        """Trains from self.epoch to self.epochs; returns the loss of each of those epochs, summed over its steps.

        With a run_name it keeps the run folder runs/<run_name>/ (never one that holds another run: ValueError), else it
        writes nothing. With save_model what `resume` needs is saved at the start, every epoch2save epochs, at the end of an
        epoch after 5 minutes, and on SIGINT and SIGTERM. bool_wandb: also log to wandb's active run.

        TrainingStopped, with the network as it was at the start of the epoch, where a signal, a loss that is not finite, a
        full disk or too little memory ends it early.
        """
        if bool_wandb:
            import wandb

            if wandb.run is None:
                raise ValueError("bool_wandb = True needs an active run of wandb; call wandb.init() before.")
        self.start_run()
        losses = []
        bar = progress_bar(range(self.epoch, self.epochs), 20, desc="epochs ", unit="ep", disable=self.rank > 0)
        good = self._state()
        with self._listening():
            try:
                for epoch in bar:
                    row = {"epoch": epoch} | self._loss_row(self._train_epoch(epoch), epoch)
                    row["written"] = int(self.rank == 0 and self._due(epoch, self.epoch2test))
                    if row["written"]:
                        row |= self._test(epoch)
                    losses.append(row[self.loss_columns[0]])
                    self.epoch = epoch + 1
                    state = self._state()
                    self.log.note(row)
                    self._keep(epoch, row, bool_wandb)
                    self.log.add(row)  # an epoch counts once all its files are there
                    good = state
                    bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
                    if self.rank == 0 and (epoch % self.epoch2print == 0 or row["written"]):
                        bar.write(self._report(row))
                    self._save_due(epoch, good)
                    self._share_signal()
                    self._heed_signal(f"after epoch {epoch}")
            except (OSError, MemoryError, RuntimeError) as error:
                bar.close()
                if not isinstance(error, (TrainingStopped, OSError)) and not out_of_memory(error):
                    raise
                raise self._stopped(error, good) from error
            finally:
                self._unlock()
        return np.array(losses)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """With a state to save, SIGINT and SIGTERM only note themselves inside; the handlers of before return after."""
        self._signal = 0
        if not (self.save_model and self.run_name or self.rank > 0) or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum, frame):
            self._signal = signum

        before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _stopped(self, error: Exception, good: dict) -> TrainingStopped:
        """What to raise for an early end, after going back to the last good state and saving it if it can be."""
        self._restore(good)
        message = str(error)
        if isinstance(error, OSError):
            message = f"{error.filename or self.folder}: {error.strerror or error}"
        elif not isinstance(error, TrainingStopped):
            message = f"{self.device} is out of memory; reduce --batch, --n_embd, --n_layer or --board_dim ({message[:80]})"
        if not (self.save_model and self.run_name):
            return TrainingStopped(f"{message}; nothing was saved (--save 0).", getattr(error, "exit_code", 1))
        try:
            save_state(self.folder, self.epoch, good)
        except (OSError, MemoryError):
            message += "; the last state could not be saved again"
        kept = newest_states(self.folder)
        how = f"resume with --resume {shlex.quote(str(self.folder))}" if kept else "no state was saved yet"
        if kept and getattr(error, "exit_code", 0) == 1:  # going on would end in the same way
            how = f"the state before is kept in {kept[0]}"
        return TrainingStopped(f"{message}; {how}.", getattr(error, "exit_code", 1))

    def _due(self, epoch: int, period: int) -> bool:
        return epoch % period == 0 or epoch == self.epochs - 1

    def _saved_besides(self, epoch: int) -> bool:
        """Whether save_epochs asks for the checkpoint of an epoch."""
        if self.save_epochs == "log":
            return epoch == 0 or str(epoch).rstrip("0") in ("1", "2", "5")
        return epoch in (self.save_epochs or ())

    def start_run(self) -> None:
        """Makes the run folder, where there is a run_name, and the log; train() does it too, and lets go of the folder at its
        end. ValueError where the folder holds a run already, or another process has it."""
        self._saved_at = time.monotonic()
        if self.run_name and self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder)
        try:
            if self.log is None:
                self._new_log()
            self.log.settle()
            self.log.extend(self.epochs)
        except BaseException:
            self._unlock()
            raise

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def _new_log(self) -> None:
        """The log, after all else that a run starts with: a folder with run_log.csv holds a run."""
        if self.masking_patch_epoch is None:
            self.masking_patch_epoch = self.epochs
        if not self.run_name:
            self.log = RunLog(self._columns(), self.epochs)
            return
        if (self.folder / "run_log.csv").exists():
            raise ValueError(f"run_name = {self.run_name!r} must be new: {self.folder} already holds a run.")
        for name in ("checkpoints", "figures", "analysis"):
            (self.folder / name).mkdir(exist_ok=True)
        write_json(self.folder / "params_training.json", self.params)
        write_json(self.folder / "params_dataset.json", self.dataset.params.as_dict())
        self.dataset.export(str(self.folder / "datasets" / "dataset"))
        if self.save_model:
            save_state(self.folder, self.epoch, self._state())
        self.log = RunLog(self._columns(), self.epochs, self.folder)

    def _columns(self) -> list[str]:
        """The columns of the log."""
        tested = (self._test_columns(split, output) for split in ("train", "test") for output in self.outputs)
        return ["written", "epoch", *self.loss_columns, *self.count_columns, *(name for names in tested for name in names)]

    def _save_due(self, epoch: int, state: dict) -> None:
        """Saves the state after an epoch, if it is time."""
        due = self._due(epoch, self.epoch2save) or time.monotonic() - self._saved_at > SAVE_SECONDS
        if due and self.save_model and self.run_name:
            self.log.settle()
            save_state(self.folder, self.epoch, state)
            self._saved_at = time.monotonic()

    def _keep(self, epoch: int, row: dict, bool_wandb: bool) -> None:
        """Checkpoint, arrays, figures and wandb's record of an epoch, as far as they are due."""
        if self.save_model and self.run_name and (self._due(epoch, self.epoch2save) or self._saved_besides(epoch)):
            self.save_checkpoint(self.folder / "checkpoints" / f"model_{epoch}.pth")
        figures = {}
        if row["written"] and (self.run_name or bool_wandb):
            figures = self._figures(epoch)
        if row["written"] and self.run_name:
            self.log.save_arrays()
            for name, figure in figures.items():
                save_figure(figure, self.folder / "figures" / f"{name}.png", self.plot_dpi)
        if bool_wandb:
            import matplotlib.pyplot  # noqa: F401  wandb.Image looks for it
            import wandb

            pictures = {name: wandb.Image(figure) for name, figure in figures.items()}
            wandb.log(row | pictures, step=self.step)

    def save_checkpoint(self, path: str | Path) -> None:
        """Writes the network's state dict, a file that both programs load."""
        save_tensors(path, {name: value.cpu() for name, value in self.transformer.state_dict().items()})

    def load_transformer(self, path: str | Path) -> None:
        """Loads a state dict of either program onto the current device and dtype; ValueError names a file that does not
        fit, and the network stays as it was. Only tensors are read, no code."""
        state = load_tensors(path)
        before = {name: value.clone() for name, value in self.transformer.state_dict().items()}
        try:
            self.transformer.load_state_dict(state)
        except Exception as error:  # of any kind, for what is no state dict
            self.transformer.load_state_dict(before)
            reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
            raise ValueError(f"{path}: is not a state dict of this network ({reason}).") from None
        if self.weight_average:
            self._trained.load_state_dict(self.transformer.state_dict())

    @classmethod
    def _rebuilt(cls, folder: Path, changed: dict) -> TrainTransformer:
        """Data set and trainer of a run folder, some parameters changed, network untrained; no larger than any saved."""
        pick_device(changed.get("device", "cpu"))
        params = read_json(folder / "params_training.json")
        dataset = AbstractionDataset(dataset_len=1)
        dataset.load(str(folder / "datasets" / "dataset"))
        params |= {"run_name": folder.name, "runs": str(folder.parent)} | changed
        if (lea := "vocab_speech_size" in params) != ("vocab_speech_size" in cls.params_class.__dataclass_fields__):
            raise ValueError(f"{folder}: is a run of {'LEA' if lea else 'the factor network'}; open it with the TrainTransformer "
                             f"of module_train_probe{'_lea' * lea}, resume it with train_model{'_lea' * lea}.py.")
        sizes = [path.stat().st_size for path in (folder / "checkpoints").glob("*")]
        try:
            p = cls.params_class.from_dict(params, ignored=IGNORED)
            words = getattr(p, "vocab_speech_size", 0) + getattr(p, "block_speech_size", 0)
            positions = dataset.board_dim**2 * p.n_embd_pos if p.transformer_type == "factor" else 0
            if sizes and p.n_embd * (p.n_layer * p.n_embd + words) + positions > max(sizes):  # weights, and bytes of them all
                raise ValueError("n_layer, n_embd and the other sizes are of a larger network than any in checkpoints.")
            return cls(dataset, **params)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / 'params_training.json'}: {error}") from None

    @classmethod
    def from_run(cls, folder: str | Path, checkpoint: str | None = None, device: str = "auto") -> TrainTransformer:
        """Data set, network and trainer of a run folder, with the weights of its last checkpoint or the one named
        (e.g. 'model_250.pth'), to look at: `resume` trains on. ValueError names what is missing."""
        folder = Path(folder).resolve()
        trainer = cls._rebuilt(folder, {"device": device})
        found = numbered(folder / "checkpoints", r"model_(\d+)\.pth")
        if checkpoint is None and not found:
            raise ValueError(f"{folder}: holds no checkpoint; train with save_model=True.")
        path = folder / "checkpoints" / checkpoint if checkpoint else found[-1][1]
        trainer.load_transformer(path)
        trainer.epoch = next((number + 1 for number, other in found if other == path), 0)
        return trainer

    @classmethod
    def resume(cls, folder: str | Path, **changed) -> TrainTransformer:
        """The trainer of a run that was saved with save_model, everything as it was after the last epoch saved: train() then
        goes on as if nothing had happened. Log rows of later epochs are cut.

        changed: epochs, device and the periods may be. ValueError for another parameter, where nothing was saved, where a
        file is damaged (a damaged newest state is passed over with a warning), or where another process has the run.
        """
        folder = Path(folder).resolve()
        if folder.is_dir() and not (newest_states(folder) and (folder / "run_log.csv").exists()):
            raise ValueError(f"{folder}: there is nothing to resume, no state was saved: the run was started with --save 0, "
                             "or stopped in its first moments; start it again.")
        before = read_json(folder / "params_training.json")
        for name, field in cls.params_class.__dataclass_fields__.items():
            if name in LATER:
                before.setdefault(name, field.default)
            if name not in before:
                raise ValueError(f"{folder / 'params_training.json'}: lacks {name}; the run is of another script or version.")
        before |= {"run_name": folder.name, "runs": str(folder.parent)}  # wherever it stands by now
        for name, value in changed.items():
            if name not in cls.params_class.__dataclass_fields__:
                raise TypeError(f"{name!r} is not a parameter.")
            value = cls.params_class.checked(name, value)
            if name == "recipe_epochs" and value is not None:
                raise ValueError(f"recipe_epochs = {value} must be left out: the epochs of the run's ramps are scaled already.")
            value = str(Path(value).resolve()) if name == "runs" else value
            if name not in CHANGEABLE and before[name] != value:
                raise ValueError(f"{name} = {shown(value)} must stay as the run has it, {before[name]!r}.")
        trainer = cls._rebuilt(folder, changed)
        if trainer.rank > 0:
            trainer._restore(from_leader(None))
            return trainer
        with lock(folder):
            state, damaged = trainer._newest_state()
            if trainer.epochs < trainer.epoch:
                raise ValueError(f"epochs = {trainer.epochs} must be at least {trainer.epoch}, which the run has trained.")
            trainer.log = RunLog(trainer._columns(), trainer.epochs, folder, resume_at=trainer.epoch)
            write_json(folder / "params_training.json", trainer.params)
            for path in damaged:
                path.rename(f"{path}.damaged")
        if state["torch"] != torch.__version__:
            warnings.warn(f"the run was trained with torch {state['torch']}, this is {torch.__version__}.", stacklevel=2)
        if state["threads"] != torch.get_num_threads():
            warnings.warn(f"the run goes on with {state['threads']} threads as before, not {torch.get_num_threads()}.",
                          stacklevel=2)
            torch.set_num_threads(state["threads"])
        from_leader(state)
        return trainer

    def _newest_state(self) -> tuple[dict, list[Path]]:
        """Goes back to the newest saved state that can be read and fits; that state, and the files passed over, each with a
        warning."""
        damaged = []
        for path in newest_states(self.folder):
            try:
                state = load_tensors(path)
                self._restore(state)
                kinds = {"epoch": int, "step": int, "threads": int, "torch": str}
                if any(type(state[name]) is not kind for name, kind in kinds.items()) or not 0 < state["threads"] < 2**10:
                    raise ValueError(f"{path}: is not all of a state.")
                for weight, moments in self.optim.state.items():
                    shapes = {name: tuple(value.shape) for name, value in moments.items()}
                    adamw = {"step": (), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}
                    if shapes not in (adamw, {"momentum_buffer": weight.shape}):
                        raise ValueError(f"{path}: is of another network.")
                return state, damaged
            except Exception as error:  # of any kind, for what is no state
                reason = str(error) if str(path) in str(error) else f"{path}: is no state of this run ({error!r:.80})."
                warnings.warn(f"{reason} It is passed over.", stacklevel=3)
                damaged.append(path)
        raise ValueError(f"{self.folder}: no saved state can be read.")

    def _state(self) -> dict:
        """A copy of all that training changes; random streams are named by the epoch."""

        def copy(x):
            if isinstance(x, torch.Tensor):
                return x.detach().clone()
            if isinstance(x, dict):
                return {key: copy(value) for key, value in x.items()}
            return [copy(value) for value in x] if isinstance(x, list) else x

        average = {"average": copy(dict(self._average.state_dict()))} if self.weight_average else {}
        return {"epoch": self.epoch, "step": self.step, "transformer": copy(dict(self._trained.state_dict())), **average,
                "optim": copy(self.optim.state_dict()), "user_rng": json.dumps(self._user_rng.bit_generator.state),
                "torch": str(torch.__version__), "threads": torch.get_num_threads()}

    def _restore(self, state: dict) -> None:
        self._trained.load_state_dict(state["transformer"])
        if self.weight_average:
            self._average.load_state_dict(state["average"])
        groups = self.optim.state_dict()["param_groups"]  # their settings are parameters of the run
        self.optim.load_state_dict({"state": state["optim"]["state"], "param_groups": groups})
        self.epoch, self.step = state["epoch"], state["step"]
        self._user_rng.bit_generator.state = json.loads(state["user_rng"])

    # testing

    def _mask(self, boards: np.ndarray, p: float, patch_p: float, rng, types=None, corners=None):
        for name, value in (("masking_p", p), ("patch_masking_p", patch_p)):
            if not isinstance(value, numbers.Real):
                raise TypeError(f"{name} must be a number from 0 to 1, not {value!r}.")
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a number from 0 to 1, not {value!r}.")
        return self.dataset.mask(boards, p, patch_p, types, corners, rng)

    def _mask_input(
        self, board, masking_p: float, patch_masking: bool = False, patch_masking_p: float = 0.1,
        bool_report: bool = False,
    ):
        """Boards (n, h, w) or (n, T), tensor or array, with cells hidden as in training; the same kind and shape.

        With bool_report also {'boardType': (n,): 0 no patch, 1 root board, 3 composite}.
        """
        array = board.cpu().numpy() if isinstance(board, torch.Tensor) else np.asarray(board)
        side = self.dataset.board_dim
        if array.ndim < 1 or array.shape[-2:] != (side, side) and array.shape[-1] != side * side:
            raise ValueError(f"board must have shape (n, {side}, {side}) or (n, {side * side}), not {array.shape}.")
        boards = array.reshape(-1, side, side)
        mask, kinds = self._mask(boards, masking_p, patch_masking_p if patch_masking else 0.0, self._user_rng)
        masked = np.where(mask, self.masking_token, boards).reshape(array.shape)
        if isinstance(board, torch.Tensor):
            masked = torch.from_numpy(masked).to(board.device)
        return (masked, {"boardType": kinds}) if bool_report else masked

    def _reconstruct(self, boards: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
        """Greedy reconstructions (n, h, w) of boards under masks, one for each of `outputs`."""
        with evaluating(self.transformer):
            made = [[logits.argmax(-1).cpu().numpy() for logits in self._predict(tokens)]
                    for tokens in self._masked_batches(boards, masks)]
        return {name: np.concatenate(parts).reshape(boards.shape)
                for name, parts in zip(self.outputs, zip(*made, strict=True), strict=True)}

    def _masked_batches(self, boards: np.ndarray, masks: np.ndarray) -> Iterator[torch.Tensor]:
        """Masked boards (n, h, w) as tokens (B, T) on the device, EVAL_BATCH boards at a time."""
        for start in range(0, len(boards), EVAL_BATCH):
            part = slice(start, start + EVAL_BATCH)
            yield self._tokens(boards[part]).masked_fill(self._tokens(masks[part].astype(bool)), self.masking_token)

    def _evaluate(self, drawn: Boards, p: float, patch_p: float, rounds: int, rng) -> tuple[dict, dict]:
        """Scores by output and {boards, recons by output, masks, types} of boards masked `rounds` times afresh."""
        drawn = Boards.join([drawn] * rounds)
        masks, _ = self._mask(drawn.boards, p, patch_p, rng, drawn.types, drawn.corners)
        recons = self._reconstruct(drawn.boards, masks)
        scores = {name: score(drawn.boards, recon, masks, drawn.types) for name, recon in recons.items()}
        return scores, {"boards": drawn.boards, "recons": recons, "masks": masks.astype(np.int64), "types": drawn.types}

    def _test_boards(self, rng, count_max: int = 100) -> tuple[dict[str, Boards], list[int]]:
        """Boards of 'test', where there are some, and as many of 'train' by type; how many of each type."""
        dataset = self.dataset
        drawn = {}
        if dataset.sets is not None and any(len(table) for name, table in dataset.sets.items() if name.endswith("_test")):
            drawn["test"] = dataset.all_boards("test", count_max, rng)
            counts = np.bincount(drawn["test"].types, minlength=3).tolist()
        else:
            counts = [count_max * (name in dataset.board_types) for name in TYPES]
        one_type = dict(zip(dataset.board_types, np.eye(len(dataset.board_types)), strict=True))
        drawn["train"] = Boards.join([
            dataset.sample(count, "train", one_type[name], rng)
            for name, count in zip(TYPES, counts, strict=True) if count
        ])
        return drawn, counts

    def _test(self, epoch: int) -> dict[str, float]:
        """Log columns of the test after an epoch, from a random stream of its own."""
        rng = numpy_rng(self.seed, STREAM_TEST, epoch)
        drawn, counts = self._test_boards(rng)
        row = self._count_row(counts, "test" in drawn)
        for split in ("train", "test"):
            scores = self._evaluate(drawn[split], *self._test_masking(epoch), 2, rng)[0] if split in drawn else {}
            for output in self.outputs:
                values = score_values(scores[output]) if scores else [-1.0] * 6
                row |= zip(self._test_columns(split, output), values, strict=True)
        return row

    def test_model_accuracy(
        self, nb_instances: int, masking_p: float, patch_masking: bool = False, patch_masking_p: float = 0.1,
        verbose: bool = False, display_erroneous_boards: bool = False,
    ) -> Accuracy:
        """Greedy reconstruction of nb_instances boards drawn from train, hidden cells and patches as in training."""
        check_sizes(nb_instances=nb_instances)
        drawn = self.dataset.sample(int(nb_instances), "train", rng=self._user_rng)
        return self._accuracy(drawn, masking_p, patch_masking_p if patch_masking else 0.0, 1, verbose,
                              display_erroneous_boards)

    def test_model_accuracy_set(
        self, target_set: str, masking_p: float, patch_masking: bool = False, patch_masking_p: float = 0.1,
        masking_rounds: int = 1, verbose: bool = False, display_erroneous_boards: bool = False,
        count_max: int | None = 100,
    ) -> Accuracy:
        """As test_model_accuracy, of the boards of a split, at most count_max a type, each masked masking_rounds times."""
        check_sizes(masking_rounds=masking_rounds)
        drawn = self._boards_of(target_set, count_max, self._user_rng)
        return self._accuracy(drawn, masking_p, patch_masking_p if patch_masking else 0.0, masking_rounds, verbose,
                              display_erroneous_boards)

    def _boards_of(self, target_set: str, count_max: int | None, rng) -> Boards:
        """The boards of a split, at most count_max a type; ValueError where there are none."""
        drawn = self.dataset.all_boards(target_set, count_max, rng)
        if not len(drawn):
            raise ValueError(f"target_set = {target_set!r} holds no boards (count_max = {count_max}).")
        return drawn

    def _accuracy(self, drawn, p, patch_p, rounds, verbose, display):
        scores, made = self._evaluate(drawn, p, patch_p, rounds, self._user_rng)
        if verbose:
            print(accuracy_table({self.outputs[name]: score_values(s) for name, s in scores.items()}))
        if display:
            self._show_erroneous(made)
        return self._accuracy_result(scores, made)

    def _accuracy_result(self, scores: dict, made: dict):
        """What the test methods return."""
        s = scores[""]
        result = Accuracy((s["acc_tokens"], s["acc_boards"], made["boards"], made["recons"][""], made["masks"],
                           s["acc_boards_breakdown"]))
        result.acc_hidden = s["acc_hidden"]
        return result

    def test_model_accuracy_subset(self, boards, masks, bool_show_erroneous_boards: bool = False) -> dict:
        """Greedy reconstruction of the boards (n, h, w) given, under the masks (n, h, w) given, 1 = hidden.

        Returns boards_recons, boards, masks (n, h, w); error_token, error_masked_token, error_board: shares of wrong
        tokens, hidden tokens and boards; erroneous_boards: indices of the boards with a mistake.
        """
        boards, masks = self._given(boards, masks)
        recons = self._reconstruct(boards, masks)
        scores = {name: score(boards, recon, masks, np.zeros(len(boards))) for name, recon in recons.items()}
        if bool_show_erroneous_boards:
            self._show_erroneous({"boards": boards, "recons": recons, "masks": masks})
        return self._subset_result(scores, {"boards": boards, "recons": recons, "masks": masks})

    def _subset_result(self, scores: dict, made: dict) -> dict:
        s, recons = scores[""], made["recons"][""]
        return {
            "boards_recons": recons, "boards": made["boards"], "masks": made["masks"],
            "error_token": 1 - s["acc_tokens"], "error_masked_token": 1 - s["acc_hidden"],
            "error_board": 1 - s["acc_boards"],
            "erroneous_boards": np.flatnonzero((recons != made["boards"]).any((1, 2))),
        }

    def _given(self, *arrays, names=("boards", "masks", "boards_abs"), one: bool = False) -> tuple[np.ndarray, ...]:
        """Arrays as int64 (n, h, w), from (n, h, w) or (h, w), n = 1 where one; ValueError names one of another shape or
        with values that its name does not allow: boards hold tokens, masks 0 and 1, others -1 or more."""
        side, given = self.dataset.board_dim, []
        for name, array in zip(names, arrays, strict=False):
            try:
                array = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
            except ValueError:
                raise TypeError(f"{name} must be an array of whole numbers, not {shown(array)}.") from None
            if array.dtype.kind not in "biuf":
                raise TypeError(f"{name} must be an array of whole numbers, not of {array.dtype}.")
            shape = array.shape[-3:] if array.ndim != 2 else (1, *array.shape)
            if array.ndim not in (2, 3) or shape[1:] != (side, side) or not shape[0] or (one and shape[0] > 1):
                wanted = f"({side}, {side})" if one else f"(n, {side}, {side}) or ({side}, {side})"
                raise ValueError(f"{name} must have shape {wanted}, not {array.shape}.")
            if given and len(given[0]) != shape[0]:
                raise ValueError(f"{name} must be as many as {names[0]}, {len(given[0])}, not {shape[0]}.")
            high = self.vocab_size - 1 if name in ("board", "boards") else 1 if "mask" in name else None
            low = -1 if high is None else 0
            fits = (np.floor(array) == array) & (array >= low) & (array <= (np.iinfo(np.int64).max if high is None else high))
            if not fits.all():
                end = "on" if high is None else f"to {high}"
                raise ValueError(f"{name} must hold whole numbers from {low} {end}, not {array[~fits][0]}.")
            given.append(array.reshape(shape).astype(np.int64))
        return tuple(given)

    # reports

    def _report(self, row: dict[str, float]) -> str:
        """One line, and at a test a table, of an epoch's log row."""
        line = self._report_line(row)
        if not row["written"]:
            return line
        table = {}
        for split in ("train", "test"):
            for output, title in self.outputs.items():
                values = [row[name] for name in self._test_columns(split, output)]
                if values[0] >= 0:
                    table[f"{split} {title}" if output else split] = values
        return line + "\n" + accuracy_table(table)

    def _figures(self, epoch: int) -> dict:
        """The pictures of a run: learning curves and sample reconstructions."""
        rng = numpy_rng(self.seed, STREAM_TEST, epoch, 1)
        drawn, _ = self._test_boards(rng, 2)
        _, made = self._evaluate(drawn.get("test", drawn["train"]), *self._test_masking(epoch), 1, rng)
        return {"learning_curves": plot_curves(self.log.arrays, self.curves),
                "reconstructions": self._plot_reconstructions(**made)}

    def _plot_reconstructions(self, boards, recons, masks, types=None):
        """Masked board, reconstructions and truth, a board a row; hidden cells hatched, mistakes crossed out."""
        figure, axes = new_figure(len(boards), len(recons) + 2, (2.2 * (len(recons) + 2), 2.2 * len(boards)))
        colors = token_colors(self.dataset.vocab_bck, self.dataset.vocab_token)
        for i, row in enumerate(axes):
            objects = (boards[i] >= self.dataset.vocab_bck)
            masked = np.where(masks[i], self.masking_token, boards[i])
            draw_board(row[0], masked, colors, objects & (masks[i] == 0), masks[i], font=6)
            for ax, recon in zip(row[1:], recons.values(), strict=False):
                draw_board(ax, recon[i], colors, recon[i] >= self.dataset.vocab_bck, None, recon[i] != boards[i], 6)
            draw_board(row[-1], boards[i], colors, objects, font=6)
        for ax, title in zip(axes[0], ["masked board", *(self.outputs[name] for name in recons), "truth"], strict=True):
            ax.set_title(title, fontsize=9)
        return figure

    def _show_erroneous(self, made: dict, most: int = 10) -> None:
        """Shows up to `most` boards with mistakes in a notebook; with a run_name also in analysis/erroneous_boards.png."""
        wrong = np.flatnonzero(np.any([(r != made["boards"]).any((1, 2)) for r in made["recons"].values()], axis=0))[:most]
        if not len(wrong):
            return
        figure = self._plot_reconstructions(made["boards"][wrong], {k: r[wrong] for k, r in made["recons"].items()},
                                            made["masks"][wrong])
        if self.run_name:
            save_figure(figure, self.folder / "analysis" / "erroneous_boards.png", self.plot_dpi)
        show_figure(figure)

    # recording

    def record(self, names: str | Sequence[str] | None = None) -> contextlib.AbstractContextManager[dict[str, torch.Tensor]]:
        """Named activations of the forward passes inside the `with`, as a dict {name: detached tensor, batch first}.

        names: exact names or patterns ('b0_*'), all where None; ValueError for one that matches nothing. Several passes
        are joined along the batch. The network is as before afterwards, also after an exception.

        >>> with trainer.record("b*_z_attn_mlp") as acts:
        ...     logits = trainer.transformer(tokens)
        """
        return recording(self.transformer, names)

    # probing; what a subclass with another network supplies first

    @property
    def token_table(self) -> np.ndarray:
        """Token embeddings (V, D)."""
        return self.transformer.tok_emb.weight.detach().cpu().numpy()

    @property
    def position_table(self) -> np.ndarray:
        """Position codes (T, P)."""
        return self.transformer.pos_emb[0].detach().cpu().numpy()

    def _probe(self, tokens: torch.Tensor) -> None:
        """The forward pass to look into, of masked boards (B, T)."""
        self.transformer(tokens)

    def _recorded(self, boards, masks, edits=None, names=("b*", "z_out", "logit")) -> dict[str, np.ndarray]:
        """Named activations of masked boards, batch first."""
        parts = []
        for k, tokens in enumerate(self._masked_batches(boards, masks)):
            cut = cut_edits(edits, slice(k * EVAL_BATCH, (k + 1) * EVAL_BATCH), len(boards))
            with evaluating(self.transformer), editing(self.transformer, cut), self.record(names) as acts:
                self._probe(tokens)
            parts.append({name: act.cpu().numpy() for name, act in acts.items()})
        return {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}

    def forward_all_activations(self, boards, masks, edits: dict | None = None, verbose: bool = False,
                                return_recons: bool = False):
        """Every named activation of masked boards (n, h, w) as {name: array, batch first}; with return_recons also the
        greedy reconstructions (n, h, w). verbose: print the share of right tokens and boards.

        edits: {'b1': {'z': ...}, 'z_out': ...} with the places of GPTFactor.forward; each an array or tensor (n, T, D) or
        (T, D), a function of the activation (B, T, D) of a batch of boards, or a pair of one of these and a mask (n, T) or
        (T,), true at the tokens to edit. ValueError for an unknown place or a wrong shape.
        """
        boards, masks = self._given(boards, masks)
        acts = self._recorded(boards, masks, edits)
        recons = acts["logit"].argmax(-1).reshape(boards.shape)
        if verbose:
            right = recons == boards
            print(f"right tokens {100 * right.mean():.2f}%, right boards {100 * right.all((1, 2)).mean():.2f}%")
        return (acts, recons) if return_recons else acts

    @property
    def _meta(self) -> dict:
        return {"nb_blocks": self.n_layer, "nb_heads": self.n_head, "nb_tokens": self.block_size, "dim_emb": self.n_embd}

    def forward_svg(self, board, board_abs, mask, folder: str | Path = "./svg") -> None:
        """Writes the activations of one board (h, w) to folder: meta.json, svg_groups.npy and svg_mask.npy (T,), and
        svg_{name}.npy of each block's without batch axis, attention (T, T) and values (T, D/H) also by head (_h{j})."""
        board, mask, board_abs = self._given(board, mask, board_abs, names=("board", "mask", "board_abs"), one=True)
        acts = by_head(self._recorded(board, mask, names="b*"), self.n_head)
        for name, array in {"groups": board_abs.reshape(1, -1), "mask": mask.reshape(1, -1), **acts}.items():
            save_array(Path(folder) / f"svg_{name}.npy", array[0])
        write_json(Path(folder) / "meta.json", self._meta)

    def forward_pca(self, boards, boards_abs, masks, folder: str | Path = "./pca", extra_meta: dict | None = None) -> None:
        """Writes boards, boards_abs, masked_boards, masks (n, h, w) and every named activation, batch first, to folder as
        .npy files, attention and values also by head (_h{j}); extra_meta is merged into meta.json."""
        given = self._given(boards, masks, boards_abs)
        try:
            text = json.dumps(self._meta | (extra_meta or {}), default=lambda value: value.tolist())
        except (AttributeError, TypeError, ValueError):
            raise TypeError(f"extra_meta must be a dict of what JSON can hold, not {extra_meta!r:.80}.") from None
        self._write_arrays(Path(folder), "", *given)
        write_json(Path(folder) / "meta.json", json.loads(text))

    def forward_pca_batch(self, boards, boards_abs, masks, folder: str | Path, batch_size: int) -> None:
        """As forward_pca, in near-equal batches of at most batch_size boards, one in memory at a time: files
        batch_{k}_….npy, which module_files.open_batches opens as one array, and in meta.json `batches`, the indices of each."""
        given = self._given(boards, masks, boards_abs)
        check_sizes(batch_size=batch_size)
        batches = divide_into_batches(range(len(given[0])), -(-len(given[0]) // int(batch_size)))
        (Path(folder) / "meta.json").unlink(missing_ok=True)  # written last, it says that all files are there
        for k, batch in enumerate(batches):
            self._write_arrays(Path(folder), f"batch_{k}_", *(array[batch] for array in given))
        write_json(Path(folder) / "meta.json", self._meta | {"batches": batches})

    def _write_arrays(self, folder: Path, prefix: str, boards, masks, boards_abs) -> None:
        masked = np.where(masks, self.masking_token, boards)
        arrays = {"boards": boards, "boards_abs": boards_abs, "masked_boards": masked, "masks": masks}
        for name, array in (arrays | by_head(self._recorded(boards, masks), self.n_head)).items():
            save_array(folder / f"{prefix}{name}.npy", array)

    # figures; each analyze_ method returns {file name without .jpg: Figure}

    def _save(self, figures: dict, folder: str | Path = "", merged: Sequence[str] = ()) -> dict:
        """Saves figures to a folder of the run's analysis/, and those of a block and head each as one, for each prefix."""
        folder = self.folder / "analysis" / folder
        for name, figure in figures.items():
            save_figure(figure, folder / f"{name}.jpg", self.plot_dpi)
        for prefix in merged:
            merge_attn_plots(f"{folder}/", range(self.n_head), range(self.n_layer), prefix)
        return figures

    @property
    def _side(self) -> tuple[int, int]:
        return (self.dataset.board_dim,) * 2

    @property
    def _rows(self) -> list[tuple[str, int]]:
        """Tokens by row of the board, as groups of a matrix."""
        return [(str(row), self.dataset.board_dim) for row in range(self.dataset.board_dim)]

    @property
    def _stage_names(self) -> list[list[str]]:
        return [[f"b{i}_{stage}" for stage in self.stages] for i in range(self.n_layer)]

    def _view(self, board, board_abs, mask) -> BoardView:
        return BoardView(board[0], board_abs[0], mask[0], token_colors(self.dataset.vocab_bck, self.dataset.vocab_token))

    def analyze_embeddings_tokenandpos(self) -> dict:
        """embedding_token: the token embeddings and how far apart they are, lines between backgrounds, object tokens and
        UNK; tokens that the network treats alike make a dark block. embedding_pos: the same of the position codes, lines
        between rows of the board. embedding_pos_2d: each cell's distances to all cells as a small board, laid out at that
        cell; where the network knows what is near, each has its extreme at its own place and fades around it."""
        families = [("background", self.dataset.vocab_bck), ("object", self.dataset.vocab_token), ("UNK", 1)]
        measures = {"Euclidean distance": dist, "unit-norm Euclidean distance": dist_unit, "cosine": dist_cosine}
        maps = np.stack([mirrored(measure(self.position_table)) for measure in measures.values()])
        return self._save({
            "embedding_token": plot_table(self.token_table, families, "token embeddings", "token"),
            "embedding_pos": plot_table(self.position_table, self._rows, "position codes", "cell, by row of the board"),
            "embedding_pos_2d": plot_panels(
                tiled(maps.reshape(1, -1, *self._side, *self._side)), [list(measures)], "", (self._rows,) * 2, size=3.6,
                names=("row of the cell", "column of the cell")),
        })

    def analyze_embeddings(self, board=None, board_abs=None, board_params: dict | None = None, masking: dict | None = None,
                           bool_sharedCmap: bool = False) -> dict:
        """embeddings_z, embeddings_z_dist and embeddings_z_dist_across, as analyze_all explains them but all Euclidean, of a
        board (h, w) or, without one, of one drawn with nb_root_abs random roots or that composite with that margin.

        board_params: {'nb_root_abs': 1, 'composite': None, 'margin': 0}; masking: {'bool_mask': True, 'p': 0.25}; keys left
        out have these values. bool_sharedCmap: one colour scale for all panels.
        """
        params = with_defaults("board_params", board_params, {"nb_root_abs": 1, "composite": None, "margin": 0})
        masking = with_defaults("masking", masking, {"bool_mask": True, "p": 0.25})
        if board is None and params["composite"] is None:
            check_sizes(nb_root_abs=params["nb_root_abs"])
            board, board_abs = self.dataset._draw_board_deterministic("root", [-1] * params["nb_root_abs"])
        elif board is None:
            board, board_abs = self.dataset._draw_board_deterministic(
                "composite", composite=params["composite"], composite_margin=params["margin"])
        board_abs = np.full(self._side, -1) if board_abs is None else board_abs
        board, board_abs = self._given(board, board_abs, names=("board", "board_abs"), one=True)
        mask = self._mask(board, masking["p"] if masking["bool_mask"] else 0.0, 0.0, self._user_rng)[0].astype(np.int64)
        view, acts = self._view(board, board_abs, mask), self._recorded(board, mask, names=sum(self._stage_names, []))
        scale = "shared" if bool_sharedCmap else None
        return self._save(self._figures_z(acts, view, scale) | self._figure_across(acts, view, dist, "Euclidean distance"))

    def analyze_all(self, board, board_abs, mask, queries, folder: str = "default", bool_z: bool = True,
                    bool_attn: bool = True) -> dict:
        """Pictures of what the network does with one masked board (h, w), blocks down and stages across.

        embeddings_z: activations, token x dimension. embeddings_z_norm: their lengths, laid out as the board.
        embeddings_z_dist, _dist_unit: distances between tokens, of activations and of their directions; below the diagonal
        the pairs of tokens of each object are marked, so that a dark patch which mirrors a mark is an object whose tokens
        are alike. embeddings_z_dist_across: of each token, unit-norm distances between its own stages; bright is where it
        turns. embeddings_z_2D: each token's unit-norm distances to all tokens as a small board, laid out at that token.
        attn_b{i}_h{j}: where each query (outlined) looks, j = -1 the mean of heads; attn_merge: heads downwards, blocks
        across. attn: the same of every cell, a small board laid out at the query, log of attention over its maximum.

        queries (h, w): -1 none, i >= 0 the i-th query (its first cell counts). bool_z, bool_attn: which figures to make.
        """
        board, board_abs, mask = self._given(board, board_abs, mask, names=("board", "board_abs", "mask"), one=True)
        queries = self._queries(queries) if bool_attn else None
        view, acts = self._view(board, board_abs, mask), self._recorded(board, mask, names="b*")
        figures = {}
        if bool_z:
            figures |= self._figures_z(acts, view) | self._figures_unit(acts, view)
            figures |= self._figure_across(acts, view, dist_unit, "unit-norm Euclidean distance", (0, 2))
        for prefix, (site, boardlike) in self.attention.items() if bool_attn else ():
            weights = np.stack([acts[f"b{i}_{site}"][0] for i in range(self.n_layer)])  # (L, H, T, keys)
            seen = weights[:, :, queries["tokens"]]
            for maps, heads in ((seen.mean(1, keepdims=True), [-1]), (seen, range(self.n_head))):
                figures |= self._figures_queries(maps, heads, prefix, queries, "attention", boardlike, view)
            figures[prefix] = self._figure_attn(weights, boardlike, view)
        return self._save(figures, folder, list(self.attention) if bool_attn else ())

    def _stacked(self, acts: dict[str, np.ndarray]) -> np.ndarray:
        """One board's activations by block and stage, (L, stages, T, D)."""
        return np.stack([[acts[name][0] for name in names] for names in self._stage_names])

    def _figures_z(self, acts, view, scale=None) -> dict:
        z, rows, name = self._stacked(acts), self._rows, "token, by row of the board"
        return {
            "embeddings_z": plot_panels(z, self._stage_names, "activation", (rows, ()), scale, view=view,
                                        names=(name, "dimension")),
            "embeddings_z_dist": plot_panels(dist(z), self._stage_names, "Euclidean distance", (rows, rows), scale, "magma",
                                             view.objects.ravel(), view, (name, name)),
        }

    def _figures_unit(self, acts, view) -> dict:
        z, rows, name, label = self._stacked(acts), self._rows, "token, by row of the board", "unit-norm Euclidean distance"
        unit, lengths = dist_unit(z), np.linalg.norm(z, axis=-1)
        return {
            "embeddings_z_norm": plot_panels(lengths.reshape(*lengths.shape[:2], *self._side), self._stage_names, "length",
                                             cmap="cividis", view=view),
            "embeddings_z_dist_unit": plot_panels(unit, self._stage_names, label, (rows, rows), "shared", "magma",
                                                  view.objects.ravel(), view, (name, name)),
            "embeddings_z_2D": plot_panels(
                tiled(mirrored(unit).reshape(*unit.shape[:2], *self._side, *self._side)), self._stage_names, label,
                (rows, rows), "shared", "magma", view=view, names=("row of the token", "column of the token"), size=2.8),
        }

    def _figure_across(self, acts, view, measure, label, scale=None) -> dict:
        z = self._stacked(acts).reshape(-1, self.block_size, self.n_embd)
        maps = measure(z.swapaxes(0, 1)).reshape(*self._side, len(z), len(z))
        return {"embeddings_z_dist_across": plot_across(maps, sum(self._stage_names, []), label, scale, view)}

    def _queries(self, queries) -> dict:
        """tokens (Q,), cells (Q, 2) and names of the queries that an array (h, w) numbers."""
        (queries,) = self._given(queries, names=("queries",), one=True)[0]
        numbers = np.unique(queries[queries >= 0])
        if not len(numbers):
            raise ValueError("queries must number at least one cell, from 0 on.")
        cells = np.array([get_ij(queries, number) for number in numbers])
        names = [f"{number} at ({i}, {j})" for number, (i, j) in zip(numbers, cells, strict=True)]
        return {"tokens": cells @ [self.dataset.board_dim, 1], "cells": cells, "names": names}

    def _figures_queries(self, maps, heads, prefix, queries, label, boardlike, view=None) -> dict:
        """{prefix}_b{i}_h{j} of maps (L, heads, Q, keys): a board a query, or a row a query where keys are words."""
        figures = {}
        for (i, k), keys in zip(np.ndindex(maps.shape[:2]), maps.reshape(-1, *maps.shape[2:]), strict=True):
            title = f"block {i}, " + (f"head {heads[k]}" if heads[k] >= 0 else "mean of heads")
            figures[f"{prefix}_b{i}_h{heads[k]}"] = (
                plot_queries(keys.reshape(-1, *self._side), queries["cells"], queries["names"], label, title, view)
                if boardlike else
                plot_panels(keys[None, None], [[f"{title}: query by word"]], label, ([(q, 1) for q in queries["names"]], ()),
                            (0, keys.max()), view=view, names=("", "word of the sentence"), size=3)
            )
        return figures

    def _figure_attn(self, weights, boardlike, view):
        """Log of attention (L, H, T, keys) over its row's maximum, heads down and blocks across."""
        logs = np.log(np.maximum(weights / weights.max(-1, keepdims=True), np.finfo(weights.dtype).tiny)).swapaxes(0, 1)
        titles = [[f"block {i}, head {j}" for i in range(self.n_layer)] for j in range(self.n_head)]
        columns, names = (), ("query, by row of the board", "word of the sentence")
        if boardlike:
            logs = tiled(logs.reshape(*logs.shape[:2], *self._side, *self._side))
            columns, names = self._rows, ("row of the query", "column of the query")
        return plot_panels(logs, titles, "log(attention / its maximum over keys)", (self._rows, columns), (-6, 0), "cividis",
                           view=view, names=names, size=3.2, extend="min")

    def analyze_across_boards(self, boards, masks, focus_masks=None, folder: str = "default") -> dict:
        """embeddings_z_acrossBoards: for each token the mean distance, over pairs of boards (n, h, w), between its unit-norm
        activations, laid out as the board; dark is what the boards have in common at that stage.

        focus_masks (n, h, w): compare only these cells, s² on every board, matched in reading order, shown as s x s.
        """
        focus_masks = np.ones_like(boards, dtype=int) if focus_masks is None else focus_masks
        boards, masks, focus = self._given(boards, masks, focus_masks, names=("boards", "masks", "focus_masks"))
        n = len(boards)
        counts = focus.sum((1, 2))
        s = math.isqrt(counts[0])
        if n < 2:
            raise ValueError("boards must be at least two to be compared.")
        if (counts != s * s).any() or not s:
            raise ValueError("focus_masks must mark the same square number of cells on every board.")
        cells = np.nonzero(focus.reshape(n, -1))[1].reshape(n, s * s, 1)
        names = sum(self._stage_names, [])
        acts = self._recorded(boards, masks, names=names)
        tokens = np.concatenate([np.take_along_axis(acts[name], cells, axis=1) for name in names], axis=1).swapaxes(0, 1)
        spread = np.array([dist_unit(token).sum() for token in tokens]) / (n * (n - 1) / 2)  # pairs: n x n at a time
        label = "mean unit-norm distance between boards"
        return self._save({"embeddings_z_acrossBoards": plot_panels(
            spread.reshape(self.n_layer, -1, s, s), self._stage_names, label, scale="shared", cmap="magma")}, folder)

    def analyze_across_boards_attn(self, boards, masks, queries, folder: str = "default") -> dict:
        """attnVar_b{i}_h{j}: variance over boards (n, h, w) of the attention that each query (outlined) pays to each cell;
        dark is attention that does not depend on the board. attnVar_merge: heads downwards, blocks across.

        queries (h, w), as in analyze_all."""
        boards, masks = self._given(boards, masks)
        queries, figures = self._queries(queries), {}
        for prefix, (site, boardlike) in self.attention.items():
            acts = self._recorded(boards, masks, names=[f"b{i}_{site}" for i in range(self.n_layer)])
            maps = np.stack([acts[f"b{i}_{site}"][:, :, queries["tokens"]].var(0) for i in range(self.n_layer)])
            figures |= self._figures_queries(maps, range(self.n_head), f"{prefix}Var", queries, "variance", boardlike)
        return self._save(figures, folder, [f"{prefix}Var" for prefix in self.attention])


def by_head(acts: dict[str, np.ndarray], n_head: int) -> dict[str, np.ndarray]:
    """acts, and each head's share of attention weights (n, H, T, keys) and of values (n, T, D) as {name}_h{j}."""
    parts = dict(acts)
    for name, act in acts.items():
        if name.endswith("_a"):
            parts |= {f"{name}_h{j}": act[:, j] for j in range(n_head)}
        elif name.endswith("_v") and not name.endswith("_attn_v"):
            parts |= {f"{name}_h{j}": part for j, part in enumerate(np.split(act, n_head, axis=-1))}
    return parts


def with_defaults(name: str, values: dict | None, defaults: dict) -> dict:
    """defaults with values in their place; ValueError for a key that is not among them."""
    if not isinstance(values, (dict, type(None))):
        raise TypeError(f"{name} must be a dict with keys among {', '.join(defaults)}, not {shown(values)}.")
    for key in values or {}:
        if key not in defaults:
            raise ValueError(f"{name} has no key {key!r}; there are {', '.join(defaults)}.")
    return defaults | (values or {})


def score_values(s: dict) -> list[float]:
    """A score's accuracies in the order of a test's log columns."""
    return [s["acc_tokens"], s["acc_hidden"], s["acc_boards"], *s["acc_boards_breakdown"]]


def accuracy_table(rows: dict[str, Sequence[float]]) -> str:
    """Accuracies in percent as text, a line for each of rows, values in the order of a test's log columns."""
    width = max([8, *(len(name) + 2 for name in rows)])
    lines = [" " * width + "".join(f"{head:>12}" for head in ("tokens", "hidden", "boards", *TYPES))]
    for name, values in rows.items():
        lines.append(f"{name:>{width}}" + "".join(f"{'-':>12}" if np.isnan(v) else f"{100 * v:>11.1f}%" for v in values))
    return "\n".join(lines)
