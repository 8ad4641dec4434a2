"""What the values of one picture's outputs say against a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_SLACK = 0.05
_FAR = 4.0  # a coordinate beyond is no share of the input
_FAR_FOR_CELLS = 20.0  # a coordinate beyond is no offset in cells and no logarithm of a side

Values = Sequence[np.ndarray]
Size = tuple[int, int] | None


def refusal(
    head: str, settings: Mapping[str, Any], sample: Values, input_size: Size, num_classes: int | None
) -> str | None:
    """Return why the outputs cannot be those of a head, or None if nothing speaks against it.

    Args:
        head: its name.
        settings: of the head.
        sample: outputs for one real picture.
        input_size: (height, width) of the network's input, px.
        num_classes: that the head would have, where shapes say so.
    """
    test = _TESTS.get(head)
    if test is None or any(array.size == 0 for array in sample):
        return None
    return test([np.asarray(array, np.float64) for array in sample], settings, num_classes or 0)


def _yolov8(sample: Values, settings: Mapping[str, Any], num_classes: int) -> str | None:
    rows = _rows(sample[0], num_classes + 4)
    return _no_scores(rows[..., 4:]) or _not_pixels(rows[..., :4], _FAR_FOR_CELLS)


def _yolo_obb(sample: Values, settings: Mapping[str, Any], num_classes: int) -> str | None:
    rows = _rows(sample[0], num_classes + 5)
    angles = rows[..., -1]
    if angles.min() >= 0 and angles.max() <= 1 and np.ptp(angles) > 0:
        return "its angles would all be within 0..1, as scores are"
    return _no_scores(rows[..., 4:-1]) or _not_pixels(rows[..., :4], _FAR_FOR_CELLS)


def _yolov5(sample: Values, settings: Mapping[str, Any], num_classes: int) -> str | None:
    return _no_scores(sample[0][..., 4:]) or _not_pixels(sample[0][..., :4], _FAR_FOR_CELLS)


def _yolox(sample: Values, settings: Mapping[str, Any], num_classes: int) -> str | None:
    boxes = sample[0][..., :4]
    if settings.get("decoded"):
        return _no_scores(sample[0][..., 4:]) or _not_pixels(boxes, _FAR_FOR_CELLS)
    if boxes.max() > _FAR_FOR_CELLS:
        return f"its boxes reach {boxes.max():.4g}, too much for offsets and logarithms"
    return _no_scores(sample[0][..., 4:])


def _end2end(sample: Values, settings: Mapping[str, Any], num_classes: int) -> str | None:
    labels = sample[0][..., 5]
    if np.any(labels != labels.round()) or labels.min() < 0:
        return "its classes would be no whole numbers"
    return _no_scores(sample[0][..., 4]) or _not_pixels(sample[0][..., :4])


def _detr(sample: Values, settings: Mapping[str, Any], num_classes: int) -> str | None:
    if len(sample) == 1:
        boxes, scores = sample[0][..., :4], sample[0][..., 4:]
    else:
        boxes, scores = sample if settings.get("order") == "boxes_scores" else sample[::-1]
    return _not_shares(boxes) or _not_form(scores, settings)


def _ssd(sample: Values, settings: Mapping[str, Any], num_classes: int) -> str | None:
    boxes, scores = sample if settings.get("order") == "boxes_scores" else sample[::-1]
    wrong = _not_form(scores, settings)
    if wrong:
        return wrong
    sums = scores.sum(axis=-1)
    if settings.get("scores") == "probabilities":
        one = bool(np.allclose(sums, 1, atol=_SLACK))
        if one != (settings.get("background") == "first"):
            return f"the scores of a box {'sum' if one else 'do not sum'} to 1"
    ordered = boxes[..., 2:] >= boxes[..., :2]
    if ordered.mean() < 0.99:
        return "its boxes are no corners, so they are relative to priors; give these in the settings"
    return _not_shares(boxes) if settings.get("normalized") else _not_pixels(boxes)


def _rtmdet(sample: Values, settings: Mapping[str, Any], num_classes: int) -> str | None:
    if settings.get("form") == "detections":
        return _no_scores(sample[0][..., 4]) or _not_pixels(sample[0][..., :4])
    half = len(sample) // 2
    if min(array.min() for array in sample[half:]) < -_SLACK:
        return "its distances would be below zero"
    return None


def _fastestdet(sample: Values, settings: Mapping[str, Any], num_classes: int) -> str | None:
    return _no_scores(sample[0][:, :1]) or _no_scores(sample[0][:, 5:])


def _rows(array: np.ndarray, values: int) -> np.ndarray:
    """Return (N, boxes, values)."""
    return np.swapaxes(array, 1, 2) if array.shape[1] == values else array


def _no_scores(scores: np.ndarray) -> str | None:
    low, high = float(scores.min()), float(scores.max())
    if low < -_SLACK or high > 1 + _SLACK or np.isnan(low):
        return f"its scores would go from {low:.4g} to {high:.4g}"
    return None


def _not_form(scores: np.ndarray, settings: Mapping[str, Any]) -> str | None:
    are_shares = _no_scores(scores) is None
    if settings.get("scores") == "probabilities":
        return _no_scores(scores)
    return "its scores are within 0..1, so they are no logits" if are_shares else None


def _not_pixels(boxes: np.ndarray, far: float = _FAR) -> str | None:
    if boxes.max() <= far and np.any(boxes != 0):
        return f"its boxes reach {boxes.max():.4g} only, so they are not in pixels"
    return None


def _not_shares(boxes: np.ndarray) -> str | None:
    if boxes.max() > _FAR:
        return f"its boxes reach {boxes.max():.4g}, so they are no shares of the input"
    return None


_TESTS: dict[str, Callable[[Values, Mapping[str, Any], int], str | None]] = {
    "yolov8": _yolov8,
    "yolo-obb": _yolo_obb,
    "yolov5": _yolov5,
    "yolox": _yolox,
    "yolo-end2end": _end2end,
    "yolo-obb-end2end": _end2end,
    "detr": _detr,
    "ssd": _ssd,
    "rtmdet": _rtmdet,
    "fastestdet": _fastestdet,
}
