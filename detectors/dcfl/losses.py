"""Training loss of DCFL: focal loss of the classes and -ln(rotated IoU) of the positives' boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detectors.dcfl.assigner import IGNORED, NEGATIVE, assign, inside_any
from detectors.dcfl.coder import decode
from detectors.dcfl.network import STRIDES, split_raw
from detectors.dcfl.prior import grid_priors, move_priors, prior_shift
from detectors.dcfl.rules import Rules
from detectors.geometry.differentiable_iou import rotated_iou

FOCAL_GAMMA = 2.0
FOCAL_ALPHA = 0.25
MIN_IOU = 1e-6


@dataclass(frozen=True)
class Flat:
    """Head outputs of all levels, one row a prior.

    Attributes:
        logits: (N, P, C).
        deltas: (N, P, 5).
        grid: (P, 5) priors.
        moved: (N, P, 5) priors moved by the learned offsets, detached.
    """

    logits: Tensor
    deltas: Tensor
    grid: Tensor
    moved: Tensor


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the elements of the sigmoid focal loss.

    Args:
        logits: (n, C) class scores before the sigmoid.
        labels: (n,) int64, 0..C; C means background, -1 no loss at all.

    Returns:
        (n, C), >= 0.

    Source:
        Lin et al. 2017, arXiv 1708.02002, equation 5 (gamma 2, alpha 0.25).
    """
    num_classes = logits.shape[1]
    target = labels[:, None] == torch.arange(num_classes, device=logits.device)
    # The loss of the wrong answer is that of the right one at the negated logit.
    signed = torch.where(target, -logits, logits)
    alpha = torch.where(target, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    elements = alpha * signed.sigmoid() ** FOCAL_GAMMA * F.softplus(signed)
    return elements.masked_fill((labels == IGNORED)[:, None], 0.0)


def iou_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return -ln(max(rotated IoU, 1e-6)) of pairs of boxes (n, 5), (n,).

    A pair without overlap gives 13.8155 with a zero gradient.
    """
    return -rotated_iou(predicted, truth).clamp(min=MIN_IOU).log()


def flatten_raw(raw: Any, *, shift_by_height: bool = False) -> Flat:
    """Put the levels of the fifteen raw outputs one after the other.

    Args:
        raw: outputs of `DcflNetwork`.
        shift_by_height: move priors by the published factor height of the network's input / 256 * 2^level,
            not by stride / 2.
    """
    scores, deltas, offsets = split_raw(raw)
    shapes = [(int(level.shape[2]), int(level.shape[3])) for level in scores]
    grid = grid_priors(shapes, STRIDES, scores[0].device)
    shift = prior_shift(offsets, STRIDES, shapes[0][0] * STRIDES[0] if shift_by_height else None)
    return Flat(
        logits=torch.cat([level.flatten(2) for level in scores], dim=2).transpose(1, 2),
        deltas=torch.cat([level.flatten(2) for level in deltas], dim=2).transpose(1, 2),
        grid=grid,
        moved=torch.stack([move_priors(grid, one) for one in shift]),
    )


def assign_batch(flat: Flat, batch: Any, rules: Rules) -> Tensor:
    """Return the assignment map of every image, (N, P) int64 (see `assigner.assign`).

    Negative priors whose centre lies in an ignored box become ignored; such a box is taken at
    least one cell of the finest level wide, so that none falls between the grid points.
    """
    maps = []
    with torch.no_grad():
        for index, boxes in enumerate(batch.boxes):
            owner = assign(
                boxes.to(flat.grid), flat.grid, flat.moved[index], flat.deltas[index], flat.logits[index], rules
            )
            if len(batch.ignored[index]):
                ignored = batch.ignored[index].to(flat.grid)
                hidden = inside_any(flat.grid[:, :2], ignored, min_half_px=STRIDES[0] / 2)
                owner = torch.where(hidden & (owner == NEGATIVE), torch.full_like(owner, IGNORED), owner)
            maps.append(owner)
    return torch.stack(maps)


def share_of_all(total: Tensor) -> Tensor:
    """Return what this process divides a sum by, so that the processes' average is the sum of all / total of all.

    The gradients of several processes are averaged: the average of sum / (total / processes) is the same whatever
    the number of processes and however images are spread over them.

    Args:
        total: what this process counts, a float scalar.

    Returns:
        max(total of all processes, 1) / number of processes.
    """
    processes = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        total = total.clone()
        torch.distributed.all_reduce(total)
        processes = torch.distributed.get_world_size()
    return total.clamp(min=1) / processes


def normalizer(owner: Tensor, *, by_image: bool) -> Tensor:
    """Return the number of positives that divides both losses of this process, a float scalar > 0.

    Args:
        owner: (N, P) assignment maps.
        by_image: as published, images without positives count one each and processes stay apart.
    """
    positives = (owner > 0).sum(dim=1).float()
    return positives.clamp(min=1).sum() if by_image else share_of_all(positives.sum())


def dcfl_loss(raw: Any, batch: Any, rules: Rules) -> dict[str, Tensor]:
    """Return the two losses of a batch.

    Args:
        raw: fifteen raw outputs of the network.
        batch: `boxes` [(n, 5)], `labels` [(n,) int64] and `ignored` [(m, 5)] of each image.
        rules: of assignment and division.

    Returns:
        'loss_cls' and 'loss_bbox', scalars; both are summed over priors and divided by `normalizer`.
    """
    flat = flatten_raw(raw, shift_by_height=rules.shift_by_height)
    owner = assign_batch(flat, batch, rules)
    total = normalizer(owner, by_image=rules.divisor_by_image)
    num_classes = flat.logits.shape[2]
    labels = torch.where(owner == IGNORED, IGNORED, num_classes)
    truth = []
    for index, (boxes, classes) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
        positive = owner[index] > 0
        row = owner[index, positive] - 1
        labels[index, positive] = classes.to(labels)[row]
        truth.append(boxes.to(flat.grid)[row])
    image, prior = (owner > 0).nonzero(as_tuple=True)
    predicted = decode(flat.grid[prior], flat.deltas[image, prior])
    # The empty sum keeps the box branch in the graph of a batch without positives.
    box_total = iou_loss(predicted, torch.cat(truth)).sum() if len(prior) else flat.deltas.sum() * 0.0
    cls_total = focal_loss(flat.logits.flatten(0, 1), labels.flatten()).sum()
    return {"loss_cls": cls_total / total, "loss_bbox": box_total / total}
