"""Tests a network on masked boards: the one evaluation, for training and for notebooks.

Axis letters: n boards, h x w cells of a board, B boards in a batch, T = h * w tokens, V tokens of the
vocabulary.
"""
from __future__ import annotations

import contextlib
import numbers
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from parts.boards.params import TYPES, Boards
from parts.checks import check_sizes
from parts.probing.panels import plot_reconstructions, save_figure, show_figure
from utils import shown, to_numpy

EVAL_BATCH = 512  # boards in a forward pass without gradient
DECODES = ("one pass", "easy first")


class Accuracy(tuple):
    """(acc_tokens, acc_boards, boards, rec_boards, masks, acc_boards_breakdown); acc_hidden is the accuracy
    on hidden tokens alone. Shares 0 ... 1; the breakdown is by board type, NaN for a type without boards."""

    acc_hidden: float


def score(boards: np.ndarray, recons: np.ndarray, masks: np.ndarray, types: np.ndarray) -> dict:
    """acc_tokens, acc_hidden (NaN where nothing is hidden), acc_boards and acc_boards_breakdown (3,), shares
    0 ... 1, of reconstructions (n, h, w); types (n,): 0 single, 1 double, 2 composition."""
    right = boards == recons
    whole = right.reshape(len(right), -1).all(1)
    return {
        "acc_tokens": _share(right),
        "acc_hidden": _share(right[masks.astype(bool)]),
        "acc_boards": _share(whole),
        "acc_boards_breakdown": np.array([_share(whole[types == t]) for t in range(3)]),
    }


def _share(right: np.ndarray) -> float:
    """Mean of truth values, NaN where there are none."""
    return float(right.mean()) if right.size else float("nan")


def score_values(s: dict) -> list[float]:
    """A score's accuracies in the order of a test's log columns."""
    return [s["acc_tokens"], s["acc_hidden"], s["acc_boards"], *s["acc_boards_breakdown"]]


def accuracy_table(rows: dict[str, Sequence[float]]) -> str:
    """Accuracies in percent as text, a line for each of rows, values in the order of a test's log columns."""
    width = max([8, *(len(name) + 2 for name in rows)])
    lines = [" " * width + "".join(f"{head:>12}" for head in ("tokens", "hidden", "boards", *TYPES))]
    for name, values in rows.items():
        cells = (f"{'-':>12}" if np.isnan(v) else f"{100 * v:>11.1f}%" for v in values)
        lines.append(f"{name:>{width}}" + "".join(cells))
    return "\n".join(lines)


@contextlib.contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; every module's own mode restored after, also after an exception."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class Evaluation:
    """A data set and a network, and how well the one is reconstructed by the other; base of both wrappers.

    A subclass has the attributes dataset, transformer, device, block_size, vocab_size, masking_token, folder,
    run_name, plot_dpi, and `_user_rng`, the random stream of what its user asks for.
    """

    outputs = {"": "reconstruction"}  # of the network, with a title each

    dataset: torch.utils.data.Dataset
    transformer: torch.nn.Module

    def _predict(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits (B, T, V) for masked boards (B, T), one for each of `outputs`."""
        return (self.transformer(tokens),)

    # masking

    def _mask(self, boards: np.ndarray, p: float, patch_p: float, rng, types=None, corners=None):
        """Masks (n, h, w) and kinds of patches (n,) as `AbstractionDataset.mask` gives them."""
        for name, value in (("masking_p", p), ("patch_masking_p", patch_p)):
            if not isinstance(value, numbers.Real):
                raise TypeError(f"{name} must be a number from 0 to 1, not {value!r}.")
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a number from 0 to 1, not {value!r}.")
        return self.dataset.mask(boards, p, patch_p, types, corners, rng)

    def _mask_input(
        self, board, masking_p: float, patch_masking: bool = False, patch_masking_p: float = 0.1,
        bool_report: bool = False,
    ):
        """Boards (n, h, w) or (n, T), tensor or array, with cells hidden as in training; the same kind and
        shape.

        With bool_report also {'boardType': (n,): 0 no patch, 1 root board, 3 composite}.
        """
        array = board.cpu().numpy() if isinstance(board, torch.Tensor) else np.asarray(board)
        side = self.dataset.board_dim
        if array.ndim < 1 or array.shape[-2:] != (side, side) and array.shape[-1] != side * side:
            raise ValueError(
                f"board must have shape (n, {side}, {side}) or (n, {side * side}), not {array.shape}."
            )
        boards = array.reshape(-1, side, side)
        mask, kinds = self._mask(boards, masking_p, patch_masking_p if patch_masking else 0.0, self._user_rng)
        masked = np.where(mask, self.masking_token, boards).reshape(array.shape)
        if isinstance(board, torch.Tensor):
            masked = torch.from_numpy(masked).to(board.device)
        return (masked, {"boardType": kinds}) if bool_report else masked

    def _tokens(self, boards: np.ndarray) -> torch.Tensor:
        """(n, h, w) -> (n, T) on the device."""
        tokens = torch.from_numpy(np.ascontiguousarray(boards).reshape(len(boards), -1))
        if self.device.type == "cuda":  # from pinned memory a copy does not wait
            tokens = tokens.pin_memory()
        return tokens.to(self.device, non_blocking=True)

    def _masked_batches(self, boards: np.ndarray, masks: np.ndarray) -> Iterator[torch.Tensor]:
        """Masked boards (n, h, w) as tokens (B, T) on the device, EVAL_BATCH boards at a time."""
        for start in range(0, len(boards), EVAL_BATCH):
            part = slice(start, start + EVAL_BATCH)
            hidden = self._tokens(masks[part].astype(bool))
            yield self._tokens(boards[part]).masked_fill(hidden, self.masking_token)

    # reconstruction

    def _reconstruct(
        self, boards: np.ndarray, masks: np.ndarray, decode: str = "one pass"
    ) -> dict[str, np.ndarray]:
        """Greedy reconstructions (n, h, w) of boards under masks, one for each of `outputs`.

        decode: 'one pass', every cell's own most probable token; 'easy first', hidden cells filled one at a
        time, the surest first, by a network that reads what it has filled; a sentence is then that of the
        filled board.
        """
        if decode not in DECODES:
            raise ValueError(f"decode must be one of {', '.join(DECODES)}, not {shown(decode)}.")
        made = []
        with evaluating(self.transformer):
            for tokens in self._masked_batches(boards, masks):
                hidden = tokens == self.masking_token
                filled = self._filled(tokens) if decode == "easy first" else tokens
                first, *others = (logits.argmax(-1) for logits in self._predict(filled))
                first = torch.where(hidden, filled, first) if decode == "easy first" else first
                made.append([answer.cpu().numpy() for answer in (first, *others)])
        by_output = zip(self.outputs, zip(*made, strict=True), strict=True)
        return {name: np.concatenate(parts).reshape(boards.shape) for name, parts in by_output}

    def _filled(self, tokens: torch.Tensor) -> torch.Tensor:
        """Masked boards (B, T) with all hidden cells filled, one a pass on each board, the surest first."""
        tokens, hidden = tokens.clone(), tokens == self.masking_token
        left = hidden.any(1).nonzero()[:, 0]  # boards with something hidden
        while len(left):
            logits = self._predict(tokens[left])[0]
            sure = logits.softmax(-1).amax(-1).masked_fill(~hidden[left], -1)
            cell = sure.argmax(1)  # (len(left),)
            tokens[left, cell] = logits.argmax(-1).gather(1, cell[:, None])[:, 0]
            hidden[left, cell] = False
            left = left[hidden[left].any(1)]
        return tokens

    def _evaluate(
        self, drawn: Boards, p: float, patch_p: float, rounds: int, rng, decode: str = "one pass"
    ) -> tuple[dict, dict]:
        """Scores by output and {boards, recons by output, masks, types} of boards masked `rounds` times
        afresh."""
        drawn = Boards.join([drawn] * rounds)
        masks, _ = self._mask(drawn.boards, p, patch_p, rng, drawn.types, drawn.corners)
        recons = self._reconstruct(drawn.boards, masks, decode)
        scores = {name: score(drawn.boards, recon, masks, drawn.types) for name, recon in recons.items()}
        made = {
            "boards": drawn.boards,
            "recons": recons,
            "masks": masks.astype(np.int64),
            "types": drawn.types,
        }
        return scores, made

    def _test_boards(self, rng, count_max: int = 100) -> tuple[dict[str, Boards], list[int]]:
        """Boards of 'test', where there are some, and as many of 'train' by type; how many of each type."""
        dataset, drawn = self.dataset, {}
        tables = {} if dataset.sets is None else dataset.sets
        if any(len(table) for name, table in tables.items() if name.endswith("_test")):
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

    # what a user calls

    def test_model_accuracy(
        self, nb_instances: int, masking_p: float, patch_masking: bool = False, patch_masking_p: float = 0.1,
        verbose: bool = False, display_erroneous_boards: bool = False, decode: str = "one pass",
    ) -> Accuracy:
        """Greedy reconstruction of nb_instances boards drawn from train, hidden cells and patches as in
        training.

        decode: 'one pass', or 'easy first': hidden cells are filled one at a time, the surest first, the
        network reading what it has filled.
        """
        check_sizes(nb_instances=nb_instances)
        drawn = self.dataset.sample(int(nb_instances), "train", rng=self._user_rng)
        patch_p = patch_masking_p if patch_masking else 0.0
        return self._accuracy(drawn, masking_p, patch_p, 1, verbose, display_erroneous_boards, decode)

    def test_model_accuracy_set(
        self, target_set: str, masking_p: float, patch_masking: bool = False, patch_masking_p: float = 0.1,
        masking_rounds: int = 1, verbose: bool = False, display_erroneous_boards: bool = False,
        count_max: int | None = 100, decode: str = "one pass",
    ) -> Accuracy:
        """As test_model_accuracy, of the boards of a split, at most count_max a type, each masked
        masking_rounds times."""
        check_sizes(masking_rounds=masking_rounds)
        drawn = self._boards_of(target_set, count_max, self._user_rng)
        patch_p = patch_masking_p if patch_masking else 0.0
        return self._accuracy(
            drawn, masking_p, patch_p, masking_rounds, verbose, display_erroneous_boards, decode
        )

    def test_model_accuracy_subset(
        self, boards, masks, bool_show_erroneous_boards: bool = False, decode: str = "one pass"
    ) -> dict:
        """Greedy reconstruction of the boards (n, h, w) given, under the masks (n, h, w) given, 1 = hidden;
        decode as in test_model_accuracy.

        Returns boards_recons, boards, masks (n, h, w); error_token, error_masked_token, error_board: shares
        of wrong tokens, hidden tokens and boards; erroneous_boards: indices of the boards with a mistake.
        """
        boards, masks = self._given(boards, masks)
        recons = self._reconstruct(boards, masks, decode)
        scores = {name: score(boards, recon, masks, np.zeros(len(boards))) for name, recon in recons.items()}
        made = {"boards": boards, "recons": recons, "masks": masks}
        if bool_show_erroneous_boards:
            self._show_erroneous(made)
        return self._subset_result(scores, made)

    def _boards_of(self, target_set: str, count_max: int | None, rng) -> Boards:
        """The boards of a split, at most count_max a type; ValueError where there are none."""
        drawn = self.dataset.all_boards(target_set, count_max, rng)
        if not len(drawn):
            raise ValueError(f"target_set = {target_set!r} holds no boards (count_max = {count_max}).")
        return drawn

    def _accuracy(
        self, drawn: Boards, p: float, patch_p: float, rounds: int, verbose: bool, display: bool, decode: str
    ):
        scores, made = self._evaluate(drawn, p, patch_p, rounds, self._user_rng, decode)
        if verbose:
            print(accuracy_table({self.outputs[name]: score_values(s) for name, s in scores.items()}))
        if display:
            self._show_erroneous(made)
        return self._accuracy_result(scores, made)

    def _accuracy_result(self, scores: dict, made: dict):
        """What test_model_accuracy and test_model_accuracy_set return."""
        s = scores[""]
        result = Accuracy(
            (
                s["acc_tokens"],
                s["acc_boards"],
                made["boards"],
                made["recons"][""],
                made["masks"],
                s["acc_boards_breakdown"],
            )
        )
        result.acc_hidden = s["acc_hidden"]
        return result

    def _subset_result(self, scores: dict, made: dict) -> dict:
        """What test_model_accuracy_subset returns."""
        s, recons = scores[""], made["recons"][""]
        return {
            "boards_recons": recons, "boards": made["boards"], "masks": made["masks"],
            "error_token": 1 - s["acc_tokens"], "error_masked_token": 1 - s["acc_hidden"],
            "error_board": 1 - s["acc_boards"],
            "erroneous_boards": np.flatnonzero((recons != made["boards"]).any((1, 2))),
        }

    def _plot_reconstructions(self, boards, recons: dict, masks, types=None):
        """Masked board, reconstructions and truth, a board a row."""
        titles = {self.outputs[name]: recon for name, recon in recons.items()}
        return plot_reconstructions(boards, titles, masks, self.dataset.vocab_bck, self.dataset.vocab_token)

    def _show_erroneous(self, made: dict, most: int = 10) -> None:
        """Shows up to `most` boards with mistakes in a notebook; with a run_name also in
        analysis/erroneous_boards.png."""
        mistaken = [(recon != made["boards"]).any((1, 2)) for recon in made["recons"].values()]
        wrong = np.flatnonzero(np.any(mistaken, axis=0))[:most]
        if not len(wrong):
            return
        recons = {name: recon[wrong] for name, recon in made["recons"].items()}
        figure = self._plot_reconstructions(made["boards"][wrong], recons, made["masks"][wrong])
        if self.run_name:
            save_figure(figure, self.folder / "analysis" / "erroneous_boards.png", self.plot_dpi)
        show_figure(figure)

    # what a user gives

    def _given(
        self, *arrays, names=("boards", "masks", "boards_abs"), one: bool = False
    ) -> tuple[np.ndarray, ...]:
        """Arrays as int64 (n, h, w), from (n, h, w) or (h, w), n = 1 where one; ValueError names one of
        another shape or with values that its name does not allow: boards hold tokens, masks 0 and 1, others
        -1 or more."""
        given = []
        for name, array in zip(names, arrays, strict=False):
            given.append(self._checked_cells(name, array, one))
            if len(given[-1]) != len(given[0]):
                raise ValueError(
                    f"{name} must be as many as {names[0]}, {len(given[0])}, not {len(given[-1])}."
                )
        return tuple(given)

    def _checked_cells(self, name: str, array, one: bool) -> np.ndarray:
        """One of the arrays of `_given`."""
        side = self.dataset.board_dim
        try:
            array = to_numpy(array) if isinstance(array, torch.Tensor) else np.asarray(array)
        except ValueError:
            raise TypeError(f"{name} must be an array of whole numbers, not {shown(array)}.") from None
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be an array of whole numbers, not of {array.dtype}.")
        shape = array.shape[-3:] if array.ndim != 2 else (1, *array.shape)
        if array.ndim not in (2, 3) or shape[1:] != (side, side) or not shape[0] or (one and shape[0] > 1):
            wanted = f"({side}, {side})" if one else f"(n, {side}, {side}) or ({side}, {side})"
            raise ValueError(f"{name} must have shape {wanted}, not {array.shape}.")
        if name in ("board", "boards"):
            low, high, end = 0, self.vocab_size - 1, f"to {self.vocab_size - 1}"
        elif "mask" in name:
            low, high, end = 0, 1, "to 1"
        else:
            low, high, end = -1, np.iinfo(np.int64).max, "on"
        fits = (np.floor(array) == array) & (array >= low) & (array <= high)
        if not fits.all():
            raise ValueError(f"{name} must hold whole numbers from {low} {end}, not {array[~fits][0]}.")
        return array.reshape(shape).astype(np.int64)
