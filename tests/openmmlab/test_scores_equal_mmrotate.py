"""Average precision against MMDetection's and MMRotate's own functions."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmdet.evaluation.functional import average_precision as theirs

sys.path.append(str(Path(__file__).parents[1] / "unit" / "detectors" / "data"))

from random_scene import random_scene

from detectors.data.records import average_precision, eleven_point_precision
from detectors.data.scoring import score_detections

CLASSES = ("ship", "plane", "car")


@pytest.mark.parametrize("seed", range(20))
def test_both_average_precisions_are_the_numbers_of_mmdetection(seed):
    rng = np.random.default_rng(seed)
    right = rng.random(rng.integers(0, 60)) < rng.random()
    count = np.arange(1, len(right) + 1)
    precision, recall = np.cumsum(right) / count, np.cumsum(right) / max(right.sum() + rng.integers(0, 5), 1)
    if len(right):
        assert average_precision(precision, recall) == float(theirs(recall, precision, "area"))
        assert eleven_point_precision(precision, recall) == float(theirs(recall, precision, "11points"))
    assert average_precision(precision[:0], recall[:0]) == eleven_point_precision(precision[:0], recall[:0]) == 0.0


class InProcessPool:
    """Stands in for the pool of new processes that eval_rbbox_map starts (13 s a call)."""

    def starmap(self, function, arguments):
        return [function(*items) for items in arguments]

    def close(self):
        pass


def test_map50_equals_eval_rbbox_map_of_mmrotate(monkeypatch):
    from mmrotate.evaluation.functional import eval_rbbox_map, mean_ap

    context = SimpleNamespace(Pool=lambda _: InProcessPool())
    monkeypatch.setattr(mean_ap, "get_context", lambda _: context)
    detections, truths = random_scene(11)
    results = [
        [np.concatenate([d.boxes[d.labels == c], d.scores[d.labels == c, None]], axis=1) for c in range(3)]
        for d in detections
    ]
    nowhere = np.array([[-1e4, -1e4, 1, 1, 0]], np.float32)  # with label -1; or an empty image loses its ignored boxes
    annotations = [
        {
            "bboxes": np.concatenate([t.boxes, nowhere]),
            "labels": np.append(t.labels, -1),
            "bboxes_ignore": np.tile(t.ignored_boxes, (3, 1)),
            "labels_ignore": np.repeat(np.arange(3), len(t.ignored_boxes)),
        }
        for t in truths
    ]
    ours = score_detections(detections, truths, CLASSES, bootstrap=0)
    for voc07, value in ((False, ours.map50), (True, ours.extra["map50_voc07"])):
        theirs, _ = eval_rbbox_map(results, annotations, use_07_metric=voc07, logger="silent", nproc=1)
        assert value == pytest.approx(theirs, abs=1e-6)
