"""README.md and docs/: tables in step with results, snippets that run, links that lead somewhere."""
import re
import shlex
import sys
from pathlib import Path

import pytest

import module_train_probe
import module_train_probe_lea
import train_model
import train_model_lea
from module_dataset import DatasetParams
from parts.params import params_from_flags
from tests.trainers import KINDS, make

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import make_docs  # noqa: E402

DOCUMENTS = make_docs.documents()
TRAINING = {
    "train_model.py": (train_model, module_train_probe.TrainTransformer),
    "train_model_lea.py": (train_model_lea, module_train_probe_lea.TrainTransformer),
}
PARSERS = {name: module.make_parser() for name, (module, _) in TRAINING.items()}
QUICK = {  # what is run as it stands
    "python train_model.py": train_model.main,
    "python benchmarks/make_docs.py --check": make_docs.main,
}
PLACEHOLDER = re.compile(r"runs/run_\d{8}_\d{3}(_speaker)?(_factor)?")  # a run of the reader's own


def named(path):
    return path.relative_to(ROOT).as_posix()


def text_of(path):
    return path.read_text(encoding="utf-8")


def blocks(path):
    """(language, text) of each code block of a document."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text_of(path), re.MULTILINE | re.DOTALL)


def commands(path):
    """Every shell command of a document, from its blocks and from its sentences, without comments."""
    for language, block in blocks(path):
        if language == "bash":
            lines = block.replace("\\\n", " ").splitlines()
            yield from (line for line in (re.sub(r"(^|\s)# .*", "", line).strip() for line in lines) if line)
    prose = re.sub(r"^```.*?^```$", "", text_of(path), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", prose):
        if code.split()[0] in PROGRAMS:
            yield code


def check_python(words):
    if words[:2] == ["-m", "venv"]:
        return
    if words[0] == "-m":  # a study, as a module
        words = [f"{words[1].replace('.', '/')}/__main__.py", *words[2:]]
    script, flags = words[0], words[1:]
    assert (ROOT / script).is_file(), script
    if script in TRAINING:
        check_training_flags(script, flags)
        return
    for word in flags:
        if word.startswith("--"):
            assert f'"{word}"' in text_of(ROOT / script), f"{script} has no flag {word}"
        else:
            assert PLACEHOLDER.fullmatch(word) or (ROOT / word).exists(), word


def check_training_flags(script, flags):
    """Names and values, as the script checks them; nothing is trained."""
    module, trainer = TRAINING[script]
    found = module.make_parser().parse_args(flags)
    assert found.resume is None or PLACEHOLDER.fullmatch(found.resume), found.resume
    training = params_from_flags(trainer.params_class, found)
    if training.get("device") in ("cuda", "mps"):  # right, though not on every machine
        training["device"] = "cpu"
    trainer.params_class(**training)
    DatasetParams(**module.DATASET | params_from_flags(DatasetParams, found) | {"seed": None, "run_name": ""})


def check_torchrun(words):
    start = next(i for i, word in enumerate(words) if word.endswith(".py"))
    assert words[:start] == ["--nproc_per_node=2"]
    check_python(words[start:])


def check_make(words):
    targets = re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE)
    assert words[0] in targets
    for word in words[1:]:
        assert word.startswith("ARGS=")
        assert words[0] == "train"
        check_training_flags("train_model.py", word.removeprefix("ARGS=").split())


def check_installation(words):
    """pip, conda and wandb: the file or folder that the command names is there."""
    known = (["install", "-r"], ["install", "-e"], ["env", "create", "-f"], ["sweep"])
    assert words[:-1] in known
    assert (ROOT / words[-1].split("[")[0]).exists(), words[-1]  # without extras


PROGRAMS = {
    "python": check_python,
    "python3": check_python,
    "torchrun": check_torchrun,
    "make": check_make,
    ".venv/bin/pip": check_installation,
    "pip": check_installation,
    "conda": check_installation,
    "wandb": check_installation,
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_tables_are_what_the_results_say(path):
    assert make_docs.rendered(text_of(path)) == text_of(path), "python benchmarks/make_docs.py rewrites it"


@pytest.mark.parametrize("part", make_docs.PARTS)
def test_a_stale_table_is_found(part):
    """A digit changed in any document's copy of a table is seen, and put right."""
    holders = [path for path in DOCUMENTS if f"<!-- {part} -->" in text_of(path)]
    assert holders
    for path in holders:
        text = text_of(path)
        start, end = text.index(f"<!-- {part} -->"), text.index(f"<!-- /{part} -->")
        digit = re.compile(r"\d").search(text, start)
        assert digit.start() < end
        stale = text[:digit.start()] + str((int(digit[0]) + 1) % 10) + text[digit.end():]
        assert make_docs.rendered(stale) == text


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_mark_belongs_to_a_table(path):
    opened = re.findall(r"^<!-- (\w[\w ]*) -->$", text_of(path), re.MULTILINE)
    closed = re.findall(r"^<!-- /(.*) -->$", text_of(path), re.MULTILINE)
    assert opened == closed
    assert set(opened) <= set(make_docs.PARTS)
    assert len(re.findall(r"^<!--", text_of(path), re.MULTILINE)) == len(opened) + len(closed)


def test_a_changed_result_is_seen(monkeypatch):
    """The tables follow from the results, not from the documents."""
    changed = [row | {"verdict": "supported", "supported": row["features"]} for row in make_docs.read_results("claims/factor/verdicts")]
    read = make_docs.read_results
    ours = {"claims/factor/verdicts": changed}
    monkeypatch.setattr(make_docs, "read_results", lambda name: ours.get(name) or read(name))
    stale = [named(path) for path in DOCUMENTS if make_docs.rendered(text_of(path)) != text_of(path)]
    assert stale == ["README.md", "docs/claims.md"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_code_blocks_are_of_a_kind_that_is_tested(path):
    assert {language for language, _ in blocks(path)} <= {"bash", "python", "text", "BibTeX"}
    assert text_of(path).count("```") == 2 * len(blocks(path))
    for _, block in blocks(path):
        assert max(map(len, block.splitlines())) <= 96, block


# interoperability.md needs other libraries; its examples were run once, each in an environment of its own
@pytest.mark.parametrize("path", [path for path in DOCUMENTS[1:] if path.stem != "interoperability"], ids=named)
def test_python_snippets_run(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for language, block in blocks(path):
        if language == "python":
            exec(compile(block, named(path), "exec"), {})


def test_readme_s_lines_for_a_notebook_print_an_accuracy(monkeypatch, capsys):
    [code] = [block for language, block in blocks(DOCUMENTS[0]) if language == "python"]
    lines = [line for line in code.splitlines() if line and not line.startswith(("from ", "import "))]
    assert len(lines) <= 10
    monkeypatch.chdir(ROOT)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert re.match(r"right: \d", capsys.readouterr().out)
    assert names["dataset"].board_dim == 12
    assert names["answers"].shape == names["boards"].shape


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_shell_commands_are_right(path, monkeypatch):
    """Programs, flags, values and files; trainings and installations are not run."""
    monkeypatch.chdir(ROOT)
    for command in commands(path):
        program, *words = shlex.split(command)
        assert program in PROGRAMS, command
        try:
            PROGRAMS[program](words)
        except (AssertionError, SystemExit, TypeError, ValueError) as error:
            pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize("wrong", [
    "python train_model.py --lerning_rate 3",
    "python train_model.py --epoch many",
    "python train_model.py --resume runs/mine",
    "python train_model.py @recipes/missing.args",
    "python train_modell.py",
    "python -m studies.claims --quikc pretrained/factor",
    "python -m studies.claims pretrained/other",
    "python -m studies.claim pretrained/factor",
    "make trian",
    "make train ARGS='--epochs 3'",
    "conda env create -f missing.yml",
    "torchrun --nproc_per_node=2 train_model.py --epoch",
    ".venv/bin/pip install -r missing.txt",
])
def test_a_wrong_shell_command_is_found(wrong, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(wrong)
    with pytest.raises((AssertionError, SystemExit, TypeError, ValueError)):
        PROGRAMS[program](words)


def test_quick_shell_commands_run(tmp_path, monkeypatch, capsys, no_pictures):
    """The trial run, whose table is laid out as README shows it, and the check of the documents."""
    given = {command for path in DOCUMENTS for command in commands(path)}
    assert set(QUICK) <= given
    monkeypatch.chdir(tmp_path)
    for command, main in QUICK.items():
        monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])
        assert main() != 1
    [shown] = [block for language, block in blocks(DOCUMENTS[0]) if language == "text" and "tokens" in block]
    assert shown.splitlines()[1] in capsys.readouterr().out.splitlines()
    assert len(list(tmp_path.glob("runs/run_*_factor/run_log.csv"))) == 1


def flags_of(script):
    return {name for action in PARSERS[script]._actions for name in action.option_strings if name.startswith("--")}


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_flags_that_are_named_exist(path):
    programs = [*(ROOT / "studies").glob("*/__main__.py"), *(ROOT / "benchmarks").glob("*.py")]
    sources = "".join(text_of(program) for program in programs)
    flags = set.union({"--nproc_per_node"}, *map(flags_of, PARSERS), re.findall(r'"(--\w+)"', sources))
    assert set(re.findall(r"(?<![\w<!/-])--\w+", text_of(path))) <= flags


@pytest.mark.parametrize("script", PARSERS)
def test_the_table_of_flags_has_every_flag(script):
    listed = re.findall(r"^\| `(--\w+)`", text_of(ROOT / "docs" / "flags.md"), re.MULTILINE)
    assert flags_of(script) - {"--help"} <= set(listed)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_and_pictures_are_there(path):
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(path))
    pictures = re.findall(r"<img src=\"([^\"]+)\"", text_of(path))
    for target in links + pictures:
        if not target.startswith(("http", "#")):
            assert (path.parent / target).exists(), target


def test_readme_is_short_and_keeps_the_user_s_headings():
    text = text_of(DOCUMENTS[0])
    assert len(text.encode()) <= 13_000
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    users = {"Overview", "Features", "Scripts", "Getting started", "Usage", "Citation", "License"}
    assert users <= set(headings)
    assert "independent re-implementation, unaffiliated with the authors" in text
    for path in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{path.name})" in text


def test_readme_s_tree_is_the_project():
    [tree] = [block for language, block in blocks(DOCUMENTS[0]) if language == "text" and "utils.py" in block]
    names = [line.split()[0] for line in tree.splitlines()]
    assert len(names) == len(set(names))
    for name in names:
        assert (ROOT / name).exists(), name
        assert (ROOT / name).is_dir() == name.endswith("/"), name
    assert {path.name for path in ROOT.glob("*.py")} <= set(names)


def test_readme_s_time_of_make_train_is_the_measured_one():
    times = make_docs.read_results("times")
    [time] = [row["time"] for row in times if row["what"].startswith("`make train`")]
    assert f"{time} once installed" in text_of(DOCUMENTS[0])
    assert time in text_of(ROOT / "recipes" / "try.args")


def test_the_machine_is_told_beside_the_times():
    for name in ("results", "speed", "reliability"):
        assert "AMD EPYC" in text_of(ROOT / "docs" / f"{name}.md"), name


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_columns_are_documented(kind):
    text, trainer = (ROOT / "docs" / "names.md").read_text(encoding="utf-8"), make(kind)
    for name in trainer.transformer.sites:
        assert f"`{name.replace('b0_', 'b{i}_')}`" in text, name
    for name in (*trainer.loss_columns, "grad_norm", *trainer.count_columns):
        assert f"`{name}`" in text, name
