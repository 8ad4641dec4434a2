"""An ONNX model and its large initializers side by side, so that a runtime takes them as they lie in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compress.codec.files.packed_file import PackedFile
from compress.codec.files.tensor_places import OnnxWalker
from compress.codec.format.index_writer import write_varint
from compress.codec.format.layout import CONTAINERS
from compress.codec.mapped_memory import empty_space
from compress.errors import CodecError

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


_PLACE = _entry(b"location", b"inside.krimp") + _entry(b"offset", b"0")  # a file that is never opened


@dataclass(frozen=True)
class ApartModel:
    """An ONNX model without its large initializers.

    Attributes:
        model: the ONNX file; the initializers of `tensors` refer to external data that does not exist.
        tensors: name -> values of these initializers, read-only.
    """

    model: bytes
    tensors: dict[str, np.ndarray]


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

    def reference(self, data: memoryview) -> bytes:
        """Return the field with a reference in place of the data."""
        entries = _PLACE + _entry(b"length", str(self.num_bytes).encode())
        begin, end = self.message
        kept = bytes(data[begin : self.raw[0]]) + bytes(data[self.raw[2] : end])
        return _message(5, kept + entries + b"\x70\x01")  # data_location: EXTERNAL


def read_apart(
    packed: PackedFile, *, least_bytes: int = LEAST_BYTES, threads: int = 1, check_hash: bool = True
) -> ApartModel:
    """Decode an ONNX model, each large initializer of its main graph into an array of its own.

    Everything else (subgraphs, constants, sparse and small initializers) stays inside the model.

    Args:
        packed: an open .krimp file of an ONNX model without other files.
        least_bytes: size from which an initializer is held apart.
        threads: how many tensors are decoded at once.
        check_hash: compare the SHA-256 of the original instead of the tensors' checksums.

    Raises:
        CodecError: the file is damaged, holds no ONNX model, or holds files beside it.
    """
    packed.refuse_side_files()
    if packed.header.container != 0:
        what = CONTAINERS[packed.header.container]
        raise CodecError(f"{packed.name}: byte 10: holds a file of kind {what!r}; expected an ONNX model.")
    whole = empty_space(packed.header.original_bytes)  # names lie in the skeleton
    places = packed.put_skeleton(whole)
    data = whole.data
    coded = {tensor.start: tensor.record.num_bytes for tensor in packed.tensors}
    graph, found = _main_initializers(OnnxWalker(data, packed.name), least_bytes)
    apart = {each.raw[1]: each for each in found if coded.get(each.raw[1]) == each.num_bytes}
    if len({each.name for each in apart.values()}) < len(apart):
        apart = {}  # two of one name: for the runtime to refuse
    arrays, outs = _places(packed, apart, places)
    packed.decode_all(outs, threads=threads, check_hash=check_hash)
    chosen = [apart[start] for start in sorted(apart)]
    for array in arrays:
        array.flags.writeable = False
    tensors = {each.name: array for each, array in zip(chosen, arrays, strict=True)}
    return ApartModel(_without(data, graph, chosen), tensors)


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


def _places(
    packed: PackedFile, apart: dict[int, _Initializer], places: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the arrays of the initializers apart, in file order, and where to decode each tensor."""
    arrays, outs = [], []
    for tensor, place in zip(packed.tensors, places, strict=True):
        size, each = tensor.record.num_bytes, apart.get(tensor.start)
        if each is None:
            outs.append(place)
            continue
        room = np.empty(size + _ALIGNED, dtype=np.uint8)  # one each: of memory that the process has, if it can be
        at = -room.ctypes.data % _ALIGNED
        outs.append(room[at : at + size])
        arrays.append(outs[-1].view(each.dtype).reshape(each.dims))
    return arrays, outs


def _without(data: memoryview, graph: tuple[int, int, int], apart: list[_Initializer]) -> bytes:
    """Return the model with references in place of some initializers, in file order."""
    field, at, end = graph
    pieces: list[bytes | memoryview] = []
    for each in apart:
        pieces += [data[at : each.field], each.reference(data)]
        at = each.message[1]
    if not apart:
        return bytes(data)
    pieces.append(data[at:end])
    head = b"\x3a" + write_varint(sum(map(len, pieces)))
    return b"".join([data[:field], head, *pieces, data[end:]])
