"""Claim: LEA's language lets one steer the network.

Measure: two boards differ in one feature. The first one's sentence takes words at the places where the
sentences of *another* pair, which makes the same change, differ, and that pair's words: what is put in was
learnt elsewhere, so it can succeed only where words mean the same everywhere. It succeeds where the board
rebuilt is exactly the second.
Not counted: the same with the pair's own words, since all words in which two sentences differ make the second
sentence, whatever the language; and with words of another pair whose object stands at the same place, which
tell a language of objects at places from one of whole boards.
Upper bound: the second board's own sentence.
Controls: as many words at random places; another pair's words; no words.
"""
from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

import numpy as np

from module_dataset import TYPES, AbstractionDataset
from parts.boards.params import apart
from studies.claims.networks import Speaker
from studies.claims.scenes import rows_of, scenes_of
from studies.claims.scores import DRAWS, Table, judge, ratio, resample, spread

TABLE = Table(
    "steering", "LEA's language lets one steer the network", "share of boards rebuilt as wanted",
    "Share of boards rebuilt as wanted when a sentence takes the words of another pair of boards that makes "
    "the same change, which tests whether words mean the same everywhere. Not counted: the pair's own words "
    "that differ, which make the other board's own sentence.")
CASES = (  # (board type, feature)
    (0, "background"), (0, "root"), (0, "row"), (0, "column"), (1, "background"), (1, "root"))
OWN, ELSEWHERE, SAME_PLACE = "", ", words from elsewhere", ", words of the same place from elsewhere"


@dataclass
class Pairs:
    """Rows (n, width), boards (n, h, w) or sentences (n, S) of pairs that differ in one feature."""

    start: np.ndarray
    goal: np.ndarray
    start_elsewhere: np.ndarray  # another pair
    goal_elsewhere: np.ndarray  # with the same change

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Pairs:
        """function of each."""
        return Pairs(*map(function, vars(self).values()))


def measure(speaker: Speaker, dataset: AbstractionDataset, types: Container[int], rng: np.random.Generator,
            count: int = 200, draws: int = DRAWS, bar: Callable = iter) -> list[dict]:
    """Rows on whether words steer what is rebuilt from them. speaker: has `speak`, boards (n, h, w) ->
    sentences (n, S), and `rebuild`, back. types: the board types in use. count: at most so many pairs a
    feature."""
    rows = []
    [own] = rng.spawn(1)  # leaves the draws of rng as they are
    for type_, feature in bar([case for case in CASES if case[0] in types]):
        changed = changed_rows(dataset, type_, feature, count, rng)
        if changed is not None:
            rows += _rows(speaker, dataset, type_, feature, changed, (OWN, ELSEWHERE), rng, draws)
        if feature == "root":
            changed = changed_rows(dataset, type_, feature, count, own, same_place=True)
            if changed is not None:
                rows += _rows(speaker, dataset, type_, feature, changed, (SAME_PLACE,), own, draws)
    return rows


def changed_rows(dataset: AbstractionDataset, type_: int, feature: str, count: int,
                 rng: np.random.Generator, same_place: bool = False) -> Pairs | None:
    """Rows of held-out boards and the same with one feature of the first object, or the background, changed;
    and other pairs with the same change, same_place: whose first object stands where it does. None where
    there are fewer than 8."""
    p = dataset.params
    column, values = {"root": (0, p.abs_n), "row": (1, p.places), "column": (2, p.places),
                      "background": (-1, p.vocab_bck)}[feature]
    start, elsewhere = (rows_of(dataset, type_, split, count * 8, rng) for split in ("test", "train"))
    rows = Pairs(start, start.copy(), elsewhere, elsewhere.copy())
    changed = (start[:, column] + rng.integers(1, max(values, 2), size=len(start))) % values
    if same_place:
        elsewhere[:, 1:3] = rows.goal_elsewhere[:, 1:3] = start[:, 1:3]
    rows.start_elsewhere[:, column] = start[:, column]
    rows.goal[:, column] = rows.goal_elsewhere[:, column] = changed
    fine = np.all([apart(dataset.params, r) for r in vars(rows).values()], axis=0)
    if values < 2 or fine.sum() < 8:
        return None
    return rows.map(lambda r: r[fine][:count])


def _rows(speaker: Speaker, dataset: AbstractionDataset, type_: int, feature: str, changed: Pairs,
          ways: Sequence[str], rng: np.random.Generator, draws: int) -> list[dict]:
    """A row for each of the ways OWN, ELSEWHERE and SAME_PLACE that are wanted."""
    boards = changed.map(lambda rows: scenes_of(dataset, type_, rows, rng).boards)
    said = boards.map(speaker.speak)
    n = len(boards.start)
    W = resample(boards.start.reshape(n, -1), rng, draws)

    def exact(words: np.ndarray, board: np.ndarray = boards.goal) -> np.ndarray:
        return (speaker.rebuild(words) == board).all((1, 2))

    rebuilt = exact(said.goal)
    both = exact(said.start, boards.start) & rebuilt
    another = np.roll(np.arange(n), 1)
    rows = []
    for how in ways:
        before, words = ((said.start, said.goal) if how == OWN
                         else (said.start_elsewhere, said.goal_elsewhere))
        differ = before != words
        order = rng.random(differ.shape).argsort(1).argsort(1)
        random = order < differ.sum(1, keepdims=True)  # as many places of each sentence
        right = exact(np.where(differ, words, said.start))
        controls = {"as many random places": exact(np.where(random, words, said.start)),
                    "no words": exact(said.start),
                    "another pair's words": exact(np.where(differ[another], words[another], said.start))}
        row = judge(TABLE.name, f"{feature} of {TYPES[type_]} boards{how}", ratio(right, 1, W),
                    {control: ratio(success, 1, W) for control, success in controls.items()},
                    ratio(rebuilt, 1, W), counts=how == ELSEWHERE, counted_before=how == OWN, boards=n)
        row |= {"words that differ": differ.sum(1).mean()}
        rows.append(row | spread("given both rebuilt", ratio(right & both, both, W)))
    return rows
