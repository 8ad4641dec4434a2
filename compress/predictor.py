"""The one way a picture is looked at: windows, network, boxes, and one picture again.

`krimp detect`, scoring, the pictures of the report and the end-to-end timing all go through here, so what is scored
is what is deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from compress.detector import Deploy, Forward

DRAWN_SCORE = 0.3
Box = tuple[int, int, int, int]  # x, y, width, height, px


class ImageSource(Protocol):
    """Pixels of one picture, read a window at a time, so that a large one is never held whole."""

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width), px."""

    def read(self, window: Box) -> np.ndarray:
        """Return the pixels of a window that lies inside the picture, (height, width, 3) uint8, BGR."""


class ArraySource:
    """A picture that is in memory.

    Attributes:
        image: (H, W, 3) uint8, BGR.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width), px."""
        return self.image.shape[0], self.image.shape[1]

    def read(self, window: Box) -> np.ndarray:
        """Return a window as a view, (height, width, 3) uint8, BGR."""
        x, y, width, height = window
        return self.image[y : y + height, x : x + width]


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to look at pictures.

    Attributes:
        forward: images -> raw outputs.
        deploy: the plug-in's torch-free part, made from the model's metadata.
        tile_size: (height, width) of a window, pixels; smaller pictures are padded to it. None leaves it to the
            plug-in: the size that the model was made for, or the whole picture where the model resizes pictures.
        overlap_px: pixels that neighbouring windows share; None leaves it to the plug-in.
        score_threshold: replaces the model's own; None keeps it.
    """

    forward: Forward
    deploy: Deploy
    tile_size: tuple[int, int] | None = None
    overlap_px: int | None = None
    score_threshold: float | None = None

    @property
    def window_size(self) -> tuple[int, int]:
        """Return (height, width) of the largest window, pixels."""
        return self.tile_size or self.deploy.image_size

    @property
    def drawn_threshold(self) -> float:
        """Return the score above which boxes are drawn: the wanted one, else at least `DRAWN_SCORE`.

        Models are scored at a low threshold, which would bury a picture in weak boxes.
        """
        if self.score_threshold is not None:
            return self.score_threshold
        return max(DRAWN_SCORE, self.deploy.score_threshold)

    def windows(self, image_size: tuple[int, int]) -> list[Any]:
        """Return the windows in which a picture of (height, width) pixels is looked at."""
        return self.deploy.tile_windows(image_size, tile_size=self.tile_size, overlap_px=self.overlap_px)

    def detect(self, image: np.ndarray | ImageSource, *, watch: Callable[[Sequence[Any]], Iterable[Any]] = iter) -> Any:
        """Return the detections of a picture.

        Args:
            image: (H, W, 3) uint8, BGR, any size; or where its pixels can be read.
            watch: is given the windows and yields them, to show how far it is.

        Returns:
            The plug-in's detections object, in pixels of the picture.
        """
        source = ArraySource(image) if isinstance(image, np.ndarray) else image
        windows = self.windows(source.size)
        parts = []
        for window in watch(windows):
            _, _, width, height = window
            images = self.deploy.preprocess(source.read(window), minimum_size=self.window_size)
            parts += self.deploy.postprocess(
                self.forward(images), image_size=(height, width), score_threshold=self.score_threshold
            )
        return self.deploy.merge(parts, windows, image_size=source.size)
