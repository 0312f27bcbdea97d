"""Commands of studies, run in the tests' own process."""
import runpy
import sys
import warnings


def run_study(monkeypatch, study, *flags):
    """What `python -m studies.<study>` runs."""
    monkeypatch.setattr(sys, "argv", [f"studies.{study}", *map(str, flags)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)  # it has been imported before
        runpy.run_module(f"studies.{study}", run_name="__main__")
