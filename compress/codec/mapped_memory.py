"""Memory that is only touched where it is used, a file's bytes and empty space; and memory that is not there."""

from __future__ import annotations

import io
import mmap
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from compress.errors import CodecError

_FORGOTTEN = 1 << 16  # bytes from which letting go of a file's memory is worth a call


class _FileSpace(mmap.mmap):
    """Empty memory as large as a file, into which `fill` reads parts of it."""

    descriptor: int
    name: str
    seen: tuple[int, int]  # size and time of the last change when it was opened


def open_parts(path: Path | str) -> np.ndarray:
    """Return memory for a file's bytes, (file bytes,), uint8; each part is there once `fill` has read it.

    Unlike a mapped file it can be cut short or written over by others: that is an error, not the end of the process.

    Raises:
        CodecError: as of `open_map`.
    """
    _refuse_other_than_file(path)
    try:
        if not hasattr(os, "preadv"):
            return np.fromfile(path, dtype=np.uint8)
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise CodecError(f"{path}: byte 0: cannot be read: {error.strerror}. Expected a file.") from error
    seen = _state(descriptor)
    if seen[0] == 0:
        os.close(descriptor)
        return np.empty(0, dtype=np.uint8)
    space = _FileSpace(-1, seen[0])
    space.descriptor, space.name, space.seen = descriptor, str(path), seen
    weakref.finalize(space, os.close, descriptor)
    return np.frombuffer(space, dtype=np.uint8)


def _state(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def fill(part: np.ndarray) -> np.ndarray:
    """Read a part of a file of `open_parts`, (bytes,), uint8, and return it; nothing happens to any other array.

    Raises:
        CodecError: the file has changed since it was opened, or cannot be read.
    """
    space = _memory_of(part)
    if isinstance(space, _FileSpace) and len(part):
        start = _place(part, space)
        with memoryview(space)[start : start + len(part)] as room:
            _read(space, start, room)
    return part


def taken(part: np.ndarray) -> np.ndarray:
    """Return a part of a file of `open_parts`, (bytes,), uint8, read into memory of its own; any other array as it is.

    That is quicker than `fill` where it can be given back soon: memory that the process had before costs nothing,
    while the kernel clears each new page.

    Raises:
        CodecError: as of `fill`.
    """
    space = _memory_of(part)
    if not isinstance(space, _FileSpace) or not len(part):
        return part
    found = np.empty(len(part), dtype=np.uint8)
    _read(space, _place(part, space), found.data)
    return found


def _place(part: np.ndarray, space: mmap.mmap) -> int:
    return part.ctypes.data - np.frombuffer(space, dtype=np.uint8).ctypes.data


def _read(space: _FileSpace, start: int, room: memoryview) -> None:
    """Read bytes of a file from `start` on.

    Raises:
        CodecError: it has changed since it was opened, or cannot be read.
    """
    at = 0
    try:
        while at < len(room) and (found := os.preadv(space.descriptor, [room[at:]], start + at)):
            at += found
    except OSError as error:
        raise CodecError(f"{space.name}: byte {start}: cannot be read: {error.strerror}.") from error
    if at < len(room) or _state(space.descriptor) != space.seen:
        raise CodecError(
            f"{space.name}: byte {start + at}: the file has changed while it was read. Expected one that nobody"
            " writes to; read it again."
        )


def _memory_of(part: np.ndarray) -> object:
    """Return the mapped memory in which an array lies, or whatever it looks at."""
    base: object = part
    while isinstance(base, np.ndarray):
        base = base.base
    return base.obj if isinstance(base, memoryview) else base


def open_map(path: Path | str) -> memoryview:
    """Return a file's bytes, mapped, not read.

    Raises:
        CodecError: there is no such file, it cannot be read, or it is a folder, a pipe or a device.
    """
    _refuse_other_than_file(path)
    try:
        with Path(path).open("rb") as file:
            if file.seek(0, io.SEEK_END) == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CodecError(f"{path}: byte 0: cannot be read: {reason}. Expected a file.") from error


def _refuse_other_than_file(path: Path | str) -> None:
    try:
        mode = Path(path).stat().st_mode  # opening a pipe would wait for somebody to write
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CodecError(f"{path}: byte 0: cannot be read: {reason}. Expected a file.") from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "no regular file"
        raise CodecError(f"{path}: byte 0: is {what}. Expected a file; save what comes from a pipe in one first.")


def empty_space(num_bytes: int) -> np.ndarray:
    """Return (num_bytes,) zeros, uint8, of which only the touched pages of a few kilobytes take memory."""
    if num_bytes == 0:
        return np.empty(0, dtype=np.uint8)
    space = mmap.mmap(-1, num_bytes)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            space.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(space, dtype=np.uint8)


def forget(part: np.ndarray) -> None:
    """Let go of the memory under a part of a mapped file, (bytes,), uint8; its bytes are read again when touched.

    Those of a file of `open_parts` must be read again by `fill`.

    Nothing happens to a part of anything else, nor to one that is so small that it does not matter.
    """
    if len(part) < _FORGOTTEN or not hasattr(mmap, "MADV_DONTNEED"):
        return
    mapped = _memory_of(part)
    if isinstance(mapped, mmap.mmap):
        start = _place(part, mapped)
        first, stop = -(-start // mmap.PAGESIZE), (start + len(part)) // mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (stop - first) * mmap.PAGESIZE)


@contextmanager
def memory_for(path: Path | str) -> Iterator[None]:
    """Turn a lack of memory into an error that names the file.

    Raises:
        CodecError: there is not enough memory.
    """
    try:
        yield
    except MemoryError as error:
        reason = f" ({error})" if str(error) else ""
        raise CodecError(f"{path}: byte 0: there is not enough memory for it{reason}. Expected some more.") from error
