"""One DOTA label file: parsing, and one sentence for each way in which a line can be wrong.

A line is `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, pixels. Lines that start with `imagesource:` or `gsd:` are headers.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

HEADERS = ("imagesource:", "gsd:")
CORNERS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
IGNORED = -1  # label index of a class that is ignored
MIN_AREA_PX = 1e-3  # a quadrilateral below is a line or a point


@dataclass(frozen=True)
class LabelledObject:
    """One labelled object, in whatever format it was written.

    Attributes:
        quad: x1, y1, ..., x4, y4, px.
        label: index of its class, `IGNORED` for an ignored class.
        ignored: it is neither trained on nor scored (ignored class, or difficult).
        difficult: the column of that name; 1 difficult, 2 cut by the border of a patch.
    """

    quad: tuple[float, ...]
    label: int
    ignored: bool
    difficult: int = 0


class DegenerateBoxError(ValueError):
    """A line in good form whose box has no area."""


def check_class_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return class names of a recipe as they are.

    Raises:
        ValueError: one is listed twice, or a label file could not hold it.
    """
    counts = Counter(classes)
    for name in classes:
        if not name or any(letter.isspace() for letter in name):
            raise ValueError(f"class {name!r} is empty or has white space, which DOTA label files cannot hold")
        if counts[name] > 1:
            raise ValueError(f"class {name!r} is listed {counts[name]} times; expected each once")
    return classes


def parse_labels(
    text: str, table: Mapping[str, int], *, image_size: tuple[int, int] | None = None
) -> tuple[list[LabelledObject], list[tuple[int, str]]]:
    """Parse the text of a label file.

    Args:
        text: content of the file.
        table: class name -> label index, `IGNORED` for ignored classes.
        image_size: (height, width), px; given, boxes that lie wholly outside are problems.

    Returns:
        The objects, and the problems as (line number from 1, what is wrong and what was expected).
    """
    objects: list[LabelledObject] = []
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.lower().startswith(HEADERS):
            continue
        try:
            objects.append(parse_line(stripped, table, image_size=image_size))
        except ValueError as error:
            problems.append((number, str(error)))
    return objects, problems


def parse_line(line: str, table: Mapping[str, int], *, image_size: tuple[int, int] | None = None) -> LabelledObject:
    """Parse one object line; arguments as in `parse_labels`.

    Raises:
        ValueError: the line is wrong; the text says what, with the value, and what was expected
            (`DegenerateBoxError` where only the area is).
    """
    columns = line.split()
    if len(columns) != 10:
        hint = " The last one, difficult (0 or 1), seems to be missing." if len(columns) == 9 else ""
        raise ValueError(
            f"{len(columns)} columns, expected 10 (x1 y1 x2 y2 x3 y3 x4 y4 class difficult, separated by blanks).{hint}"
        )
    quad = _quad(columns[:8])
    label = label_of(columns[8], table)
    if columns[9] not in ("0", "1", "2"):
        raise ValueError(f"difficult is '{columns[9]}', expected 0, 1 or 2.")
    check_geometry(quad, image_size)
    difficult = int(columns[9])
    return LabelledObject(quad=quad, label=label, ignored=label == IGNORED or difficult > 0, difficult=difficult)


def _quad(columns: list[str]) -> tuple[float, ...]:
    values = []
    for name, column in zip(CORNERS, columns, strict=True):
        try:
            value = float(column)
        except ValueError:
            raise ValueError(f"{name} is '{column}', expected a number in pixels.") from None
        if not math.isfinite(value):
            raise ValueError(f"{name} is {column}, expected a finite number in pixels.")
        values.append(value)
    return tuple(values)


def label_of(name: str, table: Mapping[str, int]) -> int:
    """Return the label index of a class name.

    Raises:
        ValueError: it is none of the table.
    """
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, n=1)
    nearest = f" Did you mean '{close[0]}'?" if close else ""
    raise ValueError(
        f"unknown class '{name}', expected one of {', '.join(table)}.{nearest} "
        "Other classes go into data.ignore or data.merge."
    )


def check_geometry(quad: tuple[float, ...], image_size: tuple[int, int] | None) -> None:
    """Refuse a box that cannot be one.

    Args:
        quad: x1, y1, ..., x4, y4, px.
        image_size: (height, width), px; None: where the box lies is not looked at.

    Raises:
        ValueError: it lies wholly outside the image (`DegenerateBoxError`: it has no area).
    """
    points = np.array(quad, np.float64).reshape(4, 2)
    x, y = points[:, 0] - points[0, 0], points[:, 1] - points[0, 1]
    area = abs(float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)) / 2
    if area < MIN_AREA_PX:
        raise DegenerateBoxError(f"degenerate box: its area is {area:.3g} px^2, expected four corners of a rectangle.")
    if image_size is None:
        return
    height, width = image_size
    left, top = points.min(axis=0)
    right, bottom = points.max(axis=0)
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise ValueError(
            f"the box (x {left:g} to {right:g}, y {top:g} to {bottom:g}) lies outside the image of "
            f"{width} x {height} px, expected at least a part of it inside."
        )
