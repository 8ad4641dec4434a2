"""What a score of detections is made of: oriented boxes, ignored objects, every image."""

import math

import numpy as np
import pytest

from compress.breakdown import Breakdown, load_breakdown
from compress.dataset import BreaksDown
from detectors.data.boxes import BoxDataset
from detectors.data.breakdown import break_down
from detectors.data.samples import Truth
from detectors.data.scoring import score_detections
from detectors.geometry.detections import Detections

CLASSES = ("ship", "plane", "car")
NONE = np.zeros((0, 5), np.float32)


def truth(boxes, labels, ignored=NONE):
    return Truth(np.array(boxes, np.float32).reshape(-1, 5), np.array(labels, np.int64), np.array(ignored, np.float32))


def a_split():
    turned = [50, 50, 40, 10, math.pi / 4]
    truths = [
        truth([turned, [100, 20, 20, 20, 0]], [0, 1], [[150, 150, 20, 20, 0]]),
        truth([], []),
    ]
    found = [
        Detections(
            [turned, [50, 50, 40, 10, -math.pi / 4], [100, 20, 20, 20, 0], [150, 150, 20, 20, 0], [5, 5, 4, 4, 0]],
            [0.9, 0.8, 0.2, 0.7, 0.6],
            [0, 0, 1, 0, 2],
        ),
        Detections([[9, 9, 4, 4, 0]], [0.35], [0]),
    ]
    return found, truths


def test_oriented_boxes_are_told_apart_by_their_angle_and_every_image_is_told():
    made_of = break_down(*a_split(), ["a", "b"], CLASSES)
    assert {one.name: one.count for one in made_of.errors if one.count} == {"loc": 1, "bkg": 2}
    first, second = made_of.images
    assert (first.name, first.objects, first.found, first.missed, first.wrong) == ("a", 2, 1, 1, 2)
    assert first.missed_corners == [(90.0, 10.0, 110.0, 10.0, 110.0, 30.0, 90.0, 30.0)]  # found, at 0.2 only
    assert len(first.wrong_corners) == 2
    assert first.f1 == pytest.approx(2 / (2 + 1 + 2))
    assert (second.objects, second.wrong, second.f1) == (0, 1, 0.0)
    assert [(curve.name, curve.objects) for curve in made_of.curves] == [("ship", 1), ("plane", 1)]
    assert sum(made_of.right_by_score) == 2
    assert sum(made_of.wrong_by_score) == 3  # not the one on the ignored object


def test_its_curves_have_the_area_of_the_score_by_the_same_rules():
    rng = np.random.default_rng(5)
    truths, found = [], []
    for _ in range(12):
        boxes = np.column_stack([rng.random((8, 2)) * 200, 10 + rng.random((8, 2)) * 20, rng.random(8)])
        labels = rng.integers(0, 3, 8)
        truths.append(truth(boxes, labels))
        moved = boxes + np.column_stack([rng.normal(0, 3, (8, 2)), np.zeros((8, 3))])
        found.append(Detections(np.concatenate([moved, boxes[:2] + 90]), rng.random(10), np.append(labels, [0, 1])))
    made_of = break_down(found, truths, [str(i) for i in range(12)], CLASSES)
    scores = score_detections(found, truths, CLASSES, bootstrap=0)
    assert np.mean([np.mean(curve.precision) for curve in made_of.curves]) == pytest.approx(
        scores.extra["map50_coco"], abs=2e-4
    )


def test_only_the_best_of_a_class_in_an_image_count():
    made_of = break_down(*a_split(), ["a", "b"], CLASSES, max_dets=1)
    assert sum(made_of.right_by_score) + sum(made_of.wrong_by_score) == 4


def test_what_is_written_is_read_again_and_can_go_without_corners(tmp_path):
    made_of = break_down(*a_split(), ["a", "b"], CLASSES)
    assert load_breakdown(tmp_path) is None
    made_of.save(tmp_path)
    assert load_breakdown(tmp_path) == made_of
    bare = made_of.without_corners()
    assert isinstance(bare, Breakdown)
    assert [(one.missed, one.missed_corners) for one in bare.images] == [(1, []), (0, [])]


def test_data_sets_of_boxes_keep_the_hook():
    assert issubclass(BoxDataset, BreaksDown)
