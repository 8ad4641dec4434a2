"""The folder trees in which DOTA is published, and its classes. Imports no torch.

    ROOT/train/images/**/P0000.png                           all versions; parts of the archive may be sub-folders
    ROOT/train/labelTxt-v1.0/labelTxt/P0000.txt              v1.0 (trainset_reclabelTxt beside it: horizontal, not read)
    ROOT/train/labelTxt-v1.5/DOTA-v1.5_train/P0000.txt       v1.5 (DOTA-v1.5_train_hbb: horizontal, not read)
    ROOT/train/labelTxt-v2.0/DOTA-v2.0_train/P0000.txt       v2.0 (DOTA-v2.0_train_hbb: horizontal, not read)
    ROOT/val/...                                             likewise
    ROOT/test/images, ROOT/test-dev/images, ...              without labels

v1.5 and v2.0 label the images of v1.0 anew; v2.0 adds images of its own, which may lie under a root of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.errors import DataError
from compress.pictures.header import SUFFIXES as IMAGE_SUFFIXES
from detectors.data.formats.dota import IMAGE_FOLDER, LABEL_FOLDER, label_files
from detectors.data.places import is_image
from detectors.data.problems import raise_all

_DOTA10 = (
    "plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "large-vehicle", "ship",
    "tennis-court", "basketball-court", "storage-tank", "soccer-ball-field", "roundabout", "harbor", "swimming-pool",
    "helicopter",
)  # fmt: skip
CLASSES = {
    "1.0": _DOTA10,
    "1.5": (*_DOTA10, "container-crane"),
    "2.0": (*_DOTA10, "container-crane", "airport", "helipad"),
}
SPLITS = ("train", "val", "test", "test-dev", "test-challenge")


@dataclass(frozen=True)
class Source:
    """An image of a release.

    Attributes:
        name: of its files, without suffix.
        image: file.
        labels: file, None in a split without labels.
    """

    name: str
    image: Path
    labels: Path | None = None


def published_splits(roots: Sequence[Path]) -> list[str]:
    """Return the splits of a release that are present.

    Raises:
        DataError: there is none.
    """
    found = [split for split in SPLITS if any((root / split / IMAGE_FOLDER).is_dir() for root in roots)]
    if not found:
        tried = ", ".join(str(root / split / IMAGE_FOLDER) for root in roots for split in SPLITS[:3])
        raise DataError(f"no split of DOTA found, looked for {tried}. Give the folder that holds train, val and test.")
    return found


def find_sources(roots: Sequence[Path], split: str, version: str) -> list[Source]:
    """Return the images of a split with their label files, sorted by name.

    Args:
        roots: folders of a release; several are read as one.
        split: name of its folder below them.
        version: key of CLASSES; the labels of that version are taken.

    Raises:
        DataError: nothing found, or lists each image without labels and the reverse (the first 20).
    """
    images, problems = _images(roots, split)
    if not images:
        tried = ", ".join(str(root / split / IMAGE_FOLDER) for root in roots)
        raise DataError(f"no image of split '{split}' found in {tried}, expected {', '.join(IMAGE_SUFFIXES)} files.")
    labels = _labels(roots, split, version)
    if labels is None:
        if not split.startswith("test"):
            tried = ", ".join(str(folder) for root in roots for folder in _label_folders(root / split, split, version))
            raise DataError(f"no labels of DOTA-v{version} for split '{split}' found, looked for {tried}.")
        sources = [Source(name, path) for name, path in sorted(images.items())]
    else:
        sources = [Source(name, path, labels.get(name)) for name, path in sorted(images.items())]
        problems += [
            f"{s.image}: no label file {s.name}.txt, expected one (may be empty)." for s in sources if not s.labels
        ]
        problems += [f"{labels[name]}: no image of that name." for name in sorted(labels.keys() - images.keys())]
    raise_all(f"split '{split}'", problems)
    return sources


def _images(roots: Sequence[Path], split: str) -> tuple[dict[str, Path], list[str]]:
    images: dict[str, Path] = {}
    problems = []
    for root in roots:
        for path in sorted((root / split / IMAGE_FOLDER).rglob("*")):
            if not is_image(path):
                continue
            if path.stem in images:
                problems.append(f"{path}: same name as {images[path.stem]}, expected one image a name.")
            images[path.stem] = path
    return images, problems


def _label_folders(folder: Path, split: str, version: str) -> list[Path]:
    """Return where the labels of a split may lie, the published place first."""
    own = folder / f"labelTxt-v{version}"
    return [own / LABEL_FOLDER, own / f"DOTA-v{version}_{split}", own, folder / LABEL_FOLDER]


def _labels(roots: Sequence[Path], split: str, version: str) -> dict[str, Path] | None:
    labels: dict[str, Path] | None = None
    for root in roots:
        for folder in _label_folders(root / split, split, version):
            files = label_files(folder)[0] if folder.is_dir() else {}
            if files:
                labels = (labels or {}) | files
                break
    return labels
