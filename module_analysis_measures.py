"""Measurements of what a network encodes (arXiv 2312.05361): scores with intervals, the rules of judgement, labelled scenes,
the ceiling, linear read-outs, convergence. Functions of arrays and of networks; module_analysis runs them all.

Axis letters: n boards, T cells, D width of a stage, V tokens, C classes, N cells chosen from boards, R bootstrap draws. A
*score* is an array (R + 1,): the measured value, then the same over boards drawn with replacement; `resample` makes the
weights that all the scores of a comparison share, so that their difference has an interval too.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

import module_train_probe
from module_dataset import TYPES, AbstractionDataset
from module_train_probe import evaluating

KNOWN = 0.99  # posterior from which an answer can be known
DRAWS = 500  # bootstrap draws
RIDGE = (1e-5, 1e-3, 1e-1)  # strengths, times the mean variance of a feature; chosen on boards of their own
CONTROL_CLASSES = 10  # of the control task
CROSSINGS = (("root", "background"), ("root", "place on the board"), ("root", "companion"), ("background", "root"),
             ("place in the root", "root"), ("row", "root"), ("column", "root"), ("composite", "background"),
             ("composite", "place on the board"))


# Scores, intervals, judgement


def resample(n: int, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """(draws + 1, n): how often each of n boards counts; once in the first row, then as drawn with replacement."""
    return np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), size=draws)])


def ratio(part: np.ndarray, whole: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Score of sum(part) / sum(whole) over boards, both (n,)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (W @ np.asarray(part, float)) / (W @ np.asarray(whole, float))


def interval(score: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of a score."""
    draws = score[1:][np.isfinite(score[1:])]
    return tuple(np.quantile(draws, [0.025, 0.975])) if len(draws) else (np.nan, np.nan)


def skill(predicted: np.ndarray, truth: np.ndarray, use: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Score of balanced accuracy above chance: 0 is what the majority class (or any constant answer) reaches, 1 is perfect.

    predicted, truth, use (n, T): over the cells in use; W (R + 1, n). NaN where fewer than two classes occur.
    """
    where, classes = np.nonzero(use)[0], np.unique(truth[use], return_inverse=True)
    C, n = len(classes[0]), len(truth)
    if C < 2:
        return np.full(len(W), np.nan)
    total = np.bincount(where * C + classes[1], minlength=n * C).reshape(n, C)
    right = np.bincount(where * C + classes[1], predicted[use] == truth[use], n * C).reshape(n, C)
    made = W @ total
    recall, drawn = (W @ right) / np.maximum(made, 1), made > 0
    with np.errstate(invalid="ignore"):
        accuracy = recall.sum(1, where=drawn) / drawn.sum(1)
    return (accuracy - 1 / C) / (1 - 1 / C)


def judge(claim: str, feature: str, effect: np.ndarray, controls: dict[str, np.ndarray], upper: np.ndarray | float = 1.0,
          counts: bool = True, **more) -> dict:
    """A row of a table. It holds where the 95% interval of effect minus its strongest control (by measured value) lies
    above 0 and the effect is at least half of its upper bound. counts: whether `verdict` looks at the row."""
    known = {name: score for name, score in controls.items() if np.isfinite(np.asarray(score).flat[0])}
    strongest = max(known, key=lambda name: known[name][0], default="")
    gain = effect - (known[strongest] if known else 0)
    upper = float(np.asarray(upper).flat[0])
    low, high = interval(effect)
    gain_low, gain_high = interval(gain)
    row = {"claim": claim, "feature": feature, **more, "effect": effect[0], "low": low, "high": high, "upper": upper,
           "strongest control": strongest, "gain": gain[0], "gain low": gain_low, "gain high": gain_high,
           "counts": counts, "holds": bool(gain_low > 0 and effect[0] >= upper / 2)}
    for name, score in controls.items():
        row[f"control: {name}"] = score[0]
    return row


def verdict(rows: Iterable[dict]) -> dict:
    """Of the rows of one claim, several seeds' together: holds, in part (and for what) or does not."""
    by_feature: dict[str, list[bool]] = {}
    for row in rows:
        if row["counts"]:
            by_feature.setdefault(row["feature"], []).append(row["holds"])
    holds = [name for name, seeds in by_feature.items() if all(seeds)]
    word = "holds" if holds and len(holds) == len(by_feature) else "in part" if holds else "does not"
    return {"verdict": word, "features": len(by_feature), "holding": len(holds),
            "seeds": max((len(seeds) for seeds in by_feature.values()), default=0), "holds for": "; ".join(holds),
            "not for": "; ".join(name for name in by_feature if name not in holds)}


# Scenes: boards and what is on them


@dataclass
class Scenes:
    """n boards and what is on them: boards (n, h, w); types (n,), 0 single, 1 double, 2 composition; composites (n,), index
    or -1; backgrounds (n,); objects (n, m, 3), root (-1: none), row and column, in drawing order; covers (n, T), object
    number x d * d + place in its footprint, -1 on the background."""

    boards: np.ndarray
    types: np.ndarray
    composites: np.ndarray
    backgrounds: np.ndarray
    objects: np.ndarray
    covers: np.ndarray

    def __len__(self) -> int:
        return len(self.boards)

    def take(self, which) -> Scenes:
        return Scenes(*(getattr(self, field.name)[which] for field in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[Scenes]) -> Scenes:
        m = max(part.objects.shape[1] for part in parts)
        wide = [replace(part, objects=np.pad(part.objects, ((0, 0), (0, m - part.objects.shape[1]), (0, 0)),
                                             constant_values=-1)) for part in parts]
        return cls(*(np.concatenate([getattr(part, field.name) for part in wide]) for field in fields(cls)))

    @property
    def corners(self) -> np.ndarray:
        """(n, m, 2), as Boards.corners."""
        return np.where(self.objects[..., :1] >= 0, self.objects[..., 1:], -1)


def scenes_of(dataset: AbstractionDataset, type_: int, rows: np.ndarray, rng) -> Scenes:
    """The scenes of rows (n, width) of a family."""
    root, row, col, bck = dataset._objects(type_, rows)
    boards, _ = dataset._draw(root, row, col, bck, root, rng)
    objects = np.stack([root, row, col], -1)
    composites = rows[:, 0] if type_ == 2 else np.full(len(rows), -1)
    return Scenes(boards, np.full(len(rows), type_), composites, bck, objects, dataset.covering(objects))


def draw_scenes(dataset: AbstractionDataset, counts: dict[int, int], split: str, rng) -> Scenes:
    """Scenes of a split, counts[type] of each type: different rows, all there are where that is fewer. Without a split, or
    where it is empty, rows of the whole family."""
    parts = []
    for type_, count in counts.items():
        table = dataset._table(type_, split)
        table = table if len(table) else dataset._table(type_, "train")
        few = len(table) <= 10 * count
        places = rng.permutation(len(table))[:count] if few else rng.integers(len(table), size=count)
        parts.append(scenes_of(dataset, type_, table.take(places), rng))
    return Scenes.join(parts)


def label_names(dataset: AbstractionDataset) -> dict[str, int]:
    """The labels of a cell and how many values each has."""
    p = dataset.params
    return {"background": p.vocab_bck, "object or not": 2, "root": p.abs_n, "place in the root": p.abs_dim**2,
            "composite": p.comp_n, "row": p.places, "column": p.places}


def labels_of(dataset: AbstractionDataset, objects, covers, composites, backgrounds) -> dict[str, np.ndarray]:
    """{label: (n, T)}, -1 where a cell has none: all but the first two belong to cells that an object covers; row and column
    are those of the object's corner."""
    d2, on = dataset.params.abs_dim**2, covers >= 0
    what = np.take_along_axis(objects, (np.maximum(covers, 0) // d2)[..., None], 1)  # (n, T, 3)
    cells = {"root": what[..., 0], "place in the root": covers % d2, "row": what[..., 1], "column": what[..., 2],
             "composite": np.broadcast_to(composites[:, None], covers.shape)}
    labels = {"background": np.repeat(backgrounds[:, None], covers.shape[1], 1), "object or not": on.astype(np.int64)}
    labels |= {name: np.where(on, values, -1) for name, values in cells.items()}
    return {name: labels[name] for name in label_names(dataset)}


def label_posterior(dataset: AbstractionDataset, masked_board: np.ndarray, proba=None) -> dict[str, np.ndarray]:
    """{label: (T, values + 1)}: the exact posterior of each cell's labels given the visible cells; the last column: none."""
    found = dataset.hypotheses(masked_board, proba)
    covers = dataset.covering(found.objects)
    labels = labels_of(dataset, found.objects, covers, found.composites, np.zeros(len(covers), np.int64))
    posterior = {}
    for name, C in label_names(dataset).items():
        cell = np.arange(covers.shape[1]) * (C + 1) + labels[name] % (C + 1)  # -1 becomes C
        weights = np.repeat(found.weights[:, None], covers.shape[1], 1)
        posterior[name] = np.bincount(cell.ravel(), weights.ravel(), covers.shape[1] * (C + 1)).reshape(-1, C + 1)
    posterior["background"][:] = 0
    posterior["background"][:, found.backgrounds] = 1 / len(found.backgrounds)
    return posterior


@dataclass
class Sample:
    """Masked scenes in three parts, to fit read-outs, to choose among them and to test, in this order (n,): scenes, masks
    (n, h, w), tokens (n, T) as the network sees them, labels {name: (n, T)}, known {name: (n, T)}: whether the posterior of
    the true label is at least KNOWN; n_fit, n_valid; groups (n,): which test board, masked several times, else -1."""

    scenes: Scenes
    masks: np.ndarray
    tokens: np.ndarray
    labels: dict[str, np.ndarray]
    known: dict[str, np.ndarray]
    n_fit: int
    n_valid: int
    groups: np.ndarray

    def weights(self, W: np.ndarray) -> np.ndarray:
        """W (R + 1, boards) for the masked test boards."""
        return W[:, self.groups[self.n_fit + self.n_valid :]]


def hide(dataset: AbstractionDataset, scenes: Scenes, rng, p: float = 0.25, patch_p: float = 0.5) -> np.ndarray:
    """Masks (n, h, w) as at the end of training."""
    return dataset.mask(scenes.boards, p, patch_p, scenes.types, scenes.corners, rng)[0]


def make_sample(dataset: AbstractionDataset, proba, rng, n_fit=1500, n_valid=300, n_test=60, rounds=4, bar=iter) -> Sample:
    """Boards of train to fit and to choose, n_test held-out boards of each type, masked `rounds` times, to test."""
    in_use = [TYPES.index(name) for name, p in zip(dataset.board_types, proba, strict=True) if p > 0]
    each = (n_fit + n_valid) // len(in_use)
    fit = Scenes.join([scenes_of(dataset, t, random_rows(dataset, t, each, rng), rng) for t in in_use])
    fit = fit.take(rng.permutation(len(fit)))
    n_valid = len(fit) * n_valid // (n_fit + n_valid)
    test = draw_scenes(dataset, dict.fromkeys(in_use, n_test), "test", rng)
    groups = np.concatenate([np.full(len(fit), -1), np.tile(np.arange(len(test)), rounds)])
    scenes = Scenes.join([fit] + [test] * rounds)
    masks = hide(dataset, scenes, rng)
    masked = np.where(masks, dataset.masking_token, scenes.boards)
    labels = labels_of(dataset, scenes.objects, scenes.covers, scenes.composites, scenes.backgrounds)
    known = {name: np.ones(values.shape, bool) for name, values in labels.items()}
    for b in bar(range(len(fit) - n_valid, len(scenes))):
        for name, posterior in label_posterior(dataset, masked[b], proba).items():
            known[name][b] = np.take_along_axis(posterior, labels[name][b][:, None], 1)[:, 0] >= KNOWN
    labels["hidden or visible"] = masks.reshape(len(masks), -1).astype(np.int64)
    known["hidden or visible"] = np.ones_like(labels["hidden or visible"], bool)
    return Sample(scenes, masks, masked.reshape(len(masked), -1), labels, known, len(fit) - n_valid, n_valid, groups)


def random_rows(dataset, type_, count, rng):
    """(count, width) rows of train, with repetition."""
    table = dataset._table(type_, "train")
    return table.take(rng.integers(len(table), size=count))


# Networks


class Network:
    """A trainer's network as the measurements see it. stages: names of recorded activations in the order of the stack;
    editable: those that can be replaced and that an attention still follows."""

    def __init__(self, trainer: module_train_probe.TrainTransformer):
        self.trainer = trainer
        n = trainer.n_layer
        self.stages = ["b0_z", *(f"b{i}_{stage}" for i in range(n) for stage in ("z_attn", "z_attn_mlp"))]
        self.editable = [f"b{i}_z_attn_mlp" for i in range(n - 1)]

    def run(self, tokens: np.ndarray, stages: Sequence[str] = (), edit: tuple | None = None):
        """Tokens (n, T) -> logits (n, T, V), {stage: (n, T, D)}. edit: (stage, values (n, T, D), where (n, T))."""
        logits, acts = [], {stage: [] for stage in stages}
        network, device = self.trainer.transformer, self.trainer.device
        for start in range(0, len(tokens), 512):
            part = slice(start, start + 512)
            edits = None
            if edit is not None:
                block, site = edit[0].split("_", 1)
                edits = {block: {site: (edit[1][part], edit[2][part])}}
            with evaluating(network), self.trainer.record(list(stages)) as found:
                logits.append(network(torch.from_numpy(tokens[part]).to(device), activations=edits).float().cpu().numpy())
            for stage in stages:
                acts[stage].append(found[stage].float().cpu().numpy())
        return np.concatenate(logits), {stage: np.concatenate(parts) for stage, parts in acts.items()}

    def untrained(self) -> Network:
        """The same network before its first step."""
        params = self.trainer.params | {"run_name": "", "device": str(self.trainer.device)}
        return Network(type(self.trainer)(self.trainer.dataset, **params))


# The ceiling


def ceiling(trainer, scenes: Scenes, proba, rng, rounds: int = 20, bar=iter) -> list[dict]:
    """Greedy reconstruction beside the best possible one, on the same boards and masks, `rounds` masks a board, by type.
    Avoidable error: mistakes, as a share of all tokens, on boards where the best picture has mass KNOWN or more."""
    dataset, n = trainer.dataset, len(scenes)
    counted = []
    for _ in bar(range(rounds)):
        masks = hide(dataset, scenes, rng)
        best = dataset.best_reconstruction(np.where(masks, dataset.masking_token, scenes.boards), proba)
        recons = trainer._reconstruct(scenes.boards, masks)[""]
        right = {"network": recons, "ceiling, cell by cell": best.marginal, "ceiling, whole board": best.board}
        right = {name: made == scenes.boards for name, made in right.items()}
        sure = best.mass >= KNOWN
        counted.append({name: np.stack([r.sum((1, 2)), (r & masks).sum((1, 2)), r.all((1, 2))]) for name, r in right.items()}
                       | {"whole": np.stack([np.full(n, masks[0].size), masks.sum((1, 2)), np.ones(n)]),
                          "avoidable": (~right["network"] & sure[:, None, None]).sum((1, 2)), "sure": sure})
    total = {name: np.sum([c[name] for c in counted], axis=0) for name in counted[0]}
    rows = []
    for group in ("all", *TYPES):
        use = np.ones(n, bool) if group == "all" else scenes.types == TYPES.index(group)
        if not use.any():
            continue
        W = resample(int(use.sum()), rng)
        for i, what in enumerate(("tokens", "hidden tokens", "boards")):
            row = {"boards": group, "n": int(use.sum()), "masks": rounds, "share of": what}
            for name in ("network", "ceiling, cell by cell", "ceiling, whole board"):
                score = ratio(total[name][i, use], total["whole"][i, use], W)
                row |= {name: score[0], f"{name}, low": interval(score)[0], f"{name}, high": interval(score)[1]}
            if i == 0:
                score = ratio(total["avoidable"][use], total["whole"][0, use], W)
                low, high = interval(score)
                row |= {"avoidable error": score[0], "avoidable, low": low, "avoidable, high": high,
                        "boards with a sure answer": total["sure"][use].mean() / rounds}
            rows.append(row)
    return rows


# Decodability


def ridge(X: np.ndarray, Y: np.ndarray) -> list[np.ndarray]:
    """Weights (F + 1, C), the last row an offset, of linear read-outs of Y (N, C) from X (N, F), one for each of RIDGE; from
    the products of features or, where there are fewer, of examples."""
    mean, mean_y = X.mean(0, dtype=np.float64), Y.mean(0, dtype=np.float64)
    x, y = (torch.from_numpy(values - m) for values, m in ((X, mean), (Y, mean_y)))
    dual = x.shape[0] < x.shape[1]
    gram, target = (x @ x.T, y) if dual else (x.T @ x, x.T @ y)
    scale = (gram.trace() / x.shape[1]).clamp_min(1e-30)
    found = []
    for strength in RIDGE:
        root = torch.linalg.cholesky(gram + strength * scale * torch.eye(len(gram), dtype=gram.dtype))
        solved = torch.cholesky_solve(target, root)
        weights = (x.T @ solved if dual else solved).numpy()
        found.append(np.concatenate([weights, (mean_y - mean @ weights)[None]]).astype(np.float32))
    return found


def predict(features: np.ndarray, labels: dict[str, np.ndarray], train: np.ndarray, n_fit: int) -> dict[str, np.ndarray]:
    """Linear read-outs of all labels {name: (n, T)} at once, fitted on the cells in train (n, T) of the first n_fit boards:
    {name: (strengths, n - n_fit, T)} for the others. features (n, T, D) of cells, or (n, F) of boards, from which every cell
    then has read-outs of its own."""
    T, names = train.shape[1], list(labels)
    counts = [int(labels[name].max()) + 1 for name in names]
    ends = np.cumsum(counts)
    rows = np.nonzero(train[:n_fit]) if features.ndim == 3 else np.nonzero(train[:n_fit].any(1))
    Y = np.zeros((n_fit, T, ends[-1]), np.float32)
    for name, end, count in zip(names, ends, counts, strict=True):
        b, t = np.nonzero(train[:n_fit] & (labels[name][:n_fit] >= 0))
        Y[b, t, end - count + labels[name][b, t]] = 1
    X, rest = features[:n_fit][rows], features[n_fit:]
    made = {name: [] for name in names}
    for weights in ridge(X, Y[rows].reshape(len(X), -1)):
        scores = (rest.reshape(-1, rest.shape[-1]) @ weights[:-1] + weights[-1]).reshape(len(rest), T, -1)
        for name, end, count in zip(names, ends, counts, strict=True):
            made[name].append(scores[..., end - count : end].argmax(-1))
    return {name: np.array(parts) for name, parts in made.items()}


def readouts(stages: dict[str, np.ndarray], labels: dict, train: np.ndarray, n_fit: int, n_valid: int, chosen: dict,
             tested: dict, W: np.ndarray) -> dict[tuple, dict[str, tuple]]:
    """{(label, condition): {stage: (skill on the boards to choose by, score on the test boards)}}; the strength of ridge is
    chosen there too. chosen, tested {condition: {label: (n - n_fit, T) bool}}: cells that count."""
    found: dict[tuple, dict] = {}
    for stage, features in stages.items():
        for name, made in predict(features, labels, train, n_fit).items():
            truth = labels[name][n_fit:]
            for condition in tested:
                use, one = chosen[condition][name][:n_valid], np.ones((1, n_valid))
                valid = [skill(p[:n_valid], truth[:n_valid], use, one)[0] for p in made]
                k = int(np.argmax(np.nan_to_num(valid, nan=-np.inf)))
                test = skill(made[k][n_valid:], truth[n_valid:], tested[condition][name][n_valid:], W)
                found.setdefault((name, condition), {})[stage] = (valid[k], test)
    return found


def best_stage(stages: dict[str, tuple]) -> tuple[str, np.ndarray]:
    """(stage, score on the test boards) of the stage that was best on the boards to choose by."""
    stage = max(stages, key=lambda stage: np.nan_to_num(stages[stage][0], nan=-np.inf))
    return stage, stages[stage][1]


def input_features(tokens: np.ndarray, vocab: int) -> dict[str, dict[str, np.ndarray]]:
    """What a read-out could use without any network: a cell's own token and position, one-hot; the whole masked board."""
    n, T = tokens.shape
    one_hot = np.eye(vocab, dtype=np.float32)[tokens]
    own = np.concatenate([one_hot, np.broadcast_to(np.eye(T, dtype=np.float32), (n, T, T))], -1)
    return {"own token and position": {"": own}, "whole masked board": {"": one_hot.reshape(n, -1)}}


def decodability(sources: dict[str, dict[str, np.ndarray]], sample: Sample, W: np.ndarray, rng) -> tuple[list, list]:
    """Rows of the claim that every label can be read off linearly, hidden and visible cells apart; its curves over stages.

    sources: {'network': {stage: (n, T, D)}, control: {stage: features}}. The stage is chosen on boards of its own. The
    control task: each (true token, position) has a random class, as in Hewitt and Liang 2019; its skill at that stage is a
    control, so gain over it is selectivity.
    """
    n_fit, n_valid, W = sample.n_fit, sample.n_valid, sample.weights(W)
    tokens = sample.scenes.boards.reshape(len(sample.scenes), -1)
    random = rng.integers(CONTROL_CLASSES, size=(tokens.shape[1], tokens.max() + 1))
    labels = {name: values for name, values in sample.labels.items() if (values[:n_fit] >= 0).any()}
    labels["control task"] = random[np.arange(tokens.shape[1]), tokens]
    hidden = sample.masks.reshape(tokens.shape)
    every = np.ones_like(hidden)
    uses = {name: {label: (where & sample.known.get(label, every) & (labels[label] >= 0))[n_fit:] for label in labels}
            for name, where in (("hidden", hidden), ("visible", ~hidden), ("all", every))}
    whole = ("hidden or visible", "control task")
    uses["all"] = {label: use & (label in whole) for label, use in uses["all"].items()}
    found = {source: readouts(stages, labels, every, n_fit, n_valid, uses, uses, W) for source, stages in sources.items()}
    rows, curves = [], []
    for label, condition in found["network"]:
        if (label == "hidden or visible") != (condition == "all"):
            continue
        for source, scores in found.items():
            for stage, (_, score) in scores[label, condition].items():
                low, high = interval(score)
                curves.append({"label": label, "cells": condition, "source": source, "stage": stage, "skill": score[0],
                               "low": low, "high": high})
        if label == "control task":
            continue
        stage, effect = best_stage(found["network"][label, condition])
        if np.isnan(effect[0]):
            continue
        controls = {"majority class": np.zeros_like(effect),
                    "control task": found["network"]["control task", condition][stage][1]}
        controls |= {source: best_stage(found[source][label, condition])[1] for source in found if source != "network"}
        rows.append(judge("encodes every feature", f"{label}, {condition} cells", effect, controls, stage=stage,
                          counts=condition != "all", cells=int(uses[condition][label][n_valid:].sum())))
    return rows, curves


def conditions_of(sample: Sample, dataset: AbstractionDataset) -> dict[str, np.ndarray]:
    """{what divides contexts: (n, T)}: 0 or 1, the half a cell's context belongs to; -1 in neither."""
    labels, objects, d2 = sample.labels, sample.scenes.objects, dataset.params.abs_dim**2
    shape = labels["root"].shape
    one = np.minimum(objects[:, :1, 0], 0) + objects[:, :1, 0] % 2  # half of the first object's root
    halves = {"background": labels["background"] % 2, "root": np.where(labels["root"] >= 0, labels["root"] % 2, one),
              "place on the board": np.where(labels["row"] >= 0, (labels["row"] + labels["column"]) % 2, -1)}
    halves["companion"] = np.full(shape, -1)
    if objects.shape[1] > 1:
        other = objects[np.arange(len(objects))[:, None], 1 - np.clip(sample.scenes.covers // d2, 0, 1), 0]
        double = (sample.scenes.types == 1)[:, None] & (labels["root"] >= 0)
        halves["companion"] = np.where(double, other % 2, -1)
    return halves


def generalisation(sources: dict, sample: Sample, halves: dict[str, np.ndarray], W: np.ndarray, crossings=CROSSINGS,
                   bar=iter, rng=None) -> list[dict]:
    """Rows of the claim that the codes are abstract: read-outs fitted in one half of the contexts, tested in the other, both
    ways (Bernardi et al. 2020); upper bound: fitted in both halves. Beside it the parallelism score at that stage: the mean
    cosine between the two contexts' differences of class means, and the same with classes shuffled."""
    n_fit, n_valid, W = sample.n_fit, sample.n_valid, sample.weights(W)
    rows = []
    for label, condition in bar(crossings):
        values, half = sample.labels[label], halves[condition]
        if condition == "root" and label == "background":
            half = np.where((sample.scenes.types == 0)[:, None], half, -1)
        usable = (half >= 0) & (values >= 0) & sample.known[label]
        if not all((usable[part] & (half[part] == h)).any() for h in (0, 1) for part in (slice(n_fit), slice(n_fit, None))):
            continue
        one, scores, upper = {label: values}, {source: [] for source in sources}, None
        for h in (0, 1, None):
            train = usable if h is None else usable & (half == h)
            test = usable if h is None else usable & (half == 1 - h)
            for source, stages in sources.items() if h is not None else [("network", sources["network"])]:
                chosen, tested = ({"": {label: use[n_fit:]}} for use in (train, test))
                found = readouts(stages, one, train, n_fit, n_valid, chosen, tested, W)[label, ""]
                stage, score = best_stage(found)
                if h is None:
                    upper = score
                else:
                    scores[source].append(score)
        scores = {source: np.mean(parts, axis=0) for source, parts in scores.items()}
        if np.isnan(scores["network"][0]):
            continue
        parallel = {source: parallelism(sources[source][stage], values, half, usable, rng)
                    for source in ("network", "untrained network") if stage in sources.get(source, {})}
        rows.append(judge("abstract", f"{label} across {condition}", scores.pop("network"), scores, upper, stage=stage,
                          parallelism=parallel["network"][0], **{"parallelism, shuffled": parallel["network"][1],
                          "parallelism, untrained": parallel.get("untrained network", (np.nan,))[0]}))
    return rows


def parallelism(features, values, half, usable, rng) -> tuple[float, float]:
    """Parallelism score of a label across two halves of the contexts, and with classes shuffled within each half."""
    scores = []
    for shuffled in (False, True):
        means = []
        for h in (0, 1):
            use = usable & (half == h)
            X, y = features[use], rng.permutation(values[use]) if shuffled else values[use]
            means.append({c: X[y == c].mean(0) for c in np.unique(y)})
        common = sorted(set(means[0]) & set(means[1]))
        a, b = (np.array([m[i] - m[j] for i in common for j in common if i < j]) for m in means)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) if len(a) else np.ones(0)
        scores.append(float(np.mean((a * b).sum(1) / np.maximum(lengths, 1e-30))) if len(a) else np.nan)
    return tuple(scores)


# Convergence


def unit(features: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) centred and of unit length."""
    centred = features - features.mean(0)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def nearness(X: np.ndarray, root: np.ndarray, token: np.ndarray, board: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Score of the mean cosine between cells of the same root with different tokens, minus that between cells of different
    roots with the same token; pairs from different boards. Above 0 the first pairs are the nearer ones.

    X (N, D) of unit length; root, token, board (N,); W (R + 1, boards).
    """
    n, R, K = W.shape[1], root.max() + 1, token.max() + 1
    key = (board * R + root) * K + token
    sums, counts = np.zeros((n * R * K, X.shape[1])), np.bincount(key, minlength=n * R * K).astype(float)
    np.add.at(sums, key, X)
    X, one = sums.reshape(n, R, K, -1), counts.reshape(n, R, K, 1)

    def squares(x, w):  # for each axis summed over: squared sums, all boards together minus each board with itself
        joined = np.tensordot(w, x, 1)
        own = [(w**2 @ (part**2).reshape(n, -1).sum(1)) for part in (x.sum(2), x.sum(1), x)]
        whole = [(part**2).reshape(len(w), -1).sum(1) for part in (joined.sum(2), joined.sum(1), joined)]
        by_root, by_token, by_both = (a - b for a, b in zip(whole, own, strict=True))
        return by_root - by_both, by_token - by_both

    parts = [(squares(X, w), squares(one, w)) for w in np.array_split(W, len(W) // 50 + 1)]
    (same_root, same_token), (n_root, n_token) = ([np.concatenate(p) for p in zip(*side, strict=True)]
                                                  for side in zip(*parts, strict=True))
    n_root, n_token = (np.where(n > 0, n, np.nan) for n in (n_root, n_token))
    return same_root / n_root - same_token / n_token


def dimension(moments: np.ndarray) -> np.ndarray:
    """Participation ratio (…,) of covariances (…, D, D): the number of directions over which variance is spread."""
    return np.trace(moments, axis1=-2, axis2=-1) ** 2 / np.maximum((moments**2).sum((-2, -1)), 1e-30)


def dimensions(X: np.ndarray, labels: np.ndarray, board: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the participation ratio of the class means, and of a class's own cells (mean over classes). Drawing boards
    twice makes it smaller, so the draws are moved to have the measured value as their mean.
    X (N, D); labels, board (N,); W (R + 1, boards)."""
    classes = np.unique(labels)
    made = []
    for w in W:
        weight, means, own = w[board], [], []
        for c in classes:
            x, v = X[labels == c], weight[labels == c]
            if v.sum() > 1:
                means.append(v @ x / v.sum())
                x = x - means[-1]
                own.append(dimension((x * v[:, None]).T @ x))
        spread = np.array(means) - np.mean(means, axis=0)
        made.append((dimension(spread.T @ spread), np.mean(own)))
    scores = np.array(made).T
    scores[:, 1:] += scores[:, :1] - scores[:, 1:].mean(1, keepdims=True)
    return tuple(scores)


def object_cells(sample: Sample, hidden: bool, most: int = 400) -> tuple[np.ndarray, ...]:
    """(board (N,), cell (N,), root (N,), token (N,)) of object cells, hidden or visible, of at most `most` test boards."""
    first = sample.n_fit + sample.n_valid
    part = slice(first, first + most)
    tokens = sample.scenes.boards.reshape(len(sample.scenes), -1)[part]
    token = tokens - tokens[sample.labels["place in the root"][part] >= 0].min()
    use = (sample.labels["root"][part] >= 0) & (sample.masks.reshape(len(sample.masks), -1)[part] == hidden) & (token >= 0)
    board, cell = np.nonzero(use & sample.known["root"][part])
    return board, cell, sample.labels["root"][part][board, cell], token[board, cell]


def convergence(sources: dict, sample: Sample, W: np.ndarray, rng, draws: int = 100) -> tuple[list, list]:
    """Rows of the claim that tokens of the same root transiently converge on low-dimensional manifolds, and the curves.

    The stage is chosen on one half of the boards and judged on the other. Upper bounds: nearness, that of a code of the root
    alone; transience, a complete return to the first stage's value; dimension, 1 instead of that of random classes.
    """
    first = sample.n_fit + sample.n_valid
    groups, n_boards, rows, curves = sample.groups[first:][:400], W.shape[1], [], []
    W = W[: draws + 1]
    half = rng.permutation(n_boards) % 2
    for hidden in (False, True):
        cells = "hidden cells" if hidden else "visible cells"
        board, cell, root, token = object_cells(sample, hidden)
        if len(np.unique(root)) < 2 or len(np.unique(token)) < 2:
            continue
        near: dict[str, dict] = {}
        sizes: dict[str, dict] = {}
        shuffled = rng.permutation(root)
        for source in ("network", "untrained network"):
            for stage, features in sources.get(source, {}).items():
                X = unit(features[first:][board, cell].astype(np.float64))
                scores = [nearness(X, root, token, groups[board], w) for w in (W * (half == 0), W * (half == 1), W)]
                near.setdefault(source, {})[stage] = scores
                made = (dimensions(X, labels, groups[board], W[: draws // 4 + 1]) for labels in (root, shuffled))
                with np.errstate(invalid="ignore", divide="ignore"):
                    sizes.setdefault(source, {})[stage] = [1 - true / chance for true, chance in zip(*made, strict=True)]
                low, high = interval(scores[2])
                curves.append({"cells": cells, "source": source, "stage": stage, "nearness": scores[2][0], "low": low,
                               "high": high, "smaller class means": sizes[source][stage][0][0],
                               "smaller classes": sizes[source][stage][1][0]})
        stages = list(near["network"])
        bound = 1 + 1 / (len(np.unique(root)) - 1)
        peak = max(stages, key=lambda s: near["network"][s][0][0])
        inner = max(stages[1:-1], key=lambda s: near["network"][s][0][0], default=peak)
        untrained = {s: near["untrained network"][s][1] for s in stages} if "untrained network" in near else {}
        rows.append(judge("converges transiently", f"nearer by root than by token, {cells}", near["network"][peak][1],
                          {"as near": np.zeros(len(W))} | ({"untrained network": untrained[peak]} if untrained else {}),
                          bound, stage=peak))
        start, top, end = (near["network"][s][1] for s in (stages[0], inner, stages[-1]))
        controls = {"stays": np.zeros(len(W))}
        if untrained:
            controls["untrained network"] = untrained[inner] - np.maximum(untrained[stages[0]], untrained[stages[-1]])
        rows.append(judge("converges transiently", f"an extremum inside the stack, {cells}", top - np.maximum(start, end),
                          controls, top[0] - start[0], stage=inner))
        for i, what in enumerate(("class means in fewer dimensions", "each class in fewer dimensions")):
            effect = sizes["network"][peak][i]
            controls = {"random classes": np.zeros(len(effect))}
            if untrained:
                controls["untrained network"] = sizes["untrained network"][peak][i]
            rows.append(judge("converges transiently", f"{what}, {cells}", effect, controls, stage=peak))
    return rows, curves
