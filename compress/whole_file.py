"""Files that appear whole or not at all: the one way in which a file is written for keeps, and read at once."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_LONGEST_NAME_BYTES = 220  # file systems take 255


@contextmanager
def whole_file(path: Path | str, *, synced: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that replaces it when the block ends without error.

    Args:
        path: the file to write; behind a link the file itself is replaced.
        synced: wait until file and folder are on the disk, and remove what killed runs left. False for thousands of
            small files, each of which can be made again.

    Yields:
        The file; its `name` is its path.

    Raises:
        OSError: it is no regular file, the folder is missing or may not be written, or the disk is full; `filename`
            is `path`, also where the system leaves it out.
    """
    path = Path(path)
    temporary = None
    try:
        if path.exists() and not path.is_file():  # a rename would put a file in the place of a device
            raise OSError(errno.EINVAL, refusal_of_place(path))
        target = path.resolve() if path.is_symlink() else path
        if synced:
            _remove_leftovers(target)
        name = target.with_name(f".{_short(target.name)}.{os.getpid()}.part")
        with name.open("x+b" if synced else "w+b") as file:
            temporary = name
            _lock(file)
            yield file
            file.flush()
            if synced:
                os.fsync(file.fileno())
        temporary.replace(target)
        temporary = None
        if synced:
            sync(target.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def refusal_of_place(path: Path) -> str | None:
    """Return why no file can be written there, as far as that is seen without writing; None if nothing is seen."""
    try:
        is_there, folder = path.exists(), path.resolve().parent
    except (OSError, ValueError, RuntimeError) as error:  # a name that is too long or holds a NUL, a loop of links
        return f"no name of a file: {getattr(error, 'strerror', None) or error}"
    if is_there and not path.is_file():
        return f"is {'a folder' if path.is_dir() else 'a device or pipe'}, expected the name of a file to write"
    if folder.is_dir() and not os.access(folder, os.W_OK):
        return "its folder may not be written"
    return None


def write_whole(path: Path | str, content: str | bytes, *, synced: bool = True) -> None:
    """Write a file whole or not at all; text becomes UTF-8. Arguments and errors as of `whole_file`."""
    with whole_file(path, synced=synced) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_whole(path: Path) -> bytes:
    """Return the content of a file; a folder of a stranger's may hold pipes and devices, which never end.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        return file.read()


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read it; errors as of `read_whole`."""
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "a device or pipe, not a file", str(path))
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of runs that were killed; a run holds a lock on its own as long as it lives."""
    for left in path.parent.glob(f".{glob.escape(_short(path.name))}.*.part"):
        with suppress(OSError), left.open("r+b") as file:
            _lock(file)
            left.unlink()


def _short(name: str) -> str:
    """Return a file name that leaves room for what a temporary one has besides; a long one is cut and marked."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME_BYTES:
        return name
    kept = encoded[: _LONGEST_NAME_BYTES - 20].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(encoded).hexdigest()[:16]}"


def _lock(file: BinaryIO) -> None:
    """Lock a file until it is closed.

    Raises:
        BlockingIOError: somebody else has locked it.
    """
    if fcntl is not None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
