"""The logit lens: what the network would answer if its final LayerNorm and head followed each stage."""
from __future__ import annotations

import numpy as np
import torch

import utils
from module_dataset import TYPES
from parts.probing.evaluation import evaluating
from studies.circuits.stack import Stack, by_board
from studies.claims.scores import ratio, spread


def lens(trainer, boards, masks, types=None, return_tokens: bool = False):
    """Accuracy on hidden cells, and entropy there, of the answer at each stage of the residual stream.

    boards, masks (n, h, w). types (n,), 0 single, 1 double, 2 composition: adds rows of each type to those of
    'all'. Returns rows by `place` ('start', the embedding, then the residual stream) and `type`: `hidden`,
    the share right of hidden cells, and `entropy`, 1 for uniform; with return_tokens also the answers
    (stages, n, h, w). Edits made around the call (`editing`) are respected. ValueError for boards that do
    not fit or hide nothing.
    """
    stack = Stack(trainer)
    tokens, truth, hidden = stack.masked(boards, masks)
    types = np.full(len(tokens), -1) if types is None else np.asarray(types)
    if types.shape != (len(tokens),):
        raise ValueError(f"types must have shape ({len(tokens)},), not {types.shape}.")
    groups = {"all": np.ones(len(types), bool)} | {TYPES[t]: types == t for t in np.unique(types) if t >= 0}
    W = stack.weights_of(truth)
    stages = [name for name in stack.places("b*") if name.endswith(("z_attn", "z_attn_mlp", "_out"))]
    with evaluating(stack.network):
        acts = stack.record(tokens, stages)
        logits = {name: stack.network.read_out(acts[name]) for name in ("start", *stages)}
    rows, answers = [], []
    for place, of_stage in logits.items():
        answers.append(of_stage.argmax(-1))
        right = by_board(hidden & (answers[-1] == truth))
        unsure = by_board(hidden * utils.torch_entropy(of_stage))
        for name, use in groups.items():
            counts = by_board(hidden) * use
            row = {"place": place, "type": name} | spread("hidden", ratio(right * use, counts, W))
            row |= spread("entropy", ratio(unsure * use, counts, W))
            rows.append(row | {"boards": int((counts > 0).sum())})
    if not return_tokens:
        return rows
    return rows, torch.stack(answers).cpu().numpy().reshape(len(answers), *np.shape(boards)[-3:])
