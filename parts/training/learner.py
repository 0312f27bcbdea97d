"""What training changes, as data: the weights and the optimiser's moments, copied, put back and checked."""
from __future__ import annotations

import torch


def state_of(network: torch.nn.Module, optim: torch.optim.Optimizer) -> dict:
    """A copy of the weights and the optimiser's state."""
    return copied({"transformer": plain_names(dict(network.state_dict())), "optim": optim.state_dict()})


def restore(network: torch.nn.Module, optim: torch.optim.Optimizer, state: dict) -> None:
    """Puts back what `state_of` copied. The optimiser's settings stay: they are parameters of the run."""
    getattr(network, "_orig_mod", network).load_state_dict(state["transformer"])  # torch.compile wraps
    groups = optim.state_dict()["param_groups"]
    # a copy, as torch keeps the very tensors, and later steps would change the state
    optim.load_state_dict({"state": copied(state["optim"]["state"]), "param_groups": groups})


def clip_gradient(network: torch.nn.Module, largest: float) -> torch.Tensor:
    """The norm () of the network's gradient; a longer one than `largest` is scaled down to it, if not 0."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    if largest:
        torch.nn.utils.clip_grads_with_norm_(network.parameters(), largest, norm)
    return norm


def is_finite(network: torch.nn.Module) -> bool:
    """Whether all weights and buffers are finite; waits for the device."""
    values = [value for value in network.state_dict().values() if value.is_floating_point()]
    return bool(torch.nn.utils.get_total_norm(values).isfinite())


def has_own_moments(optim: torch.optim.Optimizer) -> bool:
    """Whether the optimiser's moments of each weight have that weight's shape."""
    for weight, moments in optim.state.items():
        shapes = {name: tuple(value.shape) for name, value in moments.items()}
        adamw = {"step": (), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}
        if shapes not in (adamw, {"momentum_buffer": weight.shape}):
            return False
    return True


def plain_names(weights):
    """A state dict without the prefixes that torch.compile and DistributedDataParallel add, and taken out of
    {'model': ...} or {'state_dict': ...}; anything else unchanged."""
    if not isinstance(weights, dict):
        return weights
    for key in ("model", "state_dict"):
        if set(weights) == {key}:
            return plain_names(weights[key])
    for prefix in ("_orig_mod.", "module."):
        if weights and all(isinstance(name, str) and name.startswith(prefix) for name in weights):
            return plain_names({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def copied(x):
    """A copy of nested dicts and lists of tensors."""
    if isinstance(x, torch.Tensor):
        return x.detach().clone()
    if isinstance(x, dict):
        return {key: copied(value) for key, value in x.items()}
    return [copied(value) for value in x] if isinstance(x, list) else x
