"""Which coded tensors are better left in the skeleton, or coded together: the smallest file of some that are tried."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compress.codec.encoding.lzma_choice import repeated
from compress.codec.files.assembled_file import Assembled, assemble
from compress.codec.files.coded_tensors import CodedTensors, Item
from compress.codec.files.tensor_places import Span
from compress.codec.format.layout import Plane, Runs, Stream, Table, TensorRecord
from compress.codec.format.ways import Copy, Lzma, Part

_SOLID_BYTES = 1 << 18  # tensors up to this that LZMA makes smallest go into the skeleton, where they help each other
_LEAST_PART, _HEAP_LIMIT = 16, 1 << 11  # bytes of tensors that may be coded together
_HEAP_BYTES = 1 << 22
_MOST_PARTS = 1 << 16
_HOPELESS = 102  # percent of the best file; more settings of LZMA hardly gain more
_REPEATED = 0.01  # share of repeated windows from which LZMA may gain
_TRIED_QUICKLY_BYTES = 1 << 20  # of such a skeleton, whatever is in it: LZMA takes two seconds for a megabyte
_TRIED_WHOLE_BYTES = 8 << 20  # of a skeleton with all tensors in it: as large as the dictionary of a section


def smallest(coded: CodedTensors) -> Assembled:
    """Return the smallest file of those with more or fewer tensors in the skeleton or in heaps."""
    source = coded.source
    best = assemble(source, coded.items, coded.tables.tables)
    solid = [_is_solid(item) for item in coded.items]
    if any(solid):
        best = _clearly_smaller(best, _without(coded, solid, best))
    if any(_LEAST_PART <= span.num_bytes < _HEAP_LIMIT for span in source.spans):
        best = _clearly_smaller(best, _with_heaps(coded))
    may_gain = None
    for least in (1 << 10, 1 << 12, 1 << 63):
        small = [inside or item.span.num_bytes < least for inside, item in zip(solid, coded.items, strict=True)]
        inside = sum(item.span.num_bytes for item, is_small in zip(coded.items, small, strict=True) if is_small)
        if small == solid or inside > _TRIED_WHOLE_BYTES:
            continue
        may_gain = _may_gain(coded) if may_gain is None else may_gain
        if may_gain or inside <= _TRIED_QUICKLY_BYTES:
            best = _clearly_smaller(best, _without(coded, small, best))
    return best


def _may_gain(coded: CodedTensors) -> bool:
    """Return True if LZMA made a tensor smallest, or bytes are repeated over a long way, from tensor to tensor too."""
    if any(isinstance(item.record.way, Lzma) for item in coded.items):
        return True
    return any(repeated(np.frombuffer(file, dtype=np.uint8), 4) >= _REPEATED for file in coded.source.files)


def _clearly_smaller(best: Assembled, other: Assembled) -> Assembled:
    """Return the other file if it is worth that its tensors are not coded one by one."""
    return other if other.num_bytes + 64 < best.num_bytes * 998 // 1000 else best


def _is_solid(item: Item) -> bool:
    return isinstance(item.record.way, Lzma) and item.record.num_bytes <= _SOLID_BYTES


def _without(coded: CodedTensors, inside: list[bool], best: Assembled) -> Assembled:
    """Return the file with some tensors in the skeleton, copies of them too; thoroughly only if it may be the best."""
    items, tables = _left(coded, inside)
    quick = assemble(coded.source, items, tables, is_thorough=False)
    is_far_off = quick.num_bytes > best.num_bytes * _HOPELESS // 100
    return quick if is_far_off else assemble(coded.source, items, tables)


def _left(coded: CodedTensors, inside: list[bool]) -> tuple[list[Item], list[Table]]:
    """Return the tensors and tables that are left when some tensors, and copies of them, are taken out."""
    kept: dict[int, int] = {}  # number of an item before -> after
    items: list[Item] = []
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


def _with_heaps(coded: CodedTensors) -> Assembled:
    """Return the file with the small tensors of each kind in heaps, those of the skeleton too."""
    source = coded.source
    small = [span for span in source.spans if _LEAST_PART <= span.num_bytes < _HEAP_LIMIT]
    kept = {item.span.start for item in coded.items if item.span.num_bytes >= _HEAP_LIMIT}
    items, tables = _left(coded, [item.span.start not in kept for item in coded.items])
    gathered: dict[int, list[Span]] = {}
    for span in small[:_MOST_PARTS]:
        gathered.setdefault(span.kind, []).append(span)
    heaps = CodedTensors(source, coded.codes, coded.kernels, is_best=True)
    heaps.tables.add(tables)
    parts: list[Item] = []
    for kind, spans in gathered.items():
        for chosen in _heap_fuls(spans):
            at = 0
            for span in chosen:
                record = TensorRecord(0, span.num_bytes, 0, (), 0, Part(len(heaps.items), at))
                parts.append(Item(span, record, (0, 0), 0.0, 0))
                at += span.num_bytes
            data = np.concatenate([source.array(span.start, span.num_bytes) for span in chosen])
            heaps.add_bytes(Span(0, len(data), kind, "", (len(data),), chosen[0].data_type), data)
    everything = sorted([*items, *parts], key=lambda item: item.span.start)
    places = {item.span.start: number for number, item in enumerate(everything)}
    settled = [_placed_copy(item, number, items, places) for number, item in enumerate(everything)]
    return assemble(source, settled, heaps.tables.tables, heaps.items)


def _placed_copy(item: Item, number: int, items: list[Item], places: dict[int, int]) -> Item:
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
