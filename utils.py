"""Helpers that every module shares: numbers, parameters, seeds, files and run folders, small drawing pieces.

Imports none of the project's other modules.
"""
from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import datetime
import difflib
import errno
import functools
import inspect
import io
import itertools
import json
import math
import numbers
import os
import pickle
import pickletools
import re
import shutil
import sys
import tempfile
import types
import typing
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from einops import rearrange
from PIL import Image
from tqdm import tqdm

MAX_SEED = 2**63 - 1
# of Okabe and Ito, told apart by colour-blind readers
OBJECT_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#000000")


# Numbers


def torch_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of softmax(logits) over the last axis, as a share of the uniform distribution's: (..., V) -> (...)."""
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1) / math.log(max(logits.shape[-1], 2))


def _upper(X, distance):
    """distance(X) for X (..., n, d) as (..., n, n), upper triangle with diagonal; numpy in, numpy out, in float32 what is
    neither of that nor of float64."""
    x = X if isinstance(X, torch.Tensor) else torch.from_numpy(np.array(X))
    out = torch.triu(distance(x if x.dtype in (torch.float32, torch.float64) else x.float()))
    return out if isinstance(X, torch.Tensor) else out.numpy()


def _euclidean(X: torch.Tensor) -> torch.Tensor:
    return torch.cdist(X, X, compute_mode="donot_use_mm_for_euclid_dist")  # exact, where the mm form cancels


def _unit(X: torch.Tensor) -> torch.Tensor:
    return X / torch.linalg.vector_norm(X, dim=-1, keepdim=True).clamp_min(torch.finfo(X.dtype).tiny)


def dist(X):
    """Euclidean distances between the rows of X (..., n, d): (..., n, n), upper triangle with diagonal, zero below."""
    return _upper(X, _euclidean)


def dist_unit(X):
    """Euclidean distances between the rows of X (..., n, d) scaled to length 1; shape as `dist`."""
    return _upper(X, lambda X: _euclidean(_unit(X)))


def dist_cosine(X):
    """Cosines between the rows of X (..., n, d); shape as `dist`."""
    return _upper(X, lambda X: _unit(X) @ _unit(X).mT)


def ridge(X: np.ndarray, Y: np.ndarray, strengths: Sequence[float]) -> list[np.ndarray]:
    """Weights (F + 1, C), the last row an offset, of linear read-outs of Y (N, C) from X (N, F), one for each of the
    strengths, times the mean variance of a feature; from one Gram matrix, of features or, where there are fewer, of examples."""
    mean, mean_y = X.mean(0, dtype=np.float64), Y.mean(0, dtype=np.float64)
    x, y, dual, found = X - mean, Y - mean_y, X.shape[0] < X.shape[1], []
    gram, target = (x @ x.T, y) if dual else (x.T @ x, x.T @ y)
    for strength in strengths:
        penalty = strength * max(gram.trace() / x.shape[1], 1e-30) * np.eye(len(gram))
        weights = np.linalg.solve(gram + penalty, target)
        weights = x.T @ weights if dual else weights
        found.append(np.concatenate([weights, (mean_y - mean @ weights)[None]]).astype(np.float32))
    return found


def unit(X: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) centred and of unit length."""
    X = X - X.mean(0, dtype=np.float64)
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)


def participation(X: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> float:
    """Participation ratio of the means of classes (N,) of X (N, D), weighted (N,): over how many directions they spread."""
    member = np.eye(classes.max() + 1)[classes] * weights[:, None]
    size = member.sum(0)
    means = (member.T @ X)[size > 0] / size[size > 0, None]
    moments = (means - means.mean(0)).T @ (means - means.mean(0))
    return float(np.trace(moments) ** 2 / (moments**2).sum()) if moments.any() else np.nan


def mantel(words: np.ndarray, distances: np.ndarray, rng, permutations: int = 200) -> tuple[float, float, float]:
    """Topographic similarity: (rank correlation of the sentences' Hamming distances with the scenes' distances, the 95%
    quantile over permutations of the boards, p). words (n, S)."""
    upper = np.triu_indices(len(words), 1)

    def ranks(D):  # symmetric, with mean 0 and variance 1 over pairs
        _, inverse, counts = np.unique(D[upper], return_inverse=True, return_counts=True)
        rank = (np.cumsum(counts) - (counts + 1) / 2)[inverse]
        full = np.zeros(D.shape)
        full[upper] = (rank - rank.mean()) / max(rank.std(), 1e-30)
        return full + full.T

    x, y = ranks((words[:, None] != words).sum(-1)), ranks(distances)[upper]
    orders = [np.arange(len(words)), *(rng.permutation(len(words)) for _ in range(permutations))]
    found, *chance = (float(x[o][:, o][upper] @ y / len(y)) for o in orders)
    return found, float(np.quantile(chance, 0.95)), float((1 + np.sum(np.array(chance) >= found)) / (1 + permutations))


def ramp(x, val_s: float, val_e: float, step_s: float, step_e: float):
    """Line from val_s at step_s to val_e at step_e, constant outside; with step_s == step_e a jump there."""
    if step_s == step_e:
        return np.where(np.asarray(x) >= step_e, val_e, val_s)[()]
    share = np.clip((np.asarray(x) - step_s) / (step_e - step_s), 0, 1)
    return (val_s + share * (val_e - val_s))[()]


def find_best_plot_dim(n: int) -> tuple[int, int]:
    """The most square (r, c) with r * c == n and r <= c; n must be at least 1."""
    check_number("n", n, "a whole number of at least 1", 1)
    r = next(r for r in range(math.isqrt(n), 0, -1) if n % r == 0)
    return r, n // r


def get_ij(x, q) -> tuple[int, int]:
    """(row, column) of the first element of the 2-d array x, in reading order, that equals q; ValueError if none does."""
    x = np.asarray(x)
    hits = np.flatnonzero(x == q)
    if not len(hits):
        raise ValueError(f"q = {q!r} does not occur in x.")
    return tuple(int(i) for i in np.unravel_index(hits[0], x.shape))


def divide_into_batches(lst: Sequence, n: int) -> list[list]:
    """lst in order as n lists of near-equal length, longer ones first; n must be at least 1."""
    check_number("n", n, "a whole number of at least 1", 1)
    size, longer = divmod(len(lst), n)
    ends = [0, *np.cumsum([size + (i < longer) for i in range(n)]).tolist()]
    return [list(lst[a:b]) for a, b in zip(ends, ends[1:], strict=False)]


# Seeds: one whole number names a run; each use draws from a stream of its own, (seed, what, which one)


def fresh_seed() -> int:
    """A seed from the operating system, small enough to read aloud; the same one in all processes of a group."""
    return from_leader(int.from_bytes(os.urandom(4), "little"))


def checked_seed(seed: int | None) -> int:
    """seed, a fresh one where it is None; TypeError unless it is a whole number, ValueError unless it is from 0 to MAX_SEED."""
    if seed is None:
        return fresh_seed()
    check_number("seed", seed, f"a whole number from 0 to {MAX_SEED} or None", 0, MAX_SEED)
    return int(seed)


# Processes that train together


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Inside, the processes that torchrun started are one group (NCCL on CUDA, else Gloo); without torchrun, nothing changes."""
    if not (torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()):
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
        torch.distributed.barrier()  # none leaves while another still sends
    finally:
        torch.distributed.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    """This process's number in its group and how many there are; (0, 1) alone."""
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if grouped else (0, 1)


def from_leader(value):
    """value as the group's first process has it."""
    if rank_and_world()[1] == 1:
        return value
    held = [value]
    torch.distributed.broadcast_object_list(held)
    return held[0]


def sum_over_processes_(*tensors: torch.Tensor) -> None:
    """Adds up each tensor over the processes of the group, in place."""
    if rank_and_world()[1] > 1:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)


def _stream(key: tuple[int, ...]) -> np.random.SeedSequence:
    """The stream of a seed, key[0], that the other numbers name; a list of them all would mix up (s, 1) and (s, 1, 0)."""
    return np.random.SeedSequence(key[0], spawn_key=key[1:])


def numpy_rng(*key: int) -> np.random.Generator:
    """A numpy generator for the stream named by the whole numbers of key."""
    return np.random.default_rng(_stream(key))


def torch_rng(*key: int, device="cpu") -> torch.Generator:
    """A torch generator for the stream named by the whole numbers of key."""
    state = _stream(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> 1))


# Parameters: a dataclass field carries default, help, type and range; keywords, flags, --help, JSON and checks follow


def param(default, help: str, *, low=None, high=None, choices=None, length=None, flag: str | None = None,
          word: str | None = None):
    """A dataclass field for a parameter.

    help: one line for --help. low, high: inclusive bounds of the value or of each item. choices: allowed values.
    length: of a list. flag: the command-line name, where it is not the field's. word: a text that may stand for the value.
    """
    meta = dict(help=help, low=low, high=high, choices=choices, length=length, flag=flag, word=word)
    if isinstance(default, (list, tuple)):
        return dataclasses.field(default_factory=lambda: list(default), metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


@functools.cache
def _kinds(cls) -> dict[str, tuple[type, bool, bool]]:
    """For each field of a parameter class: (type of value or item, is a list, may be None)."""
    kinds = {}
    for name, hint in typing.get_type_hints(cls).items():
        none = isinstance(hint, types.UnionType)
        hint = typing.get_args(hint)[0] if none else hint
        is_list = typing.get_origin(hint) is list
        kinds[name] = (typing.get_args(hint)[0] if is_list else hint, is_list, none)
    return kinds


def _fits(value, kind: type):
    """value as kind, or TypeError."""
    if kind is bool and isinstance(value, (bool, np.bool_, numbers.Integral)) and value in (0, 1):
        return bool(value)
    if kind is str and isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if isinstance(value, (bool, np.bool_)):
        raise TypeError
    if kind is int and isinstance(value, numbers.Integral):
        return int(value)
    if kind is float and isinstance(value, numbers.Integral):
        return int(value)
    if kind is float and isinstance(value, numbers.Real):
        return float(value)
    raise TypeError


def _expected(kind, is_list, none, meta) -> str:
    """What a parameter should be, in words."""
    words = {int: "a whole number", float: "a number", bool: "True or False (1 or 0)", str: "a string"}[kind]
    if meta["choices"]:
        words = "one of " + ", ".join(map(str, meta["choices"]))
    low, high = meta["low"], meta["high"]
    if low is not None and high is not None:
        words += f" from {low} to {high}"
    elif low is not None:
        words += f" of at least {low}"
    if is_list:
        words = f"a list of {meta['length'] or 'values'}, each {words}" if meta["length"] else f"a list, each {words}"
    return words + (f", {meta['word']}" if meta["word"] else "") + (" or None" if none else "")


def shown(value) -> str:
    """repr(value), cut to what fits into a sentence."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no number of over 4300 digits
        text = f"a huge {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) < 200 else text[:200] + "..."


def check_number(name: str, value, wanted: str, low: float, high: float = math.inf, kind: type = numbers.Integral) -> None:
    """TypeError unless value is a number of that kind, True and False are none; ValueError unless it is from low to high. wanted:
    what it must be, in words."""
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if not fits or not low <= value <= high:
        raise (ValueError if fits else TypeError)(f"{name} must be {wanted}, not {shown(value)}.")


@dataclasses.dataclass(kw_only=True)
class Params:
    """Base of the parameter sets. Fields are checked when an object is made: TypeError for a wrong type or an unknown
    name, ValueError for a wrong value, each one sentence that names the parameter. `check` looks at their fit."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            setattr(self, field.name, self.checked(field.name, getattr(self, field.name)))
        self.check()

    def check(self) -> None:
        """Raises ValueError where parameters do not fit each other."""

    @classmethod
    def checked(cls, name: str, value):
        """value as parameter `name` holds it, or TypeError or ValueError."""
        meta = cls.__dataclass_fields__[name].metadata
        kind, is_list, none = _kinds(cls)[name]
        wrong = f"{name} must be {_expected(kind, is_list, none, meta)}, not {shown(value)}."
        if (value is None and none) or (isinstance(value, str) and value == meta["word"]):
            return value
        try:
            if is_list and not isinstance(value, (list, tuple, np.ndarray)):
                raise TypeError
            items = [_fits(v, kind) for v in (value if is_list else [value])]
        except TypeError:
            raise TypeError(wrong) from None
        for v in items:
            if (
                (kind in (int, float) and not abs(v) <= (MAX_SEED if kind is int else sys.float_info.max))
                or (meta["low"] is not None and v < meta["low"])
                or (meta["high"] is not None and v > meta["high"])
                or (meta["choices"] and v not in meta["choices"])
                or (kind is str and ("\0" in v or v != v.encode("utf-8", "replace").decode()))
            ):
                raise ValueError(wrong)
        if meta["length"] and len(items) != meta["length"]:
            raise ValueError(wrong)
        return items if is_list else items[0]

    @classmethod
    def from_dict(cls, values: dict, ignored: Iterable[str] = ()):
        """Parameters from keywords; names in `ignored` are dropped, other unknown ones are a TypeError."""
        names = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in names and name not in ignored:
                near = difflib.get_close_matches(str(name), names, 1)
                hint = f"; did you mean {near[0]}?" if near else "."
                raise TypeError(f"{name!r} is not a parameter{hint}")
        return cls(**{name: value for name, value in values.items() if name in names})

    def as_dict(self) -> dict:
        """{name: value}, which the constructor and JSON take."""
        return dataclasses.asdict(self)


def keywords_of(params_class, first: Sequence[str] = ()):
    """Class decorator: shows the parameters of params_class as the constructor's keywords in help() and notebooks, and what they
    mean."""

    def decorate(cls):
        P, fields = inspect.Parameter, dataclasses.fields(params_class)
        keywords = [P(f.name, P.KEYWORD_ONLY, default=field_default(f), annotation=f.type) for f in fields]
        cls.__signature__ = inspect.Signature([P(name, P.POSITIONAL_OR_KEYWORD) for name in first] + keywords)
        meanings = [f"    {f.name} = {field_default(f)!r}: {f.metadata['help']}" for f in fields]
        cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Keywords and their defaults:", "", *meanings])
        return cls

    return decorate


class FlagParser(argparse.ArgumentParser):
    """Command line whose flags come from parameter classes; a mistake is one line on stderr and exit code 2."""

    def __init__(self, description: str):
        super().__init__(description=description, allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")

    def add_params(self, title: str, params_class, defaults: dict, skip: Sequence[str] = ()) -> None:
        """One flag for each field of params_class; `defaults` are this script's own."""
        group = self.add_argument_group(title)
        for field in dataclasses.fields(params_class):
            if field.name in skip:
                continue
            kind, is_list, none = _kinds(params_class)[field.name]
            default = defaults.get(field.name, field_default(field))
            shown = " ".join(map(str, default)) if is_list and default is not None else _as_text(default)
            group.add_argument(
                "--" + (field.metadata["flag"] or field.name),
                dest=field.name,
                default=argparse.SUPPRESS,
                nargs="+" if is_list else None,
                metavar={bool: "0|1", str: "NAME", int: "N", float: "X"}[kind],
                help=f"{field.metadata['help']} (default: {shown})".replace("%", "%%"),
            )


def field_default(field: dataclasses.Field):
    """The value a field has where none is given."""
    return field.default_factory() if field.default is dataclasses.MISSING else field.default


def _as_text(value) -> str:
    return "none" if value is None else str(int(value)) if isinstance(value, bool) else repr(value)


def params_from_flags(params_class, flags: argparse.Namespace) -> dict:
    """The parameters of params_class that were given on the command line; text that is no number is left to `checked`."""

    def convert(text: str, kind: type):
        if kind is str:
            return text
        for number in (int, float):
            with contextlib.suppress(ValueError):
                return number(text)
        return text

    values = {}
    for name, (kind, is_list, none) in _kinds(params_class).items():
        if not hasattr(flags, name):
            continue
        text = getattr(flags, name)
        words = text if is_list else [text]
        if none and words == ["none"]:
            values[name] = None
        elif words == [params_class.__dataclass_fields__[name].metadata["word"]]:
            values[name] = words[0]
        else:
            converted = [convert(word, kind) for word in words]
            values[name] = params_class.checked(name, converted if is_list else converted[0])
    return values


def pick_device(name: str) -> torch.device:
    """The torch device for cpu, cuda, cuda:N, mps or auto (CUDA where there is one, else cpu); ValueError if absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    count = torch.cuda.device_count() if device is not None and device.type == "cuda" else 1
    if device is None or not present.get(device.type) or (device.index or 0) >= count:
        raise ValueError(f"device must be cpu, cuda, cuda:N, mps or auto and be present on this machine, not {shown(name)}.")
    return device


# Files


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[typing.IO]:
    """Opens a file beside path for writing and moves it to path once it is written and flushed, or not at all. An OSError
    names path."""
    path, beside = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.fchmod(handle, 0o666 & ~_umask())
        with os.fdopen(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        if beside is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@functools.cache
def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, values: dict) -> None:
    """Writes a dict as readable JSON, all of it or nothing."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(values, indent=2) + "\n")


def read_json(path: str | Path) -> dict:
    """The JSON object in a file; ValueError that names the file where it is missing, cut off or something else."""
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
    """The numeric array in a .npy file, never unpickled and never larger than the file; ValueError names the file."""
    try:
        with open(path, "rb") as file:
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran, dtype = readers[np.lib.format.read_magic(file)](file)
            if dtype.kind not in "iufb" or math.prod(shape) * dtype.itemsize != os.fstat(file.fileno()).st_size - file.tell():
                raise ValueError
            return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C").copy()
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
    """What torch.save wrote of tensors, numbers and text, on the CPU; ValueError names a file that is missing, damaged
    or something else. Each part must fit its checksum, which torch.load does not look at, and its pickle may name only
    what tensors are made of: no code is run, and no more memory taken than the file's size."""
    allowed = re.compile(r"collections OrderedDict|torch \w+Storage|torch._utils _rebuild_(tensor_v2|parameter)")
    try:
        with zipfile.ZipFile(path) as parts:
            if sum(part.file_size for part in parts.infolist()) > os.path.getsize(path) or parts.testzip():
                raise ValueError("a part does not fit its checksum")
            for name in parts.namelist():
                for code, named, _ in pickletools.genops(parts.read(name)) if name.endswith("data.pkl") else ():
                    if code.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not allowed.fullmatch(named or ""):
                        raise ValueError(f"it names {named}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch.load raise many kinds on damaged bytes
        if isinstance(error, OSError) and error.filename:
            raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ValueError(f"{path}: is cut off, damaged or no file of tensors ({reason}).") from None


class BatchedArray:
    """One array (n, ...) kept on disk as the .npy files of its batches, as forward_pca_batch writes them: shape, dtype, len,
    iteration and indexing along the first axis read only the rows asked for, np.asarray reads all."""

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]):
        self.paths, self.ends = list(paths), np.cumsum(sizes)
        first = np.load(self.paths[0], mmap_mode="r")
        self.shape, self.dtype = (int(self.ends[-1]), *first.shape[1:]), first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        rows = np.arange(len(self))[key]
        flat = rows.ravel()
        out, file = np.empty((flat.size, *self.shape[1:]), self.dtype), np.searchsorted(self.ends, flat, side="right")
        for k in np.unique(file):
            part = np.load(self.paths[k], mmap_mode="r")
            out[file == k] = part[flat[file == k] - self.ends[k]]  # negative, from the end of the part
        return out.reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def open_batches(folder: str | Path, name: str) -> BatchedArray:
    """The batch_{k}_{name}.npy files that forward_pca_batch left in folder, as one array; ValueError names a missing one."""
    folder = Path(folder)
    batches = read_json(folder / "meta.json").get("batches") or []
    paths = [folder / f"batch_{k}_{name}.npy" for k in range(len(batches))]
    for path in paths or [folder / f"batch_0_{name}.npy"]:
        if not path.is_file():
            raise ValueError(f"{path}: is missing.")
    return BatchedArray(paths, [len(batch) for batch in batches])


def clear_folder_extension(folder: str | Path, extension: str) -> None:
    """Deletes the files in folder whose names end in extension."""
    for path in Path(folder).iterdir():
        if path.is_file() and path.name.endswith(extension):
            path.unlink()


def clear_folder(folder: str | Path) -> None:
    """Deletes everything inside folder, which stays."""
    for path in Path(folder).iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


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
    """Holds a run folder for this process until the file returned is closed; ValueError where it is held already. The lock
    goes with the process, however it ends."""
    import fcntl

    file = open(folder / ".lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if not isinstance(error, BlockingIOError):
            raise OSError(error.errno, error.strerror, str(folder / ".lock")) from None
        raise ValueError(f"{folder}: another process is training in this run folder.") from None
    for part in ("", "checkpoints", "datasets"):
        for path in (folder / part).glob(".*.tmp"):  # half written when a process was killed
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


def numbered(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """(number, path) of the files in folder whose names match pattern, whose group is the number; in order."""
    found = ((re.fullmatch(pattern, path.name), path) for path in folder.glob("*"))
    return sorted((int(match[1]), path) for match, path in found if match)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had too little memory."""
    text = r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED"
    return isinstance(error, MemoryError) or isinstance(error, RuntimeError) and re.search(text, str(error)) is not None


# Text


def progress_bar(iterable: Iterable, bar_length: int = 50, **kwargs) -> tqdm:
    """iterable, with a progress bar of bar_length characters while it is walked through: on stderr, in a notebook on stdout,
    where bar and printed lines share one output and the bar stays one line."""
    form = "{desc}{percentage:3.0f}%|{bar:LENGTH}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    file = sys.stdout if in_notebook() else sys.stderr
    every = 0.5 if in_notebook() or file.isatty() else 30  # seconds; a log file does not want every frame
    return tqdm(iterable, bar_format=form.replace("LENGTH", str(bar_length)), file=file, mininterval=every, **kwargs)


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel; one that only starts kernels is not."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def as_text(value, form: str = ".3f", none: str = "-") -> str:
    """A cell of a table: floats in the given form, none where there is no number."""
    return str(value) if not isinstance(value, (float, np.floating)) else none if np.isnan(value) else format(value, form)


def save_table(path: str | Path, rows: Sequence[dict]) -> None:
    """Writes rows as a CSV with all their columns; floats with 6 digits, nothing where a row has no value."""
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: as_text(value, ".6g", "") for name, value in row.items()} for row in rows)


def markdown(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A table in Markdown."""
    return "".join("| " + " | ".join(map(str, row)) + " |\n" for row in (columns, ["---"] * len(columns), *rows))


def print_dict(d: dict, indent: int = 0) -> None:
    """Prints a nested dict, a key a line, deeper levels further in."""
    for key, value in d.items():
        if isinstance(value, dict):
            print(" " * indent + f"{key}:")
            print_dict(value, indent + 2)
        else:
            print(" " * indent + f"{key}: {value}")


# Pictures


def get_concat_h(images: Sequence[Image.Image], margin: int = 0) -> Image.Image:
    """PIL images side by side on white, margin pixels apart, tops aligned."""
    return _concat(images, margin, 0)


def get_concat_v(images: Sequence[Image.Image], margin: int = 0) -> Image.Image:
    """PIL images one below the other on white, margin pixels apart, left sides aligned."""
    return _concat(images, margin, 1)


def _concat(images, margin, axis):
    size = [max(im.size[a] for im in images) for a in (0, 1)]
    size[axis] = sum(im.size[axis] for im in images) + margin * (len(images) - 1)
    out = Image.new("RGB", tuple(size), "white")
    at = [0, 0]
    for im in images:
        out.paste(im, tuple(at))
        at[axis] += im.size[axis] + margin
    return out


def merge_attn_plots(path: str, heads: Iterable[int], blocks: Iterable[int], prefix: str = "attn") -> Image.Image:
    """Joins {path}{prefix}_b{block}_h{head}.jpg, heads downwards and blocks across, into {path}{prefix}_merge.jpg."""
    heads = list(heads)
    columns = []
    for block in blocks:
        columns.append(get_concat_v([Image.open(f"{path}{prefix}_b{block}_h{head}.jpg") for head in heads], 10))
    merged = get_concat_h(columns, 10)
    merged.save(f"{path}{prefix}_merge.jpg")
    return merged


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6, 4), **kwargs):
    """(Figure, axes (rows, columns)) that needs no display and is on nobody's list of open figures."""
    figure = blank_figure(size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def blank_figure(size: tuple[float, float], **kwargs):
    """A Figure of size inches that a notebook shows as a picture when a cell ends in it, also without %matplotlib inline."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, **kwargs)
    figure._repr_png_ = functools.partial(png_of, figure)
    return figure


def png_of(figure) -> bytes:
    """A figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def save_figure(figure, path: str | Path, dpi: int = 150):
    """Writes a figure to path, making missing folders, and returns it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    return figure


def show_figure(figure) -> None:
    """Shows a figure in a notebook; nothing elsewhere."""
    if in_notebook():
        from IPython.display import display

        display(figure)


def token_colors(n_background: int, n_token: int) -> np.ndarray:
    """RGBA (V, 4): backgrounds in pale greys, object tokens in strong colours, UNK black."""
    from matplotlib import colormaps

    greys = np.tile(np.linspace(0.95, 0.72, n_background)[:, None], (1, 3))
    greys[:, 2] += 0.04  # a cool tint keeps backgrounds apart from white paper
    strong = colormaps["turbo"](np.linspace(0.06, 0.94, n_token))[:, :3]
    rgb = np.concatenate([greys, strong, [[0.1, 0.1, 0.1]]])
    return np.clip(np.concatenate([rgb, np.ones((len(rgb), 1))], axis=1), 0, 1)


def draw_board(ax, board, colors, numbers=None, mask=None, wrong=None, font: float = 8) -> None:
    """Draws a board (h, w) of tokens: a colour a token, a number where `numbers` (h, w) is true, hatched where `mask`
    is 1, a cross where `wrong` is true."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    board = np.asarray(board)
    h, w = board.shape
    ax.imshow(np.asarray(colors)[board], interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.hlines(np.arange(1, h) - 0.5, -0.5, w - 0.5, color="white", linewidth=0.6)
    ax.vlines(np.arange(1, w) - 0.5, -0.5, h - 0.5, color="white", linewidth=0.6)
    for i, j in np.argwhere(np.zeros((h, w)) if numbers is None else np.asarray(numbers)):
        light = np.dot(colors[board[i, j]][:3], (0.3, 0.59, 0.11)) > 0.55
        ax.text(j, i, str(board[i, j]), ha="center", va="center", fontsize=font, color="black" if light else "white")
    for i, j in np.argwhere(np.zeros((h, w)) if mask is None else np.asarray(mask)):
        ax.add_artist(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=True, facecolor=(0, 0, 0, 0.25), hatch="////",
                                edgecolor=(1, 1, 1, 0.6), linewidth=0))
    rim = [withStroke(linewidth=3, foreground="white")]  # to be seen on red tokens
    for i, j in np.argwhere(np.zeros((h, w)) if wrong is None else np.asarray(wrong)):
        ax.plot([j - 0.35, j + 0.35], [i - 0.35, i + 0.35], color="crimson", linewidth=1.5, path_effects=rim)
        ax.plot([j - 0.35, j + 0.35], [i + 0.35, i - 0.35], color="crimson", linewidth=1.5, path_effects=rim)


def object_colors(labels) -> np.ndarray:
    """RGBA (..., 4) of labels (...), told apart by colour-blind readers: a colour for each label >= 0, clear at -1."""
    from matplotlib.colors import to_rgba_array

    labels = np.asarray(labels)
    rank = np.searchsorted(np.unique(labels[labels >= 0]), labels)
    return np.where((labels >= 0)[..., None], to_rgba_array(OBJECT_COLORS)[rank % len(OBJECT_COLORS)], 0)


def outline(ax, inside, color) -> None:
    """Draws a line around the cells of a board where inside (h, w) is true."""
    padded = np.pad(np.asarray(inside, bool), 1)
    i, j = np.nonzero(padded[1:] != padded[:-1])
    ax.hlines(i - 0.5, j - 1.5, j - 0.5, color=color, linewidth=2, clip_on=False, zorder=3)
    i, j = np.nonzero(padded[:, 1:] != padded[:, :-1])
    ax.vlines(j - 0.5, i - 1.5, i - 0.5, color=color, linewidth=2, clip_on=False, zorder=3)


@dataclasses.dataclass
class BoardView:
    """A board (h, w) as the panel beside other pictures: tokens by colour; those of objects (h, w; -1 is none) numbered and
    outlined in their object's colour; cells hidden by mask (h, w) hatched. colors: RGBA (V, 4) of the tokens."""

    board: np.ndarray
    objects: np.ndarray
    mask: np.ndarray
    colors: np.ndarray

    def draw(self, ax) -> None:
        """Draws it into ax."""
        draw_board(ax, self.board, self.colors, self.objects >= 0, self.mask, font=56 / len(self.board))
        for label in np.unique(self.objects[self.objects >= 0]):
            color = object_colors(self.objects)[self.objects == label][0]
            outline(ax, self.objects == label, color)
        ax.set_title("board (hatched: hidden)" if self.mask.any() else "board", fontsize=8, y=1)


def panel_figure(rows: int, columns: int, size: float, view: BoardView | None = None, gap: float = 0.14,
                 left: float = 0.5, bottom: float = 0.45):
    """(Figure, axes (rows, columns)) of square panels, `size` inches wide and gap apart, with room for titles, labels and a
    colour bar, and a board at the left. Placed by arithmetic: matplotlib takes seconds to lay out that many panels."""
    left += 2.2 * (view is not None)
    width, height = left + columns * (size + gap) + 0.75, rows * (size + 0.3) + bottom + 0.25
    figure = blank_figure((width, height))

    def place(x, top, size):
        return figure.add_axes((x / width, (height - top - size) / height, size / width, size / height))

    axes = [[place(left + j * (size + gap), 0.5 + i * (size + 0.3), size) for j in range(columns)] for i in range(rows)]
    if view is not None:
        view.draw(place(0.08, 0.5, min(size, 2)))
    return figure, np.array(axes)


def mirrored(upper: np.ndarray) -> np.ndarray:
    """Symmetric matrices (..., n, n) from their upper triangles."""
    return upper + np.triu(upper, 1).swapaxes(-1, -2)


def tiled(maps: np.ndarray) -> np.ndarray:
    """Maps (..., h, w, a, b), one for each cell of a board, laid out as that board: (..., h * a, w * b)."""
    return rearrange(maps, "... h w a b -> ... (h a) (w b)")


def draw_matrix(ax, values, groups=((), ()), limits=(None, None), cmap="viridis", title="", names=("", "")):
    """Draws a matrix with lines between groups [(name, size), ...] of rows and of columns; returns the image. names: what
    rows and columns are, None leaves the groups' names out."""
    image = ax.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest", aspect="auto")
    sides = (ax.yaxis, ax.hlines, values.shape[1]), (ax.xaxis, ax.vlines, values.shape[0])
    for (axis, lines, length), group, name in zip(sides, groups, names, strict=True):
        ends = np.cumsum([0, *(size for _, size in group)])
        if len(ends) > 2:
            lines(ends[1:-1] - 0.5, -0.5, length - 0.5, color="0.8", linewidth=0.5)
        shown = [] if name is None else (ends[1:] + ends[:-1] - 1) / 2
        axis.set_ticks(shown, labels=[label for label, _ in group][: len(shown)], fontsize=6)
        axis.set_label_text(name or "", fontsize=7)
    ax.tick_params(length=0, pad=2)
    ax.set_title(title, fontsize=8, y=1)  # a given y spares matplotlib the search for one
    return image


def draw_bar(image, ax, label: str, height: float = 1, extend: str = "neither") -> None:
    """The colour bar of an image, right of ax, `height` times as high."""
    from matplotlib.ticker import MaxNLocator

    box, inch = ax.get_position(), 1 / image.figure.get_figwidth()
    place = (box.x1 + 0.07 * inch, box.y0, 0.1 * inch, height * box.height)
    ticks = MaxNLocator(5 * round(height), steps=[1, 2, 2.5, 5, 10])
    bar = image.figure.colorbar(image, cax=image.figure.add_axes(place), extend=extend, ticks=ticks)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6, length=2, pad=1)
    bar.ax.yaxis.get_offset_text().set_fontsize(6)
    bar.formatter.set_powerlimits((-2, 4))  # short numbers, which leave the next panel alone


def plot_panels(values, titles, label, groups=((), ()), scale=None, cmap="viridis", objects=None, view=None,
                names=("", ""), size: float = 2, extend: str = "neither"):
    """Matrices values (R, C, a, b) as titled panels, titles (R, C), with lines between groups of rows and of columns.

    scale: None gives each panel its own and a colour bar, 'shared' one over all values, (low, high) that one. objects (T,):
    only upper triangles are drawn, and below them the pairs of tokens of an object are marked in its colour. view: a
    BoardView at the left. names: what rows and columns are. size: of a panel, in inches. extend: of the colour bar.
    """
    values = np.asarray(values)
    R, C, a, _ = values.shape
    figure, axes = panel_figure(R, C, size, view, gap=0.6 if scale is None else 0.14)
    if objects is not None:
        below = np.tri(a, k=-1, dtype=bool)
        values = np.where(below, np.nan, values)
        marks = object_colors(np.where(below & (objects[:, None] == objects), objects, -1))
    limits = (np.nanmin(values), np.nanmax(values)) if scale == "shared" else scale or (None, None)
    for i, j in np.ndindex(R, C):
        shown = (names[0] if j == 0 else None, names[1] if i == R - 1 else None)
        image = draw_matrix(axes[i, j], values[i, j], groups, limits, cmap, titles[i][j], shown)
        if objects is not None:
            axes[i, j].imshow(marks, interpolation="nearest", aspect="auto")
        if scale is None:
            draw_bar(image, axes[i, j], label if j == C - 1 else "")
    if scale is not None:
        draw_bar(image, axes[-1, -1], label, R + 0.3 * (R - 1) / size, extend)
    return figure


def plot_table(table, groups, title, name):
    """An embedding table (n, d) beside the Euclidean, unit-norm Euclidean and cosine matrices of its rows, with lines
    between groups [(name, size), ...] of rows. name: what rows are."""
    figure, axes = panel_figure(1, 4, 2.3, gap=0.65)
    panels = [(title, table, "viridis", (None, None)),
              ("Euclidean distance", mirrored(dist(table)), "magma", (0, None)),
              ("unit-norm Euclidean distance", mirrored(dist_unit(table)), "magma", (0, 2)),
              ("cosine", mirrored(dist_cosine(table)), "cividis", (-1, 1))]
    for ax, (title, values, cmap, limits) in zip(axes[0], panels, strict=True):
        first = ax is axes[0, 0]
        names = (name, "dimension") if first else ("", name)
        image = draw_matrix(ax, values, (groups, () if first else groups), limits, cmap, title, names)
        ax.tick_params(axis="y", labelrotation=90)
        draw_bar(image, ax, "")
    return figure


def plot_across(values, names, label, scale, view):
    """A matrix (S, S) of distances between stages for each cell of a board, values (h, w, S, S), upper triangles; on the
    right the mean over cells, with the stages' names. scale: (low, high) of the colours or None."""
    h, w, S, _ = values.shape
    values = np.where(np.tri(S, k=-1, dtype=bool), np.nan, values)
    figure, axes = panel_figure(1, 2, 5, view, gap=1, bottom=0.9)
    cells = [[(str(i), S) for i in range(n)] for n in (h, w)]
    limits = scale or (0, np.nanmax(values))
    draw_matrix(axes[0, 0], tiled(values), cells, limits, "magma", "stages by stages of each token, laid out as the board",
                ("row of the token", "column of the token"))
    stages = [(name, 1) for name in names]
    image = draw_matrix(axes[0, 1], values.mean((0, 1)), (stages, stages), limits, "magma", "mean over tokens")
    axes[0, 1].tick_params(axis="x", labelrotation=90)
    draw_bar(image, axes[0, 1], label)
    return figure


def plot_queries(maps, cells, names, label, title="", view=None):
    """A map (h, w) for each query, maps (Q, h, w), on one scale from 0; the query's cell, of cells (Q, 2), is outlined."""
    columns = min(len(maps), 5)
    figure, axes = panel_figure(-(-len(maps) // columns), columns, 2, view, left=0.1, bottom=0)
    figure.suptitle(title, fontsize=9, y=0.98)
    for ax in axes.flat[len(maps):]:
        ax.remove()
    for ax, values, (i, j), name in zip(axes.flat, maps, cells, names, strict=False):
        image = draw_matrix(ax, values, limits=(0, np.max(maps)), title=f"query {name}")
        ax.plot([j - 0.4, j + 0.4, j + 0.4, j - 0.4, j - 0.4], [i - 0.4, i - 0.4, i + 0.4, i + 0.4, i - 0.4], "#D55E00")
    draw_bar(image, axes[0, -1], label)
    return figure


def plot_curves(log: dict[str, np.ndarray], panels: Sequence[tuple[str, bool, dict[str, str]]]):
    """Curves over epochs, a panel each: (y label, logarithmic scale, {curve label: column of log}). Values that were not
    measured (NaN, or -1 without test boards) are left out."""
    figure, axes = new_figure(1, len(panels), (4.6 * len(panels), 3.6))
    for ax, (label, logarithmic, curves) in zip(axes[0], panels, strict=True):
        for name, column in curves.items():
            y = np.asarray(log[column], float)
            shown = np.isfinite(y) & (y >= 0)
            ax.plot(np.asarray(log["epoch"])[shown], y[shown], label=name, linewidth=1.3,
                    marker="o" if shown.sum() < 30 else None, markersize=3)
        ax.set(xlabel="epoch", ylabel=label, yscale="log" if logarithmic else "linear")
        ax.grid(alpha=0.3)
        if len(curves) > 1:
            ax.legend(fontsize=7)
    return figure


INKS = [OBJECT_COLORS[i] for i in (4, 5, 2, 3, 7, 0, 1)]


def plot_rows(rows: Sequence[dict], label: str):
    """A line a feature: the effect of each run with its interval, its controls, its upper bound. rows: as module_analysis.judge
    makes them, with 'run'; those that count are marked by whether they hold in every run."""
    features, runs = (list(dict.fromkeys(row[name] for row in rows)) for name in ("feature", "run"))
    figure, axes = new_figure(1, 1, (9, 1.4 + 0.34 * len(features)))
    ax, marks = axes[0, 0], dict(zip(runs, zip("so^D*vP", INKS, strict=True), strict=False))
    for row in rows:
        (marker, ink), step = marks[row["run"]], min(0.24, 0.7 / len(runs))
        y = features.index(row["feature"]) + (runs.index(row["run"]) - (len(runs) - 1) / 2) * step
        for name, value in row.items():
            if name.startswith("control: "):
                strongest = name.endswith(f": {row['strongest control']}")
                ax.plot(value, y, "o", color="black" if strongest else "0.7", markersize=4.5 if strongest else 3.5,
                        markerfacecolor="none", zorder=4 if strongest else 2)
        ax.plot([row["upper"]] * 2, [y - 0.1, y + 0.1], color="black", linewidth=2, zorder=2)
        error = np.abs([[row["effect"] - row["effect low"]], [row["effect high"] - row["effect"]]])
        ax.errorbar(row["effect"], y, xerr=error, fmt=marker, color=ink, markersize=5, zorder=3)
    signs = {row["feature"]: "✓ " if row["counts"] else "" for row in rows}
    signs |= {row["feature"]: "✗ " for row in rows if row["counts"] and not row["holds"]}
    ax.set_yticks(range(len(features)), [signs[feature] + feature for feature in features], fontsize=8)
    ax.set(xlabel=label, ylim=(len(features) - 0.4, -0.6))
    ax.grid(axis="x", alpha=0.3)
    for run, (marker, ink) in marks.items():
        ax.plot([], [], marker, color=ink, label=run)
    if any(row["strongest control"] for row in rows):
        ax.plot([], [], "o", color="black", markerfacecolor="none", label="strongest control")
        ax.plot([], [], "o", color="0.7", markerfacecolor="none", label="other controls")
    ax.plot([], [], "|", color="black", markersize=9, markeredgewidth=2, label="upper bound")
    figure.legend(fontsize=8, loc="outside upper center", ncols=6)
    return figure


def plot_stages(curves: Sequence[dict], label: str):
    """Values by stage with their intervals. curves: rows with run, cells (a line of panels each), label (a column each), source
    (a colour each; those named 'epoch ...' of the first run alone), stage, 'value', 'value low', 'value high'."""
    from matplotlib import colormaps

    kinds, labels, runs, sources = (list(dict.fromkeys(row[name] for row in curves))
                                    for name in ("cells", "label", "run", "source"))
    figure, axes = new_figure(len(kinds), len(labels), ((2 if len(labels) > 3 else 4) * len(labels) + 1, 2.6 * len(kinds) + 0.6),
                              sharex=True, sharey=True)
    epochs, handles = [name for name in sources if name.startswith("epoch")], {}
    inks = {name: (ink, line) for name, ink, line in zip(
        (name for name in sources if name not in epochs), INKS, ("-", "--", ":", "-.", (0, (1, 3)), "-", "--"), strict=False)}
    inks |= {name: (colormaps["viridis"](0.9 * i / max(len(epochs) - 1, 1)), "-") for i, name in enumerate(epochs)}
    groups: dict[tuple, list] = {}
    for row in curves:
        if row["source"] not in epochs or row["run"] == runs[0]:
            groups.setdefault((row["cells"], row["label"], row["source"], row["run"]), []).append(row)
    for (kind, name, source, _), here in groups.items():
        ax, (ink, line) = axes[kinds.index(kind), labels.index(name)], inks[source]
        value, low, high = ([row[key] for row in here] for key in ("value", "value low", "value high"))
        if len(here) > 1:
            handles[source] = ax.plot(value, linestyle=line, color=ink, marker=".", linewidth=1.2)[0]
            ax.fill_between(range(len(here)), low, high, color=ink, alpha=0.12)
            ax.set_xticks(range(len(here)), [row["stage"] for row in here], rotation=90, fontsize=7)
        else:
            handles[source] = ax.axhline(value[0], color=ink, linestyle=line, linewidth=1.2)
    for (i, j), ax in np.ndenumerate(axes):
        ax.grid(alpha=0.3)
        ax.axhline(0, color="0.6", linewidth=0.8)
        ax.set_title(labels[j] if i == 0 else "", fontsize=9)
        ax.set_ylabel(f"{label},\n{kinds[i]}" if j == 0 else "", fontsize=8)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def plot_examples(groups: Sequence[Sequence[np.ndarray]], titles: Sequence[str], colors):
    """Groups of boards, each [(h, w), ...], under a title each, two groups side by side. colors: RGBA (V, 4) of the tokens."""
    most, lines = max(map(len, groups)), -(-len(groups) // 2)
    figure, axes = new_figure(lines, 2 * most, (2.2 * most, 1.4 * lines))
    for ax in axes.flat:
        ax.axis("off")
    for line, boards, title in zip(axes.reshape(-1, most), groups, titles, strict=False):
        line[0].set_title(title, fontsize=8, loc="left")
        for ax, board in zip(line, boards, strict=False):
            draw_board(ax, board, colors)
    return figure


def plot_components(stages: dict[str, np.ndarray], **labels):
    """Two principal components of the points X (N, D) of each stage, a column each, a line of panels for each of labels (N,):
    a colour a label, and its number at its mean."""
    from matplotlib import colormaps

    figure, axes = new_figure(len(labels), len(stages), (2.6 * len(stages), 2.8 * len(labels)))
    for column, (stage, X) in zip(axes.T, stages.items(), strict=True):
        X = X - X.mean(0)
        X = X @ np.linalg.svd(X[:: len(X) // 4000 + 1], full_matrices=False)[2][:2].T
        for ax, (name, values) in zip(column, labels.items(), strict=True):
            ax.scatter(*X.T, s=3, c=colormaps["tab10"](values % 10), alpha=0.35, linewidths=0)
            for c in np.unique(values):
                ax.text(*X[values == c].mean(0), str(c), ha="center", va="center", fontsize=7,
                        bbox=dict(boxstyle="circle,pad=0.15", fc="white", ec=colormaps["tab10"](c % 10), lw=1.5))
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{stage}, by {name}", fontsize=9)
    return figure


def plot_shares(shares, names: Sequence[str], across: str, label: str):
    """A matrix of shares 0 ... 1 with the names of its rows and the numbers of its columns, which are `across`."""
    shares = np.asarray(shares)
    figure, axes = new_figure(1, 1, (0.36 * shares.shape[1] + 3, 0.26 * len(shares) + 1.2))
    groups = [(name, 1) for name in names], [(str(j), 1) for j in range(shares.shape[1])]
    image = draw_matrix(axes[0, 0], shares, groups, (0, 1), names=("", across))
    axes[0, 0].tick_params(labelsize=8)
    axes[0, 0].xaxis.label.set_size(8)
    figure.colorbar(image, ax=axes[0, 0]).set_label(label, fontsize=8)
    return figure


# Logs


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
                os.fsync(file.fileno())

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
