"""Patches of large aerial images: their windows, names and objects. No file is touched; imports no torch.

The method is MMRotate's, so that a network trained on patches from either program saw the same data.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.errors import DataError

CUT = 2  # column `difficult` of an object that the border of its patch cuts
SHARE_TOLERANCE = 0.01  # windows this close to the fullest one count as equally full
CUT_TOLERANCE = 1e-6  # share of an object's area; less outside is rounding
_NAME = re.compile(r"(?P<image>.+)__(?P<side>\d+)__(?P<x>\d+)___(?P<y>\d+)")


@dataclass(frozen=True)
class PatchSettings:
    """How images are cut.

    Attributes:
        size_px: side of a patch, as the network takes it.
        overlap_px: pixels that neighbours share.
        scales: a window at scale s has the side size_px / s, so 0.5 shows twice as much at half the size.
        min_image_share: windows that hold less image are dropped, unless an image has no fuller ones.
        min_object_share: share of an object's area from which it belongs to a patch.
        padding: B, G, R outside the image, 0..255.
        resize: bring windows of all scales to size_px; False writes them in the image's own pixels.
    """

    size_px: int = 1024
    overlap_px: int = 200
    scales: tuple[float, ...] = (1.0,)
    min_image_share: float = 0.6
    min_object_share: float = 0.7
    padding: tuple[int, int, int] = (104, 116, 124)
    resize: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_px < self.size_px:
            raise DataError(f"overlap: {self.overlap_px} px does not fit into patches of {self.size_px} px.")
        if not self.scales or min(self.scales) <= 0:
            raise DataError(f"scales: {list(self.scales)}, expected numbers above 0, e.g. 0.5 1.0 1.5.")
        if not 0 <= self.min_image_share < 1 or not 0 < self.min_object_share <= 1:
            raise DataError(
                f"shares: image {self.min_image_share}, object {self.min_object_share}, expected 0 to 1 each."
            )

    def sides(self) -> list[tuple[int, int]]:
        """Return (side, overlap) of the windows of each scale, pixels of the image."""
        return [(int(self.size_px / scale), int(self.overlap_px / scale)) for scale in self.scales]


@dataclass(frozen=True)
class Patch:
    """A square window of an image; it may reach beyond the right and lower border.

    Attributes:
        image: name of the image.
        side_px: in pixels of the image.
        x, y: left and top, px.
    """

    image: str
    side_px: int
    x: int
    y: int

    @property
    def name(self) -> str:
        """Return the name of the patch's files: image__side__x___y."""
        return f"{self.image}__{self.side_px}__{self.x}___{self.y}"

    @classmethod
    def from_name(cls, name: str) -> Patch:
        """Return what `name` made.

        Raises:
            DataError: it is no name of a patch.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise DataError(
                f"{name}: no patch name, expected IMAGE__SIDE__X___Y as `krimp data prepare-dota` and MMRotate write."
            )
        return cls(match["image"], int(match["side"]), int(match["x"]), int(match["y"]))


def image_patches(image: str, image_size: tuple[int, int], settings: PatchSettings) -> list[Patch]:
    """Return the patches of an image, scale by scale, column by column.

    Args:
        image: its name.
        image_size: (height, width), px.
        settings: how to cut.

    Returns:
        At least one patch. Each pixel is in one unless `min_image_share` drops windows of one scale
        in favour of fuller ones of another.

    Source:
        MMRotate, tools/data/dota/split/img_split.py, `get_sliding_window`.
    """
    height, width = image_size
    patches, shares = [], []
    for side, overlap in settings.sides():
        for x, y in itertools.product(_starts(width, side, overlap), _starts(height, side, overlap)):
            patches.append(Patch(image, side, x, y))
            shares.append((min(x + side, width) - x) * (min(y + side, height) - y) / side**2)
    fullest = max(shares)
    if fullest <= settings.min_image_share:
        return [p for p, share in zip(patches, shares, strict=True) if abs(share - fullest) < SHARE_TOLERANCE]
    return [p for p, share in zip(patches, shares, strict=True) if share > settings.min_image_share]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Return where windows start along one axis; the last one ends at the border of a longer image."""
    if length <= side:
        return [0]
    step = side - overlap
    count = math.ceil((length - side) / step + 1)
    return [min(step * index, length - side) for index in range(count)]


def objects_in_patches(
    quads: np.ndarray, patches: Sequence[Patch], min_object_share: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each patch the objects that belong to it.

    Args:
        quads: (n, 8), x1, y1, ..., x4, y4, px of the image; any simple or self-crossing quadrilateral.
        patches: windows of the image.
        min_object_share: share of an object's area inside a window from which it belongs to it.

    Returns:
        For each patch: (k,) int64 indices of its objects in order, and (k,) bool, whether the border cuts them.
    """
    inside = _inside_shares(np.asarray(quads, np.float64).reshape(-1, 8), patches)
    chosen = []
    for column in inside.T:
        index = np.flatnonzero(column >= min_object_share)
        chosen.append((index, column[index] < 1 - CUT_TOLERANCE))
    return chosen


def _inside_shares(quads: np.ndarray, patches: Sequence[Patch]) -> np.ndarray:
    """Return the share of each object's area in each window, (n, m) float64, 0 for objects without area."""
    import shapely

    corners = quads.reshape(-1, 4, 2)
    low, high = corners.min(axis=1, initial=np.inf), corners.max(axis=1, initial=-np.inf)
    start = np.array([(p.x, p.y) for p in patches], np.float64).reshape(-1, 2)
    stop = start + np.array([[p.side_px] for p in patches], np.float64)
    shares: np.ndarray = ((low[:, None] >= start) & (high[:, None] <= stop)).all(axis=2).astype(np.float64)
    touches = ((low[:, None] < stop) & (high[:, None] > start)).all(axis=2)
    rows, columns = np.nonzero(touches & (shares == 0))
    shapes = shapely.make_valid(shapely.polygons(corners))  # GEOS refuses to cut quadrilaterals that cross themselves
    areas = shapely.area(shapes)
    windows = shapely.box(*start[columns].T, *stop[columns].T)
    shares[rows, columns] = shapely.area(shapely.intersection(shapes[rows], windows)) / np.maximum(areas[rows], 1e-6)
    shares[areas <= 0] = 0
    return shares


def patch_quads(quads: np.ndarray, patch: Patch, patch_px: int) -> np.ndarray:
    """Return objects in pixels of the patch.

    Args:
        quads: (k, 8), px of the image.
        patch: the window.
        patch_px: side of the patch as written.

    Returns:
        (k, 8) float32; corners may lie outside the patch.
    """
    moved = np.asarray(quads, np.float32).reshape(-1, 4, 2) - np.array([patch.x, patch.y], np.float32)
    return (moved * np.float32(patch_px / patch.side_px)).reshape(-1, 8)


def cut_patch(image: np.ndarray, patch: Patch, settings: PatchSettings) -> np.ndarray:
    """Return the pixels of a patch.

    Args:
        image: (H, W, 3) uint8, BGR.
        patch: the window; what lies outside the image is filled with `settings.padding`.
        settings: reads padding, size and whether to resize (bilinear).

    Returns:
        (s, s, 3) uint8, s the side of the patch or, resized, of the settings.
    """
    import cv2

    part = image[patch.y : patch.y + patch.side_px, patch.x : patch.x + patch.side_px]
    if part.shape[:2] != (patch.side_px, patch.side_px):
        padded = np.empty((patch.side_px, patch.side_px, 3), np.uint8)
        padded[...] = settings.padding
        padded[: part.shape[0], : part.shape[1]] = part
        part = padded
    if settings.resize and patch.side_px != settings.size_px:
        part = cv2.resize(part, (settings.size_px, settings.size_px), interpolation=cv2.INTER_LINEAR)
    return part
