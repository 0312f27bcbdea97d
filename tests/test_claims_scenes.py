"""Boards, what is on them, what can be known of them."""
import numpy as np
import planted
from planted import PROBA

from studies.claims.sample import _to_choose_by, label_posterior
from studies.claims.scenes import rows_of


def test_labels_and_their_posterior():
    dataset, sample = planted.dataset(), planted.sample()
    scenes = sample.scenes
    for b in range(0, len(scenes.boards), 40):
        posterior = label_posterior(dataset, scenes.boards[b], PROBA)
        for name, table in posterior.items():
            np.testing.assert_allclose(table.sum(1), 1)
            true = np.take_along_axis(table, sample.labels[name][b][:, None], 1)[:, 0]
            np.testing.assert_allclose(true, 1)  # an unmasked board of these tells everything
    everything = np.full((8, 8), dataset.masking_token)
    np.testing.assert_allclose(label_posterior(dataset, everything, PROBA)["background"][:, :10], 0.1)
    tokens = scenes.boards.reshape(len(scenes.boards), -1)
    on = sample.labels["root"] >= 0
    kinds = sample.labels["root"] * 9 + sample.labels["place in the root"]
    np.testing.assert_array_equal(tokens[on] - 10, kinds[on])
    assert (tokens[~on] < 10).all()
    to_choose = slice(sample.n_fit, sample.test.start)
    parts = [set(map(tuple, tokens[part])) for part in (slice(sample.n_fit), to_choose, sample.test)]
    sizes = [(sample.part == k).sum() for k in range(3)]
    assert sizes == [sample.n_fit, sample.n_valid, len(tokens[sample.test])]
    assert len(parts[2]) == len(tokens[sample.test]) / 2
    assert len(set.union(*parts)) == sum(map(len, parts))  # split by board
    assert set(scenes.backgrounds[to_choose] % 2) == {0, 1}  # not every sixth row: backgrounds alternate


def test_a_sixth_of_the_rows_is_to_choose_by_and_a_row_s_copies_stay_together():
    dataset = planted.dataset()
    rows = rows_of(dataset, 1, "train", 6000, np.random.default_rng(0))
    chosen = _to_choose_by(dataset, 1, rows)
    assert 0.15 < chosen.mean() < 0.185
    assert (_to_choose_by(dataset, 1, np.concatenate([rows[::-1], rows]))[6000:] == chosen).all()
