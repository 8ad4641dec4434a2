"""Coarse-to-fine label assignment: which priors learn which box.

Coarse: the K priors most similar to a box (Gaussian similarity, all levels together). Medium:
of these the Q whose predictions are best. Fine: those inside a mixture of two Gaussians around
the box and its samples. Nothing here carries gradients.

Source:
    Xu et al. 2023, arXiv 2304.08876 (coarse-to-fine assigner); detectors/dcfl/README.md, section 4, and 7 for `compat`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detectors.dcfl.coder import decode
from detectors.dcfl.rotated_iou import rotated_iou

NEGATIVE = 0
IGNORED = -1
IGNORE_SIMILARITY = 0.8  # a prior this similar to a box, but not chosen, is no background
MIXTURE_WEIGHTS = (0.7, 0.3)  # of the box centre, of the mean centre of its samples
FOREIGN = -100.0  # published table entry of candidates that belong to another box
CHUNK_ELEMENTS = 4_000_000  # box-prior pairs held at once


@dataclass(frozen=True)
class AssignerSettings:
    """Numbers and habits of the assignment.

    Attributes:
        topk: candidates of a box, K.
        topq: candidates left after the ranking by prediction, Q.
        gauss_threshold: g; a sample stays if its gate value is at least exp(-g).
        compat: reproduce the published code: a tie at rank K lets more than K candidates in, boxes
            with fewer than Q candidates are filled up with those of other boxes, and ignored priors
            pass the gate of the first box.
        ranking: what the ranking decodes on: 'grid' as the loss does, 'moved' priors, or 'published':
            moved priors with the angle delta taken as radians.
    """

    topk: int = 16
    topq: int = 12
    gauss_threshold: float = 0.8
    compat: bool = False
    ranking: Literal["grid", "moved", "published"] = "grid"


def gaussians(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the covariance entries (xx, xy, yy) of boxes (n, 5), each (n,) px^2.

    Source:
        R diag((w/2)^2, (h/2)^2) R': detectors/dcfl/README.md, section 4, step 1.
    """
    half = (boxes[:, 2:4].clamp(1e-7, 1e7) / 2) ** 2
    cos, sin = torch.cos(boxes[:, 4]), torch.sin(boxes[:, 4])
    xx = half[:, 0] * cos**2 + half[:, 1] * sin**2
    yy = half[:, 0] * sin**2 + half[:, 1] * cos**2
    return xx, (half[:, 0] - half[:, 1]) * cos * sin, yy


def gaussian_distance(boxes: Tensor, priors: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of two Gaussians (alpha 1/2, dual form), all pairs.

    That is the Bhattacharyya distance; computed on coordinate differences it keeps its digits in float32.

    Args:
        boxes: (G, 5) cx, cy, w, h, angle_rad.
        priors: (P, 5).

    Returns:
        (G, P), >= 0.

    Source:
        Nielsen 2019, arXiv 1904.04017; detectors/dcfl/README.md, section 4, step 2.
    """
    xx1, xy1, yy1 = (entry[:, None] for entry in gaussians(boxes))
    xx2, xy2, yy2 = (entry[None] for entry in gaussians(priors))
    xx, xy, yy = (xx1 + xx2) / 2, (xy1 + xy2) / 2, (yy1 + yy2) / 2
    determinant = xx * yy - xy**2
    dx = boxes[:, None, 0] - priors[None, :, 0]
    dy = boxes[:, None, 1] - priors[None, :, 1]
    quadratic = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / determinant
    root1 = boxes[:, 2:4].clamp(1e-7, 1e7).prod(dim=1)[:, None] / 4  # sqrt(det), exact
    root2 = priors[:, 2:4].clamp(1e-7, 1e7).prod(dim=1)[None] / 4
    return quadratic / 8 + 0.5 * torch.log(determinant / (root1 * root2))


def similarity(boxes: Tensor, priors: Tensor) -> Tensor:
    """Return 1 / (1 + distance), (G, P), 0..1; arguments as `gaussian_distance`."""
    return 1 / (1 + gaussian_distance(boxes, priors))


def coarse_candidates(boxes: Tensor, priors: Tensor, topk: int, *, ties: bool) -> tuple[Tensor, Tensor]:
    """Choose the K most similar priors of every box, over all levels together.

    Args:
        boxes: (G, 5), G >= 1.
        priors: (P, 5), moved.
        topk: K.
        ties: let every prior in that equals the K-th similarity (as published).

    Returns:
        owner: (P,) int64: 0 negative, -1 ignored, k the box in row k - 1. A prior wanted by several
            boxes goes to the last of them.
        best: (P,) largest similarity over all boxes.
    """
    count = min(topk, len(priors))
    owner = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
    best = torch.zeros(len(priors), dtype=priors.dtype, device=priors.device)
    rows = max(1, CHUNK_ELEMENTS // len(priors))
    for start in range(0, len(boxes), rows):
        scores = similarity(boxes[start : start + rows], priors)
        best = torch.maximum(best, scores.amax(dim=0))
        values, index = scores.topk(count, dim=1)
        number = torch.arange(start + 1, start + 1 + len(scores), device=priors.device)[:, None]
        if ties:
            owner = torch.maximum(owner, ((scores >= values[:, -1:]) * number).amax(dim=0))
        else:
            owner = owner.scatter_reduce(0, index.flatten(), number.expand_as(index).flatten(), "amax")
    ignored = (best >= IGNORE_SIMILARITY) & (owner == NEGATIVE)
    return owner.masked_fill(ignored, IGNORED), best


def candidate_quality(
    own: Tensor, priors: Tensor, deltas: Tensor, logits: Tensor, *, published_angle: bool = False
) -> Tensor:
    """Return overlap of the prediction with its own box + largest class score, (n,), 0..2.

    Args:
        own: (n, 5) the box of each candidate.
        priors: (n, 5) what the deltas refer to.
        deltas: (n, 5).
        logits: (n, C).
        published_angle: take the angle delta as radians, without the factor pi.
    """
    predicted = decode(priors, deltas, angle_factor=1.0, wrap=False) if published_angle else decode(priors, deltas)
    return rotated_iou(predicted, own) + logits.amax(dim=1).sigmoid()


def best_of_each(owner: Tensor, quality: Tensor, topq: int) -> Tensor:
    """Return which candidates are among the best Q of their own box, (n,) bool.

    Args:
        owner: (n,) box number of each candidate.
        quality: (n,).
        topq: Q.
    """
    order = quality.argsort(descending=True, stable=True)
    order = order[owner[order].argsort(stable=True)]
    grouped = owner[order]
    position = torch.arange(len(order), device=order.device)
    first = torch.searchsorted(grouped, grouped)  # where the group of each entry starts
    kept = torch.zeros_like(owner, dtype=torch.bool)
    kept[order] = position - first < topq
    return kept


def best_of_each_published(owner: Tensor, quality: Tensor, num_boxes: int, topq: int) -> Tensor:
    """Return positions of the picks of every box, (G, min(Q, n)): short boxes take foreign candidates."""
    table = torch.full((num_boxes, len(owner)), FOREIGN, dtype=quality.dtype, device=quality.device)
    table[owner - 1, torch.arange(len(owner), device=owner.device)] = quality
    return table.topk(min(topq, len(owner)), dim=1).indices


def mixture_gate(points: Tensor, boxes: Tensor, sample_centres: Tensor) -> Tensor:
    """Return 0.7 exp(-d1/2) + 0.3 exp(-d2/2) with squared Mahalanobis distances d, (n,).

    Args:
        points: (n, 2) centres of the moved priors.
        boxes: (n, 5) the box of each point; its covariance is that of both Gaussians.
        sample_centres: (n, 2) mean centre of the box's samples.

    Source:
        detectors/dcfl/README.md, section 4, step 5.
    """
    xx, xy, yy = gaussians(boxes)
    determinant = (boxes[:, 2:4].clamp(1e-7, 1e7).prod(dim=1) / 4) ** 2
    gate = torch.zeros(len(points), dtype=points.dtype, device=points.device)
    for weight, centre in zip(MIXTURE_WEIGHTS, (boxes[:, :2], sample_centres), strict=True):
        dx, dy = (points - centre).unbind(dim=1)
        squared = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / determinant
        gate = gate + weight * torch.exp(-squared / 2)
    return gate


def _mean_centres(centres: Tensor, row: Tensor, num_boxes: int) -> Tensor:
    """Return the mean of centres (n, 2) per row index (n,), (num_boxes, 2)."""
    total = centres.new_zeros(num_boxes, 2).index_add_(0, row, centres)
    count = centres.new_zeros(num_boxes).index_add_(0, row, torch.ones_like(centres[:, 0]))
    return total / count.clamp(min=1)[:, None]


@torch.no_grad()
def assign(
    boxes: Tensor, grid: Tensor, moved: Tensor, deltas: Tensor, logits: Tensor, settings: AssignerSettings
) -> Tensor:
    """Assign the priors of one image.

    Args:
        boxes: (G, 5) truth, cx, cy, w, h (px), angle_rad.
        grid: (P, 5) priors on the grid; the loss decodes on them.
        moved: (P, 5) the same, moved by the learned offsets.
        deltas: (P, 5) predicted box deltas.
        logits: (P, C) class scores before the sigmoid.
        settings: see `AssignerSettings`.

    Returns:
        (P,) int64: 0 negative, -1 ignored, k > 0 positive for the box in row k - 1.
    """
    if len(boxes) == 0:
        return torch.zeros(len(grid), dtype=torch.int64, device=grid.device)
    compat = settings.compat
    owner, _ = coarse_candidates(boxes, moved, settings.topk, ties=compat)
    chosen = (owner > 0).nonzero().squeeze(1)
    number = owner[chosen]
    own = boxes[number - 1]
    base = grid if settings.ranking == "grid" else moved
    quality = candidate_quality(
        own, base[chosen], deltas[chosen], logits[chosen], published_angle=settings.ranking == "published"
    )
    centres = moved[chosen, :2]
    if compat:
        picks = best_of_each_published(number, quality, len(boxes), settings.topq)
        kept = torch.zeros_like(number, dtype=torch.bool)
        kept[picks.flatten()] = True
        sample_centres = centres[picks].mean(dim=1)
    else:
        kept = best_of_each(number, quality, settings.topq)
        sample_centres = _mean_centres(centres[kept], number[kept] - 1, len(boxes))
    level = math.exp(-settings.gauss_threshold)
    kept &= mixture_gate(centres, own, sample_centres[number - 1]) >= level
    owner[chosen] = torch.where(kept, number, torch.zeros_like(number))
    if compat:
        ignored = (owner == IGNORED).nonzero().squeeze(1)
        first = boxes[:1].expand(len(ignored), -1)
        inside = mixture_gate(moved[ignored, :2], first, sample_centres[:1].expand(len(ignored), -1)) >= level
        owner[ignored[~inside]] = NEGATIVE
    return owner


def inside_any(points: Tensor, boxes: Tensor, *, min_half_px: float = 0.0) -> Tensor:
    """Return which points (P, 2) lie inside at least one box (m, 5), (P,) bool.

    Args:
        points: (P, 2) px.
        boxes: (m, 5).
        min_half_px: boxes are widened to at least this half width and half height.
    """
    dx = points[:, None, 0] - boxes[None, :, 0]
    dy = points[:, None, 1] - boxes[None, :, 1]
    cos, sin = torch.cos(boxes[:, 4]), torch.sin(boxes[:, 4])
    half = (boxes[:, 2:4] / 2).clamp(min=min_half_px)
    inside = ((dx * cos + dy * sin).abs() <= half[:, 0]) & ((dy * cos - dx * sin).abs() <= half[:, 1])
    return inside.any(dim=1)
