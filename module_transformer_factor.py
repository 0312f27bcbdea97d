"""GPTFactor: a transformer whose token and position codes stay apart (arXiv 2312.05361), and the pieces LEA shares.

Axis letters: B boards, T tokens of a board, D = n_embd, P = n_embd_pos, H = n_head, V = vocab_size.

Networks only: tensors in, tensors out. Nothing here reads or changes torch's global random state; weights and dropout
come from generators made of the network's `seed`.

Named activations of block i (all (B, T, D) unless noted); a hook on `network.sites[name]` sees what is used downstream:

    b{i}_z              LayerNorm1 output                   b{i}_z_attn       residual stream after attention
    b{i}_a              attention weights (B, H, T, T)      b{i}_mlp_in       LayerNorm2 output
    b{i}_v              values, heads side by side          b{i}_mlp_update   the MLP's addition to the residual stream
    b{i}_attn_v         heads' outputs, before projection   b{i}_z_attn_mlp   block output
    b{i}_attn_update    attention's addition                z_out, logit      final LayerNorm output; logits (B, T, V)
"""
from __future__ import annotations

import contextlib
import fnmatch
import numbers
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from utils import check_number, checked_seed, torch_rng

EDITABLE = ("z", "attn_update", "mlp_in", "mlp_update", "z_attn_mlp")
INIT_STD = 0.02
MAX_NUMBERS = 2**31  # in a network
# multiply-adds from which, on a CPU, a product is faster as a convolution, and attention fused (benchmarks/bench_step.py)
CONVOLVE_FROM = 5_000_000
FUSE_FROM = 64 * 64 * 32  # of a head's scores
ONEDNN = torch.backends.mkldnn.is_available()


class Site(nn.Module):
    """A named place in a network. Passes its activation on, edited if asked; forward hooks on it record."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor, edit=None) -> torch.Tensor:
        return x if edit is None else edited(x, edit, self.name)

    @property
    def watched(self) -> bool:
        """Whether a hook is on it."""
        return bool(self._forward_hooks or self._forward_pre_hooks)


def named_sites(network: nn.Module) -> dict[str, Site]:
    """The named places of a network, in no particular order."""
    return {module.name: module for module in network.modules() if isinstance(module, Site)}


def edited(x: torch.Tensor, edit, name: str) -> torch.Tensor:
    """x (B, T, D) after an edit: an array or tensor (B, T, D) or (T, D) in its place, a function of it, or a pair
    (array, tensor or function; mask (T,) or (B, T), true at the tokens to change). ValueError for another shape."""
    edit, mask = edit_and_mask(edit, name)
    if mask is not None:
        mask = torch.as_tensor(mask, dtype=torch.bool, device=x.device)
        if mask.shape not in (x.shape[:2], x.shape[1:2]):
            raise ValueError(
                f"the mask of edit {name} must have shape {tuple(x.shape[:2])} or {tuple(x.shape[1:2])}, "
                f"not {tuple(mask.shape)}."
            )
    edit = edit(x.clone()) if callable(edit) else edit  # a function may write into what it is given
    new = numbers_of(edit, name).to(x.device, x.dtype)
    if new.shape not in (x.shape, x.shape[1:]):
        raise ValueError(
            f"edit {name} must have shape {tuple(x.shape)} or {tuple(x.shape[1:])}, not {tuple(new.shape)}."
        )
    return new.expand_as(x) if mask is None else torch.where(mask[..., None], new, x)


def edit_and_mask(edit, name: str) -> tuple:
    """(tensor or function; mask as a tensor or None) of an edit; ValueError where it is neither an edit nor a pair."""
    if isinstance(edit, tuple) and len(edit) != 2:
        raise ValueError(f"edit {name} must be an edit or a pair (edit, mask), not a tuple of {len(edit)}.")
    edit, mask = edit if isinstance(edit, tuple) else (edit, None)
    return edit if callable(edit) else numbers_of(edit, name), mask if mask is None else numbers_of(mask, f"{name}'s mask")


def numbers_of(values, name: str) -> torch.Tensor:
    """An edit's array or tensor as a tensor; ValueError where it is something else."""
    try:
        return values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError):
        raise ValueError(f"edit {name} must be an array, a tensor or a function, not {type(values).__name__}.") from None


def cut_edits(edits: dict | None, part: slice, n: int) -> dict:
    """The edits of n boards, as GPTFactor.forward takes them, for those boards that are in part. The caller's dict and
    arrays are left alone. ValueError where an edit with a batch axis is of another number of boards."""

    def cut(edit, name):
        if isinstance(edit, dict):
            return {site: cut(value, f"{name}_{site}".strip("_")) for site, value in edit.items()}
        edit, mask = edit_and_mask(edit, name)
        for what, values, axes in (("edit", edit, 3), ("the mask of edit", mask, 2)):
            if isinstance(values, torch.Tensor) and values.ndim == axes and len(values) != n:
                raise ValueError(f"{what} {name} must be for {n} boards, not {len(values)}.")
        edit = edit[part] if isinstance(edit, torch.Tensor) and edit.ndim == 3 else edit
        return edit if mask is None else (edit, mask[part] if mask.ndim == 2 else mask)

    return cut(edits, "") if isinstance(edits, dict) else edits


@contextlib.contextmanager
def recording(network: nn.Module, names: str | Sequence[str] | None = None) -> Iterator[dict[str, torch.Tensor]]:
    """Named activations of the network's forward passes inside the `with`, as a dict {name: detached tensor}.

    names: exact names or patterns ('b0_*'), all where None; ValueError for one that matches nothing. Several passes are
    joined along the batch. Only this recorder's own hooks go away afterwards, also after an exception.
    """
    sites = network.sites
    patterns = ["*"] if names is None else [names] if isinstance(names, str) else list(names)
    wanted = {name for pattern in patterns for name in fnmatch.filter(sites, pattern)}
    for pattern in patterns:
        if not fnmatch.filter(sites, pattern):
            raise ValueError(f"names: {pattern!r} matches no activation; there are {', '.join(sorted(sites))}.")
    acts: dict[str, torch.Tensor] = {}

    def keep(site, args, out):
        out = out.detach()
        acts[site.name] = torch.cat((acts[site.name], out)) if site.name in acts else out

    handles = [sites[name].register_forward_hook(keep) for name in sites if name in wanted]
    try:
        yield acts
    finally:
        for handle in handles:
            handle.remove()


class Noise:
    """The random stream of a network in training, a generator of its own on whatever device it runs."""

    def __init__(self, seed: int):
        self.reseed(seed)

    def reseed(self, *key: int) -> None:
        """Starts the stream named by the whole numbers of key."""
        self._key, self._generator = key, None

    def keep(self, like: torch.Tensor, p: float) -> torch.Tensor:
        """Like `like`: 1 / (1 - p) with probability 1 - p, else 0."""
        return torch.empty_like(like).bernoulli_(1 - p, generator=self._on(like.device)).div_(max(1 - p, 1e-30))

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


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """F.linear of x (B, T, n). A large one in float32 on a CPU is taken for the 1 x 1 convolution that it is: torch computes that
    by oneDNN, on an AMD processor twice as fast as F.linear by MKL (benchmarks/bench_step.py)."""
    small = x.numel() * len(weight) < CONVOLVE_FROM or x.ndim != 3
    if small or x.device.type != "cpu" or x.dtype != torch.float32 or not ONEDNN:
        return F.linear(x, weight, bias)
    y = F.conv2d(x.unsqueeze(2).permute(0, 3, 1, 2), weight[:, :, None, None], bias)  # (B, n, T, 1), channels last
    return y.permute(0, 2, 3, 1).squeeze(2)


class Linear(nn.Linear):
    """nn.Linear by `product`, its weights still to be drawn (`init_weights`)."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return product(x, self.weight, self.bias)


def embedding(n: int, dim: int) -> nn.Embedding:
    """An Embedding whose weights are still to be drawn (`init_weights`)."""
    return nn.utils.skip_init(nn.Embedding, n, dim)


def init_weights(network: nn.Module, seed: int) -> None:
    """Linear and Embedding weights N(0, 0.02²), Linear biases 0."""
    generator = torch_rng(seed)
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=INIT_STD, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def check_sizes(**sizes: int) -> None:
    """TypeError unless every size is a whole number; ValueError unless it is at least 1 and, where they are a network's,
    n_embd divides by n_head and all of them make no more than some MAX_NUMBERS weights and mask entries."""
    for name, size in sizes.items():
        check_number(name, size, f"a whole number of at least 1 and at most {MAX_NUMBERS}", 1, MAX_NUMBERS)
    if "n_head" not in sizes:
        return
    if sizes["n_embd"] % sizes["n_head"]:
        raise ValueError(f"n_embd = {sizes['n_embd']} must be divisible by n_head = {sizes['n_head']}.")
    width, T = sizes["n_embd"] + sizes["n_embd_pos"], sizes["block_size"]
    count = sizes["n_layer"] * (12 * width * sizes["n_embd"] + T**2) + width * sum(sizes.values())
    if count > MAX_NUMBERS:
        given = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise ValueError(f"{given} must make a network of at most {MAX_NUMBERS} numbers, not {count}; block_size is "
                         "board_dim squared.")


def check_numbers(most: float | None = 1, **values: float) -> None:
    """TypeError unless every value is a number, ValueError unless it is from 0 to most; None: any finite one."""
    wanted = "a finite number of at least 0" if most is None else f"a number from 0 to {most}"
    for name, value in values.items():
        check_number(name, value, wanted, 0, sys.float_info.max if most is None else most, numbers.Real)


def check_tokens(name: str, tokens: torch.Tensor, length: int | None = None) -> None:
    """ValueError unless the shape of tokens is (B, length), None: any length; TypeError unless they are a tensor of int64 or
    int32."""
    is_tensor = isinstance(tokens, torch.Tensor)
    if is_tensor and (tokens.ndim != 2 or length not in (None, tokens.shape[1])):
        raise ValueError(f"{name} must have shape (B, {length or 'tokens'}), not {tuple(tokens.shape)}.")
    if not is_tensor or tokens.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be a tensor of int64 or int32, not {tokens.dtype if is_tensor else type(tokens).__name__}.")


def embedded(table: nn.Embedding, idx: torch.Tensor) -> torch.Tensor:
    """Tokens idx (B, T) -> their embeddings (B, T, D); on a CPU ValueError where one is none of the table's."""
    try:
        return table(idx)
    except IndexError:
        low, high = map(int, idx.aminmax())
        raise ValueError(f"idx must hold tokens from 0 to {len(table.weight) - 1}, not {low if low < 0 else high}.") from None


def project(layers: Sequence[nn.Linear], x: torch.Tensor, p: torch.Tensor | None = None) -> torch.Tensor:
    """All layers in one product, outputs side by side, of x (B, T, n) or of [x, p] with p (T, P) alike on every board.

    The share of p is computed for T positions rather than for B * T tokens.
    """
    weight = torch.cat([layer.weight for layer in layers]) if len(layers) > 1 else layers[0].weight
    bias = torch.cat([layer.bias for layer in layers]) if len(layers) > 1 else layers[0].bias
    if p is None:
        return product(x, weight, bias)
    n = x.shape[-1]
    return product(x, weight[:, :n]) + F.linear(p, weight[:, n:], bias)


class Attention(nn.Module):
    """Multi-head attention; queries from one stream, keys and values from another or, in self-attention, the same.

    width: what queries, keys and values are read from, n_embd with or without a position code. mask: None or a buffer
    (1, 1, T, T), 1 where attention is allowed. Fused, unless small or dropout or somebody's hook asks for the weights.
    """

    def __init__(
        self, width: int, n_embd: int, n_head: int, attn_pdrop: float, resid_pdrop: float, noise: Noise,
        name: str = "", mask: torch.Tensor | None = None,
    ):
        super().__init__()
        self.key, self.query, self.value = (Linear(width, n_embd) for _ in range(3))
        self.proj = Linear(n_embd, n_embd)
        self.n_head = n_head
        self.attn_drop, self.resid_drop = Dropout(attn_pdrop, noise), Dropout(resid_pdrop, noise)
        self.sites = nn.ModuleDict({site: Site(name + site) for site in ("a", "v", "attn_v")})
        self.register_buffer("mask", mask)
        self.all_allowed = mask is None or bool(mask.all())

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if self.mask is not None:
            state_dict.setdefault(prefix + "mask", self.mask)  # a state dict without masks loads too
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.all_allowed = self.mask is None or self.mask.is_meta or bool(self.mask.all())

    def forward(self, x: torch.Tensor, p: torch.Tensor | None = None, read: torch.Tensor | None = None) -> torch.Tensor:
        """x (B, T, n) with its position code p (T, P) if kept apart; read (B, S, n): what keys and values see, x where
        None; one of x and read may be alike for the whole batch, with length 1. Returns (B, T, D), to be added to the
        residual stream."""
        if read is None:
            q, k, v = project([self.query, self.key, self.value], x, p).chunk(3, dim=-1)
        else:
            n = len(x) if len(read) == 1 else len(read)
            q = project([self.query], x, p).expand(n, -1, -1)
            k, v = project([self.key, self.value], read).expand(n, -1, -1).chunk(2, dim=-1)
        v = self.sites["v"](v)
        q, k, v = (rearrange(y, "B T (H d) -> B H T d", H=self.n_head) for y in (q, k, v))
        out = self.sites["attn_v"](rearrange(self._attend(q, k, v), "B H T d -> B T (H d)"))
        return self.resid_drop(self.proj(out))

    def _attend(self, q, k, v):
        """Heads' outputs (B, H, T, d)."""
        allowed = None if self.all_allowed else self.mask.bool()
        drops, watched = self.training and self.attn_drop.p > 0, self.sites["a"].watched
        small = q.device.type == "cpu" and q.shape[-2:].numel() * k.shape[-2] < FUSE_FROM
        if drops or watched or small:
            scores = q * q.shape[-1] ** -0.5 @ k.mT
            if allowed is not None:
                scores = scores.masked_fill(~allowed, float("-inf"))
            made = scores.softmax(dim=-1)
            before = made.detach().clone() if watched else made
            weights = self.sites["a"](made)
            # a hook that only looks leaves the fused result to the bit; one that changes the weights is obeyed
            if drops or small or weights is not made or not torch.equal(weights, before):
                return self.attn_drop(weights) @ v
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


class MLP(nn.Sequential):
    """Linear(width -> 4D), exact GELU, Linear(4D -> D), dropout; width is D with or without a position code."""

    def __init__(self, width: int, n_embd: int, resid_pdrop: float, noise: Noise):
        super().__init__(Linear(width, 4 * n_embd), nn.GELU(), Linear(4 * n_embd, n_embd), Dropout(resid_pdrop, noise))

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
        self.sites = nn.ModuleDict({site: Site(name + site) for site in (*EDITABLE, "z_attn")})

    def forward(self, x: torch.Tensor, p: torch.Tensor, edits: dict) -> torch.Tensor:
        """x (B, T, D), p (T, P) -> (B, T, D)."""

        def at(site, value):
            return self.sites[site](value, edits.get(site))

        x = at("z_attn", x + at("attn_update", self.attn(at("z", self.ln1(x)), p)))
        return at("z_attn_mlp", x + at("mlp_update", self.mlp(at("mlp_in", self.ln2(x)), p)))


class GPTFactor(nn.Module):
    """Transformer with a learnt position code that every block reads but that is never added to the residual stream.

    vocab_size V; block_size T; n_layer, n_head, n_embd D, n_embd_pos P: sizes. embd_pdrop, resid_pdrop, attn_pdrop:
    dropout after the token embedding, after each sub-layer, on attention weights. n_unmasked: the first n_unmasked
    tokens see each other, later ones are causal; None: all do. seed: of weights and dropout; None draws one.
    State dicts have the layout of the authors' program. ValueError for sizes that do not fit.
    """

    def __init__(
        self, vocab_size: int, block_size: int, n_layer: int = 2, n_head: int = 4, n_embd: int = 64,
        n_embd_pos: int = 32, embd_pdrop: float = 0.0, resid_pdrop: float = 0.0, attn_pdrop: float = 0.0,
        n_unmasked: int | None = None, seed: int | None = None,
    ):
        super().__init__()
        check_sizes(vocab_size=vocab_size, block_size=block_size, n_layer=n_layer, n_head=n_head, n_embd=n_embd,
                    n_embd_pos=n_embd_pos)
        check_numbers(embd_pdrop=embd_pdrop, resid_pdrop=resid_pdrop, attn_pdrop=attn_pdrop)
        seed = checked_seed(seed)
        self.block_size, self.noise = block_size, Noise(seed)
        self.tok_emb = embedding(vocab_size, n_embd)
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

        embeddings (B, L, D): put before the tokens' own, L + number of tokens = T. activations: edits made during the
        pass, {'b1': {'z': ..., 'attn_update': ..., 'mlp_in': ..., 'mlp_update': ..., 'z_attn_mlp': ...}, 'z_out': ...},
        each as `edited` takes it; everything downstream uses them. verbose: print each block's shape. TypeError for what is
        no tensor of whole numbers, ValueError for a wrong length, token, place or shape.
        """
        edits = self._checked_edits({} if activations is None else activations)
        check_tokens("idx", idx)
        x = embedded(self.tok_emb, idx)
        if embeddings is not None:
            if not isinstance(embeddings, torch.Tensor):
                raise TypeError(f"embeddings must be a tensor, not {type(embeddings).__name__}.")
            if embeddings.ndim != 3 or embeddings.shape[::2] != x.shape[::2]:
                raise ValueError(f"embeddings must have shape ({len(x)}, L, {x.shape[2]}), not {tuple(embeddings.shape)}.")
            x = torch.cat((embeddings.to(x), x), dim=1)
        if x.shape[1] != self.block_size:
            raise ValueError(f"idx and embeddings must make {self.block_size} tokens together, not {x.shape[1]}.")
        x, p = self.drop(x), self.pos_emb[0]
        for i, block in enumerate(self.blocks):
            x = block(x, p, edits.get(f"b{i}", {}))
            if verbose:
                print(f"block {i}: residual stream {tuple(x.shape)}, position code {tuple(p.shape)}")
        return self.out_sites["logit"](self.head(self.out_sites["z_out"](self.ln_f(x), edits.get("z_out"))))

    def _checked_edits(self, activations: dict) -> dict:
        places = [f"b{i}" for i in range(len(self.blocks))]
        if not isinstance(activations, dict):
            raise TypeError(f"edits must be a dict {{place: edit}}, not {type(activations).__name__}.")
        for place, edit in activations.items():
            if place not in (*places, "z_out"):
                raise ValueError(f"there is no place {place!r} to edit; places are {', '.join(places)} and z_out.")
            if place == "z_out":
                continue
            if not isinstance(edit, dict):
                raise ValueError(f"the edits of {place!r} must be a dict with keys among {', '.join(EDITABLE)}.")
            for site in edit:
                if site not in EDITABLE:
                    raise ValueError(f"there is no place {site!r} to edit in {place!r}; they are {', '.join(EDITABLE)}.")
        return activations


def attention_mask(block_size: int, n_unmasked: int | None) -> torch.Tensor:
    """(1, 1, T, T), 1 where attention is allowed: all, or among the first n_unmasked tokens and causally after them."""
    if n_unmasked is None:
        return torch.ones(1, 1, block_size, block_size)
    check_number("n_unmasked", n_unmasked, "None or a whole number of at least 0", 0)
    mask = torch.ones(block_size, block_size).tril()
    mask[:n_unmasked, :n_unmasked] = 1
    return mask[None, None]


def make_optimizer(
    network: nn.Module, learning_rate: float, weight_decay: float = 0.01, kind: str = "adamw"
) -> torch.optim.AdamW | Optimizers:
    """The optimiser of a network, of the kind 'adamw' or 'muon'.

    adamw: AdamW, betas (0.9, 0.95), fused; weight decay on the weights of Linear layers only. muon: torch.optim.Muon, its
    steps as long as AdamW's ("match_rms_adamw"), on the matrices of attention and MLPs, with the same weight decay; AdamW
    on all else.
    """
    linear = [m.weight for m in network.modules() if isinstance(m, nn.Linear)]
    inner = [m.weight for part in network.modules() if isinstance(part, (Attention, MLP))
             for m in part.modules() if isinstance(m, nn.Linear)]
    by_muon = {id(p) for p in inner} if kind == "muon" else set()
    decayed = {id(p) for p in linear}
    rest = [p for p in network.parameters() if id(p) not in by_muon]
    groups = [
        {"params": [p for p in rest if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in rest if id(p) not in decayed], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)
    if kind == "adamw":
        return adamw
    muon = torch.optim.Muon(inner, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return Optimizers(adamw, muon)


class Optimizers:
    """Several optimisers, each of parameters of its own, that step together and look like one of torch's."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts

    @property
    def param_groups(self) -> list[dict]:
        """The groups of all parts, whose settings may be changed."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[torch.Tensor, dict]:
        """What the parts keep of each parameter."""
        return {p: kept for part in self.parts for p, kept in part.state.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """One step of every part."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        """As that of an optimiser of torch: 'state' by number of the parameter, counted through all parts, and 'param_groups'."""
        state, groups, first = {}, [], 0
        for part in self.parts:
            own = part.state_dict()
            state |= {first + i: kept for i, kept in own["state"].items()}
            groups += [group | {"params": [first + i for i in group["params"]]} for group in own["param_groups"]]
            first += sum(len(group["params"]) for group in own["param_groups"])
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes what `state_dict` gave."""
        groups, first = list(state_dict["param_groups"]), 0
        for part in self.parts:
            own = [groups.pop(0) for _ in part.param_groups]
            last = first + sum(len(group["params"]) for group in own)
            state = {i - first: kept for i, kept in state_dict["state"].items() if first <= i < last}
            own = [group | {"params": [i - first for i in group["params"]]} for group in own]
            part.load_state_dict({"state": state, "param_groups": own})
            first = last
