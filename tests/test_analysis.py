"""The command that analyses runs: reports of small runs, README's tables, mistakes; how claims are told."""
import ast
import csv
import importlib
import inspect
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import module_train_probe
import module_train_probe_lea
from module_dataset import AbstractionDataset
from studies.claims import __main__ as command
from studies.claims.networks import Network, Speaker
from studies.claims.report import CLAIMS, TABLES, Findings
from studies.claims.scores import Row, verdict
from tests.commands import run_study

ROOT = Path(__file__).resolve().parent.parent
# every file of claims imports from those before it alone
ORDER = ("statistics", "scores", "figures", "scenes", "sample", "networks", "runs", "readouts", "swaps", "ceiling",
         "decodability", "generalisation", "convergence", "manipulation", "composition", "words", "steering", "report",
         "__main__")


def claims_imported(path):
    """The files of claims that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "studies.claims":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("studies.claims."):
            names.add(node.module.split(".")[2])
    return names


@pytest.mark.parametrize("name", ORDER)
def test_claims_import_downwards_only_and_say_what_they_are(name):
    folder = ROOT / "studies" / "claims"
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", *ORDER}
    assert claims_imported(folder / f"{name}.py") <= set(ORDER[: ORDER.index(name)])
    module = importlib.import_module(f"studies.claims.{name}")
    assert module.__doc__
    for key, value in vars(module).items():
        if getattr(value, "__module__", None) == module.__name__ and not key.startswith("_"):
            assert inspect.getdoc(value), key


def test_every_claim_reads_alike():
    """A claim's file reads question, measure, controls, row."""
    names = [name for name, table in TABLES.items() if table.is_claim]
    assert len(TABLES) == len(CLAIMS)
    for module in CLAIMS:
        assert callable(module.measure)
        if module.TABLE.name in names:
            heads = re.findall(r"^(Claim|Question|Measure|Controls|Row):", module.__doc__, re.MULTILINE)
            assert heads == ["Claim", "Question", "Measure", "Controls", "Row"], module.__name__


def test_findings_of_several_runs_name_them():
    findings = Findings()
    for run, number in (("a", 1), ("b", 2)):
        new = Findings([Row("words", "x", number)], {"lines": [{"y": number}]})
        findings.add_(run, new)
    [(name, rows)] = findings.tables().items()
    assert (name, [(row.run, row.effect[0]) for row in rows]) == ("words", [("a", 1), ("b", 2)])
    assert findings.curves == {"lines": [{"run": "a", "y": 1}, {"run": "b", "y": 2}]}


def supported(row):
    """The rule of judgement, of a row of a CSV."""
    low, effect, upper = (float(row[name] or "nan") for name in ("gain low", "effect", "upper"))
    return low > 0 and effect >= upper / 2


TINY = command.Size(fit=150, choose=60, test=4, masks=1, swaps=10, draws=30, words=200)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for wrapper, proba in ((module_train_probe, [1 / 3] * 3), (module_train_probe_lea, [0.95, 0.05, 0])):
        name = "lea" if wrapper is module_train_probe_lea else "factor"
        small = {"vocab_bck": 4, "vocab_token": 5} if wrapper is module_train_probe else {}  # few features
        trainer = wrapper.TrainTransformer(
            AbstractionDataset(seed=1, board_types_proba=proba, **small), n_embd=16, n_embd_pos=8, seed=1,
            runs=str(folder), run_name=name, device="cpu", board_curriculum=False)
        trainer.start_run()  # a run folder with weights that no step has changed
        for epoch in (0, 1):
            trainer.save_checkpoint(trainer.folder / "checkpoints" / f"model_{epoch}.pth")
    return folder


def test_report_of_a_run(runs, monkeypatch):
    monkeypatch.setattr(command, "QUICK", TINY)
    folder, verdicts = command.run_all([runs / "factor"], runs / "lea", quick=True)
    assert [v["table"] for v in verdicts] == list(TABLES)[1:]
    assert folder == runs / "factor" / "analysis" / "quick"
    assert [path.name for path in folder.parent.iterdir()] == ["quick"]  # what may be quoted is left alone
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "Quick look: do not quote." in report
    assert "held out; those" not in report
    for line in verdicts:
        assert f"**{line['verdict']}**" in report
    for name in [line.split("](")[1].split(")")[0] for line in report.splitlines() if line.startswith("![")]:
        assert (folder / name).stat().st_size > 5000, name
    for table in (*TABLES, "verdicts", "decodability_stages", "convergence_stages", "readouts_curves"):
        with open(folder / f"{table}.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert rows, table
        if "supported" in rows[0] and table != "verdicts":
            for row in rows:
                assert row["supported"] == str(supported(row))


def test_a_network_given_its_own_activations_answers_as_it_does(runs):
    trainer = module_train_probe.TrainTransformer.from_run(runs / "factor")
    network, rng = Network(trainer), np.random.default_rng(0)
    tokens = rng.integers(trainer.dataset.vocab_size, size=(3, 64))
    logits, acts = network.run(tokens, network.stages)
    assert set(acts) == set(network.stages) > set(network.editable)
    where = rng.random(tokens.shape) < 0.5
    for stage in network.editable:
        same, _ = network.run(tokens, (), {stage: (acts[stage], where)})
        np.testing.assert_array_equal(same, logits)
        other, _ = network.run(tokens, (), {stage: (acts[stage][::-1], where)})
        assert np.abs(other - logits).max() > 0


def test_many_boards_are_spoken_of_as_a_few_are(runs, monkeypatch):
    trainer = module_train_probe_lea.TrainTransformer.from_run(runs / "lea")
    speaker, boards = Speaker(trainer), np.random.default_rng(0).integers(10, size=(9, 8, 8))
    words = speaker.speak(boards)
    rebuilt = speaker.rebuild(words)
    monkeypatch.setattr("studies.claims.networks.BOARDS_AT_ONCE", 2)
    np.testing.assert_array_equal(speaker.speak(boards), words)
    np.testing.assert_array_equal(speaker.rebuild(words), rebuilt)


def test_report_of_a_run_without_split_or_depth_or_other_types(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "QUICK", replace(TINY, test=12))
    dataset = AbstractionDataset(seed=1, board_dim=6, abs_n=3, abs_dim=2, abs_c=4, board_types=["single"],
                                 board_types_proba=[1], bool_split=False)
    trainer = module_train_probe.TrainTransformer(
        dataset, n_layer=1, n_embd=8, n_embd_pos=4, seed=1, runs=str(tmp_path), run_name="odd", device="cpu",
        board_curriculum=False)
    trainer.start_run()
    trainer.save_checkpoint(trainer.folder / "checkpoints" / "model_0.pth")
    folder, verdicts = command.run_all([tmp_path / "odd"], quick=True)
    note = "odd: no single boards are held out"
    assert note in capsys.readouterr().err
    assert note in (folder / "report.md").read_text(encoding="utf-8")
    found = {v["table"]: v for v in verdicts}
    # one block: no attention follows an edit
    assert set(found) == {"decodability", "generalisation", "convergence"}
    assert found["decodability"]["features"] == 12  # all but the composite, hidden and visible


@pytest.mark.parametrize("networks", ["factor", "factor_best", "factor_falling", "places"])
def test_verdicts_follow_from_the_tables(networks, monkeypatch):
    """The verdicts in docs/claims.md follow from the rows that are kept."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import make_docs

    document = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    for v in make_docs.claims_of(networks, "verdicts"):
        rows = make_docs.claims_of(networks, v["table"])
        for row in rows:
            assert row["supported"] == str(supported(row))
        made = verdict([SimpleNamespace(run=row["run"], feature=row["feature"], counts=row["counts"] == "True",
                                        supported=row["supported"] == "True") for row in rows])
        assert {name: str(value) for name, value in made.items()} == {name: v[name] for name in made}
        assert f"**{v['verdict']}** {v['supported']} of {v['features']}" in document


def test_mistakes_are_one_line(runs, tmp_path, monkeypatch, capsys):
    for flags, words in (([str(runs / "lea")], "is a LEA run"), ([], "at least one run"),
                         ([str(tmp_path)], "params_training.json"),
                         ([str(runs / "factor"), "--device", "cuda:77"], "device must be")):
        with pytest.raises(SystemExit) as end:
            run_study(monkeypatch, "claims", *flags)
        assert end.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert words in line


def test_a_folder_that_cannot_be_written_is_found_out_first(tmp_path, runs, monkeypatch, capsys):
    """A file stands in its place: no run is read."""
    (tmp_path / "factor").mkdir()
    (tmp_path / "factor" / "params_training.json").write_bytes((runs / "factor" / "params_training.json").read_bytes())
    (tmp_path / "factor" / "analysis").write_text("")
    monkeypatch.setattr(sys, "argv", ["studies.claims", str(tmp_path / "factor")])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "analysis' cannot be written (File exists)." in line


def test_a_run_is_measured_under_its_own_masks(runs, monkeypatch):
    trainer = module_train_probe.TrainTransformer.from_run(runs / "factor", device="cpu")
    trainer.masking_p, trainer.masking_patch_p = 0.4, 0.0
    asked = []

    class Enough(Exception):
        pass

    def make_sample(dataset, proba, masking, *more, bar):
        asked.append(masking)
        raise Enough

    monkeypatch.setattr(command, "make_sample", make_sample)
    with pytest.raises(Enough):
        command.analyse(trainer, TINY, lambda step: iter)
    assert asked == [(0.4, 0.0)]


def test_an_analysis_computes_where_it_is_told(runs, monkeypatch):
    asked = []
    for wrapper in (module_train_probe, module_train_probe_lea):
        monkeypatch.setattr(wrapper.TrainTransformer, "from_run", lambda run, device: asked.append(device))
    for step in ("analyse", "analyse_lea"):
        monkeypatch.setattr(command, step, lambda *_: Findings())
    monkeypatch.setattr(command, "boards_note", lambda trainer: "")
    monkeypatch.setattr(command.report, "write", lambda *_: [])
    monkeypatch.setattr(sys, "argv", ["studies.claims", str(runs / "factor"), "--lea", str(runs / "lea"), "--device", "mps"])
    command.main()
    assert asked == ["mps", "mps"]
