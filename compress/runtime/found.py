"""What a model found in one picture, as arrays, as plain data, and as `supervision.Detections`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import DetectorError, StageError

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Found:
    """The objects in one picture, best score first.

    Attributes:
        records: one an object, as `detections.json` has them: class, label, score (0..1), box (cx, cy, w, h in pixels,
            angle in radians), corners (x1, y1, ..., x4, y4 in pixels), and bbox (x1, y1, x2, y2) if the detector's
            boxes are axis-aligned.
        classes: names of the classes by label.
        image_size: (height, width) of the picture, pixels.
    """

    records: Sequence[Mapping[str, Any]]
    classes: tuple[str, ...]
    image_size: tuple[int, int]

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.records)

    @cached_property
    def scores(self) -> np.ndarray:
        """Return (n,) float32, 0..1."""
        return self._array("score", np.float32)

    @cached_property
    def class_ids(self) -> np.ndarray:
        """Return (n,) int64, index into `classes`."""
        return self._array("label", np.int64)

    @property
    def class_names(self) -> list[str]:
        """Return the name of each object's class."""
        return [self.classes[label] for label in self.class_ids]

    @cached_property
    def boxes(self) -> np.ndarray:
        """Return rotated boxes, (n, 5) float32: cx, cy, w, h in pixels, clockwise angle in radians."""
        return self._array("box", np.float32, 5)

    @cached_property
    def corners(self) -> np.ndarray:
        """Return the corners of the boxes in turn, (n, 4, 2) float32: x, y in pixels."""
        return self._array("corners", np.float32, 4, 2)

    @cached_property
    def xyxy(self) -> np.ndarray:
        """Return the upright rectangles around the boxes, (n, 4) float32: x1, y1, x2, y2 in pixels."""
        return np.concatenate([self.corners.min(axis=1), self.corners.max(axis=1)], axis=1)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the records as plain data, for `json.dumps`."""
        return [dict(record) for record in self.records]

    def to_supervision(self) -> supervision.Detections:
        """Return `supervision.Detections`: xyxy, confidence, class_id, and in `data` class_name and the corners.

        The corners, (n, 4, 2), stand under `supervision.config.ORIENTED_BOX_COORDINATES`, where
        `supervision.OrientedBoxAnnotator` and the metrics of oriented boxes read them.

        Raises:
            StageError: the package supervision is not installed.
        """
        try:
            from supervision import Detections
            from supervision.config import CLASS_NAME_DATA_FIELD, ORIENTED_BOX_COORDINATES
        except ImportError as error:
            raise StageError(
                f"to_supervision: the package supervision cannot be imported: {error}. Run pip install supervision."
            ) from error
        names = np.array(self.class_names, dtype=np.str_)
        data = {CLASS_NAME_DATA_FIELD: names, ORIENTED_BOX_COORDINATES: self.corners}
        return Detections(xyxy=self.xyxy, confidence=self.scores, class_id=self.class_ids, data=data)

    def _array(self, name: str, dtype: type, *shape: int) -> np.ndarray:
        """Return a field of all records as (n, *shape).

        Raises:
            DetectorError: the records of the detector do not have it, or it has another size.
        """
        try:
            return np.array([record[name] for record in self.records], dtype).reshape(-1, *shape)
        except (KeyError, ValueError) as error:
            raise DetectorError(
                f"detections: {name} of shape {shape} is not what the plug-in's to_json gives: {error}. Read to_json()."
            ) from error
