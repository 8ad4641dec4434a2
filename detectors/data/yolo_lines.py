"""One line of a YOLO label file to the four corners of its box.

All numbers but the class are shares of the picture's width (x) and height (y), from its upper left corner, 0..1:

    class cx cy w h                          detect: an upright box
    class x1 y1 x2 y2 x3 y3 x4 y4            OBB: four corners
    class x1 y1 x2 y2 x3 y3 ...              segment: a polygon, of which the smallest rotated rectangle is taken
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.data.labels import DegenerateBoxError, plain_float
from detectors.geometry.minimal_rectangle import minimal_rectangle

DETECT, OBB, SEGMENT_AT_LEAST = 5, 9, 7  # columns
# A rotated box whose object is cut by the border has corners outside. What lies farther out than the picture is large
# was written in pixels.
LOWEST, HIGHEST = -1.0, 2.0


def parse_line(line: str, num_classes: int, image_size: tuple[int, int]) -> tuple[tuple[float, ...], int]:
    """Return (corners x1, y1, ..., x4, y4 in px, index of the class) of a line.

    Args:
        line: with at least one column.
        num_classes: of the data set.
        image_size: (height, width), px.

    Raises:
        ValueError: the line is wrong; the text says what, with the value, and what was expected.
    """
    columns = line.split()
    count = len(columns)
    if count < DETECT or count == DETECT + 1 or count % 2 == 0:
        hint = "; it looks like a line of DOTA's labels, set data.format: dota" if _is_of_dota(columns) else ""
        raise ValueError(
            f"{count} columns, expected 5 (class cx cy w h), 9 (class x1 y1 x2 y2 x3 y3 x4 y4) or a class and an even "
            f"number of coordinates, 6 at least{hint}"
        )
    label = _label(columns[0], num_classes)
    shares = np.array([_share(column, index) for index, column in enumerate(columns[1:], start=2)])
    size = np.array([image_size[1], image_size[0]], np.float64)
    if count == DETECT:
        cx, cy, w, h = shares
        if w <= 0 or h <= 0:
            kind = ValueError if min(w, h) < 0 else DegenerateBoxError
            raise kind(f"width {columns[3]} and height {columns[4]}, expected both above 0")
        left, top, right, bottom = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) * size
    else:
        corners = shares.reshape(-1, 2) * size
        if count != OBB:
            corners = minimal_rectangle(corners)
    return tuple(corners.reshape(-1).tolist()), label


def format_detect(label: int, quad: Sequence[float], image_size: tuple[int, int]) -> str:
    """Return the line `class cx cy w h` of the upright rectangle around a quadrilateral (px).

    Raises:
        ValueError: it reaches so far out that no reader would take the line.
    """
    points = np.array(quad, np.float64).reshape(4, 2) / (image_size[1], image_size[0])
    low, high = points.min(axis=0), points.max(axis=0)
    return _line(label, [*((low + high) / 2), *(high - low)])


def format_obb(label: int, quad: Sequence[float], image_size: tuple[int, int]) -> str:
    """Return the line `class x1 y1 x2 y2 x3 y3 x4 y4` of a quadrilateral (px).

    Raises:
        ValueError: as for `format_detect`.
    """
    points = np.array(quad, np.float64).reshape(4, 2) / (image_size[1], image_size[0])
    return _line(label, points.reshape(-1))


def _line(label: int, shares: Sequence[float] | np.ndarray) -> str:
    if not all(LOWEST <= share <= HIGHEST for share in shares):
        raise ValueError(
            f"a box reaches from {min(shares):g} to {max(shares):g} of the picture's size, expected 0 to 1"
        )
    # 12 digits: a pixel of a picture of 100,000 px keeps 7 of its own.
    return f"{label} {' '.join(f'{share:.12g}' for share in shares)}\n"


def _is_of_dota(columns: Sequence[str]) -> bool:
    return len(columns) == 10 and columns[9] in ("0", "1", "2") and any(letter.isalpha() for letter in columns[8])


def _label(text: str, num_classes: int) -> int:
    try:
        value = plain_float(text)
    except ValueError:
        value = -1.0
    if not value.is_integer() or not 0 <= value < num_classes:
        raise ValueError(f"class is '{text}', expected a whole number from 0 to {num_classes - 1}")
    return int(value)


def _share(text: str, column: int) -> float:
    try:
        value = plain_float(text)
    except ValueError:
        raise ValueError(f"column {column} is '{text}', expected a number from 0 to 1") from None
    if not LOWEST <= value <= HIGHEST:  # nan too
        hint = "; is it in pixels? Divide x by the width and y by the height" if value > HIGHEST else ""
        raise ValueError(f"column {column} is {text}, expected a share of the picture's size, 0 to 1{hint}")
    return value
