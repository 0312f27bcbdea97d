"""Larger boards and more processes: time, memory, epochs a second.

    python benchmarks/bench_scale.py

Each row in a process of its own, so that peak memory is its own. A step is 16 boards, float32, forward,
backward and optimiser. Processes: gloo, one thread each, epochs of the default recipe.
"""
from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch  # noqa: E402
from machine import describe, seconds  # noqa: E402

from module_dataset import AbstractionDataset  # noqa: E402
from module_train_probe import TrainTransformer  # noqa: E402
from utils import process_group, rank_and_world  # noqa: E402


def peak() -> float:
    """Megabytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def data(board_dim: int) -> str:
    make = lambda: AbstractionDataset(seed=0, board_dim=board_dim)  # noqa: E731
    before = peak()
    ds = make()
    held = peak() - before
    made, drawn = (statistics.median(seconds(f) for _ in range(7)) for f in (make, lambda: ds.sample(1000)))
    with tempfile.TemporaryDirectory() as folder:
        ds.export(Path(folder) / "dataset")
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    rows = sum(len(ds._table(type_, split)) for type_ in range(3) for split in ("train", "val", "test"))
    return f"{board_dim:9}{rows:16,}{1e3 * made:10.2f}{held:10.1f}{1e3 * drawn:14.2f}{size / 1e3:10.1f}"


def step(board_dim: int) -> str:
    before = peak()
    trainer = TrainTransformer(
        AbstractionDataset(seed=0, board_dim=board_dim, dataset_len=16), seed=0, batch_size=16
    )
    trainer._train_epoch(0)
    taken = statistics.median(seconds(lambda: trainer._train_epoch(1)) for _ in range(5))
    tokens = board_dim**2
    return f"{tokens:9}{1e3 * taken:10.1f}{1e6 * taken / (16 * tokens):12.2f}{peak() - before:12.0f}"


def processes() -> str | None:
    with process_group():
        rank, world = rank_and_world()
        trainer = TrainTransformer(AbstractionDataset(seed=0), seed=0)
        masked, boards = next(trainer._batches(0))
        difference = 0.0
        if world > 1:
            alone = TrainTransformer(AbstractionDataset(seed=0), seed=0)
            alone.world = 1
            alone._loss(masked, boards, 0)[0].backward()
            trainer._loss(masked[rank::world], boards[rank::world], 0)[0].backward()
            expected, found = (
                torch.cat([p.grad.flatten() for p in t.transformer.parameters()]) for t in (alone, trainer)
            )
            difference = float((found - expected).norm() / expected.norm())
        trainer._train_epoch(0)
        taken = statistics.median(
            seconds(lambda: trainer._train_epoch(trainer.masking_patch_epoch)) for _ in range(9)
        )
    return f"{world:9}{1 / taken:16.2f}{difference:28.1e}" if rank == 0 else None


def main() -> None:
    if len(sys.argv) > 1:
        made = {"data": data, "step": step, "processes": processes}[sys.argv[1]](*map(int, sys.argv[2:]))
        print(made, flush=True) if made else None
        return

    def row(*args, launcher=(), threads=None):
        environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
        done = subprocess.run(
            [sys.executable, *launcher, __file__, *map(str, args)],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(done.stdout, end="")

    print(describe())
    print(f"\n{'board_dim':>9}{'boards':>16}{'make, ms':>10}{'MB':>10}{'draw 1000, ms':>14}{'file, kB':>10}")
    for board_dim in (8, 16, 32):
        row("data", board_dim)
    print(f"\n{'tokens':>9}{'step, ms':>10}{'us a token':>12}{'peak, MB':>12}")
    for board_dim in (8, 16, 32):
        row("step", board_dim)
    print(f"\n{'processes':>9}{'epochs a second':>16}{'gradient error, relative':>28}")
    for world in (1, 2):
        row("processes", launcher=("-m", "torch.distributed.run", f"--nproc_per_node={world}"), threads=1)
    print(f"(torch {torch.__version__})")


if __name__ == "__main__":
    main()
