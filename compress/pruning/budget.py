"""Limits on what a network may cost, several at once, as one number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from compress.pruning.side_widths import SideWidths


class CostFunction(Protocol):
    """What a network costs, by the widths of its groups."""

    def cost(self, kept: Mapping[str, int]) -> float:
        """Return the cost if each group keeps so many channels."""
        ...


class Meter(Protocol):
    """Measures networks as they would be deployed, and learns from it what layers cost."""

    @property
    def networks(self) -> int:
        """Return how many networks of different widths were measured."""
        ...

    def measure(self, model: nn.Module) -> None:
        """Measure a network, unless one of its widths was; it is the latest in either case."""
        ...

    def costs(self, model: nn.Module) -> Mapping[str, float]:
        """Return name of a limit -> cost of a network, measured."""
        ...

    def cost_functions(self, model: nn.Module, widths: SideWidths) -> Mapping[str, CostFunction]:
        """Return name of a limit -> cost of a network by its widths, from all that was measured."""
        ...


@dataclass(frozen=True)
class Limit:
    """One limit: its name, the cost that it is about, and the most that this may be."""

    name: str
    function: CostFunction
    most: float


class Budget:
    """Limits that shall all hold."""

    def __init__(self, limits: Sequence[Limit], full: Mapping[str, int]) -> None:
        """Take limits and root -> width of each group as it is."""
        self.limits = tuple(limits)
        self.full = dict(full)
        over = {one.name: max(one.function.cost(full) / one.most - 1, 0.0) for one in self.limits}
        whole = sum(over.values())
        self._weights = {name: value / whole if whole else 1 / len(over) for name, value in over.items()}

    def most(self, name: str) -> float:
        """Return the most that a cost may be."""
        return next(one.most for one in self.limits if one.name == name)

    def with_limit(self, name: str, most: float) -> Budget:
        """Return the same with another limit of one name."""
        changed = [replace(one, most=most) if one.name == name else one for one in self.limits]
        return Budget(changed, self.full)

    def used(self, kept: Mapping[str, int]) -> float:
        """Return the largest share of a limit that is used; all limits hold at 1 and below."""
        return max(one.function.cost(kept) / one.most for one in self.limits)

    def freed(self, kept: Mapping[str, int]) -> float:
        """Return what narrower widths free, in shares of the limits; those count most that are missed most."""
        return sum(
            self._weights[one.name] * (one.function.cost(self.full) - one.function.cost(kept)) / one.most
            for one in self.limits
        )

    def tightest(self, kept: Mapping[str, int]) -> Limit:
        """Return the limit that is used most."""
        return max(self.limits, key=lambda one: one.function.cost(kept) / one.most)


def cost_text(name: str, cost: float) -> str:
    """Return a cost for people: '1,234' MACs, parameters and bytes, '12.34 ms'."""
    return f"{cost:.2f} ms" if name == "latency_ms" else f"{cost:,.0f}"
