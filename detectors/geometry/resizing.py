"""A picture resized into a network's input of fixed size, and boxes brought back to the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np


class Rule(Protocol):
    """How pictures are resized; `detectors.geometry.metadata.Resize` is one."""

    @property
    def kind(self) -> Literal["letterbox", "stretch"]: ...  # noqa: D102
    @property
    def pad_value(self) -> int: ...  # noqa: D102
    @property
    def position(self) -> Literal["center", "corner"]: ...  # noqa: D102
    @property
    def enlarge(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Fit:
    """Where a picture lies in the network's input.

    Attributes:
        picture_size: (height, width) of the picture, px.
        size: (height, width) that it is resized to, px.
        left, top: px of the input before it.
    """

    picture_size: tuple[int, int]
    size: tuple[int, int]
    left: int = 0
    top: int = 0

    @property
    def scale(self) -> tuple[float, float]:
        """Return pixels of the input per pixel of the picture, across and down.

        They are those of the resized picture, whole pixels, not the ratio before rounding: what `cv2.resize` does.
        """
        return self.size[1] / self.picture_size[1], self.size[0] / self.picture_size[0]


def fit(picture_size: tuple[int, int], input_size: tuple[int, int], rule: Rule) -> Fit:
    """Return where a picture of a size comes to lie.

    Args:
        picture_size: (height, width), px, at least 1.
        input_size: (height, width) of the network's input, px.
        rule: `letterbox` keeps the ratio of the sides and pads what is left, `stretch` does not.
    """
    if rule.kind == "stretch":
        return Fit(picture_size, input_size)
    ratio = min(target / side for side, target in zip(picture_size, input_size, strict=True))
    ratio = ratio if rule.enlarge else min(ratio, 1.0)
    height, width = (
        min(max(round(side * ratio), 1), target) for side, target in zip(picture_size, input_size, strict=True)
    )
    if rule.position == "corner":
        return Fit(picture_size, (height, width))
    return Fit(picture_size, (height, width), (input_size[1] - width) // 2, (input_size[0] - height) // 2)


def resize_picture(image: np.ndarray, input_size: tuple[int, int], rule: Rule) -> np.ndarray:
    """Return a picture resized into the input, the rest filled with the rule's brightness.

    Args:
        image: (H, W, 3) uint8.
        input_size: (height, width), px.
        rule: see `fit`.

    Returns:
        (height, width, 3) uint8.
    """
    placed = fit((image.shape[0], image.shape[1]), input_size, rule)
    height, width = placed.size
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if (height, width) == input_size:
        return image
    canvas = np.full((*input_size, 3), rule.pad_value, np.uint8)
    canvas[placed.top : placed.top + height, placed.left : placed.left + width] = image
    return canvas


def boxes_to_picture(boxes: np.ndarray, placed: Fit) -> np.ndarray:
    """Return boxes of the network's input in pixels of the picture.

    A turned box that is stretched is no rectangle any more: its longer side keeps its direction and the area is exact.

    Args:
        boxes: (n, 5), cx, cy, w, h, angle_rad, px of the input.
        placed: where the picture lies there.

    Returns:
        (n, 5) float64, px of the picture, not clipped to it.
    """
    boxes = np.array(boxes, np.float64).reshape(-1, 5)
    across, down = placed.scale
    boxes[:, 0] = (boxes[:, 0] - placed.left) / across
    boxes[:, 1] = (boxes[:, 1] - placed.top) / down
    width, height, angle = boxes[:, 2].copy(), boxes[:, 3].copy(), boxes[:, 4].copy()
    lying = width >= height
    direction = np.where(lying, angle, angle + np.pi / 2)
    x, y = np.cos(direction) / across, np.sin(direction) / down
    stretch = np.hypot(x, y)
    longer = np.maximum(width, height) * stretch
    shorter = np.minimum(width, height) / (across * down * stretch)
    boxes[:, 2], boxes[:, 3] = np.where(lying, longer, shorter), np.where(lying, shorter, longer)
    turned = np.arctan2(y, x)
    turned += 2 * np.pi * np.round((direction - turned) / (2 * np.pi))  # the angle stays in the range that it came in
    boxes[:, 4] = np.where(angle == 0, 0.0, np.where(lying, turned, turned - np.pi / 2))
    return boxes


def clip_upright(boxes: np.ndarray, picture_size: tuple[int, int]) -> np.ndarray:
    """Return upright boxes (n, 5), angle 0, cut at the border of a picture of (height, width) px."""
    high = np.array([picture_size[1], picture_size[0]], np.float64)
    half = boxes[:, 2:4] / 2
    begin, end = np.clip(boxes[:, :2] - half, 0, high), np.clip(boxes[:, :2] + half, 0, high)
    return np.concatenate([(begin + end) / 2, end - begin, boxes[:, 4:]], axis=1)
