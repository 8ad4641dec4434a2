"""The graph of a quantized network, as it is read and written by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import onnx
from onnx import numpy_helper

CODES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


class Graph:
    """Finds constants, makers and readers by name; what is changed here is changed in the model.

    Names are looked up once: ask for a new one after nodes were changed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Take a model."""
        self.model = model
        self.places = {one.name: number for number, one in enumerate(model.graph.initializer)}

    @cached_property
    def makers(self) -> dict[str, onnx.NodeProto]:
        """Return tensor -> the node that makes it."""
        return {output: node for node in self.model.graph.node for output in node.output if output}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """Return tensor -> the nodes that read it, each once."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in dict.fromkeys(filter(None, node.input)):
                found[name].append(node)
        return found

    def is_stored(self, name: str) -> bool:
        """Return whether a tensor is a constant of the file."""
        return name in self.places

    def array(self, name: str) -> np.ndarray:
        """Return a constant."""
        found: np.ndarray = numpy_helper.to_array(self.model.graph.initializer[self.places[name]])
        return found

    def kind(self, name: str) -> int:
        """Return the element type of a constant."""
        return int(self.model.graph.initializer[self.places[name]].data_type)

    def store(self, name: str, values: np.ndarray) -> None:
        """Make or replace a constant."""
        made = numpy_helper.from_array(np.ascontiguousarray(values).reshape(np.shape(values)), name)
        if name in self.places:
            self.model.graph.initializer[self.places[name]].CopyFrom(made)
        else:
            self.places[name] = len(self.model.graph.initializer)
            self.model.graph.initializer.append(made)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """Return the one node that reads a tensor; None if there are others, or it is an output of the network."""
        readers = self.readers.get(name, [])
        is_output = any(one.name == name for one in self.model.graph.output)
        return readers[0] if len(readers) == 1 and not is_output else None


def replace_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give a model these nodes, in place."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def drop_unread(model: onnx.ModelProto) -> None:
    """Remove constants that nothing reads, in place; graphs inside nodes may read any, then all stay."""
    if any(one.type in (one.GRAPH, one.GRAPHS) for node in model.graph.node for one in node.attribute):
        return
    read = {name for node in model.graph.node for name in node.input} | {one.name for one in model.graph.output}
    kept = [one for one in model.graph.initializer if one.name in read]
    copies = [onnx.TensorProto.FromString(one.SerializeToString()) for one in kept]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)
    stored = {one.name for one in copies}
    inputs = [one for one in model.graph.input if one.name in read or one.name in stored]
    inputs = [onnx.ValueInfoProto.FromString(one.SerializeToString()) for one in inputs]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
