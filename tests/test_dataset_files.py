"""Data sets on disk: the official program's files, export and load, files that are damaged."""
import json
import shutil

import numpy as np
import pytest
from hypothesis import assume, given

from module_dataset import FAMILIES, SPLITS, AbstractionDataset, DatasetParams
from parts.boards.files import checksum_of
from tests.boards import SMALL, draw_slowly, made, parameters
from tests.faults import Trap


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
    AbstractionDataset(**SMALL).export(tmp_path / "d")
    np.save(tmp_path / "d_roots.npy", np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
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


def test_a_table_that_the_checksums_leave_out_is_missing(tmp_path):
    ds = AbstractionDataset(**SMALL)
    ds.export(tmp_path / "d")
    values = json.loads((tmp_path / "d.json").read_text())
    del values["checksums"]["doubleRoot_val"]
    values["checksum"] = checksum_of(ds.params, values["checksums"])
    (tmp_path / "d.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"d\.json: a table of doubleRoot is missing"):
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


@pytest.mark.parametrize(("filename", "error"), [("", ValueError), (".", ValueError), ("/", ValueError), (None, TypeError), (3, TypeError)])
def test_a_file_name_that_is_none_is_named(filename, error):
    ds = AbstractionDataset(**SMALL)
    for call in (ds.export, ds.load):
        with pytest.raises(error, match="^filename must"):
            call(filename)
