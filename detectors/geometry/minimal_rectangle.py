"""The smallest rotated rectangle around points."""

from __future__ import annotations

import cv2
import numpy as np


def minimal_rectangle(points: np.ndarray) -> np.ndarray:
    """Return the corners of the rectangle of least area that holds all points.

    Args:
        points: (n, 2), x and y, px, n at least 1.

    Returns:
        (4, 2) float64, in order around the rectangle.

    Source:
        Freeman and Shapira 1975, doi 10.1145/360881.360919: one side lies on a side of the convex hull.
    """
    points = np.asarray(points, np.float64).reshape(-1, 2)
    origin = points.mean(axis=0)  # OpenCV computes in float32, exact enough only near zero
    hull = cv2.convexHull((points - origin).astype(np.float32), returnPoints=False).reshape(-1)
    corners = points[hull] - origin
    sides = np.roll(corners, -1, axis=0) - corners
    lengths = np.hypot(sides[:, 0], sides[:, 1])
    across = sides[lengths > 0] / lengths[lengths > 0, None]
    if not len(across):  # a single point
        across = np.array([[1.0, 0.0]])
    down = across[:, ::-1] * [-1.0, 1.0]
    u, v = corners @ across.T, corners @ down.T  # (points, directions)
    areas = np.ptp(u, axis=0) * np.ptp(v, axis=0)
    best = int(areas.argmin())
    (left, right), (top, bottom) = (u[:, best].min(), u[:, best].max()), (v[:, best].min(), v[:, best].max())
    ends = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    rectangle: np.ndarray = ends @ np.stack([across[best], down[best]]) + origin
    return rectangle
