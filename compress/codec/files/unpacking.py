"""From a .krimp file back to the files that were packed; proving a .krimp file."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from compress.codec.files.packed_file import SANE_BYTES, PackedFile, Progress
from compress.codec.files.whole_file import whole_file
from compress.codec.format.file_names import MAX_PART_BYTES, refused_name
from compress.codec.format.layout import SideFile
from compress.codec.mapped_memory import memory_for
from compress.errors import CodecError, shortened

_Write = Callable[[bytes | memoryview], object]


def unpack_file(
    src: Path | str,
    dst: Path | str,
    progress: Progress | None = None,
    *,
    kernels: str = "auto",
    max_bytes: int = SANE_BYTES,
    may_replace: Callable[[Path], bool] = lambda _: False,
) -> int:
    """Write the original of a .krimp file, whole or not at all, checked against its hash.

    Files that belong to it (ONNX external data) are written beside it, under the names that the model has for
    them; one that is there already must have the same contents, and is left alone.

    Args:
        src: the .krimp file.
        dst: file to write; replaced if it exists.
        progress: called with (bytes done, bytes in all).
        kernels: 'auto', 'numpy' or 'numba' (same bytes).
        max_bytes: size of the original from which on it is refused; by default 1 GiB, or 256 times the file.
        may_replace: whether a file beside it that is there, with other contents, is replaced.

    Returns:
        Bytes written.

    Raises:
        CodecError: src is not a .krimp file, damaged, truncated, or of a newer version; a file is in the way, or has a
            name that a stranger's file must not have (hidden, longer than the file system takes).
    """
    dst = Path(dst)
    with memory_for(src), PackedFile(src, kernels=kernels, max_bytes=max_bytes) as packed, ExitStack() as stack:
        total = packed.header.original_bytes
        sizes = [total - sum(file.num_bytes for file in packed.side_files)]
        _refuse_names(packed, dst)
        writes: list[_Write] = [stack.enter_context(whole_file(dst)).write]
        for file in packed.side_files:
            writes.append(_side_write(dst, file, stack, may_replace))
            sizes.append(file.num_bytes)
        write_original(packed, _Splitter(writes, sizes).write, progress)
        return total


def unpack_bytes(
    path: Path | str,
    *,
    kernels: str = "auto",
    progress: Progress | None = None,
    threads: int = 1,
    check_hash: bool = True,
    max_bytes: int = SANE_BYTES,
) -> bytes:
    """Return the original file of a .krimp file.

    Args:
        path: the .krimp file.
        kernels: 'auto', 'numpy' or 'numba' (same bytes).
        progress: called with (bytes done, bytes in all).
        threads: how many decode at once.
        check_hash: compare the SHA-256 of the whole; every tensor has its own checksum besides.
        max_bytes: size of the original from which on it is refused; by default 1 GiB, or 256 times the file.

    Raises:
        CodecError: the file is not a .krimp file, damaged, truncated, or of a newer version; or it holds
            several files.
    """
    with memory_for(path), PackedFile(path, kernels=kernels, max_bytes=max_bytes) as packed:
        packed.refuse_side_files()
        total = packed.header.original_bytes
        # BytesIO hands its buffer over without a copy, and can be written in place before.
        buffer = io.BytesIO()
        if total:
            buffer.seek(total - 1)
            buffer.write(b"\0")
            with buffer.getbuffer() as view:
                places = packed.put_skeleton(np.frombuffer(view, dtype=np.uint8))
                try:
                    packed.decode_all(places, progress=progress, threads=threads, check_hash=check_hash)
                finally:
                    del places  # no buffer can be given back while they look at it
        return buffer.getvalue()


def _refuse_names(packed: PackedFile, dst: Path) -> None:
    """Refuse side files whose names a stranger's file must not have, before anything is written.

    Raises:
        CodecError: names the first of them.
    """
    for file in packed.side_files:
        reason = refused_name(file.name, _longest_name(dst.parent))
        if reason is not None:
            raise CodecError(
                f"{packed.name}: byte 0: holds a file {shortened(file.name)} beside the network, which {reason}."
                " Nothing was written; load its tensors by name (load_tensors), or ask for a file without it."
            )


def _longest_name(folder: Path) -> int:
    """Return how many bytes the name of a file may have in a folder."""
    try:
        return min(os.pathconf(folder, "PC_NAME_MAX"), MAX_PART_BYTES)
    except (OSError, ValueError, AttributeError):  # not on Windows; a folder that is not there is told later
        return MAX_PART_BYTES


def _side_write(dst: Path, file: SideFile, stack: ExitStack, may_replace: Callable[[Path], bool]) -> _Write:
    """Return what takes the bytes of a side file: a new file, or a comparison with one that is there already."""
    side = dst.parent / file.name
    if dst.parent.resolve() not in side.resolve().parents or side.resolve() == dst.resolve() or side.is_symlink():
        raise CodecError(f"{side}: leads out of the folder {dst.parent}, or to --out itself. Choose an empty folder.")
    if not side.exists() or (side.is_file() and may_replace(side)):
        stack.enter_context(_folder(side.parent))
        return stack.enter_context(whole_file(side)).write
    if not side.is_file() or side.stat().st_size != file.num_bytes:
        raise _in_the_way(side)
    there = stack.enter_context(side.open("rb"))

    def compare(data: bytes | memoryview) -> None:
        if there.read(len(data)) != data:
            raise _in_the_way(side)

    return compare


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder, and remove what was made if the block ends with an error.

    Raises:
        CodecError: it cannot be made.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CodecError(f"{path}: cannot be made: {error.strerror}. Expected a folder to write in.") from error
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _in_the_way(side: Path) -> CodecError:
    return CodecError(
        f"{side}: is there already, and differs from what belongs to the model. Choose an empty folder, or --force."
    )


class _Splitter:
    """Passes a sequence of pieces on to several files of known sizes, one after the other."""

    def __init__(self, writes: list[_Write], sizes: list[int]) -> None:
        self._files = _with_sizes(writes, sizes)
        self._write, self._room = next(self._files)

    def write(self, data: bytes | memoryview) -> None:
        """Write one piece."""
        while len(data) > self._room:
            self._write(data[: self._room])
            data = data[self._room :]
            self._write, self._room = next(self._files)
        self._write(data)
        self._room -= len(data)


def _with_sizes(writes: list[_Write], sizes: list[int]) -> Iterator[tuple[_Write, int]]:
    yield from zip(writes, sizes, strict=True)


def verify_file(path: Path | str, progress: Progress | None = None, *, max_bytes: int | None = None) -> None:
    """Prove a .krimp file against the checksums and the hash inside, without writing anything.

    Memory does not grow with the file.

    Args:
        path: the .krimp file.
        progress: called with (bytes done, bytes in all).
        max_bytes: size of the original from which on it is refused; None for none.

    Raises:
        CodecError: it is not a .krimp file, damaged, truncated, or of a newer version.
    """
    with memory_for(path), PackedFile(path, max_bytes=max_bytes) as packed:
        write_original(packed, len, progress)


def write_original(packed: PackedFile, write: _Write, progress: Progress | None) -> None:
    """Pass the original file, and what follows it, to `write` piece by piece, then check its hash.

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
