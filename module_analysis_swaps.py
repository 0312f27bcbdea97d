"""Measurements of what a network's activations do (arXiv 2312.05361): objects of one board given the activations of another
root, on boards of one or two roots and on composites; read-outs and swaps learnt in one context and applied in another.

Axis letters: n boards, T cells, V tokens, D width of a stage, m objects, c cells that may be edited. Scores and rows: see
module_analysis_measures.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from module_analysis_measures import (
    DRAWS,
    Sample,
    Scenes,
    best_stage,
    draw_scenes,
    hide,
    interval,
    judge,
    labels_of,
    random_rows,
    ratio,
    readouts,
    resample,
    scenes_of,
)
from module_dataset import AbstractionDataset

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
