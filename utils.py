"""Small helpers. First those for notebooks and modules: folders, joined pictures, progress, distances, ramps.
Then those for modules alone: random generators, checks of numbers, output.

This module imports no other module of the project.
"""
from __future__ import annotations

import contextlib
import math
import numbers
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

MAX_SEED = 2**63 - 1


# Folders, pictures, progress


def clear_folder_extension(folder: str | Path, extension: str) -> None:
    """Deletes the files in a folder whose names end in extension."""
    for path in Path(folder).iterdir():
        if path.is_file() and path.name.endswith(extension):
            path.unlink()


def clear_folder(folder: str | Path) -> None:
    """Deletes everything inside a folder, but not the folder."""
    for path in Path(folder).iterdir():
        if path.is_dir() and not path.is_symlink():  # what a link points to stays
            shutil.rmtree(path)
        else:
            path.unlink()


def find_best_plot_dim(n: int) -> tuple[int, int]:
    """(rows, columns) of the most square grid of exactly n panels, rows <= columns. ValueError for n < 1."""
    check_number("n", n, "a whole number of at least 1", 1)
    r = next(r for r in range(math.isqrt(n), 0, -1) if n % r == 0)
    return r, n // r


def get_ij(x, q) -> tuple[int, int]:
    """(row, column) of the first q of the 2-d array x, in reading order. ValueError if there is none."""
    x = np.asarray(x)
    hits = np.flatnonzero(x == q)
    if not len(hits):
        raise ValueError(f"q = {q!r} does not occur in x.")
    return tuple(int(i) for i in np.unravel_index(hits[0], x.shape))


def get_concat_h(images: Sequence[Image.Image], margin: int = 0) -> Image.Image:
    """PIL images side by side on white, `margin` pixels apart, tops aligned."""
    return _concat(images, margin, 0)


def get_concat_v(images: Sequence[Image.Image], margin: int = 0) -> Image.Image:
    """PIL images one below the other on white, `margin` pixels apart, left sides aligned."""
    return _concat(images, margin, 1)


def _concat(images, margin, axis):
    size = [max(image.size[a] for image in images) for a in (0, 1)]
    size[axis] = sum(image.size[axis] for image in images) + margin * (len(images) - 1)
    out = Image.new("RGB", tuple(size), "white")
    at = [0, 0]
    for image in images:
        out.paste(image, tuple(at))
        at[axis] += image.size[axis] + margin
    return out


def merge_attn_plots(
    path: str, heads: Iterable[int], blocks: Iterable[int], prefix: str = "attn"
) -> Image.Image:
    """Joins the pictures {path}{prefix}_b{block}_h{head}.jpg, heads downwards and blocks across, into
    {path}{prefix}_merge.jpg, and returns it."""
    heads = list(heads)
    columns = []
    for block in blocks:
        pictures = [Image.open(f"{path}{prefix}_b{block}_h{head}.jpg") for head in heads]
        columns.append(get_concat_v(pictures, 10))
    merged = get_concat_h(columns, 10)
    merged.save(f"{path}{prefix}_merge.jpg")
    return merged


def divide_into_batches(lst: Sequence, n: int) -> list[list]:
    """Divides lst, in order, into n lists whose lengths differ by at most 1, longer ones first.
    ValueError if n is below 1."""
    check_number("n", n, "a whole number of at least 1", 1)
    size, longer = divmod(len(lst), n)
    ends = [0, *np.cumsum([size + (i < longer) for i in range(n)]).tolist()]
    return [list(lst[a:b]) for a, b in zip(ends, ends[1:], strict=False)]


def progress_bar(iterable: Iterable, bar_length: int = 50, disable: bool = False, **kwargs) -> tqdm:
    """Wraps an iterable in a tqdm progress bar of bar_length characters. kwargs go to tqdm. The bar is on
    stderr; in a notebook on stdout, so that bar and printed lines share one output."""
    times = "[{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    form = "{desc}{percentage:3.0f}%|{bar:LENGTH}| {n_fmt}/{total_fmt} " + times
    stream = sys.stdout if in_notebook() else sys.stderr
    live = in_notebook() or getattr(stream, "isatty", bool)()  # streams that users write may lack isatty
    return tqdm(
        iterable, bar_format=form.replace("LENGTH", str(bar_length)), file=stream,
        mininterval=0.5 if live else 30,  # seconds; a log file does not want every frame
        disable=disable or stream is None, **kwargs,
    )


def print_dict(d: dict, indent: int = 0) -> None:
    """Prints a nested dict, one key per line, deeper levels further to the right."""
    for key, value in d.items():
        if isinstance(value, dict):
            print(" " * indent + f"{key}:")
            print_dict(value, indent + 2)
        else:
            print(" " * indent + f"{key}: {value}")


# Entropy, distances, ramps


def torch_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of softmax(logits) over the last axis, as a share of that of the uniform distribution: 0
    if certain, 1 if uniform. (..., V) -> (...)."""
    log_p = torch.log_softmax(logits, dim=-1)
    # a token of probability 0 adds 0; its log must be finite for that, as 0 * -inf is NaN
    entropy = -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)
    return entropy / math.log(max(logits.shape[-1], 2))


def dist(X):
    """Euclidean distances between the rows of X (..., n, d), an array or tensor: (..., n, n), upper
    triangle with diagonal, zero below."""
    return _upper(X, _euclidean)


def dist_unit(X):
    """Euclidean distances between the rows of X (..., n, d) scaled to length 1; shape as `dist`."""
    return _upper(X, lambda X: _euclidean(_unit(X)))


def dist_cosine(X):
    """Cosines between the rows of X (..., n, d); shape as `dist`."""
    return _upper(X, lambda X: _unit(X) @ _unit(X).mT)


def _upper(X, distance):
    """The upper triangle of distance(X), an array or tensor as X is, of float32 unless X is float64."""
    x = X if isinstance(X, torch.Tensor) else torch.from_numpy(np.array(X))
    out = torch.triu(distance(x if x.dtype in (torch.float32, torch.float64) else x.float()))
    return out if isinstance(X, torch.Tensor) else out.numpy()


def _euclidean(X: torch.Tensor) -> torch.Tensor:
    # by differences: torch's faster way, by a matrix product, loses the distance of close rows to rounding
    return torch.cdist(X, X, compute_mode="donot_use_mm_for_euclid_dist")


def _unit(X: torch.Tensor) -> torch.Tensor:
    return X / torch.linalg.vector_norm(X, dim=-1, keepdim=True).clamp_min(torch.finfo(X.dtype).tiny)


def ramp(x, val_s: float, val_e: float, step_s: float, step_e: float):
    """A linear ramp, at x (a number or an array): val_s until step_s, val_e from step_e on, a straight line
    in between. If step_s == step_e, it jumps to val_e there."""
    if step_s == step_e:
        return np.where(np.asarray(x) >= step_e, val_e, val_s)[()]  # [()] makes a 0-d array a number
    share = np.clip((np.asarray(x) - step_s) / (step_e - step_s), 0, 1)
    return (val_s + share * (val_e - val_s))[()]


# Random generators: nothing here or elsewhere reads or changes the global random state


def fresh_seed() -> int:
    """A random seed from the operating system, from 0 to 2**32 - 1."""
    return int.from_bytes(os.urandom(4), "little")


def checked_seed(seed: int | None) -> int:
    """seed as an int, or a fresh one for None. TypeError or ValueError unless it is from 0 to MAX_SEED."""
    if seed is None:
        return fresh_seed()
    check_number("seed", seed, f"a whole number from 0 to {MAX_SEED} or None", 0, MAX_SEED)
    return int(seed)


def numpy_rng(*key: int) -> np.random.Generator:
    """A numpy generator. The key, a seed and any further whole numbers, names its random stream."""
    return np.random.default_rng(_stream(key))


def torch_rng(*key: int, device="cpu") -> torch.Generator:
    """A torch generator on a device, with a key as in `numpy_rng`."""
    state = _stream(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) >> 1)  # torch takes 63 bits


def _stream(key: tuple[int, ...]) -> np.random.SeedSequence:
    # SeedSequence([s, 1]) and SeedSequence([s, 1, 0]) are the same stream; with spawn_key they differ
    return np.random.SeedSequence(key[0], spawn_key=key[1:])


# Numbers, tensors, output


def check_number(
    name: str, value, wanted: str, low: float, high: float = math.inf, kind: type = numbers.Integral
) -> None:
    """TypeError unless value is a number of that kind (True and False are not), ValueError unless it is from
    low to high. name and wanted, what it must be in words, go into the message."""
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if not fits or not low <= value <= high:
        raise (ValueError if fits else TypeError)(f"{name} must be {wanted}, not {shown(value)}.")


def shown(value) -> str:
    """repr(value) on one line, cut to a length that fits into an error message."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        text = f"a huge {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) < 200 else text[:200] + "..."


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor on any device as an array; bfloat16, which numpy lacks, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


@contextlib.contextmanager
def using_threads(number: int | None) -> Iterator[None]:
    """Within the context torch computes with that many threads on the CPU. None changes nothing."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number is not None:
            torch.set_num_threads(before)


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Within the context new tensors are float32 on the CPU, whatever torch's defaults are."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine had too little memory."""
    text = r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED"
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and re.search(text, str(error)) is not None)


def caution(sentence: str, stacklevel: int = 2) -> None:
    """Issues a warning. Under -W error it prints to stderr instead of raising: no warning ends a training.
    stacklevel: as in warnings.warn, from the caller's point of view."""
    try:
        warnings.warn(sentence, stacklevel=stacklevel + 1)
    except UserWarning:
        say(f"warning: {sentence}", file=sys.stderr)


def say(*words, file=None) -> None:
    """Prints a line at once: on stdout, or to `file`."""
    print(*words, file=file, flush=True)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. A process that only starts kernels is not."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
