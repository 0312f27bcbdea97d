"""Measurements of the claims, on planted truth: codes, networks and languages of which the answer is known."""
import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import module_analysis
import module_train_probe
import module_train_probe_lea
from claims import statistics
from module_dataset import AbstractionDataset
from module_train_probe_lea import information

PROBA = [1 / 3] * 3
ROOT = Path(__file__).resolve().parent.parent


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
    return module_analysis.make_sample(dataset, PROBA, np.random.default_rng(0), 270, 12, 2)


def scenes_of(dataset, type_, count, split, seed=0):
    rng = np.random.default_rng(seed)
    return module_analysis.scenes_of(dataset, type_, module_analysis.rows_of(dataset, type_, split, count, rng), rng)


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
    seeds = [{"feature": f, "holds": True, "counts": True, "run": run} for f, run in (("a", 0), ("a", 1), ("b", 0))]
    assert module_analysis.verdict(seeds) | {"holds for": "a", "not for": "b", "runs": 2} == module_analysis.verdict(seeds)
    assert verdict_of([]) == "does not"


def test_labels_and_their_posterior(dataset, sample):
    scenes = sample.scenes
    for b in range(0, len(scenes.boards), 40):
        posterior = module_analysis.label_posterior(dataset, scenes.boards[b], PROBA)
        for name, table in posterior.items():
            np.testing.assert_allclose(table.sum(1), 1)
            true = np.take_along_axis(table, sample.labels[name][b][:, None], 1)[:, 0]
            np.testing.assert_allclose(true, 1)  # an unmasked board of these tells everything
    everything = np.full((8, 8), dataset.masking_token)
    np.testing.assert_allclose(module_analysis.label_posterior(dataset, everything, PROBA)["background"][:, :10], 0.1)
    tokens = scenes.boards.reshape(len(scenes.boards), -1)
    on = sample.labels["root"] >= 0
    np.testing.assert_array_equal(tokens[on] - 10, (sample.labels["root"] * 9 + sample.labels["place in the root"])[on])
    assert (tokens[~on] < 10).all()
    parts = [set(map(tuple, tokens[part])) for part in (slice(sample.n_fit), slice(sample.n_fit, sample.test.start), sample.test)]
    assert len(parts[2]) == len(tokens[sample.test]) / 2
    assert len(set.union(*parts)) == sum(map(len, parts))  # split by board
    assert set(scenes.backgrounds[sample.n_fit : sample.test.start] % 2) == {0, 1}  # not every sixth row: backgrounds alternate


def test_equal_boards_are_drawn_together():
    W = module_analysis.resample(np.array([[1, 2], [3, 4], [1, 2], [5, 6]]), np.random.default_rng(0), 50)
    assert W.shape == (51, 4)
    np.testing.assert_array_equal(W[:, 0], W[:, 2])
    np.testing.assert_array_equal(W[:, [0, 1, 3]].sum(1), 3)
    assert (W[0] == 1).all()


def test_ceiling_of_the_best_and_of_a_blind_network(dataset):
    class Stub:
        def __init__(self, best):
            self.dataset, self.best = dataset, best

        def _reconstruct(self, boards, masks):
            made = dataset.best_reconstruction(np.where(masks, dataset.masking_token, boards), PROBA).marginal
            return {"": made if self.best else np.zeros_like(boards)}

    scenes = module_analysis.Scenes.join([scenes_of(dataset, t, 6, "test") for t in range(3)])
    for best in (True, False):
        rows = module_analysis.ceiling(Stub(best), scenes, PROBA, np.random.default_rng(1), 3)
        assert {row["feature"].split(", ")[1] for row in rows} == {"all", "single", "double", "composition"}
        for row in rows:
            if not row["feature"].startswith("whole"):
                assert (row["effect"] == row["upper"]) == best
            assert (row["effect"] > 0.5 * row["upper"]) >= best
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
               "untrained network": {"early": noise_like(sample, 4), "late": noise_like(sample, 2)}}
    W = module_analysis.resample(sample.boards.max() + 1, np.random.default_rng(0), 100)
    rows, curves = module_analysis.decodability(sources, sample, W[:, sample.boards], np.random.default_rng(0))
    assert verdict_of(rows) == ("holds" if planted else "does not")
    assert {row["feature"].split(",")[0] for row in rows if row["counts"]} == set(module_analysis.label_names(dataset))
    if planted:
        assert all(row["stage"] == "late" and row["effect"] > 0.95 for row in rows)
        chance = [row["value"] for row in curves if row["source"] == "control task" and row["stage"] == "early"]
        assert np.abs(chance).max() < 0.35
    contexts = module_analysis.contexts_of(sample, dataset)
    rows = module_analysis.generalisation(sources, sample, contexts, W[:, sample.boards], np.random.default_rng(0))
    crossed = [row for row in rows if row["feature"] in ("root across background", "root across place on the board",
                                                         "root across companion", "row across root")]
    assert len(crossed) == 4
    assert verdict_of(crossed) == ("holds" if planted else "does not")
    if planted:
        assert crossed[0]["parallelism"] > 0.9 > 0.3 > abs(crossed[0]["parallelism, shuffled"])


def test_read_outs_fitted_in_one_context_fail_where_the_code_changes(dataset, sample):
    contexts = module_analysis.contexts_of(sample, dataset)
    root = sample.labels["root"]
    code = np.where(contexts["background"] == 0, root, (root + 5) % 10 * (root >= 0) - (root < 0))
    X = np.eye(11, dtype=np.float32)[code]
    sources = {"network": {"x": X}, "untrained network": {"x": noise_like(sample, 2)}}
    W = module_analysis.resample(sample.boards.max() + 1, np.random.default_rng(0), 100)
    rows = module_analysis.generalisation(sources, sample, contexts, W[:, sample.boards], np.random.default_rng(0), [("root", "background")])
    assert rows[0]["effect"] < 0.1
    assert verdict_of(rows) == "does not"


def test_whole_board_read_out_is_fitted_for_each_cell(sample):
    n_fit = sample.n_fit
    X = np.eye(10, dtype=np.float32)[sample.scenes.backgrounds]
    made = module_analysis.predict(X, sample.labels["background"], np.ones((n_fit, 64), bool))
    np.testing.assert_array_equal(made[0], sample.labels["background"][n_fit:])


def test_nearness_equals_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    X, board = statistics.unit(rng.standard_normal((40, 5))), np.arange(40) // 8
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
    scenes = replace(sample.scenes, boards=tokens.reshape(-1, 8, 8))
    here = replace(sample, scenes=scenes)
    by_token = np.eye(13, dtype=np.float32)[tokens] + 0.1 * noise_like(sample, 1, 13)
    by_root = np.eye(11, dtype=np.float32)[sample.labels["root"]] + 0.05 * noise_like(sample, 1, 11)
    noise = {stage: noise_like(sample, i) for i, stage in enumerate("abc")}
    W = module_analysis.resample(sample.boards.max() + 1, np.random.default_rng(0), 100)
    for stages, expected in (({"a": by_token, "b": by_root, "c": by_token}, True), (noise, False)):
        sources = {who: {stage: X[here.test] for stage, X in made.items()}
                   for who, made in (("network", stages), ("untrained network", noise))}
        rows, curves = module_analysis.convergence(sources, here, W, np.random.default_rng(0))
        held = {row["feature"]: row["holds"] for row in rows}
        assert verdict_of(rows) == ("in part" if expected else "does not")
        for cells in ("visible cells", "hidden cells"):
            assert held[f"nearer by root than by token, {cells}"] == expected
            assert held[f"an extremum inside the stack, {cells}"] == expected
        assert {row["stage"] for row in curves} == set("abc")


def test_participation_ratio_of_class_means():
    classes = np.repeat(np.arange(6), 50)
    spread = np.eye(6)[classes]  # means in all directions
    line = np.outer(classes, np.ones(6))  # means on a line
    assert statistics.participation(spread, classes, np.ones(300)) == pytest.approx(5)
    assert statistics.participation(line, classes, np.ones(300)) == pytest.approx(1)
    assert np.isnan(statistics.participation(np.ones((300, 6)), classes, np.ones(300)))
    rng = np.random.default_rng(0)
    X, board, W = line + 3 * rng.standard_normal((300, 6)), np.arange(300) % 20, module_analysis.resample(20, rng, 50)
    saved = module_analysis.dimensions_saved(X, classes, board, W, rng)
    assert saved[0] > 0.5
    assert saved[1:].mean() == pytest.approx(saved[0])
    noise = module_analysis.dimensions_saved(rng.standard_normal((300, 6)), classes, board, W, rng)
    assert np.quantile(noise[1:], 0.025) < 0.1


def test_ridge_agrees_from_features_and_from_examples():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((30, 29)), rng.standard_normal((30, 2))
    wide = np.concatenate([X, np.zeros((30, 5))], 1)  # features that say nothing, but make the examples fewer
    for strength in (1e-3, 1e-1):
        (w,), (v,) = statistics.ridge(X, Y, [strength]), statistics.ridge(wide, Y, [strength * 34 / 29])
        np.testing.assert_allclose(X @ w[:-1] + w[-1], wide @ v[:-1] + v[-1], atol=1e-4)
        x, y = X - X.mean(0), Y - Y.mean(0)
        exact = np.linalg.solve(x.T @ x + strength * (x**2).sum() / 29 * np.eye(29), x.T @ y)
        np.testing.assert_allclose(w[:-1], exact, atol=1e-4)


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
    swaps = module_analysis.swaps_of(singles, 0, 60, rng)
    sample = module_analysis.make_sample(singles, [1], rng, 300, 4, 1)
    for listens in (True, False):
        network = Lookup(singles, listens)
        means = module_analysis.class_means(sample, network.run(sample.tokens, network.stages)[1], network.editable, singles)
        rows = module_analysis.swap_rows(network, swaps, "manipulation", "here", rng, 200, means)
        swap, difference = rows
        assert verdict_of(rows) == ("holds" if listens else "does not")
        assert swap["upper"] == 1
        assert swap["effect"] == difference["effect"] == listens
        assert swap["moved"] == (1 if listens else 0)
        assert swap["collateral"] == 0
        assert swap["control: a third root"] == swap["control: nothing"] == 0


def test_swaps_are_matched_and_read_only_where_nothing_was_edited(dataset):
    rng = np.random.default_rng(0)
    made = [module_analysis.swaps_of(dataset, type_, 30, rng, k) for type_, k in ((0, 1), (1, 1), (2, 1), (2, 2), (2, 3))]
    for swaps, edited in zip(made, (1, 1, 1, 2, 3), strict=True):
        b, c = np.nonzero(swaps.edit)
        cells = swaps.cells[b, c]
        unk = dataset.masking_token
        assert (swaps.tokens["base"][b, cells] != unk).all()
        assert (swaps.tokens["base"][swaps.read] == unk).all()
        assert (swaps.base != swaps.donor)[swaps.read].all()
        edit = np.zeros(swaps.base.shape, bool)
        edit[b, cells] = True
        np.testing.assert_array_equal(swaps.tokens["donor"], np.where(edit, swaps.donor, swaps.tokens["base"]))
        np.testing.assert_array_equal(swaps.tokens["base"] == unk, swaps.tokens["donor"] == unk)
        np.testing.assert_array_equal(swaps.base[swaps.away], swaps.donor[swaps.away])
        assert not swaps.away[b, cells].any()
        objects = swaps.edit.reshape(len(swaps.rows), -1, 9).any(-1).sum(1)
        np.testing.assert_array_equal(objects, edited)
        for who, board in (("base", swaps.base), ("donor", swaps.donor)):
            np.testing.assert_array_equal(swaps.kinds[who][b, c] + 10, board[b, cells])


def test_hidden_root_of_a_composite_is_judged_against_the_best(dataset):
    class Best(Lookup):
        def run(self, tokens, stages=(), edit=None):
            made = dataset.best_reconstruction(tokens.reshape(-1, 8, 8), PROBA).board.reshape(tokens.shape)
            return np.eye(dataset.vocab_size)[made], {}

    rng = np.random.default_rng(0)
    swaps = module_analysis.swaps_of(dataset, 2, 30, rng, 3)
    row, = module_analysis.part_whole(Best(dataset, True), Lookup(dataset, True), dataset, swaps, PROBA, rng, 100)
    assert row["effect"] == row["upper"] == 1
    assert row["control: untrained network"] == 0
    slots = dataset.compositions.reshape(5, 4)
    most = max(np.bincount(column).max() for column in slots.T)
    assert 0 < row["control: the root most frequent there"] < (most + 1) / 5 + 0.2


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
    scenes = scenes_of(singles, 0, 700, "train")
    features = module_analysis.scene_features(scenes, 10)
    speak, rebuild = code(singles)
    said, silent = speak(scenes.boards), rng.integers(8, size=(700, 5))
    for words, expected in ((said, True), (silent, False)):
        sources = {"words": words, "random codes": rng.permutation(words)}
        rows = module_analysis.words_readout(sources, features, 500, rng, 200)
        assert verdict_of(rows) == ("holds" if expected else "does not")
        assert {row["feature"] for row in rows if row["counts"]} == {"background", "row", "column", "which roots are there"}
        for row in module_analysis.word_information(words, scenes, 10, rng, 20):
            assert (row["MI/H"] > max(0.2, row["95% of permutations"])) == expected
        similarity, chance, p = statistics.mantel(words[:150], module_analysis.scene_distances(scenes.take(slice(150))), rng, 50)
        assert (p < 0.03) == expected
        assert (similarity > 0.9) == expected
        attributes = [scenes.backgrounds, *scenes.objects[:, 0].T]
        assert (module_analysis.disentanglement(words, attributes) > 0.9) == expected
    steered = module_analysis.steering(speak, rebuild, singles, [0], rng, 40, 200)
    assert verdict_of(steered) == "holds"
    for row in steered:
        assert row["effect"] == row["given both rebuilt"] == row["upper"] == row["words that differ"] == 1
    assert [row["counts"] for row in steered] == [True, False] * 4
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
    found = information(words, values)
    for s in range(2):
        bits = 0.0
        for w in range(4):
            for v in range(3):
                both = np.mean((words[:, s] == w) & (values == v))
                if both:
                    bits += both * np.log2(both / np.mean(words[:, s] == w) / np.mean(values == v))
        assert found[s] == pytest.approx(bits)


# a run


TINY = dict(fit=150, test=4, masks=2, ceiling_masks=2, swaps=10, draws=30, words=200, permutations=3)


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
    assert [v["table"] for v in verdicts] == list(module_analysis.TABLES)[1:]
    folder = runs / "factor" / "analysis"
    report = (folder / "report.md").read_text()
    for verdict in verdicts:
        assert f"**{verdict['verdict']}**" in report
    for name in [line.split("](")[1].split(")")[0] for line in report.splitlines() if line.startswith("![")]:
        assert (folder / name).stat().st_size > 5000, name
    for table in (*module_analysis.TABLES, "verdicts", "decodability_stages", "convergence_stages", "words_information"):
        with open(folder / f"{table}.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert rows, table
        if "holds" in rows[0]:
            for row in rows:
                low, effect, upper = (float(row[name] or "nan") for name in ("gain low", "effect", "upper"))
                holds = low > 0 and effect >= upper / 2
                assert row["holds"] == str(holds)


def test_report_of_a_run_without_split_or_depth_or_other_types(tmp_path, monkeypatch):
    monkeypatch.setitem(module_analysis.SIZES, True, TINY | {"test": 12})
    dataset = AbstractionDataset(seed=1, board_dim=6, abs_n=3, abs_dim=2, abs_c=4, board_types=["single"], board_types_proba=[1],
                                 bool_split=False)
    trainer = module_train_probe.TrainTransformer(dataset, n_layer=1, n_embd=8, n_embd_pos=4, seed=1, runs=str(tmp_path),
                                                  run_name="odd", device="cpu", board_curriculum=False)
    trainer.start_run()
    trainer.save_checkpoint(trainer.folder / "checkpoints" / "model_0.pth")
    found = {v["table"]: v for v in module_analysis.run_all([tmp_path / "odd"], quick=True)}
    assert set(found) == {"decodability", "generalisation", "convergence"}  # one block: no attention follows an edit
    assert found["decodability"]["features"] == 12  # all but the composite, hidden and visible


def test_verdicts_follow_from_the_tables(monkeypatch):
    """The verdicts in docs/claims.md follow from the rows that are kept."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import make_docs

    document = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    for v in make_docs.read_results("claims/verdicts"):
        rows = make_docs.read_results(f"claims/{v['table']}")
        for row in rows:
            low, effect, upper = (float(row[name] or "nan") for name in ("gain low", "effect", "upper"))
            assert row["holds"] == str(low > 0 and effect >= upper / 2)
        made = module_analysis.verdict([row | {name: row[name] == "True" for name in ("counts", "holds")} for row in rows])
        assert {name: str(value) for name, value in made.items()} == {name: v[name] for name in made}
        assert f"| **{v['verdict']}** | {v['holding']} of {v['features']} |" in document


def test_mistakes_are_one_line(runs, tmp_path):
    script = str(Path(module_analysis.__file__))
    for flags, words in (([str(runs / "lea")], "is a LEA run"), ([], "at least one run"),
                         ([str(tmp_path)], "params_training.json")):
        done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
