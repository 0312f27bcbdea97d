"""Boards of a user's own: a class that is no subclass trains, is resumed and is probed; what needs objects refuses."""
import importlib

import numpy as np
import pytest
from trainers import KINDS, SMALL, both, make, weights

import module_dataset
import train_model
from module_train_probe import TrainTransformer
from studies.circuits import lens
from studies.claims.runs import proba_of
from tests.faults import same

pytestmark = pytest.mark.usefixtures("no_pictures")


class Stripes:
    """Boards of stripes in two of four colours; test has the pairs of colours that train lacks."""

    board_dim, vocab_size, splits, patch_dim = 4, 5, ("train", "val", "test"), 2
    pairs = np.indices((4, 4)).reshape(2, -1).T

    def __len__(self):
        return 20

    def sample(self, n, split, rng):
        own = self.pairs[(self.pairs.sum(1) % 4 == 0) == (split == "test")]
        return np.tile(rng.choice(own, n)[:, None], (1, 4, 2))


class Bare:
    """No more than is needed."""

    board_dim, vocab_size = 4, 5
    __len__, sample, pairs = Stripes.__len__, Stripes.sample, Stripes.pairs


@both
def test_own_boards_train_are_resumed_and_probed(kind, tmp_path):
    how = dict(dataset=Stripes(), runs=tmp_path, save_model=True, learning_rate=0.01, masking_patch_epoch=0)
    trainer = make(kind, **how, run_name="r", epochs=4)
    trainer.train()
    assert trainer.log.arrays["loss_mean"][-1] < trainer.log.arrays["loss_mean"][0]
    assert 0 <= trainer.log.arrays[trainer.best_column][-1] <= 1
    boards, masks = Stripes().sample(3, "test", np.random.default_rng(0)), np.eye(4, dtype=int)[None].repeat(3, 0)
    assert next(iter(trainer.recorded(boards, masks).values())).shape[0] == 3
    assert trainer.test_model_accuracy_set("test", 0.2, True, 0.5)
    if kind == "factor":
        trainer.analyze_embeddings(boards[0])
    make(kind, **how, run_name="parts", epochs=2).train()
    resumed = KINDS[kind][0].resume(tmp_path / "parts", dataset=Stripes(), epochs=4)
    resumed.train()
    assert same(weights(resumed), weights(trainer))
    again = KINDS[kind][0].from_run(tmp_path / "r", device="cpu", dataset=Stripes())
    assert same(weights(again), weights(trainer))
    assert proba_of(again).tolist() == [1]


def test_a_data_set_with_no_more_than_is_needed():
    trainer = make(dataset=Bare())
    trainer.train()
    assert {"train_acc_tokens", "test_acc_tokens"} <= set(trainer.columns())
    assert np.isnan(trainer.log.arrays["test_acc_tokens"]).all()


def test_patches_hide_windows_on_own_boards():
    boards = Stripes().sample(200, "train", np.random.default_rng(0))
    mask, kinds = make(dataset=Stripes()).dataset.mask(boards, 0, 0.5, rng=np.random.default_rng(1))
    assert set(mask.sum((1, 2)).tolist()) == {0, 4}
    assert ((mask.sum((1, 2)) == 4) == (kinds == 1)).all()
    assert {(int(cells.min()), int(cells.max())) for cells in map(np.flatnonzero, mask[kinds == 1])} == {
        (4 * i + j, 4 * i + j + 5) for i in range(3) for j in range(3)}


def test_what_needs_objects_is_refused_in_a_sentence(tmp_path, capsys):
    trainer = make(dataset=Stripes(), runs=tmp_path, run_name="r", save_model=True)
    trainer.train()
    boards = Stripes().sample(3, "test", np.random.default_rng(0))
    for call in (trainer.explore, trainer.analyze_embeddings, lambda: trainer.dataset.posterior(boards)):
        with pytest.raises(AttributeError, match="needs the objects of an AbstractionDataset; .* boards are of Stripes"):
            call()
    assert lens(trainer, boards, np.ones_like(boards))  # this one does not
    with pytest.raises(ValueError, match="was trained on Stripes, boards of its user's own; open it in Python, with dataset="):
        TrainTransformer.from_run(tmp_path / "r")
    with pytest.raises(SystemExit, match="2"):
        train_model.main(["--resume", str(tmp_path / "r")])
    assert "was trained on Stripes" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "message"), [
    (dict(sample=lambda *_: np.zeros((1, 4, 5), int)), r"sample of Own must have shape \(1, 4, 4\), not \(1, 4, 5\)"),
    (dict(sample=lambda *_: np.full((1, 4, 4), 4)), "sample of Own must be from 0 to 3, not 4"),  # UNK
    (dict(sample=lambda *_: np.zeros((1, 4, 4))), "sample of Own must be whole numbers"),
    (dict(splits=("test",)), "there are no boards in the train split"),
])  # fmt: skip
def test_boards_that_are_none_are_refused(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(dataset=type("Own", (Stripes,), change)())


@pytest.mark.parametrize("wrong", [None, Stripes, np.zeros((3, 4, 4)), "boards"])
def test_what_is_no_data_set_is_refused(wrong):
    with pytest.raises(TypeError, match="^dataset must be an AbstractionDataset, or an object with board_dim, "):
        TrainTransformer(wrong, **SMALL)


def test_a_data_set_of_a_reloaded_module_is_one():
    before = dict(vars(module_dataset))
    try:
        new = importlib.reload(module_dataset).AbstractionDataset(seed=0)
        assert TrainTransformer(new, **SMALL).dataset is new
    finally:
        vars(module_dataset).update(before)
