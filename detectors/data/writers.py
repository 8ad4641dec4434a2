"""Labelled images as the label files of each format. Pure functions: nothing is read or written here.

Pixel coordinates get six decimals at most, shares of YOLO twelve digits, so that a box that goes from one format to
another and back is the same to a hundred thousandth of a pixel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from compress.errors import DataError
from detectors.data.formats.coco import CROWD
from detectors.data.formats.dota import IMAGE_FOLDER, LABEL_FOLDER
from detectors.data.formats.yolo import DATA_FILES, label_path
from detectors.data.labels import LabelledObject
from detectors.data.yolo_lines import format_detect, format_obb

DIGITS = 6
DOTA_HARDEST = 2  # of the column `difficult`


@dataclass(frozen=True)
class LabelledImage:
    """An image to be written.

    Attributes:
        name: below the folder of images, '/'-separated, without suffix.
        suffix: of its file.
        size: (height, width), px.
        objects: in pixels of the image.
    """

    name: str
    suffix: str
    size: tuple[int, int]
    objects: tuple[LabelledObject, ...]


@dataclass(frozen=True)
class Target:
    """A format to write.

    Attributes:
        reader: name of the format that reads it.
        image_path: (split, name, suffix) -> place of an image below the root.
        label_files: (split, images, classes) -> place of a label file below the root -> its text.
        root_files: (splits, classes) -> likewise, for files of the whole data set.
        upright: it holds upright boxes only.
        holds_difficult: it can mark objects as difficult.
    """

    reader: str
    image_path: Callable[[str, str, str], str]
    label_files: Callable[[str, Sequence[LabelledImage], Sequence[str]], dict[str, str]]
    root_files: Callable[[Sequence[str], Sequence[str]], dict[str, str]] = lambda splits, classes: {}
    upright: bool = False
    holds_difficult: bool = True


def dota_files(split: str, images: Sequence[LabelledImage], classes: Sequence[str]) -> dict[str, str]:
    """Return DOTA's label files: a line `x1 y1 x2 y2 x3 y3 x4 y4 class difficult` an object, px."""
    return {
        f"{split}/{LABEL_FOLDER}/{flat_name(image.name)}.txt": "".join(
            f"{' '.join(map(plain_number, item.quad))} {classes[item.label]} {min(item.difficult, DOTA_HARDEST)}\n"
            for item in image.objects
        )
        for image in images
    }


def coco_files(split: str, images: Sequence[LabelledImage], classes: Sequence[str]) -> dict[str, str]:
    """Return COCO's annotation file of a split.

    `segmentation` holds the four corners, `bbox` the upright rectangle around them, `obb` (as LibreYOLO reads it) the
    corners of a box that is not upright. A crowd has `iscrowd`, a difficult object `attributes.difficult`.
    """
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        for item in image.objects:
            annotations.append({"id": len(annotations) + 1, "image_id": number} | _annotation(item))
    document = {
        "images": [
            {"id": number, "file_name": image.name + image.suffix, "height": image.size[0], "width": image.size[1]}
            for number, image in enumerate(images, start=1)
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes, start=1)],
        "annotations": annotations,
    }
    return {f"annotations/{split}.json": json.dumps(document) + "\n"}


def yolo_files(split: str, images: Sequence[LabelledImage], classes: Sequence[str], *, upright: bool) -> dict[str, str]:
    """Return YOLO's label files: `class cx cy w h` if upright, else `class x1 y1 ... x4 y4`, shares of the size.

    Raises:
        DataError: a box reaches so far out of its image that no reader would take its line.
    """
    line = format_detect if upright else format_obb
    files = {}
    for image in images:
        try:
            text = "".join(line(item.label, item.quad, image.size) for item in image.objects)
        except ValueError as error:
            raise DataError(f"{image.name}: {error}. Pass --clip to cut such boxes.") from error
        files[label_path(Path(f"images/{split}/{image.name}{image.suffix}")).as_posix()] = text
    return files


def yolo_data_file(splits: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Return YOLO's `data.yaml`, as Ultralytics writes them."""
    # JSON texts are YAML texts, so names with quotes or colons need no care of their own.
    lines = ["path: .", *(f"{split}: images/{split}" for split in splits), f"nc: {len(classes)}", "names:"]
    lines += [f"  {label}: {json.dumps(name, ensure_ascii=False)}" for label, name in enumerate(classes)]
    return {DATA_FILES[0]: "\n".join(lines) + "\n"}


def _below_images(split: str, name: str, suffix: str) -> str:
    return f"images/{split}/{name}{suffix}"


def _yolo(*, upright: bool) -> Target:
    return Target(
        "yolo",
        _below_images,
        lambda split, images, classes: yolo_files(split, images, classes, upright=upright),
        yolo_data_file,
        upright=upright,
        holds_difficult=False,
    )


TARGETS: Mapping[str, Target] = {
    "dota": Target("dota", lambda split, name, suffix: f"{split}/{IMAGE_FOLDER}/{flat_name(name)}{suffix}", dota_files),
    "coco": Target("coco", _below_images, coco_files),
    "yolo-obb": _yolo(upright=False),
    "yolo-detect": _yolo(upright=True),
}


def flat_name(name: str) -> str:
    """Return a name without folders; DOTA has none.

    >>> flat_name("part1/P0001")
    'part1-P0001'
    """
    return "-".join(PurePosixPath(name).parts)


def plain_number(value: float) -> str:
    """Return a number of pixels as text, without zeros at its end.

    >>> plain_number(12.500000000004)
    '12.5'
    """
    text = f"{value:.{DIGITS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def enclosing_quad(quad: Sequence[float]) -> tuple[float, ...]:
    """Return the upright rectangle around a quadrilateral, clockwise from the upper left corner."""
    x, y = quad[0::2], quad[1::2]
    left, top, right, bottom = min(x), min(y), max(x), max(y)
    return (left, top, right, top, right, bottom, left, bottom)


def is_upright(quad: Sequence[float], tolerance_px: float = 1e-3) -> bool:
    """Return whether a quadrilateral is an upright rectangle, in any order of its corners."""
    corners = np.reshape(quad, (4, 2))
    wanted = np.reshape(enclosing_quad(quad), (4, 2))
    apart = np.abs(corners[:, None] - wanted[None]).max(axis=2)
    return bool((apart.min(axis=0) <= tolerance_px).all() and (apart.min(axis=1) <= tolerance_px).all())


def _annotation(item: LabelledObject) -> dict[str, Any]:
    corners = [round(float(value), DIGITS) for value in item.quad]
    left, top, _, _, right, bottom, _, _ = enclosing_quad(corners)
    x, y = np.array(corners[0::2]), np.array(corners[1::2])
    row: dict[str, Any] = {
        "category_id": item.label + 1,
        "bbox": [round(value, DIGITS) for value in (left, top, right - left, bottom - top)],
        "area": round(abs(float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)) / 2, DIGITS),
        "segmentation": [corners],
        "iscrowd": int(item.difficult == CROWD),
    }
    if not is_upright(corners):
        row["obb"] = corners
    if 0 < item.difficult < CROWD:
        row["attributes"] = {"difficult": item.difficult}
    return row
