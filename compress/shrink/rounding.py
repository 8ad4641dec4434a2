"""The weights of a network as layers to be rounded at a price."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compress.rate_rounding.choice import LayerChooser
from compress.rate_rounding.layer import Layer
from compress.shrink.importance import spread_of
from compress.shrink.network import Network
from compress.shrink.observe import Seen


def choosers(
    network: Network, seen: Seen, importance: Mapping[str, np.ndarray], *, largest_code: int
) -> dict[str, LayerChooser]:
    """Return weight -> what rounds it at any price."""
    found = {}
    for weight, linear in network.linears.items():
        matrix = network.matrix(linear).astype(np.float64)
        tops = np.abs(matrix).max(axis=1)
        steps = np.where(tops > 0, tops, 1.0) / largest_code
        layer = Layer(matrix, steps, largest_code, importance[weight], spread_of(network, seen, weight))
        found[weight] = LayerChooser(layer)
    return found
