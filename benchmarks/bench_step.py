"""One training step taken apart: where its time goes, the ways of computing it, and torch's own encoder.

    python benchmarks/bench_step.py [--lea]

64 boards at the default sizes, float32. Ways take turns in one process; ratios of medians are what to quote.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from machine import alternate, describe  # noqa: E402

import module_train_probe  # noqa: E402
import module_train_probe_lea  # noqa: E402
from module_dataset import AbstractionDataset  # noqa: E402
from module_transformer_factor import ATTENTIONS, PRODUCTS  # noqa: E402
from parts.training.kernels import compute_by  # noqa: E402
from parts.training.optimizers import make_optimizer  # noqa: E402

HOST_READS = ("aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")


class Encoder(nn.Module):
    """torch.nn.TransformerEncoder of the same depth and widths, positions added to the tokens."""

    def __init__(self, vocab: int, tokens: int, dim: int = 64, heads: int = 2, layers: int = 3):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.tokens, self.places = nn.Embedding(vocab, dim), nn.Parameter(torch.zeros(tokens, dim))
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.head = nn.Linear(dim, vocab, bias=False)

    def forward(self, idx):
        return self.head(self.encoder(self.tokens(idx) + self.places))


def step(net: nn.Module, optim: torch.optim.Optimizer, masked: torch.Tensor, boards: torch.Tensor) -> None:
    optim.zero_grad(set_to_none=True)
    F.cross_entropy(net(masked).flatten(0, 1), boards.flatten()).backward()
    optim.step()


def in_ways(f, network: nn.Module, products: str, attention: str):
    """f with large products and small attention of the network computed in given ways."""
    def run():
        compute_by(network, products, attention)
        f()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lea", action="store_true", help="LEA instead of the factorised transformer")
    args = parser.parse_args()
    print(describe())
    auto = dict(product_way="auto", attention_way="auto")
    if args.lea:
        trainer = module_train_probe_lea.TrainTransformer(
            AbstractionDataset(seed=0, board_types_proba=[0.95, 0.05, 0]), seed=0, loss_rfs_val_start=1.0,
            **auto)
    else:
        trainer = module_train_probe.TrainTransformer(AbstractionDataset(seed=0), seed=0, **auto)
    trainer._train_epoch(0)
    batches = list(trainer._batches(1))[:15]
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for masked, boards in batches:
            trainer.optim.zero_grad(set_to_none=True)
            trainer._loss(masked, boards, 1)[0].backward()
            trainer.optim.step()
    with profile(
        activities=[ProfilerActivity.CPU]
    ) as passes:  # the CPU's fused AdamW reads its own step counts
        for masked, boards in batches:
            trainer._loss(masked, boards, 1)[0].backward()
    host_reads = sum(event.count for event in passes.key_averages() if event.key in HOST_READS)
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print(
        f"\na step by operation, 15 steps profiled: {total / 15e3:.1f} ms a step "
        "(the profiler's own cost included)"
    )
    for event in events[:12]:
        share = 100 * event.self_cpu_time_total / total
        print(f"  {event.key:52}{share:6.1f}%{event.count / 15:8.0f} calls a step")
    print(f"  host reads in the forward and backward passes: {host_reads}")
    epoch = lambda: trainer._train_epoch(1)  # noqa: E731
    ways = {f"{products}, {attention}": in_ways(epoch, trainer.learner.network, products, attention)
            for products in PRODUCTS for attention in ATTENTIONS}
    print(f"\nan epoch; found by auto: {trainer.product_way}, {trainer.attention_way}")
    for name, time in alternate(ways, 7).items():
        print(f"  {name:24}{time:8.3f} s")
    compute_by(trainer.learner.network, trainer.product_way, trainer.attention_way)
    together = make_optimizer(trainer.learner.network, 1e-3, kind="muon").parts[1]
    matrices = together.param_groups[0]["params"]
    alone = torch.optim.Muon(matrices, **together.defaults)
    print(f"\nMuon's step of {len(matrices)} matrices")
    steps = {"those of a shape together": together.step, "torch.optim.Muon": alone.step}
    for name, time in alternate(steps, 41).items():
        print(f"  {name:26}{1e3 * time:6.1f} ms")
    if args.lea:
        return
    masked, boards = next(trainer._batches(0))
    encoder = Encoder(trainer.vocab_size, trainer.block_size)
    ways = {
        "ours": (trainer.transformer, trainer.optim),
        "encoder": (encoder, torch.optim.AdamW(encoder.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)),
    }
    times = alternate({name: lambda way=way: step(*way, masked, boards) for name, way in ways.items()}, 101)
    print(
        f"a step of torch.nn.TransformerEncoder {1e3 * times['encoder']:.1f} ms, "
        f"ours {1e3 * times['ours']:.1f} ms: "
        f"{times['encoder'] / times['ours']:.2f} times faster"
    )


if __name__ == "__main__":
    main()
