"""How torch's CPU threads wait, which the scripts set before torch is loaded."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parts.training import threads

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("script", "own", "expected"), [
    *((script, {}, (str(threads.SPINS), None))
      for script in ("train_model", "train_model_lea", "studies.claims.__main__", "studies.circuits.__main__")),
    ("train_model", {"GOMP_SPINCOUNT": "7"}, ("7", None)), ("train_model", {"OMP_WAIT_POLICY": "ACTIVE"}, (None, "ACTIVE")),
])  # fmt: skip
def test_scripts_let_threads_wait_less_before_torch_is_loaded_unless_the_user_says_how(script, own, expected):
    """What torch's library of threads sees when it is loaded, by a torch of our own."""
    code = ("import os, sys\nclass Torch:\n def find_spec(self, name, *rest):\n"
            "  if name == 'torch': print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY')); os._exit(0)\n"
            f"sys.meta_path.insert(0, Torch())\nimport {script}")
    environment = {name: value for name, value in os.environ.items() if name not in threads.CHOSEN_BY}
    run = subprocess.run([sys.executable, "-u", "-c", code], env=environment | own, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == [str(value) for value in expected], run.stderr
