"""The order in which a table lists the entries of its symbols (FORMAT.md, section 4)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def symbol_order(radix: int, group: int, centre: int) -> np.ndarray:
    """Return the symbols in the order in which a table lists its entries.

    The key is the sum of the distances of the digits from the centre, ties by symbol: for
    weights that is close to the order of falling probability, so equal entries meet.

    Returns:
        (radix ** group,), int64, read-only.
    """
    order = np.argsort(digit_distance(radix, group, centre), kind="stable")
    order.flags.writeable = False
    return order


def digit_distance(radix: int, group: int, centre: int) -> np.ndarray:
    """Return for every symbol the summed distance of its digits from the centre, int64."""
    step = np.abs(np.arange(radix, dtype=np.int64) - centre)
    distance = step
    for _ in range(group - 1):
        distance = (step[:, None] + distance[None, :]).reshape(-1)
    return distance
