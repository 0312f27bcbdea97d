"""Sparse autoencoders: training, encoding, decoding, and folders that SAELens reads.

A dictionary writes an activation x (D,) as an offset plus a sum of a few of F directions, its *latents*:

    pre = (x - b_dec) @ W_enc + b_enc
    z   = max(pre, 0), where the kind lets it through, else 0
    x'  = z @ W_dec + b_dec                  each row of W_dec has length 1

Kinds, by what they let through:

    topk        the k largest of each row (arXiv 2406.04093)
    batchtopk   in training the k B largest of a batch of B rows (arXiv 2412.06410); afterwards what exceeds a
                threshold that leaves k a row on average, so that a row does not depend on its batch
    matryoshka  the same, and the first F/16, F/8, F/4, F/2 latents must also rebuild x (arXiv 2503.17547)
    l1          everything; a penalty on z, whose weight is adjusted until k a row are on, keeps them few

Axis letters: N rows, B rows of a batch, D width of the activation, F latents.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import utils
from parts import files
from parts.checks import check_choice, check_shape, check_sizes

KINDS = ("topk", "batchtopk", "matryoshka", "l1")
ARCHITECTURES = {"topk": "topk", "batchtopk": "jumprelu", "matryoshka": "jumprelu", "l1": "standard"}
STEPS, BATCH, RATE = 1500, 1024, 3e-3
DEAD = 200  # steps after which a latent that was never on counts as dead
REVIVE = 1 / 32  # weight of the dead latents' loss, as in arXiv 2406.04093
THRESHOLD_ROWS = 2**16  # rows that a threshold is computed from
PENALTY = (1e-3, 0.005)  # l1: first weight, and how fast its logarithm is adjusted


@dataclass
class Dictionary:
    """A trained dictionary: numpy arrays, float32."""

    kind: str
    k: int
    W_enc: np.ndarray  # (D, F)
    b_enc: np.ndarray  # (F,)
    W_dec: np.ndarray  # (F, D)
    b_dec: np.ndarray  # (D,)
    threshold: float = 0.0  # of batchtopk and matryoshka

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Activations (..., D) -> latents (..., F), at least 0. Each row alone decides on its latents."""
        z = np.maximum((np.asarray(x, np.float32) - self.b_dec) @ self.W_enc + self.b_enc, 0)
        if self.kind == "topk":
            least = np.partition(z, -self.k, axis=-1)[..., -self.k, None]  # the k-th largest
            return np.where(z >= least, z, 0)
        return np.where(z > self.threshold, z, 0)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Latents (..., F) -> reconstructed activations (..., D)."""
        return z @ self.W_dec + self.b_dec

    def quality(self, x: np.ndarray) -> dict[str, float]:
        """On activations (N, D): `explained`, the share of the variance about each dimension's own mean that
        is rebuilt; `L0`, latents on in a row; `alive`, the share of latents that are ever on."""
        z = self.encode(x)
        left = np.square(x - self.decode(z), dtype=np.float64).sum()
        return {"explained": float(1 - left / np.square(x - x.mean(0, dtype=np.float64)).sum()),
                "L0": float((z > 0).sum(1).mean()), "alive": float((z > 0).any(0).mean())}

    def save(self, folder: str | Path) -> None:
        """Writes cfg.json and sae_weights.safetensors to folder, as `SAE.load_from_disk` of SAELens reads
        them."""
        arrays = {name: getattr(self, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
        config = {"architecture": ARCHITECTURES[self.kind], "d_in": len(self.b_dec), "d_sae": len(self.b_enc),
                  "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
                  "normalize_activations": "none", "reshape_activations": "none", "metadata": {}}
        if self.kind == "topk":
            config |= {"k": self.k, "rescale_acts_by_decoder_norm": False}
        elif self.kind != "l1":
            arrays["threshold"] = np.full_like(self.b_enc, self.threshold)
        files.save_safetensors(Path(folder) / "sae_weights.safetensors", arrays)
        files.write_json(Path(folder) / "cfg.json", config)


def train_dictionary(activations: np.ndarray, kind: str = "topk", width: int = 256, k: int = 8, seed: int = 0,
                     steps: int = STEPS, frozen: bool = False, bar: Callable = iter) -> Dictionary:
    """Trains a dictionary of `width` latents, about k of them on in a row, on activations (N, D).

    kind: one of KINDS. seed: of weights and batches. frozen: the decoder stays random and only the encoder is
    trained, a control. bar: shows progress. ValueError names what is wrong.
    """
    check_choice("kind", kind, KINDS)
    check_sizes(width=width, k=k, steps=steps)
    x = checked(activations)
    if width < k:
        raise ValueError(f"width must be at least k = {k}, not {width}.")
    mean = x.mean(0)
    scale = np.sqrt(np.square(x - mean).sum(1).mean() / x.shape[1]) or 1.0  # so that one rate fits all
    rows, generator = torch.from_numpy((x - mean) / scale), utils.torch_rng(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(width, x.shape[1], generator=generator), dim=1)
    weights = [W_dec.T.clone(), torch.zeros(width), W_dec, torch.zeros(x.shape[1])]
    W_enc, b_enc, W_dec, b_dec = (array.requires_grad_() for array in weights)
    optimizer = torch.optim.Adam([W_enc, b_enc, b_dec] + [W_dec] * (not frozen), RATE)
    prefixes = [width // 2**i for i in (4, 3, 2, 1) if width >= 2**i] if kind == "matryoshka" else []
    off, penalty = torch.zeros(width), PENALTY[0]  # steps since a latent was last on
    for step in bar(range(steps)):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, 5 * (1 - step / steps))  # falls in the last fifth
        batch = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
        pre = batch @ W_enc + (b_enc - b_dec @ W_enc)
        z = let_through(pre, kind, k)
        error = batch - (z @ W_dec + b_dec)
        loss = error.square().mean()
        for prefix in prefixes:
            loss = loss + (batch - (z[:, :prefix] @ W_dec[:prefix] + b_dec)).square().mean()
        if kind == "l1":
            loss = loss + penalty * z.sum(1).mean()
            penalty *= np.exp(PENALTY[1] * np.clip((z > 0).sum(1).float().mean().item() / k - 1, -1, 1))
        off = torch.where(z.detach().amax(0) > 0, 0, off + 1)
        dead = off > DEAD
        if dead.any():  # they rebuild what the others leave, as their encoder has no gradient else
            revived = torch.nn.functional.softplus(pre[:, dead])
            revived = let_through(revived, "topk", min(2 * k, int(dead.sum())))
            loss = loss + REVIVE * (error.detach() - revived @ W_dec[dead]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            W_dec /= W_dec.norm(dim=1, keepdim=True)
    W_enc, b_enc, W_dec, b_dec = (utils.to_numpy(array) for array in weights)
    made = Dictionary(kind, k, W_enc, scale * b_enc, W_dec, mean + scale * b_dec)
    if kind in ("batchtopk", "matryoshka"):
        some = made.encode(x[:: -(-len(x) // THRESHOLD_ROWS)])
        place = max(some.size - k * len(some) - 1, 0)  # in order of size
        made.threshold = float(np.partition(some.ravel(), place)[place])
    return made


def let_through(pre: torch.Tensor, kind: str, k: int) -> torch.Tensor:
    """What a kind lets through of pre (B, F) in training, if it is positive; the rest is 0."""
    if kind == "l1":
        return torch.relu(pre)
    flat = pre.detach().numpy()
    flat = flat if kind == "topk" else flat.reshape(1, -1)
    count = k * len(pre) // len(flat)
    least = np.partition(flat, -count)[:, -count, None]  # faster than torch's topk
    through = flat >= np.maximum(least, np.finfo(np.float32).tiny)
    return pre * torch.from_numpy(through.reshape(pre.shape).astype(np.float32))


def checked(activations: np.ndarray) -> np.ndarray:
    """activations as float32 (N, D). ValueError unless there are at least two finite rows."""
    x = np.asarray(activations)
    check_shape("activations", x, (None, None))
    if len(x) < 2:
        raise ValueError(f"activations must have at least 2 rows, one a cell, not {len(x)}.")
    wrong = np.flatnonzero(~np.isfinite(x).all(1))
    if len(wrong):
        raise ValueError(f"activations must be finite, not NaN or infinite as in row {wrong[0]}.")
    return x.astype(np.float32)
