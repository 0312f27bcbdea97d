"""Dictionaries against the truth: sparse autoencoders on a trained network whose features are known.

    training    sparse autoencoders: training, encoding, folders that SAELens reads
    scoring     how well latents tell labels, chosen on some cells and reported on others
    cells       cells of masked boards with the labels that can be known
    sources     latents of dictionaries and of controls
    effects     reconstructions put into the network, latents clamped
    language    LEA's words and dictionaries on whole boards
    study       all of it on one run
    report      tables, verdicts, pictures
"""
import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

from studies.dictionaries.scoring import score
from studies.dictionaries.training import train_dictionary

__all__ = ["score", "train_dictionary"]
