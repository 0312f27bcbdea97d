"""The wrapper: training, schedules, tests, recording and run folders. What both wrappers share is tested on both."""
import copy
import csv
import inspect
import json
import pickle
import signal
import warnings

import numpy as np
import pytest
import torch
from matplotlib import pyplot

import module_train_probe
import module_train_probe_lea
from module_dataset import AbstractionDataset
from module_train_probe import Accuracy, TrainingStopped, TrainTransformer
from utils import read_json, read_run_log

SMALL_BOARDS = dict(board_dim=6, abs_n=3, abs_dim=2, abs_c=4, vocab_bck=2, vocab_token=4, comp_n=2, dataset_len=30, seed=0)
SMALL = dict(n_layer=1, n_embd=8, n_embd_pos=4, batch_size=8, epochs=2, seed=1, device="cpu")
KINDS = {
    "factor": (TrainTransformer, {}),
    "lea": (module_train_probe_lea.TrainTransformer, dict(vocab_speech_size=8, block_speech_size=3)),
    "lea vanilla": (module_train_probe_lea.TrainTransformer,
                    dict(vocab_speech_size=8, block_speech_size=3, transformer_type="vanilla", vq_type="vanilla")),
}


def boards(**more):
    return AbstractionDataset(**SMALL_BOARDS | more)


def make(kind="factor", dataset=None, **more):
    cls, own = KINDS[kind]
    return cls(boards() if dataset is None else dataset, **SMALL | own | more)


both = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def figures():
    """Asked for by the tests that need the pictures of a run, which take long to draw."""


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    if "figures" not in request.fixturenames:
        for cls in {cls for cls, _ in KINDS.values()}:
            monkeypatch.setattr(cls, "_figures", lambda self, epoch: {})


def weights(trainer):
    return {name: value.clone() for name, value in trainer.transformer.state_dict().items()}


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def all_boards_of(trainer, epoch):
    """The boards (n, T) that an epoch trains on, nothing hidden."""
    return torch.cat([truth for _, truth in trainer._batches(epoch)])


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


@both
def test_weight_average_is_the_moving_average_over_epochs(kind, tmp_path):
    averaged = make(kind, epochs=4, masking_patch_epoch=3, weight_average=0.75, save_model=True, runs=tmp_path, run_name="r")
    losses = averaged.train().tolist()
    alone = make(kind, epochs=1, masking_patch_epoch=3)
    assert alone.train().tolist() == losses[:1]
    expected = weights(alone)
    for alone.epochs in (2, 3, 4):
        assert alone.train().tolist() == losses[alone.epochs - 1 : alone.epochs]
        expected = {name: 0.75 * value + 0.25 * weights(alone)[name] for name, value in expected.items()}
    for found in (weights(averaged), weights(KINDS[kind][0].from_run(averaged.folder))):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    assert not same(weights(averaged), weights(alone))
    assert same(weights(averaged), torch.load(averaged.folder / "checkpoints" / "model_3.pth", weights_only=True))


def test_masking_patch_epoch_none_is_the_first_number_of_epochs():
    trainer = make("lea", epochs=2)
    assert trainer.masking_patch_epoch is None
    assert trainer._masking(1)[0] == pytest.approx(0.125)
    trainer.train()
    trainer.epochs = 4
    trainer.train()
    assert trainer.masking_patch_epoch == 2
    assert trainer._masking(1)[0] == pytest.approx(0.125)


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


# the loss


@pytest.mark.parametrize("batch_size", [8, 7, 100])
def test_loss_and_error_count_every_token(batch_size):
    trainer = make(batch_size=batch_size, learning_rate=0, masking_patch_epoch=1, dtype="float64", epochs=3)
    untrained = weights(trainer)
    losses = trainer.train()
    assert same(untrained, weights(trainer))
    for epoch in range(3):
        total, wrong, cells, sizes = 0.0, 0, 0, []
        for masked, truth in trainer._batches(epoch):
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
    for masked, truth in trainer._batches(0):
        optim.zero_grad()
        log_p = twin(masked).log_softmax(-1)
        (-log_p.gather(-1, truth[..., None]).mean()).backward()
        optim.step()
    trainer.train()
    for a, b in zip(trainer.transformer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_a_loss_that_is_not_finite_ends_training(monkeypatch):
    trainer, whole = make(epochs=5, epoch2test=99), make(epochs=1)
    original = trainer._loss

    def loss(masked, truth, epoch):
        value, parts = original(masked, truth, epoch)
        spoilt = value * (float("nan") if (epoch, trainer.step) >= (1, 6) else 1)
        return spoilt, parts | {"loss": spoilt.detach()}

    monkeypatch.setattr(trainer, "_loss", loss)
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
    assert make(epochs=1500)._masking(epoch) == (pytest.approx(p), patch)


def test_masking_schedule_of_no_length_and_other_values():
    assert make(masking_patch_epoch=0, masking_p=0.4, masking_patch_p=0.1)._masking(0) == (0.4, 0.1)
    assert make("lea", masking_patch_epoch=10, masking_p=1)._masking(5) == (0.5, 0)
    assert make(masking_p=0)._masking(900) == (0, 0.5)


def test_cells_are_hidden_as_scheduled():
    trainer = make(dataset=boards(dataset_len=3000), masking_patch_epoch=10, masking_p=0.3, masking_patch_p=0)
    for epoch, p in ((0, 0.01), (5, 0.15), (10, 0.3)):
        hidden = torch.cat([masked == trainer.masking_token for masked, _ in trainer._batches(epoch)]).double()
        assert hidden.mean().item() == pytest.approx(p, abs=5 * np.sqrt(p / hidden.numel()))
        assert hidden.mean(0).std() < 3 * np.sqrt(p / 3000)


def test_patches_are_windows_of_a_root_s_size():
    trainer = make(masking_patch_epoch=0, masking_p=0, masking_patch_p=1)
    masked, truth = map(torch.cat, zip(*trainer._batches(0), strict=True))
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
    np.testing.assert_allclose(make()._board_proba(epoch), proba)


@pytest.mark.parametrize(
    ("epoch", "proba"), [(0, [0.95, 0.05, 0]), (1000, [0.95, 0.05, 0]), (1500, [0.775, 0.225, 0]), (2000, [0.6, 0.4, 0])]
)
def test_board_curriculum_of_lea(epoch, proba):
    np.testing.assert_allclose(make("lea")._board_proba(epoch), proba, atol=1e-15)


def test_board_types_not_in_use_get_no_share():
    trainer = make(dataset=boards(board_types=["composition", "single"], board_types_proba=[0.5, 0.5]))
    np.testing.assert_allclose(trainer._board_proba(0), [0.1 / 0.9, 0.8 / 0.9])
    np.testing.assert_allclose(trainer._board_proba(2000), [0.5, 0.5])
    single = make(dataset=boards(board_types=["single"], board_types_proba=[1]))
    assert single._board_proba(0).tolist() == [1]
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
    with pytest.raises(TypeError, match="AbstractionDataset, not dict"):
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


# masking


@pytest.mark.parametrize("given", ["array", "tensor", "flat", "one", "flat tensor"])
def test_mask_input_keeps_kind_and_shape(given):
    trainer = make()
    truth = trainer.dataset.get_n_training_boards(50)[0]
    truth = {"flat": truth.reshape(50, 36), "one": truth[0], "flat tensor": truth.reshape(50, 36)}.get(given, truth)
    value = torch.tensor(truth) if "tensor" in given else truth
    masked = trainer._mask_input(value, 0.4)
    assert type(masked) is type(value)
    assert masked.shape == value.shape
    hidden = np.asarray(masked) == 6
    assert (np.asarray(masked) == np.where(hidden, 6, truth)).all()
    if given != "one":
        assert hidden.mean() == pytest.approx(0.4, abs=0.05)
    assert (np.asarray(value) == truth).all()
    assert (np.asarray(trainer._mask_input(value, 0)) == truth).all()
    assert (np.asarray(trainer._mask_input(value, 1)) == 6).all()


def test_mask_input_reports_what_the_patch_hit():
    trainer = make(dataset=boards(board_types_proba=[1, 1, 2]))
    drawn = trainer.dataset.sample(200, "train")
    masked, report = trainer._mask_input(drawn.boards, 0, patch_masking=True, patch_masking_p=0.5, bool_report=True)
    hidden = (masked == 6).reshape(200, -1).sum(1)
    kinds = report["boardType"]
    assert kinds.shape == (200,)
    assert set(kinds.tolist()) == {0, 1, 3}
    assert (hidden == np.where(kinds == 0, 0, 4)).all()
    assert (kinds[drawn.types == 2] != 1).all()
    assert (kinds[drawn.types != 2] != 3).all()
    for i in np.flatnonzero(kinds == 3):
        rows, cols = np.nonzero(masked[i] == 6)
        assert (drawn.corners[i] == [rows.min(), cols.min()]).all(1).any()
    assert not trainer._mask_input(drawn.boards, 0, False, 1.0, True)[1]["boardType"].any()
    assert trainer._mask_input(drawn.boards, 0, True, 1.0, True)[1]["boardType"].all()


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_wrong_probabilities_are_named(p):
    trainer = make()
    one = trainer.dataset.get_n_training_boards(1)[0]
    with pytest.raises(ValueError, match="^masking_p must"):
        trainer._mask_input(one, p)
    with pytest.raises(ValueError, match="^patch_masking_p must"):
        trainer._mask_input(one, 0.1, True, p)
    with pytest.raises(ValueError, match="^masking_p must"):
        trainer.test_model_accuracy(3, p)


# testing


def count(truth, recons, masks, types):
    """The accuracies, one board and cell at a time."""
    tokens, hidden, whole = [], [], {0: [], 1: [], 2: []}
    for board, recon, mask, type_ in zip(truth, recons, masks, types, strict=True):
        right = [bool(a == b) for a, b in zip(board.ravel(), recon.ravel(), strict=True)]
        tokens += right
        hidden += [r for r, m in zip(right, mask.ravel(), strict=True) if m]
        whole[int(type_)].append(all(right))
    share = lambda x: sum(x) / len(x) if x else float("nan")  # noqa: E731
    return share(tokens), share(hidden), share(sum(whole.values(), [])), [share(whole[t]) for t in range(3)]


def greedy(trainer, truth, masks):
    """The most likely token of every cell, a board at a time."""
    masked = np.where(masks, trainer.masking_token, truth).reshape(len(truth), -1)
    with torch.no_grad():
        return np.concatenate([trainer.transformer.eval()(torch.tensor(one)[None]).argmax(-1).numpy() for one in masked])


def trained(**more):
    """A wrapper that is right about some boards and wrong about others."""
    trainer = make(epochs=12, learning_rate=1e-2, masking_patch_epoch=5, **more)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def learnt():
    return trained()


@pytest.mark.parametrize("call", ["random", "test", "train", "rounds"])
def test_accuracies_are_what_counting_gives(learnt, call):
    result = {
        "random": lambda: learnt.test_model_accuracy(60, 0.05, patch_masking=True, patch_masking_p=0.3),
        "test": lambda: learnt.test_model_accuracy_set("test", 0.05),
        "train": lambda: learnt.test_model_accuracy_set("train", 0.05, True, 0.9, count_max=7),
        "rounds": lambda: learnt.test_model_accuracy_set("test", 0.1, masking_rounds=3, count_max=10),
    }[call]()
    assert isinstance(result, tuple)
    assert isinstance(result, Accuracy)
    assert len(result) == 6
    acc_tokens, acc_boards, truth, recons, masks, breakdown = result
    n = {"random": 60, "test": 12 + 36 + 8, "train": 7 + 7 + 7, "rounds": 3 * (10 + 10 + 8)}[call]
    assert truth.shape == recons.shape == masks.shape == (n, 6, 6)
    assert set(np.unique(masks)) <= {0, 1}
    tokens = (truth >= 2).sum((1, 2))
    types = np.where(tokens == 16, 2, np.where(tokens == 4, 0, 1))  # no root lies wholly under another one
    if call != "random":
        assert np.bincount(types).tolist() == {"test": [12, 36, 8], "train": [7] * 3, "rounds": [30, 30, 24]}[call]
    assert (recons.reshape(n, -1) == greedy(learnt, truth, masks)).all()
    wanted = count(truth, recons, masks, types)
    assert (acc_tokens, result.acc_hidden, acc_boards) == pytest.approx(wanted[:3])
    np.testing.assert_allclose(breakdown, wanted[3])
    assert 0 < acc_boards < 1


def test_rounds_are_masked_afresh(learnt):
    _, _, truth, _, masks, _ = learnt.test_model_accuracy_set("test", 0.5, masking_rounds=2)
    half = len(truth) // 2
    assert (truth[:half] == truth[half:]).all()
    assert (masks[:half] != masks[half:]).any()
    again = learnt.test_model_accuracy_set("test", 0.5)
    assert not np.array_equal(again[4], masks[:half])


def test_the_boards_tested_are_those_of_the_split(learnt):
    held_out, types = learnt.dataset.get_all_boards("test", None)
    tested = learnt.test_model_accuracy_set("test", 0.1, count_max=None)[2]
    as_set = lambda boards: sorted(board.tobytes() for board in boards)  # noqa: E731
    assert as_set(tested) == as_set(held_out)
    assert len(types) == len(tested)


@pytest.mark.parametrize("kind", ["factor", "lea"])
def test_types_without_boards_are_nan_in_silence(kind, tmp_path, figures):
    dataset = boards(board_types=["double"], board_types_proba=[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = make(kind, dataset=dataset, runs=tmp_path, run_name="r", plot_dpi=20, epochs=1)
        trainer.train()
        result = trainer.test_model_accuracy_set("test", 0)
        subset = trainer.test_model_accuracy_subset(np.zeros((1, 6, 6), int), np.zeros((1, 6, 6), int))
    breakdown = result[5] if kind == "factor" else result["l1_acc_boards_breakdown"]
    assert np.isnan(breakdown).tolist() == [True, False, True]
    hidden = [result.acc_hidden, subset["error_masked_token"]] if kind == "factor" else [
        result["l0_acc_hidden"], subset["l1_acc_hidden"]]
    assert np.isnan(hidden).all()


@both
def test_an_empty_split_is_named(kind):
    with pytest.raises(ValueError, match="'val'"):
        make(kind).test_model_accuracy_set("val", 0.1)
    with pytest.raises(ValueError, match="'training'"):
        make(kind).test_model_accuracy_set("training", 0.1)
    for n in (0, 2.5):
        with pytest.raises(ValueError, match="nb_instances"):
            make(kind).test_model_accuracy(n, 0.1)
        with pytest.raises(ValueError, match="masking_rounds"):
            make(kind).test_model_accuracy_set("test", 0.1, masking_rounds=n)


def test_subset_by_counting(learnt):
    drawn = learnt.dataset.sample(40, "train", rng=np.random.default_rng(0))
    masks = (np.random.default_rng(1).random(drawn.boards.shape) < 0.1).astype(int)
    result = learnt.test_model_accuracy_subset(drawn.boards, masks)
    assert set(result) == {"boards_recons", "boards", "masks", "error_token", "error_masked_token", "error_board",
                           "erroneous_boards"}
    recons = greedy(learnt, drawn.boards, masks).reshape(-1, 6, 6)
    assert (result["boards_recons"] == recons).all()
    assert (result["boards"] == drawn.boards).all()
    assert (result["masks"] == masks).all()
    acc_tokens, acc_hidden, acc_boards, _ = count(drawn.boards, recons, masks, drawn.types)
    assert result["error_token"] == pytest.approx(1 - acc_tokens)
    assert result["error_masked_token"] == pytest.approx(1 - acc_hidden)
    assert result["error_board"] == pytest.approx(1 - acc_boards)
    wrong = [i for i in range(40) if (recons[i] != drawn.boards[i]).any()]
    assert result["erroneous_boards"].tolist() == wrong
    assert 0 < len(wrong) < 40
    as_tensors = learnt.test_model_accuracy_subset(torch.tensor(drawn.boards), torch.tensor(masks, dtype=torch.bool))
    assert (as_tensors["boards_recons"] == recons).all()
    one = learnt.test_model_accuracy_subset(drawn.boards[0], masks[0])
    assert one["boards_recons"].shape == (1, 6, 6)
    assert (one["boards_recons"][0] == recons[0]).all()


@both
def test_wrong_boards_and_masks_are_named(kind):
    trainer = make(kind)
    right = np.zeros((2, 6, 6), int)
    for truth, masks, name in (
        (right[:, :5], right, "boards"), (right, right[:1], "masks"), (right, right[:, :, :4], "masks"),
        (right + 7, right, "boards"),
        (right - 1, right, "boards"), (np.zeros((1, 1, 6, 6), int), right, "boards"), (right[:0], right[:0], "boards"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name} must"):
            trainer.test_model_accuracy_subset(truth, masks)


@both
def test_many_boards_take_several_passes(kind, monkeypatch):
    trainer = make(kind)
    truth = trainer.dataset.get_n_training_boards(23)[0]
    masks = (np.random.default_rng(0).random(truth.shape) < 0.2).astype(int)
    at_once = trainer._reconstruct(truth, masks)
    monkeypatch.setattr(module_train_probe, "EVAL_BATCH", 5)
    for name, recons in trainer._reconstruct(truth, masks).items():
        assert (recons == at_once[name]).all()


@both
def test_evaluation_restores_every_module_s_mode(kind):
    trainer = make(kind, attn_pdrop=0.5)
    modules = list(trainer.transformer.modules())
    for i, module in enumerate(modules):
        module.training = i % 3 == 0
    modes = [module.training for module in modules]
    before = weights(trainer)
    trainer.test_model_accuracy(5, 0.2)
    trainer.test_model_accuracy_set("test", 0.2, count_max=3)
    trainer.test_model_accuracy_subset(np.zeros((6, 6), int), np.zeros((6, 6), int))
    assert [module.training for module in modules] == modes
    trainer.transformer.forward = None
    with pytest.raises(TypeError):
        trainer.test_model_accuracy(5, 0.2)
    assert [module.training for module in modules] == modes
    assert same(before, weights(trainer))
    assert not any(p.grad is not None for p in trainer.transformer.parameters())


@both
def test_evaluation_leaves_random_streams_and_data_set(kind):
    trainer = make(kind, attn_pdrop=0.5)
    noise = trainer.transformer.noise.keep(torch.zeros(3), 0.5)
    rng = copy.deepcopy(trainer.dataset.rng.bit_generator.state)
    trainer.transformer.noise.reseed(5)
    trainer.test_model_accuracy(5, 0.2, True)
    trainer.test_model_accuracy_set("test", 0.2)
    after = trainer.transformer.noise.keep(torch.zeros(3), 0.5)
    trainer.transformer.noise.reseed(5)
    assert torch.equal(trainer.transformer.noise.keep(torch.zeros(3), 0.5), after)
    assert noise.shape == (3,)
    assert trainer.dataset.rng.bit_generator.state == rng
    assert (trainer.dataset.set_type, trainer.dataset.board_types_proba) == ("train", boards().board_types_proba)


def test_verbose_prints_the_accuracies_and_else_nothing_is_printed(learnt, capsys):
    learnt.test_model_accuracy_set("test", 0.05)
    learnt.test_model_accuracy(5, 0.05)
    assert capsys.readouterr().out == ""
    result = learnt.test_model_accuracy_set("test", 0.05, verbose=True)
    out = capsys.readouterr().out
    for value in (result[0], result.acc_hidden, result[1], *result[5]):
        assert f"{100 * value:.1f}%" in out


@both
def test_erroneous_boards_are_shown(kind, tmp_path):
    trainer = make(kind, runs=tmp_path, run_name="r", plot_dpi=20)
    trainer.test_model_accuracy(5, 0.3, display_erroneous_boards=True)
    assert (tmp_path / "r" / "analysis" / "erroneous_boards.png").stat().st_size > 0


# recording


@both
def test_record_names_and_values(kind):
    trainer = make(kind, n_layer=2)
    tokens = torch.zeros(3, 36, dtype=int)
    with trainer.record() as acts, torch.no_grad():
        logits = trainer._predict(tokens)
    assert set(acts) == set(trainer.transformer.sites)
    assert not any(act.requires_grad for act in acts.values())
    passes = len(logits)
    assert torch.equal(acts["logit"], torch.cat(logits))
    assert acts["b1_selfAttn_a" if passes == 2 else "b1_a"].shape == (3 * passes, 2, 36, 36)
    pattern = "b*_mlp" if passes == 2 else "b*_mlp_update"
    with trainer.record(pattern) as acts:
        trainer._predict(tokens)
    assert set(acts) == {pattern.replace("*", i) for i in "01"}
    with trainer.record(["z_out", "b0_*Attn_v" if passes == 2 else "b0_v"]) as acts:
        trainer._predict(tokens)
        trainer._predict(tokens[:1])
    assert set(acts) == ({"z_out", "b0_v"} if passes == 1 else {"z_out", "b0_selfAttn_v", "b0_crossAttn_v"})
    assert acts["z_out"].shape == (4 * passes, 36, 8)
    assert acts["z_out"].grad_fn is None


@both
@pytest.mark.parametrize("names", ["nothing", ["z_out", "c*"], "B0_*", ""])
def test_record_refuses_names_that_match_nothing(kind, names):
    trainer = make(kind)
    with pytest.raises(ValueError, match="matches no activation"), trainer.record(names):
        pass
    assert not any(site.watched for site in trainer.transformer.sites.values())


def hook_counts(trainer):
    return [len(module._forward_hooks) for module in trainer.transformer.modules()]


@both
def test_hooks_go_away_and_foreign_ones_stay(kind):
    trainer = make(kind)
    seen = []
    handle = trainer.transformer.sites["z_out"].register_forward_hook(lambda site, args, out: seen.append(out.shape))
    before = hook_counts(trainer)
    tokens = torch.zeros(1, 36, dtype=int)
    with trainer.record() as acts:
        assert hook_counts(trainer) != before
        trainer._predict(tokens)
    assert hook_counts(trainer) == before
    assert len(acts) > 3
    for wrong in (torch.zeros(1, 35, dtype=int), torch.full((1, 36), 99)):
        with pytest.raises((ValueError, IndexError)), trainer.record():
            trainer._predict(wrong)
        assert hook_counts(trainer) == before
    seen.clear()
    trainer._predict(tokens)
    assert seen
    handle.remove()


@both
def test_recording_changes_no_result(kind):
    trainer = make(kind)
    tokens = torch.randint(6, (4, 36), generator=torch.Generator().manual_seed(0))
    trainer.transformer.eval()
    with torch.no_grad():
        before = trainer._predict(tokens)
        with trainer.record():
            during = trainer._predict(tokens)
    for a, b in zip(before, during, strict=True):
        if kind == "factor":
            assert torch.equal(a, b)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_nested_records():
    trainer = make()
    with trainer.record("z_out") as outer:
        with trainer.record("z_out") as inner:
            trainer._predict(torch.zeros(2, 36, dtype=int))
        trainer._predict(torch.zeros(1, 36, dtype=int))
    assert (len(outer["z_out"]), len(inner["z_out"])) == (3, 2)


# run folders

SPLITS = ("train", "test")
TESTED = ("acc_tokens", "acc_hidden", "acc_boards", "breakdown_0", "breakdown_1", "breakdown_2")
LOG = ["written", "epoch", "loss", "error", "nb_boards", "nb_boards_singleRoot", "nb_boards_doubleRoot",
       "nb_boards_composite", *(f"{split}_{name}" for split in SPLITS for name in TESTED)]
TESTED_LEA = ("token", "hidden", "board", "breakdown_single", "breakdown_double", "breakdown_composite")
LOG_LEA = ["written", "epoch", "loss_total", "loss_rfb", "loss_rfs", "loss_vq", "loss_speech", "avg_error_rfb",
           "avg_error_rfs", "vq_usage_entropy", "vq_perplexity", "words_used", "nb_boards_test",
           *(f"{split}_acc_{stream}_{name}" for split in SPLITS for stream in ("rfb", "rfs") for name in TESTED_LEA)]


@pytest.mark.parametrize("kind", ["factor", "lea"])
def test_run_folder(kind, tmp_path, figures):
    trainer = make(kind, runs=tmp_path / "runs", run_name="first", epochs=6, epoch2test=9, epoch2save=2, save_model=1,
                   plot_dpi=20)
    open_figures = pyplot.get_fignums()
    trainer.train()
    assert pyplot.get_fignums() == open_figures
    folder = tmp_path / "runs" / "first"
    assert trainer.folder == folder
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"params_training.json", "params_dataset.json", "run_log.pkl", "run_log.csv", "datasets/dataset.json",
            "datasets/dataset_roots.npy"} <= files
    assert (folder / "analysis").is_dir()
    assert {path.name for path in folder.glob("checkpoints/model_*")} == {f"model_{e}.pth" for e in (0, 2, 4, 5)}
    pictures = {"learning_curves", "reconstructions", *(() if kind == "factor" else ("codebook", "sentences"))}
    assert {path.stem for path in folder.glob("figures/*.png")} == pictures
    assert all(path.stat().st_size > 0 for path in folder.glob("figures/*"))

    with open(folder / "run_log.pkl", "rb") as file:
        arrays = pickle.load(file)
    with open(folder / "run_log.csv") as file:
        header, *rows = csv.reader(file)
    assert sorted(arrays) == sorted(header) == sorted(LOG if kind == "factor" else LOG_LEA)
    assert len(rows) == 6
    table = read_run_log(folder / "run_log.csv")
    for name, values in arrays.items():
        assert values.shape == (6,)
        np.testing.assert_array_equal(values, table[name])
        assert not np.isnan(values[[0, 5]]).any(), name
        if "acc_" in name or "breakdown" in name or name.startswith("nb_boards"):
            assert np.isnan(values[1:5]).all(), name
        else:
            assert not np.isnan(values).any(), name
    assert arrays["written"].tolist() == [1, 0, 0, 0, 0, 1]
    assert arrays["epoch"].tolist() == list(range(6))
    np.testing.assert_array_equal(arrays[header[2]], trainer.log.arrays[header[2]])


def test_counts_of_tested_boards():
    trainer = make(dataset=boards(abs_n=5, card_test=7))
    trainer.train()
    row = {name: values[0] for name, values in trainer.log.arrays.items()}
    families = ("singleRoot", "doubleRoot", "singleComposite")
    sizes = [min(100, len(trainer.dataset.sets[f"{family}_test"])) for family in families]
    assert [row[f"nb_boards_{name}"] for name in ("singleRoot", "doubleRoot", "composite")] == sizes
    assert sizes == [35, 100, 14]
    assert row["nb_boards"] == 2 * (35 + 100 + 14)


def test_a_test_in_training_is_masked_twice_as_the_epoch_is(monkeypatch):
    trainer = make(masking_patch_epoch=1, masking_p=0.5, masking_patch_p=1.0, epoch2test=1)
    seen = []
    original = type(trainer.dataset).mask
    monkeypatch.setattr(type(trainer.dataset), "mask", lambda self, b, p, patch_p=0.0, *a: seen.append(
        (len(b), round(p, 3), patch_p)) or original(self, b, p, patch_p, *a))
    trainer.train()
    n = 2 * (12 + 36 + 8)
    assert seen == [(30, 0.01, 0.0), (n, 0.01, 0.0), (n, 0.01, 0.0), (30, 0.5, 1.0), (n, 0.5, 1.0), (n, 0.5, 1.0)]


@pytest.mark.parametrize("kind", ["factor", "lea"])
@pytest.mark.parametrize("values", [dict(bool_split=False), dict(card_test=0), dict(card_test=0, card_val=2)])
def test_without_test_boards_train_alone_is_tested(kind, values):
    trainer = make(kind, dataset=boards(**values))
    trainer.train()
    for name, column in trainer.log.arrays.items():
        if name.startswith("test_"):
            assert (column == -1).all(), name
        elif name.startswith("train_acc"):
            assert ((column >= 0) & (column <= 1)).all() or name.endswith("breakdown_composite"), name
    if kind == "factor":
        assert trainer.log.arrays["nb_boards"].tolist() == [600, 600]
    else:
        assert trainer.log.arrays["nb_boards_test"].tolist() == [0, 0]


@both
def test_no_run_name_no_file(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make(kind, save_model=1)
    trainer.train()
    trainer.test_model_accuracy(3, 0.2, display_erroneous_boards=True)
    assert list(tmp_path.iterdir()) == []
    assert trainer.log.arrays["written"].tolist() == [1, 1]


def test_save_model_0_saves_no_weights(tmp_path):
    make(runs=tmp_path, run_name="r", plot_dpi=20).train()
    assert list((tmp_path / "r" / "checkpoints").iterdir()) == []


def everything_in(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@both
def test_an_existing_run_is_never_written_over(kind, tmp_path):
    make(kind, runs=tmp_path, run_name="r", plot_dpi=20, save_model=1).train()
    before = everything_in(tmp_path)
    with pytest.raises(ValueError, match="run_name = 'r' must be new"):
        make(kind, runs=tmp_path, run_name="r", seed=5).train()
    assert everything_in(tmp_path) == before


@both
def test_from_run_rebuilds(kind, tmp_path):
    trainer = make(kind, runs=tmp_path, run_name="r", epochs=3, epoch2save=2, save_model=1, plot_dpi=20, dtype="float64")
    trainer.train()
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    trainer.folder.rename(moved)
    again = type(trainer).from_run(moved)
    assert type(again) is type(trainer)
    assert (again.epoch, again.run_name, again.folder) == (3, "renamed", moved)
    own = {name: again.params[name] for name in ("run_name", "runs", "device")}
    assert trainer.params | own == again.params
    tokens = torch.randint(6, (4, 36), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for a, b in zip(trainer._predict(tokens), again._predict(tokens), strict=True):
            assert a.dtype == torch.float64
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert same(weights(trainer), weights(again))
    assert (again.dataset.roots == trainer.dataset.roots).all()
    assert (np.asarray(again.dataset.sets["doubleRoot_test"]) == np.asarray(trainer.dataset.sets["doubleRoot_test"])).all()
    first = type(trainer).from_run(moved, "model_0.pth", device="cpu")
    assert first.epoch == 1
    assert not same(weights(first), weights(again))


@both
def test_params_files_load_back(kind, tmp_path):
    trainer = make(kind, runs=tmp_path, run_name="r", plot_dpi=20)
    trainer.train()
    training = read_json(trainer.folder / "params_training.json")
    dataset = AbstractionDataset(**read_json(trainer.folder / "params_dataset.json"))
    assert (dataset.roots == trainer.dataset.roots).all()
    again = KINDS[kind][0](dataset, **training | {"run_name": ""})
    assert {**again.params, "run_name": "r"} == training
    assert again.train().tolist() == trainer.log.arrays[trainer.loss_columns[0]].tolist()
    assert same(weights(again), weights(trainer))


@both
def test_damaged_run_folders_are_named(kind, tmp_path):
    cls = KINDS[kind][0]
    with pytest.raises(ValueError, match="params_training.json: cannot be read"):
        cls.from_run(tmp_path / "nowhere")
    trainer = make(kind, runs=tmp_path, run_name="r", plot_dpi=20)
    trainer.train()
    with pytest.raises(ValueError, match="no checkpoint"):
        cls.from_run(trainer.folder)
    with pytest.raises(ValueError, match="model_7.pth: cannot be read"):
        cls.from_run(trainer.folder, "model_7.pth")
    values = read_json(trainer.folder / "params_training.json")
    for text, name in (("{", "params_training.json"), (json.dumps(values | {"n_embd": "wide"}), "n_embd"),
                       (json.dumps(values | {"surprise": 1}), "surprise")):
        (trainer.folder / "params_training.json").write_text(text)
        with pytest.raises((ValueError, TypeError), match=name):
            cls.from_run(trainer.folder)


# resuming


@both
@pytest.mark.parametrize("average", [0, 0.5])
def test_a_resumed_run_is_as_if_never_stopped(kind, average, tmp_path):
    same_for_both = dict(runs=tmp_path, masking_patch_epoch=3, epoch2save=2, save_model=1, plot_dpi=20, resid_pdrop=0.1,
                         weight_average=average)
    make(kind, run_name="whole", epochs=5, **same_for_both).train()
    make(kind, run_name="parts", epochs=3, **same_for_both).train()
    resumed = KINDS[kind][0].resume(tmp_path / "parts", epochs=5)
    assert resumed.epoch == 3
    assert len(resumed.train()) == 2
    last = "checkpoints/model_4.pth"
    wanted, found = (torch.load(tmp_path / name / last, weights_only=True) for name in ("whole", "parts"))
    assert same(wanted, found)
    whole, parts = (read_run_log(tmp_path / name / "run_log.csv") for name in ("whole", "parts"))
    assert whole["epoch"].tolist() == parts["epoch"].tolist() == [0, 1, 2, 3, 4]
    for name in resumed.loss_columns:
        np.testing.assert_array_equal(whole[name], parts[name])


def test_resume_refuses_what_cannot_change(tmp_path):
    make(runs=tmp_path, run_name="r", save_model=1, plot_dpi=20).train()
    for changed in (dict(n_embd=16), dict(seed=7), dict(batch_size=3), dict(learning_rate=0.1)):
        with pytest.raises(ValueError, match=next(iter(changed))):
            TrainTransformer.resume(tmp_path / "r", **changed)
    make(runs=tmp_path, run_name="unsaved", plot_dpi=20).train()
    with pytest.raises(ValueError, match="nothing to resume"):
        TrainTransformer.resume(tmp_path / "unsaved")


def test_a_signal_ends_training_with_a_state_to_resume(tmp_path, monkeypatch):
    trainer = make(runs=tmp_path, run_name="r", save_model=1, epochs=4, plot_dpi=20, epoch2test=100)
    original = trainer._loss

    def loss(masked, truth, epoch):
        if epoch == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(masked, truth, epoch)

    monkeypatch.setattr(trainer, "_loss", loss)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStopped, match="SIGTERM in epoch 2; resume with --resume") as stopped:
        trainer.train()
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert trainer.epoch == 2
    resumed = TrainTransformer.resume(tmp_path / "r")
    resumed.train()
    whole = make(epochs=4, epoch2test=100)
    whole.train()
    assert same(weights(resumed), weights(whole))


# weights of other programs


def golden_state(golden, name):
    z = np.load(golden / name)
    state = {name.removeprefix("init."): torch.tensor(z[name]) for name in z.files if name.startswith("init.")}
    return z, json.loads(str(z["config"])), state


def test_load_transformer_reads_the_official_layout(golden, tmp_path):
    z, config, state = golden_state(golden, "factor.npz")
    sizes = {name: config[name] for name in ("n_layer", "n_head", "n_embd", "n_embd_pos")}
    for dtype, rtol in (("float64", 1e-9), ("float32", 2e-3)):
        trainer = TrainTransformer(AbstractionDataset(seed=0), **sizes, dtype=dtype, device="cpu")
        for content in (state, {name: value for name, value in state.items() if not name.endswith("mask")}):
            torch.save(content, tmp_path / "model.pth")
            trainer.load_transformer(tmp_path / "model.pth")
            assert {value.dtype for value in weights(trainer).values()} == {getattr(torch, dtype)}
            with torch.no_grad():
                logits = trainer.transformer(torch.tensor(z["x"]))
            np.testing.assert_allclose(logits.numpy(), z["logits"], rtol=rtol, atol=1e-4 if dtype == "float32" else 1e-11)


@both
def test_checkpoints_are_plain_state_dicts(kind, tmp_path):
    trainer = make(kind)
    trainer.train()
    trainer.save_checkpoint(tmp_path / "new" / "model.pth")
    state = torch.load(tmp_path / "new" / "model.pth", weights_only=True)
    assert same(state, weights(trainer))
    other = make(kind, seed=9)
    other.load_transformer(str(tmp_path / "new" / "model.pth"))
    assert same(weights(other), weights(trainer))


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@both
def test_damaged_weights_are_refused_by_name(kind, tmp_path):
    trainer = make(kind)
    before = weights(trainer)
    path = tmp_path / "model.pth"
    torch.save(before, path)
    whole = path.read_bytes()
    contents = {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"weights"}
    wrong = {
        "code": {"head.weight": Trap(tmp_path / "sprung")}, "list": [1, 2], "nothing": {}, "tensor": torch.ones(3),
        "wrong shapes": weights(make(kind, n_embd=16)), "other depth": weights(make(kind, n_layer=2)),
    }  # fmt: skip
    for what, value in wrong.items():
        torch.save(value, path)
        contents[what] = path.read_bytes()
    for what, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match="model.pth: "):
            pytest.fail(f"{what} was loaded as {trainer.load_transformer(path)}")
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ValueError, match="missing.pth: cannot be read"):
        trainer.load_transformer(tmp_path / "missing.pth")
    assert same(before, weights(trainer))


# reports


@both
def test_train_reports_and_nothing_else_prints(kind, capsys):
    trainer = make(kind, epochs=4, epoch2print=3, epoch2test=2)
    trainer.test_model_accuracy(3, 0.1)
    assert capsys.readouterr().out == ""
    trainer.train()
    out = capsys.readouterr().out
    reported = [line.split(":")[0] for line in out.splitlines() if line.startswith("epoch ")]
    assert reported == ["epoch 0", "epoch 2", "epoch 3"]
    assert "hidden" in out


def test_wandb_gets_the_log_s_names(monkeypatch, figures):
    logged = []

    class Wandb:
        Image = staticmethod(lambda figure: f"picture {type(figure).__name__}")

        @staticmethod
        def log(row, step):
            logged.append((step, row))

    monkeypatch.setitem(__import__("sys").modules, "wandb", Wandb)
    trainer = make(epochs=3, epoch2test=2)
    trainer.train(bool_wandb=True)
    assert [step for step, _ in logged] == [4, 8, 12]
    assert set(logged[0][1]) == {*LOG, "learning_curves", "reconstructions"}
    assert set(logged[1][1]) == {"written", "epoch", "loss", "error"}
    for _, row in logged:
        assert row["loss"] == trainer.log.arrays["loss"][row["epoch"]]
    assert logged[0][1]["reconstructions"] == "picture Figure"
