"""Trains and probes GPTFactor on boards (arXiv 2312.05361): the one training loop, on top of evaluation and
probing.

Axis letters: n boards, h x w cells of a board, B boards in a batch, T = h * w tokens.

A run is a function of its parameters and its seed: the boards and masks of an epoch, its dropout and its test
draw from streams of their own, named by (seed, what, epoch), so that nothing depends on what was evaluated in
between.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from module_dataset import AbstractionDataset
from module_transformer_factor import ATTENTIONS, PRODUCTS, GPTFactor
from parts.files import load_tensors, numbered, save_tensors
from parts.params import keywords_of, pick_device
from parts.probing.analyses import Probe
from parts.probing.evaluation import Accuracy, accuracy_table, score_values
from parts.probing.panels import own_style, plot_curves
from parts.probing.sites import alone_with
from parts.training.kernels import compute_by, faster_ways
from parts.training.learner import Learner, plain_names
from parts.training.recipe import IGNORED, TrainParams
from parts.training.run import (
    Run,
    RunLog,
    Signals,
    TrainingStopped,
    lock,
    newest_state,
    params_of,
    params_to_resume,
)
from parts.training.wandb import check_wandb_runs, log_to_wandb
from utils import (
    caution,
    dist,
    dist_cosine,
    dist_unit,
    fresh_seed,
    from_leader,
    numpy_rng,
    out_of_memory,
    progress_bar,
    ramp,
    rank_and_world,
    say,
    sum_over_processes_,
    to_numpy,
    torch_entropy,
    using_threads,
)

__all__ = [
    "TrainTransformer",
    "TrainParams",
    "TrainingStopped",
    "Accuracy",
    "torch_entropy",
    "dist",
    "dist_unit",
    "dist_cosine",
    "ramp",
]

CELLS_AT_ONCE = 2**22  # cells of boards drawn in one array operation
STREAM_TRAIN, STREAM_TEST, STREAM_DROPOUT, STREAM_USER = range(1, 5)
# parameters that a trainer is built with, and that cannot be assigned afterwards
FIXED = (
    "transformer_type",
    "vocab_size",
    "block_size",
    "masking_token",
    "n_layer",
    "n_head",
    "n_embd",
    "n_embd_pos",
    "embd_pdrop",
    "resid_pdrop",
    "attn_pdrop",
    "optimizer",
    "weight_average",
    "dtype",
    "product_way",
    "attention_way",
    "seed",
    "vocab_speech_size",
    "block_speech_size",
    "bool_blank_speech",
    "vq_type",
    "vq_expire",
    "slot_heads",
)


@keywords_of(TrainParams, first=["dataset"])
class TrainTransformer(Probe):
    """A data set, a network and its optimiser: train, test, record, edit.

    Keywords are those of TrainParams, each also an attribute of the object, checked when it is assigned;
    those of the network cannot be. Other attributes: dataset, transformer (the network; with weight_average
    the average of what is trained), optim, step (optimiser steps taken), epoch (epochs trained), device, log
    (RunLog of the run, or None). TypeError for an unknown keyword or a wrong type, ValueError for a wrong
    value.

    >>> trainer = TrainTransformer(AbstractionDataset(seed=0), epochs=2, seed=0)
    >>> losses = trainer.train()
    """

    params_class = TrainParams
    run_suffix = {"factor": "_factor"}  # of run_name, by transformer_type
    loss_columns = ("loss", "error")
    count_columns = ("nb_boards", "nb_boards_singleRoot", "nb_boards_doubleRoot", "nb_boards_composite")
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
        self.rank, self.world = rank_and_world()
        self.recipe = self._fitting_recipe(params)
        self.device = pick_device(self.recipe.device)
        self._check_boards()
        mixed = self.dtype == "bfloat16"
        network = self._network().to(self.device, torch.float32 if mixed else getattr(torch, self.dtype))
        self._choose_ways()
        compute_by(network, self.product_way, self.attention_way)
        self.learner = Learner(network, self.optimizer, self.learning_rate, self.weight_average, mixed)
        self.transformer, self.optim = self.learner.shown, self.learner.optim
        self.step = 0
        self._at_epoch(0)
        self.run: Run | None = None
        self._user_rng = numpy_rng(self.seed, STREAM_USER)
        self._signals = Signals()

    def _fitting_recipe(self, params: dict) -> TrainParams:
        """The parameters, those that follow from the data set and the seed filled in."""
        recipe, dataset = self.params_class.from_dict(params, ignored=IGNORED), self.dataset
        own = {"vocab_size": dataset.vocab_size, "block_size": dataset.board_dim**2,
               "masking_token": dataset.masking_token}
        for name, value in own.items():
            if getattr(recipe, name) not in (None, value):
                raise ValueError(f"{name} = {getattr(recipe, name)} must be the data set's, {value}.")
            setattr(recipe, name, value)
        recipe.seed = fresh_seed() if recipe.seed is None else recipe.seed
        if self.rank > 0:  # the first process keeps the run
            recipe.run_name, recipe.save_model = "", False
        return recipe

    def _check_boards(self) -> None:
        """ValueError where the data set does not give the boards that the recipe asks for."""
        smallest = min(self.batch_size, self.dataset_len % self.batch_size or self.batch_size)
        if self.world > smallest:
            raise ValueError(
                f"{self.world} processes must be at most the boards of the smallest batch; batch_size = "
                f"{self.batch_size}, dataset_len = {self.dataset_len}."
            )
        if self.overlap_weight > 1 and not self.dataset.allow_overlap:
            raise ValueError(
                f"overlap_weight = {self.overlap_weight:g} must be 1 where allow_overlap is False."
            )
        self.dataset._check_cells(min(self.batch_size, self.dataset_len), "batch_size")
        for epoch in (0, self.board_proba_epoch_end):
            self.dataset.sample(1, "train", self._board_proba(epoch), numpy_rng(self.seed))

    def _choose_ways(self) -> None:
        """Puts the faster ways of computing where the recipe says auto: the run keeps them."""
        ways = {"product_way": PRODUCTS[0], "attention_way": ATTENTIONS[0]}
        if "auto" not in (getattr(self, name) for name in ways):
            return
        # Windows counts the work of a thread in steps of 16 ms
        if self.device.type == "cpu" and self.dtype == "float32" and sys.platform != "win32":
            ways = dict(zip(ways, faster_ways(*self._sizes(), self.batch_size), strict=True))
        for name, way in from_leader(ways).items():
            if getattr(self, name) == "auto":
                setattr(self.recipe, name, way)

    def _sizes(self) -> tuple[int, int, int, int, int]:
        """Of the network, as faster_ways takes them."""
        return self.n_embd, self.n_embd + self.n_embd_pos, self.n_head, self.block_size, 0

    def __getattr__(self, name: str):
        if name in type(self).params_class.__dataclass_fields__ and "recipe" in self.__dict__:
            value = getattr(self.recipe, name)
            return list(value) if isinstance(value, list) else value
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}.")

    def __setattr__(self, name: str, value) -> None:
        if name not in self.params_class.__dataclass_fields__ or name == "device":
            super().__setattr__(name, value)
        elif name in FIXED:
            raise AttributeError(f"{name} is fixed when a trainer is made; make one with {name}={value!r}.")
        else:
            self.recipe = self.params_class.from_dict(self.recipe.as_dict() | {name: value})

    @property
    def params(self) -> dict:
        """Every parameter as it stands: what params_training.json holds and the constructor takes."""
        return self.recipe.as_dict()

    @property
    def folder(self) -> Path:
        """The run folder, runs/<run_name>."""
        return Path(self.runs) / self.run_name

    @property
    def log(self) -> RunLog | None:
        """The log of the run, None before it starts."""
        return None if self.run is None else self.run.log

    @property
    def dataset_len(self) -> int:
        """Boards in an epoch."""
        return len(self.dataset)

    # what a subclass with another network supplies

    def _network(self) -> torch.nn.Module:
        return GPTFactor(
            self.vocab_size, self.block_size, self.n_layer, self.n_head, self.n_embd, self.n_embd_pos,
            self.embd_pdrop, self.resid_pdrop, self.attn_pdrop, seed=self.seed,
        )

    def _loss(self, masked: torch.Tensor, boards: torch.Tensor, epoch: int) -> tuple[torch.Tensor, dict]:
        """Loss of a batch (B, T) and the tensors to sum over an epoch's steps, all left on the device: means
        over the batch, counts as whole numbers."""
        logits = self.learner.forward(masked)
        loss = F.cross_entropy(logits.flatten(0, 1), boards.flatten())
        return loss, {"loss": loss.detach(), "error": (logits.argmax(-1) != boards).sum()}

    def _loss_row(self, totals: dict[str, np.ndarray], epoch: int) -> dict[str, float]:
        """Log columns of an epoch from the sums over its steps."""
        return {"loss": totals["loss"], "error": totals["error"] / (self.dataset_len * self.block_size)}

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
        """What is printed of an epoch."""
        return f"epoch {row['epoch']}: loss {row['loss']:.4f}, wrong tokens {100 * row['error']:.2f}%"

    # what holds in an epoch

    def _masking(self, epoch: int) -> tuple[float, float]:
        return self.recipe.masking_at(epoch)

    def _learning_rate(self, epoch: int) -> float:
        return self.recipe.learning_rate_at(epoch)

    def _board_proba(self, epoch: int) -> np.ndarray:
        """Probabilities of the data set's board types at an epoch."""
        if not self.board_curriculum:
            return np.asarray(self.dataset.board_types_proba)
        return self.recipe.board_proba_at(epoch, self.dataset.board_types)

    # training

    def train(self, bool_wandb: bool = False) -> np.ndarray:
        """Trains from self.epoch to self.epochs; returns the loss of each of those epochs, summed over its
        steps.

        With a run_name it keeps the run folder runs/<run_name>/ (never one that holds another run:
        ValueError), else it writes nothing. With save_model what `resume` needs is saved at the start, every
        epoch2save epochs, at the end of an epoch after 5 minutes, and on SIGINT and SIGTERM. bool_wandb: also
        log to wandb's active run.

        TrainingStopped where a signal, a loss that is not finite, a full disk or too little memory ends it
        early. After an exception of any kind the network is as it was at the start of the epoch.
        """
        if bool_wandb:
            check_wandb_runs()
        self.start_run()
        self._note_ramps()
        losses, good = [], self._state()
        bar = progress_bar(
            range(self.epoch, self.epochs), 20, desc="epochs ", unit="ep", disable=self.rank > 0
        )
        with self._signals.listening(self.run.saves or self.rank > 0), using_threads(self.threads):
            try:
                for epoch in bar:
                    with alone_with(self.transformer):
                        totals = self._train_epoch(epoch)
                    row = {"epoch": epoch} | self._loss_row(totals, epoch)
                    row |= self._test_row(epoch)
                    self.epoch = epoch + 1
                    state = self._state()
                    self.log.note(row)
                    self._keep(epoch, row, bool_wandb)
                    self.log.add(row)  # an epoch counts once all its files are there
                    good = state
                    losses.append(row[self.loss_columns[0]])
                    self._report_epoch(bar, row)
                    self.run.save_state(self.epoch, good, due=self.recipe.saves_at(epoch))
                    self._signals.share(self.world, self.device)
                    self._signals.heed(f"after epoch {epoch}")
            except BaseException as error:
                bar.close()
                self._restore(good)
                if isinstance(error, (TrainingStopped, OSError)) or out_of_memory(error):
                    raise self.run.stopped(error, self.device, self.epoch, good) from error
                raise
            finally:
                self.learner.end_training()
                self.run.close()
        return np.array(losses)

    def start_run(self) -> None:
        """Makes the run folder, where there is a run_name, and the log; train() does it too, and lets go of
        the folder at its end. ValueError where the folder holds a run already, or another process has it."""
        if self.run is None:
            self.run = Run(self.folder if self.run_name else None, self.save_model)
        self.run.open()
        try:
            if self.log is None:
                self.fix_ramps()
                self.run.start(self._columns(), self.epochs, self.params, self.dataset, self._state)
            self.log.settle()
            self.log.extend(self.epochs)
            self.run.write_params(self.params)  # some may have been assigned since the last epoch
        except BaseException:
            self.run.close()
            raise

    def _note_ramps(self) -> None:
        """Says, where a run begins, which of its ramps it does not see the end of."""
        late = self.recipe.beyond_the_end()
        if late and self.rank == 0 and self.epoch == 0:
            say(f"note: {self.epochs} epochs end before {', '.join(late)}; recipe_epochs scales them.")

    def fix_ramps(self) -> None:
        """Puts a number where a ramp's end follows from epochs: more epochs on resuming do not move it."""
        if self.masking_patch_epoch is None:
            self.masking_patch_epoch = self.epochs

    def _columns(self) -> list[str]:
        """The columns of the log."""
        tested = (self._test_columns(split, output) for split in ("train", "test") for output in self.outputs)
        names = [name for columns in tested for name in columns]
        return ["written", "epoch", *self.loss_columns, *self.count_columns, *names]

    def _batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Masked boards and boards (B, T) of an epoch on the device, drawn as one array as far as memory
        allows."""
        rng = numpy_rng(self.seed, STREAM_TRAIN, epoch)
        p, patch_p = self._masking(epoch)
        proba = self._board_proba(epoch)
        at_once = max(1, CELLS_AT_ONCE // (self.batch_size * self.block_size)) * self.batch_size
        for start in range(0, self.dataset_len, at_once):
            count = min(at_once, self.dataset_len - start)
            drawn = self.dataset.sample(count, "train", proba, rng, self.overlap_weight)
            mask, _ = self.dataset.mask(drawn.boards, p, patch_p, drawn.types, drawn.corners, rng)
            boards = self._tokens(drawn.boards)
            masked = boards.masked_fill(self._tokens(mask), self.masking_token)
            yield from zip(masked.split(self.batch_size), boards.split(self.batch_size), strict=True)

    def _train_epoch(self, epoch: int) -> dict[str, np.ndarray]:
        """One epoch of steps; sums over them, read from the device once.

        TrainingStopped for a loss or weights that are not finite, or at a step's end once a signal has come.
        """
        self.learner.start_epoch(self._learning_rate(epoch), self.seed, STREAM_DROPOUT, epoch)
        totals: dict[str, torch.Tensor] = {}
        losses = []
        for batch in self._batches(epoch):
            share, (masked, boards) = self.learner.share_of(*batch)
            loss, parts = self._loss(masked, boards, epoch)
            self.learner.step(loss, share)
            self.step += 1
            losses.append(loss.detach())
            for name, part in parts.items():
                part = part * share if part.is_floating_point() else part
                totals[name] = totals[name] + part if name in totals else part
            if self.world == 1:
                self._signals.heed(f"in epoch {epoch}")
        sum_over_processes_(*totals.values())
        read = {name: to_numpy(total) for name, total in totals.items()}
        self._check_finite(read[self.loss_columns[0]], losses, epoch)
        self.learner.end_epoch()
        return read

    def _check_finite(self, total: np.ndarray, losses: list[torch.Tensor], epoch: int) -> None:
        """TrainingStopped, which names the step, where the losses of an epoch, summed to total, or the
        weights are not finite."""
        if np.isfinite(total) and self.learner.is_finite():
            return
        finite = torch.stack(losses).isfinite().tolist() + [False]
        step = finite.index(False)
        what = f"the loss is {losses[step].item()}" if step < len(losses) else "weights are no longer finite"
        raise TrainingStopped(
            f"{what} at epoch {epoch}, step {self.step - len(losses) + step}, with learning_rate "
            f"{self.learning_rate}, batch_size {self.batch_size}, dtype {self.dtype}, seed {self.seed}"
        )

    # tests, reports and what is kept of an epoch

    def _test_row(self, epoch: int) -> dict[str, float]:
        """Log columns that say whether an epoch is tested, and with what result."""
        if self.rank > 0 or not self.recipe.tests_at(epoch):
            return {"written": 0}
        return {"written": 1} | self._test(epoch)

    def _test(self, epoch: int) -> dict[str, float]:
        """Log columns of the test after an epoch, from a random stream of its own."""
        rng = numpy_rng(self.seed, STREAM_TEST, epoch)
        drawn, counts = self._test_boards(rng)
        row = self._count_row(counts, "test" in drawn)
        for split in ("train", "test"):
            scores = (
                self._evaluate(drawn[split], *self._test_masking(epoch), 2, rng)[0] if split in drawn else {}
            )
            for output in self.outputs:
                values = score_values(scores[output]) if scores else [-1.0] * 6
                row |= zip(self._test_columns(split, output), values, strict=True)
        return row

    def _report_epoch(self, bar, row: dict[str, float]) -> None:
        """Says how an epoch went: on the bar, and at a report's or a test's turn as lines."""
        bar.set_postfix_str(f"loss {row[self.loss_columns[0]]:.3f}", refresh=False)
        if self.rank == 0 and (row["epoch"] % self.epoch2print == 0 or row["written"]):
            bar.clear()
            say(self._report(row))
            bar.refresh()

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

    def _keep(self, epoch: int, row: dict, bool_wandb: bool) -> None:
        """Checkpoint, arrays, figures and wandb's record of an epoch, as far as they are due."""
        if self.recipe.keeps_checkpoint_at(epoch):
            self.run.save_checkpoint(epoch, self._weights_on_cpu())
        figures = {}
        with own_style():
            if row["written"] and (self.run_name or bool_wandb):
                figures = self._figures(epoch)
            if row["written"]:
                self.run.save_figures(figures, self.plot_dpi)
        if bool_wandb:
            log_to_wandb(row, figures, self.step)

    # weights and states

    def _weights_on_cpu(self) -> dict[str, torch.Tensor]:
        return {name: value.cpu() for name, value in plain_names(self.transformer.state_dict()).items()}

    def save_checkpoint(self, path: str | Path) -> None:
        """Writes the network's state dict, a file that both programs load."""
        save_tensors(path, self._weights_on_cpu())

    def load_transformer(self, path: str | Path) -> None:
        """Loads a state dict of either program onto the current device and dtype, also of a network wrapped
        by torch.compile or DistributedDataParallel, and inside {'model': ...}; ValueError names a file that
        does not fit, and the network stays as it was. Only tensors are read, no code."""
        try:
            self.learner.load(plain_names(load_tensors(path)))
        except Exception as error:  # of any kind, for what is no state dict
            if str(path) in str(error):
                raise
            reason = (
                str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
            )
            raise ValueError(f"{path}: is not a state dict of this network ({reason}).") from None

    def _state(self) -> dict:
        """A copy of all that training changes; random streams are named by the epoch."""
        return self.learner.state() | {
            "epoch": self.epoch,
            "step": self.step,
            "user_rng": json.dumps(self._user_rng.bit_generator.state),
            "torch": str(torch.__version__),
            "threads": self.threads or torch.get_num_threads(),
            "world": self.world,
        }

    def _restore(self, state: dict) -> None:
        """Goes back to a state."""
        self.learner.restore(state)
        self._at_epoch(state["epoch"])
        self.step = state["step"]
        self._user_rng.bit_generator.state = json.loads(state["user_rng"])

    def _at_epoch(self, epoch: int) -> None:
        """Takes note that so many epochs have been trained."""
        self.epoch = epoch

    def _newest_state(self) -> tuple[dict, list[Path]]:
        """Goes back to the newest saved state that can be read and fits; that state, and the files passed
        over."""
        return newest_state(self.folder, self._take_state)

    def _take_state(self, path: Path) -> dict:
        """Goes back to the state in a file and returns it; an exception of any kind where it does not fit."""
        state = load_tensors(path)
        self._restore(state)
        kinds = {"epoch": int, "step": int, "threads": int, "torch": str}
        if (
            any(type(state[name]) is not kind for name, kind in kinds.items())
            or not 0 < state["threads"] < 2**10
        ):
            raise ValueError(f"{path}: is not all of a state.")
        if not self.learner.has_own_moments():
            raise ValueError(f"{path}: is of another network.")
        return state

    def explore(self):
        """The network as it stands in one HTML page, which a notebook shows; see docs/explorer.md."""
        from studies.explorer import explore  # studies import trainers, so not at the head of this file

        return explore(self)

    # trainers of run folders

    @classmethod
    def _rebuilt(cls, folder: Path, changed: dict) -> TrainTransformer:
        """Data set and trainer of a run folder, some parameters changed, network untrained; no larger than
        any saved."""
        pick_device(changed.get("device", "cpu"))
        path = folder / "params_training.json"
        params = params_of(folder, cls.params_class)
        dataset = AbstractionDataset(dataset_len=1)
        dataset.load(str(folder / "datasets" / "dataset"))
        params |= {"run_name": folder.name, "runs": str(folder.parent)} | changed
        lea = "vocab_speech_size" in params
        if lea != ("vocab_speech_size" in cls.params_class.__dataclass_fields__):
            which, suffix = ("LEA", "_lea") if lea else ("the factor network", "")
            raise ValueError(f"{folder}: is a run of {which}; open it with the TrainTransformer of "
                             f"module_train_probe{suffix}, resume it with train_model{suffix}.py.")
        try:
            recipe = cls.params_class.from_dict(params, ignored=IGNORED)
            check_size(recipe, dataset, folder / "checkpoints")
            trainer = cls(dataset, **params)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
        return trainer

    @classmethod
    def from_run(
        cls, folder: str | Path, checkpoint: str | None = None, device: str = "auto"
    ) -> TrainTransformer:
        """Data set, network and trainer of a run folder, with the weights of its last checkpoint or the one
        named (e.g. 'model_250.pth'), to look at: `resume` trains on. ValueError names what is missing."""
        folder = Path(folder).resolve()
        trainer = cls._rebuilt(folder, {"device": device})
        found = numbered(folder / "checkpoints", r"model_(\d+)\.pth")
        if checkpoint is None and not found:
            raise ValueError(f"{folder}: holds no checkpoint; train with save_model=True.")
        path = folder / "checkpoints" / checkpoint if checkpoint else found[-1][1]
        trainer.load_transformer(path)
        trainer._at_epoch(next((number + 1 for number, other in found if other == path), 0))
        return trainer

    @classmethod
    def resume(cls, folder: str | Path, **changed) -> TrainTransformer:
        """The trainer of a run that was saved with save_model, everything as it was after the last epoch
        saved: train() then goes on as if nothing had happened. Log rows of later epochs are cut.

        changed: epochs, device, threads and the periods may be. ValueError for another parameter, where
        nothing was saved, where a file is damaged (a damaged newest state is passed over with a warning), or
        where another process has the run.
        """
        folder = Path(folder).resolve()
        before = params_to_resume(cls.params_class, folder, changed)
        trainer = cls._rebuilt(folder, changed)
        if trainer.rank > 0:
            trainer._restore(from_leader(None))
            return trainer
        if trainer.epochs != before["epochs"] and trainer.lr_schedule != "constant":
            caution(f"with epochs = {trainer.epochs} instead of {before['epochs']} the {trainer.lr_schedule} "
                    "schedule falls later: the learning rate rises again where the run goes on.")
        trainer.run = Run(folder, trainer.save_model)
        with lock(folder):
            state, damaged = trainer._newest_state()
            if trainer.epochs < trainer.epoch:
                raise ValueError(
                    f"epochs = {trainer.epochs} must be at least {trainer.epoch}, which the run has trained."
                )
            trainer.run.resume(trainer._columns(), trainer.epochs, trainer.epoch, trainer.params)
            for path in damaged:
                path.replace(f"{path}.damaged")
        trainer._as_before(state)
        from_leader(state)
        return trainer

    def _as_before(self, state: dict) -> None:
        """Takes the number of threads that a state was made with; warns where they, the processes or torch
        are others now."""
        if state["torch"] != torch.__version__:
            caution(f"the run was trained with torch {state['torch']}, this is {torch.__version__}.", 3)
        if self.threads is None and state["threads"] != torch.get_num_threads():
            threads = state["threads"]
            caution(f"the run goes on with {threads} threads as before, not {torch.get_num_threads()}.", 3)
            self.threads = threads
        if state.get("world", self.world) != self.world:
            before = state["world"]
            caution(f"the run was trained by {before} processes, now by {self.world}: sums are rounded "
                    "otherwise, and dropout draws otherwise.", 3)


def check_size(recipe: TrainParams, dataset: AbstractionDataset, checkpoints: Path) -> None:
    """ValueError where a recipe makes a larger network than any file in checkpoints holds, as damaged
    parameters may."""
    sizes = [path.stat().st_size for path in checkpoints.glob("*")]
    words = getattr(recipe, "vocab_speech_size", 0) + getattr(recipe, "block_speech_size", 0)
    positions = dataset.board_dim**2 * recipe.n_embd_pos if recipe.transformer_type == "factor" else 0
    weights = (
        recipe.n_embd * (recipe.n_layer * recipe.n_embd + words) + positions
    )  # at least; files hold several bytes of each
    if sizes and weights > max(sizes):
        raise ValueError(
            "n_layer, n_embd and the other sizes are of a larger network than any in checkpoints."
        )
