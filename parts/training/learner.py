"""What training changes: a network's weights, its optimiser, the moving average of the weights; a step, and
their state."""
from __future__ import annotations

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from parts.training.optimizers import make_optimizer
from utils import rank_and_world


class Learner:
    """A network that learns, alone or as one of several processes that each take their share of every batch.

    network: what is trained. shown: what tests, checkpoints and probing see, the moving average of its
    weights where weight_average > 0, the share that an epoch leaves of it. optim: the optimiser, of the kind
    'adamw' or 'muon'. mixed: whether products of a training pass are computed in bfloat16; weights, losses,
    words and the optimiser's states are in float32.
    """

    def __init__(
        self, network: torch.nn.Module, optimizer: str, learning_rate: float, weight_average: float = 0,
        mixed: bool = False,
    ):
        self.network = self.shown = network
        self.mixed = mixed
        self.optim = make_optimizer(network, learning_rate, kind=optimizer)
        self.rank, self.world = rank_and_world()
        self._average: AveragedModel | None = None
        if weight_average:
            blend = get_ema_multi_avg_fn(weight_average)
            self._average = AveragedModel(network, multi_avg_fn=blend, use_buffers=True)
            self.shown = self._average.module
        self._look()
        self._parallel: DistributedDataParallel | None = None

    def forward(self, tokens: torch.Tensor):
        """The network on its share of a training batch; gradients are then averaged over processes."""
        if self.world > 1 and self._parallel is None:
            self._parallel = DistributedDataParallel(self.network)
        network = self._parallel or self.network
        if not self.mixed:
            return network(tokens)
        with torch.autocast(tokens.device.type, torch.bfloat16):
            found = network(tokens)
        if isinstance(found, torch.Tensor):
            return found.float()
        return tuple(out.float() if out.dtype == torch.bfloat16 else out for out in found)

    def start_epoch(self, learning_rate: float, *dropout: int) -> None:
        """Training mode; the learning rate, and the stream of dropout, named by whole numbers, of an
        epoch."""
        self.network.train()
        self.network.noise.reseed(*dropout, *[self.rank] * (self.rank > 0))
        for group in self.optim.param_groups:
            group["lr"] = learning_rate

    def _look(self) -> None:
        """Eval mode: LEA's words would move with every pass in training mode."""
        self.network.eval()
        self.shown.eval()

    def share_of(self, *batch: torch.Tensor) -> tuple[float, tuple[torch.Tensor, ...]]:
        """Which share of a batch is this process's, and that part of its tensors (B, ...)."""
        parts = tuple(x[self.rank :: self.world] for x in batch)
        return len(parts[0]) / len(batch[0]), parts

    def step(self, loss: torch.Tensor, share: float) -> None:
        """One step of the optimiser on the loss of this process's share of a batch."""
        self.optim.zero_grad(set_to_none=True)
        (loss if self.world == 1 else loss * (share * self.world)).backward()
        self.optim.step()

    def end_training(self) -> None:
        """Lets go of what averages gradients while the group of processes is still there: what holds a group
        last waits, with Python's lock, for threads of the group, which may wait for that lock."""
        self._parallel = None

    def end_epoch(self) -> None:
        """Moves the average of the weights; what is looked at between epochs is in eval mode."""
        self._look()
        if self._average is not None:
            self._average.update_parameters(self.network)

    def is_finite(self) -> bool:
        """Whether all weights and buffers are finite; waits for the device."""
        values = [value for value in self.network.state_dict().values() if value.is_floating_point()]
        return bool(torch.nn.utils.get_total_norm(values).isfinite())

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Takes a state dict; an exception of any kind, with the network as it was, where it does not fit."""
        before = {name: value.clone() for name, value in self.shown.state_dict().items()}
        try:
            self.shown.load_state_dict(weights)
        except Exception:
            self.shown.load_state_dict(before)
            raise
        if self._average is not None:
            self.network.load_state_dict(self.shown.state_dict())

    def state(self) -> dict:
        """A copy of all that training changes here."""
        state = {"transformer": copied(dict(self.network.state_dict()))}
        if self._average is not None:
            state["average"] = copied(dict(self._average.state_dict()))
        return state | {"optim": copied(self.optim.state_dict())}

    def restore(self, state: dict) -> None:
        """Goes back to a state; the optimiser's settings stay, they are parameters of the run."""
        self._look()
        self.network.load_state_dict(state["transformer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        groups = self.optim.state_dict()["param_groups"]
        self.optim.load_state_dict({"state": state["optim"]["state"], "param_groups": groups})

    def has_own_moments(self) -> bool:
        """Whether what the optimiser keeps of each weight has that weight's shape."""
        for weight, moments in self.optim.state.items():
            shapes = {name: tuple(value.shape) for name, value in moments.items()}
            adamw = {"step": (), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}
            if shapes not in (adamw, {"momentum_buffer": weight.shape}):
                return False
        return True


def plain_names(weights):
    """A state dict without the prefixes that torch.compile and DistributedDataParallel put before names, and
    out of {'model': ...} or {'state_dict': ...}; anything else as it is."""
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
