"""Model files that are damaged or too new, through every command that reads one. Exit code 5, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "detectors" / "dcfl" / "zoo" / "dcfl_mbv2_hituav.krimp"


def krimp(*arguments, cwd):
    program = "import sys; from compress.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def onnx_bytes():
    from compress.codec import unpack_bytes

    return unpack_bytes(MODEL)


def damaged(tmp_path, kind, onnx_bytes):
    packed = MODEL.read_bytes()
    content = {
        "cut.onnx": onnx_bytes[: len(onnx_bytes) // 2],
        "empty.onnx": b"",
        "text.onnx": b"this is no network",
        "cut.krimp": packed[: len(packed) // 2],
        "empty.krimp": b"",
        "newer.krimp": packed[:8] + bytes([packed[8] + 2]) + packed[9:],
        "flipped.krimp": packed[:5000] + bytes([packed[5000] ^ 1]) + packed[5001:],
    }[kind]
    path = tmp_path / kind
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "kind", ["cut.onnx", "empty.onnx", "text.onnx", "cut.krimp", "empty.krimp", "newer.krimp", "flipped.krimp"]
)
def test_a_bad_model_file_is_refused_by_detect_and_the_codec(tmp_path, kind, onnx_bytes):
    import cv2
    import numpy as np

    path = damaged(tmp_path, kind, onnx_bytes)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    commands = [["detect", path, tmp_path / "a.png", "--out", tmp_path / "found"]]
    if path.suffix == ".krimp":
        commands += [["unpack", path, "-o", tmp_path / "x.onnx"], ["verify", path]]
    else:
        commands.append(["pack", path, "-o", tmp_path / "x.krimp"])
    for command in commands:
        code, error = krimp(*command, cwd=tmp_path)
        assert code == 5, (command, error)
        assert str(path) in error, (command, error)
        if kind == "newer.krimp":
            assert "version" in error
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted({"a.png", kind})  # nothing half-written
