"""Small networks of every kind, their named places, and what tests of edits need at each."""
import functools

import pytest
import torch
from plain_networks import Places, boards, plain_factor, plain_lea, small_factor, small_lea, tokens

KINDS = ("GPTFactor", "LEAFactor", "LEA")


def make(kind):
    """A small network of the kind, in eval mode, and boards for it."""
    if kind == "GPTFactor":
        network = small_factor()
        return network, tokens(network)
    network = small_lea({"LEAFactor": "factor", "LEA": "vanilla"}[kind]).eval()
    return network, boards(network)


def plain_acts(kind, network, idx, edits=None):
    """{name: activation} of the plain network; edits: {name: function}."""
    if kind == "GPTFactor":
        return plain_factor(network.state_dict(keep_vars=True), idx, 2, edits)
    at = Places(edits)
    plain_lea(network.state_dict(keep_vars=True), kind == "LEAFactor", True, True, idx, 2, at)
    return at.acts


@functools.cache
def shape_at(kind, place):
    """Of the activation of three boards."""
    return plain_acts(kind, *make(kind))[place][:3].shape


# in full for one kind of each network; LEA shares all but its positions with LEAFactor
PLACES = [(kind, name) for kind in KINDS[:2] for name in sorted(make(kind)[0].sites)]
PLACES += [("LEA", name) for name in ("b0_selfAttn_v", "b1_crossAttn_a", "ss_b0_crossAttn_attn_v", "ss_b1_out", "logit")]
HEADED = [(kind, name) for kind, name in PLACES if name.endswith(("_a", "_v"))]
places = pytest.mark.parametrize(("kind", "place"), PLACES)
kinds = pytest.mark.parametrize("kind", KINDS)


def part_of(x, head):
    """The index of one head in an activation of two, 8 numbers wide."""
    return (slice(None), head) if x.ndim == 4 else (..., slice(4 * head, 4 * head + 4))


def shape_of_head(shape):
    return (shape[0], *shape[2:]) if len(shape) == 4 else (*shape[:2], 4)


def with_head(x, head, function):
    """x with one head's part replaced by a function of it."""
    out = x.clone()
    out[part_of(x, head)] = function(x[part_of(x, head)])
    return out


def where(mask, value, x):
    """value at the tokens of mask (T,) or (B, T), x (B, T, n) or (B, H, T, keys) elsewhere; value may be a function."""
    mask = mask.expand(len(x), -1)
    mask = mask[:, None, :, None] if x.ndim == 4 else mask[:, :, None]
    return torch.where(mask, value(x) if callable(value) else value, x)


def drawn(shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
