"""Activation patching: which cells, heads and stages of a donor's run carry its answer into the base's."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import utils
from parts.probing.evaluation import evaluating
from studies.circuits.stack import ENTERING, Effects, Pairs, Stack, differing, replacing

BY = ("cell", "head", "all")


def patch(trainer, base, donor, masks, names, by: str = "cell", read=None,
          bar: Callable = iter) -> list[dict]:
    """How far the donor's activations at one place move the answers about the base towards the donor's,
    exactly.

    base, donor, masks (n, h, w): boards and what is hidden of both. names: activations or patterns. by:
    'cell' takes the activations of one cell (of attention weights: of one query), 'head' of one head, 'all'
    the whole activation. read (n, h, w) or (h, w): cells to read; those at which base and donor differ
    count. None: the hidden ones, without the patched cell. bar: shows progress over activations.

    Returns rows by `place` and `cell` or `head`: `recovered` and `success` with intervals, and `boards`, the
    number on which something was read. ValueError for unknown activations, other shapes, equal boards or no
    cell to read.
    """
    stack = Stack(trainer)
    pairs = Pairs(stack, base, donor, masks, read)
    rows, W = [], stack.weights_of(*pairs.true.values())
    for place, effects in patched(stack, pairs, names, by, bar):
        columns = [{"place": place} | ({} if by == "all" else {by: k}) for k in range(len(effects.gain))]
        rows += effects.rows(columns, W)
    return rows


def patched(stack: Stack, pairs: Pairs, names, by: str, bar: Callable) -> Iterator[tuple[str, Effects]]:
    """(place, Effects) of each activation of names."""
    if by not in BY:
        raise ValueError(f"by must be one of {', '.join(BY)}, not {utils.shown(by)}.")
    places = stack.places(names)
    with evaluating(stack.network):
        base, donor = (stack.record(pairs.seen[name], places) for name in ("base", "donor"))
    units = {place: stack.units_of(place, by, base[place]) for place in places}
    for place in bar(places):
        read = pairs.read.expand(len(units[place]), -1, -1)
        if by == "cell" and pairs.by_default:
            read = read & ~torch.eye(read.shape[-1], dtype=torch.bool, device=read.device)[:, None]
        wanted = differing(base[place], donor[place], units[place]) & read.any(-1)
        with evaluating(stack.network):
            at, first, values = place, stack.block_of(place), donor[place]
            if by == "cell" and stack.cellwise(place):
                # one pass through this block with all cells patched gives each cell's own output, so the
                # passes of single cells may start at the next block
                at, first, values = ENTERING, first + 1, stack.leaving(base, place, values)
            passes = stack.chunks(base, first, wanted, {at: replacing(units[place], values)})
            yield place, Effects(pairs, base["logit"], donor["logit"], read, passes)
