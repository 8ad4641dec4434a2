"""Who makes and who reads what in an ONNX graph, and what its convolutions are made of."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto

CONVOLUTIONS = ("Conv", "DeformConv", "ConvTranspose")


class GraphView:
    """Who makes and who reads each value of a graph."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.tensors: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.maker: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in () if asks_for_the_batch(node) else node.input:
                self.readers.setdefault(name, []).append(node)
        self.uses = Counter({name: len(readers) for name, readers in self.readers.items()})
        self.uses.update(value.name for value in graph.output)

    def weight_of(self, node: NodeProto) -> str:
        """Return the name of the stored integers of a convolution's weight."""
        weight: str = self.maker[node.input[1]].input[0]
        return weight

    def shape(self, node: NodeProto) -> tuple[int, ...]:
        """Return the shape of a convolution's weight."""
        return tuple(self.tensors[self.weight_of(node)].dims)

    def is_own_integer_convolution(self, node: NodeProto | None) -> bool:
        """Return whether a node is a convolution with stored integer weights that no other node reads."""
        if node is None or node.op_type != "Conv" or self.uses[node.input[1]] != 1:
            return False
        source = self.maker.get(node.input[1])
        if source is None or source.op_type != "DequantizeLinear" or self.uses[source.input[0]] != 1:
            return False
        return source.input[0] in self.tensors

    def array(self, name: str) -> np.ndarray:
        """Return a stored tensor."""
        return onnx.numpy_helper.to_array(self.tensors[name])

    def store(self, name: str, values: np.ndarray) -> None:
        """Replace a stored tensor, or add one."""
        if name not in self.tensors:
            self.tensors[name] = self.graph.initializer.add()
        self.tensors[name].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))

    def pad(self, name: str, count: int, *, axis: int = 0) -> None:
        """Lengthen a stored tensor by zeros."""
        values = self.array(name)
        widths = [(0, count if i == axis else 0) for i in range(values.ndim)]
        self.store(name, np.pad(values, widths))


def asks_for_the_batch(node: NodeProto) -> bool:
    """Return whether a node reads the size of the first axis alone, which no rewrite changes."""
    limits = {a.name: a.i for a in node.attribute}
    return node.op_type == "Shape" and limits.get("start", 0) == 0 and limits.get("end") == 1


def groups_of(node: NodeProto) -> int:
    """Return the number of groups of a convolution."""
    return next((a.i for a in node.attribute if a.name == "group"), 1)
