"""Data sets in COCO format: a JSON file a split that lists images, categories and annotations. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field

from compress.errors import DataError
from detectors.data.config import BoxData
from detectors.data.formats.coco_boxes import annotation_quad, bbox_quad
from detectors.data.formats.places import below, class_name, image_names, root_folder, split_entry
from detectors.data.formats.record import LabelledImage, LabelledObject

CROWD = 3  # above every `train_difficulty`: a crowd is never one object, so it is ignored always
_LISTS = ("images", "categories", "annotations")


class CocoData(BoxData):
    """The `data:` part of a recipe for data sets in COCO format."""

    format: Literal["coco"] = "coco"
    root: str | None = Field(None, description="Folder of the data set; usually --set data.root=PATH.")
    splits: dict[str, str] = Field(
        default_factory=lambda: {split: f"annotations/{split}.json" for split in ("train", "val", "test")},
        description="Split -> its JSON file below root.",
    )
    image_folders: dict[str, str] = Field(
        default_factory=dict,
        description="Split -> folder below root that the file names in its JSON start from. Without: the first that "
        "has them of images/SPLIT, SPLIT, images, the folder of the JSON file, root.",
    )
    boxes: Literal["rotated", "bbox"] = Field(
        "rotated",
        description="rotated: obb or attributes.rotation where there is one, else the smallest rotated rectangle "
        "around the segmentation, else bbox. bbox: bbox alone, for detectors of upright boxes.",
    )

    def read(self, split: str) -> tuple[list[LabelledImage], list[str]]:
        """Return the images of a split, sorted by name, and every problem in its file.

        A class name's white space becomes hyphens. An annotation with `iscrowd` is ignored in training and scoring.

        Raises:
            DataError: root, split, file or folder of images is missing.
        """
        path = self._annotation_file(split)
        document, problems = _load(path)
        if document is None:
            return [], problems
        reading = _Reading(path.name, self._image_folder(split, document), self.boxes)
        return reading.images_of(document), [f"{path}: {what}" for what in reading.problems]

    def files(self, split: str) -> list[tuple[str, Path]]:
        """Return (name below root, path) of the JSON file and the images that it lists, sorted.

        Raises:
            DataError: as for `read`.
        """
        path = self._annotation_file(split)
        document, _ = _load(path)
        images = []
        if document is not None:
            folder = self._image_folder(split, document)
            images = [folder / name for name in _file_names(document) if (folder / name).is_file()]
        return below(root_folder(self.root), [path, *images])

    def class_names(self) -> tuple[str, ...]:
        """Return the categories in the order of the files, those of all splits that are there.

        Raises:
            DataError: no split is there, or a file is no COCO document.
        """
        paths = [path for name in self.splits.values() if (path := root_folder(self.root) / name).is_file()]
        if not paths:
            self._annotation_file(next(iter(self.splits)))
        names: dict[str, None] = {}
        for path in paths:
            document, problems = _load(path)
            if document is None:
                raise DataError(f"{path}: {problems[0]}")
            names |= dict.fromkeys(
                class_name(row["name"])
                for row in document["categories"]
                if isinstance(row, dict) and isinstance(row.get("name"), str)
            )
        return tuple(names)

    def _annotation_file(self, split: str) -> Path:
        path = root_folder(self.root) / split_entry(self.splits, split)
        if not path.is_file():
            raise DataError(
                f"{path}: no such file, expected the annotations of split '{split}' as COCO JSON. "
                "Check --set data.root=PATH and data.splits."
            )
        return path

    def _image_folder(self, split: str, document: Mapping[str, Any]) -> Path:
        root, path = root_folder(self.root), self._annotation_file(split)
        if split in self.image_folders:
            folder = root / self.image_folders[split]
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder, expected the images of split '{split}'.")
            return folder
        candidates = (root / "images" / split, root / split, root / "images", path.parent, root)
        first = next(iter(_file_names(document)), None)
        for folder in candidates:
            if first is None or (folder / first).is_file():
                return folder
        tried = ", ".join(str(folder) for folder in dict.fromkeys(candidates))
        raise DataError(
            f"{path}: its first image {first} is in none of {tried}. Name the folder in data.image_folders."
        )


@dataclass
class _Reading:
    """One pass over a document, gathering what is wrong on the way."""

    file_name: str
    folder: Path
    boxes: str
    problems: list[str] = field(default_factory=list)

    def images_of(self, document: Mapping[str, Any]) -> list[LabelledImage]:
        images = self._by_id(document["images"], "images", "file_name")
        categories = self._by_id(document["categories"], "categories", "name")
        self._refuse_equal_categories(categories)
        objects: dict[int | str, list[LabelledObject]] = {identity: [] for identity in images}
        used = set()
        for index, row in enumerate(document["annotations"]):
            place = f"annotations[{index}]"
            try:
                identity, item = self._object(row, place, images, categories)
                if row.get("id") is not None and row["id"] in used:
                    raise ValueError(f"id {row['id']} is there twice, expected each once")
                used.add(row.get("id"))
            except (ValueError, TypeError) as error:
                known = f" (id {row['id']})" if isinstance(row, dict) and "id" in row else ""
                self.problems.append(f"{place}{known}: {error}.")
            else:
                objects[identity].append(item)
        paths = {identity: self.folder / row["file_name"] for identity, row in images.items()}
        names, problems = image_names(list(paths.values()))
        self.problems += problems
        for identity, path in paths.items():
            if not path.is_file():
                self.problems.append(
                    f"image {images[identity]['file_name']} is not in {self.folder}, expected it there."
                )
        found = [
            LabelledImage(name, path, tuple(objects[identity]))
            for name, (identity, path) in zip(names, paths.items(), strict=True)
        ]
        return sorted(found, key=lambda image: image.name)

    def _by_id(self, rows: list[Any], part: str, key: str) -> dict[int | str, dict[str, Any]]:
        known: dict[int | str, dict[str, Any]] = {}
        for index, row in enumerate(rows):
            identity = row.get("id") if isinstance(row, dict) else None
            if not isinstance(identity, int | str):
                what = f"id is {identity!r}, expected a number" if isinstance(row, dict) else "expected an object"
            elif identity in known:
                what = f"id {identity} is there twice, expected each once"
            elif not isinstance(row.get(key), str) or not row[key].strip():
                what = f"{key} is {row.get(key)!r}, expected a text"
            elif key == "file_name" and not _is_inside(row[key]):
                what = f"file_name is {row[key]!r}, expected a path below the folder of the images"
            else:
                known[identity] = row
                continue
            self.problems.append(f"{part}[{index}]: {what}.")
        return known

    def _refuse_equal_categories(self, categories: Mapping[int | str, dict[str, Any]]) -> None:
        first: dict[str, int | str] = {}
        for identity, row in categories.items():
            name = class_name(row["name"])
            if first.setdefault(name, identity) != identity:
                self.problems.append(
                    f"categories {first[name]} and {identity} are both called {name}, expected each name once."
                )

    def _object(
        self, row: Any, place: str, images: Mapping[Any, dict[str, Any]], categories: Mapping[Any, dict[str, Any]]
    ) -> tuple[int | str, LabelledObject]:
        if not isinstance(row, dict):
            raise ValueError("expected an object")
        for key, known in (("image_id", images), ("category_id", categories)):
            if type(row.get(key)) not in (int, str) or row[key] not in known:
                what = "images" if key == "image_id" else "categories"
                raise ValueError(f"{key} is {row.get(key)!r}, expected the id of one of the {len(known)} {what}")
        image = images[row["image_id"]]
        size = (image.get("height"), image.get("width"))
        stated = size if all(type(side) is int for side in size) else None
        quad = bbox_quad(row) if self.boxes == "bbox" else annotation_quad(row, stated)  # type: ignore[arg-type]
        name = class_name(categories[row["category_id"]]["name"])
        return row["image_id"], LabelledObject(quad, name, difficulty(row), f"{self.file_name}: {place}")


def difficulty(annotation: Mapping[str, Any]) -> int:
    """Return an annotation's difficulty: `CROWD`, else `attributes.difficult` (0, 1, 2), else 1 with `ignore`.

    Raises:
        ValueError: one of the fields has another value.
    """
    for key in ("iscrowd", "ignore"):
        if annotation.get(key, 0) not in (0, 1):
            raise ValueError(f"{key} is {annotation[key]!r}, expected 0 or 1")
    if annotation.get("iscrowd"):
        return CROWD
    attributes = annotation.get("attributes")
    value = attributes.get("difficult") if isinstance(attributes, dict) else None
    if value is None:
        return int(annotation.get("ignore", 0))
    if value not in (0, 1, 2):
        raise ValueError(f"attributes.difficult is {value!r}, expected 0, 1 or 2")
    return int(value)


def _load(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the document, or None and why not; lists that are missing are problems."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        return None, [f"{path}:{error.lineno}:{error.colno}: {error.msg}, expected JSON."]
    except (UnicodeDecodeError, RecursionError) as error:
        return None, [f"{path}: {type(error).__name__}, expected JSON in UTF-8 of ordinary depth."]
    if not isinstance(document, dict):
        return None, [f"{path}: a {type(document).__name__}, expected an object with {', '.join(_LISTS)}."]
    missing = [key for key in _LISTS if not isinstance(document.get(key), list)]
    if missing:
        return None, [f"{path}: no list {', '.join(missing)}, expected {', '.join(_LISTS)}."]
    return document, []


def _file_names(document: Mapping[str, Any]) -> list[str]:
    names = [row.get("file_name") for row in document["images"] if isinstance(row, dict)]
    return [name for name in names if isinstance(name, str) and _is_inside(name)]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0] if path.parts else False
