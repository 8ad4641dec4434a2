"""What a step changes in a network, put in and taken out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from compress.model_copy import copy_of
from compress.pruning.coupling import Coupling, zero_channels
from compress.sensitivity.rounding import rounded_activation, rounded_weight
from compress.sensitivity.steps import Step


@dataclass(frozen=True)
class Change:
    """What is different while a step is tried.

    Attributes:
        tensors: name of a parameter or buffer -> its values, same shape; only those that differ.
        inputs: layer whose inputs are rounded -> bits and, one pair a call, least and greatest value.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, tuple[int, tuple[tuple[float, float], ...]]] = field(default_factory=dict)

    @property
    def modules(self) -> set[str]:
        """Return the names of the modules that compute something else."""
        return {name.rpartition(".")[0] for name in self.tensors} | set(self.inputs)


def change_of(step: Step, model: nn.Module, coupling: Coupling) -> Change:
    """Return what a step changes.

    Args:
        step: planned on this model.
        model: stays as it is.
        coupling: of the model, for channels.
    """
    if step.what == "activations":
        return Change(inputs={step.part: (int(step.amount), step.ranges)})
    if step.what == "weights":
        weight = rounded_weight(model.get_submodule(step.part), int(step.amount))
        return _differing(model, {f"{step.part}.weight": weight})
    zeroed = copy_of(model)
    zero_channels(coupling, zeroed, {step.part: step.channels})
    return _differing(model, _state(zeroed))


def _differing(model: nn.Module, wanted: Mapping[str, Tensor]) -> Change:
    now = _state(model)
    return Change({name: tensor for name, tensor in wanted.items() if not torch.equal(tensor, now[name])})


def _state(model: nn.Module) -> dict[str, Tensor]:
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


@contextmanager
def applied(change: Change, model: nn.Module) -> Iterator[None]:
    """Let a model compute with a change while the block runs; afterwards it is what it was, to the last bit."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {name: state[name].data for name in change.tensors}
    hooks = []
    try:
        for name, tensor in change.tensors.items():
            state[name].data = tensor.to(state[name])
        for name, (bits, ranges) in change.inputs.items():
            hooks.append(model.get_submodule(name).register_forward_pre_hook(_rounder(bits, ranges), with_kwargs=True))
        yield
    finally:
        for name, tensor in before.items():
            state[name].data = tensor
        for hook in hooks:
            hook.remove()


def _rounder(bits: int, ranges: tuple[tuple[float, float], ...]) -> Any:
    """Return a hook that rounds the first argument of each call, the ranges in turn."""
    of_calls = cycle(ranges)

    def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        low, high = next(of_calls)
        return (rounded_activation(inputs[0], low, high, bits), *inputs[1:]), named

    return hook
