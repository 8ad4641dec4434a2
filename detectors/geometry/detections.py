"""What a detector found in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detections:
    """Rotated boxes of one picture, best score first unless said otherwise.

    Attributes:
        boxes: (n, 5) float32, (cx, cy, w, h, angle_rad), pixels and radians.
        scores: (n,) float32, 0..1.
        labels: (n,) int64, index into the class list.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Bring the three arrays to their types and check that they belong together.

        Raises:
            ValueError: the lengths differ or a box has not five numbers.
        """
        object.__setattr__(self, "boxes", np.asarray(self.boxes, np.float32).reshape(-1, 5))
        object.__setattr__(self, "scores", np.asarray(self.scores, np.float32).reshape(-1))
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int64).reshape(-1))
        if not len(self.boxes) == len(self.scores) == len(self.labels):
            msg = f"{len(self.boxes)} boxes, {len(self.scores)} scores and {len(self.labels)} labels do not match."
            raise ValueError(msg)

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.boxes)

    def take(self, index: np.ndarray) -> Detections:
        """Return the boxes at `index` (integers, or a boolean mask), in that order."""
        return Detections(self.boxes[index], self.scores[index], self.labels[index])

    def shifted(self, dx_px: float, dy_px: float) -> Detections:
        """Return the same detections with every centre moved by (dx_px, dy_px)."""
        boxes = self.boxes.copy()
        boxes[:, 0] += dx_px
        boxes[:, 1] += dy_px
        return Detections(boxes, self.scores, self.labels)

    @classmethod
    def empty(cls) -> Detections:
        """Return no detections."""
        return cls(np.zeros((0, 5)), np.zeros(0), np.zeros(0))

    @classmethod
    def concatenate(cls, parts: Sequence[Detections]) -> Detections:
        """Return all detections of `parts`, in order."""
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )
