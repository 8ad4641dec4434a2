"""Data sets in COCO format: a JSON file a split that lists images, categories and annotations. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from compress.errors import DataError
from compress.json_text import parse_json
from compress.pictures.decoding import Reading
from compress.whole_file import read_whole
from detectors.data.boxes import BoxDataset, Check
from detectors.data.coco_boxes import annotation_quad, bbox_quad
from detectors.data.config import BoxData
from detectors.data.labels import SHARES, DroppedBox, EmptyBoxError, LabelledObject, are_shares
from detectors.data.places import (
    Inspection,
    NearNames,
    below,
    class_name,
    image_names,
    inspect_images,
    labelled_object,
    root_folder,
    split_entry,
)
from detectors.data.samples import Sample

CROWD = 3  # above every `train_difficulty`: a crowd is never one object, so it is ignored always
_LISTS = ("images", "categories", "annotations")
Identity = int | str


class CocoData(BoxData):
    """The `data:` part of a recipe for data sets in COCO format."""

    splits: dict[str, str] = Field(
        default_factory=lambda: {split: f"annotations/{split}.json" for split in ("train", "val", "test")},
        description="Split -> its JSON file below root.",
    )
    image_folders: dict[str, str] = Field(
        default_factory=dict,
        description="Split -> folder below root that the file names in its JSON start from. Without: the first that "
        "has them of images/SPLIT, SPLIT, the folder named like the JSON file's split, images, the folder of the JSON "
        "file, root.",
    )
    boxes: Literal["rotated", "bbox"] = Field(
        "rotated",
        description="rotated: obb or attributes.rotation where there is one, else the smallest rotated rectangle "
        "around the segmentation, else bbox. bbox: bbox alone, for detectors of upright boxes.",
    )


class CocoDataset(BoxDataset[CocoData]):
    """A data set in COCO format."""

    NAME: ClassVar[str] = "coco"
    CONFIG: ClassVar[type[BaseModel]] = CocoData

    def read(
        self, split: str, table: Mapping[str, int], *, check: Check | None = None
    ) -> tuple[list[Sample], list[str]]:
        """Return the images of a split, sorted by name, and every problem in its file.

        A class name's white space becomes hyphens. An annotation with `iscrowd` is ignored in training and scoring.

        Args:
            split: name of the split.
            table: class name -> label index, `labels.IGNORED` for ignored ones.
            check: 'header' reads size and end of each image, 'full' decodes it, None opens none.

        Raises:
            DataError: root, split, file or folder of images is missing.
        """
        path = annotation_file(self.config, split)
        document, problems = _load(path)
        if document is None:
            return [], problems
        folder = _image_folder(self.config, split, document)
        reading = _Reading(folder, self.config.boxes, table, check, str(path), self.config.reading)
        return reading.samples(document), reading.problems

    def files(self, split: str) -> list[tuple[str, Path]]:
        """Return (name below root, path) of the JSON file and the images that it lists, sorted.

        Raises:
            DataError: as for `read`.
        """
        path = annotation_file(self.config, split)
        document, _ = _load(path)
        images = []
        if document is not None:
            folder = _image_folder(self.config, split, document)
            images = [folder / name for name in _file_names(document) if (folder / name).is_file()]
        return below(root_folder(self.config.root), [path, *images])

    @classmethod
    def class_names(cls, config: CocoData) -> tuple[str, ...]:
        """Return the categories in the order of the files, those of all splits that are there.

        Raises:
            DataError: no split is there, or a file is no COCO document.
        """
        names: dict[str, None] = {}
        for split in cls.splits_present(config) or list(config.splits)[:1]:
            document, problems = _load(annotation_file(config, split))
            if document is None:
                raise DataError(problems[0])
            names |= dict.fromkeys(_category_names(document))
        return tuple(names)

    @classmethod
    def splits_present(cls, config: CocoData) -> list[str]:
        """Return the splits whose file is there."""
        root = root_folder(config.root)
        return [split for split, name in config.splits.items() if (root / name).is_file()]


DATASET = CocoDataset


def document_names(path: Path) -> tuple[str, ...]:
    """Return the categories of a COCO document, in the order of the file.

    Raises:
        DataError: it is none.
    """
    document, problems = _load(path)
    if document is None:
        raise DataError(problems[0])
    return tuple(dict.fromkeys(_category_names(document)))


def read_pictures(
    path: Path, pictures: Sequence[Path], table: Mapping[str, int], *, boxes: str, reading: Reading
) -> tuple[list[Sample], list[str]]:
    """Return pictures with their objects by a COCO document, whatever else it lists, and every problem.

    Args:
        path: the JSON file.
        pictures: files, wherever they lie; their names are those of the document, or the end of their paths.
        table: class name -> label index, `labels.IGNORED` for ignored ones.
        boxes: as of `CocoData`.
        reading: of pictures.

    Returns:
        A sample for each picture that is listed, in the order of `pictures`.
    """
    document, problems = _load(path)
    if document is None:
        return [], problems
    folder = Path(os.path.commonpath([picture.absolute().parent for picture in pictures]))
    rows, problems = _rows_of(document, pictures, path)
    wanted = {id(row): picture.absolute().relative_to(folder).as_posix() for picture, row in rows.items()}
    images = [row | {"file_name": wanted[id(row)]} for row in document["images"] if id(row) in wanted]
    others = [row.get("id") for row in document["images"] if isinstance(row, dict) and id(row) not in wanted]
    passed_over = frozenset(identity for identity in others if isinstance(identity, int | str))
    at = _Reading(folder, boxes, table, "header", str(path), reading, passed_over=passed_over)
    samples = {sample.image_path: sample for sample in at.samples(document | {"images": images})}
    return [samples[one] for picture in rows if (one := picture.absolute()) in samples], problems + at.problems


def _rows_of(
    document: Mapping[str, Any], pictures: Sequence[Path], path: Path
) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """Return picture -> its entry in a document, and a problem for each picture that has none or several."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in document["images"]:
        if isinstance(row, dict) and isinstance(row.get("file_name"), str):
            by_name.setdefault(PurePosixPath(row["file_name"].replace("\\", "/")).name, []).append(row)
    near, found, problems = NearNames(by_name), dict[Path, dict[str, Any]](), []
    for picture in pictures:
        rows = by_name.get(picture.name, [])
        if len(rows) > 1:
            rows = [row for row in rows if picture.absolute().as_posix().endswith(f"/{row['file_name']}")]
        if len(rows) == 1:
            found[picture] = rows[0]
        else:
            what = "listed more than once" if by_name.get(picture.name) else "not listed"
            problems.append(f"{path}: {picture.name}: {what}, expected one entry in images.{near.hint(picture.stem)}")
    return found, problems


def _category_names(document: Mapping[str, Any]) -> list[str]:
    rows = document["categories"]
    return [class_name(row["name"]) for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)]


def annotation_file(config: CocoData, split: str) -> Path:
    """Return the JSON file of a split.

    Raises:
        DataError: unknown split, no root, or no such file.
    """
    path = root_folder(config.root) / split_entry(config.splits, split)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file, expected the annotations of split '{split}' as COCO JSON. "
            "Check --set data.root=PATH and data.splits."
        )
    return path


def _image_folder(config: CocoData, split: str, document: Mapping[str, Any]) -> Path:
    root, path = root_folder(config.root), annotation_file(config, split)
    if split in config.image_folders:
        folder = root / config.image_folders[split]
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder, expected the images of split '{split}'.")
        return folder
    own = path.stem.removeprefix("instances_")  # COCO's own instances_val2017.json has its images in val2017
    places = (root / "images" / split, root / split, root / "images" / own, root / own, root / "images")
    candidates = tuple(dict.fromkeys((*places, path.parent, root)))
    first = next(iter(_file_names(document)), None)
    for folder in candidates:
        if first is None or (folder / first).is_file():
            return folder
    tried = ", ".join(str(folder) for folder in candidates)
    raise DataError(f"{path}: its first image {first} is in none of {tried}. Name the folder in data.image_folders.")


@dataclass
class _Reading:
    """One pass over a document, gathering what is wrong on the way."""

    folder: Path
    boxes: str
    table: Mapping[str, int]
    check: Check | None
    place: str
    pictures: Reading
    problems: list[str] = field(default_factory=list)
    passed_over: frozenset[Identity] = frozenset()  # images of the document that are not asked for

    def samples(self, document: Mapping[str, Any]) -> list[Sample]:
        images = self._by_id(document["images"], "images", "file_name")
        categories = self._by_id(document["categories"], "categories", "name")
        self._refuse_equal_categories(categories)
        paths = {identity: self.folder / row["file_name"] for identity, row in images.items()}
        names, problems = image_names(list(paths.values()), self.folder)
        self.problems += problems
        seen = self._look_at(images, paths)
        objects: dict[Identity, list[LabelledObject]] = {identity: [] for identity in images}
        used = set()
        for index, row in enumerate(document["annotations"]):
            if self.passed_over and isinstance(row, dict) and _identity(row) in self.passed_over:
                continue
            try:
                item = self._object(row, images, categories, seen)
                if row.get("id") is not None and row["id"] in used:
                    raise ValueError(f"id {row['id']} is there twice, expected each once")
                used.add(row.get("id"))
            except EmptyBoxError as error:
                self.problems.append(DroppedBox(f"{self.place}: {_place(index, row)}: {error}"))
            except (ValueError, TypeError) as error:
                self._tell(_place(index, row), str(error))
            else:
                objects[row["image_id"]].append(item)
        if are_shares([item for items in objects.values() for item in items]):
            self._tell("annotations", SHARES)
        found = [
            Sample(name, path, tuple(objects[identity]), seen[identity].flat)
            for name, (identity, path) in zip(names, paths.items(), strict=True)
        ]
        return sorted(found, key=lambda sample: sample.name)

    def _tell(self, where: str, what: str) -> None:
        self.problems.append(f"{self.place}: {where}: {what.removesuffix('.')}.")

    def _look_at(
        self, images: Mapping[Identity, dict[str, Any]], paths: Mapping[Identity, Path]
    ) -> dict[Identity, Inspection]:
        """Return what the files are where they are looked at; their size must be what the document says."""
        seen: dict[Identity, Inspection] = {}
        there = [identity for identity, path in paths.items() if path.is_file()]
        looks = inspect_images(
            [paths[identity] for identity in there], self.check, self.pictures, f"check {self.folder.name}"
        )
        found = dict(zip(there, looks, strict=True))
        for identity in paths:
            path = paths[identity]
            if identity not in found:
                what = (
                    f"a link to {path.readlink()}, where nothing is" if path.is_symlink() else f"not in {self.folder}"
                )
                self._tell(f"image {images[identity]['file_name']}", f"{what}, expected it there")
                seen[identity] = Inspection()
                continue
            seen[identity] = found[identity]
            self.problems += seen[identity].problems
            size, stated = seen[identity].size, _stated_size(images[identity])
            if size is not None and stated is not None and size != stated:
                self._tell(
                    f"image {images[identity]['file_name']}",
                    f"height x width is {stated[0]} x {stated[1]}, expected {size[0]} x {size[1]} as the file has it",
                )
        return seen

    def _by_id(self, rows: list[Any], part: str, key: str) -> dict[Identity, dict[str, Any]]:
        known: dict[Identity, dict[str, Any]] = {}
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
            self._tell(f"{part}[{index}]", what)
        return known

    def _refuse_equal_categories(self, categories: Mapping[Identity, dict[str, Any]]) -> None:
        first: dict[str, Identity] = {}
        for identity, row in categories.items():
            name = class_name(row["name"])
            if first.setdefault(name, identity) != identity:
                self._tell(f"categories {first[name]} and {identity}", f"both called {name}, expected each name once")

    def _object(
        self,
        row: Any,
        images: Mapping[Any, dict[str, Any]],
        categories: Mapping[Any, dict[str, Any]],
        seen: Mapping[Any, Inspection],
    ) -> LabelledObject:
        if not isinstance(row, dict):
            raise ValueError("expected an object")
        for key, known in (("image_id", images), ("category_id", categories)):
            if type(row.get(key)) not in (int, str) or row[key] not in known:
                what = "images" if key == "image_id" else "categories"
                raise ValueError(f"{key} is {row.get(key)!r}, expected the id of one of the {len(known)} {what}")
        stated = _stated_size(images[row["image_id"]])
        quad = bbox_quad(row) if self.boxes == "bbox" else annotation_quad(row, stated)
        name = class_name(categories[row["category_id"]]["name"])
        size = seen[row["image_id"]].size
        return labelled_object(quad, name, self.table, difficult=difficulty(row), image_size=size)


def _identity(annotation: Mapping[str, Any]) -> Identity | None:
    """Return the image of an annotation, None if that is no number and no text."""
    identity = annotation.get("image_id")
    return identity if isinstance(identity, int | str) else None


def _place(index: int, row: Any) -> str:
    return f"annotations[{index}]" + (f" (id {row['id']})" if isinstance(row, dict) and "id" in row else "")


def _stated_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (height, width) if type(height) is int and type(width) is int else None


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
        document = parse_json(read_whole(path).decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        return None, [f"{path}:{error.lineno}:{error.colno}: {error.msg}, expected JSON."]
    except ValueError as error:
        return None, [f"{path}: {error}, expected JSON in UTF-8."]
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
