"""Writing streams of symbols, cut into chunks so that many of them can be decoded side by side.

Bits are packed least significant first. Chunks follow each other without padding; their lengths, and
the classes of the segments, are kept before the bits. `fast_encode` (numba) does the same as
NumPy, to the byte. Reading: `stream_decoder`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from compress.codec.ans_code import encode_tables
from compress.codec.layout import COUNTS, Table
from compress.codec.prefix_code import canonical_codes

_BLOCK = 1 << 20  # symbols coded at a time by NumPy: bounds its memory
_NUMBA_FROM = 1 << 24  # bytes from which importing numba pays: NumPy decodes about 80 MB/s and encodes fewer


@dataclass(frozen=True)
class CodedStream:
    """A coded stream.

    Attributes:
        payload: (bytes,), uint8: classes, chunk lengths, code bits (FORMAT.md, section 6).
        total_bits: code bits without padding.
        min_bits: length of the shortest chunk but the last; 0 if there is one chunk.
        width: bits of each stored chunk length above `min_bits`.
    """

    payload: np.ndarray
    total_bits: int
    min_bits: int
    width: int


def encode_symbols(
    symbols: np.ndarray,
    tables: Sequence[Table],
    classes: np.ndarray,
    *,
    chunk: int,
    segment: int,
    backend: str = "auto",
) -> CodedStream:
    """Code symbols.

    Args:
        symbols: (count,), uint16 or uint8, count >= 1, each with a code in the table of its class.
        tables: one for each class, equal in all but their entries, not constant.
        classes: (segments,), uint8: which table each segment uses.
        chunk: symbols in a chunk.
        segment: symbols in a segment; divides `chunk`.
        backend: 'auto', 'numpy' or 'numba'; the bytes are the same.
    """
    if choose_backend(backend, len(symbols)) == "numba":
        chunk_bits, code_bytes = _encode_numba(symbols, tables, classes, chunk, segment)
    else:
        chunk_bits, code_bytes = _encode_numpy(symbols, tables, classes, chunk, segment)
    stored = chunk_bits[:-1]
    min_bits = int(stored.min()) if len(stored) else 0
    width = int(stored.max() - min_bits).bit_length() if len(stored) else 0
    selectors = _pack_uints(classes, (len(tables) - 1).bit_length())
    payload = np.concatenate([selectors, _pack_uints(stored - min_bits, width), code_bytes])
    return CodedStream(payload, int(chunk_bits.sum()), min_bits, width)


def _encode_numba(
    symbols: np.ndarray, tables: Sequence[Table], classes: np.ndarray, chunk: int, segment: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (bits of every chunk, int64; code bytes)."""
    from compress.codec import fast_encode

    chunk_bits = np.empty(-(-len(symbols) // chunk), dtype=np.int64)
    if tables[0].form == COUNTS:
        log = tables[0].log
        states, offsets, thresholds = _ans_tables(tables)
        steps = offsets << 32 | thresholds
        out = np.empty((len(symbols) + len(chunk_bits) + 1) * log // 8 + 32, dtype=np.uint8)
        total = fast_encode.encode_states(
            symbols, steps, states.astype(np.uint16), log, classes, chunk, segment, out, chunk_bits
        )
    else:
        codes = np.stack([_prefix_codes(table) for table in tables]).astype(np.uint32)
        longest = max(table.longest for table in tables)
        out = np.empty(longest * len(symbols) // 8 + 32, dtype=np.uint8)
        total = fast_encode.encode_prefix(symbols, codes, classes, chunk, segment, out, chunk_bits)
    return chunk_bits, out[: (int(total) + 7) // 8]


def _prefix_codes(table: Table) -> np.ndarray:
    return canonical_codes(table.entries) << 8 | table.entries


def _ans_tables(tables: Sequence[Table]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return states, offsets and thresholds as of `encode_tables`, int64, a row a class."""
    states, offsets, thresholds = zip(*(encode_tables(table.entries) for table in tables), strict=True)
    return np.stack(states), np.stack(offsets), np.stack(thresholds)


def _encode_numpy(
    symbols: np.ndarray, tables: Sequence[Table], classes: np.ndarray, chunk: int, segment: int
) -> tuple[np.ndarray, np.ndarray]:
    chunk_bits: list[np.ndarray] = []
    parts: list[np.ndarray] = [np.empty(0, dtype=np.uint8)]
    carried = 0
    fields_of = _ans_fields if tables[0].form == COUNTS else _prefix_fields
    for fields, sizes, per_chunk in fields_of(symbols, tables, classes, chunk, segment):
        bounds = np.cumsum(per_chunk)
        sums = np.concatenate([[0], np.cumsum(sizes)])
        chunk_bits.append(sums[bounds] - sums[bounds - per_chunk])
        packed = pack_fields(fields, sizes, carried)
        if carried:
            packed[0] |= parts[-1][-1]
            parts[-1] = parts[-1][:-1]
        parts.append(packed)
        carried = (carried + int(sums[-1])) & 7
    return np.concatenate(chunk_bits), np.concatenate(parts)


_Fields = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]  # fields, their sizes, fields of every chunk


def _blocks(count: int, chunk: int) -> Iterator[tuple[int, int]]:
    step = max(_BLOCK // chunk, 1) * chunk
    for start in range(0, count, step):
        yield start, min(count, start + step)


def _prefix_fields(
    symbols: np.ndarray, tables: Sequence[Table], classes: np.ndarray, chunk: int, segment: int
) -> _Fields:
    codes = np.stack([_prefix_codes(table) for table in tables])
    for start, stop in _blocks(len(symbols), chunk):
        block = symbols[start:stop]
        if len(tables) == 1:
            entries = codes[0][block]
        else:
            chosen = np.repeat(classes[start // segment : -(-stop // segment)], segment)[: stop - start]
            entries = codes[chosen, block]
        yield entries >> 8, entries & 0xFF, _chunk_counts(stop - start, chunk)


def _chunk_counts(count: int, chunk: int) -> np.ndarray:
    return np.minimum(chunk, count - np.arange(0, count, chunk))


def _ans_fields(symbols: np.ndarray, tables: Sequence[Table], classes: np.ndarray, chunk: int, segment: int) -> _Fields:
    log = tables[0].log
    size = 1 << log
    states, offsets, thresholds = _ans_tables(tables)
    for start, stop in _blocks(len(symbols), chunk):
        counts = _chunk_counts(stop - start, chunk)
        lanes, steps = len(counts), int(counts[0])
        padded = np.zeros(lanes * steps, dtype=np.int64)
        padded[: stop - start] = symbols[start:stop]
        columns = padded.reshape(lanes, steps)
        chosen = np.zeros(lanes * steps // segment + 1, dtype=np.int64)
        mine = classes[start // segment : -(-stop // segment)]
        chosen[: len(mine)] = mine
        fields, sizes = np.zeros((lanes, steps + 1), dtype=np.int64), np.zeros((lanes, steps + 1), dtype=np.int64)
        state = np.full(lanes, size)
        for step in range(steps - 1, -1, -1):  # the decoder goes forwards
            live = lanes if step < counts[-1] else lanes - 1  # only the last chunk can be short
            number = chosen[(np.arange(live) * steps + step) // segment]
            symbol = columns[:live, step]
            threshold, now = thresholds[number, symbol], state[:live]
            bits = (threshold >> 16) + (now >= (threshold & 0xFFFF))
            fields[:live, step + 1], sizes[:live, step + 1] = now & ((1 << bits) - 1), bits
            state[:live] = size + states[number, offsets[number, symbol] + (now >> bits)]
        fields[:, 0], sizes[:, 0] = state - size, log
        kept = np.arange(steps + 1) <= counts[:, None]
        yield fields[kept], sizes[kept], counts + 1


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


def _pack_uints(values: np.ndarray, width: int) -> np.ndarray:
    """Pack unsigned integers of `width` bits, least significant bit first."""
    bits = (values.astype(np.int64)[:, None] >> np.arange(width)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")


def unpack_uints(data: np.ndarray, count: int, width: int) -> np.ndarray | None:
    """Undo `_pack_uints`: (count,), int64; None if the padding is not zero."""
    if not width:
        return np.zeros(count, dtype=np.int64)
    bits = np.unpackbits(data, bitorder="little")
    if bits[count * width :].any():
        return None
    return bits[: count * width].reshape(count, width).astype(np.int64) @ (1 << np.arange(width, dtype=np.int64))


def choose_backend(backend: str, num_bytes: int) -> str:
    """Return 'numpy' or 'numba' for coding or decoding so many bytes in all.

    'auto' takes numba where it is installed and saves more time than its import costs, or is there
    already; the environment variable KRIMP_NUMBA=0 forbids it.
    """
    if backend != "auto":
        return backend
    if os.environ.get("KRIMP_NUMBA") == "0":
        return "numpy"
    if "compress.codec.fast" in sys.modules:
        return "numba"
    return "numba" if num_bytes >= _NUMBA_FROM and find_spec("numba") else "numpy"
