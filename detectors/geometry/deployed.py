"""The deployed part of every detector of boxes: all but the way from raw outputs to boxes, which a plug-in adds.

A plug-in's `deploy.py` has `make_deploy(meta)`, which checks the metadata and returns a `BoxDeploy` with its `decode`.
NumPy and OpenCV only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from compress.detector import MAX_WINDOW_PIXELS
from compress.errors import DataError, DetectorError
from detectors.geometry.detections import Detections
from detectors.geometry.drawing import draw_detections
from detectors.geometry.metadata import Resize
from detectors.geometry.pictures import normalize_picture
from detectors.geometry.resizing import boxes_to_picture, clip_upright, fit, resize_picture
from detectors.geometry.text import dota_text, to_records
from detectors.geometry.tiling import Window, merge_tiles, tile_windows

_LEAST_PX = 0.01  # a side of a box that was brought back to its picture and cut there; less is rounding


class Decode(Protocol):
    """What a plug-in adds: from raw outputs of a batch to boxes."""

    def __call__(
        self,
        raw: Sequence[np.ndarray],
        meta: Mapping[str, Any],
        *,
        image_size: tuple[int, int],
        score_threshold: float | None = None,
    ) -> list[Detections]:
        """Return one `Detections` a picture, pixels of the network's input, best score first."""


@dataclass(frozen=True)
class BoxDeploy:
    """The deployed part of a detector of boxes (`compress.detector.Deploy`), made from a model's metadata.

    Attributes:
        meta: the model's `krimp.deploy`, checked.
        decode: the plug-in's own way from raw outputs to boxes.
        axis_aligned: boxes have angle 0: records also say `bbox` (x1, y1, x2, y2), and boxes that a picture's border
            has clipped to nothing are left out when windows are merged, because they overlap nothing.
        maps: raw outputs are maps of floats; where they may be lists of boxes, too, `decode` checks their shapes.
    """

    meta: Mapping[str, Any]
    decode: Decode
    axis_aligned: bool = False
    maps: bool = True

    @cached_property
    def resize(self) -> Resize | None:
        """Return how windows are resized to the network's input, or None if they are fed pixel by pixel."""
        rule = self.meta.get("resize")
        return None if rule is None else Resize.model_validate(rule)

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width) that the model was made for, pixels."""
        return int(self.meta["image_size"][0]), int(self.meta["image_size"][1])

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return tuple(self.meta["classes"])

    @property
    def score_threshold(self) -> float:
        """Return the score above which the model reports objects."""
        return float(self.meta["score_threshold"])

    def adapt_truth(self, truth: Any) -> Any:
        """Return the truth of an image as this detector can find it: upright rectangles where its boxes are upright."""
        return truth.upright() if self.axis_aligned else truth

    def preprocess(self, image: np.ndarray, *, minimum_size: tuple[int, int] | None = None) -> np.ndarray:
        """Turn a picture into the network's input: normalized, padded with zeros below and to the right.

        Where the metadata says `resize`, it is resized to `image_size` instead.

        Args:
            image: (H, W, 3) uint8, BGR.
            minimum_size: (height, width) to pad to at least, pixels; None pads to the divisor only. Means nothing where
                pictures are resized.

        Returns:
            (1, 3, H', W') float32, RGB or as `channel_order` says, H' and W' the next multiples of `size_divisor`.

        Raises:
            DetectorError: the picture is not (H, W, 3) uint8.
        """
        if self.resize is not None:
            if image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size:
                image = resize_picture(image, self.image_size, self.resize)
            minimum_size = None
        try:
            return normalize_picture(
                image,
                mean=self.meta["mean"],
                std=self.meta["std"],
                size_divisor=int(self.meta["size_divisor"]),
                minimum_size=minimum_size,
                channel_order=self.meta.get("channel_order", "rgb"),
            )
        except ValueError as error:
            raise DetectorError(str(error)) from error

    def postprocess(
        self, raw: Sequence[np.ndarray], *, image_size: tuple[int, int], score_threshold: float | None = None
    ) -> list[Detections]:
        """Turn raw outputs into boxes, best score first.

        Args:
            raw: one array per name of `output_names`; further ones (for the loss) are left out.
            image_size: (height, width) of the real picture inside the padded input, or before it was resized.
            score_threshold: replaces the model's; scores are strictly above it.

        Returns:
            One `Detections` a picture, pixels of the picture.

        Raises:
            DetectorError: number or shape of the arrays does not fit the metadata.
        """
        exported = raw[: len(self.meta["output_names"])]
        odd = [f"{array.dtype} {array.shape}" for array in exported if not self._is_readable(array)]
        if odd or len({len(array) for array in exported}) > 1:
            expected = "floats (N, channels, h, w)" if self.maps else "one batch of numbers"
            raise DetectorError(f"raw outputs: {', '.join(odd) or 'batches of different sizes'}; expected {expected}.")
        if self.resize is None:
            return self.decode(exported, self.meta, image_size=image_size, score_threshold=score_threshold)
        found = self.decode(exported, self.meta, image_size=self.image_size, score_threshold=score_threshold)
        return [self._brought_back(each, image_size) for each in found]

    def _is_readable(self, array: np.ndarray) -> bool:
        if self.maps:
            return array.ndim == 4 and array.dtype.kind == "f"
        return array.ndim > 0 and len(array) > 0 and array.dtype.kind in "fiu"

    def _brought_back(self, found: Detections, image_size: tuple[int, int]) -> Detections:
        """Return detections in the resized input as those of the picture, without those in the padding."""
        assert self.resize is not None
        boxes = boxes_to_picture(found.boxes, fit(image_size, self.image_size, self.resize))
        if self.axis_aligned:
            boxes = clip_upright(boxes, image_size)
        else:
            boxes[:, :2] = np.clip(boxes[:, :2], 0, [image_size[1] - 1, image_size[0] - 1])
        return Detections(boxes, found.scores, found.labels).take(np.all(boxes[:, 2:4] > _LEAST_PX, axis=1))

    def tile_windows(
        self, image_size: tuple[int, int], *, tile_size: tuple[int, int] | None = None, overlap_px: int | None = None
    ) -> list[Window]:
        """Return the windows in which a picture of any size is looked at.

        Args:
            image_size: (height, width) of the picture, pixels.
            tile_size: (height, width), pixels; None takes the size that the model was made for, or the whole picture
                where windows are resized.
            overlap_px: pixels that neighbours share; None means a fifth of the tile's shorter side.

        Returns:
            At least one window.

        Raises:
            DetectorError: the overlap does not fit into the tile, or there is none.
            DataError: the picture is too large to be resized as a whole.
        """
        if self.resize is not None and tile_size is None:
            return [self._whole(image_size, overlap_px)]
        tile = self.image_size if tile_size is None else tile_size
        overlap = min(tile) // 5 if overlap_px is None else overlap_px
        try:
            return tile_windows(image_size, tile, overlap)
        except ValueError as error:
            raise DetectorError(f"{error} Choose an overlap of 0 to {min(tile) - 1} px.") from error

    def _whole(self, image_size: tuple[int, int], overlap_px: int | None) -> Window:
        if overlap_px is not None:
            raise DetectorError(
                f"an overlap of {overlap_px} px needs tiles: this model looks at the whole picture. Give --tile."
            )
        height, width = image_size
        if height * width > MAX_WINDOW_PIXELS:
            raise DataError(
                f"picture of {width} x {height} px: too large to be resized to the network's input, expected at "
                f"most {MAX_WINDOW_PIXELS} px. Give --tile."
            )
        return Window(0, 0, width, height)

    def merge(
        self, parts: Sequence[Detections], windows: Sequence[Window], *, image_size: tuple[int, int]
    ) -> Detections:
        """Put the detections of all windows of one picture together, in pixels of the picture.

        Args:
            parts: detections of each window, in the window's own pixels.
            windows: as from `tile_windows`, same order.
            image_size: (height, width) of the picture, pixels.

        Returns:
            Detections, best score first: a window's `max_detections` times the number of windows at most.
        """
        if self.axis_aligned and len(parts) > 1:
            parts = [part.take(np.all(part.boxes[:, 2:4] > 0, axis=1)) for part in parts]
        limit = int(self.meta["max_detections"]) * len(windows)
        return merge_tiles(parts, windows, image_size, iou_threshold=float(self.meta["nms_iou"]), max_detections=limit)

    def draw(self, image: np.ndarray, detections: Detections, *, score_threshold: float | None = None) -> np.ndarray:
        """Return a copy of the picture with the boxes drawn; small pictures are enlarged.

        Args:
            image: (H, W, 3) uint8, BGR.
            detections: boxes in pixels of the picture.
            score_threshold: draw only what scores more; None draws all.

        Returns:
            (s * H, s * W, 3) uint8, BGR, s 1 or 2.
        """
        if score_threshold is not None:
            detections = detections.take(detections.scores > score_threshold)
        return draw_detections(image, detections, self.classes)

    def to_text(self, detections: Detections) -> str:
        """Return one line a detection: `class x1 y1 x2 y2 x3 y3 x4 y4 score`, pixels and 0..1."""
        return dota_text(detections, self.classes)

    def to_json(self, detections: Detections) -> list[dict[str, Any]]:
        """Return one JSON-able record a detection: class, label, score, box, corners; bbox where axis-aligned."""
        records = to_records(detections, self.classes)
        if self.axis_aligned:
            for record in records:
                record["bbox"] = record["corners"][:2] + record["corners"][4:6]
        return records
