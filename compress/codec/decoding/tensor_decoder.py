"""From the coded bytes of tensors to the tensors, any of them, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

import numpy as np

from compress.codec.decoding.plane_decoder import PlaneJob, constant_value, plane_job, plane_reader, with_tail
from compress.codec.format.element_numbers import ElementMap, read_map
from compress.codec.format.element_planes import from_planes, join_planes
from compress.codec.format.index_and_skeleton import Placed
from compress.codec.format.layout import KINDS, RAW, Kind, Runs, Table
from compress.codec.format.repetitions import spread
from compress.codec.format.sections import SectionReader, way_filters
from compress.codec.format.ways import Lzma, Numbered, Part
from compress.codec.kernels.contract import Kernels
from compress.codec.kernels.stream_jobs import TAIL, StreamError
from compress.codec.mapped_memory import taken
from compress.errors import CodecError

_BATCH_TENSORS = 1 << 12
_BATCH_BYTES = 1 << 22  # decoded together: enough for NumPy's lock-step, little memory
_KEPT_HEAPS = 8
LARGE = 1 << 22  # values in all its planes above which a tensor is decoded in blocks of so many


def batches(tensors: Sequence[Placed]) -> Iterator[list[Placed]]:
    """Yield tensors in order, in groups of a few megabytes, and a few thousand, that are decoded together."""
    batch: list[Placed] = []
    room = _BATCH_BYTES
    for tensor in tensors:
        if batch and (tensor.record.num_bytes > room or len(batch) == _BATCH_TENSORS):
            yield batch
            batch, room = [], _BATCH_BYTES
        batch.append(tensor)
        room -= tensor.record.num_bytes
    if batch:
        yield batch


class _Part(NamedTuple):
    """A tensor that is being decoded: its planes, (planes, count), uint8, what they need and mean, where they go."""

    tensor: Placed
    planes: np.ndarray
    jobs: list[PlaneJob]
    out: np.ndarray
    meaning: ElementMap | None

    def put(self, kernels: Kernels) -> None:
        for job in self.jobs:
            job.finish(kernels)
        kind = KINDS[self.tensor.record.kind]
        if self.meaning:
            self.meaning.put(self.planes, 0, self.out)
        elif not _is_bytes(kind):
            from_planes(self.planes, kind, self.out, kernels.join_planes)


class _Window(NamedTuple):
    """Some bytes of the file, from `first` on, that have been read: (bytes,), uint8."""

    first: int
    data: np.ndarray


def _is_bytes(kind: Kind) -> bool:
    """Return True if the values of the only plane are the bytes of the tensor."""
    return kind.planes == 1 and kind.value_bits == 8


@lru_cache(maxsize=1024)
def _element(values: tuple[int, ...], kind: int) -> np.ndarray:
    """Return the bytes of the element with these values in its planes, (planes,), uint8."""
    element = np.empty(len(values), dtype=np.uint8)
    from_planes(np.array(values, dtype=np.uint8)[:, None], KINDS[kind], element, join_planes)
    return element


def _flip(kind: Kind) -> int:
    return 1 << kind.value_bits - 1 if kind.is_signed else 0


@dataclass(frozen=True)
class TensorDecoder:
    """Decodes tensors of one .krimp file; several threads can use it at once.

    Attributes:
        name: path for messages.
        data: the .krimp file, (file_bytes,), uint8.
        tables: its code tables.
        heaps: small tensors that are coded together.
        kernels: what runs the loops.
    """

    name: str
    data: np.ndarray
    tables: list[Table]
    heaps: list[Placed]
    kernels: Kernels
    _known_heaps: dict[int, np.ndarray] = field(default_factory=dict)

    def decode(self, tensors: Sequence[Placed], outs: Sequence[np.ndarray], *, check: bool = True) -> None:
        """Decode tensors together, which is much faster for small ones.

        Args:
            tensors: some of the file's.
            outs: (num_bytes,), uint8, contiguous, for each, to write into.
            check: compare their checksums first.

        Raises:
            CodecError: a checksum is wrong or a tensor cannot be decoded.
            ValueError: one of `outs` is not such an array.
        """
        parts: list[_Part] = []
        waiting = 0
        window = self._window(tensors)
        for tensor, out in zip(tensors, outs, strict=True):
            if not (out.flags.carray and out.shape == (tensor.record.num_bytes,) and out.dtype == np.uint8):
                raise ValueError(  # numba writes by address
                    f"{self.name}: a place of {out.dtype}, {out.shape}; expected uint8, ({tensor.record.num_bytes},),"
                    " contiguous, not read-only."
                )
            if part := self._begun(tensor, out, window, check=check):
                parts.append(part)
                waiting += part.planes.size
                if waiting >= _BATCH_BYTES:
                    self._decode_parts(parts)
                    parts, waiting = [], 0
        self._decode_parts(parts)

    def _window(self, tensors: Sequence[Placed]) -> _Window | None:
        """Return what is coded of tensors, read at once, where it is not much: a call for each takes longer."""
        near = [tensor for tensor in tensors if self._is_read_whole(tensor)]
        first = min((tensor.offset for tensor in near), default=0)
        end = max((tensor.offset + tensor.size for tensor in near), default=0)
        if len(near) < 2 or end - first > _BATCH_BYTES:
            return None
        return _Window(first, taken(self.data[first : end + TAIL]))

    def _is_read_whole(self, tensor: Placed) -> bool:
        return not isinstance(tensor.record.way, Lzma | Runs | Part) and not self._is_large(tensor)

    def _payload(self, tensor: Placed, window: _Window | None) -> np.ndarray:
        """Return the coded bytes of a tensor that is read whole, and a few more, which mean nothing."""
        if window:
            return window.data[tensor.offset - window.first :][: tensor.size + TAIL]
        return taken(self.data[tensor.offset : tensor.offset + tensor.size + TAIL])

    def _begun(self, tensor: Placed, out: np.ndarray, window: _Window | None, *, check: bool) -> _Part | None:
        """Decode a tensor that is not decoded together with others, or return what is left to do."""
        way = tensor.record.way
        if self._is_read_whole(tensor):
            payload = self._payload(tensor, window)
            if check:
                self._compare(tensor, crc32(payload[: tensor.size].data))
            return self._part(tensor, payload, out)
        if check and not isinstance(way, Runs):
            self.check(tensor)
        if isinstance(way, Part):
            out[:] = self._heap(way.heap)[way.first :][: len(out)]
        elif isinstance(way, Lzma | Runs):
            at = 0
            blocks = self._unpacked(tensor, way) if isinstance(way, Lzma) else self._spread(tensor, way, check=check)
            for unpacked in blocks:
                out[at : at + len(unpacked)] = unpacked
                at += len(unpacked)
        else:
            for _ in self._large_blocks(tensor, out):
                pass
        return None

    def check(self, tensor: Placed) -> None:
        """Compare the checksum of one tensor's coded bytes.

        Raises:
            CodecError: it is wrong.
        """
        if isinstance(tensor.record.way, Part):
            return  # of its heap, when that is decoded
        for part_of in tensor.inside:
            self.check(part_of)
        if tensor.inside:
            return
        payload, found = self.data[tensor.offset : tensor.offset + tensor.size], crc32(b"")
        for start in range(0, tensor.size, _BATCH_BYTES):
            found = crc32(taken(payload[start : start + _BATCH_BYTES]).data, found)
        self._compare(tensor, found)

    def _compare(self, tensor: Placed, found: int) -> None:
        if found != tensor.record.crc32:
            raise CodecError(
                f"{self.name}: byte {tensor.offset}: checksum of this tensor is wrong; the file is damaged."
            )

    def _heap(self, number: int) -> np.ndarray:
        """Return the bytes of a heap, which are kept as long as few others are asked for."""
        heap = self._known_heaps.get(number)
        if heap is None:
            heap = np.empty(self.heaps[number].record.num_bytes, dtype=np.uint8)
            self.decode([self.heaps[number]], [heap])
            while len(self._known_heaps) >= _KEPT_HEAPS:
                self._known_heaps.pop(next(iter(self._known_heaps)), None)
            self._known_heaps[number] = heap
        return heap

    def _part(self, tensor: Placed, payload: np.ndarray, out: np.ndarray) -> _Part | None:
        """Begin a tensor; return what is left to do."""
        record, kind, at = tensor.record, KINDS[tensor.record.kind], 0
        meaning = self._meaning(tensor, payload)
        if meaning:
            at += meaning.way.packed_bytes
        elif kind.planes == 1 and record.planes[0].method == RAW:
            out[:] = payload[: tensor.size]
            return None
        constants = [constant_value(plane, self.tables) for plane in record.planes]
        if not meaning and kind.planes > 1 and None not in constants:
            out.reshape(-1, kind.planes)[:] = _element(tuple(constants), record.kind)
            return None
        is_out = _is_bytes(kind) and not meaning
        planes = out[None] if is_out else np.empty((kind.planes, record.num_values), dtype=np.uint8)
        jobs = []
        for values, plane, size, constant in zip(planes, record.planes, tensor.plane_sizes, constants, strict=True):
            if plane.method == RAW:
                values[:] = payload[at : at + size]
            elif constant is not None:
                values.fill(constant & 0xFF ^ _flip(kind))
            else:
                codes = with_tail(payload, at, size)
                jobs.append(plane_job(plane, codes, record.num_values, self.tables, values, _flip(kind)))
            at += size
        return _Part(tensor, planes, jobs, out, meaning)

    def _meaning(self, tensor: Placed, payload: np.ndarray) -> ElementMap | None:
        """Return what the numbers of a numbered tensor mean, None for any other tensor."""
        if not isinstance(way := tensor.record.way, Numbered):
            return None
        try:
            return read_map(way, payload[: way.packed_bytes], f"{self.name}: byte {tensor.offset}")
        except ValueError as error:
            raise self._damaged(tensor, error) from error

    def blocks(self, tensor: Placed) -> Iterator[np.ndarray]:
        """Yield the bytes of a tensor in order, whole elements at a time, in memory that does not grow with it.

        Raises:
            CodecError: its checksum is wrong or it cannot be decoded.
        """
        if isinstance(tensor.record.way, Lzma):
            self.check(tensor)
            yield from self._unpacked(tensor, tensor.record.way)
        elif isinstance(tensor.record.way, Runs):
            yield from self._spread(tensor, tensor.record.way, check=True)
        elif self._is_large(tensor):
            self.check(tensor)
            yield from self._large_blocks(tensor, None)
        else:
            out = np.empty(tensor.record.num_bytes, dtype=np.uint8)
            self.decode([tensor], [out])
            yield out

    def _is_large(self, tensor: Placed) -> bool:
        record = tensor.record
        return not isinstance(record.way, Part | Runs) and record.num_values * KINDS[record.kind].planes > LARGE

    def _unpacked(self, tensor: Placed, way: Lzma) -> Iterator[np.ndarray]:
        """Yield the bytes of a tensor that is packed by LZMA."""
        packed = self.data[tensor.offset : tensor.offset + tensor.size]
        where = f"{self.name}: byte {tensor.offset}"
        for part in SectionReader(packed, tensor.record.num_bytes, True, where, way_filters(way)).parts():
            yield np.frombuffer(part, dtype=np.uint8)

    def _spread(self, tensor: Placed, way: Runs, *, check: bool) -> Iterator[np.ndarray]:
        """Yield the bytes of a tensor of runs."""
        inside = [np.empty(part.record.num_bytes, dtype=np.uint8) for part in tensor.inside]
        self.decode(tensor.inside, inside, check=check)
        try:
            yield from spread(way, inside[0], inside[1], tensor.record.num_bytes)
        except ValueError as error:
            raise self._damaged(tensor, error) from error

    def _large_blocks(self, tensor: Placed, out: np.ndarray | None) -> Iterator[np.ndarray]:
        """Decode a tensor in blocks, in memory that does not grow with it, and yield them; into `out` if there is."""
        record, kind, at = tensor.record, KINDS[tensor.record.kind], tensor.offset
        meaning = self._meaning(tensor, self.data[at : at + tensor.size])
        if meaning:
            at += meaning.way.packed_bytes
        is_raw = not meaning and kind.planes == 1 and record.planes[0].method == RAW
        flip = 0 if is_raw else _flip(kind)
        is_out = not meaning and (_is_bytes(kind) or is_raw)
        try:
            readers = []
            for plane, size in zip(record.planes, tensor.plane_sizes, strict=True):
                payload = self.data[at:] if is_raw else with_tail(self.data, at, size)
                readers.append(plane_reader(plane, payload, record.num_values, self.tables, flip, self.kernels))
                at += size
            block = LARGE // kind.planes  # values
            room = np.empty(0 if is_out else kind.planes * block, dtype=np.uint8)
            for start in range(0, record.num_values, block):
                stop = min(start + block, record.num_values)
                first, end = (place * record.num_bytes // record.num_values for place in (start, stop))
                part = np.empty(end - first, dtype=np.uint8) if out is None else out[first:end]
                planes = (part if is_out else room[: kind.planes * (stop - start)]).reshape(kind.planes, -1)
                for reader, values in zip(readers, planes, strict=True):
                    reader.read(values)
                if meaning:
                    meaning.put(planes, start, part)
                elif not is_out:
                    from_planes(planes, kind, part, self.kernels.join_planes)
                yield part
        except ValueError as error:
            raise self._damaged(tensor, error) from error

    def _decode_parts(self, parts: list[_Part]) -> None:
        jobs = [(stream, part) for part in parts for job in part.jobs for stream in job.streams]
        try:
            self.kernels.decode_streams([stream for stream, _ in jobs])
        except StreamError as error:
            raise self._damaged(jobs[error.number][1].tensor, error) from error
        for part in parts:
            try:
                part.put(self.kernels)
            except ValueError as error:
                raise self._damaged(part.tensor, error) from error

    def _damaged(self, tensor: Placed, error: ValueError) -> CodecError:
        return CodecError(f"{self.name}: byte {tensor.offset}: {error}.")
