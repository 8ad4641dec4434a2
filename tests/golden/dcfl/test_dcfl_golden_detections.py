"""Set B, decoding and suppression from stored head outputs, through the deployed code and the training coder."""

import numpy as np
import pytest
import torch
from golden_cases import (
    LEVELS,
    STRIDES,
    angle_gap,
    assert_boxes_near,
    assert_near,
    cases,
    facts,
    matching,
    read,
)

from detectors.dcfl import deploy
from detectors.dcfl.coder import decode
from detectors.dcfl.prior import grid_priors

SETTINGS = [
    pytest.param(name, setting, id=f"{name}:{setting}")
    for name in cases("detector/*/forward_*.npz")
    if isinstance(name, str)
    for setting in facts(name)["detection_settings"]
] or [pytest.param("", "", marks=pytest.mark.skip(reason="no detection case"))]


def raw_maps(case):
    return [case[f"{kind}_p{level}"].numpy() for kind in ("cls_score", "bbox_pred") for level in LEVELS]


def metadata(info, setting):
    return {
        "strides": list(STRIDES),
        "classes": [f"class{index}" for index in range(info["num_classes"])],
        "anchor_scale": 4,
        "angle_version": "le135",
        "nms_pre": setting["nms_pre"],
        "score_threshold": setting["score_thr"],
        "nms_iou": setting["nms"]["iou_thr"],
        "max_detections": setting["max_per_img"],
    }


@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_detections_are_the_published_ones(name, setting):
    case, info = read(name), facts(name)
    meta = metadata(info, info["detection_settings"][setting])
    (found,) = deploy.postprocess(raw_maps(case), meta, image_size=tuple(info["img_shape"]))
    assert len(found) == info["detection_settings"][setting]["detections"]
    np.testing.assert_array_equal(found.labels, case[f"det_{setting}_labels"].numpy())
    np.testing.assert_allclose(found.scores, case[f"det_{setting}_scores"].numpy(), atol=1e-6)
    assert_boxes_near(found.boxes, case[f"det_{setting}_boxes"], absolute=1e-3, relative=1e-5)
    if "det_rescaled_boxes" in case and len(found) == len(case["det_rescaled_boxes"]):
        rescaled = found.boxes / np.array([info["scale_factor"]] * 4 + [1])
        assert_boxes_near(rescaled, case["det_rescaled_boxes"], absolute=1e-3, relative=1e-5)


@pytest.mark.parametrize(("name", "match"), matching("detector/*/forward_*.npz", r"pre_(\w+)_boxes"))
def test_boxes_before_suppression_are_the_published_ones(name, match):
    setting = match[1]
    case, info = read(name), facts(name)
    limit, size = info["detection_settings"][setting]["nms_pre"], tuple(info["img_shape"])
    meta = metadata(info, info["detection_settings"][setting])
    boxes, deployed, scores = [], [], []
    for level, stride in zip(LEVELS, STRIDES, strict=True):
        logits, deltas = (case[f"{kind}_p{level}"][0].flatten(1).T for kind in ("cls_score", "bbox_pred"))
        shape = tuple(case[f"cls_score_p{level}"].shape[2:])
        cells = torch.arange(len(logits))
        if len(cells) > limit:
            cells = logits.amax(dim=1).argsort(descending=True, stable=True)[:limit]
        boxes.append(decode(grid_priors([shape], [stride])[cells], deltas[cells], image_size=size))
        deployed.append(deploy.decode(deltas[cells].numpy(), cells.numpy(), shape[1], stride, meta))
        scores.append(logits[cells].sigmoid())
    found, numpy_found = torch.cat(boxes), np.concatenate(deployed)
    numpy_found[:, 0] = numpy_found[:, 0].clip(0, size[1] - 1)
    numpy_found[:, 1] = numpy_found[:, 1].clip(0, size[0] - 1)
    expected = case[f"pre_{setting}_boxes"]
    assert len(found) == info["detection_settings"][setting]["boxes_before_nms"]
    assert_boxes_near(found, expected, absolute=1e-3, relative=1e-5)
    assert_boxes_near(numpy_found, expected, absolute=1e-3, relative=1e-5)
    assert angle_gap(found[:, 4], numpy_found[:, 4]) < 1e-5
    if f"pre_{setting}_scores" in case:
        assert_near(torch.cat(scores), case[f"pre_{setting}_scores"], absolute=1e-6)
