"""Kills runs at every kind of moment, feeds damaged files to every loader, trains for thousands of epochs.

    python tests/stress/stress.py                # all of it, about a quarter of an hour on one core
    python tests/stress/stress.py kills          # or pairs, exceptions, fuzz, soak: that part alone

What happened goes to tests/stress/results.json; the exit code is 1 where anything was not as it must be.
"""
from __future__ import annotations

import collections
import contextlib
import io
import json
import mmap
import os
import platform
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pairs import exceptions, pairs  # noqa: E402

from module_dataset import AbstractionDataset, DatasetParams  # noqa: E402
from module_train_probe import TrainingStopped  # noqa: E402
from parts.boards import files  # noqa: E402
from parts.files import load_array  # noqa: E402
from parts.training.run import Run, RunLog, newest_state, read_run_log  # noqa: E402
from tests.faults import (  # noqa: E402
    CLASSES,
    DATASET,
    LOADERS,
    SCRIPTS,
    Steps,
    damaged,
    damaged_json,
    data_set,
    differences,
    flags,
    forked,
    nth,
    same,
)

RESULTS = Path(__file__).with_name("results.json")
CHAINS, RANDOM = 20, 12  # runs killed over and over; kills by another process; besides one kill at each step of a run
FUZZ = 2000  # files for each loader
BYTES, SECONDS = 2**29, 20  # memory beyond what the process has, CPU time: what a loader may take for files of kilobytes
SOAK = {"factor": 10000, "lea": 4000}  # epochs


# Kills


def kills(folder: Path) -> dict:
    return {kind: kills_of(kind, folder / kind) for kind in SCRIPTS}


def kills_of(kind: str, folder: Path) -> dict:
    """Kills of a small run, each resumed to the end and compared with the run that nothing interrupted."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    steps_file, tally = folder / "steps", collections.Counter()
    wrong: list[str] = []
    print(f"{kind}: runs are killed", flush=True)
    argv = flags(kind, folder / "whole", epoch=8)
    if forked(kind, argv, folder / "out", lambda: Steps(log=steps_file).install()):
        raise RuntimeError((folder / "out").read_text())
    steps, wanted = steps_file.read_text().splitlines(), folder / "whole" / "r"
    argv = flags(kind, folder / "runs", epoch=8)
    run = folder / "runs" / "r"

    def kill(argv, at: int) -> bool:
        """Whether the process was killed at a step, rather than at its end before it."""
        code = forked(kind, argv, folder / "out", Steps(at).install)
        if code not in (0, -signal.SIGKILL):
            wrong.append(f"step {at}: exit code {code}: {(folder / 'out').read_text()[-300:]}")
        tally["kills"] += code == -signal.SIGKILL
        return code == -signal.SIGKILL

    def resume() -> list[str]:
        """argv that goes on: --resume, or where that says that there is nothing, the start again."""
        code = forked(kind, ["--resume", str(run)], folder / "out")
        text = (folder / "out").read_text()
        if code == 0:
            return []
        if code == 2 and "nothing to resume" in text and "Traceback" not in text:
            tally["runs with nothing saved yet, said so and started again"] += 1
            if forked(kind, argv, folder / "out") == 0:
                return []
        return [f"not resumed: {text[-300:]}"]

    def finish(what: str) -> None:
        faults = resume() or differences(run, wanted) + [str(path.name) for path in run.rglob("*.tmp")]
        tally["survived" if not faults else "lost"] = tally["kills"] - (tally["lost"] if not faults else tally["survived"])
        wrong.extend(f"{what}: {fault}" for fault in faults)
        shutil.rmtree(folder / "runs")

    for at, step in enumerate(steps, 1):
        tally["aimed at a write, flush, rename or removal"] += 1
        kill(argv, at)
        finish(f"killed at {step} ({at})")
    saved = nth(steps, "replace .run_log.csv")
    for _ in range(CHAINS):
        tally["runs killed again and again"] += 1
        killed = kill(argv, int(rng.integers(saved + 1, len(steps) + 1)))
        while killed and rng.random() < 0.8:
            killed = kill(["--resume", str(run)], int(rng.integers(1, len(steps) // 2)))
        finish("chain")
    faults = random_kills(kind, folder, rng, tally)
    tally = dict(tally)
    print(f"{kind}: {tally.get('survived', 0)} of {tally['kills']} kills' runs as if never interrupted", flush=True)
    return {"steps of a run": len(steps), **tally, "wrong": wrong + faults}


def random_kills(kind: str, folder: Path, rng, tally) -> list[str]:
    """Kills of the script by another process, at random times of its training."""
    script = Path(SCRIPTS[kind].__file__)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def launch(argv):
        with open(folder / "out", "w") as out:
            return subprocess.Popen([sys.executable, script, *argv], stdout=out, stderr=out, env=environment, cwd=folder)

    def begun(runs):
        """A run whose training begins."""
        running = launch(flags(kind, folder / runs, epoch=300, epoch2save=7, epoch2test=150))
        while running.poll() is None and not (folder / runs / "r" / "run_log.csv").exists():
            time.sleep(0.001)
        return running

    running, start = begun("plain"), time.monotonic()
    if running.wait():
        return [(folder / "out").read_text()]
    length, wrong = time.monotonic() - start, []
    for _ in range(RANDOM):
        tally["at a random moment, by another process"] += 1
        running = begun("random")
        time.sleep(float(rng.random() * length))
        running.kill()
        killed = running.wait() == -signal.SIGKILL
        tally["kills"] += killed
        code = launch(["--resume", str(folder / "random" / "r")]).wait()
        faults = differences(folder / "random" / "r", folder / "plain" / "r") if not code else [(folder / "out").read_text()[-300:]]
        tally["survived" if not faults else "lost"] += killed
        wrong += faults
        shutil.rmtree(folder / "random", ignore_errors=True)
    return wrong


# Damaged files


def resealed(data: bytes, rng) -> bytes:
    """A file of torch.save with damage in its parts, their checksums made to fit."""
    import io

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as parts, zipfile.ZipFile(out, "w") as made:
        names = parts.namelist()
        hit = names[int(rng.integers(len(names)))] if rng.random() < 0.3 else next(n for n in names if n.endswith("data.pkl"))
        for name in names:
            made.writestr(name, damaged(parts.read(name), rng) if name == hit else parts.read(name))
    return out.getvalue()


def fuzz(folder: Path) -> dict:
    folder.mkdir(parents=True)
    if forked("factor", flags("factor", folder, epoch=2), folder / "out"):
        raise RuntimeError((folder / "out").read_text())
    run = folder / "r"
    official(run / "official")
    found = {name: fuzzed(name, run, *case) for name, case in cases(run).items()}
    return found | {"wrong": [f"{name}: {text}" for name, tally in found.items() for text in tally.pop("wrong")]}


def cases(run: Path) -> dict[str, tuple]:
    """What is fuzzed: {name: (files to damage, how, what loads them, whether that must be what was saved[, what to do
    before loading])}."""

    def bytes_(data, rng):
        return damaged(data, rng)

    def json_(data, rng):
        return damaged(data, rng) if rng.random() < 0.3 else damaged_json(data.decode(), rng).encode()

    def found(start, end=""):
        return sorted(path for path in run.rglob(start) if path.name.endswith(end))

    def state(train: bool):
        trainer = CLASSES["factor"]._rebuilt(run, {"device": "cpu", "epochs": 2})
        trainer.run_name = ""  # nothing is written
        fresh = trainer.state()

        def load(run):
            trainer.restore(fresh)
            found = newest_state(run, trainer._take_state)[0]
            if train:  # its checksums fit: what it holds must be of use
                trainer.epoch = 1
                with contextlib.suppress(TrainingStopped), contextlib.redirect_stdout(io.StringIO()):
                    trainer.train()
            return found

        return load

    def weights():
        trainer = CLASSES["factor"]._rebuilt(run, {"device": "cpu"})

        def load(run):
            trainer.load_transformer(run / "checkpoints" / "model_1.pth")
            return dict(trainer.transformer.state_dict())

        return load

    def log(run):
        rows = read_run_log(run / "run_log.csv")
        RunLog(list(rows), len(rows["epoch"]), run, resume_at=len(rows["epoch"]))
        return None

    def load_only(run):  # the tables may have any number of rows, which are not in memory
        dataset = AbstractionDataset(**DATASET, seed=0)
        dataset.load(run / "datasets" / "dataset")
        with contextlib.suppress(ValueError):  # a split may be empty
            dataset.sample(3)

    (run / "checkpoints" / "state_1.pt").unlink()
    json_file, arrays = [run / "datasets" / "dataset.json"], found("dataset_*.npy")
    model, last = [run / "checkpoints" / "model_1.pth"], [run / "checkpoints" / "state_2.pt"]
    array = arrays[0]
    return {
        "data set, JSON": (json_file, json_, data_set, True),
        "data set, arrays": (arrays, bytes_, data_set, True),
        "data set, checksums made to fit": ([*json_file, *json_file, *arrays], numbers, load_only, False, refit),
        "official data set, JSON": ([run / "official" / "dataset.json"], json_, official_set, False),
        "official data set, arrays": (found("official_*.npy"), bytes_, official_set, False),
        "array (.npy)": ([array], bytes_, lambda run: load_array(array).tolist() and None, False),
        "checkpoint (.pth)": (model, bytes_, weights(), True),
        "checkpoint, checksums made to fit": (model, resealed, weights(), False),
        "state (.pt)": (last, bytes_, state(False), True),
        "state, checksums made to fit": (last, resealed, state(True), False),
        "params_training.json": ([run / "params_training.json"], json_, LOADERS["params_training.json"][0], False),
        "run_log.csv": ([run / "run_log.csv"], bytes_, log, False),
    }


def numbers(data: bytes, rng) -> bytes:
    """A JSON object with other values, or an array with other numbers."""
    if data[:1] == b"{":
        return damaged_json(data.decode(), rng).encode()
    out = bytearray(data)
    for place in rng.integers(128, len(data), 4) if len(data) > 128 else ():
        out[place] = rng.integers(256)
    return bytes(out)


def refit(run: Path) -> None:
    """Makes the checksums of the run's data set fit what is there, as far as it can be read."""
    path = run / "datasets" / "dataset.json"
    values = json.loads(path.read_text())
    try:
        for name in values["checksums"]:
            values["checksums"][name] = zlib.crc32(load_array(path.with_name(f"dataset_{name}.npy")).tobytes())
        params = DatasetParams.from_dict({name: values[name] for name in DatasetParams.__dataclass_fields__})
        values["checksum"] = files.checksum_of(params, values["checksums"])
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    path.write_text(json.dumps(values))


def official(folder: Path) -> None:
    """A data set in the official program's format, all of whose boards the file lists: a small one."""
    folder.mkdir(parents=True)
    dataset = AbstractionDataset(**DATASET | {"board_dim": 5}, seed=0)
    values = dataset.params.as_dict()
    for name in ("roots", "compositions", "board_types_proba"):
        np.save(folder / f"official_{name}.npy", np.array(getattr(dataset, name)))
        values[name] = f"/somewhere/else/official_{name}.npy"
    values["sets"] = {name: table[:].tolist() for name, table in dataset.sets.items()}
    (folder / "dataset.json").write_text(json.dumps(values))


def official_set(run: Path) -> None:
    AbstractionDataset(**DATASET, seed=0).load(run / "official" / "dataset")


def fuzzed(name: str, run: Path, files: list[Path], damage: Callable, load: Callable, sealed: bool, prepare=None) -> dict:
    """Loads damaged copies of files in processes of little memory and time; how often what happened."""
    tally = {"files": 0, "refused by name": 0, "loaded": 0, "wrong": []}
    whole = {path: path.read_bytes() for path in {*files, run / "datasets" / "dataset.json"}}
    if sealed or load.__name__ != "log":
        load(run)
    shared = mmap.mmap(-1, 32)  # case, refused, loaded
    peak, done, start = 0, 0, time.monotonic()
    report = run.parent / "report"
    while done < FUZZ:
        report.write_text("")
        pid = os.fork()
        if not pid:
            fuzz_from(done, files, damage, load, sealed, prepare, run, shared, report, whole)
        status = os.wait4(pid, 0)
        case, refused, loaded, kilobytes = struct.unpack("4q", shared[:])
        tally["refused by name"] += refused
        tally["loaded"] += loaded
        tally["wrong"] += report.read_text().splitlines()
        peak, ended = max(peak, kilobytes), case
        if os.WIFSIGNALED(status[1]):
            tally["wrong"].append(f"case {case}: killed by signal {os.WTERMSIG(status[1])}")
            ended += 1
        done = ended
        for path, data in whole.items():
            path.write_bytes(data)
    tally["files"] = done
    print(f"{name}: {tally['files']} files, {tally['loaded']} loaded, {len(tally['wrong'])} wrong", flush=True)
    return tally | {"most memory taken, MB": round(peak / 1024, 1), "seconds": round(time.monotonic() - start, 1)}


def fuzz_from(first: int, files, damage, load, sealed, prepare, run, shared, report, whole) -> None:
    """Cases from `first` on in this process, which ends with them."""
    refused = loaded = case = 0
    try:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, resource.RLIM_INFINITY))
        warnings.simplefilter("ignore")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        wanted = load(run) if sealed else None
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for case in range(first, FUZZ):
            rng = np.random.default_rng([case, len(files), zlib.crc32(files[0].name.encode())])
            path = files[int(rng.integers(len(files)))]
            path.write_bytes(damage(whole[path], rng))
            if prepare:
                prepare(run)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            shared[:] = struct.pack("4q", case, refused, loaded, grown)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                found = load(run)
                loaded += 1
                if sealed and not same(found, wanted):
                    log_fault(report, f"case {case}: loaded something else")
            except ValueError as error:
                refused += 1
                if str(path.parent) not in str(error) and str(run) not in str(error):
                    log_fault(report, f"case {case}: names no file: {str(error)[:200]}")
            except Exception as error:
                log_fault(report, f"case {case}: {type(error).__name__}: {str(error)[:200]}")
            signal.setitimer(signal.ITIMER_PROF, 0)
            for other in {path, run / "datasets" / "dataset.json"}:
                other.write_bytes(whole[other])
            for left in run.rglob("*.damaged"):
                left.unlink()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        shared[:] = struct.pack("4q", FUZZ, refused, loaded, grown)
    except BaseException as error:
        log_fault(report, f"case {case}: the test itself: {type(error).__name__}: {str(error)[:300]}")
        shared[:] = struct.pack("4q", FUZZ, refused, loaded, 0)
    finally:
        os._exit(0)


def log_fault(report: Path, text: str) -> None:
    with open(report, "a") as file:
        file.write(" ".join(text.split()) + "\n")


# Soak


def soak(folder: Path) -> dict:
    """One long training of short epochs a kind: memory, open files and speed over epochs."""
    folder.mkdir(parents=True)
    found = {}
    for kind, epochs in SOAK.items():
        curve = folder / f"{kind}.json"
        argv = flags(kind, folder, name=kind, epoch=epochs, epoch2test=epochs // 10, epoch2save=epochs // 60, board_curriculum=0)
        code = forked(kind, argv, folder / "out", lambda: watch(kind, epochs // 30, curve), 3600, figures=True)  # noqa: B023
        rows = json.loads(curve.read_text()) if curve.exists() else []
        columns = {name: [row[name] for row in rows] for name in (rows or [{}])[0]}
        found[kind] = judged(rows) | {"epochs": epochs, "exit code": code, "curve": columns}
        if code:
            found[kind]["wrong"] = [(folder / "out").read_text()[-500:]]
    return found | {"wrong": [f"{kind}: {text}" for kind in SOAK for text in found[kind].pop("wrong")]}


def watch(kind: str, every: int, curve: Path) -> None:
    """Notes memory, open files and time every so many epochs; beside each epoch's time that of a fixed computation, by which
    to tell a slower program from a busier machine."""
    save_figures, end_epoch, rows, matrix = CLASSES[kind].save_figures, Run.end_epoch, [], torch.ones(64, 64)
    last, apart, fixed = time.thread_time(), 0.0, 0.0

    def figures_saved(self, *args):
        nonlocal apart
        start = time.thread_time()
        figures = save_figures(self, *args)
        apart += time.thread_time() - start
        return figures

    def ended(self, row, *args):
        nonlocal last, apart, fixed
        epoch, start = row["epoch"], time.thread_time()
        for _ in range(50):
            matrix @ matrix
        fixed += time.thread_time() - start
        end_epoch(self, row, *args)
        apart += time.thread_time() - start  # that computation, and saving
        if (epoch + 1) % every == 0:
            rows.append({
                "epoch": epoch + 1,
                "memory, MB": round(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20, 1),
                "open files": len(os.listdir("/proc/self/fd")),
                "CPU ms an epoch": round(1000 * (time.thread_time() - last - apart) / every, 3),
                "CPU ms of 50 products of 64 x 64 matrices": round(1000 * fixed / every, 3),
            })
            curve.write_text(json.dumps(rows))
            last, apart, fixed = time.thread_time(), 0.0, 0.0

    CLASSES[kind].save_figures, Run.end_epoch = figures_saved, ended


def judged(rows: list[dict]) -> dict:
    """Growth from the end of warm-up, a fifth of the epochs, to the end."""
    if len(rows) < 10:
        return {"wrong": ["too few rows"]}
    warm, part = len(rows) // 5, len(rows) // 3
    _, memory, files, epoch, fixed = np.array([list(row.values()) for row in rows]).T
    speed = epoch / fixed
    grown = {
        "memory after warm-up, share of growth": round(float(memory[warm:].max() / memory[warm] - 1), 4),
        "open files after warm-up, most - least": int(np.ptp(files[warm:])),
        "time an epoch in that of the products, last third over middle third": round(float(np.median(speed[-part:]) / np.median(speed[part:-part])), 3),
    }
    a, b, c = grown.values()
    return grown | {"wrong": [f"{grown}"] if a > 0.05 or b > 0 or c > 1.1 else []}


PARTS = {"kills": kills, "pairs": pairs, "exceptions": exceptions, "fuzz": fuzz, "soak": soak}


def main(names: list[str]) -> int:
    if not set(names) <= set(PARTS):
        raise SystemExit(f"the parts are {', '.join(PARTS)}.")
    if len(names) != 1:  # each in a process of its own: the soak's trainings fork, and would count its memory as theirs
        return max(subprocess.run([sys.executable, __file__, name]).returncode for name in names or PARTS)
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    wrong = []
    for name in names or PARTS:
        start, cpu = time.monotonic(), sum(os.times()[:4])
        with tempfile.TemporaryDirectory() as folder:
            found = PARTS[name](Path(folder) / name)
            text = json.dumps(found).replace(folder, "...")
        results[name] = json.loads(text) | {"minutes": round((time.monotonic() - start) / 60, 1),
                                            "CPU minutes": round((sum(os.times()[:4]) - cpu) / 60, 1)}
        parts = [part for part in (found, *found.values()) if isinstance(part, dict)]
        faults = [fault for part in parts for fault in part.get("wrong", [])]
        wrong += faults
        print(f"{name}: {results[name]['minutes']} minutes, {len(faults)} faults", *faults[:20], sep="\n  ", flush=True)
        results["with"] = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
