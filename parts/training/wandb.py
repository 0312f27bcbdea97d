"""Weights & Biases: a run's numbers and pictures there. wandb is imported only where it is asked for."""
from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from parts.files import read_json, write_json

MODES = ("disabled", "offline", "online")
KEPT = "wandb.json"  # in a run folder: the id of its run at wandb, which a resumed one goes on in


def wanted_mode(flag: str) -> str:
    """The mode that --wandb asks for, `flag`; one that is not disabled gives way to WANDB_MODE. ValueError
    for another."""
    mode = flag.casefold()
    if mode not in MODES:
        raise ValueError(f"--wandb must be disabled, offline or online, not {flag!r}.")
    return mode if mode == "disabled" else os.environ.get("WANDB_MODE") or mode


@contextlib.contextmanager
def wandb_run(trainer, mode: str) -> Iterator[None]:
    """Inside, wandb has an active run with the parameters of a trainer of module_train_probe; none where mode
    is disabled.

    WANDB_PROJECT, WANDB_NAME, WANDB_DIR and WANDB_MODE count as they do for wandb. A run folder that has had
    a run there goes on in it. ValueError, with no file left behind, where wandb cannot start.
    """
    if mode == "disabled":
        yield
        return
    folder = trainer.folder
    trainer.fix_ramps()
    logged_before = (folder / "wandb").exists()
    kept = read_json(folder / KEPT).get("id") if (folder / KEPT).exists() else None
    by_default = {"project": "abstract-representations", "name": trainer.run_name, "dir": str(folder)}
    settings = {
        name: value for name, value in by_default.items() if not os.environ.get(f"WANDB_{name.upper()}")
    }
    if kept is not None:
        settings |= {"id": kept, "resume": "allow" if mode == "online" else None}
    config = {"training": trainer.params, "data set": trainer.dataset.params.as_dict()}
    try:
        import wandb

        if "dir" in settings:
            folder.mkdir(parents=True, exist_ok=True)  # wandb would write elsewhere
        run = wandb.init(config=config, mode=mode, **settings)
    except Exception as error:  # of any kind: not installed, logged out, broken settings, no network
        if not logged_before:
            shutil.rmtree(folder / "wandb", ignore_errors=True)
        with contextlib.suppress(OSError):  # where they are not empty
            folder.rmdir()
            folder.parent.rmdir()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"--wandb {mode} cannot start: {reason[:300].rstrip('.')}.") from None
    with run:
        write_json(folder / KEPT, {"id": run.id})
        yield


def check_wandb_runs() -> None:
    """ValueError where wandb has no active run."""
    import wandb

    if wandb.run is None:
        raise ValueError("bool_wandb = True needs an active run of wandb; call wandb.init() before.")


def log_to_wandb(row: dict, figures: dict, step: int) -> None:
    """Sends a log row and {name: Figure} to wandb's active run."""
    import matplotlib.pyplot  # noqa: F401  wandb.Image looks for it
    import wandb

    pictures = {name: wandb.Image(figure) for name, figure in figures.items()}
    wandb.log(row | pictures, step=step)
