"""GPTFactor against the official program's numbers and against a plain float64 transformer."""
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_networks import perturbed, tokens
from plain_networks import plain_factor as plain
from plain_networks import small_factor as small

from module_transformer_factor import GPTFactor, Noise
from parts.checks import check_sizes
from parts.probing.sites import recording
from parts.training.optimizers import make_optimizer


def cross_entropy(logits, targets):
    """Mean over all tokens, by hand."""
    log_p = logits - torch.log(torch.exp(logits).sum(-1, keepdim=True))
    return -torch.gather(log_p, -1, targets[..., None]).mean()


def close(value, wanted, rtol=1e-9, atol=1e-11, err_msg=""):
    np.testing.assert_allclose(value.detach().numpy(), wanted, rtol, atol, err_msg=err_msg)


def recorded(network, *args, **kwargs):
    """(logits, {name: activation}) by hooks on every named place."""
    acts = {}
    handles = [site.register_forward_hook(lambda site, a, out: acts.__setitem__(site.name, out.detach()))
               for site in network.sites.values()]
    logits = network(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return logits, acts


@st.composite
def networks(draw):
    heads = draw(st.integers(1, 3))
    T = draw(st.integers(1, 6))
    network = GPTFactor(
        draw(st.integers(1, 8)), T, draw(st.integers(1, 3)), heads, heads * draw(st.integers(1, 4)), draw(st.integers(1, 5)),
        n_unmasked=draw(st.none() | st.integers(0, T + 1)), seed=draw(st.integers(0, 99)),
    )
    return perturbed(network, draw(st.integers(0, 99))), tokens(network, draw(st.integers(1, 4))), heads


@given(networks())
@settings(max_examples=25)
def test_every_activation_is_that_of_the_plain_network(case):
    network, idx, heads = case
    _, acts = recorded(network, idx)
    wanted = plain(network.state_dict(), idx, heads)
    assert set(acts) == set(wanted)
    for name, value in wanted.items():
        close(acts[name], value.detach().numpy(), atol=1e-10, err_msg=name)
    torch.testing.assert_close(network(idx), wanted["logit"], rtol=1e-9, atol=1e-10)


@given(networks())
@settings(max_examples=15)
def test_gradients_and_adamw_steps_are_those_of_the_plain_network(case):
    network, idx, heads = case
    targets = torch.randint(network.head.weight.shape[0], idx.shape, generator=torch.Generator().manual_seed(5))
    state = {name: value.clone().requires_grad_(not name.endswith("mask")) for name, value in network.state_dict().items()}
    learnt = {name: value for name, value in state.items() if value.requires_grad}
    linear = (".attn.", ".mlp.", "head")
    decayed = [name for name in learnt if name.endswith("weight") and any(part in name for part in linear)]
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in learnt.items()}
    optim = make_optimizer(network, 1e-2)
    for t in range(1, 4):
        loss = F.cross_entropy(network(idx).flatten(0, 1), targets.flatten())
        plain_loss = cross_entropy(plain(state, idx, heads)["logit"], targets)
        assert loss.item() == pytest.approx(plain_loss.item(), rel=1e-9, abs=1e-12)
        gradients = dict(zip(learnt, torch.autograd.grad(plain_loss, list(learnt.values())), strict=True))
        optim.zero_grad()
        loss.backward()
        for name, p in network.named_parameters():
            close(p.grad, gradients[name].numpy(), 1e-7, 1e-9, name)
            gradients[name] = p.grad  # so that a gradient of rounding errors alone moves both networks alike
        optim.step()
        with torch.no_grad():
            for name, value in learnt.items():
                m, v = moments[name]
                value *= 1 - 1e-2 * (0.01 if name in decayed else 0)
                m += (1 - 0.9) * (gradients[name] - m)
                v += (1 - 0.95) * (gradients[name] ** 2 - v)
                value -= 1e-2 * (m / (1 - 0.9**t)) / (torch.sqrt(v / (1 - 0.95**t)) + 1e-8)
        for name, p in network.named_parameters():
            torch.testing.assert_close(p.detach(), learnt[name].detach(), rtol=1e-8, atol=1e-10)


# the official program's numbers

GOLDEN_EDITS = ("z", "attn_update", "mlp_in", "mlp_update", "z_attn_mlp")


@pytest.fixture(scope="module")
def official(golden):
    z = np.load(golden / "factor.npz")
    state = {name.removeprefix("init."): torch.tensor(z[name]) for name in z.files if name.startswith("init.")}
    return z, json.loads(str(z["config"])), state


@pytest.fixture
def golden_network(official):
    _, config, state = official
    network = GPTFactor(**config).double()
    network.load_state_dict(state)
    return network


def test_golden_activations(official, golden_network):
    z = official[0]
    logits, acts = recorded(golden_network, torch.tensor(z["x"]))
    close(logits, z["logits"])
    assert {f"act.{name}" for name in acts} == {name for name in z.files if name.startswith("act.")}
    for name, value in acts.items():
        close(value, z[f"act.{name}"])


@pytest.mark.parametrize("place", [*(f"b1_{site}" for site in GOLDEN_EDITS), "z_out"])
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_golden_edits(official, golden_network, place, kind):
    z = official[0]
    edit = z[f"edit.{place}"] if kind == "array" else torch.tensor(z[f"edit.{place}"])
    block, _, site = place.partition("_")
    edits = {"z_out": edit} if place == "z_out" else {block: {site: edit}}
    close(golden_network(torch.tensor(z["x"]), activations=edits), z[f"edited_logits.{place}"])


@pytest.mark.parametrize("n", [0, 10])
def test_golden_partly_causal(official, n):
    z, config, state = official
    network = GPTFactor(**config, n_unmasked=n).double()
    network.load_state_dict({name: value for name, value in state.items() if not name.endswith("mask")})
    close(network(torch.tensor(z["x"])), z[f"logits_n_unmasked_{n}"])


def test_golden_training(official, golden_network):
    z = official[0]
    x, y = torch.tensor(z["x"]), torch.tensor(z["y"])
    names = {id(p): name for name, p in golden_network.named_parameters()}
    optim = make_optimizer(golden_network, 1e-3)
    groups = {group["weight_decay"]: sorted(names[id(p)] for p in group["params"]) for group in optim.param_groups}
    assert groups == {0.01: sorted(json.loads(str(z["decay"]))), 0.0: sorted(json.loads(str(z["no_decay"])))}
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(golden_network(x).flatten(0, 1), y.flatten())
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, z["losses"], rtol=1e-9)
    for name, value in golden_network.state_dict().items():
        close(value, z[f"final.{name}"], rtol=1e-6, atol=1e-9)


# state dicts


def test_state_dict_layout():
    V, T, D, P = 9, 5, 8, 3
    wanted = {"tok_emb.weight": (V, D), "pos_emb": (1, T, P), "ln_f.weight": (D,), "ln_f.bias": (D,), "head.weight": (V, D)}
    for i in range(2):
        for ln in ("ln1", "ln2"):
            wanted |= {f"blocks.{i}.{ln}.weight": (D,), f"blocks.{i}.{ln}.bias": (D,)}
        for part in ("key", "query", "value"):
            wanted |= {f"blocks.{i}.attn.{part}.weight": (D, D + P), f"blocks.{i}.attn.{part}.bias": (D,)}
        wanted |= {
            f"blocks.{i}.attn.proj.weight": (D, D), f"blocks.{i}.attn.proj.bias": (D,),
            f"blocks.{i}.attn.mask": (1, 1, T, T),
            f"blocks.{i}.mlp.0.weight": (4 * D, D + P), f"blocks.{i}.mlp.0.bias": (4 * D,),
            f"blocks.{i}.mlp.2.weight": (D, 4 * D), f"blocks.{i}.mlp.2.bias": (D,),
        }  # fmt: skip
    network = GPTFactor(V, T, n_layer=2, n_head=2, n_embd=D, n_embd_pos=P)
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == wanted
    assert {name for name, _ in network.named_parameters()} == {name for name in wanted if not name.endswith("mask")}


def test_defaults():
    state = GPTFactor(10, 5).state_dict()
    assert "blocks.1.ln1.weight" in state
    assert "blocks.2.ln1.weight" not in state
    assert state["blocks.0.attn.key.weight"].shape == (64, 96)
    assert state["blocks.0.attn.mask"].min() == 1


@pytest.mark.parametrize("n", [0, 1, 3, 5, 9])
def test_mask_of_n_unmasked(n):
    mask = GPTFactor(4, 5, n_embd=4, n_unmasked=n).state_dict()["blocks.0.attn.mask"][0, 0]
    wanted = [[float(j <= i or (i < n and j < n)) for j in range(5)] for i in range(5)]
    assert mask.tolist() == wanted


def test_a_loaded_mask_replaces_the_made_one():
    causal, free = small(n_unmasked=2), small()
    idx = tokens(free)
    state = causal.state_dict()
    assert not torch.equal(causal(idx), free(idx))
    free.load_state_dict(state)
    assert torch.equal(free(idx), causal(idx))
    back = small(n_unmasked=0)
    back.load_state_dict(small().state_dict())
    assert torch.equal(back(idx), small()(idx))


def test_a_state_dict_without_masks_keeps_the_made_one():
    causal = small(n_unmasked=2)
    state = {name: value for name, value in small().state_dict().items() if not name.endswith("mask")}
    names = list(state)
    before = causal(tokens(causal))
    causal.load_state_dict(state)
    assert list(state) == names
    assert torch.equal(causal(tokens(causal)), before)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_state_dict_that_does_not_fit_is_refused(change):
    state = small().state_dict()
    if change == "missing":
        del state["blocks.1.mlp.0.bias"]
    elif change == "extra":
        state["blocks.2.ln1.weight"] = torch.ones(8)
    else:
        state["pos_emb"] = torch.zeros(1, 7, 3)
    with pytest.raises(RuntimeError):
        small().load_state_dict(state)


# embeddings put before the tokens


def test_own_embeddings_put_first_change_nothing():
    network = small()
    idx = tokens(network)
    first = network.tok_emb(idx[:, :4])
    assert torch.equal(network(idx[:, 4:], embeddings=first), network(idx))
    with torch.no_grad():
        wanted = plain(network.state_dict(), idx[:, 4:], 2, embeddings=-first)["logit"]
    torch.testing.assert_close(network(idx[:, 4:], embeddings=-first).detach(), wanted, rtol=1e-9, atol=1e-10)


def test_wrong_number_of_tokens():
    network = small()
    for idx, embeddings in ((torch.zeros(2, 5, dtype=int), None), (torch.zeros(2, 7, dtype=int), None),
                            (torch.zeros(2, 6, dtype=int), torch.zeros(2, 1, 8))):
        with pytest.raises(ValueError, match="6 tokens"):
            network(idx, embeddings=embeddings)


@pytest.mark.parametrize(("idx", "embeddings", "error", "name"), [
    (torch.zeros(8, dtype=int), None, ValueError, "idx"), (torch.zeros(2, 6, 1, dtype=int), None, ValueError, "idx"),
    (torch.tensor(0), None, ValueError, "idx"), (torch.zeros(2, 6), None, TypeError, "idx"),
    (np.zeros((2, 6), int), None, TypeError, "idx"), (torch.full((2, 6), 7), None, ValueError, "idx must .* not 7"),
    (torch.full((2, 6), -1), None, ValueError, "idx must .* not -1"),
    (torch.zeros(2, 5, dtype=int), torch.zeros(1, 1, 8), ValueError, "embeddings"),
    (torch.zeros(2, 5, dtype=int), torch.zeros(2, 1, 7), ValueError, "embeddings"),
    (torch.zeros(2, 5, dtype=int), torch.zeros(1, 8), ValueError, "embeddings"),
    (torch.zeros(2, 5, dtype=int), np.zeros((2, 1, 8)), TypeError, "embeddings"),
], ids=str)
def test_wrong_tokens_and_embeddings_are_named(idx, embeddings, error, name):
    for n_embd in (6, 8):  # as wide as a board has tokens, and not
        if embeddings is None or n_embd == 8:
            with pytest.raises(error, match=f"^{name}"):
                GPTFactor(7, 6, n_head=2, n_embd=n_embd)(idx, embeddings=embeddings)


# dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_statistics(p):
    keep = Noise(3).keep(torch.zeros(200_000), p)
    assert set(keep.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    assert keep.mean().item() == pytest.approx(1, abs=5 * math.sqrt(p / (1 - p) / 200_000))


def test_dropout_is_where_it_should_be():
    network = small(embd_pdrop=0.2, attn_pdrop=0.3, resid_pdrop=0.4)
    idx = tokens(network)
    B, T, D, H = 3, 6, 8, 2
    network.train()
    network.noise.reseed(11)
    logits = network(idx)
    noise, drop = Noise(11), {}
    shapes = [("embd", (B, T, D), 0.2)]
    for i in range(2):
        shapes += [(f"b{i}_a", (B, H, T, T), 0.3)]
        shapes += [(f"b{i}_{update}", (B, T, D), 0.4) for update in ("attn_update", "mlp_update")]
    for name, shape, p in shapes:
        drop[name] = noise.keep(torch.zeros(shape, dtype=torch.float64), p)
    torch.testing.assert_close(logits, plain(network.state_dict(), idx, 2, drop=drop)["logit"], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("which", ["embd_pdrop", "attn_pdrop", "resid_pdrop"])
def test_dropout_is_off_in_eval_mode_and_seeded_in_training(which):
    network, plain_one = small(**{which: 0.5}), small()
    idx = tokens(network)
    assert torch.equal(network.eval()(idx), plain_one.eval()(idx))
    network.train()
    first, second = network(idx), network(idx)
    assert not torch.equal(first, second)
    again = small(**{which: 0.5}).train()
    assert torch.equal(again(idx), first)
    assert torch.equal(again(idx), second)
    other = small(**{which: 0.5}).train()
    other.noise.reseed(1, 2)
    assert not torch.equal(other(idx), first)
    assert torch.equal(plain_one.train()(idx), plain_one.eval()(idx))


def test_everything_dropped_is_finite():
    network = small(embd_pdrop=1, attn_pdrop=1, resid_pdrop=1).train()
    logits = network(tokens(network))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


# a fresh network


def test_init_statistics():
    network = GPTFactor(40, 20, n_layer=2, n_head=4, n_embd=128, n_embd_pos=16, seed=0)
    for name, p in network.named_parameters():
        if "ln" in name:
            assert (p == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias") or name == "pos_emb":
            assert (p == 0).all(), name
        else:
            n = p.numel()
            assert abs(p.mean().item()) < 5 * 0.02 / math.sqrt(n), name
            assert p.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(2 * n)), name
    drawn = torch.cat([p.flatten() for p in network.parameters() if p.dim() == 2]) / 0.02
    assert (drawn**4).mean().item() == pytest.approx(3, abs=0.1)  # a normal distribution's


def test_weights_depend_on_the_seed_alone():
    sizes = dict(n_layer=1, n_head=1, n_embd=4, n_embd_pos=2)
    first, second, other, drawn = (GPTFactor(5, 4, **sizes, seed=seed).state_dict() for seed in (7, 7, 8, None))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for different in (other, drawn):
        assert not torch.equal(first["head.weight"], different["head.weight"])


def test_no_global_random_state_is_read(reseed):
    found = []
    for seed in (0, 1):
        reseed(seed)
        network = GPTFactor(5, 4, n_embd=4, embd_pdrop=0.3, attn_pdrop=0.3, resid_pdrop=0.3, seed=0)
        network.train()(torch.zeros(2, 4, dtype=int)).sum().backward()
        make_optimizer(network, 1e-3).step()
        found.append(network.head.weight)
    assert torch.equal(*found)


@pytest.mark.parametrize("n_unmasked", [None, 2])
@pytest.mark.parametrize("p", [0, 0.1])
def test_every_tensor_is_made_on_the_network_s_device(n_unmasked, p):
    network = GPTFactor(7, 6, n_embd=8, n_unmasked=n_unmasked, embd_pdrop=p, attn_pdrop=p, resid_pdrop=p).to("meta").train()
    idx = torch.zeros(3, 6, dtype=int, device="meta")
    edits = {"b0": {"z": np.zeros((6, 8)), "mlp_in": (torch.zeros(6, 8), np.ones(6))}}
    passes = [network(idx), network(idx, activations=edits), network(idx[:, 2:], embeddings=network.tok_emb(idx[:, :2]))]
    for logits in passes:
        F.cross_entropy(logits.flatten(0, 1), idx.flatten()).backward()
        assert logits.shape == (3, 6, 7)
        assert logits.device.type == "meta"
    assert all(p.grad.device.type == "meta" for p in network.parameters())


def test_verbose_prints_and_else_nothing_does(capsys):
    network = small()
    network(tokens(network))
    assert capsys.readouterr().out == ""
    network(tokens(network), verbose=True)
    assert capsys.readouterr().out.count("\n") == 2


def test_an_empty_batch():
    assert small()(torch.zeros(0, 6, dtype=int)).shape == (0, 6, 7)


@pytest.mark.parametrize(
    ("sizes", "error", "name"),
    [
        (dict(n_embd=10, n_head=4), ValueError, "n_embd = 10"), (dict(n_layer=0), ValueError, "n_layer"),
        (dict(n_embd_pos=0), ValueError, "n_embd_pos"), (dict(n_embd=8.0), TypeError, "n_embd"),
        (dict(vocab_size=0), ValueError, "vocab"),
        (dict(block_size=-1), ValueError, "block_size"), (dict(n_head="2"), TypeError, "n_head"),
        (dict(n_layers=2), TypeError, "n_layers"),
        (dict(embd_pdrop=1.5), ValueError, "embd_pdrop"), (dict(attn_pdrop=math.nan), ValueError, "attn_pdrop"),
        (dict(resid_pdrop=-0.1), ValueError, "resid_pdrop"), (dict(n_unmasked=-1), ValueError, "n_unmasked"),
        (dict(n_unmasked=1.5), TypeError, "n_unmasked"), (dict(n_unmasked=True), TypeError, "n_unmasked"),
        (dict(seed=-1), ValueError, "seed"), (dict(seed=2**63), ValueError, "seed"), (dict(seed=1.5), TypeError, "seed"),
        (dict(seed="a"), TypeError, "seed"),
    ],
)  # fmt: skip
def test_wrong_sizes_are_named(sizes, error, name):
    with pytest.raises(error, match=name):
        GPTFactor(**dict(vocab_size=5, block_size=4) | sizes)


def test_given_embeddings_have_three_axes():
    network = GPTFactor(5, 4, n_head=1, n_embd=8, n_embd_pos=2)
    with pytest.raises(ValueError, match="embeddings"):
        network(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 1, 8, 1))


def test_the_size_of_a_network_counts_token_and_position_codes():
    sizes = dict(vocab_size=3, block_size=4, n_layer=1, n_head=1)
    check_sizes(**sizes, n_embd=9000, n_embd_pos=1)
    check_sizes(**sizes | {"block_size": 2000}, n_embd=8, n_embd_pos=8)
    with pytest.raises(ValueError, match="must make a network of at most"):
        check_sizes(**sizes, n_embd=9000, n_embd_pos=9000)


@torch.no_grad()
def test_a_pass_can_be_entered_at_any_block():
    """start, run and read_out are forward, to the bit, and run from a block's input gives the rest of the pass."""
    network = small()
    idx = tokens(network)
    with recording(network) as acts:
        wanted = network(idx)
    x = network.start(idx)
    assert torch.equal(network.read_out(network.run(x)), wanted)
    for first, entering in enumerate((x, acts["b0_z_attn_mlp"], acts["b1_z_attn_mlp"])):
        assert torch.equal(network.read_out(network.run(entering, first)), wanted)
    assert torch.equal(network.run(x, 2), x)


@pytest.mark.parametrize("n_unmasked", [None, 2])
@torch.no_grad()
def test_attention_weights_of_queries_and_keys(n_unmasked):
    network = small(n_unmasked=n_unmasked)
    idx = tokens(network)
    with recording(network, ["b1_a", "b1_z"]) as acts:
        network(idx)
    attn, code = network.blocks[1].attn, network.pos_emb.expand(len(idx), -1, -1)
    z = torch.cat([acts["b1_z"], code], -1)
    q, k = (layer(z).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (attn.query, attn.key))
    close(attn.weights(q, k), acts["b1_a"])
    close(attn.weights(q[:, 1:], k[:, 1:]), acts["b1_a"][:, 1:])  # of one head alone


def test_block_matrices_are_the_linear_weights_of_the_blocks():
    network = small()
    named = [p for name, p in network.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    found = network.block_matrices()
    assert [id(p) for p in found] == [id(p) for p in named]
    assert len(found) == 2 * 6
