"""Operators that treat each channel on its own: element by element, or over height and width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compress.pruning.channels.call import Call, collapse, compact, tensors_in, varying
from compress.pruning.reasons import unknown_operator

SPATIAL = ("upsample", "max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "fractional_max_pool")
"""How the names of operators begin that mix neighbours in height and width, each channel on its own."""


def unknown(call: Call) -> None:
    """Freeze all that is read."""
    for tensor in call.tensors():
        if (labels := call.labels_of(tensor)) is not None:
            call.classes.freeze(labels, unknown_operator(call.name))


def pointwise(call: Call) -> Tensor | None:
    """Tie the channels of all operands, element by element; an operand that is broadcast ties nothing there."""
    rank = (call.out if isinstance(call.out, Tensor) else call.out[0]).dim()
    operands, fixed = [], set()
    for tensor in call.tensors():
        offset = rank - tensor.dim()
        sizes = {dim + offset for dim in range(tensor.dim()) if tensor.shape[dim] > 1}
        if (labels := call.labels_of(tensor)) is None:
            fixed |= sizes
        else:
            operands.append((labels[(None,) * offset], sizes))
    result, known = operands[0]
    for labels, sizes in operands[1:]:
        if varying(labels) - known or varying(result) - sizes:
            call.classes.freeze(labels, call.fixed_by)
            call.classes.freeze(result, call.fixed_by)
            return None
        result, known = united(call, labels, result), known | sizes
    if varying(result) & fixed:
        call.classes.freeze(result, call.fixed_by)
        return None
    return result


def united(call: Call, first: Tensor, second: Tensor) -> Tensor:
    """Tie two label tensors that can be broadcast to each other, and return the labels of both."""
    one, other = torch.broadcast_tensors(first, second)
    call.classes.unite(one, other, call.fixed_by)
    return call.classes.canonical(compact(one))


def spatial(call: Call) -> Any:
    """Keep channels (dimension 1) where an operator changes only what lies behind them."""
    labels = call.first()
    if labels is None:
        return None
    labels = collapse(call, labels, (0, 1))
    outs = list(tensors_in(call.out))
    return labels if isinstance(call.out, Tensor) else [labels for _ in outs]


def keeps_channels(call: Call) -> bool:
    """Return whether an operator of a known name changes only what lies behind the channels (dimension 1)."""
    outs = list(tensors_in(call.out))
    if (
        not call.name.lstrip("_").startswith(
            (*SPATIAL, "reflection_pad", "replication_pad", "constant_pad", "grid_sampler")
        )
        or not call.args
        or not isinstance(call.args[0], Tensor)
    ):
        return False
    x = call.args[0]
    return x.dim() >= 3 and bool(outs) and all(o.dim() == x.dim() and o.shape[:2] == x.shape[:2] for o in outs)
