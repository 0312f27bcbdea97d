"""Trains and probes GPTFactor on boards (arXiv 2312.05361): the one training loop, tests, and what a run
leaves.

Axis letters: n boards, h x w cells of a board, B boards in a batch, T = h * w tokens, V tokens of the
vocabulary.

A run is a function of its parameters and its seed: boards and masks of an epoch, its dropout and its test
draw from random streams of their own, named by (seed, stream, epoch). So nothing depends on what was
evaluated in between, and a resumed run has the bits of one that was never stopped. """
from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from module_dataset import AbstractionDataset
from module_transformer_factor import GPTFactor
from parts.files import load_tensors, numbered, save_tensors
from parts.params import assigned, keywords_of, pick_device
from parts.probing.analyses import Probe
from parts.probing.evaluation import Accuracy, accuracy_table, score_values
from parts.probing.panels import own_style, plot_curves, save_figure
from parts.training import learner
from parts.training.distributed import from_leader, rank_and_world, sum_over_processes_, synchronise
from parts.training.optimizers import make_optimizer
from parts.training.recipe import IGNORED, TrainParams
from parts.training.run import (
    Run,
    RunLog,
    TrainingStopped,
    check_size,
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
    numpy_rng,
    progress_bar,
    ramp,
    say,
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


@keywords_of(TrainParams, first=["dataset"])
class TrainTransformer(Probe):
    """A data set, a network and its optimiser: train, test, record, edit.

    Keywords are those of TrainParams. Each is also an attribute, which is checked when it is assigned; those
    of the network are fixed. Other attributes: dataset, transformer (the network), optim, step (optimiser
    steps taken), epoch (epochs trained), device, log (RunLog of the run, or None). TypeError for an unknown
    keyword or a wrong type, ValueError for a wrong value.

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
        # with bfloat16 weights, losses, words and the optimiser's moments are float32
        weights = torch.float32 if self.dtype == "bfloat16" else getattr(torch, self.dtype)
        self.transformer = self._network().to(self.device, weights).eval()
        self.optim = make_optimizer(self.transformer, self.learning_rate, kind=self.optimizer)
        self.step = 0
        self._at_epoch(0)
        self.run: Run | None = None
        self._user_rng = numpy_rng(self.seed, STREAM_USER)

    def _fitting_recipe(self, params: dict) -> TrainParams:
        """The parameters, with those that follow from the data set and the seed filled in."""
        recipe, dataset = self.params_class.from_dict(params, ignored=IGNORED), self.dataset
        own = {"vocab_size": dataset.vocab_size, "block_size": dataset.board_dim**2,
               "masking_token": dataset.masking_token}
        for name, value in own.items():
            if getattr(recipe, name) not in (None, value):
                raise ValueError(f"{name} = {getattr(recipe, name)} must be the data set's, {value}.")
            setattr(recipe, name, value)
        recipe.seed = from_leader(fresh_seed()) if recipe.seed is None else recipe.seed
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
        self.dataset._check_cells(min(self.batch_size, self.dataset_len), "batch_size")
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
    def log(self) -> RunLog | None:
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
        early. After any exception the network is as it was at the start of the epoch. """
        if bool_wandb:
            check_wandb_runs()
        self.start_run()
        self._note_ramps()
        epochs, sums = range(self.epoch, self.epochs), []
        with (
            self.run.guard(self),  # if an epoch fails, back to its start; signals wait for the end of a step
            using_threads(self.threads),
            progress_bar(epochs, 20, desc="epochs ", unit="ep", disable=self.rank > 0) as bar,
        ):
            for epoch in bar:
                self.start_epoch(epoch)
                losses, totals = [], {}
                for masked, boards in self.batches(epoch):  # (B, T) tokens, hidden cells replaced by UNK
                    # torchrun: each process takes its share of the batch, and gradients are summed
                    mine = slice(self.rank, None, self.world)
                    share = len(boards[mine]) / len(boards)
                    with self.precision():
                        loss, parts = self.loss(masked[mine], boards[mine], epoch)  # runs the network
                    self.optim.zero_grad()
                    (loss * share).backward()
                    synchronise(self.transformer)
                    self.optim.step()
                    self.step += 1

                    # sums stay on the device: reading a number would wait for the step to end
                    losses.append(loss.detach())
                    for name, part in parts.items():
                        part = part * share if part.is_floating_point() else part  # means, or counts
                        totals[name] = totals.get(name, 0) + part
                    if self.world == 1:  # several processes stop together, at the end of an epoch
                        self.run.heed(f"in epoch {epoch}")
                self.transformer.eval()  # LEA's words would move with every pass in training mode

                sum_over_processes_(*totals.values())
                totals = {name: to_numpy(total) for name, total in totals.items()}
                self.check_finite(totals, losses, epoch)
                row = {"epoch": epoch, "written": 0} | self.loss_row(totals)
                if self.recipe.tests_at(epoch) and self.rank == 0:
                    row |= {"written": 1} | self.test(epoch)

                self.epoch = epoch + 1
                self.log.note(row)
                self.report(row, bar)
                if self.recipe.keeps_checkpoint_at(epoch):
                    self.run.save_checkpoint(epoch, self.weights())
                figures = self.save_figures(epoch, bool_wandb) if row["written"] else {}
                if bool_wandb:
                    log_to_wandb(row, figures, self.step)
                # the epoch counts once all its files are there; the state, to resume from, is saved if it is
                # due
                self.run.end_epoch(row, self.state(), self.recipe.saves_at(epoch), self.device)
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
            boards = self._tokens(drawn.boards)
            masked = boards.masked_fill(self._tokens(mask), self.masking_token)
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
        """Makes the run folder, if there is a run_name, and the log; train() does it too, and releases the
        folder at its end. ValueError if the folder already holds a run, or if another process trains in
        it."""
        if self.run is None:
            self.run = Run(self.folder if self.run_name else None, self.save_model)
            self.fix_ramps()
        self.run.open(self)

    def fix_ramps(self) -> None:
        """Stores the epoch of a ramp that follows from epochs, so that more epochs on resuming do not move
        it."""
        if self.masking_patch_epoch is None:
            self.masking_patch_epoch = self.epochs

    def _note_ramps(self) -> None:
        """Prints which ramps a run that begins will not reach the end of."""
        late = self.recipe.beyond_the_end()
        if late and self.rank == 0 and self.epoch == 0:
            hidden, _ = self.recipe.masking_at(self.epochs - 1)
            say(f"note: {self.epochs} epochs end before {', '.join(late)}; the last one hides "
                f"{100 * hidden:.1f}% of cells. --recipe_epochs (1500, LEA 3000) fits it into the run.")

    # tests, reports and figures

    def test(self, epoch: int) -> dict[str, float]:
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

    def _test_masking(self, epoch: int) -> tuple[float, float]:
        """(hiding probability, share of boards with a patch) of a test during training."""
        return self.recipe.masking_at(epoch)

    def columns(self) -> list[str]:
        """The columns of the log."""
        tests = [self._test_columns(split, output) for split in ("train", "test") for output in self.outputs]
        return ["written", "epoch", *self.loss_columns, *self.count_columns, *sum(tests, [])]

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
        return {"loss": totals["loss"], "error": totals["error"] / (self.dataset_len * self.block_size)}

    def _report_line(self, row: dict[str, float]) -> str:
        """One line about an epoch's log row."""
        return f"epoch {row['epoch']}: loss {row['loss']:.4f}, wrong tokens {100 * row['error']:.2f}%"

    def report(self, row: dict[str, float], bar) -> None:
        """Shows an epoch's loss on the progress bar; if a report or a test is due, also prints a line and a
        table."""
        bar.set_postfix_str(f"loss {row[self.loss_columns[0]]:.3f}", refresh=False)
        if self.rank > 0 or (row["epoch"] % self.epoch2print and not row["written"]):
            return
        lines, table = [self._report_line(row)], {}
        if row["written"]:
            for split in ("train", "test"):
                for output, title in self.outputs.items():
                    values = [row[name] for name in self._test_columns(split, output)]
                    if values[0] >= 0:
                        table[f"{split} {title}" if output else split] = values
            lines.append(accuracy_table(table))
        bar.clear()
        say("\n".join(lines))
        bar.refresh()

    def save_figures(self, epoch: int, bool_wandb: bool) -> dict:
        """Writes run_log.pkl and the run's figures to its folder; returns {name: Figure}, for wandb."""
        self.log.save_arrays()
        if not (self.run_name or bool_wandb):
            return {}
        with own_style():
            figures = self._figures(epoch)
            for name, figure in figures.items() if self.run_name else ():
                save_figure(figure, self.folder / "figures" / f"{name}.png", self.plot_dpi)
        return figures

    def _figures(self, epoch: int) -> dict:
        """The figures of a run: learning curves and sample reconstructions."""
        rng = numpy_rng(self.seed, STREAM_TEST, epoch, 1)
        drawn, _ = self._test_boards(rng, 2)
        _, made = self._evaluate(drawn.get("test", drawn["train"]), *self._test_masking(epoch), 1, rng)
        return {"learning_curves": plot_curves(self.log.arrays, self.curves),
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
        they are.

        Only tensors are read, no code. ValueError names a file that does not fit; the network stays as it
        was."""
        try:
            learner.load_weights(self.transformer, learner.plain_names(load_tensors(path)))
        except Exception as error:  # a file that is no state dict raises any kind
            if str(path) in str(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
            raise ValueError(f"{path}: is not a state dict of this network ({reason}).") from None

    def state(self) -> dict:
        """A copy of all that training changes. Random streams need no state: they are named by the epoch."""
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
        self._at_epoch(state["epoch"])
        self.step = state["step"]
        self._user_rng.bit_generator.state = json.loads(state["user_rng"])

    def _at_epoch(self, epoch: int) -> None:
        """Sets the number of epochs trained."""
        self.epoch = epoch

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

    # trainers of run folders

    @classmethod
    def from_run(
        cls, folder: str | Path, checkpoint: str | None = None, device: str = "auto"
    ) -> TrainTransformer:
        """Data set, network and trainer of a run folder, to look at (`resume` trains on), with the weights of
        its last checkpoint or the one named (e.g. 'model_250.pth'). ValueError names what is missing."""
        folder = Path(folder).resolve()
        trainer = cls._rebuilt(folder, {"device": device})
        checkpoints = numbered(folder / "checkpoints", r"model_(\d+)\.pth")
        if checkpoint is None and not checkpoints:
            raise ValueError(f"{folder}: holds no checkpoint; train with save_model=True.")
        path = folder / "checkpoints" / checkpoint if checkpoint else checkpoints[-1][1]
        trainer.load_transformer(path)
        trainer._at_epoch(next((number + 1 for number, other in checkpoints if other == path), 0))
        return trainer

    @classmethod
    def resume(cls, folder: str | Path, **changed) -> TrainTransformer:
        """The trainer of a run that was saved with save_model, as it was after the last saved epoch: train()
        then continues as if it had never been stopped. Log rows of later epochs are cut.

        changed: epochs, device, threads and the periods may change. ValueError for another parameter, if
        nothing was saved, if a file is damaged (a damaged newest state is passed over with a warning), or if
        another process trains in the folder. """
        folder = Path(folder).resolve()
        own = params_to_resume(cls.params_class, folder, changed)
        trainer = cls._rebuilt(folder, changed)
        if trainer.rank > 0:
            trainer.restore(from_leader(None))
            return trainer
        if trainer.epochs != own["epochs"] and trainer.lr_schedule != "constant":
            caution(f"with epochs = {trainer.epochs} instead of {own['epochs']} the {trainer.lr_schedule} "
                    "schedule falls later: the learning rate rises again where the run resumes.")
        trainer.run = Run(folder, trainer.save_model)
        with lock(folder):
            state, damaged = newest_state(folder, trainer._take_state)
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
        """Takes the number of threads that made a state; warns if that, the processes or torch have
        changed."""
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
    def _rebuilt(cls, folder: Path, changed: dict) -> TrainTransformer:
        """Data set and trainer of a run folder, some parameters changed, network untrained."""
        pick_device(changed.get("device", "cpu"))
        params = params_of(folder, cls.params_class)
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
            check_size(recipe, dataset.board_dim**2, folder / "checkpoints")
            return cls(dataset, **params)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / 'params_training.json'}: {error}") from None
