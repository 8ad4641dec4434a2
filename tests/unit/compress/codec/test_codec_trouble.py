"""Folders that cannot be written, inputs that are no files, runs that were killed: one clear line, nothing left."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from compress import codec
from compress.cli.packing import app
from compress.codec.files.whole_file import whole_file
from compress.errors import CodecError

ROOT = Path(__file__).parents[4]
KILLED = """
import os, signal, sys
from compress.codec.files.whole_file import whole_file
with whole_file(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def model(tmp_path):
    """Return an ONNX file whose weights lie in a file below its folder."""
    weights = np.random.default_rng(0).binomial(9, 0.5, 900).astype(np.int8)
    tensor = TensorProto(name="w", data_type=TensorProto.INT8, dims=[900], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="sub/deep/w.bin")
    (tmp_path / "in" / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "deep" / "w.bin").write_bytes(weights.tobytes())
    graph = helper.make_graph([], "graph", [], [], [tensor, numpy_helper.from_array(weights, "v")])
    path = tmp_path / "in" / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


@pytest.fixture
def packed(model, tmp_path):
    codec.pack_file(model, tmp_path / "model.krimp")
    return tmp_path / "model.krimp"


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def read_only(monkeypatch, folder):
    """Make a folder read-only, also for root, who may write everywhere."""
    folder.mkdir()
    allowed_open, allowed_mkdir = Path.open, Path.mkdir

    def refused(path):
        return folder in path.parents and not path.exists()

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def open_file(self, mode="r", *args, **kwargs):
        return refuse(self) if refused(self) and mode != "rb" else allowed_open(self, mode, *args, **kwargs)

    def make_folder(self, *args, **kwargs):
        return refuse(self) if refused(self) else allowed_mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_file)
    monkeypatch.setattr(Path, "mkdir", make_folder)


@pytest.mark.parametrize("command", ["pack", "unpack"])
def test_a_read_only_folder_is_one_line_and_nothing_is_left(model, packed, tmp_path, monkeypatch, command):
    folder = tmp_path / "locked"
    read_only(monkeypatch, folder)
    source, name = (model, "out.krimp") if command == "pack" else (packed, "out.onnx")
    result = run(command, source, "-o", folder / name)
    assert result.exit_code == 5
    assert result.stderr.count("\n") == 1
    assert f"{folder / name}: cannot be written: Permission denied" in result.stderr
    assert not list(folder.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_one_line(model, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    result = run("pack", model, "-o", folder / "out.krimp")
    assert (result.exit_code, result.stderr.count("\n")) == (5, 1)
    assert "Permission denied" in result.stderr


def test_a_folder_of_weights_that_cannot_be_made_is_one_line_and_nothing_is_left(packed, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").write_text("a file where a folder should be")
    result = run("unpack", packed, "-o", out / "model.onnx")
    assert (result.exit_code, result.stderr.count("\n")) == (5, 1)
    assert "cannot be made" in result.stderr
    assert [path.name for path in out.iterdir()] == ["sub"]


def test_folders_made_for_weights_go_again_when_the_file_is_damaged(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    data[110] ^= 1
    packed.write_bytes(data)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CodecError, match="checksum"):
        codec.unpack_file(packed, out / "model.onnx")
    assert not list(out.iterdir())


@pytest.mark.parametrize("command", ["pack", "unpack", "verify", "inspect"])
def test_pipes_folders_and_devices_are_refused_at_once(tmp_path, command):
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder"), (Path("/dev/zero"), "no regular file")):
        result = run(command, path)
        assert (result.exit_code, result.stderr.count("\n")) == (5, 1)
        assert f"is {what}. Expected a file" in result.stderr


@pytest.mark.parametrize("command", ["pack", "unpack", "verify", "inspect"])
def test_a_file_piped_on_stdin_is_refused_with_advice(model, tmp_path, command):
    code = f"from compress.cli.packing import app; app(['{command}', '/dev/stdin'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input=model.read_bytes(), capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 5
    assert done.stderr.decode().count("\n") == 1
    assert b"is a pipe. Expected a file; save what comes from a pipe in one first" in done.stderr


def test_what_a_killed_run_left_does_no_harm_and_goes_with_the_next_one(model, tmp_path):
    target = tmp_path / "out" / "a[1].krimp"
    target.parent.mkdir()
    target.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED, target], cwd=ROOT, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(target.parent.iterdir())) == 2
    assert target.read_bytes() == b"old"
    codec.pack_file(model, target)
    assert list(target.parent.iterdir()) == [target]
    codec.verify_file(target)


def test_the_temporary_file_of_a_running_process_is_left_alone(tmp_path):
    target, other = tmp_path / "a.krimp", tmp_path / ".a.krimp.1.part"
    foreign = tmp_path / ".b.krimp.1.part"
    foreign.touch()
    with other.open("w+b") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        with whole_file(target) as file:
            file.write(b"new")
    assert (target.read_bytes(), other.exists(), foreign.exists()) == (b"new", True, True)
