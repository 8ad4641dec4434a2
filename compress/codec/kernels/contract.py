"""What a set of kernels does. Two modules are one: `by_numpy` and `by_numba`; their results are equal to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from compress.codec.format.layout import Table
from compress.codec.kernels.stream_jobs import OpenStream, Piece, StreamJob


class Kernels(Protocol):
    """The loops over values and bits.

    Attributes:
        AHEAD_SYMBOLS: how many symbols of a stream are decoded in one go at least, however few are wanted.
    """

    AHEAD_SYMBOLS: int

    def read_runs(self, data: bytes, at: int, is_counts: bool, size: int) -> tuple[np.ndarray, int] | None:
        """Read the entries of a table, which are written in runs (FORMAT.md, section 4).

        Args:
            data: the unpacked index.
            at: the byte where they begin.
            is_counts: counts of table ANS, else code lengths.
            size: how many entries.

        Returns:
            (size,), int64, and the byte behind them; None where `format.IndexReader` should read them itself, which
            says what is wrong with them.
        """

    def open_stream(self, job: StreamJob, number: int = 0) -> OpenStream:
        """Read what precedes the codes of a stream.

        Args:
            job: the stream.
            number: of the stream, for errors.

        Raises:
            StreamError: classes, chunk lengths or padding are not what the index says.
        """

    def decode_streams(self, jobs: Sequence[tuple[StreamJob, np.ndarray]]) -> None:
        """Decode whole streams; the more at once, the faster NumPy is.

        Args:
            jobs: streams, each with what takes its values: (values,), uint8, contiguous; all of its symbols, but for
                up to group - 1 values less.

        Raises:
            StreamError: chunk lengths, code bits and padding of a stream do not fit together.
        """

    def decode_pieces(self, pieces: Sequence[Piece]) -> None:
        """Decode pieces, of any streams, into their `out`.

        Raises:
            StreamError: codes do not end where the index says.
        """

    def fill_escapes(self, out: np.ndarray, marker: int, values: np.ndarray) -> int:
        """Put the next of `values` wherever `out` has the marker; return how many markers there were.

        Args:
            out: (count,), uint8, contiguous.
            marker: 0..255.
            values: (escapes,), uint8, contiguous. Where they are too few, what `out` holds is wrong.
        """

    def join_planes(self, planes: np.ndarray, is_rotated: bool, is_zigzag: bool, out: np.ndarray) -> None:
        """Write elements of several bytes from their planes; see `format.element_planes`.

        Args:
            planes: (n, count), uint8, least significant byte first, n of 2, 4, 8.
            is_rotated: the sign bit is the lowest one.
            is_zigzag: numbers below zero are the odd ones.
            out: (n * count,), uint8, contiguous.
        """

    def histogram(self, values: np.ndarray) -> np.ndarray:
        """Count values, (count,), uint8: (256,), int64."""

    def class_histograms(
        self, values: np.ndarray, bins: np.ndarray, number: int, segment: int, segments: int
    ) -> np.ndarray:
        """Count the bins of the values in each segment.

        Args:
            values: (count,), uint8.
            bins: (256,), uint8: the bin of each value.
            number: of bins.
            segment: values in a segment; the last one may have less.
            segments: number of segments.

        Returns:
            (segments, number), int64.
        """

    def join_digits(
        self, values: np.ndarray, digit_of_value: np.ndarray, radix: int, group: int, centre: int
    ) -> np.ndarray:
        """Join the digits of values to symbols; the last one is filled with the centre.

        Args:
            values: (count,), uint8.
            digit_of_value: (256,), uint8, each below `radix`.
            radix: of the digits.
            group: digits of a symbol; radix ** group is at most 4096.
            centre: a digit.

        Returns:
            (ceil(count / group),), uint16.
        """

    def count_symbols(
        self, symbols: np.ndarray, labels: np.ndarray, segment: int, classes: int, alphabet: int
    ) -> np.ndarray:
        """Count the symbols of each class.

        Args:
            symbols: (count,), uint8 or uint16, each below `alphabet`.
            labels: (segments,), uint8: the class of each segment.
            segment: symbols in a segment.
            classes: number of classes.
            alphabet: number of different symbols.

        Returns:
            (classes, alphabet), int64.
        """

    def select_escapes(
        self, values: np.ndarray, digit_of_value: np.ndarray, marker: int, low: int, number: int
    ) -> np.ndarray:
        """Return value - low of the `number` values whose digit is the marker, (number,), uint8."""

    def encode_symbols(
        self, symbols: np.ndarray, tables: Sequence[Table], classes: np.ndarray, chunk: int, segment: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Code symbols; see `encoding.stream_encoder.encode_symbols`.

        Returns:
            The bits of every chunk, (chunks,), int64; the code bits behind each other, (bytes,), uint8.
        """
