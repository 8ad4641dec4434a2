"""The structures of a .krimp file (FORMAT.md) and its header. `index_writer` and `index_reader` do the rest."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple
from zlib import crc32

import numpy as np

from compress.codec.format.ways import Numbered, Way
from compress.errors import CodecError

MAGIC = b"\x89KRIMP\r\n"
VERSIONS = (1, 2)  # written as 1 where nothing of 2 is used
HEADER_BYTES = 108
MAX_ORIGINAL_BYTES = 1 << 36
MAX_RATIO = 1 << 20  # original bytes for each byte of the file
MAX_INDEX_BYTES = 1 << 26
MAX_INDEX_RATIO = {1: 64, 2: 1024}  # index bytes for each of its packed bytes, by version
MAX_COUNT = 1 << 17  # tensors, tables
MIN_TABLE_BYTES = 5  # the shortest table and the shortest tensor record: their number cannot be larger than
MIN_RECORD_BYTES = {1: 8, 2: 4}  # the index has room for, by version
MAX_SYMBOLS = 1 << 22  # alphabets of all tables together
MAX_GROUP = 8  # digits of a symbol: their values fit into one 64-bit word
MAX_CHUNK = 1 << 20  # symbols
MAX_CLASSES = 16  # tables of a stream
MAX_WIDTH = 24  # bits of a chunk length
MIN_CHUNK = 16  # symbols, of segments too
MAX_FILES = 1 << 12  # beside the original
MAX_NAME_BYTES = 1 << 10

RAW, CODED, CODED_WITH_ESCAPES = 0, 1, 2
LENGTHS, CONSTANT, COUNTS = 0, 1, 2

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


@dataclass(frozen=True, eq=False)
class Table:
    """The code of one alphabet; two are never compared as a whole.

    A symbol joins `group` digits of base `radix`: sum(digit[i] * radix ** i).

    Attributes:
        radix, group: base and number of digits.
        centre: the digit around which the probabilities are assumed to fall.
        form: LENGTHS (prefix code), CONSTANT, or COUNTS (table ANS).
        entries: (radix ** group,), int64: code lengths or counts of the symbols; empty for CONSTANT.
        constant: the only symbol of CONSTANT.
    """

    radix: int
    group: int
    centre: int
    form: int
    entries: np.ndarray
    constant: int = 0

    @property
    def alphabet(self) -> int:
        """Return the number of symbols."""
        return int(self.radix**self.group)

    @cached_property
    def log(self) -> int:
        """Return log2 of the number of states; 0 for a prefix code."""
        return int(self.entries.sum()).bit_length() - 1 if self.form == COUNTS else 0

    @cached_property
    def longest(self) -> int:
        """Return the length of the longest code of a prefix code."""
        return int(self.entries.max())

    @property
    def shape(self) -> tuple[int, ...]:
        """Return what the tables of one stream have in common."""
        return self.radix, self.group, self.centre, self.form, self.log


class Stream(NamedTuple):  # quicker to make than a dataclass
    """Where and how the symbols of one plane are coded.

    Attributes:
        tables: numbers of its tables; one for each class of segments.
        chunk: symbols in a chunk; 0 for a constant stream.
        segment: symbols that share a class; divides `chunk`, equal to it with one class.
        total_bits: code bits without padding.
        min_bits: length of the shortest chunk but the last; 0 if there is one chunk.
        width: bits of each stored chunk length above `min_bits`.
    """

    tables: tuple[int, ...]
    chunk: int = 0
    segment: int = 0
    total_bits: int = 0
    min_bits: int = 0
    width: int = 0

    @property
    def selector_bits(self) -> int:
        """Return the bits of a segment's class."""
        return (len(self.tables) - 1).bit_length()


class Plane(NamedTuple):  # quicker to make than a dataclass
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


class TensorRecord(NamedTuple):  # quicker to make than a dataclass
    """One coded span of the original file.

    Attributes:
        gap: bytes of the skeleton between the span before and this one.
        num_bytes: length of the span.
        kind: key of KINDS.
        planes: least significant byte first; of a numbered tensor those of the numbers, which are of this kind; none
            of a tensor that is packed by LZMA.
        crc32: over the coded bytes.
        way: what version 2 does instead; None: planes of the elements.
    """

    gap: int
    num_bytes: int
    kind: int
    planes: tuple[Plane, ...]
    crc32: int
    way: Way | Runs | None = None

    @property
    def num_values(self) -> int:
        """Return the number of values in each plane."""
        if isinstance(self.way, Numbered):
            return self.num_bytes // self.way.element_bytes
        kind = KINDS[self.kind]
        return self.num_bytes // kind.planes * (8 // kind.value_bits)


class Runs(NamedTuple):
    """A way to code a tensor: groups of bytes that follow each other unchanged are there once, and how often.

    Or the one group that is there most often is told once, and where the others are.

    Attributes:
        group: bytes of a group.
        announced: equal groups in a row that announce a number: how many more of them follow. 1: each has one. 0: the
            numbers are bits, 1 where the next of the groups is, 0 where the first of them is.
        width: bytes of such a number, 1, 2 or 4; 1 for bits.
        values: how the groups are coded.
        numbers: how the numbers are coded.
    """

    group: int
    announced: int
    width: int
    values: TensorRecord
    numbers: TensorRecord


@dataclass(frozen=True)
class SideFile:
    """A file that belongs to the original and follows it.

    Attributes:
        name: its path relative to the folder of the original, with '/'.
        num_bytes: its size.
    """

    name: str
    num_bytes: int


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
    version: int = 1

    def to_bytes(self) -> bytes:
        """Return the 108 bytes."""
        flags = int(self.skeleton_packed_by_lzma) | int(self.index_packed_by_lzma) << 1
        body = _FIXED.pack(
            MAGIC, self.version, self.container, flags, self.num_tensors, self.original_bytes, self.sha256,
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
    if len(data) >= 10 and (version := struct.unpack_from("<H", data, 8)[0]) not in VERSIONS:
        age = "newer than" if version > VERSIONS[-1] else "unknown to"
        raise CodecError(
            f"{name}: byte 8: format version {version} is {age} this program, which reads versions"
            f" {VERSIONS[0]} to {VERSIONS[-1]}. Update krimp."
        )
    if len(data) < HEADER_BYTES:
        raise CodecError(f"{name}: byte {len(data)}: the file ends inside its header; expected {HEADER_BYTES} bytes.")
    (stored,) = struct.unpack_from("<I", data, HEADER_BYTES - 4)
    if stored != crc32(data[: HEADER_BYTES - 4]):
        raise CodecError(f"{name}: byte {HEADER_BYTES - 4}: checksum of the header is wrong; the file is damaged.")
    fields = _FIXED.unpack_from(data)
    version, container, flags = fields[1:4]
    if container >= len(CONTAINERS):
        raise CodecError(f"{name}: byte 10: container {container}; expected at most {len(CONTAINERS) - 1}.")
    if flags > 3:
        raise CodecError(f"{name}: byte 11: unknown flags {flags:#x}; expected at most 0x3.")
    header = replace(Header(container, bool(flags & 1), bool(flags & 2), *fields[4:]), version=version)
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
    limit = min(MAX_INDEX_BYTES, header.index_packed_bytes * MAX_INDEX_RATIO[header.version])
    if header.index_bytes > limit:
        raise CodecError(f"{name}: byte 80: index of {header.index_bytes} bytes; expected at most {limit}.")
    limit = min(MAX_COUNT, header.index_bytes // MIN_RECORD_BYTES[header.version])
    if header.num_tensors > limit:
        raise CodecError(f"{name}: byte 12: {header.num_tensors} tensors; expected at most {limit}.")
