"""How each operator carries the channels of its inputs to its output, in labels.

The labels of a tensor have its rank; a dimension along which the channels do not differ has size 1. Operators
that move values are run on the labels themselves, so slices, chunks, shuffles and concatenations need no index
arithmetic. An operator without a rule freezes what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor

from compress.pruning.channel_classes import FIXED, ChannelClasses


@dataclass
class Call:
    """One operator as it ran.

    Attributes:
        name: of the operator, without overload and without the underscore of in-place forms.
        args, kwargs: as it got them.
        out: what it returned.
        labels_of: tensor -> labels, None where everything is fixed.
        classes: of the network.
        pointwise: torch says that it works element by element.
        flexible: the dimension of a new shape that follows the number of channels, where the caller said so.
    """

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    out: Any
    labels_of: Callable[[Tensor], Tensor | None]
    classes: ChannelClasses
    pointwise: bool = False
    flexible: int | None = None
    fixed_by: str = field(init=False)

    def __post_init__(self) -> None:
        self.fixed_by = f"the operator {self.name} ties it to a fixed size"

    def tensors(self) -> list[Tensor]:
        """Return all tensors among the arguments."""
        return list(tensors_in([*self.args, *self.kwargs.values()]))

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    def first(self) -> Tensor | None:
        """Return the labels of the first argument."""
        return self.labels_of(self.args[0])


def tensors_in(value: Any) -> Iterable[Tensor]:
    """Yield every tensor in nested lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def compact(labels: Tensor) -> Tensor:
    """Return labels with size 1 in every dimension along which they do not differ."""
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1:
            one = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == one).all()):
                labels = one
    return labels


def varying(labels: Tensor) -> set[int]:
    """Return the dimensions along which compact labels differ."""
    return {dim for dim in range(labels.dim()) if labels.shape[dim] > 1}


def collapse(call: Call, labels: Tensor, keep: Iterable[int]) -> Tensor:
    """Unite channels along all dimensions but some, and return the labels, size 1 elsewhere."""
    kept = {dim % labels.dim() for dim in keep}
    for dim in varying(labels) - kept:
        first = labels.narrow(dim, 0, 1)
        call.classes.unite(labels, first.expand_as(labels), call.fixed_by)
        labels = call.classes.canonical(first)
    return labels


def flow(call: Call) -> Any:
    """Return the labels of each output tensor of a call: a tensor, None (fixed), or a list of these."""
    rule = _RULES.get(call.name)
    if rule is None and call.pointwise:
        rule = pointwise
    if rule is None and _keeps_channels(call):
        rule = spatial
    if rule is None:
        rule = unknown
    if all(call.labels_of(tensor) is None for tensor in call.tensors()):
        return None
    return rule(call)


def unknown(call: Call) -> None:
    """Freeze all that is read."""
    for tensor in call.tensors():
        if (labels := call.labels_of(tensor)) is not None:
            call.classes.freeze(labels, f"the operator {call.name} is not known to work with fewer channels")


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
        result, known = _united(call, labels, result), known | sizes
    if varying(result) & fixed:
        call.classes.freeze(result, call.fixed_by)
        return None
    return result


def _united(call: Call, first: Tensor, second: Tensor) -> Tensor:
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


def _keeps_channels(call: Call) -> bool:
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
            base = _united(call, base, part).narrow(dim, 0, 1)
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
        call.classes.freeze(labels, f"the operator {call.name} mixes its channels")
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
        call.classes.freeze(labels, f"the operator {call.name} mixes its channels")
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
            call.classes.freeze(labels, "the scale of the attention follows its width")
    labels = call.labels_of(call.args[2])
    return None if labels is None else collapse(call, call.classes.canonical(labels), [-1])


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


def padded(call: Call) -> Any:
    """Pad; new channels have a fixed number."""
    if _keeps_channels(call):
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


_RULES: dict[str, Callable[[Call], Any]] = {
    **dict.fromkeys(
        ("permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "repeat", "flip", "numpy_T"), moved
    ),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "_reshape_alias"), reshaped),
    **dict.fromkeys(("slice", "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), cut),
    **dict.fromkeys(("select", "unbind"), picked),
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "prod", "all", "any", "argmax"), reduced
    ),
    **dict.fromkeys(("norm", "linalg_vector_norm", "logsumexp", "var_mean"), reduced),
    **dict.fromkeys(("_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum"), same_shape_along),
    **dict.fromkeys(("matmul", "bmm", "mm", "addmm", "baddbmm"), matrix_product),
    **dict.fromkeys(("clone", "contiguous", "detach", "alias", "_to_copy", "lift_fresh", "dropout"), pointwise),
    **dict.fromkeys(
        ("gelu", "hardtanh", "leaky_relu", "elu", "mish", "softplus", "threshold", "log_sigmoid"), pointwise
    ),
    **dict.fromkeys(
        ("feature_dropout", "feature_alpha_dropout", "alpha_dropout", "native_dropout", "rrelu"), pointwise
    ),
    **dict.fromkeys(("copy", "index_put", "as_strided"), unknown),
    "cat": joined,
    "glu": gated,
    "stack": stacked,
    "scaled_dot_product_attention": attention,
    "pixel_shuffle": shuffled_out,
    "pixel_unshuffle": shuffled_in,
    "channel_shuffle": channel_shuffled,
    "native_channel_shuffle": channel_shuffled,
    "constant_pad_nd": padded,
    "roll": rolled,
    "index_select": indexed,
}
SPATIAL = ("upsample", "max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "fractional_max_pool")
"""How the names of operators begin that mix neighbours in height and width, each channel on its own."""
WHOLE = frozenset({*_RULES, "linear", "batch_norm", "group_norm", "layer_norm", "instance_norm"} - {"reshape"})
"""Operators that are looked at before torch takes them apart."""
