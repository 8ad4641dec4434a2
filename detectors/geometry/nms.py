"""Greedy non-maximum suppression of rotated boxes, class by class."""

from __future__ import annotations

import numpy as np

from detectors.geometry.iou import overlapping_pairs, pairwise_iou

_BLOCK = 512  # candidates decided at a time, so that suppressed boxes are never compared with each other


def rotated_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    iou_threshold: float,
    sources: np.ndarray | None = None,
    cross_iou_threshold: float | None = None,
) -> np.ndarray:
    """Return the indices of the boxes that survive, best score first.

    From the best score down, a box is kept unless a kept box of its class overlaps it by
    `iou_threshold` or more. Equal scores keep their order.

    Args:
        boxes: (n, 5), (cx, cy, w, h, angle_rad), pixels.
        scores: (n,), larger is better.
        labels: (n,) integers; None means one class.
        iou_threshold: overlap from which a box is suppressed, above 0 and at most 1.
        sources: (n,) integers, e.g. the tile a box comes from; None means one source.
        cross_iou_threshold: the threshold between boxes of different sources; None means the same.

    Returns:
        (k,) int64.

    Raises:
        ValueError: a threshold is outside (0, 1].
    """
    cross = iou_threshold if cross_iou_threshold is None else cross_iou_threshold
    for threshold in (iou_threshold, cross):
        if not 0 < threshold <= 1:
            msg = f"iou threshold {threshold} is outside (0, 1]."
            raise ValueError(msg)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 5)
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.asarray(labels, np.int64)
    sources = np.zeros(len(boxes), np.int64) if sources is None else np.asarray(sources, np.int64)
    areas = np.abs(boxes[:, 2] * boxes[:, 3])

    def conflicts(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return positions (i in first, j in second) of pairs that may not both stay."""
        i, j = overlapping_pairs(boxes[first], boxes[second], labels[first], labels[second])
        a, b = first[i], second[j]
        limit = np.where(sources[a] == sources[b], iou_threshold, cross)
        # Overlap is at most the ratio of the areas: no need to clip the pairs that cannot reach the limit.
        possible = np.minimum(areas[a], areas[b]) >= (limit - 1e-9) * np.maximum(areas[a], areas[b])
        i, j, limit = i[possible], j[possible], limit[possible]
        bad = pairwise_iou(boxes[first[i]], boxes[second[j]]) >= limit
        return i[bad], j[bad]

    waiting = np.argsort(-np.asarray(scores), kind="stable")
    kept = []
    while len(waiting):
        block, waiting = waiting[:_BLOCK], waiting[_BLOCK:]
        block = block[_greedy(len(block), *conflicts(block, block))]
        kept.append(block)
        if len(waiting):
            suppressed = np.zeros(len(waiting), bool)
            suppressed[conflicts(block, waiting)[1]] = True
            waiting = waiting[~suppressed]
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def _greedy(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (count,) bool: kept, given conflicts (first, second) among boxes in order of merit."""
    ahead = first < second
    first, second = first[ahead], second[ahead]
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    owners, begins = np.unique(first, return_index=True)
    ends = np.append(begins, len(first))[1:]
    kept = np.ones(count, bool)
    for owner, begin, end in zip(owners.tolist(), begins.tolist(), ends.tolist(), strict=True):
        if kept[owner]:
            kept[second[begin:end]] = False
    return kept
