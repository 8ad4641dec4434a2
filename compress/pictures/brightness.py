"""From brightness of any depth to 8 bits: 10, 12, 14 and 16 bits and floats of thermal and other measuring cameras.

A network sees 0..255. What becomes 0 and what 255 is either said (`data.value_range`, which a model file carries as
`value_range`) or read off the file, and is then the same wherever the file is read:

- whole numbers: 0 to the largest number of the fewest bits (8, 10, 12, 14, 16) that hold the file's largest value;
- floats from 0 to 1: 0 to 1;
- other floats and negative numbers: the file's least to its largest value.

What is missing (NaN, and the number that a GeoTIFF names for it) is left out of this and becomes 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TOPS = (255, 1023, 4095, 16383, 65535)
LITTLE = 0.05  # share of its range below which a picture is nearly flat
Range = tuple[float, float]


@dataclass(frozen=True)
class Contents:
    """What the values of a picture are, NaN, infinities and missing ones left out.

    Attributes:
        least: smallest value, infinity where there is none.
        most: largest value, minus infinity where there is none.
        whole: all are whole numbers.
        floating: their type is one of floats.
    """

    least: float
    most: float
    whole: bool
    floating: bool

    @classmethod
    def of(cls, values: np.ndarray, missing: float | None = None) -> Contents:
        """Return what an array of any shape holds; `missing` is the number that stands for nothing."""
        floating = values.dtype.kind == "f"
        finite = values[np.isfinite(values)] if floating else values
        finite = finite if missing is None else finite[~is_missing(finite, missing)]
        if not finite.size:
            return cls(math.inf, -math.inf, True, floating)
        whole = not floating or bool((finite == np.floor(finite)).all())
        return cls(float(finite.min()), float(finite.max()), whole, floating)

    def with_(self, other: Contents) -> Contents:
        """Return what both together hold."""
        return Contents(
            min(self.least, other.least), max(self.most, other.most), self.whole and other.whole, self.floating
        )

    def natural_range(self) -> Range:
        """Return what becomes 0 and 255 where nobody said it."""
        if self.least > self.most:
            return 0.0, 1.0
        if self.floating and self.least >= 0 and self.most <= 1:
            return 0.0, 1.0
        if self.whole and self.least >= 0 and self.most <= TOPS[-1]:
            return 0.0, float(next(top for top in TOPS if top >= self.most))
        return self.least, max(self.most, self.least + 1e-6 * max(1.0, abs(self.least)))

    def share_of(self, limits: Range) -> float:
        """Return the share of a range that the values use, 0..1."""
        low, high = limits
        used = min(self.most, high) - max(self.least, low)
        return max(used, 0.0) / (high - low)


def is_missing(values: np.ndarray, missing: float) -> np.ndarray:
    """Return where values are the number that stands for nothing, bool; as exact as their type holds it."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.asarray(values == values.dtype.type(missing))
    return np.asarray(values == missing)


def to_eight_bits(values: np.ndarray, limits: Range, missing: float | None = None) -> np.ndarray:
    """Return values as uint8: the lower limit and below become 0, the upper one and above 255.

    Args:
        values: any shape and number type.
        limits: what becomes 0 and what 255.
        missing: the number that stands for nothing; it becomes 0, as NaN does.
    """
    scaled = _in_limits(values, *limits)
    if missing is not None:
        scaled[is_missing(values, missing)] = 0
    return scaled


def _in_limits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if values.dtype == np.uint16:  # one table instead of a division a pixel
        table = np.arange(1 << 16, dtype=np.float64)
        scaled: np.ndarray = _scaled(table, low, high)[values]
        return scaled
    return _scaled(values.astype(np.float64), low, high)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    shares = np.clip((np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low), 0, 1)
    return np.rint(shares * 255).astype(np.uint8)


def eight_of_sixteen(values: np.ndarray, channels: int) -> np.ndarray:
    """Return uint16 of the full range as OpenCV does: the upper byte of gray, colors rounded."""
    if channels == 1:
        return (values >> 8).astype(np.uint8)
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def range_of_text(value: object) -> Range | None:
    """Return a value range as a model file or recipe has it.

    Raises:
        ValueError: it is not two finite numbers, the smaller first.
    """
    if value is None:
        return None
    numbers = list(value) if isinstance(value, list | tuple) else []
    good = len(numbers) == 2 and all(type(number) in (int, float) for number in numbers)
    if not good or not -1e30 < numbers[0] < numbers[1] < 1e30:
        raise ValueError(f"value_range is {value!r}, expected two numbers, the one that becomes 0 and the one for 255")
    return float(numbers[0]), float(numbers[1])
