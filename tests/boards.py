"""Data sets and boards worked out slowly, which several test files compare with."""
import itertools

import numpy as np
from hypothesis import strategies as st

from module_dataset import SPLITS, TYPES, AbstractionDataset

SMALL = dict(board_dim=5, vocab_bck=2, vocab_token=4, abs_n=3, abs_dim=2, abs_c=4, comp_n=2, comp_margin=0, seed=3)


def draw_slowly(ds, type_, row):
    """(board, slots, corners) of a row, cell by cell; for roots whose cells take one token."""
    d, bck = ds.abs_dim, row[-1]
    if type_ < 2:
        objects = [tuple(row[i : i + 3]) for i in range(0, len(row) - 1, 3)]
    else:
        step = d + ds.comp_margin
        objects = [(ds.compositions[row[0], a, b], row[1] + a * step, row[2] + b * step)
                   for a in range(ds.comp_dim) for b in range(ds.comp_dim)]
    board = [[bck] * ds.board_dim for _ in range(ds.board_dim)]
    slots = [[-1] * ds.board_dim for _ in range(ds.board_dim)]
    for root, top, left in objects:
        for i in range(d if root >= 0 else 0):
            for j in range(d):
                token = ds.roots[root, i, j, 0]
                board[top + i][left + j] = bck if token < 0 else token
                slots[top + i][left + j] = root
    return np.array(board), np.array(slots), [(top, left) if root >= 0 else (-1, -1) for root, top, left in objects]


def all_doubles(abs_n, places, bck_n, apart):
    """Every row of the doubles, in the order of their numbers."""
    for root1, root2, r1, c1, r2, c2 in itertools.product(*[range(abs_n)] * 2, *[range(places)] * 4):
        far = abs(r1 - r2) >= apart or abs(c1 - c2) >= apart
        if far if apart else r1 != r2 and c1 != c2:
            for bck in range(bck_n):
                yield root1, r1, c1, root2, r2, c2, bck


def rows_of(ds, family, splits=SPLITS):
    return [tuple(row) for split in splits for row in np.asarray(ds.sets[f"{family}_{split}"]).tolist()]


def twin(row):
    return (*row[3:6], *row[:3], row[6])


@st.composite
def parameters(draw):
    """Small data sets of every kind."""
    integer = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    abs_dim, comp_dim, margin = integer(1, 3), integer(1, 2), integer(0, 1)
    side = comp_dim * abs_dim + (comp_dim - 1) * margin
    least = max(2 * abs_dim, side)
    board_dim = integer(least, least + (1 if abs_dim < 3 else 0))
    abs_c = integer(1, abs_dim**2)
    tokens = integer(2, 4)
    types = draw(st.lists(st.sampled_from(TYPES), min_size=1, unique=True))
    method = draw(st.sampled_from(["balanced", "fraction", "stringent", "places", "pairs"]))
    half = st.integers(0, 1)  # whether half of what is held out is val
    card_val, card_test = {
        "balanced": (st.integers(0, 3),) * 2, "fraction": (st.floats(0, 0.45),) * 2, "stringent": (half, half),
        "places": (half, st.floats(0.05, 0.6)), "pairs": (half, st.integers(1, 2)),
    }[method]
    return dict(
        board_dim=board_dim, vocab_bck=integer(1, 2), vocab_token=tokens,
        abs_n=integer(1, 3), abs_dim=abs_dim, abs_c=abs_c,
        abs_w_c=draw(st.none() | st.integers(0, abs_c)), abs_w_m=integer(1, tokens),
        comp_n=integer(1, 2), comp_dim=comp_dim, comp_margin=margin, comp_c=integer(1, comp_dim**2),
        board_types=types, board_types_proba=[1 + integer(0, 2) for _ in types],
        split_method=method, card_val=draw(card_val), card_test=draw(card_test),
        keep_twins=draw(st.booleans()), allow_overlap=draw(st.booleans()), seed=integer(0, 2**63 - 1))


def made(values):
    """The data set, or None where there are too few objects or boards for these parameters."""
    try:
        return AbstractionDataset(**values)
    except ValueError as error:
        if any(name in str(error) for name in ("abs_n", "comp_n", "card_val", "card_test", "split_method")):
            return None
        raise


def shown(ds, type_, row):
    """The (root, row, col) that a row shows."""
    if type_ < 2:
        return {tuple(int(v) for v in row[i : i + 3]) for i in range(0, len(row) - 1, 3)}
    step = ds.abs_dim + ds.comp_margin
    composition = ds.compositions[row[0]].tolist()
    return {(composition[a][b], row[1] + a * step, row[2] + b * step)
            for a in range(ds.comp_dim) for b in range(ds.comp_dim) if composition[a][b] >= 0}
