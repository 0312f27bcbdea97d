"""Masking, tests and recorded activations of trained networks. What both wrappers share is tested on both."""
import copy
import warnings

import numpy as np
import pytest
import torch

from module_train_probe import Accuracy
from parts.probing import evaluation
from tests.faults import same
from tests.trainers import boards, both, make, weights

pytestmark = pytest.mark.usefixtures("no_pictures")


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
    for n, error in ((0, ValueError), (2.5, TypeError), ("3", TypeError), (None, TypeError), (True, TypeError)):
        with pytest.raises(error, match="^nb_instances must"):
            make(kind).test_model_accuracy(n, 0.1)
        with pytest.raises(error, match="^masking_rounds must"):
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
    for truth, wrong in ((right + 7, "7"), (right - 1, "-1"), (right + 0.5, "0.5"), (right + np.nan, "nan")):
        with pytest.raises(ValueError, match=f"^boards must hold whole numbers from 0 to 6, not {wrong}"):
            trainer.test_model_accuracy_subset(truth, right)
    with pytest.raises(TypeError, match="^boards must be an array"):
        trainer.test_model_accuracy_subset([[1], [2, 3]], right)


@both
def test_many_boards_take_several_passes(kind, monkeypatch):
    trainer = make(kind)
    truth = trainer.dataset.get_n_training_boards(23)[0]
    masks = (np.random.default_rng(0).random(truth.shape) < 0.2).astype(int)
    at_once = trainer.reconstruct(truth, masks)
    monkeypatch.setattr(evaluation, "EVAL_BATCH", 5)
    for name, recons in trainer.reconstruct(truth, masks).items():
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


def filled_by_hand(trainer, board, mask):
    """A board (h, w) filled cell by cell, the surest first, one forward pass a cell."""
    tokens = np.where(mask, trainer.masking_token, board).ravel()
    hidden = list(np.flatnonzero(mask))
    while hidden:
        logits = trainer._predict(torch.tensor(tokens[None]))[0][0].detach()
        sure = logits.softmax(-1).amax(-1)[hidden]
        cell = hidden.pop(int(sure.argmax()))
        tokens[cell] = int(logits[cell].argmax())
    answer = trainer._predict(torch.tensor(tokens[None]))[0][0].argmax(-1).numpy()
    return np.where(mask.ravel(), tokens, answer).reshape(board.shape)


@both
def test_easy_first_fills_the_surest_cell_first(kind, monkeypatch):
    monkeypatch.setattr(evaluation, "EVAL_BATCH", 3)
    trainer = make(kind)
    trainer.transformer.eval()
    with torch.no_grad():
        for weight in trainer.transformer.parameters():
            weight.mul_(10)  # so that an answer depends on the other cells
    boards, _ = trainer.dataset.get_n_training_boards(20)
    masks = np.random.default_rng(0).random(boards.shape) < np.linspace(0, 0.9, 20)[:, None, None]
    name = next(iter(trainer.outputs))
    recons = trainer.reconstruct(boards, masks, "easy first")
    assert (recons[name] == [filled_by_hand(trainer, *one) for one in zip(boards, masks, strict=True)]).all()
    assert (recons[name][0] == trainer.reconstruct(boards, masks)[name][0]).all()  # nothing hidden, nothing to fill
    assert (recons[name] != trainer.reconstruct(boards, masks)[name]).any()
    subset = trainer.test_model_accuracy_subset(boards, masks.astype(int), decode="easy first")
    if kind == "factor":
        assert (subset["boards_recons"] == recons[name]).all()


def test_easy_first_passes_a_board_as_often_as_it_has_hidden_cells(monkeypatch):
    trainer = make()
    boards, _ = trainer.dataset.get_n_training_boards(12)
    masks = np.random.default_rng(0).random(boards.shape) < np.linspace(0, 0.9, 12)[:, None, None]
    passed, predict = [], trainer._predict
    monkeypatch.setattr(trainer, "_predict", lambda tokens: passed.append(len(tokens)) or predict(tokens))
    trainer.reconstruct(boards, masks, "easy first")
    assert sum(passed) == masks.sum() + len(boards)  # and once more when it is filled


def test_a_wrong_decode_is_named():
    trainer = make()
    boards, _ = trainer.dataset.get_n_training_boards(2)
    calls = (lambda: trainer.test_model_accuracy(2, 0.1, decode="greedy"),
             lambda: trainer.test_model_accuracy_set("test", 0.1, decode="easy"),
             lambda: trainer.test_model_accuracy_subset(boards, 0 * boards, decode=None))
    for call in calls:
        with pytest.raises(ValueError, match="decode must be one of one pass, easy first, not"):
            call()


def test_boards_are_copied_to_a_gpu_from_pinned_memory_without_waiting(monkeypatch):
    """Elsewhere nothing is pinned, which needs CUDA."""
    trainer, done = make(), []
    boards = np.arange(18).reshape(2, 3, 3)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tokens: done.append("pinned") or tokens)
    assert trainer.tokens(boards).tolist() == boards.reshape(2, 9).tolist()
    assert not done

    def copied(tokens, device, non_blocking=False):
        done.append((device.type, non_blocking))
        return tokens

    monkeypatch.setattr(torch.Tensor, "to", copied)
    trainer.device = torch.device("cuda")
    trainer.tokens(boards)
    assert done == ["pinned", ("cuda", True)]
