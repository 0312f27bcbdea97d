"""Measurements of LEA's language (arXiv 2312.05361): what its words say of the boards, and whether words steer.

Axis letters: n boards, S words of a sentence, K words of the codebook, C values of a feature. Scores and rows: see
module_analysis_measures.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import module_train_probe_lea
from module_analysis_measures import (
    DRAWS,
    Scenes,
    draw_scenes,
    interval,
    judge,
    random_rows,
    ratio,
    readouts,
    resample,
    scenes_of,
)
from module_dataset import TYPES, AbstractionDataset

# Language


def entropy(counts: np.ndarray, axis=-1) -> np.ndarray:
    """Entropy in bits of the distributions that counts make along an axis."""
    share = counts / np.maximum(counts.sum(axis, keepdims=True), 1e-30)
    return -(share * np.log2(np.where(share > 0, share, 1))).sum(axis)


def information(words: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Plug-in mutual information (S,), in bits, between the word (n, S) at each place and values (n,)."""
    K, C = words.max() + 1, values.max() + 1
    joint = np.array([np.bincount(w * C + values, minlength=K * C).reshape(K, C) for w in words.T])
    return entropy(joint.sum(2)) + entropy(joint.sum(1)) - entropy(joint.reshape(len(joint), -1))


def scene_features(scenes: Scenes, roots: int) -> dict[str, np.ndarray]:
    """{feature: (n,)}, -1 where a scene has none: background; whether each root is there; a single's row and column."""
    single = scenes.types == 0
    features = {"background": scenes.backgrounds}
    features |= {f"root {r} is there": (scenes.objects[..., 0] == r).any(1).astype(np.int64) for r in range(roots)}
    return features | {name: np.where(single, scenes.objects[:, 0, i], -1) for i, name in ((1, "row"), (2, "column"))}


def word_information(words: np.ndarray, features: dict[str, np.ndarray], rng, permutations: int = 50, bar=iter) -> list:
    """Rows of mutual information between words and features, as shares of the feature's entropy: at the best place, minus
    the mean over permutations by board, beside the 95% quantile of the best place of a permutation."""
    rows = []
    for name, values in bar(features.items()):
        use = values >= 0
        w, v = words[use], values[use]
        H = float(entropy(np.bincount(v))) if use.any() else 0
        if H == 0:
            continue
        found = information(w, v)
        chance = np.array([information(w, rng.permutation(v)) for _ in range(permutations)])
        mean = chance.mean(0)
        row = {"feature": name, "boards": int(use.sum()), "entropy": H, "place": int((found - mean).argmax()),
               "MI/H": (found - mean).max() / H, "95% of chance": np.quantile((chance - mean).max(1), 0.95) / H,
               "bias removed": mean.mean() / H}
        rows.append(row | {f"place {s}": x / H for s, x in enumerate(found - mean)})
    return rows


def words_readout(words: dict[str, np.ndarray], features: dict[str, np.ndarray], n_fit: int, rng,
                  draws: int = DRAWS) -> list[dict]:
    """Rows of the claim that the words speak of the features: linear read-outs from all words, one-hot, fitted on the first
    n_fit boards and tested on the others. words {'words': (n, S), control: (n, S)}; the roots are judged together."""
    n = len(words["words"]) - n_fit
    W, n_valid = resample(n, rng, draws), n_fit // 5
    scores: dict[str, dict[str, np.ndarray]] = {}
    for source, said in words.items():
        kinds = np.unique(said)
        one_hot = (said[..., None] == kinds).reshape(len(said), -1)
        one_hot = one_hot[:, one_hot.any(0)].astype(np.float32)
        for name, values in features.items():
            there = values >= 0
            if len(np.unique(values[n_fit:][there[n_fit:]])) < 2 or not there[: n_fit - n_valid].any():
                continue
            label = {name: values[:, None]}
            use = {"": {name: there[n_fit - n_valid :, None]}}
            found = readouts({"": one_hot}, label, there[:, None], n_fit - n_valid, n_valid, use, use, W)[name, ""][""]
            scores.setdefault(name, {})[source] = found[1]
    roots = [name for name in scores if name.startswith("root ")]
    if roots:
        scores["which roots are there"] = {s: np.nanmean([scores[name][s] for name in roots], axis=0) for s in words}
    rows = []
    for name, by in scores.items():
        controls = {"majority class": np.zeros(len(W))} | {s: score for s, score in by.items() if s != "words"}
        boards = int((features[name][n_fit:] >= 0).sum()) if name in features else n
        rows.append(judge("language speaks of the features", name, by["words"], controls, counts=name not in roots,
                          boards=boards))
    return rows


def scene_distances(scenes: Scenes) -> np.ndarray:
    """(n, n) how many of background, roots, rows and columns differ between scenes, objects matched as well as they can be;
    an object without a partner counts 3. For boards of at most two objects."""
    a, b = scenes.objects[:, None, :2], scenes.objects[None, :, :2]
    pair = lambda i, j: np.where(  # noqa: E731
        (a[..., i, 0] < 0) & (b[..., j, 0] < 0), 0,
        np.where((a[..., i, 0] < 0) | (b[..., j, 0] < 0), 3, (a[..., i, :] != b[..., j, :]).sum(-1)))
    cost = pair(0, 0) if a.shape[2] == 1 else np.minimum(pair(0, 0) + pair(1, 1), pair(0, 1) + pair(1, 0))
    return cost + (scenes.backgrounds[:, None] != scenes.backgrounds)


def mantel(words: np.ndarray, distances: np.ndarray, rng, permutations: int = 200) -> tuple[float, float, float]:
    """Topographic similarity: (rank correlation of the sentences' Hamming distances with the scenes' distances, the 95%
    quantile over permutations of the boards, p). words (n, S)."""
    rank = lambda x: np.unique(x, return_inverse=True, return_counts=True)  # noqa: E731
    upper = np.triu_indices(len(words), 1)

    def ranks(D):
        _, inverse, counts = rank(D[upper])
        return (np.cumsum(counts) - (counts + 1) / 2)[inverse]

    x, y = ranks((words[:, None] != words).sum(-1)), ranks(distances)
    if not (x.std() and y.std()):
        return np.nan, np.nan, np.nan
    x, y = ((v - v.mean()) / v.std() for v in (x, y))
    full = np.zeros_like(distances, dtype=float)
    full[upper] = x
    full += full.T
    order = [rng.permutation(len(words)) for _ in range(permutations)]
    chance = np.array([full[o][:, o][upper] @ y for o in order]) / len(x)
    found = float(x @ y / len(x))
    return found, float(np.quantile(chance, 0.95)), float((1 + (chance >= found).sum()) / (1 + permutations))


def disentanglement(words: np.ndarray, features: list[np.ndarray]) -> float:
    """Positional disentanglement: mean over places of (largest - second information about a feature) / its entropy."""
    found = np.sort([information(words, values) for values in features], axis=0)
    H = np.array([float(entropy(np.bincount(w))) for w in words.T])
    return float(np.mean((found[-1] - found[-2])[H > 0] / H[H > 0])) if (H > 0).any() else 0.0


def changed_rows(dataset: AbstractionDataset, type_: int, feature: str, count: int, rng):
    """(from, to, elsewhere from, elsewhere to) rows (count, width): pairs that differ in one feature of the first object, or
    in the background; and other pairs with the same change elsewhere. None where the family has none."""
    family, p = dataset.params.families[type_], dataset.params
    column = -1 if feature == "background" else ("root", "row", "column").index(feature)
    high = (p.abs_n, p.places, p.places)[column] if column >= 0 else p.vocab_bck
    if high < 2 or not family.size:
        return None
    start, other = (family.unrank(rng.integers(family.size, size=count * 8)) for _ in range(2))
    goal = (start[:, column] + rng.integers(1, high, size=len(start))) % high
    rows = [start, start.copy(), other, other.copy()]
    rows[2][:, column] = start[:, column]
    rows[1][:, column] = rows[3][:, column] = goal
    if type_ == 1:
        apart = np.all([(abs(r[:, [1, 2]] - r[:, [4, 5]]) >= p.abs_dim).any(1) & (r[:, [1, 2]] != r[:, [4, 5]]).all(1)
                        for r in rows], axis=0)
        rows = [r[apart] for r in rows]
    return [r[:count] for r in rows] if len(rows[0]) >= 8 else None


def steering(speak, rebuild, dataset: AbstractionDataset, types: Sequence[int], rng, count: int = 200, draws: int = DRAWS,
             bar=iter) -> list[dict]:
    """Rows of the claim that words steer: of two boards that differ in one feature, the first one's sentence takes the words
    of the second at the places where they differ; how often the board rebuilt from it is exactly the second. As this makes
    the second's sentence, it is also done with the words of another pair that makes the same change elsewhere ('transfer').
    speak: boards (n, h, w) -> words (n, S); rebuild: words -> boards. Controls: as many random places; another pair's words.
    """
    rows = []
    cases = [(0, f) for f in ("background", "root", "row", "column")] + [(1, f) for f in ("background", "root")]
    for type_, feature in bar([case for case in cases if case[0] in types]):
        made = changed_rows(dataset, type_, feature, count, rng)
        if made is None:
            continue
        boards = [scenes_of(dataset, type_, r, rng).boards for r in made]
        start, goal, there, wanted = (speak(b) for b in boards)
        n, W = len(start), resample(len(start), rng, draws)
        differ, elsewhere = start != goal, there != wanted
        count_of = lambda where: np.argsort(rng.random(where.shape), 1).argsort(1) < where.sum(1, keepdims=True)  # noqa: E731
        another = rng.permutation(n)
        exact = lambda words, board: (rebuild(words) == board).all((1, 2))  # noqa: E731
        both = exact(start, boards[0]) & exact(goal, boards[1])
        tried = {
            "pair": {"": np.where(differ, goal, start), "as many random places": np.where(count_of(differ), goal, start),
                     "another pair's words": np.where(differ, goal[another], start)},
            "transfer": {"": np.where(elsewhere, wanted, start),
                         "another pair's words": np.where(elsewhere[another], wanted[another], start),
                         "as many random places": np.where(count_of(elsewhere), wanted, start)},
        }
        rebuilt = exact(goal, boards[1])
        for how, sentences in tried.items():
            right = {name: exact(words, boards[1]) for name, words in sentences.items()}
            scores = {name: ratio(r, np.ones(n), W) for name, r in right.items()}
            given = ratio(right[""] & both, both, W)
            low, high = interval(given)
            rows.append(judge("language steers", f"{feature} of {TYPES[type_]} boards, {how}", scores.pop(""),
                              scores | {"no word": ratio(exact(start, boards[1]), np.ones(n), W)},
                              ratio(rebuilt, np.ones(n), W), boards=n, **{"words that differ": differ.sum(1).mean(),
                              "given both rebuilt": given[0], "given low": low, "given high": high}))
    return rows


@dataclass
class Language:
    """A LEA run as the measurements see it: speak(boards, masks=None) -> words (n, S); rebuild(words) -> boards."""

    trainer: module_train_probe_lea.TrainTransformer

    def speak(self, boards: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        masks = np.zeros_like(boards) if masks is None else masks
        parts = [slice(start, start + 512) for start in range(0, len(boards), 512)]
        return np.concatenate([self.trainer.speaker_predict(boards[p], masks[p])[2].argmax(-1) for p in parts])

    def rebuild(self, words: np.ndarray) -> np.ndarray:
        parts = [self.trainer.speaker_predict_from_speech(words[start : start + 512]) for start in range(0, len(words), 512)]
        return np.concatenate(parts)


def data_entropy(dataset: AbstractionDataset, scenes: Scenes, proba) -> float:
    """Bits of a board as drawn for training: the rows' entropy minus what is left of it when the board is seen."""
    weights = {TYPES.index(name): p for name, p in zip(dataset.board_types, proba, strict=True) if p > 0}
    rows = sum(p * np.log2(dataset.params.families[t].size / p) for t, p in weights.items())
    left = [entropy(dataset.hypotheses(board, proba).weights) for board in scenes.boards]
    return float(rows - np.mean(left))


def language(lea, rng, size: int = 10_000, tests: int = 200, count: int = 200, draws: int = DRAWS,
             bar=iter) -> dict[str, list]:
    """Every table of a LEA run: facts, words_mi, words (claim: speaks of the features), steering (claim: steers), and under
    'dictionary' the boards that call for each much-used word."""
    dataset, speaker = lea.dataset, Language(lea)
    proba = [float(p) for p in lea._board_proba(lea.epochs)]
    types = [TYPES.index(name) for name, p in zip(dataset.board_types, proba, strict=True) if p > 0]
    params = lea.params | {"run_name": "", "device": str(lea.device)}
    untrained = Language(type(lea)(dataset, **params))
    shares = {TYPES.index(name): p for name, p in zip(dataset.board_types, proba, strict=True) if p > 0}
    fit = Scenes.join([scenes_of(dataset, t, random_rows(dataset, t, max(2, round(size * p)), rng), rng)
                       for t, p in shares.items()])
    fit = fit.take(rng.permutation(len(fit)))
    test = draw_scenes(dataset, dict.fromkeys(types, tests), "test", rng)
    words, test_words = speaker.speak(fit.boards), speaker.speak(test.boards)

    W = resample(len(test), rng, draws)
    right = speaker.rebuild(test_words) == test.boards
    facts = []

    def fact(what, score, **more):
        low, high = interval(score) if np.ndim(score) else (np.nan, np.nan)
        facts.append({"what": what, "value": np.ravel(score)[0], "low": low, "high": high} | more)

    for group in ("all", *(TYPES[t] for t in types)):
        use = np.ones(len(test)) if group == "all" else test.types == TYPES.index(group)
        fact(f"sentence to board, tokens, {group} boards", ratio(right.mean((1, 2)) * use, use, W))
        fact(f"sentence to board, whole boards, {group} boards", ratio(right.all((1, 2)) * use, use, W))
    _, first = np.unique(test.boards.reshape(len(test), -1), axis=0, return_index=True)
    _, said, times = np.unique(test_words[first], axis=0, return_inverse=True, return_counts=True)
    fact("distinct sentences / distinct boards", len(times) / len(first))
    fact("distinct boards with a sentence of their own", (times[said.ravel()] == 1).mean())
    fact("bits of the words: sum over places of H(word | place)", sum(float(entropy(np.bincount(w))) for w in words.T))
    fact("bits of the boards: the data's own entropy", data_entropy(dataset, fit.take(slice(300)), proba))
    masks = rng.random(test.boards.shape) < 0.2
    stays = (speaker.speak(test.boards, masks) == test_words).mean(1)
    other = (test_words[rng.permutation(len(test))] == test_words).mean(1)
    fact("words that stay when 20% of the cells are hidden", ratio(stays, np.ones(len(test)), W))
    fact("words shared with another board", ratio(other, np.ones(len(test)), W))

    features = scene_features(fit, dataset.params.abs_n)
    mi = word_information(words, features, rng, 50 if size >= 10_000 else 10, bar)
    joined = Scenes.join([fit, test])
    plain = untrained.speak(joined.boards)
    both = np.concatenate([words, test_words])
    sources = {"words": both, "untrained network": plain, "random codes": rng.permutation(both)}
    spoken = words_readout(sources, scene_features(joined, dataset.params.abs_n), len(fit), rng, draws)

    few = np.flatnonzero(test.types < 2)[:300]
    distances = scene_distances(test.take(few))
    lone = fit.types == 0
    for name, said in (("trained", test_words), ("untrained", plain[len(fit) :]),
                       ("random codes", rng.integers(lea.vocab_speech_size, size=test_words.shape))):
        found, chance, p = mantel(said[few], distances, rng) if len(few) > 2 else (np.nan,) * 3
        fact(f"topographic similarity, {name}", found, **{"95% of chance": chance, "p (Mantel)": p})
    if lone.sum() > 50:
        single = [fit.backgrounds[lone], *fit.objects[lone, 0].T]
        for name, said in (("trained", words), ("untrained", plain[: len(fit)]),
                           ("random codes", rng.integers(lea.vocab_speech_size, size=words.shape))):
            fact(f"positional disentanglement on single boards, {name}", disentanglement(said[lone], single))
    steered = steering(speaker.speak, speaker.rebuild, dataset, types, rng, count, draws, bar)
    return {"facts": facts, "words_mi": mi, "words": spoken, "steering": steered, "dictionary": [(words, fit)]}
