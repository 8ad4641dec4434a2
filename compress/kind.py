"""What an artifact holds."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What an artifact holds."""

    MODEL = "model"  # float torch model: model.safetensors + build.json
    QUANTISED = "quantised"  # fake-quantised torch model: model.safetensors + build.json
    ONNX = "onnx"  # model.onnx
    PACKED = "packed"  # model.krimp
    SCORES = "scores"  # scores.json
    LATENCY = "latency"  # latency.json
    REPORT = "report"  # report.json, report.md, pictures
