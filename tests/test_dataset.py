"""Boards against the official program's and loops written out: drawing, masks, randomness, pictures, parameters."""
import json
import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from module_dataset import FAMILIES, SPLITS, TYPES, AbstractionDataset, Boards, DatasetParams
from tests.boards import SMALL, draw_slowly
from tests.drawn import numbers_of

# The official program's numbers


@pytest.mark.parametrize("name", ["default", "holes"])
def test_boards_and_slots_equal_the_official_ones(golden, name):
    numbers = np.load(golden / f"dataset_{name}.npz")
    params = json.loads(str(numbers["params"]))
    ds = AbstractionDataset(**params)
    ds.roots, ds.compositions = numbers["roots"], numbers["compositions"]
    for type_, family in enumerate(FAMILIES):
        rows = numbers[f"{family}_rows"]
        assert len(rows)
        for row, board, slots in zip(rows, numbers[f"{family}_boards"], numbers[f"{family}_slots"], strict=True):
            if type_ == 2:
                drawn = ds._draw_board_deterministic(
                    "composite", composite=row[0], composite_position=row[1:3],
                    composite_margin=params["comp_margin"], token_bck=row[3])
            else:
                objects = row[:-1].reshape(-1, 3)
                drawn = ds._draw_board_deterministic("root", objects[:, 0], objects[:, 1:], token_bck=row[-1])
            np.testing.assert_array_equal(drawn[0], board)
            np.testing.assert_array_equal(drawn[1], slots)
            assert drawn[0].dtype == np.int64
            np.testing.assert_array_equal(draw_slowly(ds, type_, row)[0], board)


# Drawing


def test_the_board_of_the_docstring():
    ds = AbstractionDataset(board_dim=4, vocab_bck=2, vocab_token=3, abs_n=1, abs_dim=2, abs_c=4,
                            comp_n=1, comp_margin=0, card_test=1)
    assert ds.masking_token == 5
    assert ds.vocab_size == 6
    ds.roots = [[[[2], [4]], [[3], [3]]]]
    board, slots = ds._draw_board_deterministic(root_abstractions=[0], root_positions=[[1, 2]], token_bck=0)
    mask = np.array([[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    seen = np.where(mask, ds.masking_token, board)
    text = AbstractionDataset.__doc__.splitlines()
    lines = [line.strip().split("   ") for line in text if line.strip().startswith("0 0")]
    shown = [[[int(v) for v in part.split()] for part in [part for part in line if part.strip()][:4]] for line in lines]
    for k, array in enumerate((board, slots, mask, seen)):
        assert [line[k] for line in shown] == array.tolist()


def test_defaults_are_the_papers():
    ds = AbstractionDataset()
    assert (ds.board_dim, ds.vocab_bck, ds.vocab_token, ds.abs_n, ds.comp_n, len(ds)) == (8, 10, 10, 10, 5, 1000)
    assert ds.board_types == list(TYPES)
    np.testing.assert_allclose(ds.board_types_proba, 1 / 3)
    assert ds.vocab_size == 21
    assert ds.masking_token == 20
    assert ds.sets["doubleRoot_test"].shape == (400, 7)
    assert isinstance(ds.seed, int)
    assert ds.seed != AbstractionDataset().seed
    assert ds.roots.shape == (10, 3, 3, 1)
    assert ds.compositions.shape == (5, 2, 2)


def test_items_and_length():
    ds = AbstractionDataset(**SMALL, dataset_len=7)
    boards = list(ds)
    assert len(boards) == len(ds) == 7
    assert all(board.shape == (5, 5) and board.dtype == np.int64 for board in boards)
    assert ds[-7].shape == (5, 5)
    for i in (7, -8, 10**9):
        with pytest.raises(IndexError):
            ds[i]
    for i in (slice(0, 2), "0", 1.0, None):
        with pytest.raises(TypeError):
            ds[i]
    ds.dataset_len = 3
    assert len(list(ds)) == 3


def test_types_follow_probabilities_and_rows_are_uniform():
    ds = AbstractionDataset(**SMALL, board_types_proba=[3, 2, 1])
    np.testing.assert_allclose(ds.board_types_proba, [1 / 2, 1 / 3, 1 / 6])
    types = ds.sample(20_000).types
    np.testing.assert_allclose(np.bincount(types) / 20_000, [1 / 2, 1 / 3, 1 / 6], atol=0.015)
    drawn = ds.sample(40_000, proba=[1, 0, 0])
    pictures = np.unique(drawn.boards.reshape(-1, 25), axis=0, return_counts=True)[1]
    n = len(ds.sets["singleRoot_train"])
    assert len(pictures) == n
    assert (np.abs(pictures - 40_000 / n) < 6 * math.sqrt(40_000 / n)).all()
    ds.board_types_proba = [1e308, 1e308, 0]
    assert ds.board_types_proba == [0.5, 0.5, 0]
    ds.board_types_proba = [0, 0, 5]
    assert set(ds.get_n_training_boards(20)[1]) == {2}
    assert ds.sample(0).boards.shape == (0, 5, 5)


def test_a_split_that_leaves_nothing_to_train_on_is_refused():
    tiny = dict(board_dim=2, vocab_bck=1, vocab_token=2, abs_n=1, abs_dim=1, abs_c=1, comp_n=1, comp_margin=0, comp_c=1, card_test=0,
                board_types=["composition"], split_method="stringent")
    with pytest.raises(ValueError, match="split_method"):
        AbstractionDataset(**tiny, seed=0)


def test_board_types_are_alike_unless_weighted():
    assert AbstractionDataset(**SMALL, board_types=["single", "double"]).board_types_proba == [0.5, 0.5]


def test_probabilities_follow_the_order_of_board_types():
    ds = AbstractionDataset(**SMALL, board_types=["composition", "single"], board_types_proba=[0, 1])
    assert set(ds.sample(30).types) == {0}
    assert set(ds.sample(30, proba=[1, 0]).types) == {2}
    every = ds.all_boards("test")
    assert every.types.tolist() == [0] * 12 + [2] * 8


def test_set_type_and_splits_choose_the_boards():
    ds = AbstractionDataset(**SMALL, card_val=1, card_test=2)
    pictures = {split: {b.tobytes() for b in ds.get_all_boards(split)[0]} for split in SPLITS}
    for split in SPLITS:
        ds.set_type = split
        assert {b.tobytes() for b in ds.sample(100).boards} <= pictures[split]
        assert {b.tobytes() for b in ds.get_n_training_boards(100)[0]} <= pictures["train"]
        for type_, name in enumerate(TYPES):
            for which in (type_, name, np.int64(type_)):
                board, slots = ds._draw_board(which)
                assert board.tobytes() in pictures[split]
                assert {(0, 4), (1, 5), (1, 6), (1, 7), (1, 8), (2, 16)} & {(type_, int((slots >= 0).sum()))}
    assert {b.tobytes() for b in ds.sample(100, "val").boards} <= pictures["val"]


def test_all_boards_order_and_limit():
    ds = AbstractionDataset(**SMALL, card_val=1, card_test=2)
    boards, types = ds.get_all_boards("test", 5)
    assert types.tolist() == [0] * 5 + [1] * 5 + [2] * 4
    assert boards.shape == (14, 5, 5)
    first, second = (ds.get_all_boards("test")[0] for _ in range(2))
    assert not (first == second).all()
    assert sorted(b.tobytes() for b in first) == sorted(b.tobytes() for b in second)
    assert ds.get_all_boards("test", 0)[0].shape == (0, 5, 5)
    without_val = AbstractionDataset(**SMALL)
    assert len(without_val.get_all_boards("val")[0]) == 0


def test_without_a_split():
    ds = AbstractionDataset(**SMALL, bool_split=False)
    assert ds.sets is None
    ds.set_type = "test"
    single = {draw_slowly(ds, 0, row)[0].tobytes() for row in ds.params.families[0].unrank(np.arange(3 * 16 * 2))}
    assert {b.tobytes() for b in ds.sample(3000, proba=[1, 0, 0]).boards} == single
    assert ds[0].shape == (5, 5)
    with pytest.raises(ValueError, match="split"):
        ds.get_all_boards("test")


def test_drawing_from_an_empty_split_is_an_error():
    ds = AbstractionDataset(**SMALL)
    with pytest.raises(ValueError, match="val split"):
        ds.sample(1, "val")
    ds.set_type = "val"
    with pytest.raises(ValueError, match="val split"):
        ds[0]
    with pytest.raises(ValueError, match="val split"):
        ds._draw_board(1)


def test_fuzzy_cells_take_each_of_their_tokens():
    ds = AbstractionDataset(board_dim=6, vocab_bck=1, vocab_token=6, abs_n=2, abs_c=5, abs_w_c=2, abs_w_m=3,
                            comp_n=1, comp_dim=1, comp_c=1, seed=0)
    root = ds.roots[0]
    boards = [ds._draw_board_deterministic(root_positions=[[1, 2]], token_bck=0)[0] for _ in range(1500)]
    drawn = np.stack(boards)[:, 1:4, 2:5]
    for i in range(3):
        for j in range(3):
            allowed = set(root[i, j][root[i, j] >= 0].tolist()) or {0}
            found, counts = np.unique(drawn[:, i, j], return_counts=True)
            assert set(found.tolist()) == allowed
            np.testing.assert_allclose(counts / 1500, 1 / len(allowed), atol=0.06)


def test_holes_show_background_and_cover_what_lies_below():
    ds = AbstractionDataset(**SMALL | {"abs_n": 2})
    ds.roots = [[[[2], [3]], [[4], [5]]], [[[-1], [2]], [[3], [-1]]]]
    board, slots = ds._draw_board_deterministic(root_abstractions=[0, 1], root_positions=[[0, 0], [1, 1]], token_bck=1)
    assert board[:3, :3].tolist() == [[2, 3, 1], [4, 1, 2], [1, 3, 1]]
    assert slots[:3, :3].tolist() == [[0, 0, -1], [0, 1, 1], [-1, 1, 1]]


def test_deterministic_boards_at_random_places():
    ds = AbstractionDataset(seed=1, abs_n=6)
    for n in (1, 2, 4):
        for _ in range(20):
            board, slots = ds._draw_board_deterministic(root_abstractions=list(range(n)))
            cells = [np.argwhere(slots == k) for k in range(n)]
            assert set(np.unique(slots)) - {-1} <= set(range(n))
            assert len(cells[-1]) == 9  # the last root lies on top
            if n == 2:
                assert (cells[0].min(0) != cells[1].min(0)).any()
    with_random_roots = {ds._draw_board_deterministic(root_abstractions=[-1], root_positions=[[0, 0]])[0].tobytes()
                         for _ in range(100)}
    assert len(with_random_roots) > 6
    corners = {tuple(np.argwhere(ds._draw_board_deterministic("composite")[1] >= 0).min(0)) for _ in range(100)}
    assert corners == {(i, j) for i in range(3) for j in range(3)}  # composite_margin 0: a side of 6
    board, slots = ds._draw_board_deterministic("composite", composite=1, composite_position=(1, 0), composite_margin=1)
    for a in range(2):
        for b in range(2):
            assert (slots[1 + 4 * a : 4 + 4 * a, 4 * b : 3 + 4 * b] == ds.compositions[1, a, b]).all()


@pytest.mark.parametrize(("arguments", "error", "word"), [
    (dict(mode="both"), ValueError, "^mode"),
    (dict(mode=np.array(["root", "root"])), TypeError, "^mode"),
    (dict(root_abstractions=[[0], [1, 2]]), TypeError, "^root_abstractions"),
    (dict(root_abstractions=[10]), ValueError, "root_abstractions"),
    (dict(root_abstractions=[]), ValueError, "root_abstractions"),
    (dict(root_abstractions=[0.5]), TypeError, "root_abstractions"),
    (dict(root_positions=[[0, 6]]), ValueError, "root_positions"),
    (dict(root_positions=[0, 0]), ValueError, "root_positions"),
    (dict(token_bck=10), ValueError, "token_bck"),
    (dict(mode="composite", composite=5), ValueError, "composite"),
    (dict(mode="composite", composite_position=(3, 0)), ValueError, "composite_position"),
    (dict(mode="composite", composite_margin=3), ValueError, "composite_margin"),
    (dict(mode="composite", composite_margin=-1), ValueError, "composite_margin"),
])
def test_wrong_named_boards(arguments, error, word):
    with pytest.raises(error, match=word):
        AbstractionDataset(seed=0)._draw_board_deterministic(**arguments)


def test_draw_is_the_public_form():
    ds = AbstractionDataset(**SMALL)
    for public, official in (
        (dict(roots=[1, 2], positions=[[0, 1], [2, 3]], background=1),
         dict(root_abstractions=[1, 2], root_positions=[[0, 1], [2, 3]], token_bck=1)),
        (dict(roots=2, positions=[[3, 0]], background=0),
         dict(root_abstractions=[2], root_positions=[[3, 0]], token_bck=0)),
        (dict(composite=1, composite_position=(1, 0), background=1),
         dict(mode="composite", composite=1, composite_position=(1, 0), token_bck=1)),
    ):
        for one, other in zip(ds.draw(**public), ds._draw_board_deterministic(**official), strict=True):
            np.testing.assert_array_equal(one, other)
    assert {int((ds.draw()[1] == 0).sum()) for _ in range(5)} == {4}  # one root
    assert len({ds.draw()[0].tobytes() for _ in range(30)}) > 10
    board, slots = ds.draw(composite_position=(0, 0))
    assert (slots >= 0).sum() == 16
    spread = AbstractionDataset(seed=0)  # comp_margin 1
    assert (spread.draw(composite=0, composite_position=(0, 0))[1][3] == -1).all()
    assert (spread.draw(composite=0, composite_position=(0, 0), composite_margin=0)[1][3, :6] >= 0).all()
    for wrong, error, word in ((dict(roots=[9]), ValueError, "^roots"), (dict(roots=["a"]), TypeError, "^roots"),
                               (dict(positions=[[9, 9]]), ValueError, "^positions"), (dict(background=2), ValueError, "^background"),
                               (dict(roots=[], positions=[]), ValueError, "^roots"), (dict(roots=[0, -1]), ValueError, "^roots"),
                               (dict(composite=2), ValueError, "^composite"), (dict(roots=[0], composite=1), ValueError, "composite")):
        with pytest.raises(error, match=word):
            ds.draw(**wrong)


def test_boards_of_rows_are_drawn_by_hand():
    """What studies use: rows of a table, the objects they name, the boards that show them."""
    ds = AbstractionDataset(**SMALL)
    for type_ in range(3):
        table = ds.table(type_, "test")
        assert table.shape == ds.sets[f"{FAMILIES[type_]}_test"].shape
        root, row, col, bck = ds.objects(type_, table[:])
        boards, slots = ds.draw_objects(root, row, col, bck, root, np.random.default_rng(0))
        for k, drawn in enumerate(table):
            for one, other in zip((boards[k], slots[k]), draw_slowly(ds, type_, drawn)[:2], strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", [3, None, np.array(["train", "test"]), ["train"]], ids=str)
def test_a_split_s_name_is_a_string(name):
    ds = AbstractionDataset(**SMALL)
    with pytest.raises(TypeError, match="^set_type must be one of train, val, test"):
        ds.set_type = name
    with pytest.raises(TypeError, match="^target_set must be one of train, val, test"):
        ds.get_all_boards(name)


def test_a_large_wrong_array_is_named_in_one_sentence():
    ds = AbstractionDataset(seed=0)
    with pytest.raises(TypeError, match=r"^roots must be whole numbers, not .*\.$") as error:
        ds.roots = np.zeros((10, 3, 3, 1))
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


def test_assigned_roots_and_compositions_are_drawn():
    ds = AbstractionDataset(**SMALL)
    before = ds.sets["singleRoot_test"][:]
    ds.roots = np.full((3, 2, 2, 1), 4)
    assert set(np.unique(ds.sample(50).boards)) == {0, 1, 4}
    ds.compositions = [[[2, -1], [-1, -1]]] * 2
    assert (ds._draw_board(2)[1] >= 0).sum() == 4
    np.testing.assert_array_equal(ds.sets["singleRoot_test"][:], before)
    for name, wrong, error in (
        ("roots", np.zeros((3, 2, 2, 1)), TypeError), ("roots", np.full((3, 2, 2, 1), 1), ValueError),
        ("roots", np.full((3, 2, 2, 1), 6), ValueError), ("roots", np.full((2, 2, 2, 1), 4), ValueError),
        ("compositions", [[[3, 0], [0, 0]]] * 2, ValueError), ("compositions", [[1], [1, 2]], TypeError),
    ):
        with pytest.raises(error, match=name):
            setattr(ds, name, wrong)
    assert (ds.roots == 4).all()


def test_joined_boards():
    ds = AbstractionDataset(**SMALL)
    parts = [ds.sample(3, proba=[1, 0, 0]), ds.sample(2, proba=[0, 0, 1])]
    both = Boards.join(parts)
    assert both.types.tolist() == [0] * 3 + [2] * 2
    assert both.corners.shape == (5, 4, 2)
    np.testing.assert_array_equal(both.boards[3:], parts[1].boards)
    assert (both.corners[:3, 1:] == -1).all()


# Masks


def test_cells_are_hidden_independently():
    ds = AbstractionDataset(seed=0)
    boards = ds.sample(4000).boards
    mask, kinds = ds.mask(boards, 0.3)
    assert mask.dtype == bool
    assert mask.shape == boards.shape
    assert not kinds.any()
    np.testing.assert_allclose(mask.mean(0), 0.3, atol=0.04)
    assert np.corrcoef(mask[:, 0, 0], mask[:, 0, 1])[0, 1] == pytest.approx(0, abs=0.06)
    assert not ds.mask(boards, 0)[0].any()
    assert ds.mask(boards, 1)[0].all()
    for wrong in (dict(p=1.1), dict(p=-0.1), dict(p=float("nan")), dict(p=0.1, patch_p=2)):
        with pytest.raises(ValueError, match="p must be"):
            ds.mask(boards, **wrong)
    with pytest.raises(ValueError, match="boards"):
        ds.mask(boards[0], 0.1)


@pytest.mark.parametrize("params", [
    dict(), dict(abs_c=6), dict(abs_c=7, comp_c=3, comp_margin=2), dict(abs_c=6, abs_w_c=3, abs_w_m=4),
    dict(comp_c=2, comp_margin=0), dict(comp_dim=3, abs_dim=2, abs_c=3, comp_c=7, board_dim=9),
])
@pytest.mark.parametrize("told", [True, False])
def test_patches(params, told):
    ds = AbstractionDataset(**dict(board_dim=9, seed=2) | params)
    d, R = ds.abs_dim, ds.board_dim - ds.abs_dim + 1
    drawn = ds.sample(3000)
    extra = dict(types=drawn.types, corners=drawn.corners) if told else {}
    mask, kinds = ds.mask(drawn.boards, 0, 0.5, **extra)
    hit = kinds > 0
    assert hit.mean() == pytest.approx(0.5, abs=0.04)
    assert not mask[~hit].any()
    assert (mask[hit].sum((1, 2)) == d**2).all()
    if told or ds.comp_c > 2:
        assert (kinds[hit] == np.where(drawn.types[hit] == 2, 3, 1)).all()
    places, chosen = set(), []
    for m, t, corners in zip(mask[hit], drawn.types[hit], drawn.corners[hit], strict=True):
        corner = np.argwhere(m)[0]
        assert m[corner[0] : corner[0] + d, corner[1] : corner[1] + d].all()
        if t == 2:
            place = [k for k, c in enumerate(corners) if (c == corner).all()]
            assert len(place) == 1
            chosen.append(np.flatnonzero(corners[:, 0] >= 0).tolist().index(place[0]))
        else:
            places.add(tuple(corner))
    assert len(places) == R * R
    assert np.bincount(chosen, minlength=ds.comp_c).min() / len(chosen) == pytest.approx(1 / ds.comp_c, abs=0.09)


def test_patch_on_a_composite_that_is_not_the_data_sets():
    ds = AbstractionDataset(seed=0)
    board = np.full((1, 8, 8), ds.masking_token - 1)
    mask, kinds = ds.mask(board, 0, 1)
    assert kinds.tolist() == [3]
    assert mask.sum() == 9


# Randomness


def test_seeds_reproduce_everything():
    one, two, other = (AbstractionDataset(seed=seed) for seed in (7, 7, 8))
    for name in ("roots", "compositions"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert not (getattr(one, name) == getattr(other, name)).all()
    for name in one.sets:
        np.testing.assert_array_equal(one.sets[name][:50], two.sets[name][:50])
    a, b = one.sample(100), two.sample(100)
    np.testing.assert_array_equal(a.boards, b.boards)
    np.testing.assert_array_equal(one.mask(a.boards, 0.3, 0.5)[0], two.mask(b.boards, 0.3, 0.5)[0])
    assert not (one.sample(100).boards == a.boards).all()
    three = AbstractionDataset(seed=7, card_test=3)
    np.testing.assert_array_equal(three.roots, one.roots)


def test_no_global_random_state_is_read_or_changed(tmp_path, reseed):
    def use():
        ds = AbstractionDataset(seed=1)
        drawn = ds.sample(20)
        ds.mask(drawn.boards, 0.2, 0.5)
        ds._draw_board_deterministic(root_abstractions=[-1, 2])
        ds.export(tmp_path / "x")
        ds.load(tmp_path / "x")
        return np.concatenate([drawn.boards, ds.get_all_boards()[0], [ds[0]]])

    reseed(0)
    first = use()
    reseed(1)
    np.testing.assert_array_equal(use(), first)


def test_data_loader_workers_draw_different_boards():
    ds = AbstractionDataset(**SMALL | {"vocab_bck": 50}, dataset_len=40)
    loader = DataLoader(ds, batch_size=10, num_workers=2, generator=torch.Generator().manual_seed(0))
    epochs = [torch.stack(list(loader)) for _ in range(2)]
    assert epochs[0].shape == (4, 10, 5, 5)
    assert epochs[0].dtype == torch.int64
    parts = [part for epoch in epochs for part in (epoch[0::2], epoch[1::2])]
    for i, one in enumerate(parts):
        for other in parts[:i]:
            assert not torch.equal(one, other)
    again = DataLoader(ds, batch_size=10, num_workers=2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.stack(list(again)), epochs[0])


# Showing


def test_render_board(tmp_path):
    import matplotlib.pyplot as plt

    ds = AbstractionDataset(seed=0)
    board, slots = ds._draw_board(1)
    mask = np.zeros((8, 8), int)
    mask[2, 3] = 1
    figure = ds.render_board(board, slots, mask, figsize=(4, 4), save_path=tmp_path / "a" / "b" / "board.png")
    assert (tmp_path / "a" / "b" / "board.png").stat().st_size > 1000
    assert numbers_of(figure.axes[0]) == {(j, i): board[i, j] for i, j in np.argwhere(slots >= 0)}
    assert not plt.get_fignums()
    ds.render_board(board, None, None)
    with pytest.raises(ValueError, match="mask"):
        ds.render_board(board, None, mask[0])


def test_render_boards(tmp_path):
    ds = AbstractionDataset(seed=0)
    boards, _ = ds.get_all_boards("test", 3)
    masks = np.zeros(boards.shape, int)
    masks[0, 0, :3] = 1
    wrong = np.zeros(boards.shape, bool)
    wrong[1, 4, 4] = True
    boards[2, 7, 7] = ds.masking_token
    figure = ds.render_boards(boards, masks, ["one", "two"], wrong, columns=4)
    assert len(figure.axes) == 9  # 4 + 4 + 1, no empty ones
    assert [ax.get_title() for ax in figure.axes[:3]] == ["one", "two", ""]
    for ax, board in zip(figure.axes, boards, strict=True):
        objects = np.argwhere((board >= ds.vocab_bck) & (board < ds.masking_token))
        assert numbers_of(ax) == {(j, i): board[i, j] for i, j in objects}
    cells = [sum(len(patch.get_path().to_polygons()) for patch in ax.patches) for ax in figure.axes[:4]]
    assert cells == [3, 0, 1, 0]  # hatched: masked, and UNK
    grid = 3  # collections of white lines and of numbers
    assert [len(ax.collections) - grid for ax in figure.axes[:3]] == [0, 1, 0]  # crossed out
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(ds.render_boards(ds.roots[..., 0]).axes) == 10  # of any size
    for name, more in (("boards", [boards[0]]), ("boards", [boards + 20]), ("masks", [boards, masks[0]]),
                       ("wrong", [boards, None, (), wrong[:2]])):
        with pytest.raises(ValueError, match=name):
            ds.render_boards(*more)


def test_quiet_but_for_whoami(capfd, tmp_path):
    ds = AbstractionDataset(**SMALL)
    ds.export(tmp_path / "d")
    ds.load(tmp_path / "d")
    ds.mask(ds.sample(5).boards, 0.1, 1)
    assert capfd.readouterr() == ("", "")
    ds.whoamI()
    text = capfd.readouterr().out
    for word in [*DatasetParams.__dataclass_fields__, "roots", "compositions", "doubleRoot_train"]:
        assert word in text


# Wrong parameters


@pytest.mark.parametrize("values", [
    dict(board_dimm=8), dict(board_dim=8.0), dict(board_dim="8"), dict(board_dim=True), dict(abs_n=None),
    dict(seed=1.5), dict(card_val="1"), dict(board_types="single"), dict(board_types_proba=["a"] * 3),
    dict(bool_split="yes"),
])
def test_parameters_of_a_wrong_type(values):
    check_refused(values, TypeError)


SINGLE = dict(board_types=["single"], board_types_proba=[1])


@pytest.mark.parametrize("values", [
    dict(board_dim=0), dict(board_dim=10**9), dict(vocab_bck=0), dict(dataset_len=0), dict(seed=-1), dict(seed=2**63),
    dict(abs_c=10), dict(abs_w_c=10), dict(abs_w_m=11, abs_w_c=1), dict(abs_dim=9, abs_c=1), dict(comp_c=5),
    dict(comp_margin=3), dict(comp_margin=-1), dict(board_types=[]), dict(board_types=["single", "single", "double"]),
    dict(board_types=["single", "triple"]), dict(board_types_proba=[1, 1]),
    dict(board_types_proba=[0, 0, 0]), dict(board_types_proba=[1, -1, 1]), dict(board_types_proba=[1, float("nan"), 1]),
    dict(split_method="random"), dict(card_test=-1), dict(card_test=1.5), dict(card_test=360), dict(card_test=10**400),
    dict(card_val=36, card_test=4), dict(card_test=1e300), dict(split_method="fraction"),
    dict(split_method="fraction", card_val=0.5, card_test=0.5),
    dict(split_method="fraction", card_val=0, card_test=0.1, board_dim=64),
    dict(split_method="stringent", board_dim=3, **SINGLE),
    dict(abs_n=10**6), dict(abs_n=100, vocab_token=1), dict(abs_n=10**5, abs_dim=40, abs_c=1600, board_dim=100),
    dict(comp_n=3, abs_n=1), dict(comp_n=10**6),
])
def test_parameters_of_a_wrong_value(values):
    check_refused(values, ValueError)


def check_refused(values, error):
    """One sentence that names one of the values."""
    with pytest.raises(error) as caught:
        AbstractionDataset(**values)
    text = str(caught.value)
    assert any(name in text for name in values)
    assert text.endswith((".", "?"))
    assert "\n" not in text
    assert caught.type is error


@pytest.mark.parametrize(
    ("board_dim", "overlap", "works"), [(3, True, False), (4, True, True), (5, False, False), (6, False, True)])
def test_doubles_must_fit_only_where_they_are_used(board_dim, overlap, works):
    values = dict(board_dim=board_dim, allow_overlap=overlap, card_test=1, seed=0)
    AbstractionDataset(**values, **SINGLE)
    two = dict(board_types=["single", "double"], board_types_proba=[1, 1])
    if works:
        assert set(AbstractionDataset(**values, **two).sample(20).types) == {0, 1}
    else:
        with pytest.raises(ValueError, match="board_dim"):
            AbstractionDataset(**values, **two)


def test_as_many_distinct_objects_as_there_are():
    most = math.comb(4, 2) * 2 * 3 * 3  # cells, which is fuzzy, plain token, fuzzy pair
    small = dict(board_dim=4, vocab_token=3, abs_dim=2, abs_c=2, abs_w_c=1, abs_w_m=2, comp_n=1, comp_dim=1, comp_c=1)
    roots = AbstractionDataset(**small, abs_n=most, card_test=0).roots
    assert len({str(np.sort(root, axis=-1).tolist()) for root in roots}) == most
    with pytest.raises(ValueError, match=f"abs_n = {most + 1} must be at most {most}"):
        AbstractionDataset(**small, abs_n=most + 1, card_test=0)
    compositions = AbstractionDataset(abs_n=2, comp_n=16, seed=0).compositions
    assert len({str(c) for c in compositions.tolist()}) == 16


def test_attributes():
    ds = AbstractionDataset(**SMALL, run_name="x")
    for name, value in ds.params.as_dict().items():
        assert getattr(ds, name) == value
    with pytest.raises(AttributeError, match="board_dim"):
        ds.board_dim = 9
    with pytest.raises(AttributeError, match="nothing"):
        _ = ds.nothing
    for name, wrong, error in (("set_type", "tests", ValueError), ("board_types_proba", [1, 1], ValueError),
                               ("board_types_proba", [-1, 1, 1], ValueError), ("board_types_proba", "abc", TypeError),
                               ("dataset_len", 0, ValueError)):
        with pytest.raises(error, match=name):
            setattr(ds, name, wrong)
    ds.run_name = "y"
    assert ds.params.run_name == "y"
    for call, error in ((lambda: ds.sample(-1), ValueError), (lambda: ds.sample(1.5), TypeError),
                        (lambda: ds.sample(1, "tests"), ValueError), (lambda: ds.get_all_boards("tests"), ValueError),
                        (lambda: ds.get_all_boards("test", -1), ValueError), (lambda: ds._draw_board(3), ValueError),
                        (lambda: ds._draw_board("triple"), ValueError), (lambda: ds.sample(10**12), ValueError)):
        with pytest.raises(error):
            call()


def test_large_boards_take_little_memory():
    import tracemalloc

    tracemalloc.start()
    ds = AbstractionDataset(board_dim=32, seed=0)
    ds.sample(100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ds.sets["doubleRoot_train"].shape == (756_899_600, 7)
    assert peak < 100e6
    table = ds.sets["doubleRoot_train"]
    held = ds.sets["doubleRoot_test"].numbers(np.arange(400))
    near = np.unique(np.clip(held[:, None] + np.arange(-410, 3), 0, len(table) - 1))
    numbers = table.numbers(near)
    assert not np.isin(numbers, held).any()
    assert (np.diff(numbers) > 0).all()
    assert table.numbers(np.array([len(table) - 1]))[0] == 756_900_000 - 1 - np.isin(756_900_000 - 1, held)
