"""ONNX files: export, checks of the file, which convolutions the runtime fuses, parity with torch."""

from __future__ import annotations

from compress.export.fusion import unfused_convolutions
from compress.export.onnx_file import export_onnx
from compress.export.parity import check_parity

__all__ = ["check_parity", "export_onnx", "unfused_convolutions"]
