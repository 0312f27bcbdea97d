"""Rows of boards and which are held out: numbers of rows, splits, tables, whatever the parameters."""
import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given

from module_dataset import AbstractionDataset
from parts.boards.params import FAMILIES, SPLITS, TYPES, DatasetParams, Doubles, Family
from parts.boards.splits import distinct
from tests.boards import SMALL, all_doubles, draw_slowly, made, parameters, rows_of, shown, twin


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


def test_twins_of_more_than_a_million_rows():
    family = DatasetParams(vocab_bck=12).families[1]
    numbers = np.arange(1_000_001)
    twins = family.twin(numbers)
    assert (twins != numbers).any()
    assert (family.twin(twins) == numbers).all()


@pytest.mark.parametrize(("vocab_bck", "fits"), [(3000, True), (6000, False)])
def test_more_boards_than_can_be_numbered_are_refused(vocab_bck, fits):
    """2.7e18 and 5.4e18 double boards; numbers end at 2**62, 4.6e18."""
    values = dict(abs_n=10**6, vocab_bck=vocab_bck, board_types=["double"], comp_n=1)
    if fits:
        assert 2**61 < DatasetParams.from_dict(values).families[1].size < 2**62
    else:
        with pytest.raises(ValueError, match=r"allow more than 2\*\*62 boards"):
            DatasetParams.from_dict(values)
    with pytest.raises(ValueError, match="abs_n"):
        DatasetParams.from_dict(values | {"abs_n": 10**6 + 1})


def test_two_places_in_one_column_are_no_double_board():
    with pytest.raises(ValueError, match="share a row or a column"):
        DatasetParams().families[1].rank(np.array([[0, 1, 2, 1, 3, 2, 0]]))


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
    if ds.split_method in ("stringent", "places"):
        check_positions(ds)
    elif ds.split_method == "pairs":
        check_pairs(ds)


def check_positions(ds):
    """Each root has one held-out position, or the share card_test of all; a board is held out exactly when it
    shows a root there."""
    held = {row[:3] for row in rows_of(ds, "singleRoot", ["val", "test"])}
    R2 = (ds.board_dim - ds.abs_dim + 1) ** 2
    count = 1 if ds.split_method == "stringent" else min(max(round(ds.card_test * R2), 1), R2 - 1)
    assert Counter(root for root, _, _ in held) == {root: count for root in range(ds.abs_n)}
    check_held(ds, lambda type_, row: shown(ds, type_, row) & held)


def check_pairs(ds):
    """Held out are the double boards of card_test pairs of different roots, of which no composition has both."""
    held = {frozenset((row[0], row[3])) for row in rows_of(ds, "doubleRoot", ["val", "test"])}
    assert len(held) == ds.card_test
    for pair in held:
        assert len(pair) == 2
        assert not any(pair <= set(composition.ravel().tolist()) for composition in ds.compositions)
    check_held(ds, lambda type_, row: type_ == 1 and {row[0], row[3]} in held)


def check_held(ds, is_held):
    """Train has no row that is_held(type, row), val and test no other; val has half of them or none."""
    for type_, family in enumerate(FAMILIES):
        assert not any(is_held(type_, row) for row in rows_of(ds, family, ["train"]))
        out, val = rows_of(ds, family, ["val", "test"]), rows_of(ds, family, ["val"])
        assert all(is_held(type_, row) for row in out)
        together = 2 if type_ == 1 and ds.keep_twins else 1
        assert len(val) == (len(out) // (2 * together) * together if ds.card_val > 0 else 0)


def test_the_share_of_positions_held_out_of_the_default_data_set():
    """Half of 36 positions of each root: 1,800 of 3,600 single boards, 3 of 4 double ones but for the row rule."""
    sets = AbstractionDataset(split_method="places", card_test=0.5, seed=0).sets
    assert len(sets["singleRoot_train"]) == len(sets["singleRoot_test"]) == 1800
    assert 0.70 < len(sets["doubleRoot_test"]) / 900_000 < 0.80
    positions = {tuple(row) for row in sets["singleRoot_test"][:, :3].tolist()}
    assert Counter(root for root, *_ in positions) == dict.fromkeys(range(10), 18)


def test_pairs_leave_single_and_composite_boards_to_train():
    sets = AbstractionDataset(split_method="pairs", card_test=6, card_val=1, seed=0).sets
    assert len(sets["singleRoot_train"]) == 3600
    assert len(sets["singleComposite_train"]) == 200
    assert len(sets["doubleRoot_val"]) == len(sets["doubleRoot_test"]) == 6 * 2 * 9000 / 2


@pytest.mark.parametrize(("values", "says"), [
    (dict(split_method="places", card_test=4), "card_test, .*'places'.* below 1, not 4"),
    (dict(split_method="places", card_test=0), "card_test, .*above 0"),
    (dict(split_method="places", card_test=0.5, board_dim=3, board_types=["single"]), "'places' needs board_dim"),
    (dict(split_method="places", card_test=0.9), "'places' with seed = 0 leaves no 'composition' boards"),
    (dict(split_method="pairs", card_test=0), "card_test, .*'pairs'.* at least 1, not 0"),
    (dict(split_method="pairs", card_test=1.5), "card_test, .*whole number of at least 1, not 1.5"),
    (dict(split_method="pairs", card_test=45), "card_test = 45 must be at most"),
    (dict(split_method="pairs", card_test=1, board_types=["single"]), "'pairs' needs 'double'"),
    (dict(split_method="pairs", card_test=1, abs_n=1, comp_n=1), "card_test = 1 must be at most 0"),
])
def test_splits_that_cannot_be_are_refused_by_name(values, says):
    with pytest.raises(ValueError, match=says):
        AbstractionDataset(**{"seed": 0} | values)


@pytest.mark.parametrize("values", [
    dict(split_method="places", card_test=0.5), dict(split_method="places", card_test=0.05, card_val=1),
    dict(split_method="pairs", card_test=6, card_val=1)])
def test_exports_of_large_held_out_sets_are_small_and_load_back(values, tmp_path):
    ds = AbstractionDataset(seed=1, **values)
    ds.export(tmp_path / "boards")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 700_000
    loaded = AbstractionDataset(seed=2)
    loaded.load(tmp_path / "boards")
    for name, table in ds.sets.items():
        np.testing.assert_array_equal(loaded.sets[name][:], table[:])
    assert (loaded.sample(20, "test", [0, 1, 0]).boards == ds.sample(20, "test", [0, 1, 0]).boards).all()


def test_stringent_splits_mix_roots_and_backgrounds():
    sets = AbstractionDataset(split_method="stringent", card_val=1, seed=0).sets
    for split in ("val", "test"):
        rows = sets[f"singleRoot_{split}"][:]
        assert len(rows) == 50
        assert len(set(rows[:, 0])) == len(set(rows[:, 3])) == 10


@given(parameters())
def test_every_row_can_be_drawn_and_objects_aredistinct(values):
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
    picks = distinct(np.random.default_rng(0), 20_000, n, m, partner)
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
