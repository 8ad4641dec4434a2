"""Corners and extents of rotated boxes."""

from __future__ import annotations

import numpy as np


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """Return the four corners of every box.

    Args:
        boxes: (n, 5), (cx, cy, w, h, angle_rad), pixels.

    Returns:
        (n, 4, 2) float64, x then y, clockwise on the screen for positive sizes, starting at
        the corner that is top left before the box is turned.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 5)
    half_w, half_h = boxes[:, 2:3] / 2, boxes[:, 3:4] / 2
    cos, sin = np.cos(boxes[:, 4:5]), np.sin(boxes[:, 4:5])
    across = half_w * np.array([[-1.0, 1.0, 1.0, -1.0]])
    down = half_h * np.array([[-1.0, -1.0, 1.0, 1.0]])
    x = boxes[:, 0:1] + across * cos - down * sin
    y = boxes[:, 1:2] + across * sin + down * cos
    return np.stack([x, y], axis=-1)


def box_extents(boxes: np.ndarray) -> np.ndarray:
    """Return the axis-aligned rectangle around every rotated box.

    Args:
        boxes: (n, 5), (cx, cy, w, h, angle_rad), pixels.

    Returns:
        (n, 4) float64, (x_min, y_min, x_max, y_max).
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 5)
    cos, sin = np.abs(np.cos(boxes[:, 4])), np.abs(np.sin(boxes[:, 4]))
    half_x = (np.abs(boxes[:, 2]) * cos + np.abs(boxes[:, 3]) * sin) / 2
    half_y = (np.abs(boxes[:, 2]) * sin + np.abs(boxes[:, 3]) * cos) / 2
    x, y = boxes[:, 0], boxes[:, 1]
    return np.stack([x - half_x, y - half_y, x + half_x, y + half_y], axis=-1)
