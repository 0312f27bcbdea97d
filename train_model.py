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
from pathlib import Path

import numpy as np

from module_dataset import AbstractionDataset, DatasetParams
from module_train_probe import TrainingStopped, TrainTransformer
from parts.files import read_json
from parts.params import FlagParser, is_none, params_from_flags
from parts.training.run import unused_run_name
from parts.training.wandb import wandb_run, wanted_mode
from utils import MAX_SEED, fresh_seed, out_of_memory, process_group, rank_and_world, say, shown

# what this script sets otherwise than DatasetParams and TrainParams do
DATASET = {}
TRAINING = {}
FULL_RECIPE = "--epoch 1500 --save 1"


def main(
    argv: Sequence[str] | None = None, trainer_class: type = TrainTransformer, description: str = __doc__,
    dataset_defaults: dict = DATASET, training_defaults: dict = TRAINING, full_recipe: str = FULL_RECIPE,
) -> list[TrainTransformer]:
    """Reads the flags, makes data set and trainer, trains. A wrong flag ends in one line on stderr and exit
    code 2."""
    parser = make_parser(trainer_class, description, dataset_defaults, training_defaults)
    flags = parser.parse_args(argv)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(process_group(getattr(flags, "device", "auto")))
        except ValueError as error:
            parser.error(str(error))
        return run(parser, flags, trainer_class, dataset_defaults, training_defaults, full_recipe)


def run(
    parser, flags, trainer_class, dataset_defaults, training_defaults, full_recipe
) -> list[TrainTransformer]:
    """What the flags ask for; of the processes that torchrun starts the first one speaks."""
    leads = rank_and_world()[0] == 0
    tell = say if leads else lambda *line: None
    with contextlib.ExitStack() as logging:  # wandb's run of the trainer whose turn it is
        trainers = started(parser, flags, trainer_class, dataset_defaults, training_defaults, logging)
        for trainer in trainers:
            if trainer.epoch >= trainer.epochs:
                tell(f"{trainer.folder} is finished, {trainer.epoch} epochs; a larger --epoch trains on.")
                continue
            tell(
                f"run {trainer.folder}: seed {trainer.seed}, epochs {trainer.epoch} to {trainer.epochs}, "
                f"device {trainer.device}"
                + f", {trainer.world} processes" * (trainer.world > 1)
            )
            if trainer.epochs == 1:
                tell(f"One epoch is a trial run; the full recipe is {full_recipe}.")
            if trainer is not trainers[0]:
                try:
                    logging.enter_context(wandb_run(trainer, wandb_mode(flags)))
                except ValueError as error:
                    parser.error(str(error))
            try:
                trainer.train(bool_wandb=wandb_mode(flags) != "disabled")
            except TrainingStopped as stop:
                parser.exit(stop.exit_code, f"{parser.prog}: {stop}\n" if leads else None)
            except KeyboardInterrupt:
                parser.exit(130, f"{parser.prog}: stopped by SIGINT; nothing was saved (--save 0).\n")
            logging.close()
            tell(f"trained: {trainer.folder}")
    if leads and len(trainers) > 1:
        tell(spread(trainers))
    return trainers


def started(
    parser, flags, trainer_class, dataset_defaults, training_defaults, logging: contextlib.ExitStack
) -> list[TrainTransformer]:
    """The trainers that the flags ask for, their folders made, after wandb's run of the first one has been;
    whatever is in the way ends the program in one line."""
    try:
        trainers = prepare(flags, trainer_class, dataset_defaults, training_defaults)
        for trainer in trainers:
            if trainer.rank == 0 and not trainer.run_name:
                trainer.run_name = unused_run_name(trainer.runs, trainer.run_suffix[trainer.transformer_type])
            with plain_warnings():
                if trainer is trainers[0] and trainer.epoch < trainer.epochs:
                    logging.enter_context(wandb_run(trainer, wandb_mode(flags)))
                trainer.start_run()
        return trainers
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: stopped by SIGINT before training.\n")
    except OSError as error:
        name = shown(error.filename or flags.resume or "the run folder")
        parser.error(f"runs: {name} cannot be written ({error.strerror}).")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        parser.error(
            f"there is too little memory; reduce --n_embd, --n_layer or --board_dim ({str(error)[:80]})."
        )


def wandb_mode(flags) -> str:
    """How wandb is to be used in this process: the first one alone logs."""
    return wanted_mode(flags.wandb) if rank_and_world()[0] == 0 else "disabled"


def make_parser(
    trainer_class: type = TrainTransformer, description: str = __doc__, dataset_defaults: dict = DATASET,
    training_defaults: dict = TRAINING,
) -> FlagParser:
    """The command line: a flag for every parameter, and those of the script itself."""
    parser = FlagParser(description)
    group = parser.add_argument_group("runs")
    group.add_argument(
        "--repeat", default="1", metavar="N", help="independent runs, seeds counted up (default: 1)"
    )
    group.add_argument(
        "--data_seed", metavar="N", help="seed of the data set alone (default: that of --seed)"
    )
    group.add_argument("--resume", metavar="RUN_FOLDER", help="go on with a run that was saved (--save 1)")
    group.add_argument(
        "--wandb", default="disabled", metavar="MODE", help="disabled, offline or online (default: disabled)"
    )
    parser.add_params("training", trainer_class.params_class, training_defaults)
    parser.add_params("data set", DatasetParams, dataset_defaults, skip=("seed", "run_name"))
    return parser


def prepare(flags, trainer_class, dataset_defaults, training_defaults) -> list[TrainTransformer]:
    """Data set and trainer of each run that --repeat asks for, seeds counted up; ValueError or TypeError for
    a wrong flag."""
    wanted_mode(flags.wandb)
    repeat = whole_number("--repeat", flags.repeat, 1, 1000)
    training = training_defaults | params_from_flags(trainer_class.params_class, flags)
    boards = dataset_defaults | params_from_flags(DatasetParams, flags)
    if flags.resume is not None and not is_none(flags.resume):
        return [resumed(flags, trainer_class, repeat)]
    seed = fresh_seed() if training.get("seed") is None else training["seed"]
    data_seed = seed_of_data(flags)
    trainers = []
    for i in range(repeat):
        name = training.get("run_name", "") + (f"_{i + 1}" if training.get("run_name") and repeat > 1 else "")
        own = {"run_name": name, "seed": seed + i if data_seed is None else data_seed}
        trainers.append(
            trainer_class(
                AbstractionDataset(**boards | own), **training | {"seed": seed + i, "run_name": name}
            )
        )
        if trainers[-1].run_name and (trainers[-1].folder / "run_log.csv").exists():
            raise ValueError(f"run_name = {name!r} must be new: {trainers[-1].folder} already holds a run.")
    if hasattr(flags, "board_types_proba") and trainers[0].board_curriculum and trainers[0].rank == 0:
        say("board_types_proba has no effect on training with --board_curriculum 1.", file=sys.stderr)
    return trainers


def resumed(flags, trainer_class, repeat: int) -> TrainTransformer:
    """The trainer of the run that --resume names; flags besides may only change what can change."""
    if repeat != 1:
        raise ValueError("--repeat cannot go with --resume.")
    given, boards = (
        params_from_flags(params, flags) for params in (trainer_class.params_class, DatasetParams)
    )
    boards = {name: value for name, value in boards.items() if name not in given}
    if seed_of_data(flags) is not None:
        boards["seed"] = seed_of_data(flags)
    path = Path(flags.resume) / "params_dataset.json"
    if boards and path.is_file():
        try:
            before = DatasetParams.from_dict(read_json(path)).as_dict()
        except (TypeError, ValueError) as error:
            raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
        wanted = DatasetParams.from_dict(before | boards).as_dict()
        for name in boards:
            if wanted[name] != before[name]:
                raise ValueError(f"{name} = {boards[name]!r} must stay as the run has it, {before[name]!r}.")
    with plain_warnings():
        return trainer_class.resume(flags.resume, **given)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Inside, a warning is a line on stderr, without its place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(message, file=sys.stderr)
        yield


def seed_of_data(flags) -> int | None:
    """What --data_seed says; None where it says none, or is not given."""
    if flags.data_seed is None or is_none(flags.data_seed):
        return None
    return whole_number("--data_seed", flags.data_seed, 0)


def whole_number(flag: str, text: str, low: int, high: int = MAX_SEED) -> int:
    """A flag's text as a whole number; ValueError names the flag."""
    if not (text.isdecimal() and len(text) < 20 and low <= int(text) <= high):
        raise ValueError(f"{flag} must be a whole number from {low} to {high}, not {shown(text)}.")
    return int(text)


def spread(trainers: Sequence[TrainTransformer]) -> str:
    """Mean and standard deviation over runs of the last epoch's test."""
    lines = [
        f"{len(trainers)} runs, seeds {', '.join(str(t.seed) for t in trainers)}: mean ± standard deviation"
    ]
    for name in trainers[0].log.columns:
        values = np.array([t.log.arrays[name][t.epoch - 1] for t in trainers])
        if name.startswith(("loss", "test_")) and np.isfinite(values).all() and (values >= 0).all():
            lines.append(f"  {name:32} {values.mean():.4f} ± {values.std(ddof=1):.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
    sys.exit(0)
