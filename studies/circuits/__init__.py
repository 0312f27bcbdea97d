"""Circuits: which activations, heads and MLPs of a trained network carry its answer, measured exactly.

The network has 200,000 weights, so what can only be estimated in a language model is computed here. A board,
the *base*, is run with some activations taken from the run of another board, the *donor*, and the effect is
read at cells where the two boards differ, as the donor's logit minus the base's. Of that difference
`recovered` is the share of the way from base to donor: 0 is no effect, 1 the donor. `success` is the share of
the cells read at which the network answers the donor's token.

Functions take a trainer and boards, and return rows: a list of dicts, the lines of a CSV. Columns `... low`
and `... high` are 95% bootstrap intervals over boards, equal boards drawn together; shares are of sums over
boards. LEA's inference network is measured as it reads the blank sentence.

    logit_lens     lens: the answer of each stage, read out by the final LayerNorm and head
    patching       patch: activations of a donor, by cell, head or whole
    ablation       ablate, kept: accuracy without a part, or with a few parts only
    direct_paths   paths: every direct effect of a sender on a receiver
    gradients      attribution: the first-order estimate of `patch`
    boards         the boards of a run to measure on
    stack          passes through the blocks, many patches at once
    figures        a picture for each table

Axis letters: n boards, T cells, H heads, D width, V tokens, U patches, M boards in a forward pass.
"""
import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

from studies.circuits.ablation import ablate, components, kept
from studies.circuits.boards import held_out_boards, pairs_of
from studies.circuits.direct_paths import paths
from studies.circuits.gradients import attribution
from studies.circuits.logit_lens import lens
from studies.circuits.patching import patch

__all__ = ["ablate", "attribution", "components", "held_out_boards", "kept", "lens", "pairs_of", "patch",
           "paths"]
