"""Heads with two outputs, boxes and class scores, a row each: SSD and DETR."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from detectors.geometry.metadata import Bounded
from detectors.heads.boxes import clipped, corners_of_centres, in_pixels
from detectors.heads.head import Candidates, Request, odd_outputs
from detectors.heads.scores import best_classes, best_pairs, probabilities, sigmoid, softmax

MAX_PRIORS = 1 << 17
_LOG_LIMIT = np.float32(np.log(1000 / 16))  # largest logarithm of a side relative to its prior
_Side = Annotated[float, Field(ge=-1e5, le=1e5)]
_Weight = Annotated[float, Field(ge=1e-3, le=1e3)]

Scores = Literal["softmax", "sigmoid", "probabilities"]
Background = Literal["first", "last", "none"]
Order = Literal["boxes_scores", "scores_boxes"]


class SsdSettings(Bounded):
    """Settings of SSD.

    Attributes:
        order: of the two outputs.
        scores: what is still to be taken of the class scores.
        background: where the score of no object stands among the classes.
        priors: [x1, y1, x2, y2] of each row, pixels (shares where `normalized`), to which boxes are relative; None
            where boxes are decoded: x1, y1, x2, y2.
        weights: what the four numbers of a box were multiplied with.
        normalized: boxes and priors are shares of the input.
    """

    order: Order = "boxes_scores"
    scores: Scores = "softmax"
    background: Background = "first"
    priors: (
        Annotated[list[Annotated[list[_Side], Field(min_length=4, max_length=4)]], Field(max_length=MAX_PRIORS)] | None
    ) = None
    weights: Annotated[list[_Weight], Field(min_length=4, max_length=4)] = Field(default=[10.0, 10.0, 5.0, 5.0])
    normalized: bool = False

    @cached_property
    def prior_array(self) -> np.ndarray | None:
        """Return the priors, (P, 4) float32."""
        return None if self.priors is None else np.asarray(self.priors, np.float32).reshape(-1, 4)


class DetrSettings(Bounded):
    """Settings of DETR and its kin.

    Attributes:
        order: of the two outputs.
        scores: what is still to be taken of the class scores.
        background: where the score of no object stands among the classes.
    """

    order: Order = "scores_boxes"
    scores: Scores = "softmax"
    background: Background = "last"


def ssd(raw: Sequence[np.ndarray], settings: SsdSettings, request: Request) -> list[Candidates]:
    """Decode boxes (N, P, 4) and class scores (N, P, C or C + 1) of priors.

    Source:
        Liu et al. 2016, arXiv 1512.02325; torchvision 0.25, `SSD.postprocess_detections`.
    """
    boxes, scores = _boxes_and_scores(raw, settings.order, settings.background, request)
    priors = settings.prior_array
    if priors is not None and len(priors) != boxes.shape[1]:
        raise odd_outputs(raw, f"one row for each of the {len(priors)} priors")
    found = []
    for rows, logits in zip(boxes, scores, strict=True):
        classes = _without_background(_scored(logits, settings.scores), settings.background)
        row, label, score = best_pairs(classes, request.threshold, request.count)
        decoded = rows[row] if priors is None else from_priors(rows[row], priors[row], settings.weights)
        decoded = in_pixels(decoded, request.input_size) if settings.normalized else decoded
        found.append(Candidates(clipped(decoded, request.input_size), score, label))
    return found


def detr(raw: Sequence[np.ndarray], settings: DetrSettings, request: Request) -> list[Candidates]:
    """Decode class scores (N, Q, C or C + 1) and boxes (N, Q, 4), cx, cy, w, h as shares of the input.

    One output (N, Q, 4 + C) holds both, boxes first. With the softmax a query is an object of its best class, else of
    every class above the threshold.

    Source:
        Carion et al. 2020, arXiv 2005.12872; Zhao et al. 2023, arXiv 2304.08069 (RT-DETR, sigmoid).
    """
    order = settings.order
    if len(raw) == 1 and raw[0].ndim == 3:
        raw, order = [raw[0][..., :4], raw[0][..., 4:]], "boxes_scores"
    boxes, scores = _boxes_and_scores(raw, order, settings.background, request)
    choose = best_classes if settings.scores == "softmax" else best_pairs
    found = []
    for rows, logits in zip(boxes, scores, strict=True):
        classes = _without_background(_scored(logits, settings.scores), settings.background)
        row, label, score = choose(classes, request.threshold, request.count)
        found.append(Candidates(in_pixels(corners_of_centres(rows[row]), request.input_size), score, label))
    return found


def from_priors(deltas: np.ndarray, priors: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return the boxes that deltas (dx, dy, dw, dh) describe relative to priors.

    Args:
        deltas: (n, 4) float32.
        priors: (n, 4) float32, x1, y1, x2, y2.
        weights: what the four were multiplied with.

    Source:
        Ren et al. 2015, arXiv 1506.01497, equation 2; torchvision 0.25, `BoxCoder.decode_single`.
    """
    sides = priors[:, 2:] - priors[:, :2]
    deltas = deltas / np.asarray(weights, np.float32)
    centres = priors[:, :2] + np.float32(0.5) * sides + deltas[:, :2] * sides
    return corners_of_centres(np.concatenate([centres, np.exp(np.minimum(deltas[:, 2:], _LOG_LIMIT)) * sides], axis=1))


def _boxes_and_scores(
    raw: Sequence[np.ndarray], order: Order, background: Background, request: Request
) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (N, P, 4) and scores (N, P, values), float32."""
    values = request.num_classes + (background != "none")
    names = ["boxes (N, P, 4)", f"scores (N, P, {values})"]
    expected = " and then ".join(names if order == "boxes_scores" else names[::-1])
    if len(raw) != 2:
        raise odd_outputs(raw, expected)
    boxes, scores = raw if order == "boxes_scores" else raw[::-1]
    if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.shape != (*boxes.shape[:2], values):
        raise odd_outputs(raw, expected)
    return np.asarray(boxes, np.float32), np.asarray(scores, np.float32)


def _scored(logits: np.ndarray, form: Scores) -> np.ndarray:
    if form == "probabilities":
        return probabilities(logits)
    return softmax(logits) if form == "softmax" else sigmoid(logits)


def _without_background(scores: np.ndarray, background: Background) -> np.ndarray:
    return {"first": scores[:, 1:], "last": scores[:, :-1], "none": scores}[background]
