"""From the streams of a plane to its values; `plane_coder` is the other way round."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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
    marker = (plane.low + main_table.radix - 1 & 0xFF) ^ flip
    escaped = None
    targets = [(out, plane.low)]
    if plane.escape is not None:
        escaped = np.empty(plane.escapes, dtype=np.uint8)
        targets.append((escaped, plane.escape_low))
    jobs, at = [], 0
    for (stream, symbols), (target, low) in zip(stream_symbols(plane, count, tables), targets, strict=True):
        size = stream_bytes(stream, symbols)
        table = tables[stream.tables[0]]
        expand = expansion(table.radix, table.group, low, flip)
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


@lru_cache(maxsize=64)
def expansion(radix: int, group: int, low: int, flip: int) -> np.ndarray:
    """Return the bytes of each symbol, (radix ** group, group), uint8, read-only.

    Args:
        radix: of the digits.
        group: digits of a symbol.
        low: value of digit 0; values go on at 0 after 255.
        flip: bits to invert in each value.
    """
    symbols = np.arange(radix**group)
    digits = np.stack([symbols // radix**i % radix for i in range(group)], axis=1)
    expanded = ((digits + low & 0xFF) ^ flip).astype(np.uint8)
    expanded.flags.writeable = False
    return expanded


def constant_value(plane: Plane, tables: list[Table]) -> int | None:
    """Return the only value of a plane of which that is clear without decoding, else None."""
    if plane.main is None or plane.escape is not None or plane.main.chunk:
        return None
    table = tables[plane.main.tables[0]]
    if table.group == 1:
        return plane.low + table.constant
    digits = {table.constant // table.radix**i % table.radix for i in range(table.group)}
    return plane.low + digits.pop() if len(digits) == 1 else None


def with_tail(data: np.ndarray, start: int, size: int) -> np.ndarray:
    """Return data[start : start + size] and at least TAIL bytes more, which mean nothing, read-only."""
    found = data[start : start + size + TAIL]
    if len(found) < size + TAIL:
        found = np.concatenate([found, np.zeros(TAIL, dtype=np.uint8)])
    if found.flags.writeable:
        found = found.view()
        found.flags.writeable = False
    return found
