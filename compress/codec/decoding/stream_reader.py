"""Reading the values of a long stream a part at a time."""

from __future__ import annotations

import numpy as np

from compress.codec.kernels.contract import Kernels
from compress.codec.kernels.stream_jobs import Piece, StreamJob
from compress.codec.mapped_memory import fill, forget


class StreamReader:
    """Reads the values of a stream in order, some at a time, in memory that grows by some bytes a chunk only."""

    def __init__(self, job: StreamJob, kernels: Kernels) -> None:
        """Read what precedes the codes.

        Raises:
            StreamError: it contradicts the index.
        """
        fill(job.data[: job.head_bytes])
        fill(job.data[job.size - 1 : job.size])
        self._stream, self._kernels = kernels.open_stream(job), kernels
        self._next = 0  # chunk
        self._left: np.ndarray = np.empty(0, dtype=np.uint8)  # values that have been decoded, but not read

    def read(self, out: np.ndarray) -> None:
        """Write the next values, as many as `out`, (values,), uint8, contiguous, has room for; there are so many.

        Raises:
            StreamError: codes do not end where the index says.
        """
        at = min(len(self._left), len(out))
        out[:at], self._left = self._left[:at], self._left[at:]
        chunk = self._stream.job.stream.chunk
        least = max(self._kernels.AHEAD_SYMBOLS // chunk, 1)  # chunks to decode in one go
        whole = (len(out) - at) // (chunk * self._stream.job.expansion.group)
        if whole >= least:
            at += self._decode(whole, out[at:])
        if at < len(out):
            values: np.ndarray = np.empty(self._values(least), dtype=np.uint8)
            self._decode(least, values)
            out[at:], self._left = values[: len(out) - at], values[len(out) - at :]

    def _values(self, chunks: int) -> int:
        stop = min(self._next + chunks, len(self._stream.bounds) - 1)
        return self._stream.symbols_in(self._next, stop) * self._stream.job.expansion.group

    def _decode(self, chunks: int, out: np.ndarray) -> int:
        """Decode the next chunks, as far as there are any, into the first bytes of `out`; return how many bytes."""
        size, first = self._values(chunks), self._next
        self._next = min(first + chunks, len(self._stream.bounds) - 1)
        if size:
            begin, end = self._stream.bounds[first] >> 3, self._stream.bounds[self._next] >> 3
            fill(self._stream.job.data[begin : end + 1][: self._stream.job.size - begin])
            self._kernels.decode_pieces([Piece(0, self._stream, first, self._next, out[:size])])
            forget(self._stream.job.data[begin:end])
        return size
