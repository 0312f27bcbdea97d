"""Claim: LEA's language speaks of the abstractions.

Question: do the words of a sentence tell what is on the board that it encodes?
Measure: skill of a linear (ridge) read-out of each feature of an unmasked held-out board from all words of
the board's sentence.
Controls: the majority class; the words of an untrained network; the run's own sentences for other boards.
Row: a feature; the roots count together. Besides, and not counted: facts about the language, each in its own
unit and with the controls that it has. MI/H: mutual information between a feature and the word at the best
place, less that of permutations, / the feature's entropy.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from module_dataset import TYPES, AbstractionDataset, Boards
from module_train_probe_lea import entropy_bits, information
from parts.probing import panels
from studies.claims.figures import plot_examples, plot_shares
from studies.claims.networks import Speaker
from studies.claims.readouts import choose, predict
from studies.claims.scenes import boards_of, held_out, rows_of
from studies.claims.scores import DRAWS, Row, Table, ratio, resample
from studies.claims.statistics import mantel

CHANCE = "95% of permutations"
FEW = 300  # boards, for measurements that take long


def plot_information(rows: Sequence[dict]):
    """The information of the word at each place about each feature. rows: as `word_information` makes
    them."""
    shares = [[value for name, value in row.items() if name.startswith("place ")] for row in rows]
    names = [row["feature"] for row in rows]
    return plot_shares(shares, names, "place in the sentence", "information / entropy of the feature")


def plot_dictionary(speech: Speech, entries: int = 12, examples: int = 6):
    """The most used words of the boards of train, each at the place where it is most used: boards that call
    for it."""
    words, p = speech.sentences["words"][: len(speech.fit)], speech.dataset.params
    shares = np.array([np.bincount(w, minlength=words.max() + 1) for w in words.T]) / len(words)  # (S, K)
    shares = np.where(shares > 0.6, 0, shares)  # a word that nearly all boards get tells nothing
    titles, groups = [], []
    for word in np.argsort(-shares.max(0), kind="stable")[:entries]:
        place = shares[:, word].argmax()
        titles.append(f"word {word} at place {place}: {100 * shares[place, word]:.0f}% of boards")
        groups.append(speech.fit.boards[words[:, place] == word][:examples])
    return plot_examples(groups, titles, panels.token_colors(p.vocab_bck, p.vocab_token))


TABLE = Table("words", "LEA's language speaks of them", "skill of a linear read-out from the words",
              {"words_information": plot_information, "words_dictionary": plot_dictionary})


@dataclass
class Speech:
    """Boards and the sentences that encode them."""

    dataset: AbstractionDataset
    fit: Boards  # of train
    test: Boards  # held out
    sentences: dict[str, np.ndarray]  # {'words' or control: (n, S)} of fit, then test
    W: np.ndarray  # (R + 1, test boards)

    @property
    def of_test(self) -> np.ndarray:
        """The run's sentences (n, S) of the test boards."""
        return self.sentences["words"][len(self.fit) :]


def measure(speaker: Speaker, speech: Speech, types: dict[int, float], proba: Sequence[float],
            rng: np.random.Generator, permutations: int = 50, draws: int = DRAWS,
            bar: Callable = iter) -> tuple[list[Row], list[dict]]:
    """Rows on what the words tell, with facts about the language, and the table of information by place.

    speech: as `speech_of` makes it. types {type: probability} and proba: the board types in use.
    """
    roots = speech.dataset.params.abs_n
    facts = [_variety(speech), _bits(speech, types, proba), _steadiness(speaker, speech, rng),
             *_rebuilt(speaker, speech, types), *_similarity(speech, rng), *_disentanglement(speech)]
    words_of_fit = speech.sentences["words"][: len(speech.fit)]
    by_place = word_information(words_of_fit, speech.fit, roots, rng, permutations, bar)
    for line in by_place:
        feature, chance = f"MI/H: {line['feature']}", {CHANCE: line[CHANCE]}
        facts.append(_fact(feature, line["MI/H"], chance, boards=line["boards"]))
    features = board_features(Boards.join([speech.fit, speech.test]), roots)
    return words_readout(speech.sentences, features, len(speech.fit), rng, draws) + facts, by_place


def speech_of(speaker: Speaker, fresh: Speaker, dataset: AbstractionDataset, types: dict[int, float],
              rng: np.random.Generator, fit: int, test: int, draws: int = DRAWS) -> Speech:
    """A run's sentences of boards of train and of at most `test` held-out boards a type.

    fresh: the untrained network. fit: how many boards of train are single ones; of the other types there are
    as many as types {type: probability} says.
    """
    whole = fit / types.get(0, 1)  # row and column are features of single boards alone, which must be enough
    drawn = []
    for type_, share in types.items():
        rows = rows_of(dataset, type_, "train", max(2, round(whole * share)), rng)
        drawn.append(boards_of(dataset, type_, rows, rng))
    to_fit = Boards.join(drawn)
    to_fit = to_fit.take(rng.permutation(len(to_fit)))
    to_test = Boards.join([held_out(dataset, type_, test, rng) for type_ in types])
    boards = np.concatenate([to_fit.boards, to_test.boards])
    sentences = {"words": speaker.speak(boards), "untrained network": fresh.speak(boards)}
    sentences["random codes"] = rng.permutation(sentences["words"])
    return Speech(dataset, to_fit, to_test, sentences, resample(len(to_test), rng, draws))


def board_features(drawn: Boards, roots: int) -> dict[str, np.ndarray]:
    """{feature: (n,)}, -1 for a board without it: background; whether each root is there; a single board's
    row and column."""
    features = {"background": drawn.backgrounds}
    for root in range(roots):
        features[f"root {root} is there"] = (drawn.objects[..., 0] == root).any(1).astype(np.int64)
    for i, name in ((1, "row"), (2, "column")):
        features[name] = np.where(drawn.types == 0, drawn.objects[:, 0, i], -1)
    return features


def words_readout(sentences: dict[str, np.ndarray], features: dict[str, np.ndarray], n_fit: int,
                  rng: np.random.Generator, draws: int = DRAWS) -> list[Row]:
    """Rows on whether words tell features {feature: (n,)}; the roots count together.

    Linear read-outs from all words, one-hot, are fitted on the first n_fit boards (a sixth of them to choose
    by) and tested on the others. sentences {'words' or control: (n, S)}.
    """
    values, n_valid = np.stack(list(features.values()), 1), n_fit // 6
    start = n_fit - n_valid
    W = resample(len(values) - n_fit, rng, draws)
    scores: dict[str, dict[str, np.ndarray]] = {name: {} for name in features}
    for source, words in sentences.items():
        one_hot = (words[..., None] == np.unique(words)).reshape(len(words), -1)
        used = one_hot[:start].any(0)  # a word at a place where no board to fit has it teaches nothing
        predictions = predict(one_hot[:, used].astype(np.float32), values, values[:start] >= 0)
        for j, name in enumerate(features):
            column = values[start:, [j]]
            of_feature = [predicted[:, [j]] for predicted in predictions]
            scores[name][source] = choose(of_feature, column, column >= 0, n_valid, W).score
    roots = [name for name in scores if name.startswith("root ")]
    scores["which roots are there"] = {
        source: np.mean([scores[name][source] for name in roots], axis=0) for source in sentences}
    boards = {name: int((column[n_fit:] >= 0).sum()) for name, column in features.items()}
    rows = []
    for name, by_source in scores.items():
        effect = by_source.pop("words")
        if np.isfinite(effect[0]):
            controls = {"majority class": np.zeros(len(W))} | by_source
            rows.append(Row(TABLE.name, name, effect, controls, counts=name not in roots,
                            extras={"boards": boards.get(name, len(values) - n_fit)}))
    return rows


def word_information(words: np.ndarray, drawn: Boards, roots: int, rng: np.random.Generator,
                     permutations: int = 50, bar: Callable = iter) -> list[dict]:
    """Mutual information between the words (n, S) of boards and each feature, as a share of its entropy: a
    line a feature.

    At the best place, less the mean over permutations by board (equal boards keep one value), beside the 95%
    quantile of a permutation's best.
    """
    lines, board = [], np.unique(drawn.tokens, axis=0, return_inverse=True)[1].ravel()
    for name, values in bar(board_features(drawn, roots).items()):
        use = values >= 0
        w, v = words[use], values[use]
        _, first, which = np.unique(board[use], return_index=True, return_inverse=True)
        entropy = entropy_bits(np.bincount(v)) if use.any() else 0
        if entropy == 0:
            continue
        chance = np.array([information(w, rng.permutation(v[first])[which]) for _ in range(permutations)])
        bias = chance.mean(0)  # information of finite samples is never 0
        gain = information(w, v) - bias
        lines.append({"feature": name, "boards": int(use.sum()), "distinct boards": len(first),
                      "entropy": entropy, "place": int(gain.argmax()), "MI/H": gain.max() / entropy,
                      CHANCE: np.quantile((chance - bias).max(1), 0.95) / entropy,
                      "bias removed": bias.mean() / entropy,
                      **{f"place {place}": bits / entropy for place, bits in enumerate(gain)}})
    return lines


def _fact(feature: str, score: np.ndarray | float, controls: dict | None = None, **extras) -> Row:
    """A number about the language that no verdict looks at, as a row."""
    return Row(TABLE.name, feature, score, controls or {}, np.nan, counts=False, extras=extras)


def _variety(speech: Speech) -> Row:
    _, first = np.unique(speech.test.tokens, axis=0, return_index=True)
    sentences = np.unique(speech.of_test[first], axis=0)
    return _fact("distinct sentences / distinct boards", len(sentences) / len(first))


def _bits(speech: Speech, types: dict[int, float], proba: Sequence[float]) -> Row:
    """The capacity of the words in use, beside the entropy of the data: that of a row less that of the row
    given its board."""
    dataset, families = speech.dataset, speech.dataset.params.families
    left = [entropy_bits(dataset.hypotheses(board, proba).weights) for board in speech.fit.boards[:FEW]]
    own = sum(share * np.log2(families[type_].size / share) for type_, share in types.items()) - np.mean(left)
    bits = sum(entropy_bits(np.bincount(w)) for w in speech.sentences["words"].T)
    return _fact("bits of the words: sum of H(word; place) over places", bits, {"the data's own": own})


def _steadiness(speaker: Speaker, speech: Speech, rng: np.random.Generator) -> Row:
    words, boards = speech.of_test, speech.test.boards
    masked = speaker.speak(boards, rng.random(boards.shape) < 0.2)
    others = rng.permutation(words)
    stay, chance = (ratio((sentences == words).mean(1), 1, speech.W) for sentences in (masked, others))
    return _fact("words that stay when 20% of the cells are hidden", stay, {"another board's words": chance})


def _rebuilt(speaker: Speaker, speech: Speech, types: dict[int, float]) -> list[Row]:
    facts, test = [], speech.test
    right = speaker.rebuild(speech.of_test) == test.boards
    for group in ("all", *(TYPES[type_] for type_ in types)):
        where = np.ones(len(test)) if group == "all" else test.types == TYPES.index(group)
        for what, share in (("tokens", right.mean((1, 2))), ("whole boards", right.all((1, 2)))):
            score = ratio(share * where, where, speech.W)
            facts.append(_fact(f"sentence to board, {what}, {group} boards", score))
    return facts


def _similarity(speech: Speech, rng: np.random.Generator) -> list[Row]:
    """Whether boards that differ more have sentences that differ more."""
    few = np.flatnonzero(speech.test.types < 2)[:FEW]
    if len(few) <= 2:
        return []
    distances, effects, chances, p = board_distances(speech.test.take(few)), {}, {}, {}
    for name, sentences in speech.sentences.items():
        words = sentences[len(speech.fit) :][few]
        effects[name], chances[name], p[f"p (Mantel), {name}"] = mantel(words, distances, rng)
    effect = effects.pop("words")
    return [_fact("topographic similarity", effect, effects | {CHANCE: chances["words"]}, **p)]


def _disentanglement(speech: Speech) -> list[Row]:
    drawn = Boards.join([speech.fit, speech.test])
    alone = np.flatnonzero(drawn.types == 0)
    if len(alone) <= 50:
        return []
    features = [drawn.backgrounds[alone], *drawn.objects[alone, 0].T]
    scores = {name: disentanglement(words[alone], features) for name, words in speech.sentences.items()}
    effect = scores.pop("words")
    return [_fact("positional disentanglement, single boards", effect, scores)]


def board_distances(drawn: Boards) -> np.ndarray:
    """(n, n) how many of background, roots, rows and columns differ between boards of at most two objects;
    the objects are matched as well as they can be, and one without a partner counts 3."""
    ours, theirs = drawn.objects[:, None, :2], drawn.objects[None, :, :2]

    def between(i: int, j: int) -> np.ndarray:
        no_ours, no_theirs = ours[..., i, 0] < 0, theirs[..., j, 0] < 0
        differing = (ours[..., i, :] != theirs[..., j, :]).sum(-1)
        without_partner = np.where(no_ours & no_theirs, 0, 3)
        return np.where(no_ours | no_theirs, without_partner, differing)

    straight, crossed = between(0, 0) + between(1, 1), between(0, 1) + between(1, 0)
    return np.minimum(straight, crossed) + (drawn.backgrounds[:, None] != drawn.backgrounds)


def disentanglement(words: np.ndarray, features: list[np.ndarray]) -> float:
    """Positional disentanglement: mean over places of (largest - second largest information about a feature)
    / the word's entropy."""
    ranked = np.sort([information(words, values) for values in features], axis=0)
    entropy = np.array([entropy_bits(np.bincount(w)) for w in words.T])
    used = entropy > 0
    if not used.any():
        return 0.0
    return float(np.mean((ranked[-1] - ranked[-2])[used] / entropy[used]))
