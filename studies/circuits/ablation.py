"""Ablation: accuracy on hidden cells without a head, MLP or stage, or with a few of them only."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

import utils
from parts.boards.masking import object_tokens
from parts.probing.evaluation import evaluating
from studies.circuits.boards import reference_boards
from studies.circuits.stack import CIRCUITS, Stack, by_board, replacing
from studies.claims.scores import ratio, spread

HOW = ("mean", "resample", "zero")
REFERENCES = 500  # boards of train, at least, that stand in for what is ablated


def ablate(trainer, boards, masks, names, how: str = "mean", read=None, reference=None) -> list[dict]:
    """Accuracy on hidden cells lost without each activation of names, head by head if it consists of heads.

    boards, masks (n, h, w). how: what replaces an activation: 'mean', its mean over reference boards, cell by
    cell; 'resample', that of a reference board drawn with the run's seed; 'zero'. read (n, h, w) or (h, w):
    the hidden cells that count; None: those of objects, as a background is told from any visible cell.
    reference: (boards, masks), which should not be the boards under test; None: boards of train, masked as
    the run's recipe ends.

    Returns rows by `place` and `head`: `lost`, the accuracy lost, `hidden`, the accuracy left, both with
    intervals, and `boards`, the number on which a cell counts. ValueError for unknown activations, boards
    that do not fit, or no cell to read.
    """
    test = Ablations(trainer, boards, masks, how, read, reference)
    stack, rows = test.stack, []
    with evaluating(stack.network):
        places = stack.places(names)
        acts, instead = test.record(places)
        for place in places:
            by = "head" if stack.network.sites[place].n_head else "all"
            units = stack.units_of(place, by, acts[place])
            edits = {place: replacing(units, instead[place])}
            for k, right in enumerate(test.right(acts, stack.block_of(place), len(units), edits)):
                row = {"place": place} | ({"head": k} if by == "head" else {})
                rows.append(row | test.columns(right, acts["logit"]))
    return rows


def kept(trainer, boards, masks, circuits: Sequence[Sequence[str]], how: str = "mean", read=None,
         reference=None) -> list[dict]:
    """Accuracy on hidden cells with only the heads and MLPs of each circuit, all others ablated.

    circuits: each some of the names of `components(trainer)`. Other arguments as for `ablate`. Returns rows
    by `circuit` (names joined by spaces) and `size`, the number of its parts: `hidden`, the accuracy left,
    and `lost` with intervals, and `boards`. ValueError for an unknown component, and as for `ablate`.
    """
    test = Ablations(trainer, boards, masks, how, read, reference)
    stack, known = test.stack, components(trainer)
    for name in (name for circuit in circuits for name in circuit):
        if name not in known:
            raise ValueError(f"circuits: there is no component {name!r}; there are {', '.join(known)}.")
    places = list(dict.fromkeys(known.values()))
    with evaluating(stack.network):
        acts, instead = test.record(places)
        edits = {}
        for place in places:
            here = [name for name, at in known.items() if at == place]
            gone = torch.tensor([[name not in circuit for name in here] for circuit in circuits])  # (U, here)
            units = stack.units_of(place, "head" if len(here) > 1 else "all", acts[place])
            off = (gone.to(units.device)[..., None, None] & units).any(1)  # (U, 1, D)
            edits[place] = replacing(off, instead[place])
        left = test.right(acts, 0, len(circuits), edits)
    return [{"circuit": " ".join(circuit), "size": len(circuit)} | test.columns(right, acts["logit"])
            for circuit, right in zip(circuits, left, strict=True)]


def components(trainer) -> dict[str, str]:
    """The heads and MLPs of a network: {name, such as 'b0h1' or 'b0 mlp': activation}."""
    stack, parts = Stack(trainer), {}
    for i in range(len(stack.blocks)):
        attentions = ("selfAttn_attn_v", "crossAttn_attn_v") if stack.is_lea else ("attn_v",)
        for site in attentions:
            place = f"b{i}_{site}"
            cross = "x" if site.startswith("cross") else ""
            parts |= {f"b{i}{cross}h{k}": place for k in range(trainer.n_head)}
        parts[f"b{i} mlp"] = f"b{i}_{'mlp' if stack.is_lea else 'mlp_update'}"
    return parts


class Ablations:
    """Boards under test, the cells that count, and what replaces activations: arguments of `ablate`."""

    def __init__(self, trainer, boards, masks, how: str, read, reference):
        if how not in HOW:
            raise ValueError(f"how must be one of {', '.join(HOW)}, not {utils.shown(how)}.")
        self.stack, self.how, self.reference = Stack(trainer), how, reference
        self.tokens, self.truth, hidden = self.stack.masked(boards, masks)
        self.counted = hidden & (object_tokens(trainer.dataset.params, self.truth) if read is None
                                 else self.stack.cells_to_read(read, len(hidden)))
        if not self.counted.any():
            raise ValueError("read must have a hidden cell (by default one of an object), not none.")
        self.W = self.stack.weights_of(self.truth)

    def record(self, places: Sequence[str]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Recorded activations of the boards, and {place: what an ablation puts there}, (n, ...) each."""
        acts, n, trainer = self.stack.record(self.tokens, places), len(self.tokens), self.stack.trainer
        if self.how == "zero":
            return acts, {place: torch.zeros_like(acts[place]) for place in places}
        rng = utils.numpy_rng(trainer.seed, CIRCUITS, 1)
        reference = self.reference or reference_boards(trainer, max(n, REFERENCES), rng)
        others = self.stack.record(self.stack.masked(*reference)[0], places)
        if self.how == "mean":
            return acts, {place: others[place].mean(0).expand_as(acts[place]) for place in places}
        # of fewer than n reference boards all are used equally often
        which = torch.from_numpy(np.resize(rng.permutation(len(others["logit"])), n)).to(self.tokens.device)
        return acts, {place: others[place][which] for place in places}

    def right(self, acts: dict[str, torch.Tensor], first: int, count: int, edits: dict) -> np.ndarray:
        """(count, n) counted cells that are right under each of count patches."""
        n = len(self.truth)
        right = torch.zeros(count, n, dtype=torch.float64, device=self.truth.device)
        wanted = torch.ones(count, n, dtype=torch.bool, device=self.truth.device)
        for u, b, logits in self.stack.chunks(acts, first, wanted, edits):
            cells = self.counted[b] & (logits.argmax(-1) == self.truth[b])
            right[u, b] = cells.double().sum(-1)
        return right.cpu().numpy()

    def columns(self, right: np.ndarray, logits: torch.Tensor) -> dict:
        """The columns of a row: right (n,) cells under an ablation beside the network's own logits."""
        before, all_ = by_board(self.counted & (logits.argmax(-1) == self.truth)), by_board(self.counted)
        row = spread("lost", ratio(before - right, all_, self.W))
        return row | spread("hidden", ratio(right, all_, self.W)) | {"boards": int((all_ > 0).sum())}
