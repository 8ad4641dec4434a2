"""Which way makes a tensor smallest: a code of its values, of their numbers, as other values, LZMA, or runs."""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

import numpy as np

from compress.codec.encoding.lzma_choice import pack_by_lzma
from compress.codec.encoding.numbered_elements import encode_numbered, encode_rows
from compress.codec.encoding.repeated_groups import Repeated, repeated_group, without_repetition
from compress.codec.encoding.table_choice import Tables
from compress.codec.encoding.tensor_encoder import CodedTensor, encode_tensor, entropy_bits
from compress.codec.format.element_planes import to_planes
from compress.codec.format.index_writer import table_bytes, write_record
from compress.codec.format.layout import KINDS, Runs, Table, TensorRecord
from compress.codec.format.ways import MAX_DEPTH
from compress.codec.kernels.contract import Kernels

_BLOCK = 1 << 20
_SMALL = 1 << 16  # bytes below which the tables of bytes may cost more than those of half bytes
_TINY = 1 << 10  # bytes below which only codes are tried; small tensors share a skeleton or a heap
_WORTH = 996  # thousandths that another way may take at most


class Described(NamedTuple):
    """What is known of a tensor before it is coded.

    Attributes:
        kind: key of `layout.KINDS`.
        data_type: as `tensor_places` calls it.
        dims: shape.
        channel: values that share an output channel; 0 if unknown.
        gap: bytes of the skeleton between the tensor before and this one.
        depth: it is what is left of runs, of runs of runs and so on.
    """

    kind: int
    data_type: str
    dims: tuple[int, ...]
    channel: int
    gap: int
    depth: int = 0


class Tried(NamedTuple):
    """A way to code a tensor, and the bytes of its codes, record and new tables."""

    coded: CodedTensor
    num_bytes: int


def encode_best(
    data: np.ndarray, what: Described, tables: Tables, kernels: Kernels, dictionary_bytes: int
) -> tuple[CodedTensor, int]:
    """Code a tensor in the smallest way found.

    Args:
        data: (bytes,), uint8, whole elements.
        what: what is known of it.
        tables: tables of the file; new ones are added.
        kernels: what runs the loops; the bytes are the same.
        dictionary_bytes: of LZMA, that there is memory for.

    Returns:
        The coded tensor; how many bytes smaller it is than with a code of its values.
    """
    mark = tables.mark()
    plain = _tried(encode_tensor(data, what.kind, tables, kernels, gap=what.gap, channel=what.channel), tables, mark)
    best, kept = plain, tables.cut(mark)
    if (other := _other_kind(data, what.kind)) is not None:
        best, kept = _better(best, kept, encode_tensor(data, other, tables, kernels, gap=what.gap), tables, mark)
    if len(data) < _TINY:
        tables.add(kept)
        return best.coded, plain.num_bytes - best.num_bytes
    if KINDS[what.kind].planes > 1:
        numbered = encode_numbered(
            data, what.kind, what.data_type, what.dims, tables, kernels, gap=what.gap, channel=_channel(what.dims)
        )
        if numbered:
            best, kept = _better(best, kept, numbered, tables, mark)
    if rows := encode_rows(data, KINDS[what.kind].planes, what.dims, tables, kernels, gap=what.gap):
        best, kept = _better(best, kept, rows, tables, mark)
    packed = pack_by_lzma(data, KINDS[what.kind].planes, best.num_bytes * _WORTH // 1000, dictionary_bytes)
    if packed:
        way, found = packed
        payload = np.frombuffer(found, dtype=np.uint8)
        record = TensorRecord(what.gap, len(data), 0, (), crc32(found), way)
        best, kept = _better(best, kept, CodedTensor(record, payload, 0.0), tables, mark)
    if what.depth < MAX_DEPTH and (group := repeated_group(data, KINDS[what.kind].planes, what.dims)):
        for announced in (1, 2):
            if left := without_repetition(data, group, announced):
                runs = _encode_runs(len(data), left, what, tables, kernels, dictionary_bytes)
                best, kept = _better(best, kept, runs, tables, mark)
    tables.add(kept)
    return best.coded, plain.num_bytes - best.num_bytes


def _encode_runs(
    num_bytes: int, left: Repeated, what: Described, tables: Tables, kernels: Kernels, dictionary_bytes: int
) -> CodedTensor:
    """Code what is left of a tensor without its repetitions, and how many there are."""
    inner = _inner_dims(what.dims, left.group // KINDS[what.kind].planes)
    dims = (len(left.values) // left.group, *inner)
    described = what._replace(dims=dims, channel=_channel(dims), gap=0, depth=what.depth + 1)
    values, _ = encode_best(left.values, described, tables, kernels, dictionary_bytes)
    numbers = encode_tensor(left.numbers, {1: 0, 2: 16, 4: 17}[left.width], tables, kernels)
    way = Runs(left.group, left.announced, left.width, values.record, numbers.record)
    payload = np.concatenate([values.payload, numbers.payload])
    record = TensorRecord(what.gap, num_bytes, 0, (), 0, way)
    return CodedTensor(record, payload, values.entropy_bits + numbers.entropy_bits)


def _inner_dims(dims: tuple[int, ...], elements: int) -> tuple[int, ...]:
    """Return the shape of a group of so many elements: inner dimensions of the tensor, if they have as many."""
    axis, product = len(dims), 1
    while axis and product < elements:
        axis -= 1
        product *= dims[axis]
    return dims[axis:] if product == elements else (elements,)


def _tried(coded: CodedTensor, tables: Tables, mark: int) -> Tried:
    new = sum(table_bytes(table) for table in tables.tables[mark:])
    return Tried(coded, len(coded.payload) + len(write_record(coded.record)) + new)


def _better(best: Tried, kept: list[Table], coded: CodedTensor, tables: Tables, mark: int) -> tuple[Tried, list[Table]]:
    """Return the smaller one of two ways, and its new tables, which are taken off again."""
    tried = _tried(coded, tables, mark)
    own = tables.cut(mark)
    return (tried, own) if tried.num_bytes * 1000 < best.num_bytes * _WORTH else (best, kept)


def _channel(dims: tuple[int, ...]) -> int:
    """Return the elements of an output channel, which lie in the first dimension; 0 if there is none."""
    product = 1
    for size in dims[1:]:
        product *= size
    return product if len(dims) > 1 and dims[0] > 1 else 0


def _other_kind(data: np.ndarray, kind: int) -> int | None:
    """Return another kind as which integers look smaller: bytes, or packed half bytes; None if none does."""
    if KINDS[kind].transform == "rotate" or KINDS[kind].value_bits < 8:
        return None
    if KINDS[kind].planes == 1 and len(data) > _SMALL:
        return None
    sizes = {number: _estimate(data, number) for number in dict.fromkeys((kind, 0, 2, 3))}
    best = min(sizes, key=lambda number: sizes[number])
    return best if best != kind and sizes[best] < 0.99 * sizes[kind] else None


def _estimate(data: np.ndarray, kind: int) -> float:
    """Return about the bits of a tensor as some kind: order-0 entropy and a little for the tables."""
    counts = np.zeros((KINDS[kind].planes, 256), dtype=np.int64)
    for start in range(0, len(data), _BLOCK):
        for number, plane in enumerate(to_planes(data[start : start + _BLOCK], KINDS[kind])):
            counts[number] += np.bincount(plane, minlength=256)
    return sum(min(entropy_bits(row) + 6 * int(np.count_nonzero(row)), 8.0 * int(row.sum())) for row in counts)
