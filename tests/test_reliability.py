"""Runs that are killed, stopped, resumed, or short of disk and memory. `make stress` tries more of it."""
import contextlib
import errno
import functools
import json
import math
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import module_train_probe
import train_model
from module_train_probe_lea import LEAParams
from parts import files
from parts.files import load_tensors, read_json, save_tensors
from parts.training import run
from parts.training.run import CHANGEABLE, TrainingStopped, newest_states, read_run_log
from tests.faults import (
    CLASSES,
    Steps,
    contents,
    differences,
    exit_code,
    flags,
    fork,
    forked,
    make,
    nth,
    only,
    resume,
    same,
)

pytestmark = pytest.mark.usefixtures("no_pictures")
both = pytest.mark.parametrize("kind", ["factor", "lea"])


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function of a kind: the runs folder with the run 'r' that nothing interrupted, and the steps it took."""
    runs = tmp_path_factory.mktemp("whole")

    @functools.cache
    def of(kind):
        folder = runs / kind
        assert forked(kind, flags(kind, folder), runs / "out", lambda: Steps(log=runs / f"{kind}.steps").install()) == 0
        return folder / "r", (runs / f"{kind}.steps").read_text().splitlines()

    return of


# killed


KILLS = [("write .state_", 1), ("fsync .state_", 2), ("replace .state_", 1), ("replace .state_", -1), ("write .model_", 1),
         ("write run_log.csv", 3), ("unlink state_", 0), ("write .run_log.pkl", 0)]  # fmt: skip


# what writes files knows no network; of LEA's own state one kill at each kind of file is enough
@pytest.mark.parametrize(("kind", "step", "n"), [*(("factor", *kill) for kill in KILLS),
                                                 ("lea", "write .state_", 1), ("lea", "write run_log.csv", 3)])
def test_killed_and_resumed(kind, step, n, whole, tmp_path):
    wanted, steps = whole(kind)
    at = nth(steps, step, n)
    assert forked(kind, flags(kind, tmp_path), tmp_path / "out", lambda: Steps(at).install()) == -signal.SIGKILL
    code, text = resume(kind, tmp_path / "r")
    assert code == 0, text
    assert differences(tmp_path / "r", wanted) == []
    assert not list((tmp_path / "r").rglob("*.tmp"))


def test_killed_twice(whole, tmp_path):
    wanted, steps = whole("factor")
    assert forked("factor", flags("factor", tmp_path), tmp_path / "out", lambda: Steps(nth(steps, "write run_log.csv", 3)).install())
    argv = ["--resume", str(tmp_path / "r")]
    assert forked("factor", argv, tmp_path / "out", Steps(12).install) == -signal.SIGKILL
    assert resume("factor", tmp_path / "r")[0] == 0
    assert differences(tmp_path / "r", wanted) == []


def test_the_script_killed_by_another_process(tmp_path):
    running = fork("factor", flags("factor", tmp_path, epoch=2000, epoch2save=3, epoch2test=2000), tmp_path / "out")
    log = tmp_path / "r" / "run_log.csv"
    while not log.exists() or len(log.read_bytes().splitlines()) < 30:
        time.sleep(0.01)
    os.kill(running, signal.SIGKILL)
    assert exit_code(os.waitpid(running, 0)[1]) == -signal.SIGKILL
    trained = read_run_log(log, 30)
    resumed = module_train_probe.TrainTransformer.resume(tmp_path / "r")
    assert resumed.epoch >= 28
    plain = make(epochs=resumed.epoch + 1, epoch2test=2000, save_model=False)
    plain.train()
    assert trained["loss"][:29].tolist() == plain.log.arrays["loss"][:29].tolist()


def test_killed_before_anything_was_saved(whole, tmp_path):
    _, steps = whole("factor")
    argv = flags("factor", tmp_path)
    for at in (nth(steps, "write .params_training.json"), nth(steps, "write .state_0.pt"), nth(steps, "replace .run_log.csv")):
        assert forked("factor", argv, tmp_path / "out", Steps(at).install) == -signal.SIGKILL
        code, text = resume("factor", tmp_path / "r")
        assert code == 2
        assert "nothing to resume" in text
        assert "start it again" in text
    assert forked("factor", argv, tmp_path / "out") == 0
    assert differences(tmp_path / "r", whole("factor")[0]) == []


def test_rows_after_the_saved_state_are_cut(whole, tmp_path):
    wanted, steps = whole("factor")
    forked("factor", flags("factor", tmp_path), tmp_path / "out", Steps(nth(steps, "write run_log.csv", 3)).install)
    rows = (tmp_path / "r" / "run_log.csv").read_bytes()
    state = load_tensors(newest_states(tmp_path / "r")[0])
    assert rows.count(b"\n") == 1 + 3
    assert not rows.endswith(b"\n")  # the row of epoch 3 is half written
    trainer = module_train_probe.TrainTransformer.resume(tmp_path / "r")
    assert trainer.epoch == state["epoch"] == 3
    assert (tmp_path / "r" / "run_log.csv").read_bytes() == b"\n".join(rows.split(b"\n")[:4]) + b"\n"


# signals


@pytest.mark.parametrize(("kind", "which"), [("factor", signal.SIGTERM), ("factor", signal.SIGINT), ("lea", signal.SIGTERM)])
def test_a_signal_saves_and_says_how_to_resume(kind, which, whole, tmp_path):
    def later():
        original = CLASSES[kind].loss

        def loss(self, masked, boards, epoch):
            if epoch == 3:
                signal.raise_signal(which)
            return original(self, masked, boards, epoch)

        CLASSES[kind].loss = loss

    assert forked(kind, flags(kind, tmp_path), tmp_path / "out", later) == 128 + which
    line = (tmp_path / "out").read_text().splitlines()[-1]
    assert f"stopped by {which.name} in epoch 3; resume with --resume {tmp_path / 'r'}." in line
    assert "Traceback" not in (tmp_path / "out").read_text()
    assert newest_states(tmp_path / "r")[0].name == "state_3.pt"
    assert resume(kind, tmp_path / "r")[0] == 0
    assert differences(tmp_path / "r", whole(kind)[0]) == []


def test_a_signal_without_a_state(tmp_path):
    def later():
        CLASSES["factor"].loss = lambda *_: signal.raise_signal(signal.SIGINT)

    assert forked("factor", flags("factor", tmp_path, save=0), tmp_path / "out", later) == 130
    assert "stopped by SIGINT; nothing was saved." in (tmp_path / "out").read_text()


def test_ctrl_c_before_training_is_one_line(tmp_path):
    def later():
        def new_trainer(*_):
            raise KeyboardInterrupt

        train_model.new_trainer = new_trainer

    assert forked("factor", flags("factor", tmp_path), tmp_path / "out", later) == 130
    assert (tmp_path / "out").read_text().endswith(": stopped by SIGINT; nothing was saved.\n")
    assert (tmp_path / "out").read_text().count("\n") == 1


# resuming


@both
def test_n_and_n_are_2n(kind, tmp_path):
    runs = dict(runs=tmp_path, epoch2test=3, epoch2save=1)
    make(kind, run_name="whole", epochs=6, **runs).train()
    make(kind, run_name="r", epochs=3, **runs | {"epoch2test": 2}).train()  # tests epochs 0 and 2
    code, text = resume(kind, tmp_path / "r")
    assert code == 0
    assert "is finished, 3 epochs; a larger --epoch trains on" in text
    trainer = CLASSES[kind].resume(tmp_path / "r", epochs=6, epoch2test=3)
    assert len(trainer.train()) == 3
    a, b = (load_tensors(tmp_path / name / "checkpoints" / "state_6.pt") for name in ("r", "whole"))
    assert same(a, b)
    a, b = (read_run_log(tmp_path / name / "run_log.csv") for name in ("r", "whole"))
    for name in trainer.loss_columns:
        np.testing.assert_array_equal(a[name], b[name])


def test_nothing_to_resume(tmp_path):
    make(runs=tmp_path, run_name="r", epochs=1, save_model=False).train()
    code, text = resume("factor", tmp_path / "r")
    assert code == 2
    assert "nothing to resume" in text
    assert "--save 0" in text
    assert resume("factor", tmp_path / "nowhere")[0] == 2
    with pytest.raises(ValueError, match="params_training.json: cannot be read"):
        module_train_probe.TrainTransformer.resume(tmp_path / "nowhere")


ANOTHER_VALUE = dict(
    transformer_type="vanilla", vocab_size=9, block_size=9, masking_token=0, n_layer=2, n_head=1, n_embd=8, n_embd_pos=3,
    embd_pdrop=0.5, resid_pdrop=0.5, attn_pdrop=0.5, masking_p=0.5, masking_patch_epoch=9, masking_patch_p=0.9,
    board_curriculum=False, board_proba_epoch_start=1, board_proba_epoch_end=9999, board_proba_start=[1, 1, 1],
    board_proba_end=[1, 2, 3], recipe_epochs=3, learning_rate=0.5, lr_schedule="linear", lr_warmup=1, lr_decay_start=1,
    batch_size=2, optimizer="muon", weight_decay=0.5, betas=[0.5, 0.5], grad_clip=1, init_from="other.pth",
    save_model=False, run_name="other", dtype="float64", seed=5, runs="elsewhere", vocab_speech_size=9, block_speech_size=9,
    bool_blank_speech=True, vq_type="vanilla", vq_expire=0.5, slot_heads=1, vq_groups=2, vq_start_epoch=1, loss_rfs_epoch_start=1, loss_rfs_epoch_end=99, loss_rfs_val_start=0.5,
    loss_rfs_val_end=0.5, loss_speech_epoch_start=1, loss_speech_epoch_end=9999, loss_speech_val_start=0.5, loss_speech_val_end=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A LEA run of 3 of 4 epochs."""
    folder = tmp_path_factory.mktemp("stopped")
    argv = flags("lea", folder, epoch=4)
    assert forked("lea", argv, folder / "out", lambda: Steps(log=folder / "steps").install()) == 0
    at = nth((folder / "steps").read_text().splitlines(), "write run_log.csv", 3)
    (folder / "r").rename(folder / "finished")
    assert forked("lea", argv, folder / "out", Steps(at).install) == -signal.SIGKILL
    return folder / "r"


@pytest.mark.parametrize("name", [name for name in LEAParams.__dataclass_fields__ if name not in CHANGEABLE])
def test_a_changed_parameter_is_refused_by_name(name, stopped):
    before = contents(stopped)
    must = "be left out" if name == "recipe_epochs" else "stay as the run has it"
    with pytest.raises(ValueError, match=f"{name} = .* must {must}"):
        CLASSES["lea"].resume(stopped, **{name: ANOTHER_VALUE[name]})
    assert contents(stopped) == before


@pytest.mark.parametrize(("argv", "message"), [
    (["--n_embd", "8"], "n_embd = 8 must stay as the run has it, 4."), (["--board_dim", "8"], "board_dim = 8 must stay"),
    (["--data_seed", "3"], "seed = 3 must stay"), (["--board_types_proba", "1", "0", "0"], "board_types_proba"),
    (["--epoch", "2"], "epochs = 2 must be at least 3"), (["--data_seed", "x"], "--data_seed"),
])  # fmt: skip
def test_changed_flags_are_refused_by_name(argv, message, stopped):
    before = contents(stopped)
    code, text = resume("lea", stopped, *argv)
    assert code == 2
    assert message in text
    assert contents(stopped) == before


def test_what_may_change_and_what_stays_the_same_is_accepted(stopped):
    changed = dict(epochs=7, device="cpu", epoch2print=2, epoch2test=5, epoch2save=4, plot_dpi=30, save_epochs=[1, 3], threads=1)
    assert set(changed) == set(CHANGEABLE)
    trainer = CLASSES["lea"].resume(stopped, **changed, n_embd=4, board_proba_start=(0.95, 0.05, 0))
    assert {name: trainer.params[name] for name in changed} == changed
    assert read_json(stopped / "params_training.json") == trainer.params
    argv = flags("lea", stopped.parent, epoch=4) + ["--board_types_proba", "0.95", "0.05", "0", "--resume", str(stopped)]
    assert forked("lea", argv, stopped.parent / "out") == 0, (stopped.parent / "out").read_text()
    with pytest.raises(TypeError, match="'surprise' is not a parameter"):
        CLASSES["lea"].resume(stopped, surprise=1)


def test_a_run_that_lacks_a_parameter_is_refused_by_name(tmp_path):
    make(runs=tmp_path, run_name="r", epochs=1).train()
    code, text = resume("lea", tmp_path / "r")
    assert (code, text.count("\n")) == (2, 1)
    assert "params_training.json: lacks vocab_speech_size; the run is of another script or version." in text
    path = tmp_path / "r" / "params_training.json"
    params = read_json(path)
    del params["learning_rate"]
    files.write_json(path, params)
    before = contents(tmp_path / "r")
    with pytest.raises(ValueError, match="params_training.json: lacks learning_rate"):
        module_train_probe.TrainTransformer.resume(tmp_path / "r", learning_rate=1e-3)
    assert contents(tmp_path / "r") == before


OLDER = dict(weight_average=0, overlap_weight=1, product_way="linear", attention_way="fused")


@pytest.mark.parametrize(("older", "refused"), [
    (OLDER, None), (OLDER | {"lr_schedule": "linear"}, None), (OLDER | {"weight_average": 0.5}, "weight_average = 0.5"),
    (OLDER | {"overlap_weight": 3}, "overlap_weight = 3"), (OLDER | {"product_way": "convolution"}, "product_way = 'convolution'"),
    (OLDER | {"attention_way": "explicit"}, "attention_way = 'explicit'"), (OLDER | {"lr_schedule": "cosine"}, "lr_schedule = 'cosine'"),
    (dict(weight_average=0, overlap_weight=1), "product_way = 'convolution'"),
])  # fmt: skip
def test_an_older_run_opens_and_is_resumed_if_it_used_nothing_that_is_gone(older, refused, tmp_path):
    make(runs=tmp_path, run_name="r", epochs=1).train()
    path = tmp_path / "r" / "params_training.json"
    files.write_json(path, read_json(path) | older)
    assert CLASSES["factor"].from_run(tmp_path / "r", device="cpu").epoch == 1
    before = contents(tmp_path / "r")
    if refused is None:
        assert CLASSES["factor"].resume(tmp_path / "r", epochs=2).train().shape == (1,)
        return
    code, text = resume("factor", tmp_path / "r", "--epoch", "2")
    assert (code, text.count("\n")) == (2, 1)
    assert f"{refused} no longer exists; the run can be opened, but not resumed." in text
    assert contents(tmp_path / "r") == before


def test_the_place_of_a_run_is_that_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(runs="one", run_name="a", epochs=1).train()
    Path("one").rename("two")
    Path("two/a").rename("two/b")
    trainer = module_train_probe.TrainTransformer.resume("two/b", runs="./two", run_name="b", epochs=2)
    assert trainer.folder.resolve() == tmp_path / "two" / "b"
    trainer.train()
    for wrong in (dict(runs="one"), dict(run_name="a")):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} = .* must stay as the run has it"):
            module_train_probe.TrainTransformer.resume("two/b", **wrong)


def test_another_torch_or_number_of_threads_is_a_warning(tmp_path):
    make(runs=tmp_path, run_name="r", epochs=1).train()
    path = newest_states(tmp_path / "r")[0]
    state, threads = load_tensors(path), torch.get_num_threads()
    save_tensors(path, state | {"torch": "1.0.0", "threads": threads + 1})
    with pytest.warns() as found:
        trainer = module_train_probe.TrainTransformer.resume(tmp_path / "r", epochs=2)
    assert "trained with torch 1.0.0" in str(found[0].message)
    assert f"continues with its {threads + 1} threads, not {threads}" in str(found[1].message)
    used, original = [], trainer.loss
    trainer.loss = lambda *batch: used.append(torch.get_num_threads()) or original(*batch)
    trainer.train()
    assert set(used) == {threads + 1}
    assert torch.get_num_threads() == threads


def test_a_damaged_state_is_passed_over(whole, tmp_path):
    wanted, steps = whole("factor")
    forked("factor", flags("factor", tmp_path), tmp_path / "out", Steps(nth(steps, "write run_log.csv", -1)).install)
    newest, before = newest_states(tmp_path / "r")
    newest.write_bytes(newest.read_bytes()[:-100])
    code, text = resume("factor", tmp_path / "r")
    assert code == 0
    assert f"{newest}: is cut off, damaged" in text
    assert "passed over" in text
    assert "Warning" not in text  # nor the line of code
    assert differences(tmp_path / "r", wanted) == []
    assert newest.with_suffix(".pt.damaged").exists()


def test_all_states_damaged(tmp_path):
    make(runs=tmp_path, run_name="r", epochs=3).train()
    for path in newest_states(tmp_path / "r"):
        path.write_bytes(path.read_bytes()[:1000])
    before = contents(tmp_path / "r")
    with pytest.warns(UserWarning, match="passed over"), pytest.raises(ValueError, match="no saved state can be read"):
        module_train_probe.TrainTransformer.resume(tmp_path / "r")
    assert contents(tmp_path / "r") == before


def test_the_last_two_states_are_kept(tmp_path, monkeypatch):
    kept = []
    original = run.save_state
    monkeypatch.setattr(run, "save_state", lambda *args: (
        original(*args), kept.append([path.name for path in newest_states(args[0])])))  # fmt: skip
    make(runs=tmp_path, run_name="r").train()
    assert kept == [["state_0.pt"], ["state_1.pt", "state_0.pt"], ["state_3.pt", "state_1.pt"], ["state_5.pt", "state_3.pt"],
                    ["state_6.pt", "state_5.pt"]]


def test_a_state_at_least_every_five_minutes(tmp_path, monkeypatch):
    saved, clock = [], [0.0]
    monkeypatch.setattr(run, "save_state", lambda folder, epoch, state: saved.append(epoch))
    monkeypatch.setattr(run.time, "monotonic", lambda: clock[0])
    trainer = make(runs=tmp_path, run_name="r", epochs=12, epoch2save=1000, epoch2test=1000)
    original = trainer.loss
    monkeypatch.setattr(trainer, "loss", lambda *args: (clock.__setitem__(0, clock[0] + 40), original(*args))[1])
    trainer.train()  # 3 steps an epoch, 2 minutes
    assert saved == [0, 1, 4, 7, 10, 12]


# one run folder, two processes


def test_a_second_process_is_refused_and_a_killed_one_lets_go(tmp_path):
    output = tmp_path / "out"
    running = os.fork()
    if not running:
        try:
            CLASSES["factor"].loss = lambda *_: (Path(tmp_path / "ready").touch(), time.sleep(60))
            make(runs=tmp_path, run_name="r").train()
        finally:
            os._exit(0)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    before = contents(tmp_path / "r")
    assert forked("factor", flags("factor", tmp_path), output) == 2
    assert "already holds a run" in output.read_text()
    with pytest.raises(ValueError, match="another process is training in this run folder"):
        make(runs=tmp_path, run_name="r").start_run()
    code, text = resume("factor", tmp_path / "r")
    assert code == 2
    assert "another process is training in this run folder" in text
    assert contents(tmp_path / "r") == before
    os.kill(running, signal.SIGKILL)
    os.waitpid(running, 0)
    assert resume("factor", tmp_path / "r")[0] == 0


def test_a_trainer_notices_that_another_went_on(tmp_path):
    first = make(runs=tmp_path, run_name="r", epochs=2)
    first.train()
    module_train_probe.TrainTransformer.resume(tmp_path / "r", epochs=4).train()
    before, first.epochs = contents(tmp_path / "r"), 3
    with pytest.raises(ValueError, match="run_log.csv: holds 4 epochs, not the 2 of this trainer"):
        first.train()
    assert contents(tmp_path / "r") == before


# disk, memory, numbers


def stops(trainer, match) -> str:
    """The message of training that ends early, with its state to resume and no half-written file."""
    with pytest.raises(TrainingStopped, match=match) as found:
        trainer.train()
    assert not list(trainer.folder.rglob("*.tmp"))
    assert found.value.exit_code == 1
    return str(found.value)


@pytest.mark.parametrize("for_good", [True, False])
@pytest.mark.parametrize(("module", "name", "error"), [(os, "fsync", errno.EIO), (os, "replace", errno.ENOSPC),
                                                       (files, "open", errno.ENOSPC)])
def test_a_disk_that_fails_midway(module, name, error, for_good, tmp_path, monkeypatch):
    trainer = make(runs=tmp_path, run_name="r")
    original = getattr(module, name, open)
    failing = []

    def fails(*args, **kwargs):
        if trainer.epoch > 2 or (failing and for_good):
            failing.append(args)
            raise OSError(error, os.strerror(error), "the file")
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, fails, raising=False)
        message = stops(trainer, os.strerror(error))
    assert ("could not be saved again; resume with --resume" in message) == for_good
    assert newest_states(tmp_path / "r")[0].name == ("state_1.pt" if for_good else "state_2.pt")
    assert trainer.epoch == 2
    resumed = module_train_probe.TrainTransformer.resume(tmp_path / "r")
    resumed.train()
    assert same(resumed.state()["transformer"], uninterrupted()["transformer"])


@functools.cache
def uninterrupted() -> dict:
    trainer = make(save_model=False)
    trainer.train()
    return trainer.state()


@pytest.mark.parametrize("bytes_", [1050, 6000])  # less than the log's rows; less than a state
def test_files_that_cannot_grow(bytes_, tmp_path):
    def full():
        original = CLASSES["factor"].start_epoch

        def start_epoch(self, epoch):
            if epoch == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY))
            original(self, epoch)

        CLASSES["factor"].start_epoch = start_epoch

    output = tmp_path / "out"
    assert forked("factor", flags("factor", tmp_path, board_curriculum=0), output, full) == 1  # without a note, as it must fit too
    assert "No space left on device" in output.read_text() or "File too large" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert resume("factor", tmp_path / "r")[0] == 0
    found = load_tensors(tmp_path / "r" / "checkpoints" / "state_6.pt")
    plain = make(save_model=False, board_curriculum=False)
    plain.train()
    assert same(found["transformer"], plain.state()["transformer"])


@pytest.mark.parametrize("save", [0, 1])
def test_a_folder_that_becomes_read_only(save, tmp_path, monkeypatch):
    trainer = make(runs=tmp_path, run_name="r", save_model=save)
    original = trainer.start_epoch

    def start_epoch(epoch):
        if epoch == 1:
            def refuses(*args, **kwargs):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "r" / "run_log.csv"))

            patched.setattr(run, "open", refuses, raising=False)
            patched.setattr(files, "open", refuses, raising=False)
        original(epoch)

    monkeypatch.setattr(trainer, "start_epoch", start_epoch)
    with monkeypatch.context() as patched:
        message = stops(trainer, "run_log.csv: Permission denied")
    assert ("resume with --resume" if save else "nothing was saved") in message
    assert trainer.epoch == 1
    assert read_run_log(tmp_path / "r" / "run_log.csv")["epoch"].tolist() == [0]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for name, argv in (("file", []), ("file/runs", [])):
        output = tmp_path / "out"
        assert forked("factor", flags("factor", tmp_path / name) + argv, output) == 2
        assert "runs: " in output.read_text()
        assert "Traceback" not in output.read_text()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@both
def test_a_loss_that_is_not_finite(kind, bad, tmp_path, monkeypatch):
    trainer = make(kind, runs=tmp_path, run_name="r")
    original = trainer.loss
    state = []

    def loss(masked, boards, epoch):
        value, parts = original(masked, boards, epoch)
        if epoch == 2 and trainer.step == 2 * 3 + 1:
            state.append(trainer.epoch)
            value = value + bad
            parts[trainer.loss_columns[0]] = value.detach()
        return value, parts

    monkeypatch.setattr(trainer, "loss", loss)
    message = stops(trainer, f"the loss is {bad} at epoch 2, step 7, with learning_rate 0.001, batch_size 4, dtype float32, seed 0")
    newest = newest_states(tmp_path / "r")[0]
    assert message.endswith(f"the state before is kept in {newest}.")
    kept = load_tensors(newest)
    assert kept["epoch"] == trainer.epoch == 2
    assert same(kept["transformer"], dict(trainer.transformer.state_dict()))
    assert all(value.isfinite().all() for value in kept["transformer"].values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
    trainer = make(runs=tmp_path, run_name="r")
    original = trainer.optim.step

    def step():
        original()
        if trainer.step == 2 * 3 + 2:  # the last of epoch 2: no loss of that epoch shows it
            with torch.no_grad():
                trainer.transformer.head.weight[0, 0] = math.inf

    monkeypatch.setattr(trainer.optim, "step", step)
    stops(trainer, "weights are no longer finite at epoch 2, step 9")
    for path in newest_states(tmp_path / "r"):
        assert all(value.isfinite().all() for value in load_tensors(path)["transformer"].values())


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), MemoryError("Unable to allocate"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    RuntimeError("MPS backend out of memory"),
])  # fmt: skip
def test_too_little_memory_says_what_to_reduce(error, tmp_path, monkeypatch):
    trainer = make(runs=tmp_path, run_name="r")
    original = trainer.loss

    def loss(masked, boards, epoch):
        if epoch == 2:
            raise error
        return original(masked, boards, epoch)

    monkeypatch.setattr(trainer, "loss", loss)
    message = stops(trainer, "cpu is out of memory; reduce --batch, --n_embd, --n_layer or --board_dim")
    assert "resume with --resume" in message
    assert load_tensors(newest_states(tmp_path / "r")[0])["epoch"] == 2


def test_too_little_memory_for_the_network(tmp_path):
    def poor():
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**27, resource.RLIM_INFINITY))

    assert forked("factor", flags("factor", tmp_path, n_embd=4096), tmp_path / "out", poor) == 2
    assert "too little memory; reduce --n_embd" in (tmp_path / "out").read_text()
    assert not (tmp_path / "r").exists()


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    trainer = make(runs=tmp_path, run_name="r")
    monkeypatch.setattr(trainer, "loss", lambda *_: (_ for _ in ()).throw(RuntimeError("sizes do not match")))
    with pytest.raises(RuntimeError, match="^sizes do not match"):
        trainer.train()
    with contextlib.closing(run.lock(tmp_path / "r")):
        pass


def test_a_mistake_in_the_program_keeps_its_traceback(tmp_path):
    def later():
        CLASSES["factor"].loss = lambda *_: 1 + "a"

    assert forked("factor", flags("factor", tmp_path), tmp_path / "out", later) == 70
    text = (tmp_path / "out").read_text()
    assert "Traceback" in text
    assert text.endswith("while training epoch 0\n")


# random states


@both
def test_the_global_random_states_are_left_alone(kind, tmp_path, reseed):
    reseed(3)
    trainer = make(kind, runs=tmp_path, run_name="r", epochs=2, seed=None)
    trainer.train()
    resumed = CLASSES[kind].resume(tmp_path / "r", epochs=3)
    resumed.train()
    found = CLASSES[kind].from_run(tmp_path / "r", "model_1.pth", device="cpu")
    found.load_transformer(tmp_path / "r" / "checkpoints" / "model_1.pth")
    boards, _ = found.dataset.get_all_boards("test", 2)
    masks = np.zeros_like(boards)
    masks[:, 0] = 1
    found.test_model_accuracy(5, 0.2, True)
    found.test_model_accuracy_set("test", 0.2, count_max=2)
    found.test_model_accuracy_subset(boards, masks)
    found._mask_input(boards, 0.5, True, 0.5, True)
    if kind == "lea":
        found.forward_activations_fromBoard(boards, masks)
        found.speaker_predict_from_speech(found.speaker_predict(boards, masks)[2])
    else:
        found.forward_all_activations(boards, masks)
    found.dataset.export(tmp_path / "again")
    found.dataset.load(tmp_path / "again")
    next(iter(torch.utils.data.DataLoader(found.dataset, batch_size=3, generator=torch.Generator())))


@pytest.mark.parametrize("size", [dict(vocab_speech_size=10**6), dict(vocab_speech_size=10**5)])
def test_no_memory_for_more_words_than_any_network_saved_has(size, stopped):
    path = stopped / "params_training.json"
    changed = json.dumps(read_json(path) | size).encode()
    with only(path, changed), pytest.raises(ValueError, match="params_training.json: n_layer, n_embd and the other sizes are of"):
        CLASSES["lea"].resume(stopped)
