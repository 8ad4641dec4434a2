"""Operators that compute in integers, written as what they compute: DequantizeLinear, a float operator, QuantizeLinear.

Only what is learnt is learnt from this; the file keeps its operators.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from compress.shrink.given.graph import Graph, replace_nodes
from compress.shrink.network import attribute

Nodes = list[onnx.NodeProto]


def lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose layers in integers are float ones between Q and DQ; what has no such form stays.

    Constants keep their names; a layer keeps the name of its node.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = Graph(made)
    nodes: Nodes = []
    dropped: set[str] = set()
    for node in made.graph.node:
        rule = _RULES.get(node.op_type)
        nodes += (rule(node, graph, dropped) if rule else None) or [node]
    replace_nodes(made, [node for node in nodes if node.name not in dropped])
    return made


def _convolution(node: onnx.NodeProto, graph: Graph, _: set[str]) -> Nodes | None:
    x, x_scale, x_zero, weight, scale, zero, y_scale, y_zero, *rest = node.input
    bias = rest[0] if rest else ""
    return _between(node, graph, "Conv", (x, x_scale, x_zero), (weight, scale, zero), bias, (y_scale, y_zero), axis=0)


def _product(node: onnx.NodeProto, graph: Graph, _: set[str]) -> Nodes | None:
    x, x_scale, x_zero, weight, scale, zero, y_scale, y_zero = node.input
    return _between(node, graph, "MatMul", (x, x_scale, x_zero), (weight, scale, zero), "", (y_scale, y_zero), axis=1)


def _gemm(node: onnx.NodeProto, graph: Graph, _: set[str]) -> Nodes | None:
    x, x_scale, x_zero, weight, scale, zero, *rest = node.input
    bias, y_scale, y_zero = [*rest, "", "", ""][:3]
    if attribute(node, "alpha", 1.0) != 1.0 or not y_scale:
        return None
    axis = 0 if attribute(node, "transB", 0) else 1
    return _between(
        node, graph, "Gemm", (x, x_scale, x_zero), (weight, scale, zero), bias, (y_scale, y_zero), axis=axis
    )


def _between(
    node: onnx.NodeProto,
    graph: Graph,
    op: str,
    given: tuple[str, str, str],
    weight: tuple[str, str, str],
    bias: str,
    made: tuple[str, str],
    *,
    axis: int,
) -> Nodes | None:
    """Return a float operator between Q and DQ; None if its weight, or the steps of its bias, are no constants."""
    if not all(graph.is_stored(name) for name in (*weight[:2], *([given[1], bias] if bias else []))):
        return None
    base = node.name
    nodes = [
        helper.make_node("DequantizeLinear", _named(given), [f"{base} x"], name=f"{base} x"),
        helper.make_node("DequantizeLinear", _named(weight), [f"{base} w"], name=f"{base} w", axis=axis),
    ]
    inputs = [f"{base} x", f"{base} w"]
    if bias:
        steps = graph.array(given[1]).astype(np.float32).reshape(()) * graph.array(weight[1]).astype(np.float32)
        graph.store(f"{base} b steps", steps)
        name = f"{base} b"
        nodes.append(helper.make_node("DequantizeLinear", [bias, f"{base} b steps"], [name], name=name, axis=0))
        inputs.append(name)
    float_one = helper.make_node(op, inputs, [f"{base} y"], name=base)
    float_one.attribute.extend(one for one in node.attribute if one.name != "alpha")
    quantizer = helper.make_node("QuantizeLinear", _named((f"{base} y", *made)), list(node.output), name=f"{base} q")
    return [*nodes, float_one, quantizer]


def _named(names: tuple[str, ...]) -> list[str]:
    """Return names without empty ones at the end."""
    return [name for name in names if name]


def _dynamic(node: onnx.NodeProto, graph: Graph, dropped: set[str]) -> Nodes | None:
    """Return the float operator for one whose input is quantized as it comes; None if its steps are not found.

    ONNX Runtime's form: MatMulInteger or ConvInteger, a Cast, and a Mul by the product of both steps.
    """
    quantizer, weight = graph.makers.get(node.input[0]), node.input[1]
    cast = graph.only_reader(node.output[0])
    scaled = graph.only_reader(cast.output[0]) if cast is not None and cast.op_type == "Cast" else None
    if quantizer is None or quantizer.op_type != "DynamicQuantizeLinear" or scaled is None or scaled.op_type != "Mul":
        return None
    assert cast is not None
    steps = graph.makers.get(next((name for name in scaled.input if name != cast.output[0]), ""))
    if steps is None or steps.op_type != "Mul" or quantizer.output[1] not in steps.input:
        return None
    scale = next((name for name in steps.input if name != quantizer.output[1]), "")
    if not graph.is_stored(scale) or not graph.is_stored(weight) or graph.only_reader(scale) is None:
        return None
    dropped |= {cast.name, scaled.name}
    zero = node.input[3] if len(node.input) > 3 else ""
    is_convolution = node.op_type == "ConvInteger"
    name = f"{node.name} w"
    codes = helper.make_node(
        "DequantizeLinear", _named((weight, scale, zero)), [name], name=name, axis=0 if is_convolution else 1
    )
    inputs = [quantizer.input[0], name]
    made = helper.make_node("Conv" if is_convolution else "MatMul", inputs, list(scaled.output), name=node.name)
    made.attribute.extend(node.attribute)
    return [codes, made]


_RULES: dict[str, Callable[[onnx.NodeProto, Graph, set[str]], Nodes | None]] = {
    "QLinearConv": _convolution,
    "QLinearMatMul": _product,
    "QGemm": _gemm,
    "MatMulInteger": _dynamic,
    "ConvInteger": _dynamic,
}
