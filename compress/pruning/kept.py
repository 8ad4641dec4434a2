"""Tells which layers of a network keep their channels, why, and what can be done about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from compress.pruning.budget import cost_text
from compress.pruning.reasons import Reason
from compress.pruning.target import COUNTED

if TYPE_CHECKING:
    from compress.metrics.complexity import Complexity
    from compress.pruning.budget import Budget
    from compress.pruning.cost_model import Count
    from compress.pruning.settings import PruningSettings

MOST_NAMES = 3  # layers that are named for one reason
MOST_REASONS = 6


def unreachable(
    model: nn.Module,
    kept: Mapping[str, Reason],
    complexity: Complexity,
    settings: PruningSettings,
    budget: Budget,
    narrowest: Mapping[str, int],
    *,
    full: Mapping[str, float],
) -> str:
    """Return why a target cannot be reached: how far pruning gets, which layers are kept whole, and the cures.

    Args:
        model: as it is.
        kept: layer name -> why it keeps its channels.
        complexity: of the model.
        settings: the limits of widths that were held.
        budget: what was wanted.
        narrowest: root -> least width.
        full: name of a limit -> cost that its target is a share of.
    """
    limit = budget.tightest(narrowest)
    name, least, whole = limit.name, limit.function.cost(narrowest), full[limit.name]
    asked = math.ceil(100 * least / whole) / 100
    less = f"Ask for {asked:.2f} or more" if asked < 1 else "Leave the stage out"
    if name not in COUNTED:
        less = f"Ask for {cost_text(name, least)} or more"
    text = (
        f"target {name} {cost_text(name, limit.most)} ({limit.most / whole:.2f}) cannot be reached: "
        f"{cost_text(name, least)} "
        f"({least / whole:.2f}) stay at max_pruning_ratio {settings.max_pruning_ratio:g} and round_to "
        f"{settings.round_to}. "
    )
    count: Count = "params" if name in ("params", "packed_bytes") else "macs"
    lines = kept_lines(model, kept, costs_of(model, complexity, count), unit=count)
    if not lines:
        return f"{text}{less}, raise max_pruning_ratio or lower round_to."
    return "\n".join([f"{text}{less}, raise max_pruning_ratio, or change what keeps its channels:", *lines])


def costs_of(model: nn.Module, complexity: Complexity, count: Count) -> dict[str, int]:
    """Return layer name -> MACs of one image, or parameters."""
    if count == "macs":
        return {name: cost.macs for name, cost in complexity.layers.items()}
    modules = model.named_modules()
    return {name: sum(p.numel() for p in module.parameters(recurse=False)) for name, module in modules}


def kept_lines(
    model: nn.Module, kept: Mapping[str, Reason], costs: Mapping[str, int] | None = None, *, unit: str = ""
) -> list[str]:
    """Return a line for each kind of block and reason: layers, the block, why they keep their channels, and the cure.

    Args:
        model: that has the layers.
        kept: layer name -> why.
        costs: layer name -> cost; the most expensive come first, with their share of all costs.
        unit: of the costs, as it is named to people.
    """
    together: dict[tuple[str, Reason], list[str]] = {}
    for name, reason in kept.items():
        together.setdefault((block_of(model, name)[1], reason), []).append(name)
    whole = sum((costs or {}).values())

    def cost(names: list[str]) -> int:
        return sum((costs or {}).get(name, 0) for name in names)

    ordered = sorted(together.items(), key=lambda item: -cost(item[1]))
    lines = []
    for (kind, reason), names in ordered[:MOST_REASONS]:
        share = f", {cost(names) / whole:.0%} of the {unit}" if whole else ""
        cure = f" {reason.cure}" if reason.cure else ""
        lines.append(f"  {_listed(names)} (in {_blocks(model, kind, names)}{share}): {reason}.{cure}")
    if rest := sum(len(names) for _, names in ordered[MOST_REASONS:]):
        lines.append(f"  and {rest} more {'layer' if rest == 1 else 'layers'}; the report of a run names them all")
    return lines


def block_of(model: nn.Module, name: str) -> tuple[str, str]:
    """Return path and class of the innermost module around a layer that is neither a container nor one of torch's."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:length])
        module = model.get_submodule(path)
        kind = type(module)
        is_container = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        if not is_container and not kind.__module__.startswith("torch."):
            return path, kind.__name__
    return "", type(model).__name__


def _blocks(model: nn.Module, kind: str, names: list[str]) -> str:
    """Return the block of some layers: 'block.attn, an Attention'; or how many of a class they are in."""
    paths = {block_of(model, name)[0] for name in names}
    if len(paths) > 1:
        return f"{len(paths)} modules {kind}"
    (path,) = paths
    return f"{path}, {'an' if kind[0] in 'AEIOU' else 'a'} {kind}" if path else kind


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"
