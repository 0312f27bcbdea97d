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
from parts.probing.sites import cut_edits, editing, recording
from utils import divide_into_batches, to_numpy

WHOLE_PASS = ("b*", "z_out", "logit")  # every activation of one pass over boards

Record = Callable[..., dict[str, np.ndarray]]


def recorded(
    network: torch.nn.Module, forward: Callable[[torch.Tensor], object], batches: Iterator[torch.Tensor],
    n: int, names: str | Sequence[str], edits: dict | None = None, folder: str | Path | None = None,
) -> dict[str, np.ndarray]:
    """Named activations {name: array (n, ...)} of n masked boards, which come in batches (B, T), in eval
    mode. forward: the pass to record. names and edits as `recording` and `cut_edits` take them. folder: where
    to write each as {name}.npy, batch by batch; the arrays are then memory maps of these files, read-only.

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
                editing(network, cut_edits(edits, part, n, tokens.shape[1])),
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


# files; sizes: {nb_blocks, nb_heads, nb_tokens, dim_emb}, which go into meta.json


def write_svg(record: Record, sizes: dict, board, board_abs, mask, folder: str | Path) -> None:
    """Writes the activations of one board, arrays (1, h, w), as the wrappers' forward_svg describes."""
    acts = by_head(record(board, mask, names="b*"), sizes["nb_heads"])
    for name, array in {"groups": board_abs.reshape(1, -1), "mask": mask.reshape(1, -1), **acts}.items():
        save_array(Path(folder) / f"svg_{name}.npy", array[0])
    write_json(Path(folder) / "meta.json", sizes)


def write_pca(record: Record, sizes: dict, arrays: dict, folder: str | Path, extra_meta: dict | None) -> None:
    """Writes boards and their activations as the wrappers' forward_pca describes; arrays: those of
    `board_arrays`. TypeError if JSON cannot hold extra_meta."""
    try:
        text = json.dumps(sizes | (extra_meta or {}), default=lambda value: value.tolist())
    except (AttributeError, TypeError, ValueError):
        raise TypeError(f"extra_meta must be a dict of what JSON can hold, not {extra_meta!r:.80}.") from None
    write_arrays(record, sizes["nb_heads"], arrays, folder)
    write_json(Path(folder) / "meta.json", json.loads(text))


def write_pca_batches(
    record: Record, sizes: dict, arrays: dict, folder: str | Path, batch_size: int
) -> None:
    """Writes boards and their activations as the wrappers' forward_pca_batch describes."""
    n = len(arrays["boards"])
    batches = divide_into_batches(range(n), -(-n // batch_size))
    meta = Path(folder) / "meta.json"
    meta.unlink(missing_ok=True)  # written last: if it is there, so are all other files
    for k, batch in enumerate(batches):
        part = {name: array[batch] for name, array in arrays.items()}
        write_arrays(record, sizes["nb_heads"], part, folder, f"batch_{k}_")
    write_json(meta, sizes | {"batches": batches})


def board_arrays(boards, boards_abs, masks, masking_token: int) -> dict[str, np.ndarray]:
    """The arrays (n, h, w) that are exported beside activations, by file name."""
    masked = np.where(masks, masking_token, boards)
    return {"boards": boards, "boards_abs": boards_abs, "masked_boards": masked, "masks": masks}


def write_arrays(record: Record, n_head: int, arrays: dict, folder: str | Path, prefix: str = "") -> None:
    """Writes boards, and their activations also by head, to folder/<prefix><name>.npy."""
    acts = by_head(record(arrays["boards"], arrays["masks"]), n_head)
    for name, array in (arrays | acts).items():
        save_array(Path(folder) / f"{prefix}{name}.npy", array)
