"""Quantization-aware models on Brevitas: settings (torch-free), `quantize`, `calibrate`.

`from compress.quantization import QuantizationSettings` loads neither torch nor Brevitas; the
functions load them when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.quantization.settings import QuantizationSettings

if TYPE_CHECKING:
    from compress.quantization.calibration import calibrate
    from compress.quantization.insertion import quantize

__all__ = ["QuantizationSettings", "calibrate", "quantize"]


def __getattr__(name: str) -> Any:
    if name == "quantize":
        from compress.quantization.insertion import quantize

        return quantize
    if name == "calibrate":
        from compress.quantization.calibration import calibrate

        return calibrate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
