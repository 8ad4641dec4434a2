"""Arrays of many pictures, in memory up to a limit and beyond it in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import IO, NamedTuple

import numpy as np

MEMORY_BYTES = 1 << 28  # of arrays that are held in memory, each time that something is kept


class _Place(NamedTuple):
    """Where an array lies in the file."""

    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype


class Kept:
    """Lists of arrays, one list a picture.

    Attributes:
        memory_bytes: what is held in memory at most; what comes after it goes to a temporary file, which the system
            removes with this object.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self.memory_bytes = memory_bytes
        self._lists: list[list[np.ndarray | _Place]] = []
        self._held = 0
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._lists)

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        """Keep the arrays of the next picture."""
        self._lists.append([self._put(np.asarray(array)) for array in arrays])

    def __getitem__(self, number: int) -> list[np.ndarray]:
        """Return the arrays of a picture, not to be written to."""
        return [self._read(one) if isinstance(one, _Place) else one for one in self._lists[number]]

    def _put(self, array: np.ndarray) -> np.ndarray | _Place:
        if self._file is None and self._held + array.nbytes <= self.memory_bytes:
            self._held += array.nbytes
            return array.copy() if array.base is not None else array
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="krimp-judge-")  # noqa: SIM115 (open as long as this object)
        begin = self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(array).tobytes())
        return _Place(begin, array.shape, array.dtype)

    def _read(self, place: _Place) -> np.ndarray:
        assert self._file is not None
        self._file.seek(place.begin)
        count = int(np.prod(place.shape, dtype=np.int64))
        content = self._file.read(count * place.dtype.itemsize)
        return np.frombuffer(content, place.dtype, count).reshape(place.shape)
