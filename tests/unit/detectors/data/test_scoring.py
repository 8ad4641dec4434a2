"""Scores against a naive reference; ignoring for every class."""

import math

import numpy as np
import pytest
from random_scene import random_scene

from compress import progress
from compress.dataset import METRICS
from compress.errors import DataError
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.data.records import (
    MatchRecords,
    area_map50,
    bootstrap,
    bootstrap_map50,
    interval,
    mean_precisions,
    of_size,
)
from detectors.data.samples import Truth
from detectors.data.scoring import match_records, score_detections
from detectors.data.weighted_precision import _points_passed
from detectors.geometry.detections import Detections

CLASSES = ("ship", "plane", "car")


def naive_map50(detections, truths, num_classes, iou):
    """Mean area AP, straight from the definition."""
    values = []
    for label in range(num_classes):
        rows, total = [], 0
        for item, truth in zip(detections, truths, strict=True):
            wanted = truth.boxes[truth.labels == label]
            total += len(wanted)
            used = set()
            candidates = np.concatenate([wanted, truth.ignored_boxes])
            for index in sorted(np.flatnonzero(item.labels == label), key=lambda i: -item.scores[i]):
                overlaps = [iou(item.boxes[index], other) for other in candidates]
                best = int(np.argmax(overlaps)) if overlaps else -1
                if best < 0 or overlaps[best] < 0.5:
                    rows.append((item.scores[index], False))
                elif best < len(wanted):
                    rows.append((item.scores[index], best not in used))
                    used.add(best)
        if not total:
            continue
        rows.sort(key=lambda row: -row[0])
        points, right = [], 0
        for position, (_, good) in enumerate(rows, start=1):
            right += good
            points.append((right / total, right / position))
        area, previous = 0.0, 0.0
        for index, (recall, _) in enumerate(points):
            area += (recall - previous) * max(p for _, p in points[index:])
            previous = recall
        values.append(area)
    return float(np.mean(values))


def polygon_iou(first, second):
    import cv2

    rects = [((b[0], b[1]), (b[2], b[3]), math.degrees(b[4])) for b in np.asarray([first, second], float)]
    kind, points = cv2.rotatedRectangleIntersection(*rects)
    shared = 0.0 if kind == cv2.INTERSECT_NONE else float(cv2.contourArea(cv2.convexHull(points)))
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


@pytest.mark.parametrize("seed", range(4))
def test_map50_equals_a_naive_reference(seed):
    detections, truths = random_scene(seed)
    scores = score_detections(detections, truths, CLASSES, bootstrap=0)
    assert scores.map50 == pytest.approx(naive_map50(detections, truths, 3, polygon_iou), abs=1e-6)
    assert scores.map50_interval is None
    assert scores.num_detections == sum(map(len, detections))


def test_permuting_detections_keeps_every_number_even_with_equal_scores():
    detections, truths = random_scene(2)
    detections = [Detections(d.boxes, np.round(d.scores, 1), d.labels) for d in detections]
    rng = np.random.default_rng(0)
    shuffled = [Detections(d.boxes[o], d.scores[o], d.labels[o]) for d in detections for o in [rng.permutation(len(d))]]
    assert score_detections(detections, truths, CLASSES, bootstrap=50) == score_detections(
        shuffled, truths, CLASSES, bootstrap=50
    )


@pytest.mark.parametrize("label", range(3))
@pytest.mark.parametrize("with_truth", [False, True])
def test_a_detection_on_an_ignored_box_is_neither_right_nor_wrong_for_any_class(label, with_truth):
    ignored = np.array([[50, 50, 20, 10, 0.3]], np.float32)
    boxes = np.array([[100, 100, 20, 10, 0.0]], np.float32)[: int(with_truth)]
    truth = Truth(boxes, np.zeros(len(boxes), np.int64), ignored)
    found = Detections(
        np.concatenate([ignored, boxes]), np.array([0.9, 0.5])[: 1 + len(boxes)], np.array([label, 0])[: 1 + len(boxes)]
    )
    records = match_records([found], [truth], CLASSES)
    on_ignored = records.score > 0.8
    assert on_ignored.sum() == 1
    assert not (records.right | records.wrong)[on_ignored].any()
    scores = score_detections([found], [truth], CLASSES, bootstrap=0)
    assert scores.map50 == (1.0 if with_truth else 0.0)
    assert scores.precision == (1.0 if with_truth else 0.0)


def test_recall_precision_and_size_bins_count_boxes():
    boxes = np.array(
        [[20, 20, 10, 10, 0], [60, 60, 20, 20, 0], [120, 120, 40, 40, 0], [180, 180, 40, 40, 0]], np.float32
    )
    truth = Truth(boxes, np.zeros(4, np.int64), np.zeros((0, 5), np.float32))
    found = Detections(
        np.concatenate([boxes[1:3], [[300, 300, 9, 9, 0]], [[400, 300, 9, 9, 0]]]),
        np.array([0.9, 0.2, 0.5, 0.1]),
        np.zeros(4),
    )
    scores = score_detections([found], [truth], ("ship", "plane"), bootstrap=0)
    assert scores.recall == 0.5
    assert scores.precision == 0.5  # at 0.3: one right, one wrong
    assert scores.extra["recall_below_16px"] == 0.0
    assert scores.extra["recall_16_to_32px"] == 1.0
    assert scores.extra["recall_from_32px"] == 0.5
    # Of the two boxes below 16 px one was found by nothing; both detections there are wrong.
    assert scores.extra["map50_below_16px"] == 0.0
    assert scores.extra["map50_16_to_32px"] == 1.0
    assert scores.extra["map50_from_32px"] == 0.5
    assert math.isnan(scores.ap_per_class["plane"])


def test_boxes_of_one_size_are_scored_as_if_the_others_were_ignored():
    detections, truths = random_scene(11, images=10)
    records = match_records(detections, truths, CLASSES)
    assert area_map50(of_size(records, 0, np.inf)) == area_map50(records)
    middle = float(np.median(records.truth_size_px))
    parts = [of_size(records, 0, middle), of_size(records, middle, np.inf)]
    assert (sum(part.num_truths for part in parts) == records.num_truths).all()
    assert (sum(part.right.astype(int) for part in parts) == records.right).all()
    assert (sum(part.wrong.astype(int) for part in parts) == records.wrong).all()
    assert sum(part.truth_found.sum() for part in parts) == records.right.sum()


def test_a_wrong_detection_counts_for_its_own_size_and_a_right_one_for_the_size_of_what_it_found():
    truth = Truth(
        np.array([[20, 20, 15, 15, 0], [80, 80, 40, 40, 0]], np.float32), np.zeros(2, np.int64), np.zeros((0, 5))
    )
    boxes = [[20, 20, 17, 17, 0], [80, 80, 40, 40, 0], [200, 200, 40, 40, 0], [300, 300, 9, 9, 0]]
    found = Detections(np.array(boxes, np.float32), np.array([0.9, 0.8, 0.95, 0.85]), np.zeros(4))
    extra = score_detections([found], [truth], ("ship",), bootstrap=0).extra
    assert extra["map50_below_16px"] == 1.0  # the wrong small one comes after all is found
    assert extra["map50_from_32px"] == 0.5  # a wrong large one comes first
    assert "map50_16_to_32px" not in extra


def test_an_unknown_label_and_lists_of_different_length_are_refused():
    detections, truths = random_scene(0)
    with pytest.raises(DataError, match="expected 0 to 0"):
        score_detections(detections, truths, ("ship",))
    with pytest.raises(DataError, match="Give one per image"):
        score_detections(detections[:-1], truths, CLASSES)


def test_no_detection_and_no_truth_score_zero():
    nothing = Detections(np.zeros((0, 5)), np.zeros(0), np.zeros(0))
    empty = Truth(np.zeros((0, 5), np.float32), np.zeros(0, np.int64), np.zeros((0, 5), np.float32))
    scores = score_detections([nothing], [empty], CLASSES)
    assert (scores.map50, scores.recall, scores.precision, scores.num_detections) == (0.0, 0.0, 0.0, 0)
    _, truths = random_scene(1)
    assert score_detections([nothing] * len(truths), truths, CLASSES, bootstrap=10).map50_interval == (0.0, 0.0)


def test_the_bootstrap_without_resampling_is_map50_and_equals_scoring_the_drawn_images():
    detections, truths = random_scene(5, images=12)
    records = match_records(detections, truths, CLASSES)
    assert area_map50(records) == pytest.approx(
        score_detections(detections, truths, CLASSES, bootstrap=0).map50, abs=1e-6
    )
    values = bootstrap_map50(records, samples=5, seed=3)
    draws = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=5)
    for value, counts in zip(values, draws, strict=True):
        chosen = np.repeat(np.arange(12), counts)
        drawn = score_detections([detections[i] for i in chosen], [truths[i] for i in chosen], CLASSES, bootstrap=0)
        assert value == pytest.approx(drawn.map50, abs=1e-6)


@pytest.mark.parametrize("chunk", [None, 40])  # resamples in one go, and a few at a time
def test_the_bootstrap_of_map_equals_scoring_the_drawn_images(monkeypatch, chunk):
    if chunk is not None:
        monkeypatch.setattr("detectors.data.records.CHUNK_VALUES", chunk)
    detections, truths = random_scene(5, images=12)
    records = match_records(detections, truths, CLASSES, max_dets=4)
    whole = score_detections(detections, truths, CLASSES, bootstrap=0, max_dets=4)
    means = mean_precisions(records, np.ones((12, 1)))
    assert (means.map[0], means.map75[0]) == pytest.approx((whole.map, whole.map75), abs=1e-12)
    values = bootstrap(records, samples=90, seed=3)  # more than `_FEW_COLUMNS`: both ways to sum up rows
    draws = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=90)
    for index in (0, 1, 2, 88, 89):
        chosen = np.repeat(np.arange(12), draws[index])
        drawn = score_detections(
            [detections[i] for i in chosen], [truths[i] for i in chosen], CLASSES, bootstrap=0, max_dets=4
        )
        found = (values.map[index], values.map75[index], values.map50[index])
        assert found == pytest.approx((drawn.map, drawn.map75, drawn.map50), abs=1e-6)


def test_recall_points_are_compared_as_coco_compares_them_for_every_number_of_boxes():
    for truths in [*range(0, 130), 700, 4096]:
        passed = _points_passed(np.array([truths])).astype(int)
        found = np.arange(max(truths, 1) + 1)
        expected = np.searchsorted(np.linspace(0, 1, 101), found / max(truths, 1), side="right")
        expected[0] = 0  # nothing found reaches no precision
        assert (passed[: len(found)] == expected).all(), truths


def test_the_scores_of_each_metric_have_interval_resamples_and_sizes():
    detections, truths = random_scene(7, images=20)
    scores = score_detections(detections, truths, CLASSES, bootstrap=200)
    for metric in METRICS:
        low, high = getattr(scores, f"{metric}_interval")
        assert low < getattr(scores, metric) < high
        assert len(getattr(scores, f"{metric}_resampled")) == 200
        assert f"{metric}_below_16px" in scores.extra
    assert scores.map < scores.extra["map50_coco"]
    assert scores.num_objects == sum(len(truth.boxes) for truth in truths)
    assert set(scores.map_per_class) == set(scores.map75_per_class) == set(CLASSES)


def test_the_truth_itself_has_map_one_at_every_size_and_turn():
    _, truths = random_scene(3, images=12)
    found = [Detections(t.boxes, np.linspace(1, 0.5, len(t.boxes)), t.labels) for t in truths]
    scores = score_detections(found, truths, CLASSES, bootstrap=50)
    assert (scores.map, scores.map75, scores.map_interval) == (1, 1, (1, 1))
    assert {value for name, value in scores.extra.items() if name.startswith("map")} == {1.0}


def test_boxes_of_one_size_are_scored_by_map_as_if_the_others_were_ignored():
    detections, truths = random_scene(11, images=10)
    records = match_records(detections, truths, CLASSES)
    middle = float(np.median(records.truth_size_px))
    parts = [of_size(records, 0, middle), of_size(records, middle, np.inf)]
    assert (sum(part.right_at.astype(int) for part in parts) == records.right_at).all()
    assert (sum(part.wrong_at.astype(int) for part in parts) == records.wrong_at).all()
    ones = np.ones((10, 1))
    everything = mean_precisions(of_size(records, 0, np.inf), ones)
    assert everything.map == pytest.approx(mean_precisions(records, ones).map)


def test_a_class_with_more_boxes_in_an_image_than_detections_count_is_told():
    boxes = np.column_stack([np.arange(12) * 30 + 20, np.full(12, 50), np.full(12, 20), np.full(12, 10), np.zeros(12)])
    truth = Truth(boxes.astype(np.float32), np.zeros(12, np.int64), np.zeros((0, 5), np.float32))
    found = Detections(boxes, np.linspace(0.9, 0.5, 12), np.zeros(12))
    progress.clear_warnings()
    few, all_ = (
        DotaDataset(DotaData(root="x", image_size=(64, 64), max_dets=most), ("ship",)).score([found], [truth])
        for most in (10, 12)
    )
    assert (few.map50, all_.map50, all_.map) == (1, 1, 1)
    assert few.map == pytest.approx(84 / 101)  # recall ends at 10 of 12
    assert (few.max_dets, all_.max_dets) == (10, 12)
    (text,) = progress.collected_warnings()
    assert text.startswith("1 images have more than 10 objects of a class")


def test_blocks_of_images_change_no_pair(monkeypatch):
    detections, truths = random_scene(8, images=20)
    whole = match_records(detections, truths, CLASSES)
    monkeypatch.setattr("detectors.data.matching._BLOCK", 7)
    parts = match_records(detections, truths, CLASSES)
    for name in ("right", "wrong", "right_at", "wrong_at", "truth_found", "size_px", "size_px_at"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_the_interval_holds_map50_and_depends_on_the_seed_only():
    detections, truths = random_scene(7, images=20)
    first = score_detections(detections, truths, CLASSES, seed=1)
    low, high = first.map50_interval
    assert low < first.map50 < high
    assert first == score_detections(detections, truths, CLASSES, seed=1)
    assert first.map50_interval != score_detections(detections, truths, CLASSES, seed=2).map50_interval


def test_the_engine_pairs_the_resampled_scores_of_two_models_as_the_records_do():
    from compress.metrics.paired import loss_interval

    detections, truths = random_scene(9, images=15)
    fewer = [Detections(d.boxes[::2], d.scores[::2], d.labels[::2]) for d in detections]
    better, worse = (score_detections(found, truths, CLASSES, bootstrap=300) for found in (detections, fewer))
    records = [match_records(found, truths, CLASSES) for found in (detections, fewer)]
    sampled = [bootstrap_map50(one, samples=300, seed=0) for one in records]
    low, high = loss_interval(better.map50_resampled, worse.map50_resampled)
    assert (low, high) == pytest.approx(interval(sampled[0] - sampled[1]))
    wide = [b - a for a, b in (better.map50_interval, worse.map50_interval)]
    assert high - low < max(wide)


def test_records_survive_a_file_and_a_model_does_not_differ_from_itself(tmp_path):
    detections, truths = random_scene(9, images=15)
    records = match_records(detections, truths, CLASSES)
    records.save(tmp_path / "records.npz")
    loaded = MatchRecords.load(tmp_path / "records.npz")
    assert loaded.classes == records.classes
    before, after = (bootstrap_map50(one, samples=200, seed=0) for one in (records, loaded))
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(*(bootstrap(one, samples=200, seed=0).map for one in (records, loaded)))
    worse = match_records([Detections(d.boxes[::2], d.scores[::2], d.labels[::2]) for d in detections], truths, CLASSES)
    low, high = interval(bootstrap_map50(worse, samples=200, seed=0) - before)
    assert low < high < 0
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match="expected match records"):
        MatchRecords.load(tmp_path / "bad.npz")


def test_detection_that_lies_on_the_truth_is_right_where_mmcvs_overlap_is_not_one():
    # Two pairs on which mmcv.ops.box_iou_rotated (2.3.6) answers 0.59 and 0.33.
    found = [[21.0, 115.0, 34.03194, 13.92216, -0.39708], [201.0, 416.0, 34.03194, 13.92216, -0.39708]]
    wanted = [
        [20.999998, 115.0, 34.031944, 13.922159, -0.39707944],
        [200.99998, 415.99997, 34.031944, 13.922159, -0.39707944],
    ]
    truth = Truth(np.array(wanted, np.float32), np.zeros(2, np.int64), np.zeros((0, 5), np.float32))
    detections = Detections(np.array(found), np.array([0.9, 0.8]), np.zeros(2))
    records = match_records([detections], [truth], ["ship"], iou_threshold=0.99)
    assert records.right.all()
    assert records.truth_found.all()
