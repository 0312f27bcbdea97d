"""Trains LEA, the language-enhanced architecture, on synthetic boards (arXiv 2312.05361).

    python train_model_lea.py --device cuda                    # a trial run of one epoch
    python train_model_lea.py --epoch 3000 --save 1 --seed 0   # the full recipe, kept in runs/<run_name>/

Every parameter of data set and training is a flag: see --help.
"""
from __future__ import annotations

import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

import sys
from collections.abc import Sequence

import train_model
from module_train_probe_lea import TrainTransformer
from parts.params import FlagParser

DATASET = {"board_types_proba": [0.95, 0.05, 0]}  # the script's own defaults, otherwise DatasetParams'


def make_parser() -> FlagParser:
    """The command line: train_model's, with LEA's parameters."""
    return train_model.make_parser(TrainTransformer, __doc__, DATASET)


def main(argv: Sequence[str] | None = None) -> TrainTransformer:
    """Reads the flags, makes or resumes the trainer, trains, as train_model's does."""
    return train_model.main(argv, TrainTransformer, __doc__, DATASET)


if __name__ == "__main__":
    main()
    sys.exit(0)
