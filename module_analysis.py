"""What the paper (arXiv 2312.05361) claims of such networks, measured on trained runs, with controls, and judged.

    python module_analysis.py runs/<run> [more runs = seeds] [--lea runs/<lea_run>] [--quick]

writes runs/<run>/analysis/: a CSV a table, a PNG a figure and report.md. The measurements are this project's operational
definitions of what the abstract claims, not reproductions of the paper's figures. The rules of judgement, `judge` and
`verdict`, were fixed before any number was seen.

Axis letters: n boards, T cells, V tokens, D width of a stage, F features, m objects, c cells that may be edited, C classes,
N cells chosen from boards, R bootstrap draws, S words of a sentence, K words of the codebook. A *score* is an array (R + 1,):
the measured value, then the same over boards drawn with replacement by `resample`, whose weights all scores of a comparison
share, so that their difference has an interval too. A *row* of a table is what `judge` makes.
"""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import module_figures
import module_files
import module_train_probe
import module_train_probe_lea
import utils
from claims import figures, statistics
from module_dataset import TYPES, AbstractionDataset
from module_train_probe_lea import entropy_bits, information

KNOWN = 0.99  # posterior from which an answer can be known
DRAWS = 500  # bootstrap draws
RIDGE = (1e-5, 1e-3, 1e-1)  # strengths, times the mean variance of a feature; chosen on boards of their own
MASKING = (0.25, 0.5)  # as at the end of training: share of cells hidden, of boards that lose a patch
CROSSINGS = (("root", "background"), ("root", "place on the board"), ("root", "companion"), ("background", "root"),
             ("place in the root", "root"), ("row", "root"), ("column", "root"), ("composite", "background"),
             ("composite", "place on the board"), ("root", "double boards"), ("root", "composites"))
SIZES = {  # of the full analysis and of a look: boards to fit, test boards of a type and masks of each, ...
    False: dict(fit=1800, test=100, masks=4, ceiling_masks=20, swaps=200, draws=DRAWS, words=10_000, permutations=50),
    True: dict(fit=540, test=15, masks=2, ceiling_masks=5, swaps=60, draws=200, words=1500, permutations=10),
}
TABLES = {  # name: (what the paper says, the axis of the figure, what is measured)
    "ceiling": ("", "share that is right", "Upper bound: the best possible on the same boards and masks. Avoidable error: wrong "
        "tokens, of all, on boards whose best picture has a posterior >= 0.99."),
    "decodability": ("abstractions that encode all semantic features of the data", "skill of a linear read-out",
        "Skill of a ridge read-out from a cell's activations, fitted on the hidden or the visible cells that have the label, at "
        "the stage that was best on other boards; on held-out boards, where the posterior of the true label is >= 0.99. Control "
        "task: a random class for each true token and position; the gain over it is selectivity."),
    "generalisation": ("what is encoded is abstract: read-outs carry over to unseen contexts", "skill in the other contexts",
        "Skill of read-outs fitted in one half of the contexts and tested in the other, both ways; upper bound: fitted in both. "
        "Parallelism: mean cosine between the two halves' differences of class means."),
    "convergence": ("embeddings of semantically related tokens transiently converge on low-dimensional manifolds",
        "difference of mean cosines, or share of dimensions saved",
        "Nearness: mean cosine of cells of one root with different tokens minus that of different roots with one token; upper "
        "bound: a code of the root alone. Extremum: nearness inside the stack minus the larger at its ends; upper bound: a "
        "return to the first stage's. The stage is chosen on half of the boards, judged on the others. Fewer dimensions: 1 - "
        "participation ratio of the roots' means / that of equally large random classes."),
    "manipulation": ("precise manipulations show that they drive its decisions", "share of boards with exact success",
        "Share of boards on which every hidden cell where two roots differ shows the donor's token when the visible cells of the "
        "object get the donor's activations; no cell looked at is edited. Upper bound: the donor's tokens in the input. Moved: "
        "(patched - clean) / (donor - clean) of the two tokens' logit difference. Collateral: cells elsewhere that change."),
    "composition": ("they are compositional: independent of context, part and whole", "skill or exact success",
        "Read-outs (skill) and swaps (exact success) learnt on single boards and applied to others; the wholly hidden root of a "
        "composite, from its other roots, against the best possible; that root when others are swapped."),
    "words": ("LEA's language speaks of them", "skill of a linear read-out from the words",
        "Skill of a ridge read-out of each feature from all words, on unmasked held-out boards. Not counted: other facts, each "
        "in its own unit. MI/H: information between a feature and the word at the best place / its entropy, less permutations'."),
    "steering": ("LEA's language lets one steer the network", "share of boards rebuilt as wanted",
        "Share of boards rebuilt as wanted when the words that differ are transplanted: it makes the other board's own sentence. "
        "Words from elsewhere, of another pair that makes the same change, test whether words mean the same everywhere."),
}

# Scores, intervals, judgement

def resample(boards: int | np.ndarray, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """(draws + 1, n): how often each of n boards counts; once in the first row, then as drawn with replacement. boards: n, or the
    boards (n, T), of which equal ones are drawn together."""
    which = np.arange(boards) if np.ndim(boards) == 0 else np.unique(boards, axis=0, return_inverse=True)[1].ravel()
    n = which.max() + 1
    return np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), size=draws)])[:, which]


def ratio(part: np.ndarray, whole: np.ndarray | float, W: np.ndarray) -> np.ndarray:
    """Score of sum(part) / sum(whole) over boards, both (n,)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (W @ np.asarray(part, float)) / (W @ np.broadcast_to(np.asarray(whole, float), W.shape[1]))


def spread(name: str, score: np.ndarray) -> dict[str, float]:
    """A score's value and its 95% bootstrap interval as cells of a row."""
    draws = score[1:][np.isfinite(score[1:])]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (np.nan, np.nan)
    return {name: score[0], f"{name} low": low, f"{name} high": high}


def skill(predicted: np.ndarray, truth: np.ndarray, use: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Score of balanced accuracy above chance: 0 is what the majority class (or any constant answer) reaches, 1 is perfect.
    predicted, truth, use (n, T): over the cells in use. NaN where fewer than two classes occur."""
    where, (names, classes) = np.nonzero(use)[0], np.unique(truth[use], return_inverse=True)
    C, n = len(names), len(truth)
    if C < 2:
        return np.full(len(W), np.nan)
    total, right = (np.bincount(where * C + classes, w, n * C).reshape(n, C) for w in (None, predicted[use] == truth[use]))
    made = W @ total
    recall, drawn = (W @ right) / np.maximum(made, 1), made > 0  # a class that was not drawn is left out
    with np.errstate(invalid="ignore"):
        return (recall.sum(1, where=drawn) / drawn.sum(1) - 1 / C) / (1 - 1 / C)


def judge(table: str, feature: str, effect: np.ndarray, controls: dict[str, np.ndarray], upper: np.ndarray | float = 1.0,
          counts: bool = True, **more) -> dict:
    """A row of a table. It holds where the 95% interval of effect minus its strongest control (by measured value) lies
    above 0 and the effect is at least half of its upper bound. counts: whether `verdict` looks at the row."""
    known = {name: score for name, score in controls.items() if np.isfinite(score[0])}
    strongest = max(known, key=lambda name: known[name][0], default="")
    gain, upper = spread("gain", effect - known.get(strongest, 0)), float(np.ravel(upper)[0])
    row = {"table": table, "feature": feature, "stage": more.pop("stage", "")} | spread("effect", effect) | {
        "upper": upper, "strongest control": strongest, "control": known[strongest][0] if known else np.nan} | gain
    row |= {"counts": counts, "holds": bool(gain["gain low"] > 0 and effect[0] >= upper / 2)}
    return row | more | {f"control: {name}": score[0] for name, score in controls.items()}


def verdict(rows: Sequence[dict]) -> dict:
    """Of the rows of one claim, all runs' together: holds, in part (and for what) or does not. A feature holds if it was
    measured and holds in every run."""
    runs, by_feature = {row.get("run") for row in rows}, {}
    for row in rows:
        if row["counts"]:
            by_feature.setdefault(row["feature"], []).append(row["holds"])
    holds = [name for name, each in by_feature.items() if all(each) and len(each) >= len(runs)]
    word = "holds" if holds and len(holds) == len(by_feature) else "in part" if holds else "does not"
    return {"verdict": word, "features": len(by_feature), "holding": len(holds), "runs": len(runs),
            "holds for": "; ".join(holds), "not for": "; ".join(name for name in by_feature if name not in holds)}

# Scenes: boards and what is on them

@dataclass
class Scenes:
    """n boards and what is on them."""

    boards: np.ndarray  # (n, h, w)
    types: np.ndarray  # (n,) 0 single, 1 double, 2 composition
    composites: np.ndarray  # (n,) index or -1
    backgrounds: np.ndarray  # (n,)
    objects: np.ndarray  # (n, m, 3) root (-1: none), row and column, in drawing order

    def take(self, which) -> Scenes:
        """The scenes that which, an index of the first axis, picks."""
        return Scenes(*(values[which] for values in vars(self).values()))

    @classmethod
    def join(cls, parts: Sequence[Scenes]) -> Scenes:
        """The scenes of all parts, in order; as many objects in each."""
        return cls(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))


def rows_of(dataset: AbstractionDataset, type_: int, split: str, count: int, rng, distinct: bool = False) -> np.ndarray:
    """(count, width) random rows of a family's split (of train where that is empty), with repetition; distinct: without,
    and all there are where they are fewer."""
    table = next(table for table in (dataset._table(type_, s) for s in (split, "train")) if len(table))
    return table.take(rng.choice(len(table), min(count, len(table)) if distinct else count, replace=not distinct))


def scenes_of(dataset: AbstractionDataset, type_: int, rows: np.ndarray, rng) -> Scenes:
    """The scenes of rows (n, width) of a family."""
    root, row, col, bck = dataset._objects(type_, rows)
    boards, _ = dataset._draw(root, row, col, bck, root, rng)
    objects = np.full((len(rows), max(2, dataset.params.comp_dim**2), 3), -1)
    objects[:, : root.shape[1]] = np.stack([root, row, col], -1)
    return Scenes(boards, np.full(len(rows), type_), rows[:, 0] if type_ == 2 else np.full(len(rows), -1), bck, objects)


def held_out(dataset: AbstractionDataset, type_: int, count: int, rng) -> Scenes:
    """At most `count` held-out scenes of a family, no picture twice, though two rows may draw it."""
    scenes = scenes_of(dataset, type_, rows_of(dataset, type_, "test", count, rng, distinct=True), rng)
    return scenes.take(np.unique(scenes.boards.reshape(len(scenes.boards), -1), axis=0, return_index=True)[1])


def types_in_use(dataset: AbstractionDataset, proba) -> dict[int, float]:
    """{type: probability} of the board types that are drawn."""
    return {TYPES.index(name): float(p) for name, p in zip(dataset.board_types, proba, strict=True) if p > 0}


def hide(dataset: AbstractionDataset, scenes: Scenes, rng) -> np.ndarray:
    """Masks (n, h, w) as at the end of training."""
    corners = np.where(scenes.objects[..., :1] >= 0, scenes.objects[..., 1:], -1)
    return dataset.mask(scenes.boards, *MASKING, scenes.types, corners, rng)[0]


def label_names(dataset: AbstractionDataset) -> dict[str, int]:
    """The labels of a cell and how many values each has."""
    p = dataset.params
    return {"background": p.vocab_bck, "object or not": 2, "root": p.abs_n, "place in the root": p.abs_dim**2,
            "composite": p.comp_n, "row": p.places, "column": p.places}


def labels_of(dataset: AbstractionDataset, objects, composites, backgrounds) -> dict[str, np.ndarray]:
    """{label: (n, T)}, -1 where a cell has none: all but the first two belong to cells that an object covers; row and column
    are those of the object's corner."""
    covers, d2 = dataset.covering(objects), dataset.params.abs_dim**2
    on, what = covers >= 0, np.take_along_axis(objects, (np.maximum(covers, 0) // d2)[..., None], 1)  # (n, T, 3)
    root, row, column = np.where(on, np.moveaxis(what, -1, 0), -1)
    return {"background": np.repeat(backgrounds[:, None], covers.shape[1], 1), "object or not": on.astype(np.int64),
            "root": root, "place in the root": np.where(on, covers % d2, -1),
            "composite": np.where(on, composites[:, None], -1), "row": row, "column": column}


def label_posterior(dataset: AbstractionDataset, masked_board: np.ndarray, proba=None) -> dict[str, np.ndarray]:
    """{label: (T, values + 1)}: the exact posterior of each cell's labels given the visible cells; the last column: none."""
    found, T, posterior = dataset.hypotheses(masked_board, proba), masked_board.size, {}
    labels = labels_of(dataset, found.objects, found.composites, np.zeros(len(found.weights), np.int64))
    weights = np.repeat(found.weights, T)
    for name, C in label_names(dataset).items():
        cell = np.arange(T) * (C + 1) + labels[name] % (C + 1)  # -1 becomes C
        posterior[name] = np.bincount(cell.ravel(), weights, T * (C + 1)).reshape(-1, C + 1)
    posterior["background"][:] = 0
    posterior["background"][:, found.backgrounds] = 1 / len(found.backgrounds)
    return posterior


@dataclass
class Sample:
    """Masked scenes to fit read-outs, to choose among them, and test boards masked several times; in this order, n in all."""

    scenes: Scenes
    hidden: np.ndarray  # (n, T)
    tokens: np.ndarray  # (n, T) as the network sees them
    labels: dict[str, np.ndarray]  # (n, T) each
    known: dict[str, np.ndarray]  # (n, T) each: whether the posterior of the true label is at least KNOWN
    boards: np.ndarray  # which board each masked test board is
    n_fit: int
    n_valid: int
    test: slice


def make_sample(dataset: AbstractionDataset, proba, rng, fit: int = 1800, test: int = 100, masks: int = 4, bar=iter) -> Sample:
    """Boards of train to fit and, a sixth of the rows, to choose; `test` held-out boards of each type, masked `masks` times."""
    in_use = list(types_in_use(dataset, proba))
    parts, held = ([], []), []
    for t in in_use:
        rows = rows_of(dataset, t, "train", fit // len(in_use), rng)
        valid = dataset.params.families[t].rank(rows) * 2654435761 % 2**32 < 2**32 / 6  # all copies of a row on one side
        for part, chosen in zip(parts, (~valid, valid), strict=True):
            part.append(scenes_of(dataset, t, rows[chosen], rng))
        held.append(held_out(dataset, t, test, rng))
    n_fit, n_valid, n_test = (sum(len(scenes.boards) for scenes in part) for part in (*parts, held))
    scenes = Scenes.join(parts[0] + parts[1] + held * masks)
    hidden = hide(dataset, scenes, rng)
    masked = np.where(hidden, dataset.masking_token, scenes.boards)
    labels = labels_of(dataset, scenes.objects, scenes.composites, scenes.backgrounds)
    known = {name: np.ones(values.shape, bool) for name, values in labels.items()}
    for b in bar(range(n_fit, len(scenes.boards))):
        for name, posterior in label_posterior(dataset, masked[b], proba).items():
            known[name][b] = np.take_along_axis(posterior, labels[name][b][:, None], 1)[:, 0] >= KNOWN
    hidden = hidden.reshape(len(hidden), -1)
    labels["hidden or visible"], known["hidden or visible"] = hidden.astype(np.int64), np.ones_like(hidden)
    return Sample(scenes, hidden, masked.reshape(hidden.shape), labels, known, np.tile(np.arange(n_test), masks), n_fit, n_valid,
                  slice(n_fit + n_valid, None))


class Network:
    """A trainer's network as the measurements see it. stages: names of recorded activations in the order of the stack;
    editable: those that can be replaced and that an attention still follows."""

    def __init__(self, trainer: module_train_probe.TrainTransformer):
        self.trainer, blocks = trainer, range(trainer.n_layer)
        self.stages = ["b0_z", *(f"b{i}_{stage}" for i in blocks for stage in ("z_attn", "z_attn_mlp"))]
        self.editable = [f"b{i}_z_attn_mlp" for i in blocks[:-1]]

    def run(self, tokens: np.ndarray, stages: Sequence[str] = (), edit: tuple | None = None):
        """Tokens (n, T) -> logits (n, T, V), {stage: (n, T, D)}. edit: (stage, values (n, T, D), where (n, T))."""
        boards, edits = tokens.reshape(-1, *[self.trainer.dataset.board_dim] * 2), None
        if edit is not None:
            block, site = edit[0].split("_", 1)
            edits = {block: {site: edit[1:]}}
        acts = self.trainer._recorded(boards, boards == self.trainer.masking_token, edits, [*stages, "logit"])
        return acts.pop("logit"), acts


def untrained(trainer):
    """The trainer of the same network before its first step."""
    return type(trainer)(trainer.dataset, **trainer.params | {"run_name": "", "device": str(trainer.device)})

# The ceiling

def ceiling(trainer, scenes: Scenes, proba, rng, masks: int = 20, draws: int = DRAWS, bar=iter) -> list[dict]:
    """Rows of greedy reconstruction beside the best possible one on the same boards and masks, `masks` masks a board."""
    dataset, counted = trainer.dataset, []
    for _ in bar(range(masks)):
        hidden = hide(dataset, scenes, rng)
        best = dataset.best_reconstruction(np.where(hidden, dataset.masking_token, scenes.boards), proba)
        made = {"network": trainer._reconstruct(scenes.boards, hidden)[""], "cell by cell": best.marginal, "whole": best.board}
        right = {name: recon == scenes.boards for name, recon in made.items()}
        sure = best.mass >= KNOWN
        counted.append({name: [r.sum((1, 2)), (r & hidden).sum((1, 2)), r.all((1, 2))] for name, r in right.items()} | {
            "all": [np.full(len(scenes.boards), hidden[0].size), hidden.sum((1, 2)), np.ones(len(scenes.boards))],
            "avoidable": [(~right["network"] & sure[:, None, None]).sum((1, 2)), sure, sure]})
    total, rows = {name: np.sum([c[name] for c in counted], axis=0) for name in counted[0]}, []
    for group in ("all", *(TYPES[t] for t in np.unique(scenes.types))):
        use = np.ones(len(scenes.boards), bool) if group == "all" else scenes.types == TYPES.index(group)
        W = resample(int(use.sum()), rng, draws)
        avoidable = ratio(total["avoidable"][0, use], total["all"][0, use], W)
        for i, what in enumerate(("tokens", "hidden tokens", "whole boards")):
            network, cell, whole = (ratio(total[name][i, use], total["all"][i, use], W) for name in made)
            upper = whole if i == 2 else cell
            rows.append(judge("ceiling", f"{what}, {group}", network, {}, upper, False, boards=int(use.sum()), masks=masks)
                        | spread("short of the bound", upper - network) | {"best board": whole[0]}
                        | spread("avoidable error", avoidable) | {"sure": total["avoidable"][1, use].mean() / masks})
    return rows

# Decodability and generalisation

def predict(X: np.ndarray, values: np.ndarray, train: np.ndarray) -> list[np.ndarray]:
    """Linear read-outs of values (n, T) fitted on the cells in train (n_fit, T): predictions (n - n_fit, T) for the other
    boards, one for each of RIDGE. X (n, T, D) of cells, or (n, F) of boards, from which each cell has a read-out of its own."""
    n_fit, T, C = len(train), values.shape[1], values.max() + 1
    b, t = np.nonzero(train & (values[:n_fit] >= 0))
    X_fit, Y = X[b, t] if X.ndim == 3 else X[:n_fit], np.eye(C, dtype=np.float32)[values[b, t]]
    if X.ndim == 2:
        rows, at = np.unique(b, return_inverse=True)
        X_fit, one_hot, Y = X[rows], Y, np.zeros((len(rows), T, C), np.float32)
        Y[at, t] = one_hot
    rest = X[n_fit:].reshape(-1, X.shape[-1])
    fitted = statistics.ridge(X_fit, Y.reshape(len(Y), -1), RIDGE)
    return [(rest @ weights[:-1] + weights[-1]).reshape(-1, T, C).argmax(-1) for weights in fitted]


def choose(made: list[np.ndarray], values: np.ndarray, judged: np.ndarray, n_valid: int, W: np.ndarray) -> tuple:
    """(skill on the boards to choose by, score on the test boards) of the predictions, all (n_valid + n_test, T), that are best
    on the former, over the cells judged."""
    valid = [skill(m[:n_valid], values[:n_valid], judged[:n_valid], np.ones((1, n_valid)))[0] for m in made]
    k = int(np.argmax(np.nan_to_num(valid, nan=-np.inf)))
    return valid[k], skill(made[k][n_valid:], values[n_valid:], judged[n_valid:], W)


def readouts(stages: dict[str, np.ndarray], values, train, judged, sample: Sample, W) -> dict[str, tuple]:
    """{stage: (skill on the boards to choose by, score on the test boards)}; values, train, judged (n, T)."""
    return {stage: choose(predict(X, values, train[: sample.n_fit]), values[sample.n_fit :], judged[sample.n_fit :],
                          sample.n_valid, W) for stage, X in stages.items()}


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


def decodability(sources: dict[str, dict[str, np.ndarray]], sample: Sample, W, rng, bar=iter) -> tuple[list, list]:
    """Rows on whether every label can be read off linearly, hidden and visible cells apart; the curves over stages.

    sources: {'network': {stage: (n, T, D)}, control: {stage: features}}. W (R + 1, masked test boards). The control task: each
    (true token, position) has a random class, as in Hewitt and Liang 2019; its skill at the network's stage is a control.
    The whole board's read-outs, one a cell, are fitted on hidden and visible cells alike: they would have too few examples.
    """
    tokens, rows, curves = sample.scenes.boards.reshape(sample.tokens.shape), [], []
    cells = {"hidden cells": sample.hidden, "visible cells": ~sample.hidden, "all cells": np.ones_like(sample.hidden)}
    for label, condition in bar([(label, c) for label in sample.labels for c in cells
                                 if (label == "hidden or visible") == (c == "all cells")]):
        values, where = sample.labels[label], cells[condition]
        judged = where & (values >= 0) & sample.known[label]
        if len(np.unique(values[sample.test][judged[sample.test]])) < 2:
            continue
        random = rng.integers(values.max() + 1, size=(tokens.shape[1], tokens.max() + 1))[np.arange(tokens.shape[1]), tokens]
        found = {source: readouts(stages, values, where | (source == "whole masked board"), judged, sample, W)
                 for source, stages in sources.items()}
        found["control task"] = readouts(sources["network"], random, where & (values >= 0), judged, sample, W)
        if condition != "all cells":
            curves += [{"label": label, "cells": condition, "source": source, "stage": stage} | spread("value", score)
                       for source, scores in found.items() for stage, (_, score) in scores.items()]
        stage, effect = best_stage(found.pop("network"))
        controls = {"majority class": np.zeros_like(effect), "control task": found.pop("control task")[stage][1]}
        controls |= {source: best_stage(scores)[1] for source, scores in found.items()}
        rows.append(judge("decodability", f"{label}, {condition}", effect, controls, 1, condition != "all cells", stage=stage,
                          cells=int(judged[sample.test].sum())))
    return rows, curves


def contexts_of(sample: Sample, dataset: AbstractionDataset) -> dict[str, np.ndarray]:
    """{what divides contexts: (n, T)}: 0 or 1, the half a cell's context belongs to; -1 in neither."""
    labels, objects, types = sample.labels, sample.scenes.objects, sample.scenes.types[:, None] + 0 * sample.labels["root"]
    root, half = labels["root"], lambda values, where=True: np.where(where & (values >= 0), values % 2, -1)
    number = np.clip(dataset.covering(objects) // dataset.params.abs_dim**2, 0, 1)
    other = objects[np.arange(len(objects))[:, None], 1 - number, 0]
    return {"background": half(labels["background"]), "place on the board": half(labels["row"] + labels["column"], root >= 0),
            "root": np.where(root >= 0, half(root), half(objects[:, :1, 0], types == 0)),
            "companion": half(other, (types == 1) & (root >= 0)), "double boards": np.where(types < 2, types, -1),
            "composites": np.array([0, -1, 1])[types]}


def generalisation(sources: dict, sample: Sample, contexts: dict[str, np.ndarray], W, rng, crossings=CROSSINGS,
                   bar=iter) -> list[dict]:
    """Rows on whether codes are abstract: read-outs fitted in one half of the contexts, tested in the other, both ways
    (Bernardi et al. 2020); upper bound: fitted in both. From single boards to others, one way, is a row of composition. Beside
    it the parallelism score at that stage: the mean cosine between the two contexts' differences of class means, and the same
    with classes shuffled."""
    rows, part = [], np.digitize(np.arange(len(sample.tokens)), [sample.n_fit, sample.test.start])[:, None]
    for label, condition in bar(crossings):
        values, half, one_way = sample.labels[label], contexts[condition], condition in ("double boards", "composites")
        usable = (half >= 0) & (values >= 0) & sample.known[label]
        usable &= (label != "background") | (sample.scenes.types == 0)[:, None]
        if any(len(np.unique(values[(part == k) & usable & (half == h)])) < 2 for h in (0, 1) for k in range(3)):
            continue
        ways, found = ((0,) if one_way else (0, 1)), {}
        for source, stages in sources.items():
            found[source] = [best_stage(readouts(stages, values, usable & (half == h), usable & (
                half == np.where(part < 2, h, 1 - h)), sample, W)) for h in ways]
        stage, scores = found["network"][-1][0], {source: np.mean([s for _, s in each], axis=0) for source, each in found.items()}
        tested = usable & np.isin(half, [1 - h for h in ways])
        upper = best_stage(readouts(sources["network"], values, usable, tested, sample, W))[1]
        (parallel, mixed), (fresh, _) = (parallelism(sources[source][stage], values, half, usable, rng)
                                         for source in ("network", "untrained network"))
        name = f"read-out of the root learnt on single boards, on {condition}" if one_way else f"{label} across {condition}"
        rows.append(judge("composition" if one_way else "generalisation", name, scores.pop("network"), scores, upper, stage=stage)
                    | {"parallelism": parallel, "parallelism, shuffled": mixed, "parallelism, untrained": fresh})
    return rows


def parallelism(X, values, half, usable, rng) -> tuple[float, float]:
    """Parallelism score of a label across two halves of the contexts, and with classes shuffled within each half."""
    scores = []
    for mixed in (lambda y: y, rng.permutation):
        parts = [(X[usable & (half == h)], mixed(values[usable & (half == h)])) for h in (0, 1)]
        common = np.intersect1d(parts[0][1], parts[1][1])
        means = [np.array([x[y == c].mean(0) for c in common]) for x, y in parts]
        i, j = np.triu_indices(len(common), 1)
        a, b = (m[i] - m[j] for m in means)
        scores.append(float(((a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)).mean()))
    return tuple(scores)

# Convergence

def nearness(X: np.ndarray, root: np.ndarray, token: np.ndarray, board: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Score of the mean cosine between cells of the same root with different tokens, minus that between cells of different
    roots with the same token; pairs of different boards. X (N, D) of unit length; root, token, board (N,); W (R + 1, boards)."""
    sums = np.zeros((W.shape[1], root.max() + 1, token.max() + 1, X.shape[1] + 1))
    np.add.at(sums, (board, root, token), np.column_stack([X, np.ones(len(X))]))

    def pairs(x):  # products summed over pairs of cells: of one root, of one token; not of both, not of one board
        joined, square = np.tensordot(W, x, 1), lambda a: (a**2).reshape(len(a), -1).sum(1)
        by_root, by_token, by_both = (square(add(joined)) - W**2 @ square(add(x))
                                      for add in (lambda a: a.sum(2), lambda a: a.sum(1), lambda a: a))
        return by_root - by_both, by_token - by_both

    (root_sum, token_sum), counts = pairs(sums[..., :-1]), pairs(sums[..., -1:])
    root_n, token_n = (np.where(count > 0.5, count, np.nan) for count in counts)
    return root_sum / root_n - token_sum / token_n


def dimensions_saved(X, classes, board, W, rng) -> np.ndarray:
    """Score of 1 - participation ratio of the class means / that of equally large random classes, drawn anew for each draw.
    Boards that count twice bias the ratio, so the draws are moved to have the measured value as their mean."""
    found = [[statistics.participation(X, c, w[board]) for c in (classes, rng.permutation(classes))] for w in (*[W[0]] * 20, *W[1:])]
    (true, *drawn), (chance, *random) = np.transpose([np.mean(found[:20], axis=0), *found[20:]])
    score = 1 - np.array(drawn) / random
    return np.r_[1 - true / chance, score - score.mean() + 1 - true / chance] if len(score) else np.array([1 - true / chance])


def object_cells(sample: Sample, hidden: bool) -> tuple[np.ndarray, ...]:
    """(masked test board (N,), cell (N,), root (N,), token (N,)) of object cells, hidden or visible."""
    tokens = sample.scenes.boards.reshape(sample.tokens.shape)[sample.test]
    root = sample.labels["root"][sample.test]
    b, t = np.nonzero((root >= 0) & (sample.hidden[sample.test] == hidden) & sample.known["root"][sample.test]
                      & (tokens != sample.labels["background"][sample.test]))
    return b, t, root[b, t], np.unique(tokens[b, t], return_inverse=True)[1]


def convergence(sources: dict, sample: Sample, W, rng, dimension_draws: int = 100) -> tuple[list, list]:
    """Rows on whether tokens of the same root transiently converge on low-dimensional manifolds, and the curves over stages.
    W (R + 1, test boards). sources {who: {stage: (masked test boards, T, D)}}: network, untrained network, further curves."""
    rows, curves, half = [], [], rng.permutation(W.shape[1]) % 2
    weights, stages, R = np.concatenate([W[:1] * (half == 0), W * (half == 1), W]), list(sources["network"]), len(W)
    for hidden, cells in ((True, "hidden cells"), (False, "visible cells")):
        b, t, root, token = object_cells(sample, hidden)
        if len(np.unique(root)) < 2 or len(np.unique(token)) < 2:
            continue
        board, near, X = sample.boards[b], {}, {}
        for source, stage in ((source, stage) for source in sources for stage in stages):
            X[source, stage] = statistics.unit(sources[source][stage][b, t])
            near[source, stage] = nearness(X[source, stage], root, token, board, weights)
            label = "over training, one run" if source.startswith("epoch") else "trained"
            saved = dimensions_saved(X[source, stage], root, board, W[:1], rng)[0]
            curves.append({"label": label, "cells": cells, "source": source, "stage": stage, "dimensions saved": saved}
                          | spread("value", near[source, stage][R + 1 :]))
        peak, inner = (max(some, key=lambda s: near["network", s][0]) for some in (stages, stages[1:-1]))  # on half of the boards
        first, here, last, top = ({who: near[who, s][1 : R + 1] for who in ("network", "untrained network")}
                                  for s in (stages[0], inner, stages[-1], peak))
        rows.append(judge("convergence", f"nearer by root than by token, {cells}", top["network"], {"as near": np.zeros(R),
                          "untrained network": top["untrained network"]}, 1 + 1 / (len(np.unique(root)) - 1), stage=peak))
        rise, fresh = (here[who] - np.maximum(first[who], last[who]) for who in here)
        rows.append(judge("convergence", f"an extremum inside the stack, {cells}", rise, {
            "stays": np.zeros(R), "untrained network": fresh}, here["network"][0] - first["network"][0], stage=inner))
        saved, fresh = (dimensions_saved(X[who, peak], root, board, W[: dimension_draws + 1], rng) for who in here)
        rows.append(judge("convergence", f"class means in fewer dimensions, {cells}", saved,
                          {"random classes": np.zeros(len(saved)), "untrained network": fresh}, stage=peak))
    return rows, curves

# Manipulation

@dataclass
class Swaps:
    """n boards and the donors of what they are given."""

    rows: np.ndarray  # (n, width) of the base
    tokens: dict[str, np.ndarray]  # (n, T) masked: base, donor (another root's in the cells to edit), third, same (elsewhere)
    cells: np.ndarray  # (n, c) footprints of what may be edited, -1 for what is not there
    same_cells: np.ndarray  # (n, c) those of `same`, the same object on another board
    edit: np.ndarray  # (n, c) which are edited
    read: np.ndarray  # (n, T) hidden cells, not edited, where base and donor differ
    away: np.ndarray  # (n, T) cells on which the swap should do nothing
    base: np.ndarray  # (n, T) whole boards
    donor: np.ndarray
    kinds: dict[str, np.ndarray]  # (n, c) root x d * d + place of each of cells, in base and donor


def footprints(dataset: AbstractionDataset, objects: np.ndarray) -> np.ndarray:
    """Cells (n, m * d * d) of objects (n, m, 3), object by object; -1 for one that is not there."""
    h, d = dataset.params.board_dim, dataset.params.abs_dim
    cells = objects[..., 1, None] * h + objects[..., 2, None] + (np.arange(d)[:, None] * h + np.arange(d)).ravel()
    return np.where(objects[..., :1] >= 0, cells, -1).reshape(len(objects), -1)


def apart(dataset: AbstractionDataset, rows: np.ndarray) -> np.ndarray:
    """(n,) whether the objects of rows do not overlap: those of double boards (n, 7), others always."""
    far = abs(rows[:, 1:3] - rows[:, -3:-1]) >= dataset.params.abs_dim
    return far.any(1) | (rows.shape[1] != 7)


def swaps_of(dataset: AbstractionDataset, type_: int, count: int, rng, swapped: int = 1) -> Swaps | None:
    """Swaps on held-out boards whose objects do not overlap, everything but the swapped objects the same. Single and double
    boards: of the first root, a third of whose cells is hidden; the visible ones are edited. Composites: of `swapped` visible
    constituents by another composite's, one root being wholly hidden. None where too few can be made."""
    p, d2 = dataset.params, dataset.params.abs_dim**2
    kinds = p.comp_n if type_ == 2 else p.abs_n
    rows = rows_of(dataset, type_, "test", 12 * count, rng)
    rows = rows[apart(dataset, rows)]
    if kinds < 3 or not (n := len(rows)):
        return None
    others = (rows[:, :1] + np.argsort(rng.random((n, kinds - 1)), axis=1)[:, :2] + 1) % kinds
    made = {"base": rows, "donor": rows.copy(), "third": rows.copy(), "same": rows[rng.permutation(n)]}
    made["donor"][:, 0], made["third"][:, 0], made["same"][:, 0] = *others.T, rows[:, 0]
    scenes = {who: scenes_of(dataset, type_, r, rng) for who, r in made.items()}
    boards = {who: s.boards.reshape(n, -1) for who, s in scenes.items()}
    objects = {who: s.objects if type_ == 2 else s.objects[:, :1] for who, s in scenes.items()}
    cells = {who: footprints(dataset, objects[who]) for who in ("base", "same")}
    if type_ == 2:
        shared = np.all([objects[who][..., 0] >= 0 for who in ("base", "donor", "third")], axis=0)  # slots that all three use
        rank = np.where(shared, rng.random(shared.shape), 2).argsort(1).argsort(1)
        gone, edit = (np.repeat(shared & part, d2, axis=1) for part in (rank == 0, (rank > 0) & (rank <= swapped)))
    else:
        gone = rng.random(cells["base"].shape) < 1 / 3
        edit = ~gone
    elsewhere = rng.random(boards["base"].shape) < (0 if type_ == 2 else MASKING[0])
    inside, hidden, edited = ({who: np.zeros_like(elsewhere) for who in cells} for _ in range(3))
    for who, c in cells.items():
        b, k = np.nonzero(c >= 0)
        for flags, values in ((inside, c >= 0), (hidden, gone), (edited, edit)):
            flags[who][b, c[b, k]] = values[b, k]
        hidden[who] |= elsewhere & ~inside[who]
    tokens = {who: np.where(hidden["same" if who == "same" else "base"], dataset.masking_token, boards[who]) for who in boards}
    tokens |= {who: np.where(edited["base"], tokens[who], tokens["base"]) for who in ("donor", "third")}
    differ = (boards["base"] != boards["donor"]) & inside["base"]
    read, kinds = differ & hidden["base"], {
        who: np.maximum(np.repeat(objects[who][..., 0], d2, axis=1), 0) * d2 + np.tile(np.arange(d2), objects[who].shape[1])
        for who in ("base", "donor")}
    keep = np.flatnonzero(read.any(1) & ((differ & edited["base"]).sum(1) >= 2))[:count]
    arrays = (rows, tokens, *cells.values(), edit, read, ~inside["base"], boards["base"],
              boards["donor"], kinds)
    return None if len(keep) < 2 else Swaps(*({who: x[keep] for who, x in a.items()} if isinstance(a, dict) else a[keep]
                                              for a in arrays))


def swap_rows(network, swaps: Swaps, table: str, where: str, rng, draws: int = DRAWS, means: dict | None = None,
              given: np.ndarray | None = None, fresh=None, counts: Sequence[str] = ("swap",)) -> list[dict]:
    """Rows on what giving a board the donor's activations at one stage does to cells that were not edited. means {stage: (roots *
    d * d, D)}: class means, for a second method that adds their difference. given: other tokens (n, T) to take the donor's
    activations from. fresh: the untrained network. counts: the methods that count."""
    at, W = np.arange(len(swaps.rows))[:, None], resample(swaps.base, rng, draws)
    clean, acts = network.run(swaps.tokens["base"], network.editable)
    wanted, _ = network.run(swaps.tokens["donor"])
    third, same, donor = (network.run(tokens, network.editable)[1] for tokens in (
        swaps.tokens["third"], swaps.tokens["same"], swaps.tokens["donor"] if given is None else given))
    edited, rows = np.zeros(swaps.base.shape, bool), []
    b, k = np.nonzero(swaps.edit)
    edited[b, swaps.cells[b, k]] = True

    def difference(logits):  # of the donor's token and the base's
        both = (np.take_along_axis(logits, board[..., None], 2)[..., 0] for board in (swaps.donor, swaps.base))
        return np.where(swaps.read, np.subtract(*both), 0).sum(1)

    def success(logits, board=swaps.donor):
        return ratio(((logits.argmax(-1) == board) | ~swaps.read).all(1), 1, W)

    def patched(network, stage, base, values):  # base (n, T, D), values (n, c, D)
        out = base.copy()
        out[b, swaps.cells[b, k]] = values[b, k]
        return network.run(swaps.tokens["base"], (), (stage, out, edited))[0]

    for stage in network.editable:
        mine, theirs = acts[stage][at, swaps.cells], donor[stage][at, swaps.cells]
        cloud = mine[swaps.edit]
        _, width, axes = np.linalg.svd(cloud - cloud.mean(0), full_matrices=False)
        noise = rng.standard_normal((*mine.shape[:2], len(width))) * width / np.sqrt(max(len(cloud) - 1, 1)) @ axes
        order = np.where(swaps.edit, rng.random(swaps.edit.shape), 2).argsort(1)  # edited places, shuffled, come first
        permuted = theirs.copy()
        np.put_along_axis(permuted, (~swaps.edit).argsort(1, kind="stable")[..., None],
                          np.take_along_axis(theirs, order[..., None], 1), 1)
        methods = {"swap": theirs, "a third root": third[stage][at, swaps.cells], "permuted places": permuted,
                   "noise": (noise + cloud.mean(0)).astype(mine.dtype), "the same root": same[stage][at, swaps.same_cells]}
        if means is not None:
            methods["difference of class means"] = mine + means[stage][swaps.kinds["donor"]] - means[stage][swaps.kinds["base"]]
        made = {name: patched(network, stage, acts[stage], values) for name, values in methods.items()}
        scores = {name: success(logits) for name, logits in made.items()}
        effects = {name: scores.pop(name) for name in ("swap", "difference of class means") if name in scores}
        controls = scores | {"nothing": success(clean)}
        if fresh is not None:
            base, theirs = (fresh.run(swaps.tokens[who], [stage])[1][stage] for who in ("base", "donor"))
            controls["untrained network"] = success(patched(fresh, stage, base, theirs[at, swaps.cells]))
        moved = {name: ratio(difference(logits) - difference(clean), difference(wanted) - difference(clean), W)
                 for name, logits in made.items()}
        for name, effect in effects.items():
            changed = ((made[name].argmax(-1) != clean.argmax(-1)) & swaps.away).sum(1)
            rows.append(judge(table, f"{name}, {where}, {stage}", effect, controls, success(wanted), name in counts, stage=stage,
                              boards=len(W[0])) | spread("moved", moved[name]) | {
                "moved, strongest control": max(moved[other][0] for other in scores),
                "collateral": ratio(changed, swaps.away.sum(1), W)[0], "stays": success(made[name], swaps.base)[0],
                "stays, tokens swapped": success(wanted, swaps.base)[0]})
    return rows


def class_means(sample: Sample, sources: dict, editable: Sequence[str], dataset, types=(0, 1, 2)) -> dict[str, np.ndarray]:
    """{stage: (roots * d * d, D)}: mean activation of a visible cell of each root at each place of its footprint, over the
    boards to fit on of the given types."""
    d2, fit = dataset.params.abs_dim**2, slice(sample.n_fit)
    use = (sample.labels["root"][fit] >= 0) & ~sample.hidden[fit] & np.isin(sample.scenes.types[fit], types)[:, None]
    kind = (sample.labels["root"][fit] * d2 + sample.labels["place in the root"][fit])[use]
    member = np.eye(dataset.params.abs_n * d2, dtype=np.float32)[kind].T
    return {stage: member @ sources[stage][fit][use] / np.maximum(member.sum(1, keepdims=True), 1) for stage in editable}

# Compositionality

def composition(network, fresh, dataset: AbstractionDataset, types, proba, means, rng, count: int = 200, draws: int = DRAWS,
                bar=iter) -> list[dict]:
    """Rows on whether codes are compositional: swaps from single boards into double ones (means: of single boards); the hidden
    root of a composite; that root when visible constituents are swapped, of which all at once count."""
    rows = []
    if 0 in types and 1 in types and (swaps := swaps_of(dataset, 1, count, rng)) is not None:
        seen = swaps.away & (swaps.tokens["donor"] != dataset.masking_token)
        backgrounds = (swaps.base[..., None] == np.arange(dataset.params.vocab_bck)).sum(1).argmax(1)
        alone = np.where(seen, backgrounds[:, None], swaps.tokens["donor"])
        rows += swap_rows(network, swaps, "composition", "from single boards into double ones", rng, draws, means, alone,
                          counts=("swap", "difference of class means"))
    if 2 in types:
        most = dataset.params.comp_c - 1
        for k in bar(range(most, 0, -1)):
            swaps = swaps_of(dataset, 2, count, rng, k)
            if swaps is not None:
                rows += part_whole(network, fresh, dataset, swaps, proba, rng, draws) if k == most else []
                rows += swap_rows(network, swaps, "composition", f"{k} of {most} visible constituents of a composite", rng, draws,
                                  fresh=fresh, counts=("swap",) if k == most else ())
    return rows


def part_whole(network, fresh, dataset: AbstractionDataset, swaps: Swaps, proba, rng, draws: int = DRAWS) -> list[dict]:
    """The wholly hidden root of held-out composites, filled in from the other roots, against the best possible."""
    tokens, at, n = swaps.tokens["base"], np.arange(len(swaps.rows)), len(swaps.rows)
    hidden, side, W = tokens == dataset.masking_token, dataset.params.board_dim, resample(swaps.base, rng, draws)
    best = dataset.best_reconstruction(tokens.reshape(n, side, side), proba).board.reshape(n, -1)
    slot = (hidden[at[:, None], swaps.cells] & (swaps.cells >= 0)).reshape(n, -1, dataset.params.abs_dim**2).all(-1).argmax(1)
    slots = dataset.compositions.reshape(dataset.params.comp_n, -1)
    frequent = np.array([np.bincount(column[column >= 0], minlength=1).argmax() for column in slots.T])
    exact = {name: ratio(((made == swaps.base) | ~hidden).all(1), 1, W) for name, made in (
        ("network", network.run(tokens)[0].argmax(-1)), ("untrained network", fresh.run(tokens)[0].argmax(-1)), ("best", best))}
    controls = {"untrained network": exact["untrained network"], "the root most frequent there": ratio(
        slots[swaps.rows[:, 0], slot] == frequent[slot], 1, W)}
    return [judge("composition", "hidden root of a composite, from the others", exact["network"], controls, exact["best"])]

# Language

def scene_features(scenes: Scenes, roots: int) -> dict[str, np.ndarray]:
    """{feature: (n,)}, -1 where a scene has none: background; whether each root is there; a single's row and column."""
    features = {"background": scenes.backgrounds}
    features |= {f"root {r} is there": (scenes.objects[..., 0] == r).any(1).astype(np.int64) for r in range(roots)}
    return features | {name: np.where(scenes.types == 0, scenes.objects[:, 0, i], -1) for i, name in ((1, "row"), (2, "column"))}


def word_information(words: np.ndarray, scenes: Scenes, roots: int, rng, permutations: int = 50, bar=iter) -> list[dict]:
    """Mutual information between words (n, S) and features as shares of the feature's entropy: at the best place, less the mean
    over permutations by board (a board that was drawn twice keeps one value), beside the 95% quantile of a permutation's best."""
    rows, board = [], np.unique(scenes.boards.reshape(len(scenes.boards), -1), axis=0, return_inverse=True)[1].ravel()
    for name, values in bar(scene_features(scenes, roots).items()):
        use = values >= 0
        w, v = words[use], values[use]
        _, first, which = np.unique(board[use], return_index=True, return_inverse=True)
        H = entropy_bits(np.bincount(v)) if use.any() else 0
        if H == 0:
            continue
        chance = np.array([information(w, rng.permutation(v[first])[which]) for _ in range(permutations)])
        found, mean = information(w, v), chance.mean(0)
        rows.append({"feature": name, "boards": int(use.sum()), "distinct boards": len(first), "entropy": H,
                     "place": int((found - mean).argmax()), "MI/H": (found - mean).max() / H,
                     "95% of permutations": np.quantile((chance - mean).max(1), 0.95) / H, "bias removed": mean.mean() / H}
                    | {f"place {s}": x / H for s, x in enumerate(found - mean)})
    return rows


def words_readout(words: dict[str, np.ndarray], features: dict[str, np.ndarray], n_fit: int, rng, draws: int = DRAWS) -> list:
    """Rows on whether words speak of features: linear read-outs from all words, one-hot, fitted on the first n_fit boards (a
    sixth of them to choose by) and tested on the others. words {'words': (n, S), control: (n, S)}. The roots count together."""
    values, n_valid, scores = np.stack(list(features.values()), 1), n_fit // 6, {}
    W, start = resample(len(values) - n_fit, rng, draws), n_fit - n_valid
    for source, said in words.items():
        one_hot = (said[..., None] == np.unique(said)).reshape(len(said), -1)
        made = predict(one_hot[:, one_hot[:start].any(0)].astype(np.float32), values, values[:start] >= 0)
        for j, name in enumerate(features):
            column = values[start:, j : j + 1]
            scores.setdefault(name, {})[source] = choose([m[:, j : j + 1] for m in made], column, column >= 0, n_valid, W)[1]
    roots = [name for name in scores if name.startswith("root ")]
    scores["which roots are there"] = {s: np.mean([scores[name][s] for name in roots], axis=0) for s in words}
    return [judge("words", name, by.pop("words"), {"majority class": np.zeros(len(W))} | by, counts=name not in roots,
                  boards=int((features[name][n_fit:] >= 0).sum()) if name in features else len(values) - n_fit)
            for name, by in scores.items() if np.isfinite(by["words"][0])]


def scene_distances(scenes: Scenes) -> np.ndarray:
    """(n, n) how many of background, roots, rows and columns differ between scenes, objects matched as well as they can be;
    an object without a partner counts 3. For boards of at most two objects."""
    a, b = scenes.objects[:, None, :2], scenes.objects[None, :, :2]

    def pair(i, j):
        none, other = a[..., i, 0] < 0, b[..., j, 0] < 0
        return np.where(none & other, 0, np.where(none | other, 3, (a[..., i, :] != b[..., j, :]).sum(-1)))

    return np.minimum(pair(0, 0) + pair(1, 1), pair(0, 1) + pair(1, 0)) + (scenes.backgrounds[:, None] != scenes.backgrounds)


def disentanglement(words: np.ndarray, features: list[np.ndarray]) -> float:
    """Positional disentanglement: mean over places of (largest - second information about a feature) / the word's entropy."""
    found = np.sort([information(words, values) for values in features], axis=0)
    H = np.array([entropy_bits(np.bincount(w)) for w in words.T])
    return float(np.mean((found[-1] - found[-2])[H > 0] / H[H > 0])) if (H > 0).any() else 0.0


def changed_rows(dataset: AbstractionDataset, type_: int, feature: str, count: int, rng) -> list[np.ndarray] | None:
    """[from, to, elsewhere from, elsewhere to] rows (count, width): held-out boards and the same with one feature of the first
    object, or the background, changed; and other pairs with the same change. None where there are too few."""
    p = dataset.params
    column = -1 if feature == "background" else ("root", "row", "column").index(feature)
    high = p.vocab_bck if column < 0 else (p.abs_n, p.places, p.places)[column]
    start, other = (rows_of(dataset, type_, split, count * 8, rng) for split in ("test", "train"))
    rows = [start, start.copy(), other, other.copy()]
    rows[2][:, column] = start[:, column]
    rows[1][:, column] = rows[3][:, column] = (start[:, column] + rng.integers(1, max(high, 2), size=len(start))) % high
    fine = np.all([apart(dataset, r) for r in rows], axis=0)
    return [r[fine][:count] for r in rows] if high > 1 and fine.sum() >= 8 else None


def steering(speak: Callable, rebuild: Callable, dataset: AbstractionDataset, types: Iterable[int], rng, count: int = 200,
             draws: int = DRAWS, bar=iter) -> list[dict]:
    """Rows on whether words steer: of two boards that differ in one feature, the first one's sentence takes the words of the
    second at the places where they differ; how often the board rebuilt from it is exactly the second. 'Elsewhere': the words of
    another pair that makes the same change. speak: boards (n, h, w) -> words (n, S); rebuild: words -> boards. Controls: as many
    random places; another pair's words; no words."""
    rows = []
    cases = [(0, f) for f in ("background", "root", "row", "column")] + [(1, f) for f in ("background", "root")]
    for type_, feature in bar([case for case in cases if case[0] in types]):
        made = changed_rows(dataset, type_, feature, count, rng)
        if made is None:
            continue
        boards = [scenes_of(dataset, type_, r, rng).boards for r in made]
        start, goal, start2, goal2 = (speak(b) for b in boards)
        W, another = resample(boards[0].reshape(len(start), -1), rng, draws), np.roll(np.arange(len(start)), 1)

        def exact(words, board=boards[1]):
            return (rebuild(words) == board).all((1, 2))

        rebuilt = exact(goal)
        both = exact(start, boards[0]) & rebuilt
        for how, words, differ in (("", goal, start != goal), (", words from elsewhere", goal2, start2 != goal2)):
            random = rng.random(differ.shape).argsort(1).argsort(1) < differ.sum(1, keepdims=True)
            right = exact(np.where(differ, words, start))
            controls = {"as many random places": exact(np.where(random, words, start)), "no words": exact(start),
                        "another pair's words": exact(np.where(differ[another], words[another], start))}
            row = judge("steering", f"{feature} of {TYPES[type_]} boards{how}", ratio(right, 1, W),
                        {name: ratio(r, 1, W) for name, r in controls.items()}, ratio(rebuilt, 1, W), not how, boards=len(start))
            given = spread("given both rebuilt", ratio(right & both, both, W))
            rows.append(row | {"words that differ": differ.sum(1).mean()} | given)
    return rows


def tongue(trainer: module_train_probe_lea.TrainTransformer) -> tuple[Callable, Callable]:
    """speak(boards, masks=None) -> words (n, S) and rebuild(words) -> boards (n, h, w) of a LEA run, in eval mode."""
    pieces = lambda *arrays: zip(*(np.array_split(a, len(a) // 512 + 1) for a in arrays), strict=True)  # noqa: E731
    return (lambda boards, masks=None: np.concatenate([trainer.speaker_predict(*piece)[2].argmax(-1) for piece in pieces(
                boards, np.zeros_like(boards) if masks is None else masks)]),
            lambda words: np.concatenate([trainer.speaker_predict_from_speech(*piece) for piece in pieces(words)]))


def language(lea, size: dict, bar=lambda what: iter) -> tuple[list, dict[str, list], tuple]:
    """Rows on the language of a LEA run; its information table; (words (n, S), scenes, data set) for the dictionary."""
    dataset, proba, draws, rng = lea.dataset, lea._board_proba(lea.epochs), size["draws"], utils.numpy_rng(lea.seed, 8)
    use, p = types_in_use(dataset, proba), dataset.params
    speak, rebuild = tongue(lea)
    most = size["words"] / use.get(0, 1)  # so that row and column, of single boards, have enough of them
    fit = Scenes.join([scenes_of(dataset, t, rows_of(dataset, t, "train", max(2, round(most * share)), rng), rng)
                       for t, share in use.items()])
    fit = fit.take(rng.permutation(len(fit.boards)))
    test = Scenes.join([held_out(dataset, t, 2 * size["test"], rng) for t in use])
    both, n = Scenes.join([fit, test]), len(test.boards)
    said = {"words": speak(both.boards), "untrained network": tongue(untrained(lea))[0](both.boards)}
    said["random codes"] = rng.permutation(said["words"])
    words, W = said["words"][-n:], resample(n, rng, draws)

    left = [entropy_bits(dataset.hypotheses(board, proba).weights) for board in fit.boards[:300]]  # of a row, the board seen
    own = sum(share * np.log2(p.families[t].size / share) for t, share in use.items()) - np.mean(left)
    right, masked = rebuild(words) == test.boards, speak(test.boards, rng.random(test.boards.shape) < 0.2)
    _, first = np.unique(test.boards.reshape(n, -1), axis=0, return_index=True)
    facts = [("distinct sentences / distinct boards", len(np.unique(words[first], axis=0)) / len(first), {}),
             ("bits of the words: sum of H(word; place) over places", sum(entropy_bits(np.bincount(w)) for w in said["words"].T),
              {"the data's own": own}),
             ("words that stay when 20% of the cells are hidden", ratio((masked == words).mean(1), 1, W),
              {"another board's words": ratio((rng.permutation(words) == words).mean(1), 1, W)})]
    for group in ("all", *(TYPES[t] for t in use)):
        where = np.ones(n) if group == "all" else test.types == TYPES.index(group)
        facts += [(f"sentence to board, {what}, {group} boards", ratio(r * where, where, W), {})
                  for what, r in (("tokens", right.mean((1, 2))), ("whole boards", right.all((1, 2))))]
    few, alone = np.flatnonzero(test.types < 2)[:300], np.flatnonzero(both.types == 0)
    if len(few) > 2:
        distances = scene_distances(test.take(few))
        found = {name: statistics.mantel(words[-n:][few], distances, rng) for name, words in said.items()}
        facts.append(("topographic similarity", found["words"][0], {name: found[name][0] for name in list(said)[1:]} | {
            "95% of permutations": found["words"][1]}, {f"p (Mantel), {name}": found[name][2] for name in said}))
    if len(alone) > 50:
        parts = [both.backgrounds[alone], *both.objects[alone, 0].T]
        found = {name: disentanglement(words[alone], parts) for name, words in said.items()}
        facts.append(("positional disentanglement, single boards", found.pop("words"), found))
    mi = word_information(said["words"][:-n], fit, p.abs_n, rng, size["permutations"], bar("information"))
    c = "95% of permutations"
    facts += [(f"MI/H: {row['feature']}", row["MI/H"], {c: row[c]}, {"boards": row["boards"]}) for row in mi]
    rows = words_readout(said, scene_features(both, p.abs_n), len(fit.boards), rng, draws)
    for what, score, controls, *more in facts:
        controls = {name: np.atleast_1d(control) for name, control in controls.items()}
        rows.append(judge("words", what, np.atleast_1d(score), controls, np.nan, False, **(more[0] if more else {})))
    rows += steering(speak, rebuild, dataset, use, rng, size["swaps"], draws, bar("steering"))
    return rows, {"words_information": mi}, (said["words"][:-n], fit, dataset)

# A run, its report

def analyse(trainer, size: dict, bar=lambda what: iter) -> tuple[list, dict[str, list], tuple]:
    """Rows of a trained factor run; its curves over stages; ({stage: cells (N, D)}, root (N,), token (N,)) for a picture."""
    dataset, rng, draws = trainer.dataset, utils.numpy_rng(trainer.seed, 8), size["draws"]
    proba = trainer._board_proba(max(trainer.epoch - 1, 0))
    network, fresh, types = Network(trainer), Network(untrained(trainer)), types_in_use(dataset, proba)
    sample = make_sample(dataset, proba, rng, size["fit"], size["test"], size["masks"], bar("labels"))
    W = resample(sample.boards.max() + 1, rng, draws)
    rows = ceiling(trainer, sample.scenes.take(sample.test).take(slice(W.shape[1])), proba, rng, size["ceiling_masks"], draws,
                   bar("ceiling"))
    nets = {"network": network.run(sample.tokens, network.stages)[1],
            "untrained network": fresh.run(sample.tokens, network.stages)[1]}
    sources = nets | input_features(sample.tokens, dataset.vocab_size)
    made, decodable = decodability(sources, sample, W[:, sample.boards], rng, bar("read-outs"))
    rows += made + generalisation(sources, sample, contexts_of(sample, dataset), W[:, sample.boards], rng, bar=bar("contexts"))
    near = {who: {stage: X[sample.test] for stage, X in stages.items()} for who, stages in nets.items()}
    found = module_files.numbered(trainer.folder / "checkpoints", r"model_(\d+)\.pth")
    for epoch, path in found if len(found) > 1 else ():
        past = Network(type(trainer).from_run(trainer.folder, path.name, str(trainer.device)))
        near[f"epoch {epoch}"] = past.run(sample.tokens[sample.test], network.stages)[1]
    made, near = convergence(near, sample, W, rng)
    rows += made
    means = class_means(sample, nets["network"], network.editable, dataset)
    for type_ in bar("swaps")([t for t in (0, 1) if t in types]):
        if (swaps := swaps_of(dataset, type_, size["swaps"], rng)) is not None:
            rows += swap_rows(network, swaps, "manipulation", f"{TYPES[type_]} boards", rng, draws, means, fresh=fresh)
    means = class_means(sample, nets["network"], network.editable, dataset, [0])
    rows += composition(network, fresh, dataset, types, proba, means, rng, size["swaps"], draws, bar("composition"))
    b, t, root, token = object_cells(sample, False)
    pictured = [stage for stage in network.stages if stage.endswith(("_z", "z_attn"))] + network.stages[-1:]
    return rows, {"decodability_stages": decodable, "convergence_stages": near}, {"root": root, "token": token, "stages": {
        stage: statistics.unit(nets["network"][stage][sample.test][b, t]) for stage in pictured}}


def row_cells(row: dict) -> list[str]:
    """A row's cells in the report."""
    text = {name: module_files.as_text(value) for name, value in row.items()}
    effect, gain = (f"{text[name]} [{text[f'{name} low']}, {text[f'{name} high']}]" for name in ("effect", "gain"))
    after = list(text)[list(text).index("holds") + 1 :]
    controls = "; ".join(f"{name[9:]} {text[name]}" for name in after if name.startswith("control: "))
    more = "; ".join(f"{name} {text[name]}" for name in after if not name.startswith("control: "))
    word = ("holds" if row["holds"] else "does not") if row["counts"] else "not counted"
    return [row["feature"], row["run"], row["stage"], effect, text["upper"],
            f"{gain} over {row['strongest control']}" if controls else "-", controls, more, word]


INTRODUCTION = """# What the paper claims, measured on these networks

Runs: {}. These are operational definitions of what the abstract of arXiv 2312.05361 claims, not reproductions of the paper's
figures. A row *holds* if the 95% bootstrap interval (over boards) of its effect minus its strongest control lies above 0 and the
effect is at least half of its upper bound; a feature holds if it does in every run. A claim *holds* if every feature does, holds
*in part* if some do, and else *does not*. The rules were fixed before any number was seen. *Skill* is balanced accuracy above
chance: 0 is the majority class, 1 perfect. Stages: b0_z is what block 0 reads, b(i)_z_attn and b(i)_z_attn_mlp are the residual
stream after block i's attention and after the block.

## Verdicts

"""


def write_report(folder: Path, rows: list[dict], curves: dict[str, list], seconds: float) -> list[dict]:
    """Writes report.md and a CSV for each table; returns the verdicts."""
    tables = {name: made for name in TABLES if (made := [row for row in rows if row["table"] == name])}
    verdicts = [{"claim": TABLES[name][0], "table": name} | verdict(made) for name, made in tables.items() if TABLES[name][0]]
    parts = [INTRODUCTION.format(", ".join(dict.fromkeys(row["run"] for row in rows))), module_files.markdown(list(verdicts[0]), (
        [f"**{v}**" if name == "verdict" else v for name, v in line.items()] for line in verdicts))]
    words = {v["table"]: f"{v['claim'][0].upper()}{v['claim'][1:]}: {v['verdict']}" for v in verdicts}
    for name, made in tables.items():
        figures = [f"![{figure}]({figure}.png)\n\n" for figure in FIGURES if figure.startswith(name)]
        parts += [f"\n## {words.get(name, 'The ceiling')}\n\n{TABLES[name][2]}\n\n", *figures]
        parts.append(module_files.markdown(["feature", "run", "stage", "effect [95%]", "upper bound", "effect - strongest control [95%]",
                                     "controls", "besides", "verdict"], map(row_cells, made)))
    for name, made in (tables | curves | {"verdicts": verdicts}).items():
        module_files.save_table(folder / f"{name}.csv", made)
    with module_files.atomic_write(folder / "report.md", "w") as file:
        file.write("".join([*parts, f"\nMade in {seconds:.0f} s. Every table is a CSV in this folder.\n"]))
    return verdicts

# Pictures

def plot_dictionary(words: np.ndarray, scenes: Scenes, dataset: AbstractionDataset, entries: int = 12, examples: int = 6):
    """Of much-used words (n, S), each where it is most often said: boards that call for it."""
    counts = np.array([np.bincount(w, minlength=words.max() + 1) for w in words.T]) / len(words)  # (S, K)
    counts = np.where(counts > 0.6, 0, counts)  # what is nearly always said tells nothing
    said = [(word, counts[:, word].argmax()) for word in np.argsort(-counts.max(0), kind="stable")[:entries]]
    titles = [f"word {word} at place {place}: {100 * counts[place, word]:.0f}% of boards" for word, place in said]
    groups = [scenes.boards[words[:, place] == word][:examples] for word, place in said]
    return figures.plot_examples(groups, titles, module_figures.token_colors(dataset.vocab_bck, dataset.vocab_token))


FIGURES = {  # name: (what it is drawn from, how)
    **{name: (name, lambda rows, name=name: figures.plot_rows(rows, TABLES[name][1])) for name in TABLES},
    "decodability_stages": ("decodability_stages", lambda curves: figures.plot_stages(curves, "skill")),
    "convergence_stages": ("convergence_stages", lambda curves: figures.plot_stages(curves, "nearness by root - by token")),
    "convergence_pca": ("pca", lambda arrays: figures.plot_components(**arrays)),
    "words_information": ("words_information", lambda rows: figures.plot_shares(
        [[v for name, v in row.items() if name.startswith("place ")] for row in rows], [row["feature"] for row in rows],
        "place in the sentence", "information / entropy of the feature")),
    "words_dictionary": ("dictionary", lambda arrays: plot_dictionary(*arrays)),
}


def run_all(runs: Sequence[str | Path], lea: str | Path | None = None, quick: bool = False) -> list[dict]:
    """Analyses factor runs (seeds of one recipe) and a LEA run, writes <first run>/analysis/ and returns the verdicts."""
    start, size, rows, drawn, curves = time.time(), SIZES[quick], [], {}, {}
    if len({Path(run).name for run in runs}) < len(runs):
        raise ValueError(f"runs must have names of their own, not {', '.join(Path(run).name for run in runs)}.")
    folder = Path(runs[0] if runs else lea) / "analysis"
    for run, is_lea in [*((run, False) for run in runs), *([(lea, True)] if lea is not None else [])]:
        if is_lea != ("vocab_speech_size" in module_files.read_json(Path(run) / "params_training.json")):
            raise ValueError(f"{run}: is no LEA run." if is_lea else f"{run}: is a LEA run; give it as --lea {run}.")
        trainer, name = (module_train_probe_lea if is_lea else module_train_probe).TrainTransformer.from_run(run), Path(run).name
        bar = lambda what, name=name: lambda steps: utils.progress_bar(steps, 20, desc=f"{name}, {what} ", leave=False)  # noqa: E731
        made, found, picture = (language if is_lea else analyse)(trainer, size, bar)
        drawn.setdefault("dictionary" if is_lea else "pca", picture)
        rows += [{"run": name} | row for row in made]
        for table, lines in found.items():
            curves.setdefault(table, []).extend({"run": name} | line for line in lines)
    drawn |= curves | {name: [row for row in rows if row["table"] == name and np.isfinite(row["upper"])] for name in TABLES}
    for name, (source, draw) in FIGURES.items():
        if drawn.get(source):
            module_figures.save_figure(draw(drawn[source]), folder / f"{name}.png")
    return write_report(folder, rows, curves, time.time() - start)


def main() -> None:
    """The command line: reports on run folders, verdicts on stdout; exit code 2 for a folder that cannot be read."""
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
    for v in verdicts:
        print(f"{v['verdict']:>9}  {v['claim']} ({v['holding']} of {v['features']} features, n = {v['runs']})")
    print(Path(flags.runs[0] if flags.runs else flags.lea) / "analysis" / "report.md")


if __name__ == "__main__":
    main()
