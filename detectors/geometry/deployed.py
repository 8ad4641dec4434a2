"""What the deployed parts of plug-ins have in common: their `Deploy` functions that no plug-in needs of its own.

A plug-in's `deploy.py` imports these names, which makes them its own, and adds `check_meta` and `postprocess`.
NumPy and OpenCV only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from compress.errors import DetectorError
from detectors.geometry.detections import Detections
from detectors.geometry.drawing import draw_detections
from detectors.geometry.pictures import normalise_picture
from detectors.geometry.text import dota_text, to_records
from detectors.geometry.tiling import Window, merge_tiles
from detectors.geometry.tiling import tile_windows as _tile_windows

# What every model file says, because the functions below or every `postprocess` read it.
META_KEYS = (
    "format_version",
    "plugin",
    "image_size",
    "mean",
    "std",
    "size_divisor",
    "classes",
    "score_threshold",
    "nms_iou",
    "max_detections",
    "output_names",
)


def check_keys(meta: Mapping[str, Any], own_keys: Iterable[str] = (), *, format_version: int) -> None:
    """Refuse metadata that lacks a key or is of another version.

    Args:
        meta: the model's `krimp.deploy`.
        own_keys: what the plug-in reads besides `META_KEYS`.
        format_version: the one that the plug-in reads.

    Raises:
        DetectorError: a key is missing, or the version is another one.
    """
    missing = [key for key in (*META_KEYS, *own_keys) if key not in meta]
    if missing:
        raise DetectorError(
            f"krimp.deploy: {', '.join(missing)} missing. Export the model again with this version of Krimp."
        )
    if meta["format_version"] != format_version:
        raise DetectorError(
            f"krimp.deploy: format_version is {meta['format_version']}; this Krimp reads {format_version}."
        )


def check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Refuse a value of the metadata that is none of those known.

    Raises:
        DetectorError: it is another one.
    """
    known = tuple(known)
    if value not in known:
        raise DetectorError(f"krimp.deploy: {name} is {value!r}, expected one of {', '.join(known)}.")


def preprocess(
    image: np.ndarray, meta: Mapping[str, Any], *, minimum_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Turn a picture into the network's input: RGB, normalised, padded with zeros below and to the right.

    Args:
        image: (H, W, 3) uint8, BGR.
        meta: reads `mean` and `std` (RGB, 0..255) and `size_divisor`.
        minimum_size: (height, width) to pad to at least, pixels; None pads to the divisor only.

    Returns:
        (1, 3, H', W') float32, H' and W' the next multiples of `size_divisor`.

    Raises:
        DetectorError: the picture is not (H, W, 3) uint8.
    """
    try:
        return normalise_picture(
            image,
            mean=meta["mean"],
            std=meta["std"],
            size_divisor=int(meta["size_divisor"]),
            minimum_size=minimum_size,
        )
    except ValueError as error:
        raise DetectorError(str(error)) from error


def tile_windows(
    image_size: tuple[int, int],
    meta: Mapping[str, Any],
    *,
    tile_size: tuple[int, int] | None = None,
    overlap_px: int | None = None,
) -> list[Window]:
    """Return the windows in which a picture of any size is looked at.

    Args:
        image_size: (height, width) of the picture, pixels.
        meta: reads `image_size`, the size of a tile unless `tile_size` says otherwise.
        tile_size: (height, width), pixels.
        overlap_px: pixels that neighbours share; None means a fifth of the tile's shorter side.

    Returns:
        At least one window.

    Raises:
        DetectorError: the overlap does not fit into the tile.
    """
    tile = (int(meta["image_size"][0]), int(meta["image_size"][1])) if tile_size is None else tile_size
    overlap = min(tile) // 5 if overlap_px is None else overlap_px
    try:
        return _tile_windows(image_size, tile, overlap)
    except ValueError as error:
        raise DetectorError(f"{error} Choose an overlap of 0 to {min(tile) - 1} px.") from error


def merge(
    parts: Sequence[Detections],
    windows: Sequence[Window],
    meta: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
) -> Detections:
    """Put the detections of all windows of one picture together, in pixels of the picture.

    Args:
        parts: detections of each window, in the window's own pixels.
        windows: as from `tile_windows`, same order.
        meta: reads `nms_iou` and `max_detections` (the latter holds for one window; a picture
            of many windows may have as many times more).
        image_size: (height, width) of the picture, pixels.

    Returns:
        Detections, best score first.
    """
    limit = int(meta["max_detections"]) * len(windows)
    return merge_tiles(parts, windows, image_size, iou_threshold=float(meta["nms_iou"]), max_detections=limit)


def draw(
    image: np.ndarray, detections: Detections, meta: Mapping[str, Any], *, score_threshold: float | None = None
) -> np.ndarray:
    """Return a copy of the picture with the boxes drawn; small pictures are enlarged.

    Args:
        image: (H, W, 3) uint8, BGR.
        detections: boxes in pixels of the picture.
        meta: reads `classes`.
        score_threshold: draw only what scores more; None draws all.

    Returns:
        (s * H, s * W, 3) uint8, BGR, s 1 or 2.
    """
    if score_threshold is not None:
        detections = detections.take(detections.scores > score_threshold)
    return draw_detections(image, detections, meta["classes"])


def to_text(detections: Detections, meta: Mapping[str, Any]) -> str:
    """Return one line a detection: `class x1 y1 x2 y2 x3 y3 x4 y4 score`, pixels and 0..1."""
    return dota_text(detections, meta["classes"])


def to_json(detections: Detections, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one JSON-able record a detection: class, label, score, box, corners."""
    return to_records(detections, meta["classes"])
