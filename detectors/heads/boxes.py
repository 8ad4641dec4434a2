"""Forms of boxes."""

from __future__ import annotations

import numpy as np


def corners_of_centres(boxes: np.ndarray) -> np.ndarray:
    """Turn (n, 4) cx, cy, w, h into (n, 4) x1, y1, x2, y2."""
    half = boxes[:, 2:4] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def centres_of_corners(boxes: np.ndarray) -> np.ndarray:
    """Turn (n, 4) x1, y1, x2, y2 into (n, 5) cx, cy, w, h, angle 0."""
    low, high = boxes[:, :2], boxes[:, 2:4]
    return np.concatenate([(low + high) / 2, high - low, np.zeros((len(boxes), 1), boxes.dtype)], axis=1)


def clipped(boxes: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Return (n, 4) x1, y1, x2, y2 cut at the border of the input of (height, width) px.

    Where a head's reference does so before suppression, overlaps are those of what is left.
    """
    height, width = input_size
    inside: np.ndarray = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    return inside


def in_pixels(boxes: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Turn shares of the input's width and height into pixels: (n, 4), x before y twice."""
    height, width = input_size
    return boxes * np.array([width, height, width, height], np.float32)
