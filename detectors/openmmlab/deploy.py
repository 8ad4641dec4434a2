"""The deployed side: from a picture to the network and from its raw maps to rotated boxes.

Needs NumPy and OpenCV only. Everything it must know comes from `meta`, the JSON that the
exported model carries as `krimp.deploy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compress.errors import DetectorError
from detectors.geometry.detections import Detections
from detectors.geometry.drawing import draw_detections
from detectors.geometry.nms import rotated_nms
from detectors.geometry.pictures import normalise_picture
from detectors.geometry.text import dota_text, to_records
from detectors.geometry.tiling import Window, merge_tiles
from detectors.geometry.tiling import tile_windows as _tile_windows
from detectors.openmmlab.decode import ANGLE_VERSIONS, candidates, levels_of

META_KEYS = (
    "format_version",
    "plugin",
    "config",
    "image_size",
    "mean",
    "std",
    "classes",
    "strides",
    "kinds",
    "priors",
    "coders",
    "angle_coder",
    "score_threshold",
    "nms_iou",
    "nms_pre",
    "max_detections",
    "min_box_px",
    "output_names",
    "size_divisor",
)
FORMAT_VERSION = 1
CODERS = ("rbox", "hbox", "distance")
ANGLE_CODERS = ("none", "pseudo", "csl", "psc")


def check_meta(meta: Mapping[str, Any]) -> None:
    """Refuse metadata that this module cannot serve.

    Args:
        meta: the model's `krimp.deploy`.

    Raises:
        DetectorError: a key is missing, the version is newer or a value does not fit.
    """
    missing = [key for key in META_KEYS if key not in meta]
    if missing:
        msg = f"krimp.deploy: {', '.join(missing)} missing. Export the model again with this version of Krimp."
        raise DetectorError(msg)
    if meta["format_version"] != FORMAT_VERSION:
        msg = f"krimp.deploy: format_version is {meta['format_version']}; this Krimp reads {FORMAT_VERSION}."
        raise DetectorError(msg)
    kinds = [("coders.kind", coder["kind"], CODERS) for coder in meta["coders"]]
    kinds += [("coders.angle_version", coder["angle_version"], ANGLE_VERSIONS) for coder in meta["coders"]]
    kinds += [("angle_coder.kind", meta["angle_coder"]["kind"], ANGLE_CODERS)]
    for name, value, known in kinds:
        if value not in known:
            msg = f"krimp.deploy: {name} is {value!r}, expected one of {', '.join(known)}."
            raise DetectorError(msg)


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


def postprocess(
    raw: Sequence[np.ndarray],
    meta: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
    score_threshold: float | None = None,
) -> list[Detections]:
    """Turn raw head maps into boxes, best score first.

    Per level the `nms_pre` best pairs of anchor and class above the score threshold are decoded; centreness
    lowers their scores; rotated NMS class by class; at most `max_detections` stay.

    Args:
        raw: one array per name in `output_names`, (N, channels, h, w).
        meta: the model's `krimp.deploy`.
        image_size: (height, width) of the real picture inside the padded input.
        score_threshold: replaces the one of `meta`; class scores are strictly above it.

    Returns:
        One `Detections` a picture, pixels of the network's input.

    Raises:
        DetectorError: number or shape of the arrays does not fit `meta`.
    """
    strides, kinds = meta["strides"], meta["kinds"]
    _check_raw(raw, meta)
    threshold = float(meta["score_threshold"] if score_threshold is None else score_threshold)
    found = []
    for image in range(len(raw[0])):
        levels = levels_of(raw, kinds, len(strides), image)
        parts = [candidates(level, number, meta, threshold, image_size) for number, level in enumerate(levels)]
        boxes, scores, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        # A broken network must not break the suppression.
        usable = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:4] > meta["min_box_px"]).all(axis=1)
        boxes, scores, labels = boxes[usable], scores[usable], labels[usable]
        kept = rotated_nms(boxes, scores, labels, iou_threshold=float(meta["nms_iou"]))[: int(meta["max_detections"])]
        found.append(Detections(boxes[kept], scores[kept], labels[kept]))
    return found


def _check_raw(raw: Sequence[np.ndarray], meta: Mapping[str, Any]) -> None:
    names = meta["output_names"]
    if len(raw) < len(names):
        raise DetectorError(f"raw outputs: {len(raw)} arrays; krimp.deploy promises {len(names)} ({', '.join(names)}).")
    levels, classes = len(meta["strides"]), len(meta["classes"])
    for level in range(levels):
        scores = raw[level].shape
        others = [raw[kind * levels + level].shape for kind in range(len(meta["kinds"]))]
        if scores[1] % classes or any(shape[0] != scores[0] or shape[2:] != scores[2:] for shape in others):
            raise DetectorError(
                f"raw outputs of level {level}: shapes {others}; expected equal batch, height and width, "
                f"and a multiple of {classes} channels in the first."
            )


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
        meta: reads `nms_iou` and `max_detections` (of one window).
        image_size: (height, width) of the picture, pixels.
    """
    limit = int(meta["max_detections"]) * len(windows)
    return merge_tiles(parts, windows, image_size, iou_threshold=float(meta["nms_iou"]), max_detections=limit)


def draw(
    image: np.ndarray, detections: Detections, meta: Mapping[str, Any], *, score_threshold: float | None = None
) -> np.ndarray:
    """Return a copy of the picture with the boxes drawn; small pictures are enlarged."""
    if score_threshold is not None:
        detections = detections.take(detections.scores > score_threshold)
    return draw_detections(image, detections, meta["classes"])


def to_text(detections: Detections, meta: Mapping[str, Any]) -> str:
    """Return one line a detection: `class x1 y1 x2 y2 x3 y3 x4 y4 score`, pixels and 0..1."""
    return dota_text(detections, meta["classes"])


def to_json(detections: Detections, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one JSON-able record a detection: class, label, score, box, corners."""
    return to_records(detections, meta["classes"])
