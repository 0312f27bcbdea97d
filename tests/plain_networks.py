"""The networks written plainly, in float64 and from their state dicts, and small ones to compare with them."""
import math

import numpy as np
import torch

from module_transformer_factor import GPTFactor
from module_transformer_lea import LEA, LEAFactor

LEA_CLASSES = {"factor": LEAFactor, "vanilla": LEA}


def layer_norm(x, s, name):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * s[f"{name}.weight"] + s[f"{name}.bias"]


def affine(x, s, name):
    return torch.einsum("btn,mn->btm", x, s[f"{name}.weight"]) + s[f"{name}.bias"]


def with_code(x, p):
    return x if p is None else torch.cat([x, p.expand(len(x), *p.shape)], -1)


class Places:
    """Takes every named activation, edits it (edits: {name: function}), drops from it (drop: {name: what to multiply
    with}) and keeps it in acts, several passes joined along the batch. slots: of ALN's cross-attention, heads whose
    words compete."""

    def __init__(self, edits=None, drop=None, slots=0):
        self.edits, self.drop, self.slots, self.acts = edits or {}, drop or {}, slots, {}

    def __call__(self, name, value):
        if name in self.edits:
            value = self.edits[name](value)
        self.acts[name] = torch.cat([self.acts[name], value]) if name in self.acts else value
        return value

    def dropped(self, name, value):
        return value * self.drop.get(name, 1.0)


def attention(s, name, x, read, heads, at, place):
    """Output of attention `name` for queries from x (B, T, n), keys and values from read (B, S, n)."""
    q, k = affine(x, s, f"{name}.query"), affine(read, s, f"{name}.key")
    v = at(f"{place}v", affine(read, s, f"{name}.value"))
    d = q.shape[-1] // heads
    parts = [slice(h * d, (h + 1) * d) for h in range(heads)]
    slots = at.slots if place.startswith("ss_") and place.endswith("crossAttn_") else 0
    weights = []
    for h, part in enumerate(parts):
        scores = torch.einsum("bid,bjd->bij", q[..., part], k[..., part]) / math.sqrt(d)
        most = scores.amax(-2 if h < slots else -1, keepdim=True)
        scores = torch.exp(scores - most)
        if h < slots:
            scores = scores / scores.sum(-2, keepdim=True)
        if f"{name}.mask" in s:
            scores = scores * (s[f"{name}.mask"][0, 0] > 0)
        weights.append(scores / scores.sum(-1, keepdim=True))
    a = at.dropped(f"{place}a", at(f"{place}a", torch.stack(weights, 1)))
    out = torch.cat([torch.einsum("bij,bjd->bid", a[:, h], v[..., part]) for h, part in enumerate(parts)], -1)
    return affine(at(f"{place}attn_v", out), s, f"{name}.proj")


def mlp(s, name, x):
    hidden = affine(x, s, f"{name}.0")
    return affine(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), s, f"{name}.2")


def plain_factor(s, idx, heads, edits=None, drop=None, embeddings=None):
    """All named activations of a GPTFactor's state dict s on tokens idx (B, T). drop: {'embd' or 'b0_a', 'b0_attn_update',
    'b0_mlp_update': what to multiply with}."""
    at = Places(edits, drop)
    x = s["tok_emb.weight"][idx]
    x = at.dropped("embd", x if embeddings is None else torch.cat([embeddings, x], 1))
    p = s["pos_emb"][0]
    for i in range(sum(name.endswith("ln1.weight") for name in s)):
        n, b = f"blocks.{i}", f"b{i}_"
        zp = with_code(at(b + "z", layer_norm(x, s, f"{n}.ln1")), p)
        update = at.dropped(b + "attn_update", attention(s, f"{n}.attn", zp, zp, heads, at, b))
        x = at(b + "z_attn", x + at(b + "attn_update", update))
        update = mlp(s, f"{n}.mlp", with_code(at(b + "mlp_in", layer_norm(x, s, f"{n}.ln2")), p))
        x = at(b + "z_attn_mlp", x + at(b + "mlp_update", at.dropped(b + "mlp_update", update)))
    at("logit", torch.einsum("btd,vd->btv", at("z_out", layer_norm(x, s, "ln_f")), s["head.weight"]))
    return at.acts


def stream(s, kind, x, p, z, pz, heads, at):
    """The blocks and last LayerNorm of stream 'ps' or 'ss' on x with codes p, reading z with codes pz."""
    before = "ss_" if kind == "ss" else ""
    for i in range(sum(name.startswith(f"{kind}_blocks.") and name.endswith("ln_z.weight") for name in s)):
        n, b = f"{kind}_blocks.{i}", f"{before}b{i}_"
        normed = layer_norm(with_code(x, p), s, f"{n}.ln_x_1")
        update = attention(s, f"{n}.selfAttn", normed, normed, heads, at, f"{b}selfAttn_")
        x = x + at(f"{b}selfAttn", update)
        normed, read = layer_norm(with_code(x, p), s, f"{n}.ln_x_2"), layer_norm(with_code(z, pz), s, f"{n}.ln_z")
        update = attention(s, f"{n}.crossAttn", normed, read, heads, at, f"{b}crossAttn_")
        x = x + at(f"{b}crossAttn", update)
        x = at(f"{b}out", x + at(f"{b}mlp", mlp(s, f"{n}.mlp", layer_norm(with_code(x, p), s, f"{n}.ln_mlp"))))
    return at(f"{before}z_out", layer_norm(x, s, f"{kind}_ln_out"))


def picture(s, factor, tokens, sentence, heads, at=None):
    """IN on tokens (B, T) and sentence vectors (B, S, D) -> logits, state."""
    at = Places() if at is None else at
    x, ps, ss = s["ps_token_embedding.weight"][tokens], s["ps_pos_emb.weight"], s["ss_pos_emb.weight"]
    if factor:
        state = stream(s, "ps", x, ps, sentence, ss, heads, at)
    else:
        state = stream(s, "ps", x + ps, None, sentence + ss, None, heads, at)
    return at("logit", torch.einsum("btd,vd->btv", state, s["ps_head.weight"])), state


def quantise(s, x, ema, commitment=0.25, usage=0.25):
    """Nearest words by explicit distances -> straight-through words, loss, indices."""
    words = s["ss_vector_quantizer._embedding.weight"]
    K = len(words)
    distances = ((x.detach()[:, :, None, :] - words.detach()) ** 2).sum(-1)
    indices = distances.argmin(-1)
    q = words[indices]
    loss = commitment * ((q.detach() - x) ** 2).mean()
    if not ema:
        loss = loss + ((q - x.detach()) ** 2).mean()
    share = torch.stack([(indices == k).double().mean() for k in range(K)])
    return x + (q - x).detach(), loss + usage * ((share - 1 / K) ** 2).mean(), indices


def plain_lea(s, factor, ema, blank, idx, heads, at=None):
    """The three passes: logits from the board, from the sentence, vq loss, word indices."""
    at = Places() if at is None else at
    words, (S, D) = s["ss_vector_quantizer._embedding.weight"], s["ss_token_init.weight"].shape
    V, B = len(s["ps_token_embedding.weight"]), len(idx)
    nothing = torch.zeros(B, S, D, dtype=torch.float64) if blank else words[-1].expand(B, S, D)
    board_logits, state = picture(s, factor, idx, nothing, heads, at)
    x = s["ss_token_init.weight"].expand(B, S, D)
    if factor:
        said = stream(s, "ss", x, s["ss_pos_emb.weight"], state, s["ps_pos_emb.weight"], heads, at)
    else:
        said = stream(s, "ss", x + s["ss_pos_emb.weight"], None, state, None, heads, at)
    sentence, vq_loss, indices = quantise(s, said, ema)
    speech_logits, _ = picture(s, factor, torch.full_like(idx, V - 1), sentence, heads, at)
    return board_logits, speech_logits, vq_loss, indices


def perturbed(network, seed=0, scale=0.3):
    """The network in float64 with everything moved, so that no bias or position code is zero and words lie apart."""
    generator = torch.Generator().manual_seed(seed)
    network.double()
    with torch.no_grad():
        for p in network.parameters():
            p += scale * torch.randn(p.shape, dtype=p.dtype, generator=generator)
        if isinstance(network, LEA):
            words = network.ss_vector_quantizer._embedding.weight
            network.ss_vector_quantizer.start_words_(torch.randn(words.shape, dtype=words.dtype, generator=generator))
    return network


def small_factor(**more):
    return perturbed(GPTFactor(7, 6, **dict(n_layer=2, n_head=2, n_embd=8, n_embd_pos=3, seed=0) | more))


def small_lea(kind="factor", **more):
    sizes = dict(vocab_size=7, block_size=6, n_layer=2, n_head=2, n_embd=8, vocab_speech_size=9, block_speech_size=4, seed=0)
    sizes |= dict(n_embd_pos=3) if kind == "factor" else {}
    return perturbed(LEA_CLASSES[kind](**sizes | more))


def tokens(network, B=3, seed=0):
    """Boards (B, T) of a GPTFactor."""
    V = network.head.weight.shape[0]
    return torch.randint(V, (B, network.block_size), generator=torch.Generator().manual_seed(seed))


def boards(network, B=3, seed=0):
    """Boards (B, T) of an LEA, nothing hidden."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(network.ps_head.weight.shape[0] - 1, (B, network.ps_pos_emb.num_embeddings), generator=generator)


def close(value, wanted, rtol=1e-9, atol=1e-10, err_msg=""):
    """Asserts that a tensor is near another or an array."""
    wanted = wanted.detach().numpy() if isinstance(wanted, torch.Tensor) else wanted
    np.testing.assert_allclose(value.detach().numpy(), wanted, rtol, atol, err_msg=err_msg)
