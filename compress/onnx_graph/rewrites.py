"""Exact rewrites of an integer network for ONNX Runtime's kernels: the same numbers, sooner.

- Its integer depthwise kernel takes 16 channels at a time, and a remainder sends the whole layer down a slower path:
  24 channels took longer than 32. Zero filters fill the remainder; they answer zero, and the layer behind has zero
  weights for them.
- Its integer convolution gathers its input value by value where there are few channels. A convolution with stride 2
  on an image is the same as one with stride 1 on the four phases of the image as channels (SpaceToDepth).

Only zeros are added: to the file they cost next to nothing, and parameters and MACs of the network are counted without.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, NodeProto

from compress.onnx_graph.graph_view import GraphView, groups_of

KERNEL_CHANNELS = 16  # of MLAS' depthwise kernel for integers, on x86 and ARM
FEW_CHANNELS = 4  # an image; from eight channels on the gather copies whole words
_BLOCK = 2
_BETWEEN = ("QuantizeLinear", "DequantizeLinear", "Relu", "Clip")  # what may lie between two convolutions


@dataclass(frozen=True)
class Rewrite:
    """A layer that was rewritten.

    Attributes:
        layer: name of its node.
        what: 'padded' or 'space_to_depth'.
        before: shape of its weight.
        after: shape of its weight.
    """

    layer: str
    what: str
    before: tuple[int, ...]
    after: tuple[int, ...]


def rewrite_for_runtime(graph: GraphProto) -> list[Rewrite]:
    """Apply both rewrites in place; return what was done."""
    return [*pad_depthwise(graph), *split_stem_into_phases(graph)]


def pad_depthwise(graph: GraphProto) -> list[Rewrite]:
    """Pad the channels of depthwise layers to full kernels, in place; return the layers.

    Only integer depthwise layers between two dense ones, whose weights no other node reads, are touched; what the
    graph computes does not change by a bit.
    """
    view = GraphView(graph)
    done = []
    for node in list(graph.node):
        if (found := _match(node, view)) is None:
            continue
        before, after = found
        shape = view.shape(node)
        count = -shape[0] % KERNEL_CHANNELS
        _pad_outputs(before, view, count)
        _pad_outputs(node, view, count)
        next(a for a in node.attribute if a.name == "group").i = shape[0] + count
        view.pad(view.weight_of(after), count, axis=1)
        done.append(Rewrite(node.name, "padded", shape, view.shape(node)))
    return done


def split_stem_into_phases(graph: GraphProto) -> list[Rewrite]:
    """Turn integer convolutions with stride 2 on the quantized image into ones with stride 1, in place.

    Channel (2a + b) * C + c of the rearranged image is its channel c at the rows of parity a and the columns of
    parity b. Tap t of the kernel, counted from the first row of the output's block, lies in block t // 2, parity t % 2.

    Returns:
        The layers; none if the image has an odd side or many channels, or something else reads it, too.
    """
    view = GraphView(graph)
    done = []
    for value in graph.input:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        conv = _downwards(value.name, view)
        if (
            conv is None
            or len(dims) != 4
            or not 0 < dims[1] <= FEW_CHANNELS
            or not view.is_own_integer_convolution(conv)
        ):
            continue
        if dims[2] % _BLOCK or dims[3] % _BLOCK or view.maker[conv.input[0]].op_type != "DequantizeLinear":
            continue
        attributes = {a.name: list(a.ints) for a in conv.attribute if a.ints}
        if attributes.get("strides") != [_BLOCK, _BLOCK] or attributes.get("dilations", [1, 1]) != [1, 1]:
            continue
        if groups_of(conv) != 1 or not attributes.get("pads"):
            continue
        weight = view.array(view.weight_of(conv))
        pads = attributes["pads"]
        rows = _phases(weight.shape[2], pads[0], pads[2], dims[2])
        columns = _phases(weight.shape[3], pads[1], pads[3], dims[3])
        phased = np.zeros((weight.shape[0], _BLOCK**2 * weight.shape[1], rows.size, columns.size), weight.dtype)
        for y, x in np.ndindex(weight.shape[2:]):
            first = (rows.parity[y] * _BLOCK + columns.parity[x]) * weight.shape[1]
            phased[:, first : first + weight.shape[1], rows.block[y], columns.block[x]] = weight[:, :, y, x]
        view.store(view.weight_of(conv), phased)
        del conv.attribute[:]
        conv.attribute.extend(
            [
                onnx.helper.make_attribute("kernel_shape", [rows.size, columns.size]),
                onnx.helper.make_attribute("pads", [rows.before, columns.before, rows.after, columns.after]),
                onnx.helper.make_attribute("strides", [1, 1]),
            ]
        )
        _insert_space_to_depth(graph, view.maker[conv.input[0]], conv.name)
        done.append(Rewrite(conv.name, "space_to_depth", weight.shape, phased.shape))
    return done


@dataclass(frozen=True)
class _Phases:
    """Along one axis: block and parity of each tap, length of the new kernel, padding before and after."""

    block: list[int]
    parity: list[int]
    size: int
    before: int
    after: int


def _phases(kernel: int, before: int, after: int, length: int) -> _Phases:
    taps = [tap - before for tap in range(kernel)]
    first = taps[0] // _BLOCK
    size = taps[-1] // _BLOCK - first + 1
    outputs = (length + before + after - kernel) // _BLOCK + 1
    return _Phases(
        block=[tap // _BLOCK - first for tap in taps],
        parity=[tap % _BLOCK for tap in taps],
        size=size,
        before=-first,
        after=outputs - length // _BLOCK + first + size - 1,
    )


def _insert_space_to_depth(graph: GraphProto, dequantize: NodeProto, layer: str) -> None:
    """Rearrange the image between its quantizer and a DequantizeLinear: as bytes, a quarter of the traffic."""
    source = dequantize.input[0]
    node = onnx.helper.make_node(
        "SpaceToDepth", [source], [f"{source}_phases"], name=f"{layer}/SpaceToDepth", blocksize=_BLOCK
    )
    dequantize.input[0] = node.output[0]
    position = next(i for i, one in enumerate(graph.node) if one.output[0] == dequantize.output[0])
    graph.node.insert(position, node)


def _match(node: NodeProto, view: GraphView) -> tuple[NodeProto, NodeProto] | None:
    """Return the dense convolutions before and behind a depthwise one that is worth padding, or None."""
    if not view.is_own_integer_convolution(node):
        return None
    outputs, inputs = view.shape(node)[:2]
    if outputs == 1 or inputs != 1 or groups_of(node) != outputs or outputs % KERNEL_CHANNELS == 0:
        return None
    before, after = _upwards(node.input[0], view), _downwards(node.output[0], view)
    for dense in (before, after):
        if dense is None or not view.is_own_integer_convolution(dense) or groups_of(dense) != 1:
            return None
    assert before is not None
    assert after is not None
    tensors = [name for one in (before, node) for name in view.maker[one.input[1]].input[1:]]
    if not all(name in view.tensors for name in tensors) or not all(_bias_is_known(n, view) for n in (before, node)):
        return None
    return before, after


def _upwards(name: str, view: GraphView) -> NodeProto | None:
    """Return the convolution that a value comes from, if nothing else reads it on the way."""
    while view.uses[name] == 1 and (node := view.maker.get(name)) is not None:
        if node.op_type == "Conv":
            return node
        if node.op_type not in _BETWEEN or not _one_scale(node, view):
            return None
        name = node.input[0]
    return None


def _downwards(name: str, view: GraphView) -> NodeProto | None:
    """Return the one convolution that a value goes to."""
    while view.uses[name] == 1 and (readers := view.readers.get(name)):
        node = readers[0]
        if node.op_type == "Conv":
            return node if node.input[0] == name else None
        if node.op_type not in _BETWEEN or not _one_scale(node, view):
            return None
        name = node.output[0]
    return None


def _one_scale(node: NodeProto, view: GraphView) -> bool:
    """Return whether a (de)quantizer has one scale for all channels; other operators have none."""
    linear = node.op_type in ("QuantizeLinear", "DequantizeLinear")
    return not linear or (node.input[1] in view.tensors and view.array(node.input[1]).size == 1)


def _bias_is_known(node: NodeProto, view: GraphView) -> bool:
    """Return whether a convolution has no bias, a stored one, or stored integers under the scale of a Mul."""
    if len(node.input) < 3 or not node.input[2]:
        return True
    bias = node.input[2]
    if view.uses[bias] != 1:
        return False
    if bias in view.tensors:
        return True
    source = view.maker[bias]
    scale = view.maker.get(source.input[1]) if source.op_type == "DequantizeLinear" else None
    weight_scale = view.maker[node.input[1]].input[1]
    return (
        scale is not None
        and scale.op_type == "Mul"
        and weight_scale in scale.input
        and source.input[0] in view.tensors
        and view.uses[source.input[0]] == 1
        and len(source.input) < 3
    )


def _pad_outputs(node: NodeProto, view: GraphView, count: int) -> None:
    """Give a convolution more filters, all zero, with a bias of zero."""
    source = view.maker[node.input[1]]
    weight, scale = source.input[:2]
    view.pad(weight, count)
    if view.array(scale).ndim:
        scales, padded = view.array(scale), f"{weight}_scale_padded"
        view.store(padded, np.concatenate([scales, np.repeat(scales[-1:], count)]))
        for reader in [source, *_scale_of_bias(node, view)]:
            for index, name in enumerate(reader.input):
                if name == scale:
                    reader.input[index] = padded
        if len(source.input) > 2:
            zeros, name = view.array(source.input[2]), f"{weight}_zero_point_padded"
            view.store(name, np.concatenate([zeros, np.zeros(count, zeros.dtype)]))
            source.input[2] = name
    if len(node.input) > 2 and node.input[2]:
        bias = node.input[2]
        view.pad(bias if bias in view.tensors else view.maker[bias].input[0], count)


def _scale_of_bias(node: NodeProto, view: GraphView) -> list[NodeProto]:
    """Return the Mul that makes the scale of an integer bias, if there is one."""
    if len(node.input) < 3 or node.input[2] not in view.maker:
        return []
    return [view.maker[view.maker[node.input[2]].input[1]]]
