"""Biases: as coarse as their price allows, and in integers of the very scale that the runtime adds them at."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compress.rate_rounding.layer import Rounded
from compress.shrink.importance import biases_of
from compress.shrink.network import Network

_LARGEST = 2**31 - 1


def bias_unit(importance: np.ndarray, rounded: Rounded) -> float:
    """Return how coarse the biases of a layer may be; 0 if nothing is known of them.

    Args:
        importance: (out,) what an error of one in an output channel costs.
        rounded: its weights, and the price that they were rounded at.

    Source:
        High-rate theory, as for the steps of weights: an error of unit^2 / 12, a bit for halving it.
    """
    bends = float(np.mean(importance))
    return float(np.sqrt(6 * rounded.price / np.log(2) / bends)) if bends > 0 else 0.0


def bias_grain(values: np.ndarray, unit: float) -> np.ndarray:
    """Return biases as multiples of a power of two that is at most a unit, float32; as they are without one."""
    if unit <= 0:
        return values.astype(np.float32)
    grain = np.float32(2.0 ** np.floor(np.log2(unit)))
    rounded: np.ndarray = (np.rint(values / grain) * grain).astype(np.float32)
    return rounded


def integer_bias(values: np.ndarray, scale: np.ndarray, unit: float) -> np.ndarray:
    """Return biases in steps, (out,) int32, multiples of a power of two that is at most a unit; 0 knows none.

    Args:
        values: (out,) float.
        scale: (out,) of a step.
        unit: of `bias_unit`.
    """
    codes = np.rint(values.astype(np.float64) / scale)
    if unit > 0:
        grain = 2.0 ** max(np.floor(np.log2(unit / float(scale.max()))), 0.0)
        codes = np.rint(codes / grain) * grain
    made: np.ndarray = np.clip(codes, -_LARGEST, _LARGEST).astype(np.int32)
    return made


def coarse_biases(
    moved: Network, network: Network, rounded: Mapping[str, Rounded], importance: Mapping[str, np.ndarray]
) -> Network:
    """Return a network whose biases are multiples of a power of two that their price allows."""
    values: dict[str, np.ndarray] = {}
    for weight, one in rounded.items():
        unit = bias_unit(importance[weight], one)
        for name in biases_of(network, weight):
            values[name] = bias_grain(moved.tensors[name], unit)
    model = onnx.ModelProto()
    model.CopyFrom(moved.model)
    for number, stored in enumerate(model.graph.initializer):
        if stored.name in values:
            model.graph.initializer[number].CopyFrom(numpy_helper.from_array(values[stored.name], stored.name))
    return Network(model)


def set_integer_biases(
    made: onnx.ModelProto, moved: Network, rounded: Mapping[str, Rounded], importance: Mapping[str, np.ndarray]
) -> None:
    """Give each node that multiplies integers a bias of its own, at the scale of its input times that of its weight.

    ONNX Runtime leaves a node in float whose bias has another scale, and its quantizer makes biases for its own steps.
    Heads over the levels of a pyramid share theirs, and their inputs differ.

    Args:
        made: with Q/DQ, and with the integers and steps of `rounded`; changed in place.
        moved: the float network that it was made of.
        rounded: weight -> its integers and steps.
        importance: weight -> (out,) what an error of one in each output channel costs.
    """
    graph = made.graph
    stored = {one.name: one for one in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    weights = {node: one.weight for one in moved.linears.values() for node in one.nodes}
    added: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        weight = weights.get(node.name)
        if weight is None or weight not in rounded or len(node.input) < 3 or not node.input[2]:
            continue
        source, kernel = makers.get(node.input[0]), makers.get(node.input[1])
        bias = moved.tensors.get(moved.nodes[node.name].input[2])
        are_integers = all(one is not None and one.op_type == "DequantizeLinear" for one in (source, kernel))
        if bias is None or not are_integers or source is None or source.input[1] not in stored:
            continue
        scale = numpy_helper.to_array(stored[source.input[1]]).astype(np.float32) * rounded[weight].steps
        codes = integer_bias(bias.reshape(-1), scale, bias_unit(importance[weight], rounded[weight]))
        name = f"{node.name}_bias"
        graph.initializer.extend(
            [numpy_helper.from_array(codes, f"{name}_quantized"), numpy_helper.from_array(scale, f"{name}_scale")]
        )
        inputs = [f"{name}_quantized", f"{name}_scale"]
        added[node.name] = helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_DequantizeLinear", axis=0)
        node.input[2] = name
    ordered = [one for node in graph.node for one in ([added[node.name]] if node.name in added else []) + [node]]
    _replace_nodes(made, ordered)


def _replace_nodes(made: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Give a graph these nodes, without those, and without constants, that nothing reads, in place."""
    makers = {output: node for node in nodes for output in node.output if output}
    asked = [one.name for one in made.graph.output]
    read: set[str] = set()
    while asked:
        name = asked.pop()
        if name in read:
            continue
        read.add(name)
        if (node := makers.get(name)) is not None:
            asked += [*node.input, *(one for part in node.attribute for one in _read_inside(part))]
    kept = [node for node in nodes if any(name in read for name in node.output)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    stored = [one for one in made.graph.initializer if one.name in read]
    constants = [onnx.TensorProto.FromString(one.SerializeToString()) for one in stored]
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(copies)
    made.graph.initializer.extend(constants)


def _read_inside(attribute: onnx.AttributeProto) -> list[str]:
    """Return what a branch or a loop reads, of itself or of the graph around it."""
    graphs = [attribute.g] if attribute.type == attribute.GRAPH else list(attribute.graphs)
    nodes = [node for graph in graphs for node in graph.node]
    outer = [name for node in nodes for name in node.input]
    outer += [one.name for graph in graphs for one in graph.output]
    return outer + [name for node in nodes for one in node.attribute for name in _read_inside(one)]
