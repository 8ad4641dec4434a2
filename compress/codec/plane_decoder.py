"""From the streams of a plane to its values; `plane_coder` is the other way round."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compress.codec.layout import Plane, Table, stream_bytes, stream_symbols
from compress.codec.stream_decoder import StreamJob, decode_streams


def plane_jobs(plane: Plane, payload: np.ndarray, count: int, tables: list[Table]) -> list[StreamJob]:
    """Return the streams of a plane that have bytes, ready to be decoded.

    Args:
        plane: its description, not RAW.
        payload: (bytes,), uint8, exactly its bytes.
        count: number of values.
        tables: tables of the file.
    """
    jobs, at = [], 0
    for stream, symbols in stream_symbols(plane, count, tables):
        size = stream_bytes(stream, symbols)
        if stream.total_bits:
            jobs.append(
                StreamJob(
                    payload[at : at + size],
                    symbols,
                    tables[stream.table].lengths,
                    stream.chunk_log2,
                    stream.total_bits,
                    stream.min_bits,
                    stream.width,
                )
            )
        at += size
    return jobs


def assemble_plane(plane: Plane, count: int, tables: list[Table], decoded: Iterator[np.ndarray]) -> np.ndarray:
    """Return the values of a plane from its symbols.

    Args:
        plane: its description, not RAW.
        count: number of values.
        tables: tables of the file.
        decoded: symbols of the streams that `plane_jobs` gave, in order; taken from as needed.

    Returns:
        (count,), uint8.

    Raises:
        ValueError: the symbols contradict the description.
    """
    main, *rest = [
        np.full(symbols, tables[stream.table].constant, dtype=np.uint16) if not stream.total_bits else next(decoded)
        for stream, symbols in stream_symbols(plane, count, tables)
    ]
    assert plane.main is not None
    table = tables[plane.main.table]
    digits = _split(main, table)
    if (digits[count:] != table.centre).any():
        raise ValueError("digits after the last value are not the centre digit")
    digits = digits[:count]
    values = digits + np.uint8(plane.low)
    if rest:
        outside = np.flatnonzero(digits == table.radix - 1)
        if len(outside) != plane.escapes:
            raise ValueError(f"{len(outside)} escape digits; the index says {plane.escapes}")
        values[outside] = rest[0].astype(np.uint8) + np.uint8(plane.escape_low)
    return values


def decode_plane(
    plane: Plane, payload: np.ndarray, count: int, tables: list[Table], backend: str = "auto"
) -> np.ndarray:
    """Decode one plane by itself; arguments, result and errors as above."""
    return assemble_plane(
        plane, count, tables, iter(decode_streams(plane_jobs(plane, payload, count, tables), backend))
    )


def _split(symbols: np.ndarray, table: Table) -> np.ndarray:
    """Undo `join`: digits, uint8, a multiple of the group."""
    if table.group == 1:
        return symbols.astype(np.uint8)
    alphabet = np.arange(table.radix**table.group)
    digits = np.stack([alphabet // table.radix**i % table.radix for i in range(table.group)], axis=1).astype(np.uint8)
    if table.group in (2, 4, 8):  # gather whole groups as one integer
        return digits.view(f"u{table.group}")[:, 0][symbols].view(np.uint8)
    return np.take(digits, symbols, axis=0).reshape(-1)
