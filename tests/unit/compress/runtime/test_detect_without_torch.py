"""`krimp detect` needs the base install only."""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import cv2
import pytest

REPOSITORY = Path(__file__).parents[4]
BLOCKED = """
import sys
BLOCKED = {"torch", "torchvision", "mmcv", "mmengine", "mmdet", "mmrotate", "brevitas", "onnx", "accelerate"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked by the test")
sys.meta_path.insert(0, Refuse())
"""
DETECT = """
import typer
from compress.cli.detecting import detect_command
app = typer.Typer()
app.command()(detect_command)
app()
"""


@pytest.fixture
def picture(tmp_path, white_cells):
    path = tmp_path / "scene.png"
    cv2.imwrite(str(path), white_cells((200, 304), [(4, 5), (18, 30)]))
    return path


def test_detects_while_torch_and_the_detection_frameworks_are_blocked(tmp_path, model_file, picture):
    arguments = [str(model_file), str(picture), "--out", str(tmp_path / "out"), "--overlap", "32"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + DETECT, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(record["images"][0]["detections"]) == 2


def test_the_geometry_and_the_deployed_part_import_nothing_heavy():
    modules = "compress.runtime.detect, compress.runtime.latency, detectors.geometry, detectors.dcfl.deploy"
    code = f"{BLOCKED}\nimport {modules}\nassert not {{'torch', 'onnx', 'mmcv'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_detects_in_an_environment_with_the_base_install_alone(tmp_path, model_file, picture):
    from compress.codec import pack_file

    pack_file(model_file, tmp_path / "model.krimp")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    source = tmp_path / "source"  # pip builds inside the folder it installs from
    for name in ("compress", "detectors"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*REPOSITORY.glob("setup.cfg"), *REPOSITORY.glob("pyproject.toml"), *REPOSITORY.glob("README.md")):
        shutil.copy(file, source)
    subprocess.run([python, "-m", "pip", "install", "-q", str(source)], check=True)
    installed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    assert "torch" not in installed
    krimp = tmp_path / "env" / "bin" / "krimp"
    for command in (
        ["detect", tmp_path / "model.krimp", picture, "--out", tmp_path / "out", "--overlap", "32"],
        ["unpack", tmp_path / "model.krimp", "-o", tmp_path / "back.onnx"],
    ):
        done = subprocess.run([krimp, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(record["images"][0]["detections"]) == 2
    assert (tmp_path / "back.onnx").read_bytes() == model_file.read_bytes()
