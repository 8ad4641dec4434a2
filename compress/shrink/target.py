"""What the machine that will run a network asks of its integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TargetName = Literal["cpu-avx2", "cpu-vnni", "arm", "openvino", "tensorrt"]


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    Attributes:
        name: as it is typed.
        largest_code: of a weight that it computes rightly with.
        symmetric: integers between layers have zero point 0.
        half: what stays float computes in float16, and integer layers have biases in float: TensorRT reads no int32.
        is_here: its speed can be measured with ONNX Runtime on a CPU.
        told: for the report.
    """

    name: TargetName
    largest_code: int
    symmetric: bool
    half: bool
    is_here: bool
    told: str


TARGETS: dict[str, Target] = {
    one.name: one
    for one in (
        Target(
            "cpu-avx2",
            63,
            False,
            False,
            True,
            "7-bit weights: sums of 8-bit ones overflow in pairs on CPUs without VNNI",
        ),
        Target("cpu-vnni", 127, False, False, True, "8-bit weights: wrong on CPUs without VNNI, where pairs overflow"),
        Target("arm", 127, False, False, False, "8-bit weights; not run here"),
        Target("openvino", 127, False, False, False, "8-bit weights; not run here"),
        Target(
            "tensorrt",
            127,
            True,
            True,
            False,
            "8-bit weights, zero point 0 everywhere, biases in float, what stays float in float16 (judged in "
            "float32: CPUs have no other); not run here",
        ),
    )
}
DEFAULT: TargetName = "cpu-avx2"
