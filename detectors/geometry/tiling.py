"""Cut a large picture into overlapping tiles and put the detections together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from detectors.geometry.detections import Detections
from detectors.geometry.nms import rotated_nms

CROSS_TILE_IOU = 0.1  # overlap from which boxes of two tiles are one object (DOTA's merging rule)


class Window(NamedTuple):
    """A rectangle of a picture, whole pixels: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int


def tile_windows(image_size: tuple[int, int], tile_size: tuple[int, int], overlap_px: int) -> list[Window]:
    """Return windows that cover a picture, row by row, neighbours sharing at least `overlap_px`.

    The last window of a row or column ends at the border of the picture. A picture that is
    smaller than a tile in one direction gives windows of its own size there (pad them to feed a
    network of fixed size).

    Args:
        image_size: (height, width), pixels.
        tile_size: (height, width), pixels.
        overlap_px: pixels shared by neighbours, at least 0 and less than the tile.

    Returns:
        At least one window.

    Raises:
        ValueError: a size is not positive or the overlap does not fit into the tile.
    """
    if min(*image_size, *tile_size) < 1 or not 0 <= overlap_px < min(tile_size):
        msg = f"tiles of {tile_size} px with overlap {overlap_px} px cannot cover a picture of {image_size} px."
        raise ValueError(msg)
    (height, width), (tile_height, tile_width) = image_size, tile_size
    return [
        Window(x, y, min(tile_width, width), min(tile_height, height))
        for y in _starts(height, tile_height, overlap_px)
        for x in _starts(width, tile_width, overlap_px)
    ]


def cut_window(image: np.ndarray, window: Window) -> np.ndarray:
    """Return the part of `image` (H, W, ...) inside `window`, a view."""
    return image[window.y : window.y + window.height, window.x : window.x + window.width]


def merge_tiles(
    parts: Sequence[Detections],
    windows: Sequence[Window],
    image_size: tuple[int, int],
    *,
    iou_threshold: float,
    cross_iou_threshold: float = CROSS_TILE_IOU,
    max_detections: int | None = None,
) -> Detections:
    """Return the detections of a whole picture from those of its tiles.

    A box whose centre lies deep in the half of an overlap that the neighbouring tile sees better
    is dropped: near an inner border objects are cut. What is left is suppressed class by class;
    boxes of one tile at `iou_threshold`, boxes of different tiles at `cross_iou_threshold`.

    Args:
        parts: detections of each window, in the window's own pixels.
        windows: as from `tile_windows`, same order.
        image_size: (height, width) of the picture, pixels.
        iou_threshold: threshold that the tiles themselves were suppressed with.
        cross_iou_threshold: threshold between tiles.
        max_detections: keep at most so many; None keeps all.

    Returns:
        Detections in pixels of the picture, best score first.
    """
    if len(parts) == 1:
        return parts[0].shifted(windows[0].x, windows[0].y)
    shifted = [
        part.take(_is_owned(part.boxes, window, windows, image_size)).shifted(window.x, window.y)
        for part, window in zip(parts, windows, strict=True)
    ]
    together = Detections.concatenate(shifted)
    sources = np.repeat(np.arange(len(shifted)), [len(part) for part in shifted])
    kept = rotated_nms(
        together.boxes,
        together.scores,
        together.labels,
        iou_threshold=iou_threshold,
        sources=sources,
        cross_iou_threshold=cross_iou_threshold,
    )
    return together.take(kept[:max_detections])


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if length <= tile:
        return [0]
    starts = list(range(0, length - tile, tile - overlap))
    return [*starts, length - tile]


def _is_owned(boxes: np.ndarray, window: Window, windows: Sequence[Window], image_size: tuple[int, int]) -> np.ndarray:
    """Return (n,) bool: the centre is not deep in the part that a neighbour sees better."""
    left, right = _limits(window.x, window.width, sorted({w.x for w in windows}), image_size[1])
    top, bottom = _limits(window.y, window.height, sorted({w.y for w in windows}), image_size[0])
    # Two looks at one object differ a little: without slack both tiles could disown it.
    slack = 2 + boxes[:, 2:4].max(axis=1, initial=0) / 4
    x, y = boxes[:, 0], boxes[:, 1]
    inside: np.ndarray = (x >= left - slack) & (x <= right + slack) & (y >= top - slack) & (y <= bottom + slack)
    return inside


def _limits(start: int, size: int, starts: list[int], length: int) -> tuple[float, float]:
    """Return where the tile's own part begins and ends in its own pixels: the middle of each overlap."""
    position = starts.index(start)
    low, high = -np.inf, np.inf
    if position > 0:
        low = (starts[position - 1] + size - start) / 2
    if position + 1 < len(starts) and start + size < length:
        high = (starts[position + 1] - start + size) / 2
    return low, high
