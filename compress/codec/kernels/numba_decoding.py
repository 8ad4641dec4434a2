"""The numba form of decoding: same bytes as NumPy, several times faster. Importing it imports numba.

One symbol of a chunk waits for the one before it, so the loop takes several chunks in turns: while one waits for its
table, the others go on. A symbol of several values is written as eight bytes, of which the first ones count; near
the end of a chunk, where they would reach into the next one, it is written byte by byte.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import njit, types, uint64
from numba.core import cgutils
from numba.extending import intrinsic

from compress.codec.kernels.numba_headers import read_bounds

_EXACT = 8  # symbols at the end of a chunk that are written byte by byte
_U1, _U2, _U3, _U4, _U7, _U8, _U16 = (np.uint64(i) for i in (1, 2, 3, 4, 7, 8, 16))
_LENGTH, _BITS, _STATE, _BYTE = np.uint64(63), np.uint64(15), np.uint64(0xFFF), np.uint64(0xFF)
_TOP = np.uint64(1 << 63)
_ONES, _LOWER = np.uint64(0x0101010101010101), np.uint64(0x7F7F7F7F7F7F7F7F)


def _loader(bits: int) -> Any:
    """Return a function that reads an unsigned number of so many bits from an address."""

    def load(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            number = builder.load(place, align=1)
            return builder.zext(number, ir.IntType(64)) if bits < 64 else number

        return types.uint64(types.uint64), generate

    return intrinsic(load)


def _storer(bits: int) -> Any:
    """Return a function that writes the low bits of a number to an address."""

    def store(typing_context: Any, address: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            number = builder.trunc(arguments[1], ir.IntType(bits)) if bits < 64 else arguments[1]
            builder.store(number, place, align=1)
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64), generate

    return intrinsic(store)


_load16, _load32, _load64 = (_loader(bits) for bits in (16, 32, 64))
_store8, _store64 = (_storer(bits) for bits in (8, 64))


def _make_leading_zeros(typing_context: Any, number: Any) -> Any:
    """Return how many zero bits are above the highest one of a number that is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), generate


_leading_zeros: Any = intrinsic(_make_leading_zeros)


def _make_deposit(typing_context: Any, number: Any, mask: Any) -> Any:
    """Return the low bits of a number at the places of the mask's ones (BMI2's PDEP)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(word, [word, word]), "llvm.x86.bmi.pdep.64"
        )
        return builder.call(function, arguments)

    return types.uint64(types.uint64, types.uint64), generate


_deposit: Any = intrinsic(_make_deposit)


@njit(nogil=True, forceinline=True)
def _window(data, last, position):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the bits from `position` on, at least 57 of them."""
    return _load64(data + min(position >> _U3, last)) >> (position & _U7)


@njit(nogil=True, forceinline=True)
def _write(out, symbol, expand):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the eight bytes that begin with those of a symbol; without `expand` the symbol is its only byte."""
    if expand is None:
        _store8(out, symbol)
    else:
        _store64(out, _load64(expand + (symbol << _U3)))


@njit(nogil=True, forceinline=True)
def _prefix(word, table, mask, expand, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode a symbol of a prefix code; return the bits behind it."""
    entry = _load16(table + ((word & mask) << _U1)) if expand is None else _load32(table + ((word & mask) << _U2))
    _write(out, entry >> _U8, expand)
    return word >> (entry & _LENGTH)


@njit(nogil=True, forceinline=True)
def _ans(word, position, state, table, expand, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode a symbol of table ANS; return the bits behind it, their position, and the state."""
    entry = _load32(table + (state << _U2))
    _write(out, entry >> _U16, expand)
    bits = entry & _BITS
    state = ((entry >> _U4) & _STATE) + (word & ((_U1 << bits) - _U1))
    return word >> bits, position + bits, state


@njit(nogil=True, forceinline=True)
def _four(data, last, position, state, table, mask, expand, group, out, has_states):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode four symbols; return position and state."""
    group = _U1 if expand is None else group
    word = _window(data, last, position)
    if has_states is None:
        word |= _TOP  # goes down as bits are used
        word = _prefix(word, table, mask, expand, out)
        word = _prefix(word, table, mask, expand, out + group)
        word = _prefix(word, table, mask, expand, out + _U2 * group)
        word = _prefix(word, table, mask, expand, out + _U3 * group)
        return position + _leading_zeros(word), state
    word, position, state = _ans(word, position, state, table, expand, out)
    word, position, state = _ans(word, position, state, table, expand, out + group)
    word, position, state = _ans(word, position, state, table, expand, out + _U2 * group)
    word, position, state = _ans(word, position, state, table, expand, out + _U3 * group)
    return position, state


@njit(nogil=True, forceinline=True)
def _four_chunks(data, last, position, state, table, mask, expand, group, out, apart, count, has_states):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode `count` times four symbols of each of four chunks, whose output begins `apart` bytes from each other."""
    p0, p1, p2, p3 = position[0], position[1], position[2], position[3]
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    t0, t1, t2, t3 = table[0], table[1], table[2], table[3]
    for _ in range(count):
        at = out
        p0, s0 = _four(data, last, p0, s0, t0, mask, expand, group, at, has_states)
        at += apart
        p1, s1 = _four(data, last, p1, s1, t1, mask, expand, group, at, has_states)
        at += apart
        p2, s2 = _four(data, last, p2, s2, t2, mask, expand, group, at, has_states)
        at += apart
        p3, s3 = _four(data, last, p3, s3, t3, mask, expand, group, at, has_states)
        out += _U4 if expand is None else _U4 * group
    position[0], position[1], position[2], position[3] = p0, p1, p2, p3
    state[0], state[1], state[2], state[3] = s0, s1, s2, s3


@njit(nogil=True, forceinline=True)
def _eight_chunks(data, last, position, table, mask, out, apart, count):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Do what `_four_chunks` does with eight, by one prefix code for bytes: so many fit into the registers."""
    p0, p1, p2, p3 = position[0], position[1], position[2], position[3]
    p4, p5, p6, p7 = position[4], position[5], position[6], position[7]
    for _ in range(count):
        at = out
        p0 = _four(data, last, p0, _U1, table, mask, None, _U1, at, None)[0]
        at += apart
        p1 = _four(data, last, p1, _U1, table, mask, None, _U1, at, None)[0]
        at += apart
        p2 = _four(data, last, p2, _U1, table, mask, None, _U1, at, None)[0]
        at += apart
        p3 = _four(data, last, p3, _U1, table, mask, None, _U1, at, None)[0]
        at += apart
        p4 = _four(data, last, p4, _U1, table, mask, None, _U1, at, None)[0]
        at += apart
        p5 = _four(data, last, p5, _U1, table, mask, None, _U1, at, None)[0]
        at += apart
        p6 = _four(data, last, p6, _U1, table, mask, None, _U1, at, None)[0]
        at += apart
        p7 = _four(data, last, p7, _U1, table, mask, None, _U1, at, None)[0]
        out += _U4
    position[0], position[1], position[2], position[3] = p0, p1, p2, p3
    position[4], position[5], position[6], position[7] = p4, p5, p6, p7


@njit(nogil=True, forceinline=True)
def _one(data, last, position, state, table, mask, expand, group, out, end, has_states):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode one symbol and write its bytes up to `end`; return position and state."""
    word = _window(data, last, position)
    if has_states is not None:
        entry = _load32(table + (state << _U2))
        symbol, bits = entry >> _U16, entry & _BITS
        state = ((entry >> _U4) & _STATE) + (word & ((_U1 << bits) - _U1))
    else:
        entry = _load16(table + ((word & mask) << _U1)) if expand is None else _load32(table + ((word & mask) << _U2))
        symbol, bits = entry >> _U8, entry & _LENGTH
    digits = symbol if expand is None else _load64(expand + (symbol << _U3))
    for place in range(out, min(out + group, end)):
        _store8(place, digits)
        digits >>= _U8
    return position + bits, state


@njit(nogil=True, forceinline=True)
def _start(data, last, bounds, position, state, log, mask, first, stride, lanes, has_states):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set the positions and states of some chunks to where they begin."""
    for k in range(lanes):
        position[k] = bounds[first + k * stride]
        if has_states is not None:
            state[k] = _window(data, last, position[k]) & mask
            position[k] += uint64(log)


@njit(nogil=True, forceinline=True)
def _find_tables(table, tables, row, classes, segment, between, lanes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Set the tables of some chunks, whose segments are `between` segments from each other."""
    for k in range(lanes):
        table[k] = tables
        if classes is not None:
            table[k] += uint64(classes[segment + k * between]) * row


@njit(nogil=True, forceinline=True)
def _group(data, last, position, state, table, mask, expand, step, at, apart, quads, rest, end, lanes, classes, is_ans):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode a segment of each of some chunks: `quads` times four symbols in turns, then `rest` one by one."""
    if quads:
        if classes is None:
            _eight_chunks(data, last, position, table[0], mask, at, apart, quads)
        else:
            _four_chunks(data, last, position, state, table, mask, expand, step, at, apart, quads, is_ans)
        at += uint64(4 * quads) * step
    for k in range(lanes):
        here = at + uint64(k) * apart
        for _ in range(rest):
            position[k], state[k] = _one(
                data, last, position[k], state[k], table[k], mask, expand, step, here, end, is_ans
            )
            here += step


@njit(cache=True, nogil=True, boundscheck=False)
def _decode(data, bounds, tables, log, classes, chunk, segment, count, expansion, group, out, has_states):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    source, last = uint64(data.ctypes.data), uint64(len(data) - 8)
    mask, step, row = (_U1 << uint64(log)) - _U1, uint64(group), uint64(tables.itemsize << log)
    expand = None if expansion is None else uint64(expansion.ctypes.data)
    target, end = uint64(out.ctypes.data), uint64(out.ctypes.data + len(out))
    segments = chunk // segment
    most = 8 if classes is None else 4  # chunks in turns
    position, state, table = np.empty(most, np.uint64), np.zeros(most, np.uint64), np.empty(most, np.uint64)
    wrong, stop_bit, last_state = len(bounds), uint64(0), uint64(0)
    whole = count // chunk  # chunks of full length
    rows = whole // most
    turns = rows + (1 if rows and whole % most else 0)
    alone = whole if rows else 0  # the first chunk that is decoded by itself
    for turn in range(turns + len(bounds) - 1 - alone):
        lanes, first, stride = 1, alone + turn - turns, 1
        if turn < rows:  # far apart: places in memory that lie close together get into each other's way
            lanes, first, stride = most, turn, rows
        elif turn < turns:
            lanes, first = most, whole - most  # some are decoded a second time
        length = min(chunk, count - first * chunk)
        in_turns = 0 if lanes == 1 else length if expansion is None else length - _EXACT
        _start(source, last, bounds, position, state, log, mask, first, stride, lanes, has_states)
        for begin in range(0, length, segment):
            number = first * segments + begin // segment
            _find_tables(table, uint64(tables.ctypes.data), row, classes, number, stride * segments, lanes)
            at = target + uint64((first * chunk + begin) * group)
            stop = min(length, begin + segment)
            quads = max(min(stop, in_turns) - begin, 0) >> 2
            _group(
                source, last, position, state, table, mask, expand, step, at, uint64(stride * chunk * group), quads,
                stop - begin - 4 * quads, end, lanes, classes, has_states,
            )  # fmt: skip
        for k in range(lanes):
            number = first + k * stride
            if number < wrong and (position[k] != uint64(bounds[number + 1]) or state[k] != 0):
                wrong, stop_bit, last_state = number, position[k], state[k]
    return wrong, stop_bit, last_state


@njit(cache=True, nogil=True, boundscheck=False)
def _fill_by_bytes(out, marker, values, begin, found):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    last = len(values) - 1
    for i in range(begin, len(out)):
        is_escape = out[i] == marker
        out[i] = values[min(found, last)] if is_escape else out[i]
        found += is_escape
    return found


@njit(cache=True, nogil=True, boundscheck=False)
def _fill_by_words(out, marker, values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Do eight bytes at a time while eight of `values` are left; return where it stopped and how many were used."""
    target, source = uint64(out.ctypes.data), uint64(values.ctypes.data)
    wanted, found, at = uint64(marker) * _ONES, uint64(0), uint64(0)
    while at + _U8 <= uint64(len(out)) and found + _U8 <= uint64(len(values)):
        word = _load64(target + at)
        other = word ^ wanted
        places = (~(((other & _LOWER) + _LOWER) | other | _LOWER) >> _U7) * uint64(0xFF)  # 0xFF where the marker is
        _store64(target + at, (word & ~places) | _deposit(_load64(source + found), places))
        found += ((places & _ONES) * _ONES) >> uint64(56)
        at += _U8
    return at, found


def _has_deposit() -> bool:
    """Return True if numba compiles for this machine and the machine has PDEP."""
    is_native = not any(getattr(numba.config, name, None) for name in ("CPU_NAME", "CPU_FEATURES"))
    return is_native and bool(binding.get_host_cpu_features().get("bmi2"))


_BY_WORDS = _has_deposit()


def fill_escapes(out: np.ndarray, marker: int, values: np.ndarray) -> int:
    """Put the next of `values` wherever `out` has the marker; return how many markers there were.

    Args:
        out: (count,), uint8, contiguous.
        marker: 0..255.
        values: (escapes,), uint8, contiguous, at least one. If there are more markers the last one is used again.
    """
    begin, found = _fill_by_words(out, marker, values) if _BY_WORDS else (0, 0)
    return int(_fill_by_bytes(out, marker, values, int(begin), int(found)))


@njit(cache=True, nogil=True, boundscheck=False)
def _decode_stream(data, size, number, stream, tables, log, count, expansion, group, out, is_alone, has_states):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    chunk, segment, total_bits, min_bits, width = stream
    if has_states is None and count > total_bits:
        return False
    classes = np.empty((count + segment - 1) // segment, dtype=np.uint8)
    bounds = np.empty((count + chunk - 1) // chunk + 1, dtype=np.int64)
    if not read_bounds(data, size, number, width, min_bits, total_bits, classes, bounds):
        return False
    if is_alone is not None:
        ends = _decode(data, bounds, tables, log, None, chunk, segment, count, expansion, group, out, has_states)
    else:
        ends = _decode(data, bounds, tables, log, classes, chunk, segment, count, expansion, group, out, has_states)
    return ends[0] == len(bounds)


def decode_stream(
    data: np.ndarray,
    size: int,
    number: int,
    stream: tuple[int, int, int, int, int],
    tables: np.ndarray,
    log: int,
    is_ans: bool,
    count: int,
    words: np.ndarray | None,
    group: int,
    out: np.ndarray,
) -> bool:
    """Read what precedes the codes of a stream, and decode it whole.

    Args:
        data: (> size + 8,), uint8, read-only: the payload of the stream, then anything.
        size: bytes of the payload.
        number: of tables.
        stream: chunk, segment, total_bits, min_bits and width of `layout.Stream`.
        tables: see `decode`, as for all that follow.
        log: see there.
        is_ans: see there.
        count: see there.
        words: see there.
        group: see there.
        out: see there.

    Returns:
        False if anything of it is wrong, and then what `out` holds is too.
    """
    is_alone = True if words is None and not is_ans and number == 1 else None
    return bool(
        _decode_stream(
            data, size, number, stream, tables, log, count, words, group, out, is_alone, True if is_ans else None
        )
    )


def decode(
    data: np.ndarray,
    bounds: np.ndarray,
    tables: np.ndarray,
    log: int,
    is_ans: bool,
    classes: np.ndarray,
    chunk: int,
    segment: int,
    count: int,
    words: np.ndarray | None,
    group: int,
    out: np.ndarray,
) -> tuple[int, int, int] | None:
    """Decode chunks of a stream that follow each other.

    Args:
        data: (bytes,), uint8, read-only; at least 8 bytes follow the last code.
        bounds: (chunks + 1,), int64, bits of `data` where chunks begin and the last one ends.
        tables: (classes << log,): what the next `log` bits, or the state, mean (`decode_table` of the two codes);
            uint32, but uint16 for a prefix code with bytes in place of its symbols.
        log: log2 of the size of a table.
        is_ans: table ANS, else a prefix code.
        classes: (segments,), uint8.
        chunk: symbols in a chunk.
        segment: symbols in a segment.
        count: symbols.
        words: (alphabet,), uint64: the bytes of each symbol, first one least significant; None if the tables hold
            them.
        group: bytes of a symbol.
        out: (values,), uint8, contiguous; written whole.

    Returns:
        None if every chunk ends where the next one begins, and in state 0. Else the first one that does not, the bit
        where it ends, and in which state; what `out` holds is wrong then.
    """
    is_alone = words is None and not is_ans and len(tables) == 1 << log
    wrong, stop_bit, last_state = _decode(
        data, bounds, tables, log, None if is_alone else classes, chunk, segment, count, words, group, out,
        True if is_ans else None,
    )  # fmt: skip
    return (int(wrong), int(stop_bit), int(last_state)) if wrong < len(bounds) else None
