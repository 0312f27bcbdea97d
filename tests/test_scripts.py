"""The two scripts: runs from end to end, flags, and what happens to wrong ones."""
import dataclasses
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import module_train_probe
import module_train_probe_lea
import train_model
import train_model_lea
from module_dataset import AbstractionDataset, DatasetParams
from parts.files import read_json
from parts.training.run import read_run_log
from tests.faults import forks, ran, same

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"factor": train_model, "lea": train_model_lea}
PARAMS = {"factor": module_train_probe.TrainParams, "lea": module_train_probe_lea.LEAParams}
TINY = ("--board_dim 6 --abs_n 3 --abs_dim 2 --abs_c 4 --vocab_bck 2 --vocab_token 4 --comp_n 2 --dataset_len 24 "
        "--n_layer 1 --n_embd 8 --n_embd_pos 4 --batch 8 --epoch 2 --device cpu --seed 1 --plot_dpi 20").split()
LEA = "--vocab_speech_size 8 --block_speech_size 3 --vq_expire 0.1".split()
both = pytest.mark.parametrize("kind", SCRIPTS)


def flags(kind, runs, *more):
    return [*TINY, *(LEA if kind == "lea" else []), "--runs", str(runs), *map(str, more)]


def everything_in(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def weights(folder, epoch):
    return torch.load(folder / "checkpoints" / f"model_{epoch}.pth", weights_only=True)


def environment(tmp_path):
    """Of a subprocess: nobody's settings, caches in tmp_path; all tests share matplotlib's list of fonts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MPL", "XDG"))}
    fonts = tmp_path.parent / "matplotlib"
    return kept | {"HOME": str(tmp_path / "home"), "MPLCONFIGDIR": str(fonts), "PYTHONPATH": str(ROOT)}


def start(tmp_path, command, *argv):
    """A subprocess in tmp_path; command: what follows `python`."""
    return subprocess.Popen([sys.executable, *command, *map(str, argv)], cwd=tmp_path, env=environment(tmp_path), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


# from end to end


@both
def test_the_authors_own_settings(kind, tmp_path, no_pictures):
    more = ["--dtype", "float64", "--keep_twins", 0, "--save", 1, "--run_name", "theirs", "--epoch", 3]
    trainer = SCRIPTS[kind].main([*flags(kind, tmp_path, *more), *(["--vq_expire", "0"] if kind == "lea" else [])])
    assert trainer.epoch == 3
    assert all(value.dtype == torch.float64 for value in weights(tmp_path / "theirs", 2).values() if value.is_floating_point())
    table = trainer.dataset.sets["doubleRoot_test"]
    numbers = table.family.rank(table[:])
    assert not np.isin(table.family.twin(numbers), numbers).all()  # twins are apart


@forks
def test_two_runs_at_once_from_the_command_line(tmp_path):
    """The script as a user starts it, and a fork of it in the same folder at the same time."""
    argv = flags("factor", "runs", "--save", 1)
    process = start(tmp_path, [ROOT / "train_model.py"], *argv)
    for code, out, err in (ran("factor", argv, tmp_path, figures=True), finished(process)):
        assert code == 0, err
        assert "trained: runs/run_" in out
        assert "Traceback" not in err
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "home"}
    for folder in folders:
        assert re.fullmatch(r"run_\d{8}_\d{3}_factor", folder.name)
        kept = {path.name for path in folder.iterdir()}
        assert kept >= {"params_training.json", "params_dataset.json", "run_log.pkl", "run_log.csv", "datasets", "analysis"}
        assert {path.name for path in folder.glob("checkpoints/model_*")} == {"model_0.pth", "model_1.pth"}
        assert {path.stem for path in folder.glob("figures/*")} == {"learning_curves", "reconstructions"}
        assert read_run_log(folder / "run_log.csv")["epoch"].tolist() == [0, 1]
        assert read_json(folder / "params_training.json")["run_name"] == folder.name
    assert same(weights(folders[0], 1), weights(folders[1], 1))


def test_what_is_not_asked_for_is_not_imported(tmp_path):
    """By --help nothing that takes long; torch's compiler by no training; wandb neither by a training nor if the user's
    WANDB_MODE is disabled."""
    code = f"""
import os, sys, train_model, train_model_lea

for script in (train_model, train_model_lea):
    try:
        script.main(["--help"])
    except SystemExit as end:
        print("help", {{"wandb", "sklearn", "torch._dynamo"}} & set(sys.modules), end.code)
train_model_lea.main({flags("lea", "runs", "--epoch", 1)!r})
from tests.trainers import draw_nothing

draw_nothing()  # once is enough
os.environ["WANDB_MODE"] = "disabled"
train_model.main({flags("factor", "others", "--wandb", "online", "--epoch", 1, "--optimizer", "muon")!r})
print("training", {{"wandb", "torch._dynamo"}} & set(sys.modules))"""
    code, out, err = finished(start(tmp_path, ["-c", code]))
    assert code == 0, err
    assert out.splitlines().count("help set() 0") == 2
    assert out.endswith("training set()\n")
    assert "--epoch 3000 --save 1" in out
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"run_\d{8}_\d{3}_speaker_factor", folder.name)
    assert f"trained: runs/{folder.name}" in out
    pictures = {path.stem for path in folder.glob("figures/*")}
    assert pictures == {"learning_curves", "reconstructions", "codebook", "sentences"}


@forks
def test_a_wrong_flag_from_the_command_line(tmp_path):
    code, out, err = ran("lea", ["--vq_type", "ema"], tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("train_model_lea.py: vq_type must be one of EMA, vanilla")
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}


@both
def test_help_shows_every_parameter(kind, capsys):
    for argv in (["--help"], ["-h"]):
        with pytest.raises(SystemExit) as error:
            SCRIPTS[kind].main(argv)
        assert error.value.code == 0
    text = capsys.readouterr().out
    shown = set(re.findall(r"^  (?:-h, )?(--\w+)", text, re.MULTILINE))
    boards = [field for field in dataclasses.fields(DatasetParams) if field.name not in ("seed", "run_name")]
    for field in [*dataclasses.fields(PARAMS[kind]), *boards]:
        assert f"--{field.metadata['flag'] or field.name}" in shown, field.name
        assert field.metadata["help"] in text
    own = {"--help", "--device", "--epoch", "--type", "--batch", "--save", "--seed", "--data_seed", "--dtype",
           "--resume", "--wandb", "--runs"}
    assert own <= shown
    assert "python train_model" in text


@both
def test_defaults_of_the_script_are_those_of_the_classes(kind):
    script = SCRIPTS[kind]
    cls = {"factor": module_train_probe, "lea": module_train_probe_lea}[kind].TrainTransformer
    trainer = train_model.new_trainer(cls, script.DATASET, {"run_name": "r"})
    own = ("vocab_size", "block_size", "masking_token", "seed", "device", "run_name")
    wanted = PARAMS[kind]().as_dict()
    assert {name: value for name, value in trainer.params.items() if name not in own} == {
        name: value for name, value in wanted.items() if name not in own}
    board_proba = {"factor": [1 / 3] * 3, "lea": [0.95, 0.05, 0]}[kind]
    np.testing.assert_allclose(trainer.dataset.board_types_proba, board_proba)
    boards = trainer.dataset.params.as_dict()
    assert {name for name, value in DatasetParams().as_dict().items() if boards[name] != value} <= {
        "seed", "run_name", *(["board_types_proba"] if kind == "lea" else [])}
    assert boards["seed"] == trainer.seed


@both
def test_one_epoch_is_called_a_trial_run(kind, tmp_path, capsys, no_pictures):
    SCRIPTS[kind].main(flags(kind, tmp_path / "runs", "--epoch", 1))
    out = capsys.readouterr().out
    recipe = {"factor": "--epoch 1500 --save 1", "lea": "--epoch 3000 --save 1"}[kind]
    assert re.search(f"trial run.*{recipe}", out)
    SCRIPTS[kind].main(flags(kind, tmp_path / "runs"))
    assert "trial run" not in capsys.readouterr().out


def test_flags_reach_data_set_and_trainer(tmp_path, no_pictures):
    more = ("--board_types double single --board_types_proba 1 3 --bool_split 0 --masking_patch_epoch none --run_name mine "
            "--board_proba_start 0.5 0.5 0 --learning_rate 2e-3 --dtype float64 --board_curriculum 0 --n_layer 2 --save 1 "
            "--batch 5")
    argv = flags("factor", tmp_path / "runs", *more.split())
    trainer = train_model.main(argv)
    assert trainer.dataset.board_types == ["double", "single"]
    assert trainer.dataset.board_types_proba == [0.25, 0.75]
    assert trainer.dataset.sets is None
    assert trainer.folder == tmp_path / "runs" / "mine"
    assert (trainer.n_layer, trainer.learning_rate, trainer.dtype, trainer.batch_size) == (2, 2e-3, "float64", 5)
    assert (trainer.board_curriculum, trainer.save_model, trainer.board_proba_start) == (False, True, [0.5, 0.5, 0])
    assert trainer.masking_patch_epoch == 2  # the number of epochs, once the run has started
    stored = read_json(trainer.folder / "params_training.json")
    assert (stored["masking_patch_epoch"], stored["epochs"], stored["seed"]) == (2, 2, 1)
    assert read_json(trainer.folder / "params_dataset.json")["run_name"] == "mine"
    with open(trainer.folder / "run_log.pkl", "rb") as file:
        assert pickle.load(file)["written"].tolist() == [1, 1]


def test_type_vanilla(tmp_path, no_pictures):
    trainer = train_model_lea.main(flags("lea", tmp_path / "runs", "--type", "vanilla", "--vq_type", "vanilla"))
    assert trainer.run_name.endswith("_speaker")
    assert type(trainer.transformer).__name__ == "LEA"


# seeds


@both
def test_a_seed_names_a_run(kind, tmp_path, no_pictures):
    runs = {}
    for name, more in (("a", []), ("b", []), ("other", ["--seed", 2]), ("data", ["--data_seed", 2]),
                       ("both", ["--data_seed", 1])):
        trainer = SCRIPTS[kind].main(flags(kind, tmp_path / "runs", "--run_name", name, "--save", 1, *more))
        runs[name] = trainer
    final = {name: weights(trainer.folder, 1) for name, trainer in runs.items()}
    assert same(final["a"], final["b"])
    assert same(final["a"], final["both"])
    for name in ("other", "data"):
        assert not same(final["a"], final[name])
    assert (runs["a"].dataset.roots == runs["b"].dataset.roots).all()
    assert (runs["data"].dataset.roots == runs["other"].dataset.roots).all()
    assert (runs["data"].seed, runs["data"].dataset.seed) == (1, 2)
    assert same(weights(runs["a"].folder, 0), weights(runs["b"].folder, 0))


def test_without_a_seed_one_is_drawn_and_shown(tmp_path, capsys, no_pictures):
    argv = flags("factor", tmp_path / "runs")
    del argv[argv.index("--seed") : argv.index("--seed") + 2]
    first, second = train_model.main(argv), train_model.main(argv)
    out = capsys.readouterr().out
    for trainer in (first, second):
        assert f"seed {trainer.seed}" in out
        assert read_json(trainer.folder / "params_training.json")["seed"] == trainer.seed == trainer.dataset.seed
    assert first.seed != second.seed
    assert first.run_name != second.run_name


# run folders


def test_an_existing_run_is_refused(tmp_path, capsys, no_pictures):
    train_model.main(flags("factor", tmp_path / "runs", "--run_name", "r_2"))
    before = everything_in(tmp_path / "runs")
    with pytest.raises(SystemExit) as error:
        train_model.main(flags("factor", tmp_path / "runs", "--run_name", "r_2"))
    assert error.value.code == 2
    assert everything_in(tmp_path / "runs") == before
    assert "run_name = 'r_2' must be new" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    for runs in (tmp_path / "taken", tmp_path / "taken" / "deeper"):
        for more in ([], ["--run_name", "r"]):
            with pytest.raises(SystemExit) as error:
                train_model.main(flags("factor", runs, *more))
            assert error.value.code == 2
            out, err = capsys.readouterr()
            assert err.count("\n") == 1
            assert "runs" in err
            assert "taken" in err
    assert everything_in(tmp_path) == {str(tmp_path / "taken"): b"a file"}


@both
def test_resume_goes_on(kind, tmp_path, capsys, no_pictures):
    script, runs = SCRIPTS[kind], tmp_path / "runs"
    script.main(flags(kind, runs, "--run_name", "whole", "--epoch", 4, "--masking_patch_epoch", 2, "--save", 1))
    script.main(flags(kind, runs, "--run_name", "parts", "--epoch", 2, "--masking_patch_epoch", 2, "--save", 1))
    script.main(["--resume", str(runs / "parts")])
    assert "is finished, 2 epochs" in capsys.readouterr().out
    trainer = script.main(["--resume", str(runs / "parts"), "--epoch", "4"])
    assert (trainer.epoch, trainer.step) == (4, 12)
    assert same(weights(runs / "whole", 3), weights(runs / "parts", 3))
    assert read_run_log(runs / "parts" / "run_log.csv")["epoch"].tolist() == [0, 1, 2, 3]


def test_resume_refuses(tmp_path, capsys, no_pictures):
    runs = tmp_path / "runs"
    train_model.main(flags("factor", runs, "--run_name", "r", "--save", 1))
    train_model.main(flags("factor", runs, "--run_name", "unsaved"))
    before = everything_in(runs / "r")
    cases = [(["r", "--n_embd", "16"], "n_embd"), (["r", "--abs_n", "4"], "abs_n"),              (["unsaved"], "nothing to resume"), (["nowhere"], "nowhere"), (["r", "--seed", "9"], "seed"),
             (["r", "--epoch", "0"], "epochs")]
    for (name, *more), text in cases:
        capsys.readouterr()
        with pytest.raises(SystemExit) as error:
            train_model.main(["--resume", str(runs / name), *more])
        assert error.value.code == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert text in err
    assert everything_in(runs / "r") == before
    with pytest.raises(SystemExit) as error:
        train_model_lea.main(["--resume", str(runs / "unsaved")])
    assert error.value.code == 2
    assert not (runs / "nowhere").exists()


# wrong flags

WRONG = [
    ("--n_embd 9", "n_embd = 9 must be divisible by n_head"), ("--n_head 3", "n_head"), ("--n_layer 0", "n_layer"),
    ("--n_layer 1.5", "n_layer"), ("--abs_dim 7", "abs_dim"), ("--abs_c 5", "abs_c"), ("--abs_n 257", "abs_n"),
    ("--comp_n 82", "comp_n"),
    ("--comp_margin 3", "comp_margin"), ("--comp_dim 3", "comp_dim"), ("--comp_c 5", "comp_c"),
    ("--board_dim 2", "board_dim"),
    ("--board_dim 0", "board_dim"), ("--abs_w_c 5", "abs_w_c"), ("--abs_w_c 2 --abs_w_m 9", "abs_w_m"),
    ("--vocab_token 0", "vocab_token"),
    ("--vocab_bck 0", "vocab_bck"), ("--vocab_size 9", "vocab_size"), ("--block_size 35", "block_size"),
    ("--masking_token 0", "masking_token"),
    ("--masking_p 1.5", "masking_p"), ("--masking_p -0.1", "masking_p"), ("--masking_p nan", "masking_p"),
    ("--masking_patch_p 2", "masking_patch_p"), ("--masking_patch_epoch -1", "masking_patch_epoch"),
    ("--embd_pdrop 1.1", "embd_pdrop"),
    ("--board_types_proba -1 1 1", "board_types_proba"), ("--board_types_proba 0 0 0", "board_types_proba"),
    ("--board_types_proba 1 1", "board_types_proba"), ("--board_types_proba a b c", "board_types_proba"),
    ("--board_types single single", "board_types"), ("--board_types triple", "board_types"),
    ("--board_types", "--board_types"),
    ("--board_proba_start 0 0 0", "board_proba_start"), ("--board_proba_end 1 1", "board_proba_end"),
    ("--board_proba_end 1 inf 1", "board_proba_end"),
    ("--board_proba_epoch_start 9 --board_proba_epoch_end 3", "board_proba_epoch_end"),
    ("--epoch 0", "epoch"), ("--epoch -1", "epoch"), ("--epoch 1.5", "epoch"), ("--epoch ten", "epoch"),
    ("--epoch none", "epoch"),
    ("--batch 0", "batch"), ("--batch 2e3", "batch"), ("--dataset_len 0", "dataset_len"), ("--card_test 90", "card_test"),
    ("--card_test 1.5", "card_test"), ("--card_val -1", "card_val"), ("--split_method none", "split_method"),
    ("--split_method fraction --card_test 1.0", "card_test"),
    ("--split_method fraction --card_test 0.5 --card_val 0.5", "card_val"),
    ("--bool_split yes", "bool_split"), ("--device gpu", "device"), ("--device cuda:77", "device"),
    ("--device meta", "device"),
    ("--dtype float16", "dtype"), ("--learning_rate nan", "learning_rate"), ("--learning_rate inf", "learning_rate"),
    ("--learning_rate fast", "learning_rate"), ("--learning_rate " + "9" * 400, "learning_rate"),
    ("--learning_rate -1", "learning_rate"),
    ("--save 2", "save"), ("--save yes", "save"), ("--seed -1", "seed"), ("--seed 1.5", "seed"),
    ("--seed 99999999999999999999", "seed"),
    ("--data_seed x", "data_seed"), ("--data_seed -1", "data_seed"), ("--repeat 2", "--repeat"),
    ("--wandb on", "wandb"), ("--wandb", "--wandb"), ("--nothing 1", "--nothing"), ("--epochs 2", "--epochs"),
    ("--ep 3", "--ep"),
    ("--n_lay 3", "--n_lay"), ("stray", "stray"), ("--run_name a/b", "run_name"), ("--run_name ..", "run_name"),
    ("--plot_dpi 0", "plot_dpi"),
    ("--epoch2test 0", "epoch2test"), ("--epoch2save 0", "epoch2save"), ("--epoch2print x", "epoch2print"),
    ("--resume nowhere", "nowhere"),
]  # fmt: skip
WRONG_FACTOR = [("--type vanilla", "type"), ("--type gpt", "type"), ("--vq_type EMA", "--vq_type")]
WRONG_LEA = [
    ("--type gpt", "type"), ("--vq_type ema", "vq_type"), ("--vq_expire nan", "vq_expire"), ("--vq_expire -0.1", "vq_expire"),
    ("--vocab_speech_size 1", "vocab_speech_size"), ("--block_speech_size 0", "block_speech_size"),
    ("--bool_blank_speech maybe", "bool_blank_speech"), ("--vq_start_epoch -1", "vq_start_epoch"),
    ("--masking_patch_epoch -1", "masking_patch_epoch"),
    ("--loss_rfs_epoch_start 5 --loss_rfs_epoch_end 4", "loss_rfs_epoch_end"),
    ("--loss_speech_epoch_start 5000", "loss_speech_epoch_end"), ("--loss_rfs_val_end -1", "loss_rfs_val_end"),
    ("--board_types single", "board_types_proba"), ("--n_embd 9", "n_embd = 9 must be divisible by n_head"),
]  # fmt: skip
CASES = [("factor", *case) for case in WRONG + WRONG_FACTOR] + [("lea", *case) for case in WRONG_LEA]


@pytest.mark.parametrize(("kind", "wrong", "name"), CASES, ids=[f"{kind} {wrong:.40}" for kind, wrong, _ in CASES])
def test_wrong_flags(kind, wrong, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        SCRIPTS[kind].main([*flags(kind, "runs"), *wrong.split()])
    assert error.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert name in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@both
def test_an_absent_device_is_named(kind, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        SCRIPTS[kind].main([*flags(kind, tmp_path / "runs"), "--device", "cuda"])
    assert error.value.code == 2
    assert re.search(r"device must be .*, not 'cuda'\.\n$", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_importing_a_script_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for script in SCRIPTS.values():
        assert callable(script.main)
        assert script.__doc__.count("python train_model") == 2
    assert list(tmp_path.iterdir()) == []
    assert AbstractionDataset is train_model.AbstractionDataset


def test_the_sweep_file_makes_commands_that_run(tmp_path, no_pictures):
    """Each of its parameters is a flag, each value right; the metric is a column of the log."""
    sweep = yaml.safe_load((ROOT / "benchmarks" / "sweep.yaml").read_text())
    assert (ROOT / sweep["program"]).is_file()
    values = {name: given.get("values", [given.get("value")]) for name, given in sweep["parameters"].items()}
    assert values.pop("wandb") == ["online"]
    dataset = AbstractionDataset(dataset_len=4, card_val=values["card_val"][0])
    assert sweep["metric"]["name"] in module_train_probe.TrainTransformer(dataset).columns()
    assert values.pop("epoch") == [1500]
    for pick in (0, -1):
        given = [f"--{name}={several[pick]}" for name, several in values.items()]
        trainer = train_model.main([*given, "--epoch=1", "--dataset_len=8", f"--runs={tmp_path}"])
        assert trainer.epoch == 1
        assert trainer.seed == values["seed"][pick]
