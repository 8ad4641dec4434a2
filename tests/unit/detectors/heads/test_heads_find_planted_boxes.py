"""Boxes are written into raw outputs by the published encoding of each head, and must come back."""

import math

import numpy as np
import pytest
import torch
from published_heads import CELLS, SIZE, STRIDES, centre_form, class_scores, grid_points, meta_of, shuffled_boxes
from torchvision.models.detection._utils import BoxCoder

from compress.plugins import load_deploy

COUNT = 9
BOXES, LABELS, SCORES = shuffled_boxes(COUNT)
PLACES = torch.randperm(CELLS, generator=torch.Generator().manual_seed(1))[:COUNT]
WIDE, HIGH = float(SIZE[1]), float(SIZE[0])
SHARE = torch.tensor([WIDE, HIGH, WIDE, HIGH])


def decoded(head, raw, settings=None, **changes):
    raw = [np.asarray(array) for array in raw]
    deploy = load_deploy(meta_of(head, settings, len(raw), **changes))
    (found,) = deploy.postprocess(raw, image_size=SIZE)
    return found


def check(found, boxes=BOXES, angles=None):
    """Compare with what was planted, best score first."""
    order = torch.argsort(-SCORES)
    wanted = centre_form(boxes)[order]
    assert len(found) == COUNT
    np.testing.assert_allclose(found.boxes[:, :4], wanted, atol=1e-4)
    np.testing.assert_allclose(found.boxes[:, 4], 0 if angles is None else angles[order], atol=1e-6)
    np.testing.assert_allclose(found.scores, SCORES[order], atol=1e-6)
    np.testing.assert_array_equal(found.labels, LABELS[order])


def rows(values):
    """Return (A, values) with the planted rows, small noise below the threshold elsewhere."""
    noise = torch.rand((CELLS, values.shape[1]), generator=torch.Generator().manual_seed(2)) * 0.2
    noise[PLACES] = values
    return noise


def cell_rows(objectness=None):
    parts = [centre_form(BOXES), *([] if objectness is None else [objectness[:, None]])]
    scale = 1 if objectness is None else objectness
    return rows(torch.cat([*parts, class_scores(COUNT, torch.arange(COUNT), LABELS, SCORES / scale)], dim=1))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_yolov8(transposed, normalized):
    table = cell_rows()
    table[:, :4] = table[:, :4] / SHARE if normalized else table[:, :4]
    check(decoded("yolov8", [(table if transposed else table.T)[None]], {"normalized": normalized}))


def test_yolo_obb():
    angles = torch.linspace(-math.pi / 4, 3 * math.pi / 4, COUNT)
    table = torch.cat([cell_rows(), torch.zeros((CELLS, 1))], dim=1)
    table[PLACES, -1] = angles
    check(decoded("yolo-obb", [table.T[None]]), angles=angles)


def test_yolo_end2end():
    table = torch.cat([BOXES, SCORES[:, None], LABELS[:, None]], dim=1)
    silent = torch.zeros((20, 6))
    check(decoded("yolo-end2end", [torch.cat([silent, table])[None]]))


def test_yolo_obb_end2end():
    angles = torch.linspace(-1.5, 1.5, COUNT)
    table = torch.cat([centre_form(BOXES), SCORES[:, None], LABELS[:, None], angles[:, None]], dim=1)
    check(decoded("yolo-obb-end2end", [table[None]]), angles=angles)


def test_yolov5():
    check(decoded("yolov5", [cell_rows(objectness=torch.linspace(0.91, 0.99, COUNT))[None]]))


@pytest.mark.parametrize("in_graph", [False, True])
def test_yolox(in_graph):
    table = cell_rows(objectness=torch.linspace(0.91, 0.99, COUNT))
    if not in_graph:
        points, strides = grid_points(0.0)
        boxes = centre_form(BOXES)
        table[PLACES, :2] = (boxes[:, :2] - points[PLACES]) / strides[PLACES]
        table[PLACES, 2:4] = torch.log(boxes[:, 2:] / strides[PLACES])
    check(decoded("yolox", [table[None]], {"decoded": in_graph}))


@pytest.mark.parametrize(("offset", "in_strides"), [(0.0, False), (0.5, True)])
def test_rtmdet_maps(offset, in_strides):
    points, strides = grid_points(offset)
    logits, reach = torch.full((CELLS, 3), -9.0), torch.rand((CELLS, 4))
    logits[PLACES, LABELS] = torch.logit(SCORES)
    reach[PLACES] = torch.cat([points[PLACES] - BOXES[:, :2], BOXES[:, 2:] - points[PLACES]], dim=1)
    reach = reach / strides if in_strides else reach
    maps, begin = [[], []], 0
    for stride in STRIDES:
        height, width = SIZE[0] // stride, SIZE[1] // stride
        for kind, table in zip(maps, (logits, reach), strict=True):
            kind.append(table[begin : begin + height * width].T.reshape(1, -1, height, width))
        begin += height * width
    settings = {"form": "maps", "strides": list(STRIDES), "offset": offset, "distances_in_strides": in_strides}
    check(decoded("rtmdet", [*maps[0], *maps[1]], settings))


def test_rtmdet_detections_of_mmdeploy_with_its_filling():
    dets = torch.cat([torch.cat([BOXES, SCORES[:, None]], dim=1), torch.zeros((3, 5))])
    labels = torch.cat([LABELS, torch.full((3,), -1)])
    check(decoded("rtmdet", [dets[None], labels[None]]))


@pytest.mark.parametrize("order", ["boxes_scores", "scores_boxes"])
def test_ssd_with_priors(order):
    priors = BOXES + torch.rand(BOXES.shape, generator=torch.Generator().manual_seed(3)) * 3
    deltas = BoxCoder((10.0, 10.0, 5.0, 5.0)).encode_single(BOXES, priors)
    logits = torch.full((COUNT, 4), -30.0)
    logits[:, 0] = torch.log(1 - SCORES)
    logits[torch.arange(COUNT), LABELS + 1] = torch.log(SCORES)
    raw = [deltas[None], logits[None]]
    settings = {"order": order, "priors": priors.tolist()}
    check(decoded("ssd", raw if order == "boxes_scores" else raw[::-1], settings))


def test_ssd_decoded_in_shares_with_probabilities():
    scores = torch.cat([1 - SCORES[:, None], class_scores(COUNT, torch.arange(COUNT), LABELS, SCORES)], dim=1)
    settings = {"scores": "probabilities", "normalized": True}
    check(decoded("ssd", [(BOXES / SHARE)[None], scores[None]], settings))


@pytest.mark.parametrize("form", ["softmax", "sigmoid", "one output"])
def test_detr(form):
    boxes = centre_form(BOXES) / SHARE
    table = class_scores(COUNT, torch.arange(COUNT), LABELS, SCORES)
    if form == "one output":
        settings = {"scores": "probabilities", "background": "none"}
        check(decoded("detr", [torch.cat([boxes, table], dim=1)[None]], settings))
        return
    if form == "sigmoid":
        raw = [torch.logit(table, eps=1e-6)[None], boxes[None]]
        check(decoded("detr", raw, {"scores": "sigmoid", "background": "none"}))
        return
    logits = torch.log(torch.cat([table, 1 - SCORES[:, None]], dim=1) + 1e-12)
    check(decoded("detr", [logits[None], boxes[None]]))


def test_fastestdet():
    height, width = SIZE[0] // 16, SIZE[1] // 16
    boxes = centre_form(BOXES)
    cells = (boxes[:, :2] / 16).floor()
    table = torch.zeros((height * width, 8))
    place = (cells[:, 1] * width + cells[:, 0]).long()
    assert len(set(place.tolist())) == COUNT
    table[place, 0] = 0.95
    table[place, 1:3] = torch.atanh(boxes[:, :2] / 16 - cells)
    table[place, 3:5] = torch.logit(boxes[:, 2:] / torch.tensor([WIDE, HIGH]))
    table[place, 5 + LABELS] = (SCORES / 0.95**0.6) ** (1 / 0.4)
    check(decoded("fastestdet", [table.T.reshape(1, 8, height, width)]))
