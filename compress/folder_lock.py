"""The lock of a folder of artifacts: one run at a time, and the kernel frees it however the run ends."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from compress.errors import StageError

LOCK = ".lock"
_OURS = re.compile(rb"process \d+ on [^\n]*\n?")


@contextlib.contextmanager
def lock_folder(root: Path, *, wait: bool = False) -> Iterator[int]:
    """Hold the lock of a folder of artifacts; the kernel frees it when the process ends, however.

    Args:
        root: the folder, created if needed.
        wait: wait for another run instead of refusing.

    Yields:
        File descriptor of the lock; a forked child closes it so that it cannot outlive its parent.

    Raises:
        StageError: another process holds it.
    """
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            if not wait:
                raise StageError(
                    f"{root}: in use by {holder}. Wait until it ends, pass --wait, or choose another --out."
                ) from None
            logging.getLogger("krimp").info(f"{root}: waiting for {holder}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # a courtesy to others, for which a full disk must not end the run
            _sign(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def keep_lock(root: Path, descriptor: int) -> None:
    """Make sure that the lock is still that of the folder; where its file was removed, take the lock again.

    Args:
        root: the folder.
        descriptor: from `lock_folder`; it stays valid.

    Raises:
        StageError: the folder is gone, or another run has taken it meanwhile.
    """
    import fcntl

    file = root / LOCK
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if os.path.samestat(os.fstat(descriptor), file.stat()):
            return
    try:
        again = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except (FileNotFoundError, NotADirectoryError):
        raise StageError(f"{root}: was removed while a run used it. Run the same command again.") from None
    try:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.dup2(again, descriptor, inheritable=False)
    except BlockingIOError:
        raise StageError(
            f"{file}: was removed while a run used the folder, and another run has it now. Wait until that ends, and "
            "run the same command again."
        ) from None
    finally:
        os.close(again)
    logging.getLogger("krimp").warning(f"{file}: was removed while a run used the folder; it was made again")


def _sign(descriptor: int) -> None:
    """Write who holds the lock into its file; a file of that name with anything else in it is somebody's."""
    if os.fstat(descriptor).st_size == 0 or _OURS.fullmatch(os.pread(descriptor, 300, 0)):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
