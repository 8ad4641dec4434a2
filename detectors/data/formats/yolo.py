"""Data sets in YOLO format (detect, OBB and segment): a `data.yaml`, and a text file an image. Imports no torch.

    path: ../dota8              root of the data set, from the YAML's folder; without: that folder
    train: images/train         a folder, a text file that lists images, or a list of these
    val: images/val
    names: {0: plane, 1: ship}  or a list; `nc`, where given, is their number

Labels lie beside the images: the last folder `images` of a path becomes `labels`, the suffix `.txt`. An image without
such a file holds no object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, Field
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from compress.errors import DataError
from compress.pictures.decoding import reason
from compress.pictures.header import SUFFIXES as IMAGE_SUFFIXES
from compress.progress import track
from compress.whole_file import read_whole
from detectors.data.boxes import BoxDataset, Check
from detectors.data.config import BoxData
from detectors.data.image_header import read_image_size
from detectors.data.labels import DroppedBox, EmptyBoxError, LabelledObject
from detectors.data.places import (
    LABEL_SUFFIX,
    NearNames,
    below,
    class_name,
    image_names,
    inspect_images,
    is_image,
    labelled_object,
    names_in,
    read_label_text,
    root_folder,
    split_entry,
)
from detectors.data.samples import Sample
from detectors.data.yolo_lines import parse_line

DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


class YoloData(BoxData):
    """The `data:` part of a recipe for data sets in YOLO format."""

    root: str | None = Field(
        None, description="Folder with a data.yaml, or the YAML file itself; usually --set data.root=PATH."
    )
    splits: dict[str, str] = Field(
        default_factory=lambda: {split: split for split in ("train", "val", "test")},
        description="Split -> its key in the YAML file.",
    )


class YoloDataset(BoxDataset[YoloData]):
    """A data set in YOLO format."""

    NAME: ClassVar[str] = "yolo"
    CONFIG: ClassVar[type[BaseModel]] = YoloData

    def read(
        self, split: str, table: Mapping[str, int], *, check: Check | None = None
    ) -> tuple[list[Sample], list[str]]:
        """Return the images of a split, sorted by name, and every problem in its lists and label files.

        Reads the header of each image that has labels, for its size. A class name's white space becomes hyphens.

        Args:
            split: name of the split.
            table: class name -> label index, `labels.IGNORED` for ignored ones.
            check: 'header' reads size and end of each image, 'full' decodes it, None the size alone.

        Raises:
            DataError: root, YAML file, split or a folder is missing, or the YAML file is wrong.
        """
        document = data_file(self.config)
        paths, problems = _images_of(document, split_entry(self.config.splits, split))
        names, found = image_names(paths)
        problems += found
        if paths and not any(label_path(path).is_file() for path in paths):
            expected = label_path(paths[0])
            problems.append(
                f"{expected}: missing, and so are the labels of all {len(paths)} images of split '{split}'."
            )
        else:
            problems += _near_labels(paths)
        samples = []
        looks = inspect_images(paths, check, self.config.reading, f"check split {split}")
        for name, path, seen in zip(names, track(paths, f"read split {split}"), looks, strict=True):
            problems += seen.problems
            if not seen.problems:
                objects, found = read_labels(path, label_path(path), document.names, table, seen.size)
                problems += found
                samples.append(Sample(name, path, tuple(objects), seen.flat))
        return sorted(samples, key=lambda sample: sample.name), problems

    def files(self, split: str) -> list[tuple[str, Path]]:
        """Return (name below root, path) of the YAML file, the images and their labels, sorted.

        Raises:
            DataError: as for `read`.
        """
        document = data_file(self.config)
        paths, _ = _images_of(document, split_entry(self.config.splits, split))
        labels = [label for path in paths if (label := label_path(path)).is_file()]
        return below(document.base, [document.path, *paths, *labels])

    @classmethod
    def class_names(cls, config: YoloData) -> tuple[str, ...]:
        """Return the names of the YAML file, in the order of their index.

        Raises:
            DataError: the file is missing or wrong.
        """
        return data_file(config).names

    @classmethod
    def splits_present(cls, config: YoloData) -> list[str]:
        """Return the splits that the YAML file names.

        Raises:
            DataError: the file is missing or wrong.
        """
        entries = data_file(config).entries
        return [split for split, key in config.splits.items() if entries.get(key)]


DATASET = YoloDataset


def data_file(config: YoloData) -> DataFile:
    """Return the YAML file of a data set.

    Raises:
        DataError: there is none, more than one, or it is wrong.
    """
    root = root_folder(config.root)
    path = root
    if not root.is_file():
        found = [root / name for name in DATA_FILES if (root / name).is_file()]
        found = found or sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
        if len(found) != 1:
            what = f"{len(found)} YAML files" if found else "no YAML file"
            raise DataError(f"{root}: {what}, expected {DATA_FILES[0]}. Give the file itself as data.root.")
        path = found[0]
    return read_data_file(path)


@dataclass(frozen=True)
class DataFile:
    """A `data.yaml`.

    Attributes:
        path: the file.
        base: folder that its entries start from.
        names: of the classes, hyphens for white space.
        entries: all keys as they stand there.
    """

    path: Path
    base: Path
    names: tuple[str, ...]
    entries: Mapping[str, Any]


def read_data_file(path: Path) -> DataFile:
    """Return a `data.yaml`.

    Raises:
        DataError: no YAML, or names, nc or path are wrong.
    """
    try:
        entries = YAML(typ="safe", pure=True).load(read_whole(path).decode("utf-8-sig"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{path}:{line}: {error.problem}, expected YAML.") from error
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise DataError(f"{path}: {error}, expected YAML.") from error
    if not isinstance(entries, dict):
        raise DataError(f"{path}: a {type(entries).__name__}, expected keys path, train, val, test and names.")
    names = _names(path, entries)
    return DataFile(path, _base(path, entries), names, entries)


def label_path(image: Path) -> Path:
    """Return where an image's labels lie: its last folder `images` becomes `labels`, its suffix `.txt` (or `.TXT`)."""
    parts = list(image.parts)
    places = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    expected = Path(*parts).with_suffix(LABEL_SUFFIX)
    if expected.exists():
        return expected
    other = expected.with_suffix(LABEL_SUFFIX.upper())
    return other if other.exists() else expected


def _near_labels(images: Sequence[Path]) -> list[str]:
    """Return a problem for each image without labels for which a label file of nearly its name lies there unused."""
    expected = {image: label_path(image) for image in images}
    missing = {image: path for image, path in expected.items() if not path.exists() and not path.is_symlink()}
    used = set(expected.values())
    near = {
        folder: NearNames(
            name for name in names_in(folder) if name.casefold().endswith(LABEL_SUFFIX) and folder / name not in used
        )
        for folder in {path.parent for path in missing.values()}
    }
    hints = {image: near[path.parent].hint(path.stem) for image, path in missing.items()}
    return [
        f"{missing[image]}: missing, expected the labels of {image.name}.{hint}"
        for image, hint in hints.items()
        if hint
    ]


def _names(path: Path, entries: Mapping[str, Any]) -> tuple[str, ...]:
    names = entries.get("names")
    if isinstance(names, dict):
        try:
            names = {int(key): value for key, value in names.items()}
        except (TypeError, ValueError):
            raise DataError(f"{path}: names has the keys {list(names)}, expected 0, 1, 2, ...") from None
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{path}: names has the keys {sorted(names)}, expected 0 to {len(names) - 1}, each once.")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names is {names!r}, expected a list of class names, or 0: name, 1: name, ...")
    result = tuple(class_name(str(name)) for name in names)
    twice = next((name for name in result if result.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: names has {twice} {result.count(twice)} times, expected each once.")
    if entries.get("nc", len(result)) != len(result):
        raise DataError(f"{path}: nc is {entries['nc']}, expected {len(result)}, the number of names.")
    return result


def _base(path: Path, entries: Mapping[str, Any]) -> Path:
    """Return the folder that the entries start from; a `path` of another machine is passed over for the file's own."""
    folder, stated = path.parent, entries.get("path")
    if stated is None:
        return folder
    if not isinstance(stated, str):
        raise DataError(f"{path}: path is {stated!r}, expected a folder.")
    given = Path(stated).expanduser()
    if (folder / given).is_dir():
        return folder / given
    places = [entries.get(key) for key in ("train", "val", "test")]
    if any(isinstance(place, str) and (folder / place).exists() for place in places):
        return folder
    raise DataError(f"{path}: path is {stated}, and there is no folder {folder / given}. Correct or remove the entry.")


def _images_of(document: DataFile, key: str) -> tuple[list[Path], list[str]]:
    """Return the images of an entry, each once, sorted, and what is wrong with its lists."""
    value = document.entries.get(key)
    entries = value if isinstance(value, list) else [value]
    if not entries or not all(isinstance(entry, str) and entry for entry in entries):
        raise DataError(
            f"{document.path}: {key} is {value!r}, expected a folder of images, a text file that lists them, or a list "
            "of these."
        )
    paths: dict[Path, None] = {}
    problems: list[str] = []
    for entry in map(str, entries):
        place = _place(document, key, entry)
        if place.is_dir():
            found = [path for path in sorted(place.rglob("*")) if is_image(path)]
            paths |= dict.fromkeys(path for path in found if path.is_file())
            problems += [
                f"{path}: a link to {path.readlink()}, where nothing is, expected an image."
                for path in found
                if path.is_symlink() and not path.exists()
            ]
        else:
            listed, wrong = _listed(place, document.base)
            paths |= dict.fromkeys(listed)
            problems += wrong
    if not paths and not problems:
        problems.append(f"{document.path}: {key}: no image in {value}, expected {', '.join(IMAGE_SUFFIXES)} files.")
    return sorted(paths), problems


def _place(document: DataFile, key: str, entry: str) -> Path:
    place = document.base / entry
    if not place.exists() and entry.startswith("../"):  # Roboflow writes ../train/images beside train/
        place = document.base / entry.removeprefix("../")
    if not place.exists():
        raise DataError(f"{document.path}: {key}: {document.base / entry}: no such folder or file.")
    return place


def _listed(path: Path, base: Path) -> tuple[list[Path], list[str]]:
    """Return the images that a text file lists; `./` is its own folder, else the root of the data set comes first."""
    try:
        lines = read_whole(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"{path}: {error}, expected a text file with a path of an image a line."]
    images, problems = [], []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        folders: Sequence[Path] = (path.parent,) if text.startswith("./") else (base, path.parent)
        found = next((folder / text for folder in folders if (folder / text).is_file()), None)
        if found is None:
            problems.append(f"{path}:{number}: no image {folders[0] / text}, expected one.")
        else:
            images.append(found)
    return images, problems


def read_labels(
    image: Path, path: Path, names: Sequence[str], table: Mapping[str, int], checked_size: tuple[int, int] | None
) -> tuple[list[LabelledObject], list[str]]:
    """Return the objects of an image and what is wrong with its labels; boxes outside are dropped if it was checked.

    Args:
        image: its file.
        path: its label file, which need not be there.
        names: of the classes, by the number that a line begins with.
        table: class name -> label index, `labels.IGNORED` for ignored ones.
        checked_size: (height, width) of the image, px, where it was looked at.
    """
    if not path.is_file() and not path.is_symlink():
        return [], []
    text, problems = read_label_text(path)
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        return [], problems
    try:
        size = checked_size or read_image_size(image)
    except (OSError, ValueError) as error:
        return [], [f"{image}: {reason(error, image)}, expected a complete image."]
    objects = []
    for number, line in lines:
        try:
            quad, label = parse_line(line, len(names), size)
            objects.append(labelled_object(quad, names[label], table, image_size=checked_size))
        except ValueError as error:
            kind = DroppedBox if isinstance(error, EmptyBoxError) else str
            problems.append(kind(f"{path}:{number}: {str(error).removesuffix('.')}."))
    return objects, problems
