"""A run's folder: its name and lock, parameter files, log, checkpoints, saved states, and what may change on
resuming."""
from __future__ import annotations

import contextlib
import datetime
import errno
import itertools
import math
import os
import pickle
import shlex
import signal
import threading
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import lock_descriptor

from parts.files import UNSUPPORTED, atomic_write, numbered, read_json, save_tensors, to_disk, write_json
from parts.probing.panels import save_figure
from utils import caution, out_of_memory, shown

SAVE_SECONDS = 300  # at most, between saved states
CHANGEABLE = (
    "epochs",
    "device",
    "threads",
    "epoch2print",
    "epoch2test",
    "epoch2save",
    "save_epochs",
    "plot_dpi",
)
# not in the files of earlier versions, whose runs are as these say
LATER = {
    "optimizer": "adamw", "overlap_weight": 1.0, "save_epochs": None, "threads": None, "vq_start_epoch": 0,
    "slot_heads": 0,
}


class TrainingStopped(RuntimeError):
    """Training ended before its last epoch; the message says why and how to go on. exit_code: for a
    script."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


class Run:
    """The folder of a run while a trainer works in it.

    folder: runs/<run_name>, or None where nothing is written. saves: whether checkpoints and states are kept.
    log: the RunLog, None until `start` or `resume`.
    """

    def __init__(self, folder: Path | None, saves: bool):
        self.folder, self.saves = folder, saves and folder is not None
        self.log: RunLog | None = None
        self._lock: typing.IO | None = None
        self._saved_at = time.monotonic()

    def open(self) -> None:
        """Makes the folder where it is missing and holds it for this process, until `close`. ValueError where
        another process has it."""
        self._saved_at = time.monotonic()
        if self.folder is not None and self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder)

    def close(self) -> None:
        """Lets go of the folder."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def start(
        self, columns: Sequence[str], epochs: int, params: dict, dataset, state: Callable[[], dict]
    ) -> None:
        """Writes what a new run starts with; the log comes last, so that a folder with run_log.csv holds a
        run.

        columns: of the log. params: of the training. dataset: an AbstractionDataset. state: makes the first
        state. ValueError where the folder holds a run already.
        """
        if self.folder is None:
            self.log = RunLog(columns, epochs)
            return
        if (self.folder / "run_log.csv").exists():
            raise ValueError(
                f"run_name = {self.folder.name!r} must be new: {self.folder} already holds a run."
            )
        for name in ("checkpoints", "figures", "analysis"):
            (self.folder / name).mkdir(exist_ok=True)
        self.write_params(params)
        write_json(self.folder / "params_dataset.json", dataset.params.as_dict())
        dataset.export(str(self.folder / "datasets" / "dataset"))
        if self.saves:
            save_state(self.folder, 0, state())
        self.log = RunLog(columns, epochs, self.folder)

    def resume(self, columns: Sequence[str], epochs: int, at: int, params: dict) -> None:
        """Goes on with the log after `at` epochs, rows of later ones cut, and writes the parameters anew."""
        self.log = RunLog(columns, epochs, self.folder, resume_at=at)
        self.write_params(params)

    def write_params(self, params: dict) -> None:
        """Writes params_training.json, where there is a folder."""
        if self.folder is not None:
            write_json(self.folder / "params_training.json", params)

    def save_state(self, epoch: int, state: dict, due: bool) -> None:
        """Saves the state after `epoch` epochs, where it is due or SAVE_SECONDS have passed."""
        if self.saves and (due or time.monotonic() - self._saved_at > SAVE_SECONDS):
            self.log.settle()
            save_state(self.folder, epoch, state)
            self._saved_at = time.monotonic()

    def save_checkpoint(self, epoch: int, weights: dict) -> None:
        """Writes checkpoints/model_<epoch>.pth, where checkpoints are kept."""
        if self.saves:
            save_tensors(self.folder / "checkpoints" / f"model_{epoch}.pth", weights)

    def save_figures(self, figures: dict, dpi: int) -> None:
        """Writes run_log.pkl and {name: Figure} as figures/<name>.png."""
        if self.folder is not None:
            self.log.save_arrays()
            for name, figure in figures.items():
                save_figure(figure, self.folder / "figures" / f"{name}.png", dpi)

    def stopped(self, error: Exception, device: torch.device, epoch: int, good: dict) -> TrainingStopped:
        """What to raise for an early end, after saving the last good state, of `epoch` epochs, if it can
        be."""
        message, exit_code = str(error), getattr(error, "exit_code", 1)
        if isinstance(error, OSError):
            message = f"{error.filename or self.folder}: {error.strerror or error}"
        elif out_of_memory(error):
            message = (f"{device} is out of memory; reduce --batch, --n_embd, --n_layer or --board_dim "
                       f"({message[:80]})")
        if not self.saves:
            return TrainingStopped(f"{message}; nothing was saved (--save 0).", exit_code)
        try:
            save_state(self.folder, epoch, good)
        except (OSError, MemoryError):
            message += "; the last state could not be saved again"
        kept = newest_states(self.folder)
        how = f"resume with --resume {shlex.quote(str(self.folder))}" if kept else "no state was saved yet"
        if kept and getattr(error, "exit_code", 0) == 1:  # going on would end in the same way
            how = f"the state before is kept in {kept[0]}"
        return TrainingStopped(f"{message}; {how}.", exit_code)


def params_of(folder: Path, params_class) -> dict:
    """The parameters in a run folder, with those that its version did not have yet."""
    later = {name: value for name, value in LATER.items() if name in params_class.__dataclass_fields__}
    return later | read_json(folder / "params_training.json")


def params_to_resume(params_class, folder: Path, changed: dict) -> dict:
    """Checks that a run can be resumed with the parameters in `changed`, and returns those it has.

    ValueError where nothing was saved, where the files are of another version, or for a parameter that must
    stay as it is; TypeError for one that there is not.
    """
    if folder.is_dir() and not (newest_states(folder) and (folder / "run_log.csv").exists()):
        raise ValueError(
            f"{folder}: there is nothing to resume, no state was saved: the run was started with --save 0, "
            "or stopped in its first moments; start it again."
        )
    before = params_of(folder, params_class)
    for name in params_class.__dataclass_fields__:
        if name not in before:
            raise ValueError(
                f"{folder / 'params_training.json'}: lacks {name}; the run is of another script or version."
            )
    before |= {"run_name": folder.name, "runs": str(folder.parent)}  # wherever it stands by now
    for name, value in changed.items():
        if name not in params_class.__dataclass_fields__:
            raise TypeError(f"{name!r} is not a parameter.")
        value = params_class.checked(name, value)
        if name == "recipe_epochs" and value is not None:
            raise ValueError(
                f"recipe_epochs = {value} must be left out: the epochs of the run's ramps are scaled already."
            )
        value = str(Path(value).resolve()) if name == "runs" else value
        if name not in CHANGEABLE and before[name] != value:
            raise ValueError(f"{name} = {shown(value)} must stay as the run has it, {before[name]!r}.")
    return before


class Signals:
    """SIGINT and SIGTERM, which while one listens are noted, to be heeded where training can stop."""

    def __init__(self):
        self.number = 0

    @contextlib.contextmanager
    def listening(self, wanted: bool) -> Iterator[None]:
        """Inside, where wanted and in the main thread, signals are only noted; the handlers of before return
        after."""
        self.number = 0
        if not wanted or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number, frame):
            self.number = number

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def share(self, world: int, device: torch.device) -> None:
        """With several processes, all learn of a signal that came to one."""
        if world > 1:
            numbers = torch.tensor([self.number], device=device)
            torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
            self.number = int(numbers)

    def heed(self, where: str) -> None:
        """TrainingStopped where a signal has come."""
        if self.number:
            raise TrainingStopped(f"stopped by {signal.Signals(self.number).name} {where}", 128 + self.number)


def unused_run_name(runs: str | Path, suffix: str) -> str:
    """Makes a folder run_YYYYMMDD_xxx<suffix> in runs, xxx the first free number of the day, and returns its
    name."""
    day = datetime.date.today().strftime("%Y%m%d")
    Path(runs).mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        name = f"run_{day}_{number:03d}{suffix}"
        try:
            (Path(runs) / name).mkdir()
            return name
        except FileExistsError:
            number += 1


def lock(folder: Path) -> typing.IO:
    """Holds a run folder for this process until the file returned is closed, and removes half-written files
    there.

    The lock goes with the process, however it ends. ValueError where another process holds it. On a file
    system without locks a warning says so, and nothing is held or removed.
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
    """Saves what a run needs to go on after `epoch` epochs, and keeps the last two such files."""
    save_tensors(folder / "checkpoints" / f"state_{epoch}.pt", state)
    for path in newest_states(folder)[2:]:
        path.unlink()


def newest_state(folder: Path, take: Callable[[Path], dict]) -> tuple[dict, list[Path]]:
    """The newest saved state of a run that can be taken, and the files passed over, each with a warning.

    take: reads a file and goes back to its state, or raises. ValueError where none can be taken.
    """
    damaged = []
    for path in newest_states(folder):
        try:
            return take(path), damaged
        except Exception as error:  # of any kind, for what is no state
            reason = (
                str(error) if str(path) in str(error) else f"{path}: is no state of this run ({error!r:.80})."
            )
            caution(f"{reason} It is passed over.", 4)
            damaged.append(path)
    raise ValueError(f"{folder}: no saved state can be read.")


def newest_states(folder: Path) -> list[Path]:
    """The saved states of a run, newest first."""
    return [path for _, path in numbered(folder / "checkpoints", r"state_(\d+)\.pt")][::-1]


class RunLog:
    """The numbers of a run, a row an epoch: run_log.csv grows as epochs end, run_log.pkl holds arrays of
    length epochs.

    columns: names. folder: None keeps the log in memory. Values that were not measured are NaN, and empty in
    the CSV.
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
        if list(log) != self.columns or log["epoch"].tolist() != list(range(resume_at)):
            raise ValueError(f"{path}: must hold the rows of epochs 0 to {resume_at - 1}.")
        for name, values in log.items():
            self.arrays[name][:resume_at] = values
        with open(path, encoding="utf-8") as file:
            kept = [next(file) for _ in range(resume_at + 1)]
        with atomic_write(path, "w") as file:
            file.writelines(kept)

    def extend(self, epochs: int) -> None:
        """Makes room for that many epochs, where there is less."""
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
            cells = (float(row.get(name, math.nan)) for name in self.columns)
            line = (
                ",".join("" if math.isnan(cell) else repr(cell).removesuffix(".0") for cell in cells).encode()
                + b"\n"
            )
            with open(self.path, "ab", buffering=0) as file:
                end = file.tell()
                if file.write(line) < len(line):  # a full disk takes a part
                    file.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.rows += 1

    def settle(self) -> None:
        """Sees to it that the rows so far are on the disk. ValueError where the file holds others than those
        of this log."""
        if self.folder is not None:
            with open(self.path, "rb+") as file:
                if (found := sum(1 for _ in file) - 1) != self.rows:
                    raise ValueError(
                        f"{self.path}: holds {found} epochs, not the {self.rows} of this trainer; another "
                        "one has gone on with the run."
                    )
                to_disk(file)

    def save_arrays(self) -> None:
        """Writes run_log.pkl."""
        if self.folder is not None:
            with atomic_write(self.folder / "run_log.pkl") as file:
                pickle.dump(self.arrays, file)


def read_run_log(path: str | Path, rows: int | None = None) -> dict[str, np.ndarray]:
    """The columns of a run_log.csv as float arrays, NaN where a cell is empty; only its first rows, if given.
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
