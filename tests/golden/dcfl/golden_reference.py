"""The suite's own reference for what concerns the old pipeline only: angle versions, polygons, flips. Float64.

Written from the conventions in the README of the golden numbers, for checks of the stored numbers
alone; the plug-in has no
such code.
"""

import numpy as np

WRAP_START = {"le135": -np.pi / 4, "le90": -np.pi / 2, "oc": None}  # angles lie in [start, start + pi); oc: as they are
MAX_LOG_RATIO = np.log(1000 / 16)


def wrapped(angle, version):
    start = WRAP_START[version]
    return np.asarray(angle, np.float64) if start is None else np.mod(angle - start, np.pi) + start


def axes(angle):
    """Return the unit vectors along width and height, (n, 2) each."""
    along = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return along, along[:, ::-1] * (-1, 1)


def decoded(priors, deltas, version, *, angle_unit=np.pi, along_prior=True, image_size=None):
    """Return boxes; the shift runs along the prior's axes (our form) or along the picture's."""
    priors, deltas = np.asarray(priors, np.float64), np.asarray(deltas, np.float64)
    along, across = axes(priors[:, 4] if along_prior else np.zeros(len(priors)))
    step = priors[:, 2:4] * deltas[:, :2]
    centre = priors[:, :2] + step[:, :1] * along + step[:, 1:] * across
    if image_size is not None:
        centre = np.clip(centre, 0, (image_size[1] - 1, image_size[0] - 1))
    size = priors[:, 2:4] * np.exp(np.clip(deltas[:, 2:4], -MAX_LOG_RATIO, MAX_LOG_RATIO))
    return np.column_stack([centre, size, wrapped(priors[:, 4] + angle_unit * deltas[:, 4], version)])


def encoded(priors, boxes, version):
    priors, boxes = np.asarray(priors, np.float64), np.asarray(boxes, np.float64)
    along, across = axes(priors[:, 4])
    gap = boxes[:, :2] - priors[:, :2]
    shift = np.column_stack([(gap * along).sum(1), (gap * across).sum(1)]) / priors[:, 2:4]
    turn = wrapped(boxes[:, 4] - priors[:, 4], version) / np.pi
    return np.column_stack([shift, np.log(boxes[:, 2:4] / priors[:, 2:4]), turn])


def box_of_quad(quads, version):
    """Return boxes of quadrilaterals by their first two edges; centre: middle of the first diagonal (oc: of all)."""
    points = np.asarray(quads, np.float64).reshape(-1, 4, 2)
    first, second = points[:, 1] - points[:, 0], points[:, 2] - points[:, 1]
    long_first = np.linalg.norm(first, axis=1) > np.linalg.norm(second, axis=1)
    if version == "oc":
        # The angle is that of the edge whose direction, up to half a turn, lies in the first quadrant.
        away = np.arctan2(-first[:, 0], first[:, 1])
        turned = np.floor(away / (np.pi / 2)) % 2 == 0
        sizes = np.stack([np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)], axis=1)
        size = np.where(turned[:, None], sizes[:, ::-1], sizes)
        return np.column_stack([points.mean(axis=1), size, np.mod(away, np.pi / 2)])
    other = points[:, 3] - points[:, 0]
    direction = np.where(long_first[:, None], first, other)
    edges = np.stack([np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)], axis=1)
    angle = wrapped(np.arctan2(direction[:, 1], direction[:, 0]), version)
    return np.column_stack([(points[:, 0] + points[:, 2]) / 2, edges.max(axis=1), edges.min(axis=1), angle])


def corners(boxes):
    """Return (n, 4, 2): the corner at minus width, minus height first, then along the width and around."""
    boxes = np.asarray(boxes, np.float64)
    along, across = axes(boxes[:, 4])
    along, across = along * boxes[:, 2:3] / 2, across * boxes[:, 3:4] / 2
    centre = boxes[:, :2]
    return np.stack(
        [centre - along - across, centre + along - across, centre + along + across, centre - along + across], axis=1
    )


def best_ordered(points):
    """Return the corners begun so that they lie nearest to those of their upright rectangle, and how clear that is.

    The upright rectangle is read clockwise from its top left corner. The second result is the gap in px between
    the best and the second best beginning, (n,).
    """
    low, high = points.min(axis=1), points.max(axis=1)
    upright = np.stack([low, np.stack([high[:, 0], low[:, 1]], 1), high, np.stack([low[:, 0], high[:, 1]], 1)], axis=1)
    turns = np.stack([np.roll(points, -turn, axis=1) for turn in range(4)])
    cost = np.linalg.norm(turns - upright, axis=-1).sum(axis=-1)
    ranked = np.sort(cost, axis=0)
    return turns[cost.argmin(axis=0), np.arange(len(points))], ranked[1] - ranked[0]


def flipped(boxes, direction, version, image_size):
    """Return boxes after a flip of the picture, as the old pipeline does it."""
    result = np.array(boxes, np.float64)
    if direction in ("horizontal", "diagonal"):
        result[:, 0] = image_size[1] - 1 - result[:, 0]
    if direction in ("vertical", "diagonal"):
        result[:, 1] = image_size[0] - 1 - result[:, 1]
    if direction == "diagonal":
        return result
    if version != "oc":
        result[:, 4] = wrapped(np.pi - result[:, 4], version)
        return result
    upright = result[:, 4].astype(np.float32) == np.float32(np.pi / 2)
    result[~upright, 4] = np.pi / 2 - result[~upright, 4]
    result[~upright, 2:4] = result[~upright, 3:1:-1]
    return result
