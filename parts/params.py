"""Parameters: one dataclass field states a parameter's default, meaning, type and range. The constructor's
keywords, the flags of the scripts, --help, JSON and all checks follow from it.

To add a parameter, add a field made by `param` to DatasetParams, TrainParams or LEAParams.
"""
from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import numbers
import os
import re
import sys
import time
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from utils import MAX_SEED, shown

LEADER_SECONDS = 30  # in which torchrun's first process prints an error before the others end
NUMBERS = {int: MAX_SEED, float: sys.float_info.max}  # the largest value of each kind of number


def param(default, help: str, *, low=None, high=None, choices=None, length=None, flag: str | None = None,
          word: str | None = None, fixed: bool = False):
    """A dataclass field for a parameter.

    help: its meaning, for --help. low, high: inclusive bounds of the value or of each item of a list.
    choices: allowed values. length: of a list. flag: the name of its flag, if not the field's. word: a text
    that is allowed instead of the value. fixed: it cannot be assigned once the data set or trainer is made.
    """
    meta = dict(
        help=help, low=low, high=high, choices=choices, length=length, flag=flag, word=word, fixed=fixed)
    if isinstance(default, (list, tuple)):
        return dataclasses.field(default_factory=lambda: list(default), metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


def inherited(params_class, name: str, default, **changed):
    """The field of a parameter class with another default, for a subclass; changed: what else differs."""
    return param(default, **params_class.__dataclass_fields__[name].metadata | changed)


@functools.cache
def _kinds(cls) -> dict[str, tuple[type, bool, bool]]:
    """For each field of a parameter class: (type of value or item, is a list, may be None)."""
    kinds = {}
    for name, hint in typing.get_type_hints(cls).items():
        none = isinstance(hint, types.UnionType)
        hint = typing.get_args(hint)[0] if none else hint
        is_list = typing.get_origin(hint) is list
        kinds[name] = (typing.get_args(hint)[0] if is_list else hint, is_list, none)
    return kinds


def _fits(value, kind: type):
    """value as a plain Python value of that kind. TypeError if it is of another."""
    truth = isinstance(value, (bool, np.bool_))  # Python counts True as a number
    if kind is bool and (truth or isinstance(value, numbers.Integral)) and value in (0, 1):
        return bool(value)
    if kind is str and isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if kind is str and isinstance(value, torch.device):
        return str(value)
    if kind in (int, float) and isinstance(value, numbers.Integral) and not truth:
        return int(value)
    if kind is float and isinstance(value, numbers.Real) and not truth:
        return float(value)
    raise TypeError


def _names_a_file(text: str) -> bool:
    """Whether a file can have the text as its name or path."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _expected(kind, is_list, none, meta) -> str:
    """What a parameter must be, in words."""
    words = {int: "a whole number", float: "a number", bool: "True or False (1 or 0)", str: "a string"}[kind]
    if meta["choices"]:
        words = "one of " + ", ".join(map(str, meta["choices"]))
    low, high = meta["low"], meta["high"]
    if low is not None and high is not None:
        words += f" from {low} to {high}"
    elif low is not None:
        words += f" of at least {low}"
    if is_list:
        words = f"a list{' of ' + str(meta['length']) if meta['length'] else ''}, each {words}"
    return words + (f", {meta['word']}" if meta["word"] else "") + (" or None" if none else "")


@dataclasses.dataclass(kw_only=True)
class Params:
    """Base of the parameter sets. An object checks its fields when it is made: a wrong type or an unknown
    name is a TypeError, a wrong value a ValueError, in one sentence that names the parameter."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            setattr(self, field.name, self.checked(field.name, getattr(self, field.name)))
        self.check()

    def check(self) -> None:
        """Raises ValueError if two parameters contradict each other."""

    @classmethod
    def checked(cls, name: str, value):
        """value as parameter `name` stores it. TypeError or ValueError if it is not allowed."""
        meta = cls.__dataclass_fields__[name].metadata
        kind, is_list, none = _kinds(cls)[name]
        wrong = f"{name} must be {_expected(kind, is_list, none, meta)}, not {shown(value)}."
        if (value is None and none) or (isinstance(value, str) and value == meta["word"]):
            return value
        try:
            if is_list and not isinstance(value, (list, tuple, np.ndarray)):
                raise TypeError
            items = [_fits(v, kind) for v in (value if is_list else [value])]
        except TypeError:
            raise TypeError(wrong) from None
        allowed = meta["length"] in (None, len(items)) and all(
            (kind not in NUMBERS or abs(v) <= NUMBERS[kind])  # which NaN is not either
            and (meta["low"] is None or v >= meta["low"])
            and (meta["high"] is None or v <= meta["high"])
            and (not meta["choices"] or v in meta["choices"])
            for v in items)
        if kind is str and not all(map(_names_a_file, items)):
            allowed = False
            wrong = f"{name} must be a string that file names here can hold, not {shown(value)}."
        if not allowed:
            raise ValueError(wrong)
        return items if is_list else items[0]

    @classmethod
    def from_dict(cls, values: dict, ignored: Iterable[str] = ()):
        """Parameters from keywords. Names in `ignored` are dropped; other unknown names are a TypeError."""
        names = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in names and name not in ignored:
                near = difflib.get_close_matches(str(name), names, 1)
                hint = f"; did you mean {near[0]}?" if near else "."
                raise TypeError(f"{name!r} is not a parameter{hint}")
        return cls(**{name: value for name, value in values.items() if name in names})

    def as_dict(self) -> dict:
        """{name: value}, as the constructor and JSON take them."""
        return dataclasses.asdict(self)


def assigned(params: Params, name: str, value) -> Params:
    """params with one parameter changed; all are checked again. AttributeError if the parameter is fixed."""
    if params.__dataclass_fields__[name].metadata["fixed"]:
        raise AttributeError(
            f"{name} is fixed once the object is made; make a new one with {name}={value!r}.")
    return type(params).from_dict(params.as_dict() | {name: value})


def keywords_of(params_class, first: Sequence[str] = ()):
    """Class decorator: help() and notebooks show the parameters of params_class as the constructor's
    keywords, with their meanings. first: arguments before them."""

    def decorate(cls):
        P, fields = inspect.Parameter, dataclasses.fields(params_class)
        keywords = [P(f.name, P.KEYWORD_ONLY, default=field_default(f), annotation=f.type) for f in fields]
        cls.__signature__ = inspect.Signature([P(name, P.POSITIONAL_OR_KEYWORD) for name in first] + keywords)
        meanings = [f"    {f.name} = {field_default(f)!r}: {f.metadata['help']}" for f in fields]
        cls.__doc__ = "\n".join(
            [inspect.cleandoc(cls.__doc__ or ""), "", "Keywords and their defaults:", "", *meanings]
        )
        return cls

    return decorate


class FlagParser(argparse.ArgumentParser):
    """A command line whose flags come from parameter classes. A mistake prints one line on stderr and ends
    the program with exit code 2.

    A word @FILE stands for the flags in a file, a recipe: one flag and its values per line, `#` starts a
    comment. If a flag is given twice the later one counts, so flags after @FILE override it.
    """

    def __init__(self, description: str):
        super().__init__(
            description=description,
            epilog="@FILE reads flags from a file, as @recipes/factor_paper.args; flags after it override.\n"
            "Values may be written as in Python or a sweep of wandb: true, None, --x=[1,0,0].",
            allow_abbrev=False,
            formatter_class=argparse.RawTextHelpFormatter,
        )
        self._recipe = None  # the recipe that is being read

    def error(self, message):
        if os.environ.get("TORCHELASTIC_RUN_ID") and os.environ["RANK"] != "0":
            time.sleep(LEADER_SECONDS)  # torchrun's first process prints the same, and torchrun ends this one
        where = "" if self._recipe is None else f"{self._recipe}: "
        self.exit(2, f"{self.prog}: {where}{' '.join(message.split())}\n")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, with each @FILE replaced by the flags in that file."""
        words = []
        for word in sys.argv[1:] if args is None else args:
            words += self._flags_in(word[1:]) if word.startswith("@") else [word]
        flags, rest = super().parse_known_args(words, namespace)
        for name, value in vars(flags).items():
            if value == []:  # argparse loses the value of --flag=--
                setattr(flags, name, "--")
        return flags, rest

    def _flags_in(self, path: str) -> list[str]:
        """The flags and values in a recipe; the program ends if it cannot be read or holds others."""
        self._recipe = shown(path)
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            self.error(f"cannot be read ({error.strerror}).")
        except ValueError:
            self.error("cannot be read (it is not UTF-8 text).")
        without_comments = [re.sub(r"(^|\s)#.*", "", line) for line in lines]
        words = " ".join(without_comments).split()
        unknown = super().parse_known_args(words)[1]
        if unknown:
            self.error(f"{shown(unknown[0])} is not a flag or a value of one.")
        self._recipe = None
        return words

    def add_params(self, title: str, params_class, defaults: dict, skip: Sequence[str] = ()) -> None:
        """Adds one flag for each field of params_class. defaults: this script's own."""
        group = self.add_argument_group(title)
        for field in dataclasses.fields(params_class):
            if field.name in skip:
                continue
            kind, is_list, none = _kinds(params_class)[field.name]
            default = defaults.get(field.name, field_default(field))
            shown = " ".join(map(str, default)) if is_list and default is not None else _as_text(default)
            group.add_argument(
                "--" + (field.metadata["flag"] or field.name),
                dest=field.name,
                default=argparse.SUPPRESS,
                nargs="+" if is_list else None,
                metavar={bool: "0|1", str: "NAME", int: "N", float: "X"}[kind],
                help=f"{field.metadata['help']} (default: {shown})".replace("%", "%%"),
            )


def field_default(field: dataclasses.Field):
    """The value of a field if none is given."""
    return field.default_factory() if field.default is dataclasses.MISSING else field.default


def _as_text(value) -> str:
    return "none" if value is None else str(int(value)) if isinstance(value, bool) else repr(value)


def params_from_flags(params_class, flags: argparse.Namespace) -> dict:
    """The parameters of params_class that were given on the command line, checked."""
    values = {}
    for name, (kind, is_list, none) in _kinds(params_class).items():
        if not hasattr(flags, name):
            continue
        words = getattr(flags, name)
        words = [words] if isinstance(words, str) else words
        if none and is_none(" ".join(words)):
            values[name] = None
        elif words == [params_class.__dataclass_fields__[name].metadata["word"]]:
            values[name] = words[0]
        else:
            items = [_read(item, kind) for item in (_items(words) if is_list else words)]
            values[name] = params_class.checked(name, items if is_list else items[0])
    return values


def is_none(text: str) -> bool:
    """Whether a flag's text means None."""
    return text.casefold() == "none"


def _items(words: Sequence[str]) -> list:
    """The items of a list flag: words, with or without commas between them, or a list as in Python."""
    text = " ".join(words).strip()
    if text.startswith(("[", "(")):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return list(ast.literal_eval(text))
    return re.split(r"\s*,\s*|\s+", text)


def _read(item, kind: type):
    """A flag's text as a value of that kind. Text that is no such value stays, and `checked` refuses it."""
    if kind is str or not isinstance(item, str):
        return item
    if kind is bool and item.casefold() in ("true", "false"):
        return item.casefold() == "true"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(item)
    return item


def pick_device(name: str) -> torch.device:
    """The torch device for cpu, cuda, cuda:N, mps or auto (CUDA or else cpu). ValueError if it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    count = torch.cuda.device_count() if device is not None and device.type == "cuda" else 1
    if device is None or not present.get(device.type) or (device.index or 0) >= count:
        raise ValueError(
            "device must be cpu, cuda, cuda:N, mps or auto and be present on this machine, not "
            f"{shown(name)}."
        )
    return device
