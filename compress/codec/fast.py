"""The numba form of decoding: same bytes as NumPy, several times faster. Importing it imports numba.

The loops run four chunks side by side, so that their table look-ups overlap. All of them write eight bytes
for a symbol and step on by `group` of them; the chunks that run side by side lie far apart, and the last
ones are written byte by byte, so that only bytes are overwritten that are still to come.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types, uint64
from numba.core import cgutils
from numba.extending import intrinsic

_U1, _U2, _U3, _U4, _U7, _U8, _U16 = (np.uint64(i) for i in (1, 2, 3, 4, 7, 8, 16))
_LENGTH, _BITS, _STATE = np.uint64(0xFF), np.uint64(15), np.uint64(0xFFF)


def _make_load(typing_context: Any, data: Any, at: Any) -> Any:
    """Return the eight bytes from `at` on as one number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(cgutils.gep(builder, array.data, arguments[1]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(data, types.uint64), generate


_load64: Any = intrinsic(_make_load)


def _make_store(typing_context: Any, data: Any, at: Any, value: Any) -> Any:
    """Write a number into the eight bytes from `at` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(cgutils.gep(builder, array.data, arguments[1]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], place, align=1)
        return context.get_dummy_value()

    return types.void(data, types.uint64, types.uint64), generate


_store64: Any = intrinsic(_make_store)


@njit(cache=True, nogil=True, inline="always")
def _window(data, position, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the bits from `position` on, at least 57 of them."""
    return _load64(data, min(position >> _U3, last)) >> (position & _U7)


@njit(cache=True, nogil=True, inline="always")
def _byte_steps(data, position, last, table, base, mask, out, at, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode up to four one-byte symbols of a prefix code; return the new position."""
    word = _window(data, position, last)
    total = uint64(0)
    for i in range(steps):
        entry = uint64(table[base + (word & mask)])
        out[at + uint64(i)] = entry >> _U8
        word >>= entry & _LENGTH
        total += entry & _LENGTH
    return position + total


@njit(cache=True, nogil=True, boundscheck=False)
def _decode_bytes(data, starts, table, log, classes, chunk, segment, count, out, stops):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    last, mask = uint64(len(data) - 8), (_U1 << uint64(log)) - _U1
    shift = uint64(log)
    lanes = len(starts)
    segments = chunk // segment
    apart = (lanes - 1) // 4
    for lane in range(apart):
        la, lb, lc, ld = lane, lane + apart, lane + 2 * apart, lane + 3 * apart
        a, b, c, d = uint64(starts[la]), uint64(starts[lb]), uint64(starts[lc]), uint64(starts[ld])
        ao, bo, co, do = uint64(la * chunk), uint64(lb * chunk), uint64(lc * chunk), uint64(ld * chunk)
        for part in range(segments):
            at = uint64(classes[la * segments + part]) << shift
            bt = uint64(classes[lb * segments + part]) << shift
            ct = uint64(classes[lc * segments + part]) << shift
            dt = uint64(classes[ld * segments + part]) << shift
            for _ in range(segment >> 2):
                a = _byte_steps(data, a, last, table, at, mask, out, ao, 4)
                b = _byte_steps(data, b, last, table, bt, mask, out, bo, 4)
                c = _byte_steps(data, c, last, table, ct, mask, out, co, 4)
                d = _byte_steps(data, d, last, table, dt, mask, out, do, 4)
                ao += _U4
                bo += _U4
                co += _U4
                do += _U4
            for _ in range(segment & 3):
                a = _byte_steps(data, a, last, table, at, mask, out, ao, 1)
                b = _byte_steps(data, b, last, table, bt, mask, out, bo, 1)
                c = _byte_steps(data, c, last, table, ct, mask, out, co, 1)
                d = _byte_steps(data, d, last, table, dt, mask, out, do, 1)
                ao += _U1
                bo += _U1
                co += _U1
                do += _U1
        stops[la], stops[lb], stops[lc], stops[ld] = a, b, c, d
    for lane in range(4 * apart, lanes):
        position = uint64(starts[lane])
        end = min(count, (lane + 1) * chunk)
        for first in range(lane * chunk, end, segment):
            base = uint64(classes[first // segment]) << shift
            stop = min(end, first + segment)
            at = uint64(first)
            for _ in range((stop - first) >> 2):
                position = _byte_steps(data, position, last, table, base, mask, out, at, 4)
                at += _U4
            for _ in range((stop - first) & 3):
                position = _byte_steps(data, position, last, table, base, mask, out, at, 1)
                at += _U1
        stops[lane] = position


@njit(cache=True, nogil=True, inline="always")
def _prefix_steps(data, position, last, table, base, mask, expand, group, out, at, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode up to four joined symbols of a prefix code; return the new position."""
    word = _window(data, position, last)
    total = uint64(0)
    for _ in range(steps):
        entry = uint64(table[base + (word & mask)])
        _store64(out, at, expand[entry >> _U8])
        at += group
        word >>= entry & _LENGTH
        total += entry & _LENGTH
    return position + total


@njit(cache=True, nogil=True, inline="always")
def _state_steps(data, position, last, table, base, state, expand, group, out, at, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode up to four symbols of table ANS; return the new position and state."""
    word = _window(data, position, last)
    total = uint64(0)
    for _ in range(steps):
        entry = uint64(table[base + state])
        _store64(out, at, expand[entry >> _U16])
        at += group
        bits = entry & _BITS
        state = ((entry >> _U4) & _STATE) + (word & ((_U1 << bits) - _U1))
        word >>= bits
        total += bits
    return position + total, state


@njit(cache=True, nogil=True, inline="always")
def _write_digits(out, at, digits, group):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for _ in range(group):
        if at < len(out):
            out[at] = digits & _LENGTH
        digits >>= _U8
        at += 1


@njit(cache=True, nogil=True, boundscheck=False)
def _decode_joined(data, starts, table, log, classes, chunk, segment, count, expand, group, out, stops):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    last, mask, shift, step = uint64(len(data) - 8), (_U1 << uint64(log)) - _U1, uint64(log), uint64(group)
    lanes = len(starts)
    segments = chunk // segment
    apart = max(lanes - 2, 0) // 4
    apart = apart if apart > 1 else 0
    saved = np.empty(4, dtype=np.uint64)
    for lane in range(apart):
        la, lb, lc, ld = lane, lane + apart, lane + 2 * apart, lane + 3 * apart
        a, b, c, d = uint64(starts[la]), uint64(starts[lb]), uint64(starts[lc]), uint64(starts[ld])
        ao, bo, co, do = uint64(la * chunk), uint64(lb * chunk), uint64(lc * chunk), uint64(ld * chunk)
        ao, bo, co, do = ao * step, bo * step, co * step, do * step
        if lane == apart - 1:  # the next bytes of three of the four are done already
            for i in range(1, 4):
                saved[i] = _load64(out, uint64(i * apart * chunk) * step)
        for part in range(segments):
            at = uint64(classes[la * segments + part]) << shift
            bt = uint64(classes[lb * segments + part]) << shift
            ct = uint64(classes[lc * segments + part]) << shift
            dt = uint64(classes[ld * segments + part]) << shift
            for _ in range(segment >> 2):
                a = _prefix_steps(data, a, last, table, at, mask, expand, step, out, ao, 4)
                b = _prefix_steps(data, b, last, table, bt, mask, expand, step, out, bo, 4)
                c = _prefix_steps(data, c, last, table, ct, mask, expand, step, out, co, 4)
                d = _prefix_steps(data, d, last, table, dt, mask, expand, step, out, do, 4)
                ao += step << _U2
                bo += step << _U2
                co += step << _U2
                do += step << _U2
            for _ in range(segment & 3):
                a = _prefix_steps(data, a, last, table, at, mask, expand, step, out, ao, 1)
                b = _prefix_steps(data, b, last, table, bt, mask, expand, step, out, bo, 1)
                c = _prefix_steps(data, c, last, table, ct, mask, expand, step, out, co, 1)
                d = _prefix_steps(data, d, last, table, dt, mask, expand, step, out, do, 1)
                ao += step
                bo += step
                co += step
                do += step
        if lane == apart - 1:
            for i in range(1, 4):
                _store64(out, uint64(i * apart * chunk) * step, saved[i])
        stops[la], stops[lb], stops[lc], stops[ld] = a, b, c, d
    for lane in range(4 * apart, lanes):
        position = uint64(starts[lane])
        for i in range(lane * chunk, min(count, (lane + 1) * chunk)):
            base = uint64(classes[i // segment]) << shift
            entry = uint64(table[base + (_window(data, position, last) & mask)])
            _write_digits(out, i * group, expand[entry >> _U8], group)
            position += entry & _LENGTH
        stops[lane] = position


@njit(cache=True, nogil=True, boundscheck=False)
def _decode_states(data, starts, table, log, classes, chunk, segment, count, expand, group, out, stops, ends):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    last, mask, shift, step = uint64(len(data) - 8), (_U1 << uint64(log)) - _U1, uint64(log), uint64(group)
    lanes = len(starts)
    segments = chunk // segment
    apart = max(lanes - 2, 0) // 4
    apart = apart if apart > 1 else 0
    saved = np.empty(4, dtype=np.uint64)
    for lane in range(apart):
        la, lb, lc, ld = lane, lane + apart, lane + 2 * apart, lane + 3 * apart
        a, b, c, d = uint64(starts[la]), uint64(starts[lb]), uint64(starts[lc]), uint64(starts[ld])
        ao, bo, co, do = uint64(la * chunk), uint64(lb * chunk), uint64(lc * chunk), uint64(ld * chunk)
        ao, bo, co, do = ao * step, bo * step, co * step, do * step
        sa, sb = _window(data, a, last) & mask, _window(data, b, last) & mask
        sc, sd = _window(data, c, last) & mask, _window(data, d, last) & mask
        a, b, c, d = a + shift, b + shift, c + shift, d + shift
        if lane == apart - 1:
            for i in range(1, 4):
                saved[i] = _load64(out, uint64(i * apart * chunk) * step)
        for part in range(segments):
            at = uint64(classes[la * segments + part]) << shift
            bt = uint64(classes[lb * segments + part]) << shift
            ct = uint64(classes[lc * segments + part]) << shift
            dt = uint64(classes[ld * segments + part]) << shift
            for _ in range(segment >> 2):
                a, sa = _state_steps(data, a, last, table, at, sa, expand, step, out, ao, 4)
                b, sb = _state_steps(data, b, last, table, bt, sb, expand, step, out, bo, 4)
                c, sc = _state_steps(data, c, last, table, ct, sc, expand, step, out, co, 4)
                d, sd = _state_steps(data, d, last, table, dt, sd, expand, step, out, do, 4)
                ao += step << _U2
                bo += step << _U2
                co += step << _U2
                do += step << _U2
            for _ in range(segment & 3):
                a, sa = _state_steps(data, a, last, table, at, sa, expand, step, out, ao, 1)
                b, sb = _state_steps(data, b, last, table, bt, sb, expand, step, out, bo, 1)
                c, sc = _state_steps(data, c, last, table, ct, sc, expand, step, out, co, 1)
                d, sd = _state_steps(data, d, last, table, dt, sd, expand, step, out, do, 1)
                ao += step
                bo += step
                co += step
                do += step
        if lane == apart - 1:
            for i in range(1, 4):
                _store64(out, uint64(i * apart * chunk) * step, saved[i])
        stops[la], stops[lb], stops[lc], stops[ld] = a, b, c, d
        ends[la], ends[lb], ends[lc], ends[ld] = sa, sb, sc, sd
    for lane in range(4 * apart, lanes):
        position = uint64(starts[lane])
        state = _window(data, position, last) & mask
        position += shift
        for i in range(lane * chunk, min(count, (lane + 1) * chunk)):
            entry = uint64(table[(uint64(classes[i // segment]) << shift) + state])
            _write_digits(out, i * group, expand[entry >> _U16], group)
            bits = entry & _BITS
            state = ((entry >> _U4) & _STATE) + (_window(data, position, last) & ((_U1 << bits) - _U1))
            position += bits
        stops[lane], ends[lane] = position, state


@njit(cache=True, nogil=True, boundscheck=False)
def fill_escapes(out, marker, values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Put the next of `values` wherever `out` has the marker; return how many markers there were."""
    found, last = 0, len(values) - 1
    for i in range(len(out)):
        is_escape = out[i] == marker
        out[i] = values[min(found, last)] if is_escape else out[i]
        found += is_escape
    return found


def decode(
    data: np.ndarray,
    starts: np.ndarray,
    tables: np.ndarray,
    log: int,
    is_ans: bool,
    classes: np.ndarray,
    chunk: int,
    segment: int,
    count: int,
    expand: np.ndarray,
    group: int,
    out: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Decode all chunks of a stream.

    Args:
        data: (bytes,), uint8, read-only; at least 8 bytes follow the last code.
        starts: (chunks,), int64, bit where each chunk starts in `data`.
        tables: (classes << log,), uint32: what the next `log` bits, or the state, mean (`Code.decode_tables`).
        log: log2 of the size of a table.
        is_ans: table ANS, else a prefix code.
        classes: (segments,), uint8.
        chunk: symbols in a chunk.
        segment: symbols in a segment.
        count: symbols.
        expand: (alphabet,), uint64: the bytes of each symbol, first one least significant.
        group: bytes of a symbol.
        out: (values,), uint8, contiguous; written whole.

    Returns:
        The bit after each chunk and the last state of each, int64.
    """
    stops, ends = np.empty(len(starts), dtype=np.int64), np.zeros(len(starts), dtype=np.int64)
    if is_ans:
        _decode_states(data, starts, tables, log, classes, chunk, segment, count, expand, group, out, stops, ends)
    elif group == 1 and len(expand) <= 256:
        # The byte itself takes the place of the symbol: one look-up less.
        direct = (expand[tables >> 8].astype(np.uint16) << 8 | (tables & 0xFF).astype(np.uint16)).astype(np.uint16)
        _decode_bytes(data, starts, direct, log, classes, chunk, segment, count, out, stops)
    else:
        _decode_joined(data, starts, tables, log, classes, chunk, segment, count, expand, group, out, stops)
    return stops, ends
