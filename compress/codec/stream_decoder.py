"""Reading streams of symbols: whole ones, many together, or the values of a long one a part at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from compress.codec.bitstream import choose_backend, unpack_uints
from compress.codec.layout import COUNTS, Table
from compress.codec.lock_step import decode_in_step
from compress.codec.memory import forget
from compress.codec.streams import OpenStream, Piece, StreamError, StreamJob


def decode_streams(jobs: Sequence[tuple[StreamJob, np.ndarray]], backend: str = "auto") -> None:
    """Decode whole streams; the more at once, the faster NumPy is.

    Args:
        jobs: streams, each with what takes its values: (values,), uint8, contiguous; all of its symbols, but for up to
            group - 1 values less.
        backend: 'auto', 'numpy' or 'numba' (same bytes).

    Raises:
        StreamError: chunk lengths, code bits and padding of a stream do not fit together.
    """
    backend = choose_backend(backend, sum([job.symbols for job, _ in jobs]))
    pieces = []
    for number, (job, out) in enumerate(jobs):
        if backend == "numba" and _decode_at_once(job, out):
            continue
        stream = open_stream(job, backend, number)
        pieces.append(Piece(number, stream, 0, len(stream.bounds) - 1, out))
    decode_pieces(pieces, backend)  # with numba only what is wrong, which it names


class StreamReader:
    """Reads the values of a stream in order, some at a time, in memory that grows by some bytes a chunk only."""

    def __init__(self, job: StreamJob, backend: str) -> None:
        """Read what precedes the codes.

        Raises:
            StreamError: it contradicts the index.
        """
        self._stream, self._backend = open_stream(job, backend), backend
        self._next = 0  # chunk
        self._left: np.ndarray = np.empty(0, dtype=np.uint8)  # values that have been decoded, but not read

    def read(self, out: np.ndarray) -> None:
        """Write the next values, as many as `out`, (values,), uint8, contiguous, has room for; there are so many.

        Raises:
            StreamError: codes do not end where the index says.
        """
        at = min(len(self._left), len(out))
        out[:at], self._left = self._left[:at], self._left[at:]
        whole = (len(out) - at) // (self._stream.job.stream.chunk * self._stream.job.expansion.group)
        at += self._decode(whole, out[at:])
        if at < len(out):
            values: np.ndarray = np.empty(self._values(1), dtype=np.uint8)
            self._decode(1, values)
            out[at:], self._left = values[: len(out) - at], values[len(out) - at :]

    def _values(self, chunks: int) -> int:
        stop = min(self._next + chunks, len(self._stream.bounds) - 1)
        return self._stream.symbols_in(self._next, stop) * self._stream.job.expansion.group

    def _decode(self, chunks: int, out: np.ndarray) -> int:
        """Decode the next chunks, as far as there are any, into the first bytes of `out`; return how many bytes."""
        size, first = self._values(chunks), self._next
        self._next = min(first + chunks, len(self._stream.bounds) - 1)
        if size:
            decode_pieces([Piece(0, self._stream, first, self._next, out[:size])], self._backend)
            begin, end = self._stream.bounds[first] >> 3, self._stream.bounds[self._next] >> 3
            forget(self._stream.job.data[begin:end])
        return size


def open_stream(job: StreamJob, backend: str, number: int = 0) -> OpenStream:
    """Read what precedes the codes of a stream.

    Args:
        job: the stream.
        backend: 'numpy' or 'numba'.
        number: of the stream, for errors.

    Raises:
        StreamError: classes, chunk lengths or padding are not what the index says.
    """
    stream = job.stream
    chunks, segments = -(-job.symbols // stream.chunk), -(-job.symbols // stream.segment)
    if not job.is_ans and job.symbols > stream.total_bits:
        raise StreamError(number, f"{job.symbols} symbols in {stream.total_bits} bits; expected a bit or more for each")
    if backend == "numba":
        from compress.codec.fast_headers import read_bounds

        classes, bounds = np.empty(segments, dtype=np.uint8), np.empty(chunks + 1, dtype=np.int64)
        if read_bounds(
            job.data, job.size, len(job.tables), stream.width, stream.min_bits, stream.total_bits, classes, bounds
        ):
            return OpenStream(job, classes, bounds)
    return OpenStream(job, *_read_numpy(number, job, chunks, segments))  # which says what is wrong


def _read_numpy(number: int, job: StreamJob, chunks: int, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Return classes and bounds of an `OpenStream`."""
    stream = job.stream
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
    last = int(bounds[:-1].max())  # nearly always the last one; sums beyond 64 bits go astray before they come back
    if last >= stream.total_bits or bounds.min() < 0:
        raise StreamError(
            number, f"chunks have {last} bits without the last one; the index says {stream.total_bits} with it"
        )
    bounds[-1] = stream.total_bits
    if stream.total_bits & 7 and int(job.data[job.size - 1]) >> (stream.total_bits & 7):
        raise StreamError(number, "padding after the last code is not zero")
    return classes.astype(np.uint8), bounds + 8 * code_byte


def decode_pieces(pieces: Sequence[Piece], backend: str) -> None:
    """Decode pieces into their `out`.

    Args:
        pieces: of any streams.
        backend: 'numpy' or 'numba'.

    Raises:
        StreamError: codes do not end where the index says.
    """
    if backend == "numba":
        for piece in pieces:
            _decode_piece(piece)
        return
    for is_ans in (False, True):
        decode_in_step([piece for piece in pieces if piece.stream.job.is_ans == is_ans], is_ans)


@lru_cache(maxsize=256)  # tables are shared by tensors
def _decode_table(table: Table, log: int, names: bytes | None) -> np.ndarray:
    """Return what the next `log` bits, or the state, mean, (2 ** log,), read-only; see the two codes."""
    from compress.codec.fast_headers import fill_ans_table, fill_prefix_table

    is_ans = table.form == COUNTS
    decoded = np.empty(1 << log, dtype=np.uint32 if names is None or is_ans else np.uint16)
    shown = np.arange(table.alphabet) if names is None else np.frombuffer(names, dtype=np.uint8)
    fill = fill_ans_table if is_ans else fill_prefix_table
    fill(table.entries, shown, log, decoded)
    decoded.flags.writeable = False
    return decoded


def _tables(job: StreamJob) -> np.ndarray:
    """Return the decoding tables of a stream behind each other, for numba."""
    found = [_decode_table(table, job.log, job.expansion.names) for table in job.tables]
    if len(found) == 1:
        return found[0]
    tables = np.concatenate(found)
    tables.flags.writeable = False  # of one type for the compiler
    return tables


def _decode_at_once(job: StreamJob, out: np.ndarray) -> bool:
    """Decode a stream whole; return False if anything of it is wrong."""
    from compress.codec.fast import decode_stream

    return decode_stream(
        job.data,
        job.size,
        len(job.tables),
        job.stream[1:],
        _tables(job),
        job.log,
        job.is_ans,
        job.symbols,
        job.expansion.words,
        job.expansion.group,
        out,
    )


def _decode_piece(piece: Piece) -> None:
    """Do what `decode_pieces` does with one, by numba."""
    from compress.codec.fast import decode

    stream, job = piece.stream, piece.stream.job
    each = job.stream.chunk // job.stream.segment
    wrong = decode(
        job.data,
        stream.bounds[piece.first : piece.stop + 1],
        _tables(job),
        job.log,
        job.is_ans,
        stream.classes[piece.first * each : piece.stop * each],
        job.stream.chunk,
        job.stream.segment,
        stream.symbols_in(piece.first, piece.stop),
        job.expansion.words,
        job.expansion.group,
        piece.out,
    )
    if wrong is not None:
        chunk, stop_bit, last_state = wrong
        raise piece.wrong_end(chunk, stop_bit, last_state if job.is_ans else None)
