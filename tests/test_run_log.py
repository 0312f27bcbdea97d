"""module_run: names of runs, the log of a run."""
import math
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from parts.training import run
from parts.training.run import RunLog, read_run_log


def test_run_names_are_unique_across_threads(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: run.unused_run_name(tmp_path / "runs", "_factor"), range(40)))
    assert len(set(names)) == 40
    assert sorted(names) == sorted(os.listdir(tmp_path / "runs"))
    day, number, suffix = names[0].removeprefix("run_").split("_")
    assert (len(day), day.isdecimal(), number.isdecimal(), suffix) == (8, True, True, "factor")


def test_a_run_name_never_names_what_is_there(tmp_path):
    first = run.unused_run_name(tmp_path, "")
    os.rmdir(tmp_path / first)
    (tmp_path / first).write_text("somebody's file")
    assert run.unused_run_name(tmp_path, "") != first
    assert (tmp_path / first).read_text() == "somebody's file"


# logs


def test_run_log_round_trip(tmp_path):
    log = RunLog(["written", "epoch", "loss", "test"], 3, tmp_path)
    log.add({"epoch": 0, "written": 1, "loss": 1 / 3, "test": 0.25})
    log.add({"epoch": 1, "written": 0, "loss": np.float32(1e-7)})
    log.extend(5)
    log.add({"epoch": 4, "written": 1, "loss": 12345678.5, "test": -1.0})
    log.save_arrays()
    with open(tmp_path / "run_log.pkl", "rb") as file:
        arrays = pickle.load(file)
    nan = math.nan
    assert arrays["test"].tolist()[4] == -1
    expected = {"written": [1, 0, 0, 0, 1], "epoch": [0, 1, nan, nan, 4],
                "loss": [1 / 3, np.float32(1e-7), nan, nan, 12345678.5], "test": [0.25, nan, nan, nan, -1]}
    assert list(arrays) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(arrays[name], values, rtol=1e-12)
    rows = read_run_log(tmp_path / "run_log.csv")
    assert list(rows) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(rows[name], np.array(values)[[0, 1, 4]], rtol=1e-8)


def test_a_log_of_many_rows_settles_until_another_goes_on_with_it(tmp_path):
    log = RunLog(["epoch"], 300, tmp_path)
    for epoch in range(300):
        log.add({"epoch": epoch})
    log.settle()
    with open(tmp_path / "run_log.csv", "a", encoding="utf-8") as file:
        file.write("300\n")
    with pytest.raises(ValueError, match="holds 301 epochs, not the 300 of this trainer"):
        log.settle()


def test_run_log_in_memory_and_never_over_another(tmp_path):
    RunLog(["epoch"], 2).save_arrays()
    RunLog(["epoch"], 2, tmp_path)
    with pytest.raises(FileExistsError):
        RunLog(["epoch"], 2, tmp_path)
    assert read_run_log(tmp_path / "run_log.csv")["epoch"].tolist() == []
    with pytest.raises(KeyError):
        RunLog(["epoch"], 2).add({"epoch": 0, "nothing": 1})


@pytest.mark.parametrize("content", [b"a,b\n1,2\n3", b"a,b\n1,x\n", b"a\n1,2\n", b"\xff\xfe\x00"])
def test_damaged_run_log_is_refused_by_name(tmp_path, content):
    (tmp_path / "run_log.csv").write_bytes(content)
    with pytest.raises(ValueError, match="run_log.csv: "):
        read_run_log(tmp_path / "run_log.csv")


def test_missing_run_log_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="run_log.csv: cannot be read"):
        read_run_log(tmp_path / "run_log.csv")
