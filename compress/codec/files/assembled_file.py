"""A .krimp file from coded tensors: its index, its skeleton, its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO, NamedTuple
from zlib import crc32

from compress.codec.files.coded_tensors import Codes, Item
from compress.codec.files.network_source import Source
from compress.codec.files.pack_facts import PackFacts
from compress.codec.format.index_writer import write_heaps, write_record, write_side_files, write_table, write_varint
from compress.codec.format.layout import HEADER_BYTES, KINDS, MAX_INDEX_RATIO, MAX_RATIO, Header, Table
from compress.errors import CodecError


class Assembled(NamedTuple):
    """What a file is made of.

    Attributes:
        items, heaps: coded tensors, and what small ones are parts of.
        tables: of their codes.
        skeleton_bytes: of the skeleton.
        skeleton: as it is in the file, and whether LZMA packed it.
        index_bytes, packed_index: the same of the index.
    """

    items: list[Item]
    heaps: list[Item]
    tables: list[Table]
    skeleton_bytes: int
    skeleton: tuple[bytes, bool]
    index_bytes: int
    packed_index: tuple[bytes, bool]

    @property
    def num_bytes(self) -> int:
        """Return the size of the file."""
        payload = sum(item.place[1] for item in (*self.heaps, *self.items))
        return HEADER_BYTES + payload + len(self.skeleton[0]) + len(self.packed_index[0])


def assemble(
    source: Source,
    items: list[Item],
    tables: list[Table],
    heaps: Sequence[Item] = (),
    *,
    is_thorough: bool = True,
    is_stored: bool = False,
) -> Assembled:
    """Return the file of some coded tensors.

    Args:
        source: what is packed.
        items: its coded tensors, in order.
        tables: of their codes, all of them used.
        heaps: what some of the items are parts of.
        is_thorough: try more settings of LZMA for the skeleton.
        is_stored: do not pack the skeleton.
    """
    index = bytearray(write_side_files(source.side_files) + write_varint(len(tables)))
    index += b"".join(write_table(table) for table in tables)
    if version_of(items) > 1:
        index += write_heaps([heap.record for heap in heaps])
    skeleton, at = bytearray(), 0
    for item in items:
        gap = source.copy(at, item.span.start)
        skeleton += gap
        at = item.span.start + item.span.num_bytes
        index += write_record(item.record._replace(gap=len(gap)))
    skeleton += source.copy(at, source.num_bytes)
    packed = source.shrink(bytes(index))
    if len(index) > len(packed[0]) * MAX_INDEX_RATIO[version_of(items)]:
        packed = bytes(index), False
    rest = (bytes(skeleton), False) if is_stored else source.shrink(bytes(skeleton), is_thorough=is_thorough)
    return Assembled(items, list(heaps), tables, len(skeleton), rest, len(index), packed)


def version_of(items: Iterable[Item]) -> int:
    """Return the version of the format that has all that these tensors use."""
    return 1 + any(item.record.way is not None for item in items)


def write_file(source: Source, made: Assembled, codes: Codes, file: BinaryIO, encode_seconds: float) -> PackFacts:
    """Write a file; the header says last what it is.

    Args:
        source: what is packed.
        made: the file.
        codes: of its tensors.
        file: empty.
        encode_seconds: time that coding took.

    Returns:
        What packing did, without its proof.

    Raises:
        CodecError: the file would pass a limit of the format.
    """
    file.write(bytes(HEADER_BYTES))
    for item in (*made.heaps, *made.items):
        for part in codes.read(item.place):
            file.write(part)
    (skeleton, skeleton_lzma), (index, index_lzma) = made.skeleton, made.packed_index
    header = Header(
        source.container, skeleton_lzma, index_lzma, len(made.items), source.num_bytes, source.sha256(),
        file.tell() - HEADER_BYTES, made.skeleton_bytes, len(skeleton), made.index_bytes, len(index),
        crc32(skeleton), crc32(index), version_of(made.items),
    )  # fmt: skip
    file.write(skeleton + index)
    packed_bytes = file.tell()
    if source.num_bytes > packed_bytes * MAX_RATIO:
        raise CodecError(
            f"{source.num_bytes} bytes would become {packed_bytes}; the format allows a ratio of {MAX_RATIO}."
        )
    file.seek(0)
    file.write(header.to_bytes())
    return _facts(made, header, packed_bytes, encode_seconds)


def _facts(made: Assembled, header: Header, packed_bytes: int, encode_seconds: float) -> PackFacts:
    small = [item for item in made.items if KINDS[item.span.kind].planes == 1]
    weights = sum(item.span.num_bytes * (8 // KINDS[item.span.kind].value_bits) for item in small)
    return PackFacts(
        original_bytes=header.original_bytes,
        packed_bytes=packed_bytes,
        tensor_bytes=header.original_bytes - header.skeleton_bytes,
        payload_bytes=header.payload_bytes,
        skeleton_bytes=header.skeleton_bytes,
        skeleton_packed_bytes=header.skeleton_packed_bytes,
        index_packed_bytes=header.index_packed_bytes,
        num_tensors=header.num_tensors,
        num_tables=len(made.tables),
        format_version=header.version,
        weights=weights,
        bits_per_weight=8 * sum(item.place[1] for item in small) / max(weights, 1),
        entropy_bits_per_weight=sum(item.entropy_bits for item in small) / max(weights, 1),
        encode_seconds=encode_seconds,
    )
