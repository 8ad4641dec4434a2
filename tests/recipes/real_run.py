"""A small recipe on real (drawn) images with the real plug-in, for tests that run the command as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLASSES = "[ship, vehicle, plane]"
TRAINING = "batch_size: 2, optimizer: adamw, lr: 0.001, warmup_steps: 2, checkpoint_minutes: 0.001"
SMALL = "batch_size: 2, taylor_batches: 2, bn_batches: 2"
STAGES = f"""\
  - {{stage: train, epochs: 2, {TRAINING}, ema_decay: 0.9, schedule: cosine}}
  - {{stage: prune_structured, target: {{macs: 0.7}}, steps: 1, round_to: 4, {SMALL}}}
  - {{stage: finetune, epochs: 1, {TRAINING}, distill: {{teacher: float}}}}
  - {{stage: prune_unstructured, sparsity: 0.4, epochs: 1, {TRAINING}}}
  - {{stage: qat, weight_bit_width: 6, epochs: 1, {TRAINING}, calibration_images: 4}}
  - {{stage: export_onnx, parity_images: 2}}
  - {{stage: pack}}
"""


def draw_data(folder: Path, counts: dict[str, int] | None = None) -> Path:
    """Write a data set of a few images of 96 px in DOTA format."""
    from detectors.data.synthetic import write_dataset
    from detectors.data.synthetic_scenes import SceneSettings

    counts = counts or {"train": 12, "val": 2, "test": 2}
    write_dataset(folder, SceneSettings(seed=1, size=(96, 96), object_px=(12, 32), counts=counts))
    return folder


def write_recipe(path: Path, data: Path | str, stages: str = STAGES, detector: str = "") -> Path:
    """Write a recipe of the narrowest DCFL there is."""
    path.write_text(
        "# A small run for tests.\nformat_version: 1\nname: small\n"
        f"detector: {{plugin: dcfl, backbone: resnet18, base_channels: 8, channels: 8, classes: {CLASSES}{detector}}}\n"
        f"data: {{format: dota, root: {data}, image_size: [96, 96], ignore: [dontcare]}}\n"
        f"stages:\n{stages}"
    )
    return path


def start(recipe: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `python compress/run.py` in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "compress" / "run.py"), str(recipe), "--out", str(out), *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def digests(out: Path) -> dict[str, str]:
    """Return label -> digest of every artifact of the run."""
    from compress.artifact import damage, open_artifact

    folders = sorted((out / "small").glob("[0-9]*"))
    assert [damage(folder) for folder in folders] == [None] * len(folders)
    return {artifact.label: artifact.digest for artifact in map(open_artifact, folders)}
