"""Path patching: the complete table of direct effects from each part of the network to each later one."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from module_transformer_factor import project
from parts.probing.evaluation import evaluating
from studies.circuits.stack import Effects, Pairs, Stack


def paths(trainer, base, donor, masks, read=None, bar: Callable = iter) -> list[dict]:
    """Every direct effect of a sender on a receiver: how far the answers move towards the donor's if only
    that receiver gets the donor's contribution of that sender to the residual stream, and the base's of all
    others.

    The receiver's input is recomputed, its LayerNorm included, and its change goes on through all that
    follows it. Senders: 'embedding', heads ('b0h1'), MLPs ('b0 mlp'), and 'all' of them at once, which is
    the donor's input. Receivers: 'b1h0 query', key and value, 'b1 mlp', 'logits'. base, donor, masks, read
    as for `patch`. Returns rows by `sender` and `receiver`, with `recovered` and `success` as there.
    ValueError as there, and for LEA, whose stream has more contributors.
    """
    stack = Stack(trainer)
    if stack.is_lea:
        raise ValueError("trainer must be of the factor network for paths, not of LEA.")
    pairs = Pairs(stack, base, donor, masks, read)
    W, rows = stack.weights_of(*pairs.true.values()), []
    with evaluating(stack.network):
        acts, others = (stack.record(pairs.seen[name], ["b*_*"]) for name in ("base", "donor"))
        for receiver in bar(list(receivers(stack))):
            by_sender = contributions(stack, acts, others, receiver.stream)
            changes = torch.stack(list(by_sender.values()))
            edit = partial(receiving, stack, receiver, acts[receiver.stream], changes)
            cells = pairs.read.expand(len(by_sender), -1, -1)
            everywhere = cells.new_ones(cells.shape[:2])
            passes = stack.chunks(acts, stack.block_of(receiver.place), everywhere, {receiver.place: edit})
            effects = Effects(pairs, acts["logit"], others["logit"], cells, passes)
            rows += effects.rows([{"sender": name, "receiver": receiver.name} for name in by_sender], W)
    return rows


@dataclass(frozen=True)
class Receiver:
    """A part of the network that reads the residual stream."""

    name: str
    kind: str  # query, key, value, mlp or logits
    place: str  # the activation that is recomputed
    stream: str  # the residual stream that is read
    head: int = 0


def receivers(stack: Stack) -> Iterator[Receiver]:
    """All receivers, in the order of the forward pass."""
    before = "start"
    for i in range(len(stack.blocks)):
        for head in range(stack.trainer.n_head):
            for kind, place in (("query", "a"), ("key", "a"), ("value", "v")):
                yield Receiver(f"b{i}h{head} {kind}", kind, f"b{i}_{place}", before, head)
        yield Receiver(f"b{i} mlp", "mlp", f"b{i}_mlp_in", f"b{i}_z_attn")
        before = f"b{i}_z_attn_mlp"
    yield Receiver("logits", "logits", "z_out", before)


def contributions(stack: Stack, base: dict, donor: dict, stream: str) -> dict[str, torch.Tensor]:
    """{sender: (n, T, D), what the donor's run adds to a stream more than the base's}; the last one, 'all',
    is the difference of the streams."""
    deltas = {"embedding": donor["start"] - base["start"]}
    for i, block in enumerate(stack.blocks):
        if stream == "start" or stack.block_of(stream) < i:
            break
        outputs = donor[f"b{i}_attn_v"] - base[f"b{i}_attn_v"]
        H = block.attn.n_head
        weights = block.attn.proj.weight.chunk(H, 1)  # the columns that project each head's output
        for head, (output, weight) in enumerate(zip(outputs.chunk(H, -1), weights, strict=True)):
            deltas[f"b{i}h{head}"] = output @ weight.T
        if stream != f"b{i}_z_attn":
            deltas[f"b{i} mlp"] = donor[f"b{i}_mlp_update"] - base[f"b{i}_mlp_update"]
    return deltas | {"all": donor[stream] - base[stream]}


def receiving(stack: Stack, receiver: Receiver, stream: torch.Tensor, deltas: torch.Tensor,
              x: torch.Tensor, u: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """An edit for `chunks`: the activation x of a receiver that reads the stream (n, T, D) plus one of deltas
    (senders, n, T, D)."""
    read = stream[b] + deltas[u, b]
    if receiver.kind == "logits":
        return stack.network.ln_f(read)
    block, p = stack.blocks[stack.block_of(receiver.place)], stack.network.pos_emb[0]
    if receiver.kind == "mlp":
        return block.ln2(read)
    attn, head = block.attn, receiver.head

    def projected(kind: str) -> torch.Tensor:
        """The head's queries, keys or values (M, T, d), of the changed stream if they are what receives."""
        z = block.ln1(read if kind == receiver.kind else stream[b])
        return project([getattr(attn, kind)], z, p).chunk(attn.n_head, -1)[head]

    out = x.clone()
    if receiver.kind == "value":
        out.chunk(attn.n_head, -1)[head].copy_(projected("value"))
    else:
        out[:, head] = attn.weights(projected("query")[:, None], projected("key")[:, None])[:, 0]
    return out
