"""Islands of float16 in an integer network: what stays float costs half as much where machines compute in it.

ONNX Runtime's CPU has no such convolutions: it runs them in float32 and leaves both casts out, so what float16 rounds
away is not heard there.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import helper

from compress.shrink.network import Network
from compress.shrink.quantized import OPS

_MORE = frozenset({
    "Abs", "BatchNormalization", "ConvTranspose", "Div", "Elu", "Erf", "Exp", "Identity", "InstanceNormalization",
    "Log", "Max", "Min", "Neg", "PRelu", "Pow", "ReduceMax", "ReduceMean", "ReduceSum", "Selu", "Softplus", "Sqrt",
    "Sub", "Tanh",
})  # fmt: skip
HALF_OPS = frozenset(OPS) | _MORE
_READ_AS_THEY_ARE = {"Resize": (1, 2)}  # inputs that are float32 whatever the first one is
_TO_HALF = " half"


def with_half_islands(made: onnx.ModelProto, network: Network, floating: Iterable[str]) -> onnx.ModelProto:
    """Return a model whose float nodes compute in float16, with a Cast where values enter and leave them.

    Weights are stored as they were, products of integers and steps, and become float16 when the file is loaded: rounded
    to float16 in the file they would not be found again as integers.

    Args:
        made: with Q/DQ.
        network: the float network that it was made of: names of nodes, kinds of tensors.
        floating: nodes that were kept out of the integers; those of operators that never become integers are found.
    """
    model = onnx.ModelProto()
    model.CopyFrom(made)
    floats = _float_tensors(network)
    kept = set(floating)
    islands = {
        node.name
        for node in model.graph.node
        if node.op_type in HALF_OPS and (node.name in kept or (node.op_type in _MORE and node.name in network.nodes))
    }
    inner = {out for node in model.graph.node if node.name in islands for out in node.output if out in floats}
    outputs = {one.name for one in model.graph.output}
    outside = outputs | {name for node in model.graph.node if node.name not in islands for name in node.input}
    nodes: list[onnx.NodeProto] = []
    cast: set[str] = set()
    for node in model.graph.node:
        if node.name not in islands:
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            is_plain = place in _READ_AS_THEY_ARE.get(node.op_type, ())
            if not name or is_plain or not (name in floats or _is_dequantized(name)):
                continue
            if name not in inner and name not in cast:
                cast.add(name)
                nodes.append(_cast(name, name + _TO_HALF, onnx.TensorProto.FLOAT16))
            node.input[place] = name + _TO_HALF
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in inner:
                node.output[place] = name + _TO_HALF
                if name in outside:
                    nodes.append(_cast(name + _TO_HALF, name, onnx.TensorProto.FLOAT))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(copies)
    return model


def _float_tensors(network: Network) -> set[str]:
    """Return the names of float32 tensors: constants, inputs, and what lies between nodes."""
    graph = network.model.graph
    single = onnx.TensorProto.FLOAT
    values = (*graph.value_info, *graph.input, *graph.output)
    found = {one.name for one in values if one.type.tensor_type.elem_type == single}
    return found | {one.name for one in graph.initializer if one.data_type == single}


def _is_dequantized(name: str) -> bool:
    """Return whether ONNX Runtime's quantizer calls an unfolded tensor so."""
    return "_DequantizeLinear_Output" in name


def _cast(source: str, made: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [made], name=f"{made} Cast", to=kind)
