"""Claim: LEA's language speaks of the abstractions.

Measure: each feature of an unmasked held-out board is read off linearly from all words of the sentence that
the run says about it.
Controls: the majority class; the words of an untrained network; the run's own sentences about other boards.
Besides, and not counted: facts about the language, each in its own unit, with the controls that it has.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from module_dataset import TYPES, AbstractionDataset
from module_train_probe_lea import entropy_bits, information
from parts.probing import panels
from studies.claims.figures import plot_examples, plot_shares
from studies.claims.networks import Speaker
from studies.claims.readouts import choose, predict
from studies.claims.scenes import Scenes, held_out, rows_of, scenes_of
from studies.claims.scores import DRAWS, Table, judge, ratio, resample
from studies.claims.statistics import mantel

CHANCE = "95% of permutations"
FEW = 300  # boards, where a measurement takes long


def plot_information(rows: Sequence[dict]):
    """What the word at each place tells of each feature. rows: as `word_information` makes them."""
    shares = [[value for name, value in row.items() if name.startswith("place ")] for row in rows]
    names = [row["feature"] for row in rows]
    return plot_shares(shares, names, "place in the sentence", "information / entropy of the feature")


@dataclass
class Dictionary:
    """Sentences and what they were said about, for a picture."""

    words: np.ndarray  # (n, S)
    scenes: Scenes
    dataset: AbstractionDataset

    def plot(self, entries: int = 12, examples: int = 6):
        """Of much-used words, each where it is most often said: boards that call for it."""
        words = self.words
        shares = np.array([np.bincount(w, minlength=words.max() + 1) for w in words.T]) / len(words)  # (S, K)
        shares = np.where(shares > 0.6, 0, shares)  # what is nearly always said tells nothing
        titles, groups = [], []
        for word in np.argsort(-shares.max(0), kind="stable")[:entries]:
            place = shares[:, word].argmax()
            titles.append(f"word {word} at place {place}: {100 * shares[place, word]:.0f}% of boards")
            groups.append(self.scenes.boards[words[:, place] == word][:examples])
        colors = panels.token_colors(self.dataset.vocab_bck, self.dataset.vocab_token)
        return plot_examples(groups, titles, colors)


TABLE = Table(
    "words", "LEA's language speaks of them", "skill of a linear read-out from the words",
    "Skill of a ridge read-out of each feature from all words, on unmasked held-out boards. Not counted: "
    "other facts, each in its own unit. MI/H: information between a feature and the word at the best "
    "place / its entropy, less permutations'.",
    figures={"words_information": plot_information, "words_dictionary": Dictionary.plot})


@dataclass
class Speech:
    """Boards and the sentences about them."""

    dataset: AbstractionDataset
    fit: Scenes  # of train
    test: Scenes  # held out
    said: dict[str, np.ndarray]  # {'words' or control: (n, S)} about fit, then test
    W: np.ndarray  # (R + 1, test boards)

    @property
    def both(self) -> Scenes:
        """The boards to fit and the test boards."""
        return Scenes.join([self.fit, self.test])

    @property
    def of_test(self) -> np.ndarray:
        """The run's sentences (n, S) about the test boards."""
        return self.said["words"][len(self.fit) :]

    def dictionary(self) -> Dictionary:
        """The run's sentences about the boards of train."""
        return Dictionary(self.said["words"][: len(self.fit)], self.fit, self.dataset)


@dataclass
class Fact:
    """A number about the language that no verdict looks at."""

    feature: str
    score: np.ndarray | float
    controls: dict[str, np.ndarray | float] = field(default_factory=dict)
    more: dict = field(default_factory=dict)  # further cells of the row

    def row(self) -> dict:
        """The fact as a row of the table."""
        controls = {name: np.atleast_1d(control) for name, control in self.controls.items()}
        score = np.atleast_1d(self.score)
        return judge(TABLE.name, self.feature, score, controls, np.nan, counts=False, **self.more)


def measure(speaker: Speaker, speech: Speech, types: dict[int, float], proba: Sequence[float],
            rng: np.random.Generator, permutations: int = 50, draws: int = DRAWS,
            bar: Callable = iter) -> tuple[list[dict], list[dict]]:
    """Rows on what the words speak of, with facts about the language, and its table of information by place.

    speech: as `speech_of` makes it. types {type: probability} and proba, in the data set's order: the board
    types in use.
    """
    roots = speech.dataset.params.abs_n
    facts = [_variety(speech), _bits(speech, types, proba), _steadiness(speaker, speech, rng)]
    facts += _rebuilt(speaker, speech, types)
    facts += _similarity(speech, rng)
    facts += _disentanglement(speech)
    about_fit = speech.said["words"][: len(speech.fit)]
    by_place = word_information(about_fit, speech.fit, roots, rng, permutations, bar)
    for row in by_place:
        boards = {"boards": row["boards"]}
        facts.append(Fact(f"MI/H: {row['feature']}", row["MI/H"], {CHANCE: row[CHANCE]}, boards))
    rows = words_readout(speech.said, scene_features(speech.both, roots), len(speech.fit), rng, draws)
    return rows + [fact.row() for fact in facts], by_place


def speech_of(speaker: Speaker, fresh: Speaker, dataset: AbstractionDataset, types: dict[int, float],
              rng: np.random.Generator, fit: int, test: int, draws: int = DRAWS) -> Speech:
    """What a run says about boards of train and about at most `test` held-out boards a type.

    fresh: the untrained network. fit: how many boards of train are single ones; of the other types there are
    as many as types {type: probability} says.
    """
    whole = fit / types.get(0, 1)  # so that row and column, of single boards, have enough of them
    drawn = []
    for type_, share in types.items():
        rows = rows_of(dataset, type_, "train", max(2, round(whole * share)), rng)
        drawn.append(scenes_of(dataset, type_, rows, rng))
    to_fit = Scenes.join(drawn)
    to_fit = to_fit.take(rng.permutation(len(to_fit)))
    to_test = Scenes.join([held_out(dataset, type_, test, rng) for type_ in types])
    boards = Scenes.join([to_fit, to_test]).boards
    said = {"words": speaker.speak(boards), "untrained network": fresh.speak(boards)}
    said["random codes"] = rng.permutation(said["words"])
    return Speech(dataset, to_fit, to_test, said, resample(len(to_test), rng, draws))


def scene_features(scenes: Scenes, roots: int) -> dict[str, np.ndarray]:
    """{feature: (n,)}, -1 where a scene has none: background; whether each root is there; a single's row and
    column."""
    features = {"background": scenes.backgrounds}
    for root in range(roots):
        features[f"root {root} is there"] = (scenes.objects[..., 0] == root).any(1).astype(np.int64)
    for i, name in ((1, "row"), (2, "column")):
        features[name] = np.where(scenes.types == 0, scenes.objects[:, 0, i], -1)
    return features


def words_readout(words: dict[str, np.ndarray], features: dict[str, np.ndarray], n_fit: int,
                  rng: np.random.Generator, draws: int = DRAWS) -> list[dict]:
    """Rows on whether words speak of features {feature: (n,)}; the roots count together.

    Linear read-outs from all words, one-hot, are fitted on the first n_fit boards (a sixth of them to choose
    by) and tested on the others. words {'words' or control: (n, S)}.
    """
    values, n_valid = np.stack(list(features.values()), 1), n_fit // 6
    start = n_fit - n_valid
    W = resample(len(values) - n_fit, rng, draws)
    scores: dict[str, dict[str, np.ndarray]] = {name: {} for name in features}
    for source, said in words.items():
        one_hot = (said[..., None] == np.unique(said)).reshape(len(said), -1)
        said_to_fit = one_hot[:start].any(0)
        made = predict(one_hot[:, said_to_fit].astype(np.float32), values, values[:start] >= 0)
        for j, name in enumerate(features):
            column = values[start:, [j]]
            of_feature = [predicted[:, [j]] for predicted in made]
            scores[name][source] = choose(of_feature, column, column >= 0, n_valid, W).score
    roots = [name for name in scores if name.startswith("root ")]
    scores["which roots are there"] = {
        source: np.mean([scores[name][source] for name in roots], axis=0) for source in words}
    boards = {name: int((column[n_fit:] >= 0).sum()) for name, column in features.items()}
    rows = []
    for name, by_source in scores.items():
        effect = by_source.pop("words")
        if np.isfinite(effect[0]):
            controls = {"majority class": np.zeros(len(W))} | by_source
            rows.append(judge(TABLE.name, name, effect, controls, counts=name not in roots,
                              boards=boards.get(name, len(values) - n_fit)))
    return rows


def word_information(words: np.ndarray, scenes: Scenes, roots: int, rng: np.random.Generator,
                     permutations: int = 50, bar: Callable = iter) -> list[dict]:
    """A row a feature: mutual information between words (n, S) and it, as a share of its entropy.

    At the best place, less the mean over permutations by board (a board that was drawn twice keeps one
    value), beside the 95% quantile of a permutation's best.
    """
    rows, board = [], np.unique(scenes.tokens, axis=0, return_inverse=True)[1].ravel()
    for name, values in bar(scene_features(scenes, roots).items()):
        use = values >= 0
        w, v = words[use], values[use]
        _, first, which = np.unique(board[use], return_index=True, return_inverse=True)
        entropy = entropy_bits(np.bincount(v)) if use.any() else 0
        if entropy == 0:
            continue
        chance = np.array([information(w, rng.permutation(v[first])[which]) for _ in range(permutations)])
        mean = chance.mean(0)
        gain = information(w, v) - mean
        row = {"feature": name, "boards": int(use.sum()), "distinct boards": len(first), "entropy": entropy}
        row |= {"place": int(gain.argmax()), "MI/H": gain.max() / entropy}
        row |= {CHANCE: np.quantile((chance - mean).max(1), 0.95) / entropy}
        row |= {"bias removed": mean.mean() / entropy}
        rows.append(row | {f"place {place}": bits / entropy for place, bits in enumerate(gain)})
    return rows


def _variety(speech: Speech) -> Fact:
    _, first = np.unique(speech.test.tokens, axis=0, return_index=True)
    sentences = np.unique(speech.of_test[first], axis=0)
    return Fact("distinct sentences / distinct boards", len(sentences) / len(first))


def _bits(speech: Speech, types: dict[int, float], proba: Sequence[float]) -> Fact:
    """What the words could say, beside what there is to say: the entropy of a row less that of the row given
    its board."""
    dataset, families = speech.dataset, speech.dataset.params.families
    left = [entropy_bits(dataset.hypotheses(board, proba).weights) for board in speech.fit.boards[:FEW]]
    own = sum(share * np.log2(families[type_].size / share) for type_, share in types.items()) - np.mean(left)
    bits = sum(entropy_bits(np.bincount(w)) for w in speech.said["words"].T)
    return Fact("bits of the words: sum of H(word; place) over places", bits, {"the data's own": own})


def _steadiness(speaker: Speaker, speech: Speech, rng: np.random.Generator) -> Fact:
    words, boards = speech.of_test, speech.test.boards
    masked = speaker.speak(boards, rng.random(boards.shape) < 0.2)
    others = rng.permutation(words)
    stay, chance = (ratio((said == words).mean(1), 1, speech.W) for said in (masked, others))
    return Fact("words that stay when 20% of the cells are hidden", stay, {"another board's words": chance})


def _rebuilt(speaker: Speaker, speech: Speech, types: dict[int, float]) -> list[Fact]:
    facts, test = [], speech.test
    right = speaker.rebuild(speech.of_test) == test.boards
    for group in ("all", *(TYPES[type_] for type_ in types)):
        where = np.ones(len(test)) if group == "all" else test.types == TYPES.index(group)
        for what, share in (("tokens", right.mean((1, 2))), ("whole boards", right.all((1, 2)))):
            score = ratio(share * where, where, speech.W)
            facts.append(Fact(f"sentence to board, {what}, {group} boards", score))
    return facts


def _similarity(speech: Speech, rng: np.random.Generator) -> list[Fact]:
    """Whether boards that differ more have sentences that differ more."""
    few = np.flatnonzero(speech.test.types < 2)[:FEW]
    if len(few) <= 2:
        return []
    distances = scene_distances(speech.test.take(few))
    found = {}
    for name, said in speech.said.items():
        found[name] = mantel(said[len(speech.fit) :][few], distances, rng)
    effect, chance, _ = found["words"]
    controls = {name: correlation for name, (correlation, _, _) in found.items() if name != "words"}
    p = {f"p (Mantel), {name}": p for name, (_, _, p) in found.items()}
    return [Fact("topographic similarity", effect, controls | {CHANCE: chance}, p)]


def _disentanglement(speech: Speech) -> list[Fact]:
    scenes = speech.both
    alone = np.flatnonzero(scenes.types == 0)
    if len(alone) <= 50:
        return []
    features = [scenes.backgrounds[alone], *scenes.objects[alone, 0].T]
    found = {name: disentanglement(words[alone], features) for name, words in speech.said.items()}
    effect = found.pop("words")
    return [Fact("positional disentanglement, single boards", effect, found)]


def scene_distances(scenes: Scenes) -> np.ndarray:
    """(n, n) how many of background, roots, rows and columns differ between scenes, objects matched as well
    as they can be; an object without a partner counts 3. For boards of at most two objects."""
    ours, theirs = scenes.objects[:, None, :2], scenes.objects[None, :, :2]

    def between(i: int, j: int) -> np.ndarray:
        no_ours, no_theirs = ours[..., i, 0] < 0, theirs[..., j, 0] < 0
        differing = (ours[..., i, :] != theirs[..., j, :]).sum(-1)
        without_partner = np.where(no_ours & no_theirs, 0, 3)
        return np.where(no_ours | no_theirs, without_partner, differing)

    straight, crossed = between(0, 0) + between(1, 1), between(0, 1) + between(1, 0)
    return np.minimum(straight, crossed) + (scenes.backgrounds[:, None] != scenes.backgrounds)


def disentanglement(words: np.ndarray, features: list[np.ndarray]) -> float:
    """Positional disentanglement: mean over places of (largest - second information about a feature) / the
    word's entropy."""
    found = np.sort([information(words, values) for values in features], axis=0)
    entropy = np.array([entropy_bits(np.bincount(w)) for w in words.T])
    used = entropy > 0
    if not used.any():
        return 0.0
    return float(np.mean((found[-1] - found[-2])[used] / entropy[used]))
