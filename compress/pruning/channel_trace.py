"""Follows every channel of a network through one forward pass.

The pass runs as it is; beside each tensor its labels are kept, which say to which channel of which layer its values
belong. Layers start new channels, `channel_flow` carries them on. Integers that a module keeps about itself
(`self.c` in `x.split((self.c, self.c), 1)`) are followed as well, so they can be cut with the channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

from compress.errors import StageError
from compress.layer_widths import widths_of
from compress.metrics.complexity import first_tensor
from compress.pruning.channel_classes import ChannelClasses
from compress.pruning.channel_flow import SPATIAL, WHOLE, Call, collapse, compact, flow, tensors_in, varying

LARGEST_TABLE = 100_000  # values of a parameter that is followed value by value
_CLIENT = "its channels are a raw output or a side input of a layer"
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


class ChannelTrace:
    """What one forward pass showed.

    Attributes:
        classes: of all channels.
        sides: (module name, 'out' or 'in') -> labels of the layer's channels, (width,).
        tables: parameter or buffer name -> labels of its values, its shape.
        sizes: place of an integer -> labels of the channels that it counts.
        roots: names of the layers that make new channels, in the order of the model.
    """

    def __init__(self, model: nn.Module, custom: Mapping[type, Any]) -> None:
        self.classes = ChannelClasses()
        self.sides: dict[tuple[str, str], Tensor] = {}
        self.tables: dict[str, Tensor] = {}
        self.sizes: dict[str, Tensor] = {}
        self.roots: list[str] = []
        self.custom = custom
        self.flexible: int | None = None
        self._labels: Any = WeakIdKeyDictionary()
        self._owners: dict[int, list[tuple[str, nn.Module, str]]] = defaultdict(list)
        for name, module in model.named_modules():
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            for key, tensor in own:
                self._owners[id(tensor)].append((name, module, key))

    def labels_of(self, tensor: Tensor) -> Tensor | None:
        """Return the labels of a tensor with frozen classes as 0, None if all of it is fixed."""
        labels = self._labels.get(tensor)
        if labels is None and id(tensor) in self._owners:
            labels = self._table(tensor)
        if labels is None:
            return None
        labels = compact(self.classes.canonical(labels))
        return labels if bool(labels.any()) else None

    def set_labels(self, tensor: Tensor, labels: Tensor | None) -> None:
        """Remember the labels of a tensor."""
        if labels is None:
            self._labels.pop(tensor, None)
        else:
            self._labels[tensor] = labels

    def _table(self, tensor: Tensor) -> Tensor | None:
        """Number the values of a parameter that no layer's rule reads."""
        (name, module, key), *others = self._owners[id(tensor)]
        if others or not 1 < tensor.numel() <= LARGEST_TABLE or widths_of(module):
            return None
        full = f"{name}.{key}" if name else key
        if full not in self.tables:
            self.tables[full] = self.classes.new(tensor.numel()).view(tensor.shape)
        return self.tables[full]

    def layer(self, tensor: Tensor | None) -> tuple[str, nn.Module] | None:
        """Return name and module of the layer with widths that owns a weight alone."""
        owners = self._owners.get(id(tensor), []) if tensor is not None else []
        if len(owners) != 1 or not widths_of(owners[0][1]):
            return None
        return owners[0][:2]

    def side(self, name: str, side: str, labels: Tensor) -> Tensor:
        """Remember the channels of one side of a layer; every call of the layer has the same."""
        known = self.sides.setdefault((name, side), labels)
        if known is not labels:
            self.classes.unite(known, labels, f"{name} is called with other channels elsewhere")
        return known

    def new_channels(self, name: str, number: int) -> Tensor:
        """Return the labels of a layer's own output channels."""
        if (name, "out") not in self.sides:
            self.sides[name, "out"] = self.classes.new(number)
            self.roots.append(name)
            if number == 1:
                self.classes.freeze(self.sides[name, "out"], "it has one channel")
        return self.sides[name, "out"]

    def bind(self, place: str, labels: Tensor) -> None:
        """Let an integer count the channels of some labels."""
        known = self.sizes.setdefault(place, labels)
        if known is labels:
            return
        if known.shape == labels.shape:
            self.classes.unite(known, labels, f"{place} is the size of other channels too")
        else:
            for both in (known, labels):
                self.classes.freeze(both, f"{place} counts different channels in different places")


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
    layer = trace.layer(weight)
    channels = vector(call, trace.labels_of(x), 1, x.shape[1])
    if layer is None:
        trace.classes.freeze(channels, "a convolution reads it whose weight is computed or shared by two layers")
        return None
    name, rank, width = layer[0], call.out.dim(), call.out.shape[1]
    if groups > 1 and groups == x.shape[1]:
        repeated = channels.repeat_interleave(width // groups)
        return along(trace.side(name, "out", repeated), 1, rank)
    own = trace.new_channels(name, width)
    if groups > 1:
        for labels, size in ((channels, len(channels) // groups), (own, width // groups)):
            trace.classes.unite(labels.view(groups, size), labels[:size].expand(groups, size), f"{name} has groups")
    trace.side(name, "in", channels)
    return along(own, 1, rank)


def linear(trace: ChannelTrace, call: Call) -> Tensor | None:
    """New channels in the last dimension."""
    x, weight = call.args[0], call.args[1]
    layer = trace.layer(weight)
    channels = vector(call, trace.labels_of(x), -1, x.shape[-1])
    if layer is None:
        trace.classes.freeze(channels, "a linear layer reads it whose weight is computed or shared by two layers")
        return None
    trace.side(layer[0], "in", channels)
    own = trace.new_channels(layer[0], call.out.shape[-1])
    return along(own, call.out.dim() - 1, call.out.dim())


def deformable(trace: ChannelTrace, call: Call) -> Tensor | None:
    """Torchvision's deform_conv2d: a convolution whose offsets and mask stay."""
    x, weight, *fields = call.args[:4]
    for tensor in fields:
        if isinstance(tensor, Tensor) and (labels := trace.labels_of(tensor)) is not None:
            trace.classes.freeze(labels, _CLIENT)
    layer, groups, offset_groups = trace.layer(weight), call.args[11], call.args[12]
    channels = vector(call, trace.labels_of(x), 1, x.shape[1])
    if layer is None or groups != 1 or offset_groups != 1:
        trace.classes.freeze(channels, "a deformable convolution with groups or a computed weight reads it")
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
        trace.classes.freeze(channels, f"{call.name} reads it with tensors of no layer")
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
        trace.classes.freeze(channels, "a norm over all channels reads it")
        return None
    parts = channels.view(groups, size)
    trace.classes.unite(parts, parts[:, :1].expand_as(parts), "a group norm reads it")
    layer = next((trace.layer(tensor) for tensor in call.tensors()[1:] if trace.layer(tensor)), None)
    if layer is None:
        trace.classes.freeze(channels, "a group norm without scale of its own reads it")
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
        trace.classes.freeze(labels, "a norm over all channels reads it")
        return None
    return labels


_LAYERS: dict[str, Callable[[ChannelTrace, Call], Tensor | None]] = {
    "convolution": convolution,
    "linear": linear,
    "deform_conv2d": deformable,
    "batch_norm": channel_norm,
    "instance_norm": channel_norm,
    "prelu": channel_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
}


class _Operators(TorchDispatchMode):
    """Keeps the labels of every tensor that an operator returns."""

    def __init__(self, trace: ChannelTrace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, whole if it has a rule, else in its parts."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        name = name if name.startswith("_") or not name.endswith("_") else name[:-1]
        composite = func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
        if composite and name not in WHOLE and name not in _LAYERS and not name.startswith(SPATIAL):
            with self:
                if (parts := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return parts
        out = func(*args, **kwargs)
        trace = self.trace
        call = Call(
            name, args, kwargs, out, trace.labels_of, trace.classes,
            pointwise=torch.Tag.pointwise in func.tags, flexible=trace.flexible,
        )  # fmt: skip
        if not any(True for _ in tensors_in(out)):
            return out
        labels = _LAYERS[name](trace, call) if name in _LAYERS else flow(call)
        outs = list(tensors_in(out))
        for tensor, own in zip(outs, labels if isinstance(labels, list) else [labels] * len(outs), strict=True):
            trace.set_labels(tensor, own)
        return out


class _Sizes(TorchFunctionMode):
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
            trace.classes.freeze(size.labels, "a shape is made of its number of channels")
        else:
            trace.classes.unite(size.labels, labels, "a shape is made of its number of channels")


def _line(labels: Tensor, dim: int) -> Tensor:
    """Return the labels along one dimension, at the first place of the others."""
    for other in reversed(range(labels.dim())):
        if other != dim:
            labels = labels.select(other, 0)
            dim -= other < dim
    return labels


def trace_channels(model: nn.Module, example: Tensor, custom: Mapping[type, Any]) -> tuple[ChannelTrace, list[Tensor]]:
    """Run a model once and follow its channels; raw outputs and side inputs of custom layers are frozen.

    Args:
        model: in evaluation mode meanwhile; left as it was.
        example: (N, 3, H, W).
        custom: classes that are one operation of their first input, with a weight (out, in, ...).

    Returns:
        The trace, and the raw outputs.

    Raises:
        StageError: a custom layer does not return one tensor.
    """
    trace = ChannelTrace(model, custom)
    training = {module: module.training for module in model.modules()}
    patched = [(name, module) for name, module in model.named_modules() if type(module) in custom]
    try:
        model.eval()
        for name, module in patched:
            module.forward = _opaque(trace, name, module)
        with _size_attributes(model), torch.inference_mode(), _Sizes(trace), _Operators(trace):
            outputs = list(_all_tensors(model(example.detach().clone())))
        for output in outputs:
            if (labels := trace.labels_of(output)) is not None:
                trace.classes.freeze(labels, _CLIENT)
    finally:
        for _, module in patched:
            del module.forward
        for module, was in training.items():
            module.training = was
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    trace.roots.sort(key=order.__getitem__)
    return trace, outputs


def _opaque(trace: ChannelTrace, name: str, module: nn.Module) -> Callable[..., Tensor]:
    """Return a forward that is one step: from the channels of the first input to new ones."""
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        features, *others = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            value = original(*args, **kwargs)
        if not isinstance(value, Tensor):
            raise StageError(
                f"{type(module).__name__} has a custom pruning rule and returns {type(value).__name__}. "
                "Such a layer must return one tensor."
            )
        call = Call(type(module).__name__, args, kwargs, value, trace.labels_of, trace.classes)
        for side_input in others:
            if (labels := trace.labels_of(side_input)) is not None:
                trace.classes.freeze(labels, _CLIENT)
        pruner = trace.custom[type(module)]
        trace.side(name, "in", vector(call, trace.labels_of(features), 1, pruner.get_in_channels(module)))
        trace.set_labels(value, along(trace.new_channels(name, value.shape[1]), 1, value.dim()))
        return value

    return forward


@contextmanager
def _size_attributes(model: nn.Module) -> Iterator[None]:
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


def _all_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Mapping):
        for entry in value.values():
            yield from _all_tensors(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _all_tensors(entry)
    else:
        yield first_tensor(value)
