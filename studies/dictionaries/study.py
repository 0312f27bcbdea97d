"""The study of one run: dictionaries trained, and scored with their controls."""
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import utils
from parts.checks import check_sizes
from studies.claims.networks import untrained
from studies.claims.runs import bars, boards_note, folder_for, open_run, proba_of
from studies.claims.scenes import types_in_use
from studies.claims.scores import resample
from studies.dictionaries import effects, language, report
from studies.dictionaries.cells import CHOOSE, FIT, FRESH, TEST, Cells, cells_of
from studies.dictionaries.scoring import (
    LEFT_OUT,
    Reading,
    absorption,
    f1_of,
    mean_of,
    one_hot,
    read,
    recall_of,
)
from studies.dictionaries.sources import (
    Source,
    matching,
    of_dictionary,
    stability,
    with_labels,
    without_labels,
)
from studies.dictionaries.training import STEPS, train_dictionary

DICTIONARIES = 12  # the stream of a run's seed that the measurements draw from
CHOOSE_CELLS = 20_000  # cells to choose by, at most
ALSO_CLAMPED, CLAMPED = "b0_z_attn_mlp", ("root", "root x place")  # a second site; labels
UNTRAINED, FROZEN, ALWAYS = "untrained network", "frozen decoder", "always on"


@dataclass(frozen=True)
class Size:
    """How much is measured; boards are per type."""

    fit: int  # boards to train dictionaries on
    choose: int  # boards to choose latents by
    test: int  # boards to report
    masks: int  # of each of these
    swaps: int  # boards on which latents are clamped
    words: int  # boards to choose words by
    steps: int  # of training a dictionary


FULL = Size(fit=1200, choose=500, test=100, masks=2, swaps=200, words=1500, steps=STEPS)
QUICK = Size(fit=120, choose=60, test=15, masks=1, swaps=20, words=100, steps=200)


class Judge:
    """The hidden or the visible cells, split as the scores need them."""

    def __init__(self, cells: Cells, hidden: bool, W: dict[int, np.ndarray], rng: np.random.Generator):
        self.cells, self.hidden = cells, hidden
        every = np.flatnonzero(cells.of(CHOOSE, hidden))
        self.choose = np.zeros_like(cells.hidden)
        self.choose.flat[rng.choice(every, min(len(every), CHOOSE_CELLS), replace=False)] = True
        test, off = cells.of(TEST, hidden), cells.labels["object"] < 0
        self.shown = {"held out": (test, W[TEST]), "train": (cells.of(FRESH, hidden), W[FRESH])}
        if (test & cells.new).any():
            self.shown |= {"new positions": (test & (cells.new | off), W[TEST]),
                           "seen positions": (test & ~cells.new, W[TEST])}

    def read(self, z: np.ndarray, label: str, measures: Sequence[str]) -> Reading:
        """What tells a label from latents (N, F) of the cells to choose by."""
        every = self.cells.labels[label]
        counts = every[self.choose] != LEFT_OUT
        return read(z[counts], one_hot(every[self.choose], every.max() + 1)[counts], measures)

    def lines(self, source: Source) -> tuple[list[dict], dict[str, Reading]]:
        """Scores of a source by label, measure and boards; and what was chosen for each label."""
        z, lines, readings = source.of(self.choose), [], {}
        shown = {which: (where, source.of(where), W) for which, (where, W) in self.shown.items()}
        for label, every in self.cells.labels.items():
            fine = label == "root x place"  # has no children to be split over
            measures = [m for m in source.measures if not (fine and m.startswith("best "))]
            reading = readings[label] = self.read(z, label, measures)
            for which, (where, latents, W) in shown.items():
                known = every[where] != LEFT_OUT
                Y = one_hot(every[where], every.max() + 1)[known]
                boards = self.cells.board[np.nonzero(where)[0]][known]
                for measure in measures:
                    scores = f1_of(reading.predict[measure](latents[known]), Y, boards, W)
                    lines.append(self._line(source.name, source.seed, label, which, measure, scores)
                                 | {"judged": float(known.mean())})
                scores = recall_of(reading.predict["single"](latents[known]), Y, boards, W)
                lines.append(self._line(source.name, source.seed, label, which, "recall", scores))
                if source.name == "raw tokens":
                    scores = f1_of(np.ones_like(Y), Y, boards, W)
                    lines.append(self._line(ALWAYS, 0, label, which, "single", scores))
        return lines, readings

    def _line(self, source: str, seed: int, label: str, which: str, measure: str, scores) -> dict:
        return {"source": source, "seed": seed, "cells": "hidden" if self.hidden else "visible",
                "label": label, "boards": which, "measure": measure, "score": mean_of(scores)}


def run_all(run: str | Path, leas: Sequence[str | Path] = (), site: str = "b1_z_attn_mlp",
            kinds: Sequence[str] = ("topk",), width: int = 256, k: int = 8, seeds: int = 3, size: Size = FULL,
            device: str = "auto") -> Path:
    """Measures a factor run and writes <run>/analysis/dictionaries/, with QUICK .../quick/; returns the
    folder. leas: LEA runs on the same boards. ValueError names what is wrong, before anything is measured."""
    start, inside = time.process_time(), "dictionaries/quick" if size is QUICK else "dictionaries"
    check_sizes(width=width, k=k, seeds=seeds)
    if width < k:
        raise ValueError(f"width must be at least k = {k}, not {width}.")
    for lea in leas or [None]:
        folder = folder_for([run], lea, inside)
    trainer, speakers, bar = open_run(run, device), [open_run(lea, device) for lea in leas], bars(run)
    for speaker in speakers:
        language.same_objects(trainer, speaker)
    note, dataset, rng = boards_note(trainer), trainer.dataset, utils.numpy_rng(trainer.seed, DICTIONARIES)
    types = types_in_use(dataset, proba_of(trainer))
    cells = cells_of(trainer, rng, size.fit, size.choose, size.test, size.masks, bar("labels"))
    acts = recorded(trainer, cells, site)
    tokens = np.where(cells.hidden, trainer.masking_token, cells.drawn.tokens)
    fresh = recorded(untrained(trainer), cells, site)

    def trained(name: str, x: np.ndarray, kind: str = kinds[0]) -> list[Source]:
        """Dictionaries of activations (n, T, D), one of each seed."""
        rows, of = x[cells.part == FIT].reshape(-1, x.shape[-1]), []
        for seed in range(seeds):
            made = train_dictionary(rows, kind, width, k, seed, size.steps, name == FROZEN,
                                    bar(f"{name} {seed}"))
            made.save(folder / f"{name.replace(' ', '_')}_{seed}")
            of.append(of_dictionary(name, made, x, seed))
        return of

    own = trained(kinds[0], acts)
    others = [source for kind in kinds[1:] for source in trained(kind, acts, kind)]
    sources = [*own, *others, *trained(UNTRAINED, fresh), *trained(FROZEN, acts)]
    W = {part: resample(cells.board[cells.part == part].max() + 1, rng) for part in (FRESH, TEST)}
    boards = cells.board[cells.part == TEST]
    lines, facts, causal, pictures = [], [], [], None
    of_run = [source for source in sources if source.name != UNTRAINED]
    kept = effects.put_in(trainer, site, cells, acts, of_run, W[TEST], boards)
    for source in sources:
        x = source.acts[cells.part == TEST]
        facts.append({"source": source.name, "seed": source.seed, "cells": "all"}
                     | source.made.quality(x.reshape(-1, x.shape[-1]))
                     | (kept[of_run.index(source)] if source in of_run else {}))
    facts.append({"source": kinds[0], "seed": "pairs", "cells": "all", "stability": stability(own)})
    for hidden in (True, False):
        judge = Judge(cells, hidden, W, rng)
        controls = [*without_labels(cells, acts, tokens, dataset.vocab_size, width, rng),
                    *with_labels(cells, acts, tokens, dataset.vocab_size, hidden, rng)]
        for source in bar("hidden cells" if hidden else "visible cells")([*sources, *controls]):
            more, readings = judge.lines(source)
            lines += more
            if source.directions is None:
                continue
            about = {"source": source.name, "seed": source.seed, "cells": more[0]["cells"]}
            for label in CLAMPED:
                found = matching(source, cells.labels[label], cells.of(FIT, hidden), rng)
                facts.append(about | {"label": label} | found)
            test = cells.of(TEST, hidden)
            facts.append(about | absorption(source.of(test), readings,
                                            {name: v[test] for name, v in cells.labels.items()}))
            if source is own[0] and hidden:
                pictures = report.Pictures(trainer, cells, source, readings)
    for at in dict.fromkeys((site, ALSO_CLAMPED)):
        for source in own if at == site else trained(f"{kinds[0]} {at}", recorded(trainer, cells, at)):
            readings = {label: judge.read(source.of(judge.choose), label, ["single"]) for label in CLAMPED}
            causal += effects.clamp(trainer, at, types, source, readings, cells,
                                    utils.numpy_rng(trainer.seed, DICTIONARIES, 1), size.swaps)
    of_boards = [line for speaker in speakers or [None] for line in
                 language.measure(trainer, speaker, site, own, size.words, 2 * size.test, rng)]
    report.write(folder, Path(run).name, kinds[0], lines, facts, causal, of_boards, pictures, note,
                 time.process_time() - start, size is QUICK)
    return folder


def recorded(trainer, cells: Cells, site: str) -> np.ndarray:
    """The site's activations (n, T, D). ValueError for an unknown site, or one that is not of cells."""
    boards = cells.drawn.boards
    x = trainer.recorded(boards, cells.hidden.reshape(boards.shape), names=[site])[site]
    if x.shape[:2] != cells.hidden.shape or x.ndim != 3:
        raise ValueError(f"site must be an activation of cells, (boards, {cells.hidden.shape[1]}, D), not "
                         f"{site} of shape {x.shape}.")
    return x
