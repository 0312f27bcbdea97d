"""Speed of training: this project's epoch against plain float64 modules, and against its multiply-adds.

    python benchmarks/bench_train.py [--lea] [--rounds 9]

An epoch is 16 steps of 64 boards at the default sizes, with data, masks and statistics. Ways take turns in
one process; ratios of medians are what to quote.
"""
from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from machine import alternate, describe  # noqa: E402
from plain_float64 import NOMINAL_STEP_FLOP, matmul_rate, step_time  # noqa: E402
from plain_lea_float64 import train_step  # noqa: E402

import module_train_probe  # noqa: E402
import module_train_probe_lea  # noqa: E402
from module_dataset import AbstractionDataset  # noqa: E402

STEPS = 16


def train_epoch(trainer: module_train_probe.TrainTransformer, epoch: int) -> None:
    """Trains on one epoch's boards, as `train` does, without tests and files."""
    for masked, boards in trainer.batches(epoch):
        loss, _ = trainer.loss(masked, boards, epoch)
        trainer.optim.zero_grad()
        loss.backward()
        trainer.optim.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lea", action="store_true", help="LEA instead of the factorised transformer")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    print(describe())
    if args.lea:
        trainer = module_train_probe_lea.TrainTransformer(
            AbstractionDataset(seed=0, board_types_proba=[0.95, 0.05, 0]), seed=0, loss_rfs_val_start=1.0
        )
        plain = train_step()
        ways = {"epoch": lambda: train_epoch(trainer, 0), "plain": lambda: [plain() for _ in range(STEPS)]}
        times = alternate(ways, args.rounds)
    else:
        trainer = module_train_probe.TrainTransformer(AbstractionDataset(seed=0), seed=0)
        recipe_end = trainer.masking_patch_epoch  # patches and full masking included
        plain_times, rates = [], []
        ways = {
            "epoch": lambda: train_epoch(trainer, recipe_end),
            "plain": lambda: plain_times.append(step_time(STEPS)),
            "rate": lambda: rates.append(matmul_rate()),
        }
        times = alternate(ways, args.rounds)
        times["plain"] = STEPS * sorted(plain_times)[len(plain_times) // 2]
        rate = sorted(rates)[len(rates) // 2]
        nominal = STEPS * NOMINAL_STEP_FLOP / rate
        print(f"{'nominal multiply-adds at ' + f'{rate / 1e9:.0f} GFLOP/s':44} {nominal:8.3f} s")
        print(f"{'epoch / nominal multiply-adds':44} {times['epoch'] / nominal:8.2f}")
    print(f"{'epoch, float32, everything included':44} {times['epoch']:8.3f} s")
    print(f"{'16 plain float64 steps':44} {times['plain']:8.3f} s")
    print(f"{'plain / epoch':44} {times['plain'] / times['epoch']:8.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory of this process':44} {peak:8.0f} MB")


if __name__ == "__main__":
    main()
