"""An ONNX model and its large initializers in two files, so that a runtime maps the weights and copies nothing."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from compress.codec.files.packed_file import PackedFile
from compress.codec.files.tensor_places import OnnxWalker
from compress.codec.format.index_writer import write_varint
from compress.codec.mapped_memory import empty_space

MODEL, WEIGHTS = "model.onnx", "weights.bin"
LEAST_BYTES = 1 << 14  # smaller initializers stay inside: runtimes look into some of them
_ALIGNED = 64  # bytes
_DTYPES = {
    1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8", 12: "<u4",
    13: "<u8",
}  # fmt: skip
_KEPT_FIELDS = {12, 16}  # of a TensorProto: doc_string, metadata_props


def _message(number: int, data: bytes) -> bytes:
    return write_varint(number << 3 | 2) + write_varint(len(data)) + data


def _entry(key: bytes, value: bytes) -> bytes:
    """Return a field external_data of a TensorProto."""
    return _message(13, _message(1, key) + _message(2, value))


@dataclass(frozen=True)
class _Initializer:
    """An initializer of the main graph that can be held apart.

    Attributes:
        name, dtype, dims: as the model says.
        field: where it begins in the file, with tag and length.
        message: where its message begins and ends.
        raw: where its raw data's field, and in it the data, begin, and where both end.
    """

    name: str
    dtype: np.dtype
    dims: tuple[int, ...]
    field: int
    message: tuple[int, int]
    raw: tuple[int, int, int]

    @property
    def num_bytes(self) -> int:
        """Return the size of the data."""
        return self.raw[2] - self.raw[1]

    def reference(self, data: memoryview, offset: int) -> bytes:
        """Return the field with a reference to a place in the file of the weights instead of the data."""
        entries = _entry(b"location", WEIGHTS.encode()) + _entry(b"offset", str(offset).encode())
        entries += _entry(b"length", str(self.num_bytes).encode())
        begin, end = self.message
        kept = bytes(data[begin : self.raw[0]]) + bytes(data[self.raw[2] : end])
        return _message(5, kept + entries + b"\x70\x01")  # data_location: EXTERNAL


def write_apart(
    packed: PackedFile, folder: Path, *, least_bytes: int = LEAST_BYTES, threads: int = 1, check_hash: bool = True
) -> Path:
    """Decode an ONNX model into a folder, its large initializers into a file beside it.

    Everything but large initializers of the main graph (subgraphs, constants, sparse and small ones) stays inside the
    model. Of the weights as many are in memory as are decoded together.

    Args:
        packed: an open .krimp file of an ONNX model without other files.
        folder: where the two files go, MODEL and WEIGHTS; it exists.
        least_bytes: size from which an initializer is held apart.
        threads: how many tensors are decoded at once.
        check_hash: compare the SHA-256 of the original instead of the tensors' checksums.

    Returns:
        The model.

    Raises:
        CodecError: the file is damaged, holds no ONNX model, or holds files beside it.
        OSError: the folder has no room.
    """
    packed.refuse_side_files()
    packed.refuse_other_than_onnx()
    whole = empty_space(packed.header.original_bytes)  # names lie in the skeleton
    places = packed.put_skeleton(whole)
    data = whole.data
    graph, found = _main_initializers(OnnxWalker(data, packed.name), least_bytes)
    apart = found
    if len({each.name for each in apart}) < len(apart):
        apart = []  # two of one name: for the runtime to refuse
    sizes = [-(-each.num_bytes // _ALIGNED) * _ALIGNED for each in apart]
    offsets = dict(zip((each.raw[1] for each in apart), accumulate(sizes, initial=0), strict=False))

    streamed = _streamed(packed, apart)
    whole_ones = {packed.tensors[number].start - at for number, at in streamed.items()}

    def place(number: int) -> np.ndarray:
        return np.empty(packed.tensors[number].record.num_bytes, np.uint8) if number in streamed else places[number]

    with (folder / WEIGHTS).open("wb") as file:
        for number, out in packed.decode_each(place, threads=threads, check_hash=check_hash):
            if (at := streamed.get(number)) is not None:
                file.seek(offsets[packed.tensors[number].start - at] + at)
                file.write(out.data)
        for each in apart:
            if each.raw[1] not in whole_ones:  # it lies in the skeleton, or some of it does
                file.seek(offsets[each.raw[1]])
                file.write(data[each.raw[1] : each.raw[2]])
    with (folder / MODEL).open("wb") as file:
        for piece in _without(data, graph, apart, offsets):
            file.write(piece)
    return folder / MODEL


def _streamed(packed: PackedFile, apart: list[_Initializer]) -> dict[int, int]:
    """Return which coded tensors are written at once, and where in its initializer each lies.

    They are those that make up an initializer with nothing of the skeleton in between.
    """
    starts = [tensor.start for tensor in packed.tensors]
    found: dict[int, int] = {}
    for each in apart:
        first, end = bisect_left(starts, each.raw[1]), bisect_left(starts, each.raw[2])
        if sum(packed.tensors[number].record.num_bytes for number in range(first, end)) == each.num_bytes:
            found |= {number: starts[number] - each.raw[1] for number in range(first, end)}
    return found


def _main_initializers(walker: OnnxWalker, least_bytes: int) -> tuple[tuple[int, int, int], list[_Initializer]]:
    """Return where the main graph's field and its message begin, where both end, and the initializers in it."""
    at, graphs = 0, []
    for number, wire, start, stop in walker.fields(0, walker.num_bytes):
        if (number, wire) == (7, 2):
            graphs.append((at, start, stop))
        at = stop
    if len(graphs) != 1:  # none: no model; several are one in parts
        return (0, 0, 0), []
    _, at, end = graphs[0]
    found = []
    for number, _, start, stop in walker.fields(at, end):
        if number == 5 and stop - start >= least_bytes and (initializer := _initializer(walker, at, start, stop)):
            found.append(initializer)
        at = stop
    return graphs[0], found


def _initializer(walker: OnnxWalker, field: int, begin: int, end: int) -> _Initializer | None:
    """Return an initializer if it is a plain one: raw data of a type that NumPy has."""
    dims: list[int] = []
    name, data_type, raw, at = "", 0, None, begin
    for number, wire, start, stop in walker.fields(begin, end):
        match number, wire:
            case 1, 0:
                dims.append(walker.number(start, stop))
            case 1, 2:
                dims += walker.numbers(start, stop)
            case 2, 0:
                data_type = walker.number(start, stop)
            case 8, 2:
                name = walker.text(start, stop)
            case 9, 2 if raw is None:
                raw = at, start, stop
            case 14, 0 if walker.number(start, stop) == 0:
                pass
            case _ if number not in _KEPT_FIELDS:
                return None
        at = stop
    if raw is None or not name or data_type not in _DTYPES:
        return None
    dtype = np.dtype(_DTYPES[data_type])
    if math.prod(dims) * dtype.itemsize != raw[2] - raw[1]:
        return None
    return _Initializer(name, dtype, tuple(dims), field, (begin, end), raw)


def _without(
    data: memoryview, graph: tuple[int, int, int], apart: list[_Initializer], offsets: dict[int, int]
) -> list[bytes | memoryview]:
    """Return the model in pieces, with references in place of some initializers, which are in file order."""
    if not apart:
        return [data]
    field, at, end = graph
    pieces: list[bytes | memoryview] = []
    for each in apart:
        pieces += [data[at : each.field], each.reference(data, offsets[each.raw[1]])]
        at = each.message[1]
    pieces.append(data[at:end])
    head = b"\x3a" + write_varint(sum(map(len, pieces)))
    return [data[:field], head, *pieces, data[end:]]
