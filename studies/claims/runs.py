"""Run folders that a study is given: checked and opened, where to write, and errors of a study's command."""
from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

import module_train_probe
import module_train_probe_lea
import utils
from parts import files
from studies.claims.scenes import Masking, types_in_use, without_held_out


def is_lea(run: str | Path) -> bool:
    """Whether a run folder is of LEA; ValueError names a folder that holds no run."""
    return "vocab_speech_size" in files.read_json(Path(run) / "params_training.json")


def open_run(run: str | Path, device: str = "auto") -> module_train_probe.TrainTransformer:
    """The trainer of a run folder, of either network."""
    module = module_train_probe_lea if is_lea(run) else module_train_probe
    return module.TrainTransformer.from_run(run, device=device)


def folder_for(runs: Sequence[str | Path], lea: str | Path | None = None, inside: str = "") -> Path:
    """<first run>/analysis/<inside>, made and writable. ValueError if runs share a name or are not of their
    kind, OSError if the folder cannot be written: both before anything is measured."""
    names = [Path(run).name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"runs must have names of their own, not {', '.join(names)}.")
    for run in runs:
        if is_lea(run):
            raise ValueError(f"{run}: is a LEA run; give it as --lea {run}.")
    if lea is not None and not is_lea(lea):
        raise ValueError(f"{lea}: is no LEA run.")
    folder = Path(runs[0] if runs else lea) / "analysis" / inside
    folder.mkdir(exist_ok=True, parents=True)
    tempfile.TemporaryFile(dir=folder).close()
    return folder


def proba_of(trainer) -> np.ndarray:
    """The board types' probabilities at the end of a run, in the order of the data set's board_types."""
    return trainer.board_proba(max(trainer.epoch - 1, 0))


def masking_of(trainer) -> Masking:
    """How boards are masked at the end of a run."""
    return trainer.masking_p, trainer.masking_patch_p


def boards_note(trainer) -> str:
    """A sentence on board types in use that have no held-out boards, '' if all have; also said on stderr."""
    missing = without_held_out(trainer.dataset, types_in_use(trainer.dataset, proba_of(trainer)))
    if not missing:
        return ""
    note = (f"{trainer.folder.name}: no {' or '.join(missing)} boards are held out; those measured are of "
            "train, but not among those fitted on.")
    print(note, file=sys.stderr)
    return note


def bars(run: str | Path) -> Callable[[str], Callable[[Iterable], Iterable]]:
    """bars(run)(step) is a progress bar over an iterable that names the run and the step."""
    name = Path(run).name
    return lambda step: lambda items: utils.progress_bar(items, 20, desc=f"{name}, {step} ", leave=False)


@contextlib.contextmanager
def command(parser: argparse.ArgumentParser) -> Iterator[None]:
    """A study's command runs inside: mistakes end in one sentence and exit code 2."""
    try:
        yield
    except (TypeError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except OSError as error:
        name = utils.shown(str(error.filename))
        parser.exit(2, f"{parser.prog}: {name} cannot be written ({error.strerror}).\n")
