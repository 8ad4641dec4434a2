"""Runs a network once and keeps beside each tensor to which channel of which layer its values belong.

The pass runs as it is. Layers start new channels (`layers`), operators carry them on (`flow`), and integers that count
them are followed as well (`sizes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from compress.errors import StageError
from compress.metrics.complexity import first_tensor
from compress.pruning.channels.call import Call, tensors_in
from compress.pruning.channels.elementwise import SPATIAL
from compress.pruning.channels.flow import WHOLE, flow
from compress.pruning.channels.layers import LAYERS, along, vector
from compress.pruning.channels.record import ChannelTrace
from compress.pruning.channels.sizes import SizeMode, size_attributes
from compress.pruning.reasons import RAW_OUTPUT


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
        with size_attributes(model), torch.inference_mode(), SizeMode(trace), _Operators(trace):
            outputs = list(_all_tensors(model(example.detach().clone())))
        for output in outputs:
            if (labels := trace.labels_of(output)) is not None:
                trace.classes.freeze(labels, RAW_OUTPUT)
    finally:
        for _, module in patched:
            del module.forward
        for module, was in training.items():
            module.training = was
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    trace.roots.sort(key=order.__getitem__)
    return trace, outputs


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
        if composite and name not in WHOLE and name not in LAYERS and not name.startswith(SPATIAL):
            with self:
                if (parts := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return parts
        out = func(*args, **kwargs)
        trace = self.trace
        call = Call(
            name, args, kwargs, out, trace.labels_of, trace.classes, trace.reason_of,
            pointwise=_is_pointwise(func), flexible=trace.flexible,
        )  # fmt: skip
        if not any(True for _ in tensors_in(out)):
            return out
        labels = LAYERS[name](trace, call) if name in LAYERS else flow(call)
        outs, because = list(tensors_in(out)), call.because()
        for tensor, own in zip(outs, labels if isinstance(labels, list) else [labels] * len(outs), strict=True):
            trace.set_labels(tensor, own)
            if own is None:
                trace.inherit(tensor, because)
        return out


def _is_pointwise(operator: Any) -> bool:
    """Return whether torch says that an operator works element by element.

    Many in-place forms (`hardsigmoid_`, `masked_fill_`) lack the mark that the form of the same name has (torch 2.10).
    """
    name = operator.overloadpacket.__name__
    twin = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") and not name.endswith("__") else None
    marked = [operator, *(getattr(twin, overload) for overload in twin.overloads())] if twin else [operator]
    return any(torch.Tag.pointwise in one.tags for one in marked)


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
        call = Call(type(module).__name__, args, kwargs, value, trace.labels_of, trace.classes, trace.reason_of)
        for side_input in others:
            if (labels := trace.labels_of(side_input)) is not None:
                trace.classes.freeze(labels, RAW_OUTPUT)
        pruner = trace.custom[type(module)]
        trace.side(name, "in", vector(call, trace.labels_of(features), 1, pruner.get_in_channels(module)))
        trace.set_labels(value, along(trace.new_channels(name, value.shape[1]), 1, value.dim()))
        return value

    return forward


def _all_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Mapping):
        for entry in value.values():
            yield from _all_tensors(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _all_tensors(entry)
    else:
        yield first_tensor(value)
