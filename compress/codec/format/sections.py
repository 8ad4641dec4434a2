"""Skeleton and index of a .krimp file: stored, or compressed by the standard library's lzma."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterator

import numpy as np

from compress.codec.format.ways import Lzma
from compress.codec.mapped_memory import taken
from compress.errors import CodecError

Filters = list[dict[str, int]]  # of the module lzma
PART_BYTES = 1 << 20
_DICTIONARY_BYTES = 1 << 23
# Of a long section samples choose the settings, and LZMA's extreme search is left out: on names that count up it took
# five times as long and found nothing.
_LONG_BYTES, _SAMPLE_BYTES = 1 << 21, 1 << 18
# Names that count up: a long match is seldom the best, which samples do not tell; and this takes a quarter of the time.
_SHORT_MATCHES = {"preset": 9, "nice_len": 48, "mf": lzma.MF_HC4}


def shrink(data: bytes, *, is_thorough: bool = False) -> tuple[bytes, bool]:
    """Return the smaller of the data and its raw LZMA2 form, and whether it is the latter.

    Args:
        data: the section.
        is_thorough: try more settings of LZMA. Those of a long section are chosen by pieces of it in any case.
    """
    settings = [{"pb": 0}, {"pb": 2}]
    if len(data) > _LONG_BYTES:
        settings = [_settled(data), _SHORT_MATCHES]
    elif is_thorough:  # long matches are not always best in text that counts
        settings += [{"lc": 2, "lp": 2}, {"preset": 9}, {"preset": 9, "pb": 0}, {"preset": 9, "lc": 2, "lp": 2}]
        settings += [_SHORT_MATCHES, {"nice_len": 48}, {"nice_len": 32}]
    tries = [_pack(data, each) for each in settings] if data else []
    smallest = min(tries, key=len, default=data)
    return (smallest, True) if len(smallest) < len(data) else (data, False)


class Shrinker:
    """`shrink` for one file: sections that are tried in several forms of it are packed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bool], tuple[bytes, bool]] = {}

    def __call__(self, data: bytes, *, is_thorough: bool = False) -> tuple[bytes, bool]:
        """Return what `shrink` returns."""
        key = hashlib.sha256(data).digest(), is_thorough and len(data) <= _LONG_BYTES
        if key not in self._known:
            self._known[key] = shrink(data, is_thorough=is_thorough)
        return self._known[key]


def _settled(data: bytes) -> dict[str, int]:
    """Return the settings that are best for pieces of a long section: its begin, middle and end."""
    sample = data[:_SAMPLE_BYTES] + data[len(data) // 2 :][:_SAMPLE_BYTES] + data[-_SAMPLE_BYTES:]
    settings = ({"preset": 9, "pb": 0}, {"preset": 9, "pb": 2}, {"preset": 9, "lc": 2, "lp": 2})
    return min(settings, key=lambda each: len(_pack(sample, each)))


def _pack(data: bytes, settings: dict[str, int]) -> bytes:
    return lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(**settings))


class SectionReader:
    """Reads what `shrink` made from its begin to its end, a part at a time, in memory that does not grow with it."""

    def __init__(
        self, packed: np.ndarray, size: int, is_lzma: bool, where: str, filters: Filters | None = None
    ) -> None:
        """Begin.

        Args:
            packed: the section, (bytes,), uint8, contiguous.
            size: its declared size; never more is allocated.
            is_lzma: how it is packed.
            where: 'file: byte N' for messages.
            filters: of LZMA, where they are others than those of a section.

        Raises:
            CodecError: a section that is stored does not hold exactly `size` bytes.
        """
        if not is_lzma and len(packed) != size:
            raise CodecError(f"{where}: section has {len(packed)} bytes; expected {size}.")
        self._packed, self._size, self._left, self._where = packed, size, size, where
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters or _filters()) if is_lzma else None

    def read(self, size: int) -> bytes | memoryview:
        """Return the next bytes, at most as many as are left by the declared size.

        Raises:
            CodecError: the section is damaged, or ends before.
        """
        assert size <= self._left
        self._left -= size
        if self._decoder is None:
            found, self._packed = taken(self._packed[:size]), self._packed[size:]
            return found.data
        parts: list[bytes] = []
        while size and not self._decoder.eof:
            if not (part := self._decompress(size)):
                break
            parts.append(part)
            size -= len(part)
        if size:
            raise self._wrong_size()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def parts(self, size: int | None = None) -> Iterator[bytes | memoryview]:
        """Yield the next bytes, or all that are left, in parts of at most a megabyte.

        Raises:
            CodecError: the section is damaged, ends before, or goes on after all.
        """
        left = self._left if size is None else size
        while left:
            yield self.read(min(left, PART_BYTES))
            left -= min(left, PART_BYTES)
        if size is None:
            self.end()

    def end(self) -> None:
        """Refuse a section that goes on.

        Raises:
            CodecError: it does.
        """
        if self._decoder is not None and (
            self._left or self._decompress(1) or not self._decoder.eof or self._decoder.unused_data or len(self._packed)
        ):
            raise self._wrong_size()

    def _decompress(self, size: int) -> bytes:
        if self._decoder is None or self._decoder.eof:
            return b""
        try:
            while True:
                packed = self._packed[: PART_BYTES if self._decoder.needs_input else 0]
                self._packed = self._packed[len(packed) :]
                found = self._decoder.decompress(taken(packed).data, max_length=size)
                if found or self._decoder.eof or not len(packed):
                    return found
        except lzma.LZMAError as error:
            raise CodecError(f"{self._where}: section cannot be decompressed ({error}); expected LZMA2.") from error

    def _wrong_size(self) -> CodecError:
        return CodecError(f"{self._where}: section does not end after {self._size} bytes; expected exactly those.")


def expand(packed: np.ndarray, size: int, is_lzma: bool, where: str) -> bytes:
    """Undo `shrink` at once; see `SectionReader`."""
    reader = SectionReader(packed, size, is_lzma, where)
    data = reader.read(size)
    reader.end()
    return bytes(data)


def way_filters(way: Lzma, **settings: int) -> Filters:
    """Return the filters of a tensor that is packed by LZMA; settings matter to who packs it only."""
    delta = [{"id": lzma.FILTER_DELTA, "dist": way.delta}] if way.delta else []
    return [*delta, *_filters(dict_size=1 << way.dictionary, **settings)]


def _filters(**settings: int) -> Filters:
    common = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": _DICTIONARY_BYTES}
    return [common | settings]
