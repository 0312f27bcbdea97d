"""LEA's words beside dictionaries: which latents, or words, tell what is on a whole board?

A latent of a board is the largest value of a cell's latent on it; a word at a place of the sentence is a
latent that is on or off. Boards are unmasked, and of types that both runs use.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from module_dataset import Boards
from studies.claims.networks import Speaker, untrained
from studies.claims.runs import proba_of
from studies.claims.scenes import boards_of, held_out, rows_of, types_in_use
from studies.claims.scores import resample
from studies.dictionaries.scoring import LEFT_OUT, f1_of, mean_of, one_hot, read
from studies.dictionaries.sources import Source

CHUNK = 500  # boards whose latents are in memory at once


def same_objects(trainer, lea) -> None:
    """ValueError unless the LEA run shows the same objects and holds out the same boards."""
    ours, theirs = trainer.dataset, lea.dataset
    same = np.array_equal(ours.roots, theirs.roots)
    same &= np.array_equal(ours.compositions, theirs.compositions)
    if not same or any(not np.array_equal(np.asarray(ours.table(type_, "test")),
                                          np.asarray(theirs.table(type_, "test"))) for type_ in range(3)):
        raise ValueError(f"lea must be a run on the boards of {trainer.folder.name} (the same data seed and "
                         f"split), not {lea.folder.name}.")


def board_labels(drawn: Boards, roots: int) -> dict[str, np.ndarray]:
    """{label: (n, C) bool}: roots on a board, its composite, row and column of a single board's object,
    background."""
    alone = drawn.types == 0
    there = np.stack([(drawn.objects[..., 0] == root).any(1) for root in range(roots)], 1)
    return {"root": there, "composite": one_hot(drawn.composites),
            "row": one_hot(np.where(alone, drawn.objects[:, 0, 1], LEFT_OUT)),
            "column": one_hot(np.where(alone, drawn.objects[:, 0, 2], LEFT_OUT)),
            "background": one_hot(drawn.backgrounds)}


def measure(trainer, lea, site: str, sources: list[Source], choose: int, test: int,
            rng: np.random.Generator) -> list[dict]:
    """Lines of F1, by label and source, on held-out boards: of words of a LEA run (None: none), dictionaries
    and controls. choose, test: boards of a type."""
    dataset, types = trainer.dataset, set(types_in_use(trainer.dataset, proba_of(trainer)))
    if lea is not None:
        types &= set(types_in_use(lea.dataset, lea.board_proba(lea.epochs)))
    to_choose = [boards_of(dataset, t, rows_of(dataset, t, "train", choose, rng), rng) for t in sorted(types)]
    drawn = Boards.join(to_choose + [held_out(dataset, t, test, rng) for t in sorted(types)])
    n = choose * len(types)
    latents = {}
    if lea is not None:
        for name, run in (("LEA's words", lea), ("untrained LEA's words", untrained(lea))):
            words = Speaker(run).speak(drawn.boards)
            hot = (words[..., None] == np.arange(words.max() + 1)).reshape(len(words), -1)
            latents[name] = hot[:, hot[:n].any(0)]
    encoders = {f"{source.name}, {source.seed}": source.made.encode for source in sources}
    encoders["neurons"] = lambda x: np.concatenate([x, -x], -1)
    latents |= pooled(trainer, site, drawn, encoders)
    whole = (drawn.tokens[..., None] == np.arange(dataset.vocab_size)).astype(np.float32)
    latents["raw tokens"] = np.concatenate([whole.reshape(len(whole), -1), whole.any(1)], 1)
    labels = {name: Y for name, Y in board_labels(drawn, dataset.params.abs_n).items() if Y.any()}
    W, lines = resample(len(drawn) - n, rng), []
    for name, z in latents.items():
        for label, Y in labels.items():
            use = drawn.types == 0 if label in ("row", "column") else np.ones(len(drawn), bool)
            fit, rest = use & (np.arange(len(use)) < n), np.flatnonzero(use[n:]) + n
            reading = read(z[fit], Y[fit], ("single",))
            score = mean_of(f1_of(reading.predict["single"](z[rest]), Y[rest], rest - n, W))
            lines.append({"source": name, "label": label, "score": score,
                          "cells": "boards" if lea is None else f"boards of {lea.folder.name}"})
    return lines


def pooled(trainer, site: str, drawn: Boards, encoders: dict[str, Callable]) -> dict[str, np.ndarray]:
    """{name: (n, F)} the largest value on a board of each latent that an encoder makes of activations."""
    parts = {name: [] for name in encoders}
    for start in range(0, len(drawn), CHUNK):
        boards = drawn.boards[start : start + CHUNK]
        x = trainer.recorded(boards, np.zeros_like(boards), names=[site])[site]
        for name, encode in encoders.items():
            parts[name].append(encode(x).max(1))
    return {name: np.concatenate(of) for name, of in parts.items()}
