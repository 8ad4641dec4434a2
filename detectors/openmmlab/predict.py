"""Detections from heads that run in torch (two-stage detectors); used for scoring only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmrotate.structures.bbox import QuadriBoxes, RotatedBoxes
from torch import Tensor

from detectors.geometry.detections import Detections
from detectors.openmmlab.losses import image_facts


def predict(
    heads: Any, features: Sequence[np.ndarray], image_size: tuple[int, int], score_threshold: float
) -> list[Detections]:
    """Return the detections of each image.

    Args:
        heads: an OpenMMLab detector without backbone and neck.
        features: one map a level, (N, C, h, w) float32.
        image_size: (height, width) of the real picture, px.
        score_threshold: detections score strictly more.
    """
    device = next(heads.parameters()).device
    heads.eval()
    samples = [DetDataSample(metainfo=image_facts(image_size)) for _ in range(len(features[0]))]
    with torch.no_grad():
        maps = tuple(torch.from_numpy(np.ascontiguousarray(one)).to(device) for one in features)
        found = heads.predict(maps, samples, rescale=False)
    return [_detections(sample.pred_instances, score_threshold) for sample in found]


def _detections(instances: Any, score_threshold: float) -> Detections:
    boxes, scores = rotated(instances.bboxes).cpu().numpy(), instances.scores.cpu().numpy()
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > score_threshold]
    return Detections(boxes[order], scores[order], instances.labels.cpu().numpy()[order])


def rotated(boxes: Any) -> Tensor:
    """Return boxes (n, 5) from rotated boxes or quadrilaterals, plain or wrapped."""
    tensor = get_box_tensor(boxes)
    wrapped = QuadriBoxes(tensor).convert_to("rbox") if tensor.shape[-1] == 8 else RotatedBoxes(tensor)
    rows: Tensor = wrapped.tensor
    return rows
