"""Images to trace and to measure a network with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def example_images(batch_size: int, input_size: tuple[int, int]) -> Tensor:
    """Return noise of the range of normalized images, (N, 3, H, W) float32; the same at every call.

    Args:
        batch_size: N.
        input_size: (H, W), px.
    """
    import torch

    return torch.randn(batch_size, 3, *input_size, generator=torch.Generator().manual_seed(0))
