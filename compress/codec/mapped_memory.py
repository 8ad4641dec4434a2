"""Memory that is only touched where it is used, a file's bytes and empty space; and memory that is not there."""

from __future__ import annotations

import io
import mmap
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from compress.errors import CodecError

_FORGOTTEN = 1 << 16  # bytes from which letting go of a file's memory is worth a call


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

    Nothing happens to a part of anything else, nor to one that is so small that it does not matter.
    """
    if len(part) < _FORGOTTEN or not hasattr(mmap, "MADV_DONTNEED"):
        return
    base: object = part
    while isinstance(base, np.ndarray):
        base = base.base
    mapped = base.obj if isinstance(base, memoryview) else base
    if isinstance(mapped, mmap.mmap):
        start = part.ctypes.data - np.frombuffer(mapped, dtype=np.uint8).ctypes.data
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
