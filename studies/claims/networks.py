"""A trained run as the measurements use it: a network that is recorded and edited, and LEA, which encodes
boards as sentences and rebuilds boards from sentences."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import module_train_probe
import module_train_probe_lea

BOARDS_AT_ONCE = 128  # in one call of a network, to save memory


class Network:
    """A trainer's network as the measurements see it."""

    def __init__(self, trainer: module_train_probe.TrainTransformer):
        self.trainer = trainer
        self.stages = ["b0_z"]  # recorded activations in the order of the stack
        for block in range(trainer.n_layer):
            self.stages += [f"b{block}_z_attn", f"b{block}_z_attn_mlp"]
        # stages that can be replaced and that an attention still follows
        self.editable = [f"b{block}_z_attn_mlp" for block in range(trainer.n_layer - 1)]

    def run(self, tokens: np.ndarray, stages: Sequence[str] = (),
            edits: dict[str, tuple[np.ndarray, np.ndarray]] | None = None,
            ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Masked tokens (n, T) -> (logits (n, T, V), {stage: (n, T, D)}). edits: {stage: (values (n, T, D),
        where (n, T))} replaces a stage's activations at some cells."""
        side = self.trainer.dataset.board_dim
        boards = tokens.reshape(-1, side, side).astype(np.int64)
        acts = self.trainer.recorded(boards, boards == self.trainer.masking_token, edits, [*stages, "logit"])
        return acts.pop("logit"), acts


def acts_at(network: Network, tokens: np.ndarray, stages: Sequence[str],
            use: np.ndarray) -> dict[str, np.ndarray]:
    """{stage: (N, D)} a network's activations at the cells in use (n, T) of masked boards (n, T)."""
    parts = [{stage: X[where] for stage, X in network.run(some, stages)[1].items()}
             for some, where in zip(_pieces(tokens), _pieces(use), strict=True)]
    return {stage: np.concatenate([part.pop(stage) for part in parts]) for stage in stages}


class Speaker:
    """A LEA run in evaluation mode, from boards to sentences and back."""

    def __init__(self, trainer: module_train_probe_lea.TrainTransformer):
        self.trainer = trainer

    def speak(self, boards: np.ndarray) -> np.ndarray:
        """Sentences (n, S) that encode boards (n, h, w), of which nothing is hidden."""
        return np.concatenate([self.trainer.speaker_sentence(piece, np.zeros_like(piece))
                               for piece in _pieces(boards)])

    def rebuild(self, words: np.ndarray) -> np.ndarray:
        """Boards (n, h, w) rebuilt from sentences (n, S) alone."""
        return np.concatenate([self.trainer.speaker_predict_from_speech(piece) for piece in _pieces(words)])


def _pieces(array: np.ndarray) -> list[np.ndarray]:
    return np.array_split(array, len(array) // BOARDS_AT_ONCE + 1)


def untrained(trainer: module_train_probe.TrainTransformer) -> module_train_probe.TrainTransformer:
    """The trainer of the same network before its first step."""
    return type(trainer)(trainer.dataset, **trainer.params | {"run_name": "", "device": str(trainer.device)})
