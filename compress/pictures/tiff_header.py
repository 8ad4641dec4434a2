"""What the first directory of a TIFF says of its picture: size, kind of numbers, the number that stands for nothing.

Source:
    TIFF 6.0, section 2 and 8; BigTIFF; GDAL's tag 42113 (GDAL_NODATA).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compress.pictures.file_bytes import FileBytes
from compress.pictures.orientation import TAG, UPRIGHT, orientation_of

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _FORM, _NODATA = 256, 257, 258, 262, 277, 284, 339, 42113
_TAGS = frozenset((_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _FORM, TAG))
_FORMS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # type of an entry -> of struct
_BYTES = {"B": 1, "H": 2, "I": 4, "Q": 8}
_TEXT = 2
_MAX_ENTRIES = 100_000
_MAX_NUMBER = 64  # letters
_SIGNED, _FLOATS = 2, 3
_WHITE_IS_ZERO, _APART = 0, 2


@dataclass(frozen=True)
class TiffFields:
    """What the first directory says.

    Attributes:
        stored: (height, width), px.
        orientation: 1 to 8.
        deep: more than 8 bits, signed numbers or floats.
        missing: the number that stands for "nothing was measured here"; None where none is named.
        refusal: why such a picture is not read, though OpenCV gives pixels: wrong ones; None where it is read.
    """

    stored: tuple[int, int]
    orientation: int
    deep: bool
    missing: float | None
    refusal: str | None


def read_tiff(source: FileBytes) -> TiffFields:
    """Return what a TIFF's first directory says.

    Raises:
        ValueError: it is cut off, or states no size.
    """
    order = "<" if source.at(0, 2) == b"II" else ">"
    big = source.unpack(f"{order}H", 2)[0] == 43
    word, step, inline = ("Q", 20, 8) if big else ("I", 12, 4)
    start = source.unpack(f"{order}{word}", 8 if big else 4)[0]
    count = source.unpack(f"{order}{'Q' if big else 'H'}", start)[0]
    first = start + (8 if big else 2)
    values: dict[int, int] = {}
    missing = None
    for entry in range(min(count, _MAX_ENTRIES)):
        place = first + step * entry
        tag, kind = source.unpack(f"{order}HH", place)
        if tag not in _TAGS and tag != _NODATA:
            continue
        number = source.unpack(f"{order}{word}", place + 4)[0]
        value = place + step - inline
        if number * _BYTES.get(_FORMS.get(kind, "B"), 1) > inline:
            value = source.unpack(f"{order}{word}", value)[0]
        if tag == _NODATA and kind == _TEXT:
            missing = _number(source.at(value, min(number, _MAX_NUMBER)))
        elif tag != _NODATA and kind in _FORMS:
            values[tag] = source.unpack(f"{order}{_FORMS[kind]}", value)[0]
    if _WIDTH not in values or _HEIGHT not in values:
        raise ValueError("damaged TIFF: its first directory states no size")
    deep = values.get(_BITS, 1) > 8 or values.get(_FORM, 1) in (_SIGNED, _FLOATS)
    return TiffFields(
        (values[_HEIGHT], values[_WIDTH]),
        orientation_of(values.get(TAG, UPRIGHT)),
        deep,
        missing,
        _refusal(values) if deep else None,
    )


def _number(text: bytes) -> float | None:
    """Return the number of a text; None where it is none, or nan (which is missing anyway)."""
    try:
        value = float(text.split(b"\0", 1)[0])
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _refusal(values: dict[int, int]) -> str | None:
    """Return why a picture of more than 8 bits is not read: OpenCV 4.12 gives other numbers than are stored."""
    if values.get(_SAMPLES, 1) == 2:
        return "two values a pixel of more than 8 bits, which OpenCV reads as black; store the first band alone"
    if values.get(_SAMPLES, 1) > 1 and values.get(_PLANES, 1) == _APART:
        return (
            "more than 8 bits in planes apart from each other, which OpenCV mixes up; store it pixel by pixel "
            "(gdal_translate -co INTERLEAVE=PIXEL)"
        )
    if values.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return "more than 8 bits of which 0 is white, which OpenCV does not turn round; store it with 0 as black"
    return None
