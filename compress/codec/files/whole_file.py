"""Files that appear whole or not at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from compress.errors import CodecError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def whole_file(dst: Path | str) -> Iterator[BinaryIO]:
    """Open a temporary file beside `dst` that replaces it when the block ends without error.

    What a killed run left is removed.

    Yields:
        The file; its `name` is its path.

    Raises:
        CodecError: `dst` is no regular file, the folder is missing or may not be written, or the disk is full.
    """
    dst = Path(dst)
    temporary = None
    try:
        if dst.exists() and not dst.is_file():  # a rename would put a file in the place of a device
            what = "a folder" if dst.is_dir() else "a device or pipe"
            raise CodecError(f"{dst}: is {what}. Expected the name of a file to write.")
        if dst.is_symlink():  # the file behind the link is replaced, not the link
            dst = dst.resolve()
        _remove_leftovers(dst)
        path = dst.with_name(f".{dst.name}.{os.getpid()}.part")
        with path.open("x+b") as file:
            temporary = path
            _lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(dst)
        temporary = None
        folder = os.open(dst.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise CodecError(f"{dst}: cannot be written: {error.strerror}. Expected a folder with room.") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _remove_leftovers(dst: Path) -> None:
    """Remove temporary files of runs that were killed; a run holds a lock on its own as long as it lives."""
    for path in dst.parent.glob(f".{glob.escape(dst.name)}.*.part"):
        with suppress(OSError), path.open("r+b") as file:
            _lock(file)
            path.unlink()


def _lock(file: BinaryIO) -> None:
    """Lock a file until it is closed.

    Raises:
        BlockingIOError: somebody else has locked it.
    """
    if fcntl is not None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
