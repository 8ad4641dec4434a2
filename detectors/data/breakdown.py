"""What a score of detections is made of, by rotated overlap: kinds of errors, curves, scores, every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from compress.breakdown import Breakdown, Corners, Curve, ImageOutcome
from compress.metrics.error_types import (
    ImageErrors,
    Overlaps,
    class_precision,
    error_types,
    image_errors,
    scores_by_part,
)
from detectors.data.greedy_matching import rank_in_group
from detectors.data.matching import MAX_DETS, box_overlaps
from detectors.data.samples import Truth
from detectors.geometry.corners import box_corners
from detectors.geometry.detections import Detections
from detectors.geometry.iou import overlapping_pairs

IOU_THRESHOLD, BACKGROUND_IOU, SCORE_THRESHOLD = 0.5, 0.1, 0.3
SCORE_PARTS = 20


def break_down(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    names: Sequence[str],
    classes: Sequence[str],
    *,
    max_dets: int = MAX_DETS,
) -> Breakdown:
    """Say of what the score of a split is made.

    Args:
        detections: one object an image.
        truths: one object an image, same order.
        names: of the images.
        classes: names.
        max_dets: so many detections of a class in an image count, the best ones.
    """
    kept = [_best_of_each_class(found, max_dets) for found in detections]
    errors = [
        image_errors(_overlaps(found, truth), iou_threshold=IOU_THRESHOLD, background_iou=BACKGROUND_IOU)
        for found, truth in zip(kept, truths, strict=True)
    ]
    labels = np.concatenate([np.zeros(0, np.int64), *(truth.labels for truth in truths)])
    counts = np.bincount(labels, minlength=len(classes))
    right, wrong = scores_by_part(errors, SCORE_PARTS)
    return Breakdown(
        iou_threshold=IOU_THRESHOLD,
        background_iou=BACKGROUND_IOU,
        score_threshold=SCORE_THRESHOLD,
        errors=error_types(errors, len(classes)),
        curves=[
            Curve(
                name=name,
                objects=int(counts[label]),
                precision=[round(float(value), 4) for value in class_precision(errors, label)],
            )
            for label, name in enumerate(classes)
            if counts[label]
        ],
        right_by_score=right,
        wrong_by_score=wrong,
        images=[_outcome(*one) for one in zip(names, kept, truths, errors, strict=True)],
    )


def _best_of_each_class(found: Detections, most: int) -> Detections:
    order = np.lexsort((-found.scores, found.labels))
    kept = order[rank_in_group(found.labels[order]) < most]
    return found.take(kept[np.argsort(-found.scores[kept], kind="stable")])


def _overlaps(found: Detections, truth: Truth) -> Overlaps:
    iou = _iou(found.boxes, truth.boxes)
    ignored = _iou(found.boxes, truth.ignored_boxes).max(axis=1, initial=0.0) >= IOU_THRESHOLD
    return Overlaps(iou, found.scores, found.labels, truth.labels, ignored)


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the overlap of every box with every other, (n, m) float64."""
    overlaps = np.zeros((len(first), len(second)))
    one, other = overlapping_pairs(first, second)
    overlaps[one, other] = box_overlaps(first[one], second[other])
    return overlaps


def _outcome(name: str, found: Detections, truth: Truth, errors: ImageErrors) -> ImageOutcome:
    """Return what surely is right and wrong: matching goes by score, so what scores less changes nothing of it."""
    sure = found.scores >= SCORE_THRESHOLD
    missed = np.ones(len(truth.labels), bool)
    missed[errors.match[errors.right & sure]] = False
    wrong = errors.wrong & sure
    return ImageOutcome(
        name=name,
        objects=len(truth.labels),
        found=int((~missed).sum()),
        wrong=int(wrong.sum()),
        missed_corners=_corners(truth.boxes[missed]),
        wrong_corners=_corners(found.boxes[wrong]),
    )


def _corners(boxes: np.ndarray) -> list[Corners]:
    rounded = np.round(box_corners(boxes).reshape(-1, 8), 1)
    return [cast("Corners", tuple(row)) for row in rounded.tolist()]
