"""Hooks on named places: what they leave to the bit, whose hooks are obeyed, gradients, compiled networks, devices."""
import contextlib
import copy

import numpy as np
import pytest
import torch
from edit_cases import (
    HEADED,
    drawn,
    kinds,
    make,
    places,
    plain_acts,
    shape_at,
    shape_of_head,
    where,
    with_head,
)
from plain_networks import small_factor, tokens

from module_transformer_factor import GPTFactor
from module_transformer_lea import LEAFactor
from parts.probing.sites import Edit, editing, named_sites, recording

# nothing changes that should not


@pytest.mark.parametrize("n_unmasked", [None, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_recording_leaves_logits_to_the_bit(n_unmasked, dtype):
    network = small_factor(n_unmasked=n_unmasked).to(dtype)
    idx = tokens(network)
    with recording(network) as acts:
        logits = network(idx)
    assert torch.equal(logits, network(idx))
    assert torch.equal(acts["logit"], logits)


def fused(**more):
    """A network so large that attention is fused, and boards for it."""
    network = GPTFactor(21, 64, n_head=2, seed=0, **more)
    return network, torch.randint(21, (2, 64), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_place_patched_with_itself_changes_nothing(large, dtype):
    network, idx = fused() if large else make("GPTFactor")
    network.to(dtype)
    logits = network(idx)
    with recording(network) as acts:
        network(idx)
    T = idx.shape[1]
    for place, act in acts.items():
        for edit in (act, act.numpy(), lambda x: x, (act, np.ones(T)), (act, np.zeros(T))):
            assert torch.equal(network(idx, activations={place: edit}), logits), place
        if network.sites[place].n_head:
            d = act.shape[-1] // 2
            part = act[:, 1] if act.ndim == 4 else act[..., d:]
            assert torch.equal(network(idx, activations={place: Edit(part, head=1)}), logits), place
    assert torch.equal(network(idx, activations=acts), logits)


@torch.no_grad()
def test_all_places_patched_give_the_donor_to_the_bit():
    network, idx = fused()
    donor = idx.flip(0).roll(1, 1)
    wanted = network(donor)
    with recording(network, "b*_*") as acts:
        network(donor)
    assert torch.equal(network(idx, activations=acts), wanted)
    assert not torch.equal(network(idx), wanted)


def test_a_recorder_that_detaches_leaves_the_fused_result_and_its_gradient():
    network, idx = fused()
    logits = network(idx)
    logits.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    with recording(network) as acts:
        again = network(idx)
    again.square().sum().backward()
    assert torch.equal(again, logits)
    assert all(torch.equal(p.grad, gradients[name]) for name, p in network.named_parameters())
    assert not any(act.requires_grad for act in acts.values())


def test_an_edit_is_a_tensor_of_its_own():
    """What a later hook writes into an edited activation does not reach the caller's tensor."""
    network, idx = make("GPTFactor")
    new = torch.ones(3, 6, 8, dtype=torch.float64)

    def clear(site, args, out):
        out.zero_()

    handle = network.sites["b0_z"].register_forward_hook(clear)
    for edit in (new, new[0], lambda x: new):
        with editing(network, {"b0_z": edit}), recording(network, "b0_z") as acts, torch.no_grad():
            network(idx)
        assert not acts["b0_z"].any()
    handle.remove()
    assert (new == 1).all()


# hooks of one's own


def head_off(site, args, out):
    return torch.cat([torch.zeros_like(out[:, :1]), out[:, 1:]], 1)


def head_off_(site, args, out):
    out[:, :1] = 0


@pytest.mark.parametrize("hook", [head_off, head_off_])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_hook_that_changes_attention_weights_is_obeyed(hook, mode):
    network, idx = make("GPTFactor")
    handle = network.sites["b1_a"].register_forward_hook(hook)
    with mode():
        logits = network(idx)
    handle.remove()
    wanted = plain_acts("GPTFactor", network, idx, {"b1_a": lambda a: with_head(a, 0, torch.zeros_like)})["logit"]
    assert (wanted - network(idx)).abs().max() > 1e-3
    torch.testing.assert_close(logits.detach().clone(), wanted.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_hook_that_only_looks_leaves_the_fused_result(mode, large):
    network, idx = fused() if large else make("GPTFactor")
    network.float()
    seen = []
    with mode():
        before = network(idx)
        handle = network.sites["b0_a"].register_forward_hook(lambda site, args, out: seen.append(out.sum(-1)))
        after = network(idx)
    handle.remove()
    assert torch.equal(before, after)
    torch.testing.assert_close(seen[0], torch.ones(seen[0].shape))


@pytest.mark.parametrize("place", ["b0_v", "b1_attn_v", "b0_z", "z_out"])
@torch.no_grad()
def test_hooks_elsewhere_are_obeyed_too(place):
    network, idx = make("GPTFactor")
    handle = network.sites[place].register_forward_hook(lambda site, args, out: -out)
    logits = network(idx)
    handle.remove()
    wanted = plain_acts("GPTFactor", network, idx, {place: torch.neg})["logit"]
    torch.testing.assert_close(logits, wanted, rtol=1e-9, atol=1e-10)


# gradients


def test_an_edited_network_still_has_gradients():
    network, idx = make("GPTFactor")
    new = torch.ones(3, 6, 8, dtype=torch.float64, requires_grad=True)
    network(idx, activations={"b1": {"z_attn_mlp": new}}).square().sum().backward()
    assert new.grad.abs().sum() > 0
    assert network.tok_emb.weight.grad is None or network.tok_emb.weight.grad.abs().sum() == 0


def loss_of(acts):
    """A loss of all that a network says, with weights of its own for every number."""
    logits = acts["logit"]
    return (logits * torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype).view(logits.shape)).sum()


def check_gradients(kind, network, idx, edits, functions, learnt):
    """Of what was learnt in an edit and of all parameters, against the plain network's."""
    with editing(network, edits), recording(network, "logit", detach=False) as acts:
        network(idx)
    found = []
    for made in (acts, plain_acts(kind, network, idx, functions)):
        found.append(torch.autograd.grad(loss_of(made), [learnt, *network.parameters()], materialize_grads=True,
                                         allow_unused=True))
    assert found[0][0].any()
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@places
def test_gradients_flow_into_edits(kind, place):
    """Of a whole activation, at some tokens, and through a function with a learnt number."""
    network, idx = make(kind)
    shape = shape_at(kind, place)
    new, scale = drawn(shape, 1).requires_grad_(), torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 0, 0], [0] * 6], dtype=bool)[:, : shape[-2]]
    cases = {
        "masked": ((new, mask), lambda x: where(mask, new, x), new),
        "function": (lambda x: scale * x, lambda x: scale * x, scale),
        "tensor": (new, lambda x: new, new),
    }
    for what in cases if kind == "GPTFactor" else ("masked", "function"):
        edit, function, learnt = cases[what]
        check_gradients(kind, network, idx, {place: edit}, {place: function}, learnt)


@pytest.mark.parametrize(("kind", "place"), HEADED)
def test_gradients_flow_into_edits_of_one_head(kind, place):
    network, idx = make(kind)
    new = drawn(shape_of_head(shape_at(kind, place)), 1).requires_grad_()
    function = {place: lambda x: with_head(x, 1, lambda part: new)}
    check_gradients(kind, network, idx, {place: Edit(new, head=1)}, function, new)


def one_pass(kind, network, idx):
    return network(idx) if kind == "GPTFactor" else network.predict_from_board(idx)


@kinds
def test_gradients_flow_into_what_is_recorded(kind):
    """Against a small step along the gradient, made by an edit."""
    network, idx = make(kind)
    with recording(network, "[!s]*", detach=False) as acts:
        loss = one_pass(kind, network, idx).sin().sum()
    gradients = torch.autograd.grad(loss, list(acts.values()))
    eps = 1e-6
    for (name, act), gradient in zip(acts.items(), gradients, strict=True):
        direction = torch.randn(act.shape, dtype=act.dtype, generator=torch.Generator().manual_seed(2))
        losses = []
        for step in (eps, -eps):
            with torch.no_grad(), editing(network, {name: act.detach() + step * direction}):
                losses.append(one_pass(kind, network, idx).sin().sum())
        numeric = (losses[0] - losses[1]) / (2 * eps)
        torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def explicit_gradient(network, idx):
    """Gradient of the attention weights of block 0, by a network that is never fused."""
    acts = plain_acts("GPTFactor", network, idx)
    return torch.autograd.grad(acts["logit"].square().sum(), acts["b0_a"])[0]


def test_attention_weights_have_gradients_where_attention_would_be_fused():
    network, idx = fused()
    wanted = explicit_gradient(network, idx)
    assert wanted.abs().sum() > 0
    found, site = {}, network.sites["b0_a"]
    with recording(network, "b0_a", detach=False) as acts:
        loss = network(idx).square().sum()
    found["recorded"] = torch.autograd.grad(loss, acts["b0_a"])[0]

    def keep(site, args, out):
        out.retain_grad()
        found["hook"] = out

    with contextlib.ExitStack() as stack:
        stack.callback(site.register_forward_hook(keep).remove)
        network(idx).square().sum().backward()
    found["hook"] = found["hook"].grad
    with contextlib.ExitStack() as stack:
        hook = site.register_full_backward_hook(lambda site, into, out: found.__setitem__("backward hook", out[0]))
        stack.callback(hook.remove)
        network(idx).square().sum().backward()
    weights = acts["b0_a"].detach().requires_grad_()
    network(idx, activations={"b0_a": weights}).square().sum().backward()
    found["edit"] = weights.grad
    for p in network.parameters():
        p.requires_grad_(False)
    weights.grad = None
    network(idx, activations={"b0_a": weights}).square().sum().backward()
    found["edit of a frozen network"] = weights.grad
    assert len(found) == 5
    for what, gradient in found.items():
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6, msg=lambda m, what=what: f"{what}: {m}")
    assert not site.watched


# torch.compile, devices


def compilable():
    return fused(n_layer=1)[0], LEAFactor(21, 64, n_layer=1, seed=0).eval()


@torch.no_grad()
def test_networks_are_traced_whole_and_compute_the_same():
    """Without hooks, in one graph."""
    for network in compilable():
        idx = fused()[1]
        traced = torch.compile(network, backend="eager", fullgraph=True)
        wanted, found = network(idx), traced(idx)
        if isinstance(wanted, torch.Tensor):
            wanted, found = [wanted], [found]
        assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_hooks_on_compiled_networks_are_refused():
    for network in compilable():
        traced, name = torch.compile(network, backend="eager"), "z_out"
        compiled_in_place = copy.deepcopy(network)
        compiled_in_place.compile(backend="eager")
        for one in (traced, compiled_in_place):
            for hooks in (recording(one), editing(one, {name: torch.zeros_like})):
                with pytest.raises(ValueError, match="compiled code ignores hooks: record or edit a network that"), hooks:
                    pass
        with recording(traced._orig_mod, name) as acts, torch.no_grad():
            network(fused()[1])
        assert set(acts) == {name}
        assert not network.sites[name].watched


@torch.no_grad()
def test_activations_given_to_a_compiled_network_are_obeyed():
    network, idx = fused(n_layer=1)
    edits = {"b0_z": torch.zeros(64, 64)}
    traced = torch.compile(network, backend="eager")
    assert torch.equal(traced(idx, activations=edits), network(idx, activations=edits))
    assert torch.equal(traced(idx), network(idx))


@kinds
def test_edits_come_to_the_network_s_device(kind):
    network, idx = make(kind)
    network, idx = network.to("meta"), idx.to("meta")
    with recording(network) as acts:
        one_pass(kind, network, idx)
    edits = {}
    for name, act in acts.items():
        edits[name] = [Edit(torch.zeros(act.shape), np.ones(act.shape[-2]))]
        if network.sites[name].n_head:
            edits[name].append(Edit(np.zeros(shape_of_head(act.shape)), head=1))
    with editing(network, edits):
        assert one_pass(kind, network, idx).device.type == "meta"


def test_named_sites_are_those_of_the_modules():
    network, _ = make("LEA")
    assert network.sites == named_sites(network)
    assert all(site.name == name for name, site in network.sites.items())


@pytest.mark.parametrize("what", [lambda network: recording(network, "b0_*"),
                                  lambda network: editing(network, {"b0_v": torch.zeros_like})])  # fmt: skip
def test_hooks_that_another_library_removes_are_missed(what):
    network = small_factor()
    with pytest.warns(UserWarning, match=r"hooks on b0_.* were removed inside the `with`.*copy.deepcopy"), what(network):
        network.sites["b0_v"]._forward_hooks.clear()  # as pyvene 0.1.8 does at every call
    with what(network):
        pass
