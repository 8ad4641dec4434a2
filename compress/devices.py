"""Where a model computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def device_name(wanted: str) -> str:
    """Return 'cpu' or 'cuda': what is wanted, or for 'auto' the best there is."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter."""
    return next(model.parameters()).device


@contextmanager
def on_device(model: nn.Module, wanted: str) -> Iterator[torch.device]:
    """Move a model to 'cpu', 'cuda' or the best there is ('auto'), and back to the CPU at the end."""
    import torch

    chosen = device_name(wanted)
    model.to(chosen)
    try:
        yield torch.device(chosen)
    finally:
        model.to("cpu")
