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
from parts import files
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
from studies.claims.readouts import input_features
from studies.claims.report import Findings
from studies.claims.runs import bars, boards_note, command, folder_for, open_run, proba_of
from studies.claims.sample import Sample, make_sample
from studies.claims.scenes import types_in_use
from studies.claims.scores import DRAWS, resample

ANALYSIS = 8  # the stream of a run's seed that these measurements draw from


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    fit: int  # boards to fit read-outs on
    test: int  # test boards of a type
    masks: int  # of each test board
    ceiling_masks: int  # of each test board, for the ceiling
    swaps: int  # boards of a swap, pairs of a steering
    draws: int  # bootstrap samples
    words: int  # boards to learn the language from
    permutations: int  # of the boards, for the information in words


FULL = Size(fit=1800, test=100, masks=4, ceiling_masks=20, swaps=200, draws=DRAWS, words=10_000,
            permutations=50)
QUICK = Size(fit=540, test=15, masks=2, ceiling_masks=5, swaps=60, draws=200, words=1500, permutations=10)


def analyse(trainer: module_train_probe.TrainTransformer, size: Size, bar: Callable) -> Findings:
    """Everything that is measured on a factor run. bar(step) shows the progress of a step."""
    dataset, rng, proba = trainer.dataset, utils.numpy_rng(trainer.seed, ANALYSIS), proba_of(trainer)
    types = types_in_use(dataset, proba)
    network, fresh = Network(trainer), Network(untrained(trainer))
    sample = make_sample(dataset, proba, rng, size.fit, size.test, size.masks, bar("labels"))
    W = resample(sample.test_board.max() + 1, rng, size.draws)  # of test boards
    once = sample.drawn.take(sample.test).take(slice(W.shape[1]))  # each test board, under one mask
    rows = ceiling.measure(trainer, once, proba, rng, size.ceiling_masks, size.draws, bar("ceiling"))

    acts = {"network": network.run(sample.tokens, network.stages)[1],
            "untrained network": fresh.run(sample.tokens, network.stages)[1]}
    sources = acts | input_features(sample.tokens, dataset.vocab_size)
    W_masked = W[:, sample.test_board]  # of masked test boards
    codes = {"network": network.position_code, "untrained network": fresh.position_code}
    decodable, by_stage = decodability.measure(sources, codes, sample, W_masked, rng, bar("read-outs"))
    contexts = generalisation.contexts_of(sample, dataset)
    rows += decodable + generalisation.measure(sources, sample, contexts, W_masked, rng, bar=bar("contexts"))
    of_test = {source: {stage: X[sample.test] for stage, X in stages.items()}
               for source, stages in acts.items()}
    of_test |= over_training(trainer, sample)
    near, near_by_stage = convergence.measure(of_test, sample, W, rng)
    rows += near

    stages = acts["network"]
    means = manipulation.class_means(sample, stages, network.editable, dataset)
    rows += manipulation.measure(network, fresh, dataset, types, means, rng, size.swaps, size.draws,
                                 bar("swaps"))
    means = manipulation.class_means(sample, stages, network.editable, dataset, [0])  # of single boards
    rows += composition.measure(network, fresh, dataset, types, proba, means, rng, size.swaps, size.draws,
                                bar("composition"))
    return Findings(rows, {"decodability_stages": by_stage, "convergence_stages": near_by_stage},
                    {"convergence_pca": convergence.manifolds(sample, stages)})


def over_training(trainer: module_train_probe.TrainTransformer, sample: Sample) -> dict[str, dict]:
    """{'epoch ...': {stage: (masked test boards, T, D)}} of the run's checkpoints, if there are several."""
    checkpoints = files.numbered(trainer.folder / "checkpoints", r"model_(\d+)\.pth")
    stages = {}
    for epoch, path in checkpoints if len(checkpoints) > 1 else ():
        past = Network(type(trainer).from_run(trainer.folder, path.name, str(trainer.device)))
        stages[f"epoch {epoch}"] = past.run(sample.tokens[sample.test], past.stages)[1]
    return stages


def analyse_lea(trainer: module_train_probe_lea.TrainTransformer, size: Size, bar: Callable) -> Findings:
    """Everything that is measured on the language of a LEA run; bar as for `analyse`."""
    dataset, rng = trainer.dataset, utils.numpy_rng(trainer.seed, ANALYSIS)
    proba = trainer.board_proba(trainer.epochs)
    types = types_in_use(dataset, proba)
    speaker, fresh = Speaker(trainer), Speaker(untrained(trainer))
    speech = words.speech_of(speaker, fresh, dataset, types, rng, size.words, 2 * size.test, size.draws)
    rows, by_place = words.measure(speaker, speech, types, proba, rng, size.permutations, size.draws,
                                   bar("information"))
    rows += steering.measure(speaker, dataset, types, rng, size.swaps, size.draws, bar("steering"))
    return Findings(rows, {"words_information": by_place}, {"words_dictionary": speech})


def run_all(runs: Sequence[str | Path], lea: str | Path | None = None, quick: bool = False,
            device: str = "auto") -> tuple[Path, list[dict]]:
    """Analyses factor runs (seeds of one recipe) and a LEA run. Returns the folder written, <first
    run>/analysis/, and the verdicts. quick: fewer boards and bootstrap samples, and <first
    run>/analysis/quick/. Errors as of `folder_for`."""
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
