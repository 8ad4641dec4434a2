"""Folders in DOTA format: `root/<split>/images/NAME.{png,jpg,...}` with `root/<split>/labelTxt/NAME.txt`.

What a line of a label file is stands in `detectors/data/labels.py`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from compress.errors import DataError
from compress.pictures.header import SUFFIXES as IMAGE_SUFFIXES
from detectors.data.boxes import BoxDataset, Check
from detectors.data.config import BoxData
from detectors.data.labels import HEADERS, DroppedBox, is_of_yolo, parse_labels
from detectors.data.places import Inspection, NearNames, inspect_images, is_image, is_label, names_in, read_label_text
from detectors.data.samples import Sample

IMAGE_FOLDER = "images"
LABEL_FOLDER = "labelTxt"


class DotaData(BoxData):
    """The `data:` part of a recipe for folders in DOTA format."""

    splits: dict[str, str] = Field(
        default_factory=lambda: {"train": "train", "val": "val", "test": "test"},
        description="Split -> its folder below root.",
    )


class DotaDataset(BoxDataset[DotaData]):
    """Images with four-cornered boxes, a label file each."""

    NAME: ClassVar[str] = "dota"
    CONFIG: ClassVar[type[BaseModel]] = DotaData

    def read(
        self, split: str, table: Mapping[str, int], *, check: Check | None = None
    ) -> tuple[list[Sample], list[str]]:
        """Return the samples of a split and every problem with its files; see `BoxDataset.read`."""
        folder = split_folder(self.config, split)
        images, problems = _images_by_name(folder / IMAGE_FOLDER)
        label_paths, found = label_files(folder / LABEL_FOLDER)
        problems += found
        if not images:
            problems.append(
                f"{folder / IMAGE_FOLDER}: no image, expected {', '.join(IMAGE_SUFFIXES)} files."
                f"{_deeper(folder / IMAGE_FOLDER)}"
            )
        samples = []
        names = sorted(images.keys() | label_paths.keys())
        both = [name for name in names if name in images and name in label_paths]
        looks = inspect_images([images[name] for name in both], check, self.config.reading, f"check split {split}")
        seen = dict(zip(both, looks, strict=True))
        near = {part: NearNames(names_in(folder / part)) for part in (IMAGE_FOLDER, LABEL_FOLDER)}
        for name in names:
            if name not in images:
                hint = near[IMAGE_FOLDER].hint(name)
                problems.append(
                    f"{label_paths[name]}: no image of that name, expected one in {folder / IMAGE_FOLDER}.{hint}"
                )
            elif name not in label_paths:
                missing = folder / LABEL_FOLDER / f"{name}.txt"
                hint = near[LABEL_FOLDER].hint(name)
                problems.append(f"{missing}: missing, expected the labels of {images[name].name} (may be empty).{hint}")
            else:
                sample, found = read_sample(name, images[name], label_paths[name], table, seen[name])
                samples.append(sample)
                problems += found
        return samples, problems

    def files(self, split: str) -> list[tuple[str, Path]]:
        """Return images and label files of a split."""
        folder = split_folder(self.config, split)
        return sorted(
            (path.relative_to(folder).as_posix(), path)
            for part in (IMAGE_FOLDER, LABEL_FOLDER)
            for path in (folder / part).iterdir()
            if (is_image(path) or is_label(path)) and not path.is_dir()
        )

    @classmethod
    def class_names(cls, config: DotaData) -> tuple[str, ...]:
        """Return the classes that occur in the label files of the splits that are there, sorted."""
        splits = cls.splits_present(config) or list(config.splits)[:1]
        folders = [split_folder(config, split) / LABEL_FOLDER for split in splits]
        return names_of([path for folder in folders for path in label_files(folder)[0].values()])

    @classmethod
    def splits_present(cls, config: DotaData) -> list[str]:
        """Return the splits whose folder of labels is there."""
        root = Path(config.root).expanduser() if config.root else None
        return [split for split, name in config.splits.items() if root and (root / name / LABEL_FOLDER).is_dir()]


def split_folder(data: DotaData, split: str) -> Path:
    """Return the folder of a split.

    Raises:
        DataError: no root given, unknown split, or a folder is missing.
    """
    if split not in data.splits:
        raise DataError(f"data.splits: no split '{split}', expected one of {', '.join(data.splits)}.")
    if data.root is None:
        raise DataError("data.root: not given, expected the folder of the data set. Pass --set data.root=/path/to/it.")
    folder = Path(data.root).expanduser() / data.splits[split]
    for part in (folder, folder / IMAGE_FOLDER, folder / LABEL_FOLDER):
        if not part.is_dir():
            near = _near_folder(part)
            raise DataError(
                f"{part}: no such folder, expected ROOT/{data.splits[split]}/{{{IMAGE_FOLDER},{LABEL_FOLDER}}}. "
                f"Check --set data.root=PATH and data.splits.{near}"
            )
    return folder


def _near_folder(part: Path) -> str:
    """Return a hint where a folder of nearly that name is there: labels, LabelTxt, image."""
    beside = part.parent.iterdir() if part.parent.is_dir() else ()
    found = sorted(
        path.name for path in beside if path.is_dir() and path.name.casefold()[:5] == part.name.casefold()[:5]
    )
    return f" There is {found[0]}: rename it." if found else ""


def names_of(labels: Iterable[Path]) -> tuple[str, ...]:
    """Return the classes that occur in label files, sorted."""
    names: set[str] = set()
    for path in labels:
        rows = [line.split() for line in read_label_text(path)[0].splitlines()]
        lines = [row for row in rows if len(row) == 10 and not row[0].lower().startswith(HEADERS)]
        names.update(row[8] for row in lines if not is_of_yolo(row))
    return tuple(sorted(names))


def label_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return image name -> label file, and a problem for each name that is there twice (NAME.txt and NAME.TXT)."""
    labels: dict[str, Path] = {}
    problems = []
    for path in sorted(folder.iterdir()):
        if is_label(path):
            if path.stem in labels:
                problems.append(f"{path}: same name as {labels[path.stem].name}, expected one label file a name.")
            labels[path.stem] = path
    return labels, problems


def _images_by_name(folder: Path) -> tuple[dict[str, Path], list[str]]:
    images: dict[str, Path] = {}
    problems = []
    for path in sorted(folder.iterdir()):
        if not is_image(path):
            continue
        if path.stem in images:
            problems.append(f"{path}: same name as {images[path.stem].name}, expected one image a name.")
        images[path.stem] = path
    return images, problems


def _deeper(folder: Path) -> str:
    """Return a hint where images lie in sub-folders."""
    found = next((path for path in sorted(folder.glob("*/*")) if is_image(path)), None)
    return "" if found is None else f" {found.relative_to(folder)} lies one folder too deep."


def read_sample(
    name: str, image_path: Path, label_path: Path, table: Mapping[str, int], seen: Inspection
) -> tuple[Sample, list[str]]:
    """Return an image with the objects of its label file, and what is wrong with both."""
    text, unreadable = read_label_text(label_path)
    objects, found = parse_labels(text, table, image_size=seen.size)
    problems = [*seen.problems, *unreadable]
    for line, what, dropped in found:
        problems.append((DroppedBox if dropped else str)(f"{label_path}:{line}: {what}"))
    return Sample(name, image_path, tuple(objects), seen.flat), problems


DATASET = DotaDataset
