"""Layers: where channels begin, and which of them go on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compress.pruning.channels.call import Call, collapse, varying
from compress.pruning.channels.record import ChannelTrace
from compress.pruning.reasons import (
    COMPUTED_CONVOLUTION,
    COMPUTED_LINEAR,
    DEFORMABLE_GROUPS,
    GROUP_NORM,
    GROUP_NORM_WITHOUT_SCALE,
    NORM_OVER_CHANNELS,
    OWN_DEFORMABLE_GROUPS,
    RAW_OUTPUT,
    grouped,
    tensors_of_no_layer,
)


def vector(call: Call, labels: Tensor | None, dim: int, size: int) -> Tensor:
    """Return the labels along one dimension, (size,), zeros where all is fixed; the other dimensions go together."""
    if labels is None:
        return torch.zeros(size, dtype=torch.int64)
    labels = collapse(call, labels, [dim])
    return labels.flatten().expand(size) if labels.numel() == 1 else labels.flatten()


def along(labels: Tensor, dim: int, rank: int) -> Tensor:
    """Return labels (size,) as those of a tensor of some rank whose channels lie in one dimension."""
    shape = [1] * rank
    shape[dim] = -1
    return labels.reshape(shape)


def convolution(trace: ChannelTrace, call: Call) -> Tensor | None:
    """New channels, or, channel by channel, those of the input; equal parts of groups lose the same positions."""
    x, weight = call.args[0], call.args[1]
    groups = call.args[8]
    layer = trace.layer_with(weight, x.shape[1], call.out.shape[1])
    channels = vector(call, trace.labels_of(x), 1, x.shape[1])
    if layer is None:
        trace.classes.freeze(channels, COMPUTED_CONVOLUTION)
        return None
    name, rank, width = layer[0], call.out.dim(), call.out.shape[1]
    if groups > 1 and groups == x.shape[1]:
        repeated = channels.repeat_interleave(width // groups)
        trace.explain(name, x)
        return along(trace.side(name, "out", repeated), 1, rank)
    own = trace.new_channels(name, width)
    if groups > 1:
        for labels, size in ((channels, len(channels) // groups), (own, width // groups)):
            trace.classes.unite(labels.view(groups, size), labels[:size].expand(groups, size), grouped(name))
    trace.side(name, "in", channels)
    return along(own, 1, rank)


def linear(trace: ChannelTrace, call: Call) -> Tensor | None:
    """New channels in the last dimension."""
    x, weight = call.args[0], call.args[1]
    layer = trace.layer_with(weight, x.shape[-1], call.out.shape[-1])
    channels = vector(call, trace.labels_of(x), -1, x.shape[-1])
    if layer is None:
        trace.classes.freeze(channels, COMPUTED_LINEAR)
        return None
    trace.side(layer[0], "in", channels)
    own = trace.new_channels(layer[0], call.out.shape[-1])
    return along(own, call.out.dim() - 1, call.out.dim())


def deformable(trace: ChannelTrace, call: Call) -> Tensor | None:
    """Torchvision's deform_conv2d: a convolution whose offsets and mask stay."""
    x, weight, *fields = call.args[:4]
    for tensor in fields:
        if isinstance(tensor, Tensor) and (labels := trace.labels_of(tensor)) is not None:
            trace.classes.freeze(labels, RAW_OUTPUT)
    layer, groups, offset_groups = trace.layer(weight), call.args[11], call.args[12]
    channels = vector(call, trace.labels_of(x), 1, x.shape[1])
    if layer is None or groups != 1 or offset_groups != 1:
        trace.classes.freeze(channels, DEFORMABLE_GROUPS)
        if layer is not None:
            trace.classes.freeze(trace.new_channels(layer[0], call.out.shape[1]), OWN_DEFORMABLE_GROUPS)
        return None
    trace.side(layer[0], "in", channels)
    return along(trace.new_channels(layer[0], call.out.shape[1]), 1, 4)


def channel_norm(trace: ChannelTrace, call: Call) -> Tensor | None:
    """Batch and instance norm, PReLU: each channel on its own."""
    x = call.args[0]
    owned = [tensor for tensor in call.tensors()[1:] if trace.layer(tensor) is not None]
    labels = trace.labels_of(x)
    if labels is None:
        return None
    channels = vector(call, labels, 1, x.shape[1])
    if owned:
        layer = trace.layer(owned[0])
        assert layer is not None
        if call.name != "prelu" or owned[0].numel() > 1:
            trace.side(layer[0], "out", channels)
    elif any(tensor.numel() > 1 for tensor in call.tensors()[1:]):
        trace.classes.freeze(channels, tensors_of_no_layer(call.name))
        return None
    return along(channels, 1, x.dim())


def group_norm(trace: ChannelTrace, call: Call) -> Tensor | None:
    """Group norm loses whole groups, so that the statistics of the others stay what they were."""
    x, groups = call.args[0], call.args[1]
    labels = trace.labels_of(x)
    if labels is None:
        return None
    channels = vector(call, labels, 1, x.shape[1])
    size = len(channels) // groups
    if groups == 1:
        trace.classes.freeze(channels, NORM_OVER_CHANNELS)
        return None
    parts = channels.view(groups, size)
    trace.classes.unite(parts, parts[:, :1].expand_as(parts), GROUP_NORM)
    layer = next((trace.layer(tensor) for tensor in call.tensors()[1:] if trace.layer(tensor)), None)
    if layer is None:
        trace.classes.freeze(channels, GROUP_NORM_WITHOUT_SCALE)
        return None
    trace.side(layer[0], "out", channels)
    return along(channels, 1, x.dim())


def layer_norm(trace: ChannelTrace, call: Call) -> Tensor | None:
    """Layer norm mixes what it normalizes over."""
    x, last = call.args[0], len(call.args[1])
    labels = trace.labels_of(x)
    if labels is None:
        return None
    if any(dim >= x.dim() - last for dim in varying(labels)):
        trace.classes.freeze(labels, NORM_OVER_CHANNELS)
        return None
    return labels


LAYERS: dict[str, Callable[[ChannelTrace, Call], Tensor | None]] = {
    "convolution": convolution,
    "linear": linear,
    "deform_conv2d": deformable,
    "batch_norm": channel_norm,
    "instance_norm": channel_norm,
    "prelu": channel_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
}
