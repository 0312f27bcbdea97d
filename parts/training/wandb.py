"""Weights & Biases: a run's log rows and figures there. wandb is imported only if it is asked for."""
from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from parts.files import read_json, write_json

MODES = ("disabled", "offline", "online")
KEPT = "wandb.json"  # in a run folder: the id of its run at wandb, which a resumed run continues


@contextlib.contextmanager
def wandb_run(trainer, mode: str) -> Iterator[bool]:
    """Inside, wandb has a run with the trainer's parameters, unless mode is disabled; yields whether it has.

    WANDB_PROJECT, WANDB_NAME, WANDB_DIR and WANDB_MODE work as they do for wandb. A resumed run folder
    continues its run at wandb. Of several processes, the first one alone logs. ValueError, with no file left
    behind, if wandb cannot start.
    """
    if mode != "disabled":
        mode = os.environ.get("WANDB_MODE") or mode
    if mode == "disabled" or trainer.rank > 0:
        yield False
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
    except Exception as error:  # any kind: not installed, logged out, broken settings, no network
        if not logged_before:
            shutil.rmtree(folder / "wandb", ignore_errors=True)
        with contextlib.suppress(OSError):  # they are not empty
            folder.rmdir()
            folder.parent.rmdir()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"--wandb {mode} cannot start: {reason[:300].rstrip('.')}.") from None
    with run:
        write_json(folder / KEPT, {"id": run.id})
        yield True


def check_wandb_runs(step: int, steps_per_epoch: int) -> None:
    """ValueError if wandb has no active run, or if that has logged steps that a trainer, after `step` steps,
    is to log: wandb would drop or overwrite them."""
    import wandb

    if wandb.run is None:
        raise ValueError("bool_wandb = True needs an active run of wandb; call wandb.init() before.")
    if wandb.run.step >= step + max(steps_per_epoch, 2):  # a resumed run of wandb begins at step + 1
        raise ValueError(f"bool_wandb = True needs a run of wandb of its own: the active one is at step "
                         f"{wandb.run.step}, this trainer at {step}; call wandb.init() for each trainer.")


def log_to_wandb(row: dict, figures: dict, step: int) -> None:
    """Sends a log row and {name: Figure} to wandb's active run."""
    import matplotlib.pyplot  # noqa: F401  wandb.Image looks for it
    import wandb

    pictures = {name: wandb.Image(figure) for name, figure in figures.items()}
    wandb.log(row | pictures, step=step)
