"""A model file that looks at pictures: `krimp.Predictor`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from compress.predictor import ArraySource
from compress.runtime.detect import MAX_PIXELS, open_predictor, reading_of
from compress.runtime.found import Found
from compress.runtime.image_source import open_source


class Predictor:
    """A model file that is open for detection; see `compress.predictor.Predictor` for how it looks at pictures."""

    def __init__(
        self,
        model: str | Path,
        *,
        score_threshold: float | None = None,
        tile_size: tuple[int, int] | None = None,
        overlap_px: int | None = None,
        threads: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Open a model file.

        Args:
            model: an ONNX or `.krimp` file exported by Krimp.
            score_threshold: 0..1; None takes the model's own.
            tile_size: (height, width) of a window, pixels; None takes the size the model was made for.
            overlap_px: pixels that neighbouring windows share; None leaves it to the plug-in.
            threads: of ONNX Runtime; 0 means one per core.
            max_pixels: picture files with more are refused before they are decoded; TIFFs that are read window by
                window have no limit.

        Raises:
            CodecError: the file is missing, damaged or carries no metadata.
            DetectorError: the plug-in is unknown, the metadata does not fit it, or the overlap not the window.
            StageError: the network does not take the wanted window size.
        """
        self._predictor = open_predictor(
            Path(model),
            score_threshold=score_threshold,
            tile_size=tile_size,
            overlap_px=overlap_px,
            threads=threads,
        )
        self._reading = reading_of(self._predictor.deploy.meta, max_pixels)

    @property
    def meta(self) -> Mapping[str, Any]:
        """Return what the model file says of itself."""
        return self._predictor.deploy.meta

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes by label."""
        return self._predictor.deploy.classes

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width) that the model was made for, pixels; pictures may have any size."""
        return self._predictor.deploy.image_size

    def detect(self, image: np.ndarray | str | Path) -> Found:
        """Return the objects in a picture.

        Args:
            image: (H, W, 3) uint8, BGR as OpenCV reads it, any size; or a picture file; TIFFs are read window by
                window where rasterio is installed.

        Raises:
            DataError: the file cannot be read as a picture, or is too large.
            DetectorError: the array is not (H, W, 3) uint8.
        """
        deploy = self._predictor.deploy
        opened = (
            nullcontext(ArraySource(image))
            if isinstance(image, np.ndarray)
            else open_source(Path(image), self._reading)
        )
        with opened as source:
            detections = self._predictor.detect(source)
            return Found(deploy.to_json(detections), deploy.classes, source.size)
