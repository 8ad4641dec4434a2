"""What a quantized model looks like: bit widths and the kind of CPU it must be right on. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SATURATION_FREE_BIT_WIDTH = 7
"""Widest weights whose products cannot overflow VPMADDUBSW: 2 * 255 * 63 = 32130 < 2**15."""

Target = Literal["avx2", "vnni", "arm"]
Role = Literal["plain", "depthwise", "stem", "island"]
"""What a layer is: computed in integers as usual, channel by channel, on the image; or in float."""


@dataclass(frozen=True)
class PostTraining:
    """What is chosen from calibration images, before training or instead of it.

    Attributes:
        ranges: of activations; 'percentile' (see `QuantizationSettings.activation_percentile`) or 'least_error'.
        rounding: of weights; 'nearest', or 'feedback': one rounding takes back what others got wrong.
        equalize: give channels of very different size similar ones first.
        correct_bias: take back what rounded weights add to the mean of an output.
    """

    ranges: Literal["percentile", "least_error"] = "least_error"
    rounding: Literal["nearest", "feedback"] = "feedback"
    equalize: bool = True
    correct_bias: bool = True


ONLY_RANGES = PostTraining(ranges="percentile", rounding="nearest", equalize=False, correct_bias=False)
"""Where training follows: it learns the rest itself."""


class QuantizationSettings(BaseModel):
    """Fields of the stage `qat` that shape the model; kept in `build.json` to rebuild it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_bit_width: int = Field(7, ge=2, le=8, description="Bits of the weights, symmetric, a scale per channel.")
    depthwise_weight_bit_width: int = Field(
        8, ge=2, le=8, description="Least bits of depthwise convolutions: few weights, much error, no saturation."
    )
    stem_weight_bit_width: int = Field(7, ge=2, le=8, description="Least bits of convolutions that read the image.")
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
        99.99,
        ge=99,
        le=100,
        description="Share of an image's values, in percent, inside the calibrated range; 100: all of them.",
    )
    learn_activation_ranges: bool = Field(
        False, description="Train the activation ranges too; default: they stay as calibrated."
    )

    @model_validator(mode="after")
    def _target_computes_right(self) -> QuantizationSettings:
        for name in ("weight_bit_width", "stem_weight_bit_width"):
            if (text := saturation_problem(getattr(self, name), self.target)) is not None:
                raise ValueError(f"{name}: {text}")
        for pattern, bits in self.layer_bit_widths.items():
            if not 2 <= bits <= 8:
                raise ValueError(f"layer_bit_widths[{pattern!r}]: {bits} bits. Expected 2 to 8.")
        return self

    def bit_width(self, name: str, role: Role) -> int:
        """Return the bits of the weights of one layer, named and used so."""
        bits = {
            "plain": self.weight_bit_width,
            "depthwise": max(self.weight_bit_width, self.depthwise_weight_bit_width),
            "stem": max(self.weight_bit_width, self.stem_weight_bit_width),
            "island": self.float_island_weight_bit_width,
        }[role]
        for pattern, wanted in self.layer_bit_widths.items():
            if fnmatchcase(name, pattern):
                bits = wanted
        return bits


def saturation_problem(bits: int, target: Target, role: Role = "plain") -> str | None:
    """Return why such a layer goes wrong on a CPU, or None if it does not.

    Depthwise convolutions have a kernel of their own in ONNX Runtime that multiplies 16-bit numbers:
    with 8-bit weights at the extremes it was exact where dense layers were 9 to 45 % off.
    """
    if target != "avx2" or bits <= SATURATION_FREE_BIT_WIDTH or role in ("depthwise", "island"):
        return None
    return (
        f"{bits}-bit weights saturate the 16-bit sums of a CPU without VNNI (21 % error was measured). "
        f"Use at most {SATURATION_FREE_BIT_WIDTH} bits, or set `target: vnni` if only such CPUs will run the model."
    )
