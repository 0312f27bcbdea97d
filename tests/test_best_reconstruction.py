"""The best possible reconstruction against every row drawn by plain loops."""
import itertools
from collections import defaultdict

import numpy as np
import pytest

from module_dataset import TYPES, AbstractionDataset
from tests.boards import SMALL, draw_slowly

PLAIN = dict(board_dim=4, abs_dim=2, abs_c=4, abs_n=2, vocab_bck=2, vocab_token=2, comp_n=2, comp_margin=0, comp_c=3,
             bool_split=False)
CASES = {
    "plain": {},
    "fuzzy": dict(abs_c=3, vocab_token=3, abs_w_c=2, abs_w_m=2, comp_c=2),
    "holes, no overlap": dict(abs_c=2, abs_n=3, abs_w_c=1, abs_w_m=2, comp_n=1, comp_dim=1, comp_c=1, allow_overlap=False),
    "no background": dict(board_dim=2, abs_n=3, vocab_bck=3, comp_n=1, comp_dim=1, comp_c=1,
                          board_types=["composition", "single"], board_types_proba=[0.3, 0.7]),
    "large overlaps": dict(board_dim=5, abs_dim=3, abs_c=8, vocab_token=3, abs_w_c=1, abs_w_m=3, comp_dim=1, comp_c=1,
                           board_types_proba=[0.2, 0.5, 0.3]),
}


def row_cells(dataset, type_, row):
    """Background and {cell: tokens it may show} of a row, later objects over earlier ones."""
    p = dataset.params
    if type_ == 2:
        step = p.abs_dim + p.comp_margin
        objects = [(root, row[1] + a * step, row[2] + b * step)
                   for (a, b), root in np.ndenumerate(dataset.compositions[row[0]]) if root >= 0]
    else:
        objects = [row[i : i + 3] for i in range(0, len(row) - 1, 3)]
    cells = {}
    for root, top, left in objects:
        for (a, b), tokens in [((a, b), dataset.roots[root, a, b]) for a in range(p.abs_dim) for b in range(p.abs_dim)]:
            cells[top + a, left + b] = [t for t in tokens if t >= 0] or [row[-1]]
    return row[-1], cells


def every_picture(dataset, masked, proba):
    """{picture: posterior} of all rows of all families and all that fuzzy cells may show."""
    masses = defaultdict(float)
    visible = [x for x in np.ndindex(masked.shape) if masked[x] != dataset.masking_token]
    for name, weight in zip(dataset.board_types, proba, strict=True):
        family = dataset.params.families[TYPES.index(name)]
        for row in family.unrank(np.arange(family.size)).tolist() if weight else ():
            bck, cells = row_cells(dataset, TYPES.index(name), row)
            if any(masked[x] not in cells.get(x, [bck]) for x in visible):
                continue
            ways = np.prod([len(tokens) for tokens in cells.values()])
            for shown in itertools.product(*cells.values()):
                board = np.full(masked.shape, bck)
                board[tuple(zip(*cells, strict=True))] = shown
                if all(board[x] == masked[x] for x in visible):
                    masses[board.tobytes()] += weight / family.size / ways
    return {picture: mass / sum(masses.values()) for picture, mass in masses.items()}


def marginal_of(masses, dataset, board):
    """The probabilities of tokens (h, w, V) of {picture: posterior}."""
    marginal = np.zeros((*board.shape, dataset.vocab_size))
    for picture, mass in masses.items():
        marginal += mass * (np.frombuffer(picture, np.int64).reshape(board.shape)[..., None] == np.arange(dataset.vocab_size))
    return marginal


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("hidden", [0, 0.3, 0.7, 1])
def test_equals_all_rows_drawn_by_loops(case, hidden):
    dataset = AbstractionDataset(**PLAIN | CASES[case], seed=3)
    drawn = dataset.sample(3)
    masks, _ = dataset.mask(drawn.boards, hidden, 0.0)
    masked = np.where(masks, dataset.masking_token, drawn.boards)
    found, posterior = dataset.best_reconstruction(masked), dataset.posterior(masked)
    assert posterior.shape == (*masked.shape, dataset.vocab_size)
    for b in range(len(masked)):
        masses = every_picture(dataset, masked[b], dataset.board_types_proba)
        assert found.consistent[b] == len(masses)
        assert found.mass[b] == pytest.approx(max(masses.values()))
        assert masses[found.board[b].tobytes()] == pytest.approx(max(masses.values()))
        marginal = marginal_of(masses, dataset, masked[b])
        np.testing.assert_allclose(posterior[b], marginal, atol=1e-12)
        chosen = np.take_along_axis(marginal, found.marginal[b][..., None], -1)[..., 0]
        np.testing.assert_allclose(chosen, marginal.max(-1))


def test_prior_can_be_given():
    dataset = AbstractionDataset(**PLAIN, seed=1)
    hidden = np.full((1, 4, 4), dataset.masking_token)
    for proba in ([1, 0, 0], [0, 1, 0], [0.2, 0, 0.8]):
        masses = every_picture(dataset, hidden[0], proba)
        found = dataset.best_reconstruction(hidden, proba)
        assert found.consistent[0] == len(masses)
        assert found.mass[0] == pytest.approx(max(masses.values()))
        np.testing.assert_allclose(dataset.posterior(hidden, proba)[0], marginal_of(masses, dataset, hidden[0]), atol=1e-12)


def test_defaults_visible_cells_are_kept_and_the_ceiling_is_high():
    dataset = AbstractionDataset(seed=0)
    drawn = dataset.all_boards("test", 20, np.random.default_rng(0))
    masks, _ = dataset.mask(drawn.boards, 0.25, 0.5, drawn.types, drawn.corners, np.random.default_rng(1))
    found = dataset.best_reconstruction(np.where(masks, dataset.masking_token, drawn.boards))
    for boards in (found.board, found.marginal):
        np.testing.assert_array_equal(boards[~masks], drawn.boards[~masks])
        assert (boards == drawn.boards)[drawn.types != 1].mean() > 0.98
    sure = found.mass > 1 - 1e-12
    np.testing.assert_array_equal(found.board[sure], drawn.boards[sure])
    np.testing.assert_array_equal(sure, found.consistent == 1)


def test_twins_and_overlap_order_are_one_picture():
    dataset = AbstractionDataset(seed=0)
    board, _ = dataset._draw_board_deterministic("root", [1, 2], [[0, 0], [4, 4]], token_bck=3)
    found = dataset.best_reconstruction(board[None])
    assert (found.consistent[0], found.mass[0]) == (1, 1)
    assert len(dataset.hypotheses(board).weights) == 2


def test_what_cannot_be_done_is_refused_by_name():
    dataset = AbstractionDataset(**PLAIN, seed=1)
    impossible = np.full((2, 4, 4), dataset.masking_token)
    impossible[1, 0, :2] = 0, 1  # two backgrounds
    with pytest.raises(ValueError, match=r"masked_boards\[1\]: no board of this data set"):
        dataset.best_reconstruction(impossible)
    with pytest.raises(ValueError, match="masked_boards must have shape"):
        dataset.best_reconstruction(np.zeros((1, 5, 5), int))
    large = AbstractionDataset(board_dim=32, seed=0, bool_split=False)
    with pytest.raises(ValueError, match=r"masked_boards\[0\].*more than 10000000"):
        large.best_reconstruction(np.full((1, 32, 32), large.masking_token))
    fuzzy = AbstractionDataset(abs_w_c=9, abs_w_m=4, seed=0, bool_split=False, board_types=["single"], board_types_proba=[1])
    with pytest.raises(ValueError, match=r"masked_boards\[0\].*more than 10000000"):
        fuzzy.best_reconstruction(np.full((1, 8, 8), fuzzy.masking_token))


def test_posterior_agrees_with_the_best_reconstruction():
    dataset = AbstractionDataset(seed=2, abs_c=7, abs_w_c=2, abs_w_m=2)
    drawn = dataset.all_boards("test", 5, np.random.default_rng(0))
    masks, _ = dataset.mask(drawn.boards, 0.5, 0.5, drawn.types, drawn.corners, np.random.default_rng(1))
    masked = np.where(masks, dataset.masking_token, drawn.boards)
    best, posterior = dataset.best_reconstruction(masked), dataset.posterior(masked)
    np.testing.assert_allclose(posterior.sum(-1), 1)
    np.testing.assert_array_equal(posterior.argmax(-1), best.marginal)
    of_best = np.take_along_axis(posterior, best.board[..., None], -1)[..., 0]
    assert (of_best.min((1, 2)) >= best.mass - 1e-9).all()  # a board is at most as probable as each of its cells
    assert (posterior[..., dataset.masking_token] == 0).all()


def test_posterior_of_a_board_that_nothing_draws_is_zero():
    dataset = AbstractionDataset(**PLAIN, seed=1)
    masked = np.full((3, 4, 4), dataset.masking_token)
    masked[1, 0, :2] = 0, 1  # two backgrounds
    masked[2] = dataset.vocab_bck  # more object tokens than two roots have
    assert dataset.posterior(masked).any((1, 2, 3)).tolist() == [True, False, False]
    assert dataset.posterior(masked[:0]).shape == (0, 4, 4, dataset.vocab_size)
    with pytest.raises(ValueError, match="masked_boards must have shape"):
        dataset.posterior(masked[0])


def test_success_is_the_expectation_over_equally_probable_answers():
    """Against every row drawn, weighed and compared: sums to the posterior mass of the best board, over all boards."""
    ds = AbstractionDataset(**SMALL | {"board_types": ["single", "double"], "bool_split": False})
    rng = np.random.default_rng(0)
    drawn = ds.sample(60, rng=rng)
    hidden = rng.random(drawn.boards.shape) < 0.6
    masked = np.where(hidden, ds.masking_token, drawn.boards)
    every = []
    for type_, share in enumerate(ds.board_types_proba):
        rows = ds.params.families[type_].unrank(np.arange(ds.params.families[type_].size))
        every += [(draw_slowly(ds, type_, row)[0], share / len(rows)) for row in rows]
    boards, weights = np.array([board for board, _ in every]), np.array([weight for _, weight in every])
    by_board, of_cells = ds.observer.success(masked, drawn.boards)
    for b in range(len(masked)):
        fits = ((boards == masked[b]) | hidden[b]).all((1, 2))
        pictures, which = np.unique(boards[fits].reshape(-1, masked[b].size), axis=0, return_inverse=True)
        mass = np.bincount(which.ravel(), weights[fits])
        best = mass >= mass.max() * (1 - 1e-9)
        assert by_board[b] == pytest.approx((pictures[best] == drawn.boards[b].ravel()).all(1).sum() / best.sum())
        cells = np.stack([np.bincount(column, mass / mass.sum(), ds.vocab_size) for column in pictures.T])
        ties = cells >= cells.max(1, keepdims=True) * (1 - 1e-9)
        expected = ties[range(len(ties)), drawn.boards[b].ravel()] / ties.sum(1)
        np.testing.assert_allclose(of_cells[b].ravel(), expected)
    assert 0 < ((by_board > 0) & (by_board < 1)).sum()  # some boards have ties
