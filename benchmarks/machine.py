"""What every benchmark prints first, and how they time."""
from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from parts.files import save_table  # noqa: E402


def describe() -> str:
    """Machine, versions and threads, a line."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next(
                (line.split(":")[1].strip() for line in file if line.startswith("model name")), model
            )
    return (
        f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads; "
        f"Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {np.__version__}; no GPU used"
    )


def measure_runs(runs: Iterable[Path], csv: Path | None, rows_of: Callable[[Path], Iterable[dict]]) -> None:
    """Says what the machine is and measures run folders; writes the rows of all to csv, where it is given."""
    print(describe())
    rows = [row for folder in runs for row in rows_of(folder)]
    if csv:
        save_table(csv, rows)


def seconds(f: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def alternate(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, after a warm-up, taking turns so that a slow spell of the machine meets all
    alike."""
    times = {name: [] for name in ways}
    for f in ways.values():
        f()
    for _ in range(rounds):
        for name, f in ways.items():
            times[name].append(seconds(f))
    return {name: statistics.median(found) for name, found in times.items()}
