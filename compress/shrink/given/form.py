"""The one form of a network that is quantized already: as it is, with other integers in its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from compress.rate_rounding.layer import Rounded, exponents_of, steps_of
from compress.shrink.biases import bias_grain, bias_unit, integer_bias
from compress.shrink.given.graph import Graph, drop_unread
from compress.shrink.given.weights import Bias, IntegerWeight
from compress.shrink.importance import changed_weight
from compress.shrink.network import Network
from compress.shrink.observe import Seen
from compress.shrink.target import Target

_MIDDLE = {np.dtype(np.int8): 0, np.dtype(np.uint8): 128}  # zero point of integers that go as far both ways
LARGEST_STORED = 127  # in int8
_SHOWN = 4  # constants that are left, by name
_SAME = 1e-3  # share up to which the step of a bias is that of its input times that of its weight


@dataclass(frozen=True)
class GivenForm:
    """How a quantized network is written.

    Attributes:
        model: as given, tidied.
        weights: that are rounded anew.
        left: name -> why it keeps its integers.
        ops: the operators that say that it is quantized.
        integers, floating: as of `Form`.
    """

    model: onnx.ModelProto
    weights: Mapping[str, IntegerWeight]
    left: Mapping[str, str]
    ops: tuple[str, ...]
    integers: bool = True
    floating: frozenset[str] = field(default_factory=frozenset)

    def __str__(self) -> str:
        told = (
            f"It is quantized already ({', '.join(self.ops)}): activations and structure stay as they are, "
            f"integers of {len(self.weights)} weights were chosen anew; what quantizing cost is in it and not told"
        )
        if not self.left:
            return told
        shown = "; ".join(f"{name}: {why}" for name, why in list(self.left.items())[:_SHOWN])
        more = f"; and {len(self.left) - _SHOWN} more" if len(self.left) > _SHOWN else ""
        return f"{told}. {len(self.left)} constants keep their integers ({shown}{more})"

    def largest_code(self, _: Target) -> int:
        """Return the largest integer of a weight as given: further than that none went, and none may."""
        if not self.weights:
            return LARGEST_STORED
        tops = [float(np.abs(one.values / _along(one.steps, one)).max()) for one in self.weights.values()]
        return int(min(max(round(max(tops)), 1), LARGEST_STORED))

    @property
    def steps(self) -> dict[str, np.ndarray]:
        """Return the steps of weights, (out,), that lie on the grid of steps: with these alone nothing is lost."""
        own = {name: one.steps for name, one in self.weights.items() if (one.steps > 0).all()}
        return {name: steps for name, steps in own.items() if np.array_equal(steps_of(exponents_of(steps)), steps)}

    def build(
        self, network: Network, seen: Seen, rounded: Mapping[str, Rounded], importance: Mapping[str, np.ndarray]
    ) -> onnx.ModelProto:
        """Return the model with these integers and steps, and biases in steps that fit.

        Steps that were one for a tensor become one for each channel.

        Args:
            network: of `float_network`.
            seen: by it.
            rounded: weight -> its integers and steps.
            importance: weight -> (out,) what an error of one in each output channel costs.
        """
        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        graph = Graph(made)
        for name, one in rounded.items():
            moved = changed_weight(network, seen, name, one.weights)
            weight = self.weights.get(name)
            if weight is None:  # was left in float
                unit = bias_unit(importance[name], one)
                for constant, values in moved.items():
                    graph.store(constant, values if constant == name else bias_grain(values, unit))
                continue
            values = network.unmatrix(network.linears[name], one.codes)
            _store_codes(graph, weight, values, one.steps)
            for bias in {bias.name: bias for bias in weight.biases.values()}.values():
                if bias.name in moved:
                    _store_bias(graph, weight, bias, moved[bias.name], one, importance[name])
                elif bias.steps is not None:  # too few values to be a bias of its own: only its steps change
                    _store_bias(graph, weight, bias, network.tensors[bias.name], one, np.zeros(1))
        drop_unread(made)
        return made


def _along(values: np.ndarray, weight: IntegerWeight) -> np.ndarray:
    """Return a number for each output channel so that a weight is multiplied by it."""
    shape = [1] * weight.values.ndim
    shape[weight.axis] = -1
    return values.reshape(shape)


def _store_codes(graph: Graph, weight: IntegerWeight, values: np.ndarray, steps: np.ndarray) -> None:
    kind = graph.array(weight.codes).dtype
    graph.store(weight.codes, (values.astype(np.int64) + _MIDDLE[kind]).astype(kind))
    readers = graph.readers[weight.codes]
    for node in readers:
        if node.op_type == "DequantizeLinear":
            _set_axis(node, weight.axis)
    ops = {node.op_type for node in readers}
    shape = (-1, *[1] * (values.ndim - 2)) if "ConvInteger" in ops else (-1,)
    graph.store(weight.scale, steps.reshape(shape))
    if not weight.zero_point:
        return
    old = graph.array(weight.zero_point)
    is_one = ops & {"ConvInteger", "MatMulInteger"}
    zeros = np.full(old.shape if is_one else steps.shape, _MIDDLE[kind], kind)
    graph.store(weight.zero_point, zeros)


def _set_axis(node: onnx.NodeProto, axis: int) -> None:
    kept = [onnx.AttributeProto.FromString(one.SerializeToString()) for one in node.attribute if one.name != "axis"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("axis", axis)])


def _store_bias(
    graph: Graph, weight: IntegerWeight, bias: Bias, values: np.ndarray, rounded: Rounded, importance: np.ndarray
) -> None:
    """Write a bias that takes up what rounding adds to means, in the steps that its node adds at."""
    unit = bias_unit(importance, rounded)
    if bias.steps is None:
        graph.store(bias.name, bias_grain(values, unit))
        return
    steps = bias.steps * (rounded.steps / weight.steps)
    if bias.input_scale is not None:
        fitting = bias.input_scale * rounded.steps
        if np.allclose(steps, fitting, rtol=_SAME, atol=0):
            steps = fitting
    graph.store(bias.name, integer_bias(values.reshape(-1), steps, unit).reshape(values.shape))
    if bias.stored_steps and bias.stored_steps in graph.places:
        graph.store(bias.stored_steps, steps.astype(np.float32))
        for node in graph.readers[bias.name]:
            if node.op_type == "DequantizeLinear":
                _set_axis(node, 0)
                del node.input[2:]  # zeros, as many as there were steps
