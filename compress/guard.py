"""Backing off: the smallest file whose score on 'val' stays within a limit of the model before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.dataset import METRICS

MOST_LOOKS = 8
_STEP = 4.0  # factor by which the price of a bit falls while a limit does not hold
_FINE = 1.25  # factor between prices that hold and do not, from which on the search is over
Tried = TypeVar("Tried")


class DropLimits(BaseModel):
    """How many points of a metric may be lost, in the middle of the paired interval; 0.5 is half a point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    map: float | None = Field(None, ge=0, le=100, description="Points of map (mAP50-95).")
    map75: float | None = Field(None, ge=0, le=100, description="Points of map75.")
    map50: float | None = Field(None, ge=0, le=100, description="Points of map50.")

    @model_validator(mode="after")
    def _limits_something(self) -> DropLimits:
        if not self.limits:
            raise ValueError(f"name at least one of {', '.join(METRICS)} with its points, e.g. {{map: 0.5}}.")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Return metric -> points, as far as they are limited."""
        return {name: value for name in METRICS if (value := getattr(self, name)) is not None}


def back_off(
    first: Tried,
    price: float,
    at: Callable[[float, Tried], Tried],
    holds: Callable[[Tried], bool],
    *,
    most_looks: int = MOST_LOOKS,
) -> Tried | None:
    """Return what was tried at the highest price that holds, to a quarter; None if none does.

    Args:
        first: what was tried at `price`, the highest that is wanted.
        price: of a bit, > 0.
        at: gives what there is at a price, starting from something near.
        holds: whether it may be; expensive.
        most_looks: how often `holds` is asked.
    """
    if holds(first):
        return first
    failing, looks, near = price, 1, first
    held: tuple[float, Tried] | None = None
    while looks < most_looks and (held is None or failing / held[0] > _FINE):
        price = failing / _STEP if held is None else math.sqrt(failing * held[0])
        near = at(price, near)
        looks += 1
        if holds(near):
            held = price, near
        else:
            failing = price
    return held[1] if held else None
