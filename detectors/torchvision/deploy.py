"""The deployed side of torchvision's detectors: from a picture to the network and from its raw maps to boxes.

Needs NumPy and OpenCV only. Everything it must know comes from `meta`, the JSON that the exported
model carries as `krimp.deploy`. The numbers are those of torchvision's `postprocess_detections`: float32, in its
order of operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from compress.errors import DetectorError
from detectors.geometry.class_nms import class_nms
from detectors.geometry.deployed import BoxDeploy
from detectors.geometry.detections import Detections
from detectors.geometry.metadata import (
    MAX_LEVELS,
    Bounded,
    Count,
    DeployMeta,
    Name,
    Pixels,
    check_choice,
    check_meta,
    check_outputs,
)
from detectors.torchvision.anchors import boxes_per_cell, level_boxes

FORMAT_VERSION = 1
ARCHITECTURES = ("retinanet", "fcos", "ssdlite")
_LOG_LIMIT = np.float32(math.log(1000.0 / 16))  # largest logarithm of a side relative to its anchor
_DELTA_WEIGHTS = {"retinanet": (1.0, 1.0, 1.0, 1.0), "ssdlite": (10.0, 10.0, 5.0, 5.0)}  # of torchvision's BoxCoder
_KINDS = {"retinanet": 2, "fcos": 3, "ssdlite": 2}  # of maps a level: scores, boxes, and FCOS' centreness

_Side = Annotated[float, Field(ge=0, le=1 << 16)]
_Level = Annotated[list[_Side], Field(min_length=1, max_length=100)]
_Ratio = Annotated[float, Field(ge=1e-3, le=1e3)]


class GridAnchors(Bounded):
    """Anchors around the corners of cells: sides in pixels, and height / width, of each level."""

    kind: Literal["grid"]
    sizes_px: Annotated[list[_Level], Field(min_length=1, max_length=MAX_LEVELS)]
    aspect_ratios: Annotated[
        list[Annotated[list[_Ratio], Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=MAX_LEVELS)
    ]


class ShareAnchors(Bounded):
    """Boxes in the middle of cells: (width, height) as shares of the input, of each level."""

    kind: Literal["shares"]
    shares: Annotated[
        list[
            Annotated[
                list[Annotated[list[_Side], Field(min_length=2, max_length=2)]], Field(min_length=1, max_length=100)
            ]
        ],
        Field(min_length=1, max_length=MAX_LEVELS),
    ]


class TorchvisionMeta(DeployMeta):
    """What the file of a torchvision detector says besides.

    Attributes:
        architecture: decides how maps become boxes.
        input_size: [height, width] of the network's input, pixels.
        anchors: what the boxes are relative to, see `anchors.py`.
        num_levels: maps of each kind.
        nms_pre: candidates of a level (SSDlite: of a class) before suppression.
    """

    architecture: Name
    input_size: Annotated[list[Pixels], Field(min_length=2, max_length=2)]
    anchors: Annotated[GridAnchors | ShareAnchors, Field(discriminator="kind")]
    num_levels: Annotated[int, Field(ge=1, le=MAX_LEVELS)]
    nms_pre: Count

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        given = self.anchors
        lists = [given.shares] if isinstance(given, ShareAnchors) else [given.sizes_px, given.aspect_ratios]
        if any(len(levels) != self.num_levels for levels in lists):
            raise ValueError(f"anchors: of {[len(levels) for levels in lists]} levels, num_levels is {self.num_levels}")
        return self


def make_deploy(meta: Mapping[str, Any]) -> BoxDeploy:
    """Return the deployed part of a model.

    Args:
        meta: the model's `krimp.deploy`.

    Raises:
        DetectorError: a key is missing, the version is another one, or a value does not fit.
    """
    check_meta(meta, TorchvisionMeta, format_version=FORMAT_VERSION)
    check_choice("architecture", meta["architecture"], ARCHITECTURES)
    check_outputs(meta, _KINDS[meta["architecture"]] * meta["num_levels"])
    return BoxDeploy(meta, postprocess, axis_aligned=True)


def postprocess(
    raw: Sequence[np.ndarray],
    meta: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
    score_threshold: float | None = None,
) -> list[Detections]:
    """Turn raw head maps into boxes, best score first.

    Args:
        raw: per kind of `meta["output_names"]` the maps of all levels, (N, boxes * values, h, w) each.
        meta: the model's `krimp.deploy`.
        image_size: (height, width) of the real picture inside the padded input; boxes are clipped to it.
        score_threshold: replaces the one of `meta`; candidates are strictly above it.

    Returns:
        One `Detections` a picture, angle 0, pixels of the network's input.

    Raises:
        DetectorError: number or shape of the arrays does not fit `meta`.

    Source:
        torchvision 0.25, `postprocess_detections` of RetinaNet, FCOS and SSD.
    """
    levels = int(meta["num_levels"])
    _check_raw(raw, meta)
    shapes = [(m.shape[2], m.shape[3]) for m in raw[:levels]]
    size = (int(meta["input_size"][0]), int(meta["input_size"][1]))
    anchors = level_boxes(meta["anchors"], shapes, size, size)
    threshold = float(meta["score_threshold"] if score_threshold is None else score_threshold)
    candidates = {"retinanet": _retinanet, "fcos": _fcos, "ssdlite": _ssd}[meta["architecture"]]
    found = []
    for index in range(len(raw[0])):
        maps = [[kind[index] for kind in raw[start : start + levels]] for start in range(0, len(raw), levels)]
        boxes, scores, labels = candidates(maps, anchors, meta, threshold)
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, image_size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, image_size[0])
        finite = np.isfinite(boxes).all(axis=1)  # a broken network must not break the suppression
        boxes, scores, labels = boxes[finite], scores[finite], labels[finite]
        kept = class_nms(
            boxes, scores, labels, iou_threshold=float(meta["nms_iou"]), max_detections=int(meta["max_detections"])
        )
        found.append(Detections(centre_boxes(boxes[kept]), scores[kept], labels[kept]))
    return found


def centre_boxes(boxes: np.ndarray) -> np.ndarray:
    """Turn (n, 4) x1, y1, x2, y2 into (n, 5) cx, cy, w, h, angle 0."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([(low + high) / 2, high - low, np.zeros((len(boxes), 1), boxes.dtype)], axis=1)


def rows(level_map: np.ndarray, values: int) -> np.ndarray:
    """Turn (boxes * values, h, w) into (h * w * boxes, values), the order of the anchors."""
    boxes, (height, width) = len(level_map) // values, level_map.shape[1:]
    return level_map.reshape(boxes, values, height, width).transpose(2, 3, 0, 1).reshape(-1, values)


def decode_deltas(deltas: np.ndarray, anchors: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return the boxes that deltas (dx, dy, dw, dh) describe relative to anchors.

    Args:
        deltas: (n, 4) float32.
        anchors: (n, 4) float32, x1, y1, x2, y2.
        weights: what the four were multiplied with.

    Source:
        torchvision 0.25, `BoxCoder.decode_single`.
    """
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + np.float32(0.5) * size
    deltas = deltas / np.asarray(weights, np.float32)
    centre = deltas[:, :2] * size + centre
    half = np.float32(0.5) * (np.exp(np.minimum(deltas[:, 2:], _LOG_LIMIT)) * size)
    return np.concatenate([centre - half, centre + half], axis=1)


def decode_distances(distances: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Return the boxes whose four sides lie so many anchor sizes from the anchor's centre (left, top, right, bottom).

    Source:
        torchvision 0.25, `BoxLinearCoder.decode` with normalize_by_size.
    """
    size = np.tile(anchors[:, 2:] - anchors[:, :2], 2)
    centre = np.float32(0.5) * (anchors[:, :2] + anchors[:, 2:])
    reach = distances * size
    return np.concatenate([centre - reach[:, :2], centre + reach[:, 2:]], axis=1)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), float32, without overflow."""
    return (0.5 + 0.5 * np.tanh(logits.astype(np.float64) / 2)).astype(np.float32)


Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes (n, 4), scores (n,), labels (n,)


def _retinanet(
    maps: list[list[np.ndarray]], anchors: list[np.ndarray], meta: Mapping[str, Any], threshold: float
) -> Candidates:
    found = []
    for logits, deltas, boxes in zip(*maps, anchors, strict=True):
        scores = sigmoid(rows(logits, len(meta["classes"])))
        index, label, score = _best(scores, threshold, int(meta["nms_pre"]))
        decoded = decode_deltas(rows(deltas, 4)[index], boxes[index], _DELTA_WEIGHTS["retinanet"])
        found.append((decoded, score, label))
    return _concatenate(found)


def _fcos(
    maps: list[list[np.ndarray]], anchors: list[np.ndarray], meta: Mapping[str, Any], threshold: float
) -> Candidates:
    found = []
    for logits, distances, centreness, boxes in zip(*maps, anchors, strict=True):
        scores = np.sqrt(sigmoid(rows(logits, len(meta["classes"]))) * sigmoid(rows(centreness, 1)))
        index, label, score = _best(scores, threshold, int(meta["nms_pre"]))
        found.append((decode_distances(rows(distances, 4)[index], boxes[index]), score, label))
    return _concatenate(found)


def _ssd(
    maps: list[list[np.ndarray]], anchors: list[np.ndarray], meta: Mapping[str, Any], threshold: float
) -> Candidates:
    """Return candidates; the first of the classes + 1 scores is background."""
    values = len(meta["classes"]) + 1
    logits = np.concatenate([rows(level, values) for level in maps[0]])
    deltas = np.concatenate([rows(level, 4) for level in maps[1]])
    decoded = decode_deltas(deltas, np.concatenate(anchors), _DELTA_WEIGHTS["ssdlite"])
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = powers / powers.sum(axis=1, keepdims=True)
    found = []
    for label in range(values - 1):
        index, _, score = _best(scores[:, label + 1 : label + 2], threshold, int(meta["nms_pre"]))
        found.append((decoded[index], score, np.full(len(index), label)))
    return _concatenate(found)


def _best(scores: np.ndarray, threshold: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row, column, score) of the best entries above the threshold, at most `count`."""
    above = np.flatnonzero(scores.ravel() > np.float32(threshold))
    values = scores.ravel()[above]
    order = np.argsort(-values, kind="stable")[:count]
    row, column = np.divmod(above[order], scores.shape[1])
    return row, column, values[order]


def _concatenate(found: Sequence[Candidates]) -> Candidates:
    boxes, scores, labels = (np.concatenate(column) for column in zip(*found, strict=True))
    return boxes, scores, labels


def _check_raw(raw: Sequence[np.ndarray], meta: Mapping[str, Any]) -> None:
    levels, names = int(meta["num_levels"]), meta["output_names"]
    if len(raw) != len(names):
        raise DetectorError(f"raw outputs: {len(raw)} arrays; krimp.deploy promises {len(names)}.")
    values = [len(meta["classes"]) + (meta["architecture"] == "ssdlite"), 4, 1]
    for number, (array, name) in enumerate(zip(raw, names, strict=True)):
        kind, level = divmod(number, levels)
        wanted = (len(raw[0]), values[kind] * boxes_per_cell(meta["anchors"], level), *raw[level].shape[2:])
        if array.shape != wanted:
            raise DetectorError(f"raw output {name}: {array.shape}; krimp.deploy promises {wanted}.")
