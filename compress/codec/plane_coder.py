"""How one plane of small values is coded: which digits, joined how many at a time, with which tables.

A value inside the core range [low, low + core) is a digit; where there are values outside, the
last digit is an escape and those values follow in a stream of their own. Joining digits to one
symbol removes the one-bit floor of Huffman codes. Plain Huffman is (256, 1); a mask of zeros in blocks of
eight is (2, 8) with the core {0}; pairs of 4-bit values are (16, 2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from compress.codec.bitstream import CHUNK_LOG2, encode_symbols, num_chunks
from compress.codec.layout import (
    CODED,
    CODED_WITH_ESCAPES,
    MAX_COUNT,
    MAX_SYMBOLS,
    RAW,
    Plane,
    Stream,
    Table,
    digit_distance,
    write_table,
)
from compress.codec.prefix_code import MAX_ALPHABET, code_lengths, limited_lengths, quick_lengths

_JOINED = ((2, 8), (2, 12), (4, 4), (4, 6), (8, 3), (8, 4), (16, 2), (16, 3), (32, 2), (64, 2))
_SMALL = 2048  # values below which only the cheap ways are tried
_FLAT = 1 << 16  # values below which a flat distribution is coded plainly
_MODEL_BITS = 20  # fixed point of the probabilities used for ranking
_SHARED = 64  # tables of the same shape that are tried for sharing
_TRIED = 3  # ways whose size is computed exactly
_CHUNK_COST = 12  # bits that the length of a chunk takes, about


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


@dataclass(frozen=True)
class Choice:
    """A table and what it costs.

    Attributes:
        bits: coded bits, and those of the table if it is new.
        table: the table.
        weights: what its code is made for; None if the table is known or constant.
    """

    bits: int
    table: Table
    weights: np.ndarray | None = None


class Tables:
    """The tables of a file while it is written; equal and fitting ones are shared."""

    def __init__(self) -> None:
        self.tables: list[Table] = []
        self.symbols = 0  # alphabets of all tables together
        self._by_shape: dict[tuple[int, int], list[int]] = {}

    def is_full(self) -> bool:
        """Return True if two more tables could pass a limit of the format."""
        return self.symbols + 2 * MAX_ALPHABET > MAX_SYMBOLS or len(self.tables) + 2 > MAX_COUNT

    def add(self, table: Table) -> int:
        """Return the number of a table, new or known."""
        for number in self._by_shape.setdefault((table.radix, table.group), []):
            known = self.tables[number]
            if (known.centre, known.constant) == (table.centre, table.constant) and np.array_equal(
                known.lengths, table.lengths
            ):
                return number
        self.tables.append(table)
        self.symbols += table.radix**table.group
        self._by_shape[table.radix, table.group].append(len(self.tables) - 1)
        return len(self.tables) - 1

    def best(self, counts: np.ndarray, radix: int, group: int, centre: int) -> Choice:
        """Return the table that codes these counts in the fewest bits.

        Args:
            counts: (radix ** group,), int64, at least one positive.
            radix: see `Table`.
            group: see `Table`.
            centre: see `Table`.
        """
        used = np.flatnonzero(counts)
        if len(used) == 1:
            table = Table(radix, group, centre, np.empty(0, dtype=np.uint8), int(used[0]))
            return Choice(0 if self._known(table) else 8 * len(write_table(table)), table)
        found = []
        for weights in (counts, smoothed(counts, radix, group, centre)):
            # As short in all as the lengths of `huffman`, and quicker to get.
            table = Table(radix, group, centre, quick_lengths(weights))
            bits = int(counts @ table.lengths.astype(np.int64)) + 8 * len(write_table(table))
            found.append(Choice(bits, table, weights))
        for number in self._by_shape.get((radix, group), [])[-_SHARED:]:
            known = self.tables[number]
            if known.constant is None and known.centre == centre and not counts[known.lengths == 0].any():
                found.append(Choice(int(counts @ known.lengths.astype(np.int64)), known))
        return min(found, key=lambda choice: choice.bits)

    def settle(self, choice: Choice) -> int:
        """Return the number of the chosen table; a new one gets its final lengths here."""
        table = choice.table
        if choice.weights is not None:
            table = replace(table, lengths=code_lengths(choice.weights))
        return self.add(table)

    def _known(self, table: Table) -> bool:
        return any(
            (known.centre, known.constant) == (table.centre, table.constant)
            for known in (self.tables[i] for i in self._by_shape.get((table.radix, table.group), []))
        )


def smoothed(counts: np.ndarray, radix: int, group: int, centre: int) -> np.ndarray:
    """Return counts averaged over the symbols whose digits are equally far from the centre.

    The code of such counts is a little worse and its table much shorter.
    """
    distance = digit_distance(radix, group, centre)
    totals = np.bincount(distance, minlength=int(distance.max()) + 1)
    sums = np.zeros(len(totals), dtype=np.int64)
    np.add.at(sums, distance, counts)
    mean = np.where(sums > 0, np.maximum((sums << 12) // totals, 1), 0)
    return mean[distance]


def encode_plane(
    values: np.ndarray, value_bits: int, tables: Tables, backend: str = "auto"
) -> tuple[Plane, np.ndarray]:
    """Code one plane in the smallest way found.

    Args:
        values: (count,), uint8, each < 2 ** value_bits, count >= 1.
        value_bits: 2, 4 or 8.
        tables: tables of the file; new ones are added.
        backend: see `bitstream`.

    Returns:
        Its description, and its bytes: empty for RAW, whose bytes the caller has.
    """
    if tables.is_full():
        return Plane(RAW), np.empty(0, dtype=np.uint8)
    counts = np.bincount(values, minlength=256)
    best: tuple[int, Digits, np.ndarray, Choice, Choice | None] | None = None
    for digits in shortlist(counts, value_bits):
        symbols = join(values, digits, counts)
        joint = np.bincount(symbols, minlength=digits.radix**digits.group)
        main = tables.best(joint, digits.radix, digits.group, _centre(digits, counts))
        bits = main.bits + _CHUNK_COST * num_chunks(len(symbols), CHUNK_LOG2)
        escape = None
        if digits.has_escape:
            rest = _outside(counts, digits)
            alphabet = _plain(rest, value_bits)
            cut = rest[alphabet.low : alphabet.low + alphabet.radix]
            escape = tables.best(cut, alphabet.radix, 1, _centre(alphabet, rest))
            bits += escape.bits + _CHUNK_COST * num_chunks(int(rest.sum()), CHUNK_LOG2)
        if best is None or bits * 1000 < best[0] * 998:  # simpler ways come first and decode faster
            best = bits, digits, symbols, main, escape
    assert best is not None
    bits, digits, symbols, main, escape = best
    if bits >= len(values) * value_bits:
        return Plane(RAW), np.empty(0, dtype=np.uint8)
    main_stream, payload = _encode_stream(symbols, main, tables, backend)
    if escape is None:
        return Plane(CODED, digits.low, main_stream), payload
    rest = _outside(counts, digits)
    alphabet = _plain(rest, value_bits)
    outside = values[digits.digit_of_value()[values] == digits.radix - 1] - np.uint8(alphabet.low)
    escape_stream, escape_payload = _encode_stream(outside.astype(np.uint16), escape, tables, backend)
    plane = Plane(CODED_WITH_ESCAPES, digits.low, main_stream, alphabet.low, len(outside), escape_stream)
    return plane, np.concatenate([payload, escape_payload])


def shortlist(counts: np.ndarray, value_bits: int) -> list[Digits]:
    """Return the ways worth an exact count, simplest first.

    Args:
        counts: (256,), int64: how often each value occurs.
        value_bits: 2, 4 or 8.
    """
    plain = _plain(counts, value_bits)
    total = int(counts.sum())
    used = np.flatnonzero(counts)
    first, span = int(used[0]), int(used[-1] - used[0]) + 1
    if span == 1:
        return [Digits(1, 1, first, False)]
    ways = [Digits(span, group, first, False) for group in range(2, 13) if span**group <= MAX_ALPHABET][-2:]
    mode = int(np.argmax(counts))
    floor = _modelled_bits(counts, plain)
    if floor * 1000 >= total * value_bits * 995 or (total < _FLAT and int(counts[mode]) * 16 < total):
        return [plain]  # noise, or too flat for another way to save more than its tables cost
    for radix, group in _JOINED:
        low = min(max(mode - (radix - 1) // 2, 0), (1 << value_bits) - radix + 1)
        way = Digits(radix, group, low, True)
        if low >= 0 and 0 < int(counts[low : low + radix - 1].sum()) < total:
            ways.append(way)
    room = 512 if total < _SMALL else max(512, total // 8)
    ways = [way for way in ways if way.radix**way.group <= room and not (total < _SMALL and way.group > 8)]
    ranked = sorted((_modelled_bits(counts, way), place) for place, way in enumerate(ways))
    return [plain] + [ways[place] for bits, place in ranked[: _TRIED - 1] if bits * 1000 < floor * 998]


def join(values: np.ndarray, digits: Digits, counts: np.ndarray) -> np.ndarray:
    """Return the symbols of a plane, (ceil(count / group),), uint16; the last one is filled with the centre."""
    each = digits.digit_of_value()[values]
    if digits.group == 1:
        return each.astype(np.uint16)
    missing = -len(each) % digits.group
    if missing:
        each = np.append(each, np.full(missing, _centre(digits, counts), dtype=np.uint8))
    columns = each.reshape(-1, digits.group)
    symbols = columns[:, -1].astype(np.uint16)
    for i in range(digits.group - 2, -1, -1):
        symbols *= np.uint16(digits.radix)
        symbols += columns[:, i]
    return symbols


def _plain(counts: np.ndarray, value_bits: int) -> Digits:
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


def _centre(digits: Digits, counts: np.ndarray) -> int:
    return min(max(int(np.argmax(counts)) - digits.low, 0), digits.radix - 1)


def _outside(counts: np.ndarray, digits: Digits) -> np.ndarray:
    rest = counts.copy()
    rest[digits.low : digits.low + digits.core] = 0
    return rest


def _modelled_bits(counts: np.ndarray, digits: Digits) -> int:
    """Return about how many bits a way takes if values were independent; integers only."""
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
        rest = _outside(counts, digits)
        rest = rest[rest > 0]
        bits += int(rest @ limited_lengths(rest, 14)) if len(rest) > 1 else 0
    return bits


def _encode_stream(symbols: np.ndarray, choice: Choice, tables: Tables, backend: str) -> tuple[Stream, np.ndarray]:
    number = tables.settle(choice)
    table = tables.tables[number]
    if table.constant is not None:
        return Stream(number), np.empty(0, dtype=np.uint8)
    coded = encode_symbols(symbols, table.lengths, backend=backend)
    return Stream(number, CHUNK_LOG2, coded.total_bits, coded.min_bits, coded.width), coded.payload
