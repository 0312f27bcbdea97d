"""Scores, their draws, and the rules of judgement."""
import numpy as np
import pytest
from planted import verdict_of

from studies.claims.scores import (
    Row,
    Score,
    Skill,
    interval,
    interval_between,
    ratio,
    resample,
    student,
    verdict,
)


def test_skill_is_balanced_accuracy_above_chance():
    truth = np.array([[0, 0, 0, 1], [1, 2, 2, 0]])
    predicted = np.array([[0, 0, 1, 1], [1, 2, 0, 0]])
    use = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)
    accuracy = (2 / 3 + 2 / 2 + 1 / 2) / 3
    got = Skill(truth, use, np.array([[1, 1], [0, 1]]))(predicted[use])
    assert got[0] == pytest.approx((accuracy - 1 / 3) / (2 / 3))
    # a class that was not drawn is left out
    assert got[1] == pytest.approx(((1 + 1 / 2) / 2 - 1 / 3) / (2 / 3))
    skill = Skill(truth, use, np.ones((1, 2)))
    assert skill(truth[use])[0] == 1
    assert skill(np.zeros(7))[0] == pytest.approx(0)


def test_intervals_of_shares_are_right_near_one_and_for_few_boards():
    rng = np.random.default_rng(0)
    W = resample(20, rng, 200)
    right = np.ones(20)
    low, high = interval(ratio(right, 1, W))  # all right: the bootstrap's draws are all 1
    assert (round(low, 2), high) == (0.79, 1)
    right[0] = 0
    low, high = interval(ratio(right, 1, W))
    assert 0.7 < low < 0.75
    assert high == 1
    assert ratio(right, 1, W).boards == 20
    low, high = interval(ratio(np.r_[right, np.ones(80)], 1, resample(100, rng, 200)))
    assert 0.93 < low < 0.97
    halves = interval(Score.of(np.r_[0.0, rng.normal(0, 0.15, 200)], 50, -1.0))  # of a skill with two classes
    assert halves == pytest.approx((-0.3, 0.3), abs=0.04)
    other = ratio(rng.standard_normal(100), 1, resample(100, rng, 200))  # no share
    assert interval(other) == tuple(np.quantile(other[1:], [0.025, 0.975]))
    assert [round(student(df), 2) for df in (9, 19, 1000)] == [2.26, 2.09, 1.96]


def test_boards_that_are_alike_count_once():
    boards = np.repeat(np.arange(12), 5)[:, None]
    W = resample(boards, np.random.default_rng(0), 100)
    assert ratio(np.ones(60), 1, W).boards == 12
    assert not hasattr(ratio(np.ones(60), boards[:, 0] > 3, W), "boards")  # no share: more than the whole
    assert ratio(np.zeros(60), boards[:, 0] > 3, W).boards == 8
    assert Row("c", "f", ratio(np.ones(60), 1, W)).as_dict()["boards"] == 12


def test_interval_of_a_gain_knows_what_two_scores_share():
    """Of the same boards right in both, the difference is narrower than of independent ones."""
    rng = np.random.default_rng(0)
    W, ours = resample(200, rng, 500), rng.random(200) < 0.8
    alike = ours & (rng.random(200) < 0.9)
    apart = rng.permutation(alike)
    wide = [high - low for low, high in (interval_between(ratio(ours, 1, W), ratio(other, 1, W)) for other in (alike, apart))]
    assert wide[0] < 0.75 * wide[1]
    gain = ratio(ours, 1, W) - ratio(alike, 1, W)
    assert interval_between(ratio(ours, 1, W), ratio(alike, 1, W)) == pytest.approx(
        tuple(np.quantile(gain[1:], [0.025, 0.975])), abs=0.02)
    certain = interval_between(ratio(np.ones(200), 1, W), ratio(np.zeros(200), 1, W))
    assert 0.95 < certain[0] < 0.98
    low, high = interval_between(ratio(np.ones(20), 1, resample(20, rng)), np.zeros(501))
    assert (round(low, 2), high) == (0.79, 1)


def score(mean):
    return np.r_[mean, mean + np.linspace(-0.1, 0.1, 201)]


def test_the_rule_of_judgement():
    def supported(effect, *controls, upper=1.0):
        named = {str(i): np.full(202, control) for i, control in enumerate(controls)}
        return Row("c", "f", score(effect), named, upper).supported

    assert supported(0.8, 0.1, 0.5)
    assert not supported(0.8, 0.1, 0.75)  # the strongest control is within the interval
    assert not supported(0.4, 0.1)  # less than half of the upper bound
    assert supported(0.4, 0.1, upper=0.7)


def test_a_row_as_columns():
    controls = {"a": np.full(202, 0.1), "b": np.full(202, 0.5), "unknown": np.full(202, np.nan)}
    row = Row("c", "f", score(0.8), controls, score(0.9), "b0_z", extras={"boards": 7, "moved": score(0.2)})
    assert (row.strongest, row.gain[0], row.upper) == ("b", pytest.approx(0.3), 0.9)
    cells = row.as_dict()
    assert list(cells) == [
        "run", "table", "feature", "stage", "effect", "effect low", "effect high", "upper", "strongest control",
        "control", "gain", "gain low", "gain high", "counts", "supported", "boards", "moved", "moved low", "moved high",
        "control: a", "control: b", "control: unknown"]
    assert (cells["effect low"], cells["effect high"]) == interval(row.effect) == pytest.approx((0.705, 0.895))
    assert (cells["gain low"], cells["moved high"]) == pytest.approx((0.205, 0.295))
    assert cells["supported"] is row.supported is True
    assert (cells["control"], cells["control: a"]) == (0.5, 0.1)
    alone = Row("c", "f", 3.5, upper=np.nan, counts=False)  # a number without controls, bound or interval
    assert (alone.strongest, alone.gain[0], alone.supported) == ("", 3.5, False)
    assert np.isnan([alone.as_dict()[name] for name in ("effect low", "control", "upper")]).all()


def test_verdicts():
    def rows(*flags, runs=None):
        return [Row("c", feature, score(0.8 if supported else 0.1), counts=counts, run=run) for run, (feature, supported, counts)
                in zip(runs or [""] * len(flags), flags, strict=True)]

    assert verdict_of(rows(("a", True, True), ("b", True, True), ("c", False, False))) == "supported"
    assert verdict_of(rows(("a", True, True), ("b", False, True))) == "partly supported"
    assert verdict_of(rows(("a", True, True), ("a", False, True))) == "not supported"  # two seeds of one feature
    seeds = rows(("a", True, True), ("a", True, True), ("b", True, True), runs=["0", "1", "0"])
    assert verdict(seeds) | {"supported features": "a", "other features": "b", "runs": 2} == verdict(seeds)
    assert verdict_of([]) == "not supported"


def test_equal_boards_are_drawn_together():
    W = resample(np.array([[1, 2], [3, 4], [1, 2], [5, 6]]), np.random.default_rng(0), 50)
    assert W.shape == (51, 4)
    np.testing.assert_array_equal(W[:, 0], W[:, 2])
    np.testing.assert_array_equal(W[:, [0, 1, 3]].sum(1), 3)
    assert (W[0] == 1).all()
