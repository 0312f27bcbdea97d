"""Circuits: what is known by construction, a hand-made network whose circuit is known, mistakes, the command."""
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from module_dataset import AbstractionDataset
from module_train_probe import TrainTransformer
from parts.probing.evaluation import evaluating
from parts.probing.sites import editing
from studies.circuits import measures
from studies.circuits.measures import Pairs, Stack, ablate, attribution, components, kept, lens, patch, paths
from tests.trainers import both, make

ROOT = Path(__file__).resolve().parent.parent


def two(trainer, n=6):
    """Boards, other boards and masks (n, h, w), all random."""
    rng, side = np.random.default_rng(0), trainer.dataset.board_dim
    base, donor = rng.integers(trainer.dataset.vocab_size - 1, size=(2, n, side, side))
    return base, donor, rng.random(base.shape) < 0.3


def shaken(kind, **more):
    """A trainer whose weights are large enough for everything to matter."""
    trainer = make(kind, n_layer=2, n_head=2, **more)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in trainer.transformer.parameters():
            weights += 0.3 * torch.randn(weights.shape, generator=generator)
    return trainer


@both
@pytest.mark.parametrize("way", ["fused", "explicit"])
def test_a_stack_is_the_network_from_every_block(kind, way):
    """To the bit, of LEA that reads the blank sentence for every board. By itself it reads it once: on some processors
    products of fewer rows round otherwise."""
    trainer = shaken(kind, attention_way=way)
    stack, pairs = Stack(trainer), Pairs.of(trainer, *two(trainer))
    network, tokens = trainer.transformer, pairs.seen["base"]
    with evaluating(network):
        predicted = trainer._predict(tokens)[0]
        wanted = predicted if kind == "factor" else network._picture(tokens, network._blank().expand(len(tokens), -1, -1))[0]
        torch.testing.assert_close(wanted, predicted, rtol=0, atol=5e-6)
        acts = stack.record(tokens, [])
        for first in range(3):
            assert torch.equal(stack.run(stack.entering(acts, first), first), wanted)


@both
def test_patching_everything_gives_the_donor_and_the_base_nothing_to_the_bit(kind):
    trainer = shaken(kind)
    stack, pairs = Stack(trainer), Pairs.of(trainer, *two(trainer))
    places = stack.places("*")
    wanted = torch.ones(1, 6, dtype=torch.bool)
    with evaluating(trainer.transformer):
        acts = {who: stack.record(pairs.seen[who], places) for who in ("base", "donor")}
        for who in acts:
            edits = {}
            for place in places:
                units = measures.units_of(stack, place, "all", acts["base"][place])
                edits[place] = measures.replacing(units, acts[who][place])
            [(u, b, logits)] = measures.chunks(stack, acts["base"], 0, wanted, edits)
            assert torch.equal(logits, acts[who]["logit"])
    assert not torch.equal(acts["base"]["logit"], acts["donor"]["logit"])


@both
def test_a_patched_stream_is_the_donor(kind):
    trainer = shaken(kind)
    names = [Stack(trainer).streams[0], "z_out", "logit"]
    for row in patch(trainer, *two(trainer), names, "all"):
        assert row["recovered"] == row["recovered low"] == row["recovered high"] == 1


PLACES = [("factor", place, by) for place, by in [("b0_z", "cell"), ("b0_a", "cell"), ("b1_attn_v", "head"), ("b1_a", "head"), ("b0_mlp_update", "all")]]
PLACES += [("factor", f"b{i}_{stage}", "cell") for i in (0, 1) for stage in ("attn_update", "z_attn", "mlp_update", "z_attn_mlp")]
PLACES += [("lea", f"b{i}_{stage}", "cell") for i in (0, 1) for stage in ("selfAttn", "crossAttn", "mlp", "out")]


@pytest.mark.parametrize(("kind", "place", "by"), PLACES)
def test_patch_is_one_pass_for_each_patch(kind, place, by):
    """Compared with edits made one at a time by the wrapper."""
    trainer = shaken(kind)
    base, donor, masks = two(trainer)
    rows = patch(trainer, base, donor, masks, place, by)
    acts = [trainer._recorded(boards, masks, names=[place, "logit"]) for boards in (base, donor)]
    for row in rows[:5]:
        value, take = acts[0][place].copy(), (slice(None),)
        read = masks & (base != donor)
        if by == "cell":
            take = (..., row["cell"], slice(None))
            read.reshape(6, -1)[:, row["cell"]] = False
        elif by == "head":
            d = value.shape[-1] // 2
            take = (slice(None), row["head"]) if value.ndim == 4 else (..., slice(row["head"] * d, (row["head"] + 1) * d))
        value[take] = acts[1][place][take]
        patched = trainer._recorded(base, masks, {place: value}, ["logit"])["logit"]
        index = np.indices(base.shape)[0], np.arange(base[0].size).reshape(base[0].shape)[None]
        gains = [(logits[*index, donor] - logits[*index, base])[read].sum() for logits in (patched, acts[0]["logit"], acts[1]["logit"])]
        assert row["recovered"] == pytest.approx((gains[0] - gains[1]) / (gains[2] - gains[1]), abs=1e-4)
        assert row["success"] == pytest.approx((patched.argmax(-1).reshape(base.shape) == donor)[read].mean())


def test_all_senders_are_the_donors_input():
    trainer = shaken("factor")
    given = two(trainer)
    found = {row["receiver"]: row["recovered"] for row in paths(trainer, *given) if row["sender"] == "all"}
    assert len(found) == 2 * (2 * 3 + 1) + 1
    for row in patch(trainer, *given, "b*_v", "head"):
        if not row["place"].endswith("attn_v"):
            assert found[f"{row['place'][:2]}h{row['head']} value"] == pytest.approx(row["recovered"], abs=1e-5)
    for row in patch(trainer, *given, "b*_mlp_in", "all"):
        assert found[f"{row['place'][:2]} mlp"] == pytest.approx(row["recovered"], abs=1e-5)
    assert found["logits"] == pytest.approx(1, abs=1e-5)
    stack, pairs = Stack(trainer), Pairs.of(trainer, *given)
    with evaluating(trainer.transformer):
        base, donor = (stack.record(pairs.seen[who], ["b*"]) for who in ("base", "donor"))
        for stream in ("b0_z_attn", "b1_z_attn", "b1_z_attn_mlp"):
            *parts, whole = measures.contributions(stack, base, donor, stream).values()
            torch.testing.assert_close(sum(parts), whole, atol=1e-5, rtol=1e-5)


def planted():
    """A network whose circuit is known. Tokens are unit vectors. Head 0 of block 0 copies the token of cell 0 to
    cell 1, into a space of its own; head 1 of block 1 copies that from cell 1 to cell 2, into the space that the
    logits are read from. Nothing else writes. Returns the trainer, boards, donors, masks."""
    trainer = TrainTransformer(
        AbstractionDataset(board_dim=3, abs_n=2, abs_dim=2, abs_c=4, vocab_bck=1, vocab_token=4, comp_n=1, comp_dim=1, comp_c=1,
                           board_types=["single"], board_types_proba=[1], bool_split=False, seed=0),
        n_layer=2, n_head=2, n_embd=32, n_embd_pos=9, seed=0, device="cpu")
    net, V, d = trainer.transformer, 6, 16
    with torch.no_grad():
        for name, weights in net.named_parameters():
            weights.fill_(1.0 if "ln" in name and name.endswith("weight") else 0.0)
        net.pos_emb[0] = torch.eye(9)
        net.tok_emb.weight[:, :V] = torch.eye(V)
        for block, head, source, target, read, write in ((0, 0, 0, 1, 0, 8), (1, 1, 1, 2, 8, 16)):
            attn, at = net.blocks[block].attn, head * d
            attn.query.weight[at, 32:] = -400.0
            attn.query.weight[at, 32 + target] = 400.0
            attn.key.weight[at, 32 + source] = 1.0
            for k in range(V):
                attn.value.weight[at + k, read + k] = 1.0
                attn.proj.weight[write + k, at + k] = 4.0
        net.head.weight[:, 16 : 16 + V] = torch.eye(V)
    base = np.array([[[1, 2, 3], [4, 1, 2], [3, 4, 1]], [[2, 2, 3], [4, 1, 2], [3, 4, 1]]])
    donor = base.copy()
    donor[:, 0, 0] = [3, 4]
    base[:, 0, 2], donor[:, 0, 2] = base[:, 0, 0], donor[:, 0, 0]  # the truth of the hidden cell is cell 0's token
    masks = np.zeros_like(base)
    masks[:, 0, 2] = 1
    return trainer, base, donor, masks


CIRCUIT = {("embedding", "b0h0 value"), ("b0h0", "b1h1 value"), ("b1h1", "logits")}


def test_a_planted_circuit_is_named_by_every_table():
    trainer, base, donor, masks = planted()
    given = base, donor, masks
    found = {(row["sender"], row["receiver"]): row["recovered"] for row in paths(trainer, *given) if row["sender"] != "all"}
    assert len(found) == 6 + 3 + 6 * 4 + 6 + 7
    for path, recovered in found.items():
        if path in CIRCUIT:
            assert recovered == pytest.approx(1, abs=1e-3), path
        else:
            assert abs(recovered) < 1e-6, path
    heads = {(row["place"], row["head"]): row["recovered"] for row in patch(trainer, *given, ["b*_attn_v"], "head")}
    assert {head for head, recovered in heads.items() if abs(recovered) > 1e-6} == {("b0_attn_v", 0), ("b1_attn_v", 1)}
    for rows, value in ((patch(trainer, *given, ["b0_z", "b0_z_attn", "b1_z", "b1_z_attn"]), "recovered"),
                        (attribution(trainer, *given, ["b0_z", "b0_z_attn", "b1_z"]), "estimate")):
        cells = {(row["place"], row["cell"]) for row in rows if abs(row[value]) > 1e-4}
        assert cells == {("b0_z", 0), ("b0_z_attn", 1), ("b1_z", 1)}
    lost = {(row["place"], row["head"]): row["lost"] for row in ablate(trainer, base, masks, ["b*_attn_v"], "resample")}
    assert {head for head, less in lost.items() if less} == {("b0_attn_v", 0), ("b1_attn_v", 1)}
    assert all(less == 1 for head, less in lost.items() if head in {("b0_attn_v", 0), ("b1_attn_v", 1)})
    told = {row["place"]: row["hidden"] for row in lens(trainer, base, masks)}
    assert [place for place, share in told.items() if share == 1] == ["b1_z_attn", "b1_z_attn_mlp"]
    rows = kept(trainer, base, masks, [["b0h0", "b1h1"], ["b0h0", "b1h0", "b0 mlp", "b1 mlp", "b0h1"], []], "resample")
    assert [row["hidden"] for row in rows] == [1, 0, 0]


@both
def test_lens_ends_in_the_answer_and_respects_edits(kind):
    trainer = shaken(kind)
    boards, _, masks = two(trainer)
    rows, tokens = lens(trainer, boards, masks, types=[0, 0, 1, 1, 2, 2], return_tokens=True)
    assert (tokens[-1] == trainer._recorded(boards, masks, names=["logit"])["logit"].argmax(-1).reshape(boards.shape)).all()
    assert [row["type"] for row in rows[:4]] == ["all", "single", "double", "composition"]
    assert rows[0]["boards"] == 6
    assert rows[-4]["hidden"] == pytest.approx((tokens[-1] == boards)[masks].mean())
    with editing(trainer.transformer, {Stack(trainer).streams[0]: torch.zeros_like}):
        edited = lens(trainer, boards, masks, return_tokens=True)[1]
    assert (edited[0] == tokens[0]).all()
    assert (edited[-1] != tokens[-1]).any()


@both
def test_ablations_are_edits(kind):
    trainer = shaken(kind)
    boards, _, masks = two(trainer)
    place = Stack(trainer).places("b1_*attn_v" if kind == "factor" else "b1_selfAttn_attn_v")[0]
    before = trainer._recorded(boards, masks, names=[place, "logit"])
    for how in ("mean", "zero", "resample"):
        for row in ablate(trainer, boards, masks, place, how):
            value, d = before[place].copy(), before[place].shape[-1] // 2
            part = slice(row["head"] * d, (row["head"] + 1) * d)
            put = measures.instead(trainer, torch.from_numpy(before[place]), how).numpy()
            value[..., part] = put[..., part]
            left = trainer._recorded(boards, masks, {place: value}, ["logit"])["logit"].argmax(-1).reshape(boards.shape)
            assert row["hidden"] == pytest.approx((left == boards)[masks].mean())
    assert not (put == before[place]).all((1, 2)).any()  # resampled, never from the board itself
    everything = list(components(trainer))
    [all_kept] = kept(trainer, boards, masks, [everything])
    assert all_kept["lost"] == 0


@both
def test_of_a_circuit_the_cells_to_read_count_alone(kind):
    trainer = shaken(kind)
    boards, _, masks = two(trainer)
    read = np.zeros_like(boards)
    read[:, 0] = 1  # the first row
    right = trainer._recorded(boards, masks, names=["logit"])["logit"].argmax(-1).reshape(boards.shape) == boards
    use = masks.astype(bool) & (read == 1)
    everything = list(components(trainer))
    [row] = kept(trainer, boards, masks, [everything], read=read)
    assert row["hidden"] == pytest.approx(right[use].mean())
    assert row["boards"] == use.any((1, 2)).sum()
    with pytest.raises(ValueError, match="read must have a hidden cell, not none"):
        kept(trainer, boards, masks, [everything], read=np.zeros_like(boards))
    with pytest.raises(ValueError, match="read must"):
        kept(trainer, boards, masks, [everything], read=read[:-1])


def test_attribution_is_the_slope_towards_the_donor():
    """Compared with patches of a small part of the way, in double precision."""
    trainer = shaken("factor")
    base, donor, masks = two(trainer)
    trainer.transformer.double()
    place, part = "b0_z_attn", 1e-6
    acts = [trainer._recorded(boards, masks, names=[place, "logit"]) for boards in (base, donor)]
    cells = np.arange(36).reshape(1, 6, 6)
    rows = attribution(trainer, base, donor, masks, place)
    assert len(rows) == 36
    assert -1 <= rows[0]["rank correlation"] <= 1
    for row in rows[:4]:
        read = masks & (base != donor) & (cells != row["cell"])
        value = acts[0][place].copy()
        value[:, row["cell"]] += part * (acts[1][place] - acts[0][place])[:, row["cell"]]
        patched = trainer._recorded(base, masks, {place: value}, ["logit"])["logit"]
        gains = [(logits[np.arange(6)[:, None, None], cells, donor] - logits[np.arange(6)[:, None, None], cells, base])[read].sum()
                 for logits in (patched, acts[0]["logit"], acts[1]["logit"])]
        assert row["estimate"] == pytest.approx((gains[0] - gains[1]) / part / (gains[2] - gains[1]), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("changed", "words"), [
    (dict(names="b7_z"), "names: 'b7_z' matches no place"),
    (dict(names="ss_b0_mlp"), "names: 'ss_b0_mlp' matches no place"),
    (dict(by="row"), "by must be one of cell, head, all"),
    (dict(names="b0_z", by="head"), "names: 'b0_z' has no heads"),
    (dict(donor=np.zeros((2, 6, 6), int)), "donor must have the shape of base"),
    (dict(base=np.zeros((6, 5, 5), int)), "boards must have shape"),
    (dict(masks=np.zeros((6, 6, 6), int)), "read must hold a cell"),
    (dict(read=np.zeros((6, 6), int)), "read must hold a cell"),
    (dict(read=np.ones((3, 6, 6), int)), "read must be for 1 or 6 boards"),
    (dict(donor="base"), "base and donor must differ"),
])
def test_wrong_values_are_told_in_one_sentence(changed, words):
    trainer = make()
    base, donor, masks = two(trainer)
    given = dict(base=base, donor=donor, masks=masks, names="b0_z") | changed
    if isinstance(given["donor"], str):
        given["donor"] = given["base"]
    with pytest.raises(ValueError, match=words) as raised:
        patch(trainer, **given)
    assert "\n" not in str(raised.value)


def test_wrong_values_elsewhere():
    trainer, lea = make(), make("lea")
    base, donor, masks = two(trainer)
    for call, words in ((lambda: paths(lea, base, donor, masks), "trainer must be of the factor network"),
                        (lambda: patch(lea, base, donor, masks, "b0_crossAttn_v"), "is about words, not cells"),
                        (lambda: ablate(trainer, base, masks, "b0_z", "half"), "how must be one of"),
                        (lambda: kept(trainer, base, masks, [["b9h9"]]), "there is no component 'b9h9'"),
                        (lambda: lens(trainer, base, 0 * masks), "masks must hide a cell"),
                        (lambda: lens(trainer, base, masks, types=[0]), "types must have shape")):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("kind", ["factor", "lea"])
def test_the_command_writes_tables_and_pictures(kind, tmp_path, monkeypatch, capsys):
    from tests.trainers import boards
    trainer = make(kind, boards(), runs=str(tmp_path), run_name="run", save_model=True)
    trainer.start_run()
    trainer.save_checkpoint(trainer.folder / "checkpoints" / "model_0.pth")
    monkeypatch.setattr(sys, "argv", ["studies.circuits.measures.py", str(trainer.folder), "--quick"])
    measures.main()
    out = trainer.folder / "analysis" / "circuits"
    assert capsys.readouterr().out.strip() == str(out)
    names = {"lens", "ablate", "patch", "patch_head", "patch_all", "attribution"} | ({"paths"} if kind == "factor" else set())
    assert {path.name for path in out.iterdir()} == {f"{name}.{end}" for name in names for end in ("csv", "png")}
    for name in names:
        with open(out / f"{name}.csv", encoding="utf-8") as file:
            assert list(csv.DictReader(file)), name
        assert (out / f"{name}.png").stat().st_size > 5000, name


def test_a_folder_that_is_no_run_ends_in_one_line(tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / "studies.circuits.measures.py"), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
