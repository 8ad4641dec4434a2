"""Which channels of an integer network are the same number everywhere, whatever the image is.

A filter without weights answers its bias. What follows channel by channel (quantizers, depthwise filters, pooling,
additions) makes another constant of it, down to the first layer that mixes it with others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import NodeProto

from compress.onnx_graph.graph_view import GraphView, groups_of

PASSING = ("Relu", "Clip", "MaxPool", "Resize", "GlobalAveragePool", "QuantizeLinear", "DequantizeLinear")
_BETWEEN = ("Relu", "Clip")  # what may lie between a convolution and its quantizer
_PRECISION = 1e-6  # of what float32 makes of one product, with some to spare
_SUM_PRECISION = 1e-3  # steps, of a sum of two quantized tensors: as its parts may be large and the sum small
_LAST_CODE = 255


@dataclass(frozen=True)
class Grid:
    """Steps of a quantized tensor: value = (code - zero_point) * scale."""

    scale: float
    zero_point: int

    def round(self, values: np.ndarray, precision: float = 0.0) -> np.ndarray:
        """Return the codes of values, NaN where a runtime in float32 could round either way.

        Args:
            values: computed exactly.
            precision: steps by which the runtime may be off, besides the rounding of a product.
        """
        steps = values / self.scale
        off = np.abs(steps) * _PRECISION + precision
        low, high = (np.clip(np.rint(one) + self.zero_point, 0, _LAST_CODE) for one in (steps - off, steps + off))
        codes: np.ndarray = np.where(low == high, low, np.nan)
        return codes

    def values(self, codes: np.ndarray) -> np.ndarray:
        """Return what codes stand for."""
        return (codes - self.zero_point) * self.scale


@dataclass(frozen=True)
class IntegerCall:
    """A convolution that the runtime computes in integers, dense or depthwise.

    Attributes:
        node: Conv.
        weight: name of its integers.
        codes: (out, in or 1, kh, kw) int64.
        weight_scale: (out,) or scalar, float32.
        bias: (out,) int64 in steps of input scale * weight scale, or None.
        bias_name: of the stored integers, '' without.
        input_scale: name of the scale of its input.
        grid: of its input.
        is_depthwise: one filter a channel.
        is_padded: zeros surround its input.
        quantizer: the node that rounds its output.
    """

    node: NodeProto
    weight: str
    codes: np.ndarray
    weight_scale: np.ndarray
    bias: np.ndarray | None
    bias_name: str
    input_scale: str
    grid: Grid
    is_depthwise: bool
    is_padded: bool
    quantizer: NodeProto

    @cached_property
    def reads(self) -> np.ndarray:
        """Return where a filter has any weight for an input channel, (out, in or 1)."""
        reads: np.ndarray = (self.codes != 0).max(axis=(2, 3))
        return reads

    def integers(self, inputs: np.ndarray) -> np.ndarray:
        """Return constant inputs in steps from their zero point, (in,); NaN where they are not constant."""
        integers: np.ndarray = np.rint(inputs / self.grid.scale)
        return integers

    def is_even(self, inputs: np.ndarray) -> np.ndarray:
        """Return which inputs add the same number at every position, (in,)."""
        integers = self.integers(inputs)
        even: np.ndarray = (integers == 0) | (~np.isnan(integers) & (not self.is_padded))
        return even

    def added(self, inputs: np.ndarray) -> np.ndarray:
        """Return what each filter adds up of the inputs that are even, (out,) int64."""
        integers = np.where(self.is_even(inputs), self.integers(inputs), 0).astype(np.int64)
        sums = self.codes.sum(axis=(2, 3))
        total: np.ndarray = sums[:, 0] * integers if self.is_depthwise else sums @ integers
        return total

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """Return the constant outputs, (out,) float64; NaN where they are not constant."""
        uneven = ~self.is_even(inputs)
        depends = self.reads[:, 0] & uneven if self.is_depthwise else (self.reads & uneven).any(axis=1)
        total = self.added(inputs) + (0 if self.bias is None else self.bias)
        values: np.ndarray = total * (self.grid.scale * self.weight_scale.astype(np.float64))
        return np.where(depends, np.nan, values)


def integer_calls(view: GraphView) -> dict[str, IntegerCall]:
    """Return the output of each convolution that the runtime fuses -> what it is made of."""
    calls = (_integer_call(node, view) for node in view.graph.node if node.op_type == "Conv")
    return {call.node.output[0]: call for call in calls if call is not None}


def constant_channels(
    view: GraphView, calls: Mapping[str, IntegerCall], channels: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Return value -> its constant channels, (channels,) float64, NaN where the image matters.

    Args:
        view: of the graph.
        calls: from `integer_calls`.
        channels: value -> how many it has; of those that depend on the image.
    """
    found: dict[str, np.ndarray] = {}
    for node in view.graph.node:
        name = node.output[0]
        if name not in channels:
            continue
        values = _outputs(node, view, calls, found)
        if values is None or values.shape != (channels[name],):
            values = np.full(channels[name], np.nan)
        found[name] = values
    return found


def grid_of(node: NodeProto, view: GraphView) -> Grid | None:
    """Return the steps of a quantizer or dequantizer with one scale, None if it has another form."""
    if node.input[1] not in view.tensors or view.array(node.input[1]).size != 1:
        return None
    if len(node.input) < 3:
        return Grid(float(view.array(node.input[1]).reshape(())), 0)
    if node.input[2] not in view.tensors or view.array(node.input[2]).dtype != np.uint8:
        return None
    return Grid(float(view.array(node.input[1]).reshape(())), int(view.array(node.input[2]).reshape(())))


def _outputs(
    node: NodeProto, view: GraphView, calls: Mapping[str, IntegerCall], found: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """Return the constant outputs of a node, None if nothing is known of it."""
    inputs = [found[name] for name in node.input if name in found]
    if node.op_type == "Conv":
        call = calls.get(node.output[0])
        return call.outputs(inputs[0]) if call and inputs else None
    if node.op_type in ("Add", "Concat"):
        if len(inputs) != len(node.input):
            return None
        joined: np.ndarray = np.concatenate(inputs) if node.op_type == "Concat" else inputs[0] + inputs[1]
        return joined
    rule = _RULES.get(node.op_type)
    return rule(inputs[0], node, view) if rule and inputs else None


def _rounded(values: np.ndarray, node: NodeProto, view: GraphView) -> np.ndarray | None:
    grid = grid_of(node, view)
    if grid is None:
        return None
    source = view.maker.get(node.input[0])
    while source is not None and source.op_type in _BETWEEN:
        source = view.maker.get(source.input[0])
    is_sum = source is not None and source.op_type == "Add"
    return grid.values(grid.round(values, _SUM_PRECISION if is_sum else 0.0))


def _dequantized(values: np.ndarray, node: NodeProto, view: GraphView) -> np.ndarray | None:
    """Return the values as they are: they were kept as what their codes stand for, if these are the same steps."""
    grid, maker = grid_of(node, view), _quantizer_of(node.input[0], view)
    return values if grid is not None and maker is not None and grid_of(maker, view) == grid else None


def _quantizer_of(codes: str, view: GraphView) -> NodeProto | None:
    maker = view.maker.get(codes)
    return maker if maker is not None and maker.op_type == "QuantizeLinear" else None


def _clipped(values: np.ndarray, node: NodeProto, view: GraphView) -> np.ndarray | None:
    limits: list[float] = [-np.inf, np.inf]
    for index, name in enumerate(node.input[1:3]):
        if name and name not in view.tensors:
            return None
        limits[index] = float(view.array(name).reshape(())) if name else limits[index]
    clipped: np.ndarray = np.clip(values, limits[0], limits[1])
    return clipped


def _resized(values: np.ndarray, node: NodeProto, view: GraphView) -> np.ndarray | None:
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
    return values if mode == b"nearest" else None


_RULES: dict[str, Callable[[np.ndarray, NodeProto, GraphView], np.ndarray | None]] = {
    "QuantizeLinear": _rounded,
    "DequantizeLinear": _dequantized,
    "Relu": lambda values, node, view: np.maximum(values, 0),
    "Clip": _clipped,
    "MaxPool": lambda values, node, view: values,
    "GlobalAveragePool": lambda values, node, view: values,
    "Resize": _resized,
}


def _integer_call(node: NodeProto, view: GraphView) -> IntegerCall | None:
    """Return a convolution in integers, None if it has another form."""
    source, weight, quantizer = view.maker.get(node.input[0]), view.maker.get(node.input[1]), _read_by(node, view)
    if source is None or weight is None or quantizer is None or source.input[0] in view.tensors:
        return None
    if source.op_type != "DequantizeLinear" or (grid := grid_of(source, view)) is None or not _is_weight(weight, view):
        return None
    codes = view.array(weight.input[0]).astype(np.int64)
    groups = groups_of(node)
    is_depthwise = groups > 1 and groups == len(codes) and codes.shape[1] == 1
    if codes.ndim != 4 or not (groups == 1 or is_depthwise):
        return None
    bias, name = None, ""
    if len(node.input) > 2 and node.input[2]:
        name = _bias_name(node, weight, source, view)
        if not name:
            return None
        bias = view.array(name).astype(np.int64)
    pads = next((list(a.ints) for a in node.attribute if a.name == "pads"), [])
    automatic = next((a.s for a in node.attribute if a.name == "auto_pad"), b"NOTSET")
    return IntegerCall(
        node=node,
        weight=weight.input[0],
        codes=codes,
        weight_scale=view.array(weight.input[1]),
        bias=bias,
        bias_name=name,
        input_scale=source.input[1],
        grid=grid,
        is_depthwise=is_depthwise,
        is_padded=any(pads) or automatic not in (b"NOTSET", b"VALID"),
        quantizer=quantizer,
    )


def _is_weight(node: NodeProto, view: GraphView) -> bool:
    """Return whether a node reads stored int8 by a scale for all or for each filter, without zero points."""
    if node.op_type != "DequantizeLinear" or len(node.input) > 2 or not {*node.input} <= {*view.tensors}:
        return False
    codes, scale = view.array(node.input[0]), view.array(node.input[1])
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    return codes.dtype == np.int8 and (scale.ndim == 0 or (scale.shape == codes.shape[:1] and axis == 0))


def _bias_name(node: NodeProto, weight: NodeProto, source: NodeProto, view: GraphView) -> str:
    """Return the name of the stored int32 of a bias in steps of input scale times weight scale, '' if it is none."""
    bias = view.maker.get(node.input[2])
    if bias is None or bias.op_type != "DequantizeLinear" or len(bias.input) > 2:
        return ""
    scale = view.maker.get(bias.input[1])
    if scale is None or scale.op_type != "Mul" or list(scale.input) != [source.input[1], weight.input[1]]:
        return ""
    return bias.input[0] if bias.input[0] in view.tensors else ""


def _read_by(node: NodeProto, view: GraphView) -> NodeProto | None:
    """Return the quantizer that alone reads a convolution."""
    name = node.output[0]
    while view.uses[name] == 1 and (readers := view.readers.get(name)):
        reader = readers[0]
        if reader.op_type == "QuantizeLinear":
            return reader
        if reader.op_type not in _BETWEEN or reader.input[0] != name:
            return None
        name = reader.output[0]
    return None
