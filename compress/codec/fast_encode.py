"""The numba form of encoding: same bytes as NumPy, several times faster. Importing it imports numba."""

from __future__ import annotations

import numpy as np
from numba import njit, uint64

from compress.codec.fast import _store64

_U3, _U7, _U8, _U16 = (np.uint64(i) for i in (3, 7, 8, 16))


@njit(cache=True, nogil=True, boundscheck=False)
def histogram(values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Count (count,) uint8 values: (256,), int64."""
    counts = np.zeros((4, 256), dtype=np.uint32)  # four: equal neighbours need not wait for each other
    totals = np.zeros(256, dtype=np.int64)
    for start in range(0, len(values), 1 << 30):
        stop = min(len(values), start + (1 << 30))
        quads = (stop - start) >> 2
        for i in range(quads):
            at = start + 4 * i
            counts[0, values[at]] += np.uint32(1)
            counts[1, values[at + 1]] += np.uint32(1)
            counts[2, values[at + 2]] += np.uint32(1)
            counts[3, values[at + 3]] += np.uint32(1)
        for at in range(start + 4 * quads, stop):
            counts[0, values[at]] += np.uint32(1)
        for i in range(256):
            totals[i] += np.int64(counts[0, i]) + counts[1, i] + counts[2, i] + counts[3, i]
            counts[0, i] = counts[1, i] = counts[2, i] = counts[3, i] = 0
    return totals


@njit(cache=True, nogil=True, boundscheck=False)
def class_histograms(values, lut, bins, row, rows):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Count lut[value] for each of `rows` rows of `row` values, the last one perhaps shorter: (rows, bins), int64."""
    counts = np.zeros((rows, bins), dtype=np.int64)
    for number in range(rows):
        mine = counts[number]
        for i in range(number * row, min(len(values), (number + 1) * row)):
            mine[lut[values[i]]] += 1
    return counts


@njit(cache=True, nogil=True, boundscheck=False)
def join(values, lut, radix, group, centre, symbols):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Write the joined digits of the values into `symbols`, (ceil(count / group),), uint16."""
    full = len(values) // group
    for i in range(full):
        symbol = uint64(0)
        at = (i + 1) * group - 1
        for k in range(group):
            symbol = symbol * uint64(radix) + uint64(lut[values[at - k]])
        symbols[i] = symbol
    if full < len(symbols):
        symbol = uint64(0)
        for k in range(group - 1, -1, -1):
            at = full * group + k
            symbol = symbol * uint64(radix) + uint64(lut[values[at]] if at < len(values) else centre)
        symbols[full] = symbol


@njit(cache=True, nogil=True, boundscheck=False)
def count_symbols(symbols, classes, segment, counts):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Add up the symbols of each class: counts, (classes, alphabet), int64."""
    for part in range(len(classes)):
        mine = counts[classes[part]]
        for i in range(part * segment, min(len(symbols), (part + 1) * segment)):
            mine[symbols[i]] += 1


@njit(cache=True, nogil=True, boundscheck=False)
def select(values, lut, marker, offset, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Write value - offset of the values whose digit is the marker into `out`, one longer than their number."""
    at, last = 0, len(out) - 1
    for i in range(len(values)):
        out[min(at, last)] = values[i] - offset
        at += lut[values[i]] == marker
    return at


@njit(cache=True, nogil=True, boundscheck=False)
def encode_prefix(symbols, codes, classes, chunk, segment, out, chunk_bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Code symbols: codes, (classes, alphabet), uint32, bits << 8 | length; out has 16 bytes to spare."""
    pending, filled, at, target = uint64(0), uint64(0), uint64(0), uint64(out.ctypes.data)
    for lane in range(len(chunk_bits)):
        start = (at << _U3) + filled
        stop = min(len(symbols), (lane + 1) * chunk)
        for first in range(lane * chunk, stop, segment):
            table = codes[classes[first // segment]]
            end = min(stop, first + segment)
            quads = (end - first) >> 2
            for i in range(quads):
                for k in range(4):
                    code = uint64(table[symbols[first + 4 * i + k]])
                    pending |= (code >> _U8) << filled
                    filled += code & uint64(0xFF)
                _store64(target + at, pending)
                at += filled >> _U3
                pending >>= filled & uint64(0x38)
                filled &= _U7
            for i in range(first + 4 * quads, end):
                code = uint64(table[symbols[i]])
                pending |= (code >> _U8) << filled
                filled += code & uint64(0xFF)
                _store64(target + at, pending)
                at += filled >> _U3
                pending >>= filled & uint64(0x38)
                filled &= _U7
        chunk_bits[lane] = (at << _U3) + filled - start
    _store64(target + at, pending)
    return (at << _U3) + filled


@njit(cache=True, nogil=True, boundscheck=False)
def encode_states(symbols, states, offsets, thresholds, log, classes, chunk, segment, out, chunk_bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Code symbols by table ANS: states, offsets, thresholds as of `ans_code.encode_tables`, a row a class."""
    pending, filled, at, target = uint64(0), uint64(0), uint64(0), uint64(out.ctypes.data)
    size = uint64(1) << uint64(log)
    fields = np.empty(chunk, dtype=np.uint32)
    for lane in range(len(chunk_bits)):
        start = (at << _U3) + filled
        first = lane * chunk
        length = min(len(symbols), (lane + 1) * chunk) - first
        state = size
        for part in range((first + length - 1) // segment, first // segment - 1, -1):
            my_states, my_offsets, my_thresholds = (
                states[classes[part]],
                offsets[classes[part]],
                thresholds[classes[part]],
            )
            for i in range(min(first + length, (part + 1) * segment) - 1, part * segment - 1, -1):
                symbol = symbols[i]
                threshold = uint64(my_thresholds[symbol])
                bits = (threshold >> _U16) + uint64(state >= threshold & uint64(0xFFFF))
                fields[i - first] = (state & ((uint64(1) << bits) - uint64(1))) << _U8 | bits
                state = size + uint64(my_states[my_offsets[symbol] + np.int64(state >> bits)])
        pending |= (state - size) << filled
        filled += uint64(log)
        _store64(target + at, pending)
        at += filled >> _U3
        pending >>= filled & uint64(0x38)
        filled &= _U7
        for i in range(length):
            pending |= uint64(fields[i] >> _U8) << filled
            filled += uint64(fields[i]) & uint64(0xFF)
            if i & 3 == 3:
                _store64(target + at, pending)
                at += filled >> _U3
                pending >>= filled & uint64(0x38)
                filled &= _U7
        _store64(target + at, pending)
        at += filled >> _U3
        pending >>= filled & uint64(0x38)
        filled &= _U7
        chunk_bits[lane] = (at << _U3) + filled - start
    _store64(target + at, pending)
    return (at << _U3) + filled
