"""Data sets against the official program's numbers, loops written out, and what must hold for any parameters."""
import itertools
import json
import math
import os
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from module_dataset import (
    FAMILIES,
    SPLITS,
    TYPES,
    AbstractionDataset,
    Boards,
    DatasetParams,
    Doubles,
    Family,
    _distinct,
)

SMALL = dict(board_dim=5, vocab_bck=2, vocab_token=4, abs_n=3, abs_dim=2, abs_c=4, comp_n=2, comp_margin=0, seed=3)


def draw_slowly(ds, type_, row):
    """(board, slots, corners) of a row, cell by cell; for roots whose cells take one token."""
    d, bck = ds.abs_dim, row[-1]
    if type_ < 2:
        objects = [tuple(row[i : i + 3]) for i in range(0, len(row) - 1, 3)]
    else:
        step = d + ds.comp_margin
        objects = [(ds.compositions[row[0], a, b], row[1] + a * step, row[2] + b * step)
                   for a in range(ds.comp_dim) for b in range(ds.comp_dim)]
    board = [[bck] * ds.board_dim for _ in range(ds.board_dim)]
    slots = [[-1] * ds.board_dim for _ in range(ds.board_dim)]
    for root, top, left in objects:
        for i in range(d if root >= 0 else 0):
            for j in range(d):
                token = ds.roots[root, i, j, 0]
                board[top + i][left + j] = bck if token < 0 else token
                slots[top + i][left + j] = root
    return np.array(board), np.array(slots), [(top, left) if root >= 0 else (-1, -1) for root, top, left in objects]


def all_doubles(abs_n, places, bck_n, apart):
    """Every row of the doubles, in the order of their numbers."""
    for root1, root2, r1, c1, r2, c2 in itertools.product(*[range(abs_n)] * 2, *[range(places)] * 4):
        far = abs(r1 - r2) >= apart or abs(c1 - c2) >= apart
        if far if apart else r1 != r2 and c1 != c2:
            for bck in range(bck_n):
                yield root1, r1, c1, root2, r2, c2, bck


def rows_of(ds, family, splits=SPLITS):
    return [tuple(row) for split in splits for row in np.asarray(ds.sets[f"{family}_{split}"]).tolist()]


def twin(row):
    return (*row[3:6], *row[:3], row[6])


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


@pytest.mark.parametrize("name", ["default", "holes"])
def test_split_sizes_equal_the_official_ones(golden, name):
    numbers = np.load(golden / f"dataset_{name}.npz")
    params, sizes = json.loads(str(numbers["params"])), json.loads(str(numbers["sizes"]))
    fraction = params | {"split_method": "fraction", "card_val": 0.1, "card_test": 0.25}
    for method, values in (("balanced", params), ("fraction", fraction)):
        found = {key: list(table.shape) for key, table in AbstractionDataset(**values).sets.items()}
        assert found == sizes[method]
    if name == "default":
        sets = AbstractionDataset(**params | {"split_method": "stringent", "card_val": 1, "card_test": 1}).sets
        for family, total in sizes["stringent_total"].items():
            assert sum(len(sets[f"{family}_{split}"]) for split in SPLITS) == total
        assert len(sets["singleRoot_train"]) == sizes["stringent_single_train"]


def test_official_export_loads(golden):
    ds = AbstractionDataset(seed=5)
    ds.load(golden / "legacy_export" / "dataset")
    values = json.loads((golden / "legacy_export" / "dataset.json").read_text())
    for name in DatasetParams.__dataclass_fields__:
        if name in values and name != "board_types_proba":
            assert getattr(ds, name) == values[name]
    assert ds.keep_twins is False
    assert ds.seed == 5
    assert ds.set_type == "train"
    np.testing.assert_allclose(ds.board_types_proba, [1 / 3] * 3)
    np.testing.assert_array_equal(ds.roots, np.load(golden / "legacy_export" / "dataset_roots.npy"))
    np.testing.assert_array_equal(ds.compositions, np.load(golden / "legacy_export" / "dataset_compositions.npy"))
    for name, rows in values["sets"].items():
        assert sorted(map(tuple, ds.sets[name][:].tolist())) == sorted(map(tuple, rows))
    boards, types = ds.get_all_boards("val")
    assert np.bincount(types).tolist() == [4, 8, 4]
    for board, row in zip(boards, ds.sets["singleRoot_val"], strict=False):
        assert any((board == draw_slowly(ds, 0, other)[0]).all() for other in values["sets"]["singleRoot_val"]), row


@pytest.fixture
def official(golden, tmp_path):
    """A copy of the official export and a function that writes its JSON with changes."""
    shutil.copytree(golden / "legacy_export", tmp_path / "old", copy_function=shutil.copyfile)
    path = tmp_path / "old" / "dataset.json"
    values = json.loads(path.read_text())

    def change(without=(), **changes):
        path.write_text(json.dumps({k: v for k, v in (values | changes).items() if k not in without}))
        return path

    return change, values


def test_official_export_with_foreign_paths_and_missing_keys(official):
    change, values = official
    path = change(without=["card_val", "card_test", "set_type", "split_method", "bool_split"], sets=None,
                  roots="/home/someone/runs/x/dataset_roots.npy", compositions="C:\\runs\\dataset_compositions.npy")
    ds = AbstractionDataset()
    ds.load(path)
    assert (ds.card_val, ds.card_test, ds.set_type, ds.split_method) == (0, 0, "train", "balanced")
    assert ds.bool_split is False
    assert ds.sets is None
    assert ds[0].shape == (8, 8)


def test_official_export_with_a_family_not_in_use(official):
    change, values = official
    empty = {name: [] if name.startswith("double") else rows for name, rows in values["sets"].items()}
    np.save(change(sets=empty).parent / "two.npy", [0.5, 0.5])
    path = change(sets=empty, board_types=["single", "composition"], board_types_proba="x/two.npy")
    ds = AbstractionDataset()
    ds.load(path)
    assert {ds.sets[f"doubleRoot_{split}"].shape for split in SPLITS} == {(0, 7)}
    assert set(ds.sample(50).types) == {0, 2}
    ds.export(path.parent / "again")
    again = AbstractionDataset()
    again.load(path.parent / "again")
    assert {name: table.shape for name, table in again.sets.items()} == {k: t.shape for k, t in ds.sets.items()}


def test_official_export_with_repeated_roots(official):
    change, values = official
    path = change()
    roots = np.load(path.parent / "dataset_roots.npy")
    np.save(path.parent / "dataset_roots.npy", np.stack([roots[0]] * 2))
    ds = AbstractionDataset()
    ds.load(path)
    assert (ds.roots[0] == ds.roots[1]).all()


@pytest.mark.parametrize("change_sets", [
    lambda sets: sets["doubleRoot_train"].pop(),
    lambda sets: sets["doubleRoot_train"].append(sets["doubleRoot_test"][0]),
    lambda sets: sets["singleRoot_val"].append([0, 0, 0]),
    lambda sets: sets["singleRoot_val"].append([2, 0, 0, 0]),
    lambda sets: sets["singleRoot_val"].append([0.5, 0, 0, 0]),
    lambda sets: sets["singleRoot_val"].append([10**30, 0, 0, 0]),
    lambda sets: sets.pop("singleComposite_test"),
    lambda sets: sets.update(singleComposite_test={"a": 1}),
    lambda sets: sets.update({f"doubleRoot_{split}": [] for split in SPLITS}),
    lambda sets: sets["doubleRoot_train"].__setitem__(0, [0, 1, 1, 1, 1, 2, 0]),
])
def test_official_export_with_tables_that_do_not_fit(official, change_sets):
    change, values = official
    sets = {name: list(rows) for name, rows in values["sets"].items()}
    change_sets(sets)
    ds = AbstractionDataset(**SMALL)
    with pytest.raises(ValueError, match="dataset.json"):
        ds.load(change(sets=sets))
    assert ds.board_dim == 5


@pytest.mark.parametrize("changes", [
    dict(roots="nowhere.npy"), dict(roots=3), dict(roots=".."), dict(abs_n=10**9), dict(abs_n=3), dict(board_dim=9),
    dict(board_types=["single"]), dict(abs_dim="3"), dict(set_type="all"), dict(sets=[]), dict(vocab_bck=None),
    dict(without=["abs_n"]), dict(compositions="dataset_roots.npy"),
])
def test_official_export_that_is_inconsistent(official, changes):
    change, _ = official
    with pytest.raises(ValueError, match=r"dataset|nowhere|old/"):
        AbstractionDataset(**SMALL).load(change(**changes))


# Rows and splits


@pytest.mark.parametrize(("places", "apart"), [(2, 0), (3, 0), (4, 0), (3, 1), (1, 1), (2, 2), (4, 2), (5, 3), (4, 3)])
def test_doubles_are_numbered_in_order(places, apart):
    family = Doubles(2, places, 2, apart)
    expected = list(all_doubles(2, places, 2, apart))
    assert family.size == len(expected)
    rows = family.unrank(np.arange(family.size))
    assert [tuple(row) for row in rows.tolist()] == expected
    assert family.rank(rows).tolist() == list(range(family.size))
    twins = family.unrank(family.twin(np.arange(family.size)))
    assert [tuple(row) for row in twins.tolist()] == [twin(row) for row in expected]


def test_index_spaces_of_the_default_and_of_larger_boards():
    assert [family.size for family in DatasetParams().families] == [3600, 900_000, 200]
    double = DatasetParams(board_dim=32).families[1]
    assert double.size == 10 * 10 * (30 * 29) ** 2 * 10 == 756_900_000
    numbers = np.linspace(0, double.size - 1, 1001).astype(int)
    assert double.rank(double.unrank(numbers)).tolist() == numbers.tolist()
    apart = DatasetParams(board_dim=100, allow_overlap=False).families[1]
    numbers = np.random.default_rng(0).integers(apart.size, size=1000)
    rows = apart.unrank(numbers)
    assert apart.rank(rows).tolist() == numbers.tolist()
    assert (np.abs(rows[:, 1:3] - rows[:, 4:6]).max(1) >= 3).all()


@pytest.mark.parametrize("row", [[10, 0, 0, 0], [0, 6, 0, 0], [0, 0, -1, 0], [0, 0, 0, 10]])
def test_ranking_refuses_rows_outside_the_family(row):
    with pytest.raises(ValueError, match=r"."):
        Family(10, 6, 10).rank(np.array([row]))


@st.composite
def parameters(draw):
    """Small data sets of every kind."""
    integer = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    abs_dim, comp_dim, margin = integer(1, 3), integer(1, 2), integer(0, 1)
    side = comp_dim * abs_dim + (comp_dim - 1) * margin
    least = max(2 * abs_dim, side)
    board_dim = integer(least, least + (1 if abs_dim < 3 else 0))
    abs_c = integer(1, abs_dim**2)
    tokens = integer(2, 4)
    types = draw(st.lists(st.sampled_from(TYPES), min_size=1, unique=True))
    method = draw(st.sampled_from(["balanced", "fraction", "stringent"]))
    cards = {"balanced": st.integers(0, 3), "fraction": st.floats(0, 0.45), "stringent": st.integers(0, 1)}[method]
    return dict(
        board_dim=board_dim, vocab_bck=integer(1, 2), vocab_token=tokens,
        abs_n=integer(1, 3), abs_dim=abs_dim, abs_c=abs_c,
        abs_w_c=draw(st.none() | st.integers(0, abs_c)), abs_w_m=integer(1, tokens),
        comp_n=integer(1, 2), comp_dim=comp_dim, comp_margin=margin, comp_c=integer(1, comp_dim**2),
        board_types=types, board_types_proba=[1 + integer(0, 2) for _ in types],
        split_method=method, card_val=draw(cards), card_test=draw(cards),
        keep_twins=draw(st.booleans()), allow_overlap=draw(st.booleans()), seed=integer(0, 2**63 - 1))


def made(values):
    """The data set, or None where there are too few objects or boards for these parameters."""
    try:
        return AbstractionDataset(**values)
    except ValueError as error:
        if any(name in str(error) for name in ("abs_n", "comp_n", "card_val", "split_method")):
            return None
        raise


@given(parameters())
def test_splits_hold_every_row_once_and_follow_their_rule(values):
    ds = made(values)
    assume(ds is not None)
    p = ds.params
    R, Rc = ds.board_dim - ds.abs_dim + 1, ds.board_dim - p.comp_side + 1
    singles = list(itertools.product(range(ds.abs_n), range(R), range(R), range(ds.vocab_bck)))
    doubles = list(all_doubles(ds.abs_n, R, ds.vocab_bck, 0 if ds.allow_overlap else ds.abs_dim))
    composites = list(itertools.product(range(ds.comp_n), range(Rc), range(Rc), range(ds.vocab_bck)))
    for family, every, objects in zip(FAMILIES, (singles, doubles, composites), ((0,), (0, 3), (0,)), strict=True):
        assert sorted(rows_of(ds, family)) == sorted(every)
        train, val, test = (rows_of(ds, family, [split]) for split in SPLITS)
        if family == "doubleRoot" and ds.keep_twins:
            for rows in (train, val, test):
                assert {twin(row) for row in rows} == set(rows)
        used = TYPES[FAMILIES.index(family)] in ds.board_types
        if ds.split_method == "balanced" and used:
            for which in {tuple(row[i] for i in objects) for row in every}:
                odd = family == "doubleRoot" and ds.keep_twins and which[0] == which[1]
                for rows, card in ((val, ds.card_val), (test, ds.card_test)):
                    count = sum(tuple(row[i] for i in objects) == which for row in rows)
                    assert count == card + (card % 2 if odd else 0)
        elif ds.split_method == "fraction" and used:
            for rows, card in ((val, ds.card_val), (test, ds.card_test)):
                wanted = math.floor(len(every) * card)
                assert len(rows) == wanted + (wanted % 2 if family == "doubleRoot" and ds.keep_twins else 0)
    if ds.split_method == "stringent":
        check_stringent(ds)


def shown(ds, type_, row):
    """The (root, row, col) that a row shows."""
    if type_ < 2:
        return {tuple(int(v) for v in row[i : i + 3]) for i in range(0, len(row) - 1, 3)}
    step = ds.abs_dim + ds.comp_margin
    composition = ds.compositions[row[0]].tolist()
    return {(composition[a][b], row[1] + a * step, row[2] + b * step)
            for a in range(ds.comp_dim) for b in range(ds.comp_dim) if composition[a][b] >= 0}


def check_stringent(ds):
    """Each root has one held-out place; a board is held out exactly when it shows a root there."""
    held = {row[:3] for row in rows_of(ds, "singleRoot", ["val", "test"])}
    assert sorted(root for root, _, _ in held) == list(range(ds.abs_n))
    for type_, family in enumerate(FAMILIES):
        assert not any(shown(ds, type_, row) & held for row in rows_of(ds, family, ["train"]))
        out, val = rows_of(ds, family, ["val", "test"]), rows_of(ds, family, ["val"])
        assert all(shown(ds, type_, row) & held for row in out)
        together = 2 if type_ == 1 and ds.keep_twins else 1
        assert len(val) == (len(out) // (2 * together) * together if ds.card_val > 0 else 0)


def test_stringent_splits_mix_roots_and_backgrounds():
    sets = AbstractionDataset(split_method="stringent", card_val=1, seed=0).sets
    for split in ("val", "test"):
        rows = sets[f"singleRoot_{split}"][:]
        assert len(rows) == 50
        assert len(set(rows[:, 0])) == len(set(rows[:, 3])) == 10


@given(parameters())
def test_every_row_can_be_drawn_and_objects_are_distinct(values):
    ds = made(values)
    assume(ds is not None)
    fuzzy = ds.abs_w_m > 1
    cells = ds.roots.reshape(ds.abs_n, -1, ds.abs_w_m)
    assert ((cells >= 0).any(-1).sum(1) == ds.abs_c).all()
    if fuzzy:
        assert (((cells >= 0).sum(-1) == ds.abs_w_m).sum(1) == (ds.abs_w_c or 0)).all()
        assert all(len(set(c[c >= 0])) == (c >= 0).sum() for c in cells.reshape(-1, ds.abs_w_m))
    assert len({str([sorted(cell) for cell in root]) for root in cells.tolist()}) == ds.abs_n
    assert len({str(c) for c in ds.compositions.tolist()}) == ds.comp_n
    assert ((ds.compositions >= 0).sum((1, 2)) == ds.comp_c).all()
    for split in SPLITS:
        every = ds.all_boards(split)
        assert len(every) == sum(len(ds.sets[f"{FAMILIES[TYPES.index(name)]}_{split}"]) for name in ds.board_types)
        assert (every.boards >= 0).all()
        assert (every.boards < ds.masking_token).all()
        assert (every.slots < ds.abs_n).all()
        if not fuzzy:
            found = sorted((t, b.tobytes()) for t, b in zip(every.types.tolist(), every.boards, strict=True))
            wanted = sorted((t, draw_slowly(ds, t, row)[0].tobytes()) for t, family in enumerate(FAMILIES)
                            if TYPES[t] in ds.board_types for row in rows_of(ds, family, [split]))
            assert found == wanted


def test_sampled_boards_have_right_slots_and_corners():
    ds = AbstractionDataset(**SMALL | {"abs_c": 3, "comp_c": 3, "vocab_token": 9})
    rows = {t: ds.params.families[t].unrank(np.arange(ds.params.families[t].size)) for t in range(3)}
    known = {}
    for t in range(3):
        for row in rows[t]:
            board, slots, corners = draw_slowly(ds, t, row)
            known.setdefault((t, board.tobytes()), []).append((slots, corners))
    drawn = ds.sample(200)
    assert set(drawn.types) == {0, 1, 2}
    assert drawn.corners.shape == (200, 4, 2)
    for t, board, slots, corners in zip(drawn.types, drawn.boards, drawn.slots, drawn.corners, strict=True):
        m = (1, 2, 4)[t]
        rows = known[t, board.tobytes()]
        assert any((slots == s).all() and [tuple(c) for c in corners[:m].tolist()] == cs for s, cs in rows)
        assert (corners[m:] == -1).all()


def doubles_drawn(ds, rows):
    """Boards of rows of doubles whose roots have neither holes nor fuzzy cells, as fingerprints."""
    boards, which = np.repeat(rows[:, 6], 64).reshape(-1, 8, 8), np.arange(len(rows))
    for root, row, col in (rows[:, 0:3].T, rows[:, 3:6].T):
        for i, j in np.ndindex(3, 3):
            boards[which, row + i, col + j] = ds.roots[root, i, j, 0]
    return fingerprints(boards)


def fingerprints(boards):
    weights = np.random.default_rng(0).integers(2**63, size=64, dtype=np.uint64)
    return boards.reshape(-1, 64).astype(np.uint64) @ weights


def held_out_and_train_pictures(ds):
    """Fingerprints of held-out boards, and of every training board."""
    held = [fingerprints(ds.get_all_boards(split)[0]) for split in ("val", "test")]
    small = {0: ds.sets["singleRoot_train"], 2: ds.sets["singleComposite_train"]}
    train = [fingerprints(np.stack([draw_slowly(ds, t, row)[0] for row in table])) for t, table in small.items()]
    table = ds.sets["doubleRoot_train"]
    train += [doubles_drawn(ds, table[start : start + 100_000]) for start in range(0, len(table), 100_000)]
    return np.concatenate(held), np.concatenate(train)


def test_no_held_out_picture_of_the_default_data_set_is_in_train():
    held, train = held_out_and_train_pictures(AbstractionDataset(card_val=2, seed=0))
    assert len(held) == 10 * 6 + 100 * 6 + 5 * 6
    assert len(held) + len(train) == 903_800
    assert not np.isin(held, train).any()


def test_with_twins_apart_most_held_out_doubles_are_in_train():
    ds = AbstractionDataset(keep_twins=False, seed=0)
    held, train = held_out_and_train_pictures(ds)
    doubles = fingerprints(ds.all_boards("test").boards[ds.all_boards("test").types == 1])
    assert 0.55 < np.isin(doubles, train).mean() < 0.75


def test_two_in_three_default_rows_do_not_overlap():
    rows = AbstractionDataset(seed=0).sets["doubleRoot_train"][:]
    assert ((np.abs(rows[:, 1:3] - rows[:, 4:6]) < 3).all(1)).mean() == pytest.approx(0.36, abs=0.001)


def test_allow_overlap_false_keeps_footprints_apart_and_drops_the_row_rule():
    ds = AbstractionDataset(**SMALL | {"allow_overlap": False})
    rows = np.concatenate([ds.sets[f"doubleRoot_{split}"][:] for split in SPLITS])
    gaps = np.abs(rows[:, 1:3] - rows[:, 4:6])
    assert (gaps.max(1) >= 2).all()
    assert (gaps.min(1) == 0).any()
    assert len(rows) == len(list(all_doubles(3, 4, 2, 2)))


@pytest.mark.parametrize(
    ("n", "m", "paired"), [(6, 2, False), (5, 4, False), (12, 2, True), (8, 3, True), (5, 0, False)])
def test_held_out_numbers_are_uniform(n, m, paired):
    partner = (lambda numbers: numbers ^ 1) if paired else None
    picks = _distinct(np.random.default_rng(0), 20_000, n, m, partner)
    assert picks.shape == (20_000, m)
    allowed = range(0, n, 2) if paired else range(n)
    expected = list(itertools.permutations(allowed, m))
    found = Counter(map(tuple, picks.tolist()))
    assert set(found) == set(expected)
    mean = 20_000 / len(expected)
    assert all(abs(found[key] - mean) < 6 * math.sqrt(mean) for key in expected if m)


# The row table


@pytest.mark.parametrize("split", ["train", "test"])
def test_row_table_indexes_like_an_array(split):
    table = AbstractionDataset(**SMALL).sets[f"doubleRoot_{split}"]
    array = np.asarray(table)
    n = len(table)
    assert table.shape == array.shape == (n, 7)
    assert table.ndim == 2
    assert table.dtype == array.dtype == np.int64
    some = np.array([0, n - 1, -1, 3])
    for key in (0, -1, np.int32(5), slice(None), slice(2, 20, 3), slice(None, None, -1), slice(n, n + 5), some, [1, 2],
                np.arange(n) % 3 == 0, some.reshape(2, 2), np.zeros(0, int), [], ..., (..., 0), (..., 1, 2), (),
                (slice(None), 0), (3, 4), (some, [0, 1, 2, 3]), (slice(1, 9, 2), [0, 2]), (slice(None), slice(1, 3)),
                (some, slice(0, 2)), (0, ...), torch.tensor([1, 2])):
        np.testing.assert_array_equal(table[key], array[key])
    for key in (n, -n - 1, [0, n], (0, 7), 1.5, "a", np.ones(n + 1, bool), [0.5], None):
        with pytest.raises(IndexError):
            table[key]
    assert [tuple(row) for row in table] == [tuple(row) for row in array]
    assert np.asarray(table, dtype=np.int8).dtype == np.int8
    assert (table[:] == array).all()


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
    (dict(mode="both"), ValueError, "mode"),
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
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(texts) == sorted(str(token) for token in board[slots >= 0])
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
        objects = board[(board >= ds.vocab_bck) & (board < ds.masking_token)]
        assert sorted(text.get_text() for text in ax.texts) == sorted(map(str, objects))
    assert [len(ax.patches) for ax in figure.axes[:4]] == [3, 0, 1, 0]  # hatched: masked, and UNK
    assert [bool(ax.lines) for ax in figure.axes[:3]] == [False, True, False]
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


# Files


def same(one, two):
    assert one.params.as_dict() == two.params.as_dict()
    assert one.set_type == two.set_type
    np.testing.assert_array_equal(one.roots, two.roots)
    np.testing.assert_array_equal(one.compositions, two.compositions)
    assert (one.sets is None) == (two.sets is None)
    for name in one.sets or ():
        assert one.sets[name].shape == two.sets[name].shape
        np.testing.assert_array_equal(one.sets[name][:2000], two.sets[name][:2000])
    np.testing.assert_array_equal(one.sample(50).boards, two.sample(50).boards)


@given(parameters())
def test_export_and_load_give_the_same_data_set(tmp_path_factory, values):
    ds = made(values)
    assume(ds is not None)
    path = tmp_path_factory.mktemp("export") / "deep" / "dataset"
    ds.sample(3)
    ds.export(path)
    loaded = AbstractionDataset()
    loaded.load(path)
    same(ds, loaded)


def test_export_is_small_readable_and_moves(tmp_path, monkeypatch):
    ds = AbstractionDataset(seed=2, card_val=3, run_name="here", board_types_proba=[3, 1, 1])
    ds.set_type = "test"
    ds.export(str(tmp_path / "a" / "b" / "data.v1"))
    files = {file.name for file in (tmp_path / "a" / "b").iterdir()}
    assert files == {"data.v1.json", "data.v1_roots.npy", "data.v1_compositions.npy"} | {
        f"data.v1_{family}_{split}.npy" for family in FAMILIES for split in ("val", "test")}
    assert sum((tmp_path / "a" / "b" / file).stat().st_size for file in files) < 50_000
    values = json.loads((tmp_path / "a" / "b" / "data.v1.json").read_text())
    assert all(values[name] == value for name, value in ds.params.as_dict().items())
    stored = np.load(tmp_path / "a" / "b" / "data.v1_doubleRoot_val.npy")
    assert stored.tolist() == ds.sets["doubleRoot_val"][:].tolist()
    shutil.move(tmp_path / "a" / "b", tmp_path / "c")
    monkeypatch.chdir(tmp_path / "c")
    loaded = AbstractionDataset(**SMALL)
    loaded.load("data.v1.json")
    same(ds, loaded)
    ds.board_types_proba = [1, 0, 0]
    ds.export("data.v1")
    loaded.load("data.v1")
    assert loaded.board_types_proba == [1, 0, 0]


@pytest.mark.parametrize("params", [
    dict(bool_split=False), dict(split_method="stringent", card_val=1), dict(split_method="fraction", card_test=0.3),
    dict(board_dim=3, board_types=["single"], board_types_proba=[1]), dict(allow_overlap=False, abs_w_c=2, abs_w_m=2),
])
def test_round_trip_of_other_kinds(tmp_path, params):
    ds = AbstractionDataset(**SMALL | params)
    ds.export(tmp_path / "d")
    loaded = AbstractionDataset()
    loaded.load(tmp_path / "d")
    same(ds, loaded)


def test_damaged_files_are_refused_by_name_and_change_nothing(tmp_path):
    AbstractionDataset(**SMALL, card_val=2).export(tmp_path / "good" / "d")
    ds = AbstractionDataset(**SMALL | {"seed": 11})
    before = (ds.params.as_dict(), ds.roots.tolist(), ds.rng.bit_generator.state)
    count = 0
    for file in sorted(path.name for path in (tmp_path / "good").iterdir()):
        whole = (tmp_path / "good" / file).read_bytes()
        half = whole[: len(whole) // 2]
        for content in (None, b"", half, whole[:-1], whole[:-3] + b"\x07\x07\x07", b"\x80\x04N.", b"[]"):
            if content is not None and file.endswith(".json") and content == whole[:-1]:
                continue  # only the last line feed is gone
            folder = tmp_path / f"bad{count}"
            shutil.copytree(tmp_path / "good", folder)
            (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
            with pytest.raises(ValueError, match=file.replace(".", r"\.")):
                ds.load(folder / "d")
            count += 1
    assert (ds.params.as_dict(), ds.roots.tolist(), ds.rng.bit_generator.state) == before


def test_pickled_arrays_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    AbstractionDataset(**SMALL).export(tmp_path / "d")
    np.save(tmp_path / "d_roots.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="d_roots"):
        AbstractionDataset().load(tmp_path / "d")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("changes", [
    dict(abs_n=4), dict(abs_n=10**6), dict(abs_n=10**30), dict(abs_n="3"), dict(board_dim=4), dict(board_dim=256),
    dict(vocab_bck=1), dict(vocab_token=3), dict(card_test=3), dict(card_val=1), dict(comp_n=1), dict(comp_margin=2),
    dict(bool_split=False), dict(keep_twins=None), dict(allow_overlap=False), dict(board_types=[]),
    dict(board_types_proba=[1e400, 1, 1]), dict(abs_w_m=10**6, abs_w_c=1, vocab_token=10**6),
    dict(seed=None), dict(seed=-1), dict(set_type="everything"), dict(format=2), dict(surprise=1),
    dict(checksums=[]), dict(checksums={}), dict(checksums={"roots": 0}), dict(checksum=0),
    dict(rng=None), dict(rng={}),
    dict(rng={"bit_generator": "PCG64", "state": {"state": -1, "inc": 1}, "has_uint32": 0, "uinteger": 0}),
])
def test_parameters_that_do_not_fit_the_arrays_are_refused(tmp_path, changes):
    AbstractionDataset(**SMALL).export(tmp_path / "d")
    values = json.loads((tmp_path / "d.json").read_text())
    (tmp_path / "d.json").write_text(json.dumps(values | changes))
    with pytest.raises(ValueError, match=r"d(_\w+)?\.(json|npy): "):
        AbstractionDataset().load(tmp_path / "d")


@pytest.mark.parametrize("text", [
    "[" * 100_000, "{}", "null", '{"format": 1}', '{"sets": null}', '{"a": ' * 5000, "\x00", "[1]",
])
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ValueError, match=r"d\.json"):
        AbstractionDataset(**SMALL).load(tmp_path / "d.json")


def test_twins_apart_are_refused_where_they_must_be_together(tmp_path):
    ds = AbstractionDataset(**SMALL | {"keep_twins": False, "card_val": 2, "card_test": 2})
    ds.export(tmp_path / "d")
    values = json.loads((tmp_path / "d.json").read_text())
    (tmp_path / "d.json").write_text(json.dumps(values | {"keep_twins": True}))
    with pytest.raises(ValueError, match="twins"):
        ds.load(tmp_path / "d")


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
