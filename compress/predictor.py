"""The one way a picture is looked at: windows, network, boxes, and one picture again.

`krimp detect`, scoring, the pictures of the report and the end-to-end timing all go through here, so what is scored
is what is deployed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compress.detector import Deploy, Forward

DRAWN_SCORE = 0.3


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to look at pictures.

    Attributes:
        forward: images -> raw outputs.
        deploy: the plug-in's torch-free part, made from the model's metadata.
        tile_size: (height, width) of a window, pixels; smaller pictures are padded to it. None takes the size that
            the model was made for.
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
        return self.deploy.tile_windows(image_size, tile_size=self.window_size, overlap_px=self.overlap_px)

    def detect(self, image: np.ndarray) -> Any:
        """Return the detections of a picture.

        Args:
            image: (H, W, 3) uint8, BGR, any size.

        Returns:
            The plug-in's detections object, in pixels of the picture.
        """
        size = (image.shape[0], image.shape[1])
        windows = self.windows(size)
        parts = []
        for x, y, width, height in windows:
            images = self.deploy.preprocess(image[y : y + height, x : x + width], minimum_size=self.window_size)
            parts += self.deploy.postprocess(
                self.forward(images), image_size=(height, width), score_threshold=self.score_threshold
            )
        return self.deploy.merge(parts, windows, image_size=size)
