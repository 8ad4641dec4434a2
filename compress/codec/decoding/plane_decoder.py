"""From the streams of a plane to its values; `encoding.plane_encoder` is the other way round."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from compress.codec.decoding.stream_reader import StreamReader
from compress.codec.format.layout import RAW, Plane, Table
from compress.codec.format.payload_sizes import stream_bytes, stream_symbols
from compress.codec.kernels.contract import Kernels
from compress.codec.kernels.stream_jobs import TAIL, StreamJob, expansion
from compress.codec.mapped_memory import taken

_BLOCK = 1 << 20  # values that are copied at a time


class _Parts(NamedTuple):
    """A coded plane in parts.

    Attributes:
        streams: its main stream, and that of its escapes if it has any; a constant one as the bytes of its only
            symbol, (group,), uint8.
        marker: byte of the main stream that stands for an escape.
    """

    streams: list[StreamJob | np.ndarray]
    marker: int


def _parts(plane: Plane, payload: np.ndarray, count: int, tables: list[Table], flip: int) -> _Parts:
    assert plane.main is not None
    parts: list[StreamJob | np.ndarray] = []
    lows, at = (plane.low, plane.escape_low), 0
    for (stream, symbols), low in zip(stream_symbols(plane, count, tables), lows, strict=False):
        table = tables[stream.tables[0]]
        meaning = expansion(table.radix, table.group, low, flip)
        if stream.chunk:
            size = stream_bytes(stream, symbols)
            chosen = tuple([tables[number] for number in stream.tables])
            parts.append(StreamJob(payload[at:], size, symbols, stream, chosen, meaning))
            at += size
        else:
            parts.append(meaning.digits[table.constant])
    marker = plane.low + tables[plane.main.tables[0]].radix - 1 & 0xFF
    return _Parts(parts, marker ^ flip)


class PlaneJob(NamedTuple):
    """A plane on its way to its values.

    Attributes:
        plane: its description, not RAW.
        streams: what has to be decoded, and into what.
        out: (count,), uint8, contiguous: the values, once `finish` has run.
        marker: byte that stands for an escape until then.
        escaped: (escapes,), uint8.
    """

    plane: Plane
    streams: list[tuple[StreamJob, np.ndarray]]
    out: np.ndarray
    marker: int
    escaped: np.ndarray | None

    def finish(self, kernels: Kernels) -> None:
        """Put the escaped values where they belong, after the streams have been decoded.

        Args:
            kernels: what runs the loops.

        Raises:
            ValueError: there are more or fewer escapes than described.
        """
        if self.escaped is not None:
            found = kernels.fill_escapes(self.out, self.marker, self.escaped)
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
    parts = _parts(plane, payload, count, tables, flip)
    escaped = None if plane.escape is None else np.empty(plane.escapes, dtype=np.uint8)
    jobs = []
    for part, target in zip(parts.streams, (out, escaped), strict=False):
        assert target is not None
        if isinstance(part, StreamJob):
            jobs.append((part, target))
        else:
            _fill(target, part)
    return PlaneJob(plane, jobs, out, parts.marker, escaped)


class PlaneReader(Protocol):
    """Reads the values of a plane in order, some at a time."""

    def read(self, out: np.ndarray) -> None:
        """Write the next values, as many as `out`, (values,), uint8, contiguous, has room for.

        Raises:
            ValueError: the plane contradicts its description.
        """


def plane_reader(
    plane: Plane, payload: np.ndarray, count: int, tables: list[Table], flip: int, kernels: Kernels
) -> PlaneReader:
    """Return what reads a plane in memory that does not grow with it.

    Args:
        plane: its description.
        payload: (>= bytes + TAIL,), uint8, read-only: its bytes, then anything.
        count: number of values.
        tables: tables of the file.
        flip: bits to invert in each value.
        kernels: what runs the loops.

    Raises:
        ValueError: the plane contradicts its description.
    """
    if plane.method == RAW:
        return _RawReader(payload)
    parts = _parts(plane, payload, count, tables, flip)
    main, *escape = [
        StreamReader(part, kernels) if isinstance(part, StreamJob) else _ConstantReader(part) for part in parts.streams
    ]
    return _EscapedReader(main, escape[0], parts.marker, plane.escapes, count, kernels) if escape else main


class _RawReader:
    def __init__(self, payload: np.ndarray) -> None:
        self._payload = payload

    def read(self, out: np.ndarray) -> None:
        for start in range(0, len(out), _BLOCK):  # however much is asked for, little of the file stays in memory
            part = out[start : start + _BLOCK]
            read, self._payload = self._payload[: len(part)], self._payload[len(part) :]
            part[:] = taken(read)


class _ConstantReader:
    """Repeats the bytes of one symbol, (group,), uint8."""

    def __init__(self, group: np.ndarray) -> None:
        self._group = group

    def read(self, out: np.ndarray) -> None:
        _fill(out, self._group)
        self._group = np.roll(self._group, -len(out))


class _EscapedReader:
    """Reads a main stream, and in place of every marker in it the next value of another one, which it reads ahead."""

    def __init__(
        self, main: PlaneReader, escape: PlaneReader, marker: int, escapes: int, count: int, kernels: Kernels
    ) -> None:
        self._main, self._escape, self._marker, self._kernels = main, escape, marker, kernels
        self._escapes = self._unread = escapes
        self._values_left = count
        self._ahead: np.ndarray = np.empty(0, dtype=np.uint8)

    def read(self, out: np.ndarray) -> None:
        self._main.read(out)
        more: np.ndarray = np.empty(min(self._unread, max(len(out) - len(self._ahead), 0)), dtype=np.uint8)
        if len(more):
            self._escape.read(more)
            self._unread -= len(more)
            self._ahead = np.concatenate([self._ahead, more])
        used = self._escapes - self._unread - len(self._ahead)
        found = self._kernels.fill_escapes(out, self._marker, self._ahead)
        self._values_left -= len(out)
        is_over = self._values_left == 0
        if found > len(self._ahead) or (is_over and used + found < self._escapes):
            less = "" if is_over else " or more"
            raise ValueError(f"{used + found}{less} escape digits; the index says {self._escapes}")
        self._ahead = self._ahead[found:]


def _fill(target: np.ndarray, group: np.ndarray) -> None:
    if len(group) == 1:
        target.fill(group[0])
        return
    whole = len(target) // len(group) * len(group)
    target[:whole].reshape(-1, len(group))[:] = group
    target[whole:] = group[: len(target) - whole]


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
        found = np.concatenate([taken(found), np.zeros(TAIL, dtype=np.uint8)])
    if found.flags.writeable:
        found = found.view()
        found.flags.writeable = False
    return found
