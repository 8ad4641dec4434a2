"""Recipes and sweeps of the shipped plug-in, written for tests; nothing of them runs."""

from __future__ import annotations

from pathlib import Path

RECIPE = """\
format_version: 2
name: small
detector: {plugin: dcfl, backbone: resnet18, base_channels: 8, channels: 8, classes: [ship]}
data: {format: dota, root: data, image_size: [96, 96]}
stages:
  - {stage: train}
  - {stage: export_onnx, name: float_onnx}
  - {stage: prune_structured, target: {macs: 0.7}}
  - {stage: finetune, distill: {teacher: float}}
  - {stage: evaluate, name: after, split: test}
  - {stage: qat, weight_bit_width: 6}
  - {stage: export_onnx}
  - {stage: pack}
  - {stage: benchmark, models: [float_onnx, pack]}
  - {stage: report, split: test}
"""
SWEEP = """\
name: search
recipe: small.yaml
space:
  stages.qat.weight_bit_width: [3, 4, 5]
  stages.prune_structured.target.macs: {low: 0.5, high: 0.9}
objectives: [bytes, map]
budget: {trials: 8}
"""


def write_files(folder: Path, sweep: str = SWEEP, recipe: str = RECIPE) -> Path:
    """Write a sweep and its recipe and return the sweep's path."""
    (folder / "small.yaml").write_text(recipe)
    file = folder / "sweep.yaml"
    file.write_text(sweep)
    return file
