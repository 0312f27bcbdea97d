"""Patched passes of a network, many at once, and what they do to its answers.

A patch replaces some numbers of one place, a cell's, a head's or all, by a donor's. Boards are repeated along
the batch, each with its own patch, so that there is no loop over patches.

Axis letters: n boards, T cells, H heads, D width, V tokens, U patches, M boards in a forward pass.
"""
from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

import module_train_probe
import utils
from module_transformer_lea import LEA
from parts.probing.sites import editing, recording
from studies.claims.scores import ratio, resample, spread

ENTERING = "entering"  # names an edit of what the first block of a pass reads
CIRCUITS = 9  # the stream of a run's seed that circuits draw from
AT_ONCE = 128  # boards in a forward pass


class Stack:
    """A trainer's network as blocks over one residual stream, which a pass may enter at any of them.

    streams: the places of the residual stream after each block. LEA's inference network reads the blank
    sentence.
    """

    def __init__(self, trainer: module_train_probe.TrainTransformer):
        self.trainer, self.network = trainer, trainer.transformer
        self.is_lea = isinstance(self.network, LEA)
        self.blocks = self.network.ps_blocks if self.is_lea else self.network.blocks
        self.streams = [f"b{i}_{'out' if self.is_lea else 'z_attn_mlp'}" for i in range(len(self.blocks))]

    def start(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the first block reads, (n, T, D), of masked boards (n, T)."""
        if not self.is_lea:
            return self.network.tok_emb(tokens)
        return self.network._place(self.network.ps_token_embedding(tokens), self.network.ps_pos_emb.weight)[0]

    def run(self, x: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Logits (n, T, V) of the residual stream x (n, T, D) that the block `first` reads."""
        net = self.network
        if not self.is_lea:
            for block in self.blocks[first:]:
                x = block(x, net.pos_emb[0])
            return net.out_sites["logit"](net.head(net.out_sites["z_out"](net.ln_f(x))))
        p = net._place(x, net.ps_pos_emb.weight)[1]
        blank = net._place(net._blank().expand(len(x), -1, -1), net.ss_pos_emb.weight)
        for block in self.blocks[first:]:
            x = block(x, p, *blank)
        return net.out_sites["logit"](net.ps_head(net.out_sites["z_out"](net.ps_ln_out(x))))

    def read_out(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, T, V) were the stream x (n, T, D) the last one; no place is visited."""
        net = self.network
        return net.ps_head(net.ps_ln_out(x)) if self.is_lea else net.head(net.ln_f(x))

    def block_of(self, place: str) -> int:
        """The number of the block that a place is in; the number of blocks for what follows them."""
        return int(place[1 : place.index("_")]) if place.startswith("b") else len(self.blocks)

    def record(self, tokens: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """{name: activations, boards first} of masked boards (n, T), the residual stream's and logits always:
        'start', `streams` and 'logit'."""
        with recording(self.network, [*names, *self.streams, "logit"]) as acts:
            starts = [self.start(part) for part in tokens.split(AT_ONCE)]
            for start in starts:
                self.run(start)
        return acts | {"start": torch.cat(starts)}

    def entering(self, acts: dict[str, torch.Tensor], first: int) -> torch.Tensor:
        """What the block `first` reads in recorded activations, (n, T, D)."""
        return acts[self.streams[first - 1]] if first else acts["start"]

    def cellwise(self, place: str) -> bool:
        """Whether from a place to the end of its block each cell is by itself: attention has been paid."""
        block, _, stage = place.partition("_")
        return block[:1] == "b" and stage != "z" and stage in self.trainer.stages

    def leaving(self, acts: dict[str, torch.Tensor], place: str, act: torch.Tensor) -> torch.Tensor:
        """What the block of a place writes, (n, T, D), if there it has `act` and before that what was
        recorded."""
        block = self.block_of(place)
        x, act = self.entering(acts, block).split(AT_ONCE), act.split(AT_ONCE)
        written = []
        for part, instead in zip(x, act, strict=True):
            made = {place: lambda _, instead=instead: instead}
            with editing(self.network, made), recording(self.network, [self.streams[block]]) as after:
                self.run(part, block)
            written.append(after[self.streams[block]])
        return torch.cat(written)

    def places(self, names: str | Sequence[str]) -> list[str]:
        """The places of names or patterns ('b0_*'), in the order of the forward pass; ValueError for one that
        matches none, or only those of LEA's speech."""
        known = [name for name in self.network.sites if not name.startswith("ss_")]
        found = []
        for pattern in [names] if isinstance(names, str) else names:
            matching = fnmatch.filter(known, pattern)
            if not matching:
                there = ", ".join(sorted(known))
                raise ValueError(f"names: {pattern!r} matches no place; there are {there}.")
            found += matching
        return sorted(dict.fromkeys(found), key=lambda name: (self.block_of(name), known.index(name)))

    def n_head(self, place: str) -> int:
        """Of how many heads a place consists; ValueError where it has none."""
        if not self.network.sites[place].n_head:
            raise ValueError(f"names: {place!r} has no heads; places named ..._a, ..._v and ..._attn_v have.")
        return self.network.sites[place].n_head


def chunks(stack: Stack, acts: dict[str, torch.Tensor], first: int, wanted: torch.Tensor,
           edits: dict[str, Callable]) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Patched passes from the block `first` on, many at once: (patch (M,), board (M,), logits (M, T, V)).

    acts: recorded activations of the unpatched boards; wanted (U, n): which patch to make on which board;
    edits: {place: function of (activation, patch (M,), board (M,)) that returns the patched activation}, of
    the place ENTERING for what the block `first` reads.
    """
    x = stack.entering(acts, first)
    for pairs in wanted.nonzero().split(AT_ONCE):
        u, b = pairs.T
        made = {place: partial(edit, u=u, b=b) for place, edit in edits.items()}
        entering = made.pop(ENTERING, lambda x: x)
        with editing(stack.network, made):
            yield u, b, stack.run(entering(x[b]), first)


def replacing(units: torch.Tensor, values: torch.Tensor) -> Callable:
    """An edit for `chunks`: values (n, ...) where units (U, ...) is true, which spreads over an
    activation."""
    def edit(x, u, b):
        return torch.where(units[u], values[b], x)

    return edit


def units_of(stack: Stack, place: str, by: str, act: torch.Tensor) -> torch.Tensor:
    """Which numbers of an activation (n, T, D) or (n, H, T, keys) each patch takes: bool (U, T, D) or
    (U, H, T, keys), or such that it spreads over that. ValueError where a place has no heads or no cells."""
    T, weights = act.shape[-2], act.ndim == 4
    if by == "all":
        return torch.ones((1,) * act.ndim, dtype=torch.bool, device=act.device)
    if by == "cell":
        if T != stack.trainer.block_size:
            raise ValueError(f"names: {place!r} is about words, not cells, so by must not be 'cell'.")
        cells = torch.eye(T, dtype=torch.bool, device=act.device)[:, :, None]
        return cells[:, None] if weights else cells
    H = stack.n_head(place)
    heads = torch.eye(H, dtype=torch.bool, device=act.device)
    return heads[:, :, None, None] if weights else heads.repeat_interleave(act.shape[-1] // H, 1)[:, None]


def differing(base: torch.Tensor, other: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """(U, n) whether a unit of two activations differs in any number; if not, a patch changes nothing."""
    differ = (base != other).flatten(1).float()
    return units.expand(len(units), *base.shape[1:]).flatten(1).float() @ differ.T > 0


def cells_to_read(trainer, read, count: int) -> np.ndarray:
    """Cells to read of count boards, (count, h, w) or (h, w), as (count or 1, h, w) bool. ValueError for
    other shapes or values."""
    cells = trainer._given(read, names=("masks",))[0] > 0
    if len(cells) not in (1, count):
        raise ValueError(f"read must be for 1 or {count} boards, not {len(cells)}.")
    return cells


@dataclass
class Pairs:
    """Base and donor boards (n, T) as tensors: what the network sees, what is true, what is read."""

    seen: dict[str, torch.Tensor]  # base, donor: with hidden cells as UNK
    true: dict[str, torch.Tensor]
    read: torch.Tensor  # (n, T) bool
    by_default: bool  # whether `read` is the default, from which patched cells are left out

    @classmethod
    def of(cls, trainer, base, donor, masks, read=None) -> Pairs:
        """Of boards (n, h, w), masks (n, h, w) and cells to read (n, h, w) or (h, w); None: hidden cells
        where the boards differ. ValueError for other shapes or values, and where there is no cell to read."""
        base, masks = trainer._given(base, masks, names=("boards", "masks"))
        donor = trainer._given(donor, names=("boards",))[0]
        if donor.shape != base.shape:
            raise ValueError(f"donor must have the shape of base, {base.shape}, not {donor.shape}.")
        if (base == donor).all():
            raise ValueError("base and donor must differ, they are the same boards.")
        cells = (masks > 0) & (base != donor)
        if read is not None:
            cells = cells_to_read(trainer, read, len(base)) & (base != donor)
        if not cells.any():
            raise ValueError("read must hold a cell where base and donor differ (by default a hidden one), "
                             "not none.")
        hidden = [np.where(masks, trainer.masking_token, boards) for boards in (base, donor)]
        base, donor, base_seen, donor_seen = map(trainer._tokens, (base, donor, *hidden))
        read_cells = trainer._tokens(cells.astype(np.int64)).bool()
        return cls({"base": base_seen, "donor": donor_seen}, {"base": base, "donor": donor}, read_cells,
                   read is None)

    def gains(self, logits: torch.Tensor, b: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """(M, T) the donor's logit minus the base's, in logits (M, T, V) of the boards b (M,)."""
        of = [logits.gather(-1, self.true[who][b][..., None])[..., 0] for who in ("donor", "base")]
        return of[0] - of[1]

    def successes(self, logits: torch.Tensor, b: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """(M, T) whether logits (M, T, V) of the boards b (M,) answer the donor's token."""
        return (logits.argmax(-1) == self.true["donor"][b]).to(logits.dtype)

    def weights(self, trainer) -> np.ndarray:
        """(draws + 1, n) bootstrap weights of the boards, those of equal base and donor drawn together."""
        boards = torch.cat([self.true["base"], self.true["donor"]], 1).cpu().numpy()
        return resample(boards, utils.numpy_rng(trainer.seed, CIRCUITS))


@dataclass
class Effects:
    """Sums over the cells read of each patch and board, (U, n): what `rows_of` makes shares of."""

    gain: torch.Tensor  # patched minus base
    whole: torch.Tensor  # donor minus base
    right: torch.Tensor  # cells that answer the donor's token
    read: torch.Tensor  # cells

    @classmethod
    def of(cls, pairs: Pairs, base: torch.Tensor, donor: torch.Tensor, read: torch.Tensor, passes) -> Effects:
        """Of logits of base and donor (n, T, V), cells that each patch reads (U, n, T) and `chunks`."""
        before = pairs.gains(base)
        whole = (read * (pairs.gains(donor) - before)).sum(-1)
        found = cls(torch.zeros_like(whole), whole, (read * pairs.successes(base)).sum(-1), read.sum(-1))
        for u, b, logits in passes:
            cells = read[u, b]
            found.gain[u, b] = (cells * (pairs.gains(logits, b) - before[b])).sum(-1)
            found.right[u, b] = (cells * pairs.successes(logits, b)).sum(-1)
        return found

    def rows(self, names: Sequence[dict], W: np.ndarray) -> list[dict]:
        """A row of each patch, after what names (U dicts) say of it."""
        gain, whole, right, read = (x.double().cpu().numpy() for x in vars(self).values())
        rows = []
        for k, name in enumerate(names):
            row = name | spread("recovered", ratio(gain[k], whole[k], W))
            row |= spread("success", ratio(right[k], read[k], W))
            rows.append(row | {"boards": int((read[k] > 0).sum())})
        return rows
