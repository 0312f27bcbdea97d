"""Standard streams, names and ways of starting that a training must not mind."""
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train_model
import train_model_lea
from module_dataset import AbstractionDataset
from module_train_probe import TrainTransformer
from parts.params import params_from_flags
from parts.training.distributed import process_group
from tests.faults import forks, paired, ran
from tests.test_scripts import TINY, environment, flags, weights
from utils import progress_bar

ROOT = Path(__file__).resolve().parents[1]


class Tee:
    """A stream as users write them, without isatty."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_bar_on_any_stream(monkeypatch):
    for stream in (Tee(), None):
        monkeypatch.setattr("sys.stderr", stream)
        assert list(progress_bar(range(3))) == [0, 1, 2]


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("stream", [Tee, lambda: None], ids=["tee", "none"])
def test_training_with_any_stream(name, stream, monkeypatch):
    dataset = AbstractionDataset(dataset_len=8, board_dim=6, abs_n=3, abs_dim=2, abs_c=4, seed=0)
    trainer = TrainTransformer(dataset, n_layer=1, n_embd=8, n_embd_pos=4, epochs=2, epoch2print=1, seed=0, device="cpu")
    monkeypatch.setattr(f"sys.{name}", stream())
    assert len(trainer.train()) == trainer.epoch == 2


def in_shell(tmp_path, line, *words, **variables):
    """A line of bash in tmp_path, of which $0 is python and $@ the words: (exit code, stderr)."""
    done = subprocess.run(["bash", "-c", line, sys.executable, *words], cwd=tmp_path, timeout=300, capture_output=True,
                          env=environment(tmp_path) | variables)
    return done.returncode, done.stderr.decode(errors="replace")


def test_training_without_stdout(tmp_path):
    argv = [str(ROOT / "tests" / "without_pictures.py"), "train_model.py", *TINY, "--run_name", "r", "--save", "1"]
    code, err = in_shell(tmp_path, '"$0" "$@" >&-', *argv)
    assert code == 0, err
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert weights(tmp_path / "runs" / "r", 1)


def test_a_locale_without_names_beyond_ascii_and_no_stderr(tmp_path):
    """Text files are UTF-8 with line feeds all the same."""
    code = f"""
import os, train_model
from parts.files import atomic_write
from tests.trainers import draw_nothing

draw_nothing()
name = os.fsdecode({'größe'.encode()!r})
train_model.main([*{TINY!r}, "--run_name", name, "--save", "1"])
train_model.main(["--resume", "runs/" + name, "--epoch", "3"])
with atomic_write("text", "w") as file:
    file.write("\\u00e9\\n")"""
    variables = dict(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert in_shell(tmp_path, '"$0" -c "$@" 2>&-', code, **variables)[0] == 0
    assert TrainTransformer.from_run(tmp_path / "runs" / "größe", device="cpu").epoch == 3
    assert (tmp_path / "text").read_bytes() == "é\n".encode()


@forks
def test_a_folder_whose_name_is_no_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    code, _, err = ran("factor", [*TINY, "--run_name", "r", "--save", 1], folder)
    assert code == 0, err
    assert TrainTransformer.from_run(folder / "runs" / "r", device="cpu").epoch == 2


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_a_name_that_no_file_can_have(text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_model.main(flags("factor", tmp_path, "--run_name", text))
    assert "run_name must be" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# how values are written


@pytest.mark.parametrize(("words", "name", "value"), [
    (["--save=True"], "save_model", True), (["--save=false"], "save_model", False), (["--board_curriculum", "FALSE"], "board_curriculum", False),
    (["--masking_patch_epoch=None"], "masking_patch_epoch", None), (["--threads=NONE"], "threads", None),
    (["--board_proba_start=[1, 0, 0]"], "board_proba_start", [1, 0, 0]), (["--board_proba_start=1,0,0"], "board_proba_start", [1, 0, 0]),
    (["--board_proba_start=(.5,.5,0)"], "board_proba_start", [0.5, 0.5, 0]),
    (["--board_proba_start", "1,", "0,", "0"], "board_proba_start", [1, 0, 0]), (["--board_proba_start", "1", "0", "0"], "board_proba_start", [1, 0, 0]),
    (["--save_epochs=[1,2]"], "save_epochs", [1, 2]), (["--save_epochs=none"], "save_epochs", None), (["--save_epochs=log"], "save_epochs", "log"),
])  # fmt: skip
def test_values_as_sweeps_write_them(words, name, value):
    for script in (train_model, train_model_lea):
        parser = script.make_parser()
        params = script.TrainTransformer.params_class
        assert params_from_flags(params, parser.parse_args(words))[name] == value


@pytest.mark.parametrize("text", ["['single', 'double']", '["single", "double"]', "single,double", "('single','double')"])
def test_names_as_sweeps_write_them(text, tmp_path, no_pictures):
    """With what else may be none or in other letters."""
    more = ["--board_types", text, "--board_types_proba", "[0.5, 0.5]", "--data_seed=None", "--wandb=Disabled", "--resume=None"]
    trainer = train_model.main(flags("factor", tmp_path, *more))
    assert trainer.dataset.board_types == ["single", "double"]


@pytest.mark.parametrize("text", ["[1, 0", "[[1], 0, 0]", "[" * 5000, "{1: 2}", "['a', 'b', 'c']", "[None, 1, 0]", "1,,0", "", "[]"])
def test_lists_that_are_none(text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_model.main(flags("factor", tmp_path, f"--board_proba_start={text}"))
    [line] = capsys.readouterr().err.splitlines()
    assert "board_proba_start must be" in line


def test_dashes_are_a_value_like_others(tmp_path, capsys):
    """argparse itself makes an empty list of --flag=--."""
    for flag, name in (("--masking_token", "masking_token"), ("--board_proba_start", "board_proba_start")):
        with pytest.raises(SystemExit):
            train_model.main(flags("factor", tmp_path, f"{flag}=--"))
        [line] = capsys.readouterr().err.splitlines()
        assert f"{name} must be" in line


def test_probabilities_that_are_overruled_are_said_to_be(tmp_path, capsys, no_pictures):
    train_model.main(flags("factor", tmp_path, "--board_types_proba", "1", "0", "0"))
    assert capsys.readouterr().err.count("board_types_proba has no effect on training with --board_curriculum 1.\n") == 1
    train_model.main(flags("factor", tmp_path, "--board_types_proba", "1", "0", "0", "--board_curriculum", "0"))
    train_model.main(flags("factor", tmp_path))
    assert "board_types_proba" not in capsys.readouterr().err


# torchrun


@pytest.mark.parametrize(("device", "expected"), [("cpu", ["gloo"]), ("cuda", [1, "nccl"]), ("auto", [1, "nccl"])])
def test_the_device_asked_for_says_how_processes_speak(device, expected, monkeypatch):
    calls = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", calls.append)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with process_group(device):
        assert calls == expected
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with contextlib.nullcontext() if device == "cpu" else pytest.raises(ValueError, match="must be cpu for 3 processes"), process_group(device):
        pass


@forks
def test_a_wrong_flag_is_said_once_by_two_processes(tmp_path):
    """The second one waits until torchrun ends it."""
    assert paired("factor", [*TINY, "--n_embd", "x"], tmp_path) == [2, -signal.SIGTERM]
    assert [(tmp_path / f"out{rank}").read_text().count("n_embd must be") for rank in (0, 1)] == [1, 0]


@forks
def test_two_processes_beside_another_run_s_files(tmp_path, no_pictures):
    """--runs may be the folder of a run."""
    train_model.main(flags("factor", tmp_path, "--run_name", "r"))
    assert paired("factor", flags("factor", tmp_path / "r", "--run_name", "sub"), tmp_path) == [0, 0]
    assert (tmp_path / "r" / "sub" / "run_log.csv").is_file()
