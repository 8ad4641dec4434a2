"""The deployed side: from a picture to the network and from its raw maps to rotated boxes.

Needs NumPy and OpenCV only. Everything it must know comes from `meta`, the JSON that the
exported model carries as `krimp.deploy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compress.errors import DetectorError
from detectors.geometry.deployed import BoxDeploy, check_choice, check_keys
from detectors.geometry.detections import Detections
from detectors.geometry.nms import rotated_nms
from detectors.openmmlab.decode import ANGLE_VERSIONS, candidates, levels_of

# Of `krimp.deploy`, besides those that every plug-in has.
OWN_KEYS = ("config", "strides", "kinds", "priors", "coders", "angle_coder", "nms_pre", "min_box_px")
FORMAT_VERSION = 1
CODERS = ("rbox", "hbox", "distance")
ANGLE_CODERS = ("none", "pseudo", "csl", "psc")


def make_deploy(meta: Mapping[str, Any]) -> BoxDeploy:
    """Return the deployed part of a model.

    Args:
        meta: the model's `krimp.deploy`.

    Raises:
        DetectorError: a key is missing, the version is another one, or a value does not fit.
    """
    check_keys(meta, OWN_KEYS, format_version=FORMAT_VERSION)
    for coder in meta["coders"]:
        check_choice("coders.kind", coder["kind"], CODERS)
        check_choice("coders.angle_version", coder["angle_version"], ANGLE_VERSIONS)
    check_choice("angle_coder.kind", meta["angle_coder"]["kind"], ANGLE_CODERS)
    return BoxDeploy(meta, postprocess)


def postprocess(
    raw: Sequence[np.ndarray],
    meta: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
    score_threshold: float | None = None,
) -> list[Detections]:
    """Turn raw head maps into boxes, best score first.

    Per level the `nms_pre` best pairs of anchor and class above the score threshold are chosen; centreness
    lowers their scores, and those at or below the threshold leave; rotated NMS class by class; at most
    `max_detections` stay.

    Args:
        raw: one array per name in `output_names`, (N, channels, h, w).
        meta: the model's `krimp.deploy`.
        image_size: (height, width) of the real picture inside the padded input.
        score_threshold: replaces the one of `meta`; scores are strictly above it.

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
