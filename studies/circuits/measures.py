"""Circuits: which places, cells, heads and MLPs of a network carry an answer, measured exactly.

    python module_circuits.py runs/<run> [--quick]

writes runs/<run>/analysis/circuits/: a CSV a table and a picture of each. A board, the *base*, is run with
some activations taken from another, the *donor*; what comes of it is read at cells where the two boards
differ, as the donor's logit minus the base's. Of that difference `recovered` is the share of the way from
base to donor: 0 is no effect, 1 the donor. `success` is the share of the cells read that answer the donor's
token. Intervals are 95% bootstrap intervals over boards, equal boards drawn together; shares are of sums over
boards.

Axis letters: n boards, T cells, H heads, D width, V tokens, U patches, M boards in a forward pass.
"""
from __future__ import annotations

import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

import module_train_probe
import module_train_probe_lea
import utils
from module_dataset import TYPES, Boards
from module_transformer_lea import join
from parts import files
from parts.probing.evaluation import evaluating
from parts.probing.panels import own_style, save_figure
from parts.probing.sites import recording
from studies.circuits import figures
from studies.circuits.patches import (
    AT_ONCE,
    CIRCUITS,
    ENTERING,
    Effects,
    Pairs,
    Stack,
    cells_to_read,
    chunks,
    differing,
    replacing,
    units_of,
)
from studies.claims.scenes import held_out, hide, types_in_use
from studies.claims.scores import ratio, resample, spread
from studies.claims.swaps import swaps_of

DRAWN_BY = {
    "lens": figures.plot_lens,
    "ablate": figures.plot_ablate,
    "patch_head": figures.plot_patch,
    "patch_all": figures.plot_patch,
    "patch": figures.plot_patch,
    "attribution": figures.plot_attribution,
    "paths": figures.plot_paths,
}  # a picture of each table

BY = ("cell", "head", "all")
HOW = ("mean", "resample", "zero")


def lens(trainer, boards, masks, types=None, return_tokens: bool = False):
    """What each stage would say if the final LayerNorm and head came after it.

    boards, masks (n, h, w); types (n,), 0 single, 1 double, 2 composition, for rows of each besides 'all'.
    Returns rows by `place` ('start' is the embedding, then the residual stream's places) and `type`:
    `hidden`, the share right of hidden cells, and `entropy` there, 1 for uniform; with return_tokens also the
    answers (stages, n, h, w). Edits made around the call (`editing`) are respected. ValueError for boards
    that do not fit or where nothing is hidden.
    """
    stack, (tokens, truth, hidden) = Stack(trainer), _masked(trainer, boards, masks)
    types = np.full(len(tokens), -1) if types is None else np.asarray(types)
    if types.shape != (len(tokens),):
        raise ValueError(f"types must have shape ({len(tokens)},), not {types.shape}.")
    groups = {"all": np.ones(len(types), bool)} | {TYPES[t]: types == t for t in np.unique(types) if t >= 0}
    W = _weights(trainer, truth)
    stages = [name for name in stack.places("b*") if name.endswith(("z_attn", "z_attn_mlp", "_out"))]
    with evaluating(stack.network):
        acts = stack.record(tokens, stages)
        logits = {name: stack.read_out(acts[name]) for name in ("start", *stages)}
    rows, answers = [], []
    for place, said in logits.items():
        answers.append(said.argmax(-1))
        right = _by_board(hidden & (answers[-1] == truth))
        unsure = _by_board(hidden * utils.torch_entropy(said))
        for name, use in groups.items():
            counts = _by_board(hidden) * use
            row = {"place": place, "type": name} | spread("hidden", ratio(right * use, counts, W))
            row |= spread("entropy", ratio(unsure * use, counts, W))
            rows.append(row | {"boards": int((counts > 0).sum())})
    if not return_tokens:
        return rows
    return rows, torch.stack(answers).cpu().numpy().reshape(len(answers), *np.shape(boards)[-3:])


def patch(trainer, base, donor, masks, names, by: str = "cell", read=None,
          bar: Callable = iter) -> list[dict]:
    """What the donor's activations at one place do to the answers about the base, exactly.

    base, donor, masks (n, h, w): boards and what is hidden of both. names: places or patterns. by: 'cell'
    takes one cell's activations (of attention weights, one query's), 'head' one head's, 'all' the whole
    place's. read (n, h, w) or (h, w): cells to read, of which those count where base and donor differ; None:
    the hidden ones, without the one cell that is patched. bar: shows progress over places.

    Returns rows by `place` and `cell` or `head`: `recovered` and `success` with intervals, and `boards`, on
    which something was read. ValueError for unknown places, other shapes, equal boards or no cell to read.
    """
    pairs = Pairs.of(trainer, base, donor, masks, read)
    rows, W = [], pairs.weights(trainer)
    for place, found in _patched(trainer, pairs, names, by, bar):
        count = len(found.gain)
        named = [{"place": place} | ({} if by == "all" else {by: k}) for k in range(count)]
        rows += found.rows(named, W)
    return rows


def _patched(trainer, pairs: Pairs, names, by: str, bar: Callable = iter) -> Iterator[tuple[str, Effects]]:
    """(place, Effects) of each place of names."""
    if by not in BY:
        raise ValueError(f"by must be one of {', '.join(BY)}, not {utils.shown(by)}.")
    stack = Stack(trainer)
    places = stack.places(names)
    with evaluating(stack.network):
        base, donor = (stack.record(pairs.seen[who], places) for who in ("base", "donor"))
    units = {place: units_of(stack, place, by, base[place]) for place in places}
    for place in bar(places):
        read = pairs.read.expand(len(units[place]), -1, -1)
        if by == "cell" and pairs.by_default:
            read = read & ~torch.eye(read.shape[-1], dtype=torch.bool, device=read.device)[:, None]
        wanted = differing(base[place], donor[place], units[place]) & read.any(-1)
        with evaluating(stack.network):
            at, first, values = place, stack.block_of(place), donor[place]
            if by == "cell" and stack.cellwise(place):  # one pass gives what every cell's patch makes of it
                at, first, values = ENTERING, first + 1, stack.leaving(base, place, values)
            passes = chunks(stack, base, first, wanted, {at: replacing(units[place], values)})
            yield place, Effects.of(pairs, base["logit"], donor["logit"], read, passes)


def attribution(trainer, base, donor, masks, names, bar: Callable = iter) -> list[dict]:
    """The first-order estimate of `patch` by cell, of one backward pass, beside the exact values.

    Arguments as `patch`'s, read by default. Returns rows by `place` and `cell`: `estimate` with its interval,
    the exact `recovered`, and `rank correlation`, over all boards and cells of the place (alike in its rows).
    ValueError as there.
    """
    pairs = Pairs.of(trainer, base, donor, masks)
    W, rows = pairs.weights(trainer), []
    estimates = _estimates(trainer, pairs, names)
    for place, exact in _patched(trainer, pairs, names, "cell", bar):
        gain, estimate = exact.gain.cpu().numpy(), estimates[place].cpu().numpy()
        used = (exact.read > 0).cpu().numpy()
        rank = spearman(gain[used], estimate[used])
        whole = exact.whole.cpu().numpy()
        for cell, sums in enumerate(zip(estimate, gain, whole, strict=True)):
            row = {"place": place, "cell": cell} | spread("estimate", ratio(sums[0], sums[2], W))
            row |= {"recovered": float(ratio(sums[1], sums[2], W[:1])[0]), "rank correlation": rank}
            rows.append(row | {"boards": int(used[cell].sum())})
    return rows


def _estimates(trainer, pairs: Pairs, names) -> dict[str, torch.Tensor]:
    """{place: (T, n)} the gradient times the donor's difference at each cell, summed over the cells read but
    that one. A copy of a board for each cell that is read of it makes this a single backward pass."""
    stack = Stack(trainer)
    places = stack.places(names)
    board, cell = pairs.read.nonzero().T
    found = {place: torch.zeros_like(pairs.read.T, dtype=torch.float32) for place in places}
    with evaluating(stack.network), torch.enable_grad():
        for b, c in zip(board.split(AT_ONCE), cell.split(AT_ONCE), strict=True):
            with torch.no_grad():
                donor = stack.record(pairs.seen["donor"][b], places)
            with recording(stack.network, places, detach=False) as acts:
                logits = stack.run(stack.start(pairs.seen["base"][b]))
            gain = pairs.gains(logits, b).gather(1, c[:, None]).sum()
            slopes = torch.autograd.grad(gain, [acts[place] for place in places], allow_unused=True)
            for place, slope in zip(places, slopes, strict=True):
                part = _by_cell(slope * (donor[place] - acts[place].detach()))  # (M, T)
                part.scatter_(1, c[:, None], 0)
                found[place].index_add_(1, b, part.T.to(found[place]))
    return found


def _by_cell(x: torch.Tensor) -> torch.Tensor:
    """(M, T) sums of an activation (M, T, D) or, of attention weights, over heads and keys (M, H, T,
    keys)."""
    return x.sum((1, 3)) if x.ndim == 4 else x.sum(-1)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of x and y (N,), equal values sharing a rank; NaN where one of them is constant."""
    ranks = []
    for values in (x, y):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts + 1) / 2)[inverse])
    if min(np.ptp(rank) if len(rank) else 0 for rank in ranks) == 0:
        return np.nan
    return float(np.corrcoef(*ranks)[0, 1])


def ablate(trainer, boards, masks, names, how: str = "mean") -> list[dict]:
    """Accuracy on hidden cells without each place of names, head by head where it consists of heads.

    boards, masks (n, h, w). how: 'mean' puts the mean over the boards there, cell by cell, 'resample' another
    board's activations (drawn with the run's seed), 'zero' zeros. Returns rows by `place` and `head`: `lost`,
    the network's accuracy minus what is left, `hidden`, both with intervals, and `boards`. ValueError for
    unknown places or boards that do not fit.
    """
    check_how(how)
    stack, (tokens, truth, hidden) = Stack(trainer), _masked(trainer, boards, masks)
    places, W, rows = stack.places(names), _weights(trainer, truth), []
    with evaluating(stack.network):
        acts = stack.record(tokens, places)
        for place in places:
            by = "head" if stack.network.sites[place].n_head else "all"
            units = units_of(stack, place, by, acts[place])
            edits = {place: replacing(units, instead(trainer, acts[place], how))}
            right = _rights(stack, acts, stack.block_of(place), len(units), edits, truth, hidden)
            for k, each in enumerate(right):
                row = {"place": place} | ({"head": k} if by == "head" else {})
                rows.append(row | _left(each, acts["logit"], truth, hidden, W))
    return rows


def kept(trainer, boards, masks, circuits: Sequence[Sequence[str]], how: str = "mean",
         read=None) -> list[dict]:
    """Accuracy on hidden cells with only the heads and MLPs of each circuit, all others ablated as by
    `ablate`.

    circuits: each some of `components(trainer)`. read (n, h, w) or (h, w): of the hidden cells those that
    count, such as those of objects; None: all. Returns rows by `circuit` (names joined by spaces) and `size`:
    `hidden`, what is left, `lost` with its interval, `boards`. ValueError for an unknown component or no cell
    to read.
    """
    check_how(how)
    stack, (tokens, truth, hidden) = Stack(trainer), _masked(trainer, boards, masks)
    if read is not None:
        cells = cells_to_read(trainer, read, len(tokens)).astype(np.int64)
        hidden = hidden & trainer._tokens(cells).bool()
        if not hidden.any():
            raise ValueError("read must have a hidden cell, not none.")
    known, W = components(trainer), _weights(trainer, truth)
    for name in (name for circuit in circuits for name in circuit):
        if name not in known:
            raise ValueError(f"circuits: there is no component {name!r}; there are {', '.join(known)}.")
    places = list(dict.fromkeys(place for place, _ in known.values()))
    with evaluating(stack.network):
        acts, edits = stack.record(tokens, places), {}
        for place in places:
            here = [name for name, (at, _) in known.items() if at == place]
            gone = torch.tensor([[name not in circuit for name in here] for circuit in circuits])  # (U, here)
            units = units_of(stack, place, "head" if len(here) > 1 else "all", acts[place])
            off = (gone.to(units.device)[..., None, None] & units).any(1)  # (U, 1, D)
            edits[place] = replacing(off, instead(trainer, acts[place], how))
        right = _rights(stack, acts, 0, len(circuits), edits, truth, hidden)
    rows = []
    for circuit, each in zip(circuits, right, strict=True):
        row = {"circuit": " ".join(circuit), "size": len(circuit)}
        rows.append(row | _left(each, acts["logit"], truth, hidden, W))
    return rows


def components(trainer) -> dict[str, tuple[str, int | None]]:
    """The heads and MLPs of a network: {name, such as 'b0h1' or 'b0 mlp': (place, head or None)}."""
    stack, found = Stack(trainer), {}
    for i in range(len(stack.blocks)):
        attentions = ("selfAttn_attn_v", "crossAttn_attn_v") if stack.is_lea else ("attn_v",)
        for site in attentions:
            place = f"b{i}_{site}"
            cross = "x" if site.startswith("cross") else ""
            found |= {f"b{i}{cross}h{k}": (place, k) for k in range(stack.n_head(place))}
        found[f"b{i} mlp"] = (f"b{i}_{'mlp' if stack.is_lea else 'mlp_update'}", None)
    return found


def check_how(how: str) -> None:
    """ValueError unless how is a way to ablate."""
    if how not in HOW:
        raise ValueError(f"how must be one of {', '.join(HOW)}, not {utils.shown(how)}.")


def instead(trainer, act: torch.Tensor, how: str) -> torch.Tensor:
    """What an ablation puts in the place of an activation (n, ...), of its shape."""
    if how == "zero":
        return torch.zeros_like(act)
    if how == "mean":
        return act.mean(0, keepdim=True).expand_as(act)
    order = utils.numpy_rng(trainer.seed, CIRCUITS, 1).permutation(len(act))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # never the board itself
    return act[torch.from_numpy(other).to(act.device)]


def _rights(stack: Stack, acts, first: int, count: int, edits, truth, hidden) -> np.ndarray:
    """(count, n) right hidden cells of each patch and board."""
    right = np.zeros((count, len(truth)))
    wanted = torch.ones(count, len(truth), dtype=torch.bool, device=truth.device)
    for u, b, logits in chunks(stack, acts, first, wanted, edits):
        right[u.cpu(), b.cpu()] = _by_board(hidden[b] & (logits.argmax(-1) == truth[b]))
    return right


def _left(right: np.ndarray, logits: torch.Tensor, truth, hidden, W: np.ndarray) -> dict:
    """The cells of a row of an ablation that leaves `right` (n,) hidden cells right."""
    before, all_ = _by_board(hidden & (logits.argmax(-1) == truth)), _by_board(hidden)
    row = spread("lost", ratio(before - right, all_, W)) | spread("hidden", ratio(right, all_, W))
    return row | {"boards": int((all_ > 0).sum())}


def _masked(trainer, boards, masks) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boards as the network sees them, as they are, and which cells are hidden: (n, T) each."""
    boards, masks = trainer._given(boards, masks)
    if not masks.any():
        raise ValueError("masks must hide a cell, not none.")
    seen = np.where(masks, trainer.masking_token, boards)
    tokens, truth, hidden = map(trainer._tokens, (seen, boards, masks))
    return tokens, truth, hidden.bool()


def _weights(trainer, truth: torch.Tensor) -> np.ndarray:
    return resample(truth.cpu().numpy(), utils.numpy_rng(trainer.seed, CIRCUITS))


def _by_board(x: torch.Tensor) -> np.ndarray:
    """(n,) sums over cells."""
    return x.double().sum(-1).cpu().numpy()


def paths(trainer, base, donor, masks, read=None, bar: Callable = iter) -> list[dict]:
    """Every direct effect of a sender on a receiver: what comes of it when the receiver alone gets the
    donor's contribution of that sender to the residual stream, all other contributions being the base's.

    The receiver's input is recomputed, its LayerNorm included; the receiver's change then goes on through all
    that follows it. Senders: 'embedding', heads ('b0h1'), MLPs ('b0 mlp'), and 'all' of them at once, which
    is the donor's input. Receivers: 'b1h0 query', key and value, 'b1 mlp', 'logits'. base, donor, masks, read
    as for `patch`. Returns rows by `sender` and `receiver`, `recovered` and `success` as there. ValueError as
    there, and for LEA, whose stream is another.
    """
    stack = Stack(trainer)
    if stack.is_lea:
        raise ValueError("trainer must be of the factor network for paths, not of LEA.")
    pairs = Pairs.of(trainer, base, donor, masks, read)
    W, rows = pairs.weights(trainer), []
    read = pairs.read[None]
    with evaluating(stack.network):
        acts, others = (stack.record(pairs.seen[who], "b*_*".split()) for who in ("base", "donor"))
        for receiver, block, place, stream in bar(list(receivers(stack))):
            deltas = contributions(stack, acts, others, stream)
            names = list(deltas)
            changes = torch.stack(list(deltas.values()))
            edit = partial(receiving, stack, receiver, block, acts[stream], changes)
            wanted = torch.ones(len(names), len(pairs.read), dtype=torch.bool, device=pairs.read.device)
            passes = chunks(stack, acts, block, wanted, {place: edit})
            cells = read.expand(len(names), -1, -1)
            found = Effects.of(pairs, acts["logit"], others["logit"], cells, passes)
            rows += found.rows([{"sender": name, "receiver": receiver} for name in names], W)
    return rows


def receivers(stack: Stack) -> Iterator[tuple[str, int, str, str]]:
    """(receiver, its block, the place where its change is made, the stream that it reads), in order."""
    before = "start"
    for i in range(len(stack.blocks)):
        for head in range(stack.n_head(f"b{i}_attn_v")):
            for what, place in (("query", "a"), ("key", "a"), ("value", "v")):
                yield f"b{i}h{head} {what}", i, f"b{i}_{place}", before
        yield f"b{i} mlp", i, f"b{i}_mlp_in", f"b{i}_z_attn"
        before = f"b{i}_z_attn_mlp"
    yield "logits", len(stack.blocks), "z_out", before


def contributions(stack: Stack, base: dict, donor: dict, stream: str) -> dict[str, torch.Tensor]:
    """{sender: (n, T, D) what the donor adds to a stream more than the base does}; the last, 'all', is the
    difference of the streams."""
    found = {"embedding": donor["start"] - base["start"]}
    for i, block in enumerate(stack.blocks):
        if stream == "start" or stack.block_of(stream) < i:
            break
        update = donor[f"b{i}_attn_v"] - base[f"b{i}_attn_v"]
        H = stack.n_head(f"b{i}_attn_v")
        weights = block.attn.proj.weight.chunk(H, 1)
        for head, (part, weight) in enumerate(zip(update.chunk(H, -1), weights, strict=True)):
            found[f"b{i}h{head}"] = part @ weight.T
        if stream != f"b{i}_z_attn":
            found[f"b{i} mlp"] = donor[f"b{i}_mlp_update"] - base[f"b{i}_mlp_update"]
    return found | {"all": donor[stream] - base[stream]}


def receiving(stack: Stack, receiver: str, block: int, stream: torch.Tensor, deltas: torch.Tensor,
              x: torch.Tensor, u: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """An edit for `chunks`: the activation x of a receiver that reads the stream (n, T, D) plus one of deltas
    (senders, n, T, D)."""
    given = stream[b] + deltas[u, b]
    if receiver == "logits":
        return stack.network.ln_f(given)
    at = stack.blocks[block]
    if receiver.endswith("mlp"):
        return at.ln2(given)
    head, what = int(receiver[receiver.index("h") + 1 : receiver.index(" ")]), receiver.rpartition(" ")[2]
    size, p = stream.shape[-1] // at.attn.n_head, stack.network.pos_emb[0]
    part = slice(head * size, (head + 1) * size)
    before, after = (join(at.ln1(read), p) for read in (stream[b], given))
    out = x.clone()
    if what == "value":
        out[..., part] = at.attn.value(after)[..., part]
        return out
    q = at.attn.query(after if what == "query" else before)[..., part]
    k = at.attn.key(after if what == "key" else before)[..., part]
    scores = q * size**-0.5 @ k.mT
    if not at.attn.all_allowed:
        scores = scores.masked_fill(~at.attn.mask[0].bool(), float("-inf"))
    out[:, head] = scores.softmax(-1)
    return out


def pairs_of(trainer, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Base, donor and masks (n, h, w) of at most count pairs on held-out boards of one or two objects:
    another root in the place of the first, of which a third is hidden. ValueError where there are fewer than
    two."""
    proba = trainer._board_proba(max(trainer.epoch - 1, 0))
    types = [t for t in types_in_use(trainer.dataset, proba) if t < 2]
    made = [swaps_of(trainer.dataset, t, -(-count // len(types)), rng) for t in types]
    made = [swaps for swaps in made if swaps is not None]
    if not made:
        raise ValueError("trainer must have single or double boards and three roots to make pairs.")
    unk, side = trainer.masking_token, trainer.dataset.board_dim
    arrays = [[swaps.base, swaps.donor, swaps.tokens["base"] == unk] for swaps in made]
    return tuple(np.concatenate(parts).reshape(-1, side, side) for parts in zip(*arrays, strict=True))


def scenes_of_run(trainer, count: int, rng: np.random.Generator) -> tuple[Boards, np.ndarray]:
    """At most count held-out scenes of each type in use and masks (n, h, w) as at the end of training."""
    types = types_in_use(trainer.dataset, trainer._board_proba(max(trainer.epoch - 1, 0)))
    scenes = Boards.join([held_out(trainer.dataset, t, count, rng) for t in types])
    return scenes, hide(trainer.dataset, scenes, rng)


def run_all(folder: str | Path, quick: bool = False) -> Path:
    """Measures a run and writes <folder>/analysis/circuits/; returns that folder. ValueError names what is
    missing."""
    lea = "vocab_speech_size" in files.read_json(Path(folder) / "params_training.json")
    trainer = (module_train_probe_lea if lea else module_train_probe).TrainTransformer.from_run(folder)
    rng, out = utils.numpy_rng(trainer.seed, CIRCUITS, 2), Path(folder) / "analysis" / "circuits"
    base, donor, masks = pairs_of(trainer, 20 if quick else 100, rng)
    scenes, hidden = scenes_of_run(trainer, 20 if quick else 100, rng)
    known = components(trainer)
    names = [f"b{i}_{stage}" for i in range(trainer.n_layer) for stage in trainer.stages]
    parts = list(dict.fromkeys(place for place, _ in known.values()))

    def bar(what):
        return lambda steps: utils.progress_bar(steps, 20, desc=f"{Path(folder).name}, {what} ", leave=False)

    few = slice(None, None, 1 if quick else 4)
    made = {
        "lens": lens(trainer, scenes.boards, hidden, scenes.types),
        "ablate": ablate(trainer, scenes.boards, hidden, [*parts, *names]),
        "patch_head": patch(trainer, base, donor, masks, [p for p in parts if p.endswith("_v")], "head"),
        "patch_all": patch(trainer, base, donor, masks, names, "all"),
        "patch": patch(trainer, base, donor, masks, names, bar=bar("cells")),
        "attribution": attribution(trainer, base[few], donor[few], masks[few], names, bar=bar("attribution")),
    }
    if not lea:
        made["paths"] = paths(trainer, base, donor, masks, bar=bar("paths"))
    for name, rows in made.items():
        files.save_table(out / f"{name}.csv", rows)
        save_figure(DRAWN_BY[name](rows), out / f"{name}.png")
    return out


def main() -> None:
    """The command line: tables and pictures of a run folder; exit code 2 for one that cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("run", help="a run folder of the factor network or of LEA")
    parser.add_argument("--quick", action="store_true", help="fewer boards, for a look")
    flags = parser.parse_args()
    try:
        with own_style():
            print(run_all(flags.run, flags.quick))
    except (TypeError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
