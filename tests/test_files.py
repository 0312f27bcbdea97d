"""Files that survive accidents, damaged ones refused by name."""
import errno
import os
import pickle
import struct

import numpy as np
import pytest

from parts import files
from tests.faults import Trap


@pytest.mark.parametrize("error", [ValueError("half way"), KeyboardInterrupt()])
def test_atomic_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "new" / "file.txt"
    with files.atomic_write(path, "w") as file:
        file.write("old")

    def fail(path):
        with files.atomic_write(path, "w") as file:
            file.write("new")
            file.flush()
            raise error

    with pytest.raises(type(error)):
        fail(path)
    assert path.read_text() == "old"
    with pytest.raises(type(error)):
        fail(tmp_path / "never")
    assert os.listdir(tmp_path) == ["new"]
    assert os.listdir(tmp_path / "new") == ["file.txt"]


@pytest.mark.parametrize("call", ["parts.files.open", "os.fsync", "os.replace"])
def test_atomic_write_names_the_file_that_could_not_be_written(call, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file beside it")

    monkeypatch.setattr(call, fails, raising=False)
    with pytest.raises(OSError, match="No space left on device: .*file.txt'$") as found:
        files.write_json(tmp_path / "file.txt", {})
    assert found.value.filename == str(tmp_path / "file.txt")


def test_atomic_write_makes_ordinary_files(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    files.save_array(tmp_path / "x.npy", np.arange(3))
    assert (tmp_path / "x.npy").stat().st_mode == plain.stat().st_mode


ARRAYS = [np.arange(12).reshape(3, 4), np.zeros((0, 4)), np.float32(3.5), np.array([True, False]),
          np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array([1, 2], np.uint8), np.array([1.0], ">f8")]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_come_back(tmp_path, array):
    files.save_array(tmp_path / "a.npy", array)
    back = files.load_array(tmp_path / "a.npy")
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert (back == array).all()
    back[...] = 0


def npy(shape, descr="<i8", data=b"", version=1):
    """A .npy file's bytes, whatever its header claims."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(header)) + header + data


def damaged_arrays(tmp_path):
    np.save(tmp_path / "whole.npy", np.arange(100))
    whole = (tmp_path / "whole.npy").read_bytes()
    np.save(tmp_path / "object.npy", np.array([Trap(tmp_path / "sprung")], object), allow_pickle=True)
    return {
        "empty": b"", "cut header": whole[:40], "cut data": whole[:-1], "too long": whole + b"\0", "text": b"hello\n" * 9,
        "object": (tmp_path / "object.npy").read_bytes(), "oversize": npy((10**15,)),
        "oversize 2": npy((2**62, 4), data=bytes(8)), "negative": npy((-1, -8), data=bytes(64)),
        "strings": npy((1,), "<U2", bytes(8)), "pickle": pickle.dumps(np.arange(3)),
        "version": npy((1,), data=bytes(8), version=4), "code": npy((1,), data=bytes(8)).replace(b"<i8", b"[;]"),
        "records": npy((1,), [("a", "<i4")], bytes(4)),
    }  # fmt: skip


def test_damaged_arrays_are_refused_by_name(tmp_path):
    path = tmp_path / "bad.npy"
    for what, content in damaged_arrays(tmp_path).items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match="bad.npy"):
            pytest.fail(f"{what} was read as {files.load_array(path)!r}")
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ValueError, match="missing.npy: cannot be read"):
        files.load_array(tmp_path / "missing.npy")


def test_json_round_trip(tmp_path):
    values = {"a": [1, 2.5, None, "é"], "b": {"c": True}}
    files.write_json(tmp_path / "deep" / "x.json", values)
    assert files.read_json(tmp_path / "deep" / "x.json") == values


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1, 2]", b"3", b"\xff\xfe", b"[" * 200_000])
def test_damaged_json_is_refused_by_name(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match="x.json: "):
        files.read_json(tmp_path / "x.json")


def test_missing_json_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="none.json: cannot be read"):
        files.read_json(tmp_path / "none.json")
    with pytest.raises(ValueError, match="cannot be read"):
        files.read_json(tmp_path)
