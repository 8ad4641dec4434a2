"""Detections as documents that other programs read: COCO results and GeoJSON. Pure functions on plain data.

A record is what a plug-in's `to_json` gives of a detection; it needs `class`, `label`, `score` and `corners`
(x1, y1, ..., x4, y4, px).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import Any

import numpy as np

from compress.errors import DataError, DetectorError

Record = Mapping[str, Any]


class Format(StrEnum):
    """A document besides text and JSON."""

    COCO = "coco"
    GEOJSON = "geojson"


_DEGREE_DIGITS, _MAP_DIGITS = 9, 4  # 0.1 mm each


@dataclass(frozen=True)
class CocoIds:
    """The numbers under which an annotation file knows images and categories.

    Attributes:
        images: file name as the annotation file has it -> id.
        categories: class name -> id.
    """

    images: Mapping[str, int | str] = field(default_factory=dict)
    categories: Mapping[str, int | str] = field(default_factory=dict)

    @classmethod
    def from_document(cls, document: Any, place: str) -> CocoIds:
        """Return the ids of a COCO annotation document.

        Args:
            document: as read from JSON.
            place: its file, for the message.

        Raises:
            DataError: no lists `images` and `categories` with id and name.
        """
        try:
            return cls(
                {row["file_name"]: row["id"] for row in document["images"]},
                {row["name"]: row["id"] for row in document["categories"]},
            )
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{place}: {error!r}, expected COCO annotations: images with id and file_name, categories with id and "
                "name."
            ) from error

    def image(self, file: str) -> int | str:
        """Return the id of a picture: the one of the file whose path ends like it, else what its name gives.

        Without an annotation file a name that is a number is that number (COCO's '000000000139.jpg' is 139), any other
        name stands for itself.

        Raises:
            DataError: an annotation file is given and does not name the picture, or names several that fit.
        """
        path = PurePath(file)
        if not self.images:
            return int(path.stem) if path.stem.isdecimal() else path.stem
        fitting = [name for name in self.images if path.parts[-len(PurePath(name).parts) :] == PurePath(name).parts]
        longest = max(fitting, key=lambda name: len(PurePath(name).parts), default=None)
        if longest is None:
            raise DataError(f"{file}: the annotations name no such picture. Leave --coco-ids out, or give its file.")
        return self.images[longest]

    def category(self, record: Record) -> int | str:
        """Return the id of a detection's class; without an annotation file its label counted from 1.

        Raises:
            DataError: an annotation file is given and does not name the class.
        """
        if not self.categories:
            return int(record["label"]) + 1
        known = {_one_word(name): identity for name, identity in self.categories.items()}
        if _one_word(record["class"]) not in known:
            raise DataError(
                f"class {record['class']!r}: the annotations name no such category, expected one of "
                f"{', '.join(self.categories)}. Leave --coco-ids out, or give its file."
            )
        return known[_one_word(record["class"])]


def coco_results(images: Sequence[tuple[str, Sequence[Record]]], ids: CocoIds) -> list[dict[str, Any]]:
    """Return COCO's results list, as `loadRes` of the COCO API takes it.

    Args:
        images: (file, records) of each picture.
        ids: numbers of images and categories.

    Returns:
        A row a detection: `bbox` is the upright rectangle [x, y, width, height] around the box, `segmentation` its four
        corners (so that iouType='segm' scores the rotated box itself), `obb` the same corners under LibreYOLO's name.
        Pixels from the upper left corner of the picture.

    Raises:
        DataError: as for `CocoIds`.
        DetectorError: the plug-in's records have no corners.
    """
    rows = []
    for file, records in images:
        image = ids.image(file)
        for record in records:
            points = _corners(record)
            low, high = points.min(axis=0), points.max(axis=0)
            corners = [_rounded(value, 3) for value in points.reshape(-1)]
            rows.append(
                {
                    "image_id": image,
                    "category_id": ids.category(record),
                    "bbox": [_rounded(value, 3) for value in (*low, *(high - low))],
                    "score": record["score"],
                    "segmentation": [corners],
                    "obb": corners,
                }
            )
    return rows


def geojson(
    records: Sequence[Record],
    to_map: Callable[[np.ndarray], np.ndarray],
    *,
    crs: str | None = None,
) -> dict[str, Any]:
    """Return the boxes of one picture as a GeoJSON feature collection.

    Args:
        records: detections, in pixels of the picture.
        to_map: pixels (n, 2) -> map coordinates (n, 2); longitude and latitude where `crs` is None.
        crs: name of another system. RFC 7946 knows WGS 84 only; the name is written as the member `crs` of GeoJSON
            2008, which GDAL and QGIS read.

    Returns:
        A polygon a detection: closed, counterclockwise on the map, with class, label and score as properties.

    Raises:
        DetectorError: the plug-in's records have no corners.

    Source:
        RFC 7946, sections 3.1.6 (rings) and 4 (coordinate reference system).
    """
    digits = _DEGREE_DIGITS if crs is None else _MAP_DIGITS
    corners = np.array([_corners(record) for record in records], np.float64).reshape(-1, 4, 2)
    placed = to_map(corners.reshape(-1, 2)).reshape(-1, 4, 2)
    features = []
    for record, ring in zip(records, placed, strict=True):
        points = [[_rounded(value, digits) for value in point] for point in _counterclockwise(ring)]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*points, points[0]]]},
                "properties": {"class": record["class"], "label": record.get("label"), "score": record["score"]},
            }
        )
    collection: dict[str, Any] = {"type": "FeatureCollection"}
    if crs is not None:
        collection["crs"] = {"type": "name", "properties": {"name": crs}}
    return collection | {"features": features}


def _corners(record: Record) -> np.ndarray:
    if "corners" not in record:
        raise DetectorError(
            "the plug-in's detections have no corners, which COCO results and GeoJSON are made of. Leave --format out."
        )
    return np.array(record["corners"], np.float64).reshape(4, 2)


def _counterclockwise(ring: np.ndarray) -> np.ndarray:
    """Return corners (n, 2) with the inside on the left, x to the right and y up."""
    x, y = (ring - ring[0]).T
    doubled_area = float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)
    return ring[::-1] if doubled_area < 0 else ring


def _one_word(name: str) -> str:
    """Return a class name as recipes hold it: hyphens for white space."""
    return "-".join(name.split())


def _rounded(value: float, digits: int) -> float:
    return round(float(value), digits)
