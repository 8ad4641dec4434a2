"""A data set of labelled boxes: all of the contract of `compress/dataset.py` but the format of its files.

A format is a class that adds `read`, `files` and `class_names`. Importing this file imports no torch.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from compress.breakdown import Breakdown
from compress.dataset import DataFolder, InputFormat, Scores
from compress.errors import DataError
from compress.pictures.decoding import reason
from compress.progress import track, warn
from compress.whole_file import read_whole
from detectors.data.config import BoxData
from detectors.data.image_header import read_image_size
from detectors.data.problems import Findings, raise_all
from detectors.data.samples import Sample, SampleImages, Truth, class_table
from detectors.geometry.detections import Detections

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch.utils.data import DataLoader

    from detectors.data.loader import BoxBatch

SIZED_IMAGES = 50  # read for the size that a first recipe names
LARGEST_FIRST_SIDE = 1024  # px; larger pictures are looked at in tiles of this size
Check = Literal["header", "full"]
Config = TypeVar("Config", bound=BoxData)


class BoxDataset(ABC, Generic[Config]):
    """Images with labelled boxes by splits, in one format.

    Attributes:
        config: the recipe's `data:` part.
        classes: of the detector, in the order of their label index.
    """

    NAME: ClassVar[str]
    REQUIRES: ClassVar[tuple[str, ...]] = ()
    PRELOAD: ClassVar[tuple[str, ...]] = ("detectors.data.loader", "detectors.data.scoring")
    CONFIG: ClassVar[type[BaseModel]]

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        self.config = config
        self.classes = tuple(classes)
        self._counted: dict[str, dict[bool, dict[str, int]]] = {}  # of what was read: it is asked for right after

    # ---- what a format adds -----------------------------------------------------------------------

    @abstractmethod
    def read(
        self, split: str, table: Mapping[str, int], *, check: Check | None = None
    ) -> tuple[list[Sample], list[str]]:
        """Return the samples of a split, sorted by name, and every problem with its files.

        Args:
            split: name of the split.
            table: class name in the files -> label index (`labels.IGNORED` for ignored ones).
            check: 'header' reads size and end of each image, 'full' decodes it, None opens labels only.

        Returns:
            Samples, and problems as 'file:line: what, what was expected.'; a `labels.DroppedBox` costs its box alone.

        Raises:
            DataError: no root given, unknown split, or a folder or file is missing.
        """

    @abstractmethod
    def files(self, split: str) -> list[tuple[str, Path]]:
        """Return (name, path) of all whose content makes a split, sorted; names do not hold the path of the root.

        Raises:
            DataError: as of `read`.
        """

    @classmethod
    @abstractmethod
    def class_names(cls, config: Config) -> tuple[str, ...]:
        """Return the classes that the files declare, in their order.

        Raises:
            DataError: as of `read`, or a file that declares classes is wrong.
        """

    @classmethod
    def splits_present(cls, config: Config) -> list[str]:
        """Return the splits that are there; none (the default) where a format does not say: `krimp new` passes it by.

        Raises:
            DataError: nothing of this format is there.
        """
        return []

    # ---- a first recipe ---------------------------------------------------------------------------

    @classmethod
    def describe(cls, root: Path) -> DataFolder | None:
        """Return classes, splits and the commonest size of the first images, sides of at most `LARGEST_FIRST_SIDE`."""
        config: Any = cls.CONFIG(root=str(root), image_size=(1, 1))
        try:
            splits = tuple(cls.splits_present(config))
        except DataError:
            return None
        if not splits:
            return None
        classes = cls.class_names(config)
        samples, _ = cls(config, classes).read(splits[0], {name: label for label, name in enumerate(classes)})
        sizes = Counter(_size_of(sample.image_path) for sample in samples[:SIZED_IMAGES])
        if not sizes:
            raise DataError(f"{root}: split {splits[0]!r} has no image, expected at least one.")
        height, width = (min(side, LARGEST_FIRST_SIDE) for side in sizes.most_common(1)[0][0])
        return DataFolder({"root": str(root), "image_size": [height, width]}, classes, splits)

    # ---- the contract -----------------------------------------------------------------------------

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width) that the network is deployed for, px."""
        return self.config.image_size

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Return what becomes 0 and what 255 in pictures of more than 8 bits; None: what each file holds decides."""
        return self.config.value_range

    def check(self, split: str) -> None:
        """Raise DataError that lists everything that is wrong with a split."""
        self.counts(split)

    def counts(self, split: str, *, check: Check = "header") -> dict[str, int]:
        """Check all files of a split, labels against their images, and count what is there.

        Args:
            split: name of the split.
            check: 'header' reads size and end of each image; 'full' decodes each.

        Returns:
            Counts: 'images', 'boxes', 'ignored_boxes', and boxes per class.

        Raises:
            DataError: lists the problems as file:line: what, what was expected (the first 20 and the count).
        """
        samples = self._read(split, check)
        self._counted[split] = self._count(samples)
        objects = [item for sample in samples for item in sample.objects]
        counts = {
            "images": len(samples),
            "boxes": sum(not item.ignored for item in objects),
            "ignored_boxes": sum(item.ignored for item in objects),
        }
        return counts | {n: sum(o.label == i and not o.ignored for o in objects) for i, n in enumerate(self.classes)}

    def object_counts(self, split: str, *, trained: bool) -> dict[str, int]:
        """Return how many boxes of each class a split has, those that are scored or those that are trained on.

        Raises:
            DataError: as of `samples`.
        """
        if split not in self._counted:
            self._counted[split] = self._count(self.samples(split))
        return self._counted[split][trained]

    def _count(self, samples: Sequence[Sample]) -> dict[bool, dict[str, int]]:
        """Return the boxes by class that a training learns from (True) and that a score counts (False)."""
        objects = [item for sample in samples for item in sample.objects if item.label >= 0]
        scored = Counter(item.label for item in objects if not item.ignored)
        trained = Counter(item.label for item in objects if item.difficult <= self.config.train_difficulty)
        return {
            kind: {name: counts[label] for label, name in enumerate(self.classes)}
            for kind, counts in ((False, scored), (True, trained))
        }

    def samples(self, split: str) -> list[Sample]:
        """Return the samples of a split, sorted by name; labels are parsed, images not opened.

        Raises:
            DataError: lists every problem in folders and label files at once.
        """
        return self._read(split, None)

    def digest(self, split: str) -> str:
        """Return the sha256 (hex) over names and contents of a split's files; the path of the root does not enter.

        Raises:
            DataError: the split is missing.
        """
        files = self.files(split)
        with ThreadPoolExecutor(4) as pool:  # hashlib and reading release the lock
            digests: Iterable[str] = pool.map(lambda item: _digest_of(item[1]), files)
            digests = track(digests, f"read split {split}", len(files))
            listing = "".join(f"{digest}  {name}\n" for (name, _), digest in zip(files, digests, strict=True))
        return hashlib.sha256(listing.encode()).hexdigest()

    def images(self, split: str) -> SampleImages:
        """Return the whole images of a split with their `Truth`, in sorted order.

        Raises:
            DataError: the labels are wrong (at once) or an image cannot be decoded (when reached).
        """
        return SampleImages(self.samples(split), self.config.reading)

    def loader(
        self, split: str, input_format: InputFormat, *, batch_size: int, augment: bool, seed: int
    ) -> DataLoader[BoxBatch]:
        """Return a loader of `BoxBatch`; one pass over it is one epoch, and every pass is the same.

        Args:
            split: name of the split; of 'train' the recipe may take a part.
            input_format: of the detector.
            batch_size: images a batch; the last one may be smaller.
            augment: as of `loader.build_loader`.
            seed: decides order and augmentation. Give each epoch its own.

        Raises:
            DataError: folders or labels are wrong.
        """
        from detectors.data.loader import build_loader

        samples, most = self.samples(split), self.config.max_train_images
        if split == "train" and most is not None and most < len(samples):
            samples = [samples[i] for i in np.linspace(0, len(samples) - 1, most).round().astype(int)]
        return build_loader(samples, self.config, input_format, batch_size=batch_size, augment=augment, seed=seed)

    def score(self, detections: Sequence[Detections], truths: Sequence[Truth]) -> Scores:
        """Return the accuracy of detections, by rotated overlap; see `scoring.score_detections`.

        Says so where images have more objects of a class than `max_dets` lets be found.
        """
        from detectors.data.scoring import score_detections

        most = self.config.max_dets
        crowded = sum(bool(len(one.labels)) and int(np.bincount(one.labels).max()) > most for one in truths)
        if crowded:
            warn(
                f"{crowded} images have more than {most} objects of a class, and map counts the best {most} detections "
                "of one. Set data.max_dets higher to count all."
            )
        return score_detections(detections, truths, self.classes, max_dets=most)

    def break_down(self, detections: Sequence[Detections], truths: Sequence[Truth], names: Sequence[str]) -> Breakdown:
        """Return what a score is made of; see `breakdown.break_down`."""
        from detectors.data.breakdown import break_down

        return break_down(detections, truths, names, self.classes, max_dets=self.config.max_dets)

    def _read(self, split: str, check: Check | None) -> list[Sample]:
        samples, found = self.read(split, class_table(self.config, self.classes), check=check)
        findings = Findings.of(samples, found)
        raise_all(f"data split '{split}' in {self.config.root}", findings.mistakes, advice="Fix these files:")
        if check is not None:  # once a split, not at every epoch
            findings.tell(split)
        return samples


def _size_of(path: Path) -> tuple[int, int]:
    try:
        return read_image_size(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {reason(error, path)}, expected a complete image. Remove or replace it.") from error


def _digest_of(path: Path) -> str:
    try:
        return hashlib.sha256(read_whole(path)).hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: {reason(error, path)}, expected a file that can be read. Remove or replace it."
        ) from error
