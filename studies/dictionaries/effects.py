"""Whether latents matter to the network: reconstructions in place of activations, and latents clamped."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from module_dataset import TYPES
from studies.claims.scores import DRAWS, Row, ratio, resample
from studies.claims.swaps import Swaps, swaps_of
from studies.dictionaries.cells import CHOOSE, TEST, Cells
from studies.dictionaries.scoring import Reading, one_hot
from studies.dictionaries.sources import Source


def put_in(trainer, site: str, cells: Cells, acts: np.ndarray, sources: Sequence[Source], W: np.ndarray,
           boards: np.ndarray) -> list[dict[str, np.ndarray]]:
    """What is kept of loss and of accuracy on hidden cells if a dictionary's reconstruction replaces the
    site's activations (n, T, D): 1 as without it, 0 as with the mean activation in every cell. For each of
    sources scores (R + 1,), over the test boards."""
    test = cells.part == TEST
    x, truth, hidden = acts[test], cells.drawn.tokens[test], cells.hidden[test]

    def answers(edit: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(boards,) each: the loss, and the right answers in hidden cells."""
        shown = None if edit is None else {site: edit.astype(np.float32)}
        logits = _run(trainer, np.where(hidden, trainer.masking_token, truth), (), shown)["logit"]
        top = logits.max(-1, keepdims=True)
        log_p = np.take_along_axis(logits - top, truth[..., None], 2)[..., 0]
        log_p -= np.log(np.exp(logits - top).sum(-1))
        right = (logits.argmax(-1) == truth) & hidden
        return tuple(np.bincount(boards, of.sum(1), W.shape[1]) for of in (-log_p, right))

    (loss, right), whole = answers(None), np.bincount(boards, hidden.sum(1), W.shape[1])
    worst, least = answers(np.broadcast_to(acts[~test].mean((0, 1)), x.shape))
    kept = []
    for source in sources:
        losses, hits = answers(source.made.decode(source.made.encode(x)))
        kept.append({"hidden cells, clean": ratio(right, whole, W),
                     "hidden cells, rebuilt": ratio(hits, whole, W),
                     "hidden cells, mean": ratio(least, whole, W),
                     "loss kept": ratio(worst - losses, worst - loss, W),
                     "hidden cells kept": ratio(hits - least, right - least, W)})
    return kept


def clamp(trainer, site: str, types: dict[int, float], source: Source, readings: dict[str, Reading],
          cells: Cells, rng: np.random.Generator, count: int) -> list[Row]:
    """Rows on clamping: on the visible cells of an object the latent of its root is set to 0 and that of
    another root to its usual strength; success if every hidden cell in which the two roots differ then shows
    the other root's token.

    Two methods: the latent that tells the root, and the one that tells root x place. Controls: a third root's
    latent instead, a random latent instead, nothing. Upper bound: the other root's tokens in the input.
    `class means`: the difference of the two mean activations of root x place instead, which needs labels.
    readings: what was chosen on visible cells. A latent's usual strength is its mean where it exceeds its
    threshold and its value occurs, on cells to choose by.
    """
    rows = []
    where = cells.of(CHOOSE, False)
    seen, x_seen = source.of(where), source.acts[where]
    Y = {label: one_hot(cells.labels[label][where], cells.labels[label].max() + 1)
         for label in ("root", "root x place")}
    strengths = {label: strengths_of(seen, of, readings[label]) for label, of in Y.items()}
    member = Y["root x place"].astype(np.float32)
    means = member.T @ x_seen / np.maximum(member.sum(0), 1)[:, None]
    for type_ in (type_ for type_ in (0, 1) if type_ in types):
        swaps = swaps_of(trainer.dataset, type_, count, rng)
        if swaps is not None:
            rows += _rows_of(trainer, site, swaps, TYPES[type_], source, readings, strengths, means, rng)
    return rows


def _rows_of(trainer, site: str, swaps: Swaps, type_: str, source: Source, readings: dict[str, Reading],
             strengths: dict[str, np.ndarray], means: np.ndarray, rng: np.random.Generator) -> list[Row]:
    rows, p = [], trainer.dataset.params
    clean = _run(trainer, swaps.tokens["base"], (site,))
    x, at, W = clean[site], np.arange(len(swaps.base))[:, None], resample(swaps.base, rng, DRAWS)
    kinds, places = dict(swaps.kinds), p.abs_dim**2
    third = _third(kinds["base"] // places, kinds["donor"] // places, p.abs_n, rng)
    kinds["third"] = third * places + kinds["donor"] % places
    z = source.made.encode(x[at, swaps.cells])  # (n, c, F)
    anything = np.broadcast_to(rng.integers(z.shape[-1], size=(len(z), 1)), kinds["base"].shape)

    def success(logits: np.ndarray) -> np.ndarray:
        return ratio(((logits.argmax(-1) == swaps.donor) | ~swaps.read).all(1), 1, W)

    def edited(change: np.ndarray) -> np.ndarray:
        """Success after adding change (n, c, D) to the edited cells."""
        new = x.copy()
        new[at, swaps.cells] += np.where(swaps.edit[..., None], change, 0).astype(np.float32)
        return success(_run(trainer, swaps.tokens["base"], (), {site: new})["logit"])

    def clamped(off: np.ndarray, on: np.ndarray, strength: np.ndarray) -> np.ndarray:
        """Success after setting the latents off (n, c) to 0 and the latents on (n, c) to strength (n, c)."""
        new = z.copy()
        np.put_along_axis(new, off[..., None], 0, -1)
        np.put_along_axis(new, on[..., None], strength[..., None], -1)
        return edited((new - z) @ source.made.W_dec)

    upper = success(_run(trainer, swaps.tokens["donor"])["logit"])
    by_means = edited(means[kinds["donor"]] - means[kinds["base"]])
    for label, step in (("root", places), ("root x place", 1)):
        latent, strength = readings[label].latent, strengths[label]
        base, donor, third = (kinds[name] // step for name in ("base", "donor", "third"))
        controls = {"a third root": clamped(latent[base], latent[third], strength[third]),
                    "a random latent": clamped(latent[base], anything, strength[donor]),
                    "nothing": success(clean["logit"])}
        rows.append(Row("clamping", f"latent of {label}, {type_} boards",
                        clamped(latent[base], latent[donor], strength[donor]), controls, upper, site,
                        extras={"boards": len(x), "class means": by_means}))
    return rows


def strengths_of(z: np.ndarray, Y: np.ndarray, reading: Reading) -> np.ndarray:
    """(C,) mean of each value's latent on the cells (N,) where it exceeds its threshold and the value
    occurs."""
    own = z[:, reading.latent]
    use = Y & (own > reading.threshold)
    return (own * use).sum(0) / np.maximum(use.sum(0), 1)


def _third(base: np.ndarray, donor: np.ndarray, roots: int, rng: np.random.Generator) -> np.ndarray:
    """A root (n, c) for each board that is neither base's nor donor's (n, c)."""
    order = np.argsort(rng.random((len(base), roots)), 1)
    taken = (order == base[:, :1]) | (order == donor[:, :1])
    return np.broadcast_to(order[np.arange(len(base)), taken.argmin(1)][:, None], base.shape)


def _run(trainer, tokens: np.ndarray, names: tuple = (), edits: dict | None = None) -> dict:
    """Logits and named activations of masked tokens (n, T)."""
    boards = tokens.reshape(-1, trainer.dataset.board_dim, trainer.dataset.board_dim)
    return trainer.recorded(boards, boards == trainer.masking_token, edits, [*names, "logit"])
