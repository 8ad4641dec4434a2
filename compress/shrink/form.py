"""What the file may compute in: integers with islands of floats, or floats with integer weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from compress.post_training.ranges import least_error_range
from compress.rate_rounding.layer import Rounded
from compress.shrink.biases import coarse_biases, set_integer_biases
from compress.shrink.half import with_half_islands
from compress.shrink.network import Network
from compress.shrink.observe import Seen, ranges_of
from compress.shrink.quantized import quantized, rounded_network
from compress.shrink.target import Target

LARGEST_STORED = 127  # of int8, where weights are unfolded to floats before they are used


@dataclass(frozen=True)
class Form:
    """How a network is written.

    Attributes:
        integers: whether it computes in integers where it can.
        floating: nodes that do not.
        symmetric: integers between layers have zero point 0.
        half: nodes that do not compute in float16, and biases are float.
    """

    integers: bool
    floating: frozenset[str] = frozenset()
    symmetric: bool = False
    half: bool = False

    def largest_code(self, target: Target) -> int:
        """Return the largest integer of a weight; floats compute rightly with any."""
        return target.largest_code if self.integers else LARGEST_STORED

    @property
    def steps(self) -> dict[str, np.ndarray]:
        """Return steps that weights have already: none have any."""
        return {}

    def build(
        self, network: Network, seen: Seen, rounded: Mapping[str, Rounded], importance: Mapping[str, np.ndarray]
    ) -> onnx.ModelProto:
        """Return the model with these weights; it computes the same each time.

        In float, weights are written as products of integers and a step a channel: the codec finds both again. Behind a
        DequantizeLinear they make ONNX Runtime twice as slow: it lays out for its kernels only what is a constant.
        """
        moved = rounded_network(network, seen, rounded)
        if self.integers:
            ranges = ranges_of(seen, least_error_range)
            if self.half:
                coarse = coarse_biases(moved, network, rounded, importance)
                made = quantized(
                    coarse, ranges, rounded, floating=self.floating, symmetric=self.symmetric, float_biases=True
                )
                return with_half_islands(made, network, self.floating)
            made = quantized(moved, ranges, rounded, floating=self.floating, symmetric=self.symmetric)
            set_integer_biases(made, moved, rounded, importance)
            return made
        return coarse_biases(moved, network, rounded, importance).model


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
