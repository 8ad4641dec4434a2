"""The tensors of a network coded one after the other; their codes wait on the disk, not in memory."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple
from zlib import crc32

import numpy as np

from compress.codec.encoding.lzma_choice import pack_by_lzma, repeated
from compress.codec.encoding.table_choice import Tables
from compress.codec.encoding.tensor_encoder import CodedTensor, encode_tensor
from compress.codec.encoding.way_choice import Described, encode_best
from compress.codec.files.network_source import Source, channel_values
from compress.codec.files.packed_file import Progress
from compress.codec.files.tensor_parts import LARGE_BYTES, PART_BYTES, equal_parts, parts_of
from compress.codec.files.tensor_places import Span
from compress.codec.format.index_writer import table_bytes, write_record
from compress.codec.format.layout import KINDS, TensorRecord
from compress.codec.format.ways import Copy
from compress.codec.kernels.contract import Kernels
from compress.codec.mapped_memory import forget

_MEMORY_BYTES = 100 << 20  # beside the file that LZMA's encoder may take
_ENCODER_RATIO = 12  # of LZMA's memory to its dictionary
_KEPT_BYTES = 1 << 25  # of codes that stay in memory
_REPEATED = 0.01  # share of repeated windows from which a large tensor is tried as a whole
_BLOCK = 1 << 20


class Codes:
    """Bytes that are written once and read when the file is: small ones in memory, then in a file without a name."""

    def __init__(self, folder: Path) -> None:
        """Begin without any.

        Args:
            folder: with room for them, which the packed file needs there anyway.
        """
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_KEPT_BYTES, dir=str(folder))  # noqa: SIM115  lives as long as this
        self._end = 0

    def add(self, payload: np.ndarray) -> tuple[int, int]:
        """Keep (bytes,), uint8; return where, for `read`."""
        place = self._end, len(payload)
        self._file.seek(self._end)
        self._file.write(payload.data)
        self._end += len(payload)
        return place

    def read(self, place: tuple[int, int]) -> Iterator[bytes]:
        """Yield what was kept, a megabyte at a time."""
        start, size = place
        for at in range(start, start + size, _BLOCK):
            self._file.seek(at)
            yield self._file.read(min(_BLOCK, start + size - at))

    def close(self) -> None:
        """Let go of them."""
        self._file.close()


class Item(NamedTuple):
    """A tensor that has been coded.

    Attributes:
        span: where it lies.
        record: how, without its gap.
        place: of its codes in `Codes`: first byte, number of bytes.
        entropy_bits: its order-0 entropy, plane by plane.
        saved_bytes: how much smaller it is than with a code of its values.
    """

    span: Span
    record: TensorRecord
    place: tuple[int, int]
    entropy_bits: float
    saved_bytes: int


@dataclass
class CodedTensors:
    """The tensors of a file while they are coded, and the tables of their codes.

    Attributes:
        source: where they are.
        codes: where their codes go.
        kernels: what runs the loops; the bytes are the same.
        is_best: each in the smallest way, or with a code of its values alone.
        tables, items: what came of it.
        seconds: time that coding took.
    """

    source: Source
    codes: Codes
    kernels: Kernels
    is_best: bool
    tables: Tables = field(default_factory=Tables)
    items: list[Item] = field(default_factory=list)
    seconds: float = 0.0
    _known: dict[bytes, int] = field(default_factory=dict)  # digest of bytes -> number of the item that has them

    def add_all(self, spans: list[Span], progress: Progress | None = None) -> CodedTensors:
        """Code tensors; return self.

        Args:
            spans: the tensors, in order.
            progress: called with (bytes done, bytes in all).
        """
        for span in spans:
            started = time.perf_counter()
            for part in equal_parts(self.source, span) if self.is_best else [span]:
                self._add(part)
            self.seconds += time.perf_counter() - started
            if progress:
                progress(span.start + span.num_bytes, self.source.num_bytes)
        return self

    def _add(self, span: Span) -> None:
        """Code a tensor, a large one in parts or as one by LZMA."""
        data = self.source.array(span.start, span.num_bytes)
        parts = parts_of(span)
        if len(parts) == 1 or not self.is_best:
            for part in parts:
                self._add_part(part)
        elif not self._add_copy(span, _digest(data)):
            self._add_large(span, data, parts)
        forget(data)

    def _add_large(self, span: Span, data: np.ndarray, parts: list[Span]) -> None:
        mark, first = self.tables.mark(), len(self.items)
        for part in parts:
            self._add_part(part)
        if repeated(data, KINDS[span.kind].planes) < _REPEATED:
            return
        added = self.items[first:]
        size = sum(item.place[1] + len(write_record(item.record)) for item in added)
        size += sum(table_bytes(table) for table in self.tables.tables[mark:])
        if packed := pack_by_lzma(data, KINDS[span.kind].planes, size, self._dictionary()):
            self.tables.cut(mark)
            del self.items[first:]
            self._known = {digest: number for digest, number in self._known.items() if number < first}
            way, found = packed
            record = TensorRecord(0, span.num_bytes, 0, (), crc32(found), way)
            self._known[_digest(data)] = len(self.items)
            self._keep(span, CodedTensor(record, np.frombuffer(found, dtype=np.uint8), 0.0), size - len(found))

    def _add_part(self, span: Span) -> None:
        data = self.source.array(span.start, span.num_bytes)
        digest = _digest(data) if self.is_best else b""
        if not (self.is_best and self._add_copy(span, digest)):
            self._known[digest] = len(self.items)
            self.add_bytes(span, data)
        forget(data)

    def _add_copy(self, span: Span, digest: bytes) -> bool:
        """Add a tensor as a copy of an earlier one; return False if there is none with these bytes."""
        if (original := self._known.get(digest)) is None:
            return False
        record = TensorRecord(0, span.num_bytes, 0, (), 0, Copy(len(self.items) - original))
        self.items.append(Item(span, record, (0, 0), 0.0, self.items[original].place[1]))
        return True

    def add_bytes(self, span: Span, data: np.ndarray) -> None:
        """Code the bytes of a tensor, whatever was before."""
        if self.is_best:
            what = Described(span.kind, span.data_type, span.dims, channel_values(span), 0)
            coded, saved = encode_best(data, what, self.tables, self.kernels, self._dictionary())
            self._keep(span, coded, saved)
        else:
            channel = channel_values(span)
            self._keep(span, encode_tensor(data, span.kind, self.tables, self.kernels, channel=channel), 0)

    def _keep(self, span: Span, coded: CodedTensor, saved: int) -> None:
        self.items.append(Item(span, coded.record, self.codes.add(coded.payload), coded.entropy_bits, saved))

    def _dictionary(self) -> int:
        """Return the bytes of LZMA's dictionary that there is memory for."""
        return (self.source.num_bytes + _MEMORY_BYTES) // _ENCODER_RATIO


def _digest(data: np.ndarray) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(data), PART_BYTES):
        digest.update(data[start : start + PART_BYTES].data)
        if len(data) > LARGE_BYTES:
            forget(data[start : start + PART_BYTES])
    return digest.digest()
