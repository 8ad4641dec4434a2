"""Which stored integers of a quantized network are weights that can be rounded anew, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from compress.shrink.given.graph import CODES, Graph
from compress.shrink.network import attribute

LEAST = 64  # numbers of a constant that is worth a word if it is left as it is


@dataclass(frozen=True)
class Bias:
    """What the nodes of a weight add.

    Attributes:
        name: of the constant.
        steps: of its integers, (out,) or scalar; None if it is stored in float.
        stored_steps: name of the constant that holds them; '' if they are computed, or implied by the operator.
        input_scale: of what the weight multiplies; None if it is unknown.
    """

    name: str
    steps: np.ndarray | None
    stored_steps: str
    input_scale: np.float32 | None


@dataclass(frozen=True)
class IntegerWeight:
    """A weight in integers.

    Attributes:
        codes: name of the integers.
        scale, zero_point: names; no zero point is ''.
        axis: of the output channels.
        steps: (out,) float32.
        values: what it stands for, in its shape, float32.
        calls: names of the nodes that multiply by it.
        biases: node -> what it adds; nodes that add nothing are left out.
    """

    codes: str
    scale: str
    zero_point: str
    axis: int
    steps: np.ndarray
    values: np.ndarray
    calls: tuple[str, ...]
    biases: Mapping[str, Bias]


class LeftError(Exception):
    """A weight stays as it is; says why."""


def integer_weights(model: onnx.ModelProto) -> tuple[dict[str, IntegerWeight], dict[str, str]]:
    """Return name -> weight that can be rounded anew, and name -> why another one stays as it is.

    Args:
        model: of `lifted`.
    """
    graph = Graph(model)
    found: dict[str, IntegerWeight] = {}
    left: dict[str, str] = {}
    for one in model.graph.initializer:
        if one.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
            left[one.name] = f"integers of 4 bits ({_ops(graph, one.name)})"
        is_small = len(one.dims) < 2 or int(np.prod(one.dims)) < LEAST
        if one.data_type not in CODES or is_small or not graph.readers.get(one.name):
            continue
        try:
            found[one.name] = _weight(graph, one.name)
        except LeftError as error:
            left[one.name] = str(error)
    owners: dict[str, str] = {}
    for weight in list(found.values()):
        for bias in weight.biases.values():
            if owners.setdefault(bias.name, weight.codes) != weight.codes:
                left[weight.codes] = f"its bias {bias.name} belongs to another weight, too"
                found.pop(weight.codes, None)
    return found, left


def _ops(graph: Graph, name: str) -> str:
    return ", ".join(sorted({node.op_type for node in graph.readers.get(name, [])})) or "unread"


def _weight(graph: Graph, codes: str) -> IntegerWeight:
    """Return a weight.

    Raises:
        LeftError: it has a form that is not followed.
    """
    unfolder, calls = _readers(graph, codes)
    scale, zero = [*unfolder.input[1:], ""][:2]
    array, steps = graph.array(codes), graph.array(scale)
    op = calls[0].op_type
    if op != "Conv" and array.ndim != 2:
        raise LeftError(f"{op} by {array.ndim} axes")
    axis = 0 if op == "Conv" or attribute(calls[0], "transB", 0) else 1
    if steps.dtype != np.float32:
        raise LeftError(f"steps of {steps.dtype}")
    told = attribute(unfolder, "axis", 1) % array.ndim
    if steps.size > 1 and (told != axis or steps.size != array.shape[axis]):
        raise LeftError("its steps do not go by output channels")
    shape = [1] * array.ndim
    shape[axis] = -1
    numbers = array.astype(np.float32)
    if zero:
        offset = graph.array(zero).astype(np.float32)
        numbers = numbers - (offset.reshape(shape) if offset.size > 1 else offset.reshape(()))
    by_row = np.broadcast_to(steps.reshape(-1), array.shape[axis]).astype(np.float32)
    values = numbers * by_row.reshape(shape)
    names = tuple(call.name for call in calls)
    return IntegerWeight(codes, scale, zero, axis, by_row, values, names, _biases(graph, calls))


def _readers(graph: Graph, codes: str) -> tuple[onnx.NodeProto, list[onnx.NodeProto]]:
    """Return what unfolds the integers (one of some that are alike), and what multiplies by them.

    Raises:
        LeftError: they are used for anything else.
    """
    unfolders = graph.readers[codes]
    if any(node.op_type != "DequantizeLinear" or node.input[0] != codes for node in unfolders):
        raise LeftError(f"read by {_ops(graph, codes)}")
    if len({tuple(node.input) for node in unfolders}) != 1:
        raise LeftError("read with several steps")
    if any(attribute(node, "block_size", 0) for node in unfolders):
        raise LeftError("steps of blocks (block_size)")
    if not all(graph.is_stored(name) for name in unfolders[0].input if name):
        raise LeftError("its steps are computed")
    outputs = {one.name for one in graph.model.graph.output}
    names = [node.output[0] for node in unfolders]
    calls = [(reader, name) for name in names for reader in graph.readers.get(name, [])]
    ops = {call.op_type for call, _ in calls}
    if len(ops) != 1 or not ops <= {"Conv", "Gemm", "MatMul"} or outputs.intersection(names):
        raise LeftError(f"multiplied by {', '.join(sorted(ops)) or 'nothing'}")
    if any(list(call.input).index(name) != 1 for call, name in calls):
        raise LeftError(f"the left side of a {ops.pop()}")
    if len({(attribute(call, "group", 1), attribute(call, "transB", 0)) for call, _ in calls}) != 1:
        raise LeftError("nodes of several kinds share it")
    return unfolders[0], [call for call, _ in calls]


def _biases(graph: Graph, calls: list[onnx.NodeProto]) -> dict[str, Bias]:
    """Return node -> what it adds.

    Raises:
        LeftError: a bias has a form that is not followed.
    """
    found = {call.name: bias for call in calls if (bias := _bias(graph, call)) is not None}
    by_name: dict[str, Bias] = {}
    for one in found.values():
        other = by_name.setdefault(one.name, one)
        if (one.steps is None) != (other.steps is None) or not _alike(one.steps, other.steps):
            raise LeftError(f"its bias {one.name} is read with several steps")
    return found


def _alike(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is None or other is None or np.array_equal(one, other)


def _bias(graph: Graph, call: onnx.NodeProto) -> Bias | None:
    """Return what a node adds; None if that is nothing, or computed.

    Raises:
        LeftError: it has a form that is not followed.
    """
    if len(call.input) < 3 or not call.input[2]:
        return None
    name = call.input[2]
    if graph.is_stored(name):
        if any(name not in node.input[2:3] for node in graph.readers[name]):
            raise LeftError(f"its bias {name} is read by others, too")
        return Bias(name, None, "", None)
    unfolder = graph.makers.get(name)
    if unfolder is None or unfolder.op_type != "DequantizeLinear" or not graph.is_stored(unfolder.input[0]):
        raise LeftError("its bias is computed")
    if len(unfolder.input) > 2 and unfolder.input[2] and graph.array(unfolder.input[2]).any():
        raise LeftError("its bias has a zero point")
    steps, stored = unfolder.input[1], unfolder.input[1]
    if graph.is_stored(steps):
        values = graph.array(steps)
    else:
        product = graph.makers.get(steps)
        if product is None or product.op_type != "Mul" or not all(graph.is_stored(one) for one in product.input):
            raise LeftError("the steps of its bias are computed")
        values, stored = graph.array(product.input[0]) * graph.array(product.input[1]), ""
    source = graph.makers.get(call.input[0])
    scale = None
    if source is not None and source.op_type == "DequantizeLinear" and graph.is_stored(source.input[1]):
        found = graph.array(source.input[1])
        scale = np.float32(found.reshape(())) if found.size == 1 else None
    return Bias(unfolder.input[0], values.astype(np.float32), stored, scale)
