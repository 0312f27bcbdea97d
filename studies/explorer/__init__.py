"""The explorer: one HTML file in which a trained network can be played with, beside the ideal observer."""
from studies.explorer.export import open_run, reference, run_data
from studies.explorer.page import Page, page

__all__ = ["Page", "explore", "open_run", "page", "reference", "run_data"]


def explore(trainer, name: str | None = None) -> Page:
    """The page of a trainer's network as it stands. A notebook shows it; `Path(...).write_text` keeps it."""
    saved = trainer.run_name and (trainer.folder / "params_training.json").is_file()
    folder = trainer.folder if saved else None
    return page([run_data(trainer, name or trainer.run_name or "this network", folder)])
