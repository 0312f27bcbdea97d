"""What is encoded: read-outs of planted codes and of noise."""
import numpy as np
import planted
import pytest
from planted import MASKING, PROBA, noise_like, source, verdict_of

from module_dataset import AbstractionDataset
from studies.claims import decodability, generalisation
from studies.claims import readouts as module
from studies.claims.generalisation import contexts_of
from studies.claims.readouts import Fits, Task, curves_of, of_input, predictions, readouts
from studies.claims.sample import make_sample
from studies.claims.scores import Skill, resample
from studies.claims.statistics import NormalEquations


def one_hot_labels(sample):
    labels = [sample.labels[name] for name in sample.labels]
    return np.concatenate([np.eye(values.max() + 2)[values] for values in labels], -1).astype(np.float32)


def weights_of(sample, draws=100):
    return resample(sample.test_board.max() + 1, np.random.default_rng(0), draws)[:, sample.test_board]


def crossed(network, fresh, sample, wanted, dataset=None):
    """The rows of crossings {name: (label, condition)} of arrays {stage: (n, T, F)}."""
    tasks = generalisation.tasks_of(sample, dataset or planted.dataset(), wanted)
    stages = {"network": network, "untrained network": fresh}
    found = {name: readouts(source(**X), tasks, sample, weights_of(sample)) for name, X in stages.items()}
    return generalisation.measure(found)


@pytest.mark.parametrize("encoded", [True, False])
def test_decodability_of_the_label_itself_and_of_noise(encoded):
    sample = planted.sample()
    late = one_hot_labels(sample) if encoded else noise_like(sample, 3)
    network = {"early": noise_like(sample, 1), "late": late}
    fresh = {"early": noise_like(sample, 4), "late": noise_like(sample, 2)}
    tasks = decodability.tasks_of(sample, np.random.default_rng(0))
    found = {name: readouts(source(**stages), tasks, sample, weights_of(sample))
             for name, stages in (("network", network), ("untrained network", fresh))}
    rows, curves = decodability.measure(found)
    assert verdict_of(rows) == ("supported" if encoded else "not supported")
    assert {row.feature.split(",")[0] for row in rows} == set(sample.labels)
    assert len(rows) == 14
    if encoded:
        assert all(row.stage == "late" and row.effect[0] > 0.95 for row in rows)
        assert all(abs(row.controls["control task"][0]) < 0.5 for row in rows)
    assert {row["stage"] for row in curves} == {"early", "late"}
    names = [("root", "background"), ("root", "place on the board"), ("root", "companion"), ("row", "root")]
    rows = crossed(network, fresh, sample, names)
    assert [row.feature for row in rows] == [f"{label} across {condition}" for label, condition in names]
    assert verdict_of(rows) == ("supported" if encoded else "not supported")


def test_read_outs_fitted_in_one_context_fail_where_the_code_changes():
    sample = planted.sample()
    contexts, root = contexts_of(sample, planted.dataset()), sample.labels["root"]
    code = np.where(contexts["background"] == 0, root, (root + 5) % 10 * (root >= 0) - (root < 0))
    rows = crossed({"x": np.eye(11, dtype=np.float32)[code]}, {"x": noise_like(sample, 2)}, sample,
                   [("root", "background")])
    assert rows[0].effect[0] < 0.1
    assert verdict_of(rows) == "not supported"


def test_read_outs_of_single_boards_carry_over_where_the_code_is_one():
    sample = planted.sample()
    root, types = sample.labels["root"], sample.drawn.types[:, None]
    for shift, expected in ((0, "supported"), (5, "not supported")):  # on other boards root k is said as k + shift
        code = np.where((root >= 0) & (types > 0), (root + shift) % 10, root)
        rows = crossed({"x": np.eye(11, dtype=np.float32)[code]}, {"x": noise_like(sample, 2)}, sample,
                       [("root", "double boards"), ("root", "composites")])
        assert {row.table for row in rows} == {"composition"}
        assert verdict_of(rows) == expected


@pytest.mark.parametrize("split", ["places", "stringent", "pairs"])
def test_what_was_never_shown_is_a_context_of_its_own(split):
    dataset = AbstractionDataset(seed=0, split_method=split, card_test={"places": 0.5, "pairs": 6}.get(split, 4))
    sample = make_sample(dataset, PROBA, MASKING, np.random.default_rng(0), 120, 60, 20, 1)
    condition = generalisation.NEW[split]
    half = contexts_of(sample, dataset)[condition]
    assert set(np.unique(half)) == {-1, 0, 1}
    assert not (half[sample.part < 2] == 1).any()
    assert not (half[sample.test] == 0).any()
    new = half == 1
    if split == "pairs":
        train = dataset.table(1, "train")
        shown = set(map(tuple, train.take(np.arange(0, len(train), 10))[:, [0, 3]]))
        objects = sample.drawn.objects[new.any(1)]
        assert not {(a, b) for a, b in objects[:, :2, 0]} & shown
    else:
        shown = {tuple(row[:3]) for row in dataset.table(0, "train").take(np.arange(len(dataset.table(0, "train"))))}
        named = np.stack([sample.labels[name][new] for name in ("root", "row", "column")], 1)
        assert not set(map(tuple, named)) & shown
    root, seen = sample.labels["root"], np.where(sample.part < 2, 0, 1)[:, None]
    for shift, expected in ((0, "supported"), (5, "not supported")):
        code = np.where(root >= 0, (root + shift * seen) % 10, root)
        rows = crossed({"x": np.eye(11, dtype=np.float32)[code]}, {"x": noise_like(sample, 2)}, sample,
                       [("root", condition)], dataset)
        assert rows[0].feature in ("root at positions never shown", "root in pairs never shown")
        assert rows[0].upper > 0.95  # the same read-out on boards of train
        assert verdict_of(rows) == expected


def test_a_companion_is_the_other_object():
    sample = planted.sample()
    companion, root = contexts_of(sample, planted.dataset())["companion"], sample.labels["root"]
    objects, doubles = sample.drawn.objects[:, :2, 0], (sample.drawn.types == 1)[:, None] & (root >= 0)
    other = np.where(root == objects[:, :1], objects[:, 1:], objects[:, :1])
    told = doubles & (objects[:, :1] != objects[:, 1:])
    np.testing.assert_array_equal(companion[told], (other % 2)[told])
    assert (companion[~doubles] == -1).all()


def test_each_cell_has_a_read_out_of_its_own_from_features_of_boards():
    """Fitted where train_each says, as hidden cells alone are too few examples."""
    sample = planted.sample()
    X = np.eye(10, dtype=np.float32)[sample.drawn.backgrounds]
    every = np.ones_like(sample.hidden)
    never = Task(sample.labels["background"], np.zeros_like(every), every, every)
    found = readouts(source(x=X), {"background": never}, sample, weights_of(sample))
    assert found["background"]["x"].score[0] == 1


def test_batches_of_examples_give_what_all_at_once_gives():
    """Ridge regression computed directly from all features, in float64."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((300, 29)).astype(np.float32), rng.standard_normal((300, 2))
    equations = NormalEquations()
    for part in np.array_split(np.arange(300), 7):
        equations.add(X[part], Y[part])
    x, y = X - X.mean(0, dtype=float), Y - Y.mean(0)
    strengths = (1e-5, 1e-3, 1e-1)
    [solved] = equations.weights(strengths, [np.arange(2)])
    for strength, weights in zip(strengths, solved.swapaxes(0, 1), strict=True):
        exact = np.linalg.solve(x.T @ x + strength * (x**2).sum() / 29 * np.eye(29), x.T @ y)
        np.testing.assert_allclose(weights[:-1], exact, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(weights[-1], Y.mean(0) - X.mean(0, dtype=float) @ exact, rtol=1e-6, atol=1e-9)


def test_cells_in_several_groups_are_summed_once_and_counted_in_each(monkeypatch):
    """Weights of tasks at overlapping cells, also after others are dropped, are those of each task by itself."""
    monkeypatch.setattr(module, "AT_ONCE", 50)
    sample, every = planted.sample(), np.ones_like(planted.sample().hidden)
    tasks = {f"{label}, {where}": Task(sample.labels[label], cells, cells)
             for label in ("root", "row") for where, cells in (
                 ("all", every), ("hidden", sample.hidden), ("some", sample.hidden & (sample.labels["root"] > 2)))}
    features, parts = source(x=noise_like(sample, 1, 5)), (slice(0, 90), slice(90, sample.n_fit))
    fits = Fits(tasks)
    fits.add(features(parts[0]), parts[0])
    going = ["row, hidden", "root, some"]
    for names in (list(tasks), going):
        fits.keep(names)
        alone = {name: Fits({name: tasks[name]}) for name in names}
        for name, fit in alone.items():
            for part in parts[: 1 + (names == going)]:
                fit.add(features(part), part)
            np.testing.assert_allclose(dict(fits.weights())["x", name], dict(fit.weights())["x", name], atol=1e-5)
        fits.add(features(parts[1]), parts[1])


@pytest.mark.parametrize("each", [False, True])
def test_weights_of_a_sample_are_those_of_a_direct_computation(each, monkeypatch):
    """Tasks that share cells, cells that share weights or not, batches of seven boards."""
    monkeypatch.setattr(module, "AT_ONCE", 7)
    sample = planted.sample()
    few = of_input(sample.tokens % 5, 5)["whole masked board"]
    features = few if each else source(x=noise_like(sample, 1, 5))
    where, root = sample.hidden & (sample.labels["root"] >= 0), sample.labels["root"]
    tasks = {"root": Task(root, where, where), "place": Task(sample.labels["place in the root"], where, where)}
    fits = Fits(tasks, each)
    for start in range(0, sample.n_fit, 7):
        part = slice(start, min(start + 7, sample.n_fit))
        fits.add(features(part), part)
    [stage] = features(slice(1))
    weights, fit = dict(fits.weights())[stage, "root"], slice(sample.n_fit)
    X, train = features(fit)[stage].astype(float), where[fit]
    if each:
        Y = (np.eye(10)[root[fit]] * train[..., None]).reshape(len(X), -1)[train.any(1)]
        X = X[train.any(1)]
    else:
        X, Y = X[train], np.eye(10)[root[fit][train]]
    x, y = X - X.mean(0), Y - Y.mean(0)
    for strength, found in zip(module.RIDGE[each:], weights.swapaxes(0, 1), strict=True):
        penalty = strength * (x**2).sum() / X.shape[1] * np.eye(X.shape[1])
        exact = np.linalg.solve(x.T @ x + penalty, x.T @ y)
        np.testing.assert_allclose(X @ found[:-1] + found[-1], x @ exact + Y.mean(0), atol=1e-6)
    predicted = predictions(features, {(stage, "root"): weights}, tasks, sample.test)[stage, "root"]
    some = features(sample.test)[stage] @ weights[:-1, 1] + weights[-1, 1]
    answer = some.reshape(*sample.tokens[sample.test].shape, 10).argmax(-1)
    np.testing.assert_array_equal(answer[where[sample.test]], predicted[1])


def test_fits_grow_until_they_no_longer_help(monkeypatch):
    monkeypatch.setattr(module, "FIRST", 30)
    sample, root = planted.sample(), planted.sample().labels["root"]
    tasks = {"root": Task(root, root >= 0, (root >= 0) & sample.known["root"])}
    told = readouts(source(x=np.eye(11, dtype=np.float32)[root]), tasks, sample, weights_of(sample))["root"]["x"]
    assert max(told.curve) == 120  # perfect before
    assert told.curve[120] == told.curve[60] == told.chosen_by == 1
    dim = 0.4 * np.eye(11, dtype=np.float32)[root] + noise_like(sample, 1, 11)  # much to average over
    found = readouts(source(x=np.concatenate([dim, noise_like(sample, 2, 400)], -1)), tasks, sample, weights_of(sample))
    curve = found["root"]["x"].curve
    assert list(curve)[:3] == [30, 60, 120]
    assert curve[120] > curve[30] + 0.01
    assert curves_of("dim", found)[0] == {
        "source": "dim", "read-out": "root", "stage": "x", "boards": 30, "skill": curve[30]}
    assert max(curve) <= sample.n_fit


def test_what_is_near_a_cell_tells_its_root_and_its_place():
    """Tokens of these boards name root and place: one visible neighbour is enough, the cell's own token is not if
    hidden."""
    sample = planted.sample()
    root, position = sample.labels["root"], 27
    near = of_input(sample.tokens, 101)["neighbourhood"](slice(3))[""]
    assert near.shape == (3, 64, 25 * 101 + 64)
    cells = near[:, position, : 25 * 101].reshape(3, 25, 101)
    around = [position + 8 * i + j for i in range(-2, 3) for j in range(-2, 3)]
    np.testing.assert_array_equal(cells.argmax(-1), sample.tokens[:3, around])
    assert near[0, 0, : 25 * 101].sum() == 9  # a corner has nine cells around it
    assert (near[:, :, 25 * 101 :] == np.eye(64)).all()
    where = sample.hidden & (root >= 0)
    tasks = {"root": Task(root, where, where & sample.known["root"])}
    inputs = of_input(sample.tokens, 101)
    scores = {name: readouts(inputs[name], tasks, sample, weights_of(sample))["root"][""].score[0]
              for name in ("neighbourhood", "own token and position")}
    assert scores["neighbourhood"] > scores["own token and position"] + 0.3


def test_skill_of_a_read_out_is_that_of_its_predictions():
    sample, root = planted.sample(), planted.sample().labels["root"]
    tasks = {"root": Task(root, root >= 0, root >= 0)}
    X = noise_like(sample, 1)
    score = readouts(source(x=X), tasks, sample, weights_of(sample))["root"]["x"].score
    assert score.boards == 36
    assert -1 / 9 <= score[0] < 0.2
    assert score.least == pytest.approx(-1 / 9)
    use = (root >= 0)[sample.test]
    perfect = Skill(root[sample.test], use, weights_of(sample))
    assert perfect(root[sample.test][use])[0] == 1
