"""Windows cover every picture; merged tiles give the objects of the whole picture."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.geometry import Detections, Window, box_corners, cut_window, merge_tiles, tile_windows


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(40, 200), st.integers(40, 200), st.integers(0, 39))
def test_windows_cover_every_pixel_and_stay_inside(height, width, tile_height, tile_width, overlap):
    windows = tile_windows((height, width), (tile_height, tile_width), overlap)
    seen = np.zeros((height, width), np.int32)
    for window in windows:
        assert min(window.x, window.y, width - window.x - window.width, height - window.y - window.height) >= 0
        assert (window.height, window.width) == (min(tile_height, height), min(tile_width, width))
        cut_window(seen, window)[:] += 1
    assert seen.min() >= 1
    assert len(set(windows)) == len(windows)
    for axis, size in (("x", min(tile_width, width)), ("y", min(tile_height, height))):
        starts = sorted({getattr(window, axis) for window in windows})
        assert all(a + size - b >= overlap for a, b in pairwise(starts))


@pytest.mark.parametrize("overlap", [-1, 64, 100])
def test_an_overlap_that_does_not_fit_is_refused(overlap):
    with pytest.raises(ValueError, match="cannot cover"):
        tile_windows((100, 100), (64, 64), overlap)


def boxes_seen_in(window, truth, scores, labels):
    """What a perfect detector reports: objects, cut at the window's border, if a fifth is visible."""
    import cv2

    found = []
    frame = (window.x, window.y, window.width, window.height)
    corners = np.array([[0, 0], [frame[2], 0], [frame[2], frame[3]], [0, frame[3]]]) + frame[:2]
    for box, score, label in zip(truth, scores, labels, strict=True):
        area, shape = cv2.intersectConvexConvex(
            box_corners(box[None])[0].astype(np.float32), corners.astype(np.float32)
        )
        if area < 0.2 * box[2] * box[3]:
            continue
        if area > 0.999 * box[2] * box[3]:
            seen = box.copy()
        else:
            (x, y), (w, h), degrees = cv2.minAreaRect(shape)
            seen = np.array([x, y, w, h, np.deg2rad(degrees)])
        seen[:2] -= frame[:2]
        found.append((seen, score * min(1, area / (box[2] * box[3])), label))
    if not found:
        return Detections.empty()
    return Detections(*(np.array(column) for column in zip(*found, strict=True)))


def test_each_object_is_found_once_wherever_the_borders_cut_it():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(15, 500, 33), np.arange(15, 400, 33)), -1).reshape(-1, 2)
    truth = np.column_stack(
        [grid + rng.uniform(-3, 3, grid.shape), rng.uniform(6, 26, (len(grid), 2)), rng.uniform(-0.7, 2.3, len(grid))]
    )
    scores, labels = rng.uniform(0.3, 1, len(grid)), rng.integers(0, 3, len(grid))
    size = (420, 520)
    windows = tile_windows(size, (128, 160), 40)
    parts = [boxes_seen_in(window, truth, scores, labels) for window in windows]
    merged = merge_tiles(parts, windows, size, iou_threshold=0.4)
    order = np.argsort(-scores, kind="stable")
    assert len(merged) == len(truth)
    np.testing.assert_allclose(merged.boxes, truth[order], atol=1e-3)
    np.testing.assert_array_equal(merged.labels, labels[order])


def test_an_object_larger_than_the_overlap_is_not_lost():
    truth = np.array([[128.0, 64, 150, 20, 0.2]])
    windows = tile_windows((128, 224), (128, 128), 32)
    parts = [boxes_seen_in(window, truth, np.array([0.9]), np.array([0])) for window in windows]
    assert len(merge_tiles(parts, windows, (128, 224), iou_threshold=0.4)) >= 1


def test_one_window_changes_nothing():
    found = Detections([[5, 5, 4, 2, 0.1], [5, 5, 4, 2, 0.1]], [0.9, 0.8], [0, 0])
    merged = merge_tiles([found], [Window(0, 0, 20, 20)], (20, 20), iou_threshold=0.4)
    np.testing.assert_array_equal(merged.boxes, found.boxes)


def test_touching_neighbours_inside_one_tile_survive_the_stricter_rule_between_tiles():
    pair = Detections([[20, 20, 10, 10, 0], [26, 20, 10, 10, 0]], [0.9, 0.8], [0, 0])  # overlap 0.25
    windows = tile_windows((64, 100), (64, 64), 16)
    merged = merge_tiles([pair, Detections.empty()], windows, (64, 100), iou_threshold=0.4)
    assert len(merged) == 2
