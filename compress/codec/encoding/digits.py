"""Ways to turn small values into symbols, and which of them are worth an exact count.

A value inside the core range [low, low + core) is a digit; where there are values outside, the
last digit is an escape and those values follow in a stream of their own. Joining digits to one
symbol removes the one-bit floor of Huffman codes; where that does not do, table ANS does.
Plain Huffman is (256, 1); a mask of zeros in blocks of eight is (2, 8) with the core {0}; pairs of
4-bit values are (16, 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.codec.entropy.ans_code import log2_table
from compress.codec.entropy.prefix_code import MAX_ALPHABET, limited_lengths
from compress.codec.format.layout import COUNTS, MAX_GROUP

_JOINED = ((2, 8), (4, 4), (4, 6), (8, 3), (8, 4), (16, 2), (16, 3), (32, 2), (64, 2))
_JOINED_ANS = ((2, 4), (2, 6), (4, 2), (4, 3), (8, 2))
_ANS_ALPHABET = 128  # symbols of joined digits that a table of 4096 states tells apart well
_TINY = 512  # values below which another way saves less than its tables cost
SMALL = 2048  # values below which only the cheap ways are tried
FLAT = 1 << 16  # values below which a flat distribution is coded plainly
_MODEL_BITS = 20  # fixed point of the probabilities used for ranking
_TRIED = 3  # ways whose size is computed exactly


@dataclass(frozen=True)
class Digits:
    """A way to turn values into symbols.

    Attributes:
        radix, group: digits 0..radix-1, joined `group` at a time.
        low: value of digit 0.
        has_escape: digit radix - 1 stands for every value outside.
    """

    radix: int
    group: int
    low: int
    has_escape: bool

    @property
    def core(self) -> int:
        """Return the number of values that have a digit of their own."""
        return self.radix - self.has_escape

    def digit_of_value(self) -> np.ndarray:
        """Return (256,), uint8: the digit of each value."""
        digits = np.full(256, self.radix - 1, dtype=np.uint8)
        digits[self.low : self.low + self.core] = np.arange(self.core)
        return digits


def shortlist(counts: np.ndarray, value_bits: int) -> list[Digits]:
    """Return the ways worth an exact count with prefix codes, simplest first.

    Args:
        counts: (256,), int64: how often each value occurs.
        value_bits: 2, 4 or 8.
    """
    plain = plain_digits(counts, value_bits)
    total = int(counts.sum())
    used = np.flatnonzero(counts)
    first, span = int(used[0]), int(used[-1] - used[0]) + 1
    if span == 1:
        return [Digits(1, 1, first, False)]
    ways = [Digits(span, group, first, False) for group in range(2, 9) if span**group <= MAX_ALPHABET][-2:]
    mode = int(np.argmax(counts))
    floor = _modelled_bits(counts, plain)
    if total < _TINY or floor * 1000 >= total * value_bits * 995 or (total < FLAT and int(counts[mode]) * 16 < total):
        return [plain]  # noise, or too flat for another way to save more than its tables cost
    if floor * 1000 <= about_entropy(counts) * 1005:
        return [plain]  # no way saves more
    ways += [way for radix, group in _JOINED if (way := _core(counts, value_bits, radix, group))]
    room = 512 if total < SMALL else max(512, total // 8)
    ways = [way for way in ways if way.radix**way.group <= room]
    ranked = sorted((_modelled_bits(counts, way), place) for place, way in enumerate(ways))
    return [plain] + [ways[place] for bits, place in ranked[: _TRIED - 1] if bits * 1000 < floor * 998]


def ans_ways(counts: np.ndarray, value_bits: int) -> list[Digits]:
    """Return the ways worth an exact count with table ANS; the first one has no escapes."""
    used = np.flatnonzero(counts)
    first, span = int(used[0]), int(used[-1] - used[0]) + 1
    group = max(group for group in range(1, MAX_GROUP + 1) if group == 1 or span**group <= _ANS_ALPHABET)
    ways = [Digits(span, group, first, False)]
    if int(counts.max()) * 2 >= int(counts.sum()):
        ways += [way for radix, joined in _JOINED_ANS if (way := _core(counts, value_bits, radix, joined))]
    return ways


def _core(counts: np.ndarray, value_bits: int, radix: int, group: int) -> Digits | None:
    """Return digits for the values around the most frequent one, an escape for the others."""
    low = min(max(int(np.argmax(counts)) - (radix - 1) // 2, 0), (1 << value_bits) - radix + 1)
    if low < 0 or not 0 < int(counts[low : low + radix - 1].sum()) < int(counts.sum()):
        return None
    return Digits(radix, group, low, True)


def plain_digits(counts: np.ndarray, value_bits: int) -> Digits:
    """Return the alphabet of the true bit width, the middle of the type kept in its middle."""
    used = np.flatnonzero(counts)
    first, last, middle = int(used[0]), int(used[-1]), 1 << value_bits - 1
    for bits in range(1, value_bits):
        if last < 1 << bits:
            return Digits(1 << bits, 1, 0, False)
        half = 1 << bits - 1
        if middle - half <= first and last < middle + half:
            return Digits(1 << bits, 1, middle - half, False)
    return Digits(1 << value_bits, 1, 0, False)


def about_entropy(counts: np.ndarray) -> int:
    """Return about the order-0 entropy of all values together, bits; whole numbers only."""
    used = counts[counts > 0]
    total = np.array([int(counts.sum())])
    # Python's integers: the sum may be large.
    return sum(map(int.__mul__, used.tolist(), (_log2(total) - _log2(used)).tolist())) >> 16


def _modelled_bits(counts: np.ndarray, digits: Digits) -> int:
    """Return about how many bits a way takes with prefix codes if values were independent; integers only."""
    total = int(counts.sum())
    single = np.zeros(digits.radix, dtype=np.int64)
    np.add.at(single, digits.digit_of_value(), counts)
    chance = (single << _MODEL_BITS) // total
    joint = chance
    for _ in range(digits.group - 1):
        joint = (chance[:, None] * joint[None, :] >> _MODEL_BITS).reshape(-1)
    joint = joint[joint > 0]
    per_symbol = int(joint @ limited_lengths(joint, 14)) if len(joint) > 1 else 0
    bits = (per_symbol * total // digits.group) >> _MODEL_BITS
    if digits.has_escape:
        rest = outside(counts, digits)
        rest = rest[rest > 0]
        bits += int(rest @ limited_lengths(rest, 14)) if len(rest) > 1 else 0
    return bits


def outside(counts: np.ndarray, digits: Digits) -> np.ndarray:
    """Return the counts of the values without a digit of their own, (256,), int64."""
    rest = counts.copy()
    rest[digits.low : digits.low + digits.core] = 0
    return rest


def _log2(numbers: np.ndarray) -> np.ndarray:
    """Return log2 * 2 ** 16 of the leading twelve bits of positive numbers, int64."""
    shift = np.maximum(np.frexp(numbers.astype(np.float64))[1].astype(np.int64) - 12, 0)
    logarithms: np.ndarray = (shift << 16) + log2_table()[numbers >> shift]
    return logarithms


def covering(digits: Digits, counts: np.ndarray, form: int) -> Digits:
    """Return digits for every value that occurs: these, or without escapes as many a symbol as still fit."""
    used = np.flatnonzero(counts)
    first, last = int(used[0]), int(used[-1])
    if digits.has_escape or (digits.low <= first and last < digits.low + digits.radix):
        return digits
    span, limit = last - first + 1, _ANS_ALPHABET if form == COUNTS else MAX_ALPHABET
    group = max(group for group in range(1, digits.group + 1) if group == 1 or span**group <= limit)
    return Digits(span, group, first, False)
