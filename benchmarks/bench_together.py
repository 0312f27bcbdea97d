"""Several trainings at once on one machine: seconds an epoch of each, by how torch's threads wait.

    python benchmarks/bench_together.py [--runs 1 2 4] [--seconds 20] [--rounds 2] [--lea] [--csv FILE]

Threads of GNU's OpenMP, which torch uses on Linux, wait for the next operation in a loop. Where there are
more of them than cores, as with two runs at once, they wait on the core that another one needs. Each way is
a process (or several at once) of its own; ways take turns.
"""
from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
WAYS = {
    "torch's own": {},
    "as the scripts set it": {"GOMP_SPINCOUNT": "20000"},  # module_threads.SPINS; importing that would set it
    "GOMP_SPINCOUNT=5000": {"GOMP_SPINCOUNT": "5000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
SET_HERE = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
STEPS = 16  # an epoch


class Over(Exception):
    """The time is up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 2, 4], help="how many at once")
    parser.add_argument("--seconds", type=float, default=20, help="that each way is measured")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--lea", action="store_true", help="LEA instead of the factorised transformer")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--from-to", type=float, nargs=2, help=argparse.SUPPRESS)  # of one of the runs
    args = parser.parse_args()
    if args.from_to:
        print(train_between(*args.from_to, args.lea))
        return
    from machine import describe, save_table

    print(describe())
    found = {(way, count): [] for count in args.runs for way in args.ways}
    for _ in range(args.rounds):
        for way, count in found:
            found[way, count].append(at_once(WAYS[way], count, args.seconds, args.lea))
    rows = []
    for way in args.ways:
        rows.append({"threads wait": way})
        for count in args.runs:
            name = "1 run" if count == 1 else f"{count} runs at once"
            rows[-1][name] = f"{statistics.median(found[way, count]):.3g} s"
        print(*rows[-1].values(), sep="; ")
    if args.csv:
        save_table(args.csv, rows)


def at_once(environment: dict[str, str], count: int, length: float, lea: bool) -> float:
    """Mean seconds an epoch of `count` trainings at once."""
    start = time.time() + 6 + 3 * count  # until then they import and warm up
    own = {name: value for name, value in os.environ.items() if name not in SET_HERE} | environment
    command = [sys.executable, __file__, "--from-to", str(start), str(start + length), *["--lea"] * lea]
    running = [subprocess.Popen(command, env=own, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return statistics.mean(float(run.communicate()[0]) for run in running)


def train_between(start: float, end: float, lea: bool) -> float:
    """Trains from now on; seconds an epoch between two moments."""
    import module_train_probe
    import module_train_probe_lea
    from module_dataset import AbstractionDataset

    trainers = (module_train_probe_lea if lea else module_train_probe).TrainTransformer
    trainer, ends = trainers(AbstractionDataset(seed=0), seed=0, epochs=10**6), []

    def step(*_):
        ends.append(time.time())
        if ends[-1] > end:
            raise Over

    trainer.optim.register_step_post_hook(step)
    try:
        while True:
            trainer._train_epoch(2000)
    except Over:
        inside = [at for at in ends if at >= start]
        return STEPS * (inside[-1] - inside[0]) / (len(inside) - 1)


if __name__ == "__main__":
    main()
