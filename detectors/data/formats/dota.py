"""Folders in DOTA format: `root/<split>/images/NAME.{png,jpg,...}` with `root/<split>/labelTxt/NAME.txt`.

What a line of a label file is stands in `detectors/data/labels.py`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from compress.errors import DataError
from compress.progress import track
from detectors.data.boxes import BoxDataset, Check
from detectors.data.config import BoxData
from detectors.data.image_header import decode, image_size
from detectors.data.labels import HEADERS, parse_labels
from detectors.data.samples import Sample

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
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
        label_paths = {path.stem: path for path in (folder / LABEL_FOLDER).glob("*.txt")}
        if not images:
            problems.append(f"{folder / IMAGE_FOLDER}: no image, expected {', '.join(IMAGE_SUFFIXES)} files.")
        samples = []
        names = sorted(images.keys() | label_paths.keys())
        for name in track(names, f"check split {split}"):
            if name not in images:
                problems.append(f"{label_paths[name]}: no image of that name, expected one in {folder / IMAGE_FOLDER}.")
            elif name not in label_paths:
                missing = folder / LABEL_FOLDER / f"{name}.txt"
                problems.append(f"{missing}: missing, expected the labels of {images[name].name} (may be empty).")
            else:
                sample, found = _read_sample(name, images[name], label_paths[name], table, check)
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
            if path.suffix.lower() in (*IMAGE_SUFFIXES, ".txt") and not path.name.startswith(".")
        )

    @classmethod
    def class_names(cls, config: DotaData) -> tuple[str, ...]:
        """Return the classes that occur in the label files of the splits that are there, sorted."""
        names: set[str] = set()
        for split in cls.splits_present(config) or list(config.splits)[:1]:
            for path in (split_folder(config, split) / LABEL_FOLDER).glob("*.txt"):
                rows = [line.split() for line in path.read_text("utf-8-sig", errors="replace").splitlines()]
                names.update(row[8] for row in rows if len(row) == 10 and not row[0].lower().startswith(HEADERS))
        return tuple(sorted(names))

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
            raise DataError(
                f"{part}: no such folder, expected ROOT/{data.splits[split]}/{{{IMAGE_FOLDER},{LABEL_FOLDER}}}. "
                "Check --set data.root=PATH and data.splits."
            )
    return folder


def _images_by_name(folder: Path) -> tuple[dict[str, Path], list[str]]:
    images: dict[str, Path] = {}
    problems = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            problems.append(f"{path}: same name as {images[path.stem].name}, expected one image a name.")
        images[path.stem] = path
    return images, problems


def _read_sample(
    name: str, image_path: Path, label_path: Path, table: Mapping[str, int], check: Check | None
) -> tuple[Sample, list[str]]:
    problems = []
    size = None
    if check is not None:
        try:
            content = image_path.read_bytes()
            size = image_size(content)
            if check == "full":
                decode(content)
        except (OSError, ValueError) as error:
            problems.append(f"{image_path}: {error}, expected a complete image.")
    try:
        text = label_path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return Sample(name, image_path, ()), [*problems, f"{label_path}: not UTF-8, expected a text file."]
    objects, found = parse_labels(text, table, image_size=size)
    problems += [f"{label_path}:{line}: {what}" for line, what in found]
    return Sample(name, image_path, tuple(objects)), problems


DATASET = DotaDataset
