"""Numbers of some bits each, packed behind each other, least significant bit first, and back."""

from __future__ import annotations

import numpy as np


def pack_fields(fields: np.ndarray, sizes: np.ndarray, offset: int = 0) -> np.ndarray:
    """Pack numbers of different sizes behind each other, least significant bit first.

    Args:
        fields: (count,), int64, each < 2 ** size.
        sizes: (count,), int64, 0 to 16 bits.
        offset: zero bits before the first one, 0 to 7.

    Returns:
        (bytes,), uint8, filled up with zero bits.
    """
    bits, sizes = fields.astype(np.uint64), sizes.astype(np.int64)
    for _ in range(2):  # join neighbours: a quarter of the words to place
        if len(bits) % 2:
            bits, sizes = np.append(bits, np.uint64(0)), np.append(sizes, 0)
        bits = bits[0::2] | bits[1::2] << sizes[0::2].astype(np.uint64)
        sizes = sizes[0::2] + sizes[1::2]
    ends = offset + np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else offset
    words = np.zeros(total // 64 + 2, dtype=np.uint64)
    starts = ends - sizes
    word, shift = starts >> 6, (starts & 63).astype(np.uint64)
    first = np.flatnonzero(np.diff(word, prepend=-1))
    if len(first):
        words[word[first]] |= np.bitwise_or.reduceat(bits << shift, first)
    spills = np.flatnonzero((starts & 63) + sizes > 64)
    words[word[spills] + 1] |= bits[spills] >> (64 - shift[spills].astype(np.int64)).astype(np.uint64)
    return words.astype("<u8", copy=False).view(np.uint8)[: (total + 7) // 8]


def pack_uints(values: np.ndarray, width: int) -> np.ndarray:
    """Pack unsigned integers of `width` bits, least significant bit first."""
    bits = (values.astype(np.int64)[:, None] >> np.arange(width)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")


def unpack_uints(data: np.ndarray, count: int, width: int) -> np.ndarray | None:
    """Undo `pack_uints`: (count,), int64; None if the padding is not zero."""
    if not width:
        return np.zeros(count, dtype=np.int64)
    bits = np.unpackbits(data, bitorder="little")
    if bits[count * width :].any():
        return None
    return bits[: count * width].reshape(count, width).astype(np.int64) @ (1 << np.arange(width, dtype=np.int64))
