"""Scores, their draws, and the rules of judgement."""
import numpy as np
import pytest
from planted import verdict_of

from studies.claims.scores import judge, resample, skill, verdict


def test_skill_is_balanced_accuracy_above_chance():
    truth = np.array([[0, 0, 0, 1], [1, 2, 2, 0]])
    predicted = np.array([[0, 0, 1, 1], [1, 2, 0, 0]])
    use = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)
    accuracy = (2 / 3 + 2 / 2 + 1 / 2) / 3
    got = skill(predicted, truth, use, np.array([[1, 1], [0, 1]]))
    assert got[0] == pytest.approx((accuracy - 1 / 3) / (2 / 3))
    # a class that was not drawn is left out
    assert got[1] == pytest.approx(((1 + 1 / 2) / 2 - 1 / 3) / (2 / 3))
    assert skill(truth, truth, use, np.ones((1, 2)))[0] == 1
    assert skill(np.zeros_like(truth), truth, use, np.ones((1, 2)))[0] == pytest.approx(0)


def test_rules_of_judgement():
    score = lambda mean: np.r_[mean, mean + np.linspace(-0.1, 0.1, 201)]  # noqa: E731

    def holds(effect, *controls, upper=1.0):
        named = {str(i): np.full(202, control) for i, control in enumerate(controls)}
        return judge("c", "f", score(effect), named, upper)["holds"]

    assert holds(0.8, 0.1, 0.5)
    assert not holds(0.8, 0.1, 0.75)  # the strongest control is within the interval
    assert not holds(0.4, 0.1)  # less than half of the upper bound
    assert holds(0.4, 0.1, upper=0.7)
    row = judge("c", "f", score(0.8), {"a": np.full(202, 0.1), "b": np.full(202, 0.5)})
    assert (row["strongest control"], row["gain"]) == ("b", pytest.approx(0.3))
    rows = lambda *flags: [{"feature": f, "holds": h, "counts": c} for f, h, c in flags]  # noqa: E731
    assert verdict_of(rows(("a", True, True), ("b", True, True), ("c", False, False))) == "holds"
    assert verdict_of(rows(("a", True, True), ("b", False, True))) == "in part"
    assert verdict_of(rows(("a", True, True), ("a", False, True))) == "does not"  # two seeds of one feature
    seeds = [{"feature": feature, "holds": True, "counts": True, "run": run}
             for feature, run in (("a", 0), ("a", 1), ("b", 0))]
    assert verdict(seeds) | {"holds for": "a", "not for": "b", "runs": 2} == verdict(seeds)
    assert verdict_of([]) == "does not"


def test_equal_boards_are_drawn_together():
    W = resample(np.array([[1, 2], [3, 4], [1, 2], [5, 6]]), np.random.default_rng(0), 50)
    assert W.shape == (51, 4)
    np.testing.assert_array_equal(W[:, 0], W[:, 2])
    np.testing.assert_array_equal(W[:, [0, 1, 3]].sum(1), 3)
    assert (W[0] == 1).all()
