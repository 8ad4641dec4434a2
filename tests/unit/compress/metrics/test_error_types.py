"""Kinds of errors by TIDE's definitions, on cases that can be told by hand."""

import numpy as np
import pytest

from compress.breakdown import ERROR_NAMES
from compress.metrics.error_types import (
    Overlaps,
    class_precision,
    error_types,
    image_errors,
    mean_precision,
    scores_by_part,
)

SHIP, PLANE = 0, 1


def image(iou, scores, labels, truth_labels, ignored=None):
    iou = np.array(iou, float).reshape(len(scores), len(truth_labels))
    ignored = np.zeros(len(scores), bool) if ignored is None else np.array(ignored)
    return image_errors(
        Overlaps(iou, np.array(scores, float), np.array(labels, np.int64), np.array(truth_labels, np.int64), ignored)
    )


@pytest.mark.parametrize(
    ("overlap", "label", "kind"),
    [
        (0.8, SHIP, "right"),
        (0.5, SHIP, "right"),
        (0.49, SHIP, "loc"),
        (0.1, SHIP, "loc"),
        (0.09, SHIP, "bkg"),
        (0.0, SHIP, "bkg"),
        (0.8, PLANE, "cls"),
        (0.5, PLANE, "cls"),
        (0.3, PLANE, "both"),
        (0.1, PLANE, "bkg"),
    ],
)
def test_one_detection_of_one_ship(overlap, label, kind):
    assert image([[overlap]], [0.9], [label], [SHIP]).kind.tolist() == [kind]


def test_the_second_detection_of_an_object_is_double_and_the_better_score_is_right():
    found = image([[0.6], [0.9]], [0.9, 0.8], [SHIP, SHIP], [SHIP])
    assert found.kind.tolist() == ["right", "dupe"]
    assert found.match.tolist() == [0, -1]
    turned = image([[0.9], [0.6]], [0.8, 0.9], [SHIP, SHIP], [SHIP])
    assert turned.kind.tolist() == ["dupe", "right"]


def test_the_second_of_two_detections_takes_the_object_that_is_left():
    found = image([[0.9, 0.6], [0.8, 0.7]], [0.9, 0.8], [SHIP, SHIP], [SHIP, SHIP])
    assert found.match.tolist() == [0, 1]


def test_badly_placed_comes_before_wrong_class():
    """Both fit: 0.3 on a ship as a ship, 0.6 on a plane; TIDE's own order takes the place."""
    assert image([[0.3, 0.6]], [0.9], [SHIP], [SHIP, PLANE]).kind.tolist() == ["loc"]


def test_a_detection_in_an_image_without_objects_is_on_nothing():
    found = image(np.zeros((1, 0)), [0.9], [SHIP], [])
    assert found.kind.tolist() == ["bkg"]
    assert found.partner.tolist() == [-1]


def test_an_object_that_a_badly_placed_box_would_find_is_not_missed():
    found = image([[0.3, 0.0]], [0.9], [SHIP], [SHIP, PLANE])
    assert found.missed.tolist() == [False, True]


def test_a_detection_on_an_ignored_object_is_nothing_unless_it_is_right():
    found = image([[0.8], [0.0]], [0.9, 0.8], [SHIP, SHIP], [SHIP], ignored=[True, True])
    assert found.kind.tolist() == ["right", "ignored"]
    assert found.wrong.tolist() == [False, False]


def test_each_kind_costs_what_the_map_gains_if_it_alone_is_put_right():
    """One object a class and image, one error each; every gain can be told by hand."""
    gains = {
        # a right ship at 0.5 below an error at 0.9: precision 1/2, so AP 50; without the error 100
        "bkg": ([[0.7], [0.0]], [0.5, 0.9], [SHIP, SHIP], [SHIP], 50.0),
        "dupe": ([[0.6], [0.7], [0.0]], [0.9, 0.8, 0.7], [SHIP, SHIP, SHIP], [SHIP], 0.0),
        "both": ([[0.7, 0.0], [0.0, 0.3]], [0.5, 0.9], [SHIP, SHIP], [SHIP, PLANE], 25.0),
        # nothing was right: the best of two badly placed ones becomes so, the other goes
        "loc": ([[0.3], [0.4]], [0.9, 0.8], [SHIP, SHIP], [SHIP], 100.0),
        # the plane taken for a ship: its class gains 100 of 2 classes, the ship nothing as it scores higher
        "cls": ([[0.7, 0.0], [0.0, 0.8]], [0.9, 0.5], [SHIP, SHIP], [SHIP, PLANE], 50.0),
        # one of two ships found: 51 of 101 recall points; without the other 101 of 101
        "missed": ([[0.7, 0.0]], [0.9], [SHIP], [SHIP, SHIP], 100 * (1 - 51 / 101)),
    }
    for name, (iou, scores, labels, truth, gain) in gains.items():
        errors = {one.name: one for one in error_types([image(iou, scores, labels, truth)], 2)}
        assert list(errors) == list(ERROR_NAMES)
        assert errors[name].count >= 1, name
        assert errors[name].points == pytest.approx(gain, abs=0.01), name


def test_a_wrong_class_is_put_right_once_where_a_better_box_claims_the_object():
    found = image([[0.4], [0.8]], [0.9, 0.8], [SHIP, PLANE], [SHIP])
    assert found.kind.tolist() == ["loc", "cls"]
    assert found.partner.tolist() == [0, -1]


def naive_precision(scores, right, truths):
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    points, hits = [], 0
    for place, index in enumerate(order, start=1):
        hits += right[index]
        points.append((hits / truths, hits / place))
    return [max([p for r, p in points if r >= recall / 100 - 1e-12], default=0.0) for recall in range(101)]


def test_precision_over_recall_is_the_naive_one():
    rng = np.random.default_rng(3)
    images = []
    for _ in range(20):
        n, m = rng.integers(0, 9), rng.integers(1, 5)
        images.append(
            image(
                rng.random((n, m)) * (rng.random((n, m)) < 0.4),
                rng.random(n),
                rng.integers(0, 2, n),
                rng.integers(0, 2, m),
            )
        )
    for label in (SHIP, PLANE):
        pairs = [
            (s, r) for one in images for s, r, at in zip(one.scores, one.right, one.labels, strict=True) if at == label
        ]
        truths = sum(int((one.truth_labels == label).sum()) for one in images)
        assert np.allclose(class_precision(images, label), naive_precision(*zip(*pairs, strict=True), truths))
    assert mean_precision(images, 3) == pytest.approx(np.mean([class_precision(images, k).mean() for k in (0, 1)]))


def test_scores_are_counted_by_part_and_the_ends_count():
    found = image([[0.8], [0.0], [0.0]], [1.0, 0.0, 0.55], [SHIP] * 3, [SHIP])
    assert scores_by_part([found], 4) == ([0, 0, 0, 1], [1, 0, 1, 0])
    assert scores_by_part([], 2) == ([0, 0], [0, 0])
