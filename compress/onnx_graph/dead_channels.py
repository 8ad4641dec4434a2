"""Takes filters out of an integer network that compute nothing; its outputs stay the same to the last bit.

A filter goes if nobody reads it, or if what it answers is the same everywhere and those who read it can do without:
a zero is missed by nobody, any other constant is added to the biases of unpadded layers. What is constant as a whole
(a pyramid level whose weights are all zero) is stored instead of computed.

Exact because sums of integers do not depend on their order. A kernel that saturates on the way (AVX2 without VNNI, with
weights beyond 64) has no exact answer before either.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from compress.onnx_graph.constant_channels import IntegerCall, grid_of
from compress.onnx_graph.graph_view import GraphView
from compress.onnx_graph.kept_channels import KeptChannels

_NEW = "/kept"


@dataclass(frozen=True)
class Removal:
    """A layer that lost filters or inputs.

    Attributes:
        layer: name of its node.
        what: 'cut', 'constant' (stored instead of computed) or 'gone'.
        before: shape of its weight.
        after: shape of its weight, of the constant, or nothing.
    """

    layer: str
    what: str
    before: tuple[int, ...]
    after: tuple[int, ...]


def remove_dead_channels(model: ModelProto) -> list[Removal]:
    """Remove dead channels in place; return what changed.

    Args:
        model: as exported, with fixed height and width. What nothing reads any more is left in it for `sweep`.
    """
    kept = KeptChannels(model)
    removals = [one for call in kept.calls.values() if (one := _removal(call, kept)) is not None]
    if not removals and not any(kept.is_constant(name) for name in _quantized(kept)):
        return []
    editor = _Editor(kept)
    for call in kept.calls.values():
        if kept.is_computed(call) and _shape_after(call, kept) != call.codes.shape:
            editor.cut(call)
    for node in list(model.graph.node):
        if node.op_type == "QuantizeLinear" and node.output[0] in kept.kept and kept.is_constant(node.output[0]):
            editor.store_constant(node)
        if node.op_type == "Concat":
            editor.leave_out_empty(node)
    editor.finish()
    return removals


def _quantized(kept: KeptChannels) -> list[str]:
    """Return the values that quantizers make."""
    names = (node.output[0] for node in kept.view.graph.node if node.op_type == "QuantizeLinear")
    return [name for name in names if name in kept.kept]


def _removal(call: IntegerCall, kept: KeptChannels) -> Removal | None:
    before = call.codes.shape
    if kept.is_computed(call):
        after = _shape_after(call, kept)
        return Removal(call.node.name, "cut", before, after) if after != before else None
    name = call.quantizer.output[0]
    count = int(kept.kept[name].sum())
    after = (count, *kept.shapes[name][1:]) if count else ()
    return Removal(call.node.name, "constant" if count else "gone", before, after)


def _shape_after(call: IntegerCall, kept: KeptChannels) -> tuple[int, ...]:
    rows, columns = int(kept.rows[call.weight].sum()), int(kept.columns[call.weight].sum())
    return (rows, 1 if call.is_depthwise else columns, *call.codes.shape[2:])


def _needed(nodes: list[NodeProto], used: set[str]) -> tuple[list[NodeProto], set[str]]:
    """Return the nodes that outputs depend on, in their order, and the names of all that is read."""
    found = []
    for node in reversed(nodes):
        if used.intersection(node.output):
            found.append(node)
            used = used.union(node.input)
    return found[::-1], used


def _base(name: str) -> str:
    return name.partition(_NEW)[0]


class _Editor:
    """Gives nodes new constants under names of their own, and the old names back where nothing else has them."""

    def __init__(self, kept: KeptChannels) -> None:
        self.kept = kept
        self.view: GraphView = kept.view
        self._last = 0
        self._weights: dict[str, tuple[str, str]] = {}
        self._position = {node.output[0]: index for index, node in enumerate(self.view.graph.node)}
        self._nodes: dict[str, list[NodeProto]] = {}  # that come before the node with this output

    def cut(self, call: IntegerCall) -> None:
        """Take filters and inputs out of a convolution; constant inputs go into its bias."""
        rows = self.kept.rows[call.weight]
        codes, scale = self._weight(call)
        node = call.node
        dequantize = self._before(node, "DequantizeLinear", [codes, scale], axis=0)
        node.input[1] = dequantize
        if call.bias is not None:
            missing = np.where(self._columns(call), 0, self._absorbed(call))
            bias = (call.bias + call.codes.sum(axis=(2, 3)) @ missing if not call.is_depthwise else call.bias)[rows]
            product = self._before(node, "Mul", [call.input_scale, scale])
            stored = self._store(call.bias_name, bias.astype(np.int32))
            node.input[2] = self._before(node, "DequantizeLinear", [stored, product], axis=0)
        for attribute in node.attribute:
            if attribute.name == "group" and call.is_depthwise:
                attribute.i = int(rows.sum())

    def store_constant(self, node: NodeProto) -> None:
        """Put stored codes, as many images long as the input, in the place of a quantizer; none if nothing reads it."""
        name = node.output[0]
        chosen = self.kept.kept[name]
        grid = grid_of(node, self.view)
        if not chosen.any() or grid is None:
            return
        codes = grid.round(self.kept.constants[name][chosen]).astype(np.uint8).reshape(1, -1, 1, 1)
        _, height, width = self.kept.shapes[name]
        batch = self._before(node, "Shape", [self.view.graph.input[0].name], end=1)
        sizes = self._store("sizes", np.array([len(chosen[chosen]), height, width], np.int64))
        shape = self._before(node, "Concat", [batch, sizes], axis=0)
        stored = self._store(f"{node.name}.constant", codes)
        node.op_type, node.name = "Expand", ""
        del node.input[:], node.attribute[:]
        node.input.extend([stored, shape])

    def leave_out_empty(self, node: NodeProto) -> None:
        """Drop the inputs of a Concat of which nothing is kept."""
        if node.output[0] in self.kept.kept:
            names = [name for name in node.input if name not in self.kept.kept or self.kept.kept[name].any()]
            del node.input[:]
            node.input.extend(names)

    def finish(self) -> None:
        """Put the new nodes into their places, drop what nothing reads, and give constants their names back."""
        graph = self.view.graph
        ordered = [one for node in graph.node for one in (*self._nodes.get(node.output[0], ()), node)]
        nodes, used = _needed(ordered, {value.name for value in graph.output})
        place = {tensor.name: index for index, tensor in enumerate(graph.initializer)}
        stored = sorted(
            (tensor for tensor in graph.initializer if tensor.name in used),
            key=lambda tensor: place.get(_base(tensor.name), len(place)),  # as before: what is alike lies together
        )
        free = Counter(_base(tensor.name) for tensor in stored)
        names = {tensor.name: _base(tensor.name) for tensor in stored if free[_base(tensor.name)] == 1}
        for tensor in stored:
            tensor.name = names.get(tensor.name, tensor.name)
        for node in nodes:
            for index, name in enumerate(node.input):
                node.input[index] = names.get(name, name)
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(stored)

    def _weight(self, call: IntegerCall) -> tuple[str, str]:
        """Return the names of the cut integers and scales; one pair for all calls of a layer."""
        if call.weight not in self._weights:
            rows = self.kept.rows[call.weight]
            columns = np.array([True]) if call.is_depthwise else self._columns(call)
            codes = self._store(call.weight, call.codes[rows][:, columns].astype(np.int8))
            scale = self.view.maker[call.node.input[1]].input[1]
            if call.weight_scale.ndim:
                scale = self._store(scale, call.weight_scale[rows])
            self._weights[call.weight] = codes, scale
        return self._weights[call.weight]

    def _columns(self, call: IntegerCall) -> np.ndarray:
        return self.kept.columns[call.weight]

    def _absorbed(self, call: IntegerCall) -> np.ndarray:
        """Return the integers of constant inputs, 0 elsewhere."""
        integers = call.integers(self.kept.constants[call.node.input[0]])
        absorbed: np.ndarray = np.where(np.isnan(integers), 0, integers).astype(np.int64)
        return absorbed

    def _store(self, base: str, values: np.ndarray) -> str:
        name = self._name(base)
        self.view.store(name, values)
        return name

    def _before(self, node: NodeProto, kind: str, inputs: list[str], **attributes: int) -> str:
        """Add a node before another; return the name of what it makes."""
        output = self._name(node.output[0])
        made = onnx.helper.make_node(kind, inputs, [output])
        made.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
        self._nodes.setdefault(node.output[0], []).append(made)
        return output

    def _name(self, base: str) -> str:
        self._last += 1
        return f"{base}{_NEW}{self._last}"
