"""What people bring along: wrapped networks and their files, other arithmetic, workers that load data, their own settings
of matplotlib and of warnings."""
import itertools
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from trainers import KINDS, SMALL_BOARDS, boards, both, make, weights

import train_model
from module_dataset import AbstractionDataset
from parts.boards.objects import alike
from parts.probing.evaluation import evaluating
from parts.probing.panels import own_style
from parts.training.learner import plain_names
from utils import caution, torch_rng

ROOT = Path(__file__).resolve().parent.parent


@both
def test_what_is_looked_at_is_in_eval_mode_and_looking_changes_nothing(kind, tmp_path, no_pictures):
    trainer = make(kind, save_model=True, runs=str(tmp_path), run_name="r", resid_pdrop=0.2)
    untrained = trainer.transformer.training
    trainer.train()
    opened = KINDS[kind][0].from_run(tmp_path / "r", device="cpu")
    assert (untrained, trainer.transformer.training, opened.transformer.training) == (False, False, False)
    before = weights(opened)
    tokens = torch.from_numpy(trainer.dataset.sample(8, "train", None, np.random.default_rng(0)).boards).flatten(1)
    with torch.no_grad():
        first = opened.transformer(tokens)
        for _ in range(5):
            opened.transformer(tokens)
        again = opened.transformer(tokens)
    for name, value in weights(opened).items():
        assert torch.equal(value, before[name]), name
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_an_exception_leaves_eval_mode(monkeypatch):
    trainer = make(epochs=2)
    monkeypatch.setattr(trainer.optim, "step", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert not trainer.transformer.training


@pytest.mark.parametrize("wrapped", [
    lambda state: {f"module.{name}": value for name, value in state.items()},
    lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    lambda state: {"model": {f"module._orig_mod.{name}": value for name, value in state.items()}},
    lambda state: {"state_dict": state},
])  # fmt: skip
@both
def test_state_dicts_of_wrapped_networks_load(kind, wrapped, tmp_path):
    one, other = make(kind), make(kind, seed=2)
    torch.save(wrapped(weights(one)), tmp_path / "model.pth")
    other.load_transformer(tmp_path / "model.pth")
    for name, value in weights(other).items():
        assert torch.equal(value, weights(one)[name]), name


def test_names_without_a_prefix_that_all_share_stay():
    for state in ({"module.a": 1, "b": 2}, {}, {"model": 1, "b": 2}, {1: 2}):
        assert plain_names(state) == state
    assert plain_names([1]) == [1]


def test_a_compiled_network_is_saved_under_plain_names(tmp_path):
    trainer = make()
    plain = weights(trainer)
    trainer.transformer = torch.compile(trainer.transformer, backend="eager")
    trainer.save_checkpoint(tmp_path / "model.pth")
    assert set(torch.load(tmp_path / "model.pth", weights_only=True)) == set(plain)


@pytest.mark.parametrize("kind", ["factor", "lea"])
def test_training_under_compile_is_that_without_and_recording_is_refused(kind, monkeypatch):
    """Two steps of equal batches and no test, LEA without random numbers: each shape and each break of the graph takes seconds."""
    found, more = [], {"resid_pdrop": 0.2} if kind == "factor" else {"vq_expire": 0}
    for compiled in (False, True):
        torch._dynamo.reset()
        trainer = make(kind, boards(dataset_len=16), epochs=1, **more)
        monkeypatch.setattr(trainer, "test", dict)
        if compiled:
            trainer.transformer.compile(backend="eager")
        found.append((trainer.train(), weights(trainer)))
    (losses, plain), (losses_compiled, compiled) = found
    np.testing.assert_allclose(losses_compiled, losses, rtol=1e-5)
    assert set(plain) == set(compiled)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4, msg=name)
    with pytest.raises(ValueError, match="compiled code ignores hooks"), trainer.record("b0_*"):
        pass


@both
def test_bfloat16_reaches_numpy_as_float32(kind):
    trainer = make(kind)
    shown = trainer.dataset.sample(4, "train", None, np.random.default_rng(0)).boards
    look = "forward_all_activations" if kind == "factor" else "forward_activations_fromBoard"
    exact = getattr(trainer, look)(shown, np.zeros_like(shown))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = getattr(trainer, look)(shown, np.zeros_like(shown))
    trainer.transformer.bfloat16()
    halved = getattr(trainer, look)(shown, np.zeros_like(shown))
    assert trainer.token_table.dtype == trainer.position_table.dtype == np.float32
    for found in (rough, halved):
        assert {array.dtype for array in found.values()} == {np.dtype("float32")}
        for name, array in found.items():
            np.testing.assert_allclose(array, exact[name], atol=0.1 * max(1, np.abs(exact[name]).max()), err_msg=name)


def test_generators_are_named_alike_by_numpy_numbers():
    assert torch_rng(3, 5).initial_seed() == torch_rng(np.int64(3), np.int64(5)).initial_seed() < 2**63


def test_what_workers_draw_is_fixed_by_the_loader_s_generator():
    def drawn():
        loader = DataLoader(boards(), 5, num_workers=2, generator=torch.Generator().manual_seed(7))
        return [[torch.as_tensor(batch[0]).tolist() for batch in loader] for _ in range(2)]

    first, again = drawn(), drawn()
    assert first == again
    assert first[0] != first[1]  # epochs differ


@pytest.mark.parametrize(("given", "message"), [
    (dict(comp_c=2), "composites of comp_c = 2 roots are double boards too"),
    (dict(comp_c=1), "composites of comp_c = 1 roots are single boards too"),
    (dict(abs_c=1, abs_n=10), "are shifts of each other"),
])  # fmt: skip
def test_held_out_pictures_that_training_draws_are_warned_of(given, message):
    with pytest.warns(UserWarning, match=f"some pictures held out may be drawn in training: .*{message}"):
        AbstractionDataset(**SMALL_BOARDS | given)


@pytest.mark.parametrize("given", [{}, dict(comp_c=2, board_types=["single", "composition"]), dict(comp_c=2, bool_split=False)])
def test_no_warning_where_pictures_stay_apart(given):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AbstractionDataset(**SMALL_BOARDS | given)
        AbstractionDataset(seed=0)


def test_roots_that_can_draw_one_picture_are_found():
    one, shifted, other = np.full((3, 3, 3, 2), -1)
    one[0, 0], one[1, 1] = [5, 6], [7, -1]
    shifted[1, 1], shifted[2, 2] = [6, 9], [7, -1]  # 6 and 7 are common to both
    other[0, 0], other[1, 1] = [5, 6], [8, -1]
    assert alike(np.stack([one, other, shifted])) == (0, 2)
    assert alike(np.stack([one, other])) is None
    assert alike(np.stack([shifted, other])) is None


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 2))
def test_roots_are_found_alike_where_comparing_all_shifts_of_all_pairs_finds_them(seed, d, m):
    rng = np.random.default_rng(seed)
    roots = np.where(rng.random((4, d, d, m)) < 0.5, rng.integers(3, size=(4, d, d, m)), -1)
    roots[:, rng.integers(d), rng.integers(d), 0] = rng.integers(3, size=4)  # none is empty

    def pictures(root):
        """All boards (2 d - 1, 2 d - 1) that show the root somewhere."""
        ways = [[token for token in cell if token >= 0] or [-1] for cell in root.reshape(-1, m)]
        for way, i, j in itertools.product(itertools.product(*ways), range(d), range(d)):
            board = np.full((2 * d - 1, 2 * d - 1), -1)
            board[i : i + d, j : j + d] = np.reshape(way, (d, d))
            yield board.tobytes()

    shown = [set(pictures(root)) for root in roots]
    shared = [(a, b) for a, b in itertools.combinations(range(4), 2) if shown[a] & shown[b]]
    assert alike(roots) in (shared or [None])


@pytest.mark.parametrize("name", ["roots", "compositions"])
def test_what_is_assigned_whole_is_not_written_into(name):
    dataset = boards()
    with pytest.raises(ValueError, match="read-only"):
        getattr(dataset, name)[0] = 999
    array = getattr(dataset, name).copy()
    setattr(dataset, name, array)
    array[0] = 999  # the caller's own
    assert (getattr(dataset, name) != 999).all()


SETTINGS = {"text.usetex": True, "font.family": ["NoSuchFont"], "image.origin": "lower", "figure.dpi": 7}


def test_pictures_of_a_run_are_the_same_under_a_user_s_settings(tmp_path, figures):
    def pictures(name):
        make(epochs=1, runs=str(tmp_path), run_name=name, plot_dpi=30).train()
        return {path.name: path.read_bytes() for path in (tmp_path / name / "figures").glob("*.png")}

    plain = pictures("plain")
    with matplotlib.rc_context(SETTINGS):
        assert pictures("theirs") == plain
        assert matplotlib.rcParams["text.usetex"]  # theirs again
    assert plain


def test_own_style_ends_with_its_block():
    with matplotlib.rc_context({"image.origin": "lower"}):
        with own_style():
            assert matplotlib.rcParams["image.origin"] == "upper"
        assert matplotlib.rcParams["image.origin"] == "lower"


def test_a_caution_is_a_warning_but_never_an_exception(capsys):
    with pytest.warns(UserWarning, match="mind the gap"):
        caution("mind the gap")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caution("mind the gap")
    assert capsys.readouterr().err == "warning: mind the gap\n"


def test_warnings_as_errors_do_not_end_a_resumed_run(tmp_path, capsys, no_pictures):
    make(save_model=True, runs=str(tmp_path), run_name="r", threads=None).train()
    newest = sorted((tmp_path / "r" / "checkpoints").glob("state_*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-50])
    with warnings.catch_warnings(action="error", category=UserWarning):
        train_model.main(["--resume", str(tmp_path / "r"), "--device", "cpu"])
    assert "passed over" in capsys.readouterr().err


def test_another_number_of_processes_is_a_warning(tmp_path, no_pictures):
    trainer = make(save_model=True, runs=str(tmp_path), run_name="r")
    trainer.train()
    state = trainer.state()
    with pytest.warns(UserWarning, match="trained by 2 processes, now by 1"):
        trainer._as_before(state | {"world": 2})


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_leaves_the_mode_as_it_was(training):
    network = make().transformer.train(training)
    with evaluating(network):
        assert not network.training
    assert network.training is training
