"""Puts the channels of an integer network into the order in which their scales pack best; its outputs stay the same.

Which channel of a layer comes first means nothing to a network, as long as those who read it agree. Steps of few values
(`round_weights`) that are sorted are runs, and a run takes hardly more than one step.

Exact because sums of integers do not depend on their order. Channels that a layer in float makes or reads, or that are
cut, joined or leave the network, keep their places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto

from compress.onnx_graph.constant_channels import PASSING, IntegerCall, grid_of, integer_calls
from compress.onnx_graph.graph_view import GraphView, asks_for_the_batch
from compress.onnx_graph.kept_channels import image_shapes

_FROZEN = "/frozen"
_ROWS, _COLUMNS = "/rows of ", "/columns of "
_NEW = "/ordered"


def order_channels(model: ModelProto) -> list[str]:
    """Sort channels in place; return the names of the layers whose filters have other places.

    Args:
        model: as exported, with fixed height and width.
    """
    view = GraphView(model.graph)
    calls = integer_calls(view)
    orders = _orders(_ties(model, view, calls), calls)
    _apply([edit for call in calls.values() for edit in _edits(call, view, orders)], view)
    return [call.node.name for call in calls.values() if _ROWS + call.weight in orders]


class _Ties:
    """Which values and sides of weights have their channels in the same order (a union-find)."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def tie(self, *names: str) -> None:
        """Let all have the same order."""
        for name in names[1:]:
            self._parent[self.find(name)] = self.find(names[0])

    def freeze(self, *names: str) -> None:
        """Let all keep the order that they have."""
        self.tie(_FROZEN, *names)

    def find(self, name: str) -> str:
        """Return what stands for all that have the same order."""
        while (parent := self._parent.setdefault(name, name)) != name:
            name = parent
        return name


def _ties(model: ModelProto, view: GraphView, calls: Mapping[str, IntegerCall]) -> _Ties:
    """Return what the nodes of a graph tie and freeze."""
    shapes, ties = image_shapes(model), _Ties()
    ties.freeze(*(value.name for value in (*model.graph.input, *model.graph.output)))
    behind: dict[str, set[str]] = {name: {name} for name in view.tensors}  # what stored tensors alone make -> all of it
    for node in model.graph.node:
        names = [name for name in node.input if name]
        stored = {each for name in names for each in behind.get(name, ())}
        if names and all(name in behind for name in names):
            behind.update((name, stored | {name}) for name in node.output)
            continue
        if asks_for_the_batch(node):
            continue
        call = calls.get(node.output[0])
        if call is not None and {node.input[0], node.output[0]} <= shapes.keys():
            ties.tie(_ROWS + call.weight, node.output[0], *_made_for_rows(call, view))
            ties.tie((_ROWS if call.is_depthwise else _COLUMNS) + call.weight, node.input[0])
        elif alike := _alike(node, view, shapes):
            ties.tie(*alike)
        else:
            ties.freeze(*names, *node.output, *(side + name for name in stored for side in ("", _ROWS, _COLUMNS)))
    return ties


def _made_for_rows(call: IntegerCall, view: GraphView) -> list[str]:
    """Return the bias and its scale, if that is a vector: layers with equal ones may share the nodes that make them."""
    if call.bias is None:
        return []
    bias = call.node.input[2]
    return [bias, view.maker[bias].input[1]] if call.weight_scale.ndim else [bias]


def _alike(node: NodeProto, view: GraphView, shapes: Mapping[str, tuple[int, int, int]]) -> list[str]:
    """Return the values of a node that does the same to every channel; none if it is not known to."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and grid_of(node, view) is None:
        return []
    if node.op_type not in (*PASSING, "Add"):
        return []
    names = [*(node.input if node.op_type == "Add" else node.input[:1]), *node.output]
    counts = {shapes[name][0] if name in shapes else None for name in names}
    return names if len(counts) == 1 and None not in counts else []


def _orders(ties: _Ties, calls: Mapping[str, IntegerCall]) -> dict[str, np.ndarray]:
    """Return side of a weight -> its channels in their new order, of sides that change."""
    weights = {call.weight: call for call in calls.values()}
    scales: dict[str, list[np.ndarray]] = {}
    for weight, call in weights.items():
        if call.weight_scale.ndim:
            scales.setdefault(ties.find(_ROWS + weight), []).append(call.weight_scale)
    scales.pop(ties.find(_FROZEN), None)
    found = {root: _sorted_by(ones) for root, ones in scales.items()}
    orders = {}
    for side in (side + weight for weight in weights for side in (_ROWS, _COLUMNS)):
        order = found.get(ties.find(side))
        if order is not None and (np.diff(order) != 1).any():
            orders[side] = order
    return orders


def _sorted_by(scales: list[np.ndarray]) -> np.ndarray:
    """Return the order in which the scales of the last layer rise, equal ones by the layer before, and so on."""
    order: np.ndarray = np.lexsort(scales)
    return order


class _Edit(NamedTuple):
    """A stored tensor that a node shall read in another order, at one of its inputs."""

    node: NodeProto
    place: int
    axis_orders: tuple[tuple[int, np.ndarray], ...]

    @property
    def key(self) -> tuple[tuple[int, bytes], ...]:
        """Return what equal orders have in common."""
        return tuple((axis, order.tobytes()) for axis, order in self.axis_orders)


def _edits(call: IntegerCall, view: GraphView, orders: Mapping[str, np.ndarray]) -> Iterator[_Edit]:
    """Yield what a convolution has to read in another order."""
    rows, columns = orders.get(_ROWS + call.weight), orders.get(_COLUMNS + call.weight)
    weight = view.maker[call.node.input[1]]
    sides = tuple((axis, order) for axis, order in ((0, rows), (1, columns)) if order is not None)
    if sides:
        yield _Edit(weight, 0, sides)
    if rows is None:
        return
    if call.weight_scale.ndim:
        yield _Edit(weight, 1, ((0, rows),))
    if call.bias is not None:
        bias = view.maker[call.node.input[2]]
        yield _Edit(bias, 0, ((0, rows),))
        if call.weight_scale.ndim:
            yield _Edit(view.maker[bias.input[1]], 1, ((0, rows),))


def _apply(edits: list[_Edit], view: GraphView) -> None:
    """Store tensors in their new orders: under the old name the first one, if nobody reads the old one any more."""
    by_place = {(edit.node.output[0], edit.place): edit for edit in edits}
    by_name: dict[str, dict[tuple[tuple[int, bytes], ...], list[_Edit]]] = {}
    for edit in by_place.values():
        by_name.setdefault(edit.node.input[edit.place], {}).setdefault(edit.key, []).append(edit)
    for name, groups in by_name.items():
        values = view.array(name)
        is_free = sum(map(len, groups.values())) == view.uses[name]
        for number, group in enumerate(groups.values()):
            ordered = values
            for axis, order in group[0].axis_orders:
                ordered = np.take(ordered, order, axis=axis)
            target = name if is_free and number == 0 else f"{name}{_NEW}{number}"
            view.store(target, ordered)
            for edit in group:
                edit.node.input[edit.place] = target
