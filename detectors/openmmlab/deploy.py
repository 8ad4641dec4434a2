"""The deployed side: from a picture to the network and from its raw maps to rotated boxes.

Needs NumPy and OpenCV only. Everything it must know comes from `meta`, the JSON that the
exported model carries as `krimp.deploy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from compress.errors import DetectorError
from detectors.geometry.deployed import BoxDeploy
from detectors.geometry.detections import Detections
from detectors.geometry.metadata import (
    MAX_LEVELS,
    Bounded,
    Count,
    DeployMeta,
    Finite,
    Name,
    Strides,
    check_choice,
    check_meta,
    check_outputs,
)
from detectors.geometry.nms import rotated_nms
from detectors.openmmlab.decode import ANGLE_VERSIONS, candidates, levels_of

FORMAT_VERSION = 1

_Five = Annotated[list[Finite], Field(min_length=5, max_length=5)]
_Corners = Annotated[
    list[Annotated[list[Finite], Field(min_length=4, max_length=4)]], Field(min_length=1, max_length=1000)
]


class PointPriors(Bounded):
    """Boxes are distances from points of the grid."""

    kind: Literal["points"]
    offset: Finite
    distances_in_strides: bool


class AnchorPriors(Bounded):
    """Boxes are deltas of anchors: corners (x1, y1, x2, y2) px of each anchor of a level's first cell."""

    kind: Literal["anchors"]
    corners: Annotated[list[_Corners], Field(min_length=1, max_length=MAX_LEVELS)]
    angle_version: Name | None


class DeltaCoder(Bounded):
    """Five deltas a box, see `decode.decode_deltas`."""

    kind: Literal["rbox", "hbox"]
    size: Annotated[int, Field(ge=5, le=5)]  # no Literal: it takes 5.0 for 5
    means: _Five
    stds: _Five
    norm_factor: Finite | None
    edge_swap: bool
    proj_xy: bool
    angle_version: Name


class DistanceCoder(Bounded):
    """Four distances a box, see `decode.decode_distances`."""

    kind: Literal["distance"]
    size: Annotated[int, Field(ge=4, le=4)]  # no Literal: it takes 4.0 for 4
    angle_version: Name


class NoAngleCoder(Bounded):
    """Angles are among the deltas."""

    kind: Literal["none"]


class PseudoAngleCoder(Bounded):
    """The angle itself is a map."""

    kind: Literal["pseudo"]
    size: Annotated[int, Field(ge=1, le=1)]  # no Literal: it takes 1.0 for 1
    in_delta: bool


class CslAngleCoder(Bounded):
    """A class for each step of the angle."""

    kind: Literal["csl"]
    size: Annotated[int, Field(ge=1, le=3600)]
    in_delta: bool
    omega: Finite
    range_deg: Annotated[float, Field(gt=0, le=360)]
    offset_deg: Finite


class PscAngleCoder(Bounded):
    """Phases of the angle."""

    kind: Literal["psc"]
    size: Annotated[int, Field(ge=1, le=200)]
    in_delta: bool
    num_step: Annotated[int, Field(ge=1, le=100)]
    dual_freq: bool
    thr_mod: Finite

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.size != self.num_step * (1 + self.dual_freq):
            raise ValueError(f"size is {self.size}, expected {self.num_step * (1 + self.dual_freq)}")
        return self


class OpenMMLabMeta(DeployMeta):
    """What the file of an OpenMMLab detector says besides; `description.py` makes it.

    Attributes:
        config: name of the configuration.
        strides: pixels a cell of each level.
        kinds: of the maps, class scores first; one map a level each.
        priors: what boxes are relative to.
        coders: how the maps describe boxes, those of refining stages first.
        angle_coder: how they describe angles.
        nms_pre: candidates of a level.
        min_box_px: boxes are larger.
    """

    config: Name
    strides: Strides
    kinds: Annotated[list[Name], Field(min_length=2, max_length=16)]
    priors: Annotated[PointPriors | AnchorPriors, Field(discriminator="kind")]
    coders: Annotated[
        list[Annotated[DeltaCoder | DistanceCoder, Field(discriminator="kind")]], Field(min_length=1, max_length=8)
    ]
    angle_coder: Annotated[NoAngleCoder | PseudoAngleCoder | CslAngleCoder | PscAngleCoder, Field(discriminator="kind")]
    nms_pre: Count
    min_box_px: Annotated[float, Field(ge=0, le=1 << 16)]

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        of_points = isinstance(self.priors, PointPriors)
        if of_points and isinstance(self.angle_coder, NoAngleCoder):
            raise ValueError("angle_coder: boxes around points need one, expected another kind than 'none'")
        known = _channels(self.model_dump())
        unknown = [kind for kind in self.kinds if kind not in known]
        needed = [kind for kind in known if kind not in ("centerness", *self.kinds)]
        if unknown or needed or self.kinds[0] != "cls_score" or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"kinds: expected {', '.join(known)}, each once and cls_score first")
        if any(isinstance(coder, DistanceCoder) is not of_points for coder in self.coders):
            raise ValueError(f"coders: {self.priors.kind} go with {'distances' if of_points else 'deltas'} only")
        if isinstance(self.priors, AnchorPriors) and len(self.priors.corners) != len(self.strides):
            raise ValueError(f"priors: corners of {len(self.priors.corners)} levels, expected {len(self.strides)}")
        return self


def _channels(meta: Mapping[str, Any]) -> dict[str, int]:
    """Return how many values each anchor has in the maps of each kind."""
    values = {"cls_score": len(meta["classes"]), "bbox_pred": meta["coders"][-1]["size"]}
    values |= {f"refined_bbox_pred_{stage}": coder["size"] for stage, coder in enumerate(meta["coders"][:-1])}
    if meta["angle_coder"]["kind"] != "none":
        values["angle_pred"] = meta["angle_coder"]["size"]
    return {**values, "centerness": 1}


def make_deploy(meta: Mapping[str, Any]) -> BoxDeploy:
    """Return the deployed part of a model.

    Args:
        meta: the model's `krimp.deploy`.

    Raises:
        DetectorError: a key is missing, the version is another one, or a value does not fit.
    """
    check_meta(meta, OpenMMLabMeta, format_version=FORMAT_VERSION)
    for coder in meta["coders"]:
        check_choice("coders.angle_version", coder["angle_version"], ANGLE_VERSIONS)
    if (version := meta["priors"].get("angle_version")) is not None:
        check_choice("priors.angle_version", version, ANGLE_VERSIONS)
    check_outputs(meta, len(meta["kinds"]) * len(meta["strides"]))
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
    levels, classes, values = len(meta["strides"]), len(meta["classes"]), _channels(meta)
    for level in range(levels):
        maps = {kind: raw[index * levels + level].shape for index, kind in enumerate(meta["kinds"])}
        scores = maps["cls_score"]
        anchors = scores[1] // classes
        wanted = {kind: (scores[0], anchors * values[kind], *scores[2:]) for kind in maps}
        if maps != wanted or not 1 <= anchors <= _anchors(meta["priors"], level):
            raise DetectorError(
                f"raw outputs of level {level}: shapes {list(maps.values())}; expected equal batch, height and width, "
                f"and {[values[kind] for kind in maps]} channels for each of the anchors."
            )


def _anchors(priors: Mapping[str, Any], level: int) -> int:
    """Return how many anchors a cell of a level has."""
    return len(priors["corners"][level]) if priors["kind"] == "anchors" else 1
