"""How small a network becomes: a size, a loss, both, or where a byte begins to cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from compress.number_text import size_text

CURVE = tuple(10.0**exponent for exponent in (-8.0, -7.5, -7.0, -6.75, -6.5, -6.25, -6.0, -5.5, -5.0))
TOO_MUCH = 10.0  # points or percent more than the finest lost, behind which the curve is of no use to anybody
BISECTIONS = 3  # between the last network of the curve that holds a loss and the first that does not


class Tried(Protocol):
    """A network that was made at a price, and judged."""

    @property
    def price(self) -> float: ...  # noqa: D102
    @property
    def packed_bytes(self) -> int: ...  # noqa: D102
    @property
    def loss(self) -> float: ...  # noqa: D102
    @property
    def error(self) -> float: ...  # noqa: D102


T = TypeVar("T", bound=Tried)


@dataclass(frozen=True)
class Limits:
    """What is asked for; with neither the knee of the curve is taken.

    Attributes:
        packed_bytes: of the packed file, at most.
        max_drop: points of mAP50-95, or percent of the outputs, at most.
    """

    packed_bytes: int | None = None
    max_drop: float | None = None

    def holds(self, one: Tried) -> bool:
        """Return whether a network is inside."""
        is_small = self.packed_bytes is None or one.packed_bytes <= self.packed_bytes
        return is_small and (self.max_drop is None or one.loss <= self.max_drop)

    def __str__(self) -> str:
        size = [] if self.packed_bytes is None else [f"at most {size_text(self.packed_bytes)}"]
        return " and ".join(size + ([] if self.max_drop is None else [f"at most {self.max_drop:g} lost"]))


def along_curve(make: Callable[[float], T], *, until: float | None = None) -> list[T]:
    """Return networks from fine to coarse, up to the first that loses more than a limit.

    Args:
        make: gives the network at a price.
        until: loss; default: much more than the finest.
    """
    made: list[T] = []
    for price in CURVE:
        made.append(make(price))
        if made[-1].loss > (made[0].loss + TOO_MUCH if until is None else until):
            break
    return made


def smallest_within(curve: Sequence[T], make: Callable[[float], T], max_drop: float) -> list[T]:
    """Return a curve with more networks where it crosses a loss: prices between are halved.

    Args:
        curve: from fine to coarse.
        make: gives the network at a price.
        max_drop: that may be lost.
    """
    made = list(curve)
    for _ in range(BISECTIONS):
        holding = [one for one in made if one.loss <= max_drop]
        if not holding:
            break
        last = min(holding, key=lambda one: one.packed_bytes)
        beyond = [one for one in made if one.price > last.price]
        if not beyond:
            break
        first = min(beyond, key=lambda one: one.price)
        made.append(make(math.sqrt(last.price * first.price)))
    return sorted(made, key=lambda one: one.price)


def smallest_that_holds(made: Sequence[T], limits: Limits) -> T | None:
    """Return the smallest network inside the limits; with a size alone the one that loses least inside it."""
    holding = [one for one in made if limits.holds(one)]
    if not holding:
        return None
    if limits.max_drop is None:
        return min(holding, key=lambda one: (one.error, one.packed_bytes))
    return min(holding, key=lambda one: one.packed_bytes)


def knee(points: Sequence[T]) -> T:
    """Return the point of a curve behind which bytes cost most: farthest below the line between its ends.

    Bytes and errors of the outputs are taken as logarithms, each over its own range.

    Source:
        Satopaa et al. 2011, Finding a "Kneedle" in a Haystack.
    """
    ordered = sorted(points, key=lambda one: one.packed_bytes)
    x = [math.log(one.packed_bytes) for one in ordered]
    y = [math.log(max(one.error, 1e-12)) for one in ordered]
    wide, high = (max(max(values) - min(values), 1e-12) for values in (x, y))

    def height(number: int) -> float:
        return (x[number] - x[0]) / wide + (y[number] - y[-1]) / high

    return ordered[min(range(len(ordered)), key=height)]
