"""A folder in DOTA format: what the recipe says about it, its content as arrays, and its digest. Imports no torch.

Layout: `root/<split>/images/NAME.{png,jpg,...}` with `root/<split>/labelTxt/NAME.txt`.
A box is (cx, cy, w, h, angle_rad): pixels, y down, clockwise angle of the longer side w in [-pi/4, 3 pi/4).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.errors import DataError
from compress.progress import track
from detectors.data.image_header import decode, image_size
from detectors.data.labels import IGNORED, LabelLine, parse_labels

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
IMAGE_FOLDER = "images"
LABEL_FOLDER = "labelTxt"
MAX_LISTED = 20

Pixels = Annotated[int, Field(ge=1)]
Size = tuple[Pixels, Pixels]


class DotaData(BaseModel):
    """The `data:` part of a recipe for folders in DOTA format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["dota"] = "dota"
    root: str | None = Field(None, description="Folder with one subfolder per split; usually --set data.root=PATH.")
    image_size: Size = Field(description="Deployed input size [height, width], px.")
    ignore: tuple[str, ...] = Field((), description="Classes whose boxes are neither trained on nor scored.")
    merge: dict[str, str] = Field(default_factory=dict, description="Class in the files -> class of the detector.")
    splits: dict[str, str] = Field(
        default_factory=lambda: {"train": "train", "val": "val", "test": "test"},
        description="Split -> its folder below root.",
    )
    crop_size: Size | Pixels | None = Field(
        None, description="Random training crops, [height, width] or the side of a square, px; null: whole images."
    )
    crop_object_probability: float = Field(0.8, ge=0, le=1, description="Share of the crops put around an object.")
    flip_probability: float = Field(
        0.25, ge=0, le=1 / 3, description="Probability of each flip: horizontal, vertical, diagonal."
    )
    brightness_jitter: float = Field(0.0, ge=0, le=1, description="Largest shift of training pixels, share of 255.")
    contrast_jitter: float = Field(0.0, ge=0, lt=1, description="Largest relative change of training contrast.")
    max_train_images: int | None = Field(
        None, ge=1, description="Train on so many images only, evenly spread over the sorted names; null: on all."
    )
    min_edge_px: float = Field(
        0.0, ge=0, description="Training drops boxes with a shorter edge (official DCFL: 2). Scoring keeps them."
    )
    train_difficulty: int = Field(
        0,
        ge=0,
        le=2,
        description="Training takes boxes up to this value of the column difficult as truth: 1 difficult, 2 cut by the "
        "border of a patch (official DCFL: 2). Others are ignored. Scoring ignores all above 0.",
    )
    num_workers: int = Field(0, ge=0, description="Processes that load training images; changes no result.")

    @model_validator(mode="after")
    def _check_names(self) -> DotaData:
        both = sorted(set(self.ignore) & set(self.merge))
        if both:
            raise ValueError(f"class {both[0]!r} is in ignore and in merge; keep it in one of them")
        return self

    @property
    def crop(self) -> Size | None:
        """Return the training crop as (height, width), px, or None."""
        return (self.crop_size, self.crop_size) if isinstance(self.crop_size, int) else self.crop_size


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
    def from_objects(cls, objects: Sequence[LabelLine]) -> Truth:
        """Return labelled objects as boxes."""
        kept = [item for item in objects if not item.ignored]
        ignored = [item.quad for item in objects if item.ignored]
        return cls(
            boxes=quads_to_boxes(np.array([item.quad for item in kept], np.float32).reshape(-1, 8)),
            labels=np.array([item.label for item in kept], np.int64),
            ignored_boxes=quads_to_boxes(np.array(ignored, np.float32).reshape(-1, 8)),
        )


@dataclass(frozen=True)
class Sample:
    """One image of a split with its objects, not decoded."""

    name: str
    image_path: Path
    objects: tuple[LabelLine, ...]

    def truth(self) -> Truth:
        """Return the objects as boxes."""
        return Truth.from_objects(self.objects)


def class_table(data: DotaData, classes: Sequence[str]) -> dict[str, int]:
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


def load_split(data: DotaData, split: str, classes: Sequence[str]) -> list[Sample]:
    """Return the samples of a split, sorted by name; labels are parsed, images not opened.

    Raises:
        DataError: lists every problem in folders and label files at once.
    """
    samples, problems = _scan(data, split, classes, check=None)
    _raise_all(data, split, problems)
    return samples


def check_split(
    data: DotaData, split: str, classes: Sequence[str], *, check: Literal["header", "full"] = "header"
) -> dict[str, int]:
    """Check all files of a split: labels against their images, and each image.

    Args:
        data: the data set.
        split: name of the split.
        classes: classes of the detector.
        check: 'header' reads size and end of each image; 'full' decodes each.

    Returns:
        Counts: 'images', 'boxes', 'ignored_boxes', and boxes per class.

    Raises:
        DataError: lists the problems as file:line: what, what was expected (the first 20 and the count).
    """
    samples, problems = _scan(data, split, classes, check=check)
    _raise_all(data, split, problems)
    objects = [item for sample in samples for item in sample.objects]
    counts = {
        "images": len(samples),
        "boxes": sum(not item.ignored for item in objects),
        "ignored_boxes": sum(item.ignored for item in objects),
    }
    return counts | {n: sum(o.label == i and not o.ignored for o in objects) for i, n in enumerate(classes)}


class DotaImages:
    """The images of a split with their truth, in sorted order; sized and repeatable."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, Truth]]:
        for sample in self.samples:
            yield sample.name, read_image(sample.image_path), sample.truth()


def iterate_images(data: DotaData, split: str, classes: Sequence[str]) -> DotaImages:
    """Return a sized iterable of (name, (H, W, 3) uint8 BGR image, Truth).

    Raises:
        DataError: the labels are wrong (at once) or an image cannot be decoded (when reached).
    """
    return DotaImages(load_split(data, split, classes))


def read_image(path: Path) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 BGR.

    Raises:
        DataError: missing, empty or undecodable.
    """
    try:
        return decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}, expected an image. Replace the file.") from error


def split_digest(data: DotaData, split: str) -> str:
    """Return the sha256 (hex) over names and contents of images and labels; the path of the root does not enter.

    Raises:
        DataError: the split is missing.
    """
    folder = split_folder(data, split)
    paths = sorted(
        (path.relative_to(folder).as_posix(), path)
        for part in (IMAGE_FOLDER, LABEL_FOLDER)
        for path in (folder / part).iterdir()
        if path.suffix.lower() in (*IMAGE_SUFFIXES, ".txt") and not path.name.startswith(".")
    )
    with ThreadPoolExecutor(4) as pool:  # hashlib and reading release the lock
        digests = pool.map(lambda item: hashlib.sha256(item[1].read_bytes()).hexdigest(), paths)
        digests = track(digests, f"read split {split}", len(paths))
        listing = "".join(f"{digest}  {name}\n" for (name, _), digest in zip(paths, digests, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


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


def _scan(
    data: DotaData, split: str, classes: Sequence[str], *, check: Literal["header", "full"] | None
) -> tuple[list[Sample], list[str]]:
    table = class_table(data, classes)
    folder = split_folder(data, split)
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
    name: str, image_path: Path, label_path: Path, table: dict[str, int], check: Literal["header", "full"] | None
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


def _raise_all(data: DotaData, split: str, problems: list[str]) -> None:
    if not problems:
        return
    listed = "\n".join(f"  {problem}" for problem in problems[:MAX_LISTED])
    more = f"\n  ... and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise DataError(f"data split '{split}' in {data.root}: {count}, expected none. Fix these files:\n{listed}{more}")
