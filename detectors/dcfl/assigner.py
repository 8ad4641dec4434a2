"""Coarse-to-fine label assignment: which priors learn which box.

Coarse: the K priors most similar to a box (Gaussian similarity, all levels together). Medium:
of these the Q whose predictions are best. Fine: those inside a mixture of two Gaussians around
the box and its samples. Nothing here carries gradients, and nothing loops over boxes or candidates;
pairs of boxes and priors are handled in parts of bounded size.

Source:
    Xu et al. 2023, arXiv 2304.08876 (coarse-to-fine assigner); detectors/dcfl/README.md, section 4, and 7 for `compat`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detectors.dcfl.coder import decode
from detectors.dcfl.gaussian import similarity_chunks, squared_mahalanobis
from detectors.dcfl.rules import Rules
from detectors.geometry.differentiable_iou import rotated_iou

NEGATIVE = 0
IGNORED = -1
IGNORE_SIMILARITY = 0.8  # a prior this similar to a box, but not chosen, is no background
MIXTURE_WEIGHTS = (0.7, 0.3)  # of the box centre, of the mean centre of its samples
FOREIGN = -100.0  # published table entry of candidates that belong to another box
CHUNK_PAIRS = 2**22  # box-candidate and box-point pairs held at once
STRIDE_GROUPS = 16  # entries of a row that `largest` looks at through their maximum


def largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest entries of each row and their columns, (rows, count) each, in falling order.

    The same values as `scores.topk(count)`, several times faster on long rows: the largest `count` entries lie
    in the `count` groups of largest maximum. Among equal entries at the end, any may be left out.

    Args:
        scores: (rows, columns), finite.
        count: at most the number of columns.
    """
    rows, columns = scores.shape
    num_groups = columns // STRIDE_GROUPS
    if num_groups < 2 * count:
        return scores.topk(count, dim=1)
    covered = num_groups * STRIDE_GROUPS  # group k holds the columns k, k + num_groups, k + 2 num_groups, ...
    maxima = scores[:, :covered].view(rows, STRIDE_GROUPS, num_groups).amax(dim=1)
    groups = maxima.topk(count, dim=1).indices
    steps = torch.arange(0, covered, num_groups, device=scores.device)
    candidates = (groups[:, :, None] + steps).view(rows, -1)
    rest = torch.arange(covered, columns, device=scores.device).expand(rows, -1)
    candidates = torch.cat((candidates, rest), dim=1)
    values, position = scores.gather(1, candidates).topk(count, dim=1)
    return values, candidates.gather(1, position)


def coarse_candidates(
    boxes: Tensor, priors: Tensor, topk: int, *, num_pairs: int | None = None
) -> tuple[Tensor, Tensor]:
    """Choose the K most similar priors of every box, over all levels together.

    Every prior that equals the K-th similarity gets in, so the choice depends on no sorting order.

    Args:
        boxes: (G, 5), G >= 1.
        priors: (P, 5), moved.
        topk: K.
        num_pairs: box-prior pairs held at once; default: what suits the device.

    Returns:
        owner: (P,) int64: 0 negative, -1 ignored, k the box in row k - 1. A prior wanted by several
            boxes goes to the last of them.
        best: (P,) largest similarity over all boxes.
    """
    count = min(topk, len(priors))
    looked_at = min(count + 1, len(priors))
    owner = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
    best = torch.zeros(len(priors), dtype=priors.dtype, device=priors.device)
    for start, scores in similarity_chunks(boxes, priors, num_pairs=num_pairs):
        best = torch.maximum(best, scores.amax(dim=0))
        values, index = largest(scores, looked_at)
        number = torch.arange(start + 1, start + 1 + len(scores), device=priors.device)[:, None]
        chosen = index[:, :count]
        owner.scatter_reduce_(0, chosen.flatten(), number.expand_as(chosen).flatten(), "amax")
        limit = values[:, count - 1]
        tied = (values[:, -1] == limit).nonzero().squeeze(1) if looked_at > count else number[:0, 0]
        if len(tied):
            tied_numbers = (scores[tied] >= limit[tied, None]) * number[tied]
            owner = torch.maximum(owner, tied_numbers.amax(dim=0))
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
    """Return which candidates are among the best Q of their own box, (n,) bool; of equal ones the earlier.

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
    """Return positions of the picks of every box, (G, min(Q, n)): short boxes take foreign candidates.

    Which of the foreign ones is up to the sort; `torch.topk` on the published table picks the published ones.
    """
    picks = []
    rows = max(1, CHUNK_PAIRS // max(len(owner), 1))
    for start in range(0, num_boxes, rows):
        size = min(rows, num_boxes - start)
        table = torch.full((size, len(owner)), FOREIGN, dtype=quality.dtype, device=quality.device)
        position = ((owner > start) & (owner <= start + size)).nonzero().squeeze(1)
        table[owner[position] - 1 - start, position] = quality[position]
        picks.append(table.topk(min(topq, len(owner)), dim=1).indices)
    return torch.cat(picks)


def mixture_gate(points: Tensor, boxes: Tensor, sample_centres: Tensor) -> Tensor:
    """Return 0.7 exp(-d1/2) + 0.3 exp(-d2/2) with squared Mahalanobis distances d, (n,).

    Args:
        points: (n, 2) centres of the moved priors.
        boxes: (n, 5) the box of each point; its covariance is that of both Gaussians.
        sample_centres: (n, 2) mean centre of the box's samples.

    Source:
        detectors/dcfl/README.md, section 4, step 5.
    """
    gate = torch.zeros(len(points), dtype=points.dtype, device=points.device)
    for weight, centre in zip(MIXTURE_WEIGHTS, (boxes[:, :2], sample_centres), strict=True):
        gate = gate + weight * torch.exp(-squared_mahalanobis(points, centre, boxes) / 2)
    return gate


def _mean_centres(centres: Tensor, row: Tensor, num_boxes: int) -> Tensor:
    """Return the mean of centres (n, 2) per row index (n,), (num_boxes, 2)."""
    total = centres.new_zeros(num_boxes, 2).index_add_(0, row, centres)
    count = centres.new_zeros(num_boxes).index_add_(0, row, torch.ones_like(centres[:, 0]))
    return total / count.clamp(min=1)[:, None]


@torch.no_grad()
def assign(boxes: Tensor, grid: Tensor, moved: Tensor, deltas: Tensor, logits: Tensor, rules: Rules) -> Tensor:
    """Assign the priors of one image.

    Args:
        boxes: (G, 5) truth, cx, cy, w, h (px), angle_rad.
        grid: (P, 5) priors on the grid; the loss decodes on them.
        moved: (P, 5) the same, moved by the learned offsets.
        deltas: (P, 5) predicted box deltas.
        logits: (P, C) class scores before the sigmoid.
        rules: see `Rules`.

    Returns:
        (P,) int64: 0 negative, -1 ignored, k > 0 positive for the box in row k - 1.
    """
    if len(boxes) == 0:
        return torch.zeros(len(grid), dtype=torch.int64, device=grid.device)
    owner, _ = coarse_candidates(boxes, moved, rules.topk)
    chosen = (owner > 0).nonzero().squeeze(1)
    number = owner[chosen]
    own = boxes[number - 1]
    base = grid if rules.ranking == "grid" else moved
    quality = candidate_quality(
        own, base[chosen], deltas[chosen], logits[chosen], published_angle=rules.ranking == "published"
    )
    centres = moved[chosen, :2]
    if rules.fill_short_boxes:
        picks = best_of_each_published(number, quality, len(boxes), rules.topq)
        kept = torch.zeros_like(number, dtype=torch.bool)
        kept[picks.flatten()] = True
        sample_centres = centres[picks].mean(dim=1)
    else:
        kept = best_of_each(number, quality, rules.topq)
        sample_centres = _mean_centres(centres[kept], number[kept] - 1, len(boxes))
    level = math.exp(-rules.gauss_threshold)
    kept &= mixture_gate(centres, own, sample_centres[number - 1]) >= level
    owner[chosen] = torch.where(kept, number, torch.zeros_like(number))
    if rules.gate_ignored:
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
    inside = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    rows = max(1, CHUNK_PAIRS // max(len(points), 1))
    for part in boxes.split(rows):
        dx = points[:, None, 0] - part[None, :, 0]
        dy = points[:, None, 1] - part[None, :, 1]
        cos, sin = torch.cos(part[:, 4]), torch.sin(part[:, 4])
        half = (part[:, 2:4] / 2).clamp(min=min_half_px)
        along = (dx * cos + dy * sin).abs() <= half[:, 0]
        inside |= (along & ((dy * cos - dx * sin).abs() <= half[:, 1])).any(dim=1)
    return inside
