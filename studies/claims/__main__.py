"""What the paper (arXiv 2312.05361) claims of such networks, measured on trained runs, with controls, and
judged.

    python -m studies.claims runs/<run> [more runs = seeds] [--lea runs/<lea_run>] [--quick]

writes runs/<run>/analysis/: a CSV per table, a PNG per figure and report.md; with --quick, which measures
fewer boards, runs/<run>/analysis/quick/. Each claim's file in this folder tells how it is measured; this one
tells in which order and on how many boards. Everything random follows from a run's seed.
"""
from __future__ import annotations

import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import module_train_probe
import module_train_probe_lea
import utils
from studies.claims import (
    ceiling,
    composition,
    convergence,
    decodability,
    generalisation,
    manipulation,
    report,
    steering,
    words,
)
from studies.claims.networks import Network, Speaker, untrained
from studies.claims.readouts import curves_of, of_input, of_network, readouts
from studies.claims.report import Findings
from studies.claims.runs import bars, boards_note, command, folder_for, masking_of, open_run, proba_of
from studies.claims.sample import make_sample
from studies.claims.scenes import types_in_use
from studies.claims.scores import DRAWS, resample

ANALYSIS = 8  # the stream of a run's seed that these measurements draw from


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    fit: int  # boards to fit read-outs on, at most
    choose: int  # to choose among them
    test: int  # test boards of a type, at most
    masks: int  # of each test board, for the ceiling
    swaps: int  # boards of a swap, pairs of a steering
    draws: int  # bootstrap samples
    words: int  # boards to learn the language from, at most


FULL = Size(fit=32_000, choose=900, test=400, masks=2, swaps=200, draws=DRAWS, words=16_000)
QUICK = Size(fit=600, choose=150, test=12, masks=1, swaps=30, draws=100, words=1500)


def analyse(trainer: module_train_probe.TrainTransformer, size: Size, bar: Callable) -> Findings:
    """Everything that is measured on a factor run. bar(step) shows the progress of a step."""
    dataset, rng, proba = trainer.dataset, utils.numpy_rng(trainer.seed, ANALYSIS), proba_of(trainer)
    types, masking = types_in_use(dataset, proba), masking_of(trainer)
    network, fresh = Network(trainer), Network(untrained(trainer))
    sample = make_sample(dataset, proba, masking, rng, size.fit, size.choose, size.test, bar=bar("labels"))
    n_test = sample.test_board.max() + 1
    once = sample.drawn.take(sample.test).take(slice(n_test))  # each test board, under one mask
    W = resample(once.tokens, rng, size.draws)
    rows = ceiling.measure(trainer, once, proba, rng, size.masks, size.draws, bar("ceiling"), masking)

    tasks = decodability.tasks_of(sample, rng) | generalisation.tasks_of(sample, dataset)
    networks = {"network": network, "untrained network": fresh}
    sources = {name: of_network(each, sample.tokens) for name, each in networks.items()}
    sources |= of_input(sample.tokens, dataset.vocab_size)
    found = dict.fromkeys(sources)
    for source in bar("read-outs")([*sources][::-1]):  # the largest sums first, while memory is in one piece
        own = {name: task for name, task in tasks.items() if source == "network" or not task.network_only}
        found[source] = readouts(sources[source], own, sample, W[:, sample.test_board])
    decodable, by_stage = decodability.measure(found)
    rows += decodable + generalisation.measure(found)
    del tasks, own

    cells, masked = convergence.cells_of(sample), sample.tokens[sample.test]
    points = ((name, convergence.points_of(each, masked, cells)) for name, each in networks.items())
    converging, near = convergence.measure(points, cells, sample, W, rng)
    rows += converging

    store = manipulation.Store(network, sample, dataset)
    del sample, points, masked  # large
    amounts = masking, rng, size.swaps, size.draws
    rows += manipulation.measure(network, fresh, dataset, types, store, *amounts, bar("swaps"))
    rows += composition.measure(network, fresh, dataset, types, proba, store, *amounts)
    curves = [line for source in sources for line in curves_of(source, found[source])]
    curves = {"readouts_curves": curves, "decodability_stages": by_stage, "convergence_stages": near}
    return Findings(rows, curves)


def analyse_lea(trainer: module_train_probe_lea.TrainTransformer, size: Size, bar: Callable) -> Findings:
    """Everything that is measured on the language of a LEA run; bar as for `analyse`."""
    dataset, rng = trainer.dataset, utils.numpy_rng(trainer.seed, ANALYSIS)
    types = types_in_use(dataset, trainer.board_proba(trainer.epochs))
    speaker, fresh = Speaker(trainer), Speaker(untrained(trainer))
    speech = words.speech_of(speaker, fresh, dataset, types, rng, size.words, size.test, size.draws)
    rows = words.measure(speaker, speech, dataset.params.abs_n)
    rows += steering.measure(speaker, dataset, types, rng, size.swaps, size.draws, bar("steering"))
    return Findings(rows)


def run_all(runs: Sequence[str | Path], lea: str | Path | None = None, quick: bool = False,
            device: str = "auto") -> tuple[Path, list[dict]]:
    """Analyses factor runs (seeds of one recipe) and a LEA run, if quick on fewer boards. Returns the folder
    written, <first run>/analysis/ or its folder quick, and the verdicts. Errors as of `folder_for`."""
    start, findings, size = time.time(), Findings(), QUICK if quick else FULL
    folder = folder_for(runs, lea, "quick" if quick else "")
    for run, measure in [(run, analyse) for run in runs] + [(lea, analyse_lea)] * (lea is not None):
        trainer = open_run(run, device)
        findings.notes += filter(None, [boards_note(trainer)])
        findings.add_(Path(run).name, measure(trainer, size, bars(run)))
    return folder, report.write(folder, findings, time.time() - start, quick)


def main() -> None:
    """The command line: writes the report and prints the verdicts."""
    parser = argparse.ArgumentParser(prog="studies.claims", description=__doc__.split("\n\n")[0],
                                     allow_abbrev=False)
    parser.add_argument("runs", nargs="*", help="run folders of the factor network, seeds of one recipe")
    parser.add_argument("--lea", help="a run folder of LEA")
    parser.add_argument("--quick", action="store_true", help="measure fewer boards; not to be quoted")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, mps or auto (default: auto)")
    flags = parser.parse_args()
    with command(parser):
        if not flags.runs and not flags.lea:
            raise ValueError("runs: give at least one run folder, or --lea and one.")
        folder, verdicts = run_all(flags.runs, flags.lea, flags.quick, flags.device)
        for v in verdicts:
            features = f"{v['supported']} of {v['features']} features, n = {v['runs']}"
            print(f"{v['verdict']:>16}  {v['claim']} ({features})")
        print(folder / "report.md")


if __name__ == "__main__":
    main()
