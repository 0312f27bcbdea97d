"""What several test files share."""
from pathlib import Path

import pytest
from hypothesis import settings

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"

settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers that the official program computed."""
    if not GOLDEN.is_dir():
        pytest.skip("the official program's numbers, ../shared/golden, are not here")
    return GOLDEN
