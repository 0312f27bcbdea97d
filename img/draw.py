"""Draws visual_abstract.png and lea.png from real boards of this project, language.png, held_out.png and
dictionaries_coverage.png from results.

    python img/draw.py
"""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "benchmarks")]
from make_docs import dictionary_results, held_out_runs, held_out_values, read_results  # noqa: E402

from module_dataset import AbstractionDataset  # noqa: E402
from parts.probing.panels import OBJECT_COLORS, draw_board, token_colors  # noqa: E402
from studies.dictionaries.report import plot_coverage  # noqa: E402

INK, BLUE, ORANGE, GREEN = "#222222", "#3b6fb6", "#d9822b", "#3a8f5c"


class Sheet:
    """A white page measured in inches, on which boards, boxes, arrows and words are put."""

    def __init__(self, width: float, height: float):
        self.size = np.array([width, height])
        self.figure = Figure(figsize=(width, height), facecolor="white")
        self.ax = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.ax.axis("off")
        self.dataset = AbstractionDataset(seed=3)
        self.colors = token_colors(self.dataset.vocab_bck, self.dataset.vocab_token)

    def board(self, board, x, y, side, numbers=True, mask=None, font=7):
        """A board whose top left corner is at (x, y); side: inches of its longer side."""
        board = np.asarray(board)
        h, w = np.array(board.shape) * side / max(board.shape)
        ax = self.figure.add_axes(
            (x / self.size[0], 1 - (y + h) / self.size[1], w / self.size[0], h / self.size[1])
        )
        shown = (board >= self.dataset.vocab_bck) & (board < self.dataset.masking_token) if numbers else None
        draw_board(ax, board, self.colors, shown, mask, font=font)
        for spine in ax.spines.values():
            spine.set(edgecolor="#666666", linewidth=0.6)

    def text(self, words, x, y, size=8, color=INK, **kwargs):
        self.ax.text(x, y, words, fontsize=size, color=color, **{"ha": "center", "va": "center", **kwargs})

    def box(self, words, x, y, w, h, color, size=8):
        """A rounded box centred on (x, y)."""
        shape = FancyBboxPatch(
            (x - w / 2, y - h / 2),
            w,
            h,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=color + "22",
            edgecolor=color,
            linewidth=1.2,
        )
        self.ax.add_patch(shape)
        self.text(words, x, y, size)

    def arrow(self, a, b, color=INK, style="-|>", curve=0.0):
        self.ax.add_patch(
            FancyArrowPatch(
                a,
                b,
                arrowstyle=style,
                mutation_scale=9,
                color=color,
                linewidth=1.2,
                connectionstyle=f"arc3,rad={curve}",
                shrinkA=0,
                shrinkB=0,
            )
        )

    def save(self, name: str) -> None:
        self.figure.savefig(HERE / name, dpi=200)


def visual_abstract() -> None:
    """Data on the left, the network on the right."""
    sheet = Sheet(10, 5.2)
    ds = sheet.dataset
    sheet.text("data set", 0.3, 0.25, 11, weight="bold", ha="left")
    sheet.text("vocabulary", 0.3, 0.62, 8.5, ha="left", weight="bold")
    for label, first, count, y in (
        ("background", 0, ds.vocab_bck, 0.92),
        ("object", ds.vocab_bck, ds.vocab_token, 1.22),
    ):
        sheet.text(label, 0.3, y, 7.5, ha="left")
        sheet.board(np.arange(first, first + count)[None], 1.15, y - 0.11, 2.2)
    sheet.text("hidden", 3.55, 1.07, 7.5, ha="left")
    sheet.board([[ds.masking_token]], 4.02, 0.96, 0.22, mask=[[1]])

    sheet.text("root objects", 0.3, 1.72, 8.5, ha="left", weight="bold")
    for i in range(5):
        sheet.board(ds.roots[i, ..., 0], 0.3 + i * 0.78, 1.88, 0.62)
    sheet.text("…", 4.25, 2.2, 11)
    sheet.text("composite objects", 0.3, 2.78, 8.5, ha="left", weight="bold")
    for i in range(3):
        board, _ = ds._draw_board_deterministic(
            "composite", None, None, i, [0, 0], composite_margin=1, token_bck=0
        )
        sheet.board(board[:7, :7], 0.3 + i * 1.3, 2.94, 1.1, font=5.5)
    sheet.text("…", 4.25, 3.5, 11)
    sheet.text(
        "boards: one root (single), two (double) or a composite (composition),\nanywhere, on any background",
        0.3,
        4.5,
        7.5,
        ha="left",
    )

    sheet.text("making an input", 4.75, 0.25, 11, weight="bold", ha="left")
    board, _ = ds._draw_board_deterministic("root", [1, 4], [[1, 1], [4, 4]], token_bck=2)
    plain = np.full_like(board, 2)
    mask = np.random.default_rng(5).random(board.shape) < 0.25
    steps = ("1  choose a background", "2  place objects", "3  hide cells")
    pictures = (plain, board, np.where(mask, ds.masking_token, board))
    for i, (words, picture) in enumerate(zip(steps, pictures, strict=True)):
        y = 0.75 + i * 1.5
        sheet.text(words, 4.75, y - 0.15, 8, ha="left")
        sheet.board(picture, 4.75, y, 1.15, mask=mask if i == 2 else None, font=5.5)
        if i < 2:
            sheet.arrow((5.32, y + 1.17), (5.32, y + 1.3))

    sheet.text("network", 6.6, 0.25, 11, weight="bold", ha="left")
    x = 7.7
    sheet.arrow((5.95, 4.33), (6.95, 4.33))
    sheet.box("token embedding", x, 4.33, 1.45, 0.36, BLUE)
    sheet.box("position code", 9.25, 4.33, 1.2, 0.36, ORANGE)
    for i, words in enumerate(("attention", "MLP")):
        y = 3.45 - i * 0.95
        sheet.box(f"LayerNorm\n{words}", x + 0.45, y, 0.95, 0.52, GREEN, 7.5)
        sheet.arrow((7.2, y + 0.28), (7.62, y + 0.1), BLUE)
        sheet.arrow((7.62, y - 0.12), (7.22, y - 0.3), BLUE)
        sheet.arrow((9.25, y), (8.66, y), ORANGE)
        sheet.text("+", 7.12, y - 0.33, 10, BLUE, weight="bold")
    sheet.ax.plot([9.25, 9.25], [4.15, 2.5], color=ORANGE, linewidth=1.2)
    sheet.ax.plot([7.2, 7.2], [4.15, 1.66], color=BLUE, linewidth=2.4)
    sheet.text("residual stream", 6.93, 2.95, 7.5, BLUE, rotation=90)
    sheet.text("read by every\nsub-layer, never\nadded to the stream", 9.3, 2.2, 7, ORANGE)
    sheet.ax.add_patch(
        FancyBboxPatch(
            (6.72, 1.98),
            2.05,
            1.87,
            boxstyle="round,pad=0,rounding_size=0.08",
            fill=False,
            edgecolor="#888888",
            linestyle=":",
            linewidth=1,
        )
    )
    sheet.text("× 3 blocks", 8.4, 2.1, 7, "#666666")
    sheet.arrow((7.2, 1.7), (7.2, 1.55), BLUE)
    sheet.box("LayerNorm, linear head", 7.5, 1.35, 1.6, 0.36, BLUE)
    sheet.arrow((8.32, 1.35), (8.62, 1.35))
    sheet.board(board, 8.65, 0.72, 1.15, font=5.5)
    sheet.text("the whole board", 9.22, 0.6, 7.5)
    sheet.save("visual_abstract.png")


def lea() -> None:
    """The three passes of the language-enhanced architecture."""
    sheet = Sheet(8, 4.6)
    ds = sheet.dataset
    board, _ = ds._draw_board_deterministic("root", [6, 2], [[0, 3], [5, 0]], token_bck=1)
    mask = np.random.default_rng(8).random(board.shape) < 0.2
    masked, unk = np.where(mask, ds.masking_token, board), np.full_like(board, ds.masking_token)
    words = "17  4 92  4\n63  8 51 30"
    names = ("1  board to board", "2  state to language", "3  language to board")
    for i, name in enumerate(names):
        y = 0.85 + i * 1.5
        sheet.text(name, 0.2, y - 0.63, 9, weight="bold", ha="left")
        if i == 1:
            sheet.text("IN's last\nhidden state", 0.75, y, 8, BLUE)
            sheet.arrow((1.35, y), (2.6, y), BLUE)
            sheet.box("ALN\nauxiliary language network", 3.65, y, 2.0, 0.62, GREEN)
            sheet.arrow((4.67, y), (5.3, y), GREEN)
            sheet.box("codebook\nnearest words", 5.95, y, 1.15, 0.62, ORANGE)
            sheet.arrow((6.55, y), (6.85, y), ORANGE)
            sheet.text(words, 7.35, y, 8, ORANGE, family="monospace")
            continue
        sheet.board(unk if i else masked, 0.25, y - 0.5, 1.0, mask=np.ones_like(mask) if i else mask, font=5)
        sheet.arrow((1.3, y), (2.6, y))
        sheet.box("IN\ninference network", 3.65, y, 2.0, 0.62, BLUE)
        sheet.arrow((4.67, y), (6.7, y))
        sheet.board(board, 6.75, y - 0.5, 1.0, font=5)
        said = "blank sentence" if i == 0 else "the words"
        sheet.text(said, 3.65, y - 0.62, 8, ORANGE)
        sheet.arrow((3.65, y - 0.53), (3.65, y - 0.33), ORANGE)
    sheet.text("the same network\nas in pass 1", 5.65, 3.62, 7, BLUE)
    sheet.arrow((3.1, 1.2), (1.2, 2.17), BLUE)
    sheet.arrow((7.3, 2.65), (4.35, 3.2), ORANGE, curve=-0.12)
    sheet.save("lea.png")


SETTINGS = {  # of runs trained to their end
    "authors' recipe, whole and half": ("lea_paper", "lea_half"),
    "lea_doubles and 700 epochs": ("lea_doubles", "lea_e0", "lea_d0"),
    "lea_all, 3 seeds": ("lea_all", "all_s1", "all_s2"),
    "lea_slots, 3 seeds": ("lea", "slots_s1", "slots_s2"),
}


def language() -> None:
    """What LEA's languages rebuild against how often words taken from other boards exchange a root, one
    panel for single and one for double boards, a point a run."""
    rows = {row["run"]: row for row in read_results("language")}
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax, what in zip(panels, ("single", "double"), strict=True):
        for (setting, runs), color, marker in zip(SETTINGS.items(), OBJECT_COLORS, "ovsD", strict=False):
            at = np.array([[rows[run]["rebuilt: double"], rows[run][f"transfer: root of {what}"]]
                           for run in runs], float)
            ax.plot(*at.T, marker, color=color, markersize=7, alpha=0.8, label=setting)
        ax.set(xlabel="double boards rebuilt from their sentence, %", xlim=(-4, 104), ylim=(-3, 66))
        ax.set_title(f"root of {what} boards", fontsize=10)
    panels[0].set_ylabel("exchanged by words of other boards, %")
    panels[1].legend(fontsize=8)
    figure.savefig(HERE / "language.png", dpi=120)


def held_out() -> None:
    """Whole boards filled in, held-out and train boards: by split, a point a seed, and over one training."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1, 1.1))
    for ax, group in zip(panels, ("single", "double"), strict=False):
        for at, runs in enumerate(held_out_runs("ff_").values()):
            for boards, color, shift in (("train", "#999999", -0.12), ("test", BLUE, 0.12)):
                [values] = held_out_values(runs, "25%", boards, group, ["one pass"])
                ax.plot([at + shift] * len(values), values, "o", color=color, markersize=6, alpha=0.7)
        names = [name.split(" (")[0].replace(", ", ",\n") for name in held_out_runs("ff_")]
        ax.set_xticks(range(len(names)), names, fontsize=7, rotation=40, ha="right")
        ax.set_title(f"{group} boards", fontsize=10)
        ax.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("whole boards right in one pass, %")
    for boards, color in (("train", "#999999"), ("held-out", BLUE)):
        panels[0].plot([], [], "o", color=color, label=f"{boards} boards")
    panels[0].legend(fontsize=8, loc="lower left")
    rows = read_results("held_out_epochs")
    for group, style in (("single", "-"), ("double", "--")):
        for boards, color, label in (("train", "#999999", "seen"), ("test", BLUE, "never seen")):
            line = [(int(row["epoch"]) + 1, float(row["one pass"])) for row in rows
                    if (row["boards of"], row["type"]) == (boards, group)]
            panels[2].plot(*zip(*line, strict=True), style, color=color, label=f"{group}, positions {label}")
    panels[2].set(xscale="log", xlabel="epochs trained", ylim=(-3, 103))
    panels[2].set_title("over one training, places 0.5", fontsize=10)
    panels[2].grid(alpha=0.3)
    panels[2].legend(fontsize=8)
    figure.savefig(HERE / "held_out.png", dpi=120)


def dictionaries() -> None:
    """Coverage of labels by dictionaries and controls, a mark a network."""
    plot_coverage(dictionary_results("coverage")).savefig(HERE / "dictionaries_coverage.png", dpi=110)


if __name__ == "__main__":
    visual_abstract()
    lea()
    language()
    held_out()
    dictionaries()
