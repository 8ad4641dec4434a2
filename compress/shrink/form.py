"""What the file may compute in: integers with islands of floats, or floats with integer weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from compress.post_training.ranges import least_error_range
from compress.rate_rounding.layer import Rounded
from compress.shrink.importance import biases_of
from compress.shrink.network import Network
from compress.shrink.observe import Seen, ranges_of
from compress.shrink.quantized import quantized, rounded_network


@dataclass(frozen=True)
class Form:
    """How a network is written.

    Attributes:
        integers: whether it computes in integers where it can.
        floating: nodes that do not.
        symmetric: integers between layers have zero point 0.
    """

    integers: bool
    floating: frozenset[str] = frozenset()
    symmetric: bool = False

    def build(
        self, network: Network, seen: Seen, rounded: Mapping[str, Rounded], importance: Mapping[str, np.ndarray]
    ) -> onnx.ModelProto:
        """Return the model with these weights; it computes the same each time.

        In float, weights are written as products of integers and a step a channel: the codec finds both again. Behind a
        DequantizeLinear they make ONNX Runtime twice as slow: it lays out for its kernels only what is a constant.
        """
        moved = rounded_network(network, seen, rounded)
        if self.integers:
            made = quantized(
                moved, ranges_of(seen, least_error_range), rounded, floating=self.floating, symmetric=self.symmetric
            )
            coarsen_integer_biases(made, network, rounded, importance)
            return made
        return coarse_biases(moved, network, rounded, importance).model


def bias_unit(importance: np.ndarray, rounded: Rounded) -> float:
    """Return how coarse the biases of a layer may be; 0 if nothing is known of them.

    Args:
        importance: (out,) what an error of one in an output channel costs.
        rounded: its weights, and the price that they were rounded at.

    Source:
        High-rate theory, as for the steps of weights: an error of unit^2 / 12, a bit for halving it.
    """
    bends = float(np.mean(importance))
    return float(np.sqrt(6 * rounded.price / np.log(2) / bends)) if bends > 0 else 0.0


def coarse_biases(
    moved: Network, network: Network, rounded: Mapping[str, Rounded], importance: Mapping[str, np.ndarray]
) -> Network:
    """Return a network whose biases are multiples of a power of two that their price allows."""
    values: dict[str, np.ndarray] = {}
    for weight, one in rounded.items():
        unit = bias_unit(importance[weight], one)
        if unit <= 0:
            continue
        grain = np.float32(2.0 ** np.floor(np.log2(unit)))
        for name in biases_of(network, weight):
            values[name] = (np.rint(moved.tensors[name] / grain) * grain).astype(np.float32)
    return _with_tensors(moved, values)


def coarsen_integer_biases(
    made: onnx.ModelProto, network: Network, rounded: Mapping[str, Rounded], importance: Mapping[str, np.ndarray]
) -> None:
    """Make integer biases multiples of a power of two that their price allows, in place."""
    places = {one.name: number for number, one in enumerate(made.graph.initializer)}
    for weight, one in rounded.items():
        unit = bias_unit(importance[weight], one)
        for name in biases_of(network, weight):
            codes, scale = f"{name}_quantized", f"{name}_quantized_scale"
            if unit <= 0 or codes not in places or scale not in places:
                continue
            steps = numpy_helper.to_array(made.graph.initializer[places[scale]]).astype(np.float64)
            value = numpy_helper.to_array(made.graph.initializer[places[codes]])
            grain = 2.0 ** max(np.floor(np.log2(unit / float(np.max(steps)))), 0.0)
            coarse = np.clip(np.rint(value / grain) * grain, -(2**31), 2**31 - 1).astype(np.int32)
            made.graph.initializer[places[codes]].CopyFrom(numpy_helper.from_array(coarse, codes))


def _with_tensors(network: Network, values: Mapping[str, np.ndarray]) -> Network:
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    for number, one in enumerate(model.graph.initializer):
        if one.name in values:
            model.graph.initializer[number].CopyFrom(numpy_helper.from_array(values[one.name], one.name))
    return Network(model)


def together(network: Network, tensor: str) -> list[str]:
    """Return the nodes that must stay float so that a tensor does: what makes it, and what reads it."""
    nodes = [network.makers[tensor]] if tensor in network.makers else []
    maker = network.nodes[nodes[0]] if nodes else None
    if maker is not None and maker.op_type in ("Relu", "Clip") and maker.input[0] in network.makers:
        nodes.append(network.makers[maker.input[0]])  # the runtime takes them as one
    return [*nodes, *network.readers.get(tensor, [])]


def rounded_tensors(network: Network, tensors: Iterable[str]) -> list[str]:
    """Return the tensors that integers would be made of: not what only goes into a ReLU, which is taken with it."""
    kept = []
    for name in tensors:
        readers = [network.nodes[one] for one in network.readers.get(name, [])]
        is_inner = bool(readers) and all(node.op_type in ("Relu", "Clip") for node in readers)
        if not (is_inner and name in network.makers and name not in network.outputs):
            kept.append(name)
    return kept
