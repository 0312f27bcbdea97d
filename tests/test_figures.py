"""Small figures, looked at as data."""
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from PIL import Image

from parts.boards import pictures
from parts.probing import panels
from tests.drawn import numbers_of

ROOT = Path(__file__).resolve().parents[1]


def test_figures_need_no_display_and_stay_on_no_list(tmp_path):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    log = {"epoch": np.arange(3.0), "a": np.array([1, np.nan, 2]), "b": np.array([-1.0, -1, -1])}
    figure = panels.plot_curves(log, [("left", True, {"": "a"}), ("right", False, {"x": "a", "y": "b"})])
    lines = [line.get_ydata().tolist() for ax in figure.axes for line in ax.lines]
    assert lines == [[1, 2], [1, 2], []]
    assert panels.save_figure(figure, tmp_path / "new" / "x.png", 50) is figure
    assert Image.open(tmp_path / "new" / "x.png").size == pytest.approx((460, 180), abs=1)  # versions round otherwise
    assert pyplot.get_fignums() == before


def test_draw_board_marks_cells():
    figure, axes = pictures.new_figure()
    colors = pictures.token_colors(2, 3)
    assert colors.shape == (6, 4)
    assert len(np.unique(colors, axis=0)) == 6
    board = np.array([[0, 1], [4, 5]])
    pictures.draw_board(axes[0, 0], board, colors, board >= 2, mask=[[0, 1], [0, 0]], wrong=[[0, 0], [1, 0]])
    ax = axes[0, 0]
    assert numbers_of(ax) == {(0, 1): 4, (1, 1): 5}
    assert [patch.get_path().get_extents().bounds for patch in ax.patches] == [(0.5, -0.5, 1, 1)]
    strokes = [line for lines in ax.collections if isinstance(lines, LineCollection)
               for line in lines.get_segments() if np.ptp(line, axis=0).all()]
    np.testing.assert_allclose(strokes, [[[-0.35, 0.65], [0.35, 1.35]], [[-0.35, 1.35], [0.35, 0.65]]])
    assert (np.asarray(ax.images[0].get_array()) == colors[board]).all()


def test_numbers_of_a_board_look_like_text():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    board, colors = np.array([[2, 3], [10, 14]]), pictures.token_colors(3, 13)
    pixels = []
    for numbers, texts in ((None, False), (None, True), (board >= 3, False)):
        figure = pictures.blank_figure((2, 2), dpi=150)
        ax = figure.add_axes((0, 0, 1, 1))
        pictures.draw_board(ax, board, colors, numbers, font=30)
        for i, j in np.argwhere(board >= 3) if texts else ():
            ax.text(j, i, board[i, j], ha="center", va="center", fontsize=30, color="black" if board[i, j] == 10 else "white")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels.append(np.asarray(canvas.buffer_rgba(), float))
    ink = [abs(picture - pixels[0]).sum(-1) for picture in pixels[1:]]
    where = [np.argwhere(of) for of in ink]  # rounded to pixels otherwise
    np.testing.assert_allclose(*([at.min(0), at.max(0)] for at in where), atol=3)
    assert ink[1].sum() == pytest.approx(ink[0].sum(), rel=0.1)


def test_pictures_of_the_readme_can_be_drawn_again(monkeypatch):
    """img/draw.py still finds the modules and the columns that it draws from."""
    from matplotlib.figure import Figure

    monkeypatch.syspath_prepend(str(ROOT / "img"))
    import draw

    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **how: saved.append(path.name))
    for picture in (draw.visual_abstract, draw.lea, draw.language, draw.held_out, draw.dictionaries):
        picture()
    assert saved == ["visual_abstract.png", "lea.png", "language.png", "held_out.png",
                     "dictionaries_coverage.png"]
