"""A run's network for other libraries: its weights as safetensors, all its activations as an ONNX model.

Axis letters: B boards, T tokens of a board, S words of a sentence.
"""
from __future__ import annotations

import importlib
import logging
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from parts.probing.sites import recording

OPSET = 20  # ONNX's operator set
ROUNDING = 1e-4  # of an activation's largest value: float32 explains no larger difference from torch


def library(name: str) -> ModuleType:
    """An optional library. ValueError says how to install it if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        name = name.split(".")[0]
        wanted = f"{name} is missing; pip install -e '.[export]' installs what exports need."
        raise ValueError(wanted) from None


def save_weights(trainer, path: Path) -> None:
    """Writes the state dict as safetensors; ValueError if the file does not give it back."""
    safetensors, state = library("safetensors.torch"), trainer.transformer.state_dict()
    weights = {name: value.cpu().contiguous() for name, value in state.items()}
    path.write_bytes(safetensors.save(weights, {"format": "pt"}))  # save_file lets only its owner read it
    read = safetensors.load_file(path)
    if read.keys() != weights.keys() or not all(torch.equal(read[name], weights[name]) for name in weights):
        raise ValueError(f"{path}: does not hold the network's weights after writing.")


class WholePass(torch.nn.Module):
    """tokens (B, T) -> every named activation, in the order of `names`. Of LEA: in the pass over the board,
    with the language network's, and last the sentence (B, S) of word indices."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network, self.is_lea = network, hasattr(network, "ss_blocks")
        self.names = [*network.sites, *["sentence"] * self.is_lea]

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The activations."""
        # not detached: attention is then computed from its weights, not by a kernel that has none
        with recording(self.network, detach=False) as acts:
            said = self.network.predict_sentence(tokens) if self.is_lea else self.network(tokens)
        return tuple({**acts, "sentence": said}[name] for name in self.names)


def save_onnx(trainer, path: Path, tokens: np.ndarray) -> float:
    """Writes WholePass as a float32 ONNX model, from tokens (B, T) with any B.

    tokens (n, T): masked boards on which onnxruntime is compared with torch. Returns the largest difference,
    as a share of the activation's largest value if that is above 1. ValueError if it is more than ROUNDING.
    """
    for name in ("onnx", "onnxscript"):  # torch.onnx imports them
        library(name)
    whole, tokens = WholePass(trainer.transformer.float().cpu().eval()).eval(), torch.as_tensor(tokens)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing
    with warnings.catch_warnings(action="ignore"):  # of the exporter, about itself
        torch.onnx.export(
            whole, (tokens[:2],), path, input_names=["tokens"], output_names=whole.names, dynamo=True,
            opset_version=OPSET, dynamic_shapes=({0: torch.export.Dim("boards")},), external_data=False,
            verbose=False)
    session, worst = library("onnxruntime").InferenceSession(path), 0.0
    for part in (tokens[:1], tokens):
        ours = [x.detach().numpy() for x in whole(part)]
        theirs = session.run(whole.names, {"tokens": part.numpy()})
        for name, x, y in zip(whole.names, ours, theirs, strict=True):
            off = float(np.abs(x - y).max() / max(1, np.abs(x).max()))
            if off > ROUNDING:
                raise ValueError(f"{path}: {name} is {off:.1e} from torch's, more than rounding explains.")
            worst = max(worst, off)
    return worst
