"""Attribution: the first-order estimate of activation patching, beside the exact values."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from parts.probing.evaluation import evaluating
from parts.probing.sites import recording
from studies.circuits.patching import patched
from studies.circuits.stack import AT_ONCE, Pairs, Stack
from studies.claims.scores import ratio, spread


def attribution(trainer, base, donor, masks, names, bar: Callable = iter) -> list[dict]:
    """The gradient times the donor's difference, of one backward pass, as an estimate of `patch` by cell.

    Arguments as `patch`'s, with its default cells to read. Returns rows by `place` and `cell`: `estimate`
    with its interval, the exact `recovered`, and `rank correlation`, over all boards and cells of the
    activation (the same in all its rows). ValueError as there.
    """
    stack = Stack(trainer)
    pairs = Pairs(stack, base, donor, masks)
    W, rows = stack.weights_of(*pairs.true.values()), []
    estimates = estimates_of(stack, pairs, names)
    for place, exact in patched(stack, pairs, names, "cell", bar):
        gain, whole, read, estimate = (
            x.cpu().numpy() for x in (exact.gain, exact.whole, exact.read, estimates[place]))
        used = read > 0
        rank = spearman(gain[used], estimate[used])
        for cell in range(len(gain)):
            row = {"place": place, "cell": cell} | spread("estimate", ratio(estimate[cell], whole[cell], W))
            row |= {"recovered": float(ratio(gain[cell], whole[cell], W[:1])[0]), "rank correlation": rank}
            rows.append(row | {"boards": int(used[cell].sum())})
    return rows


def estimates_of(stack: Stack, pairs: Pairs, names) -> dict[str, torch.Tensor]:
    """{place: (T, n)} the gradient times the donor's difference at a cell, over the other cells read."""
    places = stack.places(names)
    board, cell = pairs.read.nonzero().T
    estimates = {place: torch.zeros_like(pairs.read.T, dtype=torch.float32) for place in places}
    with evaluating(stack.network), torch.enable_grad():
        # a copy of a board for each of its cells that is read: a single backward pass for all of them
        for b, c in zip(board.split(AT_ONCE), cell.split(AT_ONCE), strict=True):
            with torch.no_grad():
                donor = stack.record(pairs.seen["donor"][b], places)
            with recording(stack.network, places, detach=False) as acts:
                logits = stack.run(stack.network.start(pairs.seen["base"][b]))
            gain = pairs.gains(logits, b).gather(1, c[:, None]).sum()
            slopes = torch.autograd.grad(gain, [acts[place] for place in places], allow_unused=True)
            for place, slope in zip(places, slopes, strict=True):
                part = slope * (donor[place] - acts[place].detach())
                part = part.sum((1, 3)) if part.ndim == 4 else part.sum(-1)  # (M, T); weights: of queries
                part.scatter_(1, c[:, None], 0)
                estimates[place].index_add_(1, b, part.T.to(estimates[place]))
    return estimates


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of x and y (N,), equal values sharing a rank; NaN if one of them is constant."""
    ranks = []
    for values in (x, y):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts + 1) / 2)[inverse])
    if min(np.ptp(rank) if len(rank) else 0 for rank in ranks) == 0:
        return np.nan
    return float(np.corrcoef(*ranks)[0, 1])
