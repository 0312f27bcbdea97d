"""The explorer's JavaScript against torch and numpy, run by node."""
import copy
import functools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from module_dataset import AbstractionDataset
from parts.probing.sites import Edit, recording
from studies.claims.networks import untrained
from studies.claims.runs import proba_of
from studies.explorer import export, open_run
from studies.explorer.page import HERE, SCRIPTS
from tests.trainers import boards as small_boards
from tests.trainers import make
from utils import numpy_rng

ROOT = Path(__file__).resolve().parents[1]
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not on this machine")
PURE = SCRIPTS[:3]  # network, LEA, observer: no page needed
RUNS = ("pretrained/factor_best", "pretrained/lea")


@functools.cache
def opened(path):
    """The trainer of a run and its description."""
    trainer, name = open_run(ROOT / path)
    return trainer, export.run_data(trainer, name, path)


def in_node(folder, run, expected=(), **task):
    """What explorer_node.js prints of a task."""
    (folder / "scripts.js").write_text("\n".join((HERE / name).read_text() for name in PURE))
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "task.json").write_text(json.dumps(task))
    with open(folder / "expected.f64", "wb") as file:
        for array in expected:
            file.write(np.ascontiguousarray(array, np.float64).tobytes())
    script = Path(__file__).with_name("explorer_node.js")
    done = subprocess.run([NODE, script, folder], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def masked(trainer, boards, seed, p=0.3):
    """Boards (n, h, w) with cells hidden at random, as flat tokens (n, T)."""
    hidden = numpy_rng(seed).random(boards.shape) < p
    return np.where(hidden, trainer.masking_token, boards).reshape(len(boards), -1)


@torch.no_grad()
def by_torch(trainer, tokens):
    """Every named activation of tokens (n, T) in one pass, and of LEA the sentences and what they draw.

    In float64: the residual stream of factor_best reaches 600, where torch's float32 is itself 5e-4 away from that.
    """
    network, tokens = copy.deepcopy(trainer.transformer).eval().double(), torch.from_numpy(tokens)
    said = drawn = None
    with recording(network) as acts:
        if hasattr(network, "ss_blocks"):
            said = network.predict_sentence(tokens)
        else:
            network(tokens)
    if said is not None:
        drawn = network.predict_from_speech(said).argmax(-1).numpy()
    return {name: value.numpy() for name, value in acts.items()}, said, drawn


def compared(folder, trainer, run, tokens):
    """Node's result over tokens (n, T), after checking every named activation, the answers and the words."""
    acts, said, drawn = by_torch(trainer, tokens)
    names = [[name, int(np.prod(value.shape[1:]))] for name, value in acts.items()]
    expected = (value[i] for i in range(len(tokens)) for value in acts.values())
    result = in_node(folder, run, expected, what="parity", names=names, tokens=tokens.tolist())
    assert set(result["most"]) == set(trainer.transformer.sites)
    assert max(result["most"].values()) < 1e-4, result["most"]
    assert np.array_equal(result["answers"], acts["logit"].argmax(-1))
    if said is not None:
        assert np.array_equal([words for words, _ in result["said"]], said.numpy())
        assert np.array_equal([answer for _, answer in result["said"]], drawn)
    return result


@pytest.mark.parametrize("path", RUNS)
def test_activations_and_answers_of_every_held_out_board_are_those_of_torch(path, tmp_path):
    trainer, run = opened(path)
    assert run["weights"]["dtype"] == "float16"
    boards, _ = trainer.dataset.get_all_boards("test")
    compared(tmp_path, trainer, run, masked(trainer, boards[::4], 0))


SMALL_RUNS = {
    "12 x 12": ("factor", dict(board_dim=12), {}),
    "one head": ("factor", {}, dict(n_head=1)),
    "wide": ("factor", dict(vocab_bck=3, vocab_token=7), dict(n_layer=2, n_embd=6, n_embd_pos=3, n_head=2)),
    "lea": ("lea", {}, dict(n_layer=2)),
    "vanilla LEA": ("lea vanilla", {}, {}),
    "blank of zeros": ("lea", {}, dict(bool_blank_speech=True, slot_heads=1)),
    "no words yet": ("lea", {}, dict(vq_start_epoch=5)),
    "two words for a vector": ("lea", {}, dict(n_embd=8, vq_groups=2)),
}


@pytest.mark.parametrize("case", SMALL_RUNS)
def test_networks_of_other_sizes_and_kinds(case, tmp_path):
    kind, data, network = SMALL_RUNS[case]
    trainer = make(kind, small_boards(**data), **network)
    trainer.train()  # random weights would leave answers to rounding
    if case == "no words yet":
        trainer.transformer.ss_vector_quantizer.passing = True
    run = export.run_data(trainer, case)
    drawn = trainer.dataset.sample(10, "train", rng=numpy_rng(0)).boards
    tokens = masked(trainer, drawn, 1)
    if run["weights"]["dtype"] == "float16":  # compare with the weights that the page has
        halves = {name: value.half().to(value.dtype) for name, value in trainer.transformer.state_dict().items()}
        trainer.transformer.load_state_dict(halves)
    compared(tmp_path, trainer, run, tokens)


def test_untrained_network_is_that_of_the_runs_seed(tmp_path):
    small = [make("lea", seed=3, n_embd_pos=6), make("lea vanilla", seed=2**40)]
    for trainer, run in [opened(RUNS[0]), *((trainer, export.run_data(trainer, "run")) for trainer in small)]:
        drawn = in_node(tmp_path, run, what="untrained")
        expected = untrained(trainer).transformer.state_dict()
        assert len(drawn) > 30
        for name, values in drawn.items():
            assert np.abs(values - expected[name].numpy().ravel()).max() < 1e-7, name


DATA_SETS = {
    "default": {},
    "fuzzy": dict(abs_c=6, abs_w_c=2, abs_w_m=2, board_dim=7, comp_margin=0),
    "holes": dict(abs_c=5, comp_c=3),
    "no overlap": dict(allow_overlap=False, board_types=["single", "double"]),
    "uneven": dict(board_types_proba=[0.95, 0.05, 0]),
    "12 x 12": dict(board_dim=12, abs_n=4, vocab_token=5, comp_n=3),
}


@pytest.mark.parametrize("case", DATA_SETS)
def test_observer_is_that_of_python(case, tmp_path):
    data = AbstractionDataset(seed=3, dataset_len=10, **DATA_SETS[case])
    trainer = make("factor", data, n_embd=4)
    rng = numpy_rng(5)
    boards = data.sample(24, "train", rng=rng).boards
    hidden = rng.random(boards.shape) < np.linspace(0, 0.8, len(boards))[:, None, None]
    tokens = np.where(hidden, data.masking_token, boards)
    tokens[-1] = rng.integers(data.masking_token, size=tokens[-1].shape)  # no board of the data set
    answers = in_node(tmp_path, dict(data=export.dataset_data(trainer)), what="observer",
                      tokens=tokens.reshape(len(tokens), -1).tolist())
    for board, answer in zip(tokens, answers, strict=True):
        expected = posterior(data, board, proba_of(trainer))
        if expected is None:
            assert answer.get("none")
        elif not answer.get("tooMany"):
            count, shares = expected
            assert answer["count"] == count
            assert np.abs(np.array(answer["shares"]).reshape(shares.shape) - shares).max() < 1e-9
    assert sum("count" in answer for answer in answers) > 15
    assert answers[-1].get("none")


def posterior(data, board, proba):
    """How many boards are possible, and the probabilities (T, V); None if there is no such board."""
    try:
        found = data.hypotheses(board, proba)
    except ValueError as error:
        assert "no board" in str(error)
        return None
    hidden = np.flatnonzero(board.ravel() == data.masking_token)
    shares = np.zeros((board.size, data.vocab_size))
    shares[np.arange(board.size), board.ravel()] = 1
    shares[hidden] = 0
    own = data.observer.pictures(found, hidden).marginals
    shares[hidden, : own.shape[1]] = own
    return data.best_reconstruction(board[None], proba).consistent[0], shares


def test_edits_are_those_of_torch(tmp_path):
    trainer, run = opened(RUNS[0])
    rng = numpy_rng(1)
    boards = trainer.dataset.get_all_boards("test", 3)[0][:4]
    tokens, cases, expected = masked(trainer, boards, 2), [], []
    sizes = {"b1_a": (2, 64, 64), "b0_v": (64, 64), "b2_attn_v": (64, 64), "b1_mlp_update": (64, 64), "z_out": (64, 64)}
    for k, (place, shape) in enumerate(sizes.items()):
        value, cells = rng.random(shape), rng.random(64) < 0.5
        head = 1 if trainer.transformer.sites[place].n_head else None
        part = value if head is None else value[1] if len(shape) == 3 else value[:, 32:]
        board = tokens[k % 4]
        cases.append(dict(tokens=board.tolist(), edits=[
            dict(name=place, value=value.ravel().tolist(), cells=cells.astype(int).tolist(), head=head)]))
        hidden = (board == trainer.masking_token).reshape(8, 8)
        acts = trainer.forward_all_activations(board.reshape(8, 8) * ~hidden, hidden.astype(int),
                                               edits={place: Edit(part, cells, head)})
        expected.append(acts["logit"].ravel())
    logits = in_node(tmp_path, run, what="edits", cases=cases)
    assert np.abs(np.array(logits) - expected).max() < 1e-4
