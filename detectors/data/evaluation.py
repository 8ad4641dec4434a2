"""Score any forward on a split through a plug-in's deployed code, picture by picture, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from compress.detector import Forward, Scores
from compress.errors import DetectorError
from detectors.data.dota import DotaData, Truth, iterate_images
from detectors.geometry.detections import Detections
from detectors.geometry.tiling import cut_window


def evaluate_split(
    forward: Forward,
    split: str,
    *,
    data: DotaData,
    deploy: ModuleType,
    meta: Mapping[str, Any],
    truth_of: Callable[[Truth], Truth] = lambda truth: truth,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score raw outputs on a split.

    Args:
        forward: (1, 3, H, W) float32 -> raw outputs.
        split: name of the split.
        data: the data set.
        deploy: the plug-in's torch-free part (`compress.detector.Deploy`).
        meta: the plug-in's metadata; reads `classes`, `image_size` and `output_names`.
        truth_of: changes the truth of an image, e.g. to axis-aligned boxes.
        limit: score the first so many images only.
        progress: called with (images done, images in all).

    Raises:
        DetectorError: the split has no image.
    """
    from detectors.data.scoring import score_detections

    images = iterate_images(data, split, meta["classes"])
    total = len(images) if limit is None else min(limit, len(images))
    if total == 0:
        raise DetectorError(f"data split {split!r}: no image to score, expected at least one.")
    found, truths = [], []
    for done, (_, image, truth) in enumerate(images, start=1):
        found.append(detect_image(forward, image, deploy=deploy, meta=meta))
        truths.append(truth_of(truth))
        if progress is not None:
            progress(done, total)
        if done == total:
            break
    return score_detections(found, truths, meta["classes"])


def detect_image(forward: Forward, image: np.ndarray, *, deploy: ModuleType, meta: Mapping[str, Any]) -> Detections:
    """Return the detections of one picture (H, W, 3) uint8 BGR; a larger one than `image_size` goes by tiles."""
    size = (int(meta["image_size"][0]), int(meta["image_size"][1]))
    windows = deploy.tile_windows(image.shape[:2], meta)
    parts: list[Detections] = []
    for window in windows:
        part = cut_window(image, window)
        raw = forward(deploy.preprocess(part, meta, minimum_size=size))
        parts += deploy.postprocess(raw[: len(meta["output_names"])], meta, image_size=part.shape[:2])
    return parts[0] if len(parts) == 1 else deploy.merge(parts, windows, meta, image_size=image.shape[:2])
