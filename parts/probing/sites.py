"""Named activations of a network: recorded and edited, both by forward hooks.

Axis letters: B boards, T tokens of a board or words of a sentence, H heads, d numbers of a head.

Every named activation of a network passes through a `Site`. `recording` and `editing` put forward hooks on
sites for the length of a `with`, and can be nested in any order: a recorded activation is always the one that
is used downstream.

    with editing(network, {"b1_attn_v": Edit(torch.zeros_like, head=2)}), recording(network, "b1_*") as acts:
        logits = network(tokens)
"""
from __future__ import annotations

import contextlib
import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from utils import caution, check_number


class Site(nn.Module):
    """A named activation: an identity layer that it passes through, so that hooks can read or replace it.

    n_head: number of heads of the activation, along axis 1 of attention weights (B, H, T, keys) or side by
    side on the last axis; 0 if it has none.
    """

    def __init__(self, name: str, n_head: int = 0):
        super().__init__()
        self.name, self.n_head = name, n_head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The activation, unchanged."""
        return x

    def register_forward_hook(self, hook: Callable, **how) -> torch.utils.hooks.RemovableHandle:
        """As torch's, but edits run before all other hooks and recorders after them, whenever they were
        registered: all hooks see edited activations, and a recorder sees what is used downstream."""
        handle = super().register_forward_hook(hook, **how)

        def rank(key):
            hook = self._forward_hooks[key]
            return isinstance(hook, Recorder) - isinstance(hook, Editor)

        for key in sorted(self._forward_hooks, key=rank):  # a stable sort: otherwise in order of registration
            self._forward_hooks.move_to_end(key)
        return handle

    @property
    def watched(self) -> bool:
        """Whether it has a hook, forward or backward."""
        forward = self._forward_hooks or self._forward_pre_hooks
        return bool(forward or self._backward_hooks or self._backward_pre_hooks)

    @property
    def only_copied(self) -> bool:
        """Whether its hooks are all detaching recorders, which change nothing and need no gradient."""
        if self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks:
            return False
        return all(isinstance(hook, Recorder) and hook.detach for hook in self._forward_hooks.values())

    def index_of_head(self, x: torch.Tensor, head: int | None) -> tuple:
        """The index of one head's part of the activation x, (B, T, keys) of attention weights or (B, T, d);
        of all of x if head is None."""
        if head is None:
            return (...,)
        if x.ndim == 4:
            return (slice(None), head)
        d = x.shape[-1] // self.n_head
        return (..., slice(head * d, (head + 1) * d))


def named_sites(network: nn.Module) -> dict[str, Site]:
    """{name: site} of all named activations of a network."""
    return {module.name: module for module in network.modules() if isinstance(module, Site)}


class Recorder:
    """A forward hook that stores activations in `acts`; several passes are joined along the batch."""

    def __init__(self, detach: bool):
        self.detach = detach
        self.acts: dict[str, torch.Tensor] = {}

    def __call__(self, site: Site, args: tuple, out: torch.Tensor) -> None:
        """Stores the activation of the site."""
        kept = out.detach() if self.detach else out
        if site.name in self.acts:
            kept = torch.cat((self.acts[site.name], kept))
        self.acts[site.name] = kept


class Editor:
    """A forward hook that applies edits (made by `as_edit`) to its site one after the other. part, n: see
    `editing`."""

    def __init__(self, edits: Sequence[Edit], part: slice = slice(None), n: int | None = None):
        self.edits, self.part, self.n = edits, part, n

    def __call__(self, site: Site, args: tuple, out: torch.Tensor) -> torch.Tensor:
        """The activation of the site after the edits, a new tensor; gradients flow through it and the edits.
        ValueError for a value or mask of a wrong shape."""
        for edit in self.edits:
            out = self._edited(out, edit, site)
        return out

    def _edited(self, x: torch.Tensor, edit: Edit, site: Site) -> torch.Tensor:
        index, value, what = site.index_of_head(x, edit.head), edit.value, f"edit {site.name}"
        old = x[index]
        if callable(value):
            value = as_tensor(value(old.clone()), what)  # a function may write into what it gets
        elif value.ndim == old.ndim:
            value = self._cut(value, what)
        value = value.to(old.device, old.dtype)
        if value.shape not in (old.shape, old.shape[1:]):
            shapes = f"{tuple(old.shape)} or {tuple(old.shape[1:])}"
            raise ValueError(f"{what} must have shape {shapes}, not {tuple(value.shape)}.")
        if edit.mask is not None:
            value = torch.where(self._mask_over(old, edit.mask, f"the mask of {what}"), value, old)
        if edit.head is None:
            return value.expand_as(x).clone()
        out = x.clone()
        out[index] = value
        return out

    def _mask_over(self, old: torch.Tensor, mask: torch.Tensor, what: str) -> torch.Tensor:
        """A mask of tokens, as `Edit` takes it, in a shape that broadcasts over the activation."""
        B, T = len(old), old.shape[-2]
        side = math.isqrt(T)
        if mask.shape[-2:] == (side, side) and side * side == T:
            mask = mask.flatten(-2)  # shaped as boards
        if mask.ndim == 2:
            mask = self._cut(mask, what)
        if mask.shape not in ((B, T), (T,)):
            raise ValueError(f"{what} must have shape {(B, T)} or {(T,)}, not {tuple(mask.shape)}.")
        mask = mask.to(old.device, torch.bool)[..., None]
        return mask.unsqueeze(-3) if old.ndim == 4 else mask

    def _cut(self, values: torch.Tensor, what: str) -> torch.Tensor:
        """Values of all n boards, cut to the boards of this pass."""
        if self.n not in (None, len(values)):
            raise ValueError(f"{what} must be for {self.n} boards, not {len(values)}.")
        return values[self.part]


@contextlib.contextmanager
def hooked(network: nn.Module, hooks: dict[str, Callable]) -> Iterator[None]:
    """Forward hooks on named sites of the network inside the `with`; only these go away afterwards, also
    after an exception. A warning if one has been removed before, ValueError for a network compiled by
    torch.compile."""
    # torch.compile(network) wraps it, network.compile() changes its call
    if hasattr(network, "_orig_mod") or network._compiled_call_impl is not None:
        raise ValueError("compiled code ignores hooks: record or edit a network that torch.compile has not "
                         "compiled, such as the one it was given, compiled._orig_mod.")
    handles = {}
    try:
        for name, hook in hooks.items():
            handles[name] = network.sites[name].register_forward_hook(hook)
        yield
    finally:
        kept = {name for name in handles if handles[name].id in network.sites[name]._forward_hooks}
        for handle in handles.values():
            handle.remove()
        if lost := ", ".join(sorted(handles.keys() - kept)):
            caution(f"hooks on {lost} were removed inside the `with`, perhaps by another library: since then "
                    "nothing was recorded or edited there. Give that library copy.deepcopy(network).", 4)


@contextlib.contextmanager
def recording(
    network: nn.Module, names: str | Sequence[str] | None = None, detach: bool = True
) -> Iterator[dict[str, torch.Tensor]]:
    """Named activations of the network's forward passes inside the `with`, as {name: tensor, batch first}.

    names: exact names or patterns ('b0_*'), None: all; ValueError for one that matches nothing, or for a
    network that torch.compile has compiled. Several passes are joined along the batch. Only this recorder's
    own hooks are removed afterwards, also after an exception.

    detach: True detaches tensors from the graph and changes no bit of any result. False keeps the tensors
    that are used downstream, so that gradients can be taken with respect to them; not after several passes,
    as joining makes copies.
    """
    recorder, wanted = Recorder(detach), set(matching("*" if names is None else names, network.sites))
    with hooked(network, {name: recorder for name in network.sites if name in wanted}):
        yield recorder.acts


def matching(names: str | Sequence[str], known: Iterable[str]) -> list[str]:
    """The known activations that names or patterns ('b0_*') match; ValueError for one that matches none."""
    found = []
    for pattern in [names] if isinstance(names, str) else names:
        here = fnmatch.filter(known, pattern)
        if not here:
            raise ValueError(f"names: {pattern!r} matches no activation; there are "
                             f"{', '.join(sorted(known))}.")
        found += here
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """The replacement of one activation, (B, T, D) or, for attention weights, (B, H, T, keys).

    value: an array or tensor of the activation's shape, with or without its batch axis, or a function that
    takes the activation and returns such a tensor. mask: (T,) or (B, T), or shaped as boards (h, w) or
    (B, h, w), true at the tokens to change, of attention weights the queries; None: all of them. head: the
    only head to change, of activations named …_a, …_v and …_attn_v; value is then that head's alone,
    (B, T, keys) or (B, T, d).
    """

    value: torch.Tensor | np.ndarray | Sequence | Callable[[torch.Tensor], torch.Tensor]
    mask: torch.Tensor | np.ndarray | Sequence | None = None
    head: int | None = None


def as_tensor(values, what: str, wanted: str = "an array, a tensor or a function") -> torch.Tensor:
    """An array or tensor as a tensor; ValueError, worded by `what` and `wanted`, for anything else."""
    if isinstance(values, torch.Tensor):
        return values
    try:
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be {wanted}, not {type(values).__name__}.") from None


def edits_of(given, name: str) -> list[Edit]:
    """The edits given for one activation, a list of Edits or what `as_edit` takes, as Edits of tensors."""
    several = isinstance(given, list) and any(isinstance(one, Edit) for one in given)
    return [as_edit(one, name) for one in (given if several else [given])]


def as_edit(given, name: str) -> Edit:
    """An Edit, a pair (value, mask) or a value, as an Edit of tensors; ValueError if it is none of them."""
    if isinstance(given, tuple):
        if len(given) != 2:
            count = len(given)
            raise ValueError(f"edit {name} must be an edit or a pair (edit, mask), not a tuple of {count}.")
        given = Edit(*given)
    if not isinstance(given, Edit):
        given = Edit(given)
    value, mask = given.value, given.mask
    if not callable(value):
        value = as_tensor(value, f"edit {name}")
    if mask is not None:
        mask = as_tensor(mask, f"the mask of edit {name}", "an array or a tensor")
    return Edit(value, mask, given.head)


def edits_by_name(edits: dict, sites: dict[str, Site]) -> dict[str, list[Edit]]:
    """{name: its Edits} of edits keyed by name or nested by parts of names. ValueError for an activation that
    is unknown, given twice or has no such head; TypeError unless edits are a dict."""
    if not isinstance(edits, dict):
        raise TypeError(f"edits must be a dict {{name: edit}}, not {type(edits).__name__}.")
    by_name: dict[str, list[Edit]] = {}

    def visit(level: dict, prefix: str) -> None:
        for key, given in level.items():
            name = f"{prefix}{key}"
            nested = isinstance(given, dict)
            known = any(site.startswith(f"{name}_") for site in sites) if nested else name in sites
            if not known:
                near = difflib.get_close_matches(name, sites, n=5, cutoff=0)
                raise ValueError(f"edits: no activation {name!r}; similar ones are {', '.join(near)}.")
            if nested:
                visit(given, f"{name}_")
            elif name in by_name:
                raise ValueError(f"edits: the activation {name!r} must be given once, not twice.")
            elif given is not None:
                by_name[name] = edits_of(given, name)

    visit(edits, "")
    for name, several in by_name.items():
        for edit in several:
            check_head(edit.head, sites[name])
    return by_name


def check_head(head: int | None, site: Site) -> None:
    """TypeError unless head is None or a whole number, ValueError unless it is one of the site's heads."""
    if head is None:
        return
    if not site.n_head:
        raise ValueError(f"head of edit {site.name} must be None, as it has none, not {head!r}.")
    last = site.n_head - 1
    check_number(f"head of edit {site.name}", head, f"a whole number from 0 to {last}", 0, last)


@contextlib.contextmanager
def editing(
    network: nn.Module, edits: dict | None, *, part: slice = slice(None), n: int | None = None
) -> Iterator[None]:
    """Replaces named activations in the forward passes inside the `with`, for all that is downstream.

    edits: {name: edit}, or nested by the parts of names, {'b1': {'z': ..., 'attn_update': ...}}; None, also
    as the edit of a name, is no edit. An edit is an array, a tensor, a function of the activation, a pair
    (one of these, mask of tokens), an `Edit` for these and a single head, or a list of `Edit`s applied one
    after the other. Of nested `with`s the inner edit comes after the outer. Gradients flow into edits and
    through them; see `Edit` for the shapes. part, n: if the passes are of a part of n boards, values and
    masks with a batch axis are of all n.

    ValueError for an unknown activation (it names similar ones), head or shape, the last during the pass, or
    for a network that torch.compile has compiled; TypeError unless edits are a dict. Only the hooks of this
    `with` are removed afterwards, also after an exception.
    """
    by_name = edits_by_name({} if edits is None else edits, network.sites)
    with hooked(network, {name: Editor(several, part, n) for name, several in by_name.items()}):
        yield
