"""Looks into a network on masked boards: records and edits activations, writes them to files, draws them.

Axis letters: n boards, h x w cells of a board, B boards in a batch, T = h * w tokens, L blocks, H heads, D
width.
"""
from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from parts.checks import check_sizes
from parts.files import save_array, write_json
from parts.probing.evaluation import Evaluation, evaluating
from parts.probing.panels import (
    BoardView,
    mirrored,
    plot_across,
    plot_panels,
    plot_queries,
    plot_table,
    save_figure,
    tiled,
    token_colors,
)
from parts.probing.sites import cut_edits, editing, recording
from utils import dist, dist_cosine, dist_unit, divide_into_batches, get_ij, merge_attn_plots, shown, to_numpy


class Probe(Evaluation):
    """An Evaluation whose network can be looked into; base of both wrappers.

    A subclass has besides Evaluation's the attributes n_layer, n_head, n_embd.
    """

    stages = ("z", "attn_update", "z_attn", "mlp_update", "z_attn_mlp")  # of a block, in figures
    attention = {"attn": ("a", True)}  # prefix of figures: (site of a block, whether the keys are cells)

    # recording

    def record(
        self, names: str | Sequence[str] | None = None
    ) -> contextlib.AbstractContextManager[dict[str, torch.Tensor]]:
        """Named activations of the forward passes inside the `with`, as a dict {name: detached tensor, batch
        first}.

        names: exact names or patterns ('b0_*'), all where None; ValueError for one that matches nothing.
        Several passes are joined along the batch. The network is as before afterwards, also after an
        exception.

        >>> with trainer.record("b*_z_attn_mlp") as acts:
        ...     logits = trainer.transformer(tokens)
        """
        return recording(self.transformer, names)

    # probing; what a subclass with another network supplies first

    @property
    def token_table(self) -> np.ndarray:
        """Token embeddings (V, D)."""
        return to_numpy(self.transformer.tok_emb.weight)

    @property
    def position_table(self) -> np.ndarray:
        """Position codes (T, P)."""
        return to_numpy(self.transformer.pos_emb[0])

    def _probe(self, tokens: torch.Tensor) -> None:
        """The forward pass to look into, of masked boards (B, T)."""
        self.transformer(tokens)

    def _recorded(self, boards, masks, edits=None, names=("b*", "z_out", "logit")) -> dict[str, np.ndarray]:
        """Named activations of masked boards, batch first."""
        parts, start = [], 0
        for tokens in self._masked_batches(boards, masks):
            batch = slice(start, start + len(tokens))
            cut = cut_edits(edits, batch, len(boards))
            with evaluating(self.transformer), editing(self.transformer, cut), self.record(names) as acts:
                self._probe(tokens)
            parts.append({name: to_numpy(act) for name, act in acts.items()})
            start = batch.stop
        return {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}

    def forward_all_activations(self, boards, masks, edits: dict | None = None, verbose: bool = False,
                                return_recons: bool = False):
        """Every named activation of masked boards (n, h, w) as {name: array, batch first}; with return_recons
        also the greedy reconstructions (n, h, w). verbose: print the share of right tokens and boards.

        edits: {'b1': {'z': ...}, 'z_out': ...} with the places of GPTFactor.forward; each an array or tensor
        (n, T, D) or (T, D), a function of the activation (B, T, D) of a batch of boards, or a pair of one of
        these and a mask (n, T) or (T,), true at the tokens to edit. ValueError for an unknown place or a
        wrong shape.
        """
        boards, masks = self._given(boards, masks)
        acts = self._recorded(boards, masks, edits)
        recons = acts["logit"].argmax(-1).reshape(boards.shape)
        if verbose:
            right = recons == boards
            print(
                f"right tokens {100 * right.mean():.2f}%, right boards {100 * right.all((1, 2)).mean():.2f}%"
            )
        return (acts, recons) if return_recons else acts

    @property
    def _meta(self) -> dict:
        return {
            "nb_blocks": self.n_layer,
            "nb_heads": self.n_head,
            "nb_tokens": self.block_size,
            "dim_emb": self.n_embd,
        }

    def forward_svg(self, board, board_abs, mask, folder: str | Path = "./svg") -> None:
        """Writes the activations of one board (h, w) to folder: meta.json, svg_groups.npy and svg_mask.npy
        (T,), and svg_{name}.npy of each block's without batch axis, attention (T, T) and values (T, D/H) also
        by head (_h{j})."""
        board, mask, board_abs = self._given(
            board, mask, board_abs, names=("board", "mask", "board_abs"), one=True
        )
        acts = by_head(self._recorded(board, mask, names="b*"), self.n_head)
        for name, array in {"groups": board_abs.reshape(1, -1), "mask": mask.reshape(1, -1), **acts}.items():
            save_array(Path(folder) / f"svg_{name}.npy", array[0])
        write_json(Path(folder) / "meta.json", self._meta)

    def forward_pca(
        self, boards, boards_abs, masks, folder: str | Path = "./pca", extra_meta: dict | None = None
    ) -> None:
        """Writes boards, boards_abs, masked_boards, masks (n, h, w) and every named activation, batch first,
        to folder as .npy files, attention and values also by head (_h{j}); extra_meta is merged into
        meta.json."""
        given = self._given(boards, masks, boards_abs)
        try:
            text = json.dumps(self._meta | (extra_meta or {}), default=lambda value: value.tolist())
        except (AttributeError, TypeError, ValueError):
            raise TypeError(
                f"extra_meta must be a dict of what JSON can hold, not {extra_meta!r:.80}."
            ) from None
        self._write_arrays(Path(folder), "", *given)
        write_json(Path(folder) / "meta.json", json.loads(text))

    def forward_pca_batch(self, boards, boards_abs, masks, folder: str | Path, batch_size: int) -> None:
        """As forward_pca, in near-equal batches of at most batch_size boards, one in memory at a time: files
        batch_{k}_….npy, which files.open_batches opens as one array, and in meta.json `batches`, the
        indices of each."""
        given = self._given(boards, masks, boards_abs)
        check_sizes(batch_size=batch_size)
        batches = divide_into_batches(range(len(given[0])), -(-len(given[0]) // int(batch_size)))
        (Path(folder) / "meta.json").unlink(missing_ok=True)  # written last, it says that all files are there
        for k, batch in enumerate(batches):
            self._write_arrays(Path(folder), f"batch_{k}_", *(array[batch] for array in given))
        write_json(Path(folder) / "meta.json", self._meta | {"batches": batches})

    def _write_arrays(self, folder: Path, prefix: str, boards, masks, boards_abs) -> None:
        masked = np.where(masks, self.masking_token, boards)
        arrays = {"boards": boards, "boards_abs": boards_abs, "masked_boards": masked, "masks": masks}
        for name, array in (arrays | by_head(self._recorded(boards, masks), self.n_head)).items():
            save_array(folder / f"{prefix}{name}.npy", array)

    # figures; each analyze_ method returns {file name without .jpg: Figure}

    def _save(self, figures: dict, folder: str | Path = "", merged: Sequence[str] = ()) -> dict:
        """Saves figures to a folder of the run's analysis/, and those of a block and head each as one, for
        each prefix."""
        folder = self.folder / "analysis" / folder
        for name, figure in figures.items():
            save_figure(figure, folder / f"{name}.jpg", self.plot_dpi)
        for prefix in merged:
            merge_attn_plots(f"{folder}/", range(self.n_head), range(self.n_layer), prefix)
        return figures

    @property
    def _side(self) -> tuple[int, int]:
        return (self.dataset.board_dim,) * 2

    @property
    def _rows(self) -> list[tuple[str, int]]:
        """Tokens by row of the board, as groups of a matrix."""
        return [(str(row), self.dataset.board_dim) for row in range(self.dataset.board_dim)]

    @property
    def _stage_names(self) -> list[list[str]]:
        return [[f"b{i}_{stage}" for stage in self.stages] for i in range(self.n_layer)]

    def _view(self, board, board_abs, mask) -> BoardView:
        return BoardView(
            board[0], board_abs[0], mask[0], token_colors(self.dataset.vocab_bck, self.dataset.vocab_token)
        )

    def analyze_embeddings_tokenandpos(self) -> dict:
        """embedding_token: the token embeddings and how far apart they are, lines between backgrounds, object
        tokens and UNK; tokens that the network treats alike make a dark block. embedding_pos: the same of the
        position codes, lines between rows of the board. embedding_pos_2d: each cell's distances to all cells
        as a small board, laid out at that cell; where the network knows what is near, each has its extreme at
        its own place and fades around it."""
        families = [("background", self.dataset.vocab_bck), ("object", self.dataset.vocab_token), ("UNK", 1)]
        measures = {
            "Euclidean distance": dist,
            "unit-norm Euclidean distance": dist_unit,
            "cosine": dist_cosine,
        }
        maps = np.stack([mirrored(measure(self.position_table)) for measure in measures.values()])
        return self._save(
            {
                "embedding_token": plot_table(self.token_table, families, "token embeddings", "token"),
                "embedding_pos": plot_table(
                    self.position_table, self._rows, "position codes", "cell, by row of the board"
                ),
                "embedding_pos_2d": plot_panels(
                    tiled(maps.reshape(1, -1, *self._side, *self._side)),
                    [list(measures)],
                    "",
                    (self._rows,) * 2,
                    size=3.6,
                    names=("row of the cell", "column of the cell"),
                ),
            }
        )

    def analyze_embeddings(
        self,
        board=None,
        board_abs=None,
        board_params: dict | None = None,
        masking: dict | None = None,
        bool_sharedCmap: bool = False,
    ) -> dict:
        """embeddings_z, embeddings_z_dist and embeddings_z_dist_across, as analyze_all explains them but all
        Euclidean, of a board (h, w) or, without one, of one drawn with nb_root_abs random roots or that
        composite with that margin.

        board_params: {'nb_root_abs': 1, 'composite': None, 'margin': 0}; masking: {'bool_mask': True, 'p':
        0.25}; keys left out have these values. bool_sharedCmap: one colour scale for all panels.
        """
        params = with_defaults(
            "board_params", board_params, {"nb_root_abs": 1, "composite": None, "margin": 0}
        )
        masking = with_defaults("masking", masking, {"bool_mask": True, "p": 0.25})
        if board is None and params["composite"] is None:
            check_sizes(nb_root_abs=params["nb_root_abs"])
            board, board_abs = self.dataset._draw_board_deterministic("root", [-1] * params["nb_root_abs"])
        elif board is None:
            board, board_abs = self.dataset._draw_board_deterministic(
                "composite", composite=params["composite"], composite_margin=params["margin"])
        board_abs = np.full(self._side, -1) if board_abs is None else board_abs
        board, board_abs = self._given(board, board_abs, names=("board", "board_abs"), one=True)
        mask = self._mask(board, masking["p"] if masking["bool_mask"] else 0.0, 0.0, self._user_rng)[
            0
        ].astype(np.int64)
        view, acts = (
            self._view(board, board_abs, mask),
            self._recorded(board, mask, names=sum(self._stage_names, [])),
        )
        scale = "shared" if bool_sharedCmap else None
        return self._save(
            self._figures_z(acts, view, scale) | self._figure_across(acts, view, dist, "Euclidean distance")
        )

    def analyze_all(self, board, board_abs, mask, queries, folder: str = "default", bool_z: bool = True,
                    bool_attn: bool = True) -> dict:
        """Pictures of what the network does with one masked board (h, w), blocks down and stages across.

        embeddings_z: activations, token x dimension. embeddings_z_norm: their lengths, laid out as the board.
        embeddings_z_dist, _dist_unit: distances between tokens, of activations and of their directions; below
        the diagonal the pairs of tokens of each object are marked, so that a dark patch which mirrors a mark
        is an object whose tokens are alike. embeddings_z_dist_across: of each token, unit-norm distances
        between its own stages; bright is where it turns. embeddings_z_2D: each token's unit-norm distances to
        all tokens as a small board, laid out at that token. attn_b{i}_h{j}: where each query (outlined)
        looks, j = -1 the mean of heads; attn_merge: heads downwards, blocks across. attn: the same of every
        cell, a small board laid out at the query, log of attention over its maximum.

        queries (h, w): -1 none, i >= 0 the i-th query (its first cell counts). bool_z, bool_attn: which
        figures to make.
        """
        board, board_abs, mask = self._given(
            board, board_abs, mask, names=("board", "board_abs", "mask"), one=True
        )
        queries = self._queries(queries) if bool_attn else None
        view, acts = self._view(board, board_abs, mask), self._recorded(board, mask, names="b*")
        figures = {}
        if bool_z:
            figures |= self._figures_z(acts, view) | self._figures_unit(acts, view)
            figures |= self._figure_across(acts, view, dist_unit, "unit-norm Euclidean distance", (0, 2))
        for prefix, (site, boardlike) in self.attention.items() if bool_attn else ():
            weights = np.stack([acts[f"b{i}_{site}"][0] for i in range(self.n_layer)])  # (L, H, T, keys)
            seen = weights[:, :, queries["tokens"]]
            for maps, heads in ((seen.mean(1, keepdims=True), [-1]), (seen, range(self.n_head))):
                figures |= self._figures_queries(maps, heads, prefix, queries, "attention", boardlike, view)
            figures[prefix] = self._figure_attn(weights, boardlike, view)
        return self._save(figures, folder, list(self.attention) if bool_attn else ())

    def _stacked(self, acts: dict[str, np.ndarray]) -> np.ndarray:
        """One board's activations by block and stage, (L, stages, T, D)."""
        return np.stack([[acts[name][0] for name in names] for names in self._stage_names])

    def _figures_z(self, acts, view, scale=None) -> dict:
        z, rows, name = self._stacked(acts), self._rows, "token, by row of the board"
        return {
            "embeddings_z": plot_panels(
                z, self._stage_names, "activation", (rows, ()), scale, view=view, names=(name, "dimension")
            ),
            "embeddings_z_dist": plot_panels(
                dist(z),
                self._stage_names,
                "Euclidean distance",
                (rows, rows),
                scale,
                "magma",
                view.objects.ravel(),
                view,
                (name, name),
            ),
        }

    def _figures_unit(self, acts, view) -> dict:
        z, rows, name, label = (
            self._stacked(acts),
            self._rows,
            "token, by row of the board",
            "unit-norm Euclidean distance",
        )
        unit, lengths = dist_unit(z), np.linalg.norm(z, axis=-1)
        return {
            "embeddings_z_norm": plot_panels(
                lengths.reshape(*lengths.shape[:2], *self._side),
                self._stage_names,
                "length",
                cmap="cividis",
                view=view,
            ),
            "embeddings_z_dist_unit": plot_panels(
                unit,
                self._stage_names,
                label,
                (rows, rows),
                "shared",
                "magma",
                view.objects.ravel(),
                view,
                (name, name),
            ),
            "embeddings_z_2D": plot_panels(
                tiled(mirrored(unit).reshape(*unit.shape[:2], *self._side, *self._side)),
                self._stage_names,
                label,
                (rows, rows),
                "shared",
                "magma",
                view=view,
                names=("row of the token", "column of the token"),
                size=2.8,
            ),
        }

    def _figure_across(self, acts, view, measure, label, scale=None) -> dict:
        z = self._stacked(acts).reshape(-1, self.block_size, self.n_embd)
        maps = measure(z.swapaxes(0, 1)).reshape(*self._side, len(z), len(z))
        return {"embeddings_z_dist_across": plot_across(maps, sum(self._stage_names, []), label, scale, view)}

    def _queries(self, queries) -> dict:
        """tokens (Q,), cells (Q, 2) and names of the queries that an array (h, w) numbers."""
        (queries,) = self._given(queries, names=("queries",), one=True)[0]
        numbers = np.unique(queries[queries >= 0])
        if not len(numbers):
            raise ValueError("queries must number at least one cell, from 0 on.")
        cells = np.array([get_ij(queries, number) for number in numbers])
        names = [f"{number} at ({i}, {j})" for number, (i, j) in zip(numbers, cells, strict=True)]
        return {"tokens": cells @ [self.dataset.board_dim, 1], "cells": cells, "names": names}

    def _figures_queries(self, maps, heads, prefix, queries, label, boardlike, view=None) -> dict:
        """{prefix}_b{i}_h{j} of maps (L, heads, Q, keys): a board a query, or a row a query where keys are
        words."""
        figures = {}
        for (i, k), keys in zip(np.ndindex(maps.shape[:2]), maps.reshape(-1, *maps.shape[2:]), strict=True):
            title = f"block {i}, " + (f"head {heads[k]}" if heads[k] >= 0 else "mean of heads")
            figures[f"{prefix}_b{i}_h{heads[k]}"] = (
                plot_queries(
                    keys.reshape(-1, *self._side), queries["cells"], queries["names"], label, title, view
                )
                if boardlike
                else plot_panels(
                    keys[None, None],
                    [[f"{title}: query by word"]],
                    label,
                    ([(q, 1) for q in queries["names"]], ()),
                    (0, keys.max()),
                    view=view,
                    names=("", "word of the sentence"),
                    size=3,
                )
            )
        return figures

    def _figure_attn(self, weights, boardlike, view):
        """Log of attention (L, H, T, keys) over its row's maximum, heads down and blocks across."""
        logs = np.log(
            np.maximum(weights / weights.max(-1, keepdims=True), np.finfo(weights.dtype).tiny)
        ).swapaxes(0, 1)
        titles = [[f"block {i}, head {j}" for i in range(self.n_layer)] for j in range(self.n_head)]
        columns, names = (), ("query, by row of the board", "word of the sentence")
        if boardlike:
            logs = tiled(logs.reshape(*logs.shape[:2], *self._side, *self._side))
            columns, names = self._rows, ("row of the query", "column of the query")
        return plot_panels(
            logs,
            titles,
            "log(attention / its maximum over keys)",
            (self._rows, columns),
            (-6, 0),
            "cividis",
            view=view,
            names=names,
            size=3.2,
            extend="min",
        )

    def analyze_across_boards(self, boards, masks, focus_masks=None, folder: str = "default") -> dict:
        """embeddings_z_acrossBoards: for each token the mean distance, over pairs of boards (n, h, w),
        between its unit-norm activations, laid out as the board; dark is what the boards have in common at
        that stage.

        focus_masks (n, h, w): compare only these cells, s² on every board, matched in reading order, shown as
        s x s.
        """
        focus_masks = np.ones_like(boards, dtype=int) if focus_masks is None else focus_masks
        boards, masks, focus = self._given(
            boards, masks, focus_masks, names=("boards", "masks", "focus_masks")
        )
        n = len(boards)
        counts = focus.sum((1, 2))
        s = math.isqrt(counts[0])
        if n < 2:
            raise ValueError("boards must be at least two to be compared.")
        if (counts != s * s).any() or not s:
            raise ValueError("focus_masks must mark the same square number of cells on every board.")
        cells = np.nonzero(focus.reshape(n, -1))[1].reshape(n, s * s, 1)
        names = sum(self._stage_names, [])
        acts = self._recorded(boards, masks, names=names)
        tokens = np.concatenate(
            [np.take_along_axis(acts[name], cells, axis=1) for name in names], axis=1
        ).swapaxes(0, 1)
        spread = np.array([dist_unit(token).sum() for token in tokens]) / (
            n * (n - 1) / 2
        )  # pairs: n x n at a time
        label = "mean unit-norm distance between boards"
        return self._save(
            {
                "embeddings_z_acrossBoards": plot_panels(
                    spread.reshape(self.n_layer, -1, s, s),
                    self._stage_names,
                    label,
                    scale="shared",
                    cmap="magma",
                )
            },
            folder,
        )

    def analyze_across_boards_attn(self, boards, masks, queries, folder: str = "default") -> dict:
        """attnVar_b{i}_h{j}: variance over boards (n, h, w) of the attention that each query (outlined) pays
        to each cell; dark is attention that does not depend on the board. attnVar_merge: heads downwards,
        blocks across.

        queries (h, w), as in analyze_all."""
        boards, masks = self._given(boards, masks)
        queries, figures = self._queries(queries), {}
        for prefix, (site, boardlike) in self.attention.items():
            acts = self._recorded(boards, masks, names=[f"b{i}_{site}" for i in range(self.n_layer)])
            maps = np.stack(
                [acts[f"b{i}_{site}"][:, :, queries["tokens"]].var(0) for i in range(self.n_layer)]
            )
            figures |= self._figures_queries(
                maps, range(self.n_head), f"{prefix}Var", queries, "variance", boardlike
            )
        return self._save(figures, folder, [f"{prefix}Var" for prefix in self.attention])


def by_head(acts: dict[str, np.ndarray], n_head: int) -> dict[str, np.ndarray]:
    """acts, and each head's share of attention weights (n, H, T, keys) and of values (n, T, D) as
    {name}_h{j}."""
    parts = dict(acts)
    for name, act in acts.items():
        if name.endswith("_a"):
            parts |= {f"{name}_h{j}": act[:, j] for j in range(n_head)}
        elif name.endswith("_v") and not name.endswith("_attn_v"):
            parts |= {f"{name}_h{j}": part for j, part in enumerate(np.split(act, n_head, axis=-1))}
    return parts


def with_defaults(name: str, values: dict | None, defaults: dict) -> dict:
    """defaults with values in their place; ValueError for a key that is not among them."""
    if not isinstance(values, (dict, type(None))):
        raise TypeError(f"{name} must be a dict with keys among {', '.join(defaults)}, not {shown(values)}.")
    for key in values or {}:
        if key not in defaults:
            raise ValueError(f"{name} has no key {key!r}; there are {', '.join(defaults)}.")
    return defaults | (values or {})
