"""YOLOX: one box a cell, with or without the grid in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from detectors.geometry.metadata import Bounded, Strides
from detectors.heads.boxes import corners_of_centres
from detectors.heads.grids import all_cells
from detectors.heads.head import Candidates, Request, odd_outputs, only
from detectors.heads.scores import best_pairs, probabilities

_LOG_LIMIT = np.float32(20)  # of a side in strides: larger ones are no boxes, and would overflow


class YoloxSettings(Bounded):
    """Settings of YOLOX.

    Attributes:
        decoded: boxes are cx, cy, w, h in pixels; else offsets in cells and logarithms of sides in strides.
        strides: pixels a cell of each level, where boxes are not decoded.
    """

    decoded: bool = False
    strides: Strides = Field(default=[8, 16, 32])


def yolox(raw: Sequence[np.ndarray], settings: YoloxSettings, request: Request) -> list[Candidates]:
    """Decode (N, A, 5 + C): box, objectness and class scores, which are multiplied.

    Source:
        Ge et al. 2021, arXiv 2107.08430; YOLOX 0.3, `decode_outputs`.
    """
    values = request.num_classes + 5
    rows = only(raw, f"(N, boxes, {values})")
    if rows.shape[2] != values:
        raise odd_outputs(raw, f"(N, boxes, {values})")
    cells = None if settings.decoded else all_cells(request.input_size, settings.strides, rows.shape[1])
    found = []
    for one in rows:
        scores = probabilities(one[:, 4:5]) * probabilities(one[:, 5:])
        row, label, score = best_pairs(scores, request.threshold, request.count)
        boxes = one[row, :4]
        if cells is not None:
            boxes = on_grid(boxes, cells[0][row], cells[1][row])
        found.append(Candidates(corners_of_centres(boxes), score, label))
    return found


def on_grid(offsets: np.ndarray, cells: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """Return boxes cx, cy, w, h in pixels.

    Args:
        offsets: (n, 4), dx and dy in cells from the cell's corner, logarithms of the sides in strides.
        cells: (n, 2) column and row.
        strides: (n, 1) pixels a cell.
    """
    sides = np.exp(np.minimum(offsets[:, 2:4], _LOG_LIMIT))
    boxes: np.ndarray = np.concatenate([offsets[:, :2] + cells, sides], axis=1) * strides
    return boxes
