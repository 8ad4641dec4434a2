"""Differentiable overlap of pairs of oriented boxes in plain torch.

Each pair is handled in coordinates relative to the second box's centre and in float64, so
that small boxes far from the origin lose nothing. mmcv's differentiable form exists on CUDA
only and errs by up to 2e-3.
"""

from __future__ import annotations

import torch
from torch import Tensor

PARALLEL = 1e-9  # |sine| of the angle below which two edges count as parallel
TOLERANCE = 1e-9  # of "inside" and "on the edge", relative
MIN_UNION = 1e-12  # px^2


def _corners(centre: Tensor, size: Tensor, angle: Tensor) -> Tensor:
    """Return corners in order around the box, (n, 4, 2)."""
    signs = centre.new_tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    local = signs * size[:, None]
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    x = local[..., 0] * cos - local[..., 1] * sin
    y = local[..., 0] * sin + local[..., 1] * cos
    return torch.stack((x, y), dim=-1) + centre[:, None]


def _inside(points: Tensor, centre: Tensor, size: Tensor, angle: Tensor) -> Tensor:
    """Return which points (n, k, 2) lie in or on their box, (n, k) bool."""
    offset = points - centre[:, None]
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    u = offset[..., 0] * cos + offset[..., 1] * sin
    v = offset[..., 1] * cos - offset[..., 0] * sin
    limit = size * (0.5 + TOLERANCE) + TOLERANCE
    return (u.abs() <= limit[:, :1]) & (v.abs() <= limit[:, 1:])


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _crossings(corners1: Tensor, corners2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points where edges cross, (n, 16, 2), and which of them exist, (n, 16)."""
    start1, start2 = corners1[:, :, None], corners2[:, None]
    edge1 = corners1.roll(-1, 1)[:, :, None] - start1
    edge2 = corners2.roll(-1, 1)[:, None] - start2
    determinant = _cross(edge1, edge2)
    scale = edge1.detach().norm(dim=-1) * edge2.detach().norm(dim=-1)
    crossing = determinant.detach().abs() > PARALLEL * scale
    # Parallel edges get a harmless denominator: the branch not taken must have a finite gradient.
    safe = torch.where(crossing, determinant, torch.ones_like(determinant))
    gap = start2 - start1
    along1 = _cross(gap, edge2) / safe
    along2 = (_cross(gap, edge1) / safe).detach()
    at1 = along1.detach()
    low, high = -TOLERANCE, 1 + TOLERANCE
    exists = crossing & (at1 >= low) & (at1 <= high) & (along2 >= low) & (along2 <= high)
    along1 = torch.where(exists, along1, torch.zeros_like(along1))
    return (start1 + along1[..., None] * edge1).flatten(1, 2), exists.flatten(1)


def _polygon_area(points: Tensor, valid: Tensor) -> Tensor:
    """Return the area of the convex polygon spanned by the valid points, (n,)."""
    count = valid.sum(dim=1)
    fixed = points.detach()
    centre = (fixed * valid[..., None]).sum(dim=1) / count.clamp(min=1)[:, None]
    relative = fixed - centre[:, None]
    direction = torch.atan2(relative[..., 1], relative[..., 0])
    order = direction.masked_fill(~valid, 10.0).argsort(dim=1)
    # Invalid points repeat the first one, where they add no area.
    position = torch.arange(order.shape[1], device=order.device)
    order = torch.where(position < count[:, None], order, order[:, :1])
    ring = points.gather(1, order[..., None].expand(-1, -1, 2)) - centre[:, None]
    area = 0.5 * _cross(ring, ring.roll(-1, 1)).sum(dim=1)
    return torch.where(count >= 3, area, torch.zeros_like(area))


def intersection_area(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the common area in px^2 of pairs of boxes, (n,) float64; arguments as `rotated_iou`."""
    first, second = boxes1.double(), boxes2.double()
    centre1 = first[:, :2] - second[:, :2]
    centre2 = torch.zeros_like(centre1)
    corners1 = _corners(centre1, first[:, 2:4], first[:, 4])
    corners2 = _corners(centre2, second[:, 2:4], second[:, 4])
    with torch.no_grad():
        in2 = _inside(corners1, centre2, second[:, 2:4], second[:, 4])
        in1 = _inside(corners2, centre1, first[:, 2:4], first[:, 4])
    crossings, exists = _crossings(corners1, corners2)
    points = torch.cat((corners1, corners2, crossings), dim=1)
    return _polygon_area(points, torch.cat((in2, in1, exists), dim=1)).clamp(min=0)


def rotated_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return intersection over union of pairs of oriented boxes.

    Args:
        boxes1: (n, 5) cx, cy, w, h (px, >= 0), angle_rad.
        boxes2: (n, 5).

    Returns:
        (n,), 0..1, dtype of boxes1, differentiable in all ten numbers. Pairs that do not
        overlap, or without area, give 0 with a zero gradient; no gradient is ever NaN.
    """
    common = intersection_area(boxes1, boxes2)
    area1 = boxes1[:, 2].double() * boxes1[:, 3].double()
    area2 = boxes2[:, 2].double() * boxes2[:, 3].double()
    union = (area1 + area2 - common).clamp(min=MIN_UNION)
    return (common / union).clamp(max=1).to(boxes1.dtype)
