"""Claim: LEA's language lets one steer the network.

Question: does changing words change the board that is rebuilt, in the same way everywhere?
Measure: two boards differ in one feature. The first one's sentence takes words at the places where the
sentences of *another* pair with the same change differ, and that pair's words: a transfer, which can succeed
only if words mean the same everywhere. It succeeds if the board rebuilt is exactly the second.
Not counted: the same with words of another pair whose object stands at the same place, which tell a language
of objects at places from one of whole boards.
Upper bound: the second board's own sentence.
Controls: as many words at random places; another pair's words; no words.
Row: a feature of a board type, and where the words are taken from.
"""
from __future__ import annotations

from collections.abc import Callable, Container

import numpy as np

from module_dataset import TYPES, AbstractionDataset
from parts.boards.params import apart
from studies.claims.networks import Speaker
from studies.claims.scenes import boards_of, rows_of
from studies.claims.scores import DRAWS, Row, Table, ratio, resample

TABLE = Table("steering", "LEA's language lets one steer the network", "share of boards rebuilt as wanted")
CASES = (  # (board type, feature)
    (0, "background"), (0, "root"), (0, "row"), (0, "column"), (1, "background"), (1, "root"))
# where the words are taken from, as the features name it
ELSEWHERE = ", words taken from other boards"
SAME_PLACE = f"{ELSEWHERE}, same place"


def measure(speaker: Speaker, dataset: AbstractionDataset, types: Container[int], rng: np.random.Generator,
            count: int = 200, draws: int = DRAWS, bar: Callable = iter) -> list[Row]:
    """Rows on whether words steer what is rebuilt from them, of at most count pairs of boards a feature."""
    rows = []
    [own] = rng.spawn(1)  # SAME_PLACE has random numbers of its own, so that the other rows stay as they were
    for type_, feature in bar([case for case in CASES if case[0] in types]):
        for source, random in [(ELSEWHERE, rng)] + [(SAME_PLACE, own)] * (feature == "root"):
            pairs = changed_rows(dataset, type_, feature, count, random, source == SAME_PLACE)
            if pairs is not None:
                rows.append(_row(speaker, dataset, type_, feature, pairs, source, random, draws))
    return rows


def changed_rows(dataset: AbstractionDataset, type_: int, feature: str, count: int,
                 rng: np.random.Generator, same_place: bool = False) -> np.ndarray | None:
    """Rows (4, n, width): held-out boards, and the same with one feature of the first object, or the
    background, changed; other boards, and these with the same change, if same_place with the first object at
    the same place. None if there are fewer than 8."""
    p = dataset.params
    column, values = {"root": (0, p.abs_n), "row": (1, p.places), "column": (2, p.places),
                      "background": (-1, p.vocab_bck)}[feature]
    start, elsewhere = (rows_of(dataset, type_, split, count * 8, rng) for split in ("test", "train"))
    rows = np.stack([start, start, elsewhere, elsewhere])
    if same_place:
        rows[..., 1:3] = start[:, 1:3]
    rows[[0, 2], :, column] = start[:, column]
    rows[[1, 3], :, column] = (start[:, column] + rng.integers(1, max(values, 2), size=len(start))) % values
    fine = np.all([apart(p, some) for some in rows], axis=0)
    if values < 2 or fine.sum() < 8:
        return None
    return rows[:, fine][:, :count]


def _row(speaker: Speaker, dataset: AbstractionDataset, type_: int, feature: str, pairs: np.ndarray,
         source: str, rng: np.random.Generator, draws: int) -> Row:
    """The row of a source of words, ELSEWHERE or SAME_PLACE; pairs (4, n, width) as of `changed_rows`."""
    boards = [boards_of(dataset, type_, rows, rng).boards for rows in pairs]
    start_words, goal_words, other_words, changed_words = map(speaker.speak, boards)
    start, goal, *_ = boards
    W = resample(start.reshape(len(start), -1), rng, draws)

    def exact(words: np.ndarray, board: np.ndarray = goal) -> np.ndarray:
        return (speaker.rebuild(words) == board).all((1, 2))

    rebuilt = exact(goal_words)
    both = exact(start_words, start) & rebuilt
    differ = other_words != changed_words
    random = rng.random(differ.shape).argsort(1).argsort(1) < differ.sum(1, keepdims=True)  # as many places
    right = exact(np.where(differ, changed_words, start_words))
    another = np.where(np.roll(differ, 1, 0), np.roll(changed_words, 1, 0), start_words)
    controls = {
        "as many random places": exact(np.where(random, changed_words, start_words)),
        "no words": exact(start_words),
        "another pair's words": exact(another)}
    return Row(TABLE.name, f"{feature} of {TYPES[type_]} boards{source}", ratio(right, 1, W),
               {control: ratio(success, 1, W) for control, success in controls.items()},
               ratio(rebuilt, 1, W), counts=source == ELSEWHERE,
               extras={"words that differ": differ.sum(1).mean(),
                       "given both rebuilt": ratio(right & both, both, W)})
