"""The deployed side of DCFL: from a picture to the network and from its raw maps to boxes.

Needs NumPy and OpenCV only. Everything it must know comes from `meta`, the JSON that the
exported model carries as `krimp.deploy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from compress.errors import DetectorError
from detectors.geometry.deployed import BoxDeploy
from detectors.geometry.detections import Detections
from detectors.geometry.metadata import Count, DeployMeta, Name, Strides, check_choice, check_meta, check_outputs
from detectors.geometry.nms import rotated_nms

FORMAT_VERSION = 1
_SIZE_CLIP = np.log(1000 / 16)  # largest |log| by which a box may differ from its prior
_ANGLE_START = {"le135": -np.pi / 4, "le90": -np.pi / 2}  # angles are wrapped into [start, start + pi)


class DcflMeta(DeployMeta):
    """What the file of a DCFL says besides.

    Attributes:
        strides: pixels a cell of each level.
        anchor_scale: side of a prior in strides.
        nms_pre: cells of a level that are decoded.
        angle_version: range of the angles.
    """

    strides: Strides
    anchor_scale: Annotated[float, Field(gt=0, le=1000)]
    nms_pre: Count
    angle_version: Name


def make_deploy(meta: Mapping[str, Any]) -> BoxDeploy:
    """Return the deployed part of a model.

    Args:
        meta: the model's `krimp.deploy`.

    Raises:
        DetectorError: a key is missing, the version is another one, or a value does not fit.
    """
    check_meta(meta, DcflMeta, format_version=FORMAT_VERSION)
    check_choice("angle_version", meta["angle_version"], _ANGLE_START)
    check_outputs(meta, 2 * len(meta["strides"]))
    return BoxDeploy(meta, postprocess)


def postprocess(
    raw: Sequence[np.ndarray],
    meta: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
    score_threshold: float | None = None,
) -> list[Detections]:
    """Turn raw head maps into boxes, best score first.

    Per level the `nms_pre` cells of highest class score are decoded; every (cell, class) above
    the score threshold is a candidate; rotated NMS class by class; at most `max_detections` stay.

    Args:
        raw: 2 * L arrays, class scores before the sigmoid (N, C, h, w) of every level, then box
            deltas (N, 5, h, w) of every level.
        meta: the model's `krimp.deploy`.
        image_size: (height, width) of the real picture inside the padded input; centres are
            clamped to it.
        score_threshold: replaces the one of `meta`; candidates are strictly above it.

    Returns:
        One `Detections` a picture, pixels of the network's input.

    Raises:
        DetectorError: number or shape of the arrays does not fit `meta`.

    Source:
        detectors/dcfl/README.md, sections 2, 3 and 6.
    """
    strides = [int(stride) for stride in meta["strides"]]
    _check_raw(raw, len(strides), len(meta["classes"]))
    threshold = float(meta["score_threshold"] if score_threshold is None else score_threshold)
    levels = list(zip(raw[: len(strides)], raw[len(strides) :], strides, strict=True))
    return [
        _postprocess_one([(c[n], b[n], s) for c, b, s in levels], meta, image_size, threshold)
        for n in range(len(raw[0]))
    ]


def decode(deltas: np.ndarray, cells: np.ndarray, width: int, stride: int, meta: Mapping[str, Any]) -> np.ndarray:
    """Return the boxes that deltas describe at cells of one level.

    The prior of a cell is a square of side `anchor_scale * stride`, angle 0, centred at the
    cell's top left corner.

    Args:
        deltas: (n, 5) raw regression (dx, dy, dw, dh, da).
        cells: (n,) flat index of the cell, row by row.
        width: cells in a row.
        stride: pixels a cell.
        meta: reads `anchor_scale` and `angle_version`.

    Returns:
        (n, 5) float64, (cx, cy, w, h, angle_rad), not clamped to the picture.

    Source:
        detectors/dcfl/README.md, section 3.
    """
    deltas = np.asarray(deltas, np.float64)
    side = float(meta["anchor_scale"]) * stride
    rows, columns = np.divmod(cells, width)
    start = _ANGLE_START[meta["angle_version"]]
    boxes = np.empty((len(deltas), 5))
    boxes[:, 0] = columns * stride + side * deltas[:, 0]
    boxes[:, 1] = rows * stride + side * deltas[:, 1]
    boxes[:, 2:4] = side * np.exp(np.clip(deltas[:, 2:4], -_SIZE_CLIP, _SIZE_CLIP))
    boxes[:, 4] = np.mod(np.pi * deltas[:, 4] - start, np.pi) + start
    return boxes


def _check_raw(raw: Sequence[np.ndarray], num_levels: int, num_classes: int) -> None:
    if len(raw) < 2 * num_levels:
        msg = (
            f"raw outputs: {len(raw)} arrays; krimp.deploy promises {2 * num_levels} (scores and boxes of each level)."
        )
        raise DetectorError(msg)
    for level in range(num_levels):
        scores, deltas = raw[level].shape, raw[num_levels + level].shape
        if scores[1] != num_classes or deltas != (scores[0], 5, *scores[2:]):
            msg = (
                f"raw outputs of level {level}: scores {scores}, boxes {deltas}; "
                f"expected (N, {num_classes}, h, w) and (N, 5, h, w)."
            )
            raise DetectorError(msg)


def _postprocess_one(
    levels: Sequence[tuple[np.ndarray, np.ndarray, int]],
    meta: Mapping[str, Any],
    image_size: tuple[int, int],
    threshold: float,
) -> Detections:
    """Return the detections of one picture; levels are (scores (C, h, w), deltas (5, h, w), stride)."""
    found = [_candidates(scores, deltas, stride, meta, threshold) for scores, deltas, stride in levels]
    boxes, scores, labels = (np.concatenate(column) for column in zip(*found, strict=True))
    height, width = image_size
    boxes[:, 0] = np.clip(boxes[:, 0], 0, width - 1)
    boxes[:, 1] = np.clip(boxes[:, 1], 0, height - 1)
    kept = rotated_nms(boxes, scores, labels, iou_threshold=float(meta["nms_iou"]))[: int(meta["max_detections"])]
    return Detections(boxes[kept], scores[kept], labels[kept])


def _candidates(
    class_logits: np.ndarray, deltas: np.ndarray, stride: int, meta: Mapping[str, Any], threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes (n, 5) float32, scores (n,) float32 and labels (n,) of one level above the threshold."""
    num_classes, _, width = class_logits.shape
    logits = class_logits.reshape(num_classes, -1)
    best = logits.max(axis=0)
    # The sigmoid rises with the logit, so cells below the threshold leave before anything is computed.
    cells = np.flatnonzero(best > _logit(threshold) - 1e-3)
    nms_pre = int(meta["nms_pre"])
    if best.size > nms_pre:
        cells = cells[np.argsort(-best[cells], kind="stable")[:nms_pre]]
    scores = (0.5 + 0.5 * np.tanh(logits[:, cells].T.astype(np.float64) / 2)).astype(np.float32)
    row, labels = np.nonzero(scores > np.float32(threshold))
    boxes = decode(deltas.reshape(5, -1)[:, cells].T, cells, width, stride, meta).astype(np.float32)
    scores = scores[row, labels]
    finite = np.isfinite(boxes[row]).all(axis=1)  # a broken network must not break the suppression
    return boxes[row][finite], scores[finite], labels[finite]


def _logit(probability: float) -> float:
    clipped = min(max(probability, 1e-12), 1 - 1e-12)
    return float(np.log(clipped / (1 - clipped)))
