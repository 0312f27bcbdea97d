"""Training: the loop, the loss, schedules, parameters. What both wrappers share is tested on both."""
import contextlib
import copy
import inspect

import numpy as np
import pytest
import torch

import module_train_probe
from module_train_probe import TrainingStopped, TrainTransformer
from tests.faults import same
from tests.trainers import KINDS, all_boards_of, boards, both, make, weights

pytestmark = pytest.mark.usefixtures("no_pictures")


# training


@both
def test_training_returns_the_sums_of_epochs(kind):
    trainer = make(kind, epochs=3)
    losses = trainer.train()
    assert losses.shape == (3,)
    assert losses.tolist() == trainer.log.arrays[trainer.loss_columns[0]].tolist()
    assert (trainer.epoch, trainer.step) == (3, 3 * 4)  # 30 boards in batches of 8
    assert trainer.train().shape == (0,)
    assert trainer.step == 12


@both
def test_training_learns(kind):
    trainer = make(kind, epochs=30, learning_rate=1e-2, masking_patch_epoch=10)
    losses = trainer.train()
    assert losses[-5:].mean() < 0.8 * losses[:5].mean()


@both
def test_same_seed_same_bits(kind):
    first, second = make(kind, resid_pdrop=0.1), make(kind, resid_pdrop=0.1)
    assert same(weights(first), weights(second))
    assert first.train().tolist() == second.train().tolist()
    assert same(weights(first), weights(second))
    other = make(kind, resid_pdrop=0.1, seed=2)
    other.train()
    assert not same(weights(first), weights(other))


@both
def test_what_is_tested_in_between_changes_nothing(kind):
    often, seldom, asked = (make(kind, epochs=4, masking_patch_epoch=3, epoch2test=n, attn_pdrop=0.1) for n in (1, 999, 999))
    for trainer in (often, seldom):
        trainer.train()
    asked.epochs = 2
    asked.train()
    asked.test_model_accuracy(20, 0.3, patch_masking=True)
    asked.test_model_accuracy_set("test", 0.2)
    asked._mask_input(np.zeros((2, 6, 6), int), 0.5)
    list(asked.dataset)
    asked.epochs = 4
    asked.train()
    assert same(weights(often), weights(seldom))
    assert same(weights(often), weights(asked))


@both
def test_n_and_n_epochs_are_2n(kind):
    once, twice = (make(kind, epochs=n, masking_patch_epoch=3, epoch2test=2) for n in (4, 2))
    losses = once.train().tolist()
    first = twice.train().tolist()
    twice.epochs = 4
    assert first + twice.train().tolist() == losses
    assert same(weights(once), weights(twice))
    assert (once.epoch, once.step) == (twice.epoch, twice.step)
    for name in ("epoch", once.loss_columns[0]):
        assert once.log.arrays[name].tolist() == twice.log.arrays[name].tolist()


def test_masking_patch_epoch_none_is_the_first_number_of_epochs():
    trainer = make("lea", epochs=2)
    assert trainer.masking_patch_epoch is None
    assert trainer.recipe.masking_at(1)[0] == pytest.approx(0.125)
    trainer.train()
    trainer.epochs = 4
    trainer.train()
    assert trainer.masking_patch_epoch == 2
    assert trainer.recipe.masking_at(1)[0] == pytest.approx(0.125)


@both
def test_global_random_states_are_left_alone(kind, tmp_path, reseed):
    reseed(3)
    trainer = make(kind, seed=None, resid_pdrop=0.1, runs=tmp_path, run_name="r", save_model=1, plot_dpi=20)
    trainer.train()
    trainer.test_model_accuracy(5, 0.2, patch_masking=True)
    trainer.test_model_accuracy_set("test", 0.2)
    trainer.dataset._draw_board(0)
    type(trainer).from_run(trainer.folder)
    assert 0 <= trainer.seed < 2**63


@both
def test_seed_none_is_drawn_and_kept(kind):
    trainer = make(kind, seed=None)
    again = make(kind, seed=trainer.seed)
    assert trainer.seed != make(kind, seed=None).seed
    assert same(weights(trainer), weights(again))
    assert trainer.params["seed"] == trainer.seed


@both
def test_float64(kind):
    trainer = make(kind, dtype="float64")
    assert {value.dtype for value in trainer.transformer.state_dict().values()} == {torch.float64}
    losses = trainer.train()
    assert losses.dtype == np.float64
    single = make(kind)
    np.testing.assert_allclose(single.train(), losses, rtol=1e-4)
    with trainer.record("z_out") as acts:
        trainer._predict(torch.zeros(1, 36, dtype=int))
    assert acts["z_out"].dtype == torch.float64


@both
def test_bfloat16_is_the_arithmetic_of_training_s_products_alone(kind):
    trainer, single = make(kind, dtype="bfloat16", optimizer="muon"), make(kind, optimizer="muon")
    losses, expected = trainer.train(), single.train()
    np.testing.assert_allclose(losses, expected, rtol=0.02)
    assert (losses != expected).all()
    state = trainer.state()
    assert {value.dtype for value in state["transformer"].values() if value.is_floating_point()} == {torch.float32}
    moments = [value for each in state["optim"]["state"].values() for value in each.values()]
    assert {value.dtype for value in moments} == {torch.float32}
    board = trainer.dataset.sample(1, "train").boards
    single.transformer.load_state_dict(trainer.transformer.state_dict())  # tests and probing are as ever
    for one, other in zip(trainer.forward_all_activations(board, board * 0), single.forward_all_activations(board, board * 0),
                          strict=True):
        np.testing.assert_array_equal(one, other)


def test_words_are_counted_and_compared_in_full_under_bfloat16():
    trainer = make("lea", dtype="bfloat16")
    quantiser = trainer.transformer.ss_vector_quantizer.train()
    x = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
    full = quantiser(x)
    again = make("lea", dtype="bfloat16").transformer.ss_vector_quantizer.train()
    with torch.autocast("cpu", torch.bfloat16):
        found = again(x)
    for one, other in zip(full, found, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(quantiser._embedding.weight, again._embedding.weight)


# the loss


@pytest.mark.parametrize("batch_size", [8, 7, 100])
def test_loss_and_error_count_every_token(batch_size):
    trainer = make(batch_size=batch_size, learning_rate=0, masking_patch_epoch=1, dtype="float64", epochs=3)
    untrained = weights(trainer)
    losses = trainer.train()
    assert same(untrained, weights(trainer))
    for epoch in range(3):
        total, wrong, cells, sizes = 0.0, 0, 0, []
        for masked, truth in trainer.batches(epoch):
            with torch.no_grad():
                p = trainer.transformer(masked).exp().numpy()
            p /= p.sum(-1, keepdims=True)
            rows = np.arange(truth.numel())
            total += -np.log(p.reshape(-1, 7)[rows, truth.flatten().numpy()]).mean()
            wrong += (p.argmax(-1) != truth.numpy()).sum()
            cells += truth.numel()
            sizes.append(len(truth))
        assert cells == 30 * 36
        assert sizes == [batch_size] * (30 // batch_size) + [30 % batch_size] * (30 % batch_size > 0)
        assert losses[epoch] == pytest.approx(total, rel=1e-9)
        assert trainer.log.arrays["loss"][epoch] == losses[epoch]
        assert trainer.log.arrays["error"][epoch] == pytest.approx(wrong / cells)


def test_steps_are_adamw_on_the_batches():
    trainer = make(learning_rate=1e-2, dtype="float64", epochs=1)
    twin = copy.deepcopy(trainer.transformer)
    linear = {id(m.weight) for m in twin.modules() if isinstance(m, torch.nn.Linear)}
    parts = [[p for p in twin.parameters() if (id(p) in linear) == wanted] for wanted in (True, False)]
    optim = torch.optim.AdamW([{"params": parts[0], "weight_decay": 0.01}, {"params": parts[1], "weight_decay": 0}],
                              lr=1e-2, betas=(0.9, 0.95))
    for masked, truth in trainer.batches(0):
        optim.zero_grad()
        log_p = twin(masked).log_softmax(-1)
        (-log_p.gather(-1, truth[..., None]).mean()).backward()
        optim.step()
    trainer.train()
    for a, b in zip(trainer.transformer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_a_loss_that_is_not_finite_ends_training(monkeypatch):
    trainer, whole = make(epochs=5, epoch2test=99), make(epochs=1)
    original = trainer.loss

    def loss(masked, truth, epoch):
        value, parts = original(masked, truth, epoch)
        spoilt = value * (float("nan") if (epoch, trainer.step) >= (1, 6) else 1)
        return spoilt, parts | {"loss": spoilt.detach()}

    monkeypatch.setattr(trainer, "loss", loss)
    with pytest.raises(TrainingStopped, match="the loss is nan at epoch 1, step 6, with learning_rate 0.001, batch_size 8"):
        trainer.train()
    whole.train()
    assert same(weights(trainer), weights(whole))
    assert (trainer.epoch, trainer.step) == (1, 4)


# schedules


@pytest.mark.parametrize(
    ("epoch", "p", "patch"),
    [(0, 0.01, 0), (1, 0.01, 0), (30, 0.01, 0), (60, 0.02, 0), (375, 0.125, 0), (749, 0.25 * 749 / 750, 0), (750, 0.25, 0.5),
     (5000, 0.25, 0.5)],
)  # fmt: skip
def test_masking_schedule(epoch, p, patch):
    assert make(epochs=1500).recipe.masking_at(epoch) == (pytest.approx(p), patch)


def test_masking_schedule_of_no_length_and_other_values():
    assert make(masking_patch_epoch=0, masking_p=0.4, masking_patch_p=0.1).recipe.masking_at(0) == (0.4, 0.1)
    assert make("lea", masking_patch_epoch=10, masking_p=1).recipe.masking_at(5) == (0.5, 0)
    assert make(masking_p=0).recipe.masking_at(900) == (0, 0.5)


def test_cells_are_hidden_as_scheduled():
    trainer = make(dataset=boards(dataset_len=3000), masking_patch_epoch=10, masking_p=0.3, masking_patch_p=0)
    for epoch, p in ((0, 0.01), (5, 0.15), (10, 0.3)):
        hidden = torch.cat([masked == trainer.masking_token for masked, _ in trainer.batches(epoch)]).double()
        assert hidden.mean().item() == pytest.approx(p, abs=5 * np.sqrt(p / hidden.numel()))
        assert hidden.mean(0).std() < 3 * np.sqrt(p / 3000)


def test_patches_are_windows_of_a_root_s_size():
    trainer = make(masking_patch_epoch=0, masking_p=0, masking_patch_p=1)
    masked, truth = map(torch.cat, zip(*trainer.batches(0), strict=True))
    hidden = (masked == trainer.masking_token).view(-1, 6, 6)
    assert torch.equal(masked[~hidden.flatten(1)], truth[~hidden.flatten(1)])
    assert (truth < trainer.masking_token).all()
    for one in hidden:
        rows, cols = one.nonzero().unbind(1)
        assert len(rows) == 4
        assert rows.max() - rows.min() == cols.max() - cols.min() == 1


def test_epochs_and_seeds_have_boards_of_their_own():
    drawn = {key: all_boards_of(make(seed=key[0]), key[1]) for key in ((1, 0), (1, 1), (2, 0), (2, 1))}
    again = all_boards_of(make(seed=1), 1)
    assert torch.equal(drawn.pop((1, 1)), again)
    assert not any(torch.equal(one, again) for one in drawn.values())


@pytest.mark.parametrize(
    ("epoch", "proba"),
    [(0, [0.8, 0.1, 0.1]), (250, [0.8, 0.1, 0.1]), (625, [(0.8 + 1 / 3) / 2, (0.1 + 1 / 3) / 2, (0.1 + 1 / 3) / 2]),
     (1000, [1 / 3] * 3), (9999, [1 / 3] * 3)],
)  # fmt: skip
def test_board_curriculum(epoch, proba):
    np.testing.assert_allclose(make().board_proba(epoch), proba)


@pytest.mark.parametrize(
    ("epoch", "proba"), [(0, [0.95, 0.05, 0]), (1000, [0.95, 0.05, 0]), (1500, [0.775, 0.225, 0]), (2000, [0.6, 0.4, 0])]
)
def test_board_curriculum_of_lea(epoch, proba):
    np.testing.assert_allclose(make("lea").board_proba(epoch), proba, atol=1e-15)


def test_board_types_not_in_use_get_no_share():
    trainer = make(dataset=boards(board_types=["composition", "single"], board_types_proba=[0.5, 0.5]))
    np.testing.assert_allclose(trainer.board_proba(0), [0.1 / 0.9, 0.8 / 0.9])
    np.testing.assert_allclose(trainer.board_proba(2000), [0.5, 0.5])
    single = make(dataset=boards(board_types=["single"], board_types_proba=[1]))
    assert single.board_proba(0).tolist() == [1]
    truth = all_boards_of(single, 0)
    assert ((truth >= 2).sum(1) == 4).all()  # one root of four tokens
    assert len(single.train()) == 2


def test_the_curriculum_is_what_is_drawn():
    trainer = make(dataset=boards(dataset_len=2000), board_proba_start=[1, 0, 0], board_proba_end=[0, 0, 1],
                   board_proba_epoch_start=2, board_proba_epoch_end=6)
    for epoch, share in ((0, 0), (2, 0), (3, 0.25), (5, 0.75), (6, 1), (10, 1)):
        truth = all_boards_of(trainer, epoch)
        composites = ((truth >= 2).sum(1) == 16).double().mean().item()
        assert composites == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / 2000))


def test_without_curriculum_the_data_set_decides():
    dataset = boards(board_types_proba=[0, 0, 1])
    trainer = make(dataset=dataset, board_curriculum=False)
    truth = all_boards_of(trainer, 0)
    assert ((truth >= 2).sum(1) == 16).all()
    dataset.board_types_proba = [1, 0, 0]
    truth = all_boards_of(trainer, 0)
    assert ((truth >= 2).sum(1) == 4).all()


@both
def test_training_leaves_the_data_set_s_probabilities(kind):
    dataset = boards(board_types_proba=[0.2, 0.3, 0.5])
    trainer = make(kind, dataset=dataset, epochs=3)
    trainer.train()
    trainer.test_model_accuracy_set("test", 0.1)
    np.testing.assert_allclose(dataset.board_types_proba, [0.2, 0.3, 0.5])
    assert dataset.set_type == "train"


@pytest.mark.parametrize("name", ["board_proba_start", "board_proba_end"])
def test_probabilities_must_leave_something_to_draw(name):
    dataset = boards(board_types=["single", "double"], board_types_proba=[0.5, 0.5])
    with pytest.raises(ValueError, match=f"{name} = .* must give a positive probability"):
        make(dataset=dataset, **{name: [0, 0, 1]})


# parameters

DEFAULTS = dict(
    transformer_type="factor", n_layer=3, n_head=2, n_embd=64, n_embd_pos=32, embd_pdrop=0, resid_pdrop=0, attn_pdrop=0,
    masking_p=0.25, masking_patch_epoch=750, masking_patch_p=0.5, board_curriculum=True, board_proba_epoch_start=250,
    board_proba_epoch_end=1000, board_proba_start=[0.8, 0.1, 0.1], board_proba_end=[1 / 3] * 3, learning_rate=1e-3,
    batch_size=64,
    epochs=1, epoch2print=25, epoch2test=250, epoch2save=250, save_model=False, run_name="", plot_dpi=150, dtype="float32",
    runs="./runs",
)  # fmt: skip


def test_defaults_and_attributes():
    trainer = TrainTransformer(boards())
    for name, value in DEFAULTS.items():
        assert getattr(trainer, name) == value, name
    assert (trainer.vocab_size, trainer.block_size, trainer.masking_token) == (7, 36, 6)
    assert trainer.device == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert isinstance(trainer.optim, torch.optim.AdamW)
    assert [(group["weight_decay"], group["lr"], group["betas"]) for group in trainer.optim.param_groups] == [
        (0.01, 1e-3, (0.9, 0.95)), (0, 1e-3, (0.9, 0.95))]
    assert (trainer.step, trainer.epoch) == (0, 0)
    assert list(trainer.params) == list(inspect.signature(TrainTransformer).parameters)[1:]
    assert type(trainer)(trainer.dataset, **trainer.params).params == trainer.params


@both
def test_wrong_parameters_are_named(kind):
    with pytest.raises(TypeError, match="AbstractionDataset, or an object with .*, not {}"):
        KINDS[kind][0]({})
    for values, error, text in (
        (dict(n_embed=8), TypeError, "'n_embed' is not a parameter; did you mean n_embd?"),
        (dict(n_head=3), ValueError, "n_embd = 8"),
        (dict(vocab_size=8), ValueError, "vocab_size = 8 must be the data set's, 7"),
        (dict(block_size=64), ValueError, "block_size = 64"),
        (dict(masking_token=0), ValueError, "masking_token = 0"), (dict(epochs=0), ValueError, "epochs"),
        (dict(masking_p=1.5), ValueError, "masking_p"), (dict(board_proba_start=[1, 1]), ValueError, "board_proba_start"),
        (dict(board_proba_start=[0, 0, 0]), ValueError, "board_proba_start"), (dict(run_name="a/b"), ValueError, "run_name"),
        (dict(run_name=".."), ValueError, "run_name"), (dict(device="cuda:99"), ValueError, "device"),
        (dict(batch_size=0), ValueError, "batch"),
        (dict(board_proba_epoch_start=5, board_proba_epoch_end=4), ValueError, "board_proba_epoch_end = 4"),
        (dict(learning_rate="fast"), TypeError, "learning_rate"), (dict(dtype="float16"), ValueError, "dtype"),
        (dict(seed=-1), ValueError, "seed"), (dict(epochs=1.0), TypeError, "epochs"),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            make(kind, **values)


@both
def test_old_parameter_files_are_welcome(kind):
    old = dict(n_unmasked=36, masking_patch_dim=2, test_nb_instances=100, scan_patch_dim=3, scan_nb_instances=5,
               epoch2scan=10, bool_wandb=False, save_model=1, vocab_size=7, block_size=36, masking_token=6)
    trainer = make(kind, **old)
    assert trainer.save_model is True
    assert "n_unmasked" not in trainer.params


@both
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_an_exception_in_an_epoch_training_goes_on_as_if_there_had_been_none(kind, error):
    whole, broken = make(kind, epochs=3, attn_pdrop=0.1), make(kind, epochs=3, attn_pdrop=0.1)
    whole.train()
    step, calls = broken.optim.step, []

    def step_that_fails_once():
        calls.append(1)
        step()
        if len(calls) == 6:  # in the second epoch
            raise error

    broken.optim.step = step_that_fails_once
    with pytest.raises(error):
        broken.train()
    assert broken.epoch == 1
    broken.train()
    assert broken.step == whole.step
    for name, value in weights(whole).items():
        assert torch.equal(weights(broken)[name], value), name


def test_every_process_needs_a_board_of_the_smallest_batch(monkeypatch):
    """10 boards in batches of 8 leave a batch of 2."""
    for world, refused in ((2, False), (3, True)):
        monkeypatch.setattr(module_train_probe, "rank_and_world", lambda world=world: (0, world))
        expected = pytest.raises(ValueError, match="3 processes must be .* the smallest batch; batch_size") if refused else contextlib.nullcontext()
        with expected:
            make(dataset=boards(dataset_len=10))


def test_the_boards_of_an_epoch_are_drawn_at_once(monkeypatch):
    """Batch by batch the same seed would give other boards."""
    trainer, drawn = make(), []
    sample = trainer.dataset.sample
    monkeypatch.setattr(trainer.dataset, "sample", lambda count, *how: drawn.append(count) or sample(count, *how))
    assert len(list(trainer.batches(0))) > 1
    assert drawn == [trainer.dataset_len]
