"""Differentiable overlap of pairs of oriented boxes in plain torch; the same code on every device.

The common area is an integral, so no polygon is built and nothing is sorted: seen from the first box, the
second is a quadrilateral whose edges, clamped to the first box, enclose it. The value is continuous in all ten
numbers, so boxes that coincide, touch or are turned by half a turn need no special case.

Its gradient is not that of the formula but the derivative of the area itself: an edge of one box that lies
inside the other moves the area by its length times its speed. Lengths are bounded, so no gradient is ever
NaN. Everything is computed in float64 in coordinates of the box, so that small boxes far from the origin
lose nothing. mmcv's differentiable form exists on CUDA only and errs by up to 2e-3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PARALLEL = 1e-9  # |sine| of the angle below which an edge counts as parallel to a side of the other box
ON_EDGE = 1e-9  # distance from a side, in half widths, up to which a parallel edge counts as lying on it
MIN_UNION = 1e-12  # px^2
EDGE_SIGNS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))  # corners in order around the box


def _corners_in_frame(frame: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and y of the corners of `boxes`, (4, n) each, seen from centre and axes of `frame` (n, 5)."""
    dx, dy = (boxes[:, :2] - frame[:, :2]).unbind(1)
    cos, sin = torch.cos(frame[:, 4]), torch.sin(frame[:, 4])
    turn = boxes[:, 4] - frame[:, 4]
    half_w, half_h = boxes[:, 2] / 2, boxes[:, 3] / 2
    across = torch.cos(turn) * half_w, torch.sin(turn) * half_w
    down = -torch.sin(turn) * half_h, torch.cos(turn) * half_h
    signs = torch.tensor(EDGE_SIGNS, dtype=boxes.dtype, device=boxes.device)[..., None]
    x = dx * cos + dy * sin + signs[:, 0] * across[0] + signs[:, 1] * down[0]
    y = dy * cos - dx * sin + signs[:, 0] * across[1] + signs[:, 1] * down[1]
    return x, y


def _area(frame: Tensor, boxes: Tensor) -> Tensor:
    """Return the common area of pairs of boxes, (n,): each edge adds the integral of a clamped straight line."""
    half_w, half_h = frame[:, 2] / 2, frame[:, 3] / 2
    x, y = _corners_in_frame(frame, boxes)
    run, rise = x.roll(-1, 0) - x, y.roll(-1, 0) - y
    # The part of each edge above the width of the frame.
    x_from = torch.minimum(torch.maximum(x, -half_w), half_w)
    x_to = x_from.roll(-1, 0)
    slope = torch.where(run == 0, 0.0, rise / run)
    y_from, y_to = y + (x_from - x) * slope, y + (x_to - x) * slope
    # Mean of the edge's height over that part, the height clamped to the frame.
    low, high = torch.minimum(y_from, y_to), torch.maximum(y_from, y_to)
    length = high - low
    below = torch.minimum((-half_h - low).clamp(min=0), length)
    above = torch.minimum((high - half_h).clamp(min=0), length)
    limited = (torch.minimum(torch.maximum(end, -half_h), half_h) for end in (low, high))
    middle = sum(limited) / 2
    weighted = half_h * (above - below) + (length - below - above) * middle
    mean = torch.where(length > 0, weighted / length, middle)
    area = (mean * (x_to - x_from)).sum(dim=0).abs()
    return torch.minimum(area, torch.minimum(frame[:, 2] * frame[:, 3], boxes[:, 2] * boxes[:, 3]))


def _inside_part(start: Tensor, step: Tensor, half: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return where start + t * step, t in 0..1, lies within +-half: from, to, weight (1, 0, or 1/2 on the border)."""
    parallel = step.abs() <= PARALLEL * length
    safe = torch.where(parallel, torch.ones_like(step), step)
    first, second = (-half - start) / safe, (half - start) / safe
    enter = torch.where(parallel, 0.0, torch.minimum(first, second))
    leave = torch.where(parallel, 1.0, torch.maximum(first, second))
    margin = ON_EDGE * half
    distance = start.abs()
    # On the border the derivative has two sides; their mean is taken, which is 0 where boxes coincide.
    weight = 0.5 * ((distance < half + margin).to(half) + (distance < half - margin).to(half))
    return enter, leave, torch.where(parallel, weight, torch.ones_like(weight))


def _area_gradient(frame: Tensor, boxes: Tensor) -> Tensor:
    """Return the derivative of the common area by the numbers of `boxes`, (n, 5).

    Source:
        Reynolds' transport theorem: the area changes by the integral of the normal speed over the
        part of the border of `boxes` that lies inside `frame`.
    """
    x, y = _corners_in_frame(frame, boxes)
    run, rise = x.roll(-1, 0) - x, y.roll(-1, 0) - y
    length = torch.stack((boxes[:, 2], boxes[:, 3], boxes[:, 2], boxes[:, 3]))
    enter_x, leave_x, weight_x = _inside_part(x, run, frame[:, 2] / 2, length)
    enter_y, leave_y, weight_y = _inside_part(y, rise, frame[:, 3] / 2, length)
    enter = torch.maximum(enter_x, enter_y).clamp(min=0)
    leave = torch.minimum(leave_x, leave_y).clamp(max=1)
    share = (leave - enter).clamp(min=0) * weight_x * weight_y
    inside = share * length  # (4, n) px: edges top, right, bottom, left of the unturned box
    lever = ((enter + leave) / 2 - 0.5) * length  # from the middle of the edge to the middle of that part, along it
    across, down = inside[1] - inside[3], inside[2] - inside[0]  # net outward push along the two axes
    cos, sin = torch.cos(boxes[:, 4]), torch.sin(boxes[:, 4])
    return torch.stack(
        (
            across * cos - down * sin,
            across * sin + down * cos,
            (inside[1] + inside[3]) / 2,
            (inside[0] + inside[2]) / 2,
            # Turning moves a point outwards by its distance ahead of the edge's middle, against the turn.
            -(inside * lever).sum(dim=0),
        ),
        dim=1,
    )


class _CommonArea(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        return _area(first, second)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        first, second = ctx.saved_tensors
        needs_first, needs_second = ctx.needs_input_grad
        return (
            _area_gradient(second, first) * upstream[:, None] if needs_first else None,
            _area_gradient(first, second) * upstream[:, None] if needs_second else None,
        )


def intersection_area(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the common area in px^2 of pairs of boxes, (n,) float64; arguments as `rotated_iou`."""
    area: Tensor = _CommonArea.apply(boxes1.double(), boxes2.double())
    return area


def rotated_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return intersection over union of pairs of oriented boxes.

    Args:
        boxes1: (n, 5) cx, cy, w, h (px, >= 0), angle_rad.
        boxes2: (n, 5).

    Returns:
        (n,), 0..1, dtype of boxes1, differentiable (once) in all ten numbers. Pairs that do not
        overlap give 0 with a zero gradient; no gradient is ever NaN.
    """
    first, second = boxes1.double(), boxes2.double()
    common = intersection_area(first, second)
    union = (first[:, 2] * first[:, 3] + second[:, 2] * second[:, 3] - common).clamp(min=MIN_UNION)
    return (common / union).clamp(max=1).to(boxes1.dtype)
