"""GPTFactor: a transformer that keeps token and position codes apart (arXiv 2312.05361), and the layers that
LEA shares with it.

Axis letters: B boards, T tokens of a board, D = n_embd, P = n_embd_pos, H = n_head, d = D / H numbers of a
head, V = vocab_size.

Networks only: tensors in, tensors out. Nothing here reads or changes torch's global random state: weights and
dropout come from generators made from the network's `seed`.

Named activations of block i, all (B, T, D) unless noted. `recording` and `editing` (parts/probing/sites.py)
take these names:

    b{i}_z            LayerNorm1 output                 b{i}_z_attn      residual stream after attention
    b{i}_a            attention weights (B, H, T, T)    b{i}_mlp_in      LayerNorm2 output
    b{i}_v            values, heads side by side        b{i}_mlp_update  the MLP's addition to the stream
    b{i}_attn_v       heads' outputs, not projected     b{i}_z_attn_mlp  block output
    b{i}_attn_update  attention's addition              z_out, logit     final LayerNorm output; (B, T, V)

A forward pass is `read_out(run(start(idx)))`: embedding, blocks, head. Studies enter it at any block.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from parts.checks import check_numbers, check_sizes, check_tokens
from parts.probing.sites import Edit, Site, editing, named_sites, recording  # noqa: F401, offered
from utils import check_number, checked_seed, torch_rng

INIT_STD = 0.02


class Noise:
    """The random numbers of a network in training: a generator of its own, on the device in use.

    torch.utils.checkpoint restores torch's own generators only, so under it gradients are right only without
    dropout.
    """

    def __init__(self, seed: int):
        self.reseed(seed)

    def reseed(self, *key: int) -> None:
        """Starts the stream that the whole numbers of key name."""
        self._key, self._generator = key, None

    def keep(self, like: torch.Tensor, p: float) -> torch.Tensor:
        """A tensor shaped like `like`: each entry 1 / (1 - p) with probability 1 - p, else 0."""
        kept = torch.empty_like(like).bernoulli_(1 - p, generator=self._on(like.device))
        return kept.div_(max(1 - p, 1e-30))  # p = 1 gives zeros, not NaN

    def integers(self, high: int, size: int, device: torch.device) -> torch.Tensor:
        """(size,) whole numbers from 0 to high - 1."""
        return torch.randint(high, (size,), generator=self._on(device), device=device)

    def _on(self, device: torch.device) -> torch.Generator | None:
        if device.type == "meta":  # shapes only, nothing is drawn
            return None
        if self._generator is None or self._generator.device != device:
            self._generator = torch_rng(*self._key, device=device)
        return self._generator


class Dropout(nn.Module):
    """Dropout from a Noise stream; nothing in eval mode."""

    def __init__(self, p: float, noise: Noise):
        super().__init__()
        self.p, self.noise = p, noise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.noise.keep(x, self.p) if self.training and self.p > 0 else x


class Linear(nn.Linear):
    """nn.Linear whose weights are still to be drawn (`init_weights`)."""

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """nn.Embedding whose weights are still to be drawn (`init_weights`); torch's skip_init would import its
    compiler, which takes a second."""

    def reset_parameters(self) -> None:
        """Draws nothing."""


def init_weights(network: nn.Module, seed: int) -> None:
    """Linear and Embedding weights N(0, 0.02²), Linear biases 0."""
    generator = torch_rng(seed)
    for module in network.modules():  # in this order: it decides which weights a seed gives
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=INIT_STD, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def embedded(table: nn.Embedding, idx: torch.Tensor) -> torch.Tensor:
    """Tokens idx (B, T) -> embeddings (B, T, D). On a CPU, ValueError for a token that the table lacks."""
    try:
        return table(idx)
    except IndexError:  # a GPU only notices later, in an error of its own
        low, high = map(int, idx.aminmax())
        wrong, last = low if low < 0 else high, len(table.weight) - 1
        raise ValueError(f"idx must hold tokens from 0 to {last}, not {wrong}.") from None


def linear_weights(*modules: nn.Module) -> list[nn.Parameter]:
    """The weights of all Linear layers in some modules."""
    return [part.weight for module in modules for part in module.modules() if isinstance(part, nn.Linear)]


def project(layers: Sequence[nn.Linear], x: torch.Tensor, p: torch.Tensor | None = None) -> torch.Tensor:
    """Outputs of all layers, side by side, of x (B, T, n), or of [x, p] for a position code p (T, P)."""
    # one product of joined weights is faster than one a layer
    weight = torch.cat([layer.weight for layer in layers]) if len(layers) > 1 else layers[0].weight
    bias = torch.cat([layer.bias for layer in layers]) if len(layers) > 1 else layers[0].bias
    if p is None:
        return F.linear(x, weight, bias)
    n = x.shape[-1]
    # W [x, p] = W_x x + W_p p: p is the same on every board, so its part is computed once, not B times
    return F.linear(x, weight[:, :n]) + F.linear(p, weight[:, n:], bias)


class Attention(nn.Module):
    """Multi-head attention. Keys and values come from the queries' own stream or from another one.

    width: of the vectors that queries, keys and values are computed from, n_embd with or without a position
    code. mask: None, or a buffer (1, 1, T, T) with 1 where attention is allowed.

    slot_heads: number of heads, the first ones, in which queries compete for keys: their softmax is over
    queries, and then each query's weights are normalised to sum to one (slot attention, arXiv 2006.15055).
    Only without a mask.
    """

    slot_heads = 0

    def __init__(
        self, width: int, n_embd: int, n_head: int, attn_pdrop: float, resid_pdrop: float, noise: Noise,
        name: str = "", mask: torch.Tensor | None = None,
    ):
        super().__init__()
        self.key, self.query, self.value = (Linear(width, n_embd) for _ in range(3))
        self.proj = Linear(n_embd, n_embd)
        self.n_head = n_head
        self.attn_drop, self.resid_drop = Dropout(attn_pdrop, noise), Dropout(resid_pdrop, noise)
        self.sites = nn.ModuleDict({site: Site(name + site, n_head) for site in ("a", "v", "attn_v")})
        self.register_buffer("mask", mask)
        self.all_allowed = mask is None or bool(mask.all())

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if self.mask is not None:
            state_dict.setdefault(prefix + "mask", self.mask)  # a state dict without masks loads too
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.all_allowed = self.mask is None or self.mask.is_meta or bool(self.mask.all())

    def forward(
        self, x: torch.Tensor, p: torch.Tensor | None = None, read: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attention's addition (B, T, D) to the residual stream.

        x (B, T, n): the queries' stream, with position code p (T, P) if that is kept apart. read (B, S, n):
        the stream of keys and values, x if None. Either may have length 1 in place of B if it is the same for
        the whole batch.
        """
        if read is None:
            q, k, v = project([self.query, self.key, self.value], x, p).chunk(3, dim=-1)
        else:
            n = x.shape[0] if read.shape[0] == 1 else read.shape[0]
            q = project([self.query], x, p).expand(n, -1, -1)
            k, v = project([self.key, self.value], read).expand(n, -1, -1).chunk(2, dim=-1)
        v = self.sites["v"](v)
        q, k, v = (rearrange(y, "B T (H d) -> B H T d", H=self.n_head) for y in (q, k, v))
        out = self.sites["attn_v"](rearrange(self._attend(q, k, v), "B H T d -> B T (H d)"))
        return self.resid_drop(self.proj(out))

    def weights(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Attention weights softmax(q kᵀ / sqrt(d)), (B, H, T, S), for q (B, H, T, d), k (B, H, S, d)."""
        scores = q * q.shape[-1] ** -0.5 @ k.mT
        if not self.all_allowed:
            scores = scores.masked_fill(~self.mask.bool(), float("-inf"))
        if self.slot_heads > 0:
            slots, others = scores.tensor_split([self.slot_heads], dim=1)
            # log of each query's share of a key; the softmax below makes a query's shares sum to one
            scores = torch.cat((slots.log_softmax(dim=-2), others), dim=1)
        return scores.softmax(dim=-1)

    def _attend(self, q, k, v):
        """Heads' outputs softmax(q kᵀ / sqrt(d)) v, (B, H, T, d).

        torch's fused kernel, which never has the weights, computes them unless somebody needs the weights:
        dropout, slots, a hook that changes them or takes their gradient. If hooks only look, the fused result
        stands, so that recording changes no bit of it.
        """
        site = self.sites["a"]
        stepwise = (self.training and self.attn_drop.p > 0) or self.slot_heads > 0
        if stepwise or site.watched:
            made = self.weights(q, k)
            stepwise = stepwise or made.is_meta or (made.requires_grad and not site.only_copied)
            before = made if stepwise else made.detach().clone()  # a hook may write into the weights
            weights = site(made)
            learnt = weights is not made and weights.requires_grad
            if stepwise or learnt or not torch.equal(weights, before):
                return self.attn_drop(weights) @ v
        allowed = None if self.all_allowed else self.mask.bool()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


class MLP(nn.Sequential):
    """Linear(width -> 4D), exact GELU, Linear(4D -> D), dropout; width is D, or D + P with position codes."""

    def __init__(self, width: int, n_embd: int, resid_pdrop: float, noise: Noise):
        into, out_of = Linear(width, 4 * n_embd), Linear(4 * n_embd, n_embd)
        super().__init__(into, nn.GELU(), out_of, Dropout(resid_pdrop, noise))

    def forward(self, x: torch.Tensor, p: torch.Tensor | None = None) -> torch.Tensor:
        """x (B, T, n), with p (T, P) if kept apart -> (B, T, D)."""
        h = project([self[0]], x, p)
        for layer in list(self)[1:]:
            h = layer(h)
        return h


class Block(nn.Module):
    """Attention and MLP, each pre-normalised, reading [normalised stream, position code], and residual."""

    def __init__(self, n_embd, n_embd_pos, n_head, attn_pdrop, resid_pdrop, noise, name, mask):
        super().__init__()
        width = n_embd + n_embd_pos
        self.ln1, self.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.attn = Attention(width, n_embd, n_head, attn_pdrop, resid_pdrop, noise, name, mask)
        self.mlp = MLP(width, n_embd, resid_pdrop, noise)
        places = ("z", "attn_update", "z_attn", "mlp_in", "mlp_update", "z_attn_mlp")
        self.sites = nn.ModuleDict({place: Site(name + place) for place in places})

    def forward(self, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """x (B, T, D), p (T, P) -> (B, T, D)."""
        at = self.sites
        update = self.attn(at["z"](self.ln1(x)), p)  # the position code is read, never added to x
        x = at["z_attn"](x + at["attn_update"](update))
        update = self.mlp(at["mlp_in"](self.ln2(x)), p)
        return at["z_attn_mlp"](x + at["mlp_update"](update))


class GPTFactor(nn.Module):
    """Transformer with a learnt position code that every block reads and none adds to the residual stream.

    vocab_size V, block_size T, n_layer, n_head, n_embd D, n_embd_pos P: sizes. embd_pdrop, resid_pdrop,
    attn_pdrop: dropout after the token embedding, after each sub-layer, on attention weights. n_unmasked: the
    first n_unmasked tokens see each other, later ones are causal; None: all see all. seed: of weights and
    dropout; None draws one. State dicts have the layout of the authors' program. ValueError for sizes that
    contradict each other.
    """

    def __init__(
        self, vocab_size: int, block_size: int, n_layer: int = 2, n_head: int = 4, n_embd: int = 64,
        n_embd_pos: int = 32, embd_pdrop: float = 0.0, resid_pdrop: float = 0.0, attn_pdrop: float = 0.0,
        n_unmasked: int | None = None, seed: int | None = None,
    ):
        super().__init__()
        check_sizes(vocab_size=vocab_size, block_size=block_size, n_layer=n_layer, n_head=n_head,
                    n_embd=n_embd, n_embd_pos=n_embd_pos)
        check_numbers(embd_pdrop=embd_pdrop, resid_pdrop=resid_pdrop, attn_pdrop=attn_pdrop)
        seed = checked_seed(seed)
        self.block_size, self.noise = block_size, Noise(seed)
        self.tok_emb = Embedding(vocab_size, n_embd)
        self.pos_emb = nn.Parameter(torch.zeros(1, block_size, n_embd_pos))
        self.drop = Dropout(embd_pdrop, self.noise)
        mask = attention_mask(block_size, n_unmasked)
        self.blocks = nn.ModuleList(
            Block(n_embd, n_embd_pos, n_head, attn_pdrop, resid_pdrop, self.noise, f"b{i}_", mask.clone())
            for i in range(n_layer)
        )
        self.ln_f = nn.LayerNorm(n_embd)
        self.head = Linear(n_embd, vocab_size, bias=False)
        self.out_sites = nn.ModuleDict({site: Site(site) for site in ("z_out", "logit")})
        self.sites = named_sites(self)
        init_weights(self, seed)

    def forward(
        self, idx: torch.Tensor, embeddings: torch.Tensor | None = None, activations: dict | None = None,
        verbose: bool = False,
    ) -> torch.Tensor:
        """Logits (B, T, V) for tokens idx (B, T).

        embeddings (B, L, D): put before the tokens' own embeddings, L + number of tokens = T. activations:
        edits made during this pass, as `editing` takes them: {'b1': {'z': ..., 'attn_update': ...}, 'z_out':
        ...}. verbose: print each block's shape. TypeError unless idx is a tensor of whole numbers, ValueError
        for a wrong length, an unknown activation or a wrong shape.
        """
        if activations is not None:
            with editing(self, activations):
                return self.forward(idx, embeddings, None, verbose)
        return self.read_out(self.run(self.start(idx, embeddings), verbose=verbose))

    def start(self, idx: torch.Tensor, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens idx (B, T) -> the stream (B, T, D) that block 0 reads; the rest as for `forward`."""
        check_tokens("idx", idx)
        x = embedded(self.tok_emb, idx)
        if embeddings is not None:
            if not isinstance(embeddings, torch.Tensor):
                raise TypeError(f"embeddings must be a tensor, not {type(embeddings).__name__}.")
            if embeddings.ndim != 3 or embeddings.shape[::2] != x.shape[::2]:
                wanted = f"({len(x)}, L, {x.shape[2]})"
                raise ValueError(f"embeddings must have shape {wanted}, not {tuple(embeddings.shape)}.")
            x = torch.cat((embeddings.to(x), x), dim=1)
        if x.shape[1] != self.block_size:
            count = x.shape[1]
            raise ValueError(f"idx and embeddings must make {self.block_size} tokens together, not {count}.")
        return self.drop(x)

    def run(self, x: torch.Tensor, first_block: int = 0, verbose: bool = False) -> torch.Tensor:
        """The residual stream x (B, T, D) that block first_block reads -> the stream after the last block."""
        p = self.pos_emb[0]
        for i in range(first_block, len(self.blocks)):
            x = self.blocks[i](x, p)
            if verbose:
                print(f"block {i}: residual stream {tuple(x.shape)}, position code {tuple(p.shape)}")
        return x

    def read_out(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, V) of a residual stream x (B, T, D), by the final LayerNorm and the head."""
        return self.out_sites["logit"](self.head(self.out_sites["z_out"](self.ln_f(x))))

    def block_matrices(self) -> list[nn.Parameter]:
        """The Linear weights of all blocks: what Muon takes."""
        return linear_weights(self.blocks)


def attention_mask(block_size: int, n_unmasked: int | None) -> torch.Tensor:
    """(1, 1, T, T), 1 where attention is allowed: everywhere, or as GPTFactor describes n_unmasked."""
    if n_unmasked is None:
        return torch.ones(1, 1, block_size, block_size)
    check_number("n_unmasked", n_unmasked, "None or a whole number of at least 0", 0)
    mask = torch.ones(block_size, block_size).tril()
    mask[:n_unmasked, :n_unmasked] = 1
    return mask[None, None]
