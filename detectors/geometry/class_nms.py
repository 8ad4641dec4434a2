"""Greedy suppression of axis-aligned boxes, class by class, with torchvision's arithmetic. NumPy only."""

from __future__ import annotations

import numpy as np


def class_nms(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, *, iou_threshold: float, max_detections: int
) -> np.ndarray:
    """Return the boxes that survive, best score first.

    A box goes if a better one of its class overlaps it by more than the threshold. Float32 in the
    order of torchvision's kernel, so that both decide alike.

    Args:
        boxes: (n, 4) float32, x1, y1, x2, y2.
        scores: (n,), larger is better; equal scores keep their order.
        labels: (n,) integers.
        iou_threshold: 0..1.
        max_detections: stop after so many.

    Returns:
        (k,) int64 indices.

    Source:
        torchvision 0.25, ops/boxes.py, `batched_nms`.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    waiting = np.argsort(-np.asarray(scores), kind="stable")
    kept: list[int] = []
    while len(waiting) and len(kept) < max_detections:
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[waiting, :2])
        high = np.minimum(boxes[best, 2:], boxes[waiting, 2:])
        sides = np.maximum(high - low, np.float32(0))
        shared = sides[:, 0] * sides[:, 1]
        union = areas[best] + areas[waiting] - shared
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        waiting = waiting[(labels[waiting] != labels[best]) | (iou.astype(np.float64) <= iou_threshold)]
    return np.asarray(kept, np.int64)
