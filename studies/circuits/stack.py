"""Passes of a network from any block on, many patches at once, and their effect on its answers.

A patch replaces some numbers of one activation, those of a cell, of a head or all, by a donor's. Boards are
repeated along the batch, each with its own patch, so that no loop runs over patches.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

import utils
from module_transformer_lea import LEA
from parts.probing.sites import editing, matching, recording
from studies.claims.scores import ratio, resample, spread

ENTERING = "entering"  # names an edit of the stream that the first block of a pass reads
CIRCUITS = 9  # the stream of a run's seed that circuits draw from
AT_ONCE = 128  # boards in a forward pass


class Stack:
    """A trainer's network as blocks over one residual stream, which a pass may enter at any of them."""

    def __init__(self, trainer):
        self.trainer, self.network = trainer, trainer.transformer
        self.is_lea = isinstance(self.network, LEA)
        self.blocks = self.network.ps_blocks if self.is_lea else self.network.blocks
        # the activations that are the residual stream after each block
        self.streams = [f"b{i}_{'out' if self.is_lea else 'z_attn_mlp'}" for i in range(len(self.blocks))]

    def run(self, x: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Logits (n, T, V) of the residual stream x (n, T, D) that the block `first` reads."""
        return self.network.read_out(self.network.run(x, first))

    def block_of(self, place: str) -> int:
        """The number of the block of an activation; the number of blocks for those after the last one."""
        return int(place[1 : place.index("_")]) if place.startswith("b") else len(self.blocks)

    def record(self, tokens: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """{name: activation, boards first} of masked boards (n, T); besides names always 'start' (what the
        first block reads), `streams` and 'logit'."""
        with recording(self.network, [*names, *self.streams, "logit"]) as acts:
            starts = [self.network.start(part) for part in tokens.split(AT_ONCE)]
            for start in starts:
                self.run(start)
        return acts | {"start": torch.cat(starts)}

    def entering(self, acts: dict[str, torch.Tensor], first: int) -> torch.Tensor:
        """The stream (n, T, D) that the block `first` reads, among recorded activations."""
        return acts[self.streams[first - 1]] if first else acts["start"]

    def cellwise(self, place: str) -> bool:
        """Whether no attention lies between an activation and the end of its block, so that each cell's part
        of it acts on the same cell alone."""
        block, _, stage = place.partition("_")
        return block[:1] == "b" and stage != "z" and stage in self.trainer.stages

    def leaving(self, acts: dict[str, torch.Tensor], place: str, act: torch.Tensor) -> torch.Tensor:
        """The output (n, T, D) of an activation's block if that is `act` and all before it is as recorded."""
        block = self.block_of(place)
        outputs = []
        for x, part in zip(self.entering(acts, block).split(AT_ONCE), act.split(AT_ONCE), strict=True):
            edit = {place: lambda _, part=part: part}
            with editing(self.network, edit), recording(self.network, [self.streams[block]]) as after:
                self.run(x, block)
            outputs.append(after[self.streams[block]])
        return torch.cat(outputs)

    def places(self, names: str | Sequence[str]) -> list[str]:
        """The activations of names or patterns ('b0_*') in the order of the forward pass; ValueError for one
        that matches none, or only those of LEA's language network."""
        known = [name for name in self.network.sites if not name.startswith("ss_")]
        return sorted(set(matching(names, known)), key=lambda name: (self.block_of(name), known.index(name)))

    def masked(self, boards, masks) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boards as the network sees them, as they are, and whether a cell is hidden: (n, T) each. ValueError
        for arrays that do not fit or hide nothing."""
        boards, masks = self.trainer.given(boards, masks)
        if not masks.any():
            raise ValueError("masks must hide a cell, not none.")
        seen = np.where(masks, self.trainer.masking_token, boards)
        tokens, truth, hidden = map(self.trainer.tokens, (seen, boards, masks))
        return tokens, truth, hidden.bool()

    def cells_to_read(self, read, count: int) -> torch.Tensor:
        """Cells (count, h, w) or (h, w) as bool (count or 1, T). ValueError for other shapes or values."""
        [cells] = self.trainer.given(read, names=("masks",))
        if len(cells) not in (1, count):
            raise ValueError(f"read must be for 1 or {count} boards, not {len(cells)}.")
        return self.trainer.tokens(cells).bool()

    def weights_of(self, *boards: torch.Tensor) -> np.ndarray:
        """Bootstrap weights (draws + 1, n) of boards (n, T); equal ones are drawn together."""
        return resample(torch.cat(boards, 1).cpu().numpy(), utils.numpy_rng(self.trainer.seed, CIRCUITS))

    def units_of(self, place: str, by: str, act: torch.Tensor) -> torch.Tensor:
        """Which numbers of an activation (n, T, D) or (n, H, T, keys) each patch replaces: bool (U, T, D) or
        (U, H, T, keys), or a shape that broadcasts to it. ValueError if an activation has no heads or no
        cells."""
        T, H, is_weights = act.shape[-2], self.network.sites[place].n_head, act.ndim == 4
        if by == "all":
            return torch.ones((1,) * act.ndim, dtype=torch.bool, device=act.device)
        if by == "cell":
            if T != self.trainer.block_size:
                raise ValueError(f"names: {place!r} is about words, not cells, so by must not be 'cell'.")
            cells = torch.eye(T, dtype=torch.bool, device=act.device)[:, :, None]
            return cells[:, None] if is_weights else cells  # of attention weights: one query's
        if not H:
            raise ValueError(f"names: {place!r} has no heads; those named ..._a, ..._v and ..._attn_v have.")
        heads = torch.eye(H, dtype=torch.bool, device=act.device)
        if is_weights:
            return heads[:, :, None, None]
        return heads.repeat_interleave(act.shape[-1] // H, 1)[:, None]

    def chunks(self, acts: dict[str, torch.Tensor], first: int, wanted: torch.Tensor,
               edits: dict[str, Callable]) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Patched passes from the block `first` on, many at once: (patch (M,), board (M,), logits (M, T, V)).

        acts: recorded activations of the unpatched boards. wanted (U, n): which patch to make on which board.
        edits: {activation's name, or ENTERING for the stream that the block `first` reads: function of
        (activation, patch (M,), board (M,)) that returns the patched activation}.
        """
        x = self.entering(acts, first)
        for pairs in wanted.nonzero().split(AT_ONCE):
            u, b = pairs.T
            hooks = {place: partial(edit, u=u, b=b) for place, edit in edits.items()}
            enter = hooks.pop(ENTERING, lambda x: x)
            with editing(self.network, hooks):
                yield u, b, self.run(enter(x[b]), first)


def by_board(x: torch.Tensor) -> np.ndarray:
    """Sums over cells (n,) of x (n, T)."""
    return x.double().sum(-1).cpu().numpy()


def replacing(units: torch.Tensor, values: torch.Tensor) -> Callable:
    """An edit for `chunks`: values (n, ...) where units (U, ...), broadcast over an activation, is true."""
    def edit(x, u, b):
        return torch.where(units[u], values[b], x)

    return edit


def differing(base: torch.Tensor, other: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """(U, n) whether two activations differ in any number of a unit; if not, its patch changes nothing."""
    differ = (base != other).flatten(1).float()
    return units.expand(len(units), *base.shape[1:]).flatten(1).float() @ differ.T > 0


class Pairs:
    """Base and donor boards (n, T) as tensors: as the network sees them, as they are, and what is read.

    base, donor, masks (n, h, w); read (n, h, w) or (h, w), None: hidden cells at which the boards differ.
    ValueError for other shapes or values, or if there is no cell to read.
    """

    def __init__(self, stack: Stack, base, donor, masks, read=None):
        trainer = stack.trainer
        base, masks = trainer.given(base, masks)
        [donor] = trainer.given(donor)
        if donor.shape != base.shape:
            raise ValueError(f"donor must have the shape of base, {base.shape}, not {donor.shape}.")
        if (base == donor).all():
            raise ValueError("base and donor must differ, they are the same boards.")
        boards = {"base": base, "donor": donor}
        self.true = {name: trainer.tokens(board) for name, board in boards.items()}
        self.seen = {name: trainer.tokens(np.where(masks, trainer.masking_token, board))
                     for name, board in boards.items()}  # with hidden cells as UNK
        self.by_default = read is None  # which leaves a patched cell out
        cells = trainer.tokens(masks).bool() if read is None else stack.cells_to_read(read, len(base))
        self.read = cells & (self.true["base"] != self.true["donor"])
        if not self.read.any():
            raise ValueError("read must hold a cell where base and donor differ (by default a hidden one), "
                             "not none.")

    def gains(self, logits: torch.Tensor, b: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """(M, T) the donor's logit minus the base's, in logits (M, T, V) of the boards b (M,)."""
        donor, base = (logits.gather(-1, self.true[name][b][..., None])[..., 0] for name in ("donor", "base"))
        return donor - base

    def successes(self, logits: torch.Tensor, b: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """(M, T) whether logits (M, T, V) of the boards b (M,) answer the donor's token."""
        return (logits.argmax(-1) == self.true["donor"][b]).to(logits.dtype)


class Effects:
    """Sums over the cells read for each patch and board, (U, n), from which `rows` makes shares.

    Of logits of base and donor (n, T, V), the cells that each patch reads (U, n, T) and `chunks`.
    """

    def __init__(self, pairs: Pairs, base: torch.Tensor, donor: torch.Tensor, read: torch.Tensor, passes):
        before = pairs.gains(base)
        self.whole = (read * (pairs.gains(donor) - before)).sum(-1)  # donor minus base
        self.gain = torch.zeros_like(self.whole)  # patched minus base; a patch not made has changed nothing
        self.right = (read * pairs.successes(base)).sum(-1)  # cells that answer the donor's token
        self.read = read.sum(-1)
        for u, b, logits in passes:
            cells = read[u, b]
            self.gain[u, b] = (cells * (pairs.gains(logits, b) - before[b])).sum(-1)
            self.right[u, b] = (cells * pairs.successes(logits, b)).sum(-1)

    def rows(self, names: Sequence[dict], W: np.ndarray) -> list[dict]:
        """A row per patch; names (U dicts): its first columns."""
        gain, whole, right, read = (
            x.double().cpu().numpy() for x in (self.gain, self.whole, self.right, self.read))
        rows = []
        for k, name in enumerate(names):
            row = name | spread("recovered", ratio(gain[k], whole[k], W))
            row |= spread("success", ratio(right[k], read[k], W))
            rows.append(row | {"boards": int((read[k] > 0).sum())})
        return rows
