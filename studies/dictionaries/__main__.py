"""Dictionaries against the truth: sparse autoencoders on a trained network whose features are known.

    python -m studies.dictionaries runs/<run> [--site b1_z_attn_mlp] [--kind topk ...] [--lea runs/<lea> ...]

writes runs/<run>/analysis/dictionaries/: table.csv, report.md, pictures, and the trained dictionaries as
folders that SAELens reads. docs/dictionaries.md says what is measured, and by which rules it is judged.
"""
from __future__ import annotations

import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

import argparse

from parts.probing.panels import own_style
from studies.claims.runs import command
from studies.dictionaries.study import FULL, QUICK, run_all
from studies.dictionaries.training import KINDS


def main() -> None:
    """The command line: prints the report's path."""
    parser = argparse.ArgumentParser(prog="studies.dictionaries", description=__doc__.split("\n\n")[0],
                                     allow_abbrev=False)
    parser.add_argument("run", help="a run folder of the factor network")
    parser.add_argument("--lea", nargs="+", default=[], help="run folders of LEA on the same boards")
    parser.add_argument("--site", default="b1_z_attn_mlp", help="the activation (default: b1_z_attn_mlp)")
    parser.add_argument("--kind", nargs="+", default=["topk"], choices=KINDS, help="kinds of dictionary; the "
                        "first is judged (default: topk)")
    parser.add_argument("--width", type=int, default=256, help="latents of a dictionary (default: 256)")
    parser.add_argument("--k", type=int, default=8, help="latents on in a cell (default: 8)")
    parser.add_argument("--seeds", type=int, default=3, help="dictionaries of each kind (default: 3)")
    parser.add_argument("--quick", action="store_true", help="measure fewer boards; not to be quoted")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, mps or auto (default: auto)")
    flags = parser.parse_args()
    with command(parser), own_style():
        size = QUICK if flags.quick else FULL
        print(run_all(flags.run, flags.lea, flags.site, flags.kind, flags.width, flags.k, flags.seeds, size,
                      flags.device) / "report.md")


if __name__ == "__main__":
    main()
