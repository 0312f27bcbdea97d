"""What data sets cost: making, drawing, masking, files.

    python benchmarks/bench_data.py

Times are medians of 7 calls after a warm-up, wall clock; memory is what Python and numpy allocate at most in
one call.
"""
from __future__ import annotations

import sys
import tempfile
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from machine import alternate, describe  # noqa: E402

from module_dataset import AbstractionDataset  # noqa: E402


def peak_memory(f) -> float:
    """Megabytes that f allocates at most."""
    tracemalloc.start()
    f()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    print(describe())
    ds, loaded = AbstractionDataset(seed=0), AbstractionDataset(seed=1)

    def draw_and_mask():
        drawn = ds.sample(1000)
        ds.mask(drawn.boards, 0.25, 0.5, drawn.types, drawn.corners)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset"
        ways = {
            "make the default data set": lambda: AbstractionDataset(seed=0),
            "make, board_dim 16": lambda: AbstractionDataset(seed=0, board_dim=16),
            "make, board_dim 32": lambda: AbstractionDataset(seed=0, board_dim=32),
            "make, stringent": lambda: AbstractionDataset(seed=0, split_method="stringent", card_val=1),
            "make, stringent, board_dim 32": lambda: AbstractionDataset(
                seed=0, split_method="stringent", board_dim=32
            ),
            "make, fraction 0.1 and 0.25": lambda: AbstractionDataset(
                seed=0, split_method="fraction", card_val=0.1, card_test=0.25
            ),
            "export": lambda: ds.export(path),
            "load": lambda: loaded.load(path),
            "draw and mask 1,000 training boards": draw_and_mask,
            "draw a single item": lambda: ds[0],
            "get_all_boards('train', 90000): 93,740 boards": lambda: ds.get_all_boards("train", 90_000),
        }
        times = alternate(ways, 7)
        print(f"\n{'':48}{'ms':>10}{'peak MB':>10}")
        for name, f in ways.items():
            print(f"{name:48}{1000 * times[name]:10.2f}{peak_memory(f):10.2f}")
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        print(
            f"\nsize of the default export: {size / 1000:.1f} kB in {len(list(Path(folder).iterdir()))} files"
        )


if __name__ == "__main__":
    main()
