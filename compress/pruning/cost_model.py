"""MACs and parameters of a network, as exact arithmetic on the widths of its pruning groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from compress.metrics.complexity import Complexity, measure_complexity
from compress.pruning.side_widths import SideWidths, side_width

if TYPE_CHECKING:
    from torch import Tensor, nn

Count = Literal["macs", "params"]


class CostModel:
    """MACs or parameters of a model as an exact function of the widths of its groups."""

    def __init__(self, model: nn.Module, complexity: Complexity, widths: SideWidths, count: Count) -> None:
        self._widths = widths
        self._fixed = 0
        # Each term: cost now, and the layer, side and width now of everything that scales it.
        self._terms: list[tuple[int, list[tuple[str, str, int]]]] = []
        for name, parameter in model.named_parameters() if count == "params" else ():
            for dim, width in enumerate(parameter.shape):  # of a parameter that is cut and belongs to no layer
                if widths.is_narrowed(name, f"table:{dim}"):
                    self._terms.append((parameter.numel(), [(name, f"table:{dim}", width)]))
                    self._fixed -= parameter.numel()  # counted once more below, as a parameter of its module
        for name, module in model.named_modules():
            for cost, sides in _terms_of(name, module, complexity, count):
                narrowed = [(name, side, side_width(module, side)) for side in sides if widths.is_narrowed(name, side)]
                if narrowed:
                    self._terms.append((cost, narrowed))
                else:
                    self._fixed += cost

    def cost(self, kept: Mapping[str, int]) -> int:
        """Return the cost if each group keeps so many channels."""
        total = self._fixed
        for cost, sides in self._terms:
            for name, side, width in sides:
                cost = cost * self._widths.left(name, side, width, kept) // width
            total += cost
        return total


def _terms_of(
    name: str, module: nn.Module, complexity: Complexity, count: Count
) -> Iterable[tuple[int, tuple[str, ...]]]:
    if count == "macs":
        if name in complexity.layers:
            yield complexity.layers[name].macs, ("out", "in")
        return
    for parameter in module.parameters(recurse=False):
        yield parameter.numel(), ("out", "in") if parameter.dim() > 1 else ("out",)


def measure_cost(model: nn.Module, example_input: Tensor, count: Count) -> int:
    """Return MACs of one image, or parameters, of a model as it is."""
    complexity = measure_complexity(model, example_input)
    return complexity.macs if count == "macs" else complexity.params
