"""Cells of feature maps, laid over the network's input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compress.errors import DetectorError


def level_cells(rows: int, columns: int) -> np.ndarray:
    """Return (rows * columns, 2) float32: column and row of every cell, row by row."""
    row, column = np.divmod(np.arange(rows * columns), max(columns, 1))
    return np.stack([column, row], axis=1).astype(np.float32)


def grid_sizes(input_size: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return (rows, columns) of the map of each stride for an input of (height, width) px.

    A convolution of stride 2 that pads leaves a half cell as a whole one, so sizes are rounded up.
    """
    return [(-(-input_size[0] // stride), -(-input_size[1] // stride)) for stride in strides]


def all_cells(input_size: tuple[int, int], strides: Sequence[int], num_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells of all levels, one level after the other.

    Args:
        input_size: (height, width) of the network's input, px.
        strides: pixels a cell of each level.
        num_cells: how many the network gives.

    Returns:
        (A, 2) float32 column and row, and (A, 1) float32 stride.

    Raises:
        DetectorError: the network gives another number.
    """
    sizes = grid_sizes(input_size, strides)
    total = sum(rows * columns for rows, columns in sizes)
    if total != num_cells:
        raise DetectorError(
            f"raw outputs: {num_cells} boxes; strides {list(strides)} on {input_size[0]}x{input_size[1]} px make "
            f"{total}. Correct strides or image_size."
        )
    cells = np.concatenate([level_cells(*size) for size in sizes])
    counts = [rows * columns for rows, columns in sizes]
    return cells, np.repeat(np.asarray(strides, np.float32), counts)[:, None]
