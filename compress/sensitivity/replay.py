"""A forward pass that does not compute again what a change cannot reach.

Layers are called in the same order on the same images. What they returned is kept once; where only a later layer is
changed, the earlier ones hand that out instead of computing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.metrics.complexity import has_convolution_weight


class Replay:
    """Runs a model, and keeps what its layers return for one batch (all of it: some hundred bytes a pixel and more).

    A layer is a module without modules inside, or one that convolves whatever is inside (deformable layers).
    """

    def __init__(self, model: nn.Module) -> None:
        """Take a model, in evaluation mode; it is called through this object only while `watching`."""
        self.model = model
        self.layers = dict(_layers(model))
        self._calls: list[_Call] = []
        self._images: Tensor | None = None
        self._overwritten: set[int] = set()  # numbers of calls whose result a later operator changes in place
        self._position = 0
        self._first = 0  # number of the first call that computes
        self._keeps = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Stand between the model and its layers while the block runs."""
        own = {layer: vars(layer)["forward"] for layer in self.layers.values() if "forward" in vars(layer)}
        for name, layer in self.layers.items():
            layer.forward = self._between(name, layer.forward)
        try:
            yield
        finally:
            for layer in self.layers.values():
                del layer.forward  # the method of the class is behind it
            for layer, forward in own.items():
                layer.forward = forward
            self._calls, self._images = [], None

    def record(self, images: Tensor) -> list[Tensor]:
        """Return the outputs for a batch, and keep what every layer returned."""
        outputs = self._recorded(images)
        altered = {number for number, call in enumerate(self._calls) if call.was_overwritten()}
        if altered - self._overwritten:
            self._overwritten |= altered
            outputs = self._recorded(images)
        self._images = images
        return outputs

    def run(self, images: Tensor, changed: Iterable[str]) -> list[Tensor]:
        """Return the outputs for a batch; layers before the changed ones do not compute if it is the recorded batch.

        Args:
            images: (N, 3, H, W).
            changed: names of modules that compute something else than when the batch was recorded.
        """
        first = 0
        if self._images is not None and torch.equal(images, self._images):
            earliest: dict[str | None, int] = {}
            for number, call in enumerate(self._calls):
                earliest.setdefault(call.layer, number)
            # What is no layer's, or of a layer that is never called (a parameter of a block), may be read anywhere.
            first = min((earliest.get(self._layer_of(name), 0) for name in changed), default=len(self._calls))
        return self._call(images, first)

    def _recorded(self, images: Tensor) -> list[Tensor]:
        self._calls, self._images, self._keeps = [], None, True
        try:
            return self._call(images, 0)
        finally:
            self._keeps = False

    def _call(self, images: Tensor, first: int) -> list[Tensor]:
        self._position, self._first = 0, first
        with torch.no_grad():
            outputs = self.model(images)
        return list(outputs) if isinstance(outputs, list | tuple) else [outputs]

    def _layer_of(self, name: str) -> str | None:
        """Return the layer that a module is, or lies in."""
        while name and name not in self.layers:
            name = name.rpartition(".")[0]
        return name or None

    def _between(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **named: Any) -> Any:
            number = self._position
            self._position += 1
            if number < self._first:
                kept = self._calls[number]
                assert kept.layer == name, f"{name} is called in the place of {kept.layer}"
                return _cloned(kept.result) if number in self._overwritten else kept.result
            result = forward(*inputs, **named)
            if self._keeps:
                own = _cloned(result) if number in self._overwritten else result
                self._calls.append(_Call(name, own))
            return result

        return call


class _Call:
    """What one call of a layer returned."""

    def __init__(self, layer: str, result: Any) -> None:
        self.layer = layer
        self.result = result
        self._versions = [tensor._version for tensor in _tensors(result)]

    def was_overwritten(self) -> bool:
        """Return whether an operator changed the result in place since."""
        return [tensor._version for tensor in _tensors(self.result)] != self._versions


def _layers(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    seen: set[nn.Module] = set()

    def below(part: nn.Module, part_name: str) -> Iterator[tuple[str, nn.Module]]:
        children = dict(part.named_children())
        if part_name and (not children or has_convolution_weight(part)):
            if part not in seen:
                seen.add(part)
                yield part_name, part
            return
        for child_name, child in children.items():
            yield from below(child, f"{part_name}.{child_name}" if part_name else child_name)

    return below(module, name)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for entry in value for tensor in _tensors(entry)] if isinstance(value, list | tuple) else []


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _cloned(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [_cloned(entry) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value
