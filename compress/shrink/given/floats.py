"""A quantized network as a float one, to learn from: weights in float, and levels between the layers left out.

Levels would drown what a small change of a weight does. Their ends stay: quantizers have swallowed ReLUs, and cut.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from compress.shrink.given.graph import Graph, drop_unread, replace_nodes
from compress.shrink.given.weights import IntegerWeight
from compress.shrink.network import Network

_ENDS = {
    np.dtype(kind): (float(np.iinfo(kind).min), float(np.iinfo(kind).max))
    for kind in (np.int8, np.uint8, np.int16, np.uint16)
}


def float_network(model: onnx.ModelProto, weights: Mapping[str, IntegerWeight]) -> Network:
    """Return the network that computes with what integers stand for.

    Args:
        model: of `lifted`.
        weights: of `integer_weights`: each becomes a constant of its name, in float; its biases likewise.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = Graph(made)
    makers = dict(graph.makers)
    nodes = {node.name: node for node in made.graph.node}
    for weight in weights.values():
        biases: dict[str, np.ndarray] = {}
        for name in weight.calls:
            nodes[name].input[1] = weight.codes
            if (bias := weight.biases.get(name)) is not None and bias.steps is not None:
                biases[bias.name] = graph.array(bias.name).astype(np.float32) * bias.steps
                nodes[name].input[2] = bias.name
        graph.store(weight.codes, weight.values)
        for name, values in biases.items():
            graph.store(name, values)
    for node in made.graph.node:
        source = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is not None and source.op_type == "QuantizeLinear" and _are_alike(graph, source, node):
            _cut_instead(graph, source, node)
    replace_nodes(made, _read(made))
    drop_unread(made)
    made = onnx.shape_inference.infer_shapes(made)
    known = {one.name for one in (*made.graph.value_info, *made.graph.input, *made.graph.output)}
    for weight in weights.values():
        for name in weight.calls:
            source_name = nodes[name].input[0]
            if source_name not in known:  # behind an operator that only the runtime knows
                made.graph.value_info.append(helper.make_tensor_value_info(source_name, onnx.TensorProto.FLOAT, None))
                known.add(source_name)
    return Network(made)


def _are_alike(graph: Graph, quantizer: onnx.NodeProto, unfolder: onnx.NodeProto) -> bool:
    """Return whether a pair has one constant step and zero point."""
    pairs = list(zip(list(quantizer.input[1:]), list(unfolder.input[1:]), strict=False))
    if len(quantizer.input) != len(unfolder.input) or not all(graph.is_stored(name) for pair in pairs for name in pair):
        return False
    values = [(graph.array(one), graph.array(other)) for one, other in pairs]
    return all(one.size == 1 and np.array_equal(one.reshape(-1), other.reshape(-1)) for one, other in values)


def _cut_instead(graph: Graph, quantizer: onnx.NodeProto, unfolder: onnx.NodeProto) -> None:
    """Make a Clip of what rounds and unfolds, in place."""
    scale = graph.array(quantizer.input[1]).reshape(())
    zero = graph.array(quantizer.input[2]).reshape(()) if len(quantizer.input) > 2 else np.uint8(0)
    if zero.dtype not in _ENDS:
        return
    low, high = ((end - float(zero)) * float(scale) for end in _ENDS[zero.dtype])
    names = []
    for which, end in (("low", low), ("high", high)):
        names.append(f"{unfolder.output[0]} {which}")
        graph.store(names[-1], np.array(end, np.float32))
    unfolder.op_type = "Clip"
    source = quantizer.input[0]
    del unfolder.input[:], unfolder.attribute[:]
    unfolder.domain = ""
    unfolder.input.extend([source, *names])


def _read(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that outputs depend on; all, where graphs inside nodes may read any."""
    nodes = list(model.graph.node)
    if any(one.type in (one.GRAPH, one.GRAPHS) for node in nodes for one in node.attribute):
        return nodes
    used = {one.name for one in model.graph.output}
    found = []
    for node in reversed(nodes):
        if used.intersection(node.output):
            found.append(node)
            used.update(node.input)
    return found[::-1]
