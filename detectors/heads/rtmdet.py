"""RTMDet: maps of class scores and of distances to four sides, or what MMDeploy has made of them in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from detectors.geometry.metadata import Bounded, Strides
from detectors.heads.boxes import clipped
from detectors.heads.grids import level_cells
from detectors.heads.head import Candidates, Request, odd_outputs
from detectors.heads.scores import best_pairs, probabilities, sigmoid


class RtmdetSettings(Bounded):
    """Settings of RTMDet.

    Attributes:
        form: `detections` are `dets` (N, K, 5) and `labels` (N, K); `maps` are class scores of every level, then
            distances of every level.
        strides: pixels a cell of each level; for maps.
        offset: of a cell's point from its corner, in cells; for maps.
        distances_in_strides: distances are in strides, else in pixels; for maps.
        logits: the sigmoid of the scores is still to be taken; for maps.
    """

    form: Literal["maps", "detections"] = "detections"
    strides: Strides = Field(default=[8, 16, 32])
    offset: Annotated[float, Field(ge=0, le=1)] = 0.0
    distances_in_strides: bool = False
    logits: bool = True


def rtmdet(raw: Sequence[np.ndarray], settings: RtmdetSettings, request: Request) -> list[Candidates]:
    """Decode either form.

    Source:
        Lyu et al. 2022, arXiv 2212.07784; MMDetection 3, `RTMDetHead.predict_by_feat`, and the outputs of MMDeploy 1.
    """
    if settings.form == "detections":
        return _detections(raw, request)
    levels = len(settings.strides)
    expected = f"{levels} maps (N, {request.num_classes}, h, w) of scores, then {levels} (N, 4, h, w) of distances"
    if len(raw) != 2 * levels:
        raise odd_outputs(raw, expected)
    pairs = list(zip(raw[:levels], raw[levels:], settings.strides, strict=True))
    for scores, distances, _ in pairs:
        grid = scores.shape[2:]
        if scores.ndim != 4 or scores.shape[1] != request.num_classes or distances.shape != (len(scores), 4, *grid):
            raise odd_outputs(raw, expected)
    found = []
    for number in range(len(raw[0])):
        parts = [_level(scores[number], reach[number], stride, settings, request) for scores, reach, stride in pairs]
        found.append(Candidates(*(np.concatenate(column) for column in zip(*parts, strict=True))))
    return found


def _level(
    scores: np.ndarray, distances: np.ndarray, stride: int, settings: RtmdetSettings, request: Request
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.asarray(scores, np.float32).reshape(request.num_classes, -1).T
    rows = sigmoid(rows) if settings.logits else probabilities(rows)
    row, label, score = best_pairs(rows, request.threshold, request.count)
    points = (level_cells(*scores.shape[1:])[row] + np.float32(settings.offset)) * stride
    reach = np.asarray(distances, np.float32).reshape(4, -1).T[row]
    reach = reach * stride if settings.distances_in_strides else reach
    boxes = np.concatenate([points - reach[:, :2], points + reach[:, 2:]], axis=1)
    return clipped(boxes, request.input_size), score, label


def _detections(raw: Sequence[np.ndarray], request: Request) -> list[Candidates]:
    expected = "dets (N, K, 5), then labels (N, K)"
    if len(raw) != 2 or raw[0].ndim != 3 or raw[0].shape[2] != 5 or raw[1].shape != raw[0].shape[:2]:
        raise odd_outputs(raw, expected)
    found = []
    for rows, labels in zip(np.asarray(raw[0], np.float32), raw[1], strict=True):
        known = (labels >= 0) & (labels < request.num_classes)  # MMDeploy fills up with -1
        row, _, score = best_pairs(probabilities(rows[known, 4:]), request.threshold, request.count)
        found.append(Candidates(rows[known][row, :4], score, labels[known][row].astype(np.int64)))
    return found
