"""Reading .krimp files: the whole original, or some tensors of it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from compress.codec.bitstream import choose_backend
from compress.codec.layout import HEADER_BYTES, parse_header
from compress.codec.memory import open_map
from compress.codec.opening import Placed, read_index, read_skeleton
from compress.codec.tensor_decoder import TensorDecoder, batches
from compress.codec.whole_file import memory_for
from compress.errors import CodecError

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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
        data = np.frombuffer(open_map(path), dtype=np.uint8)
        self.file_bytes = len(data)
        self.header = parse_header(data[:HEADER_BYTES].tobytes(), self.file_bytes, self.name)
        backend = choose_backend(backend, self.header.original_bytes)
        self.side_files, self.tables, self.tensors = read_index(data, self.header, self.name)
        self.skeleton = read_skeleton(data, self.header, self.name)
        self._decoder = TensorDecoder(self.name, data, self.tables, backend)

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder = replace(self._decoder, data=np.empty(0, dtype=np.uint8))

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
        self._decoder.decode(tensors, outs, check=check)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the original file, and what follows it, piece by piece, in order.

        Raises:
            CodecError: a tensor is damaged.
        """
        at = 0
        for batch in batches(self.tensors):
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

        bounds = list(accumulate((len(batch) for batch in batches(self.tensors)), initial=0))
        numbered_batches = [numbered[first:stop] for first, stop in pairwise(bounds)]
        for done in map_in_threads(decode, numbered_batches, threads):
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
            self._decoder.check(tensor)


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
