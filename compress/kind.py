"""What an artifact holds."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What an artifact holds."""

    MODEL = "model"  # float torch model: model.safetensors + build.json
    QUANTIZED = "quantized"  # fake-quantized torch model: model.safetensors + build.json
    ONNX = "onnx"  # model.onnx
    PACKED = "packed"  # model.krimp
    SCORES = "scores"  # scores.json
    LATENCY = "latency"  # latency.json
    SENSITIVITY = "sensitivity"  # sensitivity.json, charts
    REPORT = "report"  # report.json, report.md, report.html, pictures

    @classmethod
    def _missing_(cls, value: object) -> Kind | None:
        """Read the spelling of artifacts made before 2026-11-28."""
        return cls.QUANTIZED if value == "quantised" else None
