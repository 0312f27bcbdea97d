"""utils: numbers against plain loops, parameters and flags, files that survive accidents, run folders, small pictures."""
import errno
import itertools
import json
import math
import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import module_figures
import module_files
import module_params
import module_run
import module_train_probe
import module_train_probe_lea
import utils
from module_params import FlagParser, Params, param, params_from_flags
from module_run import RunLog, read_run_log
from tests.faults import Trap

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


# parameters


@dataclass(kw_only=True)
class Some(Params):
    count: int = param(3, "how many, at most 100% of nine", low=1, high=9)
    share: float = param(0.5, "a share", low=0, high=1)
    real: float = param(-1.5, "any number")
    maybe: int | None = param(None, "a number or not", low=0)
    on: bool = param(True, "a switch", flag="switch")
    kind: str = param("a", "a kind", choices=("a", "b"))
    label: str = param("", "any text")
    pair: list[float] = param((1, 2), "two numbers", low=0, length=2)
    words: list[str] = param(("x",), "words", choices=("x", "y", "z"))
    rest: list[int] | None = param(None, "numbers or nothing")


WRONG_TYPES = [
    ("count", 2.0), ("count", "3"), ("count", None), ("count", True), ("count", np.float64(2)), ("count", [3]),
    ("share", "0.5"), ("share", None), ("share", True), ("share", 1j), ("share", [0.5]),
    ("maybe", 1.5), ("maybe", "none"), ("maybe", False),
    ("on", 2), ("on", "1"), ("on", 1.0), ("on", None),
    ("kind", 1), ("kind", None), ("label", 3), ("label", b"x"),
    ("pair", 1.0), ("pair", None), ("pair", "12"), ("pair", (1, "2")), ("pair", (1, True)), ("pair", {1: 2}),
    ("words", "x"), ("words", [1]), ("rest", [1.5]), ("rest", 3),
]  # fmt: skip
WRONG_VALUES = [
    ("count", 0), ("count", 10), ("count", -1), ("share", -0.1), ("share", 1.1), ("share", math.nan), ("share", math.inf),
    ("real", math.inf), ("real", -math.inf), ("real", math.nan), ("real", 10**400), ("maybe", -1), ("kind", "c"),
    ("kind", ""), ("pair", (1,)), ("pair", (1, 2, 3)), ("pair", ()), ("pair", (1, -1)),
    ("pair", (1, math.nan)), ("words", ["x", "w"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_wrong_type(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be .*\.$"):
        Some(**{name: value})
    with pytest.raises(TypeError, match=f"^{name} must be"):
        Some.from_dict({name: value})


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES)
def test_wrong_value(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*\.$"):
        Some(**{name: value})


def test_right_values_come_out_as_plain_ones():
    some = Some(count=np.int64(4), share=1, on=np.bool_(False), label=Path("a/b"), pair=np.array([1, 2.5]), rest=(3,),
                maybe=7)
    assert some.as_dict() == {"count": 4, "share": 1, "real": -1.5, "maybe": 7, "on": False, "kind": "a", "label": "a/b",
                              "pair": [1, 2.5], "words": ["x"], "rest": [3]}
    assert {type(v) for v in some.as_dict().values()} <= {int, float, bool, str, list}
    assert Some(on=1).on is True
    assert Some.from_dict(json.loads(json.dumps(some.as_dict()))) == some


def test_defaults_are_not_shared():
    Some().pair.append(3)
    assert Some().pair == [1, 2]


def test_unknown_keyword():
    with pytest.raises(TypeError, match="'shere' is not a parameter; did you mean share?"):
        Some.from_dict({"shere": 1})
    with pytest.raises(TypeError, match="'qqqq' is not a parameter.$"):
        Some.from_dict({"qqqq": 1})
    assert Some.from_dict({"old": 1, "count": 2}, ignored=("old",)).count == 2


def test_keywords_are_shown():
    @module_params.keywords_of(Some, first=["dataset"])
    class Thing:
        def __init__(self, dataset, **params):
            pass

    import inspect

    assert list(inspect.signature(Thing).parameters) == ["dataset", *Some.__dataclass_fields__]
    assert inspect.signature(Thing).parameters["count"].default == 3


# flags


def parser(**defaults):
    made = FlagParser("A test.")
    made.add_params("some", Some, defaults)
    return made


def flag_words(name, value):
    """A value as somebody types it."""
    if value is None:
        return ["none"]
    values = value if isinstance(value, list) else [value]
    return [str(int(v)) if isinstance(v, bool) else str(v) for v in values]


numbers = st.floats(0, 1e9).map(lambda x: round(x, 3))
SOME = st.fixed_dictionaries({}, optional={
    "count": st.integers(1, 9), "share": st.floats(0, 1), "real": numbers, "maybe": st.none() | st.integers(0, 10**6),
    "on": st.booleans(), "kind": st.sampled_from("ab"), "label": st.text("abc_ 0123", min_size=1),
    "pair": st.lists(numbers, min_size=2, max_size=2), "words": st.lists(st.sampled_from("xyz"), min_size=1),
    "rest": st.none() | st.lists(st.integers(-50, 50), min_size=1),
})  # fmt: skip


@given(SOME)
@settings(max_examples=60)
def test_flags_round_trip(values):
    flags = {"on": "switch"}
    argv = []
    for name, value in values.items():
        argv += [f"--{flags.get(name, name)}", *flag_words(name, value)]
    given_back = params_from_flags(Some, parser().parse_args(argv))
    assert given_back == values
    assert Some(**given_back).as_dict() == Some().as_dict() | values


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["--count", "2.5"], "count"), (["--count", "many"], "count"), (["--count", "none"], "count"),
        (["--share", "nan"], "share"), (["--share", "inf"], "share"), (["--real", "1e400"], "real"),
        (["--real", "9" * 400], "real"), (["--switch", "yes"], "on"), (["--switch", "2"], "on"),
        (["--pair", "1"], "pair"), (["--pair", "1", "x"], "pair"), (["--maybe", "-1"], "maybe"),
    ],
)  # fmt: skip
def test_a_wrong_flag_names_its_parameter(argv, name):
    flags = parser().parse_args(argv)
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        params_from_flags(Some, flags)


@pytest.mark.parametrize("argv", [["--coun", "2"], ["--nothing", "2"], ["stray"], ["--count"], ["--pair", "--count", "2"]])
def test_a_mistyped_flag_is_one_line_and_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as error:
        parser().parse_args(argv)
    assert error.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert argv[0] in err


def test_help_shows_meaning_and_default(capsys):
    with pytest.raises(SystemExit) as error:
        parser(count=5).parse_args(["--help"])
    assert error.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for piece in ("at most 100% of nine (default: 5)", "--switch 0|1 a switch (default: 1)", "two numbers (default: 1 2)",
                  "a number or not (default: none)", "--kind NAME a kind (default: 'a')"):
        assert piece in text


def test_pick_device():
    assert module_params.pick_device("cpu") == torch.device("cpu")
    assert module_params.pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:97", "gpu", "", "meta", "cpu:3", "cuda:-1"):
        with pytest.raises(ValueError, match=f"device must be .*{name!r}"):
            module_params.pick_device(name)


# files


@pytest.mark.parametrize("error", [ValueError("half way"), KeyboardInterrupt()])
def test_atomic_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "new" / "file.txt"
    with module_files.atomic_write(path, "w") as file:
        file.write("old")

    def fail(path):
        with module_files.atomic_write(path, "w") as file:
            file.write("new")
            file.flush()
            raise error

    with pytest.raises(type(error)):
        fail(path)
    assert path.read_text() == "old"
    with pytest.raises(type(error)):
        fail(tmp_path / "never")
    assert os.listdir(tmp_path) == ["new"]
    assert os.listdir(tmp_path / "new") == ["file.txt"]


@pytest.mark.parametrize("call", ["tempfile.mkstemp", "os.fsync", "os.replace"])
def test_atomic_write_names_the_file_that_could_not_be_written(call, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file beside it")

    monkeypatch.setattr(call, fails)
    with pytest.raises(OSError, match="No space left on device: .*file.txt'$") as found:
        module_files.write_json(tmp_path / "file.txt", {})
    assert found.value.filename == str(tmp_path / "file.txt")


def test_atomic_write_makes_ordinary_files(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    module_files.save_array(tmp_path / "x.npy", np.arange(3))
    assert (tmp_path / "x.npy").stat().st_mode == plain.stat().st_mode


ARRAYS = [np.arange(12).reshape(3, 4), np.zeros((0, 4)), np.float32(3.5), np.array([True, False]),
          np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array([1, 2], np.uint8), np.array([1.0], ">f8")]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_come_back(tmp_path, array):
    module_files.save_array(tmp_path / "a.npy", array)
    back = module_files.load_array(tmp_path / "a.npy")
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert (back == array).all()
    back[...] = 0


def npy(shape, descr="<i8", data=b"", version=1):
    """A .npy file's bytes, whatever its header claims."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(header)) + header + data


def damaged_arrays(tmp_path):
    np.save(tmp_path / "whole.npy", np.arange(100))
    whole = (tmp_path / "whole.npy").read_bytes()
    np.save(tmp_path / "object.npy", np.array([Trap(tmp_path / "sprung")], object), allow_pickle=True)
    return {
        "empty": b"", "cut header": whole[:40], "cut data": whole[:-1], "too long": whole + b"\0", "text": b"hello\n" * 9,
        "object": (tmp_path / "object.npy").read_bytes(), "oversize": npy((10**15,)),
        "oversize 2": npy((2**62, 4), data=bytes(8)), "negative": npy((-1, -8), data=bytes(64)),
        "strings": npy((1,), "<U2", bytes(8)), "pickle": pickle.dumps(np.arange(3)),
        "version": npy((1,), data=bytes(8), version=3), "code": npy((1,), data=bytes(8)).replace(b"<i8", b"[;]"),
        "records": npy((1,), [("a", "<i4")], bytes(4)),
    }  # fmt: skip


def test_damaged_arrays_are_refused_by_name(tmp_path):
    path = tmp_path / "bad.npy"
    for what, content in damaged_arrays(tmp_path).items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match="bad.npy"):
            pytest.fail(f"{what} was read as {module_files.load_array(path)!r}")
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ValueError, match="missing.npy: cannot be read"):
        module_files.load_array(tmp_path / "missing.npy")


def test_json_round_trip(tmp_path):
    values = {"a": [1, 2.5, None, "é"], "b": {"c": True}}
    module_files.write_json(tmp_path / "deep" / "x.json", values)
    assert module_files.read_json(tmp_path / "deep" / "x.json") == values


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1, 2]", b"3", b"\xff\xfe", b"[" * 200_000])
def test_damaged_json_is_refused_by_name(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match="x.json: "):
        module_files.read_json(tmp_path / "x.json")


def test_missing_json_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="none.json: cannot be read"):
        module_files.read_json(tmp_path / "none.json")
    with pytest.raises(ValueError, match="cannot be read"):
        module_files.read_json(tmp_path)


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


def test_run_names_are_unique_across_threads(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: module_run.unused_run_name(tmp_path / "runs", "_factor"), range(40)))
    assert len(set(names)) == 40
    assert sorted(names) == sorted(os.listdir(tmp_path / "runs"))
    day, number, suffix = names[0].removeprefix("run_").split("_")
    assert (len(day), day.isdecimal(), number.isdecimal(), suffix) == (8, True, True, "factor")


def test_a_run_name_never_names_what_is_there(tmp_path):
    first = module_run.unused_run_name(tmp_path, "")
    os.rmdir(tmp_path / first)
    (tmp_path / first).write_text("somebody's file")
    assert module_run.unused_run_name(tmp_path, "") != first
    assert (tmp_path / first).read_text() == "somebody's file"


# logs


def test_run_log_round_trip(tmp_path):
    log = RunLog(["written", "epoch", "loss", "test"], 3, tmp_path)
    log.add({"epoch": 0, "written": 1, "loss": 1 / 3, "test": 0.25})
    log.add({"epoch": 1, "written": 0, "loss": np.float32(1e-7)})
    log.extend(5)
    log.add({"epoch": 4, "written": 1, "loss": 12345678.5, "test": -1.0})
    log.save_arrays()
    with open(tmp_path / "run_log.pkl", "rb") as file:
        arrays = pickle.load(file)
    nan = math.nan
    expected = {"written": [1, 0, 0, 0, 1], "epoch": [0, 1, nan, nan, 4],
                "loss": [1 / 3, np.float32(1e-7), nan, nan, 12345678.5], "test": [0.25, nan, nan, nan, -1]}
    assert list(arrays) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(arrays[name], values, rtol=1e-12)
    rows = read_run_log(tmp_path / "run_log.csv")
    assert list(rows) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(rows[name], np.array(values)[[0, 1, 4]], rtol=1e-8)


def test_run_log_in_memory_and_never_over_another(tmp_path):
    RunLog(["epoch"], 2).save_arrays()
    RunLog(["epoch"], 2, tmp_path)
    with pytest.raises(FileExistsError):
        RunLog(["epoch"], 2, tmp_path)
    assert read_run_log(tmp_path / "run_log.csv")["epoch"].tolist() == []
    with pytest.raises(KeyError):
        RunLog(["epoch"], 2).add({"epoch": 0, "nothing": 1})


@pytest.mark.parametrize("content", [b"a,b\n1,2\n3", b"a,b\n1,x\n", b"a\n1,2\n", b"\xff\xfe\x00"])
def test_damaged_run_log_is_refused_by_name(tmp_path, content):
    (tmp_path / "run_log.csv").write_bytes(content)
    with pytest.raises(ValueError, match="run_log.csv: "):
        read_run_log(tmp_path / "run_log.csv")


def test_missing_run_log_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="run_log.csv: cannot be read"):
        read_run_log(tmp_path / "run_log.csv")


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


def test_figures_need_no_display_and_stay_on_no_list(tmp_path):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    log = {"epoch": np.arange(3.0), "a": np.array([1, np.nan, 2]), "b": np.array([-1.0, -1, -1])}
    figure = module_figures.plot_curves(log, [("left", True, {"": "a"}), ("right", False, {"x": "a", "y": "b"})])
    lines = [line.get_ydata().tolist() for ax in figure.axes for line in ax.lines]
    assert lines == [[1, 2], [1, 2], []]
    assert module_figures.save_figure(figure, tmp_path / "new" / "x.png", 50) is figure
    assert Image.open(tmp_path / "new" / "x.png").size == (460, 180)
    assert pyplot.get_fignums() == before


def test_draw_board_marks_cells():
    figure, axes = module_figures.new_figure()
    colors = module_figures.token_colors(2, 3)
    assert colors.shape == (6, 4)
    assert len(np.unique(colors, axis=0)) == 6
    board = np.array([[0, 1], [4, 5]])
    module_figures.draw_board(axes[0, 0], board, colors, board >= 2, mask=[[0, 1], [0, 0]], wrong=[[0, 0], [1, 0]])
    ax = axes[0, 0]
    assert [(text.get_text(), text.get_position()) for text in ax.texts] == [("4", (0, 1)), ("5", (1, 1))]
    assert [patch.get_xy() for patch in ax.patches] == [(0.5, -0.5)]
    assert len(ax.lines) == 2
    assert (np.asarray(ax.images[0].get_array()) == colors[board]).all()


@pytest.mark.parametrize(("one", "other"), [((5, 1), (5, 1, 0)), ((3 * 2**32 + 7, 5), (7, 3, 5)), ((7,), (7, 0))])
def test_streams_of_different_names_differ(one, other):
    assert utils.numpy_rng(*one).integers(2**62) != utils.numpy_rng(*other).integers(2**62)
    draws = [torch.randint(2**62, (1,), generator=utils.torch_rng(*key)).item() for key in (one, other)]
    assert draws[0] != draws[1]
