"""Draw rotated boxes that can be read even where objects are tiny."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detectors.geometry.corners import box_corners
from detectors.geometry.detections import Detections

# BGR, far apart in hue and light enough for grey pictures; further classes repeat them.
PALETTE = (
    (80, 230, 40),
    (60, 160, 255),
    (255, 190, 40),
    (80, 70, 255),
    (250, 90, 220),
    (40, 240, 250),
    (255, 130, 120),
    (150, 255, 190),
    (190, 150, 255),
    (40, 200, 170),
)
_SHIFT = 4  # OpenCV draws in 1/16 px: boxes of a few pixels keep their shape
_SMALL_PX = 900  # pictures below this are drawn at twice the size


def draw_detections(
    image: np.ndarray, detections: Detections, classes: Sequence[str], *, scale: int | None = None
) -> np.ndarray:
    """Return a copy of the picture with boxes, class colours and score labels.

    Lines are one pixel wide around tiny objects and two around large ones. The best
    detections get their label first; a label that would cover another one or an object is left
    out, and class counts are written into the corner instead.

    Args:
        image: (H, W, 3) uint8, BGR.
        detections: boxes in pixels of the picture.
        classes: class names by label.
        scale: enlarge the picture so many times first; None means 2 below 900 px, else 1.

    Returns:
        (scale * H, scale * W, 3) uint8, BGR.
    """
    if scale is None:
        scale = 2 if max(image.shape[:2]) < _SMALL_PX else 1
    canvas = image.copy() if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    # Pixel centres: the centre of pixel x is at scale * (x + 0.5) - 0.5 in the enlarged picture.
    corners = (box_corners(detections.boxes) + 0.5) * scale - 0.5
    order = np.argsort(-detections.scores, kind="stable")
    for index in order[::-1]:
        edge_px = float(detections.boxes[index, 2:4].max()) * scale
        points = np.round(np.clip(corners[index], -1e6, 1e6) * 2**_SHIFT).astype(np.int32)
        colour = _colour(detections.labels[index])
        cv2.polylines(canvas, [points], True, colour, 1 if edge_px < 64 else 2, cv2.LINE_AA, _SHIFT)
    # What a label may not cover: the middle of every object, then the labels already written.
    taken = np.zeros(canvas.shape[:2], bool)
    middles = np.round(corners.mean(axis=1)).clip(0, [canvas.shape[1] - 1, canvas.shape[0] - 1]).astype(np.int64)
    taken[middles[:, 1], middles[:, 0]] = True
    labelled = 0
    for index in order:
        text = f"{classes[detections.labels[index]]} {detections.scores[index]:.2f}"
        labelled += _draw_label(canvas, text, corners[index], _colour(detections.labels[index]), taken)
    return _with_legend(canvas, detections, classes) if labelled < len(detections) else canvas


def _colour(label: int) -> tuple[int, int, int]:
    return PALETTE[int(label) % len(PALETTE)]


def _draw_label(
    canvas: np.ndarray,
    text: str,
    corners: np.ndarray,
    colour: tuple[int, int, int],
    taken: np.ndarray,
) -> bool:
    """Write `text` above the box on a dark plate unless it would cover what is taken; return whether it was."""
    (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.35, 1)
    left = int(np.clip(corners[:, 0].min(), 0, max(0, canvas.shape[1] - width - 2)))
    top = int(corners[:, 1].min()) - height - baseline - 2
    if top < 0:
        top = int(np.clip(corners[:, 1].max() + 2, 0, max(0, canvas.shape[0] - height - baseline)))
    place = np.s_[top : top + height + baseline, left : left + width + 2]
    if taken[place].any():
        return False
    taken[place] = True
    canvas[place] //= 3
    cv2.putText(canvas, text, (left + 1, top + height + 1), cv2.FONT_HERSHEY_SIMPLEX, 0.35, colour, 1, cv2.LINE_AA)
    return True


def _with_legend(canvas: np.ndarray, detections: Detections, classes: Sequence[str]) -> np.ndarray:
    """Write class names with their counts into the top left corner: not every box got a label."""
    for row, label in enumerate(np.unique(detections.labels)):
        text = f"{classes[label]}: {int((detections.labels == label).sum())}"
        (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
        top = 4 + row * (height + baseline + 4)
        canvas[top : top + height + baseline + 2, 4 : 12 + width] //= 4
        cv2.putText(canvas, text, (8, top + height + 1), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _colour(label), 1, cv2.LINE_AA)
    return canvas
