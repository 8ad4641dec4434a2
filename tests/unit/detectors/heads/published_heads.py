"""Encodings and decodings of the heads as their papers and reference programs define them, in torch, for the tests.

Boxes are (n, 4) x1, y1, x2, y2 in pixels, unless they are turned: (n, 5) cx, cy, w, h, angle.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

SIZE = (96, 160)  # height, width of the input, px
STRIDES = (8, 16, 32)
CELLS = sum((SIZE[0] // s) * (SIZE[1] // s) for s in STRIDES)


def meta_of(head, settings=None, num_outputs=1, **changes):
    """Return metadata with every bound wide open, so that decoding alone is compared."""
    return {
        "format_version": 1,
        "plugin": "heads",
        "head": head,
        "settings": settings or {},
        "image_size": list(SIZE),
        "mean": [0.0, 0.0, 0.0],
        "std": [255.0, 255.0, 255.0],
        "size_divisor": 1,
        "classes": ["one", "two", "three"],
        "score_threshold": 0.3,
        "nms_iou": 0.5,
        "nms_pre": 100_000,
        "max_detections": 100_000,
        "resize": {"kind": "letterbox"},
        "output_names": [f"output{number}" for number in range(num_outputs)],
    } | changes


def shuffled_boxes(count, seed=0):
    """Return boxes inside the input that do not overlap much, labels and scores."""
    draw = torch.Generator().manual_seed(seed)
    columns = 4
    corner = torch.tensor([[(i % columns) * 40.0, (i // columns) * 32.0] for i in range(count)])
    begin = corner + torch.rand((count, 2), generator=draw) * 8 + 1
    end = begin + 8 + torch.rand((count, 2), generator=draw) * 12
    labels = torch.randint(0, 3, (count,), generator=draw)
    scores = 0.4 + 0.5 * torch.rand((count,), generator=draw)
    return torch.cat([begin, end], dim=1), labels, scores


def centre_form(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "xyxy", "cxcywh")


def class_scores(rows, places, labels, scores, num_classes=3):
    """Return (rows, classes) that are 0 but for the planted scores."""
    table = torch.zeros((rows, num_classes))
    table[places, labels] = scores
    return table


def grid_points(offset):
    """Return (A, 2) points of all cells in pixels and (A, 1) strides, as the reference programs lay them out."""
    points, strides = [], []
    for stride in STRIDES:
        ys, xs = torch.meshgrid(torch.arange(SIZE[0] // stride), torch.arange(SIZE[1] // stride), indexing="ij")
        level = torch.stack([xs.flatten(), ys.flatten()], 1).float()
        points.append((level + offset) * stride)
        strides.append(torch.full((len(level), 1), float(stride)))
    return torch.cat(points), torch.cat(strides)


def suppress(boxes, scores, threshold=0.3, iou=0.5):
    """Return (boxes, scores, labels) with several labels a box, after torchvision's suppression class by class."""
    row, label = torch.nonzero(scores > threshold, as_tuple=True)
    value = scores[row, label]
    kept = batched_nms(boxes[row], value, label, iou)
    return boxes[row][kept], value[kept], label[kept]


def clipped(boxes):
    high = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]]).float()
    return torch.minimum(boxes.clamp(min=0), high)


def ltrb(distances: Tensor, points: Tensor) -> Tensor:
    return torch.cat([points - distances[:, :2], points + distances[:, 2:]], dim=1)
