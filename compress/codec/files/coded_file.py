"""The tensors of a network coded one after the other, and the .krimp file that they make."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, NamedTuple
from zlib import crc32

import numpy as np

from compress.codec.encoding.table_choice import Tables
from compress.codec.encoding.tensor_encoder import encode_tensor
from compress.codec.encoding.way_choice import Described, encode_best
from compress.codec.files.network_source import Source, channel_values
from compress.codec.files.packed_file import Progress
from compress.codec.files.tensor_places import Span
from compress.codec.format.index_writer import write_heaps, write_record, write_side_files, write_table, write_varint
from compress.codec.format.layout import (
    HEADER_BYTES,
    KINDS,
    MAX_INDEX_RATIO,
    MAX_RATIO,
    Header,
    Plane,
    Runs,
    Stream,
    Table,
    TensorRecord,
)
from compress.codec.format.sections import shrink
from compress.codec.format.ways import Copy, Lzma, Part
from compress.codec.kernels.contract import Kernels
from compress.codec.mapped_memory import forget
from compress.errors import CodecError

_SMALLEST_BYTES = 128  # smaller tensors stay in the skeleton, which lzma packs
_MOST_TENSORS = 1 << 14  # the largest are coded, the others stay there too: a reader needs a kilobyte for each
_SOLID_BYTES = 1 << 18  # tensors up to this that LZMA makes smallest go into the skeleton, where they help each other
_MEMORY_BYTES = 100 << 20  # beside the file that LZMA's encoder may take
_ENCODER_RATIO = 12  # of LZMA's memory to its dictionary
_LEAST_PART, _HEAP_LIMIT = 16, 1 << 11  # bytes of tensors that may be coded together
_HEAP_BYTES = 1 << 22
_MOST_EQUAL, _LEAST_EQUAL = 16, 1 << 12  # parts of a tensor, and their bytes
_MOST_PARTS = 1 << 16
_HOPELESS = 102  # percent of the best file; more settings of LZMA hardly gain more
_WORTH = 9980  # ten-thousandths of the file that other ways may leave, or they are not used
_WORTH_BYTES = 100
_TRIED_WHOLE_BYTES = 8 << 20  # of a skeleton with all tensors in it: as large as the dictionary of a section


@dataclass(frozen=True)
class PackFacts:
    """What packing did.

    Attributes:
        original_bytes, packed_bytes: the two files.
        tensor_bytes, payload_bytes: coded tensors before and after.
        skeleton_bytes, skeleton_packed_bytes: everything else, before and after.
        index_packed_bytes: tables and tensor records.
        num_tensors, num_tables: how many.
        format_version: of the file.
        weights: elements of at most 8 bits in the coded tensors.
        bits_per_weight: coded bits of those, tables not counted.
        entropy_bits_per_weight: their order-0 entropy, each tensor by itself.
        encode_seconds: time that coding the tensors took, choices included.
        verify_seconds: time that unpacking and comparing took.
        seconds: time all of it took.
    """

    original_bytes: int
    packed_bytes: int
    tensor_bytes: int
    payload_bytes: int
    skeleton_bytes: int
    skeleton_packed_bytes: int
    index_packed_bytes: int
    num_tensors: int
    num_tables: int
    format_version: int
    weights: int
    bits_per_weight: float
    entropy_bits_per_weight: float
    encode_seconds: float
    verify_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def compression_ratio(self) -> float:
        """Return original bytes / packed bytes."""
        return self.original_bytes / self.packed_bytes


class _Item(NamedTuple):
    """A tensor that has been coded.

    Attributes:
        span: where it lies.
        record: how, without its gap.
        payload: its codes.
        entropy_bits: its order-0 entropy, plane by plane.
        saved_bytes: how much smaller it is than with a code of its values.
    """

    span: Span
    record: TensorRecord
    payload: np.ndarray
    entropy_bits: float
    saved_bytes: int


@dataclass
class _Coded:
    """The tensors of a file while they are coded, and the tables of their codes."""

    tables: Tables = field(default_factory=Tables)
    items: list[_Item] = field(default_factory=list)
    encode_seconds: float = 0.0


class _Parts(NamedTuple):
    """What a file is made of."""

    items: list[_Item]
    heaps: list[_Item]
    tables: list[Table]
    skeleton_bytes: int
    skeleton: tuple[bytes, bool]
    index_bytes: int
    packed_index: tuple[bytes, bool]

    @property
    def num_bytes(self) -> int:
        """Return the size of the file."""
        payload = sum(len(item.payload) for item in (*self.heaps, *self.items))
        return HEADER_BYTES + payload + len(self.skeleton[0]) + len(self.packed_index[0])


def write_packed(source: Source, file: BinaryIO, progress: Progress | None, kernels: Kernels) -> PackFacts:
    """Write a .krimp file.

    It is of version 1 of the format where version 2 saves next to nothing.

    Args:
        source: what is packed.
        file: empty.
        progress: called with (bytes done, bytes in all).
        kernels: what runs the loops; the bytes are the same.

    Returns:
        What packing did, without its proof.

    Raises:
        CodecError: the file would pass a limit of the format.
    """
    spans = _chosen(source.spans, _SMALLEST_BYTES)
    split = [part for span in spans for part in _equal_parts(source, span)]
    coded = _code(source, split, kernels, progress, is_best=True)
    parts, seconds = _smallest(source, coded, kernels), coded.encode_seconds
    if split == spans and all(item.record.way is None and not item.saved_bytes for item in coded.items):
        first = _parts(source, coded.items, coded.tables.tables, is_thorough=False)
    else:
        plain = _code(source, spans, kernels, None, is_best=False)
        first = _parts(source, plain.items, plain.tables.tables, is_thorough=False)
        seconds += plain.encode_seconds
    is_worth_it = parts.num_bytes + _WORTH_BYTES < min(first.num_bytes, first.num_bytes * _WORTH // 10000)
    return _write(source, parts if is_worth_it else first, file, seconds)


def _chosen(spans: Iterable[Span], least: int) -> list[Span]:
    """Return the tensors that are coded: those of at least so many bytes, and the largest where they are many."""
    chosen = [span for span in spans if span.num_bytes >= least]
    if len(chosen) > _MOST_TENSORS:
        largest = sorted(chosen, key=lambda span: -span.num_bytes)[:_MOST_TENSORS]
        chosen = sorted(largest, key=lambda span: span.start)
    return chosen


def _equal_parts(source: Source, span: Span) -> list[Span]:
    """Return a tensor in parts that are equal, so that all but the first are copies; itself if there are none."""
    data = source.array(span.start, span.num_bytes)
    for number in range(2, _MOST_EQUAL + 1):
        size = span.num_bytes // number
        if size * number == span.num_bytes and size >= _LEAST_EQUAL and size % KINDS[span.kind].planes == 0:
            probe = data[: _LEAST_EQUAL // 4]
            if np.array_equal(data[size : size + len(probe)], probe) and np.array_equal(data[size:], data[:-size]):
                dims = (span.dims[0] // number, *span.dims[1:]) if span.dims and span.dims[0] % number == 0 else ()
                return [replace(span, start=span.start + i * size, num_bytes=size, dims=dims) for i in range(number)]
    return [span]


def _code(source: Source, spans: list[Span], kernels: Kernels, progress: Progress | None, *, is_best: bool) -> _Coded:
    """Code tensors, each in the smallest way, or with a code of its values alone."""
    coded = _Coded()
    known: dict[bytes, int] = {}
    dictionary = (source.num_bytes + _MEMORY_BYTES) // _ENCODER_RATIO
    for span in spans:
        data = source.array(span.start, span.num_bytes)
        started = time.perf_counter()
        digest = hashlib.blake2b(data.data, digest_size=16).digest() if is_best else b""
        if is_best and (original := known.get(digest)) is not None:
            item = _copy(span, coded, original)
        else:
            item = _item(span, data, coded.tables, kernels, dictionary, is_best=is_best)
            known[digest] = len(coded.items)
        coded.encode_seconds += time.perf_counter() - started
        coded.items.append(item)
        forget(data)
        if progress:
            progress(span.start + span.num_bytes, source.num_bytes)
    return coded


def _copy(span: Span, coded: _Coded, original: int) -> _Item:
    """Return a tensor whose bytes are those of an earlier one."""
    record = TensorRecord(0, span.num_bytes, 0, (), 0, Copy(len(coded.items) - original))
    return _Item(span, record, np.empty(0, dtype=np.uint8), 0.0, len(coded.items[original].payload))


def _item(span: Span, data: np.ndarray, tables: Tables, kernels: Kernels, dictionary: int, *, is_best: bool) -> _Item:
    saved = 0
    if is_best:
        what = Described(span.kind, span.data_type, span.dims, channel_values(span), 0)
        coded, saved = encode_best(data, what, tables, kernels, dictionary)
    else:
        coded = encode_tensor(data, span.kind, tables, kernels, channel=channel_values(span))
    payload = coded.payload.copy() if np.shares_memory(coded.payload, data) else coded.payload
    return _Item(span, coded.record, payload, coded.entropy_bits, saved)


def _smallest(source: Source, coded: _Coded, kernels: Kernels) -> _Parts:
    """Return the smallest file of those with more or fewer tensors in the skeleton."""
    best = _parts(source, coded.items, coded.tables.tables)
    solid = [_is_solid(item) for item in coded.items]
    if any(solid):
        best = _clearly_smaller(best, _without(source, coded, solid, best))
    if any(_LEAST_PART <= span.num_bytes < _HEAP_LIMIT for span in source.spans):
        best = _clearly_smaller(best, _with_heaps(source, coded, kernels))
    for least in (1 << 10, 1 << 12, 1 << 63):
        small = [inside or item.span.num_bytes < least for inside, item in zip(solid, coded.items, strict=True)]
        inside = sum(item.span.num_bytes for item, is_small in zip(coded.items, small, strict=True) if is_small)
        if small != solid and inside <= _TRIED_WHOLE_BYTES:
            best = _clearly_smaller(best, _without(source, coded, small, best))
    return best


def _clearly_smaller(best: _Parts, other: _Parts) -> _Parts:
    """Return the other file if it is worth that its tensors are not coded one by one."""
    return other if other.num_bytes + 64 < best.num_bytes * 998 // 1000 else best


def _is_solid(item: _Item) -> bool:
    return isinstance(item.record.way, Lzma) and item.record.num_bytes <= _SOLID_BYTES


def _without(source: Source, coded: _Coded, inside: list[bool], best: _Parts) -> _Parts:
    """Return the file with some tensors in the skeleton, copies of them too; thoroughly only if it may be the best."""
    items, tables = _left(coded, inside)
    quick = _parts(source, items, tables, is_thorough=False)
    is_far_off = quick.num_bytes > best.num_bytes * _HOPELESS // 100
    return quick if is_far_off else _parts(source, items, tables)


def _left(coded: _Coded, inside: list[bool]) -> tuple[list[_Item], list[Table]]:
    """Return the tensors and tables that are left when some tensors, and copies of them, are taken out."""
    kept: dict[int, int] = {}  # number of an item before -> after
    items: list[_Item] = []
    for number, item in enumerate(coded.items):
        way = item.record.way
        original = number - way.back if isinstance(way, Copy) else number
        if inside[original]:
            continue
        kept[number] = len(items)
        if isinstance(way, Copy):
            item = item._replace(record=item.record._replace(way=Copy(len(items) - kept[original])))
        items.append(item)
    records, tables = _used_tables([item.record for item in items], coded.tables.tables)
    return [item._replace(record=record) for item, record in zip(items, records, strict=True)], tables


def _with_heaps(source: Source, coded: _Coded, kernels: Kernels) -> _Parts:
    """Return the file with the small tensors of each kind in heaps, those of the skeleton too."""
    small = [span for span in source.spans if _LEAST_PART <= span.num_bytes < _HEAP_LIMIT]
    kept = {item.span.start for item in coded.items if item.span.num_bytes >= _HEAP_LIMIT}
    inside = [item.span.start not in kept for item in coded.items]
    items, tables = _left(coded, inside)
    gathered: dict[int, list[Span]] = {}
    for span in small[:_MOST_PARTS]:
        gathered.setdefault(span.kind, []).append(span)
    shared = Tables()
    heaps: list[_Item] = []
    parts: list[_Item] = []
    shared.add(tables)
    for kind, spans in gathered.items():
        for chosen in _heap_fuls(spans):
            data = np.concatenate([source.array(span.start, span.num_bytes) for span in chosen])
            whole = Span(0, len(data), kind, "", (len(data),), chosen[0].data_type)
            item = _item(whole, data, shared, kernels, len(data), is_best=True)
            at = 0
            for span in chosen:
                record = TensorRecord(0, span.num_bytes, 0, (), 0, Part(len(heaps), at))
                parts.append(_Item(span, record, np.empty(0, dtype=np.uint8), 0.0, 0))
                at += span.num_bytes
            heaps.append(item)
    everything = sorted([*items, *parts], key=lambda item: item.span.start)
    places = {item.span.start: number for number, item in enumerate(everything)}
    settled = [_placed_copy(item, number, items, places) for number, item in enumerate(everything)]
    return _parts(source, settled, shared.tables, heaps)


def _placed_copy(item: _Item, number: int, items: list[_Item], places: dict[int, int]) -> _Item:
    """Return a tensor that still is a copy of the same one after others have come between."""
    if not isinstance(way := item.record.way, Copy):
        return item
    before = next(i for i, each in enumerate(items) if each.span.start == item.span.start)
    original = items[before - way.back].span.start
    return item._replace(record=item.record._replace(way=Copy(number - places[original])))


def _heap_fuls(spans: list[Span]) -> Iterator[list[Span]]:
    """Yield tensors in groups that fill a heap."""
    chosen: list[Span] = []
    size = 0
    for span in spans:
        if chosen and size + span.num_bytes > _HEAP_BYTES:
            yield chosen
            chosen, size = [], 0
        chosen.append(span)
        size += span.num_bytes
    if chosen:
        yield chosen


def _used_tables(records: list[TensorRecord], tables: list[Table]) -> tuple[list[TensorRecord], list[Table]]:
    """Return records with other numbers of their tables, and the tables that they use."""
    numbers: dict[int, int] = {}

    def stream(old: Stream | None) -> Stream | None:
        if old is None:
            return None
        return old._replace(tables=tuple(numbers.setdefault(number, len(numbers)) for number in old.tables))

    def plane(old: Plane) -> Plane:
        return old._replace(main=stream(old.main), escape=stream(old.escape))

    def renumbered(record: TensorRecord) -> TensorRecord:
        if isinstance(way := record.way, Runs):
            return record._replace(way=way._replace(values=renumbered(way.values), numbers=renumbered(way.numbers)))
        return record._replace(planes=tuple(plane(old) for old in record.planes))

    changed = [renumbered(record) for record in records]
    return changed, [tables[number] for number in numbers]


def _parts(
    source: Source, items: list[_Item], tables: list[Table], heaps: Sequence[_Item] = (), *, is_thorough: bool = True
) -> _Parts:
    """Return the file of some coded tensors."""
    index = bytearray(write_side_files(source.side_files) + write_varint(len(tables)))
    index += b"".join(write_table(table) for table in tables)
    if _version(items) > 1:
        index += write_heaps([heap.record for heap in heaps])
    skeleton, at = bytearray(), 0
    for item in items:
        gap = source.copy(at, item.span.start)
        skeleton += gap
        at = item.span.start + item.span.num_bytes
        index += write_record(item.record._replace(gap=len(gap)))
    skeleton += source.copy(at, source.num_bytes)
    packed = shrink(bytes(index))
    if len(index) > len(packed[0]) * MAX_INDEX_RATIO[_version(items)]:
        packed = bytes(index), False
    return _Parts(
        items, list(heaps), tables, len(skeleton), shrink(bytes(skeleton), is_thorough=is_thorough), len(index), packed
    )


def _version(items: Iterable[_Item]) -> int:
    """Return the version of the format that has all that these tensors use."""
    return 1 + any(item.record.way is not None for item in items)


def _write(source: Source, parts: _Parts, file: BinaryIO, encode_seconds: float) -> PackFacts:
    """Write a file; the header says last what it is."""
    file.write(bytes(HEADER_BYTES))
    for item in (*parts.heaps, *parts.items):
        file.write(item.payload.data)
    (skeleton, skeleton_lzma), (index, index_lzma) = parts.skeleton, parts.packed_index
    header = Header(
        source.container, skeleton_lzma, index_lzma, len(parts.items), source.num_bytes, source.sha256(),
        file.tell() - HEADER_BYTES, parts.skeleton_bytes, len(skeleton), parts.index_bytes, len(index),
        crc32(skeleton), crc32(index), _version(parts.items),
    )  # fmt: skip
    file.write(skeleton + index)
    packed_bytes = file.tell()
    if source.num_bytes > packed_bytes * MAX_RATIO:
        raise CodecError(
            f"{source.num_bytes} bytes would become {packed_bytes}; the format allows a ratio of {MAX_RATIO}."
        )
    file.seek(0)
    file.write(header.to_bytes())
    return _facts(parts, header, packed_bytes, encode_seconds)


def _facts(parts: _Parts, header: Header, packed_bytes: int, encode_seconds: float) -> PackFacts:
    small = [item for item in parts.items if KINDS[item.span.kind].planes == 1]
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
        num_tables=len(parts.tables),
        format_version=header.version,
        weights=weights,
        bits_per_weight=8 * sum(len(item.payload) for item in small) / max(weights, 1),
        entropy_bits_per_weight=sum(item.entropy_bits for item in small) / max(weights, 1),
        encode_seconds=encode_seconds,
    )
