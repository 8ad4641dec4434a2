"""The numba form of encoding: same bytes as NumPy, several times faster. Importing it imports numba."""

from __future__ import annotations

import numpy as np
from numba import njit, uint64

from compress.codec.kernels.numba_decoding import _store64

_U3, _U7, _U8, _U16 = (np.uint64(i) for i in (3, 7, 8, 16))
_BYTE = np.uint64(0xFF)


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


@njit(nogil=True, forceinline=True)
def _append(number, bits, pending, filled):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Put a number of so many bits behind those that wait to be written; return them and how many they are."""
    return pending | number << filled, filled + bits


@njit(nogil=True, forceinline=True)
def _flush(pending, filled, target, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the waiting bits at byte `at`; return those of a last byte that is not full, how many, and its place."""
    _store64(target + at, pending)
    return pending >> (filled & uint64(0x38)), filled & _U7, at + (filled >> _U3)


@njit(nogil=True, forceinline=True)
def _append_all(fields, pending, filled, target, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write fields, (count,), uint32, bits << 8 | how many; they go four at a time, which are at most 56 bits."""
    quads = len(fields) >> 2
    for i in range(0, 4 * quads, 4):
        for k in range(4):
            field = uint64(fields[i + k])
            pending, filled = _append(field >> _U8, field & _BYTE, pending, filled)
        pending, filled, at = _flush(pending, filled, target, at)
    for i in range(4 * quads, len(fields)):
        field = uint64(fields[i])
        pending, filled = _append(field >> _U8, field & _BYTE, pending, filled)
        pending, filled, at = _flush(pending, filled, target, at)
    return pending, filled, at


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
            for i in range(first, first + 4 * quads, 4):
                for k in range(4):
                    code = uint64(table[symbols[i + k]])
                    pending, filled = _append(code >> _U8, code & _BYTE, pending, filled)
                pending, filled, at = _flush(pending, filled, target, at)
            for i in range(first + 4 * quads, end):
                code = uint64(table[symbols[i]])
                pending, filled = _append(code >> _U8, code & _BYTE, pending, filled)
                pending, filled, at = _flush(pending, filled, target, at)
        chunk_bits[lane] = (at << _U3) + filled - start
    _store64(target + at, pending)
    return (at << _U3) + filled


@njit(nogil=True, forceinline=True)
def _step(state, size, symbol, steps, states, fields, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Note the bits that coding a symbol in a state gives; return the next state."""
    step = steps[symbol]
    threshold = uint64(step) & uint64(0xFFFFFFFF)
    bits = (threshold >> _U16) + uint64(state >= threshold & uint64(0xFFFF))
    fields[at] = (state & ((uint64(1) << bits) - uint64(1))) << _U8 | bits
    return size + uint64(states[(step >> 32) + np.int64(state >> bits)])


@njit(nogil=True, forceinline=True)
def _one_segment(symbols, begin, end, size, steps, states, labels, state, fields):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Code the symbols of a segment, the last one first."""
    x, step, next_ = state[0], steps[labels[0]], states[labels[0]]
    for i in range(end - 1, begin - 1, -1):
        x = _step(x, size, symbols[i], step, next_, fields, i)
    state[0] = x


@njit(nogil=True, forceinline=True)
def _four_segments(symbols, begin, end, apart, size, steps, states, labels, state, fields):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Do what `_one_segment` does for four, `apart` symbols from each other: a state waits for the one before it."""
    x0, x1, x2, x3 = state[0], state[1], state[2], state[3]
    step0, step1, step2, step3 = steps[labels[0]], steps[labels[1]], steps[labels[2]], steps[labels[3]]
    next0, next1, next2, next3 = states[labels[0]], states[labels[1]], states[labels[2]], states[labels[3]]
    for i in range(end - 1, begin - 1, -1):
        at = i
        x0 = _step(x0, size, symbols[at], step0, next0, fields, at)
        at += apart
        x1 = _step(x1, size, symbols[at], step1, next1, fields, at)
        at += apart
        x2 = _step(x2, size, symbols[at], step2, next2, fields, at)
        at += apart
        x3 = _step(x3, size, symbols[at], step3, next3, fields, at)
    state[0], state[1], state[2], state[3] = x0, x1, x2, x3


@njit(cache=True, nogil=True, boundscheck=False)
def encode_states(symbols, steps, states, log, classes, chunk, segment, out, chunk_bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Code symbols by table ANS, all arguments as of `stream_encoder.encode_symbols` but for these.

    steps, (classes, alphabet), int64: offset << 32 | threshold; states, (classes, 2 ** log), uint16; all three as of
    `ans_code.encode_tables`. `out` has 16 bytes to spare. `chunk_bits`, (chunks,), int64, is given the bits of each.
    """
    pending, filled, at, target = uint64(0), uint64(0), uint64(0), uint64(out.ctypes.data)
    size, segments, whole = uint64(1) << uint64(log), chunk // segment, len(symbols) // chunk
    fields = np.empty(4 * chunk, dtype=np.uint32)
    state, labels = np.empty(4, dtype=np.uint64), np.empty(4, dtype=np.uint8)
    lane = 0
    while lane < len(chunk_bits):
        lanes = 4 if lane + 4 <= whole else 1
        length = min(chunk, len(symbols) - lane * chunk)
        mine = symbols[lane * chunk : (lane + lanes) * chunk]
        state[:] = size
        for part in range((length - 1) // segment, -1, -1):
            for k in range(lanes):
                labels[k] = classes[(lane + k) * segments + part]
            begin, end = part * segment, min(length, (part + 1) * segment)
            if lanes == 4:
                _four_segments(mine, begin, end, chunk, size, steps, states, labels, state, fields)
            else:
                _one_segment(mine, begin, end, size, steps, states, labels, state, fields)
        for k in range(lanes):
            start = (at << _U3) + filled
            pending, filled = _append(state[k] - size, uint64(log), pending, filled)
            pending, filled, at = _flush(pending, filled, target, at)
            noted = fields[k * chunk : k * chunk + length]
            pending, filled, at = _append_all(noted, pending, filled, target, at)
            chunk_bits[lane + k] = (at << _U3) + filled - start
        lane += lanes
    _store64(target + at, pending)
    return (at << _U3) + filled
