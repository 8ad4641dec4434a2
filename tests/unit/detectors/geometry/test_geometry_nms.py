"""Rotated NMS against the obvious loop and against indices of the published code."""

import numpy as np
import pytest

from detectors.geometry import nms, pairwise_iou, rotated_nms


def slow_nms(boxes, scores, labels, threshold):
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        rivals = [k for k in kept if labels[k] == labels[index]]
        if not rivals or pairwise_iou(boxes[[index] * len(rivals)], boxes[rivals]).max() < threshold:
            kept.append(index)
    return np.array(kept)


def scene(count, span, seed=0):
    rng = np.random.default_rng(seed)
    boxes = np.column_stack(
        [rng.uniform(0, span, (count, 2)), rng.uniform(6, 40, (count, 2)), rng.uniform(-0.8, 2.3, count)]
    )
    return boxes, rng.random(count), rng.integers(0, 3, count)


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.8])
def test_keeps_what_the_obvious_loop_keeps(threshold):
    boxes, scores, labels = scene(1300, 150)  # more than two blocks
    expected = slow_nms(boxes, scores, labels, threshold)
    np.testing.assert_array_equal(rotated_nms(boxes, scores, labels, iou_threshold=threshold), expected)
    assert len(expected) < 1300


def test_overlap_equal_to_the_threshold_is_suppressed():
    boxes = np.array([[0, 0, 10, 10, 0], [5, 0, 10, 10, 0.0]])  # overlap 50 / 150
    iou = pairwise_iou(boxes[:1], boxes[1:])[0]
    assert len(rotated_nms(boxes, [0.9, 0.8], iou_threshold=iou)) == 1
    assert len(rotated_nms(boxes, [0.9, 0.8], iou_threshold=np.nextafter(iou, 1))) == 2


def test_a_suppressed_box_suppresses_nothing():
    chain = np.array([[0, 0, 10, 10, 0], [4, 0, 10, 10, 0], [8, 0, 10, 10, 0.0]])
    np.testing.assert_array_equal(rotated_nms(chain, [0.9, 0.8, 0.7], iou_threshold=0.3), [0, 2])


def test_classes_do_not_suppress_each_other_and_equal_scores_keep_their_order():
    boxes = np.tile([5.0, 5, 8, 4, 0.3], (4, 1))
    np.testing.assert_array_equal(rotated_nms(boxes, np.ones(4), [1, 0, 1, 0], iou_threshold=0.5), [0, 1])


def test_boxes_of_different_sources_may_have_their_own_threshold():
    boxes = np.array([[0, 0, 10, 10, 0], [7, 0, 10, 10, 0], [14, 0, 10, 10, 0.0]])
    kept = rotated_nms(boxes, [0.9, 0.8, 0.7], iou_threshold=0.5, sources=np.array([0, 0, 1]), cross_iou_threshold=0.1)
    np.testing.assert_array_equal(kept, [0, 1])


def test_no_boxes_give_no_indices():
    assert rotated_nms(np.zeros((0, 5)), np.zeros(0), iou_threshold=0.5).shape == (0,)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.5, float("nan")])
def test_a_threshold_that_makes_no_sense_is_refused(threshold):
    with pytest.raises(ValueError, match="outside"):
        rotated_nms(np.zeros((1, 5)), np.zeros(1), iou_threshold=threshold)


def test_few_pairs_of_many_boxes_are_clipped(monkeypatch):
    clipped = []

    def counted(first, second):
        clipped.append(len(first))
        return pairwise_iou(first, second)

    monkeypatch.setattr(nms, "pairwise_iou", counted)
    boxes, scores, labels = scene(5000, 1000)
    rotated_nms(boxes, scores, labels, iou_threshold=0.4)
    assert 0 < sum(clipped) < 4 * len(boxes)  # of 12.5 million pairs
