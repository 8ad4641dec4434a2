"""Operators that compute one value from several channels: sums, means, softmax, products of matrices, attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compress.pruning.channels.call import Call, collapse, tensors_in, varying
from compress.pruning.channels.elementwise import unknown
from compress.pruning.reasons import ATTENTION_SCALE, mixed


def reduced(call: Call) -> Any:
    """Freeze channels that are summed, averaged or compared with each other."""
    labels = call.first()
    assert labels is not None
    rank = call.args[0].dim()
    dims = call.arg(1, "dim")
    if call.name in ("norm", "linalg_vector_norm"):
        dims = call.arg(2, "dim")
    dims = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = {dim % rank for dim in dims}
    if gone & varying(labels):
        call.classes.freeze(labels, mixed(call.name))
        return None
    outs = list(tensors_in(call.out))
    keeps = bool(outs) and outs[0].dim() == rank
    if not keeps:
        for dim in sorted(gone, reverse=True):
            labels = labels.squeeze(dim)
    return labels if isinstance(call.out, Tensor) else [labels for _ in outs]


def same_shape_along(call: Call) -> Any:
    """Softmax and the like: every dimension stays, channels along the given one are mixed."""
    labels = call.first()
    assert labels is not None
    dim = call.arg(1, "dim", -1)
    if dim % call.args[0].dim() in varying(labels):
        call.classes.freeze(labels, mixed(call.name))
        return None
    return labels


def matrix_product(call: Call) -> Tensor | None:
    """Contract the last dimension of one with the last but one of the other; what is contracted goes together."""
    offset = 1 if call.name in ("addmm", "baddbmm") else 0
    a, b = call.args[offset], call.args[offset + 1]
    if a.dim() < 2 or b.dim() < 2 or offset:
        return unknown(call)  # type: ignore[func-returns-value]
    rank = max(a.dim(), b.dim())

    def ranked(tensor: Tensor) -> Tensor:
        labels = call.labels_of(tensor)
        labels = torch.zeros((1,) * tensor.dim(), dtype=torch.int64) if labels is None else labels
        return labels[(None,) * (rank - tensor.dim())]

    left, right = ranked(a), ranked(b)
    if left.shape[-1] > 1 or right.shape[-2] > 1:
        left, right = collapse(call, left, [-1]), collapse(call, right, [-2])
        one, other = torch.broadcast_tensors(left.flatten(), right.flatten())
        call.classes.unite(one, other, call.fixed_by)
        return None
    batches = {d for d in varying(left) | varying(right) if d < rank - 2}
    rows, columns = left.shape[-2] > 1, right.shape[-1] > 1
    if batches or (rows and columns):
        for labels in (left, right):
            call.classes.freeze(labels, call.fixed_by)
        return None
    return left if rows else right if columns else None


def attention(call: Call) -> Tensor | None:
    """Scaled dot products: the scale follows the width of the queries, so these stay; values pass through."""
    for tensor in call.tensors()[:2] + call.tensors()[3:]:
        if (labels := call.labels_of(tensor)) is not None:
            call.classes.freeze(labels, ATTENTION_SCALE)
    labels = call.labels_of(call.args[2])
    return None if labels is None else collapse(call, call.classes.canonical(labels), [-1])
