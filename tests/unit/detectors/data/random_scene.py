"""Detections and truth as a mediocre detector gives them, for tests of scoring."""

import numpy as np

from detectors.data.samples import Truth
from detectors.geometry.detections import Detections


def random_scene(seed, images=6, classes=3):
    """Return detections near the truth, some of the wrong class, some on ignored boxes, some nowhere."""
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for index in range(images):
        count = int(rng.integers(0, 9)) if index else 0
        boxes = np.column_stack(
            [
                rng.uniform(0, 200, (count, 2)),
                rng.uniform(12, 40, (count, 1)),
                rng.uniform(6, 12, (count, 1)),
                rng.uniform(-0.7, 2.3, (count, 1)),
            ]
        )
        ignored = np.column_stack([rng.uniform(0, 200, (2, 2)), rng.uniform(20, 40, (2, 2)), rng.uniform(0, 1, (2, 1))])
        labels = rng.integers(0, classes, count)
        near = np.concatenate([boxes, boxes, ignored])
        near = near + rng.normal(0, 1, near.shape) * (1.5, 1.5, 1.5, 1, 0.05)
        guess = np.concatenate([labels, rng.integers(0, classes, len(near) - count)])
        truths.append(Truth(boxes.astype(np.float32), labels, ignored.astype(np.float32)))
        detections.append(Detections(near, rng.uniform(0.05, 1, len(near)), guess))
    return detections, truths
