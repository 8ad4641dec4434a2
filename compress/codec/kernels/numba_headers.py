"""The numba form of what comes before and after decoding: code tables, lengths of chunks, the check of their ends.

A file of many small tensors spends more time here than in its symbols. Where anything is wrong the NumPy form is asked,
which says what. Importing this imports numba.
"""

from __future__ import annotations

import numpy as np
from numba import njit, uint64

from compress.codec.entropy.ans_code import MAX_LOG

_MOST_COUNT = 2 << MAX_LOG | 1  # as the first number of a run
_U1 = np.uint64(1)


@njit(cache=True, nogil=True, boundscheck=False)
def fill_prefix_table(lengths, shown, log, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Do what `prefix_code.decode_table` does: shown, (symbols,), is what stands for them; out, (2 ** log,).

    The table for codes of one more bit is the one before it twice over; what no shorter code takes is then written.
    """
    starts, order = np.zeros(log + 2, dtype=np.int64), np.empty(len(lengths), dtype=np.int64)
    for length in lengths:
        starts[length + 1] += 1
    starts = np.cumsum(starts)
    for symbol in range(len(lengths)):  # by length, then by symbol; unused ones first
        order[starts[lengths[symbol]]] = symbol
        starts[lengths[symbol]] += 1
    code = 0  # the first one of a length
    for length in range(1, log + 1):
        half, code = 1 << (length - 1), code << 1
        for i in range(half if length > 1 else 0):
            out[half + i] = out[i]
        for place in range(starts[length - 1], starts[length]):
            rest, at = code, 0
            for _ in range(length):
                at, rest = at << 1 | rest & 1, rest >> 1
            out[at] = np.uint32(shown[order[place]]) << np.uint32(8) | np.uint32(length)
            code += 1


@njit(cache=True, nogil=True, boundscheck=False)
def fill_ans_table(counts, shown, log, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Do what `ans_code.decode_table` does: shown, (symbols,), is what stands for them; out, (2 ** log,)."""
    size = 1 << log
    step, place = (size >> 1) + (size >> 3) + 3, 0
    symbols, numbers = np.empty(size, dtype=np.uint16), counts.copy()
    for symbol in range(len(counts)):
        for _ in range(counts[symbol]):
            symbols[place] = symbol
            place = (place + step) & (size - 1)
    for state in range(size):
        number = numbers[symbols[state]]
        numbers[symbols[state]] += 1
        bits = np.int64(0)
        while number << bits < size:
            bits += 1
        following = (number << bits) - size
        out[state] = np.int64(shown[symbols[state]]) << 16 | following << 4 | bits


@njit(nogil=True, forceinline=True)
def _varint(data, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Read a number of one or two bytes; return it, -1 if it is another one, and the byte behind it."""
    low, high = np.int64(data[at]), np.int64(data[at + 1])
    if low < 0x80:
        return low, at + 1
    return low & 0x7F | high << 7 if 0 < high < 0x80 else np.int64(-1), at + 2


@njit(cache=True, nogil=True, boundscheck=False)
def read_runs(data, at, is_counts, entries):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Read `entries`, (symbols,), int64, that are written in runs; return the byte behind them.

    Return -1 where a number takes three bytes or anything is wrong: `index_reader.IndexReader` then reads them.
    """
    listed = np.int64(0)
    while listed < len(entries):
        if at + 4 > len(data):
            return -1
        if is_counts:
            token, at = _varint(data, at)
            if not 0 <= token <= _MOST_COUNT:
                return -1
            entry, run, is_long = token >> 1, np.int64(1), token & 1 == 1
        else:
            entry, run, is_long = np.int64(data[at]) >> 4, (np.int64(data[at]) & 15) + 1, data[at] & 15 == 15
            at += 1
        if is_long:
            more, at = _varint(data, at)
            if more < 0:
                return -1
            run = more + (2 if is_counts else 16)
        if listed + run > len(entries):
            return -1
        entries[listed : listed + run] = entry
        listed += run
    return at


@njit(nogil=True, forceinline=True)
def _read_uints(data, count, width, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Read numbers of `width` bits, at most 32; return the byte behind them, -1 if the padding is not zero."""
    bits, filled, at = uint64(0), 0, 0
    mask = (_U1 << uint64(width)) - _U1
    for i in range(count):
        while filled < width:
            bits |= uint64(data[at]) << uint64(filled)
            filled, at = filled + 8, at + 1
        out[i] = bits & mask
        bits, filled = bits >> uint64(width), filled - width
    return -1 if bits else at


@njit(cache=True, nogil=True, boundscheck=False)
def read_bounds(data, size, tables, width, min_bits, total_bits, classes, bounds):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Read what precedes the codes of a stream, whose numbers these are; return False if anything of it is wrong.

    data, (>= size,), uint8, begins with the payload of `size` bytes. classes, (segments,), uint8, and bounds,
    (chunks + 1,), int64, are given the class of each segment, and the bits where chunks begin and the last one ends.
    """
    selector_bits = 0
    while 1 << selector_bits < tables:
        selector_bits += 1
    behind = _read_uints(data, len(classes), selector_bits, classes)
    if behind < 0 or classes.max() >= tables:
        return False
    lengths = bounds[1:-1]
    stored = _read_uints(data[behind:], len(lengths), width, lengths)
    if stored < 0:
        return False
    first = 8 * (behind + stored)
    bounds[0] = end = first
    for i in range(len(lengths)):
        end += lengths[i] + min_bits
        lengths[i] = end
        if end >= first + total_bits:
            return False
    bounds[-1] = first + total_bits
    spare = total_bits & 7
    return spare == 0 or data[size - 1] >> spare == 0


@njit(cache=True, nogil=True, boundscheck=False)
def join_planes(planes, is_rotated, is_zigzag, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Do what `element_planes.join_planes` does: planes, (n, count), uint8."""
    number, count = planes.shape
    top = uint64(8 * number - 1)
    for i in range(count):
        element = uint64(0)
        for k in range(number):
            element |= uint64(planes[k, i]) << uint64(8 * k)
        if is_rotated:
            element = element >> _U1 | (element & _U1) << top
        elif is_zigzag:
            element = element >> _U1 ^ (~(element & _U1) + _U1)
        for k in range(number):
            out[number * i + k] = element & uint64(0xFF)
            element >>= uint64(8)
