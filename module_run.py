"""A run's folder: its name, lock, saved states and log."""
from __future__ import annotations

import datetime
import errno
import itertools
import math
import os
import pickle
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import lock_descriptor

from module_files import UNSUPPORTED, atomic_write, numbered, save_tensors, to_disk


def unused_run_name(runs: str | Path, suffix: str) -> str:
    """Makes a folder run_YYYYMMDD_xxx<suffix> in runs, xxx the first free number of the day, and returns its name."""
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
    """Holds a run folder for this process until the file returned is closed, and removes half-written files there.

    The lock goes with the process, however it ends. ValueError where another process holds it. On a file system
    without locks a warning says so, and nothing is held or removed.
    """
    file = open(folder / ".lock", "ab")
    try:
        held = lock_descriptor(file.fileno(), blocking=False)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            alone = "its file system has no locks; see to it that one process alone trains there."
            warnings.warn(f"{folder}: {alone}", stacklevel=2)
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


def newest_states(folder: Path) -> list[Path]:
    """The saved states of a run, newest first."""
    return [path for _, path in numbered(folder / "checkpoints", r"state_(\d+)\.pt")][::-1]


class RunLog:
    """The numbers of a run, a row an epoch: run_log.csv grows as epochs end, run_log.pkl holds arrays of length epochs.

    columns: names. folder: None keeps the log in memory. Values that were not measured are NaN, and empty in the CSV.
    """

    def __init__(self, columns: Sequence[str], epochs: int, folder: Path | None = None, resume_at: int | None = None):
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
            line = ",".join("" if math.isnan(cell) else repr(cell).removesuffix(".0") for cell in cells).encode() + b"\n"
            with open(self.path, "ab", buffering=0) as file:
                end = file.tell()
                if file.write(line) < len(line):  # a full disk takes a part
                    file.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.rows += 1

    def settle(self) -> None:
        """Sees to it that the rows so far are on the disk. ValueError where the file holds others than those of this log."""
        if self.folder is not None:
            with open(self.path, "rb+") as file:
                if (found := sum(1 for _ in file) - 1) != self.rows:
                    raise ValueError(f"{self.path}: holds {found} epochs, not the {self.rows} of this trainer; another one "
                                     "has gone on with the run.")
                to_disk(file)

    def save_arrays(self) -> None:
        """Writes run_log.pkl."""
        if self.folder is not None:
            with atomic_write(self.folder / "run_log.pkl") as file:
                pickle.dump(self.arrays, file)


def read_run_log(path: str | Path, rows: int | None = None) -> dict[str, np.ndarray]:
    """The columns of a run_log.csv as float arrays, NaN where a cell is empty; only its first rows, if given. ValueError
    names a damaged file."""
    try:
        with open(path, encoding="utf-8") as file:
            header, *lines = itertools.islice(file, None if rows is None else rows + 1)
        names = header.rstrip("\n").split(",")
        found = [[float(cell or "nan") for cell in line.rstrip("\n").split(",")] for line in lines]
        whole = all(line.endswith("\n") for line in (header, *lines)) and all(len(row) == len(names) for row in found)
        if not whole or len(set(names)) < len(names) or "epoch" not in names:
            raise ValueError
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError:
        raise ValueError(f"{path}: is cut off or is not a run log.") from None
    return dict(zip(names, np.array(found, float).reshape(-1, len(names)).T, strict=True))
