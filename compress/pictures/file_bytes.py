"""Bytes of a file by place, from memory or from the disk, so that a header is read without the pixels behind it."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class FileBytes:
    """A file whose bytes are asked for by place.

    Attributes:
        source: the whole content, or an open file.
    """

    source: bytes | BinaryIO

    def __len__(self) -> int:
        """Return how many bytes there are."""
        return len(self.source) if isinstance(self.source, bytes) else os.fstat(self.source.fileno()).st_size

    def at(self, place: int, count: int) -> bytes:
        """Return `count` bytes from a place on, fewer where the file ends before."""
        if isinstance(self.source, bytes):
            return self.source[place : place + count]
        self.source.seek(place)
        return self.source.read(count)

    def unpack(self, form: str, place: int) -> tuple[int, ...]:
        """Return whole numbers from a place on, as `struct.unpack` does.

        Raises:
            ValueError: the file ends before.
        """
        size = struct.calcsize(form)
        found = self.at(place, size)
        if len(found) < size:
            raise ValueError(f"truncated: ends at byte {place + len(found)}, inside its header")
        return struct.unpack(form, found)
