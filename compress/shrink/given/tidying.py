"""A quantized file as it is worked on: constants stored as such, and each weight with steps of its own.

It computes what it did, to the last bit.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from compress.shrink.given.graph import CODES, Graph, drop_unread, replace_nodes
from compress.shrink.network import attribute

_READS_STEPS = {
    "DequantizeLinear": (0, 1, 2), "QLinearConv": (3, 4, 5), "QLinearMatMul": (3, 4, 5), "QGemm": (3, 4, 5)
}  # fmt: skip
"""Operator -> where its weight, the steps and the zero point of this are."""


def tidy_integers(model: onnx.ModelProto) -> None:
    """Store constants as such, fold the quantizers of stored weights, and give each weight steps of its own."""
    _store_constants(model)
    _fold_weight_quantizers(model)
    _own_steps(model)
    drop_unread(model)


def _store_constants(model: onnx.ModelProto) -> None:
    kept = []
    for node in model.graph.node:
        value = next((one.t for one in node.attribute if one.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(value), node.output[0]))
        else:
            kept.append(node)
    replace_nodes(model, kept)


def _fold_weight_quantizers(model: onnx.ModelProto) -> None:
    """Round weights that files of quantization-aware training hold as floats before a quantizer."""
    graph = Graph(model)
    kept = []
    for node in model.graph.node:
        names = list(node.input)
        is_weight = node.op_type == "QuantizeLinear" and all(graph.is_stored(name) for name in names)
        zero = graph.array(names[2]) if is_weight and len(names) > 2 else None
        if zero is None or zero.dtype not in (np.int8, np.uint8) or attribute(node, "block_size", 0):
            kept.append(node)
            continue
        value, scale = graph.array(names[0]), graph.array(names[1])
        axis = attribute(node, "axis", 1)
        ends = np.iinfo(zero.dtype)
        codes = np.rint(value / _along(scale, axis, value.ndim)) + _along(zero, axis, value.ndim)
        graph.store(node.output[0], np.clip(codes, ends.min, ends.max).astype(zero.dtype))
    replace_nodes(model, kept)


def _along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """Return numbers of an axis so that they are multiplied along it."""
    if values.size == 1:
        return values.reshape(())
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def _own_steps(model: onnx.ModelProto) -> None:
    """Give the steps and zero points that several weights, or a weight and a value, share names of their own."""
    graph = Graph(model)
    taken: dict[str, str] = {}
    for node in model.graph.node:
        places = _READS_STEPS.get(node.op_type)
        if places is None or len(node.input) <= places[1] or not graph.is_stored(node.input[places[0]]):
            continue
        codes = node.input[places[0]]
        if graph.kind(codes) not in (*CODES, onnx.TensorProto.INT32):
            continue
        for place in places[1:]:
            name = node.input[place] if len(node.input) > place else ""
            if not name or not graph.is_stored(name):
                continue
            key = f"{codes}\n{name}"
            if key not in taken:
                taken[key] = f"{codes}.{'steps' if place == places[1] else 'zero'}{len(taken)}"
                graph.store(taken[key], graph.array(name))
            node.input[place] = taken[key]
