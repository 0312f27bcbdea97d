"""What the paper (arXiv 2312.05361) claims of such networks, measured on trained runs, with controls, and judged.

    python module_analysis.py runs/<run> [more runs = seeds] [--lea runs/<lea_run>] [--quick]

writes runs/<run>/analysis/: a CSV a table, a PNG a figure and report.md. The measurements are this project's operational
definitions of what the abstract claims, not reproductions of the paper's figures. The rules of judgement, `judge` and
`verdict`, were fixed before any number was seen.

Axis letters: n boards, T cells, V tokens, D width of a stage, m objects, c cells that may be edited, C classes or values of a
feature, N cells chosen from boards, R bootstrap draws, S words of a sentence, K words of the codebook. A *score* is an array
(R + 1,): the measured value, then the same over boards drawn with replacement; `resample` makes the weights that all the scores
of a comparison share, so that their difference has an interval too.
"""
from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

import module_train_probe
import module_train_probe_lea
from module_dataset import TYPES, AbstractionDataset
from module_train_probe import evaluating
from utils import atomic_write, draw_board, new_figure, numpy_rng, progress_bar, read_json, save_figure, token_colors

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


# Manipulation


@dataclass
class Swaps:
    """Boards and the donors of what they are given. tokens {who: (n, T)} masked, for who = base, donor (another root in its
    place), third (yet another one), same (the same root on another board); cells (n, c), the cells that may be edited, and
    same_cells, those of `same`; edit (n, c) bool, which are; read (n, T), hidden cells, not edited, where base and donor
    differ; away (n, T), cells on which the swap should do nothing; base, donor (n, T) whole boards; kinds: root x d * d +
    place of each of cells, (n, c), in base and in donor."""

    tokens: dict[str, np.ndarray]
    cells: np.ndarray
    same_cells: np.ndarray
    edit: np.ndarray
    read: np.ndarray
    away: np.ndarray
    base: np.ndarray
    donor: np.ndarray
    kinds: tuple[np.ndarray, np.ndarray]

    def __len__(self) -> int:
        return len(self.base)


def footprints(dataset: AbstractionDataset, objects: np.ndarray) -> np.ndarray:
    """Cells (n, m * d * d) of objects (n, m, 3), object by object; -1 for one that is not there."""
    h, d = dataset.params.board_dim, dataset.params.abs_dim
    footprint = (np.arange(d)[:, None] * h + np.arange(d)).ravel()
    cells = objects[..., 1, None] * h + objects[..., 2, None] + footprint
    return np.where(objects[..., :1] >= 0, cells, -1).reshape(len(objects), -1)


def root_swaps(dataset: AbstractionDataset, type_: int, count: int, rng) -> Swaps | None:
    """Swaps of the first root of single (type_ 0) or double boards (1) whose objects do not overlap: a third of its cells is
    hidden, the visible ones are edited. None where too few such boards can be made."""
    p, d2 = dataset.params, dataset.params.abs_dim**2
    if p.abs_n < 3:
        return None
    table = dataset._table(type_, "test" if dataset.sets is not None else "train")
    table = table if len(table) else dataset._table(type_, "train")
    rows = table.take(rng.integers(len(table), size=12 * count))
    if type_ == 1:
        rows = rows[(abs(rows[:, [1, 2]] - rows[:, [4, 5]]) >= p.abs_dim).any(1)]
    others = (rows[:, 0, None] + np.argsort(rng.random((len(rows), p.abs_n - 1)), axis=1)[:, :2] + 1) % p.abs_n
    elsewhere = rows.copy()
    if type_ == 0:
        elsewhere[:, 1:] = rng.integers([p.places, p.places, p.vocab_bck], size=(len(rows), 3))
    else:
        elsewhere = rows[rng.permutation(len(rows))]
        elsewhere[:, 0] = rows[:, 0]
    made = {"base": rows, "donor": rows.copy(), "third": rows.copy(), "same": elsewhere}
    made["donor"][:, 0], made["third"][:, 0] = others.T
    scenes = {who: scenes_of(dataset, type_, r, rng) for who, r in made.items()}
    boards = {who: s.boards.reshape(len(rows), -1) for who, s in scenes.items()}
    cells, same_cells = (footprints(dataset, scenes[who].objects[:, :1]) for who in ("base", "same"))
    gone, at = rng.random(cells.shape) < 1 / 3, np.arange(len(rows))[:, None]
    masks = {}
    for who, c in (("base", cells), ("same", same_cells)):
        masks[who] = rng.random(boards["base"].shape) < 0.25
        masks[who][at, c] = gone
    masks["donor"] = masks["third"] = masks["base"]
    differ = boards["base"] != boards["donor"]
    inside = np.zeros(differ.shape, bool)
    inside[at, cells] = True
    read, seen = differ & masks["base"] & inside, differ & ~masks["base"] & inside
    keep = np.flatnonzero(read.any(1) & (seen.sum(1) >= 2))[:count]
    if len(keep) < 2:
        return None
    tokens = {who: np.where(masks[who], dataset.masking_token, boards[who])[keep] for who in boards}
    kinds = tuple(made[who][keep, 0, None] * d2 + np.arange(d2) for who in ("base", "donor"))
    return Swaps(tokens, cells[keep], same_cells[keep], ~gone[keep], read[keep], ~inside[keep], boards["base"][keep],
                 boards["donor"][keep], kinds)


def composite_swaps(dataset: AbstractionDataset, count: int, rng, swapped: int | None = None) -> Swaps | None:
    """Swaps of `swapped` visible constituents (None: all) of a composite, one root of which is wholly hidden, by those of
    another composite at the same place: read is the hidden root. None without three composites that fit the board."""
    p, d2 = dataset.params, dataset.params.abs_dim**2
    family = p.families[2]
    if "composition" not in p.board_types or not family.size or p.comp_n < 3:
        return None
    rows = family.unrank(rng.integers(family.size, size=12 * count))
    others = (rows[:, 0, None] + np.argsort(rng.random((len(rows), p.comp_n - 1)), axis=1)[:, :2] + 1) % p.comp_n
    made = {who: rows.copy() for who in ("base", "donor", "third", "same")}
    made["donor"][:, 0], made["third"][:, 0] = others.T
    places = family.shape[1]
    made["same"][:, 1:] = rng.integers([places, places, p.vocab_bck], size=(len(rows), 3))
    scenes = {who: scenes_of(dataset, 2, r, rng) for who, r in made.items()}
    boards = {who: s.boards.reshape(len(rows), -1) for who, s in scenes.items()}
    here = {who: s.objects[..., 0] >= 0 for who, s in scenes.items()}
    shared = here["base"] & here["donor"] & here["third"]  # slots that all three use
    rank = np.where(shared, rng.random(shared.shape), 2).argsort(1).argsort(1)
    gone, at = rank.argmin(1), np.arange(len(rows))[:, None]
    chosen = shared & (rank >= 1) & (rank <= (swapped or rank.size))
    cells, same_cells = (footprints(dataset, scenes[who].objects) for who in ("base", "same"))
    hidden = np.zeros(boards["base"].shape, bool)
    whole = cells.reshape(len(rows), -1, d2)[at[:, 0], gone]
    hidden[at, whole] = True
    masks = {who: hidden for who in ("base", "donor", "third")}
    masks["same"] = np.zeros_like(hidden)
    masks["same"][at, same_cells.reshape(len(rows), -1, d2)[at[:, 0], gone]] = True
    read = hidden & (boards["base"] != boards["donor"])
    keep = np.flatnonzero(read.any(1) & chosen.any(1) & (cells >= 0).any(1))[:count]
    if len(keep) < 2:
        return None
    away = np.ones_like(hidden)
    away[at, np.maximum(cells, 0)] &= cells < 0
    edit = np.repeat(chosen, d2, axis=1) & (cells >= 0)
    tokens = {who: np.where(masks[who], dataset.masking_token, boards[who])[keep] for who in boards}
    roots = (np.maximum(np.repeat(scenes[who].objects[..., 0], d2, axis=1), 0) for who in ("base", "donor"))
    kinds = tuple((r * d2 + np.tile(np.arange(d2), shared.shape[1]))[keep] for r in roots)
    return Swaps(tokens, np.maximum(cells, 0)[keep], np.maximum(same_cells, 0)[keep], edit[keep], read[keep], away[keep],
                 boards["base"][keep], boards["donor"][keep], kinds)


def placed(values: np.ndarray, cells: np.ndarray, base: np.ndarray) -> np.ndarray:
    """base (n, T, D) with values (n, c, D) at cells (n, c)."""
    out = base.copy()
    out[np.arange(len(base))[:, None], cells] = values
    return out


def swap_rows(network, swaps: Swaps, where: str, claim: str, rng, draws: int = DRAWS, means: dict | None = None,
              donors: dict[str, np.ndarray] | None = None, untrained=None, stages=None) -> list[dict]:
    """Rows on what swapping activations at one stage does to cells that were not edited.

    effect: share of boards on which every cell in read shows the donor's token (exact success). Upper bound: the donor's
    tokens in the input instead. moved: (patched - clean) / (donor - clean) of the difference of the two tokens' logits.
    collateral: share of the cells in away whose reconstruction changes. means {stage: (roots * d * d, D)}: the class means
    of a second method, adding their difference. donors: other tokens (n, T) to take the donor's activations from.
    """
    n, at = len(swaps), np.arange(len(swaps))[:, None]
    stages = list(network.editable) if stages is None else stages
    clean, acts = network.run(swaps.tokens["base"], stages)
    wanted, given = network.run(swaps.tokens["donor"], stages)
    third, same = (network.run(swaps.tokens[who], stages)[1] for who in ("third", "same"))
    if donors is not None:
        given = network.run(donors, stages)[1]
    edit = np.zeros(swaps.base.shape, bool)
    b, c = np.nonzero(swaps.edit)
    edit[b, swaps.cells[b, c]] = True
    W = resample(n, rng, draws)
    difference = lambda logits: np.where(swaps.read, (  # noqa: E731
        np.take_along_axis(logits, swaps.donor[..., None], 2) - np.take_along_axis(logits, swaps.base[..., None], 2)
    )[..., 0], 0).sum(1)
    success = lambda logits: ((logits.argmax(-1) == swaps.donor) | ~swaps.read).all(1)  # noqa: E731
    before, whole = difference(clean), difference(wanted) - difference(clean)
    upper, rows = ratio(success(wanted), np.ones(n), W), []
    for stage in stages:
        mine, theirs = acts[stage][at, swaps.cells], given[stage][at, swaps.cells]
        edited = mine[swaps.edit]
        cloud = np.linalg.svd(edited - edited.mean(0), full_matrices=False)
        noise = rng.standard_normal((*mine.shape[:2], len(cloud[1]))) * cloud[1] / np.sqrt(max(len(edited) - 1, 1))
        order = np.where(swaps.edit, rng.random(swaps.edit.shape), 2).argsort(1)  # edited places, shuffled, come first
        target = np.where(swaps.edit, 0, 1).argsort(1, kind="stable")
        permuted = theirs.copy()
        np.put_along_axis(permuted, target[..., None], np.take_along_axis(theirs, order[..., None], 1), 1)
        methods = {"swap": theirs, "a third root": third[stage][at, swaps.cells],
                   "noise": (noise @ cloud[2] + edited.mean(0)).astype(np.float32), "permuted places": permuted,
                   "the same root": same[stage][at, swaps.same_cells]}
        if means is not None:
            methods["difference of class means"] = mine + means[stage][swaps.kinds[1]] - means[stage][swaps.kinds[0]]
        scores, moved, collateral = {}, {}, {}
        for name, values in methods.items():
            logits, _ = network.run(swaps.tokens["base"], (), (stage, placed(values, swaps.cells, acts[stage]), edit))
            scores[name] = ratio(success(logits), np.ones(n), W)
            moved[name] = ratio(difference(logits) - before, whole, W)
            changed = (logits.argmax(-1) != clean.argmax(-1)) & swaps.away
            collateral[name] = ratio(changed.sum(1), swaps.away.sum(1), W)
        done = ["swap"] + ["difference of class means"] * (means is not None)
        controls = {name: score for name, score in scores.items() if name not in done}
        controls["nothing"] = ratio(success(clean), np.ones(n), W)
        if untrained is not None:
            tokens = untrained.run(swaps.tokens["base"], [stage])
            theirs = untrained.run(swaps.tokens["donor"], [stage])[1][stage][at, swaps.cells]
            logits, _ = untrained.run(swaps.tokens["base"], (), (stage, placed(theirs, swaps.cells, tokens[1][stage]), edit))
            controls["untrained network"] = ratio(success(logits), np.ones(n), W)
        for name in done:
            low, high = interval(moved[name])
            rows.append(judge(claim, f"{name}, {where}, {stage}", scores[name], controls, upper, stage=stage, boards=n,
                              counts=name == "swap", moved=moved[name][0], **{"moved low": low, "moved high": high,
                              "collateral": collateral[name][0],
                              "moved, strongest control": max(moved[c][0] for c in controls if c in moved)}))
    return rows


def class_means(network, dataset: AbstractionDataset, scenes: Scenes, rng) -> dict[str, np.ndarray]:
    """{stage: (roots * d * d, D)}: mean activation of a visible cell of each root at each place of its footprint."""
    d2 = dataset.params.abs_dim**2
    masks = hide(dataset, scenes, rng).reshape(len(scenes), -1)
    tokens = np.where(masks, dataset.masking_token, scenes.boards.reshape(masks.shape))
    labels = labels_of(dataset, scenes.objects, scenes.covers, scenes.composites, scenes.backgrounds)
    use = (labels["root"] >= 0) & ~masks
    kind = (labels["root"] * d2 + labels["place in the root"])[use]
    counts = np.maximum(np.bincount(kind, minlength=dataset.params.abs_n * d2), 1)
    means = {}
    for stage, acts in network.run(tokens, network.editable)[1].items():
        sums = np.zeros((len(counts), acts.shape[-1]))
        np.add.at(sums, kind, acts[use])
        means[stage] = (sums / counts[:, None]).astype(np.float32)
    return means


# Compositionality


def composition(network, untrained, dataset: AbstractionDataset, sources, sample: Sample, W, proba, rng, count: int = 200,
                draws: int = DRAWS, bar=iter) -> tuple[list, list]:
    """Rows of the claim that codes are compositional: read-outs and swaps learnt on single boards, applied to others; the
    hidden root of a composite; that root when visible constituents are swapped. And a table of what it becomes."""
    rows, outcomes, types = [], [], sample.scenes.types[:, None]
    contexts = {name: np.where(types == 0, 0, np.where(types == t, 1, -1)) * np.ones_like(sample.labels["root"])
                for t, name in ((1, "double boards"), (2, "composites")) if (types == t).any() and (types == 0).any()}
    n_fit, n_valid, weights = sample.n_fit, sample.n_valid, sample.weights(W)
    for name, half in contexts.items():
        label = {"root": sample.labels["root"]}
        usable = (label["root"] >= 0) & sample.known["root"]
        scores = {}
        for source, stages in sources.items():
            chosen, tested = ({"": {"root": (usable & (half == h))[n_fit:]}} for h in (0, 1))
            found = readouts(stages, label, usable & (half == 0), n_fit, n_valid, chosen, tested, weights)
            scores[source] = best_stage(found["root", ""])
        within = {"": {"root": (usable & (half == 1))[n_fit:]}}
        upper = best_stage(readouts(sources["network"], label, usable & (half == 1), n_fit, n_valid, within, within,
                                    weights)["root", ""])[1]
        stage, effect = scores.pop("network")
        rows.append(judge("compositional", f"read-out of the root learnt on single boards, on {name}", effect,
                          {source: score for source, (_, score) in scores.items()}, upper, stage=stage))
    if (types == 0).any() and 1 in sample.scenes.types:
        swaps = root_swaps(dataset, 1, count, rng)
        if swaps is not None:
            singles = Scenes.join([scenes_of(dataset, 0, random_rows(dataset, 0, 4 * count, rng), rng)])
            means = class_means(network, dataset, singles, rng)
            seen = swaps.away & (swaps.tokens["donor"] != dataset.masking_token)
            backgrounds = (swaps.base[..., None] == np.arange(dataset.params.vocab_bck)).sum(1).argmax(1)
            alone = np.where(seen, backgrounds[:, None], swaps.tokens["donor"])
            made = swap_rows(network, swaps, "from single boards into double ones", "compositional", rng, draws, means,
                             donors=alone)
            rows += [row | {"counts": True} for row in made]
    if "composition" in dataset.board_types and proba[dataset.board_types.index("composition")] > 0:
        rows += part_whole(network, untrained, dataset, proba, rng, count, draws)
        most = dataset.params.comp_c - 1
        for k in bar(range(1, most + 1)):
            swaps = composite_swaps(dataset, count, rng, k)
            if swaps is None:
                continue
            if k == most:
                rows += swap_rows(network, swaps, "all visible constituents of a composite", "compositional", rng, draws,
                                  untrained=untrained)
            outcomes += becomes(network, swaps, k)
    return rows, outcomes


def becomes(network, swaps: Swaps, k: int) -> list[dict]:
    """What the hidden root becomes when k visible constituents are swapped, in the input and at each stage: share of boards
    that show all of the base's hidden root, all of the donor's, or something else."""
    stages, at = list(network.editable), np.arange(len(swaps))[:, None]
    edit = np.zeros(swaps.base.shape, bool)
    b, c = np.nonzero(swaps.edit)
    edit[b, swaps.cells[b, c]] = True
    _, acts = network.run(swaps.tokens["base"], stages)
    _, given = network.run(swaps.tokens["donor"], stages)
    made = {"input": network.run(np.where(edit, swaps.tokens["donor"], swaps.tokens["base"]))[0]}
    for stage in stages:
        values = placed(given[stage][at, swaps.cells], swaps.cells, acts[stage])
        made[stage] = network.run(swaps.tokens["base"], (), (stage, values, edit))[0]
    rows = []
    for stage, logits in made.items():
        own, other = (((logits.argmax(-1) == board) | ~swaps.read).all(1).mean() for board in (swaps.base, swaps.donor))
        rows.append({"constituents swapped": k, "where": stage, "boards": len(swaps), "stays": own,
                     "becomes the donor's": other, "something else": 1 - own - other})
    return rows


def part_whole(network, untrained, dataset: AbstractionDataset, proba, rng, count: int, draws: int = DRAWS) -> list[dict]:
    """The hidden root of held-out composites, filled in from the other roots: exact success against the best possible."""
    scenes = draw_scenes(dataset, {2: count}, "test", rng)
    there = scenes.objects[..., 0] >= 0
    b, slot = np.nonzero(there)
    cells = footprints(dataset, scenes.objects).reshape(len(scenes), there.shape[1], -1)[b, slot]
    boards = scenes.boards.reshape(len(scenes), -1)[b]
    tokens, at = boards.copy(), np.arange(len(b))[:, None]
    tokens[at, cells] = dataset.masking_token
    best = dataset.best_reconstruction(tokens.reshape(-1, *scenes.boards.shape[1:]), proba).board.reshape(len(b), -1)
    frequent = np.array([np.bincount(c[c >= 0], minlength=1).argmax() if (c >= 0).any() else 0
                         for c in dataset.compositions.reshape(dataset.params.comp_n, -1).T])
    usual = scenes.objects[b, slot, 0] == frequent[slot]
    W = resample(len(scenes), rng, draws)
    by_board = lambda right: ratio(np.bincount(b, right, len(scenes)), np.bincount(b, minlength=len(scenes)), W)  # noqa: E731
    right = {name: (made[at, cells] == boards[at, cells]).all(1) for name, made in (
        ("network", network.run(tokens)[0].argmax(-1)), ("untrained", untrained.run(tokens)[0].argmax(-1)), ("best", best))}
    return [judge("compositional", "hidden root of a composite, from the others", by_board(right["network"]),
                  {"the root most frequent there": by_board(usual), "untrained network": by_board(right["untrained"])},
                  by_board(right["best"]), boards=len(scenes))]


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


INKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")  # told apart by colour-blind eyes
TEN = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000")

SIZES = {  # of the full analysis and of a look
    False: dict(n_fit=1500, n_valid=300, n_test=60, rounds=4, masks=20, count=200, draws=DRAWS, words=10_000),
    True: dict(n_fit=450, n_valid=90, n_test=15, rounds=2, masks=5, count=60, draws=200, words=1500),
}
CLAIMS = {  # claim: (the table its rows are in, the figure, what it says)
    "encodes every feature": ("decodability", "decodability.png",
                              "abstractions that encode all semantic features of the data"),
    "abstract": ("generalisation", "generalisation.png",
                 "what is encoded is abstract: read-outs carry over to unseen contexts"),
    "converges transiently": ("convergence", "convergence.png", "embeddings of semantically related tokens transiently "
                              "converge on low-dimensional manifolds"),
    "drives decisions": ("manipulation", "manipulation.png", "precise manipulations show that they drive its decisions"),
    "compositional": ("composition", "composition.png", "they are compositional: independent of context, part and whole"),
    "language speaks of the features": ("words", "words.png", "LEA's language speaks of them"),
    "language steers": ("steering", "steering.png", "LEA's language lets one steer the network"),
}


def analyse(trainer, quick: bool = False, bar=lambda what: iter) -> tuple[dict[str, list], dict]:
    """Every table of a trained factor run, {name: rows}, and what its pictures need. bar(what) makes a progress bar."""
    size, dataset, rng = SIZES[quick], trainer.dataset, numpy_rng(trainer.seed, 8)
    proba = [float(p) for p in trainer._board_proba(max(trainer.epoch - 1, 0))]
    network = Network(trainer)
    untrained, draws = network.untrained(), size["draws"]
    sample = make_sample(dataset, proba, rng, *(size[k] for k in ("n_fit", "n_valid", "n_test", "rounds")), bar("labels"))
    sources = {"network": network.run(sample.tokens, network.stages)[1],
               "untrained network": untrained.run(sample.tokens, network.stages)[1]}
    inputs = input_features(sample.tokens, dataset.vocab_size)
    n_boards, first = sample.groups.max() + 1, sample.n_fit + sample.n_valid
    W = resample(n_boards, rng, draws)
    test = sample.scenes.take(slice(first, first + n_boards))
    tables = {"ceiling": ceiling(trainer, test, proba, rng, size["masks"], bar("ceiling"))}
    tables["decodability"], tables["decodability_stages"] = decodability(sources | inputs, sample, W, rng)
    tables["generalisation"] = generalisation(sources | inputs, sample, conditions_of(sample, dataset), W,
                                              bar=bar("generalisation"), rng=rng)
    tables["convergence"], tables["convergence_stages"] = convergence(sources, sample, W, rng)
    scenes = sample.scenes.take(slice(sample.n_fit))
    means, tables["manipulation"] = class_means(network, dataset, scenes, rng), []
    for type_ in bar("manipulation")([t for t in (0, 1) if (sample.scenes.types == t).any()]):
        swaps = root_swaps(dataset, type_, size["count"], rng)
        if swaps is not None:
            tables["manipulation"] += swap_rows(network, swaps, f"{TYPES[type_]} boards", "drives decisions", rng, draws,
                                                means, untrained=untrained)
    tables["composition"], tables["hidden_root"] = composition(
        network, untrained, dataset, sources | inputs, sample, W, proba, rng, size["count"], draws, bar("composition"))
    tables["convergence_training"] = convergence_training(trainer, sample, W, bar("checkpoints"))
    board, cell, root, token = object_cells(sample, False)
    stages = [network.stages[0], *(stage for stage in network.stages if stage.endswith("z_attn")), network.stages[-1]]
    pictures = {stage: sources["network"][stage][first:][board, cell] for stage in stages}
    return tables, {"pca": (pictures, root, token)}


def convergence_training(trainer, sample: Sample, W: np.ndarray, bar=iter) -> list[dict]:
    """Nearness by stage at each checkpoint of a run, visible cells."""
    first, rows = sample.n_fit + sample.n_valid, []
    board, cell, root, token = object_cells(sample, False)
    found = sorted((trainer.folder / "checkpoints").glob("model_*.pth"), key=lambda path: int(path.stem.split("_")[1]))
    for path in bar(found if len(found) > 1 else []):
        network = Network(type(trainer).from_run(trainer.folder, path.name, str(trainer.device)))
        acts = network.run(sample.tokens[first : first + board.max() + 1], network.stages)[1]
        for stage, features in acts.items():
            X = unit(features[board, cell].astype(np.float64))
            score = nearness(X, root, token, sample.groups[first:][board], W[:101])
            low, high = interval(score)
            epoch = int(path.stem.split("_")[1])
            rows.append({"epoch": epoch, "stage": stage, "nearness": score[0], "low": low, "high": high})
    return rows


def save_table(path: Path, rows: list[dict]) -> None:
    """Writes rows as a CSV with all their columns; floats with 6 digits, nothing where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _text(value, 6, "") for name, value in row.items()})


def _text(value, digits: int = 3, none: str = "-") -> str:
    if isinstance(value, (float, np.floating)):
        return none if np.isnan(value) else f"{value:.{digits}g}" if digits > 3 else f"{value:.{digits}f}"
    return str(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(lines) + "\n"


JUDGED = ("run", "claim", "feature", "stage", "effect", "low", "high", "upper", "strongest control", "gain", "gain low",
          "gain high", "counts", "holds")


def _judged_table(rows: list[dict]) -> str:
    """Judged rows as Markdown: each with its interval, upper bound, every control and what follows."""
    lines = []
    for row in rows:
        controls = [f"{name[9:]} {_text(value)}" for name, value in row.items() if name.startswith("control: ")]
        more = [f"{name} {_text(value)}" for name, value in row.items() if name not in JUDGED and "control: " not in name]
        lines.append([row["feature"] + ("" if row["counts"] else " (not counted)"), row["run"], row.get("stage", ""),
                      f"{_text(row['effect'])} [{_text(row['low'])}, {_text(row['high'])}]", _text(row["upper"]),
                      f"{_text(row['gain'])} [{_text(row['gain low'])}, {_text(row['gain high'])}] over "
                      f"{row['strongest control']}", "; ".join(controls), "; ".join(more),
                      "holds" if row["holds"] else "does not"])
    return _table(["feature", "run", "stage", "effect [95%]", "upper bound", "effect - strongest control [95%]", "controls",
                   "besides", "verdict"], lines)


def _plain_table(rows: list[dict]) -> str:
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if not name.startswith("place ")]
    return _table(columns, [[_text(row.get(name, "")) for name in columns] for row in rows])


INTRODUCTION = """# What the paper claims, measured on this network

Runs: {runs}. These are operational definitions of what the abstract of arXiv 2312.05361 claims, not reproductions of
the paper's figures. A row *holds* if the 95% bootstrap interval (over boards) of its effect minus its strongest
control lies above 0 and the effect is at least half of its upper bound; a feature holds if its row holds for every
run. A claim *holds* if every feature does, holds *in part* if some do, and else *does not*. The rules were fixed
before any number was seen.

*Skill* is balanced accuracy above chance: 0 is the majority class, 1 perfect. Stages: b0_z is what block 0 reads,
b{{i}}_z_attn and b{{i}}_z_attn_mlp are the residual stream after block i's attention and after the block.

"""
NOTES = {
    "ceiling":
    "Shares of right tokens, hidden tokens and whole boards, beside the best possible on the same boards and masks. "
    "Avoidable error: wrong tokens on boards whose best picture has a posterior of at least {known}.",
    "decodability":
    "Skill of a linear read-out (ridge) from a cell's activations, on held-out boards, at the stage that was best on "
    "other boards. Labels of hidden cells count only where the exact posterior of the true label is at least {known}. "
    "Gain over the control task (a random class for each true token and position) is selectivity.",
    "generalisation":
    "Skill of read-outs fitted in one half of the contexts and tested in the other, both ways; upper bound: fitted in "
    "both. Parallelism: mean cosine between the two halves' differences of class means.",
    "convergence":
    "Nearness: mean cosine between cells of the same root with different tokens minus that between cells of different "
    "roots with the same token. Extremum inside the stack: nearness there minus the larger of those at the ends; its "
    "upper bound is a complete return to the first stage's. Fewer dimensions: 1 - participation ratio / that of "
    "equally large random classes.",
    "manipulation":
    "Share of boards on which every unedited hidden cell where two roots differ shows the donor's token, when the "
    "visible cells of the object get the donor's activations at one stage. Upper bound: the donor's tokens in the "
    "input. Moved: (patched - clean) / (donor - clean) of the difference of the two tokens' logits. Collateral: share "
    "of the cells elsewhere whose reconstruction changes.",
    "composition":
    "Read-outs (skill) and swaps (exact success) learnt on single boards and applied to others; the wholly hidden "
    "root of a composite, from its other roots, against the best possible; that root when the others are swapped.",
    "words":
    "Skill of a linear read-out of each feature from all words of a sentence, held-out boards.",
    "steering":
    "Share of boards rebuilt exactly as wanted when words are transplanted. 'pair' makes the other board's own "
    "sentence, so that it succeeds exactly as often as that board is rebuilt; 'transfer' takes the words from another "
    "pair that makes the same change, and is the test of words that mean the same everywhere.",
}


def write_report(folder: Path, tables: dict[str, list], runs: Sequence[str], seconds: float) -> list[dict]:
    """Writes report.md and a CSV for each table; returns the verdicts."""
    verdicts = []
    for claim, (table, _, says) in CLAIMS.items():
        if tables.get(table):
            rows = [row for row in tables[table] if row["claim"] == claim]
            verdicts.append({"claim": claim, "says": says} | verdict(rows))
    parts = [INTRODUCTION.format(runs=", ".join(runs)), "## Verdicts\n\n", _table(
        ["claim", "verdict", "features that hold", "n runs", "holds for", "does not for"],
        [[v["says"], f"**{v['verdict']}**", f"{v['holding']} of {v['features']}", v["seeds"], v["holds for"], v["not for"]]
         for v in verdicts])]
    if tables.get("ceiling"):
        parts += [f"\n## The ceiling\n\n{NOTES['ceiling'].format(known=KNOWN)}\n\n![ceiling](ceiling.png)\n\n",
                  _plain_table(tables["ceiling"])]
    for claim, (table, figure, says) in CLAIMS.items():
        if not tables.get(table):
            continue
        word = next(v["verdict"] for v in verdicts if v["claim"] == claim)
        parts += [f"\n## {says[0].upper() + says[1:]}: {word}\n\n{NOTES[table].format(known=KNOWN)}\n\n",
                  f"![{claim}]({figure})\n\n", _judged_table(tables[table])]
        if table == "decodability":
            parts += ["\n![skill by stage](decodability_stages.png)\n"]
        if table == "convergence":
            parts += ["\n![embeddings by label](pca.png)\n"]
        if table == "composition" and tables.get("hidden_root"):
            parts += ["\nWhat the hidden root becomes:\n\n![what it becomes](hidden_root.png)\n\n",
                      _plain_table(tables["hidden_root"])]
        if table == "words":
            parts += ["\n", _plain_table(tables["facts"]), "\nInformation between words and features, less the mean over "
                      "permutations:\n\n![information](words_information.png)\n\n", _plain_table(tables["words_mi"]),
                      "\n![dictionary](dictionary.png)\n"]
    parts.append(f"\nMade in {seconds:.0f} s. Every table is a CSV in this folder.\n")
    for name, rows in (tables | {"verdicts": verdicts}).items():
        if rows:
            save_table(folder / f"{name}.csv", rows)
    with atomic_write(folder / "report.md", "w") as file:
        file.write("".join(parts))
    return verdicts


# Pictures


def plot_rows(rows: list[dict], label: str):
    """A line a feature: the effect of each run with its interval, its controls, its upper bound."""
    features = list(dict.fromkeys(row["feature"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure, axes = new_figure(1, 1, (9, 1.3 + 0.36 * len(features)))
    ax = axes[0, 0]
    for row in rows:
        i = runs.index(row["run"])
        y = features.index(row["feature"]) + (i - (len(runs) - 1) / 2) * 0.22
        for name, value in row.items():
            if name.startswith("control: "):
                strongest = name[9:] == row["strongest control"]
                ax.plot(value, y, "o", color="black" if strongest else "0.6", markersize=5 if strongest else 4,
                        markerfacecolor="none", zorder=4 if strongest else 2)
        ax.plot([row["upper"]] * 2, [y - 0.1, y + 0.1], color="black", linewidth=1.5, zorder=2)
        error = np.abs([[row["effect"] - row["low"]], [row["high"] - row["effect"]]])
        ax.errorbar(row["effect"], y, xerr=error, fmt="so^D"[i % 4], color=INKS[i % len(INKS)], markersize=5,
                    alpha=1 if row["holds"] else 0.45, zorder=3)
    ax.set_yticks(range(len(features)), [_mark(rows, f) for f in features], fontsize=7)
    ax.set(xlabel=label, ylim=(len(features) - 0.4, -0.6))
    ax.grid(axis="x", alpha=0.3)
    ax.axvline(0, color="0.5", linewidth=0.8)
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="so^D"[i % 4], color=INKS[i % len(INKS)], linestyle="", label=run)
               for i, run in enumerate(runs)]
    handles += [Line2D([], [], marker="o", color="black", markerfacecolor="none", linestyle="", label="strongest control"),
                Line2D([], [], marker="o", color="0.6", markerfacecolor="none", linestyle="", label="other controls"),
                Line2D([], [], marker="|", color="black", markersize=10, linestyle="", label="upper bound")]
    figure.legend(handles=handles, fontsize=7, loc="outside upper right", ncols=4)
    return figure


def _mark(rows, feature) -> str:
    return ("✓ " if all(row["holds"] for row in rows if row["feature"] == feature) else "✗ ") + feature


def plot_ceiling(rows: list[dict]):
    """Network and ceiling by board type, hidden tokens and whole boards."""
    figure, axes = new_figure(1, 3, (11, 3.4))
    names = {"network": "o", "ceiling, cell by cell": "^", "ceiling, whole board": "s"}
    groups = list(dict.fromkeys(row["boards"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    for ax, what in zip(axes[0], ("tokens", "hidden tokens", "boards"), strict=True):
        for row in (row for row in rows if row["share of"] == what):
            for j, (name, marker) in enumerate(names.items()):
                x = groups.index(row["boards"]) + 0.22 * (j - 1) + 0.05 * (runs.index(row["run"]) - (len(runs) - 1) / 2)
                error = [[row[name] - row[f"{name}, low"]], [row[f"{name}, high"] - row[name]]]
                first = row["boards"] == groups[0] and row["run"] == runs[0]
                ax.errorbar(x, row[name], yerr=np.abs(error), fmt=marker, color=INKS[j], markersize=5,
                            label=name if first else None)
        ax.set_xticks(range(len(groups)), groups)
        ax.set(title=f"right {what}")
        ax.grid(axis="y", alpha=0.3)
    axes[0, 0].legend(fontsize=8, loc="lower left")
    return figure


def _short(stage: str) -> str:
    return stage.replace("z_attn_mlp", "out").replace("z_attn", "attn")


def plot_stages(rows: list[dict]):
    """Skill by stage, a column a label, hidden and visible cells; levels of the controls that have no stages."""
    labels = list(dict.fromkeys(row["label"] for row in rows if row["cells"] != "all"))
    figure, axes = new_figure(2, len(labels), (2.3 * len(labels), 5), sharex=True, sharey=True)
    styles = {"network": (INKS[0], "-"), "untrained network": (INKS[1], "--"), "own token and position": (INKS[2], ":"),
              "whole masked board": (INKS[3], "-.")}
    runs = list(dict.fromkeys(row["run"] for row in rows))
    for i, cells in enumerate(("hidden", "visible")):
        for ax, label in zip(axes[i], labels, strict=True):
            for source, (ink, line) in styles.items():
                for run in runs:
                    here = [row for row in rows if row["run"] == run and (row["label"], row["cells"], row["source"]) ==
                            (label, cells, source)]
                    if len(here) > 1:
                        x = range(len(here))
                        ax.plot(x, [row["skill"] for row in here], line, color=ink, marker=".",
                                label=source if run == runs[0] else None)
                        ax.fill_between(x, [r["low"] for r in here], [r["high"] for r in here], color=ink, alpha=0.15)
                        ax.set_xticks(x, [_short(row["stage"]) for row in here], rotation=90, fontsize=7)
                    elif here:
                        ax.axhline(here[0]["skill"], color=ink, linestyle=line, label=source if run == runs[0] else None)
            ax.grid(alpha=0.3)
            if i == 0:
                ax.set_title(label, fontsize=9)
        axes[i, 0].set_ylabel(f"skill, {cells} cells")
    handles = {h: n for ax in axes.flat for h, n in zip(*ax.get_legend_handles_labels(), strict=True)}
    unique = {name: handle for handle, name in handles.items()}
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def plot_convergence(curves: list[dict], training: list[dict]):
    """Nearness by stage, visible and hidden cells, trained and untrained; and over training."""
    figure, axes = new_figure(1, 2 + bool(training), (4.4 * (2 + bool(training)), 3.6), sharey=True)
    runs = list(dict.fromkeys(row["run"] for row in curves))
    for ax, cells in zip(axes[0], ("visible cells", "hidden cells"), strict=False):
        for source, ink, line in (("network", INKS[0], "-"), ("untrained network", INKS[1], "--")):
            for run in runs:
                here = [r for r in curves if (r["run"], r["cells"], r["source"]) == (run, cells, source)]
                _curve(ax, here, ink, line, source if run == runs[0] else None)
        ax.set(title=f"{cells}", xlabel="stage")
    axes[0, 0].set_ylabel("nearness: same root, other token\n- other root, same token")
    axes[0, 0].legend(fontsize=8)
    if training:
        from matplotlib import colormaps

        here = [row for row in training if row["run"] == training[0]["run"]]
        epochs = sorted({row["epoch"] for row in here})
        for i, epoch in enumerate(epochs):
            ink = colormaps["viridis"](0.9 * i / max(len(epochs) - 1, 1))
            _curve(axes[0, 2], [row for row in here if row["epoch"] == epoch], ink, "-", f"epoch {epoch}")
        axes[0, 2].set(title=f"over training, visible cells, {training[0]['run']}", xlabel="stage")
        axes[0, 2].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _curve(ax, rows, ink, line, label):
    if not rows:
        return
    x = range(len(rows))
    ax.plot(x, [row["nearness"] for row in rows], line, color=ink, marker=".", label=label)
    ax.fill_between(x, [row["low"] for row in rows], [row["high"] for row in rows], color=ink, alpha=0.15)
    ax.set_xticks(x, [_short(row["stage"]) for row in rows], rotation=45)
    ax.axhline(0, color="0.5", linewidth=0.8)
    ax.grid(alpha=0.3)


def plot_pca(pictures: dict[str, np.ndarray], root: np.ndarray, token: np.ndarray):
    """Two principal components of visible object cells, a column a stage, by root and by token; numbers at the means."""
    figure, axes = new_figure(2, len(pictures), (3 * len(pictures), 6.2))
    for column, (stage, features) in zip(axes.T, pictures.items(), strict=True):
        X = unit(features.astype(np.float64))
        X = X @ np.linalg.svd(X, full_matrices=False)[2][:2].T
        for ax, name, labels in zip(column, ("root", "token"), (root, token), strict=True):
            ax.scatter(*X.T, s=3, c=[TEN[c % 10] for c in labels], alpha=0.4, linewidths=0)
            for c in np.unique(labels):
                ax.text(*X[labels == c].mean(0), str(c), ha="center", va="center", fontsize=8, color="black",
                        bbox=dict(boxstyle="circle,pad=0.15", fc="white", ec=TEN[c % 10], lw=1.5))
            ax.set(xticks=[], yticks=[], title=f"{stage}, by {name}")
    return figure


def plot_hidden_root(outcomes: list[dict]):
    """What the hidden root of a composite becomes when visible constituents are swapped, first run."""
    first = [row for row in outcomes if row["run"] == outcomes[0]["run"]]
    kinds = ("stays", "becomes the donor's", "something else")
    figure, axes = new_figure(1, 1, (6.4, 0.9 + 0.34 * len(first)))
    left = np.zeros(len(first))
    for name, ink, hatch in zip(kinds, (INKS[0], INKS[1], "0.8"), ("", "//", ".."), strict=True):
        share = np.array([row[name] for row in first])
        axes[0, 0].barh(range(len(first)), share, left=left, color=ink, hatch=hatch, edgecolor="white", label=name)
        left += share
    names = [f"{row['constituents swapped']} swapped, {row['where']}" for row in first]
    axes[0, 0].set_yticks(range(len(first)), names, fontsize=8)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set(xlabel="share of boards", xlim=(0, 1))
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure


def plot_information(rows: list[dict]):
    """Information between the word at each place and each feature, as a share of the feature's entropy."""
    places = [name for name in rows[0] if name.startswith("place ")]
    figure, axes = new_figure(1, 1, (0.5 * len(places) + 3, 0.34 * len(rows) + 1.4))
    shares = np.array([[row[name] for name in places] for row in rows])
    image = axes[0, 0].imshow(shares, aspect="auto", cmap="viridis", vmin=0)
    axes[0, 0].set_yticks(range(len(rows)), [row["feature"] for row in rows], fontsize=8)
    axes[0, 0].set_xticks(range(len(places)), [name[6:] for name in places], fontsize=8)
    axes[0, 0].set(xlabel="place in the sentence")
    figure.colorbar(image, ax=axes[0, 0], label="information / entropy of the feature")
    return figure


def plot_dictionary(words: np.ndarray, scenes: Scenes, dataset: AbstractionDataset, entries: int = 12, examples: int = 6):
    """Of much-used words, each where it is most often said: boards that call for it, a row a word."""
    K = words.max() + 1
    counts = np.array([np.bincount(w, minlength=K) for w in words.T]) / len(words)  # (S, K)
    counts = np.where(counts > 0.6, 0, counts)  # what is nearly always said tells nothing
    said = np.argsort(-counts.max(0), kind="stable")[:entries]
    figure, axes = new_figure(len(said), examples, (1.35 * examples + 1.2, 1.4 * len(said)))
    colors = token_colors(dataset.vocab_bck, dataset.vocab_token)
    for row, word in zip(axes, said, strict=True):
        place = counts[:, word].argmax()
        where = np.flatnonzero(words[:, place] == word)[:examples]
        for ax, i in zip(row, where, strict=False):
            draw_board(ax, scenes.boards[i], colors, scenes.boards[i] >= dataset.vocab_bck, font=4)
        for ax in row[len(where) :]:
            ax.axis("off")
        row[0].set_ylabel(f"word {word}, place {place}\n{100 * counts[place, word]:.0f}% of boards", fontsize=7)
    return figure


def save_pictures(folder: Path, tables: dict, extras: dict) -> list[str]:
    """Draws every figure whose tables are there; returns their names."""
    made = {}
    if tables.get("ceiling"):
        made["ceiling"] = plot_ceiling(tables["ceiling"])
    if tables.get("decodability_stages"):
        made["decodability_stages"] = plot_stages(tables["decodability_stages"])
    if tables.get("convergence_stages"):
        made["convergence"] = plot_convergence(tables["convergence_stages"], tables.get("convergence_training", []))
    if tables.get("hidden_root"):
        made["hidden_root"] = plot_hidden_root(tables["hidden_root"])
    if tables.get("words_mi"):
        made["words_information"] = plot_information(tables["words_mi"])
    for table, label in (("decodability", "skill"), ("generalisation", "skill in the other half of the contexts"),
                         ("manipulation", "share of boards with exact success"), ("composition", "skill or exact success"),
                         ("words", "skill"), ("steering", "share of boards rebuilt as wanted")):
        if tables.get(table):
            made[table] = plot_rows(tables[table], label)
    if "pca" in extras:
        made["pca"] = plot_pca(*extras["pca"])
    if "dictionary" in extras:
        made["dictionary"] = plot_dictionary(*extras["dictionary"])
    for name, figure in made.items():
        save_figure(figure, folder / f"{name}.png")
    return list(made)


def run_all(runs: Sequence[str | Path], lea: str | Path | None = None, quick: bool = False) -> list[dict]:
    """Analyses factor runs (seeds of one recipe) and a LEA run, writes <first run>/analysis/ and returns the verdicts."""
    start, tables, extras = time.time(), {}, {}
    folder = Path(runs[0] if runs else lea) / "analysis"

    def collect(name, found):
        for table, rows in found.items():
            tables.setdefault(table, []).extend({"run": name} | row for row in rows)

    def bar_of(name):
        return lambda what: lambda steps: progress_bar(steps, 20, desc=f"{name}, {what} ", leave=False)

    for run in runs:
        if "vocab_speech_size" in read_json(Path(run) / "params_training.json"):
            raise ValueError(f"{run}: is a LEA run; give it as --lea {run}.")
        trainer = module_train_probe.TrainTransformer.from_run(run)
        found, pictures = analyse(trainer, quick, bar_of(Path(run).name))
        collect(Path(run).name, found)
        extras = extras or pictures
    if lea is not None:
        if "vocab_speech_size" not in read_json(Path(lea) / "params_training.json"):
            raise ValueError(f"{lea}: is no LEA run.")
        trainer, size = module_train_probe_lea.TrainTransformer.from_run(lea), SIZES[quick]
        found = language(trainer, numpy_rng(trainer.seed, 8), size["words"], 4 * size["n_test"], size["count"],
                         size["draws"], bar_of(Path(lea).name)("language"))
        (words, scenes), = found.pop("dictionary")
        extras["dictionary"] = words, scenes, trainer.dataset
        collect(Path(lea).name, found)
    save_pictures(folder, tables, extras)
    names = [Path(run).name for run in [*runs, *([lea] if lea else [])]]
    return write_report(folder, tables, names, time.time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="*", help="run folders of the factor network, seeds of one recipe")
    parser.add_argument("--lea", help="a run folder of LEA")
    parser.add_argument("--quick", action="store_true", help="fewer boards and draws, for a look")
    flags = parser.parse_args()
    try:
        if not flags.runs and not flags.lea:
            raise ValueError("runs: give at least one run folder, or --lea and one.")
        verdicts = run_all(flags.runs, flags.lea, flags.quick)
    except (TypeError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(f"{v['verdict']:>9}  {v['says']} ({v['holding']} of {v['features']} features, n = {v['seeds']})"
                    for v in verdicts))
    print(f"{Path(flags.runs[0] if flags.runs else flags.lea) / 'analysis' / 'report.md'}")


if __name__ == "__main__":
    main()
