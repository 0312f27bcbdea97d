"""What a run leaves: its folder, states to resume from, weights, reports. What both wrappers share is tested on both."""
import csv
import json
import math
import pickle
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import pyplot

from module_dataset import AbstractionDataset
from module_train_probe import TrainingStopped, TrainTransformer
from parts.files import read_json
from parts.training.run import read_run_log
from tests.faults import Trap, same
from tests.trainers import KINDS, boards, both, make, weights

pytestmark = pytest.mark.usefixtures("no_pictures")
both_wrappers = pytest.mark.parametrize("kind", ["factor", "lea"])


# run folders

SPLITS = ("train", "test")
TESTED = ("acc_tokens", "acc_hidden", "acc_boards", "breakdown_0", "breakdown_1", "breakdown_2")
LOG = ["written", "epoch", "loss", "loss_mean", "error", "grad_norm", "nb_boards", "nb_boards_singleRoot", "nb_boards_doubleRoot",
       "nb_boards_composite", *(f"{split}_{name}" for split in SPLITS for name in TESTED)]
TESTED_LEA = ("token", "hidden", "board", "breakdown_single", "breakdown_double", "breakdown_composite")
LOG_LEA = ["written", "epoch", "loss_total", "loss_mean", "loss_rfb", "loss_rfs", "loss_vq", "loss_speech", "avg_error_rfb",
           "avg_error_rfs", "vq_usage_entropy", "vq_perplexity", "words_used", "grad_norm", "nb_boards_test",
           *(f"{split}_acc_{stream}_{name}" for split in SPLITS for stream in ("rfb", "rfs") for name in TESTED_LEA)]


@both_wrappers
def test_run_folder(kind, tmp_path, figures):
    trainer = make(kind, runs=tmp_path / "runs", run_name="first", epochs=6, epoch2test=9, epoch2save=2, save_model=1,
                   plot_dpi=20)
    open_figures, drawn = pyplot.get_fignums(), trainer._figures
    trainer._figures = lambda epoch: drawn(epoch) if epoch == 5 else {}  # each drawing takes seconds
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
        np.testing.assert_array_equal(values, table[name])  # NaN only where no test was due
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


def test_a_test_in_training_is_masked_twice_as_the_recipe_ends(monkeypatch):
    trainer = make(masking_patch_epoch=1, masking_p=0.5, masking_patch_p=1.0, epoch2test=1)
    seen = []
    original = type(trainer.dataset).mask
    monkeypatch.setattr(type(trainer.dataset), "mask", lambda self, b, p, patch_p=0.0, *a: seen.append(
        (len(b), round(p, 3), patch_p)) or original(self, b, p, patch_p, *a))
    trainer.train()
    n = 2 * (12 + 36 + 8)
    assert seen == [(30, 0.01, 0.0), (n, 0.5, 1.0), (n, 0.5, 1.0), (30, 0.5, 1.0), (n, 0.5, 1.0), (n, 0.5, 1.0)]


@both_wrappers
@pytest.mark.parametrize("values", [dict(bool_split=False), dict(card_test=0), dict(card_test=0, card_val=2)])
def test_without_test_boards_train_alone_is_tested(kind, values, tmp_path):
    """Blank in the CSV, -1 in the .pkl."""
    trainer = make(kind, dataset=boards(**values), runs=tmp_path, run_name="r")
    trainer.train()
    table, arrays = read_run_log(tmp_path / "r" / "run_log.csv"), pickle.loads((tmp_path / "r" / "run_log.pkl").read_bytes())
    for name, column in trainer.log.arrays.items():
        np.testing.assert_array_equal(table[name], column)
        if name.startswith("test_"):
            assert np.isnan(column).all(), name
            assert (arrays[name] == -1).all(), name
        elif name.startswith("train_acc"):
            assert ((column >= 0) & (column <= 1)).all() or name.endswith("breakdown_composite"), name
    if kind == "factor":
        assert trainer.log.arrays["nb_boards"].tolist() == [600, 600]
    else:
        assert trainer.log.arrays["nb_boards_test"].tolist() == [0, 0]


# comparable logs


@both
def test_an_unchanged_network_has_the_same_test_at_all_epochs(kind):
    """Before, during and after the ramps of masking and of the curriculum."""
    trainer = make(kind, dataset=boards(card_val=2, abs_n=5), learning_rate=0, epochs=6, epoch2test=1, masking_patch_epoch=3,
                   board_proba_epoch_start=1, board_proba_epoch_end=5, **({"vq_type": "vanilla"} if kind == "lea" else {}))
    trainer.train()
    tested = {name: column for name, column in trainer.log.arrays.items() if "_acc_" in name or "_breakdown_" in name}
    assert {name.split("_")[0] for name in tested} == {"train", "test", "val"}
    for name, column in tested.items():
        assert len(set(column.tolist())) == 1 or np.isnan(column).all(), name
    assert 0 < tested[trainer.best_column][0] < 1


@pytest.mark.parametrize("kind", ["factor", "lea vanilla"])  # words of moving averages move whatever the learning rate
def test_loss_mean_depends_on_no_batch_size(kind):
    """30 boards: batches of 8, 8, 8 and 6; of 7, 7, 7, 7 and 2; and one of 30, where the sum over steps is the mean."""
    trainers = [make(kind, learning_rate=0, dtype="float64", batch_size=size) for size in (30, 8, 7)]
    for trainer in trainers:
        trainer.train()
    wanted = trainers[0].log.arrays[trainers[0].loss_columns[0]]
    for trainer in trainers:
        np.testing.assert_allclose(trainer.log.arrays["loss_mean"], wanted, rtol=1e-12)


@both
def test_the_gradient_s_norm_is_logged_and_clipped(kind):
    """One step of plain gradient descent: the weights move by the learning rate times the clipped gradient."""
    norms = {}
    for clip in (0, 1e6, 0.01):
        trainer = make(kind, epochs=1, batch_size=30, dtype="float64", grad_clip=clip)
        trainer.optim = torch.optim.SGD(trainer.transformer.parameters(), lr=0.5)
        before = torch.nn.utils.parameters_to_vector(trainer.transformer.parameters()).detach().clone()
        trainer.train()
        moved = torch.nn.utils.parameters_to_vector(trainer.transformer.parameters()).detach() - before
        [norms[clip]] = trainer.log.arrays["grad_norm"]
        expected = min(norms[clip], clip or math.inf)
        np.testing.assert_allclose(moved.norm() / trainer.learning_rate, expected, rtol=1e-3)
    assert norms[0] == norms[1e6] == norms[0.01] > 0.01


def test_a_run_starts_from_the_weights_of_a_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = make(save_model=True, run_name="first", runs="runs", learning_rate=0.1)
    first.train()
    path = "runs/first/checkpoints/model_1.pth"
    capsys.readouterr()
    second = make(seed=2, init_from=path, save_model=True, run_name="second", runs="runs")
    assert same(weights(second), weights(first))
    assert (second.epoch, second.step, second.optim.state_dict()["state"]) == (0, 0, {})
    second.train()
    assert f"note: weights start from {path}; epochs, ramps and optimiser start anew.\n" in capsys.readouterr().out
    (tmp_path / path).unlink()  # a run needs it no longer
    assert same(weights(TrainTransformer.from_run("runs/second", device="cpu")), weights(second))
    resumed = TrainTransformer.resume("runs/second", epochs=3)
    assert (resumed.epoch, resumed.init_from) == (2, path)
    with pytest.raises(ValueError, match="^init_from must be a file, not .*model_1.pth'"):
        make(init_from=path)
    with pytest.raises(ValueError, match="is not a state dict of this network"):
        make(n_embd=4, init_from="runs/second/checkpoints/model_1.pth")


@both_wrappers
def test_val_boards_have_columns_and_name_the_best_epoch(kind, tmp_path):
    trainer = make(kind, dataset=boards(card_val=2, abs_n=5), epochs=5, epoch2test=1, epoch2save=2, learning_rate=0.03, save_model=True,
                   runs=tmp_path, run_name="r", masking_patch_epoch=2)
    trainer.train()
    values = trainer.log.arrays[trainer.best_column]
    best = int(values.argmax())
    assert trainer.best_column == {"factor": "val_acc_hidden"}.get(kind, "val_acc_rfb_hidden")
    again = type(trainer).from_run(tmp_path / "r", "model_best.pth", device="cpu")
    assert again.epoch == best + 1
    assert again.test()[trainer.best_column] == values[best]
    assert type(trainer).from_run(tmp_path / "r", device="cpu").epoch == 5


def test_without_val_boards_no_epoch_is_the_best(tmp_path):
    make(save_model=True, runs=tmp_path, run_name="r").train()
    assert not (tmp_path / "r" / "checkpoints" / "model_best.pth").exists()


def test_a_log_without_the_columns_of_today_is_continued(tmp_path):
    trainer = make(epochs=3, save_model=True, runs=tmp_path, run_name="r")
    trainer.train()
    path = tmp_path / "r" / "run_log.csv"
    before = [line.split(",") for line in path.read_text().splitlines()]
    at = before[0].index("loss_mean")
    path.write_text("".join(",".join(cells[:at] + cells[at + 1 :]) + "\n" for cells in before))
    TrainTransformer.resume(tmp_path / "r", epochs=4).train()
    after = [line.split(",") for line in path.read_text().splitlines()]
    assert after[0] == before[0]
    assert [cells[at] for cells in after[1:4]] == ["", "", ""]
    assert float(after[4][at]) > 0
    assert [cells[:at] for cells in after[1:4]] == [cells[:at] for cells in before[1:4]]


@both_wrappers
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


@both_wrappers
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


def test_a_run_of_the_other_network_and_a_device_that_is_not_there_are_named(tmp_path):
    runs = {kind: make(kind, runs=tmp_path, run_name=kind, save_model=True) for kind in ("factor", "lea")}
    for trainer in runs.values():
        trainer.train()
    with pytest.raises(ValueError, match="lea: is a run of LEA; .* of module_train_probe_lea, .* with train_model_lea.py"):
        type(runs["factor"]).from_run(runs["lea"].folder)
    with pytest.raises(ValueError, match="is a run of LEA"):
        type(runs["factor"]).resume(runs["lea"].folder)
    with pytest.raises(ValueError, match="factor: is a run of the factor network; .* of module_train_probe, .* with train_model.py"):
        type(runs["lea"]).from_run(runs["factor"].folder)
    with pytest.raises(ValueError, match="^device must be"):
        type(runs["lea"]).from_run(runs["lea"].folder, device="tpu")


@both_wrappers
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


@both_wrappers
def test_damaged_run_folders_are_named(kind, tmp_path):
    cls = KINDS[kind][0]
    with pytest.raises(ValueError, match="params_training.json: cannot be read"):
        cls.from_run(tmp_path / "nowhere")
    trainer = make(kind, runs=tmp_path, run_name="r", plot_dpi=20)
    trainer.train()
    with pytest.raises(ValueError, match="no checkpoint"):
        cls.from_run(trainer.folder)
    with pytest.raises(ValueError, match="model_7.pth: is missing; r has no checkpoints"):
        cls.from_run(trainer.folder, "model_7.pth")
    values = read_json(trainer.folder / "params_training.json")
    for text, name in (("{", "params_training.json"), (json.dumps(values | {"n_embd": "wide"}), "n_embd"),
                       (json.dumps(values | {"surprise": 1}), "surprise")):
        (trainer.folder / "params_training.json").write_text(text)
        with pytest.raises((ValueError, TypeError), match=name):
            cls.from_run(trainer.folder)


# resuming


@both
def test_a_resumed_run_is_as_if_never_stopped(kind, tmp_path):
    same_for_both = dict(runs=tmp_path, masking_patch_epoch=3, epoch2save=2, save_model=1, plot_dpi=20, resid_pdrop=0.1)
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
    original = trainer.loss

    def loss(masked, truth, epoch):
        if epoch == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(masked, truth, epoch)

    monkeypatch.setattr(trainer, "loss", loss)
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


@both_wrappers
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
        run = None
        Image = staticmethod(lambda figure: f"picture {type(figure).__name__}")

        @staticmethod
        def log(row, step):
            logged.append((step, row))

    monkeypatch.setitem(__import__("sys").modules, "wandb", Wandb)
    trainer = make(epochs=3, epoch2test=2)
    with pytest.raises(ValueError, match="^bool_wandb = True needs an active run"):
        trainer.train(bool_wandb=True)
    assert trainer.epoch == 0
    Wandb.run = SimpleNamespace(step=0)
    trainer.train(bool_wandb=True)
    assert [step for step, _ in logged] == [4, 8, 12]
    assert set(logged[0][1]) == {*LOG, "learning_curves", "reconstructions"}
    assert set(logged[1][1]) == {"written", "epoch", "loss", "loss_mean", "error", "grad_norm"}
    for _, row in logged:
        assert row["loss"] == trainer.log.arrays["loss"][row["epoch"]]
    assert logged[0][1]["reconstructions"] == "picture Figure"
    Wandb.run.step = 12
    second = make(epochs=3)
    with pytest.raises(ValueError, match="the active one is at step 12, this trainer at 0; call wandb.init"):
        second.train(bool_wandb=True)
    assert (second.epoch, len(logged)) == (0, 3)
    trainer.epochs = 4  # the trainer that the run of wandb belongs to goes on
    trainer.train(bool_wandb=True)
    assert logged[-1][0] == 16


def test_other_names_of_a_run_and_of_its_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path)), monkeypatch.setenv("USERPROFILE", str(tmp_path))
    trainer = make(runs="~/runs", run_name="r", save_model=True, save_epochs=[0], device=torch.device("cpu"))
    trainer.train()
    assert (tmp_path / "runs" / "r" / "run_log.csv").exists()
    assert (trainer.runs, trainer.params["device"]) == (str(tmp_path / "runs"), "cpu")
    (tmp_path / "copy").write_bytes((tmp_path / "runs/r/checkpoints/model_0.pth").read_bytes())
    for name in (0, np.int64(0), "model_0", "model_0.pth", "~/copy", tmp_path / "copy"):
        found = TrainTransformer.from_run("~/runs/r", name, torch.device("cpu"))
        assert same(weights(found), torch.load(tmp_path / "copy"))
    for name in (7, "model_7", "model_7.pth"):
        with pytest.raises(ValueError, match=r"model_7(\.pth)?: is missing; r has model_0.pth, model_1.pth\.$"):
            TrainTransformer.from_run("~/runs/r", name)
    with pytest.raises(ValueError, match="^device must be"):
        TrainTransformer.from_run("~/runs/r", device="gpu")
    trainer.save_checkpoint("~/mine.pth")
    make().load_transformer("~/mine.pth")
    assert TrainTransformer.resume("~/runs/r", epochs=3).epoch == 2


def test_weights_loaded_into_a_trained_trainer_are_a_warning(tmp_path):
    trainer = make()
    trainer.save_checkpoint(tmp_path / "first.pth")
    trainer.load_transformer(tmp_path / "first.pth")
    trainer.train()
    with pytest.warns(UserWarning, match="epoch 2 and the optimiser's moments stay .* init_from"):
        trainer.load_transformer(tmp_path / "first.pth")


@both
def test_the_defaults_of_torch_change_no_weight(kind):
    wanted = weights(make(kind))
    torch.set_default_dtype(torch.float64), torch.set_default_device("meta")
    try:
        found = weights(make(kind))
    finally:
        torch.set_default_dtype(torch.float32), torch.set_default_device(None)
    assert same(found, wanted)
