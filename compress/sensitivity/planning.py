"""Which steps are tried on a network, and what each takes off it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.metrics.complexity import Complexity, measure_complexity, prunable_weights
from compress.model_copy import copy_of
from compress.pruning.coupling import Coupling, remove_channels
from compress.quantization.calibration import value_range
from compress.sensitivity.rounding import CODED_BITS, coded_bits
from compress.sensitivity.steps import Freed, Step

PERCENTILE = 99.99  # of an image's values that the range of a rounded input holds, as quantization does by default
COMPUTED = "its weight is computed at each call or shared with another layer"
NEVER_CALLED = "no output depends on it"
Ranges = dict[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True)
class Whole:
    """A network before any step.

    Attributes:
        cost: parameters and MACs.
        layers: layers whose weights and inputs can be rounded, in the order of the model's modules.
        left_out: other layers -> why.
    """

    cost: Complexity
    layers: tuple[str, ...]
    left_out: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, example: Tensor) -> Whole:
        """Look at a model; `example` is (1, 3, H, W) at the deployed size."""
        cost, own = measure_complexity(model, example), dict(model.named_parameters())
        reasons = {}
        for name in prunable_weights(model):
            if f"{name}.weight" not in own:
                reasons[name] = COMPUTED
            elif name not in cost.layers:
                reasons[name] = NEVER_CALLED
        return cls(cost, tuple(name for name in prunable_weights(model) if name not in reasons), reasons)


def weight_steps(model: nn.Module, whole: Whole, bits: Iterable[int]) -> list[Step]:
    """Return the roundings of each layer's weights, and what they free of the network's coded weights."""
    coded = {name: coded_bits(model.get_submodule(name)) for name in whole.layers}
    total = sum(coded.values())
    return [
        Step("weights", name, width, freed=Freed(bytes=_share(coded[name] - _bits(model, name, width), total)))
        for name in whole.layers
        for width in sorted(bits, reverse=True)
    ]


def activation_steps(whole: Whole, ranges: Ranges, bits: Iterable[int]) -> list[Step]:
    """Return the roundings of what enters each layer."""
    widths = sorted(bits, reverse=True)
    return [Step("activations", name, width, ranges=ranges[name]) for name in whole.layers for width in widths]


def with_freed(
    steps: Sequence[Step], model: nn.Module, coupling: Coupling, whole: Whole, example: Tensor
) -> list[Step]:
    """Return removals of channels with what they free: each is cut out of a copy of the model, and that is measured."""
    total = sum(coded_bits(model.get_submodule(name)) for name in whole.layers)
    found = []
    for step in steps:
        cut = copy_of(model)
        remove_channels(coupling, cut, {step.part: step.channels})
        cost = measure_complexity(cut, example)
        left = sum(coded_bits(cut.get_submodule(name)) for name in whole.layers)
        freed = Freed(
            params=_share(whole.cost.params - cost.params, whole.cost.params),
            macs=_share(whole.cost.macs - cost.macs, whole.cost.macs),
            bytes=_share(total - left, total),
        )
        found.append(replace(step, freed=freed))
    return found


def input_ranges(model: nn.Module, names: Iterable[str], images: Iterable[Tensor]) -> Ranges:
    """Return what enters layers, call by call: the widest of the images' own ranges.

    Args:
        model: in evaluation mode.
        names: of layers; their first argument is looked at.
        images: batches, (N, 3, H, W), normalized.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    position = dict.fromkeys(found, 0)
    hooks = [model.get_submodule(name).register_forward_pre_hook(_watch(name, found, position)) for name in found]
    try:
        with torch.no_grad():
            for batch in images:
                position.update(dict.fromkeys(found, 0))
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: tuple(ranges) for name, ranges in found.items()}


def _watch(name: str, found: dict[str, list[tuple[float, float]]], position: dict[str, int]) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        low, high = value_range(inputs[0].detach(), PERCENTILE)
        ranges, call = found[name], position[name]
        before = ranges[call] if call < len(ranges) else (math.inf, -math.inf)
        ranges[call : call + 1] = [(min(low, before[0]), max(high, before[1]))]
        position[name] = call + 1

    return hook


def in_order(steps: Iterable[Step], model: nn.Module) -> list[Step]:
    """Return the steps by the place of their parts in the model: those that share much of a forward pass are near."""
    places = {name: number for number, (name, _) in enumerate(model.named_modules())}
    return sorted(steps, key=lambda step: places[step.part])


def _bits(model: nn.Module, name: str, width: int) -> float:
    return coded_bits(model.get_submodule(name), min(width, CODED_BITS))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
