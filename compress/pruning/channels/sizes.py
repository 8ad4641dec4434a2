"""Integers that count channels: those of modules (`self.c` in `x.split((self.c, self.c), 1)`) and those of shapes.

They are followed to the slices, splits and new shapes that are made of them, so that they can be cut with the channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compress.layer_widths import widths_of
from compress.pruning.channels.call import varying
from compress.pruning.channels.record import ChannelTrace
from compress.pruning.reasons import SHAPE_OF_NUMBER

_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]  # how a shape is asked for


_CUTS = ("split", "split_with_sizes", "narrow", "__getitem__")


_SHAPES = ("view", "reshape", "unflatten")


class SizeAttribute(int):
    """An integer of a module, and where it is kept: 'block.c' or 'block.sizes.0'."""

    place: str

    def __new__(cls, value: int, place: str) -> SizeAttribute:
        """Return an int that knows its place."""
        made = super().__new__(cls, value)
        made.place = place
        return made

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)

    def __reduce__(self) -> Any:
        return int, (int(self),)


class ShapeSize(int):
    """A number of channels that was read from a tensor's shape, with their labels."""

    labels: Tensor

    def __new__(cls, value: int, labels: Tensor) -> ShapeSize:
        """Return an int that knows whose number it is."""
        made = super().__new__(cls, value)
        made.labels = labels
        return made

    def __reduce__(self) -> Any:
        return int, (int(self),)


class SizeMode(TorchFunctionMode):
    """Sees the integers that a module hands to slices, splits and new shapes."""

    def __init__(self, trace: ChannelTrace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and bind its sizes to the channels that they count."""
        kwargs = kwargs or {}
        name, trace = getattr(func, "__name__", ""), self.trace
        if func is _SHAPE or func is torch.Tensor.size:
            return _sizes_with_labels(trace, args[0], func(*args, **kwargs), [*args[1:], *kwargs.values()])
        if name not in (*_CUTS, *_SHAPES) or not args:
            return func(*args, **kwargs)
        given = list(_integers([*args[1:], *kwargs.values()]))
        before = trace.labels_of(args[0]) if isinstance(args[0], Tensor) else None
        if name in _SHAPES:
            shape = given[1:] if name == "unflatten" else given
            dim = given[0] % args[0].dim() if name == "unflatten" else 0
            trace.flexible = shape.index(-1) + dim if -1 in shape else None
        try:
            result = func(*args, **kwargs)
        finally:
            trace.flexible = None
        if any(isinstance(value, SizeAttribute | ShapeSize) for value in given):
            _bind(trace, name, args, kwargs, before, result)
        return result


def _sizes_with_labels(trace: ChannelTrace, tensor: Tensor, sizes: Any, dims: list[int]) -> Any:
    """Return a shape, or one size of it, whose numbers of channels know their labels."""
    labels = trace.labels_of(tensor)
    if labels is None:
        return sizes

    def marked(dim: int, size: int) -> int:
        return ShapeSize(size, _line(labels, dim)) if dim in varying(labels) else size

    if dims:
        return marked(dims[0] % tensor.dim(), sizes)
    return torch.Size([marked(dim, size) for dim, size in enumerate(sizes)])


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, slice):
        yield from _integers([value.start, value.stop, value.step])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _integers(item)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def _bind(trace: ChannelTrace, name: str, args: Any, kwargs: Any, before: Tensor | None, result: Any) -> None:
    """Bind each size to the channels whose number it is."""
    x = args[0]
    if name in ("split", "split_with_sizes"):
        sizes = args[1] if len(args) > 1 else kwargs.get("split_size_or_sections", kwargs.get("split_size"))
        dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % x.dim()
        sizes = [sizes] if isinstance(sizes, int) else sizes
        pairs = [(size, piece, dim) for size, piece in zip(sizes, result, strict=False)]
    elif name in _SHAPES:
        shape = list(_integers([*args[1:], *kwargs.values()]))[1 if name == "unflatten" else 0 :]
        start = args[1] % x.dim() if name == "unflatten" and len(args) > 1 else 0
        pairs = [(size, result, dim + start) for dim, size in enumerate(shape)]
    elif name == "__getitem__":
        _bind_bounds(trace, x, args[1], before)
        return
    else:
        dim, start, length = (list(args[1:]) + [kwargs[k] for k in ("dim", "start", "length") if k in kwargs])[:3]
        if before is not None and dim % x.dim() in varying(before):
            _count(trace, start, _line(before.expand(x.shape), dim % x.dim())[:start])
        pairs = [(length, result, dim % x.dim())]
    for size, piece, dim in pairs:
        labels = trace.labels_of(piece)
        _count(trace, size, None if labels is None or dim not in varying(labels) else _line(labels, dim))


def _bind_bounds(trace: ChannelTrace, x: Tensor, index: Any, before: Tensor | None) -> None:
    index = index if isinstance(index, tuple) else (index,)
    if before is None or any(not isinstance(entry, slice) and entry is not Ellipsis for entry in index):
        return
    full: list[Any] = []
    for entry in index:
        full.extend([slice(None)] * (x.dim() - len(index) + 1) if entry is Ellipsis else [entry])
    for dim, entry in enumerate(full):
        for bound in (entry.start, entry.stop):
            if dim in varying(before) and bound:
                _count(trace, bound, _line(before.expand(x.shape), dim)[:bound])


def _count(trace: ChannelTrace, size: Any, labels: Tensor | None) -> None:
    """Let a size count some channels, None for a dimension of fixed size."""
    if isinstance(size, SizeAttribute) and labels is not None:
        trace.bind(size.place, labels)
    if isinstance(size, ShapeSize):
        if labels is None or labels.shape != size.labels.shape:
            trace.classes.freeze(size.labels, SHAPE_OF_NUMBER)
        else:
            trace.classes.unite(size.labels, labels, SHAPE_OF_NUMBER)


def _line(labels: Tensor, dim: int) -> Tensor:
    """Return the labels along one dimension, at the first place of the others."""
    for other in reversed(range(labels.dim())):
        if other != dim:
            labels = labels.select(other, 0)
            dim -= other < dim
    return labels


@contextmanager
def size_attributes(model: nn.Module) -> Iterator[None]:
    """Let the integers of all modules that are no layers of torch know their places."""
    changed: list[tuple[nn.Module, str, Any]] = []
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.") or widths_of(module):
            continue
        for key, value in list(vars(module).items()):
            place = f"{name}.{key}" if name else key
            marked: Any = None
            if _is_size(value):
                marked = SizeAttribute(value, place)
            elif type(value) in (list, tuple) and value and all(_is_size(item) for item in value):
                marked = type(value)(SizeAttribute(item, f"{place}.{i}") for i, item in enumerate(value))
            if marked is not None:
                changed.append((module, key, value))
                module.__dict__[key] = marked
    try:
        yield
    finally:
        for module, key, value in changed:
            module.__dict__[key] = value


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 1
