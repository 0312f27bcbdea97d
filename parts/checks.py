"""Argument checks: a wrong value is a ValueError, a wrong type a TypeError, in one sentence that names it."""
from __future__ import annotations

import contextlib
import numbers
import sys
from collections.abc import Iterator

import numpy as np
import torch

from utils import check_number, shown

MAX_NUMBERS = 2**31  # in a network


def integer_array(name: str, values, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """values as an int64 array of that shape, each from low to high; TypeError or ValueError, which call them
    `name`."""
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole numbers, not {shown(values)}.")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}.")
    if array.size and (array.min() < low or array.max() > high):
        found = array.max() if array.max() > high else array.min()
        raise ValueError(f"{name} must be from {low} to {high}, not {found}.")
    return array.astype(np.int64)


@contextlib.contextmanager
def naming(what: object) -> Iterator[None]:
    """Turns what goes wrong inside into a ValueError that names the file, or whatever `what` is."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{what}: {error.args[0]} is missing.") from None
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what}: {error}") from None


def check_sizes(**sizes: int) -> None:
    """TypeError unless every size is a whole number, ValueError unless it is at least 1. Sizes of a network
    must also have an n_embd that n_head divides and make at most MAX_NUMBERS weights and mask entries."""
    for name, size in sizes.items():
        check_number(name, size, f"a whole number of at least 1 and at most {MAX_NUMBERS}", 1, MAX_NUMBERS)
    if "n_head" not in sizes:
        return
    if sizes["n_embd"] % sizes["n_head"]:
        raise ValueError(f"n_embd = {sizes['n_embd']} must be divisible by n_head = {sizes['n_head']}.")
    width, T = sizes["n_embd"] + sizes["n_embd_pos"], sizes["block_size"]
    count = sizes["n_layer"] * (12 * width * sizes["n_embd"] + T**2) + width * sum(sizes.values())
    if count > MAX_NUMBERS:
        given = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise ValueError(f"{given} must make a network of at most {MAX_NUMBERS} numbers, not {count}; "
                         "block_size is board_dim squared.")


def check_numbers(most: float | None = 1, **values: float) -> None:
    """TypeError unless every value is a number, ValueError unless it is from 0 to most, None: finite."""
    wanted = "a finite number of at least 0" if most is None else f"a number from 0 to {most}"
    for name, value in values.items():
        check_number(name, value, wanted, 0, sys.float_info.max if most is None else most, numbers.Real)


def check_tokens(name: str, tokens: torch.Tensor, length: int | None = None) -> None:
    """ValueError unless the shape of tokens is (B, length), None: any length; TypeError unless they are a
    tensor of int64 or int32."""
    if not isinstance(tokens, torch.Tensor):
        raise TypeError(f"{name} must be a tensor of int64 or int32, not {type(tokens).__name__}.")
    if tokens.ndim != 2 or length not in (None, tokens.shape[1]):
        raise ValueError(f"{name} must have shape (B, {length or 'tokens'}), not {tuple(tokens.shape)}.")
    if tokens.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be a tensor of int64 or int32, not {tokens.dtype}.")
