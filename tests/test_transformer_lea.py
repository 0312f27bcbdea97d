"""LEA and LEAFactor against the official program's numbers and against a plain float64 network."""
import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_networks import LEA_CLASSES as CLASSES
from plain_networks import Places, boards, close, perturbed, picture
from plain_networks import plain_lea as plain
from plain_networks import small_lea as small

from module_transformer_lea import LEA, VQ_EXPIRE, LEAFactor, VectorQuantizer, VectorQuantizerEMA
from parts.probing.sites import recording
from parts.training.optimizers import make_optimizer


def recorded(network, call):
    """(result, {name: [activation of each pass]}) by hooks on every named place."""
    acts = {}
    handles = [site.register_forward_hook(lambda site, a, out: acts.setdefault(site.name, []).append(out.detach()))
               for site in network.sites.values()]
    result = call()
    for handle in handles:
        handle.remove()
    return result, acts


ALL = list(itertools.product(CLASSES, ("EMA", "vanilla"), (True, False)))
KIND_AND_BLANK = list(itertools.product(CLASSES, (True, False)))


@st.composite
def cases(draw):
    kind, vq_type, blank = draw(st.sampled_from(ALL))
    heads = draw(st.integers(1, 2))
    sizes = dict(
        vocab_size=draw(st.integers(2, 6)), block_size=draw(st.integers(1, 5)), n_layer=draw(st.integers(1, 2)),
        n_head=heads,
        n_embd=heads * draw(st.integers(2, 4)), vocab_speech_size=draw(st.integers(2, 6)), vq_type=vq_type,
        block_speech_size=draw(st.integers(1, 5)), bool_blank_speech=blank, seed=draw(st.integers(0, 99)),
        n_unmasked=draw(st.integers(0, 3)), vq_expire=draw(st.sampled_from([0, VQ_EXPIRE])),
        slot_heads=draw(st.integers(0, heads)),
    )
    sizes |= dict(n_embd_pos=draw(st.integers(1, 4))) if kind == "factor" else {}
    network = perturbed(CLASSES[kind](**sizes), draw(st.integers(0, 99)))
    how = (kind == "factor", vq_type == "EMA", blank)
    return network, boards(network, draw(st.integers(1, 4))), how, heads, sizes["slot_heads"]


@given(cases())
@settings(max_examples=30)
def test_the_three_passes_are_those_of_the_plain_network(case):
    network, idx, how, heads, slots = case
    state = network.state_dict()
    with torch.no_grad():
        wanted = plain(state, *how, idx, heads, Places(slots=slots))
        outputs = network.eval()(idx)
        for value, right in zip(outputs[:3], wanted, strict=False):
            close(value, right)
        assert torch.equal(outputs[3].argmax(-1), wanted[3])
        assert torch.equal(outputs[3].sum(-1), torch.ones(wanted[3].shape, dtype=torch.float64))
        close(network.predict_from_board(idx), wanted[0])
        sentence = state["ss_vector_quantizer._embedding.weight"][wanted[3]]
        unk = torch.full_like(idx, network.ps_head.weight.shape[0] - 1)
        close(network.predict_from_speech(wanted[3]), picture(state, how[0], unk, sentence, heads)[0])


def total(outputs, targets, alpha=0.7):
    """A loss that every part of the network takes part in."""
    return F.cross_entropy(outputs[0].flatten(0, 1), targets.flatten()) + alpha * (
        outputs[2] + F.cross_entropy(outputs[1].flatten(0, 1), targets.flatten()))


@given(cases())
@settings(max_examples=15)
def test_gradients_are_those_of_the_plain_network(case):
    network, idx, how, heads, slots = case
    learnt = dict(network.named_parameters())
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    for name in learnt:
        state[name].requires_grad_()
    loss = total(plain(state, *how, idx, heads, Places(slots=slots)), idx)
    wanted = [state[name] for name in learnt]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    total(network.train()(idx), idx).backward()
    for (name, p), wanted in zip(learnt.items(), gradients, strict=True):
        close(p.grad if p.grad is not None else torch.zeros_like(p), wanted, 1e-7, 1e-9, name)


@pytest.mark.parametrize(("kind", "blank"), KIND_AND_BLANK)
@torch.no_grad()
def test_named_activations_are_those_of_the_plain_network(kind, blank):
    network = small(kind, bool_blank_speech=blank).eval()
    idx, state = boards(network), network.state_dict()
    words = state["ss_vector_quantizer._embedding.weight"]
    nothing = torch.zeros(3, 4, 8, dtype=torch.float64) if blank else words[-1].expand(3, 4, 8)
    sentences = torch.tensor([[0, 1, 2, 3], [8, 8, 0, 1], [4, 5, 6, 7]])
    calls = {
        "board": (lambda: network.predict_from_board(idx), idx, nothing),
        "speech": (lambda: network.predict_from_speech(sentences), torch.full_like(idx, 6), words[sentences]),
    }
    for call, tokens, sentence in calls.values():
        at = Places()
        picture(state, kind == "factor", tokens, sentence, 2, at)
        _, acts = recorded(network, call)
        assert set(acts) == set(at.acts)
        for name, value in at.acts.items():
            close(acts[name][0], value, err_msg=name)
        assert acts["b1_crossAttn_a"][0].shape == (3, 2, 6, 4)
        assert acts["b0_selfAttn_a"][0].shape == (3, 2, 6, 6)
        assert not any(name.startswith("ss_") for name in acts)


# the official program's numbers


def load_golden(golden, case):
    z = np.load(golden / f"lea_{'_'.join(case)}.npz")
    config = json.loads(str(z["config"]))
    network = CLASSES[case[0]](**config, vq_expire=0).double()
    state = {name.removeprefix("init."): torch.tensor(z[name]) for name in z.files if name.startswith("init.")}
    assert {name: value.shape for name, value in network.state_dict().items()} == {n: v.shape for n, v in state.items()}
    network.load_state_dict(state)
    if case[1] == "EMA":
        network.ss_vector_quantizer.epsilon = 1e-20
    return z, config, network


GOLDEN_CASES = list(itertools.product(CLASSES, ("EMA", "vanilla"), ("blank", "lastword")))


@pytest.mark.parametrize("case", GOLDEN_CASES, ids="_".join)
@torch.no_grad()
def test_golden_forward(golden, case):
    z, config, network = load_golden(golden, case)
    assert config["bool_blank_speech"] == (case[2] == "blank")
    network.eval()
    idx = torch.tensor(z["x"])
    board, speech, vq_loss, encodings = network(idx)
    close(board, z["eval_logits_board"])
    close(speech, z["eval_logits_speech"])
    close(vq_loss, z["eval_vq_loss"])
    assert (encodings.argmax(-1).numpy() == z["eval_words"]).all()
    close(network.predict_from_speech(torch.tensor(z["sentences"])), z["logits_from_sentences"])
    close(network.predict_from_board(idx), z["eval_logits_board"])


@pytest.mark.parametrize("case", GOLDEN_CASES, ids="_".join)
def test_golden_training(golden, case):
    z, _, network = load_golden(golden, case)
    nudged = case[1:] == ("EMA", "lastword")  # the official optimiser moves the last word there, by accident
    names = {id(p): name for name, p in network.named_parameters()}
    optim = make_optimizer(network, 1e-3)
    groups = {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in optim.param_groups}
    no_decay = set(json.loads(str(z["no_decay"])))
    if case[1] == "EMA":
        no_decay -= {"ss_vector_quantizer._embedding.weight"}
    assert groups == {0.01: set(json.loads(str(z["decay"]))), 0.0: no_decay}
    x, y = torch.tensor(z["x"]), torch.tensor(z["y"])
    network.train()
    for step in range(3):
        board, speech, vq_loss, encodings = network(x)
        sparsity = 1 - encodings[..., -1].mean()
        loss = total((board, speech, vq_loss), y) + 0.1 * sparsity
        optim.zero_grad()
        loss.backward()
        optim.step()
        rtol = 2e-3 if nudged and step else 1e-9
        assert loss.item() == pytest.approx(z["losses"][step], rel=rtol)
        assert vq_loss.item() == pytest.approx(z["vq_losses"][step], rel=10 * rtol)
        if not (nudged and step):
            assert (encodings.argmax(-1).numpy() == z["words"][step]).all()
    for name, value in network.state_dict().items() if not nudged else ():
        close(value, z[f"final.{name}"], rtol=1e-6, atol=1e-9, err_msg=name)


# the networks


@pytest.mark.parametrize(("kind", "vq_type", "blank"), ALL)
@torch.no_grad()
def test_speech_is_read_as_in_the_third_pass(kind, vq_type, blank):
    network = small(kind, vq_type=vq_type, bool_blank_speech=blank).eval()
    _, speech_logits, _, encodings = network(boards(network, 5))
    close(network.predict_from_speech(encodings.argmax(-1)), speech_logits)
    assert torch.equal(network.predict_from_speech(encodings.argmax(-1)).argmax(-1), speech_logits.argmax(-1))


@pytest.mark.parametrize("sentences", [
    torch.zeros(2, 3, dtype=int), torch.zeros(2, 5, dtype=int), torch.zeros(4, dtype=int), torch.zeros(2, 4, 9, dtype=int),
    torch.full((1, 4), 9), torch.full((1, 4), -1),
], ids=["short", "long", "flat", "one-hot", "beyond", "negative"])  # fmt: skip
def test_wrong_sentences(sentences):
    for kind in CLASSES:
        with pytest.raises(ValueError, match=r"^sentences must .*\.$"):
            small(kind).predict_from_speech(sentences)


def test_boards_of_another_size():
    for kind in CLASSES:
        network = small(kind)
        for call in (network, network.predict_from_board):
            for size in ((2, 5), (4,), (), (2, 4, 1)):
                with pytest.raises(ValueError, match="idx must have shape"):
                    call(torch.zeros(size, dtype=int))
            for idx in (torch.zeros(2, 6), np.zeros((2, 6), int)):
                with pytest.raises(TypeError, match="^idx must"):
                    call(idx)
            with pytest.raises(ValueError, match="^idx must hold tokens from 0 to .*, not -1"):
                call(torch.full((2, 6), -1))
        for sentences in (torch.zeros(2, 4), np.zeros((2, 4), int)):
            with pytest.raises(TypeError, match="^sentences must"):
                network.predict_from_speech(sentences)


@pytest.mark.parametrize(("kind", "blank"), KIND_AND_BLANK)
def test_what_is_alike_for_the_whole_batch_may_be_computed_once(kind, blank):
    once, each = small(kind, bool_blank_speech=blank), small(kind, bool_blank_speech=blank)
    idx = boards(once, 4)
    first = once.train()(idx)
    second, acts = recorded(each.train(), lambda: each(idx))
    assert acts["b0_selfAttn"][1].shape == (4, 6, 8)
    for a, b in zip(first, second, strict=True):
        close(a, b)
    total(first, idx).backward()
    total(second, idx).backward()
    for (name, a), b in zip(once.named_parameters(), each.parameters(), strict=True):
        close(a.grad, b.grad, 1e-8, 1e-11, name)
    for a, b in zip(once.state_dict().values(), each.state_dict().values(), strict=True):
        close(a, b)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_board_has_dropout_of_its_own(kind):
    network = small(kind, resid_pdrop=1e-12)
    without = small(kind)
    idx = boards(network)
    for a, b in zip(network.train()(idx), without.train()(idx), strict=True):
        close(a, b, 1e-9, 1e-9)
    dropped = small(kind, resid_pdrop=0.5, attn_pdrop=0.2, embd_pdrop=0.2).train()
    same = idx[:1].expand(3, -1)
    logits = dropped(same)[1]
    assert not torch.equal(logits[0], logits[1])
    one_word = small(kind, embd_pdrop=0.5, vocab_speech_size=1).train()  # the same sentence for all boards
    from_words = one_word(same)[1]
    assert (from_words[0] - from_words[1]).abs().max() > 1e-3
    again = small(kind, resid_pdrop=0.5, attn_pdrop=0.2, embd_pdrop=0.2).train()
    assert torch.equal(again(same)[1], logits)
    assert torch.equal(dropped.eval()(same)[0][0], dropped(same)[0][1])


@pytest.mark.parametrize("kind", CLASSES)
@torch.no_grad()
def test_hooks_on_either_network_are_obeyed(kind):
    network = small(kind).eval()
    idx = boards(network)
    before = network(idx)
    for name in ("b0_selfAttn", "b1_crossAttn_a", "ss_b0_mlp", "ss_z_out"):
        handle = network.sites[name].register_forward_hook(lambda site, args, out: out * 0)
        after = network(idx)
        handle.remove()
        assert torch.equal(after[0], before[0]) == name.startswith("ss_")
        assert not torch.equal(after[2], before[2])
    assert all(torch.equal(a, b) for a, b in zip(network(idx), before, strict=True))


@pytest.mark.parametrize("kind", CLASSES)
@torch.no_grad()
def test_a_network_of_one_board_or_none(kind):
    network = small(kind).eval()
    idx = boards(network, 3)
    together = network(idx)
    alone = [network(idx[i : i + 1]) for i in range(3)]
    for k in (0, 1, 3):
        close(torch.cat([one[k] for one in alone]), together[k])
    assert network.predict_from_board(idx[:0]).shape == (0, 6, 7)
    assert network.predict_from_speech(torch.zeros(0, 4, dtype=int)).shape == (0, 6, 7)


@pytest.mark.parametrize(("kind", "vq_type", "blank"), ALL)
@pytest.mark.parametrize("expire", [0, VQ_EXPIRE])
def test_every_tensor_is_made_on_the_network_s_device(kind, vq_type, blank, expire):
    network = small(kind, vq_type=vq_type, bool_blank_speech=blank, vq_expire=expire, attn_pdrop=0.1).to("meta").train()
    idx = torch.zeros(3, 6, dtype=int, device="meta")
    outputs = network(idx)
    total(outputs, idx).backward()
    assert [tuple(value.shape) for value in outputs] == [(3, 6, 7), (3, 6, 7), (), (3, 4, 9)]
    assert {value.device.type for value in outputs} == {"meta"}
    assert {p.grad.device.type for p in network.parameters()} == {"meta"}


def test_state_dict_of_the_two_classes_and_quantisers():
    names = {key: set(small(key[0], vq_type=key[1]).state_dict()) for key in itertools.product(CLASSES, ("EMA", "vanilla"))}
    ema = {f"ss_vector_quantizer.{name}" for name in ("_ema_w", "_ema_cluster_size")}
    assert names["factor", "EMA"] == names["vanilla", "EMA"] == names["factor", "vanilla"] | ema
    assert small("factor").state_dict()["ps_blocks.1.crossAttn.key.weight"].shape == (8, 11)
    assert small("vanilla").state_dict()["ps_blocks.1.crossAttn.key.weight"].shape == (8, 8)
    assert not any("mask" in name for name in names["factor", "EMA"])


def test_init_statistics():
    for kind, cls in CLASSES.items():
        network = cls(40, 50, n_layer=1, n_head=4, n_embd=128, vocab_speech_size=60, block_speech_size=40, seed=0)
        state = network.state_dict()
        for name, value in state.items():
            n = value.numel()
            if "ln_" in name:
                assert (value == (1 if name.endswith("weight") else 0)).all(), name
            elif name.endswith("bias"):
                assert (value == 0).all(), name
            elif name.endswith("_ema_cluster_size"):
                assert (value == 1).all(), kind
            else:
                assert abs(value.mean().item()) < 5 * 0.02 / math.sqrt(n), name
                assert value.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(2 * n)), name
        assert torch.equal(state["ss_vector_quantizer._ema_w"], state["ss_vector_quantizer._embedding.weight"])


def test_defaults():
    for kind, cls in CLASSES.items():
        network = cls(7, 6)
        assert network.ss_vector_quantizer._embedding.weight.shape == (50, 64), kind
        assert network.ss_token_init.weight.shape == (10, 64)
        assert isinstance(network.ss_vector_quantizer, VectorQuantizerEMA)
        assert network.bool_blank_speech
        assert network.ss_vector_quantizer.expire == VQ_EXPIRE > 0


def test_no_global_random_state_is_touched(reseed):
    reseed(3)
    for kind, vq_type, blank in ALL:
        network = small(kind, vq_type=vq_type, bool_blank_speech=blank, attn_pdrop=0.3, vq_expire=0.9, seed=None)
        total(network.train()(boards(network)), boards(network)).backward()
        make_optimizer(network, 1e-3).step()
    VectorQuantizer(4, 3, 0.25, 0.25), VectorQuantizerEMA(4, 3, 0.25, 0.25)


def test_weights_depend_on_the_seed_alone():
    for cls in CLASSES.values():
        first, second, other = (cls(5, 4, n_embd=4, seed=seed).state_dict() for seed in (7, 7, 8))
        assert all(torch.equal(first[name], second[name]) for name in first)
        for name in ("ps_head.weight", "ss_vector_quantizer._embedding.weight"):
            assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("blank", [False, True])
def test_several_words_for_each_vector(kind, blank):
    network = CLASSES[kind](7, 6, n_layer=1, n_head=2, n_embd=8, vocab_speech_size=5, block_speech_size=3, vq_groups=4,
                            bool_blank_speech=blank, seed=0).double().eval()
    idx = torch.randint(7, (5, 6), generator=torch.Generator().manual_seed(0))
    board, speech, _, words = network(idx)
    sentence = network.predict_sentence(idx)
    assert words.shape == (5, 12, 5)
    assert torch.equal(words.argmax(-1), sentence)
    assert len(sentence.unique()) > 1
    codebook = network.ss_vector_quantizer._embedding.weight
    assert codebook.shape == (5, 2)
    # the four words of a vector stand side by side in it
    vectors = torch.cat([codebook[sentence[:, place::4]] for place in range(4)], dim=-1)
    close(speech, network.infer(network.hidden_board(), vectors)[0], atol=1e-12)
    close(network.predict_from_speech(sentence), speech, atol=1e-12)
    close(board, network.predict_from_board(idx), atol=1e-12)
    wanted = torch.zeros(8) if blank else codebook[-1].repeat(4)
    assert torch.equal(network.blank(), wanted.double().expand(1, 3, 8))
    with pytest.raises(ValueError, match="12"):
        network.predict_from_speech(sentence[:, :3])


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        (dict(n_embd=10, n_head=4), ValueError, "n_embd = 10"), (dict(vocab_speech_size=0), ValueError, "vocab_speech_size"),
        (dict(block_speech_size=0), ValueError, "block_speech_size"), (dict(vq_type="none"), ValueError, "vq_type"),
        (dict(slot_heads=5), ValueError, "slot_heads must be a whole number from 0 to n_head = 4, not 5"),
        (dict(vq_groups=5), ValueError, "vq_groups must divide n_embd = 64, not 5"), (dict(vq_groups=0), ValueError, "vq_groups"),
        (dict(slot_heads=-1), ValueError, "slot_heads"), (dict(slot_heads=0.5), TypeError, "slot_heads"),
        (dict(vq_expire=-1), ValueError, "vq_expire"), (dict(vq_expire=math.inf), ValueError, "vq_expire"),
        (dict(vq_expire=-1, vq_type="vanilla"), ValueError, "vq_expire"), (dict(vq_expire="a"), TypeError, "vq_expire"),
        (dict(bool_blank_speech="a"), TypeError, "bool_blank_speech"), (dict(seed=-1), ValueError, "seed"),
        (dict(n_layer=0), ValueError, "n_layer"),
        (dict(n_embd=8.0), TypeError, "n_embd"), (dict(words=3), TypeError, "words"),
        (dict(attn_pdrop=2), ValueError, "attn_pdrop"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(changes, error, name):
    for cls in CLASSES.values():
        with pytest.raises(error, match=name):
            cls(**dict(vocab_size=5, block_size=4) | changes)
    with pytest.raises(TypeError, match="n_embd_pos"):
        LEA(5, 4, n_embd_pos=3)


def test_defaults_of_the_factorised_network():
    network = CLASSES["factor"](5, 4)
    assert network.ps_pos_emb.weight.shape == (4, 32)
    assert network.ps_token_embedding.weight.shape[1] == 64


@pytest.mark.parametrize(("kind", "blank"), KIND_AND_BLANK)
@torch.no_grad()
def test_a_pass_of_in_can_be_entered_at_any_block(kind, blank):
    """Reading the blank sentence, or another one."""
    network = small(kind, bool_blank_speech=blank).eval()
    idx, sentence = boards(network), torch.randn(3, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for read in (None, sentence):
        with recording(network, ["b*_out", "z_out"]) as acts:
            logits, state = network.infer(idx, network.blank() if read is None else read)
        assert torch.equal(state, acts["z_out"])
        for first, entering in enumerate((network.start(idx), acts["b0_out"], acts["b1_out"])):
            close(network.read_out(network.run(entering, first, read)), logits)
    close(network.predict_from_board(idx), network.read_out(network.run(network.start(idx))))


@pytest.mark.parametrize("kind", CLASSES)
def test_block_matrices_are_the_linear_weights_of_the_blocks(kind):
    network = small(kind)
    named = [p for name, p in network.named_parameters() if "_blocks." in name and p.ndim == 2]
    assert [id(p) for p in network.block_matrices()] == [id(p) for p in named]
    assert len(named) == 2 * 2 * 10


def test_positions_that_stay_apart_have_a_width():
    with pytest.raises(TypeError, match="n_embd_pos"):
        LEAFactor(7, 6, n_embd_pos=None)
