"""Rotated overlap against a slow polygon clip."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.geometry import box_corners, overlapping_pairs, pairwise_iou, rotated_iou_matrix


def clip_polygon_area(first, second):
    """Sutherland-Hodgman: clip the one convex polygon by every edge of the other; its area."""
    polygon = [tuple(point) for point in first]
    for (x0, y0), (x1, y1) in zip(second, np.roll(second, -1, axis=0), strict=True):
        side = [(x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) for x, y in polygon]
        clipped = []
        for i, (x, y) in enumerate(polygon):
            j = (i + 1) % len(polygon)
            if side[i] >= 0:
                clipped.append((x, y))
            if (side[i] >= 0) != (side[j] >= 0):
                t = side[i] / (side[i] - side[j])
                clipped.append((x + t * (polygon[j][0] - x), y + t * (polygon[j][1] - y)))
        polygon = clipped
        if not polygon:
            return 0.0
    x, y = np.array(polygon).T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def slow_iou(first, second):
    shared = clip_polygon_area(box_corners(first)[0], box_corners(second)[0])
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def random_boxes(rng, count, span=40):
    return np.column_stack(
        [rng.uniform(0, span, (count, 2)), rng.uniform(2, 30, (count, 2)), rng.uniform(-4, 4, count)]
    )


def test_overlap_equals_a_slow_polygon_clip():
    rng = np.random.default_rng(0)
    first, second = random_boxes(rng, 300), random_boxes(rng, 300)
    expected = [slow_iou(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(pairwise_iou(first, second), expected, atol=1e-12)


def test_matrix_holds_every_pair_and_chunks_do_not_show():
    rng = np.random.default_rng(1)
    first, second = random_boxes(rng, 150, span=300), random_boxes(rng, 170, span=300)
    rows, columns = np.divmod(np.arange(150 * 170), 170)
    expected = pairwise_iou(first[rows], second[columns]).reshape(150, 170)
    np.testing.assert_allclose(rotated_iou_matrix(first, second), expected, atol=1e-14)
    assert (expected > 0).any()


def test_foreground_overlap_divides_by_the_first_box():
    small, large = [[10, 10, 4, 2, 0.3]], [[10, 10, 40, 20, 0.3]]
    assert pairwise_iou(small, large, foreground=True)[0] == pytest.approx(1)
    assert pairwise_iou(large, small, foreground=True)[0] == pytest.approx(0.01)


@pytest.mark.parametrize("turn", [0, np.pi, -np.pi, 2 * np.pi])
def test_a_box_turned_by_half_a_turn_is_the_same_box(turn):
    boxes = random_boxes(np.random.default_rng(2), 200, span=2000)
    turned = boxes + np.array([0, 0, 0, 0, turn])
    np.testing.assert_allclose(pairwise_iou(boxes, turned), 1, atol=1e-9)


def test_swapping_sides_and_turning_by_a_quarter_is_the_same_box():
    boxes = random_boxes(np.random.default_rng(3), 200)
    turned = boxes[:, [0, 1, 3, 2, 4]] + [0, 0, 0, 0, np.pi / 2]
    np.testing.assert_allclose(pairwise_iou(boxes, turned), 1, atol=1e-9)


def test_touching_boxes_and_boxes_without_area_do_not_overlap():
    box = [0, 0, 10, 6, 0.0]
    others = [[10, 0, 10, 6, 0], [10, 6, 10, 6, 0], [0, 0, 0, 6, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_allclose(pairwise_iou([box] * 4, others), 0, atol=1e-12)
    assert pairwise_iou([[0, 0, 0, 0, 0]], [[0, 0, 0, 0, 0]])[0] == 0


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 boxes cannot be paired with 1"):
        pairwise_iou(np.ones((2, 5)), np.ones((1, 5)))


coordinates = st.floats(-100, 100)
sizes = st.floats(0.01, 200)
boxes = st.tuples(coordinates, coordinates, sizes, sizes, st.floats(-7, 7))


@settings(max_examples=200, deadline=None)
@given(boxes, boxes, st.floats(-3, 3), coordinates)
def test_overlap_is_symmetric_bounded_and_does_not_change_when_the_world_turns(first, second, turn, shift):
    first, second = np.array([first]), np.array([second])
    value = pairwise_iou(first, second)[0]
    assert 0 <= value <= 1
    assert pairwise_iou(second, first)[0] == pytest.approx(value, abs=1e-6)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = [np.column_stack([b[:, :2] @ rotation.T + shift, b[:, 2:4], b[:, 4] + turn]) for b in (first, second)]
    assert pairwise_iou(*moved)[0] == pytest.approx(value, abs=1e-6)


def test_no_overlapping_pair_is_missed_by_the_sweep():
    rng = np.random.default_rng(4)
    first, second = random_boxes(rng, 120, span=200), random_boxes(rng, 90, span=200)
    labels1, labels2 = rng.integers(0, 3, 120), rng.integers(0, 3, 90)
    rows, columns = np.divmod(np.arange(120 * 90), 90)
    overlaps = pairwise_iou(first[rows], second[columns]) > 1e-12  # below: rounding of far pairs
    truth = set(zip(rows[overlaps], columns[overlaps], strict=True))
    found = list(zip(*overlapping_pairs(first, second), strict=True))
    assert len(found) == len(set(found))
    assert truth <= set(found)
    same_class = {(i, j) for i, j in truth if labels1[i] == labels2[j]}
    by_class = list(zip(*overlapping_pairs(first, second, labels1, labels2), strict=True))
    assert same_class <= set(by_class)
    assert all(labels1[i] == labels2[j] for i, j in by_class)
