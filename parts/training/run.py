"""A run's folder: its name and lock, parameter files, log, checkpoints, saved states; how a training ends
early, and what may change when it is resumed."""
from __future__ import annotations

import contextlib
import datetime
import errno
import itertools
import math
import numbers
import os
import pickle
import shlex
import signal
import threading
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import lock_descriptor

from parts.boards.params import DatasetParams
from parts.checks import naming
from parts.files import UNSUPPORTED, atomic_write, numbered, read_json, save_tensors, to_disk, write_json
from parts.training.distributed import largest_over_processes
from utils import caution, out_of_memory, shown

SAVE_SECONDS = 300  # at most, between saved states
# parameters that may differ when a run is resumed
CHANGEABLE = ("epochs", "device", "threads", "epoch2print", "epoch2test", "epoch2save", "save_epochs",
              "plot_dpi")
# parameters that older runs lack, with the value that does what those runs did
USED_BEFORE = {
    "optimizer": "adamw",
    "save_epochs": None,
    "threads": None,
    "vq_start_epoch": 0,
    "slot_heads": 0,
    "vq_groups": 1,
    "weight_decay": 0.01,
    "betas": [0.9, 0.95],
    "grad_clip": 0,
    "init_from": None,
}
# parameters and choices that are gone, with the values that can still be resumed
GONE = {
    "weight_average": [0],
    "overlap_weight": [1],
    "product_way": ["linear"],
    "attention_way": ["fused"],
    "lr_schedule": ["constant", "linear"],
}


class TrainingStopped(RuntimeError):
    """Training ended before its last epoch; the message says why and how to resume. exit_code: a script's."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


class Run:
    """The folder of a run while a trainer works in it.

    folder: runs/<run_name>, or None to write nothing. saves: whether checkpoints and states are saved. log:
    the RunLog, None until `open` or `resume`.
    """

    def __init__(self, folder: Path | None, saves: bool):
        self.folder, self.saves = folder, saves and folder is not None
        self.log: RunLog | None = None
        self.signal = 0  # the number of a signal that came while training
        self._good: dict = {}  # the state after the last whole epoch
        self._lock: typing.IO | None = None
        self._saved_at = time.monotonic()

    # the folder

    def open(self, trainer) -> None:
        """Holds the folder for this process, until `close`; on the first call, writes what a new run starts
        with. ValueError if the folder already holds a run, or if another process trains in it."""
        self._saved_at = time.monotonic()
        if self.folder is not None and self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder)
        try:
            if self.log is None:
                self._start(trainer)
            self.log.settle()
            self.log.extend(trainer.epochs)
            self.write_params(trainer.params)  # some may have been assigned since the last epoch
        except BaseException:
            self.close()
            raise

    def _start(self, trainer) -> None:
        if self.folder is None:
            self.log = RunLog(trainer.columns(), trainer.epochs)
            return
        check_new(self.folder)
        for name in ("checkpoints", "figures", "analysis"):
            (self.folder / name).mkdir(exist_ok=True)
        self.write_params(trainer.params)
        write_json(self.folder / "params_dataset.json", trainer.dataset.params.as_dict())
        trainer.dataset.export(str(self.folder / "datasets" / "dataset"))
        if self.saves:
            save_state(self.folder, 0, trainer.state())
        # the log comes last, so that a folder with run_log.csv holds a run
        self.log = RunLog(trainer.columns(), trainer.epochs, self.folder)

    def resume(self, trainer) -> None:
        """Continues the log after the trainer's last epoch; rows of later epochs are cut."""
        self.log = RunLog(trainer.columns(), trainer.epochs, self.folder, resume_at=trainer.epoch)
        self.write_params(trainer.params)

    def close(self) -> None:
        """Releases the folder."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def write_params(self, params: dict) -> None:
        """Writes params_training.json."""
        if self.folder is not None:
            write_json(self.folder / "params_training.json", params)

    def save_checkpoint(self, name: int | str, weights: dict) -> None:
        """Writes checkpoints/model_<name>.pth, if checkpoints are saved."""
        if self.saves:
            save_tensors(self.folder / "checkpoints" / f"model_{name}.pth", weights)

    # training

    @contextlib.contextmanager
    def guard(self, trainer) -> Iterator[None]:
        """Surrounds a training, from its first epoch to its last.

        If states are saved, SIGINT and SIGTERM do not interrupt a step: they are noted, for `heed`. If
        anything goes wrong, the trainer goes back to its last whole epoch. A signal, a loss that is not
        finite, a full disk and too little memory then end as TrainingStopped, after that state has been
        saved; any other exception passes on. Releases the folder at the end.
        """
        self._good = trainer.state()
        with self._signals_noted(self.saves or trainer.rank > 0):
            try:
                yield
            except BaseException as error:
                trainer.restore(self._good)
                if isinstance(error, (TrainingStopped, OSError)) or out_of_memory(error):
                    raise self._stopped(error, trainer.device) from error
                error.add_note(f"while training epoch {trainer.epoch}")  # so no wrong flag: see train_model
                raise
            finally:
                self.close()

    def end_epoch(self, row: dict[str, float], state: dict, due: bool, device: torch.device) -> None:
        """Makes an epoch count: its log row goes to the disk, and a failure goes back to `state`, after it.
        It is saved if it is due or SAVE_SECONDS have passed. TrainingStopped if a signal has come."""
        self.log.add(row)
        self._good = state
        if self.saves and (due or time.monotonic() - self._saved_at > SAVE_SECONDS):
            self.log.settle()
            save_state(self.folder, state["epoch"], state)
            self._saved_at = time.monotonic()
        self.signal = largest_over_processes(self.signal, device)
        self.heed(f"after epoch {row['epoch']}")

    def heed(self, where: str) -> None:
        """Raises TrainingStopped if SIGINT or SIGTERM was received."""
        if self.signal:
            name = signal.Signals(self.signal).name
            raise TrainingStopped(f"stopped by {name} {where}", 128 + self.signal)

    @contextlib.contextmanager
    def _signals_noted(self, wanted: bool) -> Iterator[None]:
        """Inside, if wanted and in the main thread, SIGINT and SIGTERM are only noted."""
        self.signal = 0
        if not wanted or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number, frame):
            self.signal = number

        handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _stopped(self, error: Exception, device: torch.device) -> TrainingStopped:
        """What to raise for an early end, after saving the state of the last whole epoch, if possible."""
        message, exit_code = str(error), getattr(error, "exit_code", 1)
        if isinstance(error, OSError):
            message = f"{error.filename or self.folder}: {error.strerror or error}"
        elif out_of_memory(error):
            message = (f"{device} is out of memory; reduce --batch, --n_embd, --n_layer or --board_dim "
                       f"({message[:80]})")
        if not self.saves:
            return TrainingStopped(f"{message}; nothing was saved (--save 0).", exit_code)
        try:
            save_state(self.folder, self._good["epoch"], self._good)
        except (OSError, MemoryError):
            message += "; the last state could not be saved again"
        states = newest_states(self.folder)
        how = f"resume with --resume {shlex.quote(str(self.folder))}" if states else "no state was saved yet"
        if states and getattr(error, "exit_code", 0) == 1:  # a resumed run would end in the same way
            how = f"the state before is kept in {states[0]}"
        return TrainingStopped(f"{message}; {how}.", exit_code)


def params_of(folder: Path, params_class) -> dict:
    """The parameters in a run folder, completed by those that its version did not have yet."""
    later = {name: value for name, value in USED_BEFORE.items() if name in params_class.__dataclass_fields__}
    params = later | read_json(folder / "params_training.json")
    if params.get("lr_schedule") == "cosine":  # gone; a choice without effect on a run that is only opened
        params["lr_schedule"] = "linear"
    return params


def params_to_resume(params_class, folder: Path, changed: dict) -> dict:
    """Checks that a run can be resumed with the parameters in `changed`, and returns the run's own.

    ValueError if nothing was saved, if the files are of another version, or for a parameter that must stay as
    it is; TypeError for an unknown one.
    """
    if folder.is_dir() and not (newest_states(folder) and (folder / "run_log.csv").exists()):
        raise ValueError(
            f"{folder}: there is nothing to resume, no state was saved: the run was started with --save 0, "
            "or stopped in its first moments; start it again."
        )
    own = params_of(folder, params_class)
    for name in params_class.__dataclass_fields__:
        if name not in own:
            raise ValueError(
                f"{folder / 'params_training.json'}: lacks {name}; the run is of another script or version."
            )
    written = read_json(folder / "params_training.json")
    if "weight_average" in written or "threads" not in written:  # older than this list; its first kernels
        written = {"product_way": "convolution", "attention_way": "explicit"} | written
    for name, resumable in GONE.items():
        if (value := written.get(name, resumable[0])) not in resumable:
            raise ValueError(
                f"{folder}: {name} = {value!r} no longer exists; the run can be opened, but not resumed."
            )
    own |= {"run_name": folder.name, "runs": str(folder.parent)}  # wherever the folder has been moved to
    for name, value in changed.items():
        if name not in params_class.__dataclass_fields__:
            raise TypeError(f"{name!r} is not a parameter.")
        value = params_class.checked(name, value)
        if name == "recipe_epochs" and value is not None:
            raise ValueError(
                f"recipe_epochs = {value} must be left out: the epochs of the run's ramps are scaled already."
            )
        value = str(Path(value).resolve()) if name == "runs" else value
        if name not in CHANGEABLE and own[name] != value:
            raise ValueError(f"{name} = {shown(value)} must stay as the run has it, {own[name]!r}.")
    return own


def check_boards(folder: str | Path, boards: dict) -> None:
    """ValueError if one of these data-set parameters differs from the run's."""
    path = Path(folder).expanduser() / "params_dataset.json"
    if not boards or not path.is_file():
        return
    own = read_json(path)
    with naming(path):
        own = DatasetParams.from_dict(own).as_dict()
    wanted = DatasetParams.from_dict(own | boards).as_dict()
    for name, value in boards.items():
        if wanted[name] != own[name]:
            raise ValueError(f"{name} = {value!r} must stay as the run has it, {own[name]!r}.")


def check_not_own(folder: Path) -> None:
    """ValueError if a run was trained on boards of a user's own, which its folder does not hold."""
    path = folder / "params_dataset.json"
    if path.is_file() and (name := read_json(path).get("own_boards")):
        raise ValueError(
            f"{folder}: was trained on {name}, boards of its user's own; open it in Python, with dataset=."
        )


def checkpoint_of(folder: Path, checkpoint: int | str | Path) -> Path:
    """The file of a run's checkpoint, given as an epoch, a name with or without .pth, or a path. ValueError
    lists those that the run has, if it is missing."""
    name = f"model_{checkpoint}" if isinstance(checkpoint, numbers.Integral) else checkpoint
    path = folder / "checkpoints" / Path(name).expanduser()
    for found in (path, path.with_name(f"{path.name}.pth")):
        if found.is_file():
            return found
    names = ", ".join(path.name for _, path in numbered(folder / "checkpoints", r"model_(\d+)\.pth"))
    raise ValueError(f"{path}: is missing; {folder.name} has {names or 'no checkpoints'}.")


def check_size(recipe, cells: int, checkpoints: Path) -> None:
    """ValueError if a recipe asks for a larger network than any file in checkpoints holds, as damaged
    parameters may; they would fill the memory. cells: of a board."""
    sizes = [path.stat().st_size for path in checkpoints.glob("*")]
    codebook = getattr(recipe, "vocab_speech_size", 0) // getattr(recipe, "vq_groups", 1)
    words = codebook + getattr(recipe, "block_speech_size", 0)
    positions = cells * recipe.n_embd_pos if recipe.transformer_type == "factor" else 0
    weights = recipe.n_embd * (recipe.n_layer * recipe.n_embd + words) + positions  # at least
    if sizes and weights > max(sizes):  # a file holds several bytes of each weight
        raise ValueError(
            "n_layer, n_embd and the other sizes are of a larger network than any in checkpoints."
        )


def check_new(folder: Path) -> None:
    """ValueError if a folder already holds a run."""
    if (folder / "run_log.csv").exists():
        raise ValueError(f"run_name = {folder.name!r} must be new: {folder} already holds a run.")


def unused_run_name(runs: str | Path, suffix: str) -> str:
    """Makes the folder run_YYYYMMDD_xxx<suffix>, xxx the day's first unused number; returns its name."""
    day = datetime.date.today().strftime("%Y%m%d")
    Path(runs).mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        name = f"run_{day}_{number:03d}{suffix}"
        with contextlib.suppress(FileExistsError):
            (Path(runs) / name).mkdir()
            return name


def lock(folder: Path) -> typing.IO:
    """Locks a run folder for this process until the returned file is closed, and removes half-written files.

    The lock ends with the process, however that ends. ValueError if another process holds it. On a file
    system without locks there is a warning, and nothing is locked or removed.
    """
    file = open(folder / ".lock", "ab")
    try:
        held = lock_descriptor(file.fileno(), blocking=False)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            alone = "its file system has no locks; see to it that one process alone trains there."
            caution(f"{folder}: {alone}")
            return file
        file.close()
        raise OSError(error.errno, error.strerror, str(folder / ".lock")) from None
    if not held:
        file.close()
        raise ValueError(f"{folder}: another process is training in this run folder.")
    for part in ("", "checkpoints", "datasets"):
        for path in (folder / part).glob(".*.tmp"):
            path.unlink()
    return file


def save_state(folder: Path, epoch: int, state: dict) -> None:
    """Saves the state after `epoch` epochs, from which a run resumes, and keeps the last two such files."""
    save_tensors(folder / "checkpoints" / f"state_{epoch}.pt", state)
    for path in newest_states(folder)[2:]:
        path.unlink()


def newest_state(folder: Path, take: Callable[[Path], dict]) -> tuple[dict, list[Path]]:
    """The newest saved state of a run that can be read, and the damaged files passed over with a warning.

    take: reads a file and restores its state, or raises. ValueError if none can be read.
    """
    damaged = []
    for path in newest_states(folder):
        try:
            return take(path), damaged
        except Exception as error:  # a damaged file raises any kind
            named = str(path) in str(error)
            reason = str(error) if named else f"{path}: is no state of this run ({error!r:.80})."
            caution(f"{reason} It is passed over.", 4)
            damaged.append(path)
    raise ValueError(f"{folder}: no saved state can be read.")


def newest_states(folder: Path) -> list[Path]:
    """The saved states of a run, newest first."""
    return [path for _, path in numbered(folder / "checkpoints", r"state_(\d+)\.pt")][::-1]


class RunLog:
    """The numbers of a run, one row per epoch: run_log.csv grows as epochs end, run_log.pkl holds arrays of
    length epochs.

    columns: names. folder: None keeps the log in memory. resume_at: continues the log in the folder after so
    many epochs. A value that was not measured is NaN, and blank in the CSV.
    """

    def __init__(
        self, columns: Sequence[str], epochs: int, folder: Path | None = None, resume_at: int | None = None
    ):
        self.columns, self.folder, self.rows = list(columns), folder, resume_at or 0
        self.arrays = {name: np.empty(0) for name in columns}
        self.extend(epochs)
        if folder is None:
            return
        self.path = path = folder / "run_log.csv"
        if resume_at is None:
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            with atomic_write(path, "w") as file:
                file.write(",".join(self.columns) + "\n")
            return
        log = read_run_log(path, resume_at)
        if not set(log) <= set(self.columns) or log["epoch"].tolist() != list(range(resume_at)):
            raise ValueError(f"{path}: must hold the rows of epochs 0 to {resume_at - 1}.")
        for name, values in log.items():
            self.arrays[name][:resume_at] = values
        # written anew: later rows go, and columns that an older version did not have stay blank
        rows = zip(*(self.arrays[name][:resume_at] for name in self.columns), strict=True)
        with atomic_write(path, "w") as file:
            file.writelines([",".join(self.columns) + "\n", *map(csv_line, rows)])

    def extend(self, epochs: int) -> None:
        """Makes room for that many epochs."""
        for name, values in self.arrays.items():
            more = np.full(max(0, epochs - len(values)), 0 if name == "written" else np.nan)
            self.arrays[name] = np.concatenate([values, more])

    def note(self, row: dict[str, float]) -> None:
        """Enters the row of epoch row['epoch'] into the arrays."""
        for name, value in row.items():
            self.arrays[name][int(row["epoch"])] = value

    def add(self, row: dict[str, float]) -> None:
        """Enters a row into the arrays and the CSV."""
        self.note(row)
        if self.folder is not None:
            line = csv_line(row.get(name, math.nan) for name in self.columns).encode()
            with open(self.path, "ab", buffering=0) as file:
                end = file.tell()
                if file.write(line) < len(line):  # a full disk takes only a part
                    file.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.rows += 1

    def settle(self) -> None:
        """Waits until all rows are on the disk. ValueError if the file holds other rows than this log."""
        if self.folder is not None:
            with open(self.path, "rb+") as file:
                if (found := sum(1 for _ in file) - 1) != self.rows:
                    raise ValueError(
                        f"{self.path}: holds {found} epochs, not the {self.rows} of this trainer; another "
                        "one has continued the run."
                    )
                to_disk(file)

    def save_arrays(self) -> None:
        """Writes run_log.pkl; as in the official program, what a test did not measure is -1 there."""
        if self.folder is not None:
            tested = self.arrays["written"] == 1
            arrays = {name: np.where(tested & np.isnan(v), -1, v) for name, v in self.arrays.items()}
            with atomic_write(self.folder / "run_log.pkl") as file:
                pickle.dump(arrays, file)


def csv_line(values: Iterable[float]) -> str:
    """A line of a CSV that reads back to the bit; NaN is blank."""
    cells = map(float, values)
    return ",".join("" if math.isnan(cell) else repr(cell).removesuffix(".0") for cell in cells) + "\n"


def best_epoch(log: dict[str, np.ndarray], column: str) -> int | None:
    """The first epoch with a column's highest value; None if it was never measured."""
    values = log.get(column, np.empty(0))
    return None if np.isnan(values).all() else int(np.nanargmax(values))


def read_run_log(path: str | Path, rows: int | None = None) -> dict[str, np.ndarray]:
    """The columns of a run_log.csv as float arrays, blank cells as NaN; only its first `rows`, if given.
    ValueError names a damaged file."""
    try:
        with open(path, encoding="utf-8") as file:
            header, *lines = itertools.islice(file, None if rows is None else rows + 1)
        names = header.rstrip("\n").split(",")
        found = [[float(cell or "nan") for cell in line.rstrip("\n").split(",")] for line in lines]
        whole = all(line.endswith("\n") for line in (header, *lines)) and all(
            len(row) == len(names) for row in found
        )
        if not whole or len(set(names)) < len(names) or "epoch" not in names:
            raise ValueError
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError:
        raise ValueError(f"{path}: is cut off or is not a run log.") from None
    return dict(zip(names, np.array(found, float).reshape(-1, len(names)).T, strict=True))
