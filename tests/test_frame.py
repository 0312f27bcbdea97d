"""What stands around the modules: requirements, environment, Makefile, CI, citation."""
import ast
import dataclasses
import importlib
import inspect
import json
import pydoc
import re
import sys
from pathlib import Path

import pytest

import module_train_probe
import module_train_probe_lea
from module_dataset import AbstractionDataset, DatasetParams

ROOT = Path(__file__).resolve().parents[1]
# every module imports from those before it alone
ORDER = (
    "module_threads", "utils", "module_files", "module_params", "module_figures", "module_run", "module_wandb", "module_rows",
    "module_splits", "module_objects", "module_masking", "module_exports", "module_ceiling", "module_dataset",
    "module_sites", "module_transformer_factor", "module_transformer_lea", "module_kernels",
    "module_optimizers", "module_recipe", "module_learner", "module_evaluation", "module_probe", "module_train_probe",
    "module_train_probe_lea", "claims", "module_patches", "module_circuit_figures", "module_circuits", "module_analysis", "train_model", "train_model_lea",
)
MODULES = {path.stem for path in ROOT.glob("*.py")}
DISTRIBUTIONS = {"yaml": "pyyaml", "PIL": "pillow"}  # where the name differs from what is imported
NOTEBOOK = {"IPython"}  # imported only where a notebook runs, which brings it


def requirements(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


def imported(path):
    """Top-level names that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_modules_are_the_known_ones():
    assert set(ORDER) >= MODULES


def test_every_requirement_is_pinned():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in requirements(name):
            assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.+]*", line), f"{name}: {line}"


def test_every_import_is_required_and_every_requirement_imported():
    third_party = set()
    for path in [*ROOT.glob("*.py"), *(ROOT / "claims").glob("*.py")]:
        third_party |= imported(path) - set(sys.stdlib_module_names) - MODULES - {"claims"}
    required = {line.split("==")[0].lower() for line in requirements("requirements.txt")}
    assert {DISTRIBUTIONS.get(name, name) for name in third_party - NOTEBOOK} == required


def test_tests_need_no_more_than_the_development_requirements():
    lines = requirements("requirements.txt") + requirements("requirements-dev.txt")
    required = {line.split("==")[0].lower() for line in lines}
    own = {path.stem for folder in (ROOT, ROOT / "tests", ROOT / "benchmarks", ROOT / "img") for path in folder.glob("*.py")} | {"tests", "claims"}
    for path in (ROOT / "tests").glob("*.py"):
        names = imported(path) - set(sys.stdlib_module_names) - own
        assert {DISTRIBUTIONS.get(name, name) for name in names} <= required, path.name
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")


def test_modules_import_downwards_only():
    places = {name: place for place, name in enumerate(ORDER)}
    for path in [*ROOT.glob("*.py"), *(ROOT / "claims").glob("*.py")]:
        own = "claims" if path.parent.name == "claims" else path.stem
        for name in (imported(path) & set(ORDER)) - {"claims" if own == "claims" else ""}:
            assert places[name] < places[own], f"{path.name} imports {name}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_everything_public_says_what_it_is(name):
    """What `python -m pydoc` shows: no function, class or method without a sentence."""
    module = importlib.import_module(name)
    own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", None) == name}
    for key, value in own.items():
        parts = {f"{key}.{part}": getattr(value, part) for part in vars(value)} if inspect.isclass(value) else {}
        for what, thing in {key: value, **parts}.items():
            if "_" not in {what[0], what.rpartition(".")[2][0]} and (callable(thing) or isinstance(thing, property)):
                assert inspect.getdoc(thing), f"{name}.{what}"


@pytest.mark.parametrize("cls", [AbstractionDataset, module_train_probe.TrainTransformer, module_train_probe_lea.TrainTransformer])
def test_help_of_a_class_has_every_parameter(cls):
    text = pydoc.plain(pydoc.render_doc(cls))
    assert "<factory>" not in text.splitlines()[3]
    fields = cls.params_class if hasattr(cls, "params_class") else DatasetParams
    for field in dataclasses.fields(fields):
        assert re.search(rf"^ \|      {field.name} = .*: {re.escape(field.metadata['help'])}$", text, re.MULTILINE), field.name


def test_wandb_is_imported_where_it_is_used_only():
    for path in ROOT.glob("*.py"):
        top = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not any(re.search(r"\b(from|import) wandb\b", ast.unparse(node)) for node in top), path.name


def test_environment_installs_the_requirements():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert re.search(r"^ +- -r requirements\.txt$", text, re.MULTILINE)
    wanted = re.search(r"requires-python = \">=([0-9.]+)\"", (ROOT / "pyproject.toml").read_text(encoding="utf-8")).group(1)
    assert re.search(rf"^ +- python={re.escape(wanted)}$", text, re.MULTILINE)
    listed = set(re.findall(r"^ +- ([a-z0-9_-]+)(?:=.*)?$", text, re.MULTILINE)) - {"conda-forge"}
    assert listed == {"python", "pip"}  # nothing pinned a second time


def test_makefile_has_the_commands_and_ci_runs_them():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE).group(1).split())
    assert phony == targets
    assert {"train", "test"} <= targets
    commands = [line for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert "make test" in commands
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in documents)
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"train", "test"} <= named <= targets


def test_scripts_that_the_makefile_runs_exist():
    for script in re.findall(r"\$\(RUN\) (\S+\.py)", (ROOT / "Makefile").read_text(encoding="utf-8")):
        assert (ROOT / script).is_file(), script


def test_the_stress_program_found_nothing_wrong():
    found = json.loads((ROOT / "tests" / "stress" / "results.json").read_text(encoding="utf-8"))
    assert "/tmp" not in json.dumps(found)
    for kind in ("factor", "lea"):
        assert found["kills"][kind]["survived"] == found["kills"][kind]["kills"] >= 50
        pairs, raised = found["pairs"][kind], found["exceptions"][kind]
        assert pairs["survived"] == pairs["kills"] >= 50
        assert raised["survived"] == raised["points of an epoch"] >= 200
        assert pairs["wrong"] == raised["wrong"] == []
    files = [tally for tally in found["fuzz"].values() if isinstance(tally, dict)]
    assert len(files) >= 12
    assert all(tally["refused by name"] + tally["loaded"] == tally["files"] >= 2000 for tally in files)
    for part in (found["kills"]["factor"], found["kills"]["lea"], found["fuzz"], found["soak"]):
        assert part["wrong"] == []


def test_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    [version] = re.findall(r"^version: (.*)$", text, re.MULTILINE)
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"Release notes: {version}" in (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    for line in ("cff-version: 1.2.0", "preferred-citation:", "    - family-names: Ferry", "https://arxiv.org/abs/2312.05361"):
        assert line in text
    assert re.search("license: MIT", text)


def test_the_yardstick_is_unchanged():
    original = ROOT.parent / "shared" / "plain_float64.py"
    if not original.exists():
        pytest.skip("the original yardstick, ../shared/plain_float64.py, is not here")
    assert (ROOT / "benchmarks" / "plain_float64.py").read_bytes() == original.read_bytes()
