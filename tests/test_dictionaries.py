"""Dictionaries: planted ones are found and random latents are not, each row alone decides on its latents, measures
against hand-made latents, mistakes, the exported folder, the command."""
import csv
import functools
import json
import struct

import numpy as np
import pytest

from studies.claims.readouts import nearby
from studies.dictionaries import language, score, train_dictionary
from studies.dictionaries.cells import CHOOSE, FRESH, TEST, Cells, cells_of
from studies.dictionaries.effects import clamp, put_in
from studies.dictionaries.language import same_objects
from studies.dictionaries.scoring import LEFT_OUT, NONE, absorption, f1_of, mean_of, one_hot, read, recall_of
from studies.dictionaries.sources import Source, matching, near_one_hot, of_dictionary, stability
from studies.dictionaries.training import KINDS, Dictionary
from tests.commands import run_study
from tests.trainers import boards as small_boards
from tests.trainers import make

N, D, WIDTH, K = 8000, 32, 40, 3
SITE = "b0_z_attn_mlp"


@functools.cache
def planted():
    """(activations, labels, directions): each cell is the sum of a direction for its root and one for its background,
    and half of the cells have no root."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((20, D))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    root, background = rng.integers(-10, 10, N).clip(NONE), rng.integers(0, 10, N)
    x = directions[10 + background] * rng.uniform(0.7, 1.3, (N, 1)) + rng.standard_normal(D)
    x += np.where(root >= 0, 1, 0)[:, None] * directions[root] * rng.uniform(0.7, 1.3, (N, 1))
    x += 0.02 * rng.standard_normal((N, D))
    return x.astype(np.float32), {"root": root, "background": background}, directions


@functools.cache
def trained(kind, seed=0):
    steps = 800 if kind == "l1" else 250
    return train_dictionary(planted()[0], kind, WIDTH, K if kind == "topk" else 2, seed, steps)


def f1(latents, labels, measure="single", **more):
    rows = score(latents, labels, np.arange(len(latents)) % 2 == 0, measures=[measure], **more)
    return np.mean([row[measure] for row in rows])


@pytest.mark.parametrize("kind", KINDS)
def test_planted_directions_are_found(kind):
    x, labels, directions = planted()
    made = trained(kind)
    assert f1(made.encode(x), labels) > 0.9
    assert (directions @ made.W_dec.T).max(1).mean() > 0.9
    quality = made.quality(x)
    assert quality["explained"] > 0.9
    assert 1 < quality["L0"] <= (6 if kind == "l1" else 3.5)
    np.testing.assert_allclose(np.linalg.norm(made.W_dec, axis=1), 1, atol=1e-5)


def test_random_latents_are_not_found():
    _, labels, _ = planted()
    rng = np.random.default_rng(0)
    assert f1(rng.standard_normal((N, WIDTH)), labels) < 0.35
    shuffled = {name: rng.permutation(values) for name, values in labels.items()}
    for measure in ("single", "best 9", "precise", "probe of 5"):
        assert f1(trained("topk").encode(planted()[0]), shuffled, measure) < 0.35


def test_a_mean_explains_nothing_and_a_frozen_decoder_finds_less():
    x, labels, _ = planted()
    zero = Dictionary("topk", 1, np.zeros((D, 2), np.float32), np.zeros(2), np.zeros((2, D), np.float32), x.mean(0))
    assert abs(zero.quality(x)["explained"]) < 1e-6
    frozen = train_dictionary(x, "topk", WIDTH, K, 0, 250, frozen=True)
    assert f1(frozen.encode(x), labels) < f1(trained("topk").encode(x), labels) - 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_batch(kind):
    x, made = planted()[0][:50], trained(kind)
    alone = np.concatenate([made.encode(row[None]) for row in x])
    np.testing.assert_allclose(made.encode(x), alone, atol=1e-5)
    assert ((made.encode(x) > 0) == (alone > 0)).all()


def test_a_seed_gives_one_dictionary():
    x = planted()[0][:500]
    one, same, other = (train_dictionary(x, "batchtopk", 8, 2, seed, 20) for seed in (0, 0, 1))
    assert all(np.array_equal(getattr(one, name), getattr(same, name)) for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
    assert one.threshold == same.threshold
    assert not np.array_equal(one.W_enc, other.W_enc)


def test_dead_latents_are_revived():
    x = np.abs(planted()[0]) * 100 + 50
    assert train_dictionary(x, "topk", WIDTH, K, 0, 400).quality(x)["alive"] > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_export_has_the_shapes_of_a_saelens_folder(kind, tmp_path):
    made = trained(kind)
    made.save(tmp_path / "sae")
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert (config["d_in"], config["d_sae"]) == (D, WIDTH)
    assert config["architecture"] == {"topk": "topk", "l1": "standard"}.get(kind, "jumprelu")
    raw = (tmp_path / "sae" / "sae_weights.safetensors").read_bytes()
    [length] = struct.unpack("<Q", raw[:8])
    header, numbers = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    assert len(numbers) == max(entry["data_offsets"][1] for entry in header.values())
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        start, end = header[name]["data_offsets"]
        stored = np.frombuffer(numbers[start:end], "<f4").reshape(header[name]["shape"])
        assert np.array_equal(stored, getattr(made, name))
    assert ("threshold" in header) == (config["architecture"] == "jumprelu")


def test_scores_are_those_of_hand_made_latents():
    """A root split over two latents, of which each is precise: the union finds all of it, one half."""
    root = np.tile([0, 1, NONE, NONE], 1000)
    half = np.arange(4000) % 8 < 4
    z = np.stack([(root == 0) & half, (root == 0) & ~half, root == 1], 1).astype(float)
    rows = score(z, {"root": root}, np.arange(4000) < 2000, boards=np.arange(4000) // 8)
    split, whole = rows
    assert split["single"] == pytest.approx(2 / 3)
    assert split["single low"] == pytest.approx(2 / 3)
    assert [split[name] for name in ("best 2", "best 9", "precise", "probe of 2")] == [1, 1, 1, 1]
    assert whole["single"] == 1
    assert whole["latent"] == 2
    assert whole["always on"] == pytest.approx(0.4)
    wrong = np.where(np.arange(4000) % 40 == 1, LEFT_OUT, root)
    assert score(z, {"root": wrong}, np.arange(4000) < 2000)[1]["cells"] == 450


def test_the_absorption_gap_is_known_by_construction():
    rng = np.random.default_rng(0)
    root, place = rng.integers(0, 4, N), rng.integers(0, 3, N)
    labels = {"root": root, "root x place": 3 * root + place, "composite": np.full(N, NONE)}
    child = one_hot(labels["root x place"]) & (rng.random((N, 1)) < 0.7)
    for off, gap in ((rng.random((N, 1)) < 0.2, 0), (child.any(1, keepdims=True), 1)):
        z = np.concatenate([one_hot(root) & ~(off & (place == 0)[:, None]), child], 1).astype(np.float32)
        readings = {name: read(z, one_hot(values, values.max() + 1), ["single"])
                    for name, values in labels.items() if name != "composite"}
        found = absorption(z, readings, labels)
        assert found["edges"] == 12
        assert found["absorption gap"] == pytest.approx(gap / 3 if gap else 0, abs=0.05)


def test_matching_counts_every_value_and_stability_every_latent():
    x, labels, directions = planted()
    acts, cells = x.reshape(100, -1, D), np.ones((100, N // 100), bool)
    found = matching(Source("", None, directions, acts), labels["root"].reshape(cells.shape), cells, np.random.default_rng(0))
    assert found["matching"] > 0.9 > found["matching, permuted"]
    half = matching(Source("", None, directions[:5], acts), labels["root"].reshape(cells.shape), cells, np.random.default_rng(0))
    assert half["matching"] < found["matching"] - 0.2
    assert stability([Source("", None, directions), Source("", None, directions)]) == pytest.approx(1)
    assert np.isnan(stability([Source("", None, directions)]))


def test_a_score_is_of_boards():
    Y = np.ones((4, 1), bool)
    scores = f1_of(np.array([[1], [1], [0], [0]], bool), Y, np.array([0, 0, 1, 1]), np.array([[1, 1], [2, 0], [0, 2]]))
    np.testing.assert_allclose(scores[:, 0], [2 / 3, 1, 0])
    assert mean_of(np.array([[0.5, np.nan]])) == 0.5
    missed = recall_of(np.ones((4, 1), bool), np.arange(4)[:, None] < 3, np.arange(4), np.ones((1, 4)))
    assert missed == pytest.approx(1)


def test_near_tokens_are_those_around_a_cell():
    tokens = np.arange(16)[None] % 3
    near = nearby(tokens, 3)
    assert near[0, 5].tolist()[6:9] == tokens[0, :3].tolist()
    assert (near[0, 0].reshape(5, 5)[:2] == 3).all()
    where = np.zeros((1, 16), bool)
    where[0, 5] = True
    assert near_one_hot(near, where, 3).sum() == 26


def test_cells_are_apart_and_labels_can_be_known():
    trainer = make(dataset=small_boards(split_method="places", card_test=0.3, board_types=["single", "double"],
                                        board_types_proba=[0.5, 0.5]))
    cells = cells_of(trainer, np.random.default_rng(0), 40, 20, 5, 1)
    rows = [set(map(bytes, cells.drawn.tokens[cells.part == part])) for part in range(4)]
    assert all(rows)
    assert not any(rows[TEST] & rows[part] for part in range(3))
    visible = cells.labels["object"][(cells.part == FRESH)[:, None] & ~cells.hidden]
    assert (visible != LEFT_OUT).mean() > 0.5
    single = (cells.part == TEST) & (cells.drawn.types == 0)
    assert (cells.new[single] == (cells.drawn.slots[single].reshape(single.sum(), -1) >= 0)).all()
    assert not cells.new[cells.part != TEST].any()


def test_a_perfect_reconstruction_keeps_everything_and_the_mean_nothing():
    trainer, site, n = make(n_layer=2), "b0_z_attn_mlp", 12
    drawn, rng = trainer.dataset.sample(n, "train", None, np.random.default_rng(0)), np.random.default_rng(0)
    cells = Cells(drawn, rng.random((n, 36)) < 0.4, np.repeat([FRESH, TEST], n // 2), {}, None, np.arange(n) % (n // 2))
    acts = trainer.recorded(drawn.boards, cells.hidden.reshape(drawn.boards.shape), names=[site])[site]
    both, zero = np.concatenate([np.eye(8), -np.eye(8)]).astype(np.float32), np.zeros(16, np.float32)
    mean = acts[: n // 2].mean((0, 1))
    for kind, scale, kept in (("l1", 1, 1), ("l1", 0, 0)):
        made = Dictionary(kind, 8, scale * both.T, zero, both, mean)
        W = np.ones((3, n // 2))
        [found] = put_in(trainer, site, cells, acts, [of_dictionary("", made, acts, 0)], W, np.arange(n // 2))
        np.testing.assert_allclose(found["loss kept"], kept, atol=1e-3)


def objects_on(dataset, masked):
    """(n, m, 3) the most probable objects of masked boards."""
    hypotheses = [dataset.hypotheses(board) for board in masked]
    return np.stack([of.objects[of.weights.argmax()] for of in hypotheses])


class ReadsRoots:
    """A constructed network. Its activation at an object's visible cells is a sum of a direction for the root and one
    for the root x place. It draws the object whose root's direction is strongest on the board, where the object is."""

    def __init__(self, trainer):
        self.trainer, self.roots = trainer, trainer.dataset.params.abs_n
        self.places = trainer.dataset.params.abs_dim**2

    def __getattr__(self, name):
        return getattr(self.trainer, name)

    def recorded(self, boards, masks, edits=None, names=None):
        objects = objects_on(self.dataset, np.where(masks, self.masking_token, boards))
        covers, shown = self.dataset.covering(objects), ~masks.reshape(len(masks), -1)
        root, on = objects[:, :1, 0], (covers >= 0) & shown
        x = np.concatenate([one_hot(np.where(on, root, NONE).ravel(), self.roots),
                            one_hot(np.where(on, root * self.places + covers, NONE).ravel(), self.roots * self.places)], 1)
        x = (edits or {}).get(SITE, x.reshape(*on.shape, -1).astype(np.float32))
        strength = x[..., : self.roots].sum(1)
        tokens = self.dataset.roots.reshape(self.roots, -1)[strength.argmax(1)[:, None], np.maximum(covers, 0)]
        tokens = np.where(strength.max(1, keepdims=True) > 0, tokens, 0)
        return {SITE: x, "logit": one_hot(tokens.ravel(), self.dataset.vocab_size).reshape(*on.shape, -1)}


def test_clamping_succeeds_if_the_network_reads_the_latent_and_else_fails():
    dataset = small_boards(vocab_token=9, board_types=["single"], board_types_proba=[1.0])
    network, rng = ReadsRoots(make(dataset=dataset)), np.random.default_rng(0)
    cells = cells_of(network, rng, 30, 30, 5, 1)
    acts = network.recorded(cells.drawn.boards, cells.hidden.reshape(cells.drawn.boards.shape))[SITE]
    D = acts.shape[-1]
    made = Dictionary("l1", 2, np.eye(D, dtype=np.float32), np.zeros(D), np.eye(D, dtype=np.float32), np.zeros(D))
    source, where, readings = of_dictionary("", made, acts, 0), cells.of(CHOOSE, False), {}
    for label in ("root", "root x place"):
        values = cells.labels[label][where]
        readings[label] = read(source.of(where)[values != LEFT_OUT], one_hot(values[values != LEFT_OUT]), ["single"])
        assert readings[label].f1.min() > 0.9
    of_root, of_both = clamp(network, SITE, {0: 1.0}, source, readings, cells, rng, 40)
    assert of_root.effect[0] > 0.9
    assert of_root.supported
    assert of_root.extras["class means"][0] > 0.9
    assert max(score[0] for score in of_root.controls.values()) < 0.3
    assert of_both.effect[0] == 0  # well told by its latent, but the network does not read the latent
    assert not of_both.supported
    assert of_both.upper > 0.9


def test_words_that_name_the_root_are_found_and_a_constant_word_is_not(monkeypatch):
    dataset = small_boards(vocab_token=9, board_types=["single"], board_types_proba=[1.0])
    trainer, lea = make(dataset=dataset), make("lea", dataset=dataset)
    same_objects(trainer, lea)

    class Names:
        def __init__(self, of):
            self.knows = of is lea  # the untrained LEA always says the same

        def speak(self, boards):
            return objects_on(dataset, boards)[:, :1, 0] if self.knows else np.zeros((len(boards), 1), int)

    monkeypatch.setattr(language, "Speaker", Names)
    lines = language.measure(trainer, lea, SITE, [], 60, 20, np.random.default_rng(0))
    scores = {line["source"]: line["score"][0] for line in lines if line["label"] == "root"}
    assert scores["LEA's words"] == 1
    assert scores["untrained LEA's words"] <= 0.5
    with pytest.raises(ValueError, match="lea must be a run on the boards of"):
        same_objects(trainer, make("lea", dataset=small_boards(seed=5)))


@pytest.mark.parametrize(("more", "part"), [
    ({"activations": np.zeros((0, 4))}, "at least 2 rows"), ({"activations": np.full((9, 4), np.nan)}, "finite"),
    ({"activations": np.zeros(9)}, "shape"), ({"width": 4, "k": 5}, "width must be at least k = 5, not 4"),
    ({"kind": "relu"}, "kind must be one of topk"), ({"steps": 0}, "steps")])
def test_mistakes_in_training_are_one_sentence(more, part):
    with pytest.raises(ValueError, match=part) as error:
        train_dictionary(**{"activations": np.random.default_rng(0).random((9, 4)), "steps": 2} | more)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(("latents", "labels", "chosen", "part"), [
    (np.zeros((0, 3)), {}, np.zeros(0, bool), "not 0 of 0"), (np.zeros((9, 3)), {}, np.ones(9, bool), "not 9 of 9"),
    (np.full((9, 3), np.nan), {}, np.arange(9) < 4, "finite"),
    (np.zeros((9, 3)), {"root": np.full(9, 3)}, np.arange(9) < 4, r"labels\['root'\].*two values.*only 3")])
def test_mistakes_in_scoring_are_one_sentence(latents, labels, chosen, part):
    with pytest.raises(ValueError, match=part):
        score(latents, labels, chosen)


@pytest.fixture
def command(monkeypatch):
    """A function that runs the command in this process."""

    def run(*flags):
        run_study(monkeypatch, "dictionaries", *flags)

    return run


@pytest.mark.parametrize(("flags", "part"), [
    (["--site", "b9_z"], "b9_z"), (["--width", "4"], "width must be at least k = 8, not 4")])
def test_mistakes_of_the_command_are_one_line(flags, part, small_run, command, capsys):
    with pytest.raises(SystemExit) as end:
        command(small_run, "--quick", *flags)
    assert end.value.code == 2
    assert part in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    trainer = make(runs=str(tmp_path_factory.mktemp("runs")), run_name="small", save_model=True, n_layer=2)
    trainer.train()
    return trainer.folder


def test_the_command_writes_tables_pictures_and_dictionaries(small_run, command, capsys):
    command(small_run, "--quick", "--seeds", 2, "--site", "b0_z_attn_mlp", "--width", 32, "--k", 2)
    folder = small_run / "analysis" / "dictionaries" / "quick"
    assert capsys.readouterr().out.strip() == str(folder / "report.md")
    for name in ("report.md", "table.csv", "facts.csv", "coverage.csv", "coverage.png", "latents.png", "topk_1/cfg.json",
                 "frozen_decoder_0/sae_weights.safetensors"):
        assert (folder / name).stat().st_size > 100
    with open(folder / "table.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sources = {row["source"] for row in rows if row["cells"] == "hidden"}
    assert sources == {"topk", "untrained network", "frozen decoder", "neurons", "PCA", "random directions", "raw tokens",
                       "always on", "linear probe", "5 x 5 read-out"}
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
