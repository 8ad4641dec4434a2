"""A stranger's network as it is worked on: batch norms and constants folded, every node named, shapes known."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from compress.errors import CodecError
from compress.progress import warn

LEAST_OPSET = 13  # of per-channel scales
QUANTIZED_OPS = frozenset({
    "QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger",
    "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QAttention",
    "DynamicQuantizeLSTM",
})  # fmt: skip


@dataclass(frozen=True)
class Linear:
    """A weight, and the nodes that multiply by it.

    Attributes:
        weight: name of its initializer.
        op: 'Conv', 'Gemm' or 'MatMul'.
        nodes: names of the nodes, in order.
        groups: of a convolution, else 1.
    """

    weight: str
    op: str
    nodes: tuple[str, ...]
    groups: int


@dataclass(frozen=True)
class Network:
    """A network: float, unless it is said to be quantized.

    Attributes:
        model: with float32 weights inside; standard operators.
        called: in reports.
    """

    model: onnx.ModelProto
    called: str = "the float network"

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """Return name -> constant."""
        return {one.name: numpy_helper.to_array(one) for one in self.model.graph.initializer}

    @cached_property
    def nodes(self) -> dict[str, onnx.NodeProto]:
        """Return name -> node, in order."""
        return {node.name: node for node in self.model.graph.node}

    @cached_property
    def makers(self) -> dict[str, str]:
        """Return tensor -> name of the node that makes it."""
        return {output: node.name for node in self.model.graph.node for output in node.output if output}

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """Return tensor -> names of the nodes that read it."""
        found: dict[str, list[str]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in filter(None, node.input):
                found[name].append(node.name)
        return found

    @property
    def outputs(self) -> list[str]:
        """Return the names of the outputs."""
        return [one.name for one in self.model.graph.output]

    @property
    def inputs(self) -> dict[str, list[int | None]]:
        """Return name of each input -> shape, None where it is free."""
        constant = {one.name for one in self.model.graph.initializer}
        return {
            one.name: [d.dim_value if d.dim_value > 0 else None for d in one.type.tensor_type.shape.dim]
            for one in self.model.graph.input
            if one.name not in constant
        }

    @cached_property
    def linears(self) -> dict[str, Linear]:
        """Return name of a weight -> what multiplies by it; weights with other readers are left out."""
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in node.input:
                readers[name].append(node)
        found = {}
        for name, value in self.tensors.items():
            nodes = readers.get(name, [])
            if value.dtype != np.float32 or value.ndim < 2 or not nodes:
                continue
            ops = {node.op_type for node in nodes}
            is_weight = all(len(node.input) > 1 and node.input[1] == name for node in nodes)
            if len(ops) == 1 and is_weight and (op := ops.pop()) in ("Conv", "Gemm", "MatMul"):
                if op == "MatMul" and value.ndim != 2:
                    continue
                groups = {attribute(node, "group", 1) for node in nodes}
                if len(groups) == 1 and len({attribute(node, "transB", 0) for node in nodes}) == 1:
                    found[name] = Linear(name, op, tuple(node.name for node in nodes), groups.pop())
        return found

    def matrix(self, linear: Linear) -> np.ndarray:
        """Return a weight as (out, columns)."""
        value = self.tensors[linear.weight]
        if linear.op == "Conv":
            return value.reshape(len(value), -1)
        is_transposed = linear.op == "Gemm" and attribute(self.nodes[linear.nodes[0]], "transB", 0)
        return value if is_transposed else value.T

    def unmatrix(self, linear: Linear, matrix: np.ndarray) -> np.ndarray:
        """Return (out, columns) in the shape of the weight."""
        shape = self.tensors[linear.weight].shape
        if linear.op == "Conv":
            return matrix.reshape(shape)
        is_transposed = linear.op == "Gemm" and attribute(self.nodes[linear.nodes[0]], "transB", 0)
        return matrix if is_transposed else np.ascontiguousarray(matrix.T)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or the default."""
    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def open_network(path: Path) -> Network:
    """Read the ONNX file of a float network; see `float_network`.

    Raises:
        CodecError: it is no ONNX file, one that ONNX Runtime does not load, or its weights are integers already.
    """
    model = read_model(path)
    _refuse_integers(model, path)
    return float_network(model, path)


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, with weights that lie in other files; constants are no inputs.

    Raises:
        CodecError: it is none, or a file of its weights is missing.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # of protobuf and onnx: their classes have no common base
        raise CodecError(f"{path}: no ONNX file, or the files of its weights are missing: {_line(error)}") from error
    _close(model.graph)
    return model


def float_network(model: onnx.ModelProto, path: Path) -> Network:
    """Return a network with what is constant folded, and what has no name named; float16 becomes float32.

    Args:
        model: changed in place.
        path: of its file, for messages.

    Raises:
        CodecError: ONNX Runtime does not load it, or it has no weights.
    """
    widen(model, path)
    model = _folded(model, path)
    used = {node.domain for node in model.graph.node} | {""}
    kept = [one for one in model.opset_import if one.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    if next(one.version for one in model.opset_import if one.domain == "") < LEAST_OPSET:
        model = onnx.version_converter.convert_version(model, LEAST_OPSET)
    name_nodes(model)
    network = Network(onnx.shape_inference.infer_shapes(model))
    if not network.linears:
        raise CodecError(f"{path}: no convolution or matrix product with weights of its own: nothing to make small.")
    _refuse_no_numbers(network, path)
    return network


def widen(model: onnx.ModelProto, path: Path) -> None:
    """Make float16 float32, in place, and say so."""
    if to_float32(model.graph):
        warn(
            f"{path.name}: float16 becomes float32, its inputs and outputs too: CPUs compute in float32 in either case."
        )


def _close(graph: onnx.GraphProto) -> None:
    """Let constants be constants, in place: files of old exporters list all of them as inputs that may be fed."""
    constants = {one.name for one in graph.initializer}
    kept = [one for one in graph.input if one.name not in constants]
    del graph.input[:]
    graph.input.extend(kept)


def _refuse_no_numbers(network: Network, path: Path) -> None:
    """Refuse weights that are no finite numbers: there is no integer near them.

    Raises:
        CodecError: there are some.
    """
    wrong = [name for name in network.linears if not np.isfinite(network.tensors[name]).all()]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise CodecError(
            f"{path}: the weight {wrong[0]!r}{more} holds NaN or infinity, so no integers are near it. Train again, or "
            "make the file small as it is, without loss: krimp pack."
        )


def _folded(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return a model as ONNX Runtime folds it: batch norms, constants, what nothing reads."""
    with tempfile.TemporaryDirectory(prefix="krimp-shrink-") as folder:
        source, folded = Path(folder) / "source.onnx", Path(folder) / "folded.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath, options.log_severity_level = str(folded), 3
        try:
            content = model.SerializeToString()
        except ValueError as error:  # of protobuf: more than 2 GB
            raise CodecError(f"{path}: too large to be worked on: {_line(error)}") from error
        source.write_bytes(content)
        try:
            ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of ONNX Runtime: its classes have no common base
            raise CodecError(f"{path}: ONNX Runtime does not load it: {_line(error)}") from error
        return onnx.load(folded)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def quantized_ops(model: onnx.ModelProto) -> list[str]:
    """Return the operators that say that a network is quantized, sorted; none of a float one."""
    return sorted({node.op_type for node in model.graph.node} & QUANTIZED_OPS)


def _refuse_integers(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a model whose weights are integers already.

    Raises:
        CodecError: they are.
    """
    if found := quantized_ops(model):
        raise CodecError(f"{path}: quantized already ({', '.join(found)}); expected a float network.")


def to_float32(graph: onnx.GraphProto) -> bool:
    """Make all that is float16 float32, in place; return whether there was anything."""
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    changed = False
    for tensor in graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
            changed = True
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single
            changed = True
    for node in graph.node:
        for one in node.attribute:
            if one.type == one.TENSOR and one.t.data_type == half:
                one.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one.t).astype(np.float32), one.t.name))
            elif node.op_type == "Cast" and one.name == "to" and one.i == half:
                one.i = single
            elif one.type == one.GRAPH:
                changed |= to_float32(one.g)
    return changed


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, in place."""
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}_{number}"
        while name in seen:
            name = f"{name}_{number}"
        node.name = name
        seen.add(name)
