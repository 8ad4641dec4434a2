"""From raw head maps to boxes, for every dense family. NumPy only; everything comes from the model's metadata.

Raw maps of one image and level: class scores (A * C, h, w) before the sigmoid, boxes (A * 5 or 4, h, w), angle
codes (A * E, h, w), centreness (A, h, w). A is the number of anchors a cell, C of classes. The rules are
MMRotate's `predict_by_feat`, and one more: no final score, centreness included, lies at or below the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SIZE_CLIP = abs(float(np.log(16 / 1000)))  # largest |log| by which a box may differ from its anchor
ANGLE_START = {"le135": -np.pi / 4, "le90": -np.pi / 2, "r360": -np.pi}  # angles are wrapped from here on
ANGLE_PERIOD = {"le135": np.pi, "le90": np.pi, "r360": 2 * np.pi}
ANGLE_VERSIONS = ("oc", *ANGLE_START)  # 'oc' is never wrapped

Level = Mapping[str, np.ndarray]  # kind -> map of one level of one image


def candidates(
    level: Level, number: int, meta: Mapping[str, Any], threshold: float, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes (n, 5), scores (n,) and labels (n,) of one level.

    Args:
        level: raw maps.
        number: of the level.
        meta: the model's `krimp.deploy`.
        threshold: scores are strictly above it, with centreness and without.
        image_size: (height, width) that centres are clamped to, where the box coder clamps.
    """
    num_classes = len(meta["classes"])
    logits = level["cls_score"]
    channels, height, width = logits.shape
    anchors = channels // num_classes
    flat = logits.reshape(anchors, num_classes, height * width)
    # The sigmoid rises with the logit, so what is below the threshold leaves before anything is computed.
    anchor, label, cell = np.nonzero(flat > _logit(threshold) - 1e-3)
    scores = _sigmoid(flat[anchor, label, cell]).astype(np.float32)
    above = np.flatnonzero(scores > np.float32(threshold))
    best = above[np.argsort(-scores[above], kind="stable")][: int(meta["nms_pre"])]
    anchor, label, cell, scores = anchor[best], label[best], cell[best], scores[best]
    if "centerness" in level:
        factor = level["centerness"].reshape(anchors, -1)[anchor, cell]
        scores = (scores * _sigmoid(factor)).astype(np.float32)
        # MMRotate would keep these; the candidates that crowd each other out are still the same.
        left = np.flatnonzero(scores > np.float32(threshold))
        anchor, label, cell, scores = anchor[left], label[left], cell[left], scores[left]
    boxes = _boxes(level, number, meta, anchor, cell, width, image_size)
    return boxes.astype(np.float32), scores, label


def _boxes(
    level: Level,
    number: int,
    meta: Mapping[str, Any],
    anchor: np.ndarray,
    cell: np.ndarray,
    width: int,
    image_size: tuple[int, int],
) -> np.ndarray:
    """Return the boxes (n, 5) float64 at pairs of anchor and cell."""
    stride = float(meta["strides"][number])
    rows, columns = np.divmod(cell, width)
    values = _values(level["bbox_pred"], meta["coders"][-1]["size"], anchor, cell)
    angle = None
    if meta["angle_coder"]["kind"] != "none":
        codes = _values(level["angle_pred"], meta["angle_coder"]["size"], anchor, cell)
        angle = decode_angle(codes, meta["angle_coder"])
    priors = meta["priors"]
    if priors["kind"] == "points":
        assert angle is not None
        points = (np.stack([columns, rows], axis=1) + float(priors["offset"])) * stride
        distances = values * (stride if priors["distances_in_strides"] else 1.0)
        return decode_distances(points, distances, angle, meta["coders"][-1])
    boxes = anchor_boxes(priors, number, anchor, columns * stride, rows * stride)
    for stage, coder in enumerate(meta["coders"][:-1]):
        earlier = _values(level[f"refined_bbox_pred_{stage}"], coder["size"], anchor, cell)
        boxes = decode_deltas(boxes, earlier, coder)
    if angle is not None and meta["angle_coder"]["in_delta"]:
        values[:, 4] = angle
    boxes = decode_deltas(boxes, values, meta["coders"][-1], image_size)
    if angle is not None and not meta["angle_coder"]["in_delta"]:
        boxes[:, 4] = angle
    return boxes


def _values(raw: np.ndarray, size: int, anchor: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return the `size` values of each pair of anchor and cell, (n, size) float64."""
    return raw.reshape(-1, size, raw.shape[1] * raw.shape[2])[anchor, :, cell].astype(np.float64)


def anchor_boxes(
    priors: Mapping[str, Any], number: int, anchor: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Return the anchors (n, 5) float64 of cells whose first corner lies at (x, y) px.

    All in single precision, step by step as MMRotate does it: a square anchor is turned by a quarter or not
    depending on how its corners were rounded, and the network was trained with those.

    Source:
        MMRotate 1.x, `FakeRotatedAnchorGenerator`; MMDetection 3.x, `AnchorGenerator`.
    """
    single = np.float32
    corners = np.array(priors["corners"][number], single)[anchor] + np.stack([x, y, x, y], axis=1).astype(single)
    size, centre = corners[:, 2:] - corners[:, :2], (corners[:, 2:] + corners[:, :2]) / single(2)
    w, h = size.T
    angle = np.zeros_like(w)
    version = priors["angle_version"]
    if version == "oc":  # angles lie in [-pi/2, 0), so upright boxes are turned by a quarter
        w, h, angle = h, w, np.full_like(w, -np.pi / 2)
    elif version is not None:
        wide = w > h
        w, h = np.where(wide, w, h), np.where(wide, h, w)
        angle = wrap(np.where(wide, angle, single(np.pi / 2)).astype(np.float64), version)
    return np.column_stack([centre, w, h, angle]).astype(np.float64)


def decode_deltas(
    boxes: np.ndarray,
    deltas: np.ndarray,
    coder: Mapping[str, Any],
    image_size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Return the boxes that deltas make of other boxes.

    Args:
        boxes: (n, 5) cx, cy, w, h, angle_rad; for the kind 'hbox' the angle is not read.
        deltas: (n, 5).
        coder: kind 'rbox' or 'hbox', means, stds, norm_factor, edge_swap, proj_xy, angle_version.
        image_size: (height, width) that centres are clamped to (kind 'rbox' only).

    Source:
        MMRotate 1.x, `DeltaXYWHTRBBoxCoder` and `DeltaXYWHTHBBoxCoder`.
    """
    dx, dy, dw, dh, turn = (deltas * np.array(coder["stds"]) + np.array(coder["means"])).T
    x, y, w, h, angle = boxes.T
    if coder["norm_factor"]:
        turn = turn * coder["norm_factor"] * np.pi
    if coder["proj_xy"]:
        cos, sin = np.cos(angle), np.sin(angle)
        x, y = x + dx * w * cos - dy * h * sin, y + dx * w * sin + dy * h * cos
    else:
        x, y = x + dx * w, y + dy * h
    w = w * np.exp(np.clip(dw, -SIZE_CLIP, SIZE_CLIP))
    h = h * np.exp(np.clip(dh, -SIZE_CLIP, SIZE_CLIP))
    version = coder["angle_version"]
    angle = wrap(turn if coder["kind"] == "hbox" else angle + turn, version)
    if image_size is not None and coder["kind"] == "rbox":
        x, y = np.clip(x, 0, image_size[1] - 1), np.clip(y, 0, image_size[0] - 1)
    if coder["edge_swap"]:
        wide = w > h
        angle = np.where(wide, angle, wrap(angle + np.pi / 2, version))
        w, h = np.where(wide, w, h), np.where(wide, h, w)
    return np.stack([x, y, w, h, angle], axis=1)


def decode_distances(
    points: np.ndarray, distances: np.ndarray, angle: np.ndarray, coder: Mapping[str, Any]
) -> np.ndarray:
    """Return the boxes whose sides lie at distances from points.

    Args:
        points: (n, 2) x, y, px.
        distances: (n, 4) to the left, top, right and bottom side, along the box's own axes, px.
        angle: (n,) rad.
        coder: reads angle_version.

    Source:
        MMRotate 1.x, `DistanceAnglePointCoder`.
    """
    left, top, right, bottom = distances.T
    along, across = (right - left) / 2, (bottom - top) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    x = points[:, 0] + cos * along - sin * across
    y = points[:, 1] + sin * along + cos * across
    return np.stack([x, y, left + right, top + bottom, wrap(angle, coder["angle_version"])], axis=1)


def decode_angle(codes: np.ndarray, coder: Mapping[str, Any]) -> np.ndarray:
    """Return the angles (n,) rad that codes (n, size) stand for.

    Source:
        MMRotate 1.x, `PseudoAngleCoder`, `CSLCoder` (Yang & Yan 2020, arXiv 2003.05597) and `PSCCoder`
        (Yu & Da 2023, arXiv 2211.06368).
    """
    if coder["kind"] == "pseudo":
        return codes[:, 0]
    if coder["kind"] == "csl":
        degrees = (codes.argmax(axis=1) + 0.5) * coder["omega"] % coder["range_deg"] - coder["offset_deg"]
        angles: np.ndarray = np.deg2rad(degrees)
        return angles
    steps = int(coder["num_step"])
    shift = 2 * np.pi * np.arange(steps) / steps
    phase, strength = _phase(codes[:, :steps], shift)
    if coder["dual_freq"]:
        fine, strength = _phase(codes[:, steps : 2 * steps], shift)
        fine = fine / 2
        opposite = np.cos(phase) * np.cos(fine) + np.sin(phase) * np.sin(fine) < 0
        phase = np.where(opposite, np.mod(fine, 2 * np.pi) - np.pi, fine)
    return np.where(strength < coder["thr_mod"], 0.0, phase) / 2


def _phase(codes: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sin, cos = codes @ np.sin(shift), codes @ np.cos(shift)
    return -np.arctan2(sin, cos), sin**2 + cos**2


def wrap(angle: np.ndarray, version: str) -> np.ndarray:
    """Return angles in the range of an angle version; 'oc' is left alone, as MMRotate does."""
    if version not in ANGLE_START:
        return angle
    start = ANGLE_START[version]
    return np.mod(angle - start, ANGLE_PERIOD[version]) + start


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(logits.astype(np.float64) / 2)


def _logit(probability: float) -> float:
    clipped = min(max(probability, 1e-12), 1 - 1e-12)
    return float(np.log(clipped / (1 - clipped)))


def levels_of(
    raw: Sequence[np.ndarray], kinds: Sequence[str], num_levels: int, image: int
) -> list[dict[str, np.ndarray]]:
    """Return kind -> map of each level of one image of the batch."""
    return [
        {kind: raw[index * num_levels + level][image] for index, kind in enumerate(kinds)}
        for level in range(num_levels)
    ]
