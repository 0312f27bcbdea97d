"""Boards, what is on them, what can be known of them."""
import numpy as np
import planted
from planted import MASKING, PROBA

from module_dataset import AbstractionDataset
from studies.claims.sample import known_labels, make_sample, to_choose_by
from studies.claims.scenes import hashed, rows_of, without_held_out


def test_labels_and_which_of_them_can_be_known():
    dataset, sample = planted.dataset(), planted.sample()
    drawn = sample.drawn
    for b in range(0, len(drawn.boards), 40):
        truth = {name: values[b] for name, values in sample.labels.items()}
        for known in known_labels(dataset, drawn.boards[b], truth, PROBA).values():
            assert known.all()  # an unmasked board of these tells everything
        false = {name: values + 1 for name, values in truth.items() if name != "background"} | {
            "background": truth["background"]}
        for name, known in known_labels(dataset, drawn.boards[b], false, PROBA).items():
            assert known.any() == (name == "background")
    everything = np.full((8, 8), dataset.masking_token)
    assert not any(known.any() for known in known_labels(dataset, everything, truth, PROBA).values())
    tokens = drawn.boards.reshape(len(drawn.boards), -1)
    on = sample.labels["root"] >= 0
    kinds = sample.labels["root"] * 9 + sample.labels["place in the root"]
    np.testing.assert_array_equal(tokens[on] - 10, kinds[on])
    assert (tokens[~on] < 10).all()
    to_choose = slice(sample.n_fit, sample.test.start)
    parts = [set(map(tuple, tokens[part])) for part in (slice(sample.n_fit), to_choose, sample.test)]
    sizes = [(sample.part == k).sum() for k in range(3)]
    assert sizes == [sample.n_fit, sample.n_valid, len(tokens[sample.test])]
    assert sample.test_board.max() + 1 == len(tokens[sample.test]) / 2
    assert len(set.union(*parts)) == sum(map(len, parts))  # split by board
    assert set(drawn.backgrounds[to_choose] % 2) == {0, 1}  # not every sixth row: backgrounds alternate


def test_a_sixth_of_the_rows_isto_choose_by_and_a_row_s_copies_stay_together():
    dataset = planted.dataset()
    rows = rows_of(dataset, 1, "train", 6000, np.random.default_rng(0))
    chosen = to_choose_by(dataset, 1, rows)
    assert 0.15 < chosen.mean() < 0.185
    assert (to_choose_by(dataset, 1, np.concatenate([rows[::-1], rows]))[6000:] == chosen).all()


def test_boards_of_a_type_that_has_none_held_out_are_not_those_fitted_on():
    """With split 'pairs' single boards are all of train, and a data set may have no split at all."""
    pairs = AbstractionDataset(seed=0, split_method="pairs", card_test=3)
    assert without_held_out(pairs, (0, 1, 2)) == ["single", "composition"]
    assert without_held_out(planted.dataset(), (0, 1, 2)) == []
    for dataset in (pairs, AbstractionDataset(seed=0, bool_split=False)):
        fitted, tested = (set(map(tuple, rows_of(dataset, 0, split, 400, np.random.default_rng(0)))) for split in ("train", "test"))
        assert len(fitted) > 200 < len(tested)
        assert not fitted & tested
        assert len(rows_of(dataset, 0, "test", 100, np.random.default_rng(0), distinct=True)) == 100
    sample = make_sample(pairs, PROBA, MASKING, np.random.default_rng(0), 150, 30, 6, 1)
    parts = [set(map(tuple, sample.drawn.tokens[sample.part == part])) for part in range(3)]
    assert not parts[2] & (parts[0] | parts[1])
    rows = rows_of(planted.dataset(), 0, "train", 50, np.random.default_rng(0))
    assert (hashed(planted.dataset(), 0, rows) < 2**32).all()


def test_a_sample_is_masked_as_it_is_told_and_has_every_held_out_row_once():
    dataset = AbstractionDataset(seed=0)
    sample = make_sample(dataset, PROBA, (0.6, 0.0), np.random.default_rng(0), 300, 60, 400, 1)
    assert 0.58 < sample.hidden.mean() < 0.62
    counts = [len(dataset.table(type_, "test")) for type_ in range(3)]
    np.testing.assert_array_equal(np.bincount(sample.drawn.types[sample.test]), counts)
    assert counts == [40, 400, 20]
    pictures = len(np.unique(sample.drawn.tokens[sample.test], axis=0))
    assert pictures < sum(counts)  # two rows of doubles may look alike: they are drawn together in the bootstrap
    assert len(set(sample.drawn.types[:50])) == 3  # boards to fit are in random order
