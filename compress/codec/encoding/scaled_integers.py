"""Floats that are integers times a scale, as fake quantization leaves them: which integers, which scales.

A row of elements shares a scale. With the integer Q of its largest element, 1 to 255 or a few more, all others follow;
each of them then bounds the scale, since integer * scale must round to it, and what is between the bounds is tried.
Bits decide: a row that does not come back to the last bit is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from compress.codec.format.element_numbers import scaled
from compress.codec.format.ways import SCALED, Numbered

_FIRST = (127, 7, 1, 128, 8, 255, 15, 63, 31, 3)
_QS = (*_FIRST, *(q for q in range(1, 256) if q not in _FIRST))
_SHORT_QS = tuple(sorted(_QS, key=lambda q: q > 127))  # of 8 bits, which cannot tell 246 from 2 * 123; else as in _QS
_LARGE_QS = (511, 1023, 2047, 4095, 32767)
_GROUPS = (256, 128, 64, 32)
_SAMPLE_ROWS, _SAMPLE_VALUES = 4, 48
_FEW_DISTINCT = 300  # magnitudes in a row of at most 8 bits
_MOST_DISTINCT = 1 << 12
_NARROWINGS = 3  # of what a scale is between, by integers that are the same at both ends, where elements have 8 bits
_BLOCK = 1 << 20
_MANTISSA = {0: 11, 1: 8, 2: 24, 3: 53}  # bits, the hidden one included


class ScaledIntegers(NamedTuple):
    """Integers and scales of a tensor.

    Attributes:
        way: what the numbers mean, but for how the scales are packed.
        scales: (rows,), float32, or float64 for float64 elements.
        numbers: (count,), uint8 or uint16.
    """

    way: Numbered
    scales: np.ndarray
    numbers: np.ndarray


def layouts(count: int, dims: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield (elements in a row that share a scale, number of scales) in which a tensor can be quantized."""
    yield count, 1
    known = {1}
    if math.prod(dims) == count:
        for axis in sorted(range(len(dims)), key=lambda axis: (axis != 0, axis != len(dims) - 1, axis)):
            inner = math.prod(dims[axis + 1 :])
            if dims[axis] > 1 and dims[axis] < count:
                known.add(dims[axis] if inner * dims[axis] == count else 0)
                yield inner, dims[axis]
    yield from ((group, count // group) for group in _GROUPS if count % group == 0 and count // group not in known)


def find_scaled(bits: np.ndarray, element: int, dims: tuple[int, ...]) -> ScaledIntegers | None:
    """Return the integers and scales of a tensor, None if it has none.

    Args:
        bits: (count,), uint16, uint32 or uint64: its elements.
        element: key of `ways.ELEMENTS`.
        dims: its shape.
    """
    values = _values(bits, element)
    if not np.isfinite(values).all():
        return None
    for inner, number in layouts(len(bits), dims):
        rows = values.reshape(-1, number, inner).transpose(1, 0, 2).reshape(number, -1)
        chosen = np.unique(np.arange(_SAMPLE_ROWS) * (number - 1) // max(_SAMPLE_ROWS - 1, 1))
        if all(_might_be(row, element) for row in rows[chosen]):
            distinct = _distinct(rows)
            scales = _scales(distinct, element, _qs(distinct.shape[1], element))
            if scales is not None and (found := _numbers(bits, values, element, inner, scales)):
                return found
    return None


def _might_be(row: np.ndarray, element: int) -> bool:
    """Return True if some elements of a row are integers times a scale."""
    distinct = _distinct(row[None, :_BLOCK])
    qs = _qs(distinct.shape[1], element)
    places = np.linspace(0, distinct.shape[1] - 1, min(_SAMPLE_VALUES, distinct.shape[1])).astype(np.int64)
    return _scales(distinct[:, places], element, qs) is not None


def _qs(distinct: int, element: int) -> tuple[int, ...]:
    """Return the integers that the largest of so many different magnitudes can be."""
    large = _LARGE_QS if element >= 2 and distinct <= _MOST_DISTINCT else ()
    small = _SHORT_QS if element == 1 else _QS
    return (*small, *large) if distinct <= _FEW_DISTINCT else large


def _values(bits: np.ndarray, element: int) -> np.ndarray:
    """Return elements as floats that hold them exactly."""
    if element == 1:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(f"<f{bits.itemsize}").astype(np.float32 if element < 3 else np.float64, copy=False)


def _distinct(rows: np.ndarray) -> np.ndarray:
    """Return the different magnitudes of each row in ascending order, zeros in front, float64."""
    ordered = np.sort(np.abs(rows), axis=1)
    is_new = np.ones(ordered.shape, dtype=bool)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    numbers = is_new.sum(axis=1)
    width = int(numbers.max())
    found = np.zeros((len(rows), width))
    places = width - numbers[:, None] + np.cumsum(is_new, axis=1) - 1
    row, column = np.nonzero(is_new)
    found[row, places[row, column]] = ordered[row, column]
    return found


def _scales(magnitudes: np.ndarray, element: int, qs: tuple[int, ...]) -> np.ndarray | None:
    """Return a scale for each row, (rows,), in the type of the scales; None if a row has none.

    Args:
        magnitudes: (rows, width), float64, ascending, as of `_distinct`.
        element: key of `ways.ELEMENTS`.
        qs: integers to try for the largest magnitude.
    """
    kind = np.float64 if element == 3 else np.float32
    scales: np.ndarray = np.ones(len(magnitudes), dtype=kind)
    largest = magnitudes[:, -1]
    left = np.flatnonzero(largest > 0)
    step = max(_BLOCK // magnitudes.shape[1], 1)
    for start in range(0, len(left), step):
        rows = left[start : start + step]
        for q in qs:
            if not len(rows):
                break
            found = _scale_for(magnitudes[rows], q, element, kind)
            scales[rows] = np.where(found > 0, found, scales[rows])
            rows = rows[found == 0]
        if len(rows):
            return None
    if len(left) > 1:
        # A short row of elements of few bits fits other integers by chance: those of most rows are tried on it.
        tops = np.rint(largest[left] / scales[left]).astype(np.int64)
        most = int(np.bincount(tops).argmax())
        others = left[tops != most]
        for start in range(0, len(others), step):
            rows = others[start : start + step]
            found = _scale_for(magnitudes[rows], most, element, kind)
            scales[rows] = np.where(found > 0, found, scales[rows])
    return scales


def _scale_for(magnitudes: np.ndarray, q: int, element: int, kind: type) -> np.ndarray:
    """Return the scale of each row if its largest magnitude is q of them, 0 where it is not."""
    guesses = magnitudes[:, -1:] / q
    apart = 2.0 ** -_MANTISSA[1]
    least, most = guesses * (1 - apart), guesses * (1 + apart)
    for _ in range(_NARROWINGS if element == 1 else 0):
        integers = np.rint(magnitudes / guesses)
        is_sure = (np.rint(magnitudes / least) == integers) & (np.rint(magnitudes / most) == integers)
        sure = np.where(is_sure, magnitudes, 0)
        low, high = _bounds(sure, integers, element)
        is_bound = (low <= high) & (low > 0) & (high < np.inf)
        least = np.where(is_bound, low, least[:, 0])[:, None]
        most = np.where(is_bound, high, most[:, 0])[:, None]
        guesses = 0.5 * (least + most)
    integers = np.rint(magnitudes / guesses)
    low, high = _bounds(magnitudes, integers, element)
    scales: np.ndarray = np.zeros(len(magnitudes), dtype=kind)
    maybe = np.flatnonzero((low <= high * (1 + 2**-22)) & np.isfinite(low) & (high < np.inf))
    if not len(maybe):
        return scales
    common = np.gcd.reduce(integers[maybe].astype(np.int64), axis=1)
    integers = integers[maybe] / common[:, None]
    middle = (0.5 * (low[maybe] + high[maybe]) * common).astype(kind)
    for guess in (*_short(middle, element), middle, np.nextafter(middle, kind(np.inf)), np.nextafter(middle, kind(0)),
                  (low[maybe] * common).astype(kind), (high[maybe] * common).astype(kind)):  # fmt: skip
        with np.errstate(over="ignore"):
            products = _rounded(integers.astype(kind) * guess[:, None], element)
        is_right = (products == magnitudes[maybe]).all(axis=1) & (guess > 0) & (scales[maybe] == 0)
        scales[maybe] = np.where(is_right, guess, scales[maybe])
    return scales


def _short(scales: np.ndarray, element: int) -> Iterator[np.ndarray]:
    """Yield scales rounded to types that scales are kept in: those of few bits cost few, one a group of 32 elements."""
    if element == 3:
        yield scales.astype(np.float32).astype(np.float64)
        return
    for narrow in (1, 0) if element == 2 else (element,):
        with np.errstate(over="ignore"):
            yield _rounded(scales, narrow)


def _bounds(magnitudes: np.ndarray, integers: np.ndarray, element: int) -> tuple[np.ndarray, np.ndarray]:
    """Return between what the scale of each row lies if its magnitudes are these integers times it."""
    fractions, exponents = np.frexp(magnitudes)
    half = np.ldexp(1.0, exponents - _MANTISSA[element] - 1)
    below = np.where(fractions == 0.5, half / 2, half)  # numbers under a power of two lie closer
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(magnitudes > 0, (magnitudes - below) / integers, 0).max(axis=1)
        high = np.where(magnitudes > 0, (magnitudes + half) / integers, np.inf).min(axis=1)
    return low, high


def _rounded(values: np.ndarray, element: int) -> np.ndarray:
    """Return values rounded to the type of the elements."""
    if element == 0:
        return values.astype(np.float16).astype(values.dtype)
    if element == 1:
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return values


def _numbers(
    bits: np.ndarray, values: np.ndarray, element: int, inner: int, scales: np.ndarray
) -> ScaledIntegers | None:
    """Return the numbers of all elements, None if they do not come back."""
    shaped = values.reshape(-1, len(scales), inner)
    integers = np.rint(shaped / scales[None, :, None]).astype(np.int32).reshape(-1)
    is_negative_zero = (values == 0) & np.signbit(values)
    has_negative_zero = bool(is_negative_zero.any())
    low, high = int(integers.min()), int(integers.max()) + has_negative_zero
    if has_negative_zero:
        integers += (integers >= 0) & ~is_negative_zero
        low, high = min(low, 0), max(high, 1)
    wide = high - low > 255
    base = -32768 if wide else -128 if low >= -128 and high <= 127 else low
    if high - base > (65535 if wide else 255) or low < base:
        return None
    numbers = (integers - base).astype(np.uint16 if wide else np.uint8)
    way = Numbered(SCALED, element, len(scales), base, has_negative_zero, inner, False, 0)
    per_element = np.broadcast_to(scales[None, :, None], shaped.shape).reshape(-1)
    if not np.array_equal(scaled(numbers, way, per_element), bits):
        return None
    return ScaledIntegers(way, scales, numbers)
