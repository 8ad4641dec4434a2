"""How wide both sides of every layer are, as a function of the widths of the pruning groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from compress.errors import StageError

if TYPE_CHECKING:
    from torch import nn

    from compress.pruning.coupling import PruningGroup

_NAMES = {
    "out": ("out_channels", "out_features", "num_features", "num_channels", "num_parameters"),
    "in": ("in_channels", "in_features"),
}


class SideWidths:
    """Which groups narrow which side of which layer.

    A side is named 'out', 'in', or 'table:0' for dimension 0 of a parameter that belongs to no layer.

    Attributes:
        full: root -> width of each group as it is.
    """

    def __init__(self, groups: Sequence[PruningGroup]) -> None:
        self.full = {group.root: group.width for group in groups}
        # Layer -> side -> root of a group, how many of the layer's channels are the group's, how many the group has.
        self._narrowed: dict[str, dict[str, list[tuple[str, int, int]]]] = defaultdict(lambda: defaultdict(list))
        for group in groups:
            for member in group.members:
                side = f"table:{member.dim}" if member.side == "table" else member.side
                self._narrowed[member.name][side].append((group.root, len(member.channels), group.width))

    def is_narrowed(self, layer: str, side: str) -> bool:
        """Return whether any group narrows that side."""
        return bool(self._narrowed.get(layer, {}).get(side))

    def left(self, layer: str, side: str, width: int, kept: Mapping[str, int]) -> int:
        """Return how many of a side's `width` channels stay if each group keeps so many."""
        changes: Iterable[tuple[str, int, int]] = self._narrowed.get(layer, {}).get(side, ())
        return width - sum(own * (self.full[root] - kept[root]) // full for root, own, full in changes)


def side_width(module: nn.Module, side: str) -> int:
    """Return the channels of one side of a layer as it is.

    Raises:
        StageError: the layer does not tell.
    """
    for name in _NAMES[side]:
        if isinstance(width := getattr(module, name, None), int):
            return width
    raise StageError(f"{type(module).__name__} has no attribute for its {side} width, so it cannot be planned.")
