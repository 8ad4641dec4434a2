"""FastestDet: one map, one box a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.heads.boxes import corners_of_centres, in_pixels
from detectors.heads.grids import level_cells
from detectors.heads.head import Candidates, NoSettings, Request, odd_outputs
from detectors.heads.scores import best_classes, probabilities, sigmoid


def fastestdet(raw: Sequence[np.ndarray], settings: NoSettings, request: Request) -> list[Candidates]:
    """Decode (N, 5 + C, h, w): objectness, four numbers of a box, class scores.

    The centre is the cell's corner and the hyperbolic tangents of the first two, in cells; the sides are the sigmoids
    of the others, as shares of the input. A cell has its best class, with score objectness^0.6 * class^0.4.

    Source:
        dog-qiuqiu/FastestDet, `handle_preds`.
    """
    values = request.num_classes + 5
    if len(raw) != 1 or raw[0].ndim != 4 or raw[0].shape[1] != values:
        raise odd_outputs(raw, f"(N, {values}, h, w)")
    rows, columns = raw[0].shape[2:]
    cells, shares = level_cells(rows, columns), np.array([[columns, rows]], np.float32)
    found = []
    for one in np.asarray(raw[0], np.float32).reshape(len(raw[0]), values, -1):
        one = one.T
        scores = probabilities(one[:, :1]) ** np.float32(0.6) * probabilities(one[:, 5:]) ** np.float32(0.4)
        row, label, score = best_classes(scores, request.threshold, request.count)
        centres = (np.tanh(one[row, 1:3]) + cells[row]) / shares
        boxes = np.concatenate([centres, sigmoid(one[row, 3:5])], axis=1)
        found.append(Candidates(in_pixels(corners_of_centres(boxes), request.input_size), score, label))
    return found
