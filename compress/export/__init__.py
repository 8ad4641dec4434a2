"""From torch to ONNX files, and the proof that they compute the same."""

from __future__ import annotations

from compress.export.onnx_file import export_onnx
from compress.export.parity import check_parity

__all__ = ["check_parity", "export_onnx"]
