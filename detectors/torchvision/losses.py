"""The losses of torchvision's RetinaNet, FCOS and SSD, computed from raw maps.

Matching, coding and losses are torchvision's own code: its detector classes are built around an empty backbone, because
the network in training may be a pruned or traced one that has lost these methods. Ours is what comes before:
maps become rows, rotated boxes become axis-aligned ones, and ignored boxes give no negatives.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from detectors.torchvision.anchors import RETINANET_RATIOS, SSD_RATIOS, STRIDES
from detectors.torchvision.config import Architecture

NAMES = {"classification": "loss_cls", "bbox_regression": "loss_bbox", "bbox_ctrness": "loss_ctrness"}
SURE = 100.0  # a logit beyond doubt: its loss and its gradient are 0
_GROUPS = 32  # of the group norms in an FCOS head, so its least width


def detection_loss(
    architecture: Architecture,
    raw: tuple[Tensor, ...],
    anchors: list[Tensor],
    boxes: list[Tensor],
    labels: list[Tensor],
    ignored: list[Tensor],
    num_classes: int,
) -> dict[str, Tensor]:
    """Return torchvision's losses of a batch.

    Args:
        architecture: 'retinanet', 'fcos' or 'ssdlite'.
        raw: the network's outputs.
        anchors: per level (cells * boxes, 4), x1, y1, x2, y2, px.
        boxes: N times (n, 4), x1, y1, x2, y2, px.
        labels: N times (n,) int64, without background.
        ignored: N times (m, 4); an anchor whose centre lies on one of them is no negative.
        num_classes: without background.

    Returns:
        loss_cls, loss_bbox and for FCOS loss_ctrness; scalars.
    """
    values = {"cls_logits": num_classes + (architecture == "ssdlite"), "bbox_regression": 4, "bbox_ctrness": 1}
    levels = len(anchors)
    outputs = {
        name: torch.cat([rows(level, width) for level in raw[index * levels : (index + 1) * levels]], dim=1)
        for index, (name, width) in enumerate(values.items())
        if index * levels < len(raw)
    }
    every = torch.cat(anchors)
    targets = [
        {"boxes": box, "labels": label + (architecture == "ssdlite")} for box, label in zip(boxes, labels, strict=True)
    ]
    spared = torch.stack([centres_on(every, region) for region in ignored])
    compute = {"retinanet": _retinanet, "fcos": _fcos, "ssdlite": _ssd}[architecture]
    losses = compute(outputs, targets, every, spared, [len(level) for level in anchors], num_classes)
    return {NAMES[name]: loss for name, loss in losses.items()}


def rows(level_map: Tensor, values: int) -> Tensor:
    """Turn (N, boxes * values, h, w) into (N, h * w * boxes, values), the order of the anchors."""
    count, _, height, width = level_map.shape
    split = level_map.reshape(count, -1, values, height, width)
    return split.permute(0, 3, 4, 1, 2).reshape(count, -1, values)


def upright(boxes: Tensor) -> Tensor:
    """Return the axis-aligned rectangles around rotated boxes, (n, 5) -> (n, 4) x1, y1, x2, y2."""
    cos, sin = boxes[:, 4].cos().abs(), boxes[:, 4].sin().abs()
    half = torch.stack([boxes[:, 2] * cos + boxes[:, 3] * sin, boxes[:, 2] * sin + boxes[:, 3] * cos], dim=1) / 2
    return torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)


def centres_on(anchors: Tensor, regions: Tensor) -> Tensor:
    """Return (anchors,) bool: the anchor's centre lies on one of the regions (m, 4)."""
    centres = (anchors[:, None, :2] + anchors[:, None, 2:]) / 2
    inside = (centres > regions[None, :, :2]) & (centres < regions[None, :, 2:])
    return inside.all(dim=2).any(dim=1)


@lru_cache(maxsize=8)
def criterion(architecture: Architecture, num_classes: int) -> Any:
    """Return torchvision's detector without a network, for its matching, coding and losses."""
    empty = nn.Identity()
    if architecture == "ssdlite":
        generator = DefaultBoxGenerator([list(SSD_RATIOS)] * 6)
        return SSD(empty, generator, (32, 32), num_classes + 1, head=nn.Identity())
    ratios, head = {
        "retinanet": (RETINANET_RATIOS, RetinaNetHead(1, 9, num_classes)),
        "fcos": ((1.0,), FCOSHead(_GROUPS, 1, num_classes)),
    }[architecture]
    sizes = tuple((side,) * (3 if architecture == "retinanet" else 1) for side in STRIDES)
    empty.out_channels = 1  # type: ignore[assignment]
    kind = RetinaNet if architecture == "retinanet" else FCOS
    return kind(empty, num_classes, anchor_generator=AnchorGenerator(sizes, (ratios,) * len(sizes)), head=head)


def _matches(model: Any, targets: list[dict[str, Tensor]], anchors: Tensor) -> list[Tensor]:
    """Return per image the index of each anchor's box; below 0: none. As in torchvision's `RetinaNet.compute_loss`."""
    nothing = torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    return [
        model.proposal_matcher(box_iou(target["boxes"], anchors)) if len(target["boxes"]) else nothing.clone()
        for target in targets
    ]


def _retinanet(
    outputs: dict[str, Tensor],
    targets: list[dict[str, Tensor]],
    anchors: Tensor,
    spared: Tensor,
    _: list[int],
    num_classes: int,
) -> dict[str, Tensor]:
    model = criterion("retinanet", num_classes)
    matches = _matches(model, targets, anchors)
    for match, ignore in zip(matches, spared, strict=True):
        match[(match < 0) & ignore] = model.proposal_matcher.BETWEEN_THRESHOLDS
    losses: dict[str, Tensor] = model.head.compute_loss(targets, outputs, [anchors] * len(targets), matches)
    return losses


def _fcos(
    outputs: dict[str, Tensor],
    targets: list[dict[str, Tensor]],
    anchors: Tensor,
    spared: Tensor,
    per_level: list[int],
    num_classes: int,
) -> dict[str, Tensor]:
    # A positive of FCOS lies on its box, so what is spared and on no box is a negative.
    spared = spared & ~torch.stack([centres_on(anchors, target["boxes"]) for target in targets])
    outputs = outputs | {"cls_logits": outputs["cls_logits"].masked_fill(spared[..., None], -SURE)}
    model = criterion("fcos", num_classes)
    losses: dict[str, Tensor] = model.compute_loss(targets, outputs, [anchors] * len(targets), per_level)
    return losses


def _ssd(
    outputs: dict[str, Tensor],
    targets: list[dict[str, Tensor]],
    anchors: Tensor,
    spared: Tensor,
    _: list[int],
    num_classes: int,
) -> dict[str, Tensor]:
    model = criterion("ssdlite", num_classes)
    matches = _matches(model, targets, anchors)
    spared = spared & torch.stack([match < 0 for match in matches])
    background = torch.full_like(outputs["cls_logits"], 0.0)
    background[..., 0] = SURE
    outputs = outputs | {"cls_logits": torch.where(spared[..., None], background, outputs["cls_logits"])}
    losses: dict[str, Tensor] = model.compute_loss(targets, outputs, [anchors] * len(targets), matches)
    return losses
