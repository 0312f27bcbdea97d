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
from parts.params import Params

ROOT = Path(__file__).resolve().parents[1]
EIGHT = ("utils", "module_dataset", "module_transformer_factor", "module_transformer_lea", "module_train_probe",
         "module_train_probe_lea", "train_model", "train_model_lea")  # each imports from those before it alone
FLOOR = ("parts", "parts.params", "parts.files", "parts.checks")  # what all above utils may import
ALLOWED = {  # what a storey may import besides: modules, and packages with all that is in them
    "utils": (),
    "parts": FLOOR,
    "parts.boards": (*FLOOR, "parts.boards"),
    "parts.probing": (*FLOOR, "parts.boards", "parts.probing"),
    "parts.training": (*FLOOR, "parts.boards", "parts.training"),
    "studies": (*EIGHT, *FLOOR, "parts.boards", "parts.probing", "parts.training", "studies"),
}
UPWARDS = {"module_train_probe": ("studies.explorer",)}  # imported by trainer.explore() when it is called
PROMISED = {  # names that SPEC.md promises, by the module where it does
    "utils": "clear_folder_extension clear_folder find_best_plot_dim get_ij get_concat_h get_concat_v merge_attn_plots "
             "divide_into_batches progress_bar print_dict torch_entropy dist dist_unit dist_cosine ramp",
    "module_dataset": "AbstractionDataset",
    "module_transformer_factor": "GPTFactor recording editing",
    "module_transformer_lea": "LEA LEAFactor VectorQuantizer VectorQuantizerEMA",
    "module_train_probe": "TrainTransformer torch_entropy dist dist_unit dist_cosine ramp",
    "module_train_probe_lea": "TrainTransformer torch_entropy dist dist_unit dist_cosine ramp",
    "studies.circuits": "lens patch ablate kept paths attribution",
    "studies.dictionaries": "train_dictionary score",
}
METHODS = {
    AbstractionDataset: "_draw_board _draw_board_deterministic get_n_training_boards get_all_boards render_board posterior draw "
                        "export load whoamI",
    module_train_probe.TrainTransformer: "train _mask_input load_transformer test_model_accuracy test_model_accuracy_set "
        "test_model_accuracy_subset analyze_embeddings_tokenandpos analyze_embeddings analyze_all analyze_across_boards "
        "analyze_across_boards_attn forward_svg forward_pca forward_pca_batch forward_all_activations from_run resume",
    module_train_probe_lea.TrainTransformer: "forward_activations_fromBoard forward_activations_fromSpeech speaker_predict "
        "speaker_predict_from_speech",
}
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("parts/**/*.py"), *ROOT.glob("studies/**/*.py")]
DISTRIBUTIONS = {"yaml": "pyyaml", "PIL": "pillow"}  # where the name differs from what is imported
NOTEBOOK = {"IPython"}  # imported only where a notebook runs, which brings it


def requirements(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


def name_of(path):
    """The module name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path):
    """Full names of the modules that a file imports anywhere in it, those of names imported from a package included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def third_party(paths):
    names = {name.split(".")[0] for path in paths for name in imported(path)}
    own = {path.stem for folder in ("", "tests", "benchmarks", "img") for path in (ROOT / folder).glob("*.py")}
    names -= set(sys.stdlib_module_names) | own | {"parts", "studies", "tests"} | NOTEBOOK
    return {DISTRIBUTIONS.get(name, name) for name in names}


def test_the_top_level_is_the_eight_files():
    assert {path.stem for path in ROOT.glob("*.py")} == set(EIGHT)


def test_imports_go_down_the_storeys_only():
    """utils <- parts <- parts.boards <- parts.probing, parts.training <- the other seven <- studies; of
    the studies only claims serves the others, with scores, swaps, scenes and the measures that emergence follows."""
    known = {name_of(path): path for path in SOURCES}
    for name, path in known.items():
        own = {other for other in imported(path) if other in known} - {"utils", name, *UPWARDS.get(name, ())}
        below = EIGHT[: EIGHT.index(name)] if name in EIGHT[1:] else ()
        storey = max((key for key in ALLOWED if name == key or name.startswith(key + ".")), key=len, default="studies")
        packages = {key for key in ALLOWED[storey] if key not in (*EIGHT, *FLOOR)} - ({"studies"} if below else set())
        allowed = set(below) | {key for key in ALLOWED[storey] if not below or key not in EIGHT}
        wrong = {other for other in own - allowed if not any(other.startswith(f"{key}.") for key in packages)}
        assert not wrong, f"{name} imports {sorted(wrong)}"
        if name.startswith("studies."):
            others = {other.split(".")[1] for other in own if other.startswith("studies.")}
            assert others <= {name.split(".")[1], "claims"}, f"{name} imports of {others}"


def test_nobody_imports_in_a_circle():
    known = {name_of(path): path for path in SOURCES}
    below = {name: {other for other in imported(path) - {*UPWARDS.get(name, ())}
                    if other in known and not f"{name}.".startswith(f"{other}.")}
             for name, path in known.items()}  # a module's own package is loaded before it in any case
    while leaves := {name for name, names in below.items() if not names & below.keys()}:
        below = {name: names for name, names in below.items() if name not in leaves}
    assert not below


def test_every_promised_name_is_where_it_is_promised():
    for module, names in PROMISED.items():
        for name in names.split():
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
    for cls, names in METHODS.items():
        for name in names.split():
            assert callable(getattr(cls, name)), f"{cls.__module__}.{cls.__name__}.{name}"


def test_inheritance_is_at_most_two_classes_deep():
    for path in SOURCES:
        if path.name == "__main__.py" or path.name == "threads.py":
            continue
        module = importlib.import_module(name_of(path))
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__:
                own = [base for base in cls.__mro__ if base.__module__.split(".")[0] in {"parts", "studies", *EIGHT}]
                assert len(own) <= 2 + (Params in own), own  # parameter classes share the checks of their fields


def test_studies_and_benchmarks_call_public_names_only():
    private = {name for path in SOURCES for name in re.findall(r"def (_[a-z]\w*)", path.read_text(encoding="utf-8"))}
    for path in [*ROOT.glob("studies/**/*.py"), *ROOT.glob("benchmarks/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in private:
                assert getattr(node.value, "id", "") in ("self", "cls"), f"{path.name}:{node.lineno} {node.attr}"


def test_every_requirement_is_pinned():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in requirements(name):
            assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.+]*", line), f"{name}: {line}"


def test_every_import_is_required_and_every_requirement_imported():
    required = {line.split("==")[0].lower() for line in requirements("requirements.txt")}
    assert third_party(SOURCES) == required


def test_tests_need_no_more_than_the_development_requirements():
    lines = requirements("requirements.txt") + requirements("requirements-dev.txt")
    assert third_party((ROOT / "tests").glob("*.py")) <= {line.split("==")[0].lower() for line in lines}
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(name_of(path) for path in SOURCES if path.name != "__main__.py"))
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
    for path in SOURCES:
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
