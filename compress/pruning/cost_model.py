"""What a network costs, as exact arithmetic on the widths of its pruning groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from compress.errors import StageError
from compress.metrics.complexity import Complexity, measure_complexity
from compress.pruning.coupling import PruningGroup
from compress.pruning.settings import Metric

if TYPE_CHECKING:
    from torch import Tensor, nn


# Layer -> side -> root of a group, how many of the layer's channels are the group's, and how many the group has.
_Changes = dict[str, dict[str, list[tuple[str, int, int]]]]


class CostModel:
    """MACs or parameters of a model as an exact function of the widths of its groups."""

    def __init__(
        self, model: nn.Module, complexity: Complexity, groups: Sequence[PruningGroup], metric: Metric
    ) -> None:
        self.full = {group.root: group.width for group in groups}
        changes: _Changes = defaultdict(lambda: defaultdict(list))
        for group in groups:
            for member in group.members:
                key = f"{member.name}:{member.dim}" if member.side == "table" else member.name
                changes[key][member.side].append((group.root, len(member.channels), group.width))
        self._fixed = 0
        # Each term: cost now, width of each side now, and the groups that narrow that side: root, how many of this
        # layer's channels are theirs, and how many channels they have.
        self._terms: list[tuple[int, list[tuple[int, list[tuple[str, int, int]]]]]] = []
        for cost, width, dim_changes in _tables(model, changes) if metric == "params" else ():
            self._terms.append((cost, [(width, dim_changes)]))
            self._fixed -= cost  # counted once more below, as a parameter of its module
        for name, module in model.named_modules():
            for cost, sides in _terms_of(name, module, complexity, metric):
                narrowed = [
                    (_side_width(module, side), changes[name][side])
                    for side in sides
                    if changes.get(name, {}).get(side)
                ]
                if narrowed:
                    self._terms.append((cost, narrowed))
                else:
                    self._fixed += cost

    def cost(self, kept: Mapping[str, int]) -> int:
        """Return the cost if each group keeps so many channels."""
        total = self._fixed
        for cost, sides in self._terms:
            for width, changes in sides:
                left = width - sum(own * (self.full[root] - kept[root]) // full for root, own, full in changes)
                cost = cost * left // width
            total += cost
        return total


def _tables(model: nn.Module, changes: _Changes) -> Iterable[tuple[int, int, list[tuple[str, int, int]]]]:
    """Yield values, width and groups of every parameter that is cut and belongs to no layer."""
    for name, parameter in model.named_parameters():
        for dim, width in enumerate(parameter.shape):
            if narrowed := changes.get(f"{name}:{dim}", {}).get("table"):
                yield parameter.numel(), width, narrowed


def _terms_of(
    name: str, module: nn.Module, complexity: Complexity, metric: Metric
) -> Iterable[tuple[int, tuple[str, ...]]]:
    if metric == "macs":
        if name in complexity.layers:
            yield complexity.layers[name].macs, ("out", "in")
        return
    for parameter in module.parameters(recurse=False):
        yield parameter.numel(), ("out", "in") if parameter.dim() > 1 else ("out",)


def _side_width(module: nn.Module, side: str) -> int:
    names = {
        "out": ("out_channels", "out_features", "num_features", "num_channels", "num_parameters"),
        "in": ("in_channels", "in_features"),
    }
    for name in names[side]:
        if isinstance(width := getattr(module, name, None), int):
            return width
    raise StageError(f"{type(module).__name__} has no attribute for its {side} width, so it cannot be planned.")


def measure_cost(model: nn.Module, example_input: Tensor, metric: Metric) -> int:
    """Return MACs of one image, or parameters, of a model as it is."""
    complexity = measure_complexity(model, example_input)
    return complexity.macs if metric == "macs" else complexity.params
