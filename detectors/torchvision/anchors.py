"""The boxes that a network's raw maps are relative to. NumPy only: training and deployment use the same code.

A description (JSON-able, part of the model's metadata) says which boxes each cell of each level has:
`{"kind": "grid", "sizes_px": [[...], ...], "aspect_ratios": [[...], ...]}` for RetinaNet and FCOS, or
`{"kind": "shares", "shares": [[[w, h], ...], ...]}` for SSDlite, where w and h are shares of the deployed input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

STRIDES = (8, 16, 32, 64, 128)  # px, P3..P7
RETINANET_RATIOS = (0.5, 1.0, 2.0)  # height / width
SSD_RATIOS = (2.0, 3.0)


def retinanet_anchors(scale: float) -> dict[str, Any]:
    """Describe nine anchors a cell: three sizes from `scale` strides upwards, three aspect ratios each.

    Source:
        torchvision 0.25, models/detection/retinanet.py, `_default_anchorgen` (scale 4).
    """
    sizes = []
    for stride in STRIDES:
        side = scale * stride
        sizes.append([side, float(int(side * 2 ** (1 / 3))), float(int(side * 2 ** (2 / 3)))])
    return {"kind": "grid", "sizes_px": sizes, "aspect_ratios": [list(RETINANET_RATIOS)] * len(STRIDES)}


def fcos_anchors() -> dict[str, Any]:
    """Describe one square a cell, as large as the stride: FCOS reads its centre and size."""
    return {"kind": "grid", "sizes_px": [[float(s)] for s in STRIDES], "aspect_ratios": [[1.0]] * len(STRIDES)}


def ssd_boxes(smallest: float, largest: float, num_levels: int) -> dict[str, Any]:
    """Describe SSD's six default boxes a cell.

    Args:
        smallest: side on the finest level, share of the image.
        largest: side on the coarsest level.
        num_levels: levels.

    Source:
        Liu et al. 2016, arXiv 1512.02325, section 2.2; torchvision 0.25, `DefaultBoxGenerator`.
    """
    scales = [smallest + (largest - smallest) * k / (num_levels - 1.0) for k in range(num_levels)] + [1.0]
    shares = []
    for scale, following in pairwise(scales):
        between = math.sqrt(scale * following)
        pairs = [[scale, scale], [between, between]]
        for ratio in SSD_RATIOS:
            wide, narrow = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            pairs += [[wide, narrow], [narrow, wide]]
        shares.append([[min(max(side, 0.0), 1.0) for side in pair] for pair in pairs])
    return {"kind": "shares", "shares": shares}


def boxes_per_cell(description: Mapping[str, Any], level: int) -> int:
    """Return how many boxes each cell of a level has."""
    if description["kind"] == "shares":
        return len(description["shares"][level])
    return len(description["sizes_px"][level]) * len(description["aspect_ratios"][level])


def level_boxes(
    description: Mapping[str, Any],
    shapes: Sequence[tuple[int, int]],
    input_size: tuple[int, int],
    deployed_size: tuple[int, int],
) -> list[np.ndarray]:
    """Return the boxes of every level, row by row, those of a cell together.

    Args:
        description: see the module.
        shapes: (rows, columns) of each level's maps.
        input_size: (height, width) of the images these maps come from, px.
        deployed_size: (height, width) that shares refer to, px; training crops may be smaller.

    Returns:
        Per level (rows * columns * boxes, 4) float32, x1, y1, x2, y2, px.

    Source:
        torchvision 0.25, `AnchorGenerator` (its strides are whole pixels: size // cells) and `DefaultBoxGenerator`.
    """
    make = _default_boxes if description["kind"] == "shares" else _grid_anchors
    return [make(description, level, shape, input_size, deployed_size) for level, shape in enumerate(shapes)]


def _grid_anchors(
    description: Mapping[str, Any], level: int, shape: tuple[int, int], input_size: tuple[int, int], _: Any
) -> np.ndarray:
    sizes = np.asarray(description["sizes_px"][level], np.float32)
    tall = np.sqrt(np.asarray(description["aspect_ratios"][level], np.float32))
    widths = ((np.float32(1) / tall)[:, None] * sizes[None, :]).ravel()
    heights = (tall[:, None] * sizes[None, :]).ravel()
    around = np.round(np.stack([-widths, -heights, widths, heights], axis=1) / np.float32(2))
    y = np.arange(shape[0], dtype=np.float32) * np.float32(input_size[0] // shape[0])
    x = np.arange(shape[1], dtype=np.float32) * np.float32(input_size[1] // shape[1])
    y, x = (grid.ravel() for grid in np.meshgrid(y, x, indexing="ij"))
    cells = np.stack([x, y, x, y], axis=1)
    return (cells[:, None] + around[None]).reshape(-1, 4)


def _default_boxes(
    description: Mapping[str, Any],
    level: int,
    shape: tuple[int, int],
    input_size: tuple[int, int],
    deployed_size: tuple[int, int],
) -> np.ndarray:
    size = np.asarray(input_size[::-1], np.float32)
    sides = np.asarray(description["shares"][level], np.float32)
    if input_size != deployed_size:
        sides = sides * (np.asarray(deployed_size[::-1], np.float32) / size)
    y = (np.arange(shape[0], dtype=np.float32) + np.float32(0.5)) / np.float32(shape[0])
    x = (np.arange(shape[1], dtype=np.float32) + np.float32(0.5)) / np.float32(shape[1])
    y, x = (grid.ravel() for grid in np.meshgrid(y, x, indexing="ij"))
    centres = np.repeat(np.stack([x, y], axis=1), len(sides), axis=0)
    half = np.float32(0.5) * np.tile(sides, (shape[0] * shape[1], 1))
    return np.concatenate([(centres - half) * size, (centres + half) * size], axis=1)
