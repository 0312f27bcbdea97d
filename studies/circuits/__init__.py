"""Circuits: which activations, heads and MLPs of a network carry an answer, measured exactly."""
from studies.circuits.measures import ablate, attribution, kept, lens, patch, paths

__all__ = ["ablate", "attribution", "kept", "lens", "patch", "paths"]
