"""Parameters of a training: what they say of each epoch, and their assignment to a trainer."""
import pytest
import torch
from trainers import make

from module_files import read_json
from module_recipe import TrainParams
from utils import using_threads


@pytest.mark.parametrize(("save_epochs", "kept"), [
    (None, [0, 40, 80, 99]), ("log", [0, 1, 2, 5, 10, 20, 40, 50, 80, 99]), ([3, 7, 40], [0, 3, 7, 40, 80, 99]),
])  # fmt: skip
def test_checkpoints_along_training(save_epochs, kept):
    recipe = TrainParams(epochs=100, epoch2save=40, save_epochs=save_epochs)
    assert [epoch for epoch in range(100) if recipe.keeps_checkpoint_at(epoch)] == kept
    assert [epoch for epoch in range(100) if recipe.saves_at(epoch)] == [0, 40, 80, 99]


def test_log_goes_on_in_each_decade():
    recipe = TrainParams(epochs=6000, epoch2save=10**6, save_epochs="log")
    assert [epoch for epoch in range(6000) if recipe.keeps_checkpoint_at(epoch)] == [
        0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 5999]


@pytest.mark.parametrize("wrong", ["logs", [1.5], 3, [-1], "none"])
def test_wrong_save_epochs_are_named(wrong):
    with pytest.raises((TypeError, ValueError), match="save_epochs must be a list, each a whole number .* log or None"):
        TrainParams(save_epochs=wrong)


def test_checkpoints_are_files_of_the_run(tmp_path):
    trainer = make(epochs=8, save_epochs=[2, 3], epoch2save=100, save_model=True, runs=str(tmp_path), run_name="r")
    trainer.train()
    names = sorted(path.name for path in (tmp_path / "r" / "checkpoints").glob("model_*"))
    assert names == ["model_0.pth", "model_2.pth", "model_3.pth", "model_7.pth"]


def test_parameters_of_a_trainer_are_checked_when_assigned():
    trainer = make(epochs=2)
    trainer.epochs, trainer.masking_p = 3, 0.5
    assert (trainer.epochs, trainer.params["masking_p"], trainer._masking(10**6)[0]) == (3, 0.5, 0.5)
    for name, value in (("learning_rate", -1), ("masking_p", 5), ("lr_schedule", "exp"), ("batch_size", 0), ("epochs", "7")):
        with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
            setattr(trainer, name, value)
    with pytest.raises(ValueError, match="board_proba_epoch_end = 1 must not come before"):
        trainer.board_proba_epoch_end = 1
    with pytest.raises(AttributeError, match="n_layer is fixed when a trainer is made"):
        trainer.n_layer = 2
    assert (trainer.learning_rate, trainer.epochs) == (1e-3, 3)


def test_a_run_computes_with_its_threads_and_leaves_torch_s_number():
    before = torch.get_num_threads()
    trainer = make(epochs=1, threads=before + 1)
    seen, original = set(), trainer._loss
    trainer._loss = lambda *batch: seen.add(torch.get_num_threads()) or original(*batch)
    trainer.train()
    assert seen == {before + 1}
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="inside"), using_threads(before + 2):
        raise RuntimeError("inside")
    assert torch.get_num_threads() == before


def test_what_is_assigned_between_two_trainings_is_recorded(tmp_path):
    trainer = make(epochs=1, save_model=True, runs=str(tmp_path), run_name="r")
    trainer.train()
    trainer.epochs, trainer.learning_rate = 2, 0.01
    trainer.train()
    assert read_json(tmp_path / "r" / "params_training.json") == trainer.params
    resumed = type(trainer).resume(tmp_path / "r", epochs=3)
    assert (resumed.learning_rate, resumed.epoch) == (0.01, 2)
