"""What a smaller DCFL copies from a larger one: class scores and boxes where the teacher sees something."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CONFIDENT = 0.05  # class score above which a cell of the teacher counts; the deployed threshold
BOX_SCALE = 0.1  # delta at which smooth L1 turns from quadratic to linear, in sides of a prior


def distill_loss(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    """Return how far a student's class scores and boxes are from its teacher's.

    Almost all cells are background, so a plain mean over cells teaches little else. Class scores are compared
    by the quality focal loss, which weighs each by the squared error itself, boxes by smooth L1 weighted
    with the teacher's best score; both are divided by the sum of the teacher's confident scores.

    Args:
        student: raw outputs cls_score_p3..p7 (N, C, h, w) before the sigmoid, then bbox_pred_p3..p7 (N, 5, h, w).
        teacher: the same shapes, without gradient.

    Returns:
        Scalar >= 0, 0 for equal outputs.

    Raises:
        ValueError: the numbers of outputs differ or are odd.

    Source:
        Li et al. 2020, arXiv 2006.04388, equation 2 (quality focal loss, beta 2); the weighting of boxes is ours.
    """
    if len(student) != len(teacher) or len(student) % 2:
        raise ValueError(f"{len(student)} and {len(teacher)} outputs. Expected scores and boxes of the same levels.")
    levels = len(student) // 2
    logits, wanted = (_rows(raw[:levels]) for raw in (student, teacher))
    deltas, wanted_deltas = (_rows(raw[levels:]) for raw in (student, teacher))
    scores = wanted.sigmoid()
    error = (logits.sigmoid() - scores).square()
    class_loss = (error * F.binary_cross_entropy_with_logits(logits, scores, reduction="none")).sum()
    best = scores.amax(dim=2)
    weight = torch.where(best > CONFIDENT, best, torch.zeros_like(best))
    box_error = F.smooth_l1_loss(deltas, wanted_deltas, beta=BOX_SCALE, reduction="none").sum(dim=2)
    return (class_loss + (weight * box_error).sum()) / weight.sum().clamp_min(1.0)


def _rows(levels: tuple[Tensor, ...]) -> Tensor:
    """Return (N, all cells, channels) float32 of maps (N, channels, h, w)."""
    return torch.cat([level.float().flatten(2) for level in levels], dim=2).transpose(1, 2)
