"""The index and the skeleton of a .krimp file, checked against its header: what lies where."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from zlib import crc32

import numpy as np

from compress.codec.format.index_reader import IndexReader, ReadRuns
from compress.codec.format.layout import HEADER_BYTES, Header, Runs, SideFile, Table, TensorRecord
from compress.codec.format.payload_sizes import map_bytes, plane_bytes
from compress.codec.format.sections import PART_BYTES, SectionReader, expand
from compress.codec.format.ways import Copy
from compress.codec.mapped_memory import taken
from compress.errors import CodecError


class Placed(NamedTuple):
    """A tensor record with its places.

    Attributes:
        record: how it is coded.
        start: first byte in the original file.
        offset: first coded byte in the .krimp file.
        plane_sizes: coded bytes of each plane.
        size: coded bytes.
        copy_of: number of the tensor whose codes these are, None: its own.
        inside: of runs: their values, and how often.
    """

    record: TensorRecord
    start: int
    offset: int
    plane_sizes: tuple[int, ...]
    size: int
    copy_of: int | None = None
    inside: tuple[Placed, ...] = ()

    @property
    def own_size(self) -> int:
        """Return the coded bytes that are there for this tensor alone: none of a copy, or of a part of a heap."""
        return self.size if self.copy_of is None else 0


class PlacedIndex(NamedTuple):
    """The index of a .krimp file with the places that follow from it.

    Attributes:
        side_files: files that follow the original.
        tables: code tables.
        heaps: small tensors that are coded together.
        tensors: coded tensors, in the order of the original.
    """

    side_files: list[SideFile]
    tables: list[Table]
    heaps: list[Placed]
    tensors: list[Placed]


class _Section(NamedTuple):
    """What the header says of the skeleton or the index; `what` is its name in messages."""

    what: str
    offset: int
    packed_bytes: int
    num_bytes: int
    packed_by_lzma: bool
    crc32: int


class Skeleton:
    """The bytes of the original outside its coded tensors."""

    def __init__(self, data: np.ndarray, header: Header, name: str) -> None:
        """Check them; up to a megabyte is unpacked at once, more when it is read.

        Args:
            data: the .krimp file, (file_bytes,), uint8.
            header: its header.
            name: its path for messages.

        Raises:
            CodecError: they are damaged.
        """
        section = _Section(
            "skeleton",
            HEADER_BYTES + header.payload_bytes,
            header.skeleton_packed_bytes,
            header.skeleton_bytes,
            header.skeleton_packed_by_lzma,
            header.skeleton_crc32,
        )
        self._num_bytes = header.skeleton_bytes
        self._where = f"{name}: byte {section.offset}"
        self._packed, self._is_lzma = _checked(data, section, name), section.packed_by_lzma
        if self._num_bytes <= PART_BYTES:
            kept = expand(self._packed, self._num_bytes, self._is_lzma, self._where)
            self._packed = np.frombuffer(kept, dtype=np.uint8)
            self._is_lzma = False

    def reader(self) -> SectionReader:
        """Return what reads them from the first on."""
        return SectionReader(self._packed, self._num_bytes, self._is_lzma, self._where)


def read_index(data: np.ndarray, header: Header, name: str, read_runs: ReadRuns) -> PlacedIndex:
    """Return the index.

    Args:
        data: the .krimp file, (file_bytes,), uint8.
        header: its header.
        name: its path for messages.
        read_runs: what reads the entries of its tables; see `IndexReader`.

    Raises:
        CodecError: it is damaged, or does not fit the header.
    """
    section = _Section(
        "index",
        HEADER_BYTES + header.payload_bytes + header.skeleton_packed_bytes,
        header.index_packed_bytes,
        header.index_bytes,
        header.index_packed_by_lzma,
        header.index_crc32,
    )
    reader = IndexReader(_read_section(data, section, name), name, read_runs, header.version)
    with _without_collector():
        side_files = reader.side_files()
        if sum(file.num_bytes for file in side_files) > header.original_bytes:
            raise reader.fail(f"files beside the original are larger than all, {header.original_bytes} bytes")
        tables = reader.tables()
        return PlacedIndex(side_files, tables, *_read_tensors(reader, tables, header))


def _read_tensors(reader: IndexReader, tables: list[Table], header: Header) -> tuple[list[Placed], list[Placed]]:
    """Read heaps and tensors, up to the end of the index; they must fill the original and the payload exactly."""
    heaps: list[Placed] = []
    tensors: list[Placed] = []
    start, place, gaps = 0, HEADER_BYTES, 0
    for record in reader.heaps(tables):
        heaps.append(_placed(record, 0, place, tables))
        place += heaps[-1].size
    for _ in range(header.num_tensors):
        record = reader.record(tables)
        start += record.gap
        placed = _placed(record, start, place, tables)
        gaps += record.gap
        if start + record.num_bytes > header.original_bytes or gaps > header.skeleton_bytes:
            raise reader.fail(
                f"tensor ends at byte {start + record.num_bytes}; the original has {header.original_bytes}"
            )
        if place + placed.size > HEADER_BYTES + header.payload_bytes:
            raise reader.fail(
                f"tensor needs {placed.size} coded bytes; {HEADER_BYTES + header.payload_bytes - place} are left"
            )
        if isinstance(record.way, Copy):
            tensors.append(_copy(reader, tensors, record, record.way, start))
        else:
            tensors.append(placed)
        start += record.num_bytes
        place += placed.size  # 0 of a copy
    reader.end()
    covered = start - gaps + header.skeleton_bytes
    if covered != header.original_bytes or place != HEADER_BYTES + header.payload_bytes:
        raise reader.fail(
            f"tensors and skeleton make {covered} bytes from {place - HEADER_BYTES} coded ones;"
            f" expected {header.original_bytes} from {header.payload_bytes}"
        )
    return heaps, tensors


def _placed(record: TensorRecord, start: int, place: int, tables: list[Table]) -> Placed:
    """Return a record with its places, and with those of the records in it."""
    if isinstance(way := record.way, Runs):
        values = _placed(way.values, 0, place, tables)
        numbers = _placed(way.numbers, 0, place + values.size, tables)
        return Placed(record, start, place, (), values.size + numbers.size, None, (values, numbers))
    sizes = tuple([plane_bytes(plane, record, tables) for plane in record.planes])
    return Placed(record, start, place, sizes, sum(sizes) if record.way is None else sum(sizes) + map_bytes(record))


def _copy(reader: IndexReader, tensors: list[Placed], record: TensorRecord, way: Copy, start: int) -> Placed:
    """Return a tensor with the codes of an earlier one."""
    number = len(tensors) - way.back
    if way.back == 0 or number < 0:
        raise reader.fail(f"copy of {way.back} records before number {len(tensors)}; expected an earlier one")
    original = tensors[number]
    if original.copy_of is not None or original.record.num_bytes != record.num_bytes:
        raise reader.fail(
            f"copy of record {number}, {original.record.num_bytes} bytes; expected {record.num_bytes}, and no copy"
        )
    return original._replace(record=original.record._replace(gap=record.gap), start=start, copy_of=number)


def _checked(data: np.ndarray, section: _Section, name: str) -> np.ndarray:
    """Return a section as it is in the file."""
    packed = data[section.offset : section.offset + section.packed_bytes]
    found = 0
    for start in range(0, len(packed), PART_BYTES):
        part = packed[start : start + PART_BYTES]
        found = crc32(taken(part).data, found)
    if found != section.crc32:
        raise CodecError(
            f"{name}: byte {section.offset}: checksum of the {section.what} is wrong; the file is damaged."
        )
    return packed


def _read_section(data: np.ndarray, section: _Section, name: str) -> bytes:
    packed = _checked(data, section, name)
    return expand(packed, section.num_bytes, section.packed_by_lzma, f"{name}: byte {section.offset}")


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the garbage collector from looking through the whole process while thousands of objects are made to stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
