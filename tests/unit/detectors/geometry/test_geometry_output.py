"""Corners, text, records and pictures of detections."""

import json

import numpy as np
import pytest

from detectors.geometry import Detections, box_corners, dota_text, draw_detections, to_records
from detectors.geometry.corners import box_extents

FOUND = Detections([[50, 40, 20, 10, np.pi / 6], [20, 20, 4, 4, 0]], [0.9, 0.25], [1, 0])


def test_corners_turn_clockwise_on_the_screen():
    corners = box_corners([[10, 20, 4, 2, 0], [10, 20, 4, 2, np.pi / 2]])
    np.testing.assert_allclose(corners[0], [[8, 19], [12, 19], [12, 21], [8, 21]])
    np.testing.assert_allclose(corners[1], [[11, 18], [11, 22], [9, 22], [9, 18]])


def test_extents_are_the_extremes_of_the_corners():
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.normal(0, 50, (100, 2)), rng.uniform(1, 30, (100, 2)), rng.uniform(-4, 4, 100)])
    corners = box_corners(boxes)
    np.testing.assert_allclose(box_extents(boxes), np.hstack([corners.min(axis=1), corners.max(axis=1)]))


def test_text_has_class_eight_coordinates_and_score():
    lines = dota_text(FOUND, ["small car", "ship"]).splitlines()
    assert lines[1] == "small-car 18.00 18.00 22.00 18.00 22.00 22.00 18.00 22.00 0.25000"
    assert [len(line.split()) for line in lines] == [10, 10]
    assert dota_text(Detections.empty(), []) == ""


def test_records_are_json_and_agree_with_the_boxes():
    records = json.loads(json.dumps(to_records(FOUND, ["car", "ship"])))
    assert [r["class"] for r in records] == ["ship", "car"]
    np.testing.assert_allclose(records[0]["box"], FOUND.boxes[0], atol=1e-4)
    np.testing.assert_allclose(np.reshape(records[0]["corners"], (4, 2)), box_corners(FOUND.boxes)[0], atol=1e-3)


@pytest.mark.parametrize(("size", "scale", "expected"), [(100, None, 200), (1000, None, 1000), (100, 1, 100)])
def test_small_pictures_are_enlarged_before_drawing(size, scale, expected):
    image = np.full((size, size, 3), 90, np.uint8)
    before = image.copy()
    drawn = draw_detections(image, FOUND, ["car", "ship"], scale=scale)
    assert drawn.shape == (expected, expected, 3)
    np.testing.assert_array_equal(image, before)
    assert (drawn != 90).any()


def test_the_outline_lies_on_the_box():
    image = np.zeros((100, 100, 3), np.uint8)
    found = Detections([[50, 60, 30, 20, 0]], [0.9], [0])
    drawn = draw_detections(image, found, ["car"], scale=1)
    assert drawn[60, 35].max() > 100
    assert drawn[60, 65].max() > 100
    assert drawn[60, 50].max() == 0


def test_boxes_far_outside_the_picture_do_no_harm():
    found = Detections([[-1e5, 1e5, 1e6, 3, 1], [5, 5, 3, 3, 0]], [0.9, 0.1], [0, 0])
    assert draw_detections(np.zeros((20, 20, 3), np.uint8), found, ["c"]).shape == (40, 40, 3)


def test_detections_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="1 boxes, 2 scores"):
        Detections([[0, 0, 1, 1, 0]], [0.1, 0.2], [0])


def test_taking_shifting_and_joining_keep_order():
    joined = Detections.concatenate([FOUND.take(np.array([1])), FOUND.shifted(10, -5)])
    np.testing.assert_allclose(joined.boxes[:, :2], [[20, 20], [60, 35], [30, 15]])
    assert len(Detections.concatenate([])) == 0
