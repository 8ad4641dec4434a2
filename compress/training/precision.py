"""Mixed precision in training: bfloat16 layers, float32 weights and sums, and what must stay float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which layers compute: 'bfloat16', or 'float32', which changes nothing.

    torch's own, because accelerate's is one per process and refuses a second precision.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def dilated_layers_in_float32(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Keep dilated convolutions out of autocast on a CPU while the context lasts.

    oneDNN's bfloat16 weight gradient of a dilated convolution is NaN for many channel counts that are no
    multiple of 64 (torch 2.10: 40 -> 32 channels, 3x3, dilation 3, 40x40 cells, channels_last).
    """
    handles = []
    for module in model.modules():
        if device.type == "cpu" and isinstance(module, nn.Conv2d) and max(module.dilation) > 1:
            context = torch.autocast("cpu", enabled=False)

            def enter(_module: nn.Module, inputs: tuple[Any, ...], context: Any = context) -> tuple[Any, ...]:
                context.__enter__()
                return tuple(x.float() if isinstance(x, Tensor) else x for x in inputs)

            def leave(_module: nn.Module, _inputs: Any, _output: Any, context: Any = context) -> None:
                context.__exit__(None, None, None)

            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
