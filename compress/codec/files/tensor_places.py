"""Where the tensors of a file lie: ONNX by walking protobuf's wire format, safetensors by its header.

Nothing is parsed into objects and written again: the bytes outside the found spans are kept as
they are, so every file comes back identical, unknown fields and unusual order included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

from compress.codec.format.layout import KINDS
from compress.errors import CodecError

_MAX_DEPTH = 64
_MAX_JSON_BYTES = 100_000_000

# onnx.TensorProto.DataType -> (name, kind)
_ONNX_TYPES = {
    1: ("float32", 9), 2: ("uint8", 0), 3: ("int8", 1), 4: ("uint16", 16), 5: ("int16", 12), 6: ("int32", 13),
    7: ("int64", 14), 9: ("bool", 0), 10: ("float16", 8), 11: ("float64", 10), 12: ("uint32", 17), 13: ("uint64", 18),
    14: ("complex64", 9), 15: ("complex128", 10), 16: ("bfloat16", 8), 17: ("float8e4m3fn", 0),
    18: ("float8e4m3fnuz", 0), 19: ("float8e5m2", 0), 20: ("float8e5m2fnuz", 0),
    21: ("uint4", 2), 22: ("int4", 3), 23: ("float4e2m1", 2),
    24: ("float8e8m0", 0), 25: ("uint2", 4), 26: ("int2", 5),
}  # fmt: skip
_SAFETENSORS_TYPES = {
    "F64": ("float64", 10), "F32": ("float32", 9), "F16": ("float16", 8), "BF16": ("bfloat16", 8), "I64": ("int64", 14),
    "I32": ("int32", 13), "I16": ("int16", 12), "I8": ("int8", 1), "U64": ("uint64", 18), "U32": ("uint32", 17),
    "U16": ("uint16", 16), "U8": ("uint8", 0), "BOOL": ("bool", 0), "C64": ("complex64", 9),
}  # fmt: skip


@dataclass(frozen=True)
class Span:
    """One tensor's bytes in a file.

    Attributes:
        start, num_bytes: place in the file.
        kind: key of `layout.KINDS`.
        name: name of the tensor ('' if it has none).
        dims: shape.
        data_type: element type, e.g. 'int8'.
    """

    start: int
    num_bytes: int
    kind: int
    name: str = ""
    dims: tuple[int, ...] = ()
    data_type: str = ""


@dataclass(frozen=True)
class ExternalTensor:
    """A tensor whose bytes lie in another file.

    Attributes:
        at: where the tensor's message begins, for messages.
        location: path relative to the folder of the model, as the model has it.
        offset: first byte in that file.
        num_bytes: its length; None: up to the end of the file.
        kind, name, dims, data_type: see `Span`.
    """

    at: int
    location: str
    offset: int
    num_bytes: int | None
    kind: int
    name: str
    dims: tuple[int, ...]
    data_type: str


@dataclass
class _Tensor:
    name: str = ""
    dims: list[int] = field(default_factory=list)
    data_type: int = 0
    is_external: bool = False
    external: dict[str, str] = field(default_factory=dict)
    spans: list[tuple[int, int, int]] = field(default_factory=list)  # start, end, kind or -1 = by data_type


def find_spans(data: memoryview, container: int, name: str) -> list[Span]:
    """Return the tensors of a file in the order of their bytes, none overlapping.

    Args:
        data: the whole file.
        container: index into `layout.CONTAINERS`.
        name: path for messages.

    Raises:
        CodecError: the file is truncated, not of that container, or keeps weights in other files.
    """
    spans, external = find_tensors(data, container, name)
    if external:
        raise CodecError(
            f"{name}: byte {external[0].at}: tensor {external[0].name!r} keeps its data in another file;"
            " save the model as one file first (onnx.save_model with save_as_external_data=False)."
        )
    return spans


def find_tensors(data: memoryview, container: int, name: str) -> tuple[list[Span], list[ExternalTensor]]:
    """Return the tensors inside a file as `find_spans` does, and those that it keeps in other files.

    Raises:
        CodecError: the file is truncated or not of that container.
    """
    if container == 0:
        walker = OnnxWalker(data, name)
        walker.model()
        return in_order(walker.spans, name), walker.external
    return in_order(_safetensors_spans(data, name) if container == 1 else [], name), []


def in_order(found: list[Span], name: str) -> list[Span]:
    """Return spans in the order of their bytes, without empty ones.

    Raises:
        CodecError: two of them overlap.
    """
    spans = sorted((span for span in found if span.num_bytes), key=lambda span: span.start)
    for before, after in pairwise(spans):
        if before.start + before.num_bytes > after.start:
            raise CodecError(
                f"{name}: byte {after.start}: tensor {after.name!r} overlaps {before.name!r}; expected none."
            )
    return [_whole_elements(span) for span in spans]


def _whole_elements(span: Span) -> Span:
    return replace(span, kind=0) if span.num_bytes % KINDS[span.kind].planes else span


def _safetensors_spans(data: memoryview, name: str) -> list[Span]:
    length = int.from_bytes(data[:8], "little")
    if len(data) >= 8 and length > _MAX_JSON_BYTES:
        raise CodecError(f"{name}: byte 0: header of {length} bytes; safetensors allows {_MAX_JSON_BYTES}.")
    if len(data) < 8 or length > len(data) - 8:
        raise CodecError(f"{name}: byte {len(data)}: header of {length} bytes does not fit; the file is truncated.")
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        found = []
        for key, entry in header.items():
            if key == "__metadata__":
                continue
            shape = _whole_numbers(entry["shape"])
            start, end = (offset + 8 + length for offset in _whole_numbers(entry["data_offsets"]))
            if not 8 + length <= start <= end <= len(data):
                raise CodecError(
                    f"{name}: byte {len(data)}: tensor {key!r} ends at byte {end}; the file has {len(data)}."
                    " It is truncated."
                )
            data_type, kind = _SAFETENSORS_TYPES.get(entry["dtype"], (str(entry["dtype"]).lower(), 0))
            found.append(Span(start, end - start, kind, key, shape, data_type))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CodecError(
            f"{name}: byte 8: header is not that of a safetensors file ({error}); expected JSON."
        ) from error
    return found


def _whole_numbers(listed: object) -> tuple[int, ...]:
    """Return numbers of the header of a safetensors file.

    Raises:
        ValueError: they are something else, or have more than 64 bits.
    """
    if not isinstance(listed, list) or not all(isinstance(each, int) and 0 <= each < 1 << 64 for each in listed):
        raise ValueError(f"{str(listed)[:40]!r} are not whole numbers of at most 64 bits")
    return tuple(listed)


class OnnxWalker:
    """Visits the messages of a ModelProto that can hold tensors. Field numbers: onnx.proto."""

    def __init__(self, data: memoryview, name: str) -> None:
        self._data, self._name = data, name
        self.spans: list[Span] = []
        self.external: list[ExternalTensor] = []

    def model(self) -> None:
        """Visit ModelProto; refuse what cannot be one."""
        if not len(self._data):
            raise self._fail(0, "the file is empty, perhaps truncated; expected an ONNX model")
        ir_version, seen = 0, set()
        for number, wire, start, end in self.fields(0, len(self._data)):
            seen.add((number, wire))
            if (number, wire) == (1, 0):
                ir_version = self.number(start, end)
            elif (number, wire) == (7, 2):
                self._graph(start, end, 0)
            elif (number, wire) == (20, 2):
                self._training(start, end)
            elif (number, wire) == (25, 2):
                self._function(start, end)
        if (7, 2) not in seen:
            raise self._fail(len(self._data), "no graph found; the file is truncated or not an ONNX model")
        if ir_version >= 3 and (8, 2) not in seen:
            raise self._fail(len(self._data), "no operator set found; the file is truncated")

    def _graph(self, start: int, end: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise self._fail(start, f"graphs are nested deeper than {_MAX_DEPTH}")
        for number, wire, inner, stop in self.fields(start, end):
            if wire != 2:
                continue
            if number == 1:
                self._node(inner, stop, depth)
            elif number == 5:
                self._tensor(inner, stop, "")
            elif number == 15:
                self._sparse_tensor(inner, stop)

    def _training(self, start: int, end: int) -> None:
        for number, wire, inner, stop in self.fields(start, end):
            if wire == 2 and number in (1, 2):
                self._graph(inner, stop, 0)

    def _function(self, start: int, end: int) -> None:
        for number, wire, inner, stop in self.fields(start, end):
            if (number, wire) == (7, 2):
                self._node(inner, stop, 0)
            elif (number, wire) == (11, 2):
                self._attribute(inner, stop, "", 0)

    def _node(self, start: int, end: int, depth: int) -> None:
        output, attributes = "", []
        for number, wire, inner, stop in self.fields(start, end):
            if (number, wire) == (2, 2) and not output:
                output = self.text(inner, stop)
            elif (number, wire) == (5, 2):
                attributes.append((inner, stop))
        for inner, stop in attributes:
            self._attribute(inner, stop, output, depth)

    def _attribute(self, start: int, end: int, owner: str, depth: int) -> None:
        for number, wire, inner, stop in self.fields(start, end):
            if wire != 2:
                continue
            if number in (5, 10):
                self._tensor(inner, stop, owner)
            elif number in (6, 11):
                self._graph(inner, stop, depth + 1)
            elif number in (22, 23):
                self._sparse_tensor(inner, stop)

    def _sparse_tensor(self, start: int, end: int) -> None:
        for number, wire, inner, stop in self.fields(start, end):
            if wire == 2 and number in (1, 2):
                self._tensor(inner, stop, "")

    def _tensor(self, start: int, end: int, owner: str) -> None:
        tensor = _Tensor(name=owner)
        for number, wire, inner, stop in self.fields(start, end):
            self._tensor_field(tensor, number, wire, inner, stop)
        data_type, kind = _ONNX_TYPES.get(tensor.data_type, (f"type {tensor.data_type}", 0))
        if tensor.is_external:
            self.external.append(self._external(tensor, start, kind, data_type))
        for inner, stop, fixed in tensor.spans:
            chosen = kind if fixed < 0 else fixed
            self.spans.append(Span(inner, stop - inner, chosen, tensor.name, tuple(tensor.dims), data_type))

    def _external(self, tensor: _Tensor, start: int, kind: int, data_type: str) -> ExternalTensor:
        entries = tensor.external
        try:
            offset = int(entries.get("offset", "0") or 0)
            num_bytes = int(entries["length"]) if entries.get("length") else None
        except ValueError:
            offset, num_bytes = -1, None
        if offset < 0 or (num_bytes is not None and num_bytes < 0) or not entries.get("location"):
            raise self._fail(start, f"tensor {tensor.name!r} lies in another file at {entries}; expected a place")
        dims = tuple(tensor.dims)
        return ExternalTensor(start, entries["location"], offset, num_bytes, kind, tensor.name, dims, data_type)

    def _external_entry(self, tensor: _Tensor, start: int, end: int) -> None:
        key = value = ""
        for number, wire, inner, stop in self.fields(start, end):
            if (number, wire) == (1, 2):
                key = self.text(inner, stop)
            elif (number, wire) == (2, 2):
                value = self.text(inner, stop)
        tensor.external[key] = value

    def _tensor_field(self, tensor: _Tensor, number: int, wire: int, inner: int, stop: int) -> None:
        match number, wire:
            case 1, 0:
                tensor.dims.append(self.number(inner, stop))
            case 1, 2:
                tensor.dims += self.numbers(inner, stop)
            case 2, 0:
                tensor.data_type = self.number(inner, stop)
            case 4, 2:
                tensor.spans.append((inner, stop, 9))  # packed float_data
            case 8, 2:
                tensor.name = self.text(inner, stop)
            case 9, 2:
                tensor.spans.append((inner, stop, -1))  # raw_data
            case 10, 2:
                tensor.spans.append((inner, stop, 10))  # packed double_data
            case 13, 2:
                self._external_entry(tensor, inner, stop)
            case 14, 0:
                tensor.is_external = self.number(inner, stop) == 1

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (field number, wire type, start, end of the value) of one message.

        Raises:
            CodecError: the message is damaged.
        """
        data = self._data
        while at < end:
            tag_at, tag = at, data[at]
            if 8 <= tag < 0x80 and tag & 7 == 2 and at + 2 < end:  # nearly always, with a size of one or two bytes
                low, high = data[at + 1], data[at + 2]
                start = at + 2 if low < 0x80 else at + 3
                stop = start + (low if low < 0x80 else low & 0x7F | high << 7)
                if stop <= end and (low < 0x80 or high < 0x80):
                    yield tag >> 3, 2, start, stop
                    at = stop
                    continue
            tag, at = self._varint(tag_at, end)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise self._fail(tag_at, "field number 0; the file is damaged or not an ONNX model")
            stop = self._value_end(number, wire, at, end, 0)
            if wire == 2:
                at = self._varint(at, end)[1]
            yield number, wire, at, stop
            at = stop

    @property
    def num_bytes(self) -> int:
        """Return the size of the file."""
        return len(self._data)

    def number(self, start: int, stop: int) -> int:
        """Return the value of a field of wire type 0."""
        return self._varint(start, stop)[0]

    def numbers(self, start: int, stop: int) -> list[int]:
        """Return the values of a packed field."""
        found = []
        while start < stop:
            value, start = self._varint(start, stop)
            found.append(value)
        return found

    def _value_end(self, number: int, wire: int, at: int, end: int, depth: int) -> int:
        if wire == 0:
            return self._varint(at, end)[1]
        if wire == 3 and depth < _MAX_DEPTH:  # a group: unknown to ONNX, kept as it is
            while True:
                tag, at = self._varint(at, end)
                if tag & 7 == 4:
                    return at
                at = self._value_end(tag >> 3, tag & 7, at, end, depth + 1)
        size = {1: 8, 5: 4}.get(wire)
        start = at
        if wire == 2:
            size, at = self._varint(at, end)
        if size is None:
            raise self._fail(start, f"wire type {wire}; the file is damaged or not an ONNX model")
        if size > end - at:
            raise self._fail(
                start,
                f"field {number} has {size} bytes, {end - at} are left; the file is truncated or not an ONNX model",
            )
        return at + size

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise self._fail(at, "the file ends inside a number; it is truncated or not an ONNX model")
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise self._fail(at, "a number of more than ten bytes; the file is damaged or not an ONNX model")

    def text(self, start: int, end: int) -> str:
        """Return the value of a text field."""
        return bytes(self._data[start:end]).decode("utf-8", errors="replace")

    def _fail(self, at: int, what: str) -> CodecError:
        return CodecError(f"{self._name}: byte {at}: {what}.")
