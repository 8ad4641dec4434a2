"""From the coded bytes of tensors to the tensors, any of them, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from compress.codec.layout import KINDS, RAW, Table
from compress.codec.opening import Placed
from compress.codec.plane_decoder import PlaneJob, constant_value, plane_job, with_tail
from compress.codec.stream_decoder import StreamError, decode_streams
from compress.codec.values import put_plane, undo_transform
from compress.errors import CodecError

_BATCH_BYTES = 1 << 22  # decoded together: enough for NumPy's lock-step, little memory


def batches(tensors: Sequence[Placed]) -> Iterator[list[Placed]]:
    """Yield tensors in order, in groups of a few megabytes that are decoded together."""
    batch: list[Placed] = []
    room = _BATCH_BYTES
    for tensor in tensors:
        if batch and tensor.record.num_bytes > room:
            yield batch
            batch, room = [], _BATCH_BYTES
        batch.append(tensor)
        room -= tensor.record.num_bytes
    if batch:
        yield batch


@dataclass(frozen=True)
class _Part:
    """A plane that is being decoded: whose it is, its job, and where its values go in the end."""

    tensor: Placed
    number: int
    job: PlaneJob
    out: np.ndarray

    def put(self, backend: str) -> None:
        self.job.finish(backend)
        if self.job.out is not self.out:
            put_plane(self.job.out, KINDS[self.tensor.record.kind], self.number, self.out)


@dataclass(frozen=True)
class TensorDecoder:
    """Decodes tensors of one .krimp file; several threads can use it at once.

    Attributes:
        name: path for messages.
        data: the .krimp file, (file_bytes,), uint8.
        tables: its code tables.
        backend: 'auto', 'numpy' or 'numba' (same bytes).
    """

    name: str
    data: np.ndarray
    tables: list[Table]
    backend: str

    def decode(self, tensors: Sequence[Placed], outs: Sequence[np.ndarray], *, check: bool = True) -> None:
        """Decode tensors together, which is much faster for small ones.

        Args:
            tensors: some of the file's.
            outs: (num_bytes,), uint8, contiguous, for each, to write into.
            check: compare their checksums first.

        Raises:
            CodecError: a checksum is wrong or a tensor cannot be decoded.
        """
        parts: list[_Part] = []
        waiting = 0
        for tensor, out in zip(tensors, outs, strict=True):
            if check:
                self.check(tensor)
            for part in self._parts(tensor, out):
                parts.append(part)
                waiting += len(part.job.out)
                if waiting >= _BATCH_BYTES:
                    self._decode_parts(parts)
                    parts, waiting = [], 0
        self._decode_parts(parts)
        for tensor, out in zip(tensors, outs, strict=True):
            if KINDS[tensor.record.kind].planes > 1:
                undo_transform(out, KINDS[tensor.record.kind])

    def check(self, tensor: Placed) -> None:
        """Compare the checksum of one tensor's coded bytes.

        Raises:
            CodecError: it is wrong.
        """
        payload = self.data[tensor.offset : tensor.offset + tensor.size]
        if crc32(payload.data) != tensor.record.crc32:
            raise CodecError(
                f"{self.name}: byte {tensor.offset}: checksum of this tensor is wrong; the file is damaged."
            )

    def _parts(self, tensor: Placed, out: np.ndarray) -> Iterator[_Part]:
        """Write the raw planes of a tensor; yield the others."""
        record, kind = tensor.record, KINDS[tensor.record.kind]
        at = tensor.offset
        for number, (plane, size) in enumerate(zip(record.planes, tensor.plane_sizes, strict=True)):
            constant = constant_value(plane, self.tables)
            if plane.method == RAW:
                out[number :: kind.planes] = self.data[at : at + size]
            elif constant is not None and kind.planes > 1:
                out[number :: kind.planes] = constant
            else:
                whole = kind.planes == 1 and kind.value_bits == 8
                values = out if whole else np.empty(record.count, dtype=np.uint8)
                flip = 1 << kind.value_bits - 1 if kind.is_signed else 0
                payload = with_tail(self.data, at, size)
                yield _Part(tensor, number, plane_job(plane, payload, record.count, self.tables, values, flip), out)
            at += size

    def _decode_parts(self, parts: list[_Part]) -> None:
        jobs = [(stream, part) for part in parts for stream in part.job.streams]
        try:
            decode_streams([stream for stream, _ in jobs], self.backend)
        except StreamError as error:
            raise self._damaged(jobs[error.number][1].tensor, error) from error
        for part in parts:
            try:
                part.put(self.backend)
            except ValueError as error:
                raise self._damaged(part.tensor, error) from error

    def _damaged(self, tensor: Placed, error: ValueError) -> CodecError:
        return CodecError(f"{self.name}: byte {tensor.offset}: {error}.")
