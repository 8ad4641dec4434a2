"""The contract of a data set: what the engine and every detector ask of images and their truth.

A data set is a class with the members of `Dataset`: `DATASET` of a module in `detectors/data/formats/`, an entry point
of the group `krimp.datasets`, or `package.module:NAME`. The recipe's `data.format` names it.
Importing it must not import torch: heavy imports go inside the methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from compress.breakdown import Breakdown

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor


# What models are compared by: each has an interval and a loss, and a training may keep its weights by it.
METRICS = ("map", "map75", "map50")


class Batch(Protocol):
    """What a loader yields: `images` plus what the `loss` of a detector reads."""

    images: Tensor  # (N, 3, H, W) float32, normalized

    def to(self, device: Any) -> Batch:
        """Return the batch on another device."""


@runtime_checkable
class SkipsBatches(Protocol):
    """Hook of what `Dataset.loader` returns: to resume an epoch in its middle. Without it batches are read again."""

    def skip_batches(self, count: int) -> Iterable[Batch]:
        """Return the loader without its first `count` batches; the others are what they were."""


@runtime_checkable
class Preloads(Protocol):
    """Hook of data sets and detectors: modules that are slow to import. The engine does it once, before it forks."""

    PRELOAD: ClassVar[tuple[str, ...]]  # module names


@dataclass(frozen=True)
class Scores:
    """Accuracy of one model on one split.

    Attributes:
        map50: mean over the classes that have truth, 0..1.
        ap_method: of map50, 'area' or 'voc07_11point'.
        iou_threshold: of map50, recall and precision: overlap that makes a match.
        ap_per_class: class name -> AP, 0..1 (NaN where a class has no truth).
        recall: share of true boxes found at any score.
        precision: at `precision_score_threshold`.
        num_detections: above the deployed score threshold, whole split.
        num_images: images scored.
        map50_interval: 95 % bootstrap interval over images, or None.
        map50_resampled: (samples,) float64, map50 on resampled images, or None. Entry i of two models scored on
            the same split belongs to the same draw of images (draws depend on nothing but the images), so the
            differences of two of these are a paired bootstrap. The engine reads nothing else into them.
        map: mAP50-95, 0..1: mean over COCO's ten thresholds (0.50 to 0.95) and the classes that have truth of the
            average precision at 101 recall points; None where a data set does not measure it.
        map75: the same at the threshold 0.75 alone.
        map_per_class, map75_per_class: class name -> the same of one class (NaN where a class has no truth).
        max_dets: so many detections of a class in an image count for `map` and `map75`.
        map_interval, map75_interval, map_resampled, map75_resampled: as of map50.
        num_objects: boxes to be found; without any, nothing but the number of detections is measured.
        extra: further numbers by name, e.g. 'map50_voc07' (reach the report as they are).
    """

    map50: float
    ap_method: str
    iou_threshold: float
    ap_per_class: Mapping[str, float]
    recall: float
    precision: float
    precision_score_threshold: float
    num_detections: int
    num_images: int
    map50_interval: tuple[float, float] | None = None
    map50_resampled: np.ndarray | None = field(default=None, compare=False)
    extra: Mapping[str, float] = field(default_factory=dict)
    map: float | None = None
    map75: float | None = None
    map_per_class: Mapping[str, float] = field(default_factory=dict)
    map75_per_class: Mapping[str, float] = field(default_factory=dict)
    max_dets: int | None = None
    map_interval: tuple[float, float] | None = None
    map75_interval: tuple[float, float] | None = None
    map_resampled: np.ndarray | None = field(default=None, compare=False)
    map75_resampled: np.ndarray | None = field(default=None, compare=False)
    num_objects: int | None = None


@dataclass(frozen=True)
class InputFormat:
    """How pixels enter a network.

    Attributes:
        mean: of R, G, B, 0..255, subtracted.
        std: of R, G, B, 0..255, divided by.
        size_divisor: images are padded with 0, to the right and below, to multiples of it, px.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size_divisor: int = 1


class Picture(NamedTuple):
    """One image of a split.

    Attributes:
        name: for captions and messages.
        image: (H, W, 3) uint8 BGR, as it is in the file.
        truth: what is to be found in it, as `Dataset.score` takes it.
    """

    name: str
    image: np.ndarray
    truth: Any


class Pictures(Protocol):
    """Images of a split, sized, in the same order at every pass; each is read when it is reached."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Picture]: ...


class Dataset(Protocol):
    """Images with their truth by splits, made from the recipe's `data:` part and the classes of the detector.

    Attributes:
        image_size: (height, width) that the network is deployed for, px.
    """

    NAME: ClassVar[str]
    REQUIRES: ClassVar[tuple[str, ...]]  # import names checked before anything runs
    # The recipe's `data:` part without `format`. Fields that `score` alone reads are named in its class variable
    # SCORING_FIELDS, if it has any: they enter the keys of what is scored, and a change trains nothing again. Fields
    # that were added later, and change nothing while they are null, are named in KEYED_IF_SET: old keys stay right.
    CONFIG: ClassVar[type[BaseModel]]

    @property
    def image_size(self) -> tuple[int, int]: ...  # noqa: D102

    def __init__(self, config: BaseModel, classes: Sequence[str]) -> None: ...

    def check(self, split: str) -> None:
        """Raise DataError that lists everything that is wrong with a split (missing, empty, bad labels)."""

    def digest(self, split: str) -> str:
        """Return a hex digest of the content (not the path) of a split. Torch-free.

        It enters the key of every artifact made from the split: another digest means that all of them are made anew.
        """

    def images(self, split: str) -> Pictures:
        """Return the whole images of a split with their truth. Torch-free."""

    def loader(
        self, split: str, input_format: InputFormat, *, batch_size: int, augment: bool, seed: int
    ) -> Iterable[Batch]:
        """Return a sized iterable of batches; the seed alone decides order and augmentation.

        Without augmentation the images have `image_size`, padded as the input format says.
        """

    def score(self, detections: Sequence[Any], truths: Sequence[Any]) -> Scores:
        """Return the accuracy of detections, one object an image, on the truth of the same images.

        Args:
            detections: what the detector's deployed part gives for each image.
            truths: of `Picture`, in the same order.
        """


@runtime_checkable
class CountsObjects(Protocol):
    """Hook of data sets: a split without objects is told before anything runs. Without it nobody asks."""

    def object_counts(self, split: str, *, trained: bool) -> Mapping[str, int]:
        """Return how many objects of each class of the detector a split has to be found. Torch-free.

        Args:
            split: name of the split.
            trained: those that a training learns from instead of those that a score counts.
        """


@runtime_checkable
class BreaksDown(Protocol):
    """Hook of data sets: what a score is made of, for the report. Without it the report shows the score alone."""

    def break_down(self, detections: Sequence[Any], truths: Sequence[Any], names: Sequence[str]) -> Breakdown:
        """Return curves, kinds of errors and every image; arguments as of `score`, and the names of the images."""


@runtime_checkable
class HasValueRange(Protocol):
    """Hook of data sets: pictures of more than 8 bits. Without it, what each file holds decides its brightness."""

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Return what becomes 0 and what 255 in them; model files carry it as `value_range`, so that it holds there."""


@dataclass(frozen=True)
class DataFolder:
    """What lies in a folder, as far as a first recipe needs it.

    Attributes:
        data: fields of the recipe's `data:` part, without `format`.
        classes: that the files declare, in their order.
        splits: those that are there.
    """

    data: Mapping[str, Any]
    classes: tuple[str, ...]
    splits: tuple[str, ...]


@runtime_checkable
class DescribesFolder(Protocol):
    """Hook of data sets: `krimp new`. Without it the command knows nothing of the format."""

    @classmethod
    def describe(cls, root: Path) -> DataFolder | None:
        """Return what lies in a folder, or None if it is not of this format. Torch-free.

        Raises:
            DataError: it is of this format and cannot be read.
        """
