"""The structures of a .krimp file (FORMAT.md), to bytes and back. Nothing here decodes a tensor."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from compress.codec.prefix_code import MAX_ALPHABET, MAX_LENGTH, is_complete
from compress.errors import CodecError

MAGIC = b"\x89KRIMP\r\n"
VERSION = 1
HEADER_BYTES = 108
MAX_ORIGINAL_BYTES = 1 << 36
MAX_RATIO = 1 << 20  # original bytes for each byte of the file
MAX_INDEX_BYTES = 1 << 28
MAX_COUNT = 1 << 17  # tensors, tables
MAX_SYMBOLS = 1 << 24  # alphabets of all tables together
MAX_CHUNK_LOG2 = 16

RAW, CODED, CODED_WITH_ESCAPES = 0, 1, 2

_FIXED = struct.Struct("<8sHBBIQ32sQQQQQII")
CONTAINERS = ("onnx", "safetensors", "other")


@dataclass(frozen=True)
class Kind:
    """How the bytes of a tensor become values.

    Attributes:
        name: for people.
        value_bits: bits of a value as it is coded: 2, 4 or 8.
        is_signed: values are two's complement; they are coded with their sign bit inverted, so
            that -2 ** (value_bits - 1) becomes 0.
        planes: byte planes of an element; 1 for elements of at most 8 bits.
        transform: '' or what moves the sign bit out of the way: 'rotate', 'zigzag'.
    """

    name: str
    value_bits: int
    is_signed: bool
    planes: int = 1
    transform: str = ""


KINDS = {
    0: Kind("uint8", 8, False),
    1: Kind("int8", 8, True),
    2: Kind("uint4", 4, False),
    3: Kind("int4", 4, True),
    4: Kind("uint2", 2, False),
    5: Kind("int2", 2, True),
    8: Kind("float16", 8, False, 2, "rotate"),
    9: Kind("float32", 8, False, 4, "rotate"),
    10: Kind("float64", 8, False, 8, "rotate"),
    12: Kind("int16", 8, False, 2, "zigzag"),
    13: Kind("int32", 8, False, 4, "zigzag"),
    14: Kind("int64", 8, False, 8, "zigzag"),
    16: Kind("uint16", 8, False, 2),
    17: Kind("uint32", 8, False, 4),
    18: Kind("uint64", 8, False, 8),
}


@dataclass(frozen=True)
class Table:
    """The code lengths of one alphabet.

    A symbol joins `group` digits of base `radix`: sum(digit[i] * radix ** i).

    Attributes:
        radix, group: base and number of digits.
        centre: the digit around which the probabilities are assumed to fall.
        lengths: (radix ** group,), uint8; empty for a constant table.
        constant: the only symbol, or None.
    """

    radix: int
    group: int
    centre: int
    lengths: np.ndarray
    constant: int | None = None


@dataclass(frozen=True)
class Stream:
    """Where and how the symbols of one plane are coded; see `bitstream.CodedStream`."""

    table: int
    chunk_log2: int = 0
    total_bits: int = 0
    min_bits: int = 0
    width: int = 0


@dataclass(frozen=True)
class Plane:
    """One sequence of values of at most 8 bits.

    Attributes:
        method: RAW, CODED or CODED_WITH_ESCAPES.
        low: value of digit 0, unsigned.
        main: the stream of joined digits.
        escape_low, escapes, escape: the values whose digit is radix - 1: value of their digit 0,
            how many there are, their stream.
    """

    method: int
    low: int = 0
    main: Stream | None = None
    escape_low: int = 0
    escapes: int = 0
    escape: Stream | None = None


@dataclass(frozen=True)
class TensorRecord:
    """One coded span of the original file.

    Attributes:
        gap: bytes of the skeleton between the span before and this one.
        num_bytes: length of the span.
        kind: key of KINDS.
        planes: least significant byte first.
        payload_bytes: coded bytes.
        crc32: over the coded bytes.
    """

    gap: int
    num_bytes: int
    kind: int
    planes: tuple[Plane, ...]
    crc32: int

    @property
    def count(self) -> int:
        """Return the number of values in each plane."""
        kind = KINDS[self.kind]
        return self.num_bytes // kind.planes if kind.planes > 1 else self.num_bytes * 8 // kind.value_bits


@dataclass(frozen=True)
class Header:
    """The first 108 bytes."""

    container: int
    skeleton_packed_by_lzma: bool
    index_packed_by_lzma: bool
    num_tensors: int
    original_bytes: int
    sha256: bytes
    payload_bytes: int
    skeleton_bytes: int
    skeleton_packed_bytes: int
    index_bytes: int
    index_packed_bytes: int
    skeleton_crc32: int
    index_crc32: int

    def to_bytes(self) -> bytes:
        """Return the 108 bytes."""
        flags = int(self.skeleton_packed_by_lzma) | int(self.index_packed_by_lzma) << 1
        body = _FIXED.pack(
            MAGIC, VERSION, self.container, flags, self.num_tensors, self.original_bytes, self.sha256,
            self.payload_bytes, self.skeleton_bytes, self.skeleton_packed_bytes, self.index_bytes,
            self.index_packed_bytes, self.skeleton_crc32, self.index_crc32,
        )  # fmt: skip
        return body + struct.pack("<I", crc32(body))


def parse_header(data: bytes, file_bytes: int, name: str) -> Header:
    """Read and check the header.

    Args:
        data: the first bytes of the file, 108 if it has so many.
        file_bytes: size of the whole file.
        name: path for messages.

    Raises:
        CodecError: not a .krimp file, a newer version, damaged, truncated or beyond a limit.
    """
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise CodecError(
            f"{name}: byte 0: this is not a .krimp file (it starts with {data[:8]!r}); expected {MAGIC!r}."
        )
    if len(data) >= 10 and (version := struct.unpack_from("<H", data, 8)[0]) != VERSION:
        age = "newer than" if version > VERSION else "unknown to"
        raise CodecError(
            f"{name}: byte 8: format version {version} is {age} this program, which reads version {VERSION}."
            " Update krimp."
        )
    if len(data) < HEADER_BYTES:
        raise CodecError(f"{name}: byte {len(data)}: the file ends inside its header; expected {HEADER_BYTES} bytes.")
    (stored,) = struct.unpack_from("<I", data, HEADER_BYTES - 4)
    if stored != crc32(data[: HEADER_BYTES - 4]):
        raise CodecError(f"{name}: byte {HEADER_BYTES - 4}: checksum of the header is wrong; the file is damaged.")
    fields = _FIXED.unpack_from(data)
    container, flags = fields[2:4]
    if container >= len(CONTAINERS):
        raise CodecError(f"{name}: byte 10: container {container}; expected at most {len(CONTAINERS) - 1}.")
    if flags > 3:
        raise CodecError(f"{name}: byte 11: unknown flags {flags:#x}; expected at most 0x3.")
    header = Header(container, bool(flags & 1), bool(flags & 2), *fields[4:])
    _check_sizes(header, file_bytes, name)
    return header


def _check_sizes(header: Header, file_bytes: int, name: str) -> None:
    declared = HEADER_BYTES + header.payload_bytes + header.skeleton_packed_bytes + header.index_packed_bytes
    if declared != file_bytes:
        what = "truncated" if file_bytes < declared else "followed by foreign bytes"
        raise CodecError(
            f"{name}: byte {min(declared, file_bytes)}: the file is {what}: it has {file_bytes} bytes;"
            f" expected {declared}."
        )
    limit = min(MAX_ORIGINAL_BYTES, file_bytes * MAX_RATIO)
    if max(header.original_bytes, header.skeleton_bytes) > limit:
        raise CodecError(f"{name}: byte 16: declares {header.original_bytes} bytes; expected at most {limit}.")
    if header.skeleton_bytes > header.original_bytes:
        raise CodecError(
            f"{name}: byte 64: skeleton of {header.skeleton_bytes} bytes in a file of {header.original_bytes};"
            " expected not more than the file."
        )
    if header.index_bytes > MAX_INDEX_BYTES:
        raise CodecError(f"{name}: byte 80: index of {header.index_bytes} bytes; expected at most {MAX_INDEX_BYTES}.")
    if header.num_tensors > MAX_COUNT:
        raise CodecError(f"{name}: byte 12: {header.num_tensors} tensors; expected at most {MAX_COUNT}.")


def stream_symbols(plane: Plane, count: int, tables: list[Table]) -> list[tuple[Stream, int]]:
    """Return the streams of a plane of `count` values with the number of symbols in each."""
    streams = []
    if plane.main is not None:
        streams.append((plane.main, -(-count // tables[plane.main.table].group)))
    if plane.escape is not None:
        streams.append((plane.escape, plane.escapes))
    return streams


def stream_bytes(stream: Stream, symbols: int) -> int:
    """Return the bytes of a stream in the payload."""
    if not stream.total_bits:
        return 0
    chunks = -(-symbols >> stream.chunk_log2)
    return ((chunks - 1) * stream.width + 7) // 8 + (stream.total_bits + 7) // 8


def payload_bytes(record: TensorRecord, tables: list[Table]) -> int:
    """Return the coded bytes of a tensor."""
    raw_plane = record.num_bytes // len(record.planes)
    return sum(
        raw_plane
        if plane.method == RAW
        else sum(stream_bytes(stream, symbols) for stream, symbols in stream_symbols(plane, record.count, tables))
        for plane in record.planes
    )


def symbol_order(radix: int, group: int, centre: int) -> np.ndarray:
    """Return the symbols in the order in which a table lists its code lengths.

    The key is the sum of the distances of the digits from the centre, ties by symbol: for
    weights that is close to the order of falling probability, so equal lengths meet.

    Returns:
        (radix ** group,), int64.
    """
    return np.argsort(digit_distance(radix, group, centre), kind="stable")


def digit_distance(radix: int, group: int, centre: int) -> np.ndarray:
    """Return for every symbol the summed distance of its digits from the centre, int64."""
    step = np.abs(np.arange(radix, dtype=np.int64) - centre)
    distance = step
    for _ in range(group - 1):
        distance = (step[:, None] + distance[None, :]).reshape(-1)
    return distance


def write_varint(value: int) -> bytes:
    """Return an unsigned LEB128 number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_table(table: Table) -> bytes:
    """Return the bytes of a table (FORMAT.md, section 4)."""
    head = write_varint(table.radix) + write_varint(table.group) + write_varint(table.centre)
    if table.constant is not None:
        return head + b"\x01" + write_varint(table.constant)
    listed = table.lengths[symbol_order(table.radix, table.group, table.centre)]
    starts = np.flatnonzero(np.diff(listed, prepend=255))
    runs = np.diff(starts, append=len(listed))
    out = bytearray(head + b"\x00")
    for length, run in zip(listed[starts].tolist(), runs.tolist(), strict=True):
        if run < 16:
            out.append(length << 4 | run - 1)
        else:
            out.append(length << 4 | 15)
            out += write_varint(run - 16)
    return bytes(out)


def write_record(record: TensorRecord) -> bytes:
    """Return the bytes of a tensor record (FORMAT.md, section 5)."""
    out = bytearray(write_varint(record.gap) + write_varint(record.num_bytes))
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


def _write_stream(stream: Stream) -> bytes:
    out = write_varint(stream.table)
    if stream.total_bits:
        out += bytes([stream.chunk_log2]) + write_varint(stream.total_bits)
        out += write_varint(stream.min_bits) + bytes([stream.width])
    else:
        out += b"\x00"
    return out


class IndexReader:
    """Reads tables and records from the unpacked index; every step checks that bytes are left."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name, self._at, self._symbols = data, name, 0, 0

    def fail(self, what: str) -> CodecError:
        """Return the error for the current position."""
        return CodecError(f"{self._name}: index byte {self._at}: {what}.")

    def byte(self) -> int:
        """Return the next byte."""
        if self._at >= len(self._data):
            raise self.fail("the index ends inside a record; expected more bytes")
        self._at += 1
        return self._data[self._at - 1]

    def varint(self, limit: int = MAX_ORIGINAL_BYTES * 16) -> int:
        """Return the next number, at most `limit`."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if value > limit or shift > 63:
                raise self.fail(f"number {value} is too large; expected at most {limit}")
            if byte < 0x80:
                if byte == 0 and shift:
                    raise self.fail("number is not written in the shortest way; expected no zero byte at its end")
                return value
            shift += 7

    def end(self) -> None:
        """Refuse bytes after the last record."""
        if self._at != len(self._data):
            raise self.fail(f"{len(self._data) - self._at} bytes follow the last record; expected none")

    def table(self) -> Table:
        """Read one table."""
        radix, group = self.varint(MAX_ALPHABET), self.varint(12)
        size = radix**group if radix and group else 0
        if not 1 <= size <= MAX_ALPHABET:
            raise self.fail(f"alphabet of {radix} to the power of {group} symbols; expected 1 to {MAX_ALPHABET}")
        self._symbols += size
        if self._symbols > MAX_SYMBOLS:
            raise self.fail(f"tables of {self._symbols} symbols together; expected at most {MAX_SYMBOLS}")
        centre = self.varint(radix - 1)
        form = self.byte()
        if form == 1:
            return Table(radix, group, centre, np.empty(0, dtype=np.uint8), self.varint(size - 1))
        if form != 0:
            raise self.fail(f"table form {form}; expected 0 or 1")
        listed: list[int] = []
        while len(listed) < size:
            token = self.byte()
            run = (token & 15) + 1
            if run == 16:
                run += self.varint(MAX_ALPHABET)
            if len(listed) + run > size:
                raise self.fail(f"{len(listed) + run} code lengths; expected {size}")
            listed += [token >> 4] * run
        lengths = np.zeros(size, dtype=np.uint8)
        lengths[symbol_order(radix, group, centre)] = listed
        if not is_complete(lengths):
            raise self.fail(f"code lengths do not form a complete code of at most {MAX_LENGTH} bits")
        return Table(radix, group, centre, lengths)

    def record(self, tables: list[Table]) -> TensorRecord:
        """Read one tensor record."""
        gap, num_bytes, kind = self.varint(), self.varint(), self.byte()
        if kind not in KINDS:
            raise self.fail(f"tensor kind {kind}; expected one of {sorted(KINDS)}")
        if num_bytes == 0 or num_bytes % KINDS[kind].planes:
            raise self.fail(f"{num_bytes} bytes of {KINDS[kind].name}; expected whole elements, at least one")
        planes = tuple(self._plane(tables, 1 << KINDS[kind].value_bits) for _ in range(KINDS[kind].planes))
        checksum = int.from_bytes(bytes(self.byte() for _ in range(4)), "little")
        return TensorRecord(gap, num_bytes, kind, planes, checksum)

    def _plane(self, tables: list[Table], num_values: int) -> Plane:
        method = self.byte()
        if method == RAW:
            return Plane(RAW)
        if method not in (CODED, CODED_WITH_ESCAPES):
            raise self.fail(f"method {method}; expected 0, 1 or 2")
        low, main = self.byte(), self._stream(tables)
        self._check_range(low + tables[main.table].radix - (method == CODED_WITH_ESCAPES), num_values)
        if method == CODED:
            return Plane(CODED, low, main)
        escape_low, escapes, escape = self.byte(), self.varint(), self._stream(tables)
        self._check_range(escape_low + tables[escape.table].radix, num_values)
        if escapes == 0 or tables[escape.table].group != 1:
            raise self.fail("escapes without values, or with joined symbols; expected at least one, coded singly")
        return Plane(CODED_WITH_ESCAPES, low, main, escape_low, escapes, escape)

    def _check_range(self, end: int, num_values: int) -> None:
        if end > num_values:
            raise self.fail(f"values reach {end - 1}; expected at most {num_values - 1}")

    def _stream(self, tables: list[Table]) -> Stream:
        table = self.varint()
        if table >= len(tables):
            raise self.fail(f"table {table}; expected less than {len(tables)}")
        chunk_log2 = self.byte()
        if (tables[table].constant is not None) != (chunk_log2 == 0):
            raise self.fail(f"chunk size {chunk_log2} for this table; expected 0 exactly for a constant one")
        if chunk_log2 == 0:
            return Stream(table)
        if not 2 <= chunk_log2 <= MAX_CHUNK_LOG2:
            raise self.fail(f"chunk size 2 ** {chunk_log2}; expected 2 ** 2 to 2 ** {MAX_CHUNK_LOG2}")
        total_bits, min_bits, width = self.varint(), self.varint(), self.byte()
        if total_bits == 0 or width > 24:
            raise self.fail(f"stream of {total_bits} bits, lengths of {width} bits; expected some, at most 24")
        return Stream(table, chunk_log2, total_bits, min_bits, width)
