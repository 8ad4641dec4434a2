"""Which nodes stay float: the fewest with which the integers of all others cost little."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compress.shrink.form import together
from compress.shrink.network import Network

LADDER = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89)  # tensors that are kept float, the worst first


@dataclass(frozen=True)
class Rung:
    """A network in integers with so many of its worst tensors in float.

    Attributes:
        tensors: these.
        nodes: that stay float for it.
        error: of the outputs.
    """

    tensors: tuple[str, ...]
    nodes: frozenset[str]
    error: float


def islands(
    network: Network, costs: Mapping[str, float], error_of: Callable[[frozenset[str]], float], limit: float
) -> tuple[Rung, list[Rung]]:
    """Return the fewest float tensors with which the error holds a limit, and all that was tried.

    The worst come first. What is found is thinned out: a tensor whose integers cost nothing goes back.

    Args:
        network: float.
        costs: tensor -> error of the outputs if it alone is rounded.
        error_of: error of the outputs with these nodes in float; expensive.
        limit: that shall hold.

    Returns:
        What was found, or, if nothing holds, the least error of all; and everything that was tried.
    """
    order = [name for name in sorted(costs, key=lambda name: -costs[name]) if costs[name] > 0]
    tried: list[Rung] = []

    def at(tensors: Sequence[str]) -> Rung:
        nodes = frozenset(node for name in tensors for node in together(network, name))
        tried.append(Rung(tuple(tensors), nodes, error_of(nodes)))
        return tried[-1]

    for count in LADDER:
        rung = at(order[:count])
        if rung.error <= limit:
            break
        if count >= len(order):
            break
    else:
        rung = tried[-1]
    if rung.error > limit:
        return min(tried, key=lambda one: one.error), tried
    for name in rung.tensors[-2::-1]:  # the last one made it hold
        fewer = [other for other in rung.tensors if other != name]
        if (thinner := at(fewer)).error <= limit:
            rung = thinner
    return rung, tried
