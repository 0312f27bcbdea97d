"""The notebooks run from top to bottom and are stored with their figures; figures and progress bars show well in a notebook.

    python tests/test_notebooks.py     # executes them in place: make notebooks
"""
import base64
import os
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FEWER = {  # amounts in the code of notebooks, and what the test runs instead, as it counts outputs and reads none
    "1_boards": {'"test", 20, rng': '"test", 2, rng', "epochs=12": "epochs=2", "return 640": "return 64"},
    "2_factor_transformer": {"masking_rounds=5": "masking_rounds=1", '"test", 20, rng': '"test", 2, rng',
                             '"test", 200, rng': '"test", 10, rng', "sample(600": "sample(60"},
    "3_probing_and_editing": {"sample(900": "sample(240", "board_of < 600": "board_of < 160", "n = 100": "n = 20",
                              "count_max=100": "count_max=10"},
    "4_lea_language": {"range(6), range(6), range(10)": "range(6), range(6), range(2)", "500": "100",
                       'test_sentences("test")': 'test_sentences("test", 10)', "range(300)": "range(40)",
                       "count=200": "count=60", "len(odd) < 200": "len(odd) < 40"},
    "5_emergence": {"fit=450, test=30, masks=2, swaps=50, draws=100": "fit=120, test=6, masks=1, swaps=5, draws=20",
                    "fit=450, test=30, masks=2, swaps=20, draws=50": "fit=120, test=6, masks=1, swaps=5, draws=20"},
    "6_circuits": {"held_out_boards(trainer, 60": "held_out_boards(trainer, 12", "pairs_of(trainer, 24": "pairs_of(trainer, 8",
                   "order[:24], order[24:84]": "order[:2], order[2:]"},
    "7_dictionaries": {"fit=250, choose=200, test=60": "fit=40, choose=60, test=20", "steps=400": "steps=20", "0, 400": "0, 20"},
}
SECONDS = 20  # of processor time, which other work on the machine does not stretch
CLOCK = "import time\nprint(time.process_time())"


def executed(notebook, folder, kernel=None):
    """The notebook with the outputs of a kernel, by default a fresh one in folder; CellExecutionError where a cell raises."""
    NotebookClient(notebook, km=kernel, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
                   record_timing=False, coalesce_streams=True).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # of whatever version
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures(notebook):
    found = [output.get("data", {}).get("image/png") for output in outputs(notebook)]
    return [base64.b64decode(picture) for picture in found if picture]


def texts(notebook):
    """Everything in it that is read as words."""
    for cell in notebook.cells:
        yield cell.source
    for output in outputs(notebook):
        yield output.get("text", "")
        yield from (str(value) for kind, value in output.get("data", {}).items() if kind != "image/png")


def test_there_are_seven():
    assert [path.name[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_", "4_", "5_", "6_", "7_"]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel in a copy of the project, so that what probing writes does not land in it. One for all notebooks, as each
    start takes seconds."""
    copy = tmp_path_factory.mktemp("project")
    for module in ROOT.glob("*.py"):
        (copy / module.name).symlink_to(module)
    for package in ("parts", "studies"):
        (copy / package).symlink_to(ROOT / package)
    left_out = [f"model_{epoch}.pth" for epoch in (0, 5, 20, 100, 250, 750, 1000)]  # the others do for what emerges
    shutil.copytree(ROOT / "pretrained", copy / "pretrained", ignore=shutil.ignore_patterns(*left_out))
    (copy / "notebooks").mkdir()
    (copy / "matplotlibrc").write_text("savefig.dpi: 20")  # pictures are counted, not looked at
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # notebooks find it themselves
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=copy / "notebooks", env=environment | {"MATPLOTLIBRC": str(copy / "matplotlibrc")})
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, kernel):
    stored, fresh = nbformat.read(path, 4), nbformat.read(path, 4)
    for amount, less in FEWER[path.stem].items():
        used = [cell for cell in fresh.cells if cell.cell_type == "code" and amount in cell.source]
        assert used, amount
        for cell in used:
            cell.source = cell.source.replace(amount, less)
    fresh.cells = [*map(nbformat.v4.new_code_cell, ("%reset -f", CLOCK)), *fresh.cells, nbformat.v4.new_code_cell(CLOCK)]
    executed(fresh, ROOT, kernel)
    _, start, *fresh.cells, end = fresh.cells
    start, end = (float(cell.outputs[0].text) for cell in (start, end))
    assert end - start < SECONDS
    kinds = [[output.output_type for output in outputs(notebook)] for notebook in (stored, fresh)]
    assert kinds[0] == kinds[1]  # stored as it runs
    assert len(pictures(stored)) == len(pictures(fresh))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_executed(path):
    assert path.stat().st_size < 1e6
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs(notebook))
    assert len(pictures(notebook)) >= 5
    assert all(picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 2000 for picture in pictures(notebook))
    for text in texts(notebook):
        assert not re.search(r"(?<![\w.])/(?:tmp|home|root|work|Users|usr|opt)\b|[A-Z]:\\", text), text
    prose = sum(cell.cell_type == "markdown" for cell in notebook.cells)
    assert prose >= 5
    assert max(cell.source.count("\n") for cell in code) < 40


def test_figures_and_progress_in_a_notebook(tmp_path):
    """No %matplotlib inline, no pyplot, no ipywidgets: a cell that ends in a figure shows it, a bar stays one line."""
    cells = [
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from module_dataset import AbstractionDataset\nfrom module_train_probe import TrainTransformer\n"
        "ds = AbstractionDataset(seed=0, dataset_len=64)\nds.render_board(ds[0], figsize=(3, 3))",
        "trainer = TrainTransformer(ds, epochs=12, seed=0, n_layer=1, n_embd=8, n_embd_pos=4, epoch2print=4, epoch2test=100)\n"
        "losses = trainer.train()",
        "accuracy = trainer.test_model_accuracy(20, 0.5, display_erroneous_boards=True)",
        "%matplotlib inline\nds.render_board(ds[0], figsize=(3, 3))",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    one, trained, wrong, inline = (cell.outputs for cell in executed(notebook, tmp_path).cells)
    for shown in (one, wrong, inline):
        assert [output.output_type for output in shown] in (["execute_result"], ["display_data"])
        assert base64.b64decode(shown[0]["data"]["image/png"]).startswith(b"\x89PNG")
    assert [output.name for output in trained] == ["stdout"]
    lines = [line.strip() for line in trained[0].text.splitlines() if line.strip()]
    assert sum(line.startswith("epochs") for line in lines) == 1
    assert lines[-1].startswith("epochs 100%") or lines[0].startswith("epochs 100%")
    assert sum(line.startswith("epoch ") for line in lines) == 4  # 0, 4, 8 and the last, two of them with a table
    assert sum(line.startswith("note: 12 epochs end before") for line in lines) == 1
    assert len(lines) == 1 + 1 + 4 + 2 * 3


if __name__ == "__main__":
    for path in NOTEBOOKS:
        start = time.perf_counter()
        nbformat.write(executed(nbformat.read(path, 4), path.parent), path)
        print(f"{path.relative_to(ROOT)}: {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e3:.0f} kB", flush=True)
    sys.exit(0)
