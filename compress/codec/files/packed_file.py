"""Reading .krimp files: the whole original, or some tensors of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import numpy as np

from compress.codec.decoding.tensor_decoder import TensorDecoder, batches
from compress.codec.format.index_and_skeleton import Placed, Skeleton, read_index
from compress.codec.format.layout import CONTAINERS, HEADER_BYTES, parse_header
from compress.codec.format.sections import SectionReader
from compress.codec.kernels.choice import choose
from compress.codec.kernels.contract import Kernels
from compress.codec.mapped_memory import fill, open_parts
from compress.errors import CodecError

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)

SANE_BYTES = -1

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class PackedFile:
    """An open .krimp file whose header, index and skeleton have been checked; use it with `with`.

    Decoding changes nothing in it, so that several threads can do it at once.

    Attributes:
        name: path for messages.
        header: its header.
        side_files: files that follow the original.
        tables, heaps, tensors: its index.
        skeleton: the bytes of the original outside the tensors.
        file_bytes: its size.
    """

    def __init__(self, path: Path | str, *, kernels: str | Kernels = "auto", max_bytes: int | None = None) -> None:
        """Open a file and check it.

        Args:
            path: the .krimp file.
            kernels: 'auto', 'numpy' or 'numba' (same bytes), or those that are chosen already.
            max_bytes: size of the original from which on it is refused; SANE_BYTES for `sane_bytes`; None for none.

        Raises:
            CodecError: it is not a .krimp file, damaged, truncated, of a newer version, or declares too much.
        """
        self.name = str(path)
        data = open_parts(path)  # slices cost nothing, and are read when they are needed
        self.file_bytes = len(data)
        self.header = parse_header(fill(data[:HEADER_BYTES]).tobytes(), self.file_bytes, self.name)
        if max_bytes is not None:
            _refuse_more(self.header.original_bytes, max_bytes, self.file_bytes, self.name)
        chosen = choose(kernels, self.header.original_bytes) if isinstance(kernels, str) else kernels
        index = read_index(data, self.header, self.name, chosen.read_runs)
        self.side_files, self.tables, self.heaps, self.tensors = index
        self.skeleton = Skeleton(data, self.header, self.name)
        self._open_decoder: TensorDecoder | None = TensorDecoder(self.name, data, self.tables, self.heaps, chosen)

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._open_decoder = None  # the file stays mapped while another thread decodes

    @property
    def _decoder(self) -> TensorDecoder:
        if self._open_decoder is None:
            raise ValueError(f"{self.name}: is closed. Decode its tensors inside the `with` block.")
        return self._open_decoder

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
            ValueError: one of `outs` is not such an array, or the file is closed.
        """
        self._decoder.decode(tensors, outs, check=check)

    def blocks(self, tensor: Placed) -> Iterator[np.ndarray]:
        """Yield the bytes of one tensor, whole elements at a time, in memory that does not grow with it.

        Raises:
            CodecError: its checksum is wrong or it cannot be decoded.
        """
        yield from self._decoder.blocks(tensor)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the original file, and what follows it, piece by piece, in order.

        Raises:
            CodecError: a tensor is damaged.
        """
        skeleton = self.skeleton.reader()
        for batch in batches(self.tensors):
            if len(batch) == 1:
                yield from skeleton.parts(batch[0].record.gap)
                yield from (block.data for block in self.blocks(batch[0]))
                continue
            outs = [np.empty(tensor.record.num_bytes, dtype=np.uint8) for tensor in batch]
            self.decode_many(batch, outs)
            for tensor, out in zip(batch, outs, strict=True):
                yield from skeleton.parts(tensor.record.gap)
                yield out.data
        yield from skeleton.parts()

    def put_skeleton(self, out: np.ndarray) -> list[np.ndarray]:
        """Write what lies outside the tensors; return the places of the tensors.

        Args:
            out: (original_bytes,), uint8, contiguous: becomes the original file, and what follows it.

        Returns:
            A part of `out` for each of `self.tensors`, untouched.

        Raises:
            CodecError: it is damaged.
        """
        skeleton = self.skeleton.reader()
        places, at = [], 0
        for tensor in self.tensors:
            at = _fill(out, at, skeleton.parts(tensor.record.gap)) + tensor.record.num_bytes
            places.append(out[tensor.start : at])
        _fill(out, at, skeleton.parts())
        return places

    def decode_all(
        self,
        outs: Sequence[np.ndarray],
        *,
        progress: Progress | None = None,
        threads: int = 1,
        check_hash: bool = True,
    ) -> None:
        """Decode every tensor into its place, proved by the hash of the original or by their checksums.

        Args:
            outs: (num_bytes,), uint8, contiguous, for each of `self.tensors`.
            progress: called with (bytes done, bytes in all), counted in the original.
            threads: how many decode at once.
            check_hash: compare the SHA-256 of the whole, which covers what the checksums do; else the checksum of
                each tensor.

        Raises:
            CodecError: the file is damaged.
        """
        done = 0
        for number, _ in self.decode_each(outs.__getitem__, threads=threads, check_hash=check_hash):
            done = self.tensors[number].start + self.tensors[number].record.num_bytes
            if progress:
                progress(done, self.header.original_bytes)

    def decode_each(
        self, place: Callable[[int], np.ndarray], *, threads: int = 1, check_hash: bool = True
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Decode every tensor into its place, and yield its number and its bytes, in order; see `decode_all`.

        Args:
            place: returns for the number of a tensor where it goes, (num_bytes,), uint8, contiguous.
            threads: how many decode at once.
            check_hash: compare the SHA-256 of the whole, at the end; else the checksum of each tensor.

        Raises:
            CodecError: the file is damaged; what was yielded must be thrown away.
        """
        digest = OriginalHash(self.skeleton.reader()) if check_hash else None
        bounds = list(accumulate([len(batch) for batch in batches(self.tensors)], initial=0))

        def decode(batch: int) -> tuple[int, list[np.ndarray]]:
            first, stop = bounds[batch], bounds[batch + 1]
            outs = [place(number) for number in range(first, stop)]
            self.decode_many(self.tensors[first:stop], outs, check=not check_hash)
            return first, outs

        try:
            for first, outs in map_in_threads(decode, range(len(bounds) - 1), threads):
                if digest:
                    # while they are still in the processor's cache
                    digest.add(self.tensors[first : first + len(outs)], outs)
                yield from enumerate(outs, first)
        except CodecError:
            self.check_payloads()  # the checksums know the place better
            raise
        if digest:
            self.check_hash(digest.digest())

    def refuse_side_files(self) -> None:
        """Refuse a file that holds others beside the model.

        Raises:
            CodecError: it does.
        """
        if self.side_files:
            names = ", ".join(file.name for file in self.side_files[:3])
            raise CodecError(f"{self.name}: byte 0: holds files beside the model ({names}). Unpack it into a folder.")

    def refuse_other_than_onnx(self) -> None:
        """Refuse a file that holds no ONNX model.

        Raises:
            CodecError: it does not.
        """
        if self.header.container != 0:
            what = CONTAINERS[self.header.container]
            raise CodecError(f"{self.name}: byte 10: holds a file of kind {what!r}; expected an ONNX model.")

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
        for tensor in [*self.heaps, *self.tensors]:
            self._decoder.check(tensor)


def sane_bytes(file_bytes: int) -> int:
    """Return the largest original that is unpacked from a file of some size unless the caller allows more.

    Networks shrink to a hundredth at most; what declares more is zeros, or made to fill a disk.
    """
    return max(1 << 30, 256 * file_bytes)


def _refuse_more(declared: int, max_bytes: int, file_bytes: int, name: str) -> None:
    limit = sane_bytes(file_bytes) if max_bytes == SANE_BYTES else max_bytes
    if declared > limit:
        raise CodecError(
            f"{name}: byte 16: declares {declared} bytes; expected at most {limit}. Allow as many by --max-bytes"
            " (max_bytes) if you know where the file is from."
        )


def original_bytes(path: Path | str) -> int:
    """Return the size of the original of a .krimp file, side files included, as its header declares it.

    Raises:
        CodecError: it is not a .krimp file, damaged in its header, truncated, or of a newer version.
    """
    data = open_parts(path)
    return parse_header(fill(data[:HEADER_BYTES]).tobytes(), len(data), str(path)).original_bytes


class OriginalHash:
    """The SHA-256 of the original, from its tensors as they are decoded."""

    def __init__(self, skeleton: SectionReader) -> None:
        self._skeleton, self._digest = skeleton, hashlib.sha256()

    def add(self, tensors: Sequence[Placed], outs: Sequence[np.ndarray]) -> None:
        """Add the next tensors of the file, and what lies before each of them."""
        for tensor, out in zip(tensors, outs, strict=True):
            for part in self._skeleton.parts(tensor.record.gap):
                self._digest.update(part)
            self._digest.update(out.data)

    def digest(self) -> bytes:
        """Add what lies behind the last tensor; return the hash."""
        for part in self._skeleton.parts():
            self._digest.update(part)
        return self._digest.digest()


def _fill(out: np.ndarray, at: int, parts: Iterator[bytes | memoryview]) -> int:
    """Write parts behind each other; return where they end."""
    for part in parts:
        out[at : at + len(part)] = np.frombuffer(part, dtype=np.uint8)
        at += len(part)
    return at


def map_in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item], threads: int) -> Iterator[_Result]:
    """Yield function(item) of each item in order; with more than one thread several run at once."""
    if threads <= 1 or len(items) < 2:
        yield from map(function, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # takes as long to import as a small file to load

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, items)
