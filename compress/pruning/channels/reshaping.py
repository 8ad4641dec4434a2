"""Operators that move values: new shapes, permutations, shuffles of channels.

Where possible the operator is run on the labels themselves, so no index arithmetic is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from compress.pruning.channels.call import Call, collapse, compact, varying


def moved(call: Call) -> Any:
    """Run the operator on the labels."""
    tensor = call.args[0]
    labels = call.first()
    assert labels is not None
    full = labels.expand(tensor.shape)
    operator = getattr(torch.ops.aten, call.name)
    result = operator(full, *call.args[1:], **call.kwargs)
    if isinstance(result, Tensor):
        return compact(result)
    return [compact(one) for one in result]


def reshaped(call: Call) -> Tensor | None:
    """Split and merge dimensions; parts of a split dimension lose the same positions."""
    tensor, shape = call.args[0], call.out.shape
    labels = call.first()
    assert labels is not None
    for ins, outs in _segments(tensor.shape, shape):
        moving = varying(labels) & set(ins)
        if not moving or len(outs) <= 1:
            continue
        if len(ins) > 1:
            call.classes.freeze(labels, call.fixed_by)
            return None
        dim = ins[0]
        sizes = [shape[out] for out in outs]
        keep = outs.index(call.flexible) if call.flexible in outs else len(outs) - 1
        split = labels.movedim(dim, -1).unflatten(-1, sizes)
        parts = split.movedim(split.dim() - len(outs) + keep, -1).flatten(-len(outs), -2)
        call.classes.unite(parts, parts.narrow(-2, 0, 1).expand_as(parts), call.fixed_by)
        labels = call.classes.canonical(labels)
    return compact(labels.expand(tensor.shape).reshape(shape))


def _segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return which dimensions of two shapes hold the same values, as short lists as possible; sizes of 1 left out."""
    result, i, j = [], 0, 0
    ins = [d for d in range(len(before)) if before[d] != 1]
    outs = [d for d in range(len(after)) if after[d] != 1]
    while i < len(ins) or j < len(outs):
        a, b = ins[i : i + 1], outs[j : j + 1]
        i, j = i + 1, j + 1
        while (left := prod(before[d] for d in a)) != (right := prod(after[d] for d in b)):
            if left < right:
                a.append(ins[i])
                i += 1
            else:
                b.append(outs[j])
                j += 1
        result.append((a, b))
    return result


def blocks_of(call: Call, labels: Tensor, dim: int, size: int) -> Tensor:
    """Let neighbouring channels in blocks of a size go together."""
    parts = labels.movedim(dim, -1).unflatten(-1, (-1, size))
    call.classes.unite(parts, parts[..., :1].expand_as(parts), call.fixed_by)
    return call.classes.canonical(labels)


def parts_of(call: Call, labels: Tensor, dim: int, size: int) -> Tensor:
    """Let equal parts of a dimension, `size` channels each, lose the same positions."""
    parts = labels.movedim(dim, -1).unflatten(-1, (-1, size))
    call.classes.unite(parts, parts[..., :1, :].expand_as(parts), call.fixed_by)
    return call.classes.canonical(labels)


def shuffled_out(call: Call) -> Any:
    """PixelShuffle: the channels that make one output channel go together."""
    labels = call.first()
    assert labels is not None
    labels = collapse(call, labels, [1])
    if labels.shape[1] > 1:
        labels = blocks_of(call, labels, 1, call.arg(1, "upscale_factor") ** 2)
        labels = labels[:, :: call.arg(1, "upscale_factor") ** 2]
    return labels


def shuffled_in(call: Call) -> Any:
    """PixelUnshuffle: a channel becomes a block of neighbours."""
    labels = call.first()
    assert labels is not None
    labels = collapse(call, labels, [1])
    return labels.repeat_interleave(call.arg(1, "downscale_factor") ** 2, 1) if labels.shape[1] > 1 else labels


def channel_shuffled(call: Call) -> Any:
    """channel_shuffle: equal parts lose the same positions, then they are interleaved."""
    labels = call.first()
    assert labels is not None
    labels = collapse(call, labels, [1])
    groups, size = call.arg(1, "groups"), labels.shape[1]
    if size == 1:
        return labels
    return parts_of(call, labels, 1, size // groups).unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
