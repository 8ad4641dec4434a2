"""From the numbers of elements to the elements (FORMAT.md, section 8); `encoding.scaled_integers` finds the numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from compress.codec.format.sections import expand
from compress.codec.format.ways import LISTED, NARROW, Numbered

_BLOCK = 1 << 18  # elements at a time: their floats take some megabytes


class ElementMap(NamedTuple):
    """What the numbers of one tensor mean.

    Attributes:
        way: their description.
        entries: LISTED: (entries,), an element each, a number or a void of its bytes. SCALED: scales, float32 or
            float64.
    """

    way: Numbered
    entries: np.ndarray

    def put(self, planes: np.ndarray, first: int, out: np.ndarray) -> None:
        """Write elements.

        Args:
            planes: (1 or 2, count), uint8: bytes of the numbers, least significant first.
            first: number of the first of these elements in the tensor.
            out: (count * element bytes,), uint8.

        Raises:
            ValueError: a number stands for no element.
        """
        size = self.way.element_bytes
        for start in range(0, planes.shape[1], _BLOCK):
            part = planes[:, start : start + _BLOCK]
            numbers = part[0] if len(part) == 1 else part[0] | part[1].astype(np.uint16) << 8
            elements = self._elements(numbers, first + start)
            out[start * size : (start + len(numbers)) * size] = elements.view(np.uint8)

    def _elements(self, numbers: np.ndarray, first: int) -> np.ndarray:
        if self.way.form == LISTED:
            if (last := int(numbers.max(initial=0))) >= len(self.entries):
                raise ValueError(f"number {last} of an element; the list has {len(self.entries)}")
            elements: np.ndarray = self.entries[numbers]
            return elements
        return scaled(numbers, self.way, self._scales(first, len(numbers)))

    def _scales(self, first: int, count: int) -> np.ndarray:
        """Return the scale of each of some elements, or of all where they have the same."""
        if len(self.entries) == 1:
            return self.entries
        inner, number = self.way.inner, len(self.entries)
        rows = np.arange(first // inner, -(-(first + count) // inner)) % number
        scales: np.ndarray = self.entries[rows] if inner == 1 else np.repeat(self.entries[rows], inner)
        return scales[first % inner :][:count]


def scaled(numbers: np.ndarray, way: Numbered, scales: np.ndarray) -> np.ndarray:
    """Return the bits of elements that are integers times scales, rounded once to the type of the scales, then again.

    Args:
        numbers: (count,), uint8 or uint16.
        way: what they mean.
        scales: (count,) or (1,), float32, or float64 where the elements are that.

    Returns:
        (count,), uint16, uint32 or uint64.
    """
    integers = numbers.astype(np.int32) + np.int32(way.base)
    below = None
    if way.has_negative_zero:
        below = numbers == -way.base
        integers -= numbers > -way.base
    with np.errstate(over="ignore"):
        values = integers.astype(scales.dtype) * scales
        if below is not None:
            values[below] = -0.0
    return widened(_rounded(values, NARROW.get(way.element, way.element)), way.element)


def _rounded(values: np.ndarray, element: int) -> np.ndarray:
    """Return the bits of floats, float32 or float64, in the type of an element that is not wider."""
    if element == 0:
        with np.errstate(over="ignore"):
            values = values.astype("<f2")
    bits: np.ndarray = values.view(f"<u{values.itemsize}")
    return (bits + np.uint32(0x7FFF) + (bits >> 16 & 1) >> 16).astype("<u2") if element == 1 else bits


def widened(bits: np.ndarray, element: int) -> np.ndarray:
    """Return the bits of an element that is stored in a wider type than it was computed in, others as they are.

    Args:
        bits: (count,), uint16, uint32 or uint64, in the type of `ways.NARROW`.
        element: key of `ways.ELEMENTS`.
    """
    if element == 6:
        return bits.astype("<u4") << np.uint32(16)
    if element in (4, 5):
        narrow, wide = ("<f4", "<f8") if element == 4 else ("<f2", "<f4")
        found: np.ndarray = bits.view(narrow).astype(wide).view(wide.replace("f", "u"))
        return found
    return bits


def read_map(way: Numbered, packed: np.ndarray, where: str) -> ElementMap:
    """Return what numbers mean.

    Args:
        way: their description.
        packed: (way.packed_bytes,), uint8: list or scales as they are in the file.
        where: 'file: byte N' for messages.

    Raises:
        CodecError: they cannot be unpacked.
        ValueError: a scale is not finite, or not above zero.
    """
    data = expand(packed, way.entries * way.entry_bytes, way.is_lzma, where)
    if way.form == LISTED:
        is_number = way.element in (2, 4, 8)  # which are quicker
        return ElementMap(way, np.frombuffer(data, dtype=f"<u{way.element}" if is_number else f"V{way.element}"))
    scales = np.frombuffer(data, dtype=f"<f{way.entry_bytes}")
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError("a scale that is not finite or not above zero")
    return ElementMap(way, scales)
