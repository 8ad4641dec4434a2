"""A small sweep on drawn images with the real plug-in, for tests that run the command as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from real_run import ROOT, draw_data, write_recipe

STAGES = """\
  - {stage: train, epochs: 1, batch_size: 2, optimizer: adamw, lr: 0.001}
  - {stage: qat, weight_bit_width: 6, epochs: 0, calibration_images: 4}
  - {stage: export_onnx, parity_images: 1}
  - {stage: pack}
"""
PROGRAM = "from compress.cli.main import script; script()"


def write_sweep(folder: Path, *, bits: str = "[3, 5]", objectives: str = "[bytes, map]", more: str = "") -> Path:
    """Write data, recipe and sweep, and return the sweep's path."""
    data = draw_data(folder / "data", {"train": 6, "val": 2, "test": 1})
    write_recipe(folder / "small.yaml", data, STAGES)
    file = folder / "sweep.yaml"
    file.write_text(
        f"name: tiny\nrecipe: small.yaml\nspace:\n  stages.qat.weight_bit_width: {bits}\n"
        f"objectives: {objectives}\nbudget: {{trials: 9}}\nsampler: grid\nbaseline: false\n{more}"
    )
    return file


def start_sweep(sweep: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `krimp sweep` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, "sweep", str(sweep), "--out", str(out), *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def end_sweep(process: subprocess.Popen[str], timeout_s: float = 1500) -> str:
    """Wait for a sweep to end well, and return what it said."""
    text, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, text
    return text


def front_of(out: Path) -> list[tuple[str, int, float]]:
    """Return values, bytes and map of each point of the front."""
    document = json.loads((out / "tiny" / "front.json").read_text())
    points = [trial for trial in document["trials"] if trial["number"] in document["front"]]
    return [(json.dumps(point["values"]), point["bytes"], point["scores"]["map"]) for point in points]


def made(out: Path) -> dict[str, tuple[str, str]]:
    """Return folder of each shared stage -> its digest, and when it was sealed."""
    manifests = sorted((out / "tiny" / "shared").glob("*/[0-9]*/manifest.json"))
    read = {path.parents[1].name: json.loads(path.read_text()) for path in manifests}
    assert len(read) == len(manifests)
    return {name: (manifest["digest"], manifest["sealed_at"]) for name, manifest in read.items()}


def wait_for_files(folder: Path, pattern: str, process: subprocess.Popen[str], timeout_s: float = 600) -> None:
    """Wait until something below a folder has a name."""
    end = time.monotonic() + timeout_s
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"{pattern} did not appear"
        time.sleep(0.05)
