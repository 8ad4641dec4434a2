"""A picture out of a network's input, to be timed and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from compress.errors import StageError


def picture_of(image: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
    """Undo the normalisation of one image.

    Args:
        image: (3, H, W) float32, RGB, normalised.
        meta: reads `mean` and `std` (RGB, 0..255).

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        StageError: the metadata has no mean and std.
    """
    if "mean" not in meta or "std" not in meta:
        raise StageError(
            "krimp.deploy: no mean and std, so no picture can be made from a loader. Set end_to_end: false."
        )
    mean, std = (np.asarray(meta[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
    pixels = np.clip(np.round(image * std + mean), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0))
