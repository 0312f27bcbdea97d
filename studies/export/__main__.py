"""Exports of a trained run for other libraries.

    python -m studies.export RUN --to FOLDER [--onnx]

writes FOLDER, which must not exist: weights (safetensors), config and model card; boards with masks, labels
and the ideal observer's posterior (Parquet and Croissant 1.1); with --onnx a model that gives all named
activations. Each file is read back by its library.
"""
from __future__ import annotations

import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from studies.claims.runs import boards_note, command, open_run
from studies.export.boards import save_boards, tables
from studies.export.card import write_card
from studies.export.model import library, save_onnx, save_weights

NEEDED, FOR_ONNX = ("safetensors.torch", "pyarrow", "mlcroissant"), ("onnx", "onnxscript", "onnxruntime")


def export(run: str | Path, to: str | Path, onnx: bool = False) -> Path:
    """Writes the new folder `to`; returns it. ValueError if it exists, if a library is missing, if a file
    does not give back what was written, or for a damaged run; there is no folder then."""
    to = Path(to).absolute()
    if os.path.lexists(to):
        raise ValueError(f"--to must name a new folder, not {to}, which exists.")
    for name in NEEDED + FOR_ONNX * onnx:
        library(name)
    trainer = open_run(run, "cpu")
    boards_note(trainer)
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export", dir=to.parent) as temporary:
        folder = Path(temporary) / to.name
        folder.mkdir()
        splits, off = tables(trainer), None
        save_weights(trainer, folder / "model.safetensors")
        save_boards(splits, folder, trainer.run_name)
        if onnx:
            some = {name: x[::4] for name, x in list(splits.values())[-1].items()}
            tokens = np.where(some["mask"], trainer.masking_token, some["board"])
            off = save_onnx(trainer, folder / "model.onnx", tokens.reshape(len(tokens), -1))
        write_card(trainer, folder, splits, off)
        os.replace(folder, to)
    return to


def main() -> None:
    """The command line: prints the folder."""
    parser = argparse.ArgumentParser(prog="studies.export", description=__doc__.split("\n\n")[0],
                                     allow_abbrev=False)
    parser.add_argument("run", help="a run folder of the factor network or of LEA")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="the new folder")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx")
    flags = parser.parse_args()
    with command(parser):
        print(export(flags.run, flags.to, flags.onnx))


if __name__ == "__main__":
    main()
