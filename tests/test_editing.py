"""Edits of named activations against the plain networks, and what goes with recording and with other hooks."""
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
from plain_networks import tokens

from parts.probing.sites import Edit, editing, recording
from tests import trainers


def push(x):
    return 2 * x + 1


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


# errors


@pytest.mark.parametrize(("edits", "error", "words"), [
    ({"b2": {}}, ValueError, "no activation 'b2'; similar ones are b.*"), ({"z": np.zeros((6, 8))}, ValueError, "'z'"),
    ({"b2_z": 0}, ValueError, "no activation 'b2_z'; similar ones are b._z, .*"), ({"b0_Z": 0}, ValueError, "'b0_Z'; similar ones are b0_z"),
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
        with pytest.raises(ValueError, match=f"no activation '.*'; similar ones are .*{near}"), editing(network, edits):
            pass


@pytest.mark.parametrize("names", ["nothing", ["z_out", "c*"], "B0_*", ""])
def test_recording_refuses_names_that_match_nothing(names):
    network, _ = make("GPTFactor")
    with pytest.raises(ValueError, match="^names: .* matches no activation; there are b0_a, "), recording(network, names):
        pass
    assert not any(site.watched for site in network.sites.values())


def test_masks_may_be_shaped_as_boards():
    """Whatever their number: as many as the board has rows, cells, and one."""
    trainer = trainers.make()
    for n in (1, 6, 36, 7):
        boards = trainer.dataset.sample(n, "train").boards
        mask = torch.rand(n, 6, 6, generator=torch.Generator().manual_seed(n)) < 0.3
        for shaped in (mask, mask[0]):
            wanted, found = (trainer.forward_all_activations(boards, hidden, {"b0_z": (torch.zeros_like, edit)}, names="logit")
                             for hidden, edit in ((mask, shaped.flatten(-2)), (mask.flatten(1).numpy(), shaped.numpy())))
            assert np.array_equal(wanted["logit"], found["logit"])
            with editing(trainer.transformer, {"b0_z": (torch.zeros_like, shaped)}), torch.no_grad():
                logits = trainer.transformer(trainer.tokens(np.where(mask, trainer.masking_token, boards)))
            np.testing.assert_allclose(logits, wanted["logit"], atol=1e-6)
    with pytest.raises(ValueError, match="masks must"):
        trainer.forward_all_activations(boards, np.zeros((7, 35)))


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
                with editing(network, edits, part=part, n=7):
                    torch.testing.assert_close(network(idx[part]), whole[part], rtol=1e-12, atol=1e-12)
            assert str(edits).split(" at ")[0] == str(before).split(" at ")[0], what


def test_cut_edits_of_another_number_of_boards():
    network, _ = make("GPTFactor")
    idx = tokens(network, 3)
    for edits, words in (({"b0_z": np.zeros((4, 6, 8))}, "edit b0_z must be for 7 boards, not 4"),
                         ({"b0": {"a": np.zeros((4, 2, 6, 6))}}, "edit b0_a must be for 7 boards, not 4"),
                         ({"b0_a": Edit(np.zeros((4, 6, 6)), head=1)}, "edit b0_a must be for 7 boards, not 4"),
                         ({"b0_z": (np.zeros((6, 8)), np.zeros((4, 6)))}, "the mask of edit b0_z must be for 7 boards, not 4")):
        with pytest.raises(ValueError, match=words), editing(network, edits, part=slice(0, 3), n=7):
            network(idx)
