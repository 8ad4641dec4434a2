"""From a picture to the network's input, for every plug-in that normalizes and pads. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of R, G, B, 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)


def normalize_picture(
    image: np.ndarray,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size_divisor: int,
    minimum_size: tuple[int, int] | None = None,
    channel_order: str = "rgb",
) -> np.ndarray:
    """Return a picture as a batch of one: normalized, padded with zeros below and to the right.

    Args:
        image: (H, W, 3) uint8, BGR.
        mean: of R, G, B, 0..255.
        std: of R, G, B, 0..255.
        size_divisor: height and width become multiples of it.
        minimum_size: (height, width) to pad to at least, px.
        channel_order: 'rgb' or 'bgr', of the result.

    Returns:
        (1, 3, H', W') float32.

    Raises:
        ValueError: the picture is not (H, W, 3) uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"picture: {image.dtype} {image.shape}; expected uint8 (height, width, 3) in the order BGR.")
    height, width = (max(size, low) for size, low in zip(image.shape[:2], minimum_size or (1, 1), strict=True))
    padded = np.zeros((1, 3, *padded_size((height, width), size_divisor)), np.float32)
    for channel in range(3):
        # One table a channel: 256 divisions instead of one a pixel.
        table = (np.arange(256, dtype=np.float32) - np.float32(mean[channel])) / np.float32(std[channel])
        place = channel if channel_order == "rgb" else 2 - channel
        padded[0, place, : image.shape[0], : image.shape[1]] = table[image[:, :, 2 - channel]]
    return padded


def padded_size(size: tuple[int, int], size_divisor: int) -> tuple[int, int]:
    """Return (height, width) in pixels, rounded up to multiples of a divisor.

    >>> padded_size((100, 64), 32)
    (128, 64)
    """
    height, width = (-(-side // size_divisor) * size_divisor for side in size)
    return height, width
