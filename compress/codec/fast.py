"""The numba form of `bitstream`: same bytes, several times faster. Importing it imports numba."""

from __future__ import annotations

import numpy as np
from numba import njit, uint64

_U7, _U3, _U12, _SYMBOL = np.uint64(7), np.uint64(3), np.uint64(12), np.uint64(0xFFF)


@njit(cache=True, nogil=True, inline="always")
def _window(data, position, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the bits from `position` on, at least 57 of them."""
    at = min(position >> _U3, last)
    word = (
        uint64(data[at])
        | uint64(data[at + uint64(1)]) << uint64(8)
        | uint64(data[at + uint64(2)]) << uint64(16)
        | uint64(data[at + uint64(3)]) << uint64(24)
        | uint64(data[at + uint64(4)]) << uint64(32)
        | uint64(data[at + uint64(5)]) << uint64(40)
        | uint64(data[at + uint64(6)]) << uint64(48)
        | uint64(data[at + uint64(7)]) << uint64(56)
    )
    return word >> (position & _U7)


@njit(cache=True, nogil=True, inline="always")
def _four(data, position, last, table, mask, out, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode four symbols of one chunk; return the new bit position."""
    word = _window(data, position, last)
    for i in range(4):
        entry = uint64(table[word & mask])
        out[at + uint64(i)] = entry & _SYMBOL
        size = entry >> _U12
        word >>= size
        position += size
    return position


@njit(cache=True, nogil=True)
def _decode(data, starts, count, chunk, table, out, stops):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    last = uint64(len(data) - 8)
    mask = uint64(len(table) - 1)
    lanes = len(starts)
    full = lanes if count == lanes * chunk else lanes - 1
    step = uint64(chunk)
    lane = 0
    while lane + 4 <= full:  # four chunks at a time: their table look-ups overlap
        a, b, c, d = uint64(starts[lane]), uint64(starts[lane + 1]), uint64(starts[lane + 2]), uint64(starts[lane + 3])
        at = uint64(lane) * step
        for _ in range(chunk // 4):
            a = _four(data, a, last, table, mask, out, at)
            b = _four(data, b, last, table, mask, out, at + step)
            c = _four(data, c, last, table, mask, out, at + step * uint64(2))
            d = _four(data, d, last, table, mask, out, at + step * uint64(3))
            at += uint64(4)
        stops[lane], stops[lane + 1], stops[lane + 2], stops[lane + 3] = a, b, c, d
        lane += 4
    while lane < lanes:
        position = uint64(starts[lane])
        for i in range(lane * chunk, min(count, (lane + 1) * chunk)):
            entry = uint64(table[_window(data, position, last) & mask])
            out[i] = entry & _SYMBOL
            position += entry >> _U12
        stops[lane] = position
        lane += 1


@njit(cache=True, nogil=True)
def _encode(symbols, codes, lengths, chunk, chunk_bits, words):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    word, filled, at = uint64(0), uint64(0), 0
    full = uint64(64)
    for lane in range(len(chunk_bits)):
        bits = uint64(0)
        for i in range(lane * chunk, min(len(symbols), (lane + 1) * chunk)):
            symbol = symbols[i]
            code, size = uint64(codes[symbol]), uint64(lengths[symbol])
            word |= code << filled
            filled += size
            bits += size
            if filled >= full:
                words[at] = word
                at += 1
                filled -= full
                word = code >> (size - filled)
        chunk_bits[lane] = bits
    words[at] = word


def decode(
    padded: np.ndarray, starts: np.ndarray, count: int, chunk: int, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Decode all chunks; arguments and results as in `bitstream._decode_numpy`."""
    symbols = np.empty(count, dtype=np.uint16)
    stops = np.empty(len(starts), dtype=np.int64)
    _decode(padded, starts, count, chunk, table, symbols, stops)
    return symbols, stops


def encode(symbols: np.ndarray, codes: np.ndarray, lengths: np.ndarray, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (bits of every chunk, int64; code bytes, uint8)."""
    chunk_bits = np.empty(-(-len(symbols) // chunk), dtype=np.int64)
    words = np.zeros(int(lengths.max()) * len(symbols) // 64 + 2, dtype=np.uint64)
    _encode(symbols, codes, lengths, chunk, chunk_bits, words)
    total = int(chunk_bits.sum())
    return chunk_bits, words.astype("<u8", copy=False).view(np.uint8)[: (total + 7) // 8]
