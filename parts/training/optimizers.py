"""The networks' optimisers: AdamW as in the paper (arXiv 2312.05361), or Muon on the blocks' matrices."""
from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import nn


def make_optimizer(
    network: nn.Module, learning_rate: float, weight_decay: float = 0.01, kind: str = "adamw",
    betas: Sequence[float] = (0.9, 0.95),
) -> torch.optim.AdamW | Optimizers:
    """The optimiser of a network, of the kind 'adamw' or 'muon'.

    adamw: AdamW, fused, with those betas; weight decay on the weights of Linear layers only. muon: Muon on
    `network.block_matrices()`, its steps as long as AdamW's ("match_rms_adamw"), with the same weight decay;
    AdamW on all other weights.
    """
    matrices = network.block_matrices() if kind == "muon" else []
    taken = {id(p) for p in matrices}
    linear = {id(module.weight) for module in network.modules() if isinstance(module, nn.Linear)}
    rest = [p for p in network.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if id(p) in linear], "weight_decay": weight_decay},
        {"params": [p for p in rest if id(p) not in linear], "weight_decay": 0.0},
    ]
    adamw = AdamW(groups, lr=learning_rate, betas=tuple(betas), fused=True)
    return Optimizers(adamw, Muon(matrices, learning_rate, weight_decay)) if kind == "muon" else adamw


class Uncompiled:
    """An optimiser of torch without decorators that matter only to torch.compile: they import torch's
    compiler, a second and 80 MB (findings/torch_optim_imports_compiler.sh)."""

    add_param_group, load_state_dict, state_dict, zero_grad = map(inspect.unwrap, (
        torch.optim.Optimizer.add_param_group, torch.optim.Optimizer.load_state_dict,
        torch.optim.Optimizer.state_dict, torch.optim.Optimizer.zero_grad))


class AdamW(Uncompiled, torch.optim.AdamW):
    """torch.optim.AdamW, see `Uncompiled`."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Muon(Uncompiled, torch.optim.Muon):
    """torch.optim.Muon with Nesterov's momentum and steps as long as AdamW's. All matrices of one shape step
    together: one at a time, a small network's matrices leave the processor waiting (docs/speed.md)."""

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self) -> None:
        """One step of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for (rows, columns), matrices in by_shape.items():
                moved = torch.stack([self._moved(matrix, group["momentum"]) for matrix in matrices])
                steps = orthogonal(moved, group["ns_coefficients"], group["ns_steps"], group["eps"])
                length = group["lr"] * 0.2 * max(rows, columns) ** 0.5
                for matrix, step in zip(matrices, steps, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=length)

    def _moved(self, matrix: nn.Parameter, momentum: float) -> torch.Tensor:
        """The gradient of a matrix with Nesterov's momentum."""
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(state["momentum_buffer"], momentum)


def orthogonal(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Matrices (N, rows, columns) -> matrices with the same singular vectors and singular values near 1, by
    steps of Newton-Schulz (https://kellerjordan.github.io/posts/muon). eps: least norm."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # the smaller Gram matrix
    # bfloat16 as its author does, but not on CPUs, many of which multiply it ten times as slowly
    x = x if x.device.type == "cpu" else x.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Optimizers(Uncompiled, torch.optim.Optimizer):
    """Several optimisers, each with parameters of its own, used as one: they share its state."""

    def __init__(self, *parts: torch.optim.Optimizer):
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state, part.param_groups = self.state, [next(groups) for _ in part.param_groups]

    def __getstate__(self):
        return super().__getstate__() | {"parts": self.parts}  # torch's has the groups and the state alone

    def __setstate__(self, state):
        super().__setstate__(state)
        self._share()

    def step(self) -> None:
        """One step of every part."""
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict) -> None:
        """Loads what `state_dict` returned."""
        super().load_state_dict(state_dict)  # which makes new groups and a new state
        self._share()
