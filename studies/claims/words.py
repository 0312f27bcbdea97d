"""Claim: LEA's language speaks of the abstractions.

Question: do the words of a sentence tell what is on the board that it encodes?
Measure: skill of a linear (ridge) read-out of each feature of an unmasked held-out board from all words of
the board's sentence. Fits grow until they no longer help (`readouts`).
Controls: the majority class; the words of an untrained network; the run's own sentences for other boards.
Row: a feature; the roots count together. Besides, and not counted: how often boards are rebuilt from their
sentences.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from module_dataset import TYPES, AbstractionDataset, Boards
from studies.claims.networks import Speaker
from studies.claims.readouts import Task, readouts
from studies.claims.sample import Parts, boards_in_parts
from studies.claims.scores import DRAWS, Row, Table, mean, ratio, resample
from studies.claims.statistics import several

TABLE = Table("words", "LEA's language speaks of them", "skill of a linear read-out from the words")


@dataclass
class Speech(Parts):
    """Boards and the sentences that encode them."""

    boards: Boards  # all of them
    sentences: dict[str, np.ndarray]  # {'words' or control: (n, S)}
    W: np.ndarray  # (R + 1, test boards)


def measure(speaker: Speaker, speech: Speech, roots: int) -> list[Row]:
    """Rows on what the words tell, and how often boards are rebuilt from them. roots: how many there are."""
    return words_readout(speech, board_features(speech.boards, roots)) + _rebuilt(speaker, speech)


def speech_of(speaker: Speaker, fresh: Speaker, dataset: AbstractionDataset, types: dict[int, float],
              rng: np.random.Generator, fit: int, test: int, draws: int = DRAWS) -> Speech:
    """A run's sentences of `fit` boards of train, of which a sixth is to choose by, the types equally
    frequent, and of at most `test` held-out boards a type. fresh: the untrained network."""
    of_type = max(2, fit // len(types))
    parts = boards_in_parts(dataset, types, of_type, of_type, of_type, test, rng)
    n_fit, n_valid, n_test = map(len, parts)
    boards = Boards.join(parts)
    sentences = {"words": speaker.speak(boards.boards), "untrained network": fresh.speak(boards.boards)}
    sentences["random codes"] = rng.permutation(sentences["words"])
    W = resample(boards.tokens[-n_test:], rng, draws)
    return Speech(boards, sentences, W, n_fit=n_fit, n_valid=n_valid)


def board_features(drawn: Boards, roots: int) -> dict[str, np.ndarray]:
    """{feature: (n,)}: background; whether each root is there; a single board's row and column, else -1."""
    features = {"background": drawn.backgrounds}
    for root in range(roots):
        features[f"root {root} is there"] = (drawn.objects[..., 0] == root).any(1).astype(np.int64)
    for i, name in ((1, "row"), (2, "column")):
        features[name] = np.where(drawn.types == 0, drawn.objects[:, 0, i], -1)
    return features


def words_readout(speech: Speech, features: dict[str, np.ndarray]) -> list[Row]:
    """Rows on whether words, one-hot, tell features {feature: (n,)}; the roots count together."""
    tasks = {name: Task(values[:, None], values[:, None] >= 0, values[:, None] >= 0)
             for name, values in features.items() if several(values[values >= 0])}
    scores: dict[str, dict[str, np.ndarray]] = {name: {} for name in tasks}
    for source, words in speech.sentences.items():
        vocabulary = np.arange(words.max() + 1)
        used = (words[: speech.n_fit, :, None] == vocabulary).any(0).ravel()

        def one_hot(where: slice, words=words, vocabulary=vocabulary, used=used) -> dict[str, np.ndarray]:
            boards = words[where]
            return {"": (boards[..., None] == vocabulary).reshape(len(boards), -1)[:, used].astype(np.uint8)}

        for name, by_stage in readouts(one_hot, tasks, speech, speech.W).items():
            scores[name][source] = by_stage[""].score
    roots = [name for name in scores if name.startswith("root ")]
    scores["which roots are there"] = {source: mean([scores[name][source] for name in roots])
                                       for source in speech.sentences}
    rows = []
    for name, by_source in scores.items():
        effect = by_source.pop("words")
        if np.isfinite(effect[0]):
            rows.append(Row(TABLE.name, name, effect, {"majority class": np.zeros(len(effect))} | by_source,
                            counts=name not in roots))
    return rows


def _rebuilt(speaker: Speaker, speech: Speech) -> list[Row]:
    facts, test = [], speech.boards.take(speech.test)
    right = speaker.rebuild(speech.sentences["words"][speech.test]) == test.boards
    for type_ in np.unique(test.types):
        where = test.types == type_
        for what, share in (("tokens", right.mean((1, 2))), ("whole boards", right.all((1, 2)))):
            facts.append(Row(TABLE.name, f"sentence to board, {what}, {TYPES[type_]} boards",
                             ratio(share * where, where, speech.W), {}, np.nan, counts=False))
    return facts
