"""Operators that take channels apart and put them together: slices, splits, concatenations, paddings."""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import Any

import torch
from torch import Tensor

from compress.pruning.channels.call import Call, compact, tensors_in, varying
from compress.pruning.channels.classes import FIXED
from compress.pruning.channels.elementwise import keeps_channels, pointwise, spatial, united, unknown
from compress.pruning.channels.reshaping import blocks_of, parts_of


def cut(call: Call) -> Any:
    """Slice or split: what is cut at a share of the channels stays so."""
    tensor, labels = call.args[0], call.first()
    assert labels is not None
    name = call.name
    dim = call.arg(1, "dim", 0) if name == "slice" else call.arg(2, "dim", 0)
    dim %= tensor.dim()
    size = tensor.shape[dim]
    if dim not in varying(labels):
        outs = list(tensors_in(call.out))
        return labels if isinstance(call.out, Tensor) else [labels for _ in outs]
    if name == "slice":
        start, end, step = call.arg(2, "start") or 0, call.arg(3, "end"), call.arg(4, "step", 1)
        start = max(start + size, 0) if start < 0 else min(start, size)
        end = size if end is None else (max(end + size, 0) if end < 0 else min(end, size))
        bounds = [start, end]
        if step > 1:
            if start >= step or end != size or size % step:
                call.classes.freeze(labels, call.fixed_by)
                return None
            labels, bounds = blocks_of(call, labels, dim, step), []
    else:
        pieces = list(tensors_in(call.out))
        bounds = [sum(piece.shape[dim] for piece in pieces[:i]) for i in range(len(pieces))]
    part = gcd(size, *bounds)
    if bounds and part < size:
        labels = parts_of(call, labels, dim, part)
    full = labels.expand(*labels.shape[:dim], size, *labels.shape[dim + 1 :])
    if name == "slice":
        return compact(full.narrow(dim, start, end - start)[(slice(None),) * dim + (slice(None, None, step),)])
    return [compact(full.narrow(dim, low, piece.shape[dim])) for low, piece in zip(bounds, pieces, strict=True)]


def picked(call: Call) -> Any:
    """Freeze channels of which one is picked by its number."""
    labels = call.first()
    assert labels is not None
    rank = call.args[0].dim()
    dim = call.arg(1, "dim", 0) % rank
    if dim in varying(labels):
        call.classes.freeze(labels, call.fixed_by)
        return None
    rest = labels.squeeze(dim)
    return rest if isinstance(call.out, Tensor) else [rest for _ in tensors_in(call.out)]


def joined(call: Call) -> Tensor | None:
    """Put channels behind each other (cat); off the joint, all operands lose the same channels."""
    tensors, dim = list(tensors_in(call.args[0])), call.arg(1, "dim", 0) % call.out.dim()
    parts = []
    for tensor in tensors:
        if tensor.dim() != call.out.dim():  # an empty list to begin with
            return unknown(call)  # type: ignore[func-returns-value]
        labels = call.labels_of(tensor)
        labels = torch.zeros((1,) * tensor.dim(), dtype=torch.int64) if labels is None else labels
        parts.append(labels.expand(*labels.shape[:dim], tensor.shape[dim], *labels.shape[dim + 1 :]))
    if any(varying(part) - {dim} for part in parts):
        base = parts[0].narrow(dim, 0, 1)
        for part in parts[1:]:
            base = united(call, base, part).narrow(dim, 0, 1)
        parts = [torch.broadcast_tensors(base, part)[0] for part in parts]
    return compact(call.classes.canonical(torch.cat(parts, dim)))


def stacked(call: Call) -> Tensor | None:
    """Stack along a new dimension: all operands lose the same channels."""
    tensors, dim = list(tensors_in(call.args[0])), call.arg(1, "dim", 0) % call.out.dim()
    result = pointwise(replace(call, args=tensors, kwargs={}, out=tensors[0]))
    return None if result is None else result.unsqueeze(dim)


def gated(call: Call) -> Tensor | None:
    """GLU: one half of the channels gates the other, so both lose the same."""
    labels = call.first()
    assert labels is not None
    dim = call.arg(1, "dim", -1) % call.args[0].dim()
    if dim not in varying(labels):
        return labels
    half = call.out.shape[dim]
    return parts_of(call, labels, dim, half).narrow(dim, 0, half)


def padded(call: Call) -> Any:
    """Pad; new channels have a fixed number."""
    if keeps_channels(call):
        return spatial(call)
    labels = call.first()
    assert labels is not None
    return compact(torch.constant_pad_nd(labels.expand(call.args[0].shape), call.arg(1, "pad"), FIXED))


def rolled(call: Call) -> Any:
    """Roll: free along fixed dimensions."""
    labels = call.first()
    assert labels is not None
    dims = call.arg(2, "dims", []) or range(call.args[0].dim())
    if {d % call.args[0].dim() for d in dims} & varying(labels):
        call.classes.freeze(labels, call.fixed_by)
        return None
    return labels


def indexed(call: Call) -> Any:
    """Rows picked by a table; free along fixed dimensions only."""
    labels = call.first()
    assert labels is not None
    dim = call.arg(1, "dim", 0)
    if call.name != "index_select" or dim % call.args[0].dim() in varying(labels):
        return unknown(call)
    return labels
