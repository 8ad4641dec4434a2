"""The kernels of NumPy alone (see `contract`); where a file is wrong, they say what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compress.codec.format.element_planes import join_planes
from compress.codec.kernels.bit_packing import unpack_uints
from compress.codec.kernels.numpy_decoding import decode_in_step
from compress.codec.kernels.numpy_encoding import (
    class_histograms,
    count_symbols,
    encode_symbols,
    histogram,
    join_digits,
    select_escapes,
)
from compress.codec.kernels.stream_jobs import OpenStream, Piece, StreamError, StreamJob

__all__ = [
    "AHEAD_SYMBOLS",
    "class_histograms",
    "count_symbols",
    "decode_pieces",
    "decode_streams",
    "encode_symbols",
    "fill_escapes",
    "histogram",
    "join_digits",
    "join_planes",
    "open_stream",
    "read_runs",
    "select_escapes",
]

AHEAD_SYMBOLS = 1 << 19  # few chunks side by side take as long as many
_BLOCK = 1 << 20  # values whose escapes are filled in at a time


def read_runs(data: bytes, at: int, is_counts: bool, size: int) -> None:
    """Leave them to the reader of the index: a loop over bytes is no work for NumPy."""


def open_stream(job: StreamJob, number: int = 0) -> OpenStream:
    """Read what precedes the codes of a stream; see `contract`."""
    job.check_bits(number)
    return OpenStream(job, *_classes_and_bounds(job, number))


def _classes_and_bounds(job: StreamJob, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return classes and bounds of an `OpenStream`."""
    stream, (chunks, segments) = job.stream, job.parts
    class_bytes = (segments * stream.selector_bits + 7) // 8
    code_byte = class_bytes + ((chunks - 1) * stream.width + 7) // 8
    classes = unpack_uints(job.data[:class_bytes], segments, stream.selector_bits)
    if classes is None or int(classes.max()) >= len(job.tables):
        raise StreamError(number, f"classes of the segments are not below {len(job.tables)}, or padding is not zero")
    stored = unpack_uints(job.data[class_bytes:code_byte], chunks - 1, stream.width)
    if stored is None:
        raise StreamError(number, "padding after the chunk lengths is not zero")
    bounds = np.zeros(chunks + 1, dtype=np.int64)
    np.cumsum(stored + stream.min_bits, out=bounds[1:-1])
    last = int(bounds[:-1].max())  # nearly always the last one; a sum passes total_bits before it passes 64 bits
    if last >= stream.total_bits:
        raise StreamError(
            number, f"chunks have {last} bits without the last one; the index says {stream.total_bits} with it"
        )
    bounds[-1] = stream.total_bits
    if stream.total_bits & 7 and int(job.data[job.size - 1]) >> (stream.total_bits & 7):
        raise StreamError(number, "padding after the last code is not zero")
    return classes.astype(np.uint8), bounds + 8 * code_byte


def decode_streams(jobs: Sequence[tuple[StreamJob, np.ndarray]]) -> None:
    """Decode whole streams, all together; see `contract`."""
    decode_pieces([Piece.whole(number, open_stream(job, number), out) for number, (job, out) in enumerate(jobs)])


def decode_pieces(pieces: Sequence[Piece]) -> None:
    """Decode pieces, those of each kind of code together; see `contract`."""
    for is_ans in (False, True):
        decode_in_step([piece for piece in pieces if piece.stream.job.is_ans == is_ans], is_ans)


def fill_escapes(out: np.ndarray, marker: int, values: np.ndarray) -> int:
    """Put the next of `values` wherever `out` has the marker; see `contract`."""
    found = 0
    for start in range(0, len(out), _BLOCK):
        part = out[start : start + _BLOCK]
        places = np.flatnonzero(part == marker)
        chosen = values[found : found + len(places)]
        part[places[: len(chosen)]] = chosen
        found += len(places)
    return found
