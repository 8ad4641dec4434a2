"""Torch operators that stand for the ONNX operators we want, and how they are written in ONNX.

Each computes in torch what the operator computes in ONNX Runtime, so that the graph prepared for export can be run and
compared before any file exists. `translations` is the table that torch's exporter gets beside its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir
import torch
import torchvision  # noqa: F401 - registers torch.ops.torchvision.deform_conv2d
from onnxscript import opset19, opset20
from onnxscript.onnx_types import TensorType
from torch import Tensor

op: Any = opset19  # as in opset 20, but for GridSample; typed for the tensors of ONNX Script, not for a graph's values
DeformForm = Literal["DeformConv", "GridSample"]
Translation: TypeAlias = Callable[..., Any]

LIBRARY = torch.library.Library("krimp", "DEF")
LIBRARY.define("round_activation(Tensor x, float scale, int zero_point) -> Tensor")
LIBRARY.define("hard_sigmoid(Tensor x, float scale) -> Tensor")
LIBRARY.define("dequantize_weight(Tensor codes, Tensor scale) -> Tensor")
LIBRARY.define("dequantize_bias(Tensor codes, float input_scale, Tensor weight_scale) -> Tensor")
LIBRARY.define("resize_nearest(Tensor x, int height, int width) -> Tensor")


def _round_activation(x: Tensor, scale: float, zero_point: int) -> Tensor:
    codes = torch.clamp(torch.round(x / scale + zero_point), 0, 255)
    return (codes - zero_point) * scale


def _hard_sigmoid(x: Tensor, scale: float) -> Tensor:
    return torch.clamp(torch.round((x + 3) / (6 * scale)), 0, 255) * scale


def _dequantize_weight(codes: Tensor, scale: Tensor) -> Tensor:
    return codes.float() * scale.view(-1, *[1] * (codes.dim() - 1))


def _dequantize_bias(codes: Tensor, input_scale: float, weight_scale: Tensor) -> Tensor:
    return codes.float() * (torch.tensor(input_scale, dtype=torch.float32) * weight_scale)


def _resize_nearest(x: Tensor, height: int, width: int) -> Tensor:
    return torch.nn.functional.interpolate(x, size=(height, width), mode="nearest")


# Only the shape: torch's exporter asks for it some 500 times a network, and would run four operators each time.
def _like_input(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _float_like_codes(codes: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


def _of_size(x: Tensor, height: int, width: int) -> Tensor:
    return x.new_empty((*x.shape[:2], height, width))


for _name, _compute, _shape in (
    ("round_activation", _round_activation, _like_input),
    ("hard_sigmoid", _hard_sigmoid, _like_input),
    ("dequantize_weight", _dequantize_weight, _float_like_codes),
    ("dequantize_bias", _dequantize_bias, _float_like_codes),
    ("resize_nearest", _resize_nearest, _of_size),
):
    LIBRARY.impl(_name, _compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"krimp::{_name}", _shape, lib=LIBRARY)


def translations(form: DeformForm, opset: int) -> dict[Translation, Any]:
    """Return torch operator -> function that writes it in ONNX, for `torch.onnx.export(custom_translation_table=...)`.

    The functions have the argument names of the torch operator: torch looks whether they fit.

    Args:
        form: operator for deformable convolutions. DeformConv, torch's own translation, runs in ONNX Runtime on the
            CPU from 1.25; GridSample in every version that knows opset 16, at twice the cost.
        opset: of the file, 19 or 20.
    """
    krimp = torch.ops.krimp
    table: dict[Translation, Any] = {
        krimp.round_activation.default: write_round_activation,
        krimp.hard_sigmoid.default: write_hard_sigmoid,
        krimp.dequantize_weight.default: write_dequantize_weight,
        krimp.dequantize_bias.default: write_dequantize_bias,
        krimp.resize_nearest.default: write_resize_nearest,
        torch.ops.aten.conv2d.default: write_convolution,
        torch.ops.aten.adaptive_avg_pool2d.default: write_adaptive_avg_pool,
        torch.ops.aten.clamp_min.default: write_clamp_min,
    }
    if form == "GridSample":
        table[torch.ops.torchvision.deform_conv2d.default] = grid_sample_writer(opset)
    return table


def write_round_activation(x: TensorType, scale: float, zero_point: int) -> Any:
    """Write QuantizeLinear to uint8 and DequantizeLinear."""
    parameters = _constant(np.float32(scale)), _constant(np.uint8(zero_point))
    return op.DequantizeLinear(op.QuantizeLinear(x, *parameters), *parameters)


def write_hard_sigmoid(x: TensorType, scale: float) -> Any:
    """Write x + 3, rounded and saturated to 0..6, and read as a sixth of it: the runtime fuses an integer addition."""
    zero = _constant(np.uint8(0))
    three = op.DequantizeLinear(_constant(np.uint8(255)), _constant(np.float32(3 / 255)), zero)
    codes = op.QuantizeLinear(op.Add(x, three), _constant(np.float32(6 * scale)), zero)
    return op.DequantizeLinear(codes, _constant(np.float32(scale)), zero)


def write_dequantize_weight(codes: TensorType, scale: TensorType) -> Any:
    """Write DequantizeLinear of int8, a scale per output channel; no zero point says zero."""
    return op.DequantizeLinear(codes, scale, axis=0)


def write_dequantize_bias(codes: TensorType, input_scale: float, weight_scale: TensorType) -> Any:
    """Write DequantizeLinear of int32; its scale is a product of two constants, which every runtime folds."""
    return op.DequantizeLinear(codes, op.Mul(_constant(np.float32(input_scale)), weight_scale), axis=0)


def write_resize_nearest(x: TensorType, height: int, width: int) -> Any:
    """Write Resize with constants: no shape arithmetic, and the batch stays free.

    A whole factor is stored as such; any other ratio as a size of the axes 2 and 3, because a float
    factor may miss the size by one.
    """
    how = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
    height_in, width_in = _sizes(x)[2:]
    if height % height_in == 0 and width % width_in == 0:
        factors = np.array([1, 1, height / height_in, width / width_in], np.float32)
        return op.Resize(x, None, _constant(factors), **how)
    return op.Resize(x, None, None, _constant(np.array([height, width])), axes=[2, 3], **how)


def write_convolution(
    input: TensorType,
    weight: TensorType,
    bias: TensorType | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    """Write Conv; torch's own translation stores a bias of zeros where there is none."""
    return op.Conv(
        *([input, weight] if bias is None else [input, weight, bias]),
        kernel_shape=_sizes(weight)[2:],
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
    )


def write_adaptive_avg_pool(self: TensorType, output_size: Sequence[int]) -> Any:
    """Write GlobalAveragePool or AveragePool, which the runtime has for integers; torch's own is a mean."""
    if tuple(output_size) == (1, 1):
        return op.GlobalAveragePool(self)
    kernel = [whole // wanted for whole, wanted in zip(_sizes(self)[2:], output_size, strict=True)]
    if [size * wanted for size, wanted in zip(kernel, output_size, strict=True)] != _sizes(self)[2:]:
        raise ValueError(f"average pooling of {_sizes(self)[2:]} to {list(output_size)}: ONNX has no uneven windows.")
    return op.AveragePool(self, kernel_shape=kernel, strides=kernel)


def write_clamp_min(self: TensorType, min: float) -> Any:
    """Write Clip, which the runtime fuses with a convolution before it; torch's own is a Max."""
    return op.Clip(self, _constant(np.array(min, self.dtype.numpy())))


def grid_sample_writer(opset: int) -> Translation:
    """Return the translation of torchvision's deformable convolution to GridSample and MatMul.

    Source: same bilinear rule, zero outside, as torchvision's kernel; normalized positions
    p' = (2 p + 1) / size - 1 of GridSample with align_corners = 0.
    """
    mode = "bilinear" if opset < 20 else "linear"
    write_grid_sample: Any = op.GridSample if opset < 20 else opset20.GridSample

    def write_deform_conv2d(
        input: TensorType,
        weight: TensorType,
        offset: TensorType,
        mask: TensorType | None,
        bias: TensorType,
        stride_h: int,
        stride_w: int,
        pad_h: int,
        pad_w: int,
        dilation_h: int,
        dilation_w: int,
        groups: int,
        offset_groups: int,
        use_mask: bool,
    ) -> Any:
        """Sample all taps with one GridSample, then contract channels and taps with one MatMul."""
        if groups != 1 or offset_groups != 1:
            raise ValueError(f"GridSample form: {groups} groups, {offset_groups} offset groups. Expected one of each.")
        _, channels, height_in, width_in = _sizes(input)
        out_channels, _, *kernel = _sizes(weight)
        height, width = _sizes(offset)[2:]
        taps = kernel[0] * kernel[1]
        factor = np.array([2.0 / width_in, 2.0 / height_in], np.float32)
        geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
        start = tap_positions((height, width), kernel, *geometry) * factor + factor / 2 - 1

        shift = op.Transpose(_reshape(offset, [-1, taps, 2, height, width]), perm=[0, 1, 3, 4, 2])
        shift = op.Gather(shift, _constant(np.array([1, 0])), axis=4)  # y, x -> x, y
        grid = _reshape(op.Add(op.Mul(shift, _constant(factor)), _constant(start)), [-1, taps * height, width, 2])
        sampled = write_grid_sample(input, grid, mode=mode, padding_mode="zeros", align_corners=0)
        sampled = _reshape(sampled, [-1, channels, taps, height * width])
        if use_mask:
            sampled = op.Mul(sampled, _reshape(mask, [-1, 1, taps, height * width]))
        sampled = _reshape(sampled, [-1, channels * taps, height * width])
        result = op.MatMul(_reshape(weight, [out_channels, channels * taps]), sampled)
        result = _reshape(result, [-1, out_channels, height, width])
        return op.Add(result, _reshape(bias, [1, out_channels, 1, 1]))

    return write_deform_conv2d


def tap_positions(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> np.ndarray:
    """Return where the taps of a convolution without offsets lie on its input, as x and y of cells.

    All arguments are (rows, columns); `size` is that of the output.

    Returns:
        (taps, height, width, 2) float32; taps row by row.
    """
    taps, cells = np.indices(kernel).reshape(2, -1, 1, 1), np.indices(size)[:, None]
    rows, columns = (taps[axis] * dilation[axis] - padding[axis] + cells[axis] * stride[axis] for axis in range(2))
    return np.stack([columns, rows], axis=-1).astype(np.float32)


def _sizes(value: Any) -> list[int]:
    """Return the shape of a value of the graph; a free batch is no number."""
    return list(value.shape)


def _reshape(value: Any, shape: list[int]) -> Any:
    return op.Reshape(value, _constant(np.array(shape)))


def _constant(value: np.ndarray | np.generic) -> Any:
    return op.Constant(value=onnx_ir.tensor(value))
