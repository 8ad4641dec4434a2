"""Batches for training, read by MMRotate's DOTA data set and MMDetection's transforms.

Two things MMRotate alone does not do are added: ignored classes and difficult boxes reach the loss
apart from the truth (MMRotate raises on an unknown class), and the seed alone decides order and augmentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mmrotate.structures.bbox  # noqa: F401  (declares the box types qbox and rbox)
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import LoadAnnotations, RandomFlip
from mmrotate.datasets import DOTADataset
from mmrotate.datasets.transforms import ConvertBoxType
from torch import Tensor
from torch.utils.data import DataLoader

from detectors.data.dota import DotaData, Sample, Size, load_split, longer_side_first, read_image
from detectors.data.labels import IGNORED, LabelLine

FLIPS = ("horizontal", "vertical", "diagonal")


@dataclass(frozen=True)
class DotaBatch:
    """Images of one step with their truth.

    Attributes:
        images: (N, 3, H, W) float32 RGB, normalised, padded with 0 to the right and below.
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

    def to(self, device: Any) -> DotaBatch:
        """Return the batch on another device."""
        moved = {key: [item.to(device) for item in getattr(self, key)] for key in ("boxes", "labels", "ignored")}
        return replace(self, images=self.images.to(device), **moved)

    def __len__(self) -> int:
        return len(self.images)


def build_loader(
    data: DotaData,
    split: str,
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    augment: bool,
    seed: int,
    size_divisor: int = 32,
) -> DataLoader:
    """Return a loader of `DotaBatch`; one pass over it is one epoch, and every pass is the same.

    Args:
        data: the data set.
        split: name of the split.
        classes: classes of the detector, in the order of their label index.
        mean: of R, G, B, 0..255.
        std: of R, G, B, 0..255.
        batch_size: images a batch; the last one may be smaller.
        augment: random order, crops, flips and jitter; else images in sorted order, padded to `image_size` or, where
            they are larger, a window of that size around an object: what the deployed network takes.
        seed: decides order and augmentation, however many workers there are. Give each epoch its own.
        size_divisor: images are padded to a multiple of it.

    Raises:
        DataError: folders or labels are wrong.
    """
    samples = load_split(data, split, classes)
    if split == "train" and data.max_train_images is not None and data.max_train_images < len(samples):
        samples = [samples[i] for i in np.linspace(0, len(samples) - 1, data.max_train_images).round().astype(int)]
    dataset = SeededDota(
        samples,
        classes=classes,
        transforms=_transforms(data, augment=augment),
        seed=seed,
        train_difficulty=data.train_difficulty,
    )
    minimum_size = (0, 0) if augment else data.image_size
    order = np.random.default_rng(seed).permutation(len(samples)).tolist() if augment else range(len(samples))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=order,
        num_workers=data.num_workers,
        collate_fn=partial(
            collate, mean=tuple(mean), std=tuple(std), size_divisor=size_divisor, minimum_size=minimum_size
        ),
        generator=torch.Generator().manual_seed(seed),  # keeps the global random state untouched
    )


class SeededDota(DOTADataset):
    """MMRotate's DOTA data set over checked samples; item i depends on the seed and i only."""

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        classes: Sequence[str],
        transforms: Sequence[BaseTransform],
        seed: int,
        train_difficulty: int = 0,
    ) -> None:
        self.samples = list(samples)
        self.seed = seed
        self.train_difficulty = train_difficulty
        super().__init__(
            metainfo={"classes": tuple(classes)},
            ann_file="",
            pipeline=list(transforms),
            serialize_data=False,  # mmengine would pickle the list
            test_mode=True,  # keeps images without boxes and never draws a replacement
        )

    def load_data_list(self) -> list[dict]:
        """Return the samples in MMDetection's form; ignored classes have the label -1."""

        def ignored(item: LabelLine) -> int:
            return int(item.label == IGNORED or item.difficult > self.train_difficulty)

        return [
            {
                "img_id": sample.name,
                "file_name": sample.image_path.name,
                "img_path": str(sample.image_path),
                "instances": [
                    {"bbox": list(item.quad), "bbox_label": item.label, "ignore_flag": ignored(item)}
                    for item in sample.objects
                ],
            }
            for sample in self.samples
        ]

    def prepare_data(self, idx: int) -> dict[str, Any]:
        """Return item `idx` after all transforms."""
        with numpy_seed(self.seed, idx):
            return super().prepare_data(idx)


@contextmanager
def numpy_seed(*entropy: int) -> Iterator[None]:
    """Seed NumPy's global generator, which MMCV's transforms draw from, and restore it afterwards."""
    state = np.random.get_state()
    np.random.seed(np.random.SeedSequence([abs(value) for value in entropy]).generate_state(4))
    try:
        yield
    finally:
        np.random.set_state(state)


class LoadImage(BaseTransform):
    """Read the image as scoring reads it. MMCV's fails with a bare assertion on a damaged file."""

    def transform(self, results: dict) -> dict:
        """Add `img`, (H, W, 3) uint8 BGR, and its size.

        Raises:
            DataError: the file is missing or cannot be decoded.
        """
        results["img"] = read_image(Path(results["img_path"]))
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results


class CropAroundObjects(BaseTransform):
    """Cut a random window, with a given probability so that it contains a random object.

    Truth whose centre leaves the window is dropped; ignored boxes stay while any part of them is visible.
    MMDetection's RandomCrop knows neither rule and looks for objects by chance only.
    """

    def __init__(self, size: tuple[int, int], object_probability: float) -> None:
        self.size = size
        self.object_probability = object_probability

    def transform(self, results: dict) -> dict:
        """Crop `img` and the boxes in place."""
        height, width = results["img"].shape[:2]
        boxes, ignored = results["gt_bboxes"], results["gt_ignore_flags"]
        extents = boxes.convert_to("hbox").tensor.numpy()
        targets = extents[~ignored]
        target = None
        if np.random.random() < self.object_probability and len(targets):
            target = targets[np.random.randint(len(targets))]
        top = _offset(height, self.size[0], None if target is None else (target[1], target[3]))
        left = _offset(width, self.size[1], None if target is None else (target[0], target[2]))
        image = results["img"][top : top + self.size[0], left : left + self.size[1]]
        results["img"], results["img_shape"] = image, image.shape[:2]
        boxes.translate_((-left, -top))
        limits = np.array([image.shape[1], image.shape[0]])
        centres = boxes.tensor[:, :2].numpy()
        extents = extents - np.array([left, top, left, top])
        inside = ((centres >= 0) & (centres < limits)).all(axis=1)
        visible = (extents[:, 2:] > 0).all(axis=1) & (extents[:, :2] < limits).all(axis=1)
        keep = np.where(ignored, visible, inside)
        results["gt_bboxes"] = boxes[torch.from_numpy(keep)]
        results["gt_bboxes_labels"] = results["gt_bboxes_labels"][keep]
        results["gt_ignore_flags"] = ignored[keep]
        return results


def _offset(length: int, window: int, target: tuple[float, float] | None) -> int:
    """Return where a window starts, px: anywhere, or so that it holds the target (or its centre if that is longer)."""
    margin = max(length - window, 0)
    low, high = 0, margin
    if target is not None:
        start, end = target
        if end - start > window:
            start = end = (start + end) / 2
        low = min(max(0, int(np.ceil(end - window))), margin)
        high = max(min(margin, int(np.floor(start))), low)
    return int(np.random.randint(low, high + 1))


class JitterPixels(BaseTransform):
    """Change contrast (around the image's mean) and brightness by random amounts."""

    def __init__(self, brightness: float, contrast: float) -> None:
        self.brightness = brightness
        self.contrast = contrast

    def transform(self, results: dict) -> dict:
        """Change `img`."""
        image = results["img"]
        factor = 1 + self.contrast * np.random.uniform(-1, 1)
        shift = 255 * self.brightness * np.random.uniform(-1, 1)
        table = np.clip((np.arange(256) - image.mean()) * factor + image.mean() + shift, 0, 255)
        results["img"] = np.round(table).astype(np.uint8)[image]
        return results


class PackTruth(BaseTransform):
    """Turn MMDetection's results into what `collate` takes; boxes in the project's convention."""

    def __init__(self, min_edge_px: float) -> None:
        self.min_edge_px = min_edge_px

    def transform(self, results: dict) -> dict:
        """Return image (H, W, 3) uint8 BGR, boxes, labels, ignored and name."""
        boxes = longer_side_first(results["gt_bboxes"].tensor.numpy())
        ignored = results["gt_ignore_flags"]
        kept = ~ignored & (boxes[:, 3] >= self.min_edge_px)
        return {
            "image": results["img"],
            "boxes": torch.from_numpy(boxes[kept]),
            "labels": torch.from_numpy(results["gt_bboxes_labels"][kept].astype(np.int64)),
            "ignored": torch.from_numpy(boxes[ignored]),
            "name": results["img_id"],
        }


def collate(
    items: Sequence[dict[str, Any]],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size_divisor: int,
    minimum_size: Size = (0, 0),
) -> DotaBatch:
    """Normalise and pad the packed items to one batch of at least (height, width) px."""
    heights, widths = zip(*(item["image"].shape[:2] for item in items), strict=True)
    longest = (max(*heights, minimum_size[0]), max(*widths, minimum_size[1]))
    height, width = (-(-side // size_divisor) * size_divisor for side in longest)
    images = torch.zeros(len(items), 3, height, width)
    mean_, std_ = (torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1) for values in (mean, std))
    for target, item, h, w in zip(images, items, heights, widths, strict=True):
        rgb = torch.from_numpy(np.ascontiguousarray(item["image"][..., ::-1].transpose(2, 0, 1)))
        target[:, :h, :w] = rgb.float().sub_(mean_).div_(std_)
    return DotaBatch(
        images=images,
        boxes=[item["boxes"] for item in items],
        labels=[item["labels"] for item in items],
        ignored=[item["ignored"] for item in items],
        names=[item["name"] for item in items],
    )


def _transforms(data: DotaData, *, augment: bool) -> list[BaseTransform]:
    steps: list[BaseTransform] = [
        LoadImage(),
        LoadAnnotations(with_bbox=True, box_type="qbox"),
        ConvertBoxType({"gt_bboxes": "rbox"}),
    ]
    if not augment:
        steps.append(CropAroundObjects(data.image_size, 1.0))
    else:
        if data.crop is not None:
            steps.append(CropAroundObjects(data.crop, data.crop_object_probability))
        if data.flip_probability > 0:
            steps.append(RandomFlip(prob=[data.flip_probability] * len(FLIPS), direction=list(FLIPS)))
        if data.brightness_jitter > 0 or data.contrast_jitter > 0:
            steps.append(JitterPixels(data.brightness_jitter, data.contrast_jitter))
    return [*steps, PackTruth(data.min_edge_px)]
