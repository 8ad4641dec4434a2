"""From the streams of a plane to its values; `plane_coder` is the other way round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.codec.bitstream import choose_backend
from compress.codec.index import stream_bytes, stream_symbols
from compress.codec.layout import RAW, Plane, Stream, Table
from compress.codec.stream_decoder import TAIL, StreamJob

_BLOCK = 1 << 20  # values whose escapes are filled in at a time by NumPy


@dataclass(frozen=True)
class PlaneJob:
    """A plane on its way to its values.

    Attributes:
        plane: its description, not RAW.
        streams: what has to be decoded, into `out` and `escaped`.
        out: (count,), uint8, contiguous: the values, once `finish` has run.
        marker: byte that stands for an escape until then.
        escaped: (escapes,), uint8.
    """

    plane: Plane
    streams: tuple[StreamJob, ...]
    out: np.ndarray
    marker: int
    escaped: np.ndarray | None

    def finish(self, backend: str = "auto") -> None:
        """Put the escaped values where they belong, after the streams have been decoded.

        Raises:
            ValueError: there are more or fewer escapes than described.
        """
        if self.escaped is None:
            return
        if choose_backend(backend, len(self.out)) == "numba":
            from compress.codec import fast

            found = fast.fill_escapes(self.out, self.marker, self.escaped)
        else:
            found = 0
            for start in range(0, len(self.out), _BLOCK):
                part = self.out[start : start + _BLOCK]
                places = np.flatnonzero(part == self.marker)
                values = self.escaped[found : found + len(places)]
                part[places[: len(values)]] = values
                found += len(places)
        if found != self.plane.escapes:
            raise ValueError(f"{found} escape digits; the index says {self.plane.escapes}")


def plane_job(
    plane: Plane, payload: np.ndarray, count: int, tables: list[Table], out: np.ndarray, flip: int = 0
) -> PlaneJob:
    """Return what has to be done for a plane.

    Args:
        plane: its description, not RAW.
        payload: (>= bytes + TAIL,), uint8, read-only: its bytes, then anything.
        count: number of values.
        tables: tables of the file.
        out: (count,), uint8, contiguous.
        flip: bits to invert in each value.
    """
    assert plane.method != RAW
    assert plane.main is not None
    main_table = tables[plane.main.tables[0]]
    values = np.arange(plane.low, plane.low + main_table.radix) & 0xFF
    marker = int(values[-1]) ^ flip
    escaped = None
    targets = [(out, values)]
    if plane.escape is not None:
        first = plane.escape_low
        escaped = np.empty(plane.escapes, dtype=np.uint8)
        targets.append((escaped, np.arange(first, first + tables[plane.escape.tables[0]].radix)))
    jobs, at = [], 0
    for (stream, symbols), (target, bytes_of_digits) in zip(
        stream_symbols(plane, count, tables), targets, strict=True
    ):
        size = stream_bytes(stream, symbols)
        expand = _expansion(tables[stream.tables[0]], (bytes_of_digits ^ flip).astype(np.uint8))
        if stream.chunk:
            chosen = tuple(tables[number] for number in stream.tables)
            jobs.append(StreamJob(payload[at:], size, symbols, stream, chosen, expand, target))
        else:
            _fill(target, expand[_constant(stream, tables)])
        at += size
    return PlaneJob(plane, tuple(jobs), out, marker, escaped)


def _constant(stream: Stream, tables: list[Table]) -> int:
    return tables[stream.tables[0]].constant


def _fill(target: np.ndarray, group: np.ndarray) -> None:
    whole = len(target) // len(group) * len(group)
    target[:whole].reshape(-1, len(group))[:] = group
    target[whole:] = group[: len(target) - whole]


def _expansion(table: Table, byte_of_digit: np.ndarray) -> np.ndarray:
    """Return the bytes of each symbol, (alphabet, group), uint8."""
    symbols = np.arange(table.alphabet)
    digits = np.stack([symbols // table.radix**i % table.radix for i in range(table.group)], axis=1)
    return byte_of_digit[digits]


def with_tail(data: np.ndarray, start: int, size: int) -> np.ndarray:
    """Return data[start : start + size] and at least TAIL bytes more, which mean nothing, read-only."""
    found = data[start : start + size + TAIL]
    if len(found) < size + TAIL:
        found = np.concatenate([found, np.zeros(TAIL, dtype=np.uint8)])
    if found.flags.writeable:
        found = found.view()
        found.flags.writeable = False
    return found
