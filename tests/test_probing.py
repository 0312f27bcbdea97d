"""Recording, editing and the pictures of the wrappers."""
import fnmatch
import itertools
import json
import random
import tracemalloc
import warnings
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import module_train_probe_lea
from module_dataset import AbstractionDataset
from module_train_probe import TrainTransformer
from parts.files import open_batches
from parts.probing import evaluation

STAGES = ("z", "attn_update", "z_attn", "mlp_update", "z_attn_mlp")
BLOCK = (*STAGES, "a", "v", "attn_v", "mlp_in")
Z_FIGURES = {f"embeddings_z{end}" for end in ("", "_norm", "_dist", "_dist_unit", "_dist_across", "_2D")}


def make_trainer(side=6, n_head=2, n_layer=2, cls=TrainTransformer, **params):
    types = {"board_types": ["single", "double"], "board_types_proba": [1, 1]} if side < 7 else {}
    dataset = AbstractionDataset(board_dim=side, seed=1, **types)
    params = {"n_embd": 8, "n_embd_pos": 4, "dtype": "float64", "device": "cpu", "seed": 2, "plot_dpi": 40} | params
    trainer = cls(dataset, n_head=n_head, n_layer=n_layer, **params)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # weights far enough from their start for every part to matter
        for p in trainer.transformer.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return trainer


def make_boards(trainer, n, seed=0):
    rng = np.random.default_rng(seed)
    boards = trainer.dataset.sample(n, "train", rng=rng).boards
    return boards, (rng.random(boards.shape) < 0.25).astype(int)


def plain_activations(trainer, boards, masks):
    """Named activations by SPEC's formulas in plain numpy."""
    w = {name: value.numpy() for name, value in trainer.transformer.state_dict().items()}
    H, n = trainer.n_head, len(boards)
    tokens = np.where(masks, trainer.masking_token, boards).reshape(n, -1)
    x, acts = w["tok_emb.weight"][tokens], {}
    p = np.broadcast_to(w["pos_emb"], (n, *w["pos_emb"].shape[1:]))

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[name + ".weight"] + w[name + ".bias"]

    def layer(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def heads(x):
        return x.reshape(n, -1, H, x.shape[-1] // H).swapaxes(1, 2)

    for i in range(trainer.n_layer):
        b, at = f"blocks.{i}.", {}
        at["z"] = norm(x, b + "ln1")
        seen = np.concatenate([at["z"], p], axis=-1)
        at["v"] = layer(seen, b + "attn.value")
        q, k = heads(layer(seen, b + "attn.query")), heads(layer(seen, b + "attn.key"))
        scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
        at["a"] = scores / scores.sum(-1, keepdims=True)
        at["attn_v"] = (at["a"] @ heads(at["v"])).swapaxes(1, 2).reshape(x.shape)
        at["attn_update"] = layer(at["attn_v"], b + "attn.proj")
        x = at["z_attn"] = x + at["attn_update"]
        at["mlp_in"] = norm(x, b + "ln2")
        h = layer(np.concatenate([at["mlp_in"], p], axis=-1), b + "mlp.0")
        h = h * 0.5 * (1 + torch.erf(torch.from_numpy(h) / np.sqrt(2)).numpy())
        at["mlp_update"] = layer(h, b + "mlp.2")
        x = at["z_attn_mlp"] = x + at["mlp_update"]
        acts |= {f"b{i}_{name}": value for name, value in at.items()}
    z = norm(x, "ln_f")
    return acts | {"z_out": z, "logit": z @ w["head.weight"].T}


def by_head(acts, H):
    out = dict(acts)
    for name, act in acts.items():
        if name.endswith("_a"):
            out |= {f"{name}_h{j}": act[:, j] for j in range(H)}
        if name[2:] == "_v":
            d = act.shape[-1] // H
            out |= {f"{name}_h{j}": act[..., j * d : (j + 1) * d] for j in range(H)}
    return out


def distances(x, unit=False):
    """(k, D) -> (k, k), pair by pair."""
    x = x / np.linalg.norm(x, axis=-1, keepdims=True) if unit else x
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def upper(x):
    return np.triu(np.ones(x.shape[-2:], bool)) * np.nan_to_num(x)


def drawn(figure, title):
    """What the panel of that title shows, 0 where nothing."""
    (ax,) = [ax for ax in figure.axes if ax.get_title() == title]
    return np.nan_to_num(np.ma.filled(ax.images[0].get_array(), 0))


def hook_count(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in network.modules())


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A trainer on which every probing method has run, from empty folders."""
    side, H, L = 6, 2, 2
    root = tmp_path_factory.mktemp("probed")
    t = make_trainer(side, H, L, runs=str(root / "runs"), run_name="run")
    boards, masks = make_boards(t, 7)
    board, board_abs = t.dataset._draw_board_deterministic("root", [1, 2], [[0, 0], [3, 2]], token_bck=4)
    queries = np.full(board.shape, -1)
    queries[3, 3], queries[0, 1], queries[5, 0] = 0, 1, 2
    abs_all = np.where(boards >= t.dataset.vocab_bck, 0, -1)
    focus = np.zeros_like(boards)
    for k, f in enumerate(focus):
        f[k % 3 : k % 3 + 2, k % 4 : k % 4 + 2] = 1
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    t.transformer.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = {
            "": t.analyze_embeddings_tokenandpos(),
            "one": t.analyze_embeddings(board, board_abs, bool_sharedCmap=True, masking={"bool_mask": False}),
            "all": t.analyze_all(board, board_abs, masks[0], queries, "all"),
            "across": t.analyze_across_boards(boards, masks, folder="across"),
            "focus": t.analyze_across_boards(boards, masks, focus, folder="focus"),
            "var": t.analyze_across_boards_attn(boards, masks, queries, folder="var"),
        }
        t.forward_svg(board, board_abs, masks[0], root / "svg")
        t.forward_pca(boards, abs_all, masks, root / "pca", {"note": np.arange(2), "nb_heads": "mine"})
        t.forward_pca_batch(boards, abs_all, masks, root / "batch", 3)
    for before, after in zip(states, (random.getstate(), np.random.get_state()[1], torch.get_rng_state()), strict=True):  # noqa: NPY002
        assert np.array_equal(before, after) if isinstance(after, (np.ndarray, torch.Tensor)) else before == after
    assert t.transformer.training
    assert hook_count(t.transformer) == 0
    assert plt.get_fignums() == []
    return SimpleNamespace(t=t, root=root, boards=boards, masks=masks, abs_all=abs_all, board=board, board_abs=board_abs,
                           focus=focus, figures=figures, cells=[(3, 3), (0, 1), (5, 0)], side=side, H=H, L=L,
                           acts=plain_activations(t, boards, masks), own=plain_activations(t, board[None], masks[:1]))


def test_figure_files_are_those_of_the_contract(probed):
    heads = [f"b{i}_h{j}" for i in range(probed.L) for j in range(probed.H)]
    means = [f"b{i}_h-1" for i in range(probed.L)]
    expected = {"embedding_token", "embedding_pos", "embedding_pos_2d", "embeddings_z", "embeddings_z_dist",
                "embeddings_z_dist_across", "across/embeddings_z_acrossBoards", "focus/embeddings_z_acrossBoards"}
    expected |= {f"all/{name}" for name in (*Z_FIGURES, "attn", "attn_merge", *(f"attn_{h}" for h in heads + means))}
    expected |= {f"var/attnVar_{h}" for h in (*heads, "merge")}
    folder = probed.root / "runs" / "run" / "analysis"
    assert files_in(folder) == {f"{name}.jpg" for name in expected}
    for name, figures in (("all/", probed.figures["all"]), ("var/", probed.figures["var"])):
        assert {name + key for key in figures} == {e for e in expected if e.startswith(name) and "merge" not in e}
    one, merged = (Image.open(folder / "all" / f"attn_{name}.jpg").size for name in ("b0_h0", "merge"))
    assert merged[0] == probed.L * one[0] + 10 * (probed.L - 1)
    assert merged[1] == probed.H * one[1] + 10 * (probed.H - 1)


def test_svg_files_hold_one_boards_activations(probed):
    acts = by_head({name: act for name, act in probed.own.items() if name[0] == "b"}, probed.H)
    folder = probed.root / "svg"
    assert files_in(folder) == {"meta.json", "svg_groups.npy", "svg_mask.npy", *(f"svg_{name}.npy" for name in acts)}
    assert {name.split("_", 1)[1] for name in acts if "_h" not in name} == set(BLOCK)
    for name, act in acts.items():
        np.testing.assert_allclose(np.load(folder / f"svg_{name}.npy"), act[0], rtol=1e-9, atol=1e-12, err_msg=name)
    assert np.array_equal(np.load(folder / "svg_groups.npy"), probed.board_abs.ravel())
    assert np.array_equal(np.load(folder / "svg_mask.npy"), probed.masks[0].ravel())
    meta = {"nb_blocks": probed.L, "nb_heads": probed.H, "nb_tokens": probed.side**2, "dim_emb": 8}
    assert json.loads((folder / "meta.json").read_text()) == meta


def test_pca_files_hold_every_activation(probed):
    arrays = by_head(probed.acts, probed.H) | {
        "boards": probed.boards, "boards_abs": probed.abs_all, "masks": probed.masks,
        "masked_boards": np.where(probed.masks, probed.t.masking_token, probed.boards),
    }
    folder = probed.root / "pca"
    assert files_in(folder) == {"meta.json", *(f"{name}.npy" for name in arrays)}
    for name, array in arrays.items():
        np.testing.assert_allclose(np.load(folder / f"{name}.npy"), array, rtol=1e-9, atol=1e-12, err_msg=name)
    meta = json.loads((folder / "meta.json").read_text())
    assert meta == {"nb_blocks": probed.L, "nb_heads": "mine", "nb_tokens": probed.side**2, "dim_emb": 8, "note": [0, 1]}


def test_batched_files_are_the_same_arrays(probed):
    folder, names = probed.root / "batch", [path.stem for path in (probed.root / "pca").glob("*.npy")]
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["batches"] == [[0, 1, 2], [3, 4], [5, 6]]
    assert files_in(folder) == {"meta.json", *(f"batch_{k}_{name}.npy" for k in range(3) for name in names)}
    for name in names:
        whole, opened = np.load(probed.root / "pca" / f"{name}.npy"), open_batches(folder, name)
        assert (len(opened), opened.shape, opened.dtype) == (7, whole.shape, whole.dtype)
        np.testing.assert_allclose(np.asarray(opened), whole, rtol=1e-9, atol=1e-12)
    whole = np.asarray(opened)
    for key in (0, -1, slice(1, 6, 2), [6, 0, 3], np.arange(7) % 2 == 0, np.array([[0, 5], [2, 2]])):
        assert np.array_equal(opened[key], whole[key])
    assert np.array_equal(list(opened), whole)
    with pytest.raises(IndexError):
        opened[7]
    with pytest.raises(ValueError, match="batch_0_nothing.npy"):
        open_batches(folder, "nothing")


def test_z_panels_show_the_activations(probed):
    figures, own, side = probed.figures["all"], {name: act[0] for name, act in probed.own.items()}, probed.side
    stages = [f"b{i}_{stage}" for i in range(probed.L) for stage in STAGES]
    for name in stages:
        z = own[name]
        np.testing.assert_allclose(drawn(figures["embeddings_z"], name), z, atol=1e-9)
        np.testing.assert_allclose(drawn(figures["embeddings_z_norm"], name), np.sqrt((z**2).sum(-1)).reshape(side, side))
        np.testing.assert_allclose(drawn(figures["embeddings_z_dist"], name), upper(distances(z)), atol=1e-9)
        unit = distances(z, unit=True)
        np.testing.assert_allclose(drawn(figures["embeddings_z_dist_unit"], name), upper(unit), atol=1e-7)
        board_of_boards = np.block([[unit[i * side + j].reshape(side, side) for j in range(side)] for i in range(side)])
        np.testing.assert_allclose(drawn(figures["embeddings_z_2D"], name), board_of_boards, atol=1e-7)
    by_token = np.stack([own[name] for name in stages], axis=1)  # (T, stages, D)
    for folder, unit in (("all", True), ("one", False)):
        figure = probed.figures[folder]["embeddings_z_dist_across"]
        if not unit:  # drawn without a mask
            plain = plain_activations(probed.t, probed.board[None], np.zeros_like(probed.masks[:1]))
            by_token = np.stack([plain[name][0] for name in stages], axis=1)
        maps = np.array([upper(distances(z, unit)) for z in by_token])
        rows = [np.hstack(maps[i * side : (i + 1) * side]) for i in range(side)]
        shown = drawn(figure, "stages by stages of each token, laid out as the board")
        np.testing.assert_allclose(shown, np.vstack(rows), atol=1e-7)
        np.testing.assert_allclose(drawn(figure, "mean over tokens"), maps.mean(0), atol=1e-7)
    axes = [ax for ax in probed.figures["one"]["embeddings_z"].axes if ax.get_title() in stages]
    assert len({tuple(ax.images[0].get_clim()) for ax in axes}) == 1


def test_objects_are_marked_below_the_diagonal(probed):
    objects = probed.board_abs.ravel()
    for name in ("embeddings_z_dist", "embeddings_z_dist_unit"):
        (ax,) = [ax for ax in probed.figures["all"][name].axes if ax.get_title() == "b0_z"]
        marks = ax.images[1].get_array()
        same = np.tril((objects[:, None] == objects) & (objects >= 0), -1)
        assert np.array_equal(marks[..., 3] > 0, same)
        first, second = (np.tril(np.outer(objects == k, objects == k), -1) for k in (0, 1))
        assert len({tuple(rgb) for rgb in marks[first]}) == len({tuple(rgb) for rgb in marks[second]}) == 1
        assert not np.allclose(marks[first][0], marks[second][0])


def test_attention_panels_show_each_query(probed):
    figures, side = probed.figures["all"], probed.side
    for i, j in itertools.product(range(probed.L), range(-1, probed.H)):
        a = probed.own[f"b{i}_a"][0]
        weights = a.mean(0) if j == -1 else a[j]
        for q, (row, col) in enumerate(probed.cells):
            shown = drawn(figures[f"attn_b{i}_h{j}"], f"query {q} at ({row}, {col})")
            np.testing.assert_allclose(shown, weights[row * side + col].reshape(side, side), atol=1e-9)
            if j >= 0:
                var = probed.acts[f"b{i}_a"][:, j, row * side + col].var(0).reshape(side, side)
                shown = drawn(probed.figures["var"][f"attnVar_b{i}_h{j}"], f"query {q} at ({row}, {col})")
                np.testing.assert_allclose(shown, var, atol=1e-9)
        if j >= 0:
            log = np.log(weights / weights.max(1, keepdims=True)).reshape(side, side, side, side)
            rows = np.block([[log[r, c] for c in range(side)] for r in range(side)])
            np.testing.assert_allclose(drawn(figures["attn"], f"block {i}, head {j}"), rows, atol=1e-7)


def test_boards_are_compared_token_by_token(probed):
    n, side = len(probed.boards), probed.side
    for i, stage in itertools.product(range(probed.L), STAGES):
        act = probed.acts[f"b{i}_{stage}"].reshape(n, side, side, -1)
        for folder, values, s in (("across", act, side), ("focus", act[probed.focus == 1].reshape(n, 2, 2, -1), 2)):
            unit = values / np.linalg.norm(values, axis=-1, keepdims=True)
            pairs = [np.linalg.norm(unit[k] - unit[m], axis=-1) for k, m in itertools.combinations(range(n), 2)]
            shown = drawn(probed.figures[folder]["embeddings_z_acrossBoards"], f"b{i}_{stage}")
            assert shown.shape == (s, s)
            np.testing.assert_allclose(shown, np.mean(pairs, axis=0), atol=1e-7)


def test_embedding_tables_are_drawn(probed):
    side, t = probed.side, probed.t
    tokens, places = t.transformer.tok_emb.weight.detach().numpy(), t.transformer.pos_emb[0].detach().numpy()
    for name, table, title in (("embedding_token", tokens, "token embeddings"), ("embedding_pos", places, "position codes")):
        figure = probed.figures[""][name]
        unit = table / np.linalg.norm(table, axis=1, keepdims=True)
        np.testing.assert_allclose(drawn(figure, title), table)
        np.testing.assert_allclose(drawn(figure, "Euclidean distance"), distances(table), atol=1e-9)
        np.testing.assert_allclose(drawn(figure, "unit-norm Euclidean distance"), distances(table, True), atol=1e-7)
        np.testing.assert_allclose(drawn(figure, "cosine"), unit @ unit.T, atol=1e-9)
    d = distances(places).reshape(side, side, side, side)
    rows = np.block([[d[r, c] for c in range(side)] for r in range(side)])
    np.testing.assert_allclose(drawn(probed.figures[""]["embedding_pos_2d"], "Euclidean distance"), rows, atol=1e-9)
    lines = probed.figures[""]["embedding_token"].axes[1].collections  # between families, across and down
    for collection, axis in zip(lines, (1, 0), strict=True):
        assert [path.vertices[0, axis] for path in collection.get_paths()] == [9.5, 19.5]


def test_figures_need_no_display_and_are_on_no_list(probed):
    assert plt.get_fignums() == []
    assert all(figure.canvas.manager is None for figures in probed.figures.values() for figure in figures.values())


def test_a_board_is_drawn_when_none_is_given(tmp_path):
    t = make_trainer(7, n_layer=1, runs=str(tmp_path))
    for params, objects in (({"nb_root_abs": 2}, 2), ({"composite": 1, "margin": 1}, 4)):
        figures = t.analyze_embeddings(board_params=params)
        assert set(figures) == {"embeddings_z", "embeddings_z_dist", "embeddings_z_dist_across"}
        (ax,) = [ax for ax in figures["embeddings_z_dist"].axes if ax.get_title() == "b0_z"]
        assert 1 <= len({tuple(rgba) for rgba in ax.images[1].get_array().reshape(-1, 4)} - {(0, 0, 0, 0)}) <= objects
    assert files_in(tmp_path) == {f"analysis/{name}.jpg" for name in figures}
    for keywords in ({"board_params": {"roots": 1}}, {"masking": {"q": 1}}):
        with pytest.raises(ValueError, match=f"{list(keywords)[0]} has no key"):
            t.analyze_embeddings(**keywords)


def test_golden_activations_and_edits(golden):
    z = np.load(golden / "factor.npz")
    config = json.loads(str(z["config"]))
    sizes = {name: config[name] for name in ("n_layer", "n_head", "n_embd", "n_embd_pos")}
    t = TrainTransformer(AbstractionDataset(), dtype="float64", device="cpu", **sizes)
    t.transformer.load_state_dict({name[5:]: torch.from_numpy(z[name]) for name in z.files if name.startswith("init.")})
    boards = z["x"].reshape(-1, 8, 8)
    acts, recons = t.forward_all_activations(boards, np.zeros_like(boards), return_recons=True)
    assert set(acts) == {name[4:] for name in z.files if name.startswith("act.")}
    for name, act in acts.items():
        np.testing.assert_allclose(act, z[f"act.{name}"], rtol=1e-9, atol=1e-12, err_msg=name)
    assert np.array_equal(recons.reshape(6, 64), z["logits"].argmax(-1))
    edited = [name.split(".")[1] for name in z.files if name.startswith("edit.")]
    assert len(edited) == 6
    for place in edited:
        edits = {place: z[f"edit.{place}"]} if place == "z_out" else {place[:2]: {place[3:]: z[f"edit.{place}"]}}
        acts = t.forward_all_activations(boards, np.zeros_like(boards), edits)
        np.testing.assert_allclose(acts["logit"], z[f"edited_logits.{place}"], rtol=1e-9, atol=1e-12, err_msg=place)
        assert np.array_equal(acts[place], z[f"edit.{place}"])


def nested(place, edit):
    return {place: edit} if place == "z_out" else {place[:2]: {place[3:]: edit}}


SITES = ("z", "attn_update", "mlp_in", "mlp_update", "z_attn_mlp")
PLACES = [f"b{i}_{site}" for i in range(2) for site in SITES] + ["z_out"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_patching_with_own_activations_changes_nothing(dtype):
    t = make_trainer(dtype=dtype)
    boards, masks = make_boards(t, 5)
    acts = t.forward_all_activations(boards, masks)
    edits = {"b0": {}, "b1": {}}
    for place in PLACES:
        patched = t.forward_all_activations(boards, masks, nested(place, acts[place]))
        assert all(np.array_equal(patched[name], acts[name]) for name in acts), place
        edits.get(place[:2], edits)[place[3:] if place != "z_out" else place] = torch.from_numpy(acts[place])
    assert np.array_equal(t.forward_all_activations(boards, masks, edits)["logit"], acts["logit"])


@pytest.mark.parametrize("place", PLACES)
def test_all_kinds_of_edits_agree_and_leave_the_callers_alone(place, monkeypatch):
    monkeypatch.setattr(evaluation, "EVAL_BATCH", 4)
    t = make_trainer()
    boards, masks = make_boards(t, 9)
    rng = np.random.default_rng(5)
    acts, one = t.forward_all_activations(boards, masks), rng.normal(size=(36, 8))
    each, where = np.repeat(one[None], 9, axis=0), rng.random((9, 36)) < 0.3
    expected = t.forward_all_activations(boards, masks, nested(place, each))
    assert not np.allclose(expected["logit"], acts["logit"])
    assert np.array_equal(expected[place], each)
    for same in (one, one.tolist(), torch.from_numpy(one), each[::-1], (each, np.ones(36)), lambda x: torch.from_numpy(one)):
        assert np.array_equal(t.forward_all_activations(boards, masks, nested(place, same))["logit"], expected["logit"])
    masked = each + np.arange(9)[:, None, None]
    masked.flags.writeable = False
    edits = nested(place, (masked, where))
    before, kept = repr(edits), where.copy()
    found = t.forward_all_activations(boards, masks, edits)
    wanted = np.where(where[..., None], masked, acts[place])
    np.testing.assert_allclose(found[place], wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(t.forward_all_activations(boards, masks, nested(place, wanted))["logit"], found["logit"])
    assert repr(edits) == before
    assert np.array_equal(where, kept)
    for push in (lambda x: x + 2, lambda x: x.add_(2)):  # one that writes in place changes no other tokens either
        pushed = t.forward_all_activations(boards, masks, nested(place, (push, where)))
        np.testing.assert_allclose(pushed[place], acts[place] + 2 * where[..., None], rtol=0, atol=1e-12)


def test_functions_see_the_boards_in_order(monkeypatch):
    monkeypatch.setattr(evaluation, "EVAL_BATCH", 4)
    t = make_trainer()
    boards, masks = make_boards(t, 9)
    seen = []
    acts = t.forward_all_activations(boards, masks, {"b1": {"z": lambda x: (seen.append(x.clone()), x * 0)[1]}})
    assert [len(x) for x in seen] == [4, 4, 1]
    assert np.array_equal(torch.cat(seen), t.forward_all_activations(boards, masks)["b1_z"])
    assert not acts["b1_z"].any()


BAD_EDITS = [
    ({"b2": {"z": 0}}, ValueError, "'b2'"), ({"b1_z": 0}, ValueError, "b1_z"), ({"b1": {"v": 0}}, ValueError, "b1_v"),
    ({"b1": {"b1": {"z": 0}}}, ValueError, "'b1_b1'"), ({"b1": {"z": {"z": 0}}}, ValueError, "b1_z"), ({1: 0}, ValueError, "1"),
    ({"z_out": {"z_out": 0}}, ValueError, "z_out"), ({"b0": 0}, ValueError, "'b0'"),
    ({"z_out": np.zeros((36, 9))}, ValueError, "z_out"), ({"b0": {"mlp_in": np.zeros((4, 36, 8))}}, ValueError, "b0_mlp_in"),
    ({"b0": {"z": np.zeros((5, 35, 8))}}, ValueError, "b0_z"), ({"b0": {"z": np.zeros((1, 36, 8))}}, ValueError, "b0_z"),
    ({"b0": {"z": lambda x: x[:1, 0]}}, ValueError, "b0_z"), ({"b0": {"z": lambda x: "no"}}, ValueError, "b0_z"),
    ({"b0": {"z": (np.zeros((36, 8)), np.ones(5))}}, ValueError, "mask of edit b0_z"),
    ({"b0": {"z": (np.zeros((36, 8)), np.ones((4, 36)))}}, ValueError, "mask of edit b0_z"),
    ({"b0": {"z": (np.zeros((36, 8)),)}}, ValueError, "b0_z"), ({"b0": {"z": [[1], [1, 2]]}}, ValueError, "b0_z"),
    ([("b0", 0)], TypeError, "edits"), ({"b0": {"z": "word"}}, ValueError, "b0_z"),
]


@pytest.mark.parametrize(("edits", "error", "words"), BAD_EDITS)
def test_wrong_edits_are_refused_by_name(edits, error, words):
    t = make_trainer()
    boards, masks = make_boards(t, 5)
    with pytest.raises(error, match=words):
        t.forward_all_activations(boards, masks, edits)
    assert hook_count(t.transformer) == 0


def test_own_hooks_go_and_foreign_ones_stay():
    t = make_trainer()
    boards, masks = make_boards(t, 3)
    calls = []
    handle = t.transformer.sites["b0_z"].register_forward_hook(lambda *args: calls.append(1))
    t.transformer.blocks[0].register_forward_pre_hook(lambda *args: calls.append(2))
    t.forward_all_activations(boards, masks)

    def fails(x):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        t.forward_all_activations(boards, masks, {"b1": {"z": fails}})
    with pytest.raises(KeyError), t.record("b0*"):
        raise KeyError
    with pytest.raises(ValueError, match="b9_z"), t.record("b9_z"):
        pass
    assert calls == [2, 1, 2, 1]
    assert hook_count(t.transformer) == 2
    handle.remove()
    assert hook_count(t.transformer) == 1


def test_recons_and_verbose(capsys):
    t = make_trainer()
    boards, masks = make_boards(t, 3)
    acts, recons = t.forward_all_activations(boards[0], masks[0], return_recons=True)
    assert recons.shape == (1, 6, 6)
    assert capsys.readouterr() == ("", "")
    acts, recons = t.forward_all_activations(boards, torch.from_numpy(masks), verbose=True, return_recons=True)
    assert np.array_equal(recons, acts["logit"].argmax(-1).reshape(3, 6, 6))
    assert f"right tokens {100 * (recons == boards).mean():.2f}%" in capsys.readouterr().out


@pytest.mark.parametrize("names", ["b1_z", "b*_update", ["z_out", "b0_a"], "logit", ["b0_z", "log*"], None])
def test_only_what_is_named_is_recorded(names, monkeypatch):
    monkeypatch.setattr(evaluation, "EVAL_BATCH", 4)
    t = make_trainer()
    boards, masks = make_boards(t, 9)
    whole, recons = t.forward_all_activations(boards, masks, return_recons=True)
    patterns = ["*"] if names is None else [names] if isinstance(names, str) else names
    wanted = {name for name in whole for pattern in patterns if fnmatch.fnmatch(name, pattern)}
    acts = t.forward_all_activations(boards, masks, names=names)
    both = t.forward_all_activations(boards, masks, names=names, return_recons=True)
    assert set(acts) == set(both[0]) == wanted
    assert all(np.array_equal(acts[name], whole[name]) for name in wanted)
    assert np.array_equal(both[1], recons)
    with pytest.raises(ValueError, match="b7_z"):
        t.forward_all_activations(boards, masks, names="b7_z", return_recons=True)


def test_memory_is_that_of_what_is_named():
    t = make_trainer(dtype="float32")
    boards, masks = make_boards(t, 3000)
    t.forward_all_activations(boards[:2], masks[:2])
    peaks = []
    for names in ("b1_z", None):
        tracemalloc.start()
        acts = t.forward_all_activations(boards, masks, names=names)
        peaks.append(tracemalloc.get_traced_memory()[1] / sum(act.nbytes for act in acts.values()))
        tracemalloc.stop()
    assert peaks[0] < 3  # boards and masks are of the size of one activation of this small network
    assert peaks[1] < 1.2


def test_recordings_go_to_disk_batch_by_batch(tmp_path, monkeypatch):
    t = make_trainer(dtype="float32")
    boards, masks = make_boards(t, 3000)
    edits, names = {"b0": {"z_attn": lambda x: 2 * x}}, ["b1_z", "b*_a"]
    whole = t.recorded(boards, masks, edits, names)
    tracemalloc.start()
    opened = t.recorded(boards, masks, edits, names, tmp_path / "new")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sum(act.nbytes for act in whole.values()) / 100
    assert files_in(tmp_path / "new") == {f"{name}.npy" for name in whole}
    for name, act in whole.items():
        assert isinstance(opened[name], np.memmap)
        assert np.array_equal(opened[name], act)
        assert np.array_equal(np.load(tmp_path / "new" / f"{name}.npy"), act)
    monkeypatch.setattr(t, "_forward", lambda tokens: t.transformer(tokens) if len(tokens) == evaluation.EVAL_BATCH else 1 / 0)
    with pytest.raises(ZeroDivisionError):  # in the last batch: files are complete or not there
        t.recorded(boards, masks, names="z_out", folder=tmp_path / "cut")
    assert files_in(tmp_path / "cut") == set()


@pytest.mark.filterwarnings("error")
def test_wrong_inputs_are_named(tmp_path):
    t = make_trainer(runs=str(tmp_path))
    b, m = make_boards(t, 3)
    q = np.full((6, 6), -1)
    q[0, 0] = 0
    calls = [
        ("boards", lambda: t.forward_all_activations(b[:, :5], m)), ("masks", lambda: t.forward_all_activations(b, m[:2])),
        ("masks", lambda: t.forward_all_activations(b, m - 1)), ("boards", lambda: t.forward_all_activations(b[:0], m[:0])),
        ("masks", lambda: t.forward_all_activations(b, None)), ("boards", lambda: t.forward_all_activations(b * np.nan, m)),
        ("boards", lambda: t.forward_all_activations(b + 20, m)), ("boards", lambda: t.forward_all_activations(b + 0.5, m)),
        ("board ", lambda: t.forward_svg(b, q, m[0])), ("board_abs", lambda: t.forward_svg(b[0], q[0], m[0])),
        ("boards_abs", lambda: t.forward_pca(b, q, m)), ("extra_meta", lambda: t.forward_pca(b, b, m, extra_meta={"a": t})),
        ("batch_size", lambda: t.forward_pca_batch(b, b, m, tmp_path, 0)),
        ("batch_size", lambda: t.forward_pca_batch(b, b, m, tmp_path, 1.5)),
        ("mask ", lambda: t.analyze_all(b[0], q, b[0], q)), ("queries", lambda: t.analyze_all(b[0], q, m[0], q * 0 - 1)),
        ("queries", lambda: t.analyze_across_boards_attn(b, m, q[:3])),
        ("boards must be at least two", lambda: t.analyze_across_boards(b[:1], m[:1])),
        ("focus_masks", lambda: t.analyze_across_boards(b, m, np.arange(108).reshape(3, 6, 6) < 40)),
        ("focus_masks", lambda: t.analyze_across_boards(b, m, m * 0)),
        ("boards", lambda: t.forward_all_activations([[1, 2], [3]], m)),
        ("boards", lambda: t.forward_all_activations(b + np.inf, m)),
        ("nb_root_abs", lambda: t.analyze_embeddings(board_params={"nb_root_abs": 0})),
        ("nb_root_abs", lambda: t.analyze_embeddings(board_params={"nb_root_abs": 1.5})),
        ("board_params", lambda: t.analyze_embeddings(board_params=3)),
        ("masking must", lambda: t.analyze_embeddings(masking=[0.2])),
    ]
    for words, call in calls:
        with pytest.raises((ValueError, TypeError), match=words):
            call()
    assert files_in(tmp_path) == set()
    assert hook_count(t.transformer) == 0


def test_parts_of_analyze_all_can_be_left_out(tmp_path, monkeypatch):
    t = make_trainer(n_layer=1, runs=str(tmp_path))
    saving = TrainTransformer._save
    monkeypatch.setattr(TrainTransformer, "_save", lambda self, figures, *_: figures)
    (board,), (mask,) = make_boards(t, 1)
    assert set(t.analyze_all(board, board * 0 - 1, mask, None, "z", bool_attn=False)) == Z_FIGURES
    q = np.where(np.arange(36).reshape(6, 6) < 12, np.arange(36).reshape(6, 6), -1)  # more queries than fit in a row
    figures = t.analyze_all(board, board * 0 - 1, mask, q, "a", bool_z=False)
    assert set(figures) == {"attn", "attn_b0_h-1", "attn_b0_h0", "attn_b0_h1"}
    assert sum("query" in ax.get_title() for ax in figures["attn_b0_h0"].axes) == 12
    same = np.repeat(board[None], 2, axis=0)  # nothing varies
    monkeypatch.setattr(TrainTransformer, "_save", saving)
    q = np.where(q < 2, q, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t.analyze_across_boards_attn(same, same * 0, q)
        t.analyze_across_boards(same, same * 0)


def test_extra_meta_and_a_second_export(tmp_path):
    t = make_trainer(n_layer=1)
    boards, masks = make_boards(t, 5)
    extra = {"x": 1}
    t.forward_pca(boards, boards, masks, tmp_path, extra)
    assert extra == {"x": 1}
    t.forward_pca(boards, boards, masks, tmp_path)
    assert "x" not in json.loads((tmp_path / "meta.json").read_text())
    t.forward_pca_batch(boards, boards, masks, tmp_path / "b", 1)
    t.forward_pca_batch(boards, boards, masks, tmp_path / "b", 10)  # fewer, larger batches over it
    assert np.array_equal(open_batches(tmp_path / "b", "boards"), boards)


@pytest.mark.parametrize("kind", ["factor", "vanilla"])
def test_language_enhanced_networks_inherit_it_all(kind, tmp_path):
    t = make_trainer(6, 2, 1, module_train_probe_lea.TrainTransformer, transformer_type=kind, vocab_speech_size=5,
                     block_speech_size=4, runs=str(tmp_path / "runs"), run_name="lea")
    boards, masks = make_boards(t, 4)
    acts, recons = t.forward_all_activations(boards, masks, return_recons=True)
    own = t.forward_activations_fromBoard(boards, masks)
    assert set(own) < set(acts)
    assert acts["b0_crossAttn_a"].shape == (4, 2, 36, 4)
    assert all(np.array_equal(acts[name], own[name]) for name in own)
    assert np.array_equal(recons, t.speaker_predict(boards, masks)[0])
    t.forward_svg(boards[0], boards[0], masks[0], tmp_path / "svg")
    assert np.array_equal(np.load(tmp_path / "svg" / "svg_b0_selfAttn_v_h1.npy"),
                          t.forward_all_activations(boards[0], masks[0])["b0_selfAttn_v"][0, :, 4:])
    t.forward_pca_batch(boards, boards, masks, tmp_path / "pca", 3)
    np.testing.assert_allclose(open_batches(tmp_path / "pca", "b0_crossAttn_a_h1")[:], acts["b0_crossAttn_a"][:, 1])
    with pytest.raises(ValueError, match="edits"):
        t.forward_all_activations(boards, masks, {"b0": {"z": acts["z_out"]}})
    unedited = t.forward_all_activations(boards, masks, {"ss_b0_out": np.zeros((4, 4, 8))})  # not in this pass
    assert np.array_equal(unedited["logit"], acts["logit"])
    edited = t.forward_all_activations(boards, masks, {"b0": {"out": acts["b0_out"][::-1]}})
    assert np.array_equal(edited["b0_out"], acts["b0_out"][::-1])
    np.testing.assert_allclose(edited["logit"], acts["logit"][::-1], atol=1e-12)
    assert hook_count(t.transformer) == 0
    figures, network = t.analyze_embeddings_tokenandpos(), t.transformer
    tokens, places = network.ps_token_embedding.weight.detach(), network.ps_pos_emb.weight.detach()
    np.testing.assert_allclose(drawn(figures["embedding_token"], "token embeddings"), tokens)
    np.testing.assert_allclose(drawn(figures["embedding_pos"], "position codes"), places)
    if kind == "vanilla":  # all other figures are of recorded activations, as those of the factorised network
        return
    queries = np.full((6, 6), -1)
    queries[1, 2], queries[4, 4] = 0, 1
    figures = t.analyze_all(boards[0], np.where(boards[0] > 9, 0, -1), masks[0], queries)
    heads = ("b0_h-1", "b0_h0", "b0_h1")
    assert set(figures) == Z_FIGURES | {"attn", "crossAttn"} | {f"{p}_{h}" for p in ("attn", "crossAttn") for h in heads}
    np.testing.assert_allclose(drawn(figures["embeddings_z"], "b0_crossAttn"), acts["b0_crossAttn"][0])
    read = drawn(figures["crossAttn_b0_h1"], "block 0, head 1: query by word")
    np.testing.assert_allclose(read, acts["b0_crossAttn_a"][0, 1, [8, 28]])
    looked = drawn(figures["attn_b0_h0"], "query 0 at (1, 2)")
    np.testing.assert_allclose(looked, acts["b0_selfAttn_a"][0, 0, 8].reshape(6, 6))
    t.analyze_embeddings()
    t.analyze_across_boards(boards, masks)
    figures = t.analyze_across_boards_attn(boards, masks, queries)
    np.testing.assert_allclose(drawn(figures["crossAttnVar_b0_h0"], "block 0, head 0: query by word"),
                               acts["b0_crossAttn_a"][:, 0, [8, 28]].var(0), atol=1e-12)
    files = files_in(tmp_path / "runs")
    merged = {f"lea/analysis/default/{p}_merge.jpg" for p in ("attn", "crossAttn", "attnVar", "crossAttnVar")}
    assert merged | {f"lea/analysis/default/{name}.jpg" for name in (*Z_FIGURES, "attn_b0_h-1", "attnVar_b0_h0")} <= files
