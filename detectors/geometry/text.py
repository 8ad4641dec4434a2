"""Detections as text and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectors.geometry.corners import box_corners
from detectors.geometry.detections import Detections


def dota_text(detections: Detections, classes: Sequence[str]) -> str:
    """Return one line a detection: `class x1 y1 x2 y2 x3 y3 x4 y4 score`.

    The four corners run around the box, in pixels with two decimals; the score is 0..1 with
    five decimals; blanks in a class name become hyphens, as in the class names of DOTA.

    Args:
        detections: boxes in pixels of the picture.
        classes: class names by label.

    Returns:
        The lines, each ended by a newline; the empty string without detections.
    """
    lines = []
    corners = box_corners(detections.boxes).reshape(-1, 8)
    for eight, score, label in zip(corners, detections.scores, detections.labels, strict=True):
        numbers = " ".join(f"{value:.2f}" for value in eight)
        lines.append(f"{'-'.join(classes[label].split())} {numbers} {score:.5f}\n")
    return "".join(lines)


def to_records(detections: Detections, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return one JSON-able record a detection.

    Args:
        detections: boxes in pixels of the picture.
        classes: class names by label.

    Returns:
        Records with `class`, `label`, `score`, `box` (cx, cy, w, h in pixels, angle_rad) and
        `corners` (x1, y1, ... x4, y4 in pixels).
    """
    corners = box_corners(detections.boxes).reshape(-1, 8)
    return [
        {
            "class": classes[label],
            "label": int(label),
            "score": round(float(score), 6),
            "box": [round(float(value), 5) for value in box],
            "corners": [round(float(value), 3) for value in eight],
        }
        for box, eight, score, label in zip(
            detections.boxes, corners, detections.scores, detections.labels, strict=True
        )
    ]
