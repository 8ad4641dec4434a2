"""Reading .krimp files: the whole original, or some tensors of it."""

from __future__ import annotations

import gc
import hashlib
import io
import mmap
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar
from zlib import crc32

import numpy as np

from compress.codec.bitstream import choose_backend
from compress.codec.index import IndexReader, plane_bytes
from compress.codec.layout import HEADER_BYTES, KINDS, RAW, SideFile, Table, TensorRecord, parse_header
from compress.codec.plane_decoder import PlaneJob, constant_value, plane_job, with_tail
from compress.codec.sections import expand
from compress.codec.stream_decoder import StreamError, decode_streams
from compress.codec.values import put_plane, undo_transform
from compress.codec.whole_file import memory_for
from compress.errors import CodecError

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_BATCH_BYTES = 1 << 22  # decoded together: enough for NumPy's lock-step, little memory


class Placed(NamedTuple):
    """A tensor record with its places.

    Attributes:
        record: how it is coded.
        start: first byte in the original file.
        offset: first coded byte in the .krimp file.
        plane_sizes: coded bytes of each plane.
        size: coded bytes.
    """

    record: TensorRecord
    start: int
    offset: int
    plane_sizes: tuple[int, ...]
    size: int


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


class PackedFile:
    """An open .krimp file whose header, index and skeleton have been checked; use it with `with`.

    Decoding changes nothing in it, so that several threads can do it at once.

    Attributes:
        name: path for messages.
        header: its header.
        side_files: files that follow the original.
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
        with _without_collector():
            self.side_files, self.tables, self.tensors = self._read_index()
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
            out: (num_bytes,), uint8, contiguous, to write into; a new array if None.

        Returns:
            Its bytes, uint8.

        Raises:
            CodecError: its checksum is wrong or it cannot be decoded.
        """
        out = np.empty(tensor.record.num_bytes, dtype=np.uint8) if out is None else out
        self.decode_many([tensor], [out])
        return out

    def decode_many(self, tensors: Sequence[Placed], outs: Sequence[np.ndarray], *, check: bool = True) -> None:
        """Decode tensors together, which is much faster for small ones.

        Args:
            tensors: some of `self.tensors`.
            outs: (num_bytes,), uint8, contiguous, for each, to write into.
            check: compare their checksums first; only without if the hash of the whole is compared afterwards.

        Raises:
            CodecError: a checksum is wrong or a tensor cannot be decoded.
        """
        parts: list[_Part] = []
        waiting = 0
        for tensor, out in zip(tensors, outs, strict=True):
            if check:
                self._check_payload(tensor)
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

    def _parts(self, tensor: Placed, out: np.ndarray) -> Iterator[_Part]:
        """Write the raw planes of a tensor; yield the others."""
        record, kind = tensor.record, KINDS[tensor.record.kind]
        at = tensor.offset
        for number, (plane, size) in enumerate(zip(record.planes, tensor.plane_sizes, strict=True)):
            constant = constant_value(plane, self.tables)
            if plane.method == RAW:
                out[number :: kind.planes] = self._data[at : at + size]
            elif constant is not None and kind.planes > 1:
                out[number :: kind.planes] = constant
            else:
                whole = kind.planes == 1 and kind.value_bits == 8
                values = out if whole else np.empty(record.count, dtype=np.uint8)
                flip = 1 << kind.value_bits - 1 if kind.is_signed else 0
                payload = with_tail(self._data, at, size)
                yield _Part(tensor, number, plane_job(plane, payload, record.count, self.tables, values, flip), out)
            at += size

    def _decode_parts(self, parts: list[_Part]) -> None:
        jobs = [(stream, part) for part in parts for stream in part.job.streams]
        try:
            decode_streams([stream for stream, _ in jobs], self._backend)
        except StreamError as error:
            raise self._damaged(jobs[error.number][1].tensor, error) from error
        for part in parts:
            try:
                part.put(self._backend)
            except ValueError as error:
                raise self._damaged(part.tensor, error) from error

    def _damaged(self, tensor: Placed, error: ValueError) -> CodecError:
        return CodecError(f"{self.name}: byte {tensor.offset}: {error}.")

    def _check_payload(self, tensor: Placed) -> None:
        payload = self._data[tensor.offset : tensor.offset + tensor.size]
        if crc32(payload.data) != tensor.record.crc32:
            raise CodecError(
                f"{self.name}: byte {tensor.offset}: checksum of this tensor is wrong; the file is damaged."
            )

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
        """Yield the original file, and what follows it, piece by piece, in order.

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

    def fill(
        self,
        out: np.ndarray,
        *,
        with_tensors: bool = True,
        progress: Progress | None = None,
        threads: int = 1,
        check: bool = True,
    ) -> None:
        """Write the original file, and what follows it, into `out`.

        Args:
            out: (original_bytes,), uint8, contiguous.
            with_tensors: False leaves the tensors' bytes as they are.
            progress: called with (bytes done, bytes in all).
            threads: how many decode at once.
            check: compare the tensors' checksums; only without if the hash of the whole is compared afterwards.

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
        if with_tensors:
            outs = [out[tensor.start : tensor.start + tensor.record.num_bytes] for tensor in self.tensors]
            self.decode_all(outs, progress=progress, threads=threads, check=check)

    def decode_all(
        self, outs: Sequence[np.ndarray], *, progress: Progress | None = None, threads: int = 1, check: bool = True
    ) -> None:
        """Decode every tensor into its place.

        Args:
            outs: (num_bytes,), uint8, contiguous, for each of `self.tensors`.
            progress: called with (bytes done, bytes in all), counted in the original.
            threads: how many decode at once.
            check: compare the tensors' checksums; only without if the hash of the whole is compared afterwards.

        Raises:
            CodecError: a tensor is damaged.
        """
        numbered = list(zip(self.tensors, outs, strict=True))

        def decode(batch: Sequence[tuple[Placed, np.ndarray]]) -> int:
            self.decode_many([tensor for tensor, _ in batch], [out for _, out in batch], check=check)
            last = batch[-1][0]
            return last.start + last.record.num_bytes

        bounds = list(accumulate((len(batch) for batch in self.batches()), initial=0))
        batches = [numbered[first:stop] for first, stop in pairwise(bounds)]
        for done in map_in_threads(decode, batches, threads):
            if progress:
                progress(done, self.header.original_bytes)

    def decode_checked(
        self,
        outs: Sequence[np.ndarray],
        *,
        progress: Progress | None = None,
        threads: int = 1,
        check_hash: bool = True,
    ) -> None:
        """Decode every tensor as `decode_all` does, proved by the hash of the original or by their checksums.

        Args:
            outs: (num_bytes,), uint8, contiguous, for each of `self.tensors`.
            progress: called with (bytes done, bytes in all), counted in the original.
            threads: how many decode at once.
            check_hash: compare the SHA-256 of the whole; else the checksum of each tensor.

        Raises:
            CodecError: the file is damaged.
        """
        try:  # the hash covers what the checksums do; they only know the place better
            self.decode_all(outs, progress=progress, threads=threads, check=not check_hash)
        except CodecError:
            self.check_payloads()
            raise
        if check_hash:
            self.check_hash(self.hash_of(outs))

    def refuse_side_files(self) -> None:
        """Refuse a file that holds others beside the model.

        Raises:
            CodecError: it does.
        """
        if self.side_files:
            names = ", ".join(file.name for file in self.side_files[:3])
            raise CodecError(f"{self.name}: byte 0: holds files beside the model ({names}). Unpack it into a folder.")

    def hash_of(self, outs: Sequence[np.ndarray]) -> bytes:
        """Return the SHA-256 of the original from its decoded tensors, as `decode_all` gives them."""
        digest, at, skeleton = hashlib.sha256(), 0, memoryview(self.skeleton)
        for tensor, out in zip(self.tensors, outs, strict=True):
            digest.update(skeleton[at : at + tensor.record.gap])
            digest.update(out.data)
            at += tensor.record.gap
        digest.update(skeleton[at:])
        return digest.digest()

    def uncoded(self, start: int, num_bytes: int) -> np.ndarray:
        """Return bytes of the original that lie between the coded tensors, (num_bytes,), uint8.

        Raises:
            CodecError: some of them belong to a coded tensor.
        """
        before = [tensor for tensor in self.tensors if tensor.start < start + num_bytes]
        end = before[-1].start + before[-1].record.num_bytes if before else 0
        if start < end:
            raise CodecError(f"{self.name}: byte {HEADER_BYTES}: byte {start} of the original is coded differently.")
        at = start - sum(tensor.record.num_bytes for tensor in before)
        return np.frombuffer(self.skeleton[at : at + num_bytes], dtype=np.uint8)

    def check_hash(self, digest: bytes) -> None:
        """Compare the hash of the decoded bytes with the one inside.

        Raises:
            CodecError: they differ.
        """
        if digest != self.header.sha256:
            self.check_payloads()  # names the place
            raise CodecError(
                f"{self.name}: byte 24: sha256 of the unpacked bytes is {digest.hex()};"
                f" expected {self.header.sha256.hex()}."
            )

    def check_payloads(self) -> None:
        """Compare the checksums of all tensors.

        Raises:
            CodecError: one of them is wrong.
        """
        for tensor in self.tensors:
            self._check_payload(tensor)

    def _section(self, offset: int, packed: int, size: int, is_lzma: bool, checksum: int, what: str) -> bytes:
        data = self._data[offset : offset + packed].tobytes()
        if crc32(data) != checksum:
            raise CodecError(f"{self.name}: byte {offset}: checksum of the {what} is wrong; the file is damaged.")
        return expand(data, size, is_lzma, f"{self.name}: byte {offset}")

    def _read_index(self) -> tuple[list[SideFile], list[Table], list[Placed]]:
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
        side_files = reader.side_files()
        if sum(file.num_bytes for file in side_files) > header.original_bytes:
            raise reader.fail(f"files beside the original are larger than all, {header.original_bytes} bytes")
        tables = reader.tables()
        tensors, start, place, gaps = [], 0, HEADER_BYTES, 0
        for _ in range(header.num_tensors):
            record = reader.record(tables)
            start += record.gap
            sizes = tuple([plane_bytes(plane, record, tables) for plane in record.planes])
            size = sum(sizes)
            gaps += record.gap
            if start + record.num_bytes > header.original_bytes or gaps > header.skeleton_bytes:
                raise reader.fail(
                    f"tensor ends at byte {start + record.num_bytes}; the original has {header.original_bytes}"
                )
            if place + size > HEADER_BYTES + header.payload_bytes:
                raise reader.fail(
                    f"tensor needs {size} coded bytes; {HEADER_BYTES + header.payload_bytes - place} are left"
                )
            tensors.append(Placed(record, start, place, sizes, size))
            start += record.num_bytes
            place += size
        reader.end()
        covered = start - gaps + header.skeleton_bytes
        if covered != header.original_bytes or place != HEADER_BYTES + header.payload_bytes:
            raise reader.fail(
                f"tensors and skeleton make {covered} bytes from {place - HEADER_BYTES} coded ones;"
                f" expected {header.original_bytes} from {header.payload_bytes}"
            )
        return side_files, tables, tensors


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the garbage collector from looking through the whole process while thousands of objects are made to stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def empty_space(num_bytes: int) -> np.ndarray:
    """Return (num_bytes,) zeros, uint8, of which only the touched pages of a few kilobytes take memory."""
    if num_bytes == 0:
        return np.empty(0, dtype=np.uint8)
    space = mmap.mmap(-1, num_bytes)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            space.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(space, dtype=np.uint8)


def map_in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item], threads: int) -> Iterator[_Result]:
    """Yield function(item) of each item in order; with more than one thread several run at once."""
    if threads <= 1 or len(items) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, items)


def unpack_bytes(
    path: Path | str,
    *,
    backend: str = "auto",
    progress: Progress | None = None,
    threads: int = 1,
    check_hash: bool = True,
) -> bytes:
    """Return the original file of a .krimp file.

    Args:
        path: the .krimp file.
        backend: 'auto', 'numpy' or 'numba' (same bytes).
        progress: called with (bytes done, bytes in all).
        threads: how many decode at once.
        check_hash: compare the SHA-256 of the whole; every tensor has its own checksum besides.

    Raises:
        CodecError: the file is not a .krimp file, damaged, truncated, or of a newer version; or it holds
            several files.
    """
    with memory_for(path), PackedFile(path, backend=backend) as packed:
        packed.refuse_side_files()
        total = packed.header.original_bytes
        # BytesIO hands its buffer over without a copy, and can be written in place before.
        buffer = io.BytesIO()
        if total:
            buffer.seek(total - 1)
            buffer.write(b"\0")
            with buffer.getbuffer() as view:
                whole = np.frombuffer(view, dtype=np.uint8)
                try:  # the hash covers what the checksums do; they only know the place better
                    packed.fill(whole, progress=progress, threads=threads, check=not check_hash)
                except CodecError:
                    packed.check_payloads()
                    raise
                finally:
                    del whole
        data = buffer.getvalue()
        if check_hash:
            packed.check_hash(hashlib.sha256(data).digest())
        return data


def open_map(path: Path | str) -> memoryview:
    """Return a file's bytes, mapped, not read.

    Raises:
        CodecError: there is no such file, it cannot be read, or it is a folder, a pipe or a device.
    """
    try:
        mode = Path(path).stat().st_mode  # opening a pipe would wait for somebody to write
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "no regular file"
            raise CodecError(f"{path}: byte 0: is {what}. Expected a file; save what comes from a pipe in one first.")
        with Path(path).open("rb") as file:
            if file.seek(0, io.SEEK_END) == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CodecError(f"{path}: byte 0: cannot be read: {reason}. Expected a file.") from error
