"""What writing and reading the index of a .krimp file have in common (FORMAT.md, sections 4 to 6)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from compress.codec.layout import (
    Plane,
    Stream,
    Table,
    TensorRecord,
)


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
        return record.num_bytes // len(record.planes)
    if plane.escape is None and not plane.main.chunk:
        return 0
    return sum(stream_bytes(stream, symbols) for stream, symbols in stream_symbols(plane, record.num_values, tables))


@lru_cache(maxsize=256)
def symbol_order(radix: int, group: int, centre: int) -> np.ndarray:
    """Return the symbols in the order in which a table lists its entries.

    The key is the sum of the distances of the digits from the centre, ties by symbol: for
    weights that is close to the order of falling probability, so equal entries meet.

    Returns:
        (radix ** group,), int64, read-only.
    """
    order = np.argsort(digit_distance(radix, group, centre), kind="stable")
    order.flags.writeable = False
    return order


def digit_distance(radix: int, group: int, centre: int) -> np.ndarray:
    """Return for every symbol the summed distance of its digits from the centre, int64."""
    step = np.abs(np.arange(radix, dtype=np.int64) - centre)
    distance = step
    for _ in range(group - 1):
        distance = (step[:, None] + distance[None, :]).reshape(-1)
    return distance


def unsafe_name(name: str) -> str | None:
    """Return why a file name could lead out of its folder or hurt on some system, or None."""
    parts = name.split("/")
    if not name or "" in parts or "." in parts or ".." in parts:
        return "is not a plain relative path"
    if any(ord(letter) < 32 or letter in '\\:*?"<>|\x7f' for letter in name):
        return "has a letter that file names must not have"
    return None
