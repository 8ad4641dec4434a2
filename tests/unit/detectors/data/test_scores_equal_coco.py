"""`map`, `map75` and their parts on upright boxes equal those of pycocotools; ignored boxes and turned boxes do not fit
into it, so a naive reference stands in for them."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from random_scene import random_scene

from detectors.data.greedy_matching import IOU_THRESHOLDS
from detectors.data.samples import Truth
from detectors.data.scoring import score_detections
from detectors.geometry.detections import Detections
from detectors.geometry.iou import rotated_iou_matrix

CLASSES = ("ship", "plane", "car", "absent")
NO_BOXES = np.zeros((0, 5), np.float32)


def upright_scene(seed, *, images=12, step=0.125, most=30, spread=1.5, tall=True):
    """Return detections near upright boxes, all of multiples of `step`, so that both libraries see the same."""
    rng = np.random.default_rng(seed)
    detections, truths, score = [], [], iter(rng.permutation(200_000) / 200_000)
    for _ in range(images):
        count = int(rng.integers(0, most))
        centres, sizes = rng.uniform(20, 180, (count, 2)), rng.uniform(4, 40, (count, 2))
        labels = rng.integers(0, 3, count)
        noise = rng.normal(0, spread, (3 * count, 4))
        near = np.concatenate([np.tile(np.column_stack([centres, sizes]), (3, 1)) + noise, rng.uniform(5, 180, (8, 4))])
        near[:, 2:] = np.maximum(near[:, 2:], 1)
        guess = np.concatenate([labels, labels, rng.integers(0, 3, count + 8)])
        truths.append(Truth(turned(np.column_stack([centres, sizes]), step, tall), labels, NO_BOXES))
        found = turned(near, step, tall)
        detections.append(Detections(found, np.array([next(score) for _ in found]), guess))
    return detections, truths


def turned(boxes, step, tall):
    """Return (n, 4) centres and sizes as upright boxes, w >= h with a quarter turn where they are tall."""
    boxes = np.maximum(np.round(boxes / step), 1) * step
    high = (boxes[:, 2] < boxes[:, 3]) & tall
    boxes[high, 2:] = boxes[high, 3:1:-1]
    return np.column_stack([boxes, np.where(high, np.pi / 2, 0)]).astype(np.float32)


def coco_boxes(boxes):
    """Return x, y, w, h as COCO wants them."""
    boxes = np.asarray(boxes, np.float64)
    size = np.where((np.abs(boxes[:, 4]) > 1)[:, None], boxes[:, 3:1:-1], boxes[:, 2:4])
    return np.column_stack([boxes[:, :2] - size / 2, size])


def coco_precision(detections, truths, max_dets=100):
    """Return the AP of pycocotools, (thresholds, classes); NaN where a class has no truth."""
    annotations, results = [], []
    for image, (found, truth) in enumerate(zip(detections, truths, strict=True), start=1):
        for box, label in zip(coco_boxes(truth.boxes).tolist(), truth.labels.tolist(), strict=True):
            number, area = len(annotations) + 1, box[2] * box[3]
            about = {"id": number, "image_id": image, "category_id": label, "iscrowd": 0}
            annotations.append(about | {"bbox": box, "area": area})
        columns = zip(coco_boxes(found.boxes).tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
        for box, score, label in columns:
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": index + 1} for index in range(len(truths))],
            "categories": [{"id": label, "name": name} for label, name in enumerate(CLASSES)],
            "annotations": annotations,
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.params.maxDets = [1, 2, max_dets]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, 2].mean(axis=1)  # thresholds, recall points, classes, all areas
    return np.where(precision < 0, np.nan, precision)


@pytest.mark.parametrize("max_dets", [100, 5])
@pytest.mark.parametrize(
    "form", [{}, {"most": 150, "images": 4}, {"step": 4.0, "spread": 3.0}, {"step": 1.0, "tall": False}]
)
@pytest.mark.parametrize("seed", range(3))
def test_map_and_its_parts_are_those_of_pycocotools(seed, form, max_dets):
    detections, truths = upright_scene(seed, **form)
    scores = score_detections(detections, truths, CLASSES, bootstrap=0, max_dets=max_dets)
    expected = coco_precision(detections, truths, max_dets)
    assert scores.map == pytest.approx(np.nanmean(expected), abs=1e-6)
    assert scores.map75 == pytest.approx(np.nanmean(expected[5]), abs=1e-6)
    assert scores.extra["map50_coco"] == pytest.approx(np.nanmean(expected[0]), abs=1e-6)
    assert list(scores.map_per_class.values()) == pytest.approx(expected.mean(axis=0).tolist(), abs=1e-6, nan_ok=True)
    assert list(scores.map75_per_class.values()) == pytest.approx(expected[5].tolist(), abs=1e-6, nan_ok=True)
    assert scores.max_dets == max_dets


def test_a_threshold_is_met_by_the_overlap_that_equals_it():
    # 10 x 10 in 10 x 20, once lying and once standing: 0.5; 15 x 20 in 20 x 20: 0.75.
    wanted = [[20, 20, 20, 10, 0], [80, 80, 20, 10, np.pi / 2], [150, 150, 20, 20, 0]]
    found = [[15, 20, 10, 10, 0], [80, 75, 10, 10, 0], [150, 150, 20, 15, np.pi / 2]]
    truth = Truth(np.array(wanted, np.float32), np.zeros(3, np.int64), NO_BOXES)
    detections = Detections(np.array(found), np.array([0.9, 0.8, 0.7]), np.zeros(3))
    scores = score_detections([detections], [truth], CLASSES, bootstrap=0)
    expected = coco_precision([detections], [truth])
    assert scores.map == pytest.approx(np.nanmean(expected), abs=1e-9)
    assert (scores.extra["map50_coco"], scores.map50, scores.recall) == (1, 1, 1)
    assert scores.map75 == pytest.approx(np.nanmean(expected[5]), abs=1e-9) != 0


def naive_precision(detections, truths, label, threshold, max_dets):
    """101-point AP of one class at one threshold, box by box as the rules say it."""
    judged, total = [], 0
    for item, truth in zip(detections, truths, strict=True):
        wanted = truth.boxes[truth.labels == label]
        total, taken = total + len(wanted), set()
        best_first = sorted(np.flatnonzero(item.labels == label), key=lambda i: -item.scores[i])
        for index in best_first[:max_dets]:
            box = item.boxes[index][None]
            overlaps = rotated_iou_matrix(box, wanted)[0]
            left = [i for i in range(len(wanted)) if i not in taken and overlaps[i] >= threshold]
            if left:
                taken.add(max(left, key=lambda i: overlaps[i]))
                judged.append((item.scores[index], True))
            elif (rotated_iou_matrix(box, truth.ignored_boxes)[0] < threshold).all():
                judged.append((item.scores[index], False))
    judged.sort(key=lambda entry: -entry[0])
    right = np.cumsum([good for _, good in judged])
    recall, precision = right / max(total, 1), right / np.arange(1, len(right) + 1)
    return np.mean([precision[recall >= least].max(initial=0) for least in np.linspace(0, 1, 101)]) if total else None


@pytest.mark.parametrize("seed", range(4))
def test_turned_and_ignored_boxes_follow_the_same_rules(seed):
    detections, truths = random_scene(seed, images=10)
    scores = score_detections(detections, truths, CLASSES[:3], bootstrap=0, max_dets=4)
    of_class = [
        [naive_precision(detections, truths, label, threshold, 4) for threshold in IOU_THRESHOLDS] for label in range(3)
    ]
    assert all(None not in row for row in of_class)
    assert scores.map == pytest.approx(np.mean(of_class), abs=1e-9)
    assert scores.map75 == pytest.approx(np.mean(of_class, axis=0)[5], abs=1e-9)
    assert list(scores.map_per_class.values()) == pytest.approx([np.mean(row) for row in of_class], abs=1e-9)


def test_a_second_detection_takes_the_box_that_is_left_where_map50_calls_it_wrong():
    wanted = np.array([[50, 50, 20, 10, 0], [54, 50, 20, 10, 0]], np.float32)
    truth = Truth(wanted, np.zeros(2, np.int64), NO_BOXES)
    found = Detections(np.array([[50, 50, 20, 10, 0], [51, 50, 20, 10, 0]]), np.array([0.9, 0.8]), np.zeros(2))
    scores = score_detections([found], [truth], ("ship",), bootstrap=0)
    assert scores.extra["map50_coco"] == 1
    assert scores.map50 == 0.5
