"""Coarse-to-fine assignment in plain loops, from the text of detectors/dcfl/README.md, sections 3, 4 and 7. Float64."""

import math

import numpy as np
import torch


class AmbiguousError(Exception):
    """Two numbers that decide something differ by less than rounding, so either answer is right."""


def covariance(box):
    """(xx, xy, yy) of R diag((w/2)^2, (h/2)^2) R'."""
    _, _, w, h, angle = box
    a, b = (min(max(side, 1e-7), 1e7) ** 2 / 4 for side in (w, h))
    cos, sin = math.cos(angle), math.sin(angle)
    return a * cos * cos + b * sin * sin, (a - b) * cos * sin, a * sin * sin + b * cos * cos


def divergence(first, second):
    """Bhattacharyya distance of two boxes as Gaussians."""
    xx, xy, yy = ((p + q) / 2 for p, q in zip(covariance(first), covariance(second), strict=True))
    dx, dy = first[0] - second[0], first[1] - second[1]
    determinant = xx * yy - xy * xy
    quadratic = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / determinant
    roots = [min(max(w, 1e-7), 1e7) * min(max(h, 1e-7), 1e7) / 4 for _, _, w, h, _ in (first, second)]
    return quadratic / 8 + 0.5 * math.log(determinant / (roots[0] * roots[1]))


def dual_divergence(first, second):
    """The definition: dual geometric Jensen-Shannon divergence with alpha 1/2, from means and precisions."""

    def matrix(box):
        xx, xy, yy = covariance(box)
        return np.array([[xx, xy], [xy, yy]])

    precisions = [np.linalg.inv(matrix(box)) for box in (first, second)]
    means = [np.array(box[:2]) for box in (first, second)]
    middle = np.linalg.inv(0.5 * (precisions[0] + precisions[1]))
    mean = middle @ (0.5 * precisions[0] @ means[0] + 0.5 * precisions[1] @ means[1])
    quadratic = (
        sum(0.5 * m @ p @ m for m, p in zip(means, precisions, strict=True)) - mean @ np.linalg.inv(middle) @ mean
    )
    volume = 0.5 * sum(math.log(np.linalg.det(matrix(box))) for box in (first, second)) - math.log(
        np.linalg.det(middle)
    )
    return 0.5 * (quadratic + volume)


def corners(box):
    x, y, w, h, angle = box
    cos, sin = math.cos(angle), math.sin(angle)
    local = [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)]
    return [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in local]


def polygon_area(points):
    return 0.5 * sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(points, points[1:] + points[:1], strict=True))


def clipped(points, start, end):
    """The part of a polygon to the inner side of a line (Sutherland and Hodgman 1974)."""

    def side(p):
        return (end[0] - start[0]) * (p[1] - start[1]) - (end[1] - start[1]) * (p[0] - start[0])

    result = []
    for p, q in zip(points, points[1:] + points[:1], strict=True):
        a, b = side(p), side(q)
        if a >= 0:
            result.append(p)
        if (a > 0 > b) or (a < 0 < b):
            t = a / (a - b)
            result.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return result


def iou(first, second):
    """Intersection over union by clipping one polygon with the edges of the other."""
    origin = second[:2]
    first, second = ((box[0] - origin[0], box[1] - origin[1], *box[2:]) for box in (first, second))
    polygon, clip = corners(first), corners(second)
    for start, end in zip(clip, clip[1:] + clip[:1], strict=True):
        polygon = clipped(polygon, start, end) if polygon else []
    common = max(polygon_area(polygon), 0.0) if len(polygon) > 2 else 0.0
    union = first[2] * first[3] + second[2] * second[3] - common
    return min(common / union, 1.0) if union > 0 else 0.0


def decoded(prior, delta, *, angle_unit, wrap):
    x, y, w, h, angle = prior
    dx, dy, dw, dh, da = delta
    limit = math.log(1000 / 16)
    width, height = (side * math.exp(min(max(d, -limit), limit)) for side, d in ((w, dw), (h, dh)))
    turned = angle + angle_unit * da
    if wrap:
        turned = (turned + math.pi / 4) % math.pi - math.pi / 4
    cos, sin = math.cos(angle), math.sin(angle)
    return x + w * dx * cos - h * dy * sin, y + w * dx * sin + h * dy * cos, width, height, turned


MARGIN = 1e-9  # numbers nearer than this, but not equal, decide nothing


def decide(first, second):
    """first >= second, unless they are equal within rounding but not equal."""
    if first != second and abs(first - second) < MARGIN:
        raise AmbiguousError
    return first >= second


def mixture(point, box, centre):
    xx, xy, yy = covariance(box)
    determinant, gate = xx * yy - xy * xy, 0.0
    for weight, mean in ((0.7, box[:2]), (0.3, centre)):
        dx, dy = point[0] - mean[0], point[1] - mean[1]
        gate += weight * math.exp(-0.5 * (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / determinant)
    return gate


def coarse(boxes, moved, topk):
    """Owners after the first stage."""
    count = len(moved)
    scores = [[np.float32(1 / (1 + divergence(box, prior))) for prior in moved] for box in boxes]
    owner = [0] * count
    for number, row in enumerate(scores, start=1):
        limit = sorted(row, reverse=True)[min(topk, count) - 1]
        for index in range(count):
            if row[index] >= limit:
                owner[index] = number
    for index in range(count):
        if owner[index] == 0 and max(row[index] for row in scores) >= np.float32(0.8):
            owner[index] = -1
    return owner


def picks_of(owner, quality, boxes, rules):
    """The samples of every box after the second stage, as prior indices."""
    chosen = [index for index, number in enumerate(owner) if number > 0]
    if rules.fill_short_boxes:
        table = torch.full((len(boxes), len(chosen)), -100.0, dtype=torch.float64)
        for position, index in enumerate(chosen):
            table[owner[index] - 1, position] = quality[index]
        picked = table.topk(min(rules.topq, len(chosen)), dim=1).indices.tolist()
        return [[chosen[position] for position in row] for row in picked]
    result = []
    for number in range(1, len(boxes) + 1):
        own = sorted((index for index in chosen if owner[index] == number), key=lambda index: -quality[index])
        result.append(own[: rules.topq])
    return result


def oracle(boxes, grid, moved, deltas, logits, rules):
    """Return owners, a list of ints; the arguments are nested lists.

    Raises:
        AmbiguousError: rounding decides.
    """
    if not boxes:
        return [0] * len(grid)
    owner = coarse(boxes, moved, rules.topk)
    base = grid if rules.ranking == "grid" else moved
    published = rules.ranking == "published"
    quality = {}
    for index, number in enumerate(owner):
        if number > 0:
            box = decoded(base[index], deltas[index], angle_unit=1 if published else math.pi, wrap=not published)
            score = max(1 / (1 + math.exp(-value)) for value in logits[index])
            quality[index] = iou(box, boxes[number - 1]) + score
    for number in range(1, len(boxes) + 1):  # the last that gets in, and the first that does not
        ranked = sorted((quality[index] for index in quality if owner[index] == number), reverse=True)
        if len(ranked) > rules.topq:
            decide(ranked[rules.topq - 1], ranked[rules.topq])
    picks = picks_of(owner, quality, boxes, rules)
    kept = {index for row in picks for index in row}
    centres = [
        [sum(moved[index][axis] for index in row) / len(row) for axis in (0, 1)] if row else [0.0, 0.0] for row in picks
    ]
    level = math.exp(-rules.gauss_threshold)
    result = list(owner)
    for index, number in enumerate(owner):
        if number > 0:
            gate = mixture(moved[index][:2], boxes[number - 1], centres[number - 1])
            result[index] = number if index in kept and decide(gate, level) else 0
        elif number < 0 and rules.gate_ignored:
            result[index] = -1 if decide(mixture(moved[index][:2], boxes[0], centres[0]), level) else 0
    return result
