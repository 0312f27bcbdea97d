"""Which of two ways of computing the same thing is the faster one on this processor.

Large products are computed as products or as 1 x 1 convolutions, attention of few cells fused or step by
step. The ways round otherwise, so a run keeps those that it has begun with.

What is timed is the work of one thread, not the time that goes by: what else runs on the same cores then
hardly changes the answer.
"""
from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import nn

from module_transformer_factor import (
    ATTENTIONS,
    CONVOLVE_FROM,
    FUSE_FROM,
    MLP,
    ONEDNN,
    PRODUCTS,
    Attention,
    Noise,
    init_weights,
)
from utils import using_threads

MARGIN = 1.15  # how many times faster a second way must be to be taken
BOARDS, ROUNDS = 16, 3  # of a timing; fewer boards of a large network
MOST = 10**7  # tokens times weights of a square matrix, in a timing
LEAST = 10**6  # the same: attention of a smaller network is over too soon to be timed
clock = time.thread_time  # seconds that this thread has worked


def compute_by(network: nn.Module, products: str, attention: str) -> None:
    """From now on the network computes large products and small attention by these of the PRODUCTS and the
    ATTENTIONS."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.way = products
        elif isinstance(module, Attention):
            module.way = attention


@functools.cache
def faster_ways(
    n_embd: int, width: int, n_head: int, tokens: int, words: int, batch: int
) -> tuple[str, str]:
    """(products, attention): the faster ways for an MLP and for attention of a network in float32 on a CPU,
    measured once a process.

    width: what sub-layers read, n_embd with or without a position code. words: of a sentence that is read
    besides, 0: none. batch: boards in a step. Ways that compute the same at these sizes are not timed.
    """
    convolved = -(-CONVOLVE_FROM // (tokens * width * 4 * n_embd))  # boards of such a product
    boards = min(batch, max(convolved, min(BOARDS, MOST // (tokens * width * n_embd))))
    products, attentions = PRODUCTS[0], ATTENTIONS[0]
    with torch.inference_mode(False), torch.enable_grad(), using_threads(1):
        generator = torch.Generator().manual_seed(0)
        x, z = (torch.randn(boards, length, width, generator=generator) for length in (tokens, words))
        mlp = MLP(width, n_embd, 0.0, Noise(0))
        attention = Attention(width, n_embd, n_head, 0.0, 0.0, Noise(0))
        for module in (mlp, attention):
            init_weights(module, 0)
        if ONEDNN and boards >= convolved:
            products = faster({way: functools.partial(passed, mlp, way, attentions, x) for way in PRODUCTS})
        small = tokens * max(tokens, words) * n_embd // n_head < FUSE_FROM
        if small and boards * tokens * width * n_embd >= LEAST:
            read = (x, z) if words else (x,)
            attentions = faster(
                {way: functools.partial(passed, attention, products, way, x, *read) for way in ATTENTIONS}
            )
    return products, attentions


def passed(module: nn.Module, products: str, attention: str, x: torch.Tensor, *read: torch.Tensor) -> None:
    """A pass forwards and backwards through a module in given ways; one for each of what attention reads."""
    compute_by(module, products, attention)
    outputs = [module(x, None, z) for z in read] or [module(x)]
    torch.cat(outputs, dim=1).sum().backward()


def faster(ways: dict[str, Callable[[], None]]) -> str:
    """The name of the faster of two ways: the first unless the second is so by MARGIN. The shortest time of
    each counts, of ROUNDS in turns after a first go."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, run in ways.items():
            start = clock()
            run()
            times[name].append(clock() - start)
    first, second = (min(found[1:]) for found in times.values())
    return list(ways)[second * MARGIN < first]
