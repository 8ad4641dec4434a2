"""YOLO heads whose boxes are decoded in the graph: v5 and v7, v8 to 26, oriented, and free of suppression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.geometry.metadata import Bounded
from detectors.heads.boxes import corners_of_centres, in_pixels
from detectors.heads.head import Candidates, Request, odd_outputs, only
from detectors.heads.scores import best_pairs, probabilities


class YoloSettings(Bounded):
    """Settings of the YOLO heads.

    Attributes:
        normalized: boxes are shares of the input, not pixels.
    """

    normalized: bool = False


def yolov8(raw: Sequence[np.ndarray], settings: YoloSettings, request: Request) -> list[Candidates]:
    """Decode (N, 4 + C, A), or (N, A, 4 + C): cx, cy, w, h and a score for each class.

    Source:
        ultralytics 8.4, `Detect._inference`; non-maximum suppression with several labels a box, as in its validation.
    """
    values = request.num_classes + 4
    rows = _rows(raw, values, f"(N, {values}, boxes) or (N, boxes, {values})")
    return [_upright(one[:, :4], probabilities(one[:, 4:]), settings, request) for one in rows]


def yolo_obb(raw: Sequence[np.ndarray], settings: YoloSettings, request: Request) -> list[Candidates]:
    """Decode (N, 4 + C + 1, A), or (N, A, 4 + C + 1): cx, cy, w, h, class scores, and the angle in radians.

    Source:
        ultralytics 8.4, `OBB._inference`. Suppression is by the exact overlap, there by a Gaussian one.
    """
    values = request.num_classes + 5
    found = []
    for one in _rows(raw, values, f"(N, {values}, boxes) or (N, boxes, {values})"):
        row, label, score = best_pairs(probabilities(one[:, 4:-1]), request.threshold, request.count)
        boxes = _scaled(one[row, :4], settings, request)
        found.append(Candidates(np.concatenate([boxes, one[row, -1:]], axis=1), score, label))
    return found


def yolov5(raw: Sequence[np.ndarray], settings: YoloSettings, request: Request) -> list[Candidates]:
    """Decode (N, A, 5 + C): cx, cy, w, h, objectness and class scores, which are multiplied.

    Source:
        ultralytics/yolov5 7.0, `Detect.forward` and `non_max_suppression` with several labels a box.
    """
    values = request.num_classes + 5
    rows = only(raw, f"(N, boxes, {values})")
    if rows.shape[2] != values:
        raise odd_outputs(raw, f"(N, boxes, {values})")
    return [
        _upright(one[:, :4], probabilities(one[:, 4:5]) * probabilities(one[:, 5:]), settings, request) for one in rows
    ]


def end2end(raw: Sequence[np.ndarray], settings: YoloSettings, request: Request) -> list[Candidates]:
    """Decode (N, K, 6): x1, y1, x2, y2, score and class of what the network itself has chosen.

    Source:
        ultralytics 8.4, `Detect.postprocess`.
    """
    rows = only(raw, "(N, K, 6)")
    if rows.shape[2] != 6:
        raise odd_outputs(raw, "(N, K, 6)")
    return [_chosen(one[:, :4], one, settings, request) for one in rows]


def obb_end2end(raw: Sequence[np.ndarray], settings: YoloSettings, request: Request) -> list[Candidates]:
    """Decode (N, K, 7): cx, cy, w, h, score, class and angle of what the network itself has chosen.

    Source:
        ultralytics 8.4, `OBB.postprocess`.
    """
    rows = only(raw, "(N, K, 7)")
    if rows.shape[2] != 7:
        raise odd_outputs(raw, "(N, K, 7)")
    return [_chosen(one[:, [0, 1, 2, 3, 6]], one, settings, request) for one in rows]


def _rows(raw: Sequence[np.ndarray], values: int, expected: str) -> np.ndarray:
    """Return (N, A, values) of an output that has the values first or last; first if both fit."""
    array = only(raw, expected)
    if array.shape[1] == values:
        return array.transpose(0, 2, 1)
    if array.shape[2] != values:
        raise odd_outputs(raw, expected)
    return array


def _scaled(boxes: np.ndarray, settings: YoloSettings, request: Request) -> np.ndarray:
    return in_pixels(boxes, request.input_size) if settings.normalized else boxes


def _upright(boxes: np.ndarray, scores: np.ndarray, settings: YoloSettings, request: Request) -> Candidates:
    row, label, score = best_pairs(scores, request.threshold, request.count)
    return Candidates(corners_of_centres(_scaled(boxes[row], settings, request)), score, label)


def _chosen(boxes: np.ndarray, rows: np.ndarray, settings: YoloSettings, request: Request) -> Candidates:
    """Return the candidates of rows with score and class in columns 4 and 5; classes that are none are left out."""
    with np.errstate(invalid="ignore"):
        labels = np.nan_to_num(rows[:, 5], nan=-1.0, posinf=-1.0, neginf=-1.0).round()
    known = (labels >= 0) & (labels < request.num_classes)
    row, _, score = best_pairs(probabilities(rows[known, 4:5]), request.threshold, request.count)
    boxes = boxes[known][row]
    boxes = np.concatenate([_scaled(boxes[:, :4], settings, request), boxes[:, 4:]], axis=1)
    return Candidates(boxes, score, labels[known][row].astype(np.int64))
