"""Training losses: OpenMMLab's own `loss_by_feat`, fed with the network's raw maps.

Added here: ignored boxes give no negatives with any assigner, the rotated IoU loss runs on every device
(mmcv's differentiable IoU exists on CUDA only), and the Kullback-Leibler loss is finite for boxes without extent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from mmrotate.models.losses import GDLoss_v1, RotatedIoULoss
from mmrotate.models.losses.gaussian_dist_loss_v1 import kld_loss
from mmrotate.structures.bbox import RotatedBoxes
from torch import Tensor, nn

from detectors.geometry.differentiable_iou import rotated_iou
from detectors.openmmlab.networks import Maps

MIN_SIDE_PX, MAX_SIDE_PX = 1e-7, 1e7  # as published; sides that the Kullback-Leibler loss tells apart
MIN_DIVERGENCE = 1e-6  # as published
CERTAINLY_NOTHING = -10.0  # class logit whose focal loss as a negative is below 1e-12


class PortableIoULoss(nn.Module):
    """`RotatedIoULoss` of MMRotate on any device.

    Args:
        published: the loss that it stands for.
    """

    def __init__(self, published: RotatedIoULoss) -> None:
        super().__init__()
        self.mode = "linear" if published.linear else published.mode
        self.eps = published.eps
        self.reduction = published.reduction
        self.loss_weight: float = published.loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Return the loss of pairs of boxes (n, 5); weight (n,) or (n, 5)."""
        if weight is not None and weight.dim() > 1:
            weight = weight.mean(-1)
        overlap = rotated_iou(pred, target).clamp(min=self.eps)
        loss = {"linear": 1 - overlap, "square": 1 - overlap**2, "log": -overlap.log()}[self.mode]
        reduced: Tensor = weight_reduce_loss(loss, weight, reduction_override or self.reduction, avg_factor)
        return self.loss_weight * reduced


def kullback_leibler_loss(pred: Tensor, target: Tensor, fun: str = "log1p", tau: float = 1.0) -> Tensor:
    """Return the loss of pairs of boxes as Gaussians: centre mu, covariance R diag(w, h)^2 R^T / 4.

    The published form takes the determinant of a covariance in single precision. For a box of width or height 0, what
    an untrained FCOS predicts, nothing but rounding is left of it: its logarithm is infinite or NaN. Here the
    determinant is the product of the sides, and everything else is written in the axes of the target.

    Args:
        pred: (n, 5) cx, cy, w, h, angle_rad; sides below MIN_SIDE_PX count as that, without a gradient.
        target: (n, 5).
        fun: 'log1p' or 'sqrt', how the divergence d is tamed: 1 - 1 / (tau + fun(d)).
        tau: above 0.

    Returns:
        (n,), 0..1.

    Source:
        Yang et al. 2021, arXiv 2106.01883, the divergence of the prediction from the target without its factor 1/2,
        as in MMRotate 1.x, `kld_loss` of `gaussian_dist_loss_v1.py`.
    """
    sides = pred[:, 2:4].clamp(MIN_SIDE_PX, MAX_SIDE_PX)
    wanted = target[:, 2:4].clamp(MIN_SIDE_PX, MAX_SIDE_PX)
    offset = pred[:, :2] - target[:, :2]
    cos, sin = target[:, 4].cos(), target[:, 4].sin()
    along = offset[:, 0] * cos + offset[:, 1] * sin
    across = offset[:, 1] * cos - offset[:, 0] * sin
    distance = 4 * (torch.stack([along, across], 1) / wanted).square().sum(1)
    turned = (pred[:, 4] - target[:, 4]).cos().square()[:, None]
    spread = (turned * sides.square() + (1 - turned) * sides.flip(1).square()) / wanted.square()
    divergence = distance + spread.sum(1) + 2 * (wanted.log() - sides.log()).sum(1) - 2
    divergence = divergence.clamp(min=MIN_DIVERGENCE)
    tamed = divergence.sqrt() if fun == "sqrt" else divergence.log1p()
    return 1 - 1 / (tau + tamed)


def use_closed_form(published: GDLoss_v1) -> None:
    """Let a `GDLoss_v1` of the type 'kld' compute its pairs by `kullback_leibler_loss`, in place.

    Weights and the case without a positive pair stay its own.
    """
    published.preprocess = _as_boxes
    published.loss = kullback_leibler_loss


def _as_boxes(boxes: Tensor) -> Tensor:
    """Stand in for the step from boxes to Gaussians, which the closed form does without."""
    return boxes


def make_portable(module: nn.Module) -> None:
    """Replace what computes the rotated IoU and the `GDLoss_v1` 'kld' losses below a module, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is RotatedIoULoss:
                setattr(parent, name, PortableIoULoss(child))
            elif type(child) is GDLoss_v1 and child.loss is kld_loss:
                use_closed_form(child)


def dense_loss(head: Any, maps: Maps, batch: Any, box_type: str) -> dict[str, Tensor]:
    """Return the losses of a dense head.

    Args:
        head: any instance of the head; its parameters are not read.
        maps: raw maps by kind (class scores first) and level.
        batch: `BoxBatch`.
        box_type: form of the truth.
    """
    truth, ignored, metas = targets(batch, box_type)
    return summed(head.loss_by_feat(*without_ignored(maps, batch), truth, metas, ignored))


def refine_loss(
    heads: Sequence[Any], maps: Maps, batch: Any, box_type: str, weights: Sequence[float]
) -> dict[str, Tensor]:
    """Return the losses of all stages of a refining detector.

    Args:
        heads: of the first stage and of each refining one.
        maps: scores and deltas of the last stage, deltas of the earlier ones, scores of the earlier ones.
        batch: `BoxBatch`.
        box_type: form of the truth.
        weights: of each refining stage.
    """
    truth, ignored, metas = targets(batch, box_type)
    earlier = len(heads) - 1
    deltas = [*maps[2 : 2 + earlier], maps[1]]
    scores = [*maps[2 + earlier :], maps[0]]
    losses: dict[str, Tensor] = {}
    boxes = None
    for stage, head in enumerate(heads):
        outputs = without_ignored([scores[stage], deltas[stage]], batch)
        if stage == 0:
            found = summed(head.loss_by_feat(*outputs, truth, metas, ignored))
            boxes = head.filter_bboxes(*_detached(outputs))
        else:
            found = summed(head.loss_by_feat(*outputs, truth, metas, ignored, rois=boxes))
            found = {name: value * weights[stage - 1] for name, value in found.items()}
            if stage < earlier:
                boxes = head.refine_bboxes(*_detached(outputs), rois=boxes)
        losses |= {f"{name}_{stage}": value for name, value in found.items()}
    return losses


def feature_loss(
    detector: Any, features: Sequence[Tensor], batch: Any, box_type: str, *, plain_boxes: bool
) -> dict[str, Tensor]:
    """Return the losses of heads that read feature maps; `plain_boxes`: they take the truth as a bare tensor."""
    truth, ignored, metas = targets(batch, box_type)
    for one in (*truth, *ignored) if plain_boxes else ():
        one.bboxes = one.bboxes.tensor
    samples = [
        DetDataSample(gt_instances=one, ignored_instances=skip, metainfo=meta)
        for one, skip, meta in zip(truth, ignored, metas, strict=True)
    ]
    return summed({name: value for name, value in detector.loss(tuple(features), samples).items() if "loss" in name})


def targets(batch: Any, box_type: str) -> tuple[list[InstanceData], list[InstanceData], list[dict[str, Any]]]:
    """Return truth, ignored boxes and image facts in OpenMMLab's form."""
    device = batch.images.device
    size = tuple(batch.images.shape[-2:])
    truth, ignored, metas = [], [], []
    for boxes, labels, skipped in zip(batch.boxes, batch.labels, batch.ignored, strict=True):
        own = [RotatedBoxes(one.to(device).reshape(-1, 5)).convert_to(box_type) for one in (boxes, skipped)]
        truth.append(InstanceData(bboxes=own[0], labels=labels.to(device)))
        ignored.append(InstanceData(bboxes=own[1]))
        metas.append(image_facts(size))
    return truth, ignored, metas


def image_facts(size: tuple[int, ...]) -> dict[str, Any]:
    """Return the facts of an image (height, width) that heads ask for."""
    facts = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size)
    return {**facts, "scale_factor": (1.0, 1.0)}


def summed(losses: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return one scalar a name, as MMEngine adds losses up: a tensor by its mean, the levels of a list by their sum."""
    return {
        name: value.mean() if isinstance(value, Tensor) else torch.stack([one.mean() for one in value]).sum()
        for name, value in losses.items()
    }


def without_ignored(maps: Sequence[Sequence[Tensor]], batch: Any) -> list[list[Tensor]]:
    """Return the maps with the class scores of hidden cells set to a constant without gradient.

    A cell is hidden if its centre lies in an ignored box, and in no true one. So it is no negative, whatever
    the assigner makes of it (MMRotate's configurations switch their own rule off, and FCOS and RTMDet have none).
    """
    if not any(len(boxes) for boxes in batch.ignored):
        return [list(kind) for kind in maps]
    height, width = batch.images.shape[-2:]
    hidden = []
    for level in maps[0]:
        rows, columns = level.shape[-2:]
        y = (torch.arange(rows, device=level.device) + 0.5) * (height / rows)
        x = (torch.arange(columns, device=level.device) + 0.5) * (width / columns)
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
        least = max(height / rows, width / columns) / 2
        masks = [
            inside_any(centres, skip, least) & ~inside_any(centres, boxes, least)
            for skip, boxes in zip(batch.ignored, batch.boxes, strict=True)
        ]
        mask = torch.stack(masks).reshape(-1, 1, rows, columns)
        hidden.append(torch.where(mask, torch.full_like(level, CERTAINLY_NOTHING), level))
    return [hidden, *(list(kind) for kind in maps[1:])]


def inside_any(points: Tensor, boxes: Tensor, least_half_px: float) -> Tensor:
    """Return which points (p, 2) lie in any box (n, 5), (p,) bool; boxes are at least 2 * least_half_px wide."""
    if not len(boxes):
        return torch.zeros(len(points), dtype=torch.bool, device=points.device)
    boxes = boxes.to(points)
    offset = points[:, None] - boxes[None, :, :2]
    cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
    along = offset[..., 0] * cos + offset[..., 1] * sin
    across = offset[..., 1] * cos - offset[..., 0] * sin
    half = (boxes[:, 2:4] / 2).clamp(min=least_half_px)
    return ((along.abs() <= half[:, 0]) & (across.abs() <= half[:, 1])).any(dim=1)


def _detached(maps: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    return [[level.detach() for level in kind] for kind in maps]
