"""Hostile arguments: whatever is passed, training can start or one sentence names the parameter, at once and for little
memory. The matrix is generated from the parameter classes, so that a new parameter is in it."""
import contextlib
import dataclasses
import itertools
import math
import re
import resource
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import train_model
import train_model_lea
from module_dataset import AbstractionDataset, DatasetParams
from module_train_probe import TrainParams, TrainTransformer
from module_train_probe_lea import LEAParams
from module_train_probe_lea import TrainTransformer as TrainLEA
from module_transformer_factor import GPTFactor
from module_transformer_lea import LEA as LEAVanilla
from module_transformer_lea import LEAFactor
from parts.params import _kinds

ROOT = Path(__file__).resolve().parents[1]
SECONDS, BYTES = 20, 2**30  # of CPU time and memory; more than that for an argument is a hang or a leak
HUGE, ENDLESS = (10**6, 10**7, 2**31, 2**63, 10**12, 10**30), (math.nan, math.inf, -math.inf)
WRONG = {
    int: [0, -1, 1, 2, 1.5, *HUGE, -(10**12), 10**5000, *ENDLESS, "3", "", None, True, [3], (), {}, b"3", 1j, object,
          np.int64(-3), np.uint64(2**64 - 1), np.float64(2), torch.tensor(2)],
    float: [0, -1, -1e-9, 0.5, 1, 1.5, 1e-320, 1e308, *HUGE, 10**400, 10**5000, *ENDLESS, "0.5", None, True, [0.5], {}, b"x",
            1j, np.float32(math.nan), np.array(0.5), torch.tensor(0.5)],
    bool: [0, 1, 2, -1, 0.5, math.nan, "yes", "0", None, [], [True], {}, np.bool_(True), torch.tensor(True)],
    str: ["", "\0", "a\0b", "\ud800", "..", ".", "a/b", "/", "x" * 300, "x" * 10**6, "né\n", 5, True, None, b"x", ["x"], {},
          math.nan],
    "list of int": [[0], [-1], [1], [3, 3], [1.5], HUGE, [-(10**12)], [10**5000], [math.nan], ["1"], [None], [True], [[1]], "123",
                    1, "log", "", {}, {1: 2}, np.ones(3), np.array(1), np.array([-1]), range(3), [1] * 10**5, object],
    "list of float": [[], [0], [0, 0, 0], [1], [1, 2], [1, 2, 3], [1] * 4, [-1, 1, 1], [math.nan, 1, 1], [math.inf, 0, 0],
                      [1e308] * 3, [1e-320, 0, 0], [10**400, 1, 1], ["a", "b", "c"], [[1], [2], [3]], [None] * 3, [True] * 3,
                      "123", 1, None, {}, {1: 2}, np.ones(3), np.ones((3, 3)), np.array(1.0), range(3), [1] * 10**5],
    "list of str": [[], ["single"], ["single", "single"], ["triple"], ["single", "double", "composition", "single"], "single",
                    [1], [None], None, 5, {"single": 1}, np.array(["double"]), [["single"]], ["single"] * 10**4],
}  # fmt: skip
DATASET = dict(dataset_len=6, board_dim=7, vocab_bck=2, vocab_token=4, abs_n=3, abs_dim=2, abs_c=3, comp_n=2, comp_c=2, card_test=1,
               seed=0)
TRAINING = dict(n_layer=1, n_head=2, n_embd=4, n_embd_pos=2, batch_size=3, epochs=2, seed=0, device="cpu")
LEA = dict(vocab_speech_size=5, block_speech_size=3)

# pairs that do not fit, and what must be named
DATASET_PAIRS = [
    (dict(abs_c=10, abs_dim=3), "abs_c"), (dict(abs_w_c=4, abs_c=3), "abs_w_c"), (dict(abs_w_c=1, abs_w_m=9), "abs_w_m"),
    (dict(comp_c=5, comp_dim=2), "comp_c"), (dict(board_dim=4), "board_dim"), (dict(abs_dim=8), "abs_dim"),
    (dict(comp_margin=9), "board_dim"), (dict(abs_dim=7, abs_c=1), "board_dim"), (dict(abs_n=10**5), "abs_n"),
    (dict(abs_n=1, comp_n=50), "comp_n"), (dict(board_types=["single"], board_types_proba=[0]), "board_types_proba"),
    (dict(board_types=["single"], board_types_proba=[1, 1]), "board_types_proba"), (dict(card_test=0.5), "card_test"),
    (dict(card_val=1e300), "card_val"), (dict(card_test=10**9), "card_test"),
    (dict(split_method="fraction", card_test=1), "card_test"),
    (dict(split_method="fraction", card_test=0.5, card_val=0.5), "card_val"),
    (dict(split_method="stringent", board_dim=2, board_types=["single"], board_types_proba=[1]), "split_method"),
    (dict(board_dim=256, abs_dim=256, abs_c=1, abs_n=10**6, board_types=["single"], board_types_proba=[1]), "abs_n"),
    (dict(abs_n=10**6, abs_dim=7, abs_c=20, board_types=["single"], board_types_proba=[1]), "abs_n"),
    (dict(comp_n=10**6, comp_dim=12), "board_dim"), (dict(board_dim=256, vocab_bck=10**6, abs_n=10**6), "abs_n"),
    (dict(allow_overlap=0, board_dim=3, board_types=["double"], board_types_proba=[1]), "board_dim"), (dict(surprise=1), "surprise"),
]  # fmt: skip
TRAINING_PAIRS = [
    (dict(n_embd=6, n_head=4), "n_embd"), (dict(n_head=10**6), "n_head"), (dict(n_embd=10**6, n_layer=200), "n_embd"),
    (dict(n_embd=10**6), "n_embd"), (dict(n_embd_pos=10**6, n_embd=512), "n_embd_pos"),
    (dict(board_proba_epoch_start=5, board_proba_epoch_end=4), "board_proba_epoch_end"),
    (dict(board_proba_start=[0, 0, 0]), "board_proba_start"), (dict(board_proba_end=[0, 0, 0]), "board_proba_end"),
    (dict(vocab_size=8), "vocab_size"), (dict(block_size=10**12), "block_size"), (dict(masking_token=0), "masking_token"),
    (dict(masking_patch_epoch=10**6, epochs=10**6, recipe_epochs=1), "masking_patch_epoch"),
    (dict(device="cuda:77"), "device"), (dict(device="meta"), "device"), (dict(device="cpu:3"), "device"),
    (dict(surprise=1), "surprise"), (dict(n_embed=8), "n_embe?d"),
]  # fmt: skip
LEA_PAIRS = [
    (dict(loss_rfs_epoch_start=5, loss_rfs_epoch_end=4), "loss_rfs_epoch_end"),
    (dict(loss_speech_epoch_start=5, loss_speech_epoch_end=4), "loss_speech_epoch_end"),
    (dict(vocab_speech_size=10**6, n_embd=10**4), "vocab_speech_size"),
    (dict(block_speech_size=10**4, n_embd=10**5), "block_speech_size"),
    (dict(transformer_type="vanilla", n_embd=10**6), "n_embd"),
]  # fmt: skip
BOTH_PAIRS = [  # of both sets
    (dict(board_dim=256), {}, "board_dim"), (dict(vocab_token=10**6), dict(n_embd=10**4), "n_embd"),
    (dict(board_dim=64, dataset_len=10**6), dict(batch_size=10**6), "batch_size"),
    (dict(board_types=["single"], board_types_proba=[1]), dict(board_proba_start=[0, 1, 0]), "board_proba_start"),
]  # fmt: skip
WORDS = ["0", "-1", "1.5", "-1e-3", "1" + "0" * 12, "9" * 400, "9" * 5000, "1e400", "nan", "inf", "-inf", "none", "", "x", "1,2", "²", "0x10"]
LISTS = [["0"], ["0", "0", "0"], ["1", "2"], ["-1", "1", "1"], ["nan", "1", "1"], ["inf", "1", "1"], ["x", "y", "z"], ["1"] * 99]


def values_of(params_class) -> list[tuple[str, object]]:
    """(parameter, value) for every parameter of a class, with what is hostile to its type and bounds."""
    found = []
    for field in dataclasses.fields(params_class):
        kind, is_list, _ = _kinds(params_class)[field.name]
        values = list(WRONG[f"list of {kind.__name__}" if is_list else kind])
        for bound, beyond in (("low", -1), ("high", 1)):
            if not is_list and field.metadata[bound] is not None:
                values += [field.metadata[bound], field.metadata[bound] + beyond]
        found += [(field.name, value) for value in values]
    return found


@contextlib.contextmanager
def little():
    """Little time and memory."""

    def late(signum, frame):
        raise AssertionError(f"more than {SECONDS} seconds of CPU time, or ten times as long in all")

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handlers = {signum: signal.signal(signum, late) for signum in (signal.SIGALRM, signal.SIGPROF)}
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, before[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(10 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def looked_at(text: str, *names: str) -> str:
    """A refusal, which must be one sentence that names one of the parameters."""
    assert re.search("|".join(names), text), f"names none of {names}: {text[:500]}"
    assert "\n" not in text.removesuffix("\n"), text
    assert len(text) < 1000
    return text


def refusal(make, *names: str) -> str | None:
    """None where make() works, else the sentence that it was refused with."""
    try:
        with little():
            make()
        return None
    except (ValueError, TypeError) as error:
        assert str(error).endswith((".", "?"))
        return looked_at(str(error), *names)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir()), "something was written"


def trains(cls, dataset, **params) -> None:
    """Makes a trainer and, where that is quick, trains an epoch."""
    trainer = cls(dataset, **params)
    names = ("n_layer", "vocab_size", "vocab_speech_size", "block_speech_size", "threads")
    sizes = [getattr(trainer, name, None) or 0 for name in names]
    if max(sizes) < 99 and not trainer.run_name:
        trainer.epochs = 1
        with contextlib.suppress(train_model.TrainingStopped):
            trainer.train()


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(DatasetParams)])
def test_data_set(name):
    refused = [refusal(lambda: AbstractionDataset(**DATASET | {name: value}).sample(2), name)  # noqa: B023
               for other, value in values_of(DatasetParams) if other == name]
    assert sum(text is not None for text in refused) >= 4


@pytest.mark.parametrize(("params", "name"), DATASET_PAIRS)
def test_data_set_pairs(params, name):
    assert refusal(lambda: AbstractionDataset(**DATASET | params), name)


@pytest.fixture(scope="module")
def dataset():
    return AbstractionDataset(**DATASET)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainParams)])
def test_training(name, dataset, capsys):
    refused = [refusal(lambda: trains(TrainTransformer, dataset, **TRAINING | {name: value}), name)  # noqa: B023
               for other, value in values_of(TrainParams) if other == name]
    assert sum(text is not None for text in refused) >= 4


@pytest.mark.parametrize("name", [name for name in LEAParams.__dataclass_fields__
                                  if LEAParams.__dataclass_fields__[name] is not TrainParams.__dataclass_fields__.get(name)])
def test_training_lea(name, dataset, capsys):
    refused = [refusal(lambda: trains(TrainLEA, dataset, **TRAINING | LEA | {name: value}), name)  # noqa: B023
               for other, value in values_of(LEAParams) if other == name]
    assert sum(text is not None for text in refused) >= 4


@pytest.mark.parametrize(("params", "name"), TRAINING_PAIRS)
def test_training_pairs(params, name, dataset):
    assert refusal(lambda: TrainTransformer(dataset, **TRAINING | params), name)
    assert refusal(lambda: TrainLEA(dataset, **TRAINING | LEA | params), name)


@pytest.mark.parametrize(("params", "name"), LEA_PAIRS)
def test_training_pairs_of_lea(params, name, dataset):
    assert refusal(lambda: TrainLEA(dataset, **TRAINING | LEA | params), name)


@pytest.mark.parametrize(("boards", "params", "name"), BOTH_PAIRS)
def test_pairs_of_data_set_and_training(boards, params, name):
    assert refusal(lambda: TrainTransformer(AbstractionDataset(**DATASET | boards), **TRAINING | params), name)


@pytest.mark.parametrize("network", [GPTFactor, LEAVanilla, LEAFactor])
def test_networks(network):
    sizes = dict(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4)
    for name, value in itertools.product(sizes, [0, -1, 10**12, 10**5000, 1.5, math.nan, "3", None, True, [3]]):
        assert refusal(lambda: network(**sizes | {name: value}), name)  # noqa: B023


# flags


class Prepared(BaseException):
    """All is ready for training."""


def told(script, argv, capsys, *names) -> str | None:
    """None where a script would train, else the line that it ends with, exit code 2."""
    try:
        with little():
            script.main([str(word) for word in argv])
    except Prepared:
        return None
    except SystemExit as end:
        assert end.code == 2
        out, line = capsys.readouterr()
        assert out == ""
        return looked_at(line.removeprefix(line.split(": ")[0]), *names)
    raise AssertionError("neither trained nor refused")


@pytest.fixture
def _prepare_only(monkeypatch):
    def start_run(self):
        raise Prepared

    monkeypatch.setattr(TrainTransformer, "start_run", start_run)
    monkeypatch.setattr(train_model, "unused_run_name", lambda *_: "r")


def flags(**params) -> list[str]:
    """The command line of parameters."""
    names = {field.name: field.metadata["flag"] or field.name for field in (*dataclasses.fields(LEAParams), *dataclasses.fields(DatasetParams))}
    words = {name: value if isinstance(value, list) else [value] for name, value in params.items()}
    return [word for name, value in words.items() for word in (f"--{names.get(name, name)}", *value)]


@pytest.mark.usefixtures("_prepare_only")
@pytest.mark.parametrize(("script", "params_class", "base"), [
    (train_model, DatasetParams, TRAINING), (train_model, TrainParams, TRAINING), (train_model_lea, LEAParams, TRAINING | LEA),
])  # fmt: skip
def test_flags(script, params_class, base, capsys):
    counts, others = {True: 0, False: 0}, {} if params_class is TrainParams else TrainParams.__dataclass_fields__
    for field in dataclasses.fields(params_class):
        if others.get(field.name) is field:  # LEA's, as TrainParams has it
            continue
        is_list = _kinds(params_class)[field.name][1]
        for words in LISTS if is_list else [[word] for word in WORDS]:
            argv = flags(**DATASET | base | {field.name: words})
            counts[told(script, argv, capsys, field.name, field.metadata["flag"] or field.name) is None] += 1
    assert counts[False] > 2 * counts[True]
    assert sum(counts.values()) > 300


@pytest.mark.usefixtures("_prepare_only")
def test_pairs_of_flags(capsys):
    none = {None: "none", True: "1", False: "0"}
    for params, name in (*DATASET_PAIRS, *TRAINING_PAIRS):
        if any(isinstance(value, (list, int, str)) and len(str(value)) > 20 for value in params.values()):
            continue
        params = {key: none.get(value, value) if not isinstance(value, list) else value for key, value in params.items()}
        assert told(train_model, flags(**DATASET | TRAINING | params), capsys, name)


@pytest.mark.usefixtures("_prepare_only")
@pytest.mark.parametrize(("argv", "name"), [
    (["--data_seed", "-1"], "--data_seed"), (["--data_seed", "x"], "--data_seed"),
    (["--data_seed", "9" * 5000], "--data_seed"), (["--wandb", "maybe"], "--wandb"), (["--resume", "nowhere"], "nowhere"),
    (["--resume", "."], "nothing to resume"), (["--resume"], "--resume"),
    (["--seed", str(2**63)], "seed"), (["--n_embd"], "--n_embd"), (["--n_emb", "8"], "--n_emb"),
    (["8"], "8"), (["--resume", "x" * 5000], "xxx"), (["--device", "gpu"], "device"),
], ids=lambda value: str(value)[:30])  # fmt: skip
def test_flags_of_the_script(argv, name, capsys):
    assert told(train_model, flags(**DATASET | TRAINING) + argv, capsys, name)


@pytest.mark.parametrize(("script", "argv", "name"), [
    ("train_model.py", ["--epoch", "0"], "epochs"), ("train_model.py", ["--n_layer", "1" + "0" * 12], "n_layer"),
    ("train_model.py", ["--board_dim", "1000000"], "board_dim"), ("train_model.py", ["--learning_rate", "nan"], "learning_rate"),
    ("train_model.py", ["--device", "cuda:99"], "device"), ("train_model.py", ["--batch", "many"], "batch_size"),
    ("train_model.py", ["--save", "2"], "save_model"), ("train_model.py", ["--n_embd", "100000"], "n_embd"),
    ("train_model.py", ["--data_seed", "1" + "0" * 30], "--data_seed"), ("train_model.py", ["--resume", "nowhere"], "nowhere"),
    ("train_model.py", ["--card_test", "0.5"], "card_test"), ("train_model.py", ["--run_name", "../x"], "run_name"),
    ("train_model_lea.py", ["--board_proba_start", "1", "2"], "board_proba_start"),
    ("train_model_lea.py", ["--vq_expire", "inf"], "vq_expire"), ("train_model_lea.py", ["--n_embd", "5"], "n_embd"),
])  # fmt: skip
def test_command_line(script, argv, name, monkeypatch, capsys):
    """The file as `python FILE` runs it, in this process."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, flags(**DATASET)), *argv])
    with pytest.raises(SystemExit) as end, little():
        runpy.run_path(str(ROOT / script), run_name="__main__")
    out, line = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert line.startswith(f"{script}: ")
    looked_at(line, name)
