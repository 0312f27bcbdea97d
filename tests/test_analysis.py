"""Measurements of the claims, on planted truth: codes, networks and languages of which the answer is known."""
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import module_analysis
import module_train_probe
import module_train_probe_lea
from module_dataset import AbstractionDataset

PROBA = [1 / 3] * 3


@pytest.fixture(scope="module")
def dataset():
    """Default boards, but every token of a root names the root and its place in it."""
    made = AbstractionDataset(vocab_token=90, seed=0)
    made.roots = 10 + np.arange(90).reshape(10, 3, 3, 1)
    return made


@pytest.fixture(scope="module")
def singles():
    made = AbstractionDataset(vocab_token=90, seed=0, board_types=["single"], board_types_proba=[1])
    made.roots = 10 + np.arange(90).reshape(10, 3, 3, 1)
    return made


@pytest.fixture(scope="module")
def sample(dataset):
    return module_analysis.make_sample(dataset, PROBA, np.random.default_rng(0), 150, 60, 12, 2)


def verdict_of(rows):
    return module_analysis.verdict(rows)["verdict"]


# scores and rules


def test_skill_is_balanced_accuracy_above_chance():
    truth = np.array([[0, 0, 0, 1], [1, 2, 2, 0]])
    predicted = np.array([[0, 0, 1, 1], [1, 2, 0, 0]])
    use = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)
    accuracy = (2 / 3 + 2 / 2 + 1 / 2) / 3
    got = module_analysis.skill(predicted, truth, use, np.array([[1, 1], [0, 1]]))
    assert got[0] == pytest.approx((accuracy - 1 / 3) / (2 / 3))
    assert got[1] == pytest.approx(((1 + 1 / 2) / 2 - 1 / 3) / (2 / 3))  # a class that was not drawn is left out
    assert module_analysis.skill(truth, truth, use, np.ones((1, 2)))[0] == 1
    assert module_analysis.skill(np.zeros_like(truth), truth, use, np.ones((1, 2)))[0] == pytest.approx(0)


def test_rules_of_judgement():
    score = lambda mean: np.r_[mean, mean + np.linspace(-0.1, 0.1, 201)]  # noqa: E731
    judge = lambda effect, *controls, upper=1.0: module_analysis.judge(  # noqa: E731
        "c", "f", score(effect), {str(i): np.full(202, c) for i, c in enumerate(controls)}, upper)["holds"]
    assert judge(0.8, 0.1, 0.5)
    assert not judge(0.8, 0.1, 0.75)  # the strongest control is within the interval
    assert not judge(0.4, 0.1)  # less than half of the upper bound
    assert judge(0.4, 0.1, upper=0.7)
    row = module_analysis.judge("c", "f", score(0.8), {"a": np.full(202, 0.1), "b": np.full(202, 0.5)})
    assert (row["strongest control"], row["gain"]) == ("b", pytest.approx(0.3))
    rows = lambda *flags: [{"feature": f, "holds": h, "counts": c} for f, h, c in flags]  # noqa: E731
    assert verdict_of(rows(("a", True, True), ("b", True, True), ("c", False, False))) == "holds"
    assert verdict_of(rows(("a", True, True), ("b", False, True))) == "in part"
    assert verdict_of(rows(("a", True, True), ("a", False, True))) == "does not"  # two seeds of one feature


def test_labels_and_their_posterior(dataset, sample):
    scenes = sample.scenes
    for b in range(0, len(scenes), 40):
        posterior = module_analysis.label_posterior(dataset, scenes.boards[b], PROBA)
        for name, table in posterior.items():
            np.testing.assert_allclose(table.sum(1), 1)
            true = np.take_along_axis(table, sample.labels[name][b][:, None], 1)[:, 0]
            np.testing.assert_allclose(true, 1)  # an unmasked board of these tells everything
    everything = np.full((8, 8), dataset.masking_token)
    np.testing.assert_allclose(module_analysis.label_posterior(dataset, everything, PROBA)["background"][:, :10], 0.1)
    tokens = scenes.boards.reshape(len(scenes), -1)
    on = sample.labels["root"] >= 0
    np.testing.assert_array_equal(tokens[on] - 10, (sample.labels["root"] * 9 + sample.labels["place in the root"])[on])
    assert (tokens[~on] < 10).all()
    assert len(set(map(tuple, tokens[sample.n_fit + sample.n_valid :]))) == len(tokens[sample.n_fit + sample.n_valid :]) / 2


def test_ceiling_of_the_best_and_of_a_blind_network(dataset):
    class Stub:
        def __init__(self, best):
            self.dataset, self.best = dataset, best

        def _reconstruct(self, boards, masks):
            made = dataset.best_reconstruction(np.where(masks, dataset.masking_token, boards), PROBA).marginal
            return {"": made if self.best else np.zeros_like(boards)}

    scenes = module_analysis.draw_scenes(dataset, {0: 6, 1: 6, 2: 6}, "test", np.random.default_rng(0))
    for best in (True, False):
        rows = module_analysis.ceiling(Stub(best), scenes, PROBA, np.random.default_rng(1), 3)
        assert {row["boards"] for row in rows} == {"all", "single", "double", "composition"}
        for row in rows:
            assert (row["network"] == row["ceiling, cell by cell"]) == best
        assert (rows[0]["avoidable error"] == 0) == best


# what is encoded


def one_hot_labels(sample):
    labels = [sample.labels[name] for name in sample.labels]
    return np.concatenate([np.eye(values.max() + 2)[values] for values in labels], -1).astype(np.float32)


def noise_like(sample, seed, width=16):
    return np.random.default_rng(seed).standard_normal((*sample.tokens.shape, width)).astype(np.float32)


@pytest.mark.parametrize("planted", [True, False])
def test_decodability_of_the_label_itself_and_of_noise(dataset, sample, planted):
    late = one_hot_labels(sample) if planted else noise_like(sample, 3)
    sources = {"network": {"early": noise_like(sample, 1), "late": late},
               "untrained network": {"late": noise_like(sample, 2)}}
    W = module_analysis.resample(sample.groups.max() + 1, np.random.default_rng(0), 100)
    rows, curves = module_analysis.decodability(sources, sample, W, np.random.default_rng(0))
    assert verdict_of(rows) == ("holds" if planted else "does not")
    assert {row["feature"].split(",")[0] for row in rows if row["counts"]} == set(module_analysis.label_names(dataset))
    if planted:
        assert all(row["stage"] == "late" and row["effect"] > 0.95 for row in rows)
        chance = [row["skill"] for row in curves if row["label"] == "control task" and row["stage"] == "early"]
        assert np.abs(chance).max() < 0.3
    halves = module_analysis.conditions_of(sample, dataset)
    rows = module_analysis.generalisation(sources, sample, halves, W, rng=np.random.default_rng(0))
    crossed = [row for row in rows if row["feature"] in ("root across background", "root across place on the board",
                                                         "root across companion", "row across root")]
    assert len(crossed) == 4
    assert verdict_of(crossed) == ("holds" if planted else "does not")
    if planted:
        assert crossed[0]["parallelism"] > 0.9 > 0.3 > abs(crossed[0]["parallelism, shuffled"])


def test_read_outs_fitted_in_one_context_fail_where_the_code_changes(dataset, sample):
    halves = module_analysis.conditions_of(sample, dataset)
    root = sample.labels["root"]
    code = np.where(halves["background"] == 0, root, (root + 5) % 10 * (root >= 0) - (root < 0))
    X = np.eye(11, dtype=np.float32)[code]
    sources = {"network": {"x": X}, "untrained network": {"x": noise_like(sample, 2)}}
    W = module_analysis.resample(sample.groups.max() + 1, np.random.default_rng(0), 100)
    rows = module_analysis.generalisation(sources, sample, halves, W, [("root", "background")], rng=np.random.default_rng(0))
    assert rows[0]["effect"] < 0.1
    assert verdict_of(rows) == "does not"


def test_whole_board_read_out_is_fitted_for_each_cell(sample):
    n_fit = sample.n_fit
    labels = {"background": sample.labels["background"]}
    X = np.eye(10, dtype=np.float32)[sample.scenes.backgrounds]
    made = module_analysis.predict(X, labels, np.ones_like(sample.tokens, bool), n_fit)["background"]
    np.testing.assert_array_equal(made[0], sample.labels["background"][n_fit:])


def test_nearness_equals_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    X, board = module_analysis.unit(rng.standard_normal((40, 5))), np.arange(40) // 8
    root, token = rng.integers(3, size=40), rng.integers(4, size=40)
    W = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 3, 0]])
    got = module_analysis.nearness(X, root, token, board, W)
    for w, value in zip(W, got, strict=True):
        sums, counts = np.zeros(2), np.zeros(2)
        for i in range(40):
            for j in range(40):
                weight = w[board[i]] * w[board[j]] * (board[i] != board[j])
                kind = 0 if root[i] == root[j] and token[i] != token[j] else 1
                if (root[i] == root[j]) != (token[i] == token[j]):
                    sums[kind] += weight * X[i] @ X[j]
                    counts[kind] += weight
        assert value == pytest.approx(sums[0] / counts[0] - sums[1] / counts[1])


def test_convergence_of_a_planted_code_and_of_noise(sample):
    tokens = np.where(sample.labels["root"] >= 0, sample.labels["place in the root"] % 3 + 10, 0)  # three tokens, all roots
    scenes = module_analysis.replace(sample.scenes, boards=tokens.reshape(-1, 8, 8))
    here = module_analysis.replace(sample, scenes=scenes)
    by_token = np.eye(13, dtype=np.float32)[tokens] + 0.1 * noise_like(sample, 1, 13)
    by_root = np.eye(11, dtype=np.float32)[sample.labels["root"]] + 0.05 * noise_like(sample, 1, 11)
    noise = {stage: noise_like(sample, i) for i, stage in enumerate("abc")}
    W = module_analysis.resample(sample.groups.max() + 1, np.random.default_rng(0), 100)
    for stages, expected in (({"a": by_token, "b": by_root, "c": by_token}, True), (noise, False)):
        sources = {"network": stages, "untrained network": noise}
        rows, curves = module_analysis.convergence(sources, here, W, np.random.default_rng(0))
        held = {row["feature"]: row["holds"] for row in rows}
        for cells in ("visible cells", "hidden cells"):
            assert held[f"nearer by root than by token, {cells}"] == expected
            assert held[f"an extremum inside the stack, {cells}"] == expected
        assert {row["stage"] for row in curves} == set("abc")


def test_participation_ratio():
    assert module_analysis.dimension(np.eye(5)) == pytest.approx(5)
    assert module_analysis.dimension(np.diag([1.0, 0, 0])) == pytest.approx(1)


# what drives decisions


class Lookup:
    """A network of one editable stage, the one-hot tokens, whose read-out draws the object that most cells speak for."""

    stages = editable = ["b0_z_attn_mlp"]

    def __init__(self, dataset, listens: bool):
        self.dataset, self.listens = dataset, listens

    def run(self, tokens, stages=(), edit=None):
        V = self.dataset.vocab_size
        acts = np.eye(V, dtype=np.float32)[tokens]
        used = np.where(edit[2][..., None], edit[1], acts) if edit is not None and self.listens else acts
        seen, out = used.argmax(-1), []
        for row in seen:
            background = np.bincount(row[row < 10], minlength=1).argmax()
            board = np.full((8, 8), background)
            cells = np.flatnonzero((row >= 10) & (row < V - 1))
            root, place = np.divmod(row[cells] - 10, 9)
            top, left = cells // 8 - place // 3, cells % 8 - place % 3
            votes, counts = np.unique(np.stack([root, top, left], 1), axis=0, return_counts=True)
            for r, i, j in votes[[counts.argmax()]] if len(votes) else ():
                if 0 <= i <= 5 and 0 <= j <= 5:
                    board[i : i + 3, j : j + 3] = self.dataset.roots[r, ..., 0]
            out.append(np.eye(V)[board.ravel()])
        return np.array(out, np.float32), dict.fromkeys(stages, acts)


def test_swap_succeeds_every_time_where_it_must_and_never_where_it_cannot(singles):
    rng = np.random.default_rng(0)
    swaps = module_analysis.root_swaps(singles, 0, 60, rng)
    scenes = module_analysis.draw_scenes(singles, {0: 200}, "train", rng)
    for listens in (True, False):
        network = Lookup(singles, listens)
        means = module_analysis.class_means(network, singles, scenes, rng)
        rows = module_analysis.swap_rows(network, swaps, "here", "drives decisions", rng, 200, means)
        swap, difference = rows
        assert verdict_of(rows) == ("holds" if listens else "does not")
        assert swap["upper"] == 1
        assert swap["effect"] == difference["effect"] == listens
        assert swap["moved"] == (1 if listens else 0)
        assert swap["collateral"] == 0
        assert swap["control: a third root"] == swap["control: nothing"] == 0


def test_swaps_are_matched_and_read_only_where_nothing_was_edited(dataset):
    rng = np.random.default_rng(0)
    made = [module_analysis.root_swaps(dataset, 0, 30, rng), module_analysis.root_swaps(dataset, 1, 30, rng)]
    made += [module_analysis.composite_swaps(dataset, 30, rng, k) for k in (1, 2, None)]
    for swaps, edited in zip(made, (1, 1, 1, 2, 3), strict=True):
        b, c = np.nonzero(swaps.edit)
        cells = swaps.cells[b, c]
        unk = dataset.masking_token
        assert (swaps.tokens["base"][b, cells] != unk).all()
        assert (swaps.tokens["base"][swaps.read] == unk).all()
        assert (swaps.base != swaps.donor)[swaps.read].all()
        np.testing.assert_array_equal(swaps.tokens["base"] == unk, swaps.tokens["donor"] == unk)
        np.testing.assert_array_equal(swaps.base[swaps.away], swaps.donor[swaps.away])
        assert not swaps.away[b, cells].any()
        objects = swaps.edit.reshape(len(swaps), -1, 9).any(-1).sum(1)
        np.testing.assert_array_equal(objects, edited)
        for kind, board in zip(swaps.kinds, (swaps.base, swaps.donor), strict=True):
            np.testing.assert_array_equal(kind[b, c] + 10, board[b, cells])


# language


def code(singles):
    """speak and rebuild of a language that names background, root, row and column, a place each, and a word without use."""

    def speak(boards, masks=None):
        rows = [singles.hypotheses(board) for board in boards]
        objects = np.array([found.objects[0, 0] for found in rows])
        return np.column_stack([[found.backgrounds[0] for found in rows], objects, np.zeros(len(boards), int)])

    def rebuild(words):
        rows = words[:, [1, 2, 3, 0]] % [10, 6, 6, 10]
        return module_analysis.scenes_of(singles, 0, rows, np.random.default_rng(0)).boards

    return speak, rebuild


def test_language_that_is_a_known_code_and_one_that_ignores_the_scene(singles):
    rng = np.random.default_rng(0)
    scenes = module_analysis.draw_scenes(singles, {0: 700}, "train", rng)
    features = module_analysis.scene_features(scenes, 10)
    speak, rebuild = code(singles)
    said, silent = speak(scenes.boards), rng.integers(8, size=(700, 5))
    for words, expected in ((said, True), (silent, False)):
        sources = {"words": words, "random codes": rng.permutation(words)}
        rows = module_analysis.words_readout(sources, features, 500, rng, 200)
        assert verdict_of(rows) == ("holds" if expected else "does not")
        assert {row["feature"] for row in rows if row["counts"]} == {"background", "row", "column", "which roots are there"}
        for row in module_analysis.word_information(words, features, rng, 20):
            assert (row["MI/H"] > max(0.2, row["95% of chance"])) == expected
        similarity, chance, p = module_analysis.mantel(words[:150], module_analysis.scene_distances(scenes.take(slice(150))), rng, 50)
        assert (p < 0.03) == expected
        assert (similarity > 0.9) == expected
        attributes = [scenes.backgrounds, *scenes.objects[:, 0].T]
        assert (module_analysis.disentanglement(words, attributes) > 0.9) == expected
    steered = module_analysis.steering(speak, rebuild, singles, [0], rng, 40, 200)
    assert verdict_of(steered) == "holds"
    for row in steered:
        assert row["effect"] == row["given both rebuilt"] == row["upper"] == row["words that differ"] == 1
    deaf = module_analysis.steering(speak, lambda words: scenes.boards[: len(words)], singles, [0], rng, 40, 200)
    assert verdict_of(deaf) == "does not"


def test_scene_distance_ignores_the_order_of_objects(dataset):
    rows = np.array([[1, 0, 0, 2, 4, 4, 3], [2, 4, 4, 1, 0, 0, 3], [2, 4, 4, 1, 0, 1, 0]])
    scenes = module_analysis.Scenes.join([module_analysis.scenes_of(dataset, 1, rows, np.random.default_rng(0)),
                                   module_analysis.scenes_of(dataset, 0, np.array([[1, 0, 0, 3]]), np.random.default_rng(0))])
    expected = [[0, 0, 2, 3], [0, 0, 2, 3], [2, 2, 0, 5], [3, 3, 5, 0]]
    np.testing.assert_array_equal(module_analysis.scene_distances(scenes), expected)


def test_information_equals_the_sum_over_a_contingency_table():
    rng = np.random.default_rng(0)
    words, values = rng.integers(4, size=(300, 2)), rng.integers(3, size=300)
    words[:, 1] = values
    found = module_analysis.information(words, values)
    for s in range(2):
        bits = 0.0
        for w in range(4):
            for v in range(3):
                both = np.mean((words[:, s] == w) & (values == v))
                if both:
                    bits += both * np.log2(both / np.mean(words[:, s] == w) / np.mean(values == v))
        assert found[s] == pytest.approx(bits)


# a run


TINY = dict(n_fit=90, n_valid=30, n_test=4, rounds=2, masks=2, count=10, draws=30, words=200)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for wrapper, proba in ((module_train_probe, [1 / 3] * 3), (module_train_probe_lea, [0.95, 0.05, 0])):
        name = "lea" if wrapper is module_train_probe_lea else "factor"
        trainer = wrapper.TrainTransformer(
            AbstractionDataset(seed=1, board_types_proba=proba), n_embd=16, n_embd_pos=8, seed=1, runs=str(folder),
            run_name=name, device="cpu", board_curriculum=False)
        trainer.start_run()  # a run folder with weights that no step has changed
        for epoch in (0, 1):
            trainer.save_checkpoint(trainer.folder / "checkpoints" / f"model_{epoch}.pth")
    return folder


def test_report_of_a_run(runs, monkeypatch):
    monkeypatch.setitem(module_analysis.SIZES, True, TINY)
    verdicts = module_analysis.run_all([runs / "factor"], runs / "lea", quick=True)
    assert [v["claim"] for v in verdicts] == list(module_analysis.CLAIMS)
    folder = runs / "factor" / "analysis"
    report = (folder / "report.md").read_text()
    for verdict in verdicts:
        assert f"**{verdict['verdict']}**" in report
    for name in [line.split("](")[1].split(")")[0] for line in report.splitlines() if line.startswith("![")]:
        assert (folder / name).stat().st_size > 5000, name
    for table in ("ceiling", "decodability", "generalisation", "convergence", "manipulation", "composition", "words",
                  "steering", "verdicts", "facts", "hidden_root", "convergence_training"):
        with open(folder / f"{table}.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert rows, table
        if "holds" in rows[0]:
            for row in rows:
                low, effect, upper = (float(row[name] or "nan") for name in ("gain low", "effect", "upper"))
                holds = low > 0 and effect >= upper / 2
                assert row["holds"] == str(holds)


def test_mistakes_are_one_line(runs, tmp_path):
    script = str(Path(module_analysis.__file__))
    for flags, words in (([str(runs / "lea")], "is a LEA run"), ([], "at least one run"),
                         ([str(tmp_path)], "params_training.json")):
        done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
