"""What the paper (arXiv 2312.05361) claims of such networks, measured on trained runs, with controls, and
judged.

    python module_analysis.py runs/<run> [more runs = seeds] [--lea runs/<lea_run>] [--quick]

writes runs/<run>/analysis/: a CSV a table, a PNG a figure and report.md;

    python module_analysis.py --emergence runs/<run> [more runs = seeds]

follows runs through their checkpoints instead, and writes emergence.csv and .png there. How each claim is
measured is told in its own file in `claims`; this one says in which order, with how many boards, and for
which runs. Whatever is random follows from a run's seed.
"""
from __future__ import annotations

import parts.training.threads  # noqa: F401, before torch is loaded

# isort: split

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import module_train_probe
import module_train_probe_lea
import utils
from parts import files
from parts.probing import panels
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
from studies.claims.sample import Sample, make_sample
from studies.claims.scenes import types_in_use
from studies.claims.scores import DRAWS, resample
from studies.emergence import measures as emergence

ANALYSIS, EMERGENCE = 8, 10  # the streams of a run's seed that these draw from


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    fit: int  # boards to fit read-outs on
    test: int  # test boards of a type
    masks: int  # of each test board
    ceiling_masks: int  # of each test board, for the ceiling
    swaps: int  # boards of a swap, pairs of a steering
    draws: int  # of the bootstrap
    words: int  # boards to learn the language from
    permutations: int  # of the boards, for the information in words


SIZES = {  # by whether it is to be quick
    False: Size(fit=1800, test=100, masks=4, ceiling_masks=20, swaps=200, draws=DRAWS, words=10_000,
                permutations=50),
    True: Size(fit=540, test=15, masks=2, ceiling_masks=5, swaps=60, draws=200, words=1500,
               permutations=10),
}


def analyse(trainer: module_train_probe.TrainTransformer, size: Size, bar: Callable) -> Findings:
    """Everything that is measured on a factor run. bar: of a step's name, what shows progress over what it is
    given."""
    dataset, rng = trainer.dataset, utils.numpy_rng(trainer.seed, ANALYSIS)
    proba = trainer._board_proba(max(trainer.epoch - 1, 0))
    types = types_in_use(dataset, proba)
    network, fresh = Network(trainer), Network(untrained(trainer))
    sample = make_sample(dataset, proba, rng, size.fit, size.test, size.masks, bar("labels"))
    W = resample(sample.boards.max() + 1, rng, size.draws)  # of test boards
    once = sample.scenes.take(sample.test).take(slice(W.shape[1]))
    rows = ceiling.measure(trainer, once, proba, rng, size.ceiling_masks, size.draws, bar("ceiling"))

    acts = {"network": network.run(sample.tokens, network.stages)[1],
            "untrained network": fresh.run(sample.tokens, network.stages)[1]}
    sources = acts | input_features(sample.tokens, dataset.vocab_size)
    W_masked = W[:, sample.boards]  # of masked test boards
    codes = {"network": network.position_code, "untrained network": fresh.position_code}
    decodable, by_stage = decodability.measure(sources, codes, sample, W_masked, rng, bar("read-outs"))
    contexts = generalisation.contexts_of(sample, dataset)
    rows += decodable + generalisation.measure(sources, sample, contexts, W_masked, rng, bar=bar("contexts"))
    of_test = {}
    for source, stages in acts.items():
        of_test[source] = {stage: X[sample.test] for stage, X in stages.items()}
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
    """{'epoch ...': {stage: (masked test boards, T, D)}} of the run's checkpoints, where there are
    several."""
    found = files.numbered(trainer.folder / "checkpoints", r"model_(\d+)\.pth")
    stages = {}
    for epoch, path in found if len(found) > 1 else ():
        past = Network(type(trainer).from_run(trainer.folder, path.name, str(trainer.device)))
        stages[f"epoch {epoch}"] = past.run(sample.tokens[sample.test], past.stages)[1]
    return stages


def analyse_lea(trainer: module_train_probe_lea.TrainTransformer, size: Size, bar: Callable) -> Findings:
    """Everything that is measured on the language of a LEA run; bar as for `analyse`."""
    dataset, rng = trainer.dataset, utils.numpy_rng(trainer.seed, ANALYSIS)
    proba = trainer._board_proba(trainer.epochs)
    types = types_in_use(dataset, proba)
    speaker, fresh = Speaker(trainer), Speaker(untrained(trainer))
    speech = words.speech_of(speaker, fresh, dataset, types, rng, size.words, 2 * size.test, size.draws)
    rows, by_place = words.measure(speaker, speech, types, proba, rng, size.permutations, size.draws,
                                   bar("information"))
    rows += steering.measure(speaker, dataset, types, rng, size.swaps, size.draws, bar("steering"))
    return Findings(rows, {"words_information": by_place}, {"words_dictionary": speech.dictionary()})


def run_all(
    runs: Sequence[str | Path], lea: str | Path | None = None, quick: bool = False, device: str = "auto"
) -> list[dict]:
    """Analyses factor runs (seeds of one recipe) and a LEA run, writes <first run>/analysis/ and returns the
    verdicts.

    quick: fewer boards and draws. device: as of a training. ValueError names runs that share a name, or a
    folder that holds no run of its kind; OSError a folder that cannot be written, before anything else.
    """
    start, findings = time.time(), Findings()
    folder = _checked_folder(runs, lea)
    for run in runs:
        trainer = module_train_probe.TrainTransformer.from_run(run, device=device)
        findings.add_(Path(run).name, analyse(trainer, SIZES[quick], _bars(run)))
    if lea is not None:
        trainer = module_train_probe_lea.TrainTransformer.from_run(lea, device=device)
        findings.add_(Path(lea).name, analyse_lea(trainer, SIZES[quick], _bars(lea)))
    return report.write(folder, findings, time.time() - start)


def follow_all(runs: Sequence[str | Path], device: str = "auto") -> Path:
    """Follows factor runs (seeds of one recipe) through their checkpoints: what emerges when. Writes
    <first run>/analysis/emergence.csv, a row a measured value, and .png; returns the picture's path.

    device: as of a training. Errors as of `run_all`.
    """
    folder, rows = _checked_folder(runs), []
    for run in runs:
        trainer = module_train_probe.TrainTransformer.from_run(run, device=device)
        rng = utils.numpy_rng(trainer.seed, EMERGENCE)
        found = emergence.follow(trainer, rng, _bars(run)("checkpoints"))
        rows += [{"run": Path(run).name, "seed": trainer.seed} | row for row in found]
    files.save_table(folder / "emergence.csv", rows)
    panels.save_figure(emergence.plot_emergence(rows), folder / "emergence.png", 100)
    return folder / "emergence.png"


def _checked_folder(runs: Sequence[str | Path], lea: str | Path | None = None) -> Path:
    """The folder to write into, of the first run; runs are of their kinds and can be told apart."""
    names = [Path(run).name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"runs must have names of their own, not {', '.join(names)}.")
    for run in runs:
        _check_kind(run, is_lea=False)
    if lea is not None:
        _check_kind(lea, is_lea=True)
    folder = Path(runs[0] if runs else lea) / "analysis"
    folder.mkdir(exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()  # an OSError now rather than at the end
    return folder


def _check_kind(run: str | Path, is_lea: bool) -> None:
    found_lea = "vocab_speech_size" in files.read_json(Path(run) / "params_training.json")
    if is_lea and not found_lea:
        raise ValueError(f"{run}: is no LEA run.")
    if found_lea and not is_lea:
        raise ValueError(f"{run}: is a LEA run; give it as --lea {run}.")


def _bars(run: str | Path) -> Callable[[str], Callable]:
    """Of a step's name, a progress bar that names the run and the step."""
    def bar(what: str) -> Callable:
        return lambda steps: utils.progress_bar(steps, 20, desc=f"{Path(run).name}, {what} ", leave=False)

    return bar


def main() -> None:
    """The command line: reports on run folders, verdicts on stdout; exit code 2 for a folder that cannot be
    read."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="*", help="run folders of the factor network, seeds of one recipe")
    parser.add_argument("--lea", help="a run folder of LEA")
    parser.add_argument("--quick", action="store_true", help="fewer boards and draws, for a look")
    parser.add_argument("--emergence", nargs="+", metavar="RUN", default=[],
                        help="instead: what emerges when, at the checkpoints of these runs")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, mps or auto (default: auto)")
    flags = parser.parse_args()
    with panels.own_style():
        _answer(parser, flags)


def _answer(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
    """Does what the flags ask for."""
    try:
        if flags.emergence and (flags.runs or flags.lea or flags.quick):
            raise ValueError("--emergence: takes runs of its own, and neither others, --lea nor --quick.")
        if flags.emergence:
            utils.say(follow_all(flags.emergence, flags.device))
        elif flags.runs or flags.lea:
            _report(flags)
        else:
            raise ValueError("runs: give at least one run folder, or --lea and one.")
    except (TypeError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except OSError as error:
        name = utils.shown(str(error.filename))
        parser.exit(2, f"{parser.prog}: {name} cannot be written ({error.strerror}).\n")


def _report(flags: argparse.Namespace) -> None:
    """Writes the report and says the verdicts."""
    for v in run_all(flags.runs, flags.lea, flags.quick, flags.device):
        features = f"{v['holding']} of {v['features']} features, n = {v['runs']}"
        utils.say(f"{v['verdict']:>9}  {v['claim']} ({features})")
    utils.say(Path(flags.runs[0] if flags.runs else flags.lea) / "analysis" / "report.md")


if __name__ == "__main__":
    main()
