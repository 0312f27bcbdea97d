"""The start of LEA's words: vectors pass until vq_start_epoch, then words start at what is said."""
import numpy as np
import pytest
import torch
from trainers import make

from module_transformer_lea import k_means
from studies.claims.runs import proba_of

STARTING = dict(epochs=5, masking_patch_epoch=5, vq_start_epoch=3, loss_rfs_epoch_start=0, loss_rfs_epoch_end=1)


def words_of(trainer):
    return trainer.transformer.ss_vector_quantizer._embedding.weight.clone()


@pytest.mark.parametrize("more", [{}, {"vq_type": "vanilla"}, {"transformer_type": "vanilla"}])
def test_vectors_pass_until_words_start(more):
    trainer = make("lea", **STARTING | more | {"epochs": 3})
    before, quantiser = words_of(trainer), trainer.transformer.ss_vector_quantizer
    trainer.train()
    assert torch.equal(words_of(trainer)[:-1], before[:-1])  # the last one is IN's blank, which may learn
    assert not trainer.log.arrays["loss_vq"].any()
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantiser(x)[0], x)
    trainer.epochs = 4
    trainer.train()
    assert not torch.equal(words_of(trainer), before)
    assert trainer.log.arrays["loss_vq"][3] > 0
    assert not torch.equal(quantiser(x)[0], x)


def test_words_start_at_what_is_said():
    trainer = make("lea", **STARTING | {"epochs": 3})
    trainer.train()
    quantiser, last = trainer.transformer.ss_vector_quantizer, words_of(trainer)[-1]
    trainer._start_words(3)
    said = []
    quantiser.register_forward_hook(lambda module, args, out: said.append(args[0].flatten(0, 1)))
    boards = trainer.dataset.sample(300, "train").boards
    trainer.speaker_predict(boards, np.zeros_like(boards))
    said, words = torch.cat(said), words_of(trainer)
    spread = (said - said.mean(0)).square().sum(1).mean()
    assert torch.cdist(said, words[:-1]).amin(1).square().mean() < 0.5 * spread
    assert torch.equal(words[-1], last)  # IN's blank
    expected = 8 * 3 / 8  # boards of a batch x words of a sentence / words of the codebook
    assert torch.equal(quantiser._ema_cluster_size, torch.full((8,), expected))
    assert torch.equal(quantiser._ema_w, words * expected)


def test_centres_are_those_of_the_clusters():
    generator = torch.Generator().manual_seed(0)
    truth = 10 * torch.eye(4)
    vectors = truth.repeat(50, 1) + 0.01 * torch.randn(200, 4, generator=generator)
    centres = min((k_means(vectors, 4, generator) for _ in range(20)),
                  key=lambda centres: torch.cdist(vectors, centres).amin(1).sum())
    assert torch.cdist(truth, centres).amin(1).max() < 0.02
    few = k_means(vectors[:3], 5, generator)
    assert few.shape == (5, 4)
    assert torch.cdist(vectors[:3], few).amin(1).max() == 0


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_resumed_around_the_start_of_words_is_the_same(stop, tmp_path, no_pictures):
    how = dict(STARTING, save_model=True, runs=str(tmp_path))
    make("lea", **how, run_name="whole").train()
    make("lea", **how | {"epochs": stop}, run_name="parts").train()
    type(make("lea")).resume(tmp_path / "parts", epochs=5).train()
    whole, parts = (torch.load(tmp_path / name / "checkpoints" / "model_4.pth") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_checkpoint_from_before_the_start_passes_vectors_on(tmp_path, no_pictures):
    trainer = make("lea", **STARTING, save_epochs=[2], save_model=True, runs=str(tmp_path), run_name="r")
    trainer.train()
    assert not trainer.transformer.ss_vector_quantizer.passing
    early, late = (type(trainer).from_run(tmp_path / "r", f"model_{epoch}.pth", "cpu") for epoch in (2, 4))
    assert early.transformer.ss_vector_quantizer.passing
    assert not late.transformer.ss_vector_quantizer.passing
    assert make("lea", **STARTING).transformer.ss_vector_quantizer.passing
    assert not make("lea").transformer.ss_vector_quantizer.passing


@pytest.mark.parametrize("more", [{}, {"vq_type": "vanilla"}])
def test_what_decides_about_passing_is_in_the_checkpoint(more, tmp_path, no_pictures):
    """A copy elsewhere, under any name, opens as the checkpoint does, and its boards are those of the run's end."""
    how = STARTING | more | dict(save_epochs=[2], save_model=True, runs=str(tmp_path))
    trainer = make("lea", **how, run_name="r", board_proba_start=[1, 0, 0], board_proba_epoch_start=0, board_proba_epoch_end=4)
    trainer.train()
    (tmp_path / "r" / "checkpoints" / "model_0.pth").unlink()
    for epoch, passing in ((2, True), (4, False)):
        copy = (tmp_path / "r" / "checkpoints" / f"model_{epoch}.pth").rename(tmp_path / f"copy{epoch}.pth")
        opened = type(trainer).from_run(tmp_path / "r", copy, "cpu")
        assert opened.transformer.ss_vector_quantizer.passing == passing
        assert proba_of(opened).tolist() == proba_of(trainer).tolist()
        fresh = make("lea", **how)
        fresh.transformer.load_state_dict(torch.load(copy))
        assert fresh.transformer.ss_vector_quantizer.passing == passing
    # a run that starts from words of another one starts its own later all the same
    second = make("lea", **how | {"epochs": 2, "save_epochs": None}, run_name="second", init_from=str(tmp_path / "copy4.pth"))
    second.train()
    assert second.transformer.ss_vector_quantizer.passing
    if not more:
        assert type(trainer).from_run(tmp_path / "second", device="cpu").transformer.ss_vector_quantizer.passing
