"""Circuits: what is known by construction, a hand-made network whose circuit is known, mistakes, the command."""
import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from module_dataset import AbstractionDataset
from module_train_probe import TrainTransformer
from parts.probing.evaluation import evaluating
from parts.probing.sites import editing
from studies.circuits import (
    ablate,
    attribution,
    components,
    held_out_boards,
    kept,
    lens,
    pairs_of,
    patch,
    paths,
)
from studies.circuits.ablation import Ablations
from studies.circuits.direct_paths import contributions
from studies.circuits.stack import Pairs, Stack, replacing
from tests.commands import run_study
from tests.trainers import boards as small_boards
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
def test_a_stack_is_the_network_from_every_block(kind):
    """To the bit, of LEA that reads the blank sentence for every board. By itself it reads it once: on some processors
    products of fewer rows round otherwise."""
    trainer = shaken(kind)
    stack = Stack(trainer)
    pairs = Pairs(stack, *two(trainer))
    network, tokens = trainer.transformer, pairs.seen["base"]
    with evaluating(network):
        predicted = network(tokens) if kind == "factor" else network.predict_from_board(tokens)
        wanted = predicted if kind == "factor" else network.infer(tokens, network.blank().expand(len(tokens), -1, -1))[0]
        torch.testing.assert_close(wanted, predicted, rtol=0, atol=5e-6)
        acts = stack.record(tokens, [])
        for first in range(3):
            assert torch.equal(stack.run(stack.entering(acts, first), first), wanted)


@both
def test_patching_everything_gives_the_donor_and_the_base_nothing_to_the_bit(kind):
    trainer = shaken(kind)
    stack = Stack(trainer)
    pairs = Pairs(stack, *two(trainer))
    places = stack.places("*")
    wanted = torch.ones(1, 6, dtype=torch.bool)
    with evaluating(trainer.transformer):
        acts = {who: stack.record(pairs.seen[who], places) for who in ("base", "donor")}
        for who in acts:
            edits = {}
            for place in places:
                units = stack.units_of(place, "all", acts["base"][place])
                edits[place] = replacing(units, acts[who][place])
            [(u, b, logits)] = stack.chunks(acts["base"], 0, wanted, edits)
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
    acts = [trainer.recorded(boards, masks, names=[place, "logit"]) for boards in (base, donor)]
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
        patched = trainer.recorded(base, masks, {place: value}, ["logit"])["logit"]
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
    stack = Stack(trainer)
    pairs = Pairs(stack, *given)
    with evaluating(trainer.transformer):
        base, donor = (stack.record(pairs.seen[who], ["b*"]) for who in ("base", "donor"))
        for stream in ("b0_z_attn", "b1_z_attn", "b1_z_attn_mlp"):
            *parts, whole = contributions(stack, base, donor, stream).values()
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
    lost = {(row["place"], row["head"]): row["lost"] for row in ablate(trainer, base, masks, ["b*_attn_v"], "resample", reference=(donor, masks))}
    assert {head for head, less in lost.items() if less} == {("b0_attn_v", 0), ("b1_attn_v", 1)}
    assert all(less == 1 for head, less in lost.items() if head in {("b0_attn_v", 0), ("b1_attn_v", 1)})
    told = {row["place"]: row["hidden"] for row in lens(trainer, base, masks)}
    assert [place for place, share in told.items() if share == 1] == ["b1_z_attn", "b1_z_attn_mlp"]
    circuits = [["b0h0", "b1h1"], ["b0h0", "b1h0", "b0 mlp", "b1 mlp", "b0h1"], []]
    rows = kept(trainer, base, masks, circuits, "resample", reference=(donor, masks))
    assert [row["hidden"] for row in rows] == [1, 0, 0]


@both
def test_lens_ends_in_the_answer_and_respects_edits(kind):
    trainer = shaken(kind)
    boards, _, masks = two(trainer)
    rows, tokens = lens(trainer, boards, masks, types=[0, 0, 1, 1, 2, 2], return_tokens=True)
    assert (tokens[-1] == trainer.recorded(boards, masks, names=["logit"])["logit"].argmax(-1).reshape(boards.shape)).all()
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
    boards, others, masks = two(trainer)
    everywhere = np.ones_like(boards)
    place = Stack(trainer).places("b1_*attn_v" if kind == "factor" else "b1_selfAttn_attn_v")[0]
    before = trainer.recorded(boards, masks, names=[place, "logit"])
    others = trainer.recorded(others, masks, names=[place])[place]
    for how in ("mean", "zero", "resample"):
        test = Ablations(trainer, boards, masks, how, everywhere, (two(trainer)[1], masks))
        with evaluating(trainer.transformer):
            put = test.record([place])[1][place].numpy()
        if how == "resample":  # each of the reference boards once
            np.testing.assert_allclose(np.sort(put.sum((1, 2))), np.sort(others.sum((1, 2))), rtol=1e-4)
        else:
            wanted = others.mean(0) if how == "mean" else 0
            np.testing.assert_allclose(put, np.broadcast_to(wanted, put.shape), rtol=1e-4, atol=1e-5)
        for row in ablate(trainer, boards, masks, place, how, everywhere, (two(trainer)[1], masks)):
            value, d = before[place].copy(), before[place].shape[-1] // 2
            part = slice(row["head"] * d, (row["head"] + 1) * d)
            value[..., part] = put[..., part]
            left = trainer.recorded(boards, masks, {place: value}, ["logit"])["logit"].argmax(-1).reshape(boards.shape)
            assert row["hidden"] == pytest.approx((left == boards)[masks].mean())
    everything = list(components(trainer))
    [all_kept] = kept(trainer, boards, masks, [everything])
    assert all_kept["lost"] == 0


@both
def test_of_ablations_the_cells_to_read_count_alone(kind):
    trainer = shaken(kind)
    boards, _, masks = two(trainer)
    read = np.zeros_like(boards)
    read[:, 0] = 1  # the first row
    right = trainer.recorded(boards, masks, names=["logit"])["logit"].argmax(-1).reshape(boards.shape) == boards
    everything = list(components(trainer))
    objects = boards >= trainer.dataset.vocab_bck
    for given, cells in ((read, read == 1), (None, objects)):
        use = masks & cells
        [row] = kept(trainer, boards, masks, [everything], read=given)
        assert row["hidden"] == pytest.approx(right[use].mean())
        assert row["boards"] == use.any((1, 2)).sum()
        for row in ablate(trainer, boards, masks, "b0_*", read=given):
            assert row["hidden"] + row["lost"] == pytest.approx(right[use].mean())
    with pytest.raises(ValueError, match="read must have a hidden cell .*, not none"):
        kept(trainer, boards, masks, [everything], read=np.zeros_like(boards))
    with pytest.raises(ValueError, match="read must have a hidden cell .*, not none"):
        ablate(trainer, boards * 0, masks, "b0_*")
    with pytest.raises(ValueError, match="read must"):
        kept(trainer, boards, masks, [everything], read=read[:-1])


@pytest.mark.parametrize("kind", ["factor", "lea"])
@pytest.mark.parametrize("how", ["mean", "zero"])
def test_an_ablation_does_not_depend_on_the_other_boards_under_test(kind, how):
    """The mean is one of boards of train: that of a single board under test would change nothing."""
    trainer = shaken(kind)
    boards, _, masks = two(trainer)
    boards[:, 0, 0], masks[:] = trainer.dataset.vocab_bck, 0
    masks[:, 0, :3] = 1
    read = np.ones_like(boards)
    place = "b1_mlp_update" if kind == "factor" else "b1_mlp"
    [together] = ablate(trainer, boards, masks, place, how, read)
    alone = [ablate(trainer, boards[[b]], masks[[b]], place, how, read[:1])[0] for b in range(len(boards))]
    for column in ("hidden", "lost"):
        assert np.mean([row[column] for row in alone]) == pytest.approx(together[column])
    circuits = [[], list(components(trainer))]
    together = kept(trainer, boards, masks, circuits, how, read)
    alone = [kept(trainer, boards[b], masks[b], circuits, how, read[0]) for b in range(len(boards))]
    for k in range(2):
        assert np.mean([rows[k]["hidden"] for rows in alone]) == pytest.approx(together[k]["hidden"])


@both
def test_what_is_put_there_comes_from_other_boards(kind):
    """An activation is never resampled from the board itself: it is one of train."""
    trainer = shaken(kind)
    drawn, hidden = held_out_boards(trainer, 5, np.random.default_rng(0))
    place = Stack(trainer).streams[0]
    for how in ("mean", "resample"):
        for boards, masks in ((drawn.boards, hidden), (drawn.boards[:1], np.ones_like(drawn.boards[:1]))):
            test = Ablations(trainer, boards, masks, how, np.ones_like(boards), None)
            with evaluating(trainer.transformer):
                acts, put = test.record([place])
            assert not (acts[place] == put[place]).all((1, 2)).any()


@pytest.mark.parametrize(("kind", "n"), list(itertools.product(["factor", "lea"], [1, 129])))  # 128 are computed at once
def test_any_number_of_boards(kind, n):
    trainer = shaken(kind)
    base, donor, masks = (np.repeat(array, 22, 0)[:n] for array in two(trainer))
    masks[:, 0, 0] = 1
    read = np.ones_like(base)
    assert lens(trainer, base, masks)[0]["boards"] == n
    for how in ("mean", "resample", "zero"):
        assert ablate(trainer, base, masks, "b0_*v", how, read)[0]["boards"] == n
        assert kept(trainer, base, masks, [[], ["b0 mlp"]], how, read)[0]["boards"] == n
    place = Stack(trainer).streams[0]
    assert patch(trainer, base, donor, masks, place, "all")[0]["recovered"] == 1
    assert len(attribution(trainer, base, donor, masks, place)) == 36
    if kind == "factor":
        assert paths(trainer, base, donor, masks)[-1]["recovered"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("more", [{}, dict(abs_w_c=2, abs_w_m=2)])
def test_pairs_differ_in_the_swapped_object_alone(more):
    """All in a window of the size of a root, also if tokens of the other object are drawn at random."""
    trainer = make(dataset=small_boards(board_dim=7, **more))
    base, donor, masks = pairs_of(trainer, 60, np.random.default_rng(0))
    assert len(base) > 20
    for differ, hidden in zip(base != donor, masks, strict=True):
        rows, columns = np.nonzero(differ)
        assert max(np.ptp(rows), np.ptp(columns)) < trainer.dataset.abs_dim
        assert (differ & hidden).any()


def test_attribution_is_the_slope_towards_the_donor():
    """Compared with patches of a small part of the way, in double precision."""
    trainer = shaken("factor")
    base, donor, masks = two(trainer)
    trainer.transformer.double()
    place, part = "b0_z_attn", 1e-6
    acts = [trainer.recorded(boards, masks, names=[place, "logit"]) for boards in (base, donor)]
    cells = np.arange(36).reshape(1, 6, 6)
    rows = attribution(trainer, base, donor, masks, place)
    assert len(rows) == 36
    assert -1 <= rows[0]["rank correlation"] <= 1
    for row in rows[:4]:
        read = masks & (base != donor) & (cells != row["cell"])
        value = acts[0][place].copy()
        value[:, row["cell"]] += part * (acts[1][place] - acts[0][place])[:, row["cell"]]
        patched = trainer.recorded(base, masks, {place: value}, ["logit"])["logit"]
        gains = [(logits[np.arange(6)[:, None, None], cells, donor] - logits[np.arange(6)[:, None, None], cells, base])[read].sum()
                 for logits in (patched, acts[0]["logit"], acts[1]["logit"])]
        assert row["estimate"] == pytest.approx((gains[0] - gains[1]) / part / (gains[2] - gains[1]), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("changed", "words"), [
    (dict(names="b7_z"), "names: 'b7_z' matches no activation"),
    (dict(names="ss_b0_mlp"), "names: 'ss_b0_mlp' matches no activation"),
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


def saved(kind, tmp_path, dataset):
    """The folder of a run with a checkpoint."""
    trainer = make(kind, dataset, runs=str(tmp_path), run_name="run", save_model=True)
    trainer.start_run()
    trainer.save_checkpoint(trainer.folder / "checkpoints" / "model_0.pth")
    return trainer.folder


PAIRED = {"patch", "patch_head", "patch_all", "attribution", "paths"}  # tables that need pairs of boards


@pytest.mark.parametrize("kind", ["factor", "lea"])
def test_the_command_writes_tables_and_pictures(kind, tmp_path, monkeypatch, capsys):
    folder = saved(kind, tmp_path, small_boards())
    run_study(monkeypatch, "circuits", folder, "--quick")
    out = folder / "analysis" / "circuits" / "quick"
    assert capsys.readouterr().out.strip() == str(out)
    names = {"lens", "ablate"} | (PAIRED if kind == "factor" else PAIRED - {"paths"})
    assert {path.name for path in out.iterdir()} == {f"{name}.{end}" for name in names for end in ("csv", "png")}
    for name in names:
        with open(out / f"{name}.csv", encoding="utf-8") as file:
            assert list(csv.DictReader(file)), name
        assert (out / f"{name}.png").stat().st_size > 5000, name


@pytest.mark.parametrize("boards", [dict(abs_n=2, bool_split=False), dict(board_types=["composition"], board_types_proba=[1])])
def test_runs_without_pairs_get_the_other_tables(boards, tmp_path, monkeypatch, capsys):
    """Fewer than three roots; composites alone. A run without a split is told that its boards are of train."""
    folder = saved("factor", tmp_path, small_boards(**boards))
    run_study(monkeypatch, "circuits", folder, "--quick")
    said = capsys.readouterr()
    assert "run: no patch, attribution and paths, as pairs of boards need single or double boards and three roots." in said.err
    assert ("of train" in said.err) == ("bool_split" in boards)
    found = {path.name for path in (folder / "analysis" / "circuits" / "quick").iterdir()}
    assert found == {"lens.csv", "lens.png", "ablate.csv", "ablate.png"}


@pytest.mark.parametrize("p", [0.1, 0.9])
def test_boards_are_masked_as_the_run_s_recipe_ends(p):
    trainer = make(masking_p=p, masking_patch_p=0, masking_patch_epoch=750)
    drawn, hidden = held_out_boards(trainer, 200, np.random.default_rng(0))
    assert set(drawn.types) == {0, 1, 2}
    assert hidden.mean() == pytest.approx(p, abs=0.05)


def test_a_folder_that_is_no_run_ends_in_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run_study(monkeypatch, "circuits", tmp_path)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
