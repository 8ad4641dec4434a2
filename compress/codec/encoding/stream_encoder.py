"""Writing streams of symbols, cut into chunks so that many of them can be decoded side by side.

Bits are packed least significant first. Chunks follow each other without padding; their lengths, and
the classes of the segments, are kept before the bits. Reading: `decoding.stream_reader`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.codec.format.layout import Table
from compress.codec.kernels.bit_packing import pack_uints
from compress.codec.kernels.contract import Kernels


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
    kernels: Kernels,
) -> CodedStream:
    """Code symbols.

    Args:
        symbols: (count,), uint16 or uint8, count >= 1, each with a code in the table of its class.
        tables: one for each class, equal in all but their entries, not constant.
        classes: (segments,), uint8: which table each segment uses.
        chunk: symbols in a chunk.
        segment: symbols in a segment; divides `chunk`.
        kernels: what runs the loops; the bytes are the same.
    """
    chunk_bits, code_bytes = kernels.encode_symbols(symbols, tables, classes, chunk, segment)
    stored = chunk_bits[:-1]
    min_bits = int(stored.min()) if len(stored) else 0
    width = int(stored.max() - min_bits).bit_length() if len(stored) else 0
    selectors = pack_uints(classes, (len(tables) - 1).bit_length())
    payload = np.concatenate([selectors, pack_uints(stored - min_bits, width), code_bytes])
    return CodedStream(payload, int(chunk_bits.sum()), min_bits, width)
