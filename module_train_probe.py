"""Trains and probes GPTFactor on boards (arXiv 2312.05361): the one training loop, tests, and what a run
leaves.

Axis letters: n boards, h x w cells of a board, B boards in a batch, T = h * w tokens, V tokens of the
vocabulary.

A run is a function of its parameters and its seed: boards and masks of an epoch, its dropout and its test
draw from random streams of their own, named by (seed, stream, epoch). So nothing depends on what was
evaluated in between, and a resumed run has the bits of one that was never stopped.
"""
from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import utils
from module_dataset import AbstractionDataset, Boards
from module_transformer_factor import GPTFactor
from parts.boards.own import OwnBoards, as_dataset
from parts.boards.pictures import token_colors
from parts.checks import check_sizes
from parts.files import load_tensors, numbered, save_tensors
from parts.params import assigned, keywords_of, pick_device
from parts.probing import analyses, evaluation, panels, recording, sites
from parts.probing.evaluation import Accuracy, accuracy_table, score_values
from parts.training import learner, run
from parts.training.distributed import from_leader, rank_and_world, sum_over_processes_, synchronise
from parts.training.optimizers import make_optimizer
from parts.training.recipe import IGNORED, TrainParams
from parts.training.run import TrainingStopped
from parts.training.wandb import check_wandb_runs, log_to_wandb
from utils import caution, dist, dist_cosine, dist_unit, numpy_rng, ramp, say, to_numpy, torch_entropy

__all__ = ["TrainTransformer", "TrainParams", "TrainingStopped", "Accuracy", "torch_entropy", "dist",
           "dist_unit", "dist_cosine", "ramp"]

CELLS_AT_ONCE = 2**22  # cells of boards drawn in one array operation
# streams of random numbers; of STREAM_TEST there are more: 1 figures, (epoch, 2) and (epoch, 3) LEA's figures
STREAM_TRAIN, STREAM_TEST, STREAM_DROPOUT, STREAM_USER = range(1, 5)


@keywords_of(TrainParams, first=["dataset"])
class TrainTransformer:
    """A data set, a network and its optimiser: train, test, record, edit.

    dataset: an AbstractionDataset, or boards of your own as parts/boards/own.py describes them. Keywords are
    those of TrainParams. Each is also an attribute, which is checked when it is assigned; those of the
    network are fixed. Other attributes: dataset, transformer (the network), optim, step (optimiser steps
    taken), epoch (epochs trained), device, log (RunLog of the run, or None).

    A wrong argument, here and of the methods, is a TypeError or a ValueError that names it.

    >>> trainer = TrainTransformer(AbstractionDataset(seed=0), epochs=2, seed=0)
    >>> losses = trainer.train()
    """

    params_class = TrainParams
    run_suffix = {"factor": "_factor"}  # of run_name, by transformer_type
    loss_columns = ("loss", "loss_mean", "error")
    count_columns = ("nb_boards", "nb_boards_singleRoot", "nb_boards_doubleRoot", "nb_boards_composite")
    curves = (
        ("loss, mean over boards", True, {"": "loss_mean"}),
        ("share of right tokens", False, {
            f"{split}, {name}": f"{split}_acc_{key}"
            for split in ("train", "test") for name, key in (("all", "tokens"), ("hidden", "hidden"))
        }),
        ("share of right boards, test", False,
         {name: f"test_breakdown_{t}" for t, name in enumerate(("single", "double", "composition"))}),
    )

    def __init__(self, dataset: AbstractionDataset | OwnBoards, **params):
        self.dataset = as_dataset(dataset)
        self.rank, self.world = rank_and_world()
        self.recipe = self._fitting_recipe(params)
        self.device = pick_device(self.recipe.device)
        self._check_boards()
        # with bfloat16 weights, losses, words and the optimiser's moments are float32
        weights = torch.float32 if self.dtype == "bfloat16" else getattr(torch, self.dtype)
        with utils.plain_torch():  # as the seed alone decides
            network = self._network()
        self.transformer = network.to(self.device, weights).eval()
        self.step = 0
        self.epoch = 0
        self.run: run.Run | None = None
        self._user_rng = numpy_rng(self.seed, STREAM_USER)
        if self.init_from is not None:
            if not os.path.isfile(os.path.expanduser(self.init_from)):
                raise ValueError(f"init_from must be a file, not {utils.shown(self.init_from)}.")
            self.load_transformer(self.init_from)

    @functools.cached_property
    def optim(self) -> torch.optim.Optimizer:
        """The optimiser, made when it is first needed."""
        return make_optimizer(
            self.transformer, self.learning_rate, self.weight_decay, self.optimizer, self.betas
        )

    def _fitting_recipe(self, params: dict) -> TrainParams:
        """The parameters, with those that follow from the data set and the seed filled in."""
        recipe, dataset = self.params_class.from_dict(params, ignored=IGNORED), self.dataset
        own = {"vocab_size": dataset.vocab_size, "block_size": dataset.board_dim**2,
               "masking_token": dataset.masking_token}
        for name, value in own.items():
            if getattr(recipe, name) not in (None, value):
                raise ValueError(f"{name} = {getattr(recipe, name)} must be the data set's, {value}.")
            setattr(recipe, name, value)
        recipe.seed = from_leader(utils.fresh_seed()) if recipe.seed is None else recipe.seed
        if self.rank > 0:  # the first process keeps the run
            recipe.run_name, recipe.save_model = "", False
        return recipe

    def _check_boards(self) -> None:
        """ValueError if the data set cannot give the boards that the recipe asks for."""
        smallest = min(self.batch_size, self.dataset_len % self.batch_size or self.batch_size)
        if self.world > smallest:
            raise ValueError(
                f"{self.world} processes must be at most the boards of the smallest batch; batch_size = "
                f"{self.batch_size}, dataset_len = {self.dataset_len}."
            )
        self.dataset.check_cells(min(self.batch_size, self.dataset_len), "batch_size")
        for epoch in (0, self.board_proba_epoch_end):
            self.dataset.sample(1, "train", self.board_proba(epoch), numpy_rng(self.seed))

    def __getattr__(self, name: str):
        if name in type(self).params_class.__dataclass_fields__ and "recipe" in self.__dict__:
            value = getattr(self.recipe, name)
            return list(value) if isinstance(value, list) else value
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}.")

    def __setattr__(self, name: str, value) -> None:
        if name in self.params_class.__dataclass_fields__ and name != "device":
            self.recipe = assigned(self.recipe, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def params(self) -> dict:
        """All parameters as they are now: what params_training.json holds and the constructor takes."""
        return self.recipe.as_dict()

    @property
    def folder(self) -> Path:
        """The run folder, runs/<run_name>."""
        return Path(self.runs) / self.run_name

    @property
    def log(self) -> run.RunLog | None:
        """The log of the run, None before it starts."""
        return None if self.run is None else self.run.log

    @property
    def dataset_len(self) -> int:
        """Boards in an epoch."""
        return len(self.dataset)

    def board_proba(self, epoch: int) -> np.ndarray:
        """Probabilities of the data set's board types at an epoch."""
        if not self.board_curriculum:
            return np.asarray(self.dataset.board_types_proba)
        return self.recipe.board_proba_at(epoch, self.dataset.board_types)

    # training

    def train(self, bool_wandb: bool = False) -> np.ndarray:
        """Trains from self.epoch to self.epochs; returns the loss of each of those epochs, summed over its
        steps.

        With a run_name it keeps the run folder runs/<run_name>/ (ValueError if that holds another run), else
        it writes nothing. With save_model the state that `resume` needs is saved at the start, every
        epoch2save epochs, at the end of an epoch after 5 minutes, and on SIGINT and SIGTERM. bool_wandb: also
        log to wandb's active run.

        TrainingStopped if a signal, a loss that is not finite, a full disk or too little memory ends it
        early. After any exception the network is as it was at the start of the epoch.
        """
        if bool_wandb:
            check_wandb_runs(self.step, -(-self.dataset_len // self.batch_size))
        self.start_run()
        self._note_start()
        epochs, sums = range(self.epoch, self.epochs), []
        with (
            self.run.guard(self),  # if an epoch fails, back to its start; signals wait for the end of a step
            utils.using_threads(self.threads),
            utils.progress_bar(epochs, 20, desc="epochs ", unit="ep", disable=self.rank > 0) as bar,
        ):
            for epoch in bar:
                self.start_epoch(epoch)
                losses, totals = [], {}
                for masked, boards in self.batches(epoch):  # (B, T) tokens, hidden cells replaced by UNK
                    # under torchrun each process takes its share of the batch, and gradients are summed
                    mine = slice(self.rank, None, self.world)
                    share = len(boards[mine]) / len(boards)
                    with self.precision():
                        loss, parts = self.loss(masked[mine], boards[mine], epoch)  # runs the network
                    self.optim.zero_grad()
                    (loss * share).backward()
                    synchronise(self.transformer)
                    norm = learner.clip_gradient(self.transformer, self.grad_clip)
                    self.optim.step()
                    self.step += 1

                    # a mean over boards depends neither on the batch size nor on a smaller last batch
                    parts["loss_mean"] = loss.detach() * (len(boards) / self.dataset_len)
                    parts["grad_norm"] = norm * (len(boards) / self.dataset_len)
                    for name, part in parts.items():  # on the device: reading one would wait for the step
                        part = part * share if part.is_floating_point() else part  # means, or counts
                        totals[name] = totals.get(name, 0) + part
                    losses.append(loss.detach())
                    if self.world == 1:  # several processes stop together, at the end of an epoch
                        self.run.heed(f"in epoch {epoch}")
                self.transformer.eval()  # LEA's words would move with every pass in training mode

                sum_over_processes_(*totals.values())
                totals = {name: to_numpy(total) for name, total in totals.items()}
                self.check_finite(totals, losses, epoch)
                row = {"epoch": epoch, "written": 0} | self.loss_row(totals)
                if self.recipe.due_at(epoch, self.epoch2test) and self.rank == 0:
                    row |= {"written": 1} | self.test()

                self.epoch = epoch + 1
                self.log.note(row)
                self.report(row, bar)
                if self.recipe.keeps_checkpoint_at(epoch):
                    self.run.save_checkpoint(epoch, self.weights())
                if run.best_epoch(self.log.arrays, self.best_column) == epoch:
                    self.run.save_checkpoint("best", self.weights())
                figures = self.save_figures(epoch, bool_wandb) if row["written"] else {}
                if bool_wandb:
                    log_to_wandb(row, figures, self.step)
                # an epoch counts once all its files are there; the state to resume from is saved if due
                due = self.recipe.due_at(epoch, self.epoch2save)
                self.run.end_epoch(row, self.state(), due, self.device)
                sums.append(row[self.loss_columns[0]])
        return np.array(sums)

    def loss(self, masked: torch.Tensor, boards: torch.Tensor, epoch: int) -> tuple[torch.Tensor, dict]:
        """The loss of a batch, masked boards and boards (B, T), and the tensors to sum over an epoch's steps:
        means over the batch as floats, counts as whole numbers, all left on the device."""
        logits = self.transformer(masked)  # (B, T, V)
        # over all cells, visible ones too: copying them is part of the task
        loss = F.cross_entropy(logits.flatten(0, 1), boards.flatten())
        return loss, {"loss": loss.detach(), "error": (logits.argmax(-1) != boards).sum()}

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Masked boards and boards (B, T) of an epoch, on the device, drawn afresh from train."""
        rng = numpy_rng(self.seed, STREAM_TRAIN, epoch)
        p, patch_p = self.recipe.masking_at(epoch)
        proba = self.board_proba(epoch)
        # as many boards in one draw as memory allows: drawing batch by batch is slower
        at_once = max(1, CELLS_AT_ONCE // (self.batch_size * self.block_size)) * self.batch_size
        for start in range(0, self.dataset_len, at_once):
            count = min(at_once, self.dataset_len - start)
            drawn = self.dataset.sample(count, "train", proba, rng)
            mask, _ = self.dataset.mask(drawn.boards, p, patch_p, drawn.types, drawn.corners, rng)
            boards = self.tokens(drawn.boards)
            masked = boards.masked_fill(self.tokens(mask), self.masking_token)
            yield from zip(masked.split(self.batch_size), boards.split(self.batch_size), strict=True)

    def start_epoch(self, epoch: int) -> None:
        """Training mode, the epoch's learning rate and its own stream of dropout."""
        self.transformer.train()
        process = [self.rank] if self.rank > 0 else []  # each process drops other cells
        self.transformer.noise.reseed(self.seed, STREAM_DROPOUT, epoch, *process)
        for group in self.optim.param_groups:
            group["lr"] = self.recipe.learning_rate_at(epoch)

    def precision(self) -> contextlib.AbstractContextManager:
        """Inside, products of a training pass are computed in bfloat16, if that is the dtype."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16")

    def check_finite(self, totals: dict[str, np.ndarray], losses: list[torch.Tensor], epoch: int) -> None:
        """TrainingStopped, naming the step, if a loss of the epoch or the weights after it are not finite."""
        if np.isfinite(totals[self.loss_columns[0]]) and learner.is_finite(self.transformer):
            return
        finite = torch.stack(losses).isfinite().tolist() + [False]
        step = finite.index(False)
        what = f"the loss is {losses[step].item()}" if step < len(losses) else "weights are no longer finite"
        raise TrainingStopped(
            f"{what} at epoch {epoch}, step {self.step - len(losses) + step}, with learning_rate "
            f"{self.learning_rate}, batch_size {self.batch_size}, dtype {self.dtype}, seed {self.seed}"
        )

    def start_run(self) -> None:
        """Makes the run folder, if there is a run_name, and the log; train() does it too. ValueError if the
        folder already holds a run, or if another process trains in it."""
        if self.run is None:
            self.run = run.Run(self.folder if self.run_name else None, self.save_model)
            self.fix_ramps()
        self.run.open(self)

    def fix_ramps(self) -> None:
        """Stores the epoch of a ramp that follows from epochs: more epochs on resuming do not move it."""
        if self.masking_patch_epoch is None:
            self.masking_patch_epoch = self.epochs

    def _note_start(self) -> None:
        """Prints what a run that begins starts from, and which ramps it will not reach the end of."""
        if self.rank > 0 or self.epoch > 0:
            return
        if self.init_from is not None:
            say(f"note: weights start from {self.init_from}; epochs, ramps and optimiser start anew.")
        if late := self.recipe.beyond_the_end():
            hidden, _ = self.recipe.masking_at(self.epochs - 1)
            say(f"note: {self.epochs} epochs end before {', '.join(late)}; the last one hides "
                f"{100 * hidden:.1f}% of cells. --recipe_epochs {self.recipe.recipe_length} scales them.")

    # tests, reports and figures

    def test(self) -> dict[str, float]:
        """Log columns of a test: boards of train, test and val, each masked twice. Boards and masks are the
        same at all epochs, hidden as the recipe ends, so that epochs can be compared."""
        rng = numpy_rng(self.seed, STREAM_TEST)
        drawn, counts = evaluation.boards_to_test(self.dataset, rng)
        if self.dataset.holds("val"):
            drawn["val"] = self.dataset.all_boards("val", 100, rng)
        row = self._count_row(counts, "test" in drawn)
        for split in (split for split in ("train", "test", "val") if split in drawn):
            scores, _ = self._evaluate(drawn[split], *self._test_masking(), 2, rng)
            for output in self.outputs:
                row |= zip(self._test_columns(split, output), score_values(scores[output]), strict=True)
        return row

    def _test_masking(self) -> tuple[float, float]:
        """(hiding probability, share of boards with a patch) of a test during training."""
        return self.masking_p, self.masking_patch_p

    def columns(self) -> list[str]:
        """The columns of the log."""
        splits = ("train", "test", *["val"] * self.dataset.holds("val"))
        tests = [self._test_columns(split, output) for split in splits for output in self.outputs]
        return ["written", "epoch", *self.loss_columns, "grad_norm", *self.count_columns, *sum(tests, [])]

    @property
    def best_column(self) -> str:
        """The log column whose highest value names the best epoch: val accuracy on hidden cells."""
        return self._test_columns("val", next(iter(self.outputs)))[1]

    @staticmethod
    def _test_columns(split: str, output: str) -> list[str]:
        """Log columns of a test: accuracy on tokens, hidden tokens, boards, and boards by type."""
        return [*(f"{split}_acc_{name}" for name in ("tokens", "hidden", "boards")),
                *(f"{split}_breakdown_{t}" for t in range(3))]

    def _count_row(self, counts: Sequence[int], tested: bool) -> dict[str, float]:
        """Log columns of the number of boards in a test; counts: boards by type, each masked twice."""
        return dict(zip(self.count_columns, [2 * sum(counts), *counts], strict=True))

    def loss_row(self, totals: dict[str, np.ndarray]) -> dict[str, float]:
        """Log columns of an epoch from the sums over its steps."""
        return totals | {"error": totals["error"] / (self.dataset_len * self.block_size)}

    def _report_line(self, row: dict[str, float]) -> str:
        """One line about an epoch's log row."""
        return f"epoch {row['epoch']}: loss {row['loss_mean']:.4f}, wrong tokens {100 * row['error']:.2f}%"

    def report(self, row: dict[str, float], bar) -> None:
        """Shows an epoch's loss on the bar; if a report or a test is due, also prints a line and a table."""
        bar.set_postfix_str(f"loss {row['loss_mean']:.3f}", refresh=False)
        if self.rank > 0 or (row["epoch"] % self.epoch2print and not row["written"]):
            return
        lines, table = [self._report_line(row)], {}
        if row["written"]:
            for split in ("train", "test", "val"):
                for output, title in self.outputs.items():
                    columns = self._test_columns(split, output)
                    if columns[0] in row:
                        table[f"{split} {title}" if output else split] = [row[name] for name in columns]
            lines.append(accuracy_table(table))
        bar.clear()
        say("\n".join(lines))
        bar.refresh()

    def save_figures(self, epoch: int, bool_wandb: bool) -> dict:
        """Writes run_log.pkl and the run's figures to its folder; returns {name: Figure}, for wandb."""
        self.log.save_arrays()
        if not (self.run_name or bool_wandb):
            return {}
        with panels.own_style():
            figures = self._figures(epoch)
            for name, figure in figures.items() if self.run_name else ():
                panels.save_figure(figure, self.folder / "figures" / f"{name}.png", self.plot_dpi)
        return figures

    def _figures(self, epoch: int) -> dict:
        """The figures of a run: learning curves and sample reconstructions."""
        rng = numpy_rng(self.seed, STREAM_TEST, 1)
        drawn, _ = evaluation.boards_to_test(self.dataset, rng, 2)
        _, made = self._evaluate(drawn.get("test", drawn["train"]), *self._test_masking(), 1, rng)
        return {"learning_curves": panels.plot_curves(self.log.arrays, self.curves),
                "reconstructions": self._plot_reconstructions(**made)}

    # the network, its weights and states

    def _network(self) -> torch.nn.Module:
        return GPTFactor(
            self.vocab_size, self.block_size, self.n_layer, self.n_head, self.n_embd, self.n_embd_pos,
            self.embd_pdrop, self.resid_pdrop, self.attn_pdrop, seed=self.seed,
        )

    def weights(self) -> dict[str, torch.Tensor]:
        """The network's state dict, on the CPU."""
        weights = learner.plain_names(self.transformer.state_dict())
        return {name: value.cpu() for name, value in weights.items()}

    def save_checkpoint(self, path: str | Path) -> None:
        """Writes the network's state dict, which both programs load."""
        save_tensors(path, self.weights())

    def load_transformer(self, path: str | Path) -> None:
        """Loads a state dict of either program onto the current device and dtype, also of a network wrapped
        by torch.compile or DistributedDataParallel, and inside {'model': ...}. Optimiser and epoch stay as
        they are, with a warning if it has trained; init_from starts a run from weights.

        Only tensors are read, no code. ValueError names a file that does not fit; the network stays as it
        was."""
        path, before = Path(path).expanduser(), learner.copied(dict(self.transformer.state_dict()))
        try:
            self.transformer.load_state_dict(learner.plain_names(load_tensors(path)))
        except Exception as error:  # a file that is no state dict raises any kind
            self.transformer.load_state_dict(before)
            if str(path) in str(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
            raise ValueError(f"{path}: is not a state dict of this network ({reason}).") from None
        if self.step:
            caution(f"epoch {self.epoch} and the optimiser's moments stay those of the weights before; a new "
                    "run starts from weights with init_from.")

    def state(self) -> dict:
        """A copy of all that training changes. Random streams need no state: the epoch names them."""
        return learner.state_of(self.transformer, self.optim) | {
            "epoch": self.epoch,
            "step": self.step,
            "user_rng": json.dumps(self._user_rng.bit_generator.state),
            "torch": str(torch.__version__),
            "threads": self.threads or torch.get_num_threads(),
            "world": self.world,
        }

    def restore(self, state: dict) -> None:
        """Goes back to a state."""
        learner.restore(self.transformer, self.optim, state)
        self.transformer.eval()
        self.epoch = state["epoch"]
        self.step = state["step"]
        self._user_rng.bit_generator.state = json.loads(state["user_rng"])

    def _take_state(self, path: Path) -> dict:
        """Restores the state in a file and returns it; raises any kind of exception if it does not fit."""
        state = load_tensors(path)
        self.restore(state)
        kinds = {"epoch": int, "step": int, "threads": int, "torch": str}
        whole = all(type(state[name]) is kind for name, kind in kinds.items())
        if not whole or not 0 < state["threads"] < 2**10:
            raise ValueError(f"{path}: is not all of a state.")
        if not learner.has_own_moments(self.optim):
            raise ValueError(f"{path}: is of another network.")
        return state

    def explore(self):
        """The network as it stands in one HTML page, which a notebook shows; see docs/explorer.md."""
        from studies.explorer import explore  # studies import trainers, so not at the head of this file

        return explore(self)

    # trainers of run folders

    @classmethod
    def from_run(
        cls, folder: str | Path, checkpoint: int | str | Path | None = None, device: str = "auto",
        dataset=None,
    ) -> TrainTransformer:
        """Data set, network and trainer of a run folder, to look at (`resume` trains on), with the weights of
        its last checkpoint or the one named: an epoch, a name ('model_best.pth' of a run with val boards) or
        a file elsewhere, which counts as of the run's end. dataset: what a run on boards of your own was
        trained on. ValueError names what is missing."""
        folder = Path(folder).expanduser().resolve()
        trainer = cls._rebuilt(folder, {"device": device}, dataset)
        checkpoints = numbered(folder / "checkpoints", r"model_(\d+)\.pth")
        if checkpoint is None and not checkpoints:
            raise ValueError(f"{folder}: holds no checkpoint; train with save_model=True.")
        path = run.checkpoint_of(folder, checkpoints[-1][1] if checkpoint is None else checkpoint)
        trainer.load_transformer(path)
        epoch = next((number for number, other in checkpoints if other == path), None)
        if path.name == "model_best.pth":
            epoch = run.best_epoch(run.read_run_log(folder / "run_log.csv"), trainer.best_column)
        trainer.epoch = trainer.epochs if epoch is None else epoch + 1
        return trainer

    @classmethod
    def resume(cls, folder: str | Path, *, dataset=None, **changed) -> TrainTransformer:
        """The trainer of a run that was saved with save_model, as it was after the last saved epoch: train()
        then continues as if it had never been stopped. Log rows of later epochs are cut.

        changed: epochs, device, threads and the periods may change. dataset: as for `from_run`. ValueError
        for another parameter, if nothing was saved, if a file is damaged (a damaged newest state is passed
        over with a warning), or if another process trains in the folder.
        """
        folder = Path(folder).expanduser().resolve()
        own = run.params_to_resume(cls.params_class, folder, changed)
        trainer = cls._rebuilt(folder, changed, dataset)
        if trainer.rank > 0:
            trainer.restore(from_leader(None))
            return trainer
        if trainer.epochs != own["epochs"] and trainer.lr_schedule != "constant":
            caution(f"with epochs = {trainer.epochs} instead of {own['epochs']} the {trainer.lr_schedule} "
                    "schedule falls later: the learning rate rises again where the run resumes.")
        trainer.run = run.Run(folder, trainer.save_model)
        with run.lock(folder):
            state, damaged = run.newest_state(folder, trainer._take_state)
            if trainer.epochs < trainer.epoch:
                raise ValueError(
                    f"epochs = {trainer.epochs} must be at least {trainer.epoch}, which the run has trained."
                )
            trainer.run.resume(trainer)
            for path in damaged:
                path.replace(f"{path}.damaged")
        trainer._as_before(state)
        from_leader(state)
        return trainer

    def _as_before(self, state: dict) -> None:
        """Takes the threads that made a state; warns if they, the processes or torch have changed."""
        if state["torch"] != torch.__version__:
            caution(f"the run was trained with torch {state['torch']}, this is {torch.__version__}.", 3)
        if self.threads is None and state["threads"] != torch.get_num_threads():
            threads = state["threads"]
            caution(f"the run continues with its {threads} threads, not {torch.get_num_threads()}.", 3)
            self.threads = threads
        if state.get("world", self.world) != self.world:
            caution(f"the run was trained by {state['world']} processes, now by {self.world}: sums round and "
                    "dropout draws differently.", 3)

    @classmethod
    def _rebuilt(cls, folder: Path, changed: dict, dataset=None) -> TrainTransformer:
        """Data set and trainer of a run folder, some parameters changed, network untrained."""
        pick_device(changed.get("device", "cpu"))
        params = run.params_of(folder, cls.params_class)
        if dataset is None:
            run.check_not_own(folder)
            dataset = AbstractionDataset(dataset_len=1)
            dataset.load(str(folder / "datasets" / "dataset"))
        params |= {"run_name": folder.name, "runs": str(folder.parent)} | changed
        lea = "vocab_speech_size" in params
        if lea != ("vocab_speech_size" in cls.params_class.__dataclass_fields__):
            network, suffix = ("LEA", "_lea") if lea else ("the factor network", "")
            raise ValueError(f"{folder}: is a run of {network}; open it with the TrainTransformer of "
                             f"module_train_probe{suffix}, resume it with train_model{suffix}.py.")
        try:
            recipe = cls.params_class.from_dict(params, ignored=IGNORED)
            run.check_size(recipe, dataset.board_dim**2, folder / "checkpoints")
            trainer = cls(dataset, **params | {"init_from": None})  # its weights are those of the run
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / 'params_training.json'}: {error}") from None
        trainer.recipe.init_from = recipe.init_from
        return trainer

    # Probing: one network, its boards and masks; functions of parts/probing do the work
    #
    # boards, masks and boards_abs are integer arrays or tensors (n, h, w), for one board also (h, w).
    # mask 1: hidden; board_abs: the object that covers a cell, -1 is background.

    outputs = {"": "reconstruction"}  # of the network, with their titles in figures and tables
    stages = ("z", "attn_update", "z_attn", "mlp_update", "z_attn_mlp")  # of a block, in figures
    attention = {"attn": ("a", True)}  # prefix of figures: (site of a block, whether keys are cells)

    def _predict(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits (B, T, V) of masked boards (B, T), one tensor for each of `outputs`."""
        return (self.transformer(tokens),)

    def _forward(self, tokens: torch.Tensor) -> None:
        """The forward pass of masked boards (B, T) that is recorded."""
        self.transformer(tokens)

    @property
    def token_table(self) -> np.ndarray:
        """Token embeddings (V, D)."""
        return to_numpy(self.transformer.tok_emb.weight)

    @property
    def position_table(self) -> np.ndarray:
        """Position codes (T, P)."""
        return to_numpy(self.transformer.pos_emb[0])

    # arrays and tokens

    def given(
        self, *arrays, names: Sequence[str] = ("boards", "masks", "boards_abs"), one: bool = False
    ) -> tuple[np.ndarray, ...]:
        """What a user gives, as many boards in each, as int64 arrays (n, h, w), n = 1 if `one`; TypeError or
        ValueError names an array that is wrong. `evaluation.checked_cells`."""
        side = self.dataset.board_dim
        checked = tuple(evaluation.checked_cells(name, array, side, self.vocab_size, one)
                        for name, array in zip(names, arrays, strict=False))
        for name, array in zip(names, checked, strict=False):
            if len(array) != len(checked[0]):
                count = len(checked[0])
                raise ValueError(f"{name} must be as many as {names[0]}, {count}, not {len(array)}.")
        return checked

    def tokens(self, boards: np.ndarray) -> torch.Tensor:
        """Boards or masks (n, h, w) as a tensor (n, T) on the device."""
        tokens = torch.from_numpy(np.ascontiguousarray(boards).reshape(len(boards), -1))
        if self.device.type == "cuda":  # a copy from pinned memory does not wait for the GPU
            tokens = tokens.pin_memory()
        return tokens.to(self.device, non_blocking=True)

    def masked_batches(self, boards: np.ndarray, masks: np.ndarray) -> Iterator[torch.Tensor]:
        """Boards under masks, arrays (n, h, w), as tokens (B, T) on the device, EVAL_BATCH boards at a
        time."""
        for start in range(0, len(boards), evaluation.EVAL_BATCH):
            part = slice(start, start + evaluation.EVAL_BATCH)
            hidden = self.tokens(masks[part].astype(bool))
            yield self.tokens(boards[part]).masked_fill(hidden, self.masking_token)

    def _mask_input(
        self, board, masking_p: float, patch_masking: bool = False, patch_masking_p: float = 0.1,
        bool_report: bool = False,
    ):
        """Boards (n, h, w) or (n, T), tensor or array, with cells hidden as in training: each with
        probability masking_p; with patch_masking, a share patch_masking_p of boards also loses a patch.

        Returns the same kind and shape; with bool_report also {'boardType': (n,): 0 no patch, 1 root board, 3
        composite}. ValueError for another shape or a probability that is none."""
        array = board.cpu().numpy() if isinstance(board, torch.Tensor) else np.asarray(board)
        side = self.dataset.board_dim
        if array.ndim < 1 or array.shape[-2:] != (side, side) and array.shape[-1] != side * side:
            raise ValueError(
                f"board must have shape (n, {side}, {side}) or (n, {side * side}), not {array.shape}."
            )
        cells, patch_p = array.reshape(-1, side, side), patch_masking_p if patch_masking else 0.0
        masks, kinds = evaluation.masks_of(self.dataset, cells, masking_p, patch_p, self._user_rng)
        masked = np.where(masks, self.masking_token, cells).reshape(array.shape)
        if isinstance(board, torch.Tensor):
            masked = torch.from_numpy(masked).to(board.device)
        return (masked, {"boardType": kinds}) if bool_report else masked

    # reconstruction and accuracy

    def reconstruct(
        self, boards: np.ndarray, masks: np.ndarray, decode: str = "one pass"
    ) -> dict[str, np.ndarray]:
        """Greedy reconstructions (n, h, w) of boards under masks, one for each of `outputs`; decode as in
        test_model_accuracy. `evaluation.reconstruct`."""
        batches = self.masked_batches(boards, masks)
        recons = evaluation.reconstruct(
            self.transformer, self._predict, batches, self.masking_token, decode
        )
        return {name: recon.reshape(boards.shape) for name, recon in zip(self.outputs, recons, strict=True)}

    def test_model_accuracy(
        self, nb_instances: int, masking_p: float, patch_masking: bool = False, patch_masking_p: float = 0.1,
        verbose: bool = False, display_erroneous_boards: bool = False, decode: str = "one pass",
    ):
        """Accuracy of greedy reconstruction on nb_instances boards drawn from train.

        masking_p: probability that a cell is hidden; patch_masking: whether a share patch_masking_p of boards
        also loses a patch, as in training. verbose: print the accuracies; display_erroneous_boards: show up
        to 10 boards with mistakes, and save them if there is a run_name. decode: 'one pass', or 'easy first':
        hidden cells are filled one at a time, the surest first, the network reading what it has filled.

        Returns an Accuracy, a tuple (acc_tokens, acc_boards, boards, rec_boards, masks, acc_boards_breakdown)
        with the attribute acc_hidden, shares from 0 to 1; LEA returns a dict of acc_tokens, acc_hidden,
        acc_boards and acc_boards_breakdown, each as l0_ (from the board) and l1_ (from the sentence).
        """
        check_sizes(nb_instances=nb_instances)
        drawn = self.dataset.sample(int(nb_instances), "train", rng=self._user_rng)
        patch_p = patch_masking_p if patch_masking else 0.0
        return self._accuracy(drawn, masking_p, patch_p, 1, verbose, display_erroneous_boards, decode)

    def test_model_accuracy_set(
        self, target_set: str, masking_p: float, patch_masking: bool = False, patch_masking_p: float = 0.1,
        masking_rounds: int = 1, verbose: bool = False, display_erroneous_boards: bool = False,
        count_max: int | None = 100, decode: str = "one pass",
    ):
        """As test_model_accuracy, on the boards of a split, 'train', 'val' or 'test', at most count_max of
        each type, each masked masking_rounds times. ValueError also for a split without boards."""
        check_sizes(masking_rounds=masking_rounds)
        drawn = evaluation.boards_of_split(self.dataset, target_set, count_max, self._user_rng)
        patch_p = patch_masking_p if patch_masking else 0.0
        return self._accuracy(
            drawn, masking_p, patch_p, masking_rounds, verbose, display_erroneous_boards, decode
        )

    def test_model_accuracy_subset(
        self, boards, masks, bool_show_erroneous_boards: bool = False, decode: str = "one pass"
    ) -> dict:
        """Accuracy of greedy reconstruction on given boards under given masks, both (n, h, w); decode as in
        test_model_accuracy. bool_show_erroneous_boards: show up to 10 boards with mistakes.

        Returns boards_recons, boards, masks (n, h, w); error_token, error_masked_token, error_board: shares
        of wrong tokens, wrong hidden tokens and wrong boards, 0 to 1; erroneous_boards: indices of the boards
        with a mistake. LEA returns what test_model_accuracy does, without the breakdown.
        """
        boards, masks = self.given(boards, masks)
        types = np.zeros(len(boards))  # the breakdown by type is left out
        scores, tested = self._scores(boards, masks, types, decode)
        if bool_show_erroneous_boards:
            self._show_erroneous(**tested)
        return self._subset_result(scores, tested)

    def _evaluate(self, drawn: Boards, p: float, patch_p: float, rounds: int, rng, decode: str = "one pass"):
        """As `_scores`, of boards masked `rounds` times afresh."""
        drawn = Boards.join([drawn] * rounds)
        masks, _ = evaluation.masks_of(
            self.dataset, drawn.boards, p, patch_p, rng, drawn.types, drawn.corners
        )
        return self._scores(drawn.boards, masks.astype(np.int64), drawn.types, decode)

    def _scores(self, boards, masks, types, decode: str) -> tuple[dict, dict]:
        """Scores of each output and {boards, recons of each output, masks, types}."""
        recons = self.reconstruct(boards, masks, decode)
        scores = {name: evaluation.score(boards, recon, masks, types) for name, recon in recons.items()}
        return scores, {"boards": boards, "recons": recons, "masks": masks, "types": types}

    def _accuracy(self, drawn: Boards, p: float, patch_p: float, rounds: int, verbose, display, decode: str):
        scores, tested = self._evaluate(drawn, p, patch_p, rounds, self._user_rng, decode)
        if verbose:
            rows = {self.outputs[name]: score_values(values) for name, values in scores.items()}
            print(accuracy_table(rows))
        if display:
            self._show_erroneous(**tested)
        return self._accuracy_result(scores, tested)

    def _accuracy_result(self, scores: dict, tested: dict):
        """What test_model_accuracy and test_model_accuracy_set return."""
        own, arrays = scores[""], (tested["boards"], tested["recons"][""], tested["masks"])
        result = Accuracy((own["acc_tokens"], own["acc_boards"], *arrays, own["acc_boards_breakdown"]))
        result.acc_hidden = own["acc_hidden"]
        return result

    def _subset_result(self, scores: dict, tested: dict) -> dict:
        """What test_model_accuracy_subset returns."""
        own, boards, recons = scores[""], tested["boards"], tested["recons"][""]
        return {
            "boards_recons": recons, "boards": boards, "masks": tested["masks"],
            "error_token": 1 - own["acc_tokens"], "error_masked_token": 1 - own["acc_hidden"],
            "error_board": 1 - own["acc_boards"],
            "erroneous_boards": np.flatnonzero((recons != boards).any((1, 2))),
        }

    def _plot_reconstructions(self, boards, recons: dict, masks, types=None):
        """Masked board, reconstructions and truth, one board a row. `panels.plot_reconstructions`."""
        titled = {self.outputs[name]: recon for name, recon in recons.items()}
        vocabulary = self.dataset.vocab_bck, self.dataset.vocab_token
        return panels.plot_reconstructions(boards, titled, masks, *vocabulary)

    def _show_erroneous(self, boards, recons: dict, masks, types=None, most: int = 10) -> None:
        """Shows up to `most` boards with mistakes in a notebook; with a run_name also saves them as
        analysis/erroneous_boards.png."""
        wrong = np.any([(recon != boards).any((1, 2)) for recon in recons.values()], axis=0)
        wrong = np.flatnonzero(wrong)[:most]
        if not len(wrong):
            return
        recons = {name: recon[wrong] for name, recon in recons.items()}
        figure = self._plot_reconstructions(boards[wrong], recons, masks[wrong])
        if self.run_name:
            panels.save_figure(figure, self.folder / "analysis" / "erroneous_boards.png", self.plot_dpi)
        panels.show_figure(figure)

    # recorded activations

    def record(
        self, names: str | Sequence[str] | None = None
    ) -> contextlib.AbstractContextManager[dict[str, torch.Tensor]]:
        """Named activations of the forward passes inside the `with`, as a dict {name: detached tensor, batch
        first}. `sites.recording`.

        names: exact names or patterns ('b0_*'), None: all; ValueError for one that matches nothing. Several
        passes are joined along the batch. The network is as before afterwards, also after an exception.

        >>> with trainer.record("b*_z_attn_mlp") as acts:
        ...     logits = trainer.transformer(tokens)
        """
        return sites.recording(self.transformer, names)

    def recorded(
        self, boards: np.ndarray, masks: np.ndarray, edits: dict | None = None,
        names: str | Sequence[str] = recording.WHOLE_PASS, folder: str | Path | None = None,
    ) -> dict[str, np.ndarray]:
        """Named activations {name: array, batch first} of boards under masks, arrays (n, h, w); edits, names
        as in forward_all_activations, folder as in `recording.recorded`."""
        batches = self.masked_batches(boards, masks)
        return recording.recorded(self.transformer, self._forward, batches, len(boards), names, edits, folder)

    def forward_all_activations(
        self, boards, masks, edits: dict | None = None, verbose: bool = False, return_recons: bool = False,
        names: str | Sequence[str] | None = None,
    ):
        """Activations of boards under masks as {name: array, batch first}; with return_recons also the greedy
        reconstructions (n, h, w). verbose: print the shares of right tokens and boards.

        edits: {'b1': {'z': ...}, 'z_out': ...}, as `sites.editing` takes them: each an array or tensor (n, T,
        D) or (T, D), a function of the activation (B, T, D) of a batch of boards, or a pair of one of these
        and a mask (n, T), (T,), (n, h, w) or (h, w), true at the tokens to edit. names: which activations,
        exact names or patterns ('b*_z'); None: all of them. Memory is in proportion to what is named.
        """
        boards, masks = self.given(boards, masks)
        names, asked = recording.with_logits(names) if verbose or return_recons else (names, True)
        acts = self.recorded(boards, masks, edits, names or recording.WHOLE_PASS)
        recons = acts["logit"].argmax(-1).reshape(boards.shape) if verbose or return_recons else None
        if not asked:
            del acts["logit"]
        if verbose:
            evaluation.report(recons, boards)
        return (acts, recons) if return_recons else acts

    @property
    def _sizes(self) -> dict[str, int]:
        """The network's sizes as exported."""
        return {"nb_blocks": self.n_layer, "nb_heads": self.n_head, "nb_tokens": self.block_size,
                "dim_emb": self.n_embd}

    def forward_svg(self, board, board_abs, mask, folder: str | Path = "./svg") -> None:
        """Writes the activations of one board (h, w) to folder: meta.json {nb_blocks, nb_heads, nb_tokens,
        dim_emb}; svg_groups.npy (board_abs) and svg_mask.npy, (T,); svg_{name}.npy of each activation of the
        blocks, without batch axis; attention (T, T) and values (T, D/H) also by head, svg_{name}_h{j}.npy.
        Folders are created. `recording.write_svg`."""
        names = ("board", "mask", "board_abs")
        board, mask, board_abs = self.given(board, mask, board_abs, names=names, one=True)
        recording.write_svg(self.recorded, self._sizes, board, board_abs, mask, folder)

    def forward_pca(
        self, boards, boards_abs, masks, folder: str | Path = "./pca", extra_meta: dict | None = None
    ) -> None:
        """Writes boards, boards_abs, masked_boards and masks (n, h, w) and every named activation, batch
        first, to folder as {name}.npy; attention (n, T, T) and values (n, T, D/H) also by head, _h{j}.
        meta.json holds nb_blocks, nb_heads, nb_tokens, dim_emb, and what extra_meta, which JSON must be able
        to hold, adds or replaces. Folders are created. `recording.write_pca`."""
        arrays = self._board_arrays(boards, boards_abs, masks)
        meta = recording.with_extra(self._sizes, extra_meta)
        recording.write_pca(self.recorded, self.n_head, arrays, folder, meta)

    def forward_pca_batch(self, boards, boards_abs, masks, folder: str | Path, batch_size: int) -> None:
        """As forward_pca, in near-equal batches of at most batch_size boards, of which one is in memory at a
        time: files batch_{k}_{name}.npy, which `files.open_batches` joins to one array. meta.json also holds
        `batches`, for each file the list of its boards' indices. `recording.write_pca`."""
        arrays = self._board_arrays(boards, boards_abs, masks)
        check_sizes(batch_size=batch_size)
        n = len(arrays["boards"])
        batches = utils.divide_into_batches(range(n), -(-n // batch_size))
        recording.write_pca(
            self.recorded, self.n_head, arrays, folder, self._sizes | {"batches": batches}, batches
        )

    def _board_arrays(self, boards, boards_abs, masks) -> dict[str, np.ndarray]:
        """The arrays (n, h, w) that are exported beside activations, by file name."""
        boards, masks, boards_abs = self.given(boards, masks, boards_abs)
        masked = np.where(masks, self.masking_token, boards)
        return {"boards": boards, "boards_abs": boards_abs, "masked_boards": masked, "masks": masks}

    # figures: blocks downwards and stages across; each method returns {file name without .jpg: Figure}

    @property
    def _stage_names(self) -> list[list[str]]:
        """The activations that figures show: a list of stages for each block."""
        return [[f"b{i}_{stage}" for stage in self.stages] for i in range(self.n_layer)]

    def _view(self, board, board_abs, mask) -> panels.BoardView:
        colors = token_colors(self.dataset.vocab_bck, self.dataset.vocab_token)
        return panels.BoardView(board[0], board_abs[0], mask[0], colors)

    def _queries(self, queries) -> analyses.Queries:
        return analyses.Queries.of(self.given(queries, names=("queries",), one=True)[0][0])

    def _save(self, figures: dict, folder: str | Path = "", merged: Sequence[str] = ()) -> dict:
        """Saves figures as analysis/<folder>/<name>.jpg and returns them. For each prefix in merged the
        pictures {prefix}_b{block}_h{head} also become one, heads downwards and blocks across."""
        folder = self.folder / "analysis" / folder
        for name, figure in figures.items():
            panels.save_figure(figure, folder / f"{name}.jpg", self.plot_dpi)
        for prefix in merged:
            utils.merge_attn_plots(f"{folder}/", range(self.n_head), range(self.n_layer), prefix)
        return figures

    def analyze_embeddings_tokenandpos(self) -> dict:
        """Figures of token embeddings and position codes. `analyses.embedding_tables`.

        embedding_token: the token embeddings and their Euclidean, unit-norm Euclidean and cosine matrices,
        lines between backgrounds, object tokens and UNK; tokens that the network treats alike make a dark
        block. embedding_pos: the same of the position codes, lines between rows of the board.
        embedding_pos_2d: each cell's distances to all cells as a small board, laid out at that cell; if the
        network encodes nearness, each map has its extreme at its own cell and fades around it.
        """
        return self._save(analyses.embedding_tables(
            self.token_table, self.position_table, self.dataset.vocab_bck, self.dataset.vocab_token
        ))

    def analyze_embeddings(
        self, board=None, board_abs=None, board_params: dict | None = None, masking: dict | None = None,
        bool_sharedCmap: bool = False,
    ) -> dict:
        """embeddings_z, embeddings_z_dist and embeddings_z_dist_across, as analyze_all explains them but all
        Euclidean, of a board (h, w) or, without one, of a board drawn at random.

        board_params: {'nb_root_abs': 1, 'composite': None, 'margin': 0}: that many random roots, or that
        composite with its roots `margin` apart; masking: {'bool_mask': True, 'p': 0.25}: whether to hide
        cells, and with which probability; a key left out has this value. bool_sharedCmap: one colour scale
        for all panels. `analyses.activations_and_distances`.
        """
        board_params = analyses.with_defaults(
            "board_params", board_params, nb_root_abs=1, composite=None, margin=0
        )
        masking = analyses.with_defaults("masking", masking, bool_mask=True, p=0.25)
        if board is None and board_params["composite"] is not None:
            board, board_abs = self.dataset.draw(
                composite=board_params["composite"], composite_margin=board_params["margin"]
            )
        elif board is None:
            check_sizes(nb_root_abs=board_params["nb_root_abs"])
            board, board_abs = self.dataset.draw(roots=[-1] * board_params["nb_root_abs"])  # -1: any root
        board_abs = np.full(np.shape(board), -1) if board_abs is None else board_abs
        board, board_abs = self.given(board, board_abs, names=("board", "board_abs"), one=True)
        p = masking["p"] if masking["bool_mask"] else 0.0
        mask = evaluation.masks_of(self.dataset, board, p, 0.0, self._user_rng)[0].astype(np.int64)
        view, names = self._view(board, board_abs, mask), self._stage_names
        z = analyses.stacked(self.recorded(board, mask, names=sum(names, [])), names)
        scale = "shared" if bool_sharedCmap else None
        figures = analyses.activations_and_distances(z, names, view, scale)
        return self._save(figures | analyses.distances_across_stages(z, names, view))

    def analyze_all(
        self, board, board_abs, mask, queries, folder: str = "default", bool_z: bool = True,
        bool_attn: bool = True,
    ) -> dict:
        """Figures of what the network computes on one masked board (h, w), saved to analysis/<folder>/.

        embeddings_z: activations, token x dimension. embeddings_z_norm: their lengths, laid out as the board.
        embeddings_z_dist, _dist_unit: distances between tokens, of activations and of their directions; below
        the diagonal the pairs of tokens of each object are marked, so that a dark patch which mirrors a mark
        is an object whose tokens are alike. embeddings_z_dist_across: for each token the unit-norm distances
        between its own stages; a bright pair is where it turns. embeddings_z_2D: each token's unit-norm
        distances to all tokens as a small board, laid out at that token. attn_b{i}_h{j}: the attention that
        each query (outlined) pays to each cell, j = -1 the mean of heads; attn_merge: heads downwards, blocks
        across. attn: the same of every cell, a small board laid out at the query, log of attention over its
        maximum.

        queries (h, w): -1 none, i >= 0 the i-th query (of a number that occurs twice the first cell counts).
        bool_z, bool_attn: which figures to make. `analyses.stage_figures` and `analyses.attention_figures`.
        """
        names = ("board", "board_abs", "mask")
        board, board_abs, mask = self.given(board, board_abs, mask, names=names, one=True)
        queries = self._queries(queries) if bool_attn else None
        view, acts, figures = self._view(board, board_abs, mask), self.recorded(board, mask, names="b*"), {}
        if bool_z:
            z = analyses.stacked(acts, self._stage_names)
            figures |= analyses.stage_figures(z, self._stage_names, view)
        if bool_attn:
            for prefix, (site, over_cells) in self.attention.items():
                weights = np.stack([acts[f"b{i}_{site}"][0] for i in range(self.n_layer)])  # (L, H, T, keys)
                figures |= analyses.attention_figures(weights, prefix, over_cells, queries, view)
        return self._save(figures, folder, list(self.attention) if bool_attn else ())

    def analyze_across_boards(self, boards, masks, focus_masks=None, folder: str = "default") -> dict:
        """embeddings_z_acrossBoards: for each token the mean distance, over pairs of boards (n, h, w),
        between its unit-norm activations, laid out as the board; dark is what the boards have in common at
        that stage.

        focus_masks (n, h, w): compare only these cells, s² on every board, matched in reading order and shown
        as s x s. `analyses.distances_across_boards`.
        """
        focus = np.ones(np.shape(boards), int) if focus_masks is None else focus_masks
        boards, masks, focus = self.given(boards, masks, focus, names=("boards", "masks", "focus_masks"))
        cells, names = analyses.matched_cells(focus), self._stage_names
        acts = self.recorded(boards, masks, names=sum(names, []))
        return self._save(analyses.distances_across_boards(acts, names, cells), folder)

    def analyze_across_boards_attn(self, boards, masks, queries, folder: str = "default") -> dict:
        """attnVar_b{i}_h{j}: variance over boards (n, h, w) of the attention that each query (outlined) pays
        to each cell; dark is attention that does not depend on the board. attnVar_merge: heads downwards,
        blocks across. queries (h, w) as in analyze_all. `analyses.attention_variance`."""
        boards, masks = self.given(boards, masks)
        queries, figures = self._queries(queries), {}
        for prefix, (site, over_cells) in self.attention.items():
            weights = self.recorded(boards, masks, names=f"b*_{site}")  # block after block
            figures |= analyses.attention_variance([*weights.values()], prefix, over_cells, queries)
        return self._save(figures, folder, [f"{prefix}Var" for prefix in self.attention])
