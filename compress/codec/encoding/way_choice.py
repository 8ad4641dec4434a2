"""Which way makes a tensor smallest: a code of its values, of their numbers, without some of them, LZMA, or runs."""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

import numpy as np

from compress.codec.encoding.lzma_choice import pack_by_lzma, pieces_of, quickly_packed
from compress.codec.encoding.most_common import without_most_common
from compress.codec.encoding.numbered_elements import encode_numbered, encode_rows
from compress.codec.encoding.repeated_groups import Repeated, repeated_group, without_repetition
from compress.codec.encoding.table_choice import Tables
from compress.codec.encoding.tensor_encoder import CodedTensor, encode_tensor, entropy_bits
from compress.codec.format.element_planes import to_planes
from compress.codec.format.index_writer import table_bytes, write_record
from compress.codec.format.layout import KINDS, Runs, TensorRecord
from compress.codec.format.ways import MAX_DEPTH
from compress.codec.kernels.contract import Kernels

_BLOCK = 1 << 20
_SMALL = 1 << 16  # bytes below which the tables of bytes may cost more than those of half bytes
_TINY = 1 << 10  # bytes below which only codes are tried; small tensors share a skeleton or a heap
_WORTH = 996  # thousandths that another way may take at most
_LITTLE = 4  # what is left of runs is tried at once where it is less than a fourth
_SURELY = 1.02  # share of the bytes of pieces from which the whole is not tried


class Described(NamedTuple):
    """What is known of a tensor before it is coded.

    Attributes:
        kind: key of `layout.KINDS`.
        data_type: as `tensor_places` calls it.
        dims: shape.
        channel: values that share an output channel; 0 if unknown.
        gap: bytes of the skeleton between the tensor before and this one.
        depth: it is what is left of runs, of runs of runs and so on.
        group: bytes of the groups whose repetition it is without.
        has_few_values: its elements may be numbers of others, or products.
    """

    kind: int
    data_type: str
    dims: tuple[int, ...]
    channel: int
    gap: int
    depth: int = 0
    group: int = 0
    has_few_values: bool = True


class Tried(NamedTuple):
    """A way to code a tensor, and the bytes of its codes, record and new tables."""

    coded: CodedTensor
    num_bytes: int


class _Best:
    """The smallest way to code a tensor of those that were offered, and its new tables, which are taken off."""

    def __init__(self, coded: CodedTensor, tables: Tables, mark: int) -> None:
        """Begin with the first one.

        Args:
            coded: a tensor, just coded.
            tables: tables of the file, with the new ones of it.
            mark: how many there were before.
        """
        self._tables, self._mark = tables, mark
        self.tried = _tried(coded, tables, mark)
        self.kept = tables.cut(mark)

    @property
    def num_bytes(self) -> int:
        return self.tried.num_bytes

    def offer(self, coded: CodedTensor | None) -> None:
        """Take another way, just coded, if it is clearly smaller."""
        if coded is None:
            return
        tried = _tried(coded, self._tables, self._mark)
        own = self._tables.cut(self._mark)
        if tried.num_bytes * 1000 < self.num_bytes * _WORTH:
            self.tried, self.kept = tried, own


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
    best = _Best(encode_tensor(data, what.kind, tables, kernels, gap=what.gap, channel=what.channel), tables, mark)
    plain_bytes = best.num_bytes
    if (other := _other_kind(data, what.kind)) is not None:
        best.offer(encode_tensor(data, other, tables, kernels, gap=what.gap))
    if len(data) >= _TINY:
        _offer_others(best, data, what, tables, kernels, dictionary_bytes)
    tables.add(best.kept)
    return best.tried.coded, plain_bytes - best.num_bytes


def _offer_others(
    best: _Best, data: np.ndarray, what: Described, tables: Tables, kernels: Kernels, dictionary_bytes: int
) -> None:
    """Offer numbers of elements and rows, what is left without the commonest element, LZMA, and runs."""
    size = KINDS[what.kind].planes
    numbered = None
    if size > 1 and what.has_few_values:
        channel = _channel(what.dims)
        numbered = encode_numbered(
            data, what.kind, what.data_type, what.dims, tables, kernels, gap=what.gap, channel=channel
        )
        best.offer(numbered)
    best.offer(encode_rows(data, size, what.dims, tables, kernels, gap=what.gap))
    what = what._replace(has_few_values=numbered is not None)  # the same of what is left of it
    is_deepest = what.depth >= MAX_DEPTH
    left = None if is_deepest or numbered else without_most_common(data, size)
    if left and _about(left, what.kind) < best.num_bytes:
        best.offer(_encode_runs(len(data), left, what, tables, kernels, dictionary_bytes))
    if packed := pack_by_lzma(data, size, best.num_bytes * _WORTH // 1000, dictionary_bytes):
        way, found = packed
        record = TensorRecord(what.gap, len(data), 0, (), crc32(found), way)
        best.offer(CodedTensor(record, np.frombuffer(found, dtype=np.uint8), 0.0))
    if is_deepest or not (group := repeated_group(data, size, what.dims, what.group)):
        return
    for announced in (1, 2):
        if _may_gain(data, group, announced, what.kind, best.num_bytes) and (
            left := without_repetition(data, group, announced)
        ):
            best.offer(_encode_runs(len(data), left, what, tables, kernels, dictionary_bytes))


def _may_gain(data: np.ndarray, group: int, announced: int, kind: int, at_most: int) -> bool:
    """Return False if runs of a large tensor are clearly larger than what there is, by pieces of it.

    Args:
        data: (bytes,), uint8, whole groups.
        group: bytes of a group.
        announced: equal groups in a row that announce a number, 1 or 2.
        kind: of its elements.
        at_most: bytes that another way takes.
    """
    sample = pieces_of(data, group)
    left = None if len(sample) == len(data) else without_repetition(sample, group, announced)
    if left is None or len(left.values) * _LITTLE < len(sample):
        return True
    most = at_most * len(sample) / len(data) * _SURELY
    return _about(left, kind) < most or quickly_packed(left.values, KINDS[kind].planes) + _bytes(left.numbers, 0) < most


def _about(left: Repeated, kind: int) -> float:
    """Return about the bytes of what is left of a tensor, coded value by value."""
    return _bytes(left.values, kind) + _bytes(left.numbers, 0)


def _bytes(data: np.ndarray, kind: int) -> float:
    return _estimate(data, kind if len(data) % KINDS[kind].planes == 0 else 0) / 8


def _encode_runs(
    num_bytes: int, left: Repeated, what: Described, tables: Tables, kernels: Kernels, dictionary_bytes: int
) -> CodedTensor:
    """Code what is left of a tensor without its repetitions, and how many there are or where the rest is."""
    inner = _inner_dims(what.dims, left.group // KINDS[what.kind].planes)
    dims = (len(left.values) // left.group, *inner)
    group = left.group if left.announced else 0
    described = what._replace(dims=dims, channel=_channel(dims), gap=0, depth=what.depth + 1, group=group)
    values, _ = encode_best(left.values, described, tables, kernels, dictionary_bytes)
    if left.announced:
        numbers = encode_tensor(left.numbers, {1: 0, 2: 16, 4: 17}[left.width], tables, kernels)
    else:
        bits = Described(0, "uint8", (len(left.numbers),), 0, 0, MAX_DEPTH)
        numbers, _ = encode_best(left.numbers, bits, tables, kernels, dictionary_bytes)
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
