"""Dictionaries against the truth: sparse autoencoders on a trained network whose features are known.

    python -m studies.dictionaries runs/<run> [--site b1_z_attn_mlp] [--kind topk ...] [--lea runs/<lea_run>]

writes runs/<run>/analysis/dictionaries/: table.csv, report.md, pictures, and the trained dictionaries as
folders that SAELens reads. docs/dictionaries.md says what is measured, and by which rules it is judged.
"""
from __future__ import annotations

import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import utils
from parts.checks import check_choice, check_sizes
from studies.claims.networks import untrained
from studies.claims.runs import bars, boards_note, command, folder_for, open_run, proba_of
from studies.claims.scenes import types_in_use
from studies.claims.scores import resample
from studies.dictionaries import effects, language, report
from studies.dictionaries.cells import CHOOSE, FIT, FRESH, TEST, Cells, cells_of
from studies.dictionaries.scoring import (
    LEFT_OUT,
    absorption,
    f1_of,
    one_hot,
    read,
)
from studies.dictionaries.sources import Source, dictionary, matching, stability, with_labels, without_labels
from studies.dictionaries.training import KINDS, STEPS, train_dictionary

DICTIONARIES = 12  # the stream of a run's seed that the measurements draw from
CHOOSE_CELLS = 20_000  # cells to choose by, at most
KIND_OF_CELLS = {True: "hidden", False: "visible"}


@dataclass(frozen=True)
class Size:
    """How much is measured, per board type."""

    fit: int = 1200  # boards to train dictionaries on
    choose: int = 500  # boards to choose latents by
    test: int = 100  # boards to report
    masks: int = 2  # of each of these
    swaps: int = 100  # boards on which latents are clamped
    words: int = 1500  # boards to choose words by
    steps: int = STEPS


QUICK = Size(fit=120, choose=60, test=15, masks=1, swaps=20, words=100, steps=200)


@dataclass
class Judge:
    """The cells of one kind (hidden or visible), split as the scores need them."""

    cells: Cells
    hidden: bool
    choose: np.ndarray  # (n, T) to choose by
    report: dict[str, np.ndarray]  # {which: (n, T)}
    board: np.ndarray  # (n,) number of a board among those of its part

    @classmethod
    def of(cls, cells: Cells, hidden: bool, rng: np.random.Generator) -> Judge:
        """The judge of hidden or visible cells. New positions are judged apart if there are any."""
        choose = np.zeros_like(cells.hidden)
        every = np.flatnonzero(cells.of(CHOOSE, hidden))
        choose.flat[rng.choice(every, min(len(every), CHOOSE_CELLS), replace=False)] = True
        test, off = cells.of(TEST, hidden), cells.labels["object"] < 0
        shown = {"held out": test, "train": cells.of(FRESH, hidden)}
        if (test & cells.new).any():
            shown |= {"new positions": test & (cells.new | off), "seen positions": test & ~cells.new}
        board = np.zeros(len(cells.part), int)
        for part in (FRESH, TEST):
            here = cells.part == part
            board[here] = np.unique(cells.drawn.tokens[here], axis=0, return_inverse=True)[1].ravel()
        return cls(cells, hidden, choose, shown, board)

    def lines(self, source: Source, W: dict[int, np.ndarray]) -> tuple[list[dict], dict]:
        """Scores of a source by label, measure and boards; and {label: reading}."""
        z = source.of(self.choose)
        of = {which: (where, source.of(where)) for which, where in self.report.items()}
        lines, readings, own = [], {}, 0
        for label, every in self.cells.labels.items():
            values = every[self.choose]
            C = every.max() + 1
            counts, Y = values != LEFT_OUT, one_hot(values, C)
            few = [m for m in source.measures if label != "root x place" or not m.startswith("best ")]
            reading = readings[label] = read(z[counts], Y[counts], few)
            for which, (where, latents) in of.items():
                known = every[where] != LEFT_OUT
                truth, boards = one_hot(every[where], C)[known], self.board[np.nonzero(where)[0]][known]
                weights = W[FRESH if which == "train" else TEST]
                always = f1_of(np.ones_like(truth), truth, boards, weights)
                for measure, predict in {**reading.predict, "always on": None}.items():
                    if predict is None and (source.name != "raw tokens"):
                        continue
                    scores = always if predict is None else f1_of(predict(latents[known]), truth, boards, weights)
                    lines.append({"source": "always on" if predict is None else source.name,
                                  "seed": source.seed, "cells": KIND_OF_CELLS[self.hidden], "label": label,
                                  "boards": which, "measure": "single" if predict is None else measure,
                                  "scores": scores, "judged": float(known.mean())})
            own += C
        return lines, readings
