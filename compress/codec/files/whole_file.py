"""Files of the codec that appear whole or not at all; what goes wrong is an error of the codec."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import compress.whole_file
from compress.errors import CodecError


@contextmanager
def whole_file(dst: Path | str) -> Iterator[BinaryIO]:
    """Open a temporary file beside `dst` that replaces it when the block ends without error.

    Yields:
        The file; its `name` is its path.

    Raises:
        CodecError: `dst` is no regular file, the folder is missing or may not be written, or the disk is full.
    """
    try:
        with compress.whole_file.whole_file(dst) as file:
            yield file
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise CodecError(f"{dst}: {error.strerror}.") from error
        raise CodecError(f"{dst}: cannot be written: {error.strerror}. Expected a folder with room.") from error
