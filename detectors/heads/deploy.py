"""The deployed side of models that others trained: metadata that names a built-in head, and what is made of it.

Needs NumPy and OpenCV only. Everything it must know comes from `meta`, the JSON that the model carries as
`krimp.deploy`; code never comes from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import create_model

from compress.errors import DetectorError
from detectors.geometry.class_nms import class_nms
from detectors.geometry.deployed import BoxDeploy
from detectors.geometry.detections import Detections
from detectors.geometry.metadata import Bounded, Count, DeployMeta, Name, Resize, check_choice, check_meta
from detectors.geometry.nms import rotated_nms
from detectors.heads.boxes import centres_of_corners
from detectors.heads.head import Candidates, Head, HeadDecode, NoSettings, Request
from detectors.heads.registry import HEADS

FORMAT_VERSION = 1
_LARGEST_PX = 1e6  # a number beyond is no coordinate of a box


class HeadMeta(DeployMeta):
    """What the file of a foreign model says besides.

    Attributes:
        head: name of a built-in head.
        settings: those of the head.
        resize: how a window becomes the network's input of `image_size`.
        nms_pre: best candidates of a picture that are compared with each other.
    """

    head: Name
    settings: dict[str, Any]
    resize: Resize
    nms_pre: Count


def make_deploy(meta: Mapping[str, Any]) -> BoxDeploy:
    """Return the deployed part of a model.

    Args:
        meta: the model's `krimp.deploy`.

    Raises:
        DetectorError: a key is missing, the version or the head is none that is known, or a value does not fit.
    """
    check_meta(meta, HeadMeta, format_version=FORMAT_VERSION)
    check_choice("head", meta["head"], HEADS)
    return deploy_with(meta, HEADS[meta["head"]])


def deploy_with(meta: Mapping[str, Any], head: Head | HeadDecode) -> BoxDeploy:
    """Return the deployed part with a head that the caller brings, whatever head the metadata names.

    Args:
        meta: a `krimp.deploy` as for `make_deploy`; `head` is a name of one's own.
        head: a head, or a function alone (upright boxes, suppressed; it is given `settings` as they are).

    Raises:
        DetectorError: a key is missing or a value does not fit.
    """
    if not isinstance(head, Head):
        head = Head(head, NoSettings, "", "", num_outputs=(1, 1000))
    fields = create_model("HeadMeta", __base__=HeadMeta, settings=(head.settings, ...))
    check_meta(meta, fields, format_version=FORMAT_VERSION)
    least, most = head.num_outputs
    if not least <= len(meta["output_names"]) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise DetectorError(
            f"krimp.deploy: output_names has {len(meta['output_names'])} names, head {meta['head']} reads {wanted}."
        )
    settings = head.settings.model_validate(meta["settings"])
    return BoxDeploy(meta, HeadPostprocess(head, settings), axis_aligned=not head.rotated, maps=False)


@dataclass(frozen=True)
class HeadPostprocess:
    """From raw outputs to boxes: the head's decoding, then suppression class by class where the head needs it.

    Attributes:
        head: what decodes.
        settings: of the head.
    """

    head: Head
    settings: Bounded

    def __call__(
        self,
        raw: Sequence[np.ndarray],
        meta: Mapping[str, Any],
        *,
        image_size: tuple[int, int],
        score_threshold: float | None = None,
    ) -> list[Detections]:
        """Return one `Detections` a picture, pixels of the network's input, best score first.

        Args:
            raw: one array per name of `output_names`.
            meta: the model's `krimp.deploy`.
            image_size: (height, width) of the network's input, px.
            score_threshold: replaces the one of `meta`; scores are strictly above it.

        Raises:
            DetectorError: number, shape or values of the arrays do not fit the head.
        """
        if len(raw) != len(meta["output_names"]):
            raise DetectorError(f"raw outputs: {len(raw)} arrays; krimp.deploy promises {len(meta['output_names'])}.")
        threshold = float(meta["score_threshold"] if score_threshold is None else score_threshold)
        request = Request(len(meta["classes"]), image_size, threshold, int(meta["nms_pre"]))
        with np.errstate(over="ignore", invalid="ignore"):  # a broken network gives what is left out below
            return [self._chosen(_usable(found), meta) for found in self.head.decode(raw, self.settings, request)]

    def _chosen(self, found: Candidates, meta: Mapping[str, Any]) -> Detections:
        limit, iou = int(meta["max_detections"]), float(meta["nms_iou"])
        if not self.head.suppressed:
            kept = np.argsort(-found.scores, kind="stable")[:limit]
        elif self.head.rotated:
            kept = rotated_nms(found.boxes, found.scores, found.labels, iou_threshold=iou)[:limit]
        else:
            kept = class_nms(found.boxes, found.scores, found.labels, iou_threshold=iou, max_detections=limit)
        boxes = found.boxes if self.head.rotated else centres_of_corners(found.boxes)
        return Detections(boxes[kept], found.scores[kept], found.labels[kept])


def _usable(found: Candidates) -> Candidates:
    """Return the candidates whose numbers are those of boxes: finite, no side below zero."""
    boxes = np.asarray(found.boxes, np.float32)
    sides = boxes[:, 2:4] if boxes.shape[1] == 5 else boxes[:, 2:4] - boxes[:, :2]
    good = (np.abs(boxes) < _LARGEST_PX).all(axis=1) & (sides >= 0).all(axis=1) & np.isfinite(found.scores)
    order = np.argsort(-found.scores[good], kind="stable")
    return Candidates(boxes[good][order], found.scores[good][order], found.labels[good][order])
