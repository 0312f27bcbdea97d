"""What figures show, read back from their artists."""
import numpy as np
from matplotlib.collections import PathCollection

from parts.boards.pictures import number_shape


def numbers_of(ax) -> dict[tuple[int, int], int]:
    """{(x, y): number} of the cells of boards, drawn as outlines of digits."""
    known = {id(number_shape(number)): number for number in range(100)}
    return {tuple(map(float, at)): known[id(shape)] for drawn in ax.collections if isinstance(drawn, PathCollection)
            for at, shape in zip(np.round(drawn.get_offsets(), 9), drawn.get_paths(), strict=True)}
