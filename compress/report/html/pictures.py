"""The pictures beside a report as data URIs: cut into one picture a model and encoded small."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.breakdown import Corners
from compress.report.document import Document, Picture
from compress.report.pictures import CAPTION_PX, GAP_PX

QUALITY = 80  # of WebP
MOST_BYTES = 1_500_000  # that all pictures of a page take together; further ones are left out
LARGEST_SIDE_PX = 1024


@dataclass(frozen=True)
class Side:
    """One model's picture.

    Attributes:
        label: of the model.
        uri: the picture as data URI.
        num_detections: boxes drawn into it.
        missed, wrong: corners to mark, px of the image.
    """

    label: str
    uri: str
    num_detections: int
    missed: Sequence[Corners]
    wrong: Sequence[Corners]


@dataclass(frozen=True)
class Compared:
    """One image as two models saw it (or one, if it is the same).

    Attributes:
        image: its name.
        width, height: of the picture, px.
        view: (width, height) of the image that corners are told in, px.
        sides: in the order of the file, first and last.
    """

    image: str
    width: int
    height: int
    view: tuple[int, int]
    sides: tuple[Side, ...]


def compared_pictures(document: Document, folder: Path) -> tuple[list[Compared], list[str]]:
    """Return the pictures of a report that are there, and the names of those that are not, or are too many."""
    found: list[Compared] = []
    left_out: list[str] = []
    total = 0
    for picture in document.pictures:
        one = _compared(picture, folder, document)
        size = sum(len(side.uri) for side in one.sides) if one else 0
        if one is None or total + size > MOST_BYTES:
            left_out.append(picture.image)
            continue
        total += size
        found.append(one)
    return found, left_out


def picture_uri(path: Path) -> str | None:
    """Return a picture file as data URI, None if it cannot be read."""
    pixels = _read(path)
    return None if pixels is None else _uri(pixels)


def _compared(picture: Picture, folder: Path, document: Document) -> Compared | None:
    pixels = _read(folder / Path(picture.file).name)
    # JSON sorts the labels; in the file the float model is drawn first and the final one last.
    labels = sorted(
        picture.num_detections, key=lambda label: (label != document.float_label, label == document.final_label)
    )
    if pixels is None or not labels:
        return None
    panels = _panels(picture, pixels, len(labels))
    if panels is None:
        return None
    ends = dict.fromkeys((0, len(labels) - 1))
    height, width = panels[0].shape[:2]
    sides = tuple(
        Side(
            label=labels[at],
            uri=_uri(panels[at]),
            num_detections=picture.num_detections[labels[at]],
            missed=picture.missed.get(labels[at], ()),
            wrong=picture.wrong.get(labels[at], ()),
        )
        for at in ends
    )
    view = (picture.size[1], picture.size[0]) if picture.size else (width, height)
    return Compared(picture.image, width, height, view, sides)


def _panels(picture: Picture, pixels: np.ndarray, count: int) -> list[np.ndarray] | None:
    """Cut a file into the pictures of the models; None where it is not as the report draws it."""
    gap = GAP_PX if picture.gap is None else picture.gap
    if picture.panel is not None:
        x, y, width, height = picture.panel
    else:  # reports from before the place was noted
        x, y, width = 0, CAPTION_PX, (pixels.shape[1] - (count - 1) * gap) // count
        height = pixels.shape[0] - CAPTION_PX
    if width < 1 or height < 1 or min(x, y, gap) < 0 or x + count * width + (count - 1) * gap > pixels.shape[1]:
        return None
    starts = [x + at * (width + gap) for at in range(count)]
    return [pixels[y : y + height, start : start + width] for start in starts]


def _read(path: Path) -> np.ndarray | None:
    import cv2

    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError:
        return None
    return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None


def _uri(pixels: np.ndarray) -> str:
    import cv2

    scale = LARGEST_SIDE_PX / max(pixels.shape[:2])
    if scale < 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".webp", np.ascontiguousarray(pixels), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    assert done
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()
