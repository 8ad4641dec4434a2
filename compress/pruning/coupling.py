"""Which layers must be pruned together, and what is cut where.

Every channel is followed through one forward pass (`channels`). Channels that meet in an addition, a group or a
cut become one class, a class is removed as a whole, and a class that a raw output, a norm over all channels or an
operator without a rule reads is frozen. Before a group is offered it is tried: half of all channels are zeroed in one
copy of the model and cut out of another, and both must agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd, lcm
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.layer_names import unknown_names
from compress.metrics.complexity import has_convolution_weight
from compress.pruning.channels.record import ChannelTrace
from compress.pruning.channels.trace import trace_channels
from compress.pruning.cutting import Side, cut_layer, cut_size, cut_table, zero_positions
from compress.pruning.reasons import (
    ALL_TOGETHER,
    COMPUTED_WEIGHT,
    NO_LAYER,
    NO_OUTPUT,
    OTHERS,
    OWN_RULE,
    TWO_DIMENSIONS,
    UNEVEN,
    Reason,
)
from compress.pruning.reasons import protected as protected_by


@dataclass(frozen=True)
class Member:
    """One side of one layer in a pruning group, or another thing that has a size for each channel.

    Attributes:
        name: of the module; of the parameter or buffer; or the place of an integer, 'block.c'.
        side: 'out' if output channels go, 'in' if input channels go; 'out' for layers whose
            inputs and outputs are the same channels (depthwise convolution, norms); 'table' for a parameter or
            buffer of a module that is no layer; 'size' for an integer that counts channels.
        channels: positions in this layer, one entry per removable position.
        roots: for each of `channels`, the channel of the group that it belongs to.
        dim: of a table, the dimension of the channels.
    """

    name: str
    side: Side
    channels: tuple[int, ...]
    roots: tuple[int, ...]
    dim: int = 0


@dataclass(frozen=True)
class PruningGroup:
    """Layers that lose the same channels.

    Attributes:
        root: name of the layer whose output channels number the group's channels.
        width: number of channels.
        members: everything that changes with them, the root included.
        channel_groups: 1, or how many channels of the root go at once: the number of equal parts that lose the same
            positions (grouped convolution, chunk, shuffle), or the size of a group of a norm.
        pattern: equal for groups of the same structure; the scope of isomorphic ranking.
    """

    root: str
    width: int
    members: tuple[Member, ...]
    channel_groups: int
    pattern: str

    @property
    def producers(self) -> tuple[str, ...]:
        """Return the names of the layers that lose output channels."""
        return tuple(member.name for member in self.members if member.side == "out")

    def unit(self, round_to: int) -> int:
        """Return of how many of the root's channels the kept width is a multiple.

        Every layer of the group keeps a multiple of `round_to` channels, those that have a part of the root's
        (behind a chunk) as well; where their width forbids it, the root does.
        """
        size = self.width // self.channel_groups
        least = min((len(member.channels) // size for member in self.members if member.side == "out"), default=1)
        unit = self.channel_groups * (round_to // gcd(round_to, max(least, 1)))
        return unit if self.width % unit == 0 else lcm(round_to, self.channel_groups)


@dataclass(frozen=True)
class Coupling:
    """All pruning groups of a model as it is now; stale after the model was pruned.

    Attributes:
        groups: prunable groups.
        not_prunable: layer name -> reason, for every convolution-like or linear layer whose output
            channels stay.
        custom: class -> Torch-Pruning rule.
    """

    groups: tuple[PruningGroup, ...]
    not_prunable: dict[str, Reason]
    custom: Mapping[type, Any]


def trace_coupling(
    model: nn.Module,
    example_input: Tensor,
    *,
    protected: Mapping[str, str],
    custom_pruners: Mapping[type, Any],
    refused: Mapping[str, Reason] | None = None,
) -> Coupling:
    """Find the pruning groups of a model.

    Args:
        model: float model; only read.
        example_input: (N, 3, H, W) on the model's device.
        protected: module name -> reason; these layers and those inside them keep their outputs.
        custom_pruners: exact class -> Torch-Pruning rule.
        refused: root of a group -> reason; groups that a trial showed to be inseparable.

    Raises:
        StageError: a protected name does not exist, or a custom layer does not return one tensor.
    """
    if (wrong := unknown_names("protect", protected, [name for name, _ in model.named_modules()])) is not None:
        raise StageError(wrong)
    trace, _ = trace_channels(model, example_input[:1], custom_pruners)
    _protect(trace, protected)
    for root, reason in (refused or {}).items():
        trace.classes.freeze(trace.sides[root, "out"], reason)
    groups = _groups(trace, model)
    reasons = _reasons(trace, model, groups, protected, custom_pruners)
    return Coupling(tuple(groups), reasons, custom_pruners)


def remove_channels(coupling: Coupling, model: nn.Module, removals: Mapping[str, Sequence[int]]) -> None:
    """Remove channels from everything that has them, in place.

    Args:
        coupling: of this very model, unchanged since it was traced.
        model: the traced model.
        removals: group root -> channels to remove.
    """
    model.zero_grad(set_to_none=True)
    gone: dict[tuple[str, Side, int], set[int]] = defaultdict(set)
    for group in coupling.groups:
        removed = set(removals.get(group.root, ()))
        for member in group.members if removed else ():
            pairs = zip(member.channels, member.roots, strict=True)
            gone[member.name, member.side, member.dim] |= {position for position, root in pairs if root in removed}
    for name in dict.fromkeys(name for name, _, _ in gone):
        own = {(side, dim): positions for (other, side, dim), positions in gone.items() if other == name}
        for (side, dim), positions in own.items():
            if side == "table":
                cut_table(model, name, dim, positions)
            elif side == "size":
                cut_size(model, name, len(positions))
        if {side for side, _ in own} & {"out", "in"}:
            layer = model.get_submodule(name)
            cut_layer(layer, own.get(("out", 0), set()), own.get(("in", 0), set()), coupling.custom)


def zero_channels(coupling: Coupling, model: nn.Module, removals: Mapping[str, Sequence[int]]) -> None:
    """Set to zero, in place, everything that `remove_channels` would take out.

    The network then computes what it computes without the channels.
    """
    with torch.no_grad():
        for group in coupling.groups:
            removed = set(removals.get(group.root, ()))
            for member in group.members if removed else ():
                pairs = zip(member.channels, member.roots, strict=True)
                positions = sorted({position for position, root in pairs if root in removed})
                if member.side == "table":
                    table = _tensor(model, member.name)
                    table.index_fill_(member.dim, torch.tensor(positions), 0)
                elif member.side != "size" and positions:
                    zero_positions(model.get_submodule(member.name), member.side, positions)


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, key = name.rpartition(".")
    return getattr(model.get_submodule(owner), key)  # type: ignore[no-any-return]


def _protect(trace: ChannelTrace, protected: Mapping[str, str]) -> None:
    """Freeze the outputs of the layers that the caller names, and of those inside them."""
    for (layer, side), labels in trace.sides.items():
        for name, reason in protected.items():
            if side == "out" and (layer == name or layer.startswith(f"{name}.") or not name):
                trace.classes.freeze(labels, protected_by(reason, name))


def _groups(trace: ChannelTrace, model: nn.Module) -> list[PruningGroup]:
    """Return the groups: classes that the same things have, equally often, under a layer of their own as root."""
    order = {name: i for i, name in enumerate(trace.roots)}
    while True:
        _settle_tables(trace)
        canonical = {key: trace.classes.canonical(labels) for key, labels in _things(trace).items()}
        groups: dict[str, PruningGroup] = {}
        left: list[tuple[set[int], Reason]] = []
        for classes, things in sorted(_alike(canonical).items(), key=lambda item: min(item[0])):
            makers = sorted(
                (name for name, side, _ in things if side == "out" and name in order), key=order.__getitem__
            )
            free = [name for name in makers if name not in groups]
            if len(classes) > 1 and free:
                alone = [name for name in free if set(canonical[name, "out", 0].tolist()) <= {0, *classes}]
                root = (alone or free)[0]
                groups[root] = _group(root, classes, {key: canonical[key] for key in things}, model)
            elif makers:
                left.append((set(classes), ALL_TOGETHER if len(classes) == 1 else UNEVEN))
            else:
                left.append((set(classes), NO_LAYER))
        if not left:
            return sorted(groups.values(), key=lambda group: order[group.root])
        for classes_left, reason in left:
            trace.classes.freeze(torch.tensor(sorted(classes_left)), reason)


def _alike(canonical: Mapping[tuple[str, Side, int], Tensor]) -> dict[tuple[int, ...], list[tuple[str, Side, int]]]:
    """Return classes that the same things have, equally often -> these things."""
    having: dict[int, list[tuple[tuple[str, Side, int], int]]] = defaultdict(list)
    for key, labels in canonical.items():
        for label, times in Counter(labels.tolist()).items():
            if label:
                having[label].append((key, times))
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for label, things in having.items():
        alike[tuple(things)].append(label)
    return {tuple(labels): [key for key, _ in things] for things, labels in alike.items()}


def _things(trace: ChannelTrace) -> dict[tuple[str, Side, int], Tensor]:
    """Return everything that is cut: (name, side, dimension) -> labels, one a position."""
    things: dict[tuple[str, Side, int], Tensor] = {}
    for (name, side), labels in trace.sides.items():
        things[name, "out" if side == "out" else "in", 0] = labels
    for name, labels in trace.tables.items():
        for dim in _moving(trace, labels):
            index = [0] * labels.dim()
            line: Any = tuple(slice(None) if d == dim else index[d] for d in range(labels.dim()))
            things[name, "table", dim] = labels[line]
    for place, labels in trace.sizes.items():
        things[place, "size", 0] = labels
    return things


def _moving(trace: ChannelTrace, labels: Tensor) -> list[int]:
    canonical = trace.classes.canonical(labels)
    return [d for d in range(labels.dim()) if not bool((canonical == canonical.narrow(d, 0, 1)).all())]


def _settle_tables(trace: ChannelTrace) -> None:
    """Freeze tables of values whose channels do not lie along one dimension."""
    while wrong := [labels for labels in trace.tables.values() if len(_moving(trace, labels)) > 1]:
        for labels in wrong:
            trace.classes.freeze(labels, TWO_DIMENSIONS)


def _group(
    root: str, classes: Sequence[int], canonical: Mapping[tuple[str, Side, int], Tensor], model: nn.Module
) -> PruningGroup:
    """Number the channels of the root part by part, and list everything that has them."""
    own = canonical[root, "out", 0].tolist()
    size, parts = len(classes), own.count(classes[0])
    order = {label: i for i, label in enumerate(dict.fromkeys(label for label in own if label in set(classes)))}
    members = []
    for (name, side, dim), labels in canonical.items():
        seen: Counter[int] = Counter()
        channels, roots = [], []
        for position, label in enumerate(labels.tolist()):
            if label in order:
                channels.append(position)
                roots.append(seen[label] % parts * size + order[label])
                seen[label] += 1
        members.append(Member(name, side, tuple(channels), tuple(roots), dim))
    places = {name: i for i, (name, _) in enumerate(model.named_modules())}
    members.sort(key=lambda m: (m.name != root or m.side != "out", m.side == "in", places.get(m.name, len(places))))
    layers = [member for member in members if member.side in ("out", "in")]
    pattern = " ".join(f"{type(model.get_submodule(layer.name)).__name__}.{layer.side}" for layer in layers)
    return PruningGroup(root, parts * size, tuple(members), parts, pattern)


def _reasons(
    trace: ChannelTrace,
    model: nn.Module,
    groups: Sequence[PruningGroup],
    protected: Mapping[str, str],
    custom: Mapping[type, Any],
) -> dict[str, Reason]:
    """Return why layers with a kernel keep their outputs."""
    seen = {name for group in groups for name in group.producers}
    reasons: dict[str, Reason] = {}
    owners = [name for name, module in model.named_modules() if type(module) in custom]
    for name, module in model.named_modules():
        if name in seen or not (
            has_convolution_weight(module) or isinstance(module, nn.Linear) or type(module) in custom
        ):
            continue
        if name in protected:
            reasons[name] = protected_by(protected[name])
        elif (labels := trace.sides.get((name, "out"))) is not None:
            reasons[name] = trace.fixed.get(name) or trace.classes.reason(labels) or OTHERS
        elif any(name.startswith(f"{owner}.") for owner in owners):
            reasons[name] = OWN_RULE
        else:
            reasons[name] = NO_OUTPUT if trace.owns_unread_weight(name) else COMPUTED_WEIGHT
    return reasons
