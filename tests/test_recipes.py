"""Recipes: flags read from files, what a damaged one says, and what the recipes of the project promise."""
import re
import sys
from pathlib import Path

import pytest

import train_model
import train_model_lea
from module_dataset import DatasetParams
from module_train_probe import TrainParams
from module_train_probe_lea import LEAParams
from parts.params import params_from_flags

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.args"))
HEADINGS = ("For", "Expect", "Seeds", "Time")


def script_of(path):
    return train_model_lea if "lea" in path.stem else train_model


def flags_of(words, script=train_model):
    return vars(script.make_parser().parse_args(words))


def parameters(path):
    """Every parameter that a recipe sets, checked as the script checks it."""
    flags = script_of(path).make_parser().parse_args([f"@{path}"])
    training = LEAParams if script_of(path) is train_model_lea else TrainParams
    return params_from_flags(training, flags) | params_from_flags(DatasetParams, flags)


def heading(path):
    """{heading: text} of a recipe's first lines."""
    found, last = {}, None
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return found
        start = re.match(r"# (\w+): +", line)
        if start and start[1] in HEADINGS:
            last = start[1]
            found[last] = line[start.end():]
        else:
            found[last] += " " + line[1:].strip()


def numbers(text):
    return set(re.findall(r"\d+\.\d", text))


@pytest.fixture
def recipe(tmp_path):
    """A function that writes a recipe and gives its word on a command line."""

    def write(text, name="some.args"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return f"@{tmp_path / name}"

    return write


def test_a_recipe_says_the_same_as_its_flags(recipe):
    lines = ["# what it is for", "", "--epoch 30   # a reason", "--board_types single double", "  --run_name a#b"]
    word = recipe("\n".join([*lines, "--lr_warmup=3"]))
    flags = ["--epoch", "30", "--board_types", "single", "double", "--run_name", "a#b", "--lr_warmup", "3"]
    assert flags_of([word]) == flags_of(flags)


def test_flags_after_a_recipe_override_it_and_those_before_do_not(recipe):
    word = recipe("--epoch 30\n--seed 1\n")
    assert flags_of([word, "--epoch", "40"]) == flags_of(["--epoch", "40", "--seed", "1"])
    assert flags_of(["--epoch", "40", word]) == flags_of(["--epoch", "30", "--seed", "1"])


def test_several_recipes_count_in_their_order(recipe):
    first, second = recipe("--epoch 30\n--seed 1\n", "a.args"), recipe("--epoch 50\n", "b.args")
    assert flags_of([first, second]) == flags_of(["--epoch", "50", "--seed", "1"])


def test_an_empty_recipe_changes_nothing(recipe):
    assert flags_of([recipe("\n# nothing\n")]) == flags_of([])


@pytest.mark.parametrize("text", [
    "--lerning_rate 3\n", "--epoch 3 --lerning_rate 3\n", "epoch 3\n", "--epoch 3 4\n", "--epoch\n",
    "--epoch 3\n@other.args\n", b"\xff\xfe\x00--epoch", b"\x89PNG\r\n\x1a\n\x00\x00", "\0",
])  # fmt: skip
def test_a_damaged_recipe_is_one_line_that_names_it(recipe, capsys, text):
    word = recipe(text, "broken.args")
    with pytest.raises(SystemExit) as end:
        train_model.main([word])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "broken.args" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["missing.args", "", ".", "a\0b"])
def test_a_recipe_that_is_not_there_is_one_line_that_names_it(capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        train_model.main([f"@{name}"])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert repr(name) in err
    assert "cannot be read" in err


def test_a_mistake_beside_a_good_recipe_does_not_blame_it(recipe, capsys):
    with pytest.raises(SystemExit):
        train_model.main([recipe("--epoch 3\n"), "--lerning_rate", "3"])
    err = capsys.readouterr().err
    assert "--lerning_rate" in err
    assert "some.args" not in err


def test_a_recipe_trains(recipe, tmp_path, monkeypatch, capsys, no_pictures):
    """Flags as a shell gives them, so that sys.argv is read too."""
    lines = ["--epoch 1", "--dataset_len 8", "--n_layer 1", "--n_embd 4", "--n_embd_pos 2", "--seed 3", "--device cpu"]
    word = recipe("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_model.py", word, "--run_name", "r"])
    train_model.main()
    assert "seed 3" in capsys.readouterr().out
    assert (tmp_path / "runs" / "r" / "run_log.csv").is_file()


def test_the_promised_recipes_are_there():
    assert {path.stem for path in RECIPES} >= {"factor_paper", "factor_fast", "lea_paper", "try", "try_lea"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_its_script_and_says_what_to_expect(path):
    assert parameters(path)["epochs"] > 1
    found = heading(path)
    assert tuple(found) == HEADINGS
    for name, text in found.items():
        assert text.strip(), name
        measured = re.search(r"\d", text) or "not measured" in text
        assert name == "For" or measured, f"{name} gives neither a number nor 'not measured'"


@pytest.mark.parametrize(("name", "params", "epochs"), [
    ("factor_paper", TrainParams, 1500),
    ("lea_paper", LEAParams, 3000),
])
def test_the_authors_recipes_are_the_defaults_written_out(name, params, epochs):
    given = parameters(ROOT / "recipes" / f"{name}.args")
    defaults = params().as_dict() | {"epochs": epochs, "save_model": True}
    assert given == {key: defaults[key] for key in given}
    assert given["epochs"] == epochs


def test_the_figures_of_recipes_are_those_of_the_results():
    of_lea = dict.fromkeys(("lea_paper", "lea_fast", "lea_doubles", "lea_all", "lea_slots"), "lea")
    for name, table in ({"factor_paper": "reached"} | of_lea).items():
        text = (ROOT / "benchmarks" / "results" / f"{table}.csv").read_text(encoding="utf-8")
        expected = numbers(heading(ROOT / "recipes" / f"{name}.args")["Expect"])
        assert expected
        assert expected <= numbers(text), name


@pytest.mark.parametrize(("name", "runs"), [("factor_fast", "fast150"), ("factor_best", "best_s")])
def test_a_recipe_is_that_of_the_measured_runs(name, runs, monkeypatch):
    """Its flags are those that accuracy.csv has beside the figures, and its figures follow from there."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bench_accuracy
    import make_docs

    path = ROOT / "recipes" / f"{name}.args"
    given = bench_accuracy.settings_of(TrainParams(**parameters(path)).as_dict())
    rows = [row for row in make_docs.read_results("accuracy") if row["run"].startswith(runs)]
    assert make_docs.seeds_in(rows) == len(heading(path)["Seeds"].split(","))
    for row in rows:
        for setting, value in given.items():
            assert str(value) == row[setting], setting
    words = heading(path)["Expect"]
    seen = set()
    for what in ("hidden tokens, all", *make_docs.WHOLE_BOARDS):
        reached = [100 * float(row["accuracy"]) for row in rows if row["what"] == what]
        mean, ceiling = make_docs.reached(rows, what).split(" of ")
        assert f"{mean}% ({min(reached):.1f} to {max(reached):.1f})" in words, what
        seen |= {mean, ceiling, f"{min(reached):.1f}", f"{max(reached):.1f}"}
    assert numbers(words) == seen


def test_make_trains_by_recipes():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert "ARGS ?= @recipes/try.args" in lines
    assert "LEA_ARGS ?= @recipes/try_lea.args" in lines
