"""Writing streams of prefix codes, cut into chunks so that many of them can be decoded side by side.

Bits are packed least significant first. Chunks follow each other without padding; their lengths
are kept beside the bits. `fast` (numba) does the same as NumPy, to the byte. Reading: `stream_decoder`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType

import numpy as np

from compress.codec.prefix_code import canonical_codes

CHUNK_LOG2 = 10
_BLOCK = 1 << 20  # symbols coded at a time: bounds the memory of the encoder
_NUMBA_FROM = 1 << 24  # bytes from which importing numba pays: NumPy decodes about 50 MB/s


@dataclass(frozen=True)
class CodedStream:
    """A coded stream.

    Attributes:
        payload: (bytes,), uint8: chunk lengths, then code bits (FORMAT.md, section 6).
        total_bits: code bits without padding.
        min_bits: length of the shortest chunk but the last; 0 if there is one chunk.
        width: bits of each stored chunk length above `min_bits`.
    """

    payload: np.ndarray
    total_bits: int
    min_bits: int
    width: int


def num_chunks(count: int, chunk_log2: int) -> int:
    """Return the number of chunks of a stream of `count` symbols."""
    return -(-count >> chunk_log2)


def index_bytes(chunks: int, width: int) -> int:
    """Return the bytes that the chunk lengths take; the last chunk's length is not stored."""
    return ((chunks - 1) * width + 7) // 8


def encode_symbols(
    symbols: np.ndarray, lengths: np.ndarray, *, chunk_log2: int = CHUNK_LOG2, backend: str = "auto"
) -> CodedStream:
    """Code symbols with a canonical code.

    Args:
        symbols: (count,), uint16, count >= 1, each with a positive length.
        lengths: (alphabet,), uint8, a complete code.
        chunk_log2: symbols a chunk, as a power of two.
        backend: 'auto', 'numpy' or 'numba'; the bytes are the same.
    """
    codes = canonical_codes(lengths)
    starts = np.arange(0, len(symbols), 1 << chunk_log2)
    fast = fast_module(backend, len(symbols))
    if fast is not None:
        chunk_bits, code_bytes = fast.encode(symbols, codes, lengths, 1 << chunk_log2)
    else:
        chunk_bits = np.concatenate(
            [
                np.add.reduceat(
                    lengths[symbols[at : at + _BLOCK]].astype(np.int64),
                    starts[: num_chunks(min(_BLOCK, len(symbols) - at), chunk_log2)],
                )
                for at in range(0, len(symbols), _BLOCK)
            ]
        )
        code_bytes = _encode_numpy(symbols, codes, lengths, int(chunk_bits.sum()))
    total_bits = int(chunk_bits.sum())
    stored = chunk_bits[:-1]
    min_bits = int(stored.min()) if len(stored) else 0
    width = int(stored.max() - min_bits).bit_length() if len(stored) else 0
    payload = np.concatenate([_pack_uints(stored - min_bits, width), code_bytes])
    return CodedStream(payload, total_bits, min_bits, width)


def _encode_numpy(symbols: np.ndarray, codes: np.ndarray, lengths: np.ndarray, total_bits: int) -> np.ndarray:
    words = np.zeros(total_bits // 64 + 2, dtype=np.uint64)
    base = 0
    for at in range(0, len(symbols), _BLOCK):
        block = symbols[at : at + _BLOCK]
        sizes, bits = lengths[block].astype(np.int64), codes[block].astype(np.uint64)
        for _ in range(2):  # join neighbours: a quarter of the words to place
            if len(block) % 2 == 0 and len(bits) % 2 == 0:
                bits = bits[0::2] | bits[1::2] << sizes[0::2].astype(np.uint64)
                sizes = sizes[0::2] + sizes[1::2]
        ends = base + np.cumsum(sizes)
        starts = ends - sizes
        word, shift = starts >> 6, (starts & 63).astype(np.uint64)
        first = np.flatnonzero(np.diff(word, prepend=-1))
        words[word[first]] |= np.bitwise_or.reduceat(bits << shift, first)
        spills = np.flatnonzero((starts & 63) + sizes > 64)
        words[word[spills] + 1] |= bits[spills] >> (64 - shift[spills].astype(np.int64)).astype(np.uint64)
        base = int(ends[-1])
    return words.astype("<u8", copy=False).view(np.uint8)[: (total_bits + 7) // 8]


def _pack_uints(values: np.ndarray, width: int) -> np.ndarray:
    """Pack unsigned integers of `width` bits, least significant bit first."""
    bits = (values[:, None] >> np.arange(width)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")


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


def fast_module(backend: str, count: int) -> ModuleType | None:
    """Return the numba module if it should be used for `count` symbols."""
    if choose_backend(backend, count) == "numpy":
        return None
    from compress.codec import fast

    return fast
