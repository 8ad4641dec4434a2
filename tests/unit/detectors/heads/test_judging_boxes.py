"""Detections as the truth that others are held against."""

import numpy as np

from detectors.geometry.detections import Detections
from detectors.heads.judging import JUDGING


def test_crowded_pictures_agree_with_themselves_too():
    x, y = (axis.ravel() * 30.0 for axis in np.meshgrid(np.arange(15), np.arange(10)))
    boxes = np.stack([x, y, np.full(150, 20.0), np.full(150, 20.0), np.zeros(150)], axis=1)
    found = Detections(boxes, np.linspace(0.9, 0.2, 150), np.zeros(150, np.int64))
    target = JUDGING.agreement([found], ["dot"], 0.3)
    assert target.num_objects == int((found.scores > 0.3).sum()) > 100
    assert target.score([found]).map == 1
