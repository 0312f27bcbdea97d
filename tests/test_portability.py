"""The main path needs nothing that only Unix has, and goes on where a file system has no locks, flushes or modes."""
import ast
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import train_model
from parts import files
from parts.files import atomic_write, load_tensors, read_json
from parts.training import run
from parts.training.run import newest_states
from tests.faults import flags, make, same

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path for folder in ("*.py", "parts/**/*.py", "studies/**/*.py") for path in sorted(ROOT.glob(folder))]
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}  # that Windows lacks
CALLS = {
    "os": {"chown", "chroot", "fchdir", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid",
           "getloadavg", "getpgid", "getpgrp", "getuid", "killpg", "lchown", "mkfifo", "mknod", "nice", "pread",
           "pwrite", "rename", "sched_getaffinity", "setsid", "setuid", "statvfs", "sync", "sysconf", "uname",
           "wait", "wait3", "wait4", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "WEXITSTATUS", "WIFEXITED",
           "WNOHANG", "WTERMSIG"},
    "signal": {"alarm", "getitimer", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigpending",
               "sigwait", "ITIMER_PROF", "ITIMER_REAL", "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE",
               "SIGPROF", "SIGQUIT", "SIGSTOP", "SIGUSR1", "SIGUSR2"},
    "time": {"tzset", "clock_gettime"},
}  # fmt: skip
ALONE = "its file system has no locks; see to it that one process alone trains there."
UNSUPPORTED = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL]


def unix_only(source: str) -> list[str]:
    """What a source names that Windows lacks or does otherwise: a rename there replaces nothing, text is not UTF-8."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.attr in CALLS.get(node.value.id, ()):
                found.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += re.findall(r"^/(?:proc|dev|tmp|etc|sys)\b", node.value)
        elif isinstance(node, ast.Call):
            found += [f"{name} without encoding" for name in text_opened(node)]
            if isinstance(node.func, ast.Attribute) and node.func.attr == "rename":
                found.append("rename")
    return found


def text_opened(call: ast.Call) -> list[str]:
    """The function's name, where a call of open, os.fdopen, read_text or write_text gives text no encoding."""
    whole = ast.unparse(call.func)
    if whole not in ("open", "os.fdopen") and not whole.endswith((".read_text", ".write_text")):
        return []
    words = {keyword.arg for keyword in call.keywords}
    if words & {"encoding", None}:  # None: of **keywords, which hold it where the file is text
        return []
    modes = [arg.value for arg in call.args[1:] if isinstance(arg, ast.Constant)]
    return [] if any("b" in str(mode) for mode in modes) else [whole]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_call_that_only_unix_has(path):
    assert unix_only(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("source", [
    "import fcntl", "def f():\n    from resource import getrusage", "os.fchmod(3, 4)",
    "signal.signal(signal.SIGKILL, f)", "open('/proc/self/statm', encoding='utf-8')", "open(path)",
    "open(path, 'w')", "path.read_text()", "path.write_text('é')", "os.fdopen(3, 'w')", "os.rename(a, b)", "path.rename(other)",
])  # fmt: skip
def test_such_calls_are_found(source):
    assert unix_only(source)


ELSEWHERE = '''
import os, pathlib, signal, sys, warnings
import matplotlib.figure, torch, torch._dynamo, torch.utils.data  # what they import is not ours to change

for name in [name for name in sys.modules if name.split(".")[0] == "filelock"]:
    del sys.modules[name]
for name in {modules!r}:
    sys.modules[name] = None
for module, names in {calls!r}.items():
    for name in names - {{"rename"}}:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
warnings.filterwarnings("ignore", "only soft file lock")  # where filelock sees neither system's locks
sys.path.insert(0, {root!r})
for path in sorted(pathlib.Path({root!r}).glob("module_*.py")):
    __import__(path.stem)
import train_model, train_model_lea

for script, argv in {runs!r}:
    sys.modules[script].main(argv)
'''  # fmt: skip


def test_training_without_what_only_unix_has(tmp_path):
    """Every module is imported, both networks are trained with pictures and saved, one is resumed."""
    runs = []
    for kind, script in (("factor", "train_model"), ("lea", "train_model_lea")):
        runs.append((script, flags(kind, tmp_path, kind, epoch=1)))
    runs.append(("train_model_lea", ["--resume", str(tmp_path / "lea"), "--epoch", "2"]))
    calls = {"os": CALLS["os"], "signal": CALLS["signal"]}
    code = ELSEWHERE.format(modules=sorted(MODULES - {"posix"}), calls=calls, root=str(ROOT), runs=runs)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind, epochs in (("factor", 1), ("lea", 2)):
        assert newest_states(tmp_path / kind)[0].name == f"state_{epochs}.pt"
        assert list((tmp_path / kind / "figures").glob("*.png"))


# file systems that lack something


def fails_with(number):
    def fails(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fails


@pytest.fixture(scope="module")
def trained():
    """The state of the small run, trained where nothing is missing."""
    trainer = make(save_model=False)
    trainer.train()
    return trainer.state()["transformer"]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("number", UNSUPPORTED, ids=errno.errorcode.get)
def test_without_locks_or_flushes_a_run_is_as_ever(number, trained, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", fails_with(number))
    monkeypatch.setattr(os, "fsync", fails_with(number))
    trainer = make(runs=tmp_path, run_name="r")
    with pytest.warns(UserWarning, match=f"r: {ALONE}") as found:
        trainer.train()
    assert len(found) == 1
    assert same(load_tensors(newest_states(tmp_path / "r")[0])["transformer"], trained)


def test_what_another_process_may_be_writing_stays_where_there_are_no_locks(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / ".x.json.0.tmp").touch()
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", fails_with(errno.ENOLCK))
        with pytest.warns(UserWarning, match="no locks"):
            run.lock(tmp_path).close()
    assert (tmp_path / ".x.json.0.tmp").exists()
    run.lock(tmp_path).close()
    assert not (tmp_path / ".x.json.0.tmp").exists()


def test_the_script_says_it_in_one_line(tmp_path, monkeypatch, capsys, no_pictures):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", fails_with(errno.ENOLCK))
    train_model.main(flags("factor", tmp_path, epoch=2))
    lines = [line for line in capsys.readouterr().err.splitlines() if "locks" in line]
    assert lines == [f"{tmp_path / 'r'}: {ALONE}"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EPERM])
def test_a_lock_that_fails_otherwise_is_an_error_that_names_it(number, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "lock_descriptor", fails_with(number))
    with pytest.raises(OSError, match=r"\.lock") as found:
        run.lock(tmp_path)
    assert (found.value.errno, found.value.filename) == (number, str(tmp_path / ".lock"))


def test_a_held_folder_is_refused_in_this_process_too(tmp_path):
    held = run.lock(tmp_path)
    with pytest.raises(ValueError, match="another process is training in this run folder"):
        run.lock(tmp_path)
    held.close()
    run.lock(tmp_path).close()


@pytest.mark.parametrize("number", UNSUPPORTED, ids=errno.errorcode.get)
def test_files_are_written_where_modes_cannot_be_changed(number, tmp_path, monkeypatch):
    for name in ("chmod", "fchmod", "fsync"):
        monkeypatch.setattr(os, name, fails_with(number), raising=False)
    files.write_json(tmp_path / "x.json", {"a": 1})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_file_is_closed_before_it_is_moved(tmp_path, monkeypatch):
    original, closed = os.replace, []
    with atomic_write(tmp_path / "x") as file:
        monkeypatch.setattr(os, "replace", lambda *paths: (closed.append(file.closed), original(*paths)))
    assert closed == [True]
