"""What ONNX Runtime's integer kernels compute, step for step, on torch tensors that hold integers.

A fake-quantized network in plain float arithmetic differs from the runtime by one level in a few values
of a million, where a value lies between two levels. Sixty layers blow that up: on DCFL-MobileNetV2 the raw
outputs then differed by 2 to 4 %, whatever was done about bits and ranges. With the arithmetic below
both agree in every single integer, and outputs differ by float rounding of the last layers only.

Source:
    ONNX operators QuantizeLinear, QLinearConv and (com.microsoft) QLinearAdd; order of operations as in
    ONNX Runtime's MLAS: quantize.cpp (MlasQuantizeLinear, MlasRequantizeOutput), qladd_avx2.cpp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST_CODE = 255
EXACT_FLOAT32 = 2.0**24  # integers below are exact in float32, so are sums of them in any order


def to_codes(x: Tensor, scale: Tensor, zero_point: int) -> Tensor:
    """Return uint8 codes, kept as float32: round(x / scale) + zero_point, saturated."""
    return torch.div(x, scale).round_().add_(zero_point).clamp_(0, LARGEST_CODE)


def to_grid(x: Tensor, scale: Tensor, zero_point: int) -> Tensor:
    """Return x on its levels: QuantizeLinear followed by DequantizeLinear."""
    return to_codes(x, scale, zero_point).sub_(zero_point).mul_(scale)


def bias_codes(bias: Tensor, input_scale: Tensor, weight_scale: Tensor, unit: Tensor | None = None) -> Tensor:
    """Return a bias in steps of input scale times weight scale, (out,) integers in the float type of the bias.

    Args:
        bias: (out,).
        input_scale: scalar.
        weight_scale: (out,).
        unit: scalar, of the input: how coarse a bias may be. The integers are then multiples of a power of two, the
            nearest to unit / input_scale, and take fewer bits in the file. None: all integers.
    """
    step = input_scale * weight_scale
    if unit is None:
        return torch.round(bias / step)
    factor = torch.exp2(torch.round(torch.log2(unit / input_scale)).clamp_min(0))
    return torch.round(bias / (step * factor)) * factor


def convolve(
    x: Tensor,
    codes: Tensor,
    bias: Tensor | None,
    *,
    input_scale: Tensor,
    weight_scale: Tensor,
    output_scale: Tensor,
    bias_unit: Tensor | None = None,
    **geometry: Any,
) -> Tensor:
    """Convolve as QLinearConv does, up to saturation and zero point, which the quantizer behind adds.

    Args:
        x: (N, in, H, W), on a grid of step input_scale.
        codes: (out, in / groups, kh, kw) int8.
        bias: (out,) float32 or None; becomes int32 in steps of input_scale * weight_scale.
        input_scale: scalar.
        weight_scale: (out,).
        output_scale: scalar.
        bias_unit: see `bias_codes`.
        geometry: stride, padding, dilation, groups.

    Returns:
        (N, out, H', W') float32, multiples of output_scale.
    """
    weight = codes.to(x.dtype)
    integers = torch.div(x, input_scale).round_()
    largest = float(weight.abs().flatten(1).sum(1).max()) * LARGEST_CODE
    kind = torch.float32 if largest < EXACT_FLOAT32 else torch.float64
    total = F.conv2d(integers.to(kind), weight.to(kind), **geometry)
    if bias is not None:
        total = total + bias_codes(bias, input_scale, weight_scale, bias_unit).to(kind).view(1, -1, 1, 1)
    factor = (input_scale * weight_scale) / output_scale
    return total.float().mul_(factor.view(1, -1, 1, 1)).round_().mul_(output_scale)


def add(a: Tensor, b: Tensor, *grids: tuple[Tensor, int]) -> Tensor:
    """Add as QLinearAdd does, up to saturation, which the quantizer behind adds.

    Args:
        a: on its grid.
        b: on its grid, same shape.
        grids: (scale, zero_point) of a, of b and of the sum.

    Returns:
        Multiples of the sum's scale.
    """
    (scale_a, zero_a), (scale_b, zero_b), (scale_c, zero_c) = grids
    ratio_a, ratio_b = scale_a / scale_c, scale_b / scale_c
    # The compiled kernel uses fused multiply-adds throughout: one rounding each, which float64 gives.
    fixed = zero_c - (ratio_a.double() * zero_a + (ratio_b * zero_b).double()).float()
    total = to_codes(b, scale_b, zero_b).double() * ratio_b.double() + fixed.double()
    total = to_codes(a, scale_a, zero_a).double() * ratio_a.double() + total.float().double()
    return total.float().round_().sub_(zero_c).mul_(scale_c)


def multiply(a: Tensor, b: Tensor, *grids: tuple[Tensor, int]) -> Tensor:
    """Multiply as QLinearMul does, up to saturation, which the quantizer behind adds.

    Args:
        a: on its grid.
        b: on its grid, of a shape that broadcasts with a's.
        grids: (scale, zero_point) of a, of b and of the product.

    Returns:
        Multiples of the product's scale.
    """
    (scale_a, zero_a), (scale_b, zero_b), (scale_c, _) = grids
    integers = to_codes(a, scale_a, zero_a).sub_(zero_a) * to_codes(b, scale_b, zero_b).sub_(zero_b)
    return integers.mul_((scale_a * scale_b) / scale_c).round_().mul_(scale_c)


def hard_sigmoid(x: Tensor, *grids: tuple[Tensor, int]) -> Tensor:
    """Compute hard sigmoids as QLinearAdd does: x + 3 in steps of six output steps, saturated at both ends.

    Args:
        x: on its grid.
        grids: (scale, zero_point) of x and of the result; the latter's zero point is 0.

    Returns:
        min(max(x + 3, 0), 6) / 6 on the result's grid.
    """
    before, (scale, _) = grids
    step = scale * 6
    three = torch.tensor(3.0)
    total = add(x, three, before, (three / LARGEST_CODE, 0), (step, 0))
    return to_codes(total, step, 0).mul_(scale)
