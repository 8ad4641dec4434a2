"""Which convolutions ONNX Runtime computes in integers, read from the graph that it really runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto

from compress.onnx_graph.graph_view import CONVOLUTIONS
from compress.onnx_graph.short_names import restore_names


@dataclass(frozen=True)
class Unfused:
    """One convolution that runs in float.

    Attributes:
        name: node in the exported graph.
        layer: module name in the torch model.
        reason: why.
    """

    name: str
    layer: str
    reason: str


def optimized_graph(model: Path | ModelProto) -> ModelProto:
    """Return the graph that ONNX Runtime runs on the CPU with all its optimizations.

    Layout transformations (level ALL) rename float convolutions on some CPUs; level EXTENDED holds
    every fusion and keeps names, so that one is read.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        return onnx.load(str(target))


def unfused_convolutions(
    path: Path, reasons: Mapping[str, str] | None = None, names: Mapping[str, str] | None = None
) -> list[Unfused]:
    """List the convolutions of an exported file that ONNX Runtime does not fuse to QLinearConv.

    Args:
        path: ONNX file.
        reasons: module name -> reason of layers that are float on purpose.
        names: short -> full name, of a file with short names.

    Returns:
        One entry a node, in the order of the graph; empty if all run in integers.
    """
    reasons = reasons or {}
    original = onnx.load(str(path))
    if names:  # the runtime tells what it fused by the names of nodes
        restore_names(original.graph, names)
    optimized = optimized_graph(original)
    floating = {node.name for node in optimized.graph.node if node.op_type in (*CONVOLUTIONS, "FusedConv")}
    floating |= {o for n in optimized.graph.node if n.op_type in (*CONVOLUTIONS, "FusedConv") for o in n.output}
    producers = {output: node for node in original.graph.node for output in node.output}
    found = []
    for node in original.graph.node:
        if node.op_type not in CONVOLUTIONS or not floating.intersection([node.name, *node.output]):
            continue
        layer = layer_of(node.name)
        found.append(Unfused(node.name, layer, reasons.get(layer) or _guess(original, node, producers)))
    return found


def layer_of(node_name: str) -> str:
    """Return the module name inside the name that `tidy` gives to a convolution.

    >>> layer_of("head.cls_convs.0.conv/Conv_1")
    'head.cls_convs.0.conv'
    """
    return node_name.rpartition("/")[0]


def _guess(model: ModelProto, node: NodeProto, producers: Mapping[str, NodeProto]) -> str:
    """Say what keeps a convolution from the pattern that the runtime fuses."""
    if node.op_type != "Conv":
        return f"ONNX Runtime has no integer {node.op_type}"
    source, weight = (producers.get(name) for name in node.input[:2])
    readers = [reader for reader in model.graph.node if node.output[0] in reader.input]
    if weight is None or weight.op_type != "DequantizeLinear":
        return "its weight is float"
    if source is None or source.op_type != "DequantizeLinear":
        return "its input is not quantized"
    if node.output[0] in {value.name for value in model.graph.output}:
        return "its output is an output of the graph and is not quantized"
    if len(readers) != 1:
        return f"its output has {len(readers)} readers; the runtime fuses one QuantizeLinear"
    if readers[0].op_type != "QuantizeLinear":
        return f"its output goes to {readers[0].op_type} before it is quantized"
    return "ONNX Runtime did not fuse it although the pattern is complete"
