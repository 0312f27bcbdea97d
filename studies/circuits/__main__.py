"""Circuits of a trained run: which activations, heads and MLPs carry its answer.

    python -m studies.circuits runs/<run> [--quick]

writes runs/<run>/analysis/circuits/: a table (CSV) and a picture of each measure. Measures that need pairs of
boards are left out, with a note on stderr, if the run's boards allow no pairs.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import utils
from parts import files
from parts.probing.panels import own_style, save_figure
from studies import circuits
from studies.circuits import figures
from studies.circuits.stack import CIRCUITS, Stack
from studies.claims.runs import bars, boards_note, command, open_run


def run_all(run: str | Path, quick: bool = False) -> Path:
    """Measures a run and writes <run>/analysis/circuits/, if quick its folder quick; returns the folder.
    ValueError names a file of the run that is missing or damaged."""
    trainer, count = open_run(run), 20 if quick else 100
    boards_note(trainer)
    rng, bar = utils.numpy_rng(trainer.seed, CIRCUITS, 2), bars(run)
    out = Path(run) / "analysis" / ("circuits/quick" if quick else "circuits")
    stages = [f"b{i}_{stage}" for i in range(trainer.n_layer) for stage in trainer.stages]
    parts = list(dict.fromkeys(circuits.components(trainer).values()))
    try:
        pairs = circuits.pairs_of(trainer, count, rng)
    except ValueError as reason:
        pairs = None
        print(f"{Path(run).name}: no patch, attribution and paths, as {reason}", file=sys.stderr)
    drawn, hidden = circuits.held_out_boards(trainer, count, rng)
    tables = {  # {name: (rows, function that draws them)}
        "lens": (circuits.lens(trainer, drawn.boards, hidden, drawn.types), figures.plot_lens),
        "ablate": (circuits.ablate(trainer, drawn.boards, hidden, [*parts, *stages]), figures.bars)}
    if pairs is not None:
        few = [array[:: 1 if quick else 4] for array in pairs]  # a backward pass keeps all activations
        heads = [place for place in parts if place.endswith("_v")]
        tables["patch_head"] = circuits.patch(trainer, *pairs, heads, "head"), figures.plot_patch
        tables["patch_all"] = circuits.patch(trainer, *pairs, stages, "all"), figures.plot_patch
        tables["patch"] = circuits.patch(trainer, *pairs, stages, bar=bar("cells")), figures.plot_patch
        estimates = circuits.attribution(trainer, *few, stages, bar=bar("attribution"))
        tables["attribution"] = estimates, figures.plot_attribution
        if not Stack(trainer).is_lea:
            tables["paths"] = circuits.paths(trainer, *pairs, bar=bar("paths")), figures.plot_paths
    for name, (rows, draw) in tables.items():
        files.save_table(out / f"{name}.csv", rows)
        save_figure(draw(rows), out / f"{name}.png")
    return out


def main() -> None:
    """The command line: prints the folder."""
    parser = argparse.ArgumentParser(prog="studies.circuits", description=__doc__.split("\n\n")[0],
                                     allow_abbrev=False)
    parser.add_argument("run", help="a run folder of the factor network or of LEA")
    parser.add_argument("--quick", action="store_true", help="measure fewer boards: a smoke test")
    flags = parser.parse_args()
    with command(parser), own_style():
        print(run_all(flags.run, flags.quick))


if __name__ == "__main__":
    main()
