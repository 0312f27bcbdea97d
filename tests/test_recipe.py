"""Parameters of a training: what they say of each epoch, and their assignment to a trainer."""
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainers import make

import module_train_probe
from module_train_probe_lea import LEAParams
from parts.files import read_json
from parts.training.recipe import TrainParams
from utils import using_threads


@pytest.mark.parametrize(("save_epochs", "kept"), [
    (None, [0, 40, 80, 99]), ("log", [0, 1, 2, 5, 10, 20, 40, 50, 80, 99]), ([3, 7, 40], [0, 3, 7, 40, 80, 99]),
])  # fmt: skip
def test_checkpoints_along_training(save_epochs, kept):
    recipe = TrainParams(epochs=100, epoch2save=40, save_epochs=save_epochs)
    assert [epoch for epoch in range(100) if recipe.keeps_checkpoint_at(epoch)] == kept
    assert [epoch for epoch in range(100) if recipe.due_at(epoch, 40)] == [0, 40, 80, 99]


def test_log_goes_on_in_each_decade():
    recipe = TrainParams(epochs=6000, epoch2save=10**6, save_epochs="log")
    assert [epoch for epoch in range(6000) if recipe.keeps_checkpoint_at(epoch)] == [
        0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 5999]


@pytest.mark.parametrize("wrong", ["logs", [1.5], 3, [-1], "none"])
def test_wrong_save_epochs_are_named(wrong):
    with pytest.raises((TypeError, ValueError), match="save_epochs must be a list, each a whole number .* log or None"):
        TrainParams(save_epochs=wrong)


def test_checkpoints_are_files_of_the_run(tmp_path, no_pictures):
    trainer = make(epochs=8, save_epochs=[2, 3], epoch2save=100, save_model=True, runs=str(tmp_path), run_name="r")
    trainer.train()
    names = sorted(path.name for path in (tmp_path / "r" / "checkpoints").glob("model_*"))
    assert names == ["model_0.pth", "model_2.pth", "model_3.pth", "model_7.pth"]


def test_parameters_of_a_trainer_are_checked_when_assigned():
    trainer = make(epochs=2)
    trainer.epochs, trainer.masking_p = 3, 0.5
    assert (trainer.epochs, trainer.params["masking_p"], trainer.recipe.masking_at(10**6)[0]) == (3, 0.5, 0.5)
    for name, value in (("learning_rate", -1), ("masking_p", 5), ("lr_schedule", "exp"), ("batch_size", 0), ("epochs", "7")):
        with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
            setattr(trainer, name, value)
    with pytest.raises(ValueError, match="board_proba_epoch_end = 1 must not come before"):
        trainer.board_proba_epoch_end = 1
    with pytest.raises(AttributeError, match="n_layer is fixed once"):
        trainer.n_layer = 2
    assert (trainer.learning_rate, trainer.epochs) == (1e-3, 3)


def test_a_run_computes_with_its_threads_and_leaves_torch_s_number():
    before = torch.get_num_threads()
    trainer = make(epochs=1, threads=before + 1)
    seen, original = set(), trainer.loss
    trainer.loss = lambda *batch: seen.add(torch.get_num_threads()) or original(*batch)
    trainer.train()
    assert seen == {before + 1}
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="inside"), using_threads(before + 2):
        raise RuntimeError("inside")
    assert torch.get_num_threads() == before


def test_what_is_assigned_between_two_trainings_is_recorded(tmp_path, no_pictures):
    trainer = make(epochs=1, save_model=True, runs=str(tmp_path), run_name="r")
    trainer.train()
    trainer.epochs, trainer.learning_rate = 2, 0.01
    trainer.train()
    assert read_json(tmp_path / "r" / "params_training.json") == trainer.params
    resumed = type(trainer).resume(tmp_path / "r", epochs=3)
    assert (resumed.learning_rate, resumed.epoch) == (0.01, 2)


@given(st.integers(1, 60), st.integers(0, 90), st.integers(0, 90), st.sampled_from(["constant", "linear"]))
def test_the_rate_reaches_its_value_or_rises_until_the_end_and_is_never_nought(epochs, warmup, decay_start, schedule):
    recipe = TrainParams(epochs=epochs, lr_warmup=warmup, lr_decay_start=decay_start, lr_schedule=schedule, learning_rate=0.5)
    rates = [recipe.learning_rate_at(epoch) for epoch in range(epochs)]
    assert min(rates) > 0
    assert np.argmax(rates) == min(warmup, epochs) - 1 or rates[min(warmup, epochs - 1)] == max(rates)
    if max(warmup, decay_start) >= epochs or schedule == "constant":
        assert sorted(rates) == rates  # nothing falls within the run
    else:
        assert rates[max(warmup, decay_start)] == 0.5


def test_all_epochs_of_a_recipe_are_scaled():
    recipe = LEAParams(epochs=300, recipe_epochs=3000, lr_warmup=50, lr_decay_start=1000, vq_start_epoch=200,
                       lr_schedule="linear")
    assert (recipe.lr_warmup, recipe.lr_decay_start, recipe.vq_start_epoch) == (5, 100, 20)
    assert (recipe.loss_rfs_epoch_start, recipe.loss_rfs_epoch_end, recipe.board_proba_epoch_end) == (25, 100, 200)


@pytest.mark.parametrize(("cls", "given", "late"), [
    (TrainParams, dict(epochs=1500), []),
    (TrainParams, dict(epochs=300), ["masking_patch_epoch = 750", "board_proba_epoch_end = 1000"]),
    (TrainParams, dict(epochs=300, board_curriculum=False, lr_decay_start=400), ["masking_patch_epoch = 750"]),
    (TrainParams, dict(epochs=300, recipe_epochs=1500, lr_warmup=2000), ["lr_warmup = 400"]),
    (LEAParams, dict(epochs=200), ["board_proba_epoch_start = 1000", "board_proba_epoch_end = 2000",
                                   "loss_rfs_epoch_start = 250", "loss_rfs_epoch_end = 1000"]),
])  # fmt: skip
def test_ramps_that_the_run_ends_before(cls, given, late):
    assert cls(**given).beyond_the_end() == late


def test_what_a_run_does_not_see_is_said_once(capsys):
    make("lea", epochs=1).train()
    said = capsys.readouterr().out
    assert said.count("note: 1 epochs end before board_proba_epoch_start = 1000, ") == 1
    assert "loss_rfs_epoch_start = 250" in said


def test_the_first_state_has_the_run_s_threads():
    assert make(epochs=1, threads=torch.get_num_threads() + 1).state()["threads"] == torch.get_num_threads() + 1


def test_a_falling_rate_that_more_epochs_raise_again_is_a_warning(tmp_path, no_pictures):
    for schedule, expected in (("linear", 1), ("constant", 0)):
        name = f"r_{schedule}"
        make(epochs=2, lr_schedule=schedule, save_model=True, runs=str(tmp_path), run_name=name).train()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            module_train_probe.TrainTransformer.resume(tmp_path / name, epochs=4)
        assert [str(w.message)[:28] for w in found] == ["with epochs = 4 instead of 2"] * expected
