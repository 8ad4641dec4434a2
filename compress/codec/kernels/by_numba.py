"""The kernels of numba (see `contract`), several times faster. Importing them imports numba.

Where something before the codes is wrong NumPy's are asked, which say what.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from compress.codec.format.layout import COUNTS, Table
from compress.codec.kernels import by_numpy, numba_decoding, numba_encoding, numba_headers
from compress.codec.kernels.encoding_tables import ans_tables, prefix_codes
from compress.codec.kernels.stream_jobs import OpenStream, Piece, StreamJob

AHEAD_SYMBOLS = 1  # a chunk takes what it takes, alone or not


def read_runs(data: bytes, at: int, is_counts: bool, size: int) -> tuple[np.ndarray, int] | None:
    """Read the entries of a table; None where a run is uncommonly long, or something wrong. See `contract`."""
    entries = np.empty(size, dtype=np.int64)
    behind = numba_headers.read_runs(np.frombuffer(data, np.uint8), at, is_counts, entries)
    return (entries, behind) if behind >= 0 else None


def open_stream(job: StreamJob, number: int = 0) -> OpenStream:
    """Read what precedes the codes of a stream; see `contract`."""
    job.check_bits(number)
    stream, (chunks, segments) = job.stream, job.parts
    classes, bounds = np.empty(segments, dtype=np.uint8), np.empty(chunks + 1, dtype=np.int64)
    if numba_headers.read_bounds(
        job.data, job.size, len(job.tables), stream.width, stream.min_bits, stream.total_bits, classes, bounds
    ):
        return OpenStream(job, classes, bounds)
    return by_numpy.open_stream(job, number)  # which says what is wrong


def decode_streams(jobs: Sequence[tuple[StreamJob, np.ndarray]]) -> None:
    """Decode whole streams, one after the other; see `contract`."""
    wrong = [(number, job, out) for number, (job, out) in enumerate(jobs) if not _decode_at_once(job, out)]
    decode_pieces([Piece.whole(number, open_stream(job, number), out) for number, job, out in wrong])  # names it


def decode_pieces(pieces: Sequence[Piece]) -> None:
    """Decode pieces, one after the other; see `contract`."""
    for piece in pieces:
        _decode_piece(piece)


def fill_escapes(out: np.ndarray, marker: int, values: np.ndarray) -> int:
    """Put the next of `values` wherever `out` has the marker; see `contract`."""
    return numba_decoding.fill_escapes(out, marker, values) if len(values) else int(np.count_nonzero(out == marker))


def join_planes(planes: np.ndarray, is_rotated: bool, is_zigzag: bool, out: np.ndarray) -> None:
    """Write elements of several bytes from their planes; see `contract`."""
    numba_headers.join_planes(planes, is_rotated, is_zigzag, out)


def histogram(values: np.ndarray) -> np.ndarray:
    """Count values; see `contract`."""
    counts: np.ndarray = numba_encoding.histogram(values)
    return counts


def class_histograms(values: np.ndarray, bins: np.ndarray, number: int, segment: int, segments: int) -> np.ndarray:
    """Count the bins of the values in each segment; see `contract`."""
    counts: np.ndarray = numba_encoding.class_histograms(values, bins, number, segment, segments)
    return counts


def join_digits(values: np.ndarray, digit_of_value: np.ndarray, radix: int, group: int, centre: int) -> np.ndarray:
    """Join the digits of values to symbols; see `contract`."""
    symbols = np.empty(-(-len(values) // group), dtype=np.uint16)
    numba_encoding.join(values, digit_of_value, radix, group, centre, symbols)
    return symbols


def count_symbols(symbols: np.ndarray, labels: np.ndarray, segment: int, classes: int, alphabet: int) -> np.ndarray:
    """Count the symbols of each class; see `contract`."""
    counts = np.zeros((classes, alphabet), dtype=np.int64)
    numba_encoding.count_symbols(symbols, labels, segment, counts)
    return counts


def select_escapes(values: np.ndarray, digit_of_value: np.ndarray, marker: int, low: int, number: int) -> np.ndarray:
    """Return the values whose digit is the marker; see `contract`."""
    found = np.empty(number + 1, dtype=np.uint8)
    numba_encoding.select(values, digit_of_value, np.uint8(marker), np.uint8(low), found)
    return found[:number]


def encode_symbols(
    symbols: np.ndarray, tables: Sequence[Table], classes: np.ndarray, chunk: int, segment: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (bits of every chunk, int64; code bytes)."""
    chunk_bits = np.empty(-(-len(symbols) // chunk), dtype=np.int64)
    if tables[0].form == COUNTS:
        log = tables[0].log
        states, offsets, thresholds = ans_tables(tables)
        steps = offsets << 32 | thresholds
        out = np.empty((len(symbols) + len(chunk_bits) + 1) * log // 8 + 32, dtype=np.uint8)
        total = numba_encoding.encode_states(
            symbols, steps, states.astype(np.uint16), log, classes, chunk, segment, out, chunk_bits
        )
    else:
        codes = prefix_codes(tables).astype(np.uint32)
        longest = max(table.longest for table in tables)
        out = np.empty(longest * len(symbols) // 8 + 32, dtype=np.uint8)
        total = numba_encoding.encode_prefix(symbols, codes, classes, chunk, segment, out, chunk_bits)
    return chunk_bits, out[: (int(total) + 7) // 8]


@lru_cache(maxsize=256)  # tables are shared by tensors
def _decode_table(table: Table, log: int, names: bytes | None) -> np.ndarray:
    """Return what the next `log` bits, or the state, mean, (2 ** log,), read-only; see the two codes."""
    is_ans = table.form == COUNTS
    decoded = np.empty(1 << log, dtype=np.uint32 if names is None or is_ans else np.uint16)
    shown = np.arange(table.alphabet) if names is None else np.frombuffer(names, dtype=np.uint8)
    fill = numba_headers.fill_ans_table if is_ans else numba_headers.fill_prefix_table
    fill(table.entries, shown, log, decoded)
    decoded.flags.writeable = False
    return decoded


def _tables(job: StreamJob) -> np.ndarray:
    """Return the decoding tables of a stream behind each other."""
    found = [_decode_table(table, job.log, job.expansion.names) for table in job.tables]
    if len(found) == 1:
        return found[0]
    tables: np.ndarray = np.concatenate(found)
    tables.flags.writeable = False  # of one type for the compiler
    return tables


def _decode_at_once(job: StreamJob, out: np.ndarray) -> bool:
    """Decode a stream whole; return False if anything of it is wrong."""
    return numba_decoding.decode_stream(
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
    """Do what `decode_pieces` does with one."""
    stream, job = piece.stream, piece.stream.job
    each = job.stream.chunk // job.stream.segment
    wrong = numba_decoding.decode(
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
