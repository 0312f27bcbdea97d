"""Sentences of LEA: checking what a user gives, and what they encode.

Axis letters: n boards, h x w cells of a board, B sentences, S words of a sentence, K words of the codebook.
"""
from __future__ import annotations

import numpy as np
import torch

from parts.boards.params import TYPES
from utils import shown


def word_indices(sentences, S: int, K: int, device: torch.device) -> torch.Tensor:
    """Sentences, as word indices (B, S) or one-hot (B, S, K), array or tensor -> indices (B, S) on the
    device. TypeError or ValueError for anything else; the network checks the range of indices."""
    wanted = f"sentences must be word indices (B, {S}) or one-hot (B, {S}, {K}), not"
    try:
        words = sentences if isinstance(sentences, torch.Tensor) else torch.from_numpy(np.array(sentences))
    except (TypeError, ValueError):
        raise TypeError(f"{wanted} {shown(sentences)}.") from None
    if words.ndim == 3 and words.shape[1:] == (S, K):
        if ((words != 0).sum(-1) != 1).any():
            raise ValueError("sentences, one-hot, must name exactly one word at each place.")
        return (words != 0).int().argmax(-1).to(device)
    if words.ndim != 2 or words.shape[1] != S or words.is_floating_point():
        raise ValueError(f"{wanted} {words.dtype} of shape {tuple(words.shape)}.")
    return words.to(device).long()


def sentence_scores(boards, rebuilt, words, types) -> dict[str, float]:
    """What sentences encode of boards (n, h, w): rebuilt (n, h, w) from the sentences alone, words one-hot
    (n, S, K), types (n,) of the boards. Keys as the wrapper's test_sentences explains them."""
    right = rebuilt == boards
    scores = {"tokens": right.mean(), "boards": right.all((1, 2)).mean()}
    for t in np.unique(types):
        scores[f"tokens_{TYPES[t]}"] = right[types == t].mean()
        scores[f"boards_{TYPES[t]}"] = right[types == t].all((1, 2)).mean()
    sentences, pictures = words.argmax(-1), boards.reshape(len(boards), -1)
    scores["distinct"] = len(np.unique(sentences, axis=0)) / len(np.unique(pictures, axis=0))
    scores["bits"] = sum(entropy_bits(used) for used in words.sum(0))
    scores["words"] = np.count_nonzero(words.sum((0, 1)))
    scores["perplexity"] = 2 ** entropy_bits(words.sum((0, 1)))
    return {name: float(value) for name, value in scores.items()}


def entropy_bits(counts: np.ndarray) -> np.ndarray:
    """Entropy in bits of the distributions that counts (..., K) make; 0 if all counts are 0."""
    share = counts / np.maximum(counts.sum(-1, keepdims=True), 1e-30)
    return (share * np.log2(1 / np.where(share > 0, share, 1))).sum(-1)


def information(words: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Plug-in mutual information (S,) in bits of the word at each place, words (n, S), and values (n,)."""
    K, C = words.max() + 1, values.max() + 1
    joint = np.array([np.bincount(w * C + values, minlength=K * C).reshape(K, C) for w in words.T])
    return (
        entropy_bits(joint.sum(2)) + entropy_bits(joint.sum(1)) - entropy_bits(joint.reshape(len(joint), -1))
    )
