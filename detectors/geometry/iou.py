"""Exact overlap of rotated boxes, vectorized over pairs.

The area of the intersection is an integral, so no polygon is built: in the frame of the
first box the second one is a quadrilateral whose upper and lower boundary, clamped to the
first box, enclose the intersection. Every edge adds the integral of a clamped straight line,
which has a closed form. It is continuous in all ten numbers, so boxes that coincide, touch
or are turned by half a turn need no special case.
"""

from __future__ import annotations

import numpy as np

from detectors.geometry.corners import box_extents

_CHUNK = 16_384  # pairs at a time: the temporaries stay in the cache


def pairwise_iou(boxes1: np.ndarray, boxes2: np.ndarray, *, foreground: bool = False) -> np.ndarray:
    """Return the overlap of box i of the one list with box i of the other.

    Args:
        boxes1: (n, 5), (cx, cy, w, h, angle_rad), pixels.
        boxes2: (n, 5), likewise.
        foreground: divide by the area of the first box instead of the union.

    Returns:
        (n,) float64, 0..1. Pairs without any area have overlap 0.

    Raises:
        ValueError: the lists have different lengths.
    """
    boxes1 = np.asarray(boxes1, np.float64).reshape(-1, 5)
    boxes2 = np.asarray(boxes2, np.float64).reshape(-1, 5)
    if len(boxes1) != len(boxes2):
        msg = f"{len(boxes1)} boxes cannot be paired with {len(boxes2)} boxes. Use rotated_iou_matrix for all pairs."
        raise ValueError(msg)
    overlap = np.zeros(len(boxes1))
    for start in range(0, len(boxes1), _CHUNK):
        part = slice(start, start + _CHUNK)
        overlap[part] = _overlap(boxes1[part], boxes2[part], foreground)
    return overlap


def rotated_iou_matrix(boxes1: np.ndarray, boxes2: np.ndarray, *, foreground: bool = False) -> np.ndarray:
    """Return the overlap of every box of the one list with every box of the other.

    Args:
        boxes1: (n, 5), (cx, cy, w, h, angle_rad), pixels.
        boxes2: (m, 5), likewise.
        foreground: divide by the area of the box of the first list instead of the union.

    Returns:
        (n, m) float64, 0..1.
    """
    boxes1 = np.asarray(boxes1, np.float64).reshape(-1, 5)
    boxes2 = np.asarray(boxes2, np.float64).reshape(-1, 5)
    matrix = np.zeros((len(boxes1), len(boxes2)))
    first, second = overlapping_pairs(boxes1, boxes2)
    matrix[first, second] = pairwise_iou(boxes1[first], boxes2[second], foreground=foreground)
    return matrix


def overlapping_pairs(
    boxes1: np.ndarray,
    boxes2: np.ndarray,
    labels1: np.ndarray | None = None,
    labels2: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return index pairs of boxes that can overlap: extents and circumscribed circles meet.

    A sweep over x finds the pairs without a matrix of all of them.

    Args:
        boxes1: (n, 5), (cx, cy, w, h, angle_rad), pixels.
        boxes2: (m, 5), likewise.
        labels1: (n,) integers; with `labels2`, only pairs of equal label are returned.
        labels2: (m,) integers.

    Returns:
        Two (k,) int64 arrays: index into boxes1, index into boxes2; no pair twice.
    """
    boxes1 = np.asarray(boxes1, np.float64).reshape(-1, 5)
    boxes2 = np.asarray(boxes2, np.float64).reshape(-1, 5)
    if not len(boxes1) or not len(boxes2):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    extent1, extent2 = box_extents(boxes1), box_extents(boxes2)
    low1, high1, low2, high2 = extent1[:, 0], extent1[:, 2], extent2[:, 0], extent2[:, 2]
    if labels1 is not None and labels2 is not None:
        # Classes side by side on the x axis: boxes of different classes then never meet.
        span = max(high1.max(), high2.max()) - min(low1.min(), low2.min()) + 1.0
        low1, high1 = low1 + labels1 * span, high1 + labels1 * span
        low2, high2 = low2 + labels2 * span, high2 + labels2 * span
    # Two intervals meet if the one starts inside the other: [2 starts in 1] or [1 starts strictly inside 2].
    first_a, second_a = _starts_inside(low1, high1, low2, side="left")
    second_b, first_b = _starts_inside(low2, high2, low1, side="right")
    first, second = np.concatenate([first_a, first_b]), np.concatenate([second_a, second_b])
    meets = (extent1[first, 1] <= extent2[second, 3]) & (extent2[second, 1] <= extent1[first, 3])
    first, second = first[meets], second[meets]
    radius1, radius2 = np.hypot(boxes1[:, 2], boxes1[:, 3]) / 2, np.hypot(boxes2[:, 2], boxes2[:, 3]) / 2
    distance = np.hypot(boxes1[first, 0] - boxes2[second, 0], boxes1[first, 1] - boxes2[second, 1])
    near = distance <= radius1[first] + radius2[second]
    return first[near], second[near]


def _starts_inside(
    low: np.ndarray, high: np.ndarray, starts: np.ndarray, *, side: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return all (i, j) with low[i] <= starts[j] <= high[i]; `side='right'` makes the first one strict."""
    order = np.argsort(starts, kind="stable")
    ordered = starts[order]
    begin = np.searchsorted(ordered, low, side="left" if side == "left" else "right")
    end = np.searchsorted(ordered, high, side="right")
    counts = np.maximum(end - begin, 0)
    owner = np.repeat(np.arange(len(low)), counts)
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, order[np.repeat(begin, counts) + inside]


def _overlap(boxes1: np.ndarray, boxes2: np.ndarray, foreground: bool) -> np.ndarray:
    area1 = np.abs(boxes1[:, 2] * boxes1[:, 3])
    area2 = np.abs(boxes2[:, 2] * boxes2[:, 3])
    intersection = np.minimum(_intersection_area(boxes1, boxes2), np.minimum(area1, area2))
    base = area1 if foreground else area1 + area2 - intersection
    overlap: np.ndarray = np.divide(intersection, base, out=np.zeros_like(base), where=base > 0)
    return overlap


def _intersection_area(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """Return the area shared by box i of both lists, (n,) float64, pixels squared."""
    half_w, half_h = np.abs(boxes1[:, 2]) / 2, np.abs(boxes1[:, 3]) / 2
    x, y = _corners_in_frame(boxes1, boxes2)
    x_next, y_next = np.roll(x, -1, axis=0), np.roll(y, -1, axis=0)
    run, rise = x_next - x, y_next - y
    # The part of each edge above the width of box 1.
    x_from, x_to = np.clip(x, -half_w, half_w), np.clip(x_next, -half_w, half_w)
    slope = np.divide(rise, run, out=np.zeros_like(run), where=run != 0)
    y_from, y_to = y + (x_from - x) * slope, y + (x_to - x) * slope
    # Mean of the edge's height over that part, the height clamped to box 1.
    low, high = np.minimum(y_from, y_to), np.maximum(y_from, y_to)
    length = high - low
    below = np.clip(-half_h - low, 0, length)
    above = np.clip(high - half_h, 0, length)
    middle = (np.clip(low, -half_h, half_h) + np.clip(high, -half_h, half_h)) / 2
    weighted = half_h * (above - below) + (length - below - above) * middle
    mean = np.divide(weighted, length, out=middle.copy(), where=length > 0)
    area: np.ndarray = np.abs((mean * (x_to - x_from)).sum(axis=0))
    return area


def _corners_in_frame(boxes1: np.ndarray, boxes2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y, (4, n) each, of the corners of box 2 seen from centre and axes of box 1."""
    dx, dy = boxes2[:, 0] - boxes1[:, 0], boxes2[:, 1] - boxes1[:, 1]
    cos1, sin1 = np.cos(boxes1[:, 4]), np.sin(boxes1[:, 4])
    centre_x, centre_y = dx * cos1 + dy * sin1, dy * cos1 - dx * sin1
    turn = boxes2[:, 4] - boxes1[:, 4]
    cos, sin = np.cos(turn), np.sin(turn)
    across_x, across_y = cos * boxes2[:, 2] / 2, sin * boxes2[:, 2] / 2
    down_x, down_y = -sin * boxes2[:, 3] / 2, cos * boxes2[:, 3] / 2
    signs = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
    x = np.stack([centre_x + across * across_x + down * down_x for across, down in signs])
    y = np.stack([centre_y + across * across_y + down * down_y for across, down in signs])
    return x, y
