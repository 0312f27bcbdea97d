"""utils: numbers against plain loops, random streams, folders, text, images joined."""
import itertools
import json
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import module_train_probe
import module_train_probe_lea
import utils

# numbers


def test_helpers_golden(golden):
    z = np.load(golden / "helpers.npz")
    for name in ("dist", "dist_unit", "dist_cosine"):
        np.testing.assert_allclose(getattr(utils, name)(z["X"]), z[name], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(utils.torch_entropy(torch.tensor(z["entropy_logits"])), z["entropy"], rtol=1e-6)
    np.testing.assert_allclose(utils.ramp(z["ramp_x"], 0.8, 0.33, 100, 250), z["ramp"], rtol=1e-9)
    np.testing.assert_allclose([utils.ramp(x, 0.8, 0.33, 100, 250) for x in z["ramp_x"]], z["ramp"], rtol=1e-9)
    assert [list(utils.find_best_plot_dim(int(n))) for n in z["plot_n"]] == z["plot_dim"].tolist()
    batches = [utils.divide_into_batches(range(n), parts) for n, parts in ((10, 3), (7, 7), (12, 5))]
    assert batches == json.loads(str(z["batches"]))


def loop_distances(X, kind):
    """n x n, by loops over rows and coordinates."""
    n, out = len(X), np.zeros((len(X), len(X)))
    if kind != "dist":
        X = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in X]
    for i in range(n):
        for j in range(i, n):
            if kind == "dist_cosine":
                out[i, j] = sum(a * b for a, b in zip(X[i], X[j], strict=True))
            else:
                out[i, j] = math.sqrt(sum((a - b) ** 2 for a, b in zip(X[i], X[j], strict=True)))
    return out


@pytest.mark.parametrize("kind", ["dist", "dist_unit", "dist_cosine"])
@pytest.mark.parametrize("shape", [(1, 3), (6, 4), (2, 3, 5, 2)])
def test_distances_are_those_of_loops(kind, shape):
    X = np.random.default_rng(0).normal(size=shape)
    out = getattr(utils, kind)(X)
    assert isinstance(out, np.ndarray)
    assert out.shape == (*shape[:-1], shape[-2])
    for at in np.ndindex(shape[:-2]):
        np.testing.assert_allclose(out[at], loop_distances(X[at], kind), rtol=1e-10, atol=1e-10)
    tensor = getattr(utils, kind)(torch.tensor(X, dtype=torch.float32))
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), out, rtol=2e-4, atol=2e-4)


def test_close_rows_keep_their_small_distance():
    X = np.array([[1e4, 1e4], [1e4, 1e4 + 1e-6]])
    np.testing.assert_allclose(utils.dist(X)[0, 1], X[1, 1] - X[0, 1], rtol=1e-12)
    far = torch.tensor([[1000.0, 1000.0], [1000.0, 1000.125]])
    assert utils.dist(far)[0, 1] == 0.125


def test_a_zero_row_has_no_direction_but_makes_no_nan():
    X = np.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(utils.dist_unit(X), [[0, 1], [0, 0]])
    np.testing.assert_allclose(utils.dist_cosine(X), [[0, 0], [0, 1]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["dist", "dist_unit", "dist_cosine"])
def test_distances_of_arrays_of_any_kind(kind):
    X = np.arange(12.0).reshape(4, 3) % 5
    wanted = getattr(utils, kind)(X)
    fixed = X.copy()
    fixed.flags.writeable = False
    for same in (fixed, X[::-1].copy()[::-1], X.tolist(), X.astype(int), X.astype(np.float16), torch.tensor(X).long()):
        np.testing.assert_allclose(getattr(utils, kind)(same), wanted, rtol=0, atol=1e-6)


def test_entropy_is_that_of_loops():
    logits = torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    out = utils.torch_entropy(logits)
    assert out.shape == (3, 2)
    for at in np.ndindex(3, 2):
        weights = [math.exp(v) for v in logits[at].tolist()]
        p = [w / sum(weights) for w in weights]
        assert out[at].item() == pytest.approx(-sum(q * math.log(q) for q in p) / math.log(5), rel=1e-12)


def test_entropy_ends():
    assert utils.torch_entropy(torch.zeros(7)).item() == pytest.approx(1)
    assert utils.torch_entropy(torch.tensor([1e4, 0.0, 0.0])).item() == 0
    assert utils.torch_entropy(torch.tensor([[3.0]])).tolist() == [0.0]
    assert utils.torch_entropy(torch.tensor([0.0, 0.0, -math.inf, -math.inf])).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("x", "wanted"), [(-5, 0.25), (10, 0.25), (15, 0.4375), (20, 0.625), (30, 1.0), (31, 1.0), (1000, 1.0)]
)
def test_ramp_by_hand(x, wanted):
    assert utils.ramp(x, 0.25, 1.0, 10, 30) == wanted
    assert isinstance(utils.ramp(x, 0.25, 1.0, 10, 30), float)


def test_ramp_of_no_length_jumps():
    assert utils.ramp(np.arange(5), 2.0, 7.0, 3, 3).tolist() == [2, 2, 2, 7, 7]
    assert utils.ramp(0, 0, 1, 0, 0) == 1
    assert utils.ramp(-1, 0, 1, 0, 0) == 0


def test_ramp_of_an_array_is_that_of_its_items():
    x = np.arange(-3, 40).reshape(1, -1)
    assert utils.ramp(x, 3, -1, 4, 20).tolist() == [[utils.ramp(v, 3, -1, 4, 20) for v in x[0]]]


def test_find_best_plot_dim_against_every_pair():
    for n in range(1, 150):
        pairs = [(r, n // r) for r in range(1, n + 1) if n % r == 0 and r <= n // r]
        assert utils.find_best_plot_dim(n) == min(pairs, key=lambda pair: pair[1] - pair[0])


@pytest.mark.parametrize("n", [0, -4])
def test_nothing_is_laid_out_or_divided_by_less_than_one(n):
    for call in (lambda: utils.find_best_plot_dim(n), lambda: utils.divide_into_batches([1, 2], n)):
        with pytest.raises(ValueError, match=f"^n must be .* not {n}"):
            call()


def test_get_ij():
    x = np.array([[3, 1], [2, 1], [0, 2]])
    assert utils.get_ij(x, 1) == (0, 1)
    assert utils.get_ij(x, 2) == (1, 0)
    assert utils.get_ij(x.tolist(), 0) == (2, 0)
    assert all(type(i) is int for i in utils.get_ij(x, 1))
    with pytest.raises(ValueError, match="q = 9"):
        utils.get_ij(x, 9)


@given(st.lists(st.integers(), max_size=30), st.integers(1, 12))
def test_divide_into_batches(lst, n):
    batches = utils.divide_into_batches(lst, n)
    sizes = [len(batch) for batch in batches]
    assert list(itertools.chain(*batches)) == lst
    assert len(batches) == n
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


def test_wrapper_modules_offer_the_five_helpers():
    for module in (module_train_probe, module_train_probe_lea):
        for name in ("torch_entropy", "dist", "dist_unit", "dist_cosine", "ramp"):
            assert getattr(module, name) is getattr(utils, name)


# seeds


def test_streams_are_reproducible_and_distinct():
    keys = [(0,), (0, 1), (1, 2), (2, 1), (1,), (0, 0, 1), (2**63 - 1,)]
    from_numpy = [tuple(utils.numpy_rng(*key).integers(2**40, size=3)) for key in keys]
    from_torch = [tuple(torch.rand(3, generator=utils.torch_rng(*key)).tolist()) for key in keys]
    assert len(set(from_numpy)) == len(set(from_torch)) == len(keys)
    assert from_numpy == [tuple(utils.numpy_rng(*key).integers(2**40, size=3)) for key in keys]
    assert from_torch == [tuple(torch.rand(3, generator=utils.torch_rng(*key)).tolist()) for key in keys]
    assert 0 <= utils.fresh_seed() < 2**32


@pytest.mark.parametrize(("one", "other"), [((5, 1), (5, 1, 0)), ((3 * 2**32 + 7, 5), (7, 3, 5)), ((7,), (7, 0))])
def test_streams_of_different_names_differ(one, other):
    assert utils.numpy_rng(*one).integers(2**62) != utils.numpy_rng(*other).integers(2**62)
    draws = [torch.randint(2**62, (1,), generator=utils.torch_rng(*key)).item() for key in (one, other)]
    assert draws[0] != draws[1]


# folders


def test_clear_folder_extension(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.png", "jpg"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.jpg").mkdir()
    utils.clear_folder_extension(str(tmp_path), ".jpg")
    assert sorted(os.listdir(tmp_path)) == ["c.png", "folder.jpg", "jpg"]


def test_clear_folder(tmp_path):
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    (kept / "precious").write_text("x")
    folder = tmp_path / "folder"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "file").write_text("x")
    (folder / "file").write_text("x")
    (folder / "link").symlink_to(kept)
    utils.clear_folder(folder)
    assert os.listdir(folder) == []
    assert (kept / "precious").exists()


# text and pictures


def test_progress_bar_passes_items_on_and_keeps_stdout_clean(capsys):
    assert list(utils.progress_bar(range(7), bar_length=10)) == list(range(7))
    assert capsys.readouterr().out == ""


def test_print_dict(capsys):
    utils.print_dict({"a": 1, "b": {"c": 2, "d": {}}, "e": [3]})
    assert capsys.readouterr().out == "a: 1\nb:\n  c: 2\n  d:\ne: [3]\n"
    utils.print_dict({"a": 1}, 4)
    assert capsys.readouterr().out == "    a: 1\n"


def blocks():
    return [Image.new("RGB", size, color) for size, color in (((3, 5), "red"), ((4, 2), "blue"), ((1, 6), "lime"))]


def pasted(images, margin, axis):
    """The images in a row on white, by array slices."""
    sizes = [(image.size[0], image.size[1]) for image in images]
    other = 1 - axis
    shape = [0, 0]
    shape[axis] = sum(size[axis] for size in sizes) + margin * (len(images) - 1)
    shape[other] = max(size[other] for size in sizes)
    out, at = np.full((shape[1], shape[0], 3), 255, np.uint8), [0, 0]
    for image, (w, h) in zip(images, sizes, strict=True):
        out[at[1] : at[1] + h, at[0] : at[0] + w] = np.asarray(image)
        at[axis] += (w, h)[axis] + margin
    return out


@pytest.mark.parametrize("margin", [0, 3])
def test_concat(margin):
    assert (np.asarray(utils.get_concat_h(blocks(), margin)) == pasted(blocks(), margin, 0)).all()
    assert (np.asarray(utils.get_concat_v(blocks(), margin)) == pasted(blocks(), margin, 1)).all()
    assert utils.get_concat_h(blocks()).size == (8, 6)
    assert utils.get_concat_v(blocks()[:1], margin).size == (3, 5)


def test_merge_attn_plots(tmp_path):
    levels = {(block, head): 40 * (3 * block + head) for block in range(2) for head in range(3)}
    for (block, head), level in levels.items():
        Image.new("RGB", (16, 8), (level,) * 3).save(tmp_path / f"map_b{block}_h{head}.jpg", quality=95)
    utils.merge_attn_plots(f"{tmp_path}/", range(3), range(2), prefix="map")
    merged = np.asarray(Image.open(tmp_path / "map_merge.jpg").convert("L"), float)
    assert merged.shape == (3 * 8 + 2 * 10, 2 * 16 + 10)
    for (block, head), level in levels.items():
        assert abs(merged[head * 18 + 4, block * 26 + 8] - level) < 6
