"""What is encoded: read-outs of planted codes and of noise."""
import numpy as np
import planted
import pytest
from planted import noise_like, verdict_of

from studies.claims import decodability, generalisation
from studies.claims.generalisation import contexts_of
from studies.claims.readouts import predict, readouts
from studies.claims.sample import label_names
from studies.claims.scores import resample
from studies.claims.statistics import ridge


def one_hot_labels(sample):
    labels = [sample.labels[name] for name in sample.labels]
    return np.concatenate([np.eye(values.max() + 2)[values] for values in labels], -1).astype(np.float32)


@pytest.mark.parametrize("encoded", [True, False])
def test_decodability_of_the_label_itself_and_of_noise(encoded):
    dataset, sample = planted.dataset(), planted.sample()
    late = one_hot_labels(sample) if encoded else noise_like(sample, 3)
    sources = {"network": {"early": noise_like(sample, 1), "late": late},
               "untrained network": {"early": noise_like(sample, 4), "late": noise_like(sample, 2)}}
    W = resample(sample.test_board.max() + 1, np.random.default_rng(0), 100)
    codes = {name: np.random.default_rng(seed).standard_normal((64, 4)) for seed, name in enumerate(sources)}
    rows, curves = decodability.measure(sources, codes, sample, W[:, sample.test_board], np.random.default_rng(0))
    assert verdict_of(rows) == ("supported" if encoded else "not supported")
    assert {row.feature.split(",")[0] for row in rows if row.counts} == set(label_names(dataset))
    assert all(row.feature.endswith("from [z, p]") == row.counts for row in rows if "or visible" not in row.feature)
    if encoded:
        assert all(row.stage == "late" and row.effect[0] > 0.95 for row in rows)
        early = [row for row in curves if row["stage"] == "early"]
        chance = [row["value"] for row in early if row["source"] == "control task"]
        assert np.abs(chance).max() < 0.35
    contexts = contexts_of(sample, dataset)
    rows = generalisation.measure(sources, sample, contexts, W[:, sample.test_board], np.random.default_rng(0))
    names = ("root across background", "root across place on the board", "root across companion",
             "row across root")
    crossed = [row for row in rows if row.feature in names]
    assert len(crossed) == 4
    assert verdict_of(crossed) == ("supported" if encoded else "not supported")
    if encoded:
        assert crossed[0].extras["parallelism"] > 0.9 > 0.3 > abs(crossed[0].extras["parallelism, shuffled"])


def test_read_outs_fitted_in_one_context_fail_where_the_code_changes():
    dataset, sample = planted.dataset(), planted.sample()
    contexts = contexts_of(sample, dataset)
    root = sample.labels["root"]
    code = np.where(contexts["background"] == 0, root, (root + 5) % 10 * (root >= 0) - (root < 0))
    X = np.eye(11, dtype=np.float32)[code]
    sources = {"network": {"x": X}, "untrained network": {"x": noise_like(sample, 2)}}
    W = resample(sample.test_board.max() + 1, np.random.default_rng(0), 100)
    rows = generalisation.measure(sources, sample, contexts, W[:, sample.test_board], np.random.default_rng(0),
                                  [("root", "background")])
    assert rows[0].effect[0] < 0.1
    assert verdict_of(rows) == "not supported"


def test_read_outs_of_single_boards_carry_over_where_the_code_is_one():
    dataset, sample = planted.dataset(), planted.sample()
    root, types = sample.labels["root"], sample.drawn.types[:, None]
    W = resample(sample.test_board.max() + 1, np.random.default_rng(0), 100)[:, sample.test_board]
    for shift, expected in ((0, "supported"), (5, "not supported")):  # on other boards root k is said as k + shift
        code = np.where((root >= 0) & (types > 0), (root + shift) % 10, root)
        X = np.eye(11, dtype=np.float32)[code]
        sources = {"network": {"x": X}, "untrained network": {"x": noise_like(sample, 2)}}
        rows = generalisation.measure(sources, sample, contexts_of(sample, dataset), W, np.random.default_rng(0),
                                      [("root", "double boards"), ("root", "composites")])
        assert {row.table for row in rows} == {"composition"}
        assert verdict_of(rows) == expected


def test_read_outs_from_z_and_the_position_code_are_those_from_both_in_one():
    sample = planted.sample()
    X, code = noise_like(sample, 1), np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    row, fitted = sample.labels["row"], np.ones((sample.n_fit, 64), bool)
    together = np.concatenate([X, np.broadcast_to(code, (len(X), 64, 4))], -1)
    for one, other in zip(predict(X, row, fitted, code), predict(together, row, fitted), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (predict(X, row, fitted, code)[0] != predict(X, row, fitted)[0]).any()


def test_a_companion_is_the_other_object():
    sample = planted.sample()
    companion, root = contexts_of(sample, planted.dataset())["companion"], sample.labels["root"]
    objects, doubles = sample.drawn.objects[:, :2, 0], (sample.drawn.types == 1)[:, None] & (root >= 0)
    other = np.where(root == objects[:, :1], objects[:, 1:], objects[:, :1])
    told = doubles & (objects[:, :1] != objects[:, 1:])
    np.testing.assert_array_equal(companion[told], (other % 2)[told])
    assert (companion[~doubles] == -1).all()


def test_the_whole_board_is_read_by_what_all_cells_teach():
    """Of hidden and visible cells alike, as each cell has a read-out of its own there."""
    sample = planted.sample()
    board = np.eye(101, dtype=np.float32)[sample.tokens].reshape(len(sample.tokens), -1)
    sources = {"network": {"x": noise_like(sample, 1)}, "whole masked board": {"": board}}
    W = resample(sample.test_board.max() + 1, np.random.default_rng(0), 20)[:, sample.test_board]
    codes = {"network": np.zeros((64, 1), np.float32)}
    rows, _ = decodability.measure(sources, codes, sample, W, np.random.default_rng(0))
    row = next(row for row in rows if row.feature == "root, hidden cells")
    values, judged = sample.labels["root"], sample.hidden & (sample.labels["root"] >= 0) & sample.known["root"]
    found = readouts({"": board}, values, np.ones_like(judged), judged, sample, W)[""]
    assert row.controls["whole masked board"][0] == found.score[0]


def test_whole_board_read_out_is_fitted_for_each_cell():
    sample = planted.sample()
    n_fit = sample.n_fit
    X = np.eye(10, dtype=np.float32)[sample.drawn.backgrounds]
    made = predict(X, sample.labels["background"], np.ones((n_fit, 64), bool))
    np.testing.assert_array_equal(made[0], sample.labels["background"][n_fit:])


def test_ridge_agrees_from_features_and_from_examples():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((30, 29)), rng.standard_normal((30, 2))
    wide = np.concatenate([X, np.zeros((30, 5))], 1)  # features that say nothing, but make the examples fewer
    for strength in (1e-3, 1e-1):
        (w,), (v,) = ridge(X, Y, [strength]), ridge(wide, Y, [strength * 34 / 29])
        np.testing.assert_allclose(X @ w[:-1] + w[-1], wide @ v[:-1] + v[-1], atol=1e-4)
        x, y = X - X.mean(0), Y - Y.mean(0)
        exact = np.linalg.solve(x.T @ x + strength * (x**2).sum() / 29 * np.eye(29), x.T @ y)
        np.testing.assert_allclose(w[:-1], exact, atol=1e-4)
