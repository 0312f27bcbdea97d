"""Recording and editing of named activations, against the plain networks and against autograd."""
import contextlib
import copy
import functools

import numpy as np
import pytest
import torch
from plain_networks import Places, boards, plain_factor, plain_lea, small_factor, small_lea, tokens

from module_sites import Edit, cut_edits, editing, named_sites, recording
from module_transformer_factor import GPTFactor
from module_transformer_lea import LEAFactor

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


def push(x):
    return 2 * x + 1


def drawn(shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edit_kinds(shape):
    """{what: (edit, function that does the same to the activation)} for an activation of that shape, batch first."""
    new, mask, mask_b = drawn(shape), drawn(shape[-2]) < 0, drawn((shape[0], shape[-2])) < 0
    return {
        "array": (new.numpy(), lambda x: new), "tensor": (new, lambda x: new), "list": (new.tolist(), lambda x: new),
        "float32": (new.float(), lambda x: new.float().double()),
        "no batch axis": (new[0], lambda x: new[0].expand_as(x)),
        "array, no batch axis": (new[0].numpy(), lambda x: new[0].expand_as(x)),
        "function": (push, push), "function to one board": (lambda x: x[0], lambda x: x[0].expand_as(x)),
        "function in place": (lambda x: x.mul_(2).add_(1), push),
        "masked": ((new, mask), lambda x: where(mask, new, x)),
        "masked by board": ((new.numpy(), mask_b.numpy()), lambda x: where(mask_b, new, x)),
        "masked function": ((push, mask_b), lambda x: where(mask_b, push, x)),
        "masked, no batch axis": (Edit(new[0], mask.numpy()), lambda x: where(mask, new[0], x)),
        "mask of numbers": ((new, mask.long()), lambda x: where(mask, new, x)),
        "nowhere": ((new, torch.zeros_like(mask)), lambda x: x),
        "one after the other": ([Edit(new), Edit(push, mask)], lambda x: where(mask, push, new)),
    }  # fmt: skip


def check_acts(acts, wanted, what=""):
    assert set(acts) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(acts[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, at=name: f"{what} {at}: {m}")


def check(network, idx, edits, wanted, what=""):
    """The pass under edits gives the activations wanted, to a recorder that was there before."""
    with recording(network) as acts, editing(network, edits):
        network(idx)
    check_acts(acts, wanted, what)


@places
@torch.no_grad()
def test_edits_are_naive_replacements(kind, place):
    network, idx = make(kind)
    cases = edit_kinds(shape_at(kind, place))
    for what in cases if kind == "GPTFactor" else ("no batch axis", "masked function"):
        edit, function = cases[what]
        before = repr(edit)
        check(network, idx, {place: edit}, plain_acts(kind, network, idx, {place: function}), what)
        assert repr(edit) == before


@pytest.mark.parametrize(("kind", "place"), HEADED)
@torch.no_grad()
def test_edits_of_one_head_leave_the_others(kind, place):
    network, idx = make(kind)
    cases = edit_kinds(shape_of_head(shape_at(kind, place)))
    some = ("tensor", "array, no batch axis", "masked by board", "masked function", "function in place")
    for what in some if kind == "GPTFactor" else ("array, no batch axis", "masked function"):
        edit, function = cases[what]
        edit = Edit(*edit, head=1) if isinstance(edit, tuple) else Edit(edit, head=1)
        wanted = plain_acts(kind, network, idx, {place: lambda x, f=function: with_head(x, 1, f)})
        check(network, idx, {place: edit}, wanted, what)
    both = [Edit(torch.zeros_like, head=0), Edit(push, head=1)]
    wanted = plain_acts(kind, network, idx, {
        place: lambda x: with_head(with_head(x, 0, torch.zeros_like), 1, push)})
    check(network, idx, {place: both}, wanted, "both")


@torch.no_grad()
def test_activations_of_the_forward_pass_are_the_same_edits():
    network, idx = make("GPTFactor")
    edits = {"b0": {"z": np.ones((6, 8)), "mlp_update": lambda x: -x}, "b1": {"attn_update": torch.zeros(3, 6, 8)},
             "b1_attn_v": Edit(torch.zeros_like, head=1), "z_out": lambda x: x / 2}
    flat = {"b0_z": edits["b0"]["z"], "b0_mlp_update": edits["b0"]["mlp_update"], "b1_attn_v": edits["b1_attn_v"],
            "b1_attn_update": edits["b1"]["attn_update"], "z_out": edits["z_out"]}
    deep = {"b0": edits["b0"], "b1": {"attn": {"update": flat["b1_attn_update"], "v": flat["b1_attn_v"]}},
            "z": {"out": edits["z_out"]}}
    before = repr(edits)
    functions = {"b0_z": torch.ones_like, "b0_mlp_update": torch.neg, "b1_attn_update": torch.zeros_like,
                 "b1_attn_v": lambda x: with_head(x, 1, torch.zeros_like), "z_out": lambda x: x / 2}
    wanted = plain_acts("GPTFactor", network, idx, functions)["logit"]
    for spelling in (edits, flat, deep):
        torch.testing.assert_close(network(idx, activations=spelling), wanted, rtol=1e-9, atol=1e-9)
        check(network, idx, spelling, plain_acts("GPTFactor", network, idx, functions))
    assert repr(edits) == before
    for nothing in ({}, {"b1": {}}, {"b1": {"z": None}, "z_out": None}, None):
        assert torch.equal(network(idx, activations=nothing), network(idx))
        with editing(network, nothing):
            assert torch.equal(network(idx), network(idx, activations={}))


@torch.no_grad()
def test_edits_go_with_given_embeddings_and_verbose(capsys):
    network, idx = make("GPTFactor")
    first, edits = network.tok_emb(idx[:, :2]), {"b1_z": torch.zeros_like}
    wanted = network(idx, activations=edits)
    assert torch.equal(network(idx[:, 2:], embeddings=first, activations=edits, verbose=True), wanted)
    assert capsys.readouterr().out.count("\n") == 2


@torch.no_grad()
def test_a_place_of_in_is_edited_in_both_passes_and_recorded_from_both():
    network, idx = make("LEA")
    with recording(network, ["b1_out", "ss_z_out"]) as acts, editing(network, {"b1_out": torch.zeros_like}):
        board, speech, *_ = network(idx)
    assert (acts["b1_out"].shape, acts["ss_z_out"].shape) == ((6, 6, 8), (3, 4, 8))
    assert not acts["b1_out"].any()
    torch.testing.assert_close(board, speech)
    sentences = torch.zeros(3, 4, dtype=int)
    for call in (lambda: network.predict_from_board(idx), lambda: network.predict_from_speech(sentences)):
        with recording(network, "b1_out") as acts, editing(network, {"b1_out": torch.zeros_like}):
            torch.testing.assert_close(call(), board)
        assert acts["b1_out"].shape == (3, 6, 8)


# order of hooks


@kinds
@torch.no_grad()
def test_a_recorder_sees_edited_activations_whichever_came_first(kind):
    network, idx = make(kind)
    edits = {name: torch.neg for name in network.sites if not name.endswith("_a")}
    wanted = plain_acts(kind, network, idx, edits)
    with editing(network, edits), recording(network) as last:
        with recording(network) as inside:
            network(idx)
    with recording(network) as first, editing(network, edits):
        network(idx)
    for acts in (last, inside, first):
        check_acts(acts, wanted)


@torch.no_grad()
def test_of_nested_edits_the_inner_comes_after_the_outer():
    network, idx = make("GPTFactor")
    wanted = network(idx, activations={"b0_z": lambda x: 3 * (x + 1)})
    with editing(network, {"b0_z": lambda x: x + 1}), editing(network, {"b0_z": lambda x: 3 * x}):
        assert torch.equal(network(idx), wanted)
    with editing(network, {"b0_z": lambda x: x + 1}):
        assert torch.equal(network(idx, activations={"b0_z": lambda x: 3 * x}), wanted)


@torch.no_grad()
def test_a_recorder_sees_what_hooks_that_come_later_make():
    network, idx = make("GPTFactor")
    site = network.sites["b0_z"]

    def write(site, args, out):
        out += 1

    for hook in (lambda site, args, out: out + 1, write):
        with recording(network) as acts:
            handle = site.register_forward_hook(hook)
            network(idx)
        handle.remove()
        check_acts(acts, plain_acts("GPTFactor", network, idx, {"b0_z": lambda x: x + 1}))


@torch.no_grad()
def test_hooks_that_were_there_before_see_edited_activations():
    network, idx = make("GPTFactor")
    seen, new = [], torch.ones(6, 8, dtype=torch.float64)
    handle = network.sites["b1_z"].register_forward_hook(lambda site, args, out: seen.append(out.clone()))
    first = network.sites["b1_z"].register_forward_hook(lambda site, args, out: 2 * out, prepend=True)
    network(idx, activations={"b1_z": new})
    for hook in (handle, first):
        hook.remove()
    assert torch.equal(seen[0], 2 * new.expand(3, 6, 8))


def hook_counts(network):
    return [len(site._forward_hooks) for site in network.sites.values()]


@kinds
def test_hooks_go_away_and_foreign_ones_stay(kind):
    network, idx = make(kind)
    seen = []
    handle = network.sites["z_out"].register_forward_hook(lambda site, args, out: seen.append(1))
    before = hook_counts(network)

    def fails(x):
        raise RuntimeError("in the middle")

    with editing(network, {"z_out": fails}), recording(network):
        assert hook_counts(network) != before
        with pytest.raises(RuntimeError, match="in the middle"):
            network(idx)
    with pytest.raises(RuntimeError, match="in the middle"), editing(network, {"z_out": fails}), recording(network):
        network(idx)
    assert hook_counts(network) == before
    for wrong in ({"z_out": 0, "b9_z": 0}, {"z_out": Edit(0, head=1)}, {"z_out": "zeros"}):
        with pytest.raises(ValueError, match="edit"), editing(network, wrong):
            pass
        assert hook_counts(network) == before
    with pytest.raises(KeyError), editing(network, {"logit": torch.zeros_like}):
        raise KeyError
    assert hook_counts(network) == before
    network(idx)
    assert seen
    handle.remove()
    assert not any(site.watched for site in network.sites.values())


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


def explicit_gradient(network, idx, monkeypatch):
    """Gradient of the attention weights of block 0 where no attention is fused."""
    with monkeypatch.context() as patched:
        patched.setattr("module_transformer_factor.FUSE_FROM", float("inf"))
        with recording(network, "b0_a", detach=False) as acts:
            loss = network(idx).square().sum()
        return torch.autograd.grad(loss, acts["b0_a"])[0]


def test_attention_weights_have_gradients_where_attention_would_be_fused(monkeypatch):
    network, idx = fused()
    wanted = explicit_gradient(network, idx, monkeypatch)
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


# errors


@pytest.mark.parametrize(("edits", "error", "words"), [
    ({"b2": {}}, ValueError, "no place 'b2'; near it are b.*"), ({"z": np.zeros((6, 8))}, ValueError, "'z'"),
    ({"b2_z": 0}, ValueError, "no place 'b2_z'; near it are b._z, .*"), ({"b0_Z": 0}, ValueError, "'b0_Z'; near it are b0_z"),
    ({"b1": {"Z": 0}}, ValueError, "'b1_Z'"), ({"b1": {"Z": None}}, ValueError, "'b1_Z'"), ({1: 0}, ValueError, "'1'"),
    ({"b0": np.zeros((6, 8))}, ValueError, "'b0'"), ({"z_out": {"z_out": 0}}, ValueError, "'z_out'"),
    ({"b0": {"z": 0}, "b0_z": 0}, ValueError, "'b0_z' must be given once"),
    ({"b0_z": np.zeros((6, 7))}, ValueError, r"b0_z must have shape \(3, 6, 8\) or \(6, 8\), not \(6, 7\)"),
    ({"b0": {"z": np.zeros((6, 7))}}, ValueError, "b0_z"), ({"b1": {"mlp_in": np.zeros((2, 6, 8))}}, ValueError, "b1_mlp_in"),
    ({"b1": {"mlp_in": np.zeros((5, 8))}}, ValueError, "b1_mlp_in"), ({"z_out": 0.0}, ValueError, "z_out"),
    ({"z_out": np.zeros((1, 6, 8))}, ValueError, "z_out"), ({"logit": np.zeros((6, 8))}, ValueError, "logit"),
    ({"b0": {"a": np.zeros((6, 6))}}, ValueError, r"b0_a must have shape \(3, 2, 6, 6\) or \(2, 6, 6\), not \(6, 6\)"),
    ({"b0_a": Edit(np.zeros((2, 6, 6)), head=0)}, ValueError, r"b0_a must have shape \(3, 6, 6\) or \(6, 6\)"),
    ({"b0_v": Edit(np.zeros((6, 8)), head=0)}, ValueError, r"b0_v must have shape \(3, 6, 4\) or \(6, 4\)"),
    ({"b0": {"z": lambda x: x[:, :2]}}, ValueError, "b0_z"), ({"b0": {"z": lambda x: "no"}}, ValueError, "b0_z"),
    ({"b0": {"z": (np.zeros((6, 8)), np.ones(5))}}, ValueError, "mask of edit b0_z"),
    ({"b0": {"z": (np.zeros((6, 8)), np.ones((2, 6)))}}, ValueError, "mask of edit b0_z"),
    ({"b0": {"z": (np.zeros((6, 8)), "all")}}, ValueError, "mask of edit b0_z must be an array or a tensor, not str"),
    ({"b0_a": (np.zeros((2, 6, 6)), np.ones((2, 6)))}, ValueError, r"mask of edit b0_a must have shape \(3, 6\) or \(6,\)"),
    ({"b0": {"z": "zeros"}}, ValueError, "b0_z must be an array, a tensor or a function, not str"),
    ({"b0": {"z": (1, 2, 3)}}, ValueError, "b0_z"), ({"b0_z": [Edit(0), "zeros"]}, ValueError, "b0_z"),
    ({"b0_a": Edit(0, head=2)}, ValueError, "head of edit b0_a must be a whole number from 0 to 1, not 2"),
    ({"b0_a": Edit(0, head=-1)}, ValueError, "head of edit b0_a"), ({"b0_a": Edit(0, head=0.0)}, TypeError, "head of edit b0_a"),
    ({"b0_a": Edit(0, head=True)}, TypeError, "head of edit b0_a"),
    ({"b0_z": Edit(0, head=0)}, ValueError, "head of edit b0_z must be None"),
    ([("b0_z", 0)], TypeError, "edits must be a dict"), ("b0_z", TypeError, "edits must be a dict"),
], ids=lambda value: None if isinstance(value, dict) else str(value))  # fmt: skip
def test_wrong_edits_are_named(edits, error, words):
    network, idx = make("GPTFactor")
    with pytest.raises(error, match=words):
        network(idx, activations=edits)
    with pytest.raises(error, match=words), editing(network, edits):
        network(idx)
    assert not any(site.watched for site in network.sites.values())


def test_lea_s_near_places_are_its_own():
    network, idx = make("LEA")
    for edits, near in (({"b0_z": 0}, "b0_out"), ({"ss_b0": {"mlps": 0}}, "ss_b0_mlp"), ({"ps_b0": {}}, "ss_b0")):
        with pytest.raises(ValueError, match=f"no place '.*'; near it are .*{near}"), editing(network, edits):
            pass


@pytest.mark.parametrize("names", ["nothing", ["z_out", "c*"], "B0_*", ""])
def test_recording_refuses_names_that_match_nothing(names):
    network, _ = make("GPTFactor")
    with pytest.raises(ValueError, match="^names: .* matches no activation; there are b0_a, "), recording(network, names):
        pass
    assert not any(site.watched for site in network.sites.values())


# edits of a part of the boards


@pytest.mark.parametrize("place", ["b1_z", "b0_a", "b0_v", "logit"])
@torch.no_grad()
def test_cut_edits_are_those_of_the_boards(place):
    network, _ = make("GPTFactor")
    idx = tokens(network, 7)
    shape = (7, *shape_at("GPTFactor", place)[1:])
    block, _, site = place.partition("_")
    cases = {what: edit for what, (edit, _) in edit_kinds(shape).items() if what != "function to one board"}
    if network.sites[place].n_head:
        part = edit_kinds(shape_of_head(shape))
        cases |= {f"head, {what}": Edit(part[what][0], head=1) for what in ("array", "no batch axis", "function")}
        cases["head, masked"] = Edit(*part["masked by board"][0], head=1)
    for what, edit in cases.items():
        for edits in ({place: edit}, {block: {site: edit}} if site else {place: edit}):
            before = copy.deepcopy(edits)
            whole = network(idx, activations=edits)
            for part in (slice(0, 3), slice(3, 7)):
                cut = cut_edits(edits, part, 7)
                torch.testing.assert_close(network(idx[part], activations=cut), whole[part], rtol=1e-12, atol=1e-12)
            assert str(edits).split(" at ")[0] == str(before).split(" at ")[0], what


def test_cut_edits_of_another_number_of_boards():
    for edits, words in (({"b0_z": np.zeros((4, 6, 8))}, "edit b0_z must be for 7 boards, not 4"),
                         ({"b0": {"a": np.zeros((4, 2, 6, 6))}}, "edit b0_a must be for 7 boards, not 4"),
                         ({"b0_a": Edit(np.zeros((4, 6, 6)), head=1)}, "edit b0_a must be for 7 boards, not 4"),
                         ({"b0_z": (0, np.zeros((4, 6)))}, "the mask of edit b0_z must be for 7 boards, not 4")):
        with pytest.raises(ValueError, match=words):
            cut_edits(edits, slice(0, 3), 7)
    assert cut_edits(None, slice(0, 3), 7) is None
    assert cut_edits({"b0_z": None}, slice(0, 3), 7) == {"b0_z": None}


# torch.compile, devices


@torch.no_grad()
def test_networks_are_traced_whole_and_compiled_ones_are_edited_and_recorded():
    """Hooks that come after the tracing are obeyed, and gone after the `with`."""
    for network in (fused(n_layer=1)[0], LEAFactor(21, 64, n_layer=1, seed=0).eval()):
        idx = fused()[1]
        traced = torch.compile(network, backend="eager", fullgraph=True)
        plain, edits = traced(idx), {"b0_z" if "b0_z" in network.sites else "b0_out": torch.zeros_like}
        plain = plain if isinstance(plain, torch.Tensor) else plain[0]
        with editing(network, edits), recording(traced) as acts:
            traced(idx)
        assert set(acts) == set(network.sites)
        with editing(network, edits), recording(network, "logit") as wanted:
            network(idx)
        assert torch.equal(acts["logit"], wanted["logit"])
        assert not torch.equal(acts["logit"][: len(plain)], plain)
        again = traced(idx)
        assert torch.equal(again if isinstance(again, torch.Tensor) else again[0], plain)


@torch.no_grad()
def test_activations_given_to_a_compiled_network_are_obeyed():
    network, idx = fused()
    edits = {"b1_z": torch.zeros(64, 64)}
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
