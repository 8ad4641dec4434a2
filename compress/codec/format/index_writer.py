"""The index of a .krimp file, side files, tables and tensor records, to bytes (FORMAT.md, sections 4 to 6)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from compress.codec.format.layout import (
    CONSTANT,
    COUNTS,
    LENGTHS,
    Runs,
    SideFile,
    Stream,
    Table,
    TensorRecord,
)
from compress.codec.format.symbol_order import symbol_order
from compress.codec.format.ways import COPY, LZMA, NUMBERED, PART, RUNS, SCALED, Copy, Lzma, Numbered, Part


def write_varint(value: int) -> bytes:
    """Return an unsigned LEB128 number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_side_files(files: Sequence[SideFile]) -> bytes:
    """Return the bytes of the list of files that follow the original."""
    out = bytearray(write_varint(len(files)))
    for file in files:
        name = file.name.encode()
        out += write_varint(len(name)) + name + write_varint(file.num_bytes)
    return bytes(out)


def write_table(table: Table) -> bytes:
    """Return the bytes of a table."""
    out = bytearray(write_varint(table.radix) + write_varint(table.group) + write_varint(table.centre))
    out.append(table.form)
    if table.form == CONSTANT:
        return bytes(out + write_varint(table.constant))
    if table.form == COUNTS:
        out.append(table.log)
    listed = table.entries[symbol_order(table.radix, table.group, table.centre)]
    starts, runs = _runs(listed)
    write_run = _write_length_run if table.form == LENGTHS else _write_count_run
    for entry, run in zip(listed[starts].tolist(), runs.tolist(), strict=True):
        out += write_run(entry, run)
    return bytes(out)


def _runs(listed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where runs of equal entries begin, and their lengths."""
    bounds = np.concatenate([[0], np.flatnonzero(listed[1:] != listed[:-1]) + 1, [len(listed)]])
    return bounds[:-1], bounds[1:] - bounds[:-1]


def table_bytes(table: Table) -> int:
    """Return the length of `write_table`, quicker."""
    head = sum(len(write_varint(number)) for number in (table.radix, table.group, table.centre)) + 1
    if table.form == CONSTANT:
        return head + len(write_varint(table.constant))
    listed = table.entries[symbol_order(table.radix, table.group, table.centre)]
    starts, runs = _runs(listed)
    if table.form == LENGTHS:
        return head + len(runs) + int(_varint_bytes(runs[runs >= 16] - 16).sum())
    firsts = _varint_bytes(listed[starts] << 1)
    return head + 1 + int(firsts.sum()) + int(_varint_bytes(runs[runs > 1] - 2).sum())


def _varint_bytes(numbers: np.ndarray) -> np.ndarray:
    return 1 + (numbers >= 1 << 7).astype(np.int64) + (numbers >= 1 << 14)  # tables hold no larger ones


def _write_length_run(length: int, run: int) -> bytes:
    if run < 16:
        return bytes([length << 4 | run - 1])
    return bytes([length << 4 | 15]) + write_varint(run - 16)


def _write_count_run(count: int, run: int) -> bytes:
    if run == 1:
        return write_varint(count << 1)
    return write_varint(count << 1 | 1) + write_varint(run - 2)


def write_heaps(heaps: Sequence[TensorRecord]) -> bytes:
    """Return the bytes of the records of the heaps."""
    return write_varint(len(heaps)) + b"".join(write_record(heap)[1:] for heap in heaps)  # without a gap


def write_record(record: TensorRecord) -> bytes:
    """Return the bytes of a tensor record."""
    out = bytearray(write_varint(record.gap) + write_varint(record.num_bytes))
    match record.way:
        case Copy(back):
            return bytes(out + bytes([COPY]) + write_varint(back))
        case Part(heap, _):
            return bytes(out + bytes([PART]) + write_varint(heap))
        case Lzma(delta, dictionary, packed_bytes):
            out += bytes([LZMA, delta, dictionary]) + write_varint(packed_bytes)
        case Runs(group, announced, width, values, numbers):
            out += bytes([RUNS]) + write_varint(group) + bytes([announced, width])
            return bytes(out) + write_record(values)[1:] + write_record(numbers)[1:]  # without gaps
        case Numbered() as way:
            out += _write_numbered(way, record.kind)
        case None:
            out.append(record.kind)
    for plane in record.planes:
        out.append(plane.method)
        if plane.main is not None:
            out.append(plane.low)
            out += _write_stream(plane.main)
        if plane.escape is not None:
            out.append(plane.escape_low)
            out += write_varint(plane.escapes) + _write_stream(plane.escape)
    out += struct.pack("<I", record.crc32)
    return bytes(out)


def _write_numbered(way: Numbered, codes: int) -> bytes:
    out = bytes([NUMBERED, way.form, way.element, codes])
    if way.form == SCALED:
        folded = 2 * way.base if way.base >= 0 else -2 * way.base - 1
        out += write_varint(folded) + bytes([way.has_negative_zero]) + write_varint(way.inner)
    return out + write_varint(way.entries) + bytes([way.is_lzma]) + write_varint(way.packed_bytes)


def _write_stream(stream: Stream) -> bytes:
    out = bytes([len(stream.tables)]) + b"".join(write_varint(table) for table in stream.tables)
    out += write_varint(stream.chunk)
    if not stream.chunk:
        return out
    if len(stream.tables) > 1:
        out += write_varint(stream.segment)
    return out + write_varint(stream.total_bits) + write_varint(stream.min_bits) + bytes([stream.width])
