"""What the tests of faults share: small runs in processes that can be killed at a chosen write, flush or rename; damaged
copies of files."""
import builtins
import contextlib
import io
import json
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo  # the optimiser imports it, which takes a second, better once than in every process
from torch.distributed import TCPStore

import module_train_probe
import train_model
import train_model_lea
from module_dataset import AbstractionDataset
from module_train_probe_lea import TrainTransformer as TrainLEA
from parts.files import load_tensors
from parts.training.run import read_run_log
from tests.trainers import draw_nothing

DATASET = dict(dataset_len=12, board_dim=7, vocab_bck=2, vocab_token=4, abs_n=3, abs_dim=2, abs_c=3, comp_n=2, comp_c=2,
               card_test=1)
TRAINING = dict(n_layer=1, n_head=2, n_embd=4, n_embd_pos=2, batch=4, epoch=6, epoch2test=3, epoch2save=2, epoch2print=1000,
                seed=0, save=1, plot_dpi=20, device="cpu", attn_pdrop=0.1, masking_patch_epoch=3)
LEA = dict(vocab_speech_size=5, block_speech_size=3, loss_rfs_epoch_start=0, loss_rfs_epoch_end=2)
PATIENCE = 3  # seconds that a process has to end once the other has failed; torchrun gives it more
SCRIPTS = {"factor": train_model, "lea": train_model_lea}
CLASSES = {"factor": module_train_probe.TrainTransformer, "lea": TrainLEA}


def flags(kind: str, runs, name: str = "r", **params) -> list[str]:
    """The command line of a small run."""
    values = DATASET | TRAINING | (LEA if kind == "lea" else {}) | {"runs": runs, "run_name": name} | params
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def make(kind="factor", **params):
    """A trainer like those of the scripts' small runs."""
    names = {"batch": "batch_size", "epoch": "epochs", "save": "save_model"}
    values = TRAINING | (LEA if kind == "lea" else {})
    values = {names.get(name, name): value for name, value in values.items()}
    return CLASSES[kind](AbstractionDataset(**DATASET, seed=0), **values | params)


forks = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks processes")


class Steps:
    """Counts what this process does to files, each write, flush, rename and removal; kills it at one of them, a write when
    half of it is on the disk."""

    def __init__(self, die_at: int | None = None, log: Path | None = None):
        self.count, self.die_at = 0, die_at
        self.log = open(log, "w") if log else None

    def step(self, kind: str, path, before_death=lambda: None):
        self.count += 1
        if self.log:
            self.log.write(f"{kind} {os.path.basename(str(path))}\n")
            self.log.flush()
        if self.count == self.die_at:
            before_death()
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        steps = self

        def watch(module, name):
            original = getattr(module, name)

            def watched(path, *args, **kwargs):
                steps.step(name, steps.name_of(path))
                return original(path, *args, **kwargs)

            setattr(module, name, watched)

        for name in ("replace", "fsync", "unlink"):
            watch(os, name)
        builtins.open = self.opener(builtins.open)

    @staticmethod
    def name_of(path):
        return os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path

    def opener(self, original):
        def opened(path, mode="r", *args, **kwargs):
            file = original(path, mode, *args, **kwargs)
            return file if set(mode).isdisjoint("wax+") else WatchedFile(file, self.name_of(path), self)

        return opened


class WatchedFile:
    def __init__(self, file, path, steps: Steps):
        self.file, self.path, self.steps = file, path, steps

    def write(self, data):
        def half():
            self.file.write(data[: len(data) // 2])
            self.file.flush()

        self.steps.step("write", self.path, half)
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __iter__(self):
        return iter(self.file)

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)


def forked(*args, **kwargs) -> int:
    """Runs a script in a process of its own, see `fork`; returns its exit code, or minus the signal that ended it."""
    return exit_code(os.waitpid(fork(*args, **kwargs), 0)[1])


def exit_code(status: int) -> int:
    """Of a process's status: its exit code, or minus the signal that ended it."""
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)


def fork(kind: str, argv: list[str], output: Path, before=lambda: None, seconds: int = 120, figures: bool = False,
         errors: Path | None = None) -> int:
    """The number of a new process that runs a script with argv, on one thread, after before(). output: file of what it
    prints; errors: another one for stderr. seconds: of CPU time that it may take; ten times as long in all."""
    sys.stdout.flush()
    sys.stderr.flush()
    for path in filter(None, (output, errors)):
        path.write_text("")
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.alarm(10 * seconds)
        for number, path in ((1, output), (2, errors or output)):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
        sys.argv = [f"{SCRIPTS[kind].__name__}.py", *argv]
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w", closefd=False), write_through=True) for n in (1, 2))
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as a process of its own has it
        if not figures:
            draw_nothing()
        before()
        SCRIPTS[kind].main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def ran(kind: str, argv: list[str], folder: Path, settings: dict | None = None, before=lambda: None,
        figures: bool = False) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a script in a process of its own, in `folder`, after before(). settings: environment
    variables, None for none; wandb's and matplotlib's are nobody's, and HOME lies in the folder."""

    def begin():
        os.chdir(folder)
        own = {name: None for name in os.environ if name.startswith(("WANDB", "XDG"))} | {"HOME": str(folder / "home")}
        for name, value in (own | (settings or {})).items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        before()

    with tempfile.TemporaryDirectory() as outputs:
        out, err = (Path(outputs) / name for name in ("out", "err"))
        pid = fork(kind, list(map(str, argv)), out, begin, figures=figures, errors=err)
        return exit_code(os.waitpid(pid, 0)[1]), out.read_text(), err.read_text()


def paired(kind: str, argv: list[str], folder: Path, before: Callable = lambda rank: None, at: float | None = None,
           killed: tuple[int, ...] = (), figures: bool = False) -> list[int]:
    """Runs two processes of a script as torchrun starts them, each after before(rank), those in `killed` killed after `at`
    seconds; when one has failed, the other gets SIGTERM and then SIGKILL, as from torchrun. Returns their exit codes, or
    minus the signal that ended each."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # outlives both, as torchrun's

    def begin(rank: int) -> None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                          MASTER_ADDR="localhost", MASTER_PORT=str(store.port), TORCHELASTIC_RUN_ID="tests",
                          TORCHELASTIC_USE_AGENT_STORE="True")
        before(rank)

    pids = [fork(kind, argv, folder / f"out{rank}", lambda rank=rank: begin(rank), figures=figures)
            for rank in range(2)]
    start, codes, failed = time.monotonic(), {}, None
    while len(codes) < 2:
        now = time.monotonic()
        if at is not None and now - start > at:
            at = None
            for rank in killed:
                if rank not in codes:
                    os.kill(pids[rank], signal.SIGKILL)
        for rank in {0, 1} - set(codes):
            ended, status = os.waitpid(pids[rank], os.WNOHANG)
            if ended:
                codes[rank] = exit_code(status)
                if codes[rank] and failed is None:
                    failed = now
                    for other in {0, 1} - set(codes):
                        os.kill(pids[other], signal.SIGTERM)
            elif failed is not None and now - failed > PATIENCE:
                os.kill(pids[rank], signal.SIGKILL)
        time.sleep(0.002)
    return [codes[0], codes[1]]


class Trap:
    """What writes a file at path when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def same(a, b) -> bool:
    """Whether nested dicts, lists, numbers and tensors are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def nth(steps: list[str], start: str, n: int = 0) -> int:
    """The number of a step, counted from 1, by how its description starts."""
    return [i for i, step in enumerate(steps, 1) if step.startswith(start)][n]


def differences(found: Path, wanted: Path) -> list[str]:
    """What two run folders differ in: log rows, final weights, final state, arrays of the log; [] where in nothing."""
    out = []
    if (found / "run_log.csv").read_bytes() != (wanted / "run_log.csv").read_bytes():
        out.append("run_log.csv")
    names = [path.name for path in sorted((wanted / "checkpoints").iterdir())]
    last = max((name for name in names if name.startswith("model")), key=lambda name: int(name[6:-4]))
    state = max((name for name in names if name.endswith(".pt")), key=lambda name: int(name[6:-3]))
    for name in (last, state):
        if not same(load_tensors(found / "checkpoints" / name), load_tensors(wanted / "checkpoints" / name)):
            out.append(name)
    logs = [pickle.loads((folder / "run_log.pkl").read_bytes()) for folder in (found, wanted)]
    if not all(np.array_equal(logs[0][name], logs[1][name], equal_nan=True) for name in logs[1]):
        out.append("run_log.pkl")
    return out


# damaged copies


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """data with bits flipped, a part cut off, lost, doubled, overwritten or swapped with another."""
    out, n = bytearray(data), len(data)
    a, b = sorted(rng.integers(0, n + 1, 2).tolist())
    how = rng.integers(8)
    if how == 0:
        for place in rng.integers(0, n, rng.integers(1, 9)):
            out[place] ^= 1 << int(rng.integers(8))
    elif how == 1:
        del out[a:]
    elif how == 2:
        del out[a : min(b, a + 64)]
    elif how == 3:
        out[a:a] = out[a : min(b, a + 64)]
    elif how == 4:
        out[a : a + 16] = rng.bytes(len(out[a : a + 16]))
    elif how == 5:
        size = max(1, min(n // 3, 256))
        a, b = (int(x) for x in rng.integers(0, max(1, n - size), 2))
        out[a : a + size], out[b : b + size] = out[b : b + size], out[a : a + size]
    elif how == 6:
        out[a : a + 4] = bytes(rng.choice([0, 255, 127, 128, 1], 4).tolist())[: len(out[a : a + 4])]
    else:
        out += rng.bytes(int(rng.integers(1, 200)))
    return bytes(out)


JUNK = [None, True, -1, 0, 1, 2, 10**6, 10**12, 10**30, 1e308, float("nan"), float("inf"), "", "x", "../../etc/passwd", "\0",
        "\ud800", "a" * 5000, [], [0], [[]], {}, {"a": 1}, [-1] * 4, [1e308] * 3]


def damaged_json(text: str, rng: np.random.Generator) -> str:
    """A JSON object with a value, somewhere in it, replaced, removed or doubled."""
    values = json.loads(text)
    at = values
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            break
        key = keys[int(rng.integers(len(keys)))]
        if isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.7:
            at = at[key]
            continue
        how, junk = rng.integers(6), JUNK[int(rng.integers(len(JUNK)))]
        if how == 0:
            del at[key]
        elif how == 1 and isinstance(at, dict):
            at[f"{key}x"] = at.pop(key)
        elif how == 2 and isinstance(at[key], (int, float)):
            at[key] = at[key] * int(rng.choice([-1, 2, 10, 1000])) + int(rng.integers(-2, 3))
        elif how == 3 and len(keys) > 1:
            at[key] = at[keys[int(rng.integers(len(keys)))]]
        else:
            at[key] = junk
        break
    return json.dumps(values)


@contextlib.contextmanager
def only(path: Path, data: bytes):
    """A file with other content inside."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def data_set(run: Path) -> dict:
    """The data set of a run, as numbers."""
    dataset = AbstractionDataset(**DATASET, seed=0)
    dataset.load(run / "datasets" / "dataset")
    sets = dataset.sets and {name: table[:].tolist() for name, table in dataset.sets.items()}
    return {"roots": dataset.roots.tolist(), "compositions": dataset.compositions.tolist(), "sets": sets}


def weights(run: Path) -> dict:
    """The weights of a small factor run's checkpoint model_1.pth."""
    return dict(CLASSES["factor"].from_run(run, "model_1.pth", device="cpu").transformer.state_dict())


LOADERS = {  # file of a run: what loads it, and whether what it loads must be what was saved
    "datasets/dataset.json": (data_set, True),
    "datasets/dataset_roots.npy": (data_set, True),
    "datasets/dataset_doubleRoot_test.npy": (data_set, True),
    "checkpoints/model_1.pth": (weights, True),
    "checkpoints/state_2.pt": (lambda run: load_tensors(run / "checkpoints" / "state_2.pt"), True),
    "params_training.json": (lambda run: CLASSES["factor"].from_run(run, device="cpu").params, False),
    "run_log.csv": (lambda run: read_run_log(run / "run_log.csv"), False),
}


def resume(kind, folder, *argv) -> tuple[int, str]:
    """Exit code and output of a script with --resume."""
    output = folder.parent / "resumed"
    return forked(kind, ["--resume", str(folder), *argv], output), output.read_text()


def contents(folder: Path) -> dict:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"}
