"""What `pip install` takes: the modules by name, their dependencies in open ranges; and the plan of CI."""
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_module_is_installed():
    modules = PROJECT["tool"]["setuptools"]["py-modules"]
    assert modules == sorted(modules)
    assert modules == sorted(path.stem for path in ROOT.glob("*.py"))


def test_every_package_is_installed():
    """Every folder with sources is a package, and the two patterns find them."""
    assert PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["parts*", "studies*"]
    for path in [*ROOT.glob("parts/**/*.py"), *ROOT.glob("studies/**/*.py")]:
        assert (path.parent / "__init__.py").is_file(), path


def test_what_is_pinned_lies_in_the_open_ranges():
    """So that pip install leaves another torch in place, while make installs exact versions."""
    ranges = dict(line.split(">=") for line in PROJECT["project"]["dependencies"])
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").split())
    assert ranges.keys() == pins.keys()
    for name, lowest in ranges.items():
        low, pinned = ([int(part) for part in version.split(".")] for version in (lowest, pins[name]))
        assert low <= pinned, name


def test_files_that_the_project_names_are_there():
    for name in (PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]):
        assert (ROOT / name).is_file(), name


def test_ci_covers_the_systems_and_the_pythons():
    plan = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    job, ranges = plan["jobs"]["test"], plan["jobs"]["ranges"]
    assert ranges["strategy"]["matrix"]["end"] == ["lowest", "newest"]
    matrix = job["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert matrix["python"] == ["3.11", "3.12", "3.13"]  # texts: 3.10 as a number would be 3.1
    assert PROJECT["project"]["requires-python"] == f">={matrix['python'][0]}"
    commands = [step.get("run", "") for step in job["steps"]]
    assert "make test" in commands
    assert any("python -m pytest" in command for command in commands)
