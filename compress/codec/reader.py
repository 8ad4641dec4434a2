"""Reading .krimp files: the whole original, or one tensor of it."""

from __future__ import annotations

import hashlib
import io
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from compress.codec.bitstream import choose_backend
from compress.codec.layout import (
    HEADER_BYTES,
    KINDS,
    MAX_COUNT,
    RAW,
    IndexReader,
    Table,
    TensorRecord,
    parse_header,
    payload_bytes,
    stream_bytes,
    stream_symbols,
)
from compress.codec.plane_decoder import assemble_plane, plane_jobs
from compress.codec.sections import expand
from compress.codec.stream_decoder import StreamError, StreamJob, decode_streams
from compress.codec.values import from_planes
from compress.errors import CodecError

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)

_BATCH_BYTES = 1 << 22  # decoded together: enough for NumPy's lock-step, little memory


@dataclass(frozen=True)
class Placed:
    """A tensor record with its places.

    Attributes:
        record: how it is coded.
        start: first byte in the original file.
        offset: first coded byte in the .krimp file.
        size: coded bytes.
    """

    record: TensorRecord
    start: int
    offset: int
    size: int


class PackedFile:
    """An open .krimp file whose header, index and skeleton have been checked; use it with `with`.

    Attributes:
        name: path for messages.
        header: its header.
        tables, tensors: its index.
        skeleton: the bytes of the original outside the tensors.
        file_bytes: its size.
    """

    def __init__(self, path: Path | str, *, backend: str = "auto") -> None:
        self.name = str(path)
        # numpy over the map: slices cost nothing and are read when touched.
        self._data = np.frombuffer(open_map(path), dtype=np.uint8)
        self.file_bytes = len(self._data)
        self.header = parse_header(self._data[:HEADER_BYTES].tobytes(), self.file_bytes, self.name)
        self._backend = choose_backend(backend, self.header.original_bytes)
        self.skeleton = b""
        self.tables, self.tensors = self._read_index()
        self.skeleton = self._section(
            HEADER_BYTES + self.header.payload_bytes,
            self.header.skeleton_packed_bytes,
            self.header.skeleton_bytes,
            self.header.skeleton_packed_by_lzma,
            self.header.skeleton_crc32,
            "skeleton",
        )

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._data = np.empty(0, dtype=np.uint8)

    def decode(self, tensor: Placed, out: np.ndarray | None = None) -> np.ndarray:
        """Decode one tensor.

        Args:
            tensor: one of `self.tensors`.
            out: (num_bytes,), uint8, to write into; a new array if None.

        Returns:
            Its bytes, uint8.

        Raises:
            CodecError: its checksum is wrong or it cannot be decoded.
        """
        out = np.empty(tensor.record.num_bytes, dtype=np.uint8) if out is None else out
        self.decode_many([tensor], [out])
        return out

    def decode_many(self, tensors: Sequence[Placed], outs: Sequence[np.ndarray]) -> None:
        """Decode tensors together, which is much faster for small ones.

        Args:
            tensors: some of `self.tensors`.
            outs: (num_bytes,), uint8, for each, to write into.

        Raises:
            CodecError: a checksum is wrong or a tensor cannot be decoded.
        """
        jobs: list[StreamJob] = []
        owners: list[Placed] = []
        parts: list[list[np.ndarray]] = []
        for tensor in tensors:
            parts.append(self._plane_payloads(tensor))
            for plane, part in zip(tensor.record.planes, parts[-1], strict=True):
                if plane.method != RAW:
                    found = plane_jobs(plane, part, tensor.record.count, self.tables)
                    jobs += found
                    owners += [tensor] * len(found)
        try:
            decoded = iter(decode_streams(jobs, self._backend))
        except StreamError as error:
            raise self._damaged(owners[error.number], error) from error
        for tensor, payloads, out in zip(tensors, parts, outs, strict=True):
            record = tensor.record
            kind = KINDS[record.kind]
            if kind.planes == 1 and record.planes[0].method == RAW:
                out[:] = payloads[0]
                continue
            try:
                planes = [
                    part if plane.method == RAW else assemble_plane(plane, record.count, self.tables, decoded)
                    for plane, part in zip(record.planes, payloads, strict=True)
                ]
            except ValueError as error:
                raise self._damaged(tensor, error) from error
            from_planes(planes, kind, out)

    def _damaged(self, tensor: Placed, error: ValueError) -> CodecError:
        return CodecError(f"{self.name}: byte {tensor.offset}: {error}.")

    def _plane_payloads(self, tensor: Placed) -> list[np.ndarray]:
        """Return the coded bytes of each plane after checking the checksum."""
        record = tensor.record
        payload = self._data[tensor.offset : tensor.offset + tensor.size]
        if crc32(payload.data) != record.crc32:
            raise CodecError(
                f"{self.name}: byte {tensor.offset}: checksum of this tensor is wrong; the file is damaged."
            )
        parts, at = [], 0
        for plane in record.planes:
            size = record.num_bytes // len(record.planes) if plane.method == RAW else 0
            for stream, symbols in stream_symbols(plane, record.count, self.tables):
                size += stream_bytes(stream, symbols)
            parts.append(payload[at : at + size])
            at += size
        return parts

    def batches(self) -> Iterator[list[Placed]]:
        """Yield all tensors in order, in groups of a few megabytes that are decoded together."""
        batch: list[Placed] = []
        room = _BATCH_BYTES
        for tensor in self.tensors:
            if batch and tensor.record.num_bytes > room:
                yield batch
                batch, room = [], _BATCH_BYTES
            batch.append(tensor)
            room -= tensor.record.num_bytes
        if batch:
            yield batch

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the original file piece by piece, in order.

        Raises:
            CodecError: a tensor is damaged.
        """
        at = 0
        for batch in self.batches():
            outs = [np.empty(tensor.record.num_bytes, dtype=np.uint8) for tensor in batch]
            self.decode_many(batch, outs)
            for tensor, out in zip(batch, outs, strict=True):
                gap = tensor.record.gap
                yield self.skeleton[at : at + gap]
                at += gap
                yield out.data
        yield self.skeleton[at:]

    def fill(self, out: np.ndarray, *, with_tensors: bool = True, progress: Progress | None = None) -> None:
        """Write the original file into `out`.

        Args:
            out: (original_bytes,), uint8.
            with_tensors: False leaves the tensors' bytes as they are.
            progress: called with (bytes done, bytes in all).

        Raises:
            CodecError: a tensor is damaged.
        """
        skeleton = np.frombuffer(self.skeleton, dtype=np.uint8)
        at = taken = 0
        for tensor in self.tensors:
            gap = tensor.record.gap
            out[at : at + gap] = skeleton[taken : taken + gap]
            taken += gap
            at = tensor.start + tensor.record.num_bytes
        out[at:] = skeleton[taken:]
        for batch in self.batches() if with_tensors else ():
            self.decode_many(batch, [out[t.start : t.start + t.record.num_bytes] for t in batch])
            if progress:
                progress(batch[-1].start + batch[-1].record.num_bytes, len(out))

    def check_hash(self, digest: bytes) -> None:
        """Compare the hash of the decoded bytes with the one inside.

        Raises:
            CodecError: they differ.
        """
        if digest != self.header.sha256:
            raise CodecError(
                f"{self.name}: byte 24: sha256 of the unpacked bytes is {digest.hex()};"
                f" expected {self.header.sha256.hex()}."
            )

    def _section(self, offset: int, packed: int, size: int, is_lzma: bool, checksum: int, what: str) -> bytes:
        data = self._data[offset : offset + packed].tobytes()
        if crc32(data) != checksum:
            raise CodecError(f"{self.name}: byte {offset}: checksum of the {what} is wrong; the file is damaged.")
        return expand(data, size, is_lzma, f"{self.name}: byte {offset}")

    def _read_index(self) -> tuple[list[Table], list[Placed]]:
        header = self.header
        offset = HEADER_BYTES + header.payload_bytes + header.skeleton_packed_bytes
        index = self._section(
            offset,
            header.index_packed_bytes,
            header.index_bytes,
            header.index_packed_by_lzma,
            header.index_crc32,
            "index",
        )
        reader = IndexReader(index, self.name)
        tables = [reader.table() for _ in range(reader.varint(MAX_COUNT))]
        tensors, start, place, gaps = [], 0, HEADER_BYTES, 0
        for _ in range(header.num_tensors):
            record = reader.record(tables)
            start += record.gap
            size = payload_bytes(record, tables)
            gaps += record.gap
            if start + record.num_bytes > header.original_bytes or gaps > header.skeleton_bytes:
                raise reader.fail(
                    f"tensor ends at byte {start + record.num_bytes}; the original has {header.original_bytes}"
                )
            if place + size > HEADER_BYTES + header.payload_bytes:
                raise reader.fail(
                    f"tensor needs {size} coded bytes; {HEADER_BYTES + header.payload_bytes - place} are left"
                )
            tensors.append(Placed(record, start, place, size))
            start += record.num_bytes
            place += size
        reader.end()
        covered = start - gaps + header.skeleton_bytes
        if covered != header.original_bytes or place != HEADER_BYTES + header.payload_bytes:
            raise reader.fail(
                f"tensors and skeleton make {covered} bytes from {place - HEADER_BYTES} coded ones;"
                f" expected {header.original_bytes} from {header.payload_bytes}"
            )
        return tables, tensors


def unpack_bytes(path: Path | str, *, backend: str = "auto", progress: Progress | None = None) -> bytes:
    """Return the original file of a .krimp file, checked against its hash.

    Args:
        path: the .krimp file.
        backend: 'auto', 'numpy' or 'numba' (same bytes).
        progress: called with (bytes done, bytes in all).

    Raises:
        CodecError: the file is not a .krimp file, damaged, truncated, or of a newer version.
    """
    with PackedFile(path, backend=backend) as packed:
        total = packed.header.original_bytes
        # BytesIO hands its buffer over without a copy, and can be written in place before.
        buffer = io.BytesIO()
        if total:
            buffer.seek(total - 1)
            buffer.write(b"\0")
            with buffer.getbuffer() as view:
                packed.fill(np.frombuffer(view, dtype=np.uint8), progress=progress)
        data = buffer.getvalue()
        packed.check_hash(hashlib.sha256(data).digest())
        return data


def write_original(
    packed: PackedFile, write: Callable[[bytes | memoryview], object], progress: Progress | None
) -> None:
    """Pass the original file to `write` piece by piece, then check its hash.

    Raises:
        CodecError: the file is damaged; what was written must be thrown away.
    """
    digest, at = hashlib.sha256(), 0
    for data in packed.pieces():
        digest.update(data)
        write(data)
        at += len(data)
        if progress:
            progress(at, packed.header.original_bytes)
    packed.check_hash(digest.digest())


def open_map(path: Path | str) -> memoryview:
    """Return a file's bytes, mapped, not read.

    Raises:
        CodecError: there is no such file, or it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            if file.seek(0, io.SEEK_END) == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise CodecError(f"{path}: byte 0: cannot be read: {error.strerror}. Expected a file.") from error
