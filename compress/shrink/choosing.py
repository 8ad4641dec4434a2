"""Which tensors stay float: the fewest with which integers between all others lose no more than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.shrink.form import together
from compress.shrink.judge.verdict import Verdict
from compress.shrink.network import Network

LADDER = (0, 1, 2, 3, 5, 8, 13, 21, 34)  # tensors that are kept float, the worst first
BETTER = 0.85  # of the distance of the last one that was judged: only such a one is judged, too
ALIKE = 1.05  # of a distance: a tensor that makes no more difference goes back to integers


@dataclass(frozen=True)
class Rung:
    """A network in integers with some of its worst tensors in float.

    Attributes:
        tensors: these.
        nodes: that stay float for them.
        error: distance of the outputs.
        verdict: of the judge; None where the distance said enough.
    """

    tensors: tuple[str, ...]
    nodes: frozenset[str]
    error: float
    verdict: Verdict | None = None


def islands(
    network: Network,
    costs: Mapping[str, float],
    distance_of: Callable[[frozenset[str]], float],
    judged: Callable[[frozenset[str]], Verdict],
    allowed: float,
) -> tuple[Rung, list[Rung]]:
    """Return the fewest float tensors with which no more is lost than is allowed, and all that was tried.

    The worst come first. What is found is thinned out: a tensor that makes no difference goes back.

    Args:
        network: float.
        costs: tensor -> error of the outputs if it alone is rounded.
        distance_of: error of the outputs with these nodes in float; cheap, and hears all outputs alike.
        judged: what is lost with these nodes in float; expensive, and what counts.
        allowed: points or percent.

    Returns:
        What was found, or, if nothing holds, what loses least; judged in either case; and everything that was tried.
    """
    order = [name for name in sorted(costs, key=lambda name: -costs[name]) if costs[name] > 0]
    tried: list[Rung] = []

    def at(tensors: Sequence[str], *, judge_below: float) -> Rung:
        nodes = frozenset(node for name in tensors for node in together(network, name))
        distance = distance_of(nodes)
        verdict = judged(nodes) if distance < judge_below else None
        tried.append(Rung(tuple(tensors), nodes, distance, verdict))
        return tried[-1]

    best: Rung | None = None
    for count in [one for one in LADDER if one <= len(order)]:
        rung = at(order[:count], judge_below=np.inf if best is None else BETTER * best.error)
        if rung.verdict is None:
            continue
        if best is None or best.verdict is None or rung.verdict.loss < best.verdict.loss:
            best = rung
        if rung.verdict.loss <= allowed:
            break
    assert best is not None
    thin = best
    for name in best.tensors[-2::-1]:  # the last one made it hold
        fewer = at([other for other in thin.tensors if other != name], judge_below=0.0)
        if fewer.error <= ALIKE * best.error:
            thin = fewer
    if thin is not best:
        rung = Rung(thin.tensors, thin.nodes, thin.error, judged(thin.nodes))
        tried.append(rung)
        assert rung.verdict is not None
        assert best.verdict is not None
        if rung.verdict.loss <= max(allowed, best.verdict.loss):
            best = rung
    return best, tried
