"""Quantisation-aware models on Brevitas: settings (torch-free), `quantise`, `calibrate`.

`from compress.quantization import QuantisationSettings` loads neither torch nor Brevitas; the
functions load them when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.quantization.settings import QuantisationSettings

if TYPE_CHECKING:
    from compress.quantization.calibration import calibrate
    from compress.quantization.insertion import quantise

__all__ = ["QuantisationSettings", "calibrate", "quantise"]


def __getattr__(name: str) -> Any:
    if name == "quantise":
        from compress.quantization.insertion import quantise

        return quantise
    if name == "calibrate":
        from compress.quantization.calibration import calibrate

        return calibrate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
