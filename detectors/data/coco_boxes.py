"""One COCO annotation to the four corners of its box, in every way in which rotated boxes are written there.

COCO counts pixels from the upper left corner of the picture, so a box [x, y, w, h] reaches from x to x + w; nothing is
added or taken away. COCO itself has no rotated boxes. What tools write, in the order in which it is looked for:

- LibreYOLO: `obb`, eight numbers (x1, y1, ..., x4, y4, px) or five (cx, cy, w, h, px, and the clockwise angle of w,
  rad), bare or under the key `corners` or `xywhr`;
- CVAT: `attributes.rotation`, degrees, by which `bbox` is turned clockwise around its centre;
- `segmentation`: polygons or a run-length mask, of which the smallest rotated rectangle is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from detectors.data.labels import MAX_PX, DegenerateBoxError
from detectors.data.run_lengths import outline_points, read_mask
from detectors.geometry.corners import box_corners
from detectors.geometry.minimal_rectangle import minimal_rectangle

Quad = tuple[float, ...]
_XYWHR = ("cx", "cy", "w", "h", "angle_rad")


def annotation_quad(annotation: Mapping[str, Any], image_size: tuple[int, int] | None) -> Quad:
    """Return the corners x1, y1, ..., x4, y4 of an annotation's rotated box, px.

    Args:
        annotation: an entry of `annotations`.
        image_size: (height, width) that the file states for the image; a mask of another size is wrong.

    Raises:
        ValueError: the text says which field is wrong, with its value, and what was expected.
    """
    if annotation.get("obb") is not None:
        return obb_quad(annotation["obb"])
    rotation = _rotation(annotation)
    if rotation:
        x, y, w, h = bbox_of(annotation)
        return _quad_of_box(x + w / 2, y + h / 2, w, h, math.radians(rotation))
    if annotation.get("segmentation"):
        return segmentation_quad(annotation["segmentation"], image_size)
    return bbox_quad(annotation)


def bbox_quad(annotation: Mapping[str, Any]) -> Quad:
    """Return the corners of an annotation's `bbox`, clockwise from the upper left one.

    Raises:
        ValueError: as for `annotation_quad`.
    """
    x, y, w, h = bbox_of(annotation)
    return (x, y, x + w, y, x + w, y + h, x, y + h)


def bbox_of(annotation: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return an annotation's `bbox` as it stands there: x, y, w, h, px.

    Raises:
        ValueError: as for `annotation_quad`.
    """
    value = annotation.get("bbox")
    if not _are_numbers(value) or len(value) != 4:
        hint = ""
        if isinstance(value, list) and len(value) == 5:
            hint = "; tools disagree about a fifth number: write rotated boxes as obb, or as attributes.rotation"
        raise ValueError(f"bbox is {_short(value)}, expected four finite numbers [x, y, width, height] in pixels{hint}")
    x, y, w, h = (float(number) for number in value)
    if w <= 0 or h <= 0:
        kind = ValueError if min(w, h) < 0 else DegenerateBoxError
        raise kind(f"bbox is {_short(value)}, expected a width and a height above 0")
    return x, y, w, h


def obb_quad(value: Any) -> Quad:
    """Return the corners of LibreYOLO's `obb`.

    Raises:
        ValueError: as for `annotation_quad`.
    """
    if isinstance(value, dict):
        value = value.get("corners", value.get("xywhr"))
    flat = value
    if isinstance(value, list) and all(isinstance(point, list) for point in value):
        flat = [number for point in value for number in point]
    if not _are_numbers(flat) or len(flat) not in (5, 8):
        raise ValueError(
            f"obb is {_short(value)}, expected 8 finite numbers x1, y1, ..., x4, y4 or 5: {', '.join(_XYWHR)}"
        )
    if len(flat) == 8:
        return tuple(float(number) for number in flat)
    if min(flat[2], flat[3]) <= 0:
        raise (ValueError if min(flat[2], flat[3]) < 0 else DegenerateBoxError)(
            f"obb is {_short(value)}, expected a width and a height above 0"
        )
    return _quad_of_box(*flat)


def segmentation_quad(value: Any, image_size: tuple[int, int] | None) -> Quad:
    """Return the smallest rotated rectangle around polygons or a mask; four corners of one polygon stay as they are.

    Raises:
        ValueError: as for `annotation_quad`.
    """
    if isinstance(value, dict):
        counts, height, width = read_mask_of(value)
        if image_size is not None and (height, width) != image_size:
            raise ValueError(
                f"segmentation.size is {height} x {width}, expected the image's {image_size[0]} x {image_size[1]}"
            )
        points = outline_points(counts, height)
        if not len(points):
            raise DegenerateBoxError("segmentation is a mask without any pixel, expected at least one")
        return tuple(minimal_rectangle(points).reshape(-1).tolist())
    if not isinstance(value, list):
        raise ValueError(f"segmentation is {_short(value)}, expected polygons [[x1, y1, x2, y2, ...], ...] or a mask")
    for number, polygon in enumerate(value):
        if not _are_numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                f"segmentation[{number}] is {_short(polygon)}, expected an even number of finite numbers, 6 at least"
            )
    if len(value) == 1 and len(value[0]) == 8:
        return tuple(float(number) for number in value[0])
    points = np.concatenate([np.array(polygon, np.float64).reshape(-1, 2) for polygon in value])
    return tuple(minimal_rectangle(points).reshape(-1).tolist())


def read_mask_of(value: dict[str, Any]) -> tuple[np.ndarray, int, int]:
    """Return run lengths, height and width of a `segmentation` that is a mask.

    Raises:
        ValueError: as for `annotation_quad`.
    """
    try:
        return read_mask(value)
    except ValueError as error:
        raise ValueError(f"segmentation.{error}") from error


def _rotation(annotation: Mapping[str, Any]) -> float:
    attributes = annotation.get("attributes")
    value = attributes.get("rotation") if isinstance(attributes, dict) else None
    if value is None:
        return 0.0
    if not _are_numbers([value]):
        raise ValueError(f"attributes.rotation is {_short(value)}, expected degrees, clockwise")
    return float(value)


def _quad_of_box(cx: float, cy: float, w: float, h: float, angle_rad: float) -> Quad:
    return tuple(box_corners(np.array([[cx, cy, w, h, angle_rad]], np.float64)).reshape(-1).tolist())


def _are_numbers(value: Any) -> TypeGuard[list[float]]:
    # The comparison is false for nan and inf, and for whole numbers too large for a float.
    return isinstance(value, list) and all(type(item) in (int, float) and abs(item) <= MAX_PX for item in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."
