"""Files are written completely or not at all, and read without unpickling. An error is one sentence that
names the file."""
from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
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

from parts.checks import refuse

# what a file system answers if it does not support a call
UNSUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# what the pickle of tensors, numbers and text may name
TENSORS = re.compile(r"collections OrderedDict|torch \w+Storage|torch._utils _rebuild_(tensor_v2|parameter)")


@contextlib.contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Turns an error inside into a ValueError that names the file. kind: what the file should be."""
    try:
        yield
    except Exception as error:  # readers raise many kinds on damaged bytes
        if isinstance(error, OSError) and error.strerror:
            raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ValueError(f"{path}: is cut off, damaged or not {kind} ({reason}).") from None


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[typing.IO]:
    """Opens a file under a temporary name in the same folder; it is flushed to disk and renamed to `path` at
    the end, or removed if anything goes wrong.

    mode: "wb", or "w" for text, which is UTF-8 with lines that end in a line feed on every system. An
    OSError names path.
    """
    path, beside = Path(path).expanduser(), None
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
    """Waits until everything written to a file is on the disk, if the file system can tell."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def write_json(path: str | Path, values: dict) -> None:
    """Writes a dict as readable JSON."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(values, indent=2) + "\n")


def read_json(path: str | Path) -> dict:
    """The JSON object in a file. ValueError names a file that is missing, damaged or something else."""
    with reading(path, "a JSON object"), open(Path(path).expanduser(), encoding="utf-8") as file:
        values = json.load(file)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
    return values


def save_array(path: str | Path, array: np.ndarray) -> None:
    """Writes an array as .npy."""
    with atomic_write(path) as file:
        np.save(file, array, allow_pickle=False)


def load_array(path: str | Path) -> np.ndarray:
    """The numbers in a .npy file, never unpickled. ValueError names a file that is missing or damaged."""
    path = Path(path).expanduser()
    with reading(path, "a numeric .npy array"), np.errstate(over="ignore"):  # of a damaged header's shape
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # never takes more memory than the file
        if values.dtype.kind not in "iufb" or values.offset + values.nbytes != os.path.getsize(path):
            raise ValueError("other numbers than its header says")
        return np.array(values)


def save_tensors(path: str | Path, values) -> None:
    """Writes tensors, numbers and text for `load_tensors`."""
    whole = io.BytesIO()  # if torch wrote to the disk itself, a full disk would not be an OSError
    torch.save(values, whole)
    with atomic_write(path) as file:
        file.write(whole.getbuffer())


def load_tensors(path: str | Path):
    """The tensors, numbers and text in a file of torch.save, on the CPU. ValueError names a file that is
    missing, damaged or something else.

    The file is checked before torch reads it: each part must fit its checksum, which torch.load does not look
    at, and its pickle may name only what tensors are made of. So no code runs, and no more memory is taken
    than the file's size.
    """
    path = Path(path).expanduser()
    with reading(path, "a file of tensors"):
        with zipfile.ZipFile(path) as parts:
            refuse(_damage(parts, os.path.getsize(path)))
        return torch.load(path, map_location="cpu", weights_only=True)


def _damage(parts: zipfile.ZipFile, size: int) -> Iterator[str]:
    """What is wrong with the parts of a file of `size` bytes."""
    if sum(part.file_size for part in parts.infolist()) > size or parts.testzip():
        yield "a part does not fit its checksum"
    for part in parts.namelist():
        if part.endswith("data.pkl"):
            for code, named, _ in pickletools.genops(parts.read(part)):
                if code.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not TENSORS.fullmatch(named or ""):
                    yield f"it names {named}"


class BatchedArray:
    """One array (n, ...) that lies on disk in several .npy files, as forward_pca_batch writes them.

    Indexing along the first axis and iteration read only the rows asked for; np.asarray reads all. paths: the
    files; sizes: the number of rows in each.
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
    """The batch_{k}_{name}.npy files that forward_pca_batch wrote to folder, as one array. ValueError names a
    missing file."""
    folder = Path(folder).expanduser()
    batches = read_json(folder / "meta.json").get("batches") or []
    paths = [folder / f"batch_{k}_{name}.npy" for k in range(len(batches))]
    for path in paths or [folder / f"batch_0_{name}.npy"]:
        if not path.is_file():
            raise ValueError(f"{path}: is missing.")
    return BatchedArray(paths, [len(batch) for batch in batches])


def numbered(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """(number, path) of the files in folder whose whole name matches pattern, in order. The pattern's group
    is the number."""
    matches = ((re.fullmatch(pattern, path.name), path) for path in folder.glob("*"))
    return sorted((int(match[1]), path) for match, path in matches if match)


def as_text(value, form: str = ".3f", none: str = "-") -> str:
    """A cell of a table: floats in the given form, `none` for NaN."""
    if not isinstance(value, (float, np.floating)):
        return str(value)
    return none if np.isnan(value) else format(value, form)


def save_table(path: str | Path, rows: Sequence[dict]) -> None:
    """Writes rows as a CSV with all their columns; floats have 6 digits, what a row lacks is blank."""
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


def save_safetensors(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes float32 arrays as .safetensors: the header's length, a JSON header, then the numbers."""
    header, end = {}, 0
    for name, array in arrays.items():
        start, end = end, end + 4 * array.size
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8 bytes
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, "<f4").tobytes())
