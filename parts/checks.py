"""Checks of arguments: one sentence says what is wrong: a ValueError or, for a wrong type, a TypeError."""
from __future__ import annotations

import contextlib
import numbers
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from utils import check_number, shown

MAX_NUMBERS = 2**31  # in a network


def refuse(complaints: Iterable[str]) -> None:
    """Raises ValueError with the first of complaints, if there is one."""
    for sentence in complaints:
        raise ValueError(sentence)


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """value. TypeError unless it is a string, ValueError unless it is one of choices."""
    if not isinstance(value, str) or value not in choices:
        error = ValueError if isinstance(value, str) else TypeError
        raise error(f"{name} must be one of {', '.join(choices)}, not {shown(value)}.")
    return value


def check_shape(name: str, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    """ValueError unless the array has that shape; None stands for any size."""
    if array.ndim != len(shape) or any(b not in (None, a) for a, b in zip(array.shape, shape, strict=True)):
        wanted = str(shape).replace("None", "n")
        raise ValueError(f"{name} must have shape {wanted}, not {array.shape}.")


def integer_array(name: str, values, shape: tuple[int | None, ...], low: int, high: int) -> np.ndarray:
    """values as an int64 array of that shape (None: any size), from low to high; TypeError or ValueError."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.size and array.dtype.kind not in "iu":  # numpy takes [] for floats
        raise TypeError(f"{name} must be whole numbers, not {shown(values)}.")
    check_shape(name, array, shape)
    if array.size and (array.min() < low or array.max() > high):
        wrong = array.max() if array.max() > high else array.min()
        raise ValueError(f"{name} must be from {low} to {high}, not {wrong}.")
    return array.astype(np.int64)


@contextlib.contextmanager
def naming(what: object) -> Iterator[None]:
    """Turns an error inside into a ValueError that names the file, or whatever `what` is."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{what}: {error.args[0]} is missing.") from None
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what}: {error}") from None


def check_sizes(**sizes: int) -> None:
    """TypeError unless every size is a whole number, ValueError unless it is at least 1. If they are sizes of
    a network, n_head must divide n_embd, and weights and mask entries must be at most MAX_NUMBERS."""
    for name, size in sizes.items():
        check_number(name, size, f"a whole number of at least 1 and at most {MAX_NUMBERS}", 1, MAX_NUMBERS)
    if "n_head" not in sizes:
        return
    if sizes["n_embd"] % sizes["n_head"]:
        raise ValueError(f"n_embd = {sizes['n_embd']} must be divisible by n_head = {sizes['n_head']}.")
    width, T = sizes["n_embd"] + sizes["n_embd_pos"], sizes["block_size"]
    # a block's matrices and mask; embeddings, head and codebook are at most the last term
    count = sizes["n_layer"] * (12 * width * sizes["n_embd"] + T**2) + width * sum(sizes.values())
    if count > MAX_NUMBERS:
        given = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise ValueError(f"{given} must make a network of at most {MAX_NUMBERS} numbers, not {count}; "
                         "block_size is board_dim squared.")


def check_numbers(most: float | None = 1, **values: float) -> None:
    """TypeError unless every value is a number, ValueError unless it is from 0 to most; None: any finite
    number of at least 0."""
    wanted = "a finite number of at least 0" if most is None else f"a number from 0 to {most}"
    for name, value in values.items():
        check_number(name, value, wanted, 0, sys.float_info.max if most is None else most, numbers.Real)


def check_tokens(name: str, tokens: torch.Tensor, length: int | None = None) -> None:
    """TypeError unless tokens are a tensor of int64 or int32, ValueError unless its shape is (B, length);
    None: any length."""
    if not isinstance(tokens, torch.Tensor) or tokens.dtype not in (torch.int64, torch.int32):
        kind = tokens.dtype if isinstance(tokens, torch.Tensor) else type(tokens).__name__
        raise TypeError(f"{name} must be a tensor of int64 or int32, not {kind}.")
    if tokens.ndim != 2 or length not in (None, tokens.shape[1]):
        raise ValueError(f"{name} must have shape (B, {length or 'tokens'}), not {tuple(tokens.shape)}.")
