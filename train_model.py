"""Trains GPTFactor on synthetic boards (arXiv 2312.05361).

    python train_model.py --device cuda                    # a trial run of one epoch
    python train_model.py --epoch 1500 --save 1 --seed 0   # the full recipe, kept in runs/<run_name>/
    torchrun --nproc_per_node=2 train_model.py ...         # the same run by two processes, half a batch each

Every parameter of data set and training is a flag: see --help.
"""
from __future__ import annotations

import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence

from module_dataset import AbstractionDataset, DatasetParams
from module_train_probe import TrainingStopped, TrainTransformer
from parts.params import FlagParser, is_none, params_from_flags
from parts.training.distributed import from_leader, leads, process_group
from parts.training.run import check_boards, check_new, unused_run_name
from parts.training.wandb import MODES, wandb_run
from utils import fresh_seed, out_of_memory, say, shown

DATASET = {}  # the script's own defaults, if they differ from DatasetParams


def main(
    argv: Sequence[str] | None = None, trainer_class: type = TrainTransformer, description: str = __doc__,
    dataset_defaults: dict = DATASET,
) -> TrainTransformer:
    """Reads the flags, makes or resumes the trainer, trains. A wrong flag ends in one line on stderr and exit
    code 2, before anything is written."""
    parser = make_parser(trainer_class, description, dataset_defaults)
    flags = parser.parse_args(argv)
    with one_sentence(parser), process_group(getattr(flags, "device", "auto")):
        training = params_from_flags(trainer_class.params_class, flags)
        boards = params_from_flags(DatasetParams, flags)
        # --seed is the data set's too, unless --data_seed says otherwise
        boards = {name: value for name, value in boards.items() if name not in ("seed", "run_name")}
        boards |= {} if flags.data_seed is None else {"seed": flags.data_seed}
        if flags.resume is None:
            trainer = new_trainer(trainer_class, dataset_defaults | boards, training)
        else:
            check_boards(flags.resume, boards)
            trainer = trainer_class.resume(flags.resume, **training)
        if "board_types_proba" in boards and trainer.board_curriculum:
            tell("board_types_proba has no effect on training with --board_curriculum 1.", sys.stderr)
        if trainer.epoch >= trainer.epochs:
            tell(f"{trainer.folder} is finished, {trainer.epoch} epochs; a larger --epoch trains on.")
            return trainer
        with wandb_run(trainer, flags.wandb) as logging:
            tell(f"run {trainer.folder}: seed {trainer.seed}, epochs {trainer.epoch} to {trainer.epochs}, "
                 f"device {trainer.device}" + f", {trainer.world} processes" * (trainer.world > 1))
            if trainer.epochs == 1:
                length = trainer.recipe.recipe_length
                tell(f"One epoch is a trial run; the full recipe is --epoch {length} --save 1.")
            trainer.train(bool_wandb=logging)
        tell(f"trained: {trainer.folder}")
    return trainer


def make_parser(
    trainer_class: type = TrainTransformer, description: str = __doc__, dataset_defaults: dict = DATASET
) -> FlagParser:
    """The command line: a flag for every parameter, and the script's own."""
    parser = FlagParser(description)
    add = parser.add_argument_group("runs").add_argument
    add("--data_seed", type=seed, metavar="N",
        help="seed of objects and split; without it --seed sets these too, so give it when comparing seeds")
    add("--resume", type=lambda text: None if is_none(text) else text, metavar="RUN_FOLDER",
        help="resume a run that was saved (--save 1)")
    add("--wandb", type=str.casefold, choices=MODES, default="disabled", metavar="MODE",
        help="log to Weights & Biases: disabled, offline or online (default: disabled)")
    parser.add_params("training", trainer_class.params_class, {})
    parser.add_params("data set", DatasetParams, dataset_defaults, skip=("seed", "run_name"))
    return parser


def seed(text: str) -> int | None:
    """The seed in a flag's text."""
    return DatasetParams.checked("seed", None if is_none(text) else int(text))


def new_trainer(trainer_class: type, boards: dict, training: dict) -> TrainTransformer:
    """Data set and trainer of a new run, with the folder's name; no file is written but an empty folder."""
    training["seed"] = from_leader(fresh_seed()) if training.get("seed") is None else training["seed"]
    run_name = training.get("run_name", "")
    dataset = AbstractionDataset(**{"seed": training["seed"], "run_name": run_name} | boards)
    trainer = trainer_class(dataset, **training)
    if trainer.rank == 0:
        if run_name:
            check_new(trainer.folder)
        else:
            trainer.run_name = unused_run_name(trainer.runs, trainer.run_suffix[trainer.transformer_type])
    return trainer


def tell(line: str, file=None) -> None:
    """Prints a line; of several processes the first one alone does."""
    if leads():
        say(line, file=file)


@contextlib.contextmanager
def one_sentence(parser: FlagParser) -> Iterator[None]:
    """Ends the program in one sentence on stderr for an error that a user can cause; so are warnings."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(message, file=sys.stderr)
            yield
    except TrainingStopped as stop:
        parser.exit(stop.exit_code, f"{parser.prog}: {stop}\n" if leads() else None)
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: stopped by SIGINT; nothing was saved.\n")
    except OSError as error:
        name = shown(error.filename or "the run folder")
        parser.error(f"runs: {name} cannot be written ({error.strerror}).")
    except (ValueError, TypeError) as error:
        if hasattr(error, "__notes__"):  # from within an epoch: no wrong flag, but a mistake in the program
            raise
        parser.error(str(error))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        parser.error(
            f"there is too little memory; reduce --n_embd, --n_layer or --board_dim ({str(error)[:80]})."
        )


if __name__ == "__main__":
    main()
    sys.exit(0)
