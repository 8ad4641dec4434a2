"""Widths of pruning groups: how narrow they may become, what a recipe asks for, and what each step reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

from compress.errors import StageError
from compress.layer_names import unknown_names
from compress.pruning.coupling import PruningGroup
from compress.pruning.reasons import Reason

Widths = dict[str, int]  # root of a group -> channels kept


def narrowest_widths(
    groups: Sequence[PruningGroup], original: Mapping[str, int], *, round_to: int, max_pruning_ratio: float
) -> Widths:
    """Return how narrow each group may become.

    Args:
        groups: as traced.
        original: root -> width before the first step.
        round_to: widths are multiples of it.
        max_pruning_ratio: share of the original width that may go.

    Raises:
        StageError: round_to does not divide a group's width.
    """
    floors = {}
    for group in reversed(groups):
        unit = group.unit(round_to)
        if group.width % unit:
            fits = gcd(round_to, *(other.width for other in groups))
            raise StageError(
                f"round_to: {round_to} does not divide {group.width} channels of {group.root}. "
                f"Use {fits}, or protect the layer."
            )
        least = original[group.root] * (1 - max_pruning_ratio)
        floors[group.root] = min(max(round_up(least, unit), unit), group.width)
    return floors


def round_up(width: float, unit: int) -> int:
    """Return the least multiple of the unit that is not below the width."""
    return int(-(-round(width, 6) // unit)) * unit


def given_widths(
    groups: Sequence[PruningGroup], widths: Mapping[str, int], *, round_to: int, kept: Mapping[str, Reason]
) -> Widths:
    """Return root -> width for the groups whose width is given by the name of one of their layers.

    Args:
        groups: as traced.
        widths: layer name -> channels that its group shall have.
        round_to: widths are multiples of it.
        kept: layer name -> why its width cannot be chosen.

    Raises:
        StageError: a layer is unknown or not prunable, two layers of a group disagree, or a width
            is larger than the present one or not a multiple.
    """
    group_of = {name: group for group in groups for name in group.producers}
    if (wrong := unknown_names("widths", widths, [*group_of, *kept], what="layer with channels")) is not None:
        raise StageError(wrong)
    given: Widths = {}
    for name, width in widths.items():
        if (group := group_of.get(name)) is None:
            raise StageError(f"widths: {name} keeps its channels: {kept[name]}. {kept[name].cure}".rstrip())
        unit = group.unit(round_to)
        if width % unit or width > group.width:
            raise StageError(
                f"widths: {name} shall have {width} channels and has {group.width}. "
                f"Give a multiple of {unit}, at most {group.width}."
            )
        if given.setdefault(group.root, width) != width:
            raise StageError(
                f"widths: {name} shall have {width} channels, but its group, {group.root}'s, {given[group.root]}. "
                "Layers of a group have one width: name one of them."
            )
    return given


def step_width(width: int, final: int, *, step: int, steps: int, round_to: int) -> int:
    """Return the width after one of several steps (1-based): equal factors, rounded up, the last one exact."""
    if step == steps:
        return final
    return max(min(round_up(width * (final / width) ** (step / steps), round_to), width), final)
