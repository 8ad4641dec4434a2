"""Torch functions that export as the ONNX operators we want, and the deformable convolution.

Each computes in torch what the operator computes in ONNX Runtime, so that the graph prepared for
export can be run and compared before any file exists. They are operators of a torch library, not
autograd functions: torch's exporter (2.10) fails on an autograd function inside a shared module
("Argument passed to at() was not in the map").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch import onnx as torch_onnx
from torch.onnx import symbolic_helper

DeformForm = Literal["DeformConv", "GridSample"]
DEFORM_OPERATOR = "torchvision::deform_conv2d"


LIBRARY = torch.library.Library("krimp", "DEF")
LIBRARY.define("round_activation(Tensor x, float scale, int zero_point) -> Tensor")
LIBRARY.define("dequantise_weight(Tensor codes, Tensor scale) -> Tensor")
LIBRARY.define("dequantise_bias(Tensor codes, float input_scale, Tensor weight_scale) -> Tensor")
LIBRARY.define("resize_nearest(Tensor x, int height, int width) -> Tensor")


def _round_activation(x: Tensor, scale: float, zero_point: int) -> Tensor:
    codes = torch.clamp(torch.round(x / scale + zero_point), 0, 255)
    return (codes - zero_point) * scale


def _dequantise_weight(codes: Tensor, scale: Tensor) -> Tensor:
    return codes.float() * scale.view(-1, *[1] * (codes.dim() - 1))


def _dequantise_bias(codes: Tensor, input_scale: float, weight_scale: Tensor) -> Tensor:
    return codes.float() * (torch.tensor(input_scale, dtype=torch.float32) * weight_scale)


def _resize_nearest(x: Tensor, height: int, width: int) -> Tensor:
    return torch.nn.functional.interpolate(x, size=(height, width), mode="nearest")


LIBRARY.impl("round_activation", _round_activation, "CompositeExplicitAutograd")
LIBRARY.impl("dequantise_weight", _dequantise_weight, "CompositeExplicitAutograd")
LIBRARY.impl("dequantise_bias", _dequantise_bias, "CompositeExplicitAutograd")
LIBRARY.impl("resize_nearest", _resize_nearest, "CompositeExplicitAutograd")


def _symbolic_round_activation(g: Any, x: Any, scale: Any, zero_point: Any) -> Any:
    """QuantizeLinear to uint8, DequantizeLinear."""
    numbers = symbolic_helper._maybe_get_const(scale, "f"), symbolic_helper._maybe_get_const(zero_point, "i")
    parameters = (
        _constant(g, torch.tensor(numbers[0], dtype=torch.float32)),
        _constant(g, torch.tensor(numbers[1], dtype=torch.uint8)),
    )
    codes = g.op("QuantizeLinear", x, *parameters)
    return g.op("DequantizeLinear", codes, *parameters).setType(x.type())


def _symbolic_dequantise_weight(g: Any, codes: Any, scale: Any) -> Any:
    """DequantizeLinear of int8, a scale per output channel."""
    sizes = symbolic_helper._get_tensor_sizes(codes)
    zero_point = _constant(g, torch.zeros(sizes[0], dtype=torch.int8))
    result = g.op("DequantizeLinear", codes, scale, zero_point, axis_i=0)
    return result.setType(scale.type().with_sizes(sizes))


def _symbolic_dequantise_bias(g: Any, codes: Any, input_scale: Any, weight_scale: Any) -> Any:
    """DequantizeLinear of int32 with the weight's scale alone; `tidy` multiplies it by the scale of the input.

    A product made here would be folded by the exporter, and a vector of floats stored for each bias.
    """
    return g.op("DequantizeLinear", codes, weight_scale, axis_i=0).setType(weight_scale.type())


def _symbolic_resize_nearest(g: Any, x: Any, height: Any, width: Any) -> Any:
    """Resize with constants: no shape arithmetic, and the batch stays free.

    A whole factor is stored as such; any other ratio as a size of the axes 2 and 3, because a float
    factor may miss the size by one.
    """
    sizes = symbolic_helper._get_tensor_sizes(x)
    wanted = [int(symbolic_helper._maybe_get_const(value, "i")) for value in (height, width)]
    nothing = g.op("Constant", value_t=torch.tensor([], dtype=torch.float32))
    how = {"coordinate_transformation_mode_s": "asymmetric", "mode_s": "nearest", "nearest_mode_s": "floor"}
    if wanted[0] % sizes[2] == 0 and wanted[1] % sizes[3] == 0:
        factors = torch.tensor([1.0, 1.0, wanted[0] / sizes[2], wanted[1] / sizes[3]])
        result = g.op("Resize", x, nothing, _constant(g, factors), **how)
    else:
        result = g.op("Resize", x, nothing, nothing, _constant(g, torch.tensor(wanted)), axes_i=[2, 3], **how)
    return result.setType(x.type().with_sizes([sizes[0], sizes[1], *wanted]))


@contextmanager
def symbolics(form: DeformForm, opset: int) -> Iterator[None]:
    """Teach torch's exporter our operators and torchvision's deformable convolution, for one export.

    DeformConv runs in ONNX Runtime on the CPU from 1.25; GridSample in every version that knows
    opset 16, at twice the cost. torch has no symbolic of its own (pytorch#68910).
    """
    table: dict[str, Callable[..., Any]] = {
        "krimp::round_activation": _symbolic_round_activation,
        "krimp::dequantise_weight": _symbolic_dequantise_weight,
        "krimp::dequantise_bias": _symbolic_dequantise_bias,
        "krimp::resize_nearest": _symbolic_resize_nearest,
        DEFORM_OPERATOR: _deform_conv if form == "DeformConv" else _grid_sample,
    }
    for name, function in table.items():
        torch_onnx.register_custom_op_symbolic(name, function, opset)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name in table:
            torch_onnx.unregister_custom_op_symbolic(name, opset)  # type: ignore[attr-defined]


def _deform_conv(g: Any, x: Any, weight: Any, offset: Any, mask: Any, bias: Any, *geometry: Any) -> Any:
    stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x, groups, offset_groups, use_mask = _integers(geometry)
    inputs = [x, weight, offset, bias]
    if use_mask:
        inputs.append(mask)
    result = g.op(
        "DeformConv",
        *inputs,
        kernel_shape_i=symbolic_helper._get_tensor_sizes(weight)[2:],
        strides_i=[stride_y, stride_x],
        pads_i=[pad_y, pad_x, pad_y, pad_x],
        dilations_i=[dilation_y, dilation_x],
        group_i=groups,
        offset_group_i=offset_groups,
    )
    return _with_deform_type(result, x, weight, offset)


def _grid_sample(g: Any, x: Any, weight: Any, offset: Any, mask: Any, bias: Any, *geometry: Any) -> Any:
    """Sample all taps with one GridSample, then contract channels and taps with one MatMul.

    Source: same bilinear rule, zero outside, as torchvision's kernel; normalised positions
    p' = (2 p + 1) / size - 1 of GridSample with align_corners = 0.
    """
    stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x, groups, offset_groups, use_mask = _integers(geometry)
    if groups != 1 or offset_groups != 1:
        raise ValueError(f"GridSample form: {groups} groups, {offset_groups} offset groups. Expected one of each.")
    _, channels, height_in, width_in = symbolic_helper._get_tensor_sizes(x)
    out_channels, _, kernel_y, kernel_x = symbolic_helper._get_tensor_sizes(weight)
    _, _, height, width = symbolic_helper._get_tensor_sizes(offset)
    taps = kernel_y * kernel_x
    tap_y = (torch.arange(kernel_y) * dilation_y - pad_y).repeat_interleave(kernel_x).view(taps, 1, 1)
    tap_x = (torch.arange(kernel_x) * dilation_x - pad_x).repeat(kernel_y).view(taps, 1, 1)
    rows = (tap_y + torch.arange(height).view(1, height, 1) * stride_y).expand(taps, height, width)
    columns = (tap_x + torch.arange(width).view(1, 1, width) * stride_x).expand(taps, height, width)
    factor = torch.tensor([2.0 / width_in, 2.0 / height_in])
    start = torch.stack((columns, rows), dim=-1).float() * factor + factor / 2 - 1

    shift = _reshape(g, offset, [-1, taps, 2, height, width])
    shift = g.op("Transpose", shift, perm_i=[0, 1, 3, 4, 2])
    shift = g.op("Gather", shift, _constant(g, torch.tensor([1, 0])), axis_i=4)  # y, x -> x, y
    grid = g.op("Add", g.op("Mul", shift, _constant(g, factor)), _constant(g, start))
    grid = _reshape(g, grid, [-1, taps * height, width, 2])
    sampled = g.op(
        "GridSample",
        x,
        grid,
        mode_s="bilinear" if g.opset < 20 else "linear",
        padding_mode_s="zeros",
        align_corners_i=0,
    )
    sampled = _reshape(g, sampled, [-1, channels, taps, height * width])
    if use_mask:
        sampled = g.op("Mul", sampled, _reshape(g, mask, [-1, 1, taps, height * width]))
    sampled = _reshape(g, sampled, [-1, channels * taps, height * width])
    result = g.op("MatMul", _reshape(g, weight, [out_channels, channels * taps]), sampled)
    result = _reshape(g, result, [-1, out_channels, height, width])
    result = g.op("Add", result, _reshape(g, bias, [1, out_channels, 1, 1]))
    return _with_deform_type(result, x, weight, offset)


def _integers(values: tuple[Any, ...]) -> list[int]:
    """Return the values of constant integers of the traced graph."""
    return [int(symbolic_helper._maybe_get_const(value, "i")) for value in values]


def _with_deform_type(result: Any, x: Any, weight: Any, offset: Any) -> Any:
    sizes = symbolic_helper._get_tensor_sizes
    shape = [sizes(x)[0], sizes(weight)[0], *sizes(offset)[2:]]
    return result.setType(x.type().with_sizes(shape))


def _reshape(g: Any, value: Any, shape: list[int]) -> Any:
    return g.op("Reshape", value, _constant(g, torch.tensor(shape)))


def _constant(g: Any, value: Tensor) -> Any:
    return g.op("Constant", value_t=value)
