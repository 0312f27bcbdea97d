"""What drives decisions: swaps in networks of which the answer is known."""
from dataclasses import replace

import numpy as np
import planted
from planted import MASKING, PROBA, cells_of, verdict_of

from module_dataset import AbstractionDataset
from studies.claims.composition import measure, part_whole
from studies.claims.manipulation import Store, noise_like, swap_rows
from studies.claims.sample import make_sample
from studies.claims.swaps import swaps_of


def edited(acts, edits):
    """Activations (n, T, V) of the one editable stage after edits."""
    for values, where in (edits or {}).values():
        acts = np.where(where[..., None], values, acts)
    return acts


class Lookup:
    """A network of one editable stage, the one-hot tokens, that draws the object most cells speak for."""

    stages = editable = ["b0_z_attn_mlp"]

    def __init__(self, dataset, listens: bool):
        self.dataset, self.listens = dataset, listens

    def run(self, tokens, stages=(), edits=None):
        V = self.dataset.vocab_size
        acts = np.eye(V, dtype=np.float32)[tokens]
        used = edited(acts, edits) if self.listens else acts
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


def test_swap_succeeds_every_time_where_it_must_and_never_where_it_cannot():
    singles = planted.singles()
    rng = np.random.default_rng(0)
    swaps = swaps_of(singles, 0, 60, rng)
    sample = make_sample(singles, [1], MASKING, rng, 300, 30, 4, 1)
    for listens in (True, False):
        network = Lookup(singles, listens)
        store = Store(network, sample, singles)
        rows = swap_rows(network, swaps, "manipulation", "here", rng, 200, store, store.class_means())
        swap, difference = cells_of(rows)
        assert verdict_of(rows) == ("supported" if listens else "not supported")
        assert swap["upper"] == 1
        assert swap["effect"] == difference["effect"] == listens
        assert swap["control: a third root"] == swap["control: nothing"] == 0


class Tokens(Lookup):
    """Stages are the one-hot tokens; the board is drawn from the root that most tokens are in, wherever they are."""

    def run(self, tokens, stages=(), edits=None):
        acts = np.eye(self.dataset.vocab_size, dtype=np.float32)[tokens]
        return edited(acts, edits), dict.fromkeys(stages, acts)


def test_the_same_tokens_in_other_roots_are_a_control():
    """Roots share tokens here: the control puts the donor's tokens in, from boards where they belong to a third root."""
    dataset = AbstractionDataset(seed=0, board_types=["single"], board_types_proba=[1])
    rng = np.random.default_rng(0)
    network, swaps = Tokens(dataset, True), swaps_of(dataset, 0, 40, rng)
    sample = make_sample(dataset, [1], MASKING, rng, 2000, 30, 4, 1)
    store = Store(network, sample, dataset)
    numbers = store.elsewhere(swaps, rng)
    assert ((numbers >= 0) <= swaps.edit).all()
    assert (numbers >= 0)[swaps.edit].mean() > 0.9
    b, c = np.nonzero(numbers >= 0)
    taken = numbers[b, c]
    np.testing.assert_array_equal(store.token[taken], swaps.tokens["donor"][b, swaps.cells[b, c]])
    np.testing.assert_array_equal(store.cell[taken], swaps.cells[b, c])
    np.testing.assert_array_equal(store.acts["b0_z_attn_mlp"][taken].argmax(1), store.token[taken])
    for name in ("base", "donor"):
        assert (store.root[taken] != swaps.kinds[name][b, c] // 9).all()
    rows = swap_rows(network, swaps, "manipulation", "here", rng, 20, store)
    assert "the same tokens in other roots" in rows[0].controls
    blank = replace(swaps, tokens={"donor": np.zeros_like(swaps.base)})
    assert (store.elsewhere(blank, rng) == -1).all()  # a background is no root's


def test_swaps_are_matched_and_read_only_where_nothing_was_edited():
    dataset = planted.dataset()
    rng = np.random.default_rng(0)
    made = [swaps_of(dataset, type_, 30, rng) for type_ in range(3)]
    for swaps, edited in zip(made, (1, 1, 3), strict=True):
        b, c = np.nonzero(swaps.edit)
        cells = swaps.cells[b, c]
        unk = dataset.masking_token
        assert (swaps.tokens["base"][b, cells] != unk).all()
        assert (swaps.tokens["base"][swaps.read] == unk).all()
        assert (swaps.base != swaps.donor)[swaps.read].all()
        edit = np.zeros(swaps.base.shape, bool)
        edit[b, cells] = True
        given = np.where(edit, swaps.donor, swaps.tokens["base"])
        np.testing.assert_array_equal(swaps.tokens["donor"], given)
        np.testing.assert_array_equal(swaps.tokens["base"] == unk, swaps.tokens["donor"] == unk)
        np.testing.assert_array_equal(swaps.base[swaps.away], swaps.donor[swaps.away])
        assert not swaps.away[b, cells].any()
        objects = swaps.edit.reshape(len(swaps.rows), -1, 9).any(-1).sum(1)
        np.testing.assert_array_equal(objects, edited)
        for who, board in (("base", swaps.base), ("donor", swaps.donor)):
            np.testing.assert_array_equal(swaps.kinds[who][b, c] + 10, board[b, cells])


def test_noise_has_the_mean_and_the_covariance_of_what_it_replaces():
    rng = np.random.default_rng(0)
    acts = rng.standard_normal((4000, 5, 3)) @ np.array([[2, 1, 0], [0, 1, 0], [0, 0, 0.1]]) + [3, -2, 5]
    edit = rng.random((4000, 5)) < 0.5
    acts[~edit] = 100  # what is not edited has no part in it
    noise = noise_like(acts, edit, rng)[edit]
    np.testing.assert_allclose(noise.mean(0), acts[edit].mean(0), atol=0.1)
    np.testing.assert_allclose(np.cov(noise.T), np.cov(acts[edit].T), atol=0.15)


def test_two_visible_cells_that_differ_are_enough_for_a_swap():
    """Roots that differ in three cells: one to be read, two to be edited."""
    made = AbstractionDataset(abs_n=3, vocab_token=10, board_types=["single"], board_types_proba=[1], seed=0)
    roots = np.full((3, 3, 3, 1), 10)
    roots[:, 0, :, 0] += np.arange(3)[:, None] + 1
    made.roots = roots
    swaps = swaps_of(made, 0, 200, np.random.default_rng(0))
    edited = np.zeros(swaps.base.shape, bool)
    b, c = np.nonzero(swaps.edit)
    edited[b, swaps.cells[b, c]] = True
    assert set(((swaps.base != swaps.donor) & edited).sum(1)) == {2}
    assert set(swaps.read.sum(1)) == {1}


def test_hidden_root_of_a_composite_is_judged_against_the_best():
    dataset = planted.dataset()

    class Best(Lookup):
        def run(self, tokens, stages=(), edits=None):
            made = dataset.best_reconstruction(tokens.reshape(-1, 8, 8), PROBA).board.reshape(tokens.shape)
            return np.eye(dataset.vocab_size)[made], {}

    rng = np.random.default_rng(0)
    swaps = swaps_of(dataset, 2, 30, rng)
    row = part_whole(Best(dataset, True), Lookup(dataset, True), dataset, swaps, PROBA, rng, 100).as_dict()
    assert row["effect"] == row["upper"] == 1
    shown = swaps_of(dataset, 2, 30, rng, one_shown=True)
    hidden = (shown.tokens["base"] == dataset.masking_token).sum(1)
    assert set(hidden) == {8}
    row8 = part_whole(Best(dataset, True), Lookup(dataset, True), dataset, shown, PROBA, rng, 100, True).as_dict()
    assert row8["feature"] == f"{row['feature']}, one cell shown"
    assert row8["effect"] == row8["upper"] == 1
    assert row["control: untrained network"] == 0
    slots = dataset.compositions.reshape(5, 4)
    most = max(np.bincount(column).max() for column in slots.T)
    assert 0 < row["control: the root most frequent there"] < (most + 1) / 5 + 0.2


def test_all_visible_constituents_of_a_composite_are_swapped():
    dataset = planted.dataset()
    network = Lookup(dataset, True)
    store = Store(network, planted.sample(), dataset)
    rows = cells_of(measure(network, network, dataset, [2], PROBA, store, MASKING, np.random.default_rng(0), 12, 20))
    assert [row["feature"] for row in rows if row["counts"]][2:] == ["swap, 3 of 3 visible constituents of a composite, b0_z_attn_mlp"]
