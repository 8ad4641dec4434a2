"""What a quantised model looks like: bit widths and the kind of CPU it must be right on. Torch-free."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SATURATION_FREE_BIT_WIDTH = 7
"""Widest weights whose products cannot overflow VPMADDUBSW: 2 * 255 * 63 = 32130 < 2**15."""

Target = Literal["avx2", "vnni", "arm"]


class QuantisationSettings(BaseModel):
    """Fields of the stage `qat` that shape the model; kept in `build.json` to rebuild it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_bit_width: int = Field(7, ge=2, le=8, description="Bits of the weights, symmetric, a scale per channel.")
    sensitive_weight_bit_width: int = Field(
        7,
        ge=2,
        le=8,
        description="Least bits of depthwise convolutions and of those that read the image: few weights, much error.",
    )
    float_island_weight_bit_width: int = Field(
        8, ge=2, le=8, description="Bits of the stored weights of layers that the plug-in keeps in float arithmetic."
    )
    layer_bit_widths: dict[str, int] = Field(
        default_factory=dict, description="Module name or glob -> bits; the last match wins over all of the above."
    )
    target: Target = Field(
        "avx2", description="CPU that must compute the right numbers; avx2 saturates with 8-bit weights."
    )
    activation_percentile: float = Field(
        99.99, gt=50, le=100, description="Share of the values, in percent, inside the calibrated range."
    )
    learn_activation_ranges: bool = Field(
        False, description="Train the activation ranges too; default: they stay as calibrated."
    )

    @model_validator(mode="after")
    def _target_computes_right(self) -> QuantisationSettings:
        for name in ("weight_bit_width", "sensitive_weight_bit_width"):
            if (text := saturation_problem(getattr(self, name), self.target)) is not None:
                raise ValueError(f"{name}: {text}")
        for pattern, bits in self.layer_bit_widths.items():
            if not 2 <= bits <= 8:
                raise ValueError(f"layer_bit_widths[{pattern!r}]: {bits} bits. Expected 2 to 8.")
        return self

    def bit_width(self, name: str, *, integer: bool, sensitive: bool) -> int:
        """Return the bits of one layer's weights.

        Args:
            name: module name.
            integer: computed in integers by the runtime; False: weights are stored so, arithmetic is float.
            sensitive: depthwise, or reads the image.
        """
        bits = self.weight_bit_width if integer else self.float_island_weight_bit_width
        if integer and sensitive:
            bits = max(bits, self.sensitive_weight_bit_width)
        for pattern, wanted in self.layer_bit_widths.items():
            if fnmatchcase(name, pattern):
                bits = wanted
        return bits


def saturation_problem(bits: int, target: Target) -> str | None:
    """Return why integer convolutions with such weights go wrong on a CPU, or None if they do not."""
    if target != "avx2" or bits <= SATURATION_FREE_BIT_WIDTH:
        return None
    return (
        f"{bits}-bit weights saturate the 16-bit sums of a CPU without VNNI (21 % error was measured). "
        f"Use at most {SATURATION_FREE_BIT_WIDTH} bits, or set `target: vnni` if only such CPUs will run the model."
    )
