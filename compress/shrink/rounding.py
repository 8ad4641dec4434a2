"""The weights of a network as layers to be rounded at a price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from compress.errors import DataError
from compress.rate_rounding.choice import LayerChooser
from compress.rate_rounding.layer import Layer
from compress.shrink.importance import spread_of
from compress.shrink.network import Network
from compress.shrink.observe import Seen


def choosers(
    network: Network,
    seen: Seen,
    importance: Mapping[str, np.ndarray],
    *,
    largest_code: int,
    steps: Mapping[str, np.ndarray] | None = None,
    like: Mapping[str, LayerChooser] | None = None,
) -> dict[str, LayerChooser]:
    """Return weight -> what rounds it at any price.

    Args:
        network: float.
        seen: by it.
        importance: weight -> (out,) what an error of one in each output channel costs.
        largest_code: of its integers.
        steps: weight -> (out,) of weights that have some already; others begin at those that cut nothing off.
        like: of the same network for other integers: what does not depend on these is shared, gigabytes of large ones.

    Raises:
        DataError: what a weight multiplies is no finite number, or so large that its squares are none.
    """
    found = {}
    for weight, linear in network.linears.items():
        matrix = network.matrix(linear).astype(np.float64)
        tops = np.abs(matrix).max(axis=1)
        own = np.where(tops > 0, tops, 1.0) / largest_code
        if steps is not None and weight in steps:
            own = steps[weight].astype(np.float64)
        if like is not None:
            found[weight] = LayerChooser(replace(like[weight].layer, steps=own, largest_code=largest_code))
            found[weight].feedback = like[weight].feedback
            continue
        spread = spread_of(network, seen, weight)
        if not np.isfinite(spread).all() or not np.isfinite(importance[weight]).all():
            raise DataError(
                f"weight {weight!r}: what it multiplies on these pictures, or what an error of it does to the outputs, "
                "is no finite number or too large for one. Look at how the input is made: --mean, --std, --scale."
            )
        layer = Layer(matrix, own, largest_code, importance[weight], spread)
        found[weight] = LayerChooser(layer)
    return found
