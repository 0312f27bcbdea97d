"""Recorded activations of masked boards as arrays, and their export to files.

Axis letters: n boards, h x w cells of a board, B boards in a batch, T = h * w tokens, H heads, D width.

`Record` below is a function (boards, masks, names=...) -> {name: array, batch first}: `recorded` with a
network put in, which a trainer offers as its method `recorded`.
"""
from __future__ import annotations

import contextlib
import fnmatch
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from parts.files import atomic_write, save_array, write_json
from parts.probing.evaluation import evaluating
from parts.probing.sites import editing, recording
from utils import to_numpy

WHOLE_PASS = ("b*", "z_out", "logit")  # every activation of one pass over boards

Record = Callable[..., dict[str, np.ndarray]]


def recorded(
    network: torch.nn.Module, forward: Callable[[torch.Tensor], object], batches: Iterator[torch.Tensor],
    n: int, names: str | Sequence[str], edits: dict | None = None, folder: str | Path | None = None,
) -> dict[str, np.ndarray]:
    """Named activations {name: array (n, ...)} of n masked boards, which come in batches (B, T), in eval
    mode. forward: the pass to record. names and edits as `recording` and `editing` take them. folder: where
    to write each as {name}.npy, batch by batch; the arrays are then memory maps of these files, read-only.
    An edit of an activation that the pass does not compute (LEA's language network's) has no effect.

    Memory: the named activations of one batch and, without a folder, the arrays.
    """
    arrays, start = {}, 0
    folder = None if folder is None else Path(folder).expanduser()
    with contextlib.ExitStack() as files:
        for tokens in batches:
            part = slice(start, start + len(tokens))
            start = part.stop
            with (
                evaluating(network),
                editing(network, edits, part=part, n=n),
                recording(network, names) as acts,
            ):
                forward(tokens)
            for name in list(acts):
                act = np.ascontiguousarray(to_numpy(acts.pop(name)))
                shape = (n, *act.shape[1:])
                if name not in arrays and folder is None:
                    arrays[name] = np.empty(shape, act.dtype)
                elif name not in arrays:
                    arrays[name] = files.enter_context(atomic_write(folder / f"{name}.npy"))
                    header = {"descr": act.dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(arrays[name], header)
                if folder is None:
                    arrays[name][part] = act
                else:  # by the file, as the pages of a memory map would count as memory in use
                    arrays[name].write(act)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") if folder else array
            for name, array in arrays.items()}


def with_logits(names: str | Sequence[str] | None) -> tuple[list[str], bool]:
    """Names or patterns, None is the whole pass, with 'logit' among them; and whether it was."""
    patterns = [names] if isinstance(names, str) else list(WHOLE_PASS if names is None else names)
    asked = any(fnmatch.fnmatch("logit", pattern) for pattern in patterns)
    return patterns if asked else [*patterns, "logit"], asked


def by_head(acts: dict[str, np.ndarray], n_head: int) -> dict[str, np.ndarray]:
    """acts, and as {name}_h{j} each head's part of attention weights (n, H, T, keys) and of values (n, T,
    D)."""
    parts = dict(acts)
    for name, act in acts.items():
        if name.endswith("_a"):
            parts |= {f"{name}_h{j}": act[:, j] for j in range(n_head)}
        elif name.endswith("_v") and not name.endswith("_attn_v"):
            parts |= {f"{name}_h{j}": part for j, part in enumerate(np.split(act, n_head, axis=-1))}
    return parts


def write_svg(record: Record, sizes: dict, board, board_abs, mask, folder: str | Path) -> None:
    """Writes the activations of one board, arrays (1, h, w), as the wrappers' forward_svg describes."""
    acts = by_head(record(board, mask, names="b*"), sizes["nb_heads"])
    for name, array in {"groups": board_abs.reshape(1, -1), "mask": mask.reshape(1, -1), **acts}.items():
        save_array(Path(folder) / f"svg_{name}.npy", array[0])
    write_json(Path(folder) / "meta.json", sizes)


def write_pca(
    record: Record, n_head: int, arrays: dict[str, np.ndarray], folder: str | Path, meta: dict,
    batches: list[list[int]] | None = None,
) -> None:
    """Writes boards, arrays (n, h, w) by file name, and their activations, also by head, as the wrappers'
    forward_pca describes or, with batches of board indices, forward_pca_batch. meta: what meta.json holds."""
    folder = Path(folder)
    (folder / "meta.json").unlink(missing_ok=True)  # written last: if it is there, so are all other files
    for k, batch in enumerate(batches or [slice(None)]):
        prefix = f"batch_{k}_" if batches else ""
        part = {name: array[batch] for name, array in arrays.items()}
        acts = by_head(record(part["boards"], part["masks"]), n_head)
        for name, array in (part | acts).items():
            save_array(folder / f"{prefix}{name}.npy", array)
    write_json(folder / "meta.json", meta)


def with_extra(sizes: dict, extra_meta: dict | None) -> dict:
    """sizes with what extra_meta adds or replaces, as JSON holds it. TypeError if it cannot."""
    try:
        return json.loads(json.dumps(sizes | (extra_meta or {}), default=lambda value: value.tolist()))
    except (AttributeError, TypeError, ValueError):
        raise TypeError(f"extra_meta must be a dict of what JSON can hold, not {extra_meta!r:.80}.") from None
