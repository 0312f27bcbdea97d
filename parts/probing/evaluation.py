"""How well a network reconstructs masked boards: the one evaluation, for training and for notebooks.

Axis letters: n boards, h x w cells of a board, B boards in a batch, T = h * w tokens, V tokens of the
vocabulary.

A network comes with `predict`, a function of masked boards (B, T) that returns logits (B, T, V), one tensor
for each output of the network: one for GPTFactor; two for LEA, from the board and from its sentence.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from parts.boards.params import TYPES, Boards
from parts.checks import check_numbers
from utils import shown, to_numpy

EVAL_BATCH = 64  # boards in a forward pass without gradient; on a CPU more only take more memory
DECODES = ("one pass", "easy first")

Predict = Callable[[torch.Tensor], Sequence[torch.Tensor]]


@contextlib.contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; each module's own mode is restored, also after an exception."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def reconstruct(
    network: torch.nn.Module, predict: Predict, batches: Iterator[torch.Tensor], masking_token: int,
    decode: str = "one pass",
) -> list[np.ndarray]:
    """Greedy reconstructions (n, T) of batches of masked boards (B, T), one array for each output. decode: as
    the wrapper's test_model_accuracy; a sentence then describes the filled board. ValueError for another."""
    if decode not in DECODES:
        raise ValueError(f"decode must be one of {', '.join(DECODES)}, not {shown(decode)}.")
    answers = []
    with evaluating(network):
        for tokens in batches:
            filled = filled_easy_first(predict, tokens, masking_token) if decode == "easy first" else tokens
            first, *others = (logits.argmax(-1) for logits in predict(filled))
            if decode == "easy first":  # what was filled stays; visible cells are as the network answers
                first = torch.where(tokens == masking_token, filled, first)
            answers.append([answer.cpu().numpy() for answer in (first, *others)])
    return [np.concatenate(parts) for parts in zip(*answers, strict=True)]


def filled_easy_first(predict: Predict, tokens: torch.Tensor, masking_token: int) -> torch.Tensor:
    """Masked boards (B, T) with all hidden cells filled: in each pass one cell of each board, the one whose
    most probable token is the most probable."""
    tokens, hidden = tokens.clone(), tokens == masking_token
    left = hidden.any(1).nonzero()[:, 0]  # boards with something hidden
    while len(left):
        logits = predict(tokens[left])[0]
        sure = logits.softmax(-1).amax(-1).masked_fill(~hidden[left], -1)
        cell = sure.argmax(1)  # (len(left),)
        tokens[left, cell] = logits.argmax(-1).gather(1, cell[:, None])[:, 0]
        hidden[left, cell] = False
        left = left[hidden[left].any(1)]
    return tokens


class Accuracy(tuple):
    """(acc_tokens, acc_boards, boards, rec_boards, masks, acc_boards_breakdown); its attribute acc_hidden is
    the accuracy on hidden tokens alone. Shares from 0 to 1; the breakdown is by board type, NaN for a type
    without boards."""

    acc_hidden: float


def score(boards: np.ndarray, recons: np.ndarray, masks: np.ndarray, types: np.ndarray) -> dict:
    """Shares from 0 to 1 of reconstructions (n, h, w): acc_tokens; acc_hidden, NaN if nothing is hidden;
    acc_boards; acc_boards_breakdown (3,), by types (n,): 0 single, 1 double, 2 composition."""
    right = boards == recons
    whole = right.reshape(len(right), -1).all(1)
    return {
        "acc_tokens": share(right),
        "acc_hidden": share(right[masks.astype(bool)]),
        "acc_boards": share(whole),
        "acc_boards_breakdown": np.array([share(whole[types == t]) for t in range(3)]),
    }


def share(right: np.ndarray) -> float:
    """Mean of truth values, NaN if there are none."""
    return float(right.mean()) if right.size else float("nan")


def score_values(scores: dict) -> list[float]:
    """The accuracies of `score` in the order of a test's log columns."""
    return [scores["acc_tokens"], scores["acc_hidden"], scores["acc_boards"], *scores["acc_boards_breakdown"]]


def accuracy_table(rows: dict[str, Sequence[float]]) -> str:
    """Accuracies in percent as text, a line for each of rows; values in the order of a test's log columns."""
    width = max([8, *(len(name) + 2 for name in rows)])
    lines = [" " * width + "".join(f"{head:>12}" for head in ("tokens", "hidden", "boards", *TYPES))]
    for name, values in rows.items():
        cells = (f"{'-':>12}" if np.isnan(v) else f"{100 * v:>11.1f}%" for v in values)
        lines.append(f"{name:>{width}}" + "".join(cells))
    return "\n".join(lines)


def report(recons: np.ndarray, boards: np.ndarray) -> None:
    """Prints the shares of right tokens and of right boards, in percent."""
    right = recons.reshape(boards.shape) == boards
    print(f"right tokens {100 * right.mean():.2f}%, right boards {100 * right.all((1, 2)).mean():.2f}%")


def masks_of(dataset, boards: np.ndarray, masking_p: float, patch_masking_p: float, rng, types=None,
             corners=None) -> tuple[np.ndarray, np.ndarray]:
    """Masks (n, h, w) and kinds of patches (n,), as `AbstractionDataset.mask` draws them. TypeError or
    ValueError names a probability that is none."""
    check_numbers(masking_p=masking_p, patch_masking_p=patch_masking_p)
    return dataset.mask(boards, masking_p, patch_masking_p, types, corners, rng)


def boards_of_split(dataset, target_set: str, count_max: int | None, rng) -> Boards:
    """The boards of a split, at most count_max of each type; ValueError if there are none."""
    drawn = dataset.all_boards(target_set, count_max, rng)
    if not len(drawn):
        raise ValueError(f"target_set = {target_set!r} holds no boards (count_max = {count_max}).")
    return drawn


def boards_to_test(dataset, rng, count_max: int = 100) -> tuple[dict[str, Boards], list[int]]:
    """Boards for a test during training: those of 'test', at most count_max of each type, and as many of
    each type drawn from 'train'; without test boards only 'train'. Also the number of boards of each type."""
    drawn = {}
    if dataset.holds("test"):
        drawn["test"] = dataset.all_boards("test", count_max, rng)
        counts = np.bincount(drawn["test"].types, minlength=3).tolist()
    else:
        counts = [count_max * (name in dataset.board_types) for name in TYPES]
    one_type = dict(zip(dataset.board_types, np.eye(len(dataset.board_types)), strict=True))
    drawn["train"] = Boards.join([
        dataset.sample(count, "train", one_type[name], rng)
        for name, count in zip(TYPES, counts, strict=True) if count
    ])
    return drawn, counts


def checked_cells(name: str, array, side: int, vocab_size: int, one: bool) -> np.ndarray:
    """An array or tensor (n, side, side) or (side, side) as an int64 array (n, side, side); n = 1 if `one`. A
    mask may be flat as well, (n, side²) or (side²,). TypeError or ValueError for another shape, or for values
    that the name does not allow: board and boards hold tokens, names with 'mask' 0 and 1, others -1 or more.
    """
    try:
        array = to_numpy(array) if isinstance(array, torch.Tensor) else np.asarray(array)
    except ValueError:  # a ragged list
        raise TypeError(f"{name} must be an array of whole numbers, not {shown(array)}.") from None
    if "mask" in name and 0 < array.ndim < 3 and array.shape[-1] == side**2 > side:
        array = array.reshape(-1, side, side)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of whole numbers, not of {array.dtype}.")
    shape = array.shape[-3:] if array.ndim != 2 else (1, *array.shape)
    if array.ndim not in (2, 3) or shape[1:] != (side, side) or not shape[0] or (one and shape[0] > 1):
        wanted = f"({side}, {side})" if one else f"(n, {side}, {side}) or ({side}, {side})"
        raise ValueError(f"{name} must have shape {wanted}, not {array.shape}.")
    if name in ("board", "boards"):
        low, high, end = 0, vocab_size - 1, f"to {vocab_size - 1}"
    elif "mask" in name:
        low, high, end = 0, 1, "to 1"
    else:
        low, high, end = -1, np.iinfo(np.int64).max, "on"
    fits = (np.floor(array) == array) & (array >= low) & (array <= high)  # floats and booleans may come, too
    if not fits.all():
        raise ValueError(f"{name} must hold whole numbers from {low} {end}, not {array[~fits][0]}.")
    return array.reshape(shape).astype(np.int64)
