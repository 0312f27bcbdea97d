"""What several test files share."""
import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# before torch and numpy are loaded; here and in what tests start: networks this small gain nothing by more threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"

if not sys.platform.startswith("linux"):  # they fork, look into /proc, limit and measure memory and time
    collect_ignore = ["test_arguments.py", "test_damaged_files.py", "test_notebooks.py", "test_reliability.py"]

settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers that the official program computed."""
    if not GOLDEN.is_dir():
        pytest.skip("the official program's numbers, ../shared/golden, are not here")
    return GOLDEN


def global_states() -> tuple:
    """The global random states of random, numpy and torch."""
    import numpy as np  # here, as the process of pytest-xdist that runs no tests does without them
    import torch

    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), kind, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


@pytest.fixture(autouse=True)
def _global_random_states():
    """Whatever a test calls leaves the global random states alone, however they stand."""
    before = global_states()
    yield
    assert global_states() == before, "a global random state has changed"


@pytest.fixture
def reseed():
    """A function that seeds the global random states, which nothing may change after. They end as they were."""
    import numpy as np
    import torch

    before, seeded = (random.getstate(), np.random.get_state(), torch.get_rng_state()), []  # noqa: NPY002

    def untouched() -> bool:
        return not seeded or global_states() == seeded[-1]

    def seed(number: int) -> None:
        assert untouched()
        random.seed(number), np.random.seed(number), torch.manual_seed(number)  # noqa: NPY002
        seeded.append(global_states())

    yield seed
    assert untouched()
    for restore, state in zip((random.setstate, np.random.set_state, torch.set_rng_state), before, strict=True):  # noqa: NPY002
        restore(state)


@pytest.fixture
def figures():
    """Asked for by the tests that need the pictures of a run, which take long to draw."""


@pytest.fixture
def no_pictures(request, monkeypatch):
    """Training draws no pictures, but for tests that ask for `figures`."""
    from tests.trainers import draw_nothing

    if "figures" not in request.fixturenames:
        draw_nothing(monkeypatch.setattr)
