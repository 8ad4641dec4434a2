"""How many bytes streams and planes take in the payload (FORMAT.md, section 6)."""

from __future__ import annotations

from compress.codec.format.layout import KINDS, Plane, Stream, Table, TensorRecord
from compress.codec.format.ways import Lzma, Numbered


def stream_symbols(plane: Plane, count: int, tables: list[Table]) -> list[tuple[Stream, int]]:
    """Return the streams of a plane of `count` values with the number of symbols in each."""
    streams = []
    if plane.main is not None:
        streams.append((plane.main, -(-count // tables[plane.main.tables[0]].group)))
    if plane.escape is not None:
        streams.append((plane.escape, -(-plane.escapes // tables[plane.escape.tables[0]].group)))
    return streams


def stream_bytes(stream: Stream, symbols: int) -> int:
    """Return the bytes of a stream in the payload."""
    if not stream.chunk:
        return 0
    chunks = -(-symbols // stream.chunk)
    segments = -(-symbols // stream.segment)
    return (
        (segments * stream.selector_bits + 7) // 8
        + ((chunks - 1) * stream.width + 7) // 8
        + (stream.total_bits + 7) // 8
    )


def plane_bytes(plane: Plane, record: TensorRecord, tables: list[Table]) -> int:
    """Return the bytes of a plane in the payload."""
    if plane.main is None:  # raw
        return record.num_values * KINDS[record.kind].value_bits // 8
    if plane.escape is None and not plane.main.chunk:
        return 0
    return sum(stream_bytes(stream, symbols) for stream, symbols in stream_symbols(plane, record.num_values, tables))


def map_bytes(record: TensorRecord) -> int:
    """Return the bytes of a tensor in the payload before its planes, or without any."""
    return record.way.packed_bytes if isinstance(record.way, Lzma | Numbered) else 0
