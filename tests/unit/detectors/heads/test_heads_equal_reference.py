"""Random outputs with many overlapping boxes: decoding and suppression against torch and torchvision."""

from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from published_heads import CELLS, SIZE, STRIDES, clipped, grid_points, ltrb, meta_of, suppress
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_convert

from compress.plugins import load_deploy
from detectors.geometry import rotated_iou_matrix


def decoded(head, raw, settings=None, **changes):
    raw = [np.asarray(array) for array in raw]
    deploy = load_deploy(meta_of(head, settings, len(raw), **changes))
    return deploy.postprocess(raw, image_size=SIZE)


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def crowded(count, seed):
    """Return boxes (n, 4) cx, cy, w, h that overlap a lot, some of them beyond the border."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.rand((count, 2), generator=draw) * torch.tensor([SIZE[1], SIZE[0]])
    return torch.cat([centres, 10 + 30 * torch.rand((count, 2), generator=draw)], dim=1)


def scores_of(count, seed, values=3):
    return random(count, values, seed=seed).sigmoid()


def check(found, boxes, scores, labels):
    boxes = clipped(boxes)
    assert len(found) == len(boxes) > 10
    np.testing.assert_allclose(found.boxes[:, :4], box_convert(boxes, "xyxy", "cxcywh"), atol=1e-4)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    np.testing.assert_array_equal(found.labels, labels)


def test_yolov8_in_batches():
    tables = [torch.cat([crowded(CELLS, seed), scores_of(CELLS, seed)], dim=1) for seed in (1, 2)]
    found = decoded("yolov8", [torch.stack(tables).transpose(1, 2)])
    for one, table in zip(found, tables, strict=True):
        check(one, *suppress(box_convert(table[:, :4], "cxcywh", "xyxy"), table[:, 4:]))


def test_yolov5():
    table = torch.cat([crowded(CELLS, 3), scores_of(CELLS, 4, 1), scores_of(CELLS, 3)], dim=1)
    (found,) = decoded("yolov5", [table[None]])
    check(found, *suppress(box_convert(table[:, :4], "cxcywh", "xyxy"), table[:, 4:5] * table[:, 5:]))


def test_yolox():
    points, strides = grid_points(0.0)
    table = torch.cat([random(CELLS, 4, seed=5), scores_of(CELLS, 6, 1), scores_of(CELLS, 7)], dim=1)
    (found,) = decoded("yolox", [table[None]])
    boxes = torch.cat([table[:, :2] * strides + points, table[:, 2:4].exp() * strides], dim=1)
    kept, scores, labels = suppress(box_convert(boxes, "cxcywh", "xyxy"), table[:, 4:5] * table[:, 5:])
    inside = (clipped(kept)[:, 2:] > clipped(kept)[:, :2]).all(dim=1)  # what lies beyond the border alone is no object
    check(found, kept[inside], scores[inside], labels[inside])


def test_rtmdet_maps():
    scores = [random(1, 3, SIZE[0] // s, SIZE[1] // s, seed=s) for s in STRIDES]
    reach = [random(1, 4, SIZE[0] // s, SIZE[1] // s, seed=s + 1).exp() * s for s in STRIDES]
    (found,) = decoded("rtmdet", [*scores, *reach], {"form": "maps", "strides": list(STRIDES)})
    points, _ = grid_points(0.0)
    boxes = ltrb(torch.cat([m[0].flatten(1).T for m in reach]), points)
    check(found, *suppress(clipped(boxes), torch.cat([m[0].flatten(1).T for m in scores]).sigmoid()))


def test_ssd_is_torchvisions_own():
    generator = DefaultBoxGenerator([[2], [2, 3]], scales=[0.2, 0.4, 0.6])
    images = torch.zeros((1, 3, *SIZE))
    features = [torch.zeros((1, 1, 6, 10)), torch.zeros((1, 1, 3, 5))]
    (priors,) = generator(ImageList(images, [SIZE]), features)
    regression, logits = random(1, len(priors), 4, seed=8), random(1, len(priors), 4, seed=9)
    ours = SimpleNamespace(
        box_coder=BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), score_thresh=0.3, topk_candidates=10**5, nms_thresh=0.5,
        detections_per_img=10**5,
    )  # fmt: skip
    head = OrderedDict(bbox_regression=regression, cls_logits=logits)
    (wanted,) = SSD.postprocess_detections(ours, head, [priors], [SIZE])
    (found,) = decoded("ssd", [regression, logits], {"priors": priors.tolist()})
    inside = (wanted["boxes"][:, 2:] > wanted["boxes"][:, :2]).all(dim=1)
    check(found, wanted["boxes"][inside], wanted["scores"][inside], wanted["labels"][inside] - 1)


def test_detr_takes_the_best_class_of_each_query_and_suppresses_nothing():
    logits, boxes = random(1, 60, 4, seed=10) * 2, crowded(60, 11)
    shares = boxes / torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    (found,) = decoded("detr", [logits, shares[None]])
    scores, labels = logits[0].softmax(-1)[:, :-1].max(-1)
    order = torch.argsort(-scores, stable=True)
    order = order[scores[order] > 0.3]
    check(found, box_convert(boxes, "cxcywh", "xyxy")[order], scores[order], labels[order])


@pytest.mark.parametrize("turned", [False, True])
def test_what_the_network_itself_has_chosen_is_not_suppressed(turned):
    boxes, scores = crowded(60, 18), scores_of(60, 19, 1)
    labels = torch.zeros((60, 1))
    form = boxes if turned else box_convert(boxes, "cxcywh", "xyxy")
    parts = [form, scores, labels, *([torch.zeros((60, 1))] if turned else [])]
    (found,) = decoded(f"yolo-{'obb-' if turned else ''}end2end", [torch.cat(parts, dim=1)[None]])
    wanted = scores[scores > 0.3].sort(descending=True).values
    np.testing.assert_allclose(found.scores, wanted)


def test_fastestdet():
    table = torch.cat([scores_of(60, 12, 1), random(60, 4, seed=13), random(60, 3, seed=14).softmax(-1)], dim=1)
    raw = table.reshape(6, 10, 8).permute(2, 0, 1)[None]
    (found,) = decoded("fastestdet", [raw])
    ys, xs = torch.meshgrid(torch.arange(6), torch.arange(10), indexing="ij")
    pred = raw.permute(0, 2, 3, 1)[0]
    centre = torch.stack([(pred[..., 1].tanh() + xs) / 10, (pred[..., 2].tanh() + ys) / 6], dim=-1)
    boxes = torch.cat([centre, pred[..., 3:5].sigmoid()], dim=-1).reshape(-1, 4)
    boxes = box_convert(boxes, "cxcywh", "xyxy") * torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    best, label = pred[..., 5:].max(-1)
    scores = torch.zeros((60, 3))
    scores[torch.arange(60), label.flatten()] = (pred[..., 0] ** 0.6 * best**0.4).flatten()
    kept, value, labels = suppress(boxes, scores)
    check(found, kept, value, labels)


def test_turned_boxes_are_suppressed_by_their_exact_overlap():
    table = torch.cat([crowded(CELLS, 15), scores_of(CELLS, 15), random(CELLS, 1, seed=16)], dim=1)
    (found,) = decoded("yolo-obb", [table.T[None]], score_threshold=0.6)
    row, label = torch.nonzero(table[:, 4:7] > 0.6, as_tuple=True)
    score = table[row, 4 + label]
    order = torch.argsort(-score, stable=True)
    boxes = table[row][order][:, [0, 1, 2, 3, 7]].numpy()
    overlap = rotated_iou_matrix(boxes, boxes)
    kept = []
    for number in range(len(boxes)):
        if all(label[order[number]] != label[order[other]] or overlap[number, other] < 0.5 for other in kept):
            kept.append(number)
    assert len(found) == len(kept) > 10
    np.testing.assert_allclose(found.scores, score[order][kept], atol=1e-6)
    np.testing.assert_allclose(found.boxes[:, 2:4], boxes[kept][:, 2:4], atol=1e-4)
    np.testing.assert_allclose(found.boxes[:, 4], boxes[kept][:, 4], atol=1e-6)


@pytest.mark.parametrize("pre", [1, 7])
def test_only_the_best_candidates_are_compared(pre):
    table = torch.cat([crowded(CELLS, 17), scores_of(CELLS, 17)], dim=1)
    (found,) = decoded("yolov8", [table.T[None]], nms_pre=pre, nms_iou=1.0)
    assert len(found) == pre
    np.testing.assert_allclose(found.scores, table[:, 4:].flatten().sort(descending=True).values[:pre])
