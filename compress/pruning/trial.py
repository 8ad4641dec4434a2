"""Tries whether a network without some channels computes what it computes with them at zero.

A forward pass may have sizes of its own that no trace shows: a literal bound of a slice, a scale made of a width. So
channels of every group are zeroed in one copy of the model and cut out of another before any group is
offered; if the two differ, or one does not run, the groups at fault are found by halving.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.metrics.complexity import first_tensor
from compress.model_copy import copy_of
from compress.pruning.coupling import Coupling, PruningGroup, remove_channels, zero_channels
from compress.pruning.reasons import COMPUTES_OTHER, OUTPUT_CHANGES, Reason, does_not_run

TOLERANCE = 1e-3  # relative L2 error of a raw output; float32 sums in another order stay far below


def groups_at_fault(model: nn.Module, example: Tensor, coupling: Coupling) -> dict[str, Reason]:
    """Return root -> why, for the groups without whose channels the model computes something else.

    Args:
        model: unchanged.
        example: (1, 3, H, W).
        coupling: of this model.
    """
    found: dict[str, Reason] = {}
    pending = [list(coupling.groups)]
    while pending:
        groups = pending.pop()
        if not groups or (why := _difference(model, example, coupling, groups)) is None:
            continue
        if len(groups) == 1:
            found[groups[0].root] = why
        else:
            middle = len(groups) // 2
            pending += [groups[middle:], groups[:middle]]
    return found


def some_channels(group: PruningGroup, every: int) -> list[int]:
    """Return a share of a group's channels, the same positions in each part."""
    size = group.width // group.channel_groups
    return [part * size + i for part in range(group.channel_groups) for i in range(1, size, every)]


def _difference(model: nn.Module, example: Tensor, coupling: Coupling, groups: Sequence[PruningGroup]) -> Reason | None:
    """Return what goes wrong without some channels of some groups, None if nothing does."""
    # Other shares for other groups: two widths that must be equal shall not be equal by chance.
    number = {group.root: i for i, group in enumerate(coupling.groups)}
    removals = {group.root: some_channels(group, 2 + number[group.root] % 3) for group in groups}
    zeroed, cut = copy_of(model).eval(), copy_of(model).eval()
    zero_channels(coupling, zeroed, removals)
    expected = _run(zeroed, example)
    try:
        remove_channels(coupling, cut, removals)
        found = _run(cut, example)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        return does_not_run(error)
    for before, after in zip(expected, found, strict=True):
        if before.shape != after.shape:
            return OUTPUT_CHANGES
        difference = float((after - before).double().norm())
        if not difference <= TOLERANCE * float(before.double().norm()) + 1e-6:
            return COMPUTES_OTHER
    return None


def _run(model: nn.Module, example: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [tensor.float() for tensor in tensors_of(model(example))]


def tensors_of(value: object) -> list[Tensor]:
    """Return every tensor in nested dicts, tuples and lists."""
    if isinstance(value, dict):
        return [tensor for entry in value.values() for tensor in tensors_of(entry)]
    if isinstance(value, list | tuple):
        return [tensor for entry in value for tensor in tensors_of(entry)]
    return [first_tensor(value)]
