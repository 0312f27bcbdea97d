"""python -m studies.explorer RUN [RUN ...] [--lea RUN] [--out FILE]: one HTML file that works offline."""
from __future__ import annotations

import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

import argparse
import sys

from parts.files import atomic_write
from studies.explorer import open_run, page, run_data


def main(argv: list[str] | None = None) -> int:
    """Writes the page; 2, with one sentence on stderr, if a run cannot be opened."""
    parser = argparse.ArgumentParser(prog="python -m studies.explorer", description=__doc__)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="run folders, or checkpoints in one; the first is shown first")
    add("--lea", action="append", default=[], metavar="RUN", help="a run of LEA, for its words")
    add("--out", default="explorer.html", metavar="FILE", help="the file (default: explorer.html)")
    args = parser.parse_args(argv)
    try:
        paths = args.runs + args.lea
        trainers, names = zip(*map(open_run, paths), strict=True)
        if len(set(names)) < len(names):
            raise ValueError(f"runs must have different names, not {', '.join(names)}.")
        text = page([run_data(*run) for run in zip(trainers, names, paths, strict=True)])
        with atomic_write(args.out) as file:
            file.write(text.encode())
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {len(text.encode()) / 1e6:.2f} MB, {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
