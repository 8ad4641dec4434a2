"""Images with labelled objects as arrays, whatever the format of their files. Imports no torch.

A box is (cx, cy, w, h, angle_rad): pixels, y down, clockwise angle of the longer side w in [-pi/4, 3 pi/4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from compress.dataset import Picture
from compress.errors import DataError
from compress.pictures.decoding import AS_IT_IS, Reading, read_image
from detectors.data.config import BoxData
from detectors.data.labels import IGNORED, LabelledObject, is_outside
from detectors.geometry.corners import box_extents


@dataclass(frozen=True)
class Truth:
    """What is to be found in one image.

    Attributes:
        boxes: (n, 5) float32.
        labels: (n,) int64, index into the classes.
        ignored_boxes: (m, 5) float32; a detection on one of them counts neither as right nor as wrong.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignored_boxes: np.ndarray

    @classmethod
    def from_objects(cls, objects: Sequence[LabelledObject]) -> Truth:
        """Return labelled objects as boxes."""
        kept = [item for item in objects if not item.ignored]
        ignored = [item.quad for item in objects if item.ignored]
        return cls(
            boxes=quads_to_boxes(np.array([item.quad for item in kept], np.float32).reshape(-1, 8)),
            labels=np.array([item.label for item in kept], np.int64),
            ignored_boxes=quads_to_boxes(np.array(ignored, np.float32).reshape(-1, 8)),
        )

    def upright(self) -> Truth:
        """Return the same with the upright rectangle around each box, angle 0: for detectors of upright boxes."""
        return Truth(_rectangles_around(self.boxes), self.labels, _rectangles_around(self.ignored_boxes))


@dataclass(frozen=True)
class Sample:
    """One image of a split with its objects, not decoded.

    Attributes:
        name: its file's, without suffix.
        image_path: the file.
        objects: what its labels hold.
        flat: where the check found the picture nearly without contrast, the sentence that says so.
    """

    name: str
    image_path: Path
    objects: tuple[LabelledObject, ...]
    flat: str | None = None

    def load(self, reading: Reading = AS_IT_IS) -> tuple[np.ndarray, list[LabelledObject]]:
        """Return the pixels, (H, W, 3) uint8 BGR, and the objects that are not wholly outside.

        Raises:
            DataError: the file is missing or cannot be decoded.
        """
        pixels = read_image(self.image_path, reading)
        size = pixels.shape[0], pixels.shape[1]
        return pixels, [item for item in self.objects if not is_outside(item.quad, size)]


class SampleImages:
    """The images of a split with their truth, in sorted order; sized and repeatable."""

    def __init__(self, samples: list[Sample], reading: Reading = AS_IT_IS) -> None:
        self.samples = samples
        self.reading = reading

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Picture]:
        for sample in self.samples:
            pixels, objects = sample.load(self.reading)
            yield Picture(sample.name, pixels, Truth.from_objects(objects))


def _rectangles_around(boxes: np.ndarray) -> np.ndarray:
    extents = box_extents(boxes)
    low, high = extents[:, :2], extents[:, 2:]
    around = np.concatenate([(low + high) / 2, high - low, np.zeros((len(extents), 1))], axis=1)
    return np.asarray(around, np.float32)


def class_table(data: BoxData, classes: Sequence[str]) -> dict[str, int]:
    """Return class name in the files -> label index (`labels.IGNORED` for ignored ones).

    Raises:
        DataError: `data.merge` points at an unknown class, or a class is both detected and ignored or merged.
    """
    table = {name: index for index, name in enumerate(classes)}
    for name in [*data.ignore, *data.merge]:
        if name in table:
            part = "ignore" if name in data.ignore else "merge"
            raise DataError(f"data.{part}: '{name}' is a class of the detector. Remove it from one of the two lists.")
    for source, target in data.merge.items():
        if target not in classes:
            raise DataError(f"data.merge: '{source}' goes to '{target}', expected one of {', '.join(classes)}.")
        table[source] = classes.index(target)
    return table | dict.fromkeys(data.ignore, IGNORED)


def quads_to_boxes(quads: np.ndarray) -> np.ndarray:
    """Return the smallest rotated rectangle around each quadrilateral.

    Args:
        quads: (n, 8) float32, x1, y1, ..., x4, y4, px.

    Returns:
        (n, 5) float32 boxes, the longer side first.
    """
    return longer_side_first(minimum_rectangles(quads))


def minimum_rectangles(quads: np.ndarray) -> np.ndarray:
    """Return what `quads_to_boxes` does as OpenCV gives it, (n, 5) float64: either side first, angle in (0, pi/2]."""
    boxes = np.zeros((len(quads), 5), np.float64)
    for row, quad in zip(boxes, np.asarray(quads, np.float32).reshape(-1, 4, 2), strict=True):
        (row[0], row[1]), (row[2], row[3]), degrees = cv2.minAreaRect(quad)
        row[4] = degrees / 180 * math.pi
    return boxes


def longer_side_first(boxes: np.ndarray) -> np.ndarray:
    """Return the same rectangles with w >= h and the angle in [-pi/4, 3 pi/4), (n, 5) float32."""
    boxes = np.array(boxes, np.float64).reshape(-1, 5)
    swap = boxes[:, 2] < boxes[:, 3]
    boxes[swap, 2:4] = boxes[swap, 3:1:-1]
    boxes[swap, 4] += math.pi / 2
    boxes[:, 4] = (boxes[:, 4] + math.pi / 4) % math.pi - math.pi / 4
    result = boxes.astype(np.float32)
    result[result[:, 4] >= np.float32(3 * math.pi / 4), 4] -= np.float32(math.pi)
    return result
