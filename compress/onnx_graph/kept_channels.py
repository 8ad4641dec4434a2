"""Which channels of an integer network have to stay, so that its outputs are what they are to the last bit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from compress.onnx_graph.constant_channels import PASSING, IntegerCall, constant_channels, integer_calls
from compress.onnx_graph.graph_view import GraphView, asks_for_the_batch


class KeptChannels:
    """Channels that something reads, spread over a graph until all agree.

    A dense integer layer needs an input channel if one of its filters has weights for it, unless the channel is
    constant and the layer's bias can take it up: anywhere if it is zero, else where nothing pads the input. All else
    ties the channels of its inputs to those of its outputs, or keeps them. A layer that is called several times has one
    weight, so its calls agree. Layers in float keep all: with other widths the runtime adds in another order.

    Attributes:
        view: of the graph.
        calls: output of a convolution -> what it is made of.
        shapes: value that depends on the image -> (channels, height, width).
        constants: value -> constant channels, NaN elsewhere.
        kept: value -> bool (channels,).
        rows: weight -> bool (out,), filters that stay.
        columns: weight -> bool (in,), inputs that stay.
    """

    def __init__(self, model: ModelProto) -> None:
        self.view = GraphView(model.graph)
        self.shapes = image_shapes(model)
        self.calls = _with_known_shapes(integer_calls(self.view), self.shapes)
        channels = {name: shape[0] for name, shape in self.shapes.items()}
        self.constants = constant_channels(self.view, self.calls, channels)
        self.kept = {name: np.zeros(count, bool) for name, count in channels.items()}
        self.rows = {call.weight: np.zeros(len(call.codes), bool) for call in self.calls.values()}
        self.columns = {call.weight: np.zeros(call.codes.shape[1], bool) for call in self.calls.values()}
        self._changed = True
        for value in (*model.graph.input, *model.graph.output):
            self._keep(value.name)
        self._spread()

    def is_constant(self, name: str) -> bool:
        """Return whether all that is kept of a value is constant, and nothing has to be computed for it."""
        return name in self.constants and not np.isnan(self.constants[name][self.kept[name]]).any()

    def is_computed(self, call: IntegerCall) -> bool:
        """Return whether a convolution has to be computed: some filter that is read depends on the image."""
        return not self.is_constant(call.quantizer.output[0])

    def _spread(self) -> None:
        nodes = [node for node in self.view.graph.node if not asks_for_the_batch(node)]
        while self._changed:
            self._changed = False
            for node in reversed(nodes):
                self._visit(node)
            for node in nodes:
                self._visit(node)

    def _visit(self, node: NodeProto) -> None:
        inputs = [name for name in node.input if name in self.kept]
        outputs = [name for name in node.output if name in self.kept]
        if not inputs:
            for name in outputs:
                self._keep(name)
            return
        if node.op_type == "QuantizeLinear" and self.is_constant(node.output[0]):
            return  # a stored constant takes its place
        if (call := self.calls.get(node.output[0])) is not None:
            self._visit_call(call)
        elif node.op_type in PASSING and self._have_equal_channels(node.input[:1], outputs):
            self._tie(*inputs[:1], *outputs)
        elif node.op_type == "Add" and self._have_equal_channels(node.input, outputs):
            self._tie(*inputs, *outputs)
        elif node.op_type == "Concat" and len(inputs) == len(node.input) and outputs and self._joins_channels(node):
            self._tie_parts(inputs, outputs[0])
        else:
            for name in (*inputs, *outputs):
                self._keep(name)

    def _visit_call(self, call: IntegerCall) -> None:
        if not self.is_computed(call):
            return
        given, made = call.node.input[0], call.node.output[0]
        rows, columns = self.rows[call.weight], self.columns[call.weight]
        self._join([rows, self.kept[made]])
        if call.is_depthwise:
            self._join([rows, self.kept[given]])
            return
        constants = self.constants.get(given, np.full(len(columns), np.nan))
        absorbed = call.integers(constants) == 0 if call.bias is None else call.is_even(constants)
        needed = call.reads[rows].any(axis=0) & ~absorbed
        self._join([columns, self.kept[given]], needed)

    def _have_equal_channels(self, *names: object) -> bool:
        values = [name for group in names for name in group]  # type: ignore[attr-defined]
        return all(name in self.kept for name in values) and len({self.kept[name].size for name in values}) == 1

    def _joins_channels(self, node: NodeProto) -> bool:
        return next((a.i for a in node.attribute if a.name == "axis"), None) in (1, -3)

    def _tie(self, *names: str) -> None:
        self._join([self.kept[name] for name in names])

    def _tie_parts(self, parts: list[str], whole: str) -> None:
        start = 0
        for name in parts:
            size = self.kept[name].size
            self._join([self.kept[name], self.kept[whole][start : start + size]])
            start += size

    def _keep(self, name: str) -> None:
        if name in self.kept:
            self._join([self.kept[name]], np.ones(self.kept[name].size, bool))

    def _join(self, masks: list[np.ndarray], more: np.ndarray | bool = False) -> None:
        """Make all masks what one of them or `more` is, in place."""
        union = np.logical_or.reduce(masks) | more
        for mask in masks:
            if (mask != union).any():
                mask[:] = union
                self._changed = True


def _with_known_shapes(calls: Mapping[str, IntegerCall], shapes: Mapping[str, object]) -> dict[str, IntegerCall]:
    """Return the calls of layers of which every call has an input and outputs of known shape: the others stay whole."""
    unknown = {
        call.weight
        for call in calls.values()
        if not {call.node.input[0], call.node.output[0], call.quantizer.output[0]} <= shapes.keys()
    }
    return {name: call for name, call in calls.items() if call.weight not in unknown}


def image_shapes(model: ModelProto) -> Mapping[str, tuple[int, int, int]]:
    """Return value -> channels, height and width, of those that depend on the image and have them fixed."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(dims) == 4 and all(size > 0 for size in dims[1:]):
            shapes[value.name] = (dims[1], dims[2], dims[3])
    depends = {value.name for value in graph.input}
    for node in graph.node:
        if depends.intersection(node.input):
            depends.update(node.output)
    return {name: shape for name, shape in shapes.items() if name in depends}
