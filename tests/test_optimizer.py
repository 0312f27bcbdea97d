"""The optimisers against arithmetic written here: AdamW and Muon, what each takes, what a state holds."""
import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from plain_networks import boards, small_factor, small_lea, tokens

from module_transformer_factor import GPTFactor
from module_transformer_lea import LEAFactor
from parts.training import optimizers as module_optimizers
from parts.training.optimizers import Optimizers, make_optimizer, orthogonal
from tests.trainers import make
from utils import torch_rng

RATE, DECAY = 0.02, 0.01
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315), 5, 1e-7  # coefficients, steps, least norm
MAKERS = {
    "GPTFactor": small_factor, "LEAFactor": small_lea, "LEA": lambda: small_lea("vanilla", vq_type="vanilla"),
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", MAKERS)


def loss_of(network):
    """A loss that reaches every parameter."""
    if isinstance(network, GPTFactor):
        idx = tokens(network)
        return F.cross_entropy(network(idx).flatten(0, 1), idx.flatten())
    idx = boards(network)
    board, speech, vq_loss, _ = network(idx)
    return vq_loss + sum(F.cross_entropy(logits.flatten(0, 1), idx.flatten()) for logits in (board, speech))


def step(network, optim):
    optim.zero_grad()
    loss_of(network).backward()
    optim.step()


def draw_gradients(parameters, seed):
    """Random ones; of matrices without singular values near 0."""
    for i, p in enumerate(parameters):
        rng = torch_rng(seed, i)
        p.grad = torch.randn(p.shape, generator=rng).to(p)
        if p.ndim == 2:
            p.grad = torch.nn.init.orthogonal_(torch.empty(p.shape), generator=rng).to(p) + 0.1 * p.grad


def is_block_matrix(name):
    """Whether a parameter is a weight of attention or of an MLP, by its name in the state dict."""
    parts = ("key", "query", "value", "proj", "mlp.0", "mlp.2")
    return "blocks." in name and any(name.endswith(f".{part}.weight") for part in parts)


def is_head(name):
    return name in ("head.weight", "ps_head.weight")


def orthogonalised(update):
    """Steps of Newton-Schulz, with the coefficients of Muon's authors (https://kellerjordan.github.io/posts/muon)."""
    (a, b, c), steps, least = NEWTON_SCHULZ
    tall = update.shape[0] > update.shape[1]
    X = update.T if tall else update
    X = X / X.norm().clamp(min=least)
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X.T if tall else X


class Plain:
    """Muon (Nesterov momentum 0.95, steps 0.2 sqrt(longer side) long) or AdamW of one parameter."""

    def __init__(self, name, p):
        self.muon, self.decayed = is_block_matrix(name), is_block_matrix(name) or is_head(name)
        self.value, self.t = p.detach().clone(), 0
        self.m, self.v = torch.zeros_like(p), torch.zeros_like(p)

    def step(self, grad, rate):
        self.t += 1
        self.value *= 1 - rate * (DECAY if self.decayed else 0)
        if self.muon:
            self.m += 0.05 * (grad - self.m)
            nesterov = 0.05 * grad + 0.95 * self.m
            scale = 0.2 * math.sqrt(max(grad.shape))
            self.value -= rate * scale * orthogonalised(nesterov)
        else:
            self.m += 0.1 * (grad - self.m)
            self.v += 0.05 * (grad**2 - self.v)
            self.value -= rate * (self.m / (1 - 0.9**self.t)) / ((self.v / (1 - 0.95**self.t)).sqrt() + 1e-8)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_steps_are_those_of_the_arithmetic(kind, dtype):
    """The second at another learning rate, set through param_groups. Gradients without singular values near 0, as five
    steps of Newton-Schulz make an error of one up to 3.4^5 times as large."""
    network = MAKERS[kind]().to(dtype)
    optim = make_optimizer(network, RATE, DECAY, "muon")
    plain = {name: Plain(name, p) for name, p in network.named_parameters()}
    assert sum(one.muon for one in plain.values()) >= 12
    for rate in (RATE, 0.3 * RATE):
        for group in optim.param_groups:
            group["lr"] = rate
        draw_gradients(network.parameters(), round(1000 * rate))
        optim.step()
        for name, p in network.named_parameters():
            one = plain[name]
            one.step(p.grad, rate)
            atol = (1e-5 if one.muon else 1e-6) * rate if dtype == torch.float32 else 1e-12
            rtol = 1e-5 if dtype == torch.float32 else 1e-9
            torch.testing.assert_close(p.detach(), one.value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
            one.value.copy_(p.detach())


def test_flags_reach_the_optimiser():
    """Both parts of Muon decay weights; betas are AdamW's. Defaults are those of earlier runs."""
    for kind in ("adamw", "muon"):
        for more in ({}, dict(weight_decay=0.3, betas=(0.8, 0.9))):
            trainer = make(optimizer=kind, **more)
            groups = trainer.optim.param_groups
            assert {group["weight_decay"] for group in groups} == {0.0, more.get("weight_decay", 0.01)}
            assert {group["betas"] for group in groups if "betas" in group} == {more.get("betas", (0.9, 0.95))}
    for wrong in ((1, 0.5), (0.5,), (-0.1, 0.5)):
        with pytest.raises(ValueError, match="^betas "):
            make(betas=wrong)


@kinds
def test_matrices_stepped_together_go_where_torch_takes_each(kind, monkeypatch):
    """Three steps, in bfloat16 as torch's; in the second some have no gradient. State dicts are torch's own."""

    def rounded(matrices, *settings):
        return orthogonal(matrices.bfloat16(), *settings)

    monkeypatch.setattr(module_optimizers, "orthogonal", rounded)
    together, alone = (MAKERS[kind]() for _ in range(2))
    optims = [make_optimizer(network, RATE, DECAY, "muon").parts[1] for network in (together, alone)]
    settings = dict(lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    optims[1] = torch.optim.Muon(optims[1].param_groups[0]["params"], **settings)
    pairs = list(zip(*(optim.param_groups[0]["params"] for optim in optims), strict=True))
    assert len({p.shape for p, _ in pairs}) < len(pairs)
    for turn in range(3):
        draw_gradients([p for p, _ in pairs], turn)
        for i, (p, q) in enumerate(pairs):
            if (turn, i % 3) == (1, 0):
                p.grad = None
            q.grad = p.grad
        for optim in optims:
            optim.step()
        for p, q in pairs:
            torch.testing.assert_close(p, q, rtol=0, atol=RATE * 2**-7 * (turn + 1))
    ours, theirs = (optim.state_dict() for optim in optims)
    assert ours["param_groups"] == theirs["param_groups"]
    for i, kept in theirs["state"].items():
        assert set(kept) == set(ours["state"][i])
        assert torch.equal(kept["momentum_buffer"], ours["state"][i]["momentum_buffer"])


@kinds
def test_which_weights_go_where(kind):
    network = MAKERS[kind]()
    names = {id(p): name for name, p in network.named_parameters()}
    optim = make_optimizer(network, RATE, 0.03, "muon")
    groups = [({names[id(p)] for p in group["params"]}, group["weight_decay"]) for group in optim.param_groups]
    decayed, plain, muon = groups
    assert muon == ({name for name in names.values() if is_block_matrix(name)}, 0.03)
    assert decayed == ({name for name in names.values() if is_head(name)}, 0.03)
    assert plain == (set(names.values()) - muon[0] - decayed[0], 0)
    assert sum(len(group["params"]) for group in optim.param_groups) == len(names)
    assert isinstance(optim.parts[0], torch.optim.AdamW)
    assert isinstance(optim.parts[1], torch.optim.Muon)
    adamw = make_optimizer(network, RATE, 0.03)
    assert isinstance(adamw, torch.optim.AdamW)
    assert [{names[id(p)] for p in group["params"]} for group in adamw.param_groups] == [decayed[0] | muon[0], plain[0]]


def test_an_orthogonalised_matrix_has_singular_values_near_one():
    """The yardstick itself: Newton-Schulz brings every singular value to 0.7 to 1.2."""
    for shape in ((8, 8), (32, 11), (8, 32)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalised(matrix))
        assert values.min() > 0.6
        assert values.max() < 1.3


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_goes_through_a_file_to_the_bit(kind, dtype):
    straight, resumed = MAKERS[kind]().to(dtype), MAKERS[kind]().to(dtype)
    optim = make_optimizer(straight, RATE, kind="muon")
    for _ in range(2):
        step(straight, optim)
    for group in optim.param_groups:
        group["lr"] = 0.5 * RATE
    network_state, state = saved_and_loaded([straight.state_dict(), optim.state_dict()])
    again = make_optimizer(resumed, RATE, kind="muon")
    resumed.load_state_dict(network_state)
    again.load_state_dict(state)
    assert [group["lr"] for group in again.param_groups] == [0.5 * RATE] * 3
    for _ in range(2):
        step(straight, optim)
        step(resumed, again)
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert set(again.state) == set(resumed.parameters())


def test_a_copy_trains_on_as_the_original():
    network = small_factor()
    optim = make_optimizer(network, RATE, kind="muon")
    step(network, optim)
    twin, again = copy.deepcopy((network, optim))
    for group in again.param_groups:
        assert all(any(p is q for q in twin.parameters()) for p in group["params"])
    step(network, optim)
    assert not all(map(torch.equal, network.parameters(), twin.parameters()))  # the copy is apart
    step(twin, again)
    for (name, a), b in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_state_looks_like_that_of_one_optimiser():
    network = small_factor()
    optim = make_optimizer(network, RATE, kind="muon")
    step(network, optim)
    state = optim.state_dict()
    count = len(list(network.parameters()))
    assert sorted(state["state"]) == list(range(count))
    assert sorted(i for group in state["param_groups"] for i in group["params"]) == list(range(count))
    in_order = [p for group in optim.param_groups for p in group["params"]]
    for i, kept in state["state"].items():
        for name, value in kept.items():
            assert value.shape in (in_order[i].shape, ()), name
            assert torch.equal(value, optim.state[in_order[i]][name])


def test_gradients_are_dropped():
    network = small_factor()
    optim = make_optimizer(network, RATE, kind="muon")
    step(network, optim)
    optim.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in network.parameters())
    optim.zero_grad()
    assert all(p.grad is None for p in network.parameters())


def test_several_optimisers_step_as_each_does_alone():
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    optim = Optimizers(torch.optim.SGD([first], lr=0.5), torch.optim.SGD([second], lr=0.25))
    (first.sum() + second.sum()).backward()
    optim.step()
    assert first.tolist() == [0.5] * 2
    assert second.tolist() == [0.75] * 3


@pytest.mark.parametrize("cls", [GPTFactor, LEAFactor])
def test_muon_steps_a_network_of_shapes_alone(cls):
    """On the meta device every tensor of Muon is made there; torch's fused AdamW refuses that device."""
    network = cls(7, 6, n_embd=8, n_embd_pos=3, seed=0).to("meta")
    optim = make_optimizer(network, RATE, kind="muon")
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    optim.parts[1].step()
    kept = [value for state in optim.parts[1].state.values() for value in state.values()]
    assert kept
    assert {value.device.type for value in kept} == {"meta"}


def test_only_a_cpu_keeps_the_precision_of_matrices():
    for dtype in (torch.float32, torch.float64):
        assert orthogonal(torch.ones(2, 3, 4, dtype=dtype), *NEWTON_SCHULZ).dtype == dtype
        assert orthogonal(torch.ones(2, 3, 4, dtype=dtype, device="meta"), *NEWTON_SCHULZ).dtype == torch.bfloat16
