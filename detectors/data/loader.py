"""Batches for training: checked samples through seeded augmentation.

Ignored classes and difficult boxes reach the loss apart from the truth, and the seed alone decides order and
augmentation, however many processes load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compress.dataset import InputFormat
from compress.pictures.decoding import AS_IT_IS, Reading
from detectors.data.augmentation import CropAroundObjects, JitterPixels, RandomFlip, Step, TrainingImage
from detectors.data.config import BoxData, Size
from detectors.data.labels import IGNORED
from detectors.data.samples import Sample, longer_side_first, minimum_rectangles


@dataclass(frozen=True)
class BoxBatch:
    """Images of one step with their truth.

    Attributes:
        images: (N, 3, H, W) float32 RGB, normalized, padded with 0 to the right and below.
        boxes: N times (n, 5) float32: cx, cy, w, h (px), angle_rad; w >= h, angle in [-pi/4, 3 pi/4).
        labels: N times (n,) int64.
        ignored: N times (m, 5) float32, boxes that are neither truth nor background.
        names: N file names without suffix.
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    ignored: list[Tensor]
    names: list[str]

    def to(self, device: Any) -> BoxBatch:
        """Return the batch on another device."""
        moved = {key: [item.to(device) for item in getattr(self, key)] for key in ("boxes", "labels", "ignored")}
        return replace(self, images=self.images.to(device), **moved)

    def __len__(self) -> int:
        return len(self.images)


def build_loader(
    samples: Sequence[Sample], data: BoxData, input_format: InputFormat, *, batch_size: int, augment: bool, seed: int
) -> DataLoader[BoxBatch]:
    """Return a loader of `BoxBatch`; one pass over it is one epoch, and every pass is the same.

    Args:
        samples: checked samples, sorted.
        data: how they are augmented.
        input_format: how they are normalized and padded.
        batch_size: images a batch; the last one may be smaller.
        augment: random order, crops, flips and jitter; else images in sorted order, padded to `image_size` or, where
            they are larger, a window of that size around an object: what the deployed network takes.
        seed: decides order and augmentation, however many workers there are. Give each epoch its own.
    """
    dataset = SeededImages(
        samples,
        _steps(data, augment=augment),
        seed=seed,
        train_difficulty=data.train_difficulty,
        min_edge_px=data.min_edge_px,
        reading=data.reading,
    )
    minimum_size = (0, 0) if augment else data.image_size
    order = np.random.default_rng(seed).permutation(len(samples)).tolist() if augment else range(len(samples))
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # its items are what `collate` takes
        batch_size=batch_size,
        sampler=order,
        num_workers=data.num_workers,
        collate_fn=partial(collate, input_format=input_format, minimum_size=minimum_size),
        generator=torch.Generator().manual_seed(seed),  # keeps the global random state untouched
    )


@dataclass(frozen=True)
class LoadedImage:
    """One image as a batch takes it: pixels (H, W, 3) uint8 BGR, the rest as in `BoxBatch`."""

    pixels: np.ndarray
    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    name: str


class SeededImages(Dataset[LoadedImage]):
    """Checked samples, read and augmented; item i depends on the seed and i only.

    Args:
        samples: what there is.
        steps: what each image goes through.
        seed: of all of them.
        train_difficulty: boxes up to this difficulty are truth, the others ignored.
        min_edge_px: truth with a shorter edge is dropped.
        reading: how their files are read.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        steps: Sequence[Step],
        *,
        seed: int,
        train_difficulty: int = 0,
        min_edge_px: float = 0.0,
        reading: Reading = AS_IT_IS,
    ) -> None:
        self.samples = list(samples)
        self.steps = list(steps)
        self.seed = seed
        self.train_difficulty = train_difficulty
        self.min_edge_px = min_edge_px
        self.reading = reading

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> LoadedImage:
        """Return item `index` after all steps.

        Raises:
            DataError: the file is missing or cannot be decoded.
        """
        sample = self.samples[index]
        entropy = np.random.SeedSequence([abs(self.seed), index])
        random = np.random.RandomState(entropy.generate_state(4))
        image = self._read(sample)
        for step in self.steps:
            image = step(image, random)
        boxes = longer_side_first(image.boxes.numpy())
        kept = ~image.ignored & (boxes[:, 3] >= self.min_edge_px)
        return LoadedImage(
            pixels=image.pixels,
            boxes=torch.from_numpy(boxes[kept]),
            labels=torch.from_numpy(image.labels[kept]),
            ignored=torch.from_numpy(boxes[image.ignored]),
            name=sample.name,
        )

    def _read(self, sample: Sample) -> TrainingImage:
        pixels, objects = sample.load(self.reading)
        ignored = [item.label == IGNORED or item.difficult > self.train_difficulty for item in objects]
        quads = np.array([item.quad for item in objects], np.float32).reshape(-1, 8)
        return TrainingImage(
            pixels=pixels,
            boxes=torch.from_numpy(minimum_rectangles(quads).astype(np.float32)),
            labels=np.array([item.label for item in objects], np.int64),
            ignored=np.array(ignored, bool),
        )


def collate(items: Sequence[LoadedImage], *, input_format: InputFormat, minimum_size: Size = (0, 0)) -> BoxBatch:
    """Normalize and pad the images to one batch of at least (height, width) px."""
    heights, widths = zip(*(item.pixels.shape[:2] for item in items), strict=True)
    longest = (max(*heights, minimum_size[0]), max(*widths, minimum_size[1]))
    divisor = input_format.size_divisor
    height, width = (-(-side // divisor) * divisor for side in longest)
    images = torch.zeros(len(items), 3, height, width)
    mean_, std_ = (
        torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1) for values in (input_format.mean, input_format.std)
    )
    for target, item, h, w in zip(images, items, heights, widths, strict=True):
        rgb = torch.from_numpy(np.ascontiguousarray(item.pixels[..., ::-1].transpose(2, 0, 1)))
        target[:, :h, :w] = rgb.float().sub_(mean_).div_(std_)
    return BoxBatch(
        images=images,
        boxes=[item.boxes for item in items],
        labels=[item.labels for item in items],
        ignored=[item.ignored for item in items],
        names=[item.name for item in items],
    )


def _steps(data: BoxData, *, augment: bool) -> list[Step]:
    if not augment:
        return [CropAroundObjects(data.image_size, 1.0)]
    steps: list[Step] = []
    if data.crop is not None:
        steps.append(CropAroundObjects(data.crop, data.crop_object_probability))
    if data.flip_probability > 0:
        steps.append(RandomFlip(data.flip_probability))
    if data.brightness_jitter > 0 or data.contrast_jitter > 0:
        steps.append(JitterPixels(data.brightness_jitter, data.contrast_jitter))
    return steps
