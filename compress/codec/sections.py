"""Skeleton and index of a .krimp file: stored, or compressed by the standard library's lzma."""

from __future__ import annotations

import lzma

from compress.errors import CodecError

_DICTIONARY_BYTES = 1 << 23


def shrink(data: bytes) -> tuple[bytes, bool]:
    """Return the smaller of the data and its raw LZMA2 form, and whether it is the latter."""
    tries = [lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(pb)) for pb in (0, 2)] if data else []
    smallest = min(tries, key=len, default=data)
    return (smallest, True) if len(smallest) < len(data) else (data, False)


def expand(packed: bytes, size: int, is_lzma: bool, where: str) -> bytes:
    """Undo `shrink`.

    Args:
        packed: the section.
        size: its declared size; never more is allocated.
        is_lzma: how it is packed.
        where: 'file: byte N' for messages.

    Raises:
        CodecError: the section does not hold exactly `size` bytes.
    """
    if not is_lzma:
        if len(packed) != size:
            raise CodecError(f"{where}: section has {len(packed)} bytes; expected {size}.")
        return packed
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(0))
    try:
        data = decoder.decompress(packed, max_length=size + 1)
    except lzma.LZMAError as error:
        raise CodecError(f"{where}: section cannot be decompressed ({error}); expected LZMA2.") from error
    if len(data) != size or not decoder.eof or decoder.unused_data:
        raise CodecError(f"{where}: section does not end after {size} bytes; expected exactly those.")
    return data


def _filters(pb: int) -> list[dict[str, int]]:
    return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": _DICTIONARY_BYTES, "pb": pb}]
