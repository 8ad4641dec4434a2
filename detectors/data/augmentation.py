"""What happens to a training image and its boxes: windows, flips, changes of pixels.

Every step draws from the generator that it is given, so a seed decides all of it. Boxes are float32 tensors: their
sines and cosines decide, to the last bit, where a window may start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

FLIPS = ("horizontal", "vertical", "diagonal")


@dataclass(frozen=True)
class TrainingImage:
    """One image on its way to a batch.

    Attributes:
        pixels: (H, W, 3) uint8 BGR.
        boxes: (n, 5) float32: cx, cy, w, h (px), angle_rad, either side first.
        labels: (n,) int64.
        ignored: (n,) bool; neither truth nor background.
    """

    pixels: np.ndarray
    boxes: Tensor
    labels: np.ndarray
    ignored: np.ndarray


Step = Callable[[TrainingImage, np.random.RandomState], TrainingImage]


@dataclass(frozen=True)
class CropAroundObjects:
    """Cut a random window, with a given probability so that it contains a random object.

    Truth whose center leaves the window is dropped; ignored boxes stay while any part of them is visible.

    Attributes:
        size: (height, width) of the window, px; smaller images stay whole.
        object_probability: share of the windows that are put around an object.
    """

    size: tuple[int, int]
    object_probability: float

    def __call__(self, image: TrainingImage, random: np.random.RandomState) -> TrainingImage:
        """Return the window with its boxes."""
        height, width = image.pixels.shape[:2]
        extents = extents_of(image.boxes).numpy()
        targets = extents[~image.ignored]
        target = None
        if random.random() < self.object_probability and len(targets):
            target = targets[random.randint(len(targets))]
        top = _offset(height, self.size[0], None if target is None else (target[1], target[3]), random)
        left = _offset(width, self.size[1], None if target is None else (target[0], target[2]), random)
        pixels = image.pixels[top : top + self.size[0], left : left + self.size[1]]
        boxes = image.boxes.clone()
        boxes[:, :2] -= boxes.new_tensor((left, top))
        limits = np.array([pixels.shape[1], pixels.shape[0]])
        centers = boxes[:, :2].numpy()
        extents = extents - np.array([left, top, left, top])
        inside = ((centers >= 0) & (centers < limits)).all(axis=1)
        visible = (extents[:, 2:] > 0).all(axis=1) & (extents[:, :2] < limits).all(axis=1)
        keep = np.where(image.ignored, visible, inside)
        return TrainingImage(pixels, boxes[torch.from_numpy(keep)], image.labels[keep], image.ignored[keep])


def extents_of(boxes: Tensor) -> Tensor:
    """Return the axis-aligned rectangle around each rotated box, (n, 4) float32: left, top, right, bottom."""
    centers, width, height, angle = torch.split(boxes, [2, 1, 1, 1], dim=-1)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    half_x = torch.abs(width / 2 * cosine) + torch.abs(height / 2 * sine)
    half_y = torch.abs(width / 2 * sine) + torch.abs(height / 2 * cosine)
    reach = torch.cat([half_x, half_y], dim=-1)
    return torch.cat([centers - reach, centers + reach], dim=-1)


def _offset(length: int, window: int, target: tuple[float, float] | None, random: np.random.RandomState) -> int:
    """Return where a window starts, px: anywhere, or so that it holds the target (or its center if that is longer)."""
    margin = max(length - window, 0)
    low, high = 0, margin
    if target is not None:
        start, end = target
        if end - start > window:
            start = end = (start + end) / 2
        low = min(max(0, int(np.ceil(end - window))), margin)
        high = max(min(margin, int(np.floor(start))), low)
    return int(random.randint(low, high + 1))


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right, top and bottom, or both (a half turn), each with the same probability."""

    probability: float

    def __call__(self, image: TrainingImage, random: np.random.RandomState) -> TrainingImage:
        """Return the image mirrored, or as it is."""
        chances = [self.probability] * len(FLIPS)
        direction = random.choice([*FLIPS, "none"], p=[*chances, 1 - sum(chances)])
        if direction == "none":
            return image
        axes = {"horizontal": (1,), "vertical": (0,), "diagonal": (0, 1)}[direction]
        boxes = image.boxes.clone()
        for axis in axes:
            column = 1 - axis  # x runs along the columns of the image
            boxes[:, column] = image.pixels.shape[axis] - boxes[:, column]
        if direction != "diagonal":
            boxes[:, 4] = -boxes[:, 4]
        return replace(image, pixels=np.flip(image.pixels, axes), boxes=boxes)


@dataclass(frozen=True)
class JitterPixels:
    """Change contrast (around the image's mean) and brightness by random amounts.

    Attributes:
        brightness: largest shift, share of 255.
        contrast: largest relative change.
    """

    brightness: float
    contrast: float

    def __call__(self, image: TrainingImage, random: np.random.RandomState) -> TrainingImage:
        """Return the image with other pixels."""
        factor = 1 + self.contrast * random.uniform(-1, 1)
        shift = 255 * self.brightness * random.uniform(-1, 1)
        mean = image.pixels.mean()
        table = np.clip((np.arange(256) - mean) * factor + mean + shift, 0, 255)
        return replace(image, pixels=np.round(table).astype(np.uint8)[image.pixels])
