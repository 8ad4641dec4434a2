"""Of several steps on one part, the one that changes most. Torch-free: reports ask it too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class _OnPart(Protocol):
    @property
    def what(self) -> str: ...
    @property
    def part(self) -> str: ...
    @property
    def amount(self) -> float: ...


OnPart = TypeVar("OnPart", bound=_OnPart)


def strongest(steps: Sequence[OnPart]) -> list[OnPart]:
    """Return of each part the largest share of 'channels', and the fewest bits; the order stays."""
    chosen: dict[tuple[str, str], OnPart] = {}
    for step in steps:
        now = chosen.setdefault((step.what, step.part), step)
        if step.amount > now.amount if step.what == "channels" else step.amount < now.amount:
            chosen[step.what, step.part] = step
    return [step for step in steps if chosen[step.what, step.part] is step]
