"""One DOTA label file: parsing, and one sentence for each way in which a line can be wrong.

A line is `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, pixels. Lines that start with `imagesource:` or `gsd:` are headers.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

HEADERS = ("imagesource:", "gsd:")
CORNERS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
IGNORED = -1  # label index of a class that is ignored
MIN_AREA_PX = 1e-3  # a quadrilateral below is a line or a point
MAX_PX = 1e9  # no picture is that large
_YOLO_HINT = (
    " It looks like a line of YOLO (class and shares of the picture): set data.format: yolo, or turn the data set into "
    "DOTA's format with `krimp data convert`."
)
SHARES = (
    "this box and all others lie inside the first pixel, expected pixels. They look like shares of the picture's size: "
    "multiply x by its width and y by its height."
)
COLUMNS = "x1 y1 x2 y2 x3 y3 x4 y4 class difficult, separated by blanks"


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


class EmptyBoxError(ValueError):
    """A line in good form whose box holds no pixel of its image: nothing that could be learnt or found.

    Such boxes occur in published data sets. They are dropped, counted and told, wherever labels are read.
    """


class DegenerateBoxError(EmptyBoxError):
    """The box has no area."""


class OutsideBoxError(EmptyBoxError):
    """The box lies wholly outside its image."""


def check_class_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return class names of a recipe as they are.

    Raises:
        ValueError: one is listed twice, or a label file could not hold it.
    """
    counts = Counter(classes)
    for name in classes:
        if not name or any(letter.isspace() for letter in name):
            near = f"; write {'-'.join(name.split())!r}" if name.strip() else ""
            raise ValueError(f"class {name!r} is empty or has white space, which DOTA label files cannot hold{near}")
        if counts[name] > 1:
            raise ValueError(f"class {name!r} is listed {counts[name]} times; expected each once")
    return classes


class DroppedBox(str):
    """The place of a box and why it is empty (`EmptyBoxError`), among problems: its file is right without it."""

    __slots__ = ()


class LineProblem(NamedTuple):
    """What is wrong with a line.

    Attributes:
        line: its number, from 1.
        text: what is wrong and what was expected.
        dropped: only its box is empty (`EmptyBoxError`); the file is right without it.
    """

    line: int
    text: str
    dropped: bool


def parse_labels(
    text: str, table: Mapping[str, int], *, image_size: tuple[int, int] | None = None
) -> tuple[list[LabelledObject], list[LineProblem]]:
    """Parse the text of a label file.

    Args:
        text: content of the file.
        table: class name -> label index, `IGNORED` for ignored classes.
        image_size: (height, width), px; given, boxes that lie wholly outside are dropped.

    Returns:
        The objects, and what is wrong.
    """
    objects: list[LabelledObject] = []
    problems: list[LineProblem] = []
    first = 0
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.lower().startswith(HEADERS):
            continue
        try:
            objects.append(parse_line(stripped, table, image_size=image_size))
            first = first or number
        except ValueError as error:
            problems.append(LineProblem(number, str(error), isinstance(error, EmptyBoxError)))
    if are_shares(objects):
        problems.append(LineProblem(first, SHARES, dropped=False))
    return objects, problems


def are_shares(objects: Sequence[LabelledObject]) -> bool:
    """Return whether all boxes lie inside the first pixel, by fractions of it: they are in another unit."""
    values = [value for item in objects for value in item.quad]
    return bool(values) and all(0 <= value <= 1 for value in values) and not all(v.is_integer() for v in values)


def parse_line(line: str, table: Mapping[str, int], *, image_size: tuple[int, int] | None = None) -> LabelledObject:
    """Parse one object line; arguments as in `parse_labels`.

    Raises:
        ValueError: the line is wrong; the text says what, with the value, and what was expected
            (`EmptyBoxError` where the box alone holds nothing of the image).
    """
    columns = line.split()
    if len(columns) != 10:
        raise ValueError(f"{len(columns)} columns, expected 10 ({COLUMNS}).{_form_hint(columns, table)}")
    quad = _quad(columns[:8])
    if is_of_yolo(columns):
        raise ValueError(f"class is '{columns[8]}', expected a name.{_YOLO_HINT}")
    label = label_of(columns[8], table)
    if columns[9] not in ("0", "1", "2"):
        raise ValueError(f"difficult is '{columns[9]}', expected 0, 1 or 2.")
    check_geometry(quad, image_size)
    difficult = int(columns[9])
    return LabelledObject(quad=quad, label=label, ignored=label == IGNORED or difficult > 0, difficult=difficult)


def _form_hint(columns: Sequence[str], table: Mapping[str, int]) -> str:
    """Return what a line of another number of columns seems to be, '' where nothing is near."""
    for sign, what in ((",", "commas"), (";", "semicolons")):
        if sign in "".join(columns) and len([part for part in sign.join(columns).split(sign) if part]) >= 9:
            return f" It has {what}; write blanks."
    if columns[0].startswith(("<", "{", "[")):
        return " It looks like XML or JSON, which are no labels of DOTA."
    numbers = [_number(column) for column in columns]
    if None not in numbers:
        return _numbers_hint(columns)
    if len(columns) == 9 and None not in numbers[:8]:
        return " The last one, difficult (0 or 1), seems to be missing."
    if len(columns) > 10 and None not in numbers[:8] and columns[-1] in ("0", "1", "2"):
        name = columns[8:-1]
        if any(_number(part) is None for part in name):
            same = [known for known in table if _plain(known) == _plain("".join(name))]
            joined = same[0] if same else "-".join(name)
            return f" The class '{' '.join(name)}' has a blank; write '{joined}'."
    if len(columns) == 11 and None not in numbers[:8] and numbers[10] is not None:
        return " The last one looks like a score, which labels do not have."
    if 5 <= len(columns) <= 7 and None in (numbers[0], numbers[-1]):
        return " It looks like an upright or turned box of two corners or a centre; four corners are needed."
    return ""


def _numbers_hint(columns: Sequence[str]) -> str:
    """Return what a line of numbers alone seems to be."""
    if is_of_yolo(columns):
        return _YOLO_HINT
    if len(columns) in (8, 9):
        return " The class and difficult (0 or 1) seem to be missing."
    if len(columns) in (5, 6):
        return " It looks like a class and an upright or turned box; four corners and the class's name are needed."
    return ""


def is_of_yolo(columns: Sequence[str]) -> bool:
    """Return whether the columns of a line are the index of a class and shares of the picture's size."""
    found = [_number(column) for column in columns]
    numbers = [number for number in found if number is not None]
    if len(numbers) < 5 or len(numbers) < len(found) or not numbers[0].is_integer():
        return False
    return all(-1 <= share <= 2 for share in numbers[1:]) and not all(share.is_integer() for share in numbers[1:])


def plain_float(text: str) -> float:
    """Return the number of a column; Python's own underscores between digits are none.

    Raises:
        ValueError: it is no number.
    """
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _number(text: str) -> float | None:
    try:
        value = plain_float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _quad(columns: list[str]) -> tuple[float, ...]:
    values = []
    for name, column in zip(CORNERS, columns, strict=True):
        try:
            value = plain_float(column)
        except ValueError:
            hint = " It has commas; write blanks." if "," in column else ""
            if column.count(",") == 1 and all(column.split(",")) and _number(column.replace(",", ".")) is not None:
                hint = " It has a comma for the decimal point; write '.'."
            raise ValueError(f"{name} is '{column}', expected a number in pixels.{hint}") from None
        if not math.isfinite(value):
            raise ValueError(f"{name} is {column}, expected a finite number in pixels.")
        if abs(value) > MAX_PX:
            raise ValueError(f"{name} is {column}, expected a number of pixels, {MAX_PX:.0e} at most.")
        values.append(value)
    return tuple(values)


def label_of(name: str, table: Mapping[str, int]) -> int:
    """Return the label index of a class name.

    Raises:
        ValueError: it is none of the table.
    """
    if name in table:
        return table[name]
    close = _near(name, table)
    nearest = f" Did you mean '{close}'?" if close else ""
    raise ValueError(
        f"unknown class '{name}', expected one of {', '.join(table)}.{nearest} "
        "Other classes go into data.ignore or data.merge."
    )


def _near(name: str, table: Mapping[str, int]) -> str | None:
    """Return the class that differs by case, hyphens or little else."""
    plain = {_plain(known): known for known in table}
    return plain.get(_plain(name)) or next(iter(difflib.get_close_matches(name, table, n=1)), None)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def check_geometry(quad: tuple[float, ...], image_size: tuple[int, int] | None) -> None:
    """Refuse a box that cannot be one.

    Args:
        quad: x1, y1, ..., x4, y4, px.
        image_size: (height, width), px; None: where the box lies is not looked at.

    Raises:
        OutsideBoxError: it lies wholly outside the image.
        DegenerateBoxError: it has no area, also once its corners are rounded to float32.
        ValueError: a corner lies where no picture reaches.
    """
    if not all(abs(value) <= MAX_PX for value in quad):  # false for nan, too
        raise ValueError(f"a corner lies at {max(map(abs, quad)):g} px, expected {MAX_PX:.0e} at most.")
    points = np.array(quad, np.float64).reshape(4, 2)
    x, y = points[:, 0] - points[0, 0], points[:, 1] - points[0, 1]
    area = abs(float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)) / 2
    # What training and scoring see is the smallest rectangle around the corners in float32.
    if area < MIN_AREA_PX or min(cv2.minAreaRect(points.astype(np.float32))[1]) <= 0:
        raise DegenerateBoxError(f"degenerate box: its area is {area:.3g} px^2, expected four corners of a rectangle.")
    if image_size is not None and is_outside(quad, image_size):
        height, width = image_size
        left, top = points.min(axis=0)
        right, bottom = points.max(axis=0)
        raise OutsideBoxError(
            f"the box (x {left:g} to {right:g}, y {top:g} to {bottom:g}) lies outside the image of "
            f"{width} x {height} px, expected at least a part of it inside."
        )


def is_empty(quad: tuple[float, ...], image_size: tuple[int, int]) -> bool:
    """Return whether a box (px) holds nothing of an image of (height, width) px: what `check_geometry` drops."""
    try:
        check_geometry(quad, image_size)
    except EmptyBoxError:
        return True
    return False


def is_outside(quad: Sequence[float], image_size: tuple[int, int]) -> bool:
    """Return whether the upright rectangle around a box (px) has no part inside an image of (height, width) px."""
    x, y = quad[0::2], quad[1::2]
    return max(x) <= 0 or max(y) <= 0 or min(x) >= image_size[1] or min(y) >= image_size[0]


def dropped_text(dropped: Sequence[str]) -> str:
    """Return how many boxes were dropped, and the first of them ('file:line: why').

    >>> dropped_text(["a.txt:3: degenerate box", "a.txt:4: degenerate box"])
    '2 boxes were dropped, e.g. a.txt:3: degenerate box'
    """
    return f"{len(dropped)} boxes were dropped, e.g. {dropped[0]}"
