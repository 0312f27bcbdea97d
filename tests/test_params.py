"""Parameters and what is refused, flags, devices."""
import inspect
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parts import params
from parts.params import FlagParser, Params, param, params_from_flags

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
    @params.keywords_of(Some, first=["dataset"])
    class Thing:
        def __init__(self, dataset, **params):
            pass

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
    assert params.pick_device("cpu") == torch.device("cpu")
    assert params.pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:97", "gpu", "", "meta", "cpu:3", "cuda:-1"):
        with pytest.raises(ValueError, match=f"device must be .*{name!r}"):
            params.pick_device(name)
