"""The ceiling: networks of which it is known how near they come, in one pass and easy first."""
from pathlib import Path

import numpy as np
import planted
import pytest
from planted import PROBA, cells_of

from module_dataset import AbstractionDataset, Boards
from parts.training.recipe import TrainParams
from studies.claims import ceiling
from studies.claims.scenes import footprints, hide


class Stub:
    """Answers as the ideal observer does, or blindly, in either way of decoding."""

    def __init__(self, dataset, one_pass="marginal", easy_first="board"):
        self.dataset, self.fields = dataset, {"one pass": one_pass, "easy first": easy_first}

    def reconstruct(self, boards, masks, decode="one pass"):
        proba = [1 / len(self.dataset.board_types)] * len(self.dataset.board_types)
        best = self.dataset.best_reconstruction(np.where(masks, self.dataset.masking_token, boards), proba)
        field = self.fields[decode]
        return {"": getattr(best, field) if field else np.zeros_like(boards)}


def boards_of(dataset, count):
    return Boards.join([planted.drawn(dataset, t, count, "test") for t in range(3)])


def test_ceiling_of_the_best_and_of_a_blind_network():
    dataset = planted.dataset()
    drawn = boards_of(dataset, 6)
    for best in (True, False):
        stub = Stub(dataset) if best else Stub(dataset, None, None)
        rows = cells_of(ceiling.measure(stub, drawn, PROBA, np.random.default_rng(1), 3))
        groups = {row["feature"].split(", ", 1)[1].removesuffix(", easy first") for row in rows}
        assert groups >= {"all", "single", "double", "composition", "double apart", ceiling.ANYWHERE}
        for row in rows:
            assert (row["effect"] > 0.9 * row["upper"]) >= best
            assert best or row["effect"] == 0 or not row["feature"].startswith("whole")
        of = {row["feature"]: row["effect"] for row in rows}
        types = ("single", "double", "composition")
        assert of["hidden tokens, all"] == pytest.approx(np.mean([of[f"hidden tokens, {name}"] for name in types]))
        assert {row["boards"] for row in rows if row["feature"].startswith("whole boards, single")} == {6}


def test_equally_probable_answers_count_as_drawn_at_random():
    """Nothing is seen of a board: the ceiling is the prior, whichever board of a set of equals is named."""
    dataset = AbstractionDataset(seed=0, board_types=["single"], board_types_proba=[1])
    drawn = planted.drawn(dataset, 0, 5, "test")
    masked = np.full_like(drawn.boards, dataset.masking_token)
    tokens, board = ceiling.ideal(dataset, masked, drawn.boards, [1])
    np.testing.assert_allclose(board[2], 1 / (10 * 36 * 10))  # roots, positions, backgrounds
    posterior = dataset.posterior(masked, [1])
    np.testing.assert_allclose(tokens[1], (np.take_along_axis(
        posterior == posterior.max(-1, keepdims=True), drawn.boards[..., None], -1)[..., 0]
        / (posterior == posterior.max(-1, keepdims=True)).sum(-1)).sum((1, 2)), atol=1e-6)


def test_masks_of_composites_that_do_not_depend_on_the_board():
    """Patches are windows anywhere, not footprints of roots, and masks stay the same if the board is another."""
    dataset = planted.dataset()
    drawn, patches = planted.drawn(dataset, 2, 200, "test"), (0.0, 1.0)
    inside = footprints(dataset, drawn.objects).reshape(200, 4, 9)
    for anywhere in (False, True):
        hidden = hide(dataset, drawn, patches, np.random.default_rng(0), anywhere).reshape(200, 64)
        assert (hidden.sum(1) == 9).all()
        exact = np.take_along_axis(hidden[:, None], np.maximum(inside, 0), 2).all(2).any(1).mean()
        assert exact < 0.2 if anywhere else exact == 1
    other = planted.drawn(dataset, 2, 200, "test", seed=1)
    masks = [hide(dataset, some, (0.25, 0.5), np.random.default_rng(0), True) for some in (drawn, other)]
    np.testing.assert_array_equal(*masks)


def test_both_ways_of_decoding_stand_beside_both_ceilings():
    """One pass reaches the best token of each cell, easy first the best board: the rows say so, and which is which."""
    dataset = AbstractionDataset(seed=0, vocab_token=2)  # so that much is left to guess
    drawn = boards_of(dataset, 30)
    rows = cells_of(ceiling.measure(Stub(dataset), drawn, PROBA, np.random.default_rng(1), 3, 100))
    whole = {row["feature"]: row for row in rows if row["feature"].startswith("whole")}
    row = whole["whole boards, all, easy first"]
    assert row["one pass"] == whole["whole boards, all"]["effect"] == pytest.approx(row["best of one pass"], abs=0.04)
    assert row["effect"] == pytest.approx(row["upper"], abs=0.04)
    assert row["upper"] == row["best board"] == whole["whole boards, all"]["upper"] > row["best of one pass"]
    assert row["gain of easy first"] == row["effect"] - row["one pass"] > 0
    assert not any(row["counts"] for row in rows)


def test_double_boards_apart_and_overlapping():
    dataset = planted.dataset()
    drawn = boards_of(dataset, 60)
    groups = ceiling.groups_of(dataset, drawn)
    assert list(groups) == ["all", "single", "double", "composition", "double apart", "double overlapping"]
    cells = footprints(dataset, drawn.objects)
    for i in np.flatnonzero(drawn.types == 1):
        shared = set(cells[i, :9]) & set(cells[i, 9:18])
        assert groups["double overlapping"][i] == bool(shared)
        assert groups["double apart"][i] == (not shared)
    others = drawn.types != 1
    assert not (groups["double apart"] | groups["double overlapping"])[others].any()
    assert 0 < groups["double overlapping"].sum() < 60
    assert list(ceiling.groups_of(dataset, drawn.take(drawn.types == 0))) == ["all", "single"]


def test_the_words_of_the_results_are_what_the_table_says(monkeypatch):
    """docs/results.md, 'One pass or easy first': points that easy first gains and leaves, of four networks trained by AdamW
    and three of recipes/factor_best.args."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    import make_docs

    gains, left, lacking = {}, {}, {}
    for row in make_docs.read_results("accuracy_decode"):
        if row["run"].startswith("best_s") and row["what"].startswith("whole boards, double "):
            short = 100 * (float(row["ceiling of one pass"]) - float(row["one pass"]))
            lacking.setdefault(row["what"].split()[3], []).append((short, 100 * float(row["short"])))
        if row["run"].startswith("factor") and row["what"].endswith("easy first"):
            group = row["what"].split(", ")[1] if row["what"].startswith("whole") else "hidden"
            gains.setdefault(group, []).append(round(100 * (float(row["accuracy"]) - float(row["one pass"]))))
            left.setdefault(group, []).append(round(100 * float(row["short"])))
    assert (min(gains["double"]), max(gains["double"])) == (7, 10)
    assert (min(gains["double apart"]), max(gains["double apart"]), max(left["double apart"])) == (4, 9, 3)
    assert (min(gains["double overlapping"]), max(gains["double overlapping"])) == (11, 13)
    assert (min(left["double overlapping"]), max(left["double overlapping"])) == (16, 28)
    assert gains["composition"] == [0, -2, 4, 0]
    assert np.max(lacking["apart,"]) < 0.6
    one_pass, easy_first = zip(*lacking["overlapping,"], strict=True)
    assert (round(min(one_pass)), round(max(one_pass))) == (5, 8)
    assert (round(min(easy_first)), round(max(easy_first))) == (3, 6)


def test_the_words_on_settings_are_what_the_table_says(monkeypatch):
    """docs/results.md, 'Settings that were tried'."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    import make_docs

    double = {run: 100 * float(rows["whole boards, double, easy first"]["one pass"]) for run, rows in make_docs.decoded().items()}
    base = double["m300_doubles"]
    assert [round(base - double[f"s300_rate{rate}"]) for rate in ("006", "024")] == [2, 8]
    assert [round(value, 1) for value in (base, double["s300_adamw"], double["best_s0"])] == [86.4, 79.0, 89.4]
    apart = ("s300_adamw", "s300_layers4")
    others = [value for run, value in double.items() if run.startswith("s300") and "rate" not in run and run not in apart]
    assert (round(min(others), 1), round(max(others), 1)) == (85.2, 87.0)
    assert (round(double["s300_layers4"], 1), round(base - double["s220_batch32"])) == (87.9, 3)
    four = make_docs.decoded()["best4_s0"]["whole boards, double, easy first"]
    assert [round(100 * float(four[way]), 1) for way in ("one pass", "accuracy")] == [90.2, 92.1]
    best = [double[f"best_s{seed}"] for seed in range(3)]
    assert round(max(best) - min(best), 1) == 1.8


def test_bench_accuracy_measures_a_run_without_composites(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    import bench_accuracy

    dataset = AbstractionDataset(seed=0, board_types=["single", "double"], board_types_proba=[0.5, 0.5])
    stub = Stub(dataset)
    stub.seed, stub.params = 0, TrainParams().as_dict()
    measure, held_out = ceiling.measure, bench_accuracy.held_out
    monkeypatch.setattr(bench_accuracy.TrainTransformer, "from_run", lambda folder: stub)
    monkeypatch.setattr(bench_accuracy, "held_out", lambda dataset, type_, count, rng: held_out(dataset, type_, 4, rng))
    monkeypatch.setattr(ceiling, "measure", lambda *args: measure(*args, masks=1, draws=5))
    rows = list(bench_accuracy.rows_of(tmp_path / "run"))
    assert {row["what"].split(", ")[1].split()[0] for row in rows} == {"all", "single", "double"}
    assert all(abs(row["accuracy"] - row["ceiling"]) < 0.2 for row in rows)
