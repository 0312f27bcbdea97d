"""Files: written whole or not at all, read without unpickling; a damaged one is named in one sentence."""
from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import pickletools
import re
import secrets
import typing
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

# what a file system answers where it has no such call
UNSUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# readers of a .npy file's header, by its version
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# what the pickle of tensors, numbers and text may name
TENSORS = re.compile(r"collections OrderedDict|torch \w+Storage|torch._utils _rebuild_(tensor_v2|parameter)")


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[typing.IO]:
    """Opens a file beside path for writing and moves it to path once all of it is on the disk, or not at all.

    mode: "wb", or "w" for text, which is UTF-8 with lines that end in a line feed on every system. An
    OSError names path.
    """
    path, beside = Path(path), None
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unused = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        with open(unused, mode.replace("w", "x"), **text) as file:  # as tempfile, but readable by all
            beside = unused
            yield file
            file.flush()
            to_disk(file)
        os.replace(beside, path)
    except BaseException as error:
        if beside is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def to_disk(file: typing.IO) -> None:
    """Waits until what a file was given is on the disk; goes on where the file system cannot say so."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def write_json(path: str | Path, values: dict) -> None:
    """Writes a dict as readable JSON, all of it or nothing."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(values, indent=2) + "\n")


def read_json(path: str | Path) -> dict:
    """The JSON object in a file; ValueError names a file that is missing, cut off or something else."""
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: is cut off or is not JSON.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold a JSON object.")
    return values


def save_array(path: str | Path, array: np.ndarray) -> None:
    """Writes an array as .npy, all of it or nothing."""
    with atomic_write(path) as file:
        np.save(file, array, allow_pickle=False)


def load_array(path: str | Path) -> np.ndarray:
    """The numeric array in a .npy file, never unpickled or larger than the file; ValueError names it."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            shape, fortran, dtype = HEADERS[version](file)
            left = os.fstat(file.fileno()).st_size - file.tell()
            if dtype.kind not in "iufb" or math.prod(shape) * dtype.itemsize != left:
                raise ValueError
            values = np.frombuffer(file.read(), dtype)
        return values.reshape(shape, order="F" if fortran else "C").copy()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
    except Exception:  # numpy's header parser raises many kinds on damaged bytes
        raise ValueError(f"{path}: is cut off or is not a numeric .npy array.") from None


def save_tensors(path: str | Path, values) -> None:
    """Writes what `load_tensors` reads."""
    whole = io.BytesIO()  # written by torch itself, a full disk would be no OSError
    torch.save(values, whole)
    with atomic_write(path) as file:
        file.write(whole.getbuffer())


def load_tensors(path: str | Path):
    """What torch.save wrote of tensors, numbers and text, on the CPU.

    ValueError names a file that is missing, damaged or something else. Each part must fit its checksum, which
    torch.load does not look at, and its pickle may name only what tensors are made of: no code is run, and no
    more memory taken than the file's size.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            _check_parts(parts, os.path.getsize(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch.load raise many kinds on damaged bytes
        if isinstance(error, OSError) and error.filename:
            raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ValueError(f"{path}: is cut off, damaged or no file of tensors ({reason}).") from None


def _check_parts(parts: zipfile.ZipFile, size: int) -> None:
    """ValueError where a part of a file of that size fails its checksum or names what no tensor needs."""
    if sum(part.file_size for part in parts.infolist()) > size or parts.testzip():
        raise ValueError("a part does not fit its checksum")
    for part in parts.namelist():
        if not part.endswith("data.pkl"):
            continue
        for code, named, _ in pickletools.genops(parts.read(part)):
            names = code.name in ("GLOBAL", "STACK_GLOBAL", "INST")
            if names and not TENSORS.fullmatch(named or ""):
                raise ValueError(f"it names {named}")


class BatchedArray:
    """One array (n, ...) kept on disk as the .npy files of its batches, as forward_pca_batch writes them.

    shape, dtype, len, iteration and indexing along the first axis read only the rows asked for; np.asarray
    reads all. paths: the files, sizes: how many rows each holds.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]):
        self.paths, self.ends = list(paths), np.cumsum(sizes)
        first = np.load(self.paths[0], mmap_mode="r")
        self.shape, self.dtype = (int(self.ends[-1]), *first.shape[1:]), first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        rows = np.arange(len(self))[key]
        flat = rows.ravel()
        out = np.empty((flat.size, *self.shape[1:]), self.dtype)
        file = np.searchsorted(self.ends, flat, side="right")
        for k in np.unique(file):
            part = np.load(self.paths[k], mmap_mode="r")
            out[file == k] = part[flat[file == k] - self.ends[k]]  # negative, from the end of the part
        return out.reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def open_batches(folder: str | Path, name: str) -> BatchedArray:
    """The batch_{k}_{name}.npy files that forward_pca_batch left in folder, as one array.

    ValueError names a missing one.
    """
    folder = Path(folder)
    batches = read_json(folder / "meta.json").get("batches") or []
    paths = [folder / f"batch_{k}_{name}.npy" for k in range(len(batches))]
    for path in paths or [folder / f"batch_0_{name}.npy"]:
        if not path.is_file():
            raise ValueError(f"{path}: is missing.")
    return BatchedArray(paths, [len(batch) for batch in batches])


def numbered(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """(number, path) of the files in folder whose names match pattern, its group the number; in order."""
    found = ((re.fullmatch(pattern, path.name), path) for path in folder.glob("*"))
    return sorted((int(match[1]), path) for match, path in found if match)


def as_text(value, form: str = ".3f", none: str = "-") -> str:
    """A cell of a table: floats in the given form, none where there is no number."""
    if not isinstance(value, (float, np.floating)):
        return str(value)
    return none if np.isnan(value) else format(value, form)


def save_table(path: str | Path, rows: Sequence[dict]) -> None:
    """Writes rows as a CSV with all their columns; floats with 6 digits, nothing where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: as_text(value, ".6g", "") for name, value in row.items()})


def markdown(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A table in Markdown."""
    lines = (columns, ["---"] * len(columns), *rows)
    return "".join("| " + " | ".join(map(str, cells)) + " |\n" for cells in lines)
