"""Runs a script that draws no pictures while it trains: python tests/without_pictures.py train_model.py --epoch 2 ..."""
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.trainers import draw_nothing  # noqa: E402

if __name__ == "__main__":
    draw_nothing()
    del sys.argv[0]
    runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
