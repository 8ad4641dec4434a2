"""Whether LZMA makes a tensor smaller than a code of single values does: where values repeat in order."""

from __future__ import annotations

import lzma
from typing import NamedTuple

import numpy as np

from compress.codec.format.sections import way_filters
from compress.codec.format.ways import Lzma, largest_dictionary
from compress.codec.mapped_memory import forget

_SAMPLE = 1 << 14  # bytes that are looked at first, in two parts
_WINDOW = 16  # elements whose repetition is looked for
_KEPT = 6  # one in 2 ** 6 windows is kept, of huge tensors as many as of smaller ones
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # Knuth's multiplicative hash
_BLOCK = 1 << 20
_LARGE = 1 << 19
_PIECE = 1 << 14  # bytes of each of the four pieces by which a way is judged
_GROUPS_OF_PIECE = 64
# Bytes that are no text: short matches are as good, and found in a third of the time. With zeros between other floats
# they are better.
_QUICK = {"mf": lzma.MF_HC4, "depth": 1, "nice_len": 32}
_REPEATED = 0.01  # share of repeated windows from which LZMA is tried
_REPEATED_BY_CHANCE = 0.05  # the same of tensors so large that windows of few different values repeat by chance
_HUGE = 1 << 24


def pack_by_lzma(
    data: np.ndarray, element_bytes: int, at_most: int, dictionary_bytes: int
) -> tuple[Lzma, bytes] | None:
    """Return how a tensor is packed by LZMA, and its bytes; None where that does not look smaller.

    Args:
        data: (bytes,), uint8.
        element_bytes: of an element of the tensor.
        at_most: bytes that another way takes.
        dictionary_bytes: that there is memory for.
    """
    whole = len(data) <= 2 * _SAMPLE
    sample = data if whole else np.concatenate([data[:_SAMPLE], data[len(data) // 2 :][:_SAMPLE]])
    dictionary = min(largest_dictionary(len(data)), max(dictionary_bytes.bit_length() - 1, 12))
    tries = _settings(element_bytes)
    sizes = [len(_packed(sample, dictionary, each)) for each in tries]
    smallest = min(sizes)
    settings, search = tries[sizes.index(smallest)], {}
    if not whole and repeated(data, element_bytes) < (_REPEATED if len(data) <= _HUGE else _REPEATED_BY_CHANCE):
        if smallest * len(data) > 1.03 * at_most * len(sample):
            return None
        if len(data) > _LARGE:
            parts = _parts_of(data)
            most = at_most * len(parts) / len(data)
            quick = len(_packed(parts, dictionary, settings, _QUICK))
            if quick > 1.02 * most or min(quick, thorough := len(_packed(parts, dictionary, settings))) > most:
                return None
            search = _QUICK if quick <= 1.001 * thorough else {}
    packed = _packed(data, dictionary, settings, search)
    return (Lzma(settings.delta, dictionary, len(packed)), packed) if len(packed) < at_most else None


def pieces_of(data: np.ndarray, group: int) -> np.ndarray:
    """Return pieces of a large tensor from all over it, whole groups; a small one as it is.

    Args:
        data: (bytes,), uint8, whole groups.
        group: bytes of a group.
    """
    size = max(_PIECE // group, _GROUPS_OF_PIECE) * group
    if len(data) <= max(_LARGE, 8 * size):
        return data
    starts = np.linspace(0, len(data) // group - size // group, 4).astype(np.int64) * group
    return np.concatenate([data[start : start + size] for start in starts])


def quickly_packed(data: np.ndarray, element_bytes: int) -> int:
    """Return the bytes that LZMA makes of a sample with the contexts of an element."""
    dictionary = largest_dictionary(len(data))
    return len(_packed(data, dictionary, _settings(element_bytes)[2], _QUICK))


def _parts_of(data: np.ndarray) -> np.ndarray:
    """Return a larger sample of a large tensor: LZMA of all of it takes a second for each megabyte."""
    starts = np.linspace(0, len(data) - _BLOCK // 16, 4).astype(np.int64)
    return np.concatenate([data[start : start + _BLOCK // 16] for start in starts])


class _Settings(NamedTuple):
    """How LZMA packs: distance of differences, its bits of context."""

    delta: int
    lc: int
    lp: int
    pb: int


def _settings(element_bytes: int) -> list[_Settings]:
    """Return what is worth a try: bytes as they are, with the contexts of an element, and differences."""
    tries = [_Settings(0, 3, 0, 2), _Settings(1, 3, 0, 0)]
    if element_bytes == 1:
        return [*tries, _Settings(0, 0, 0, 0)]
    position = element_bytes.bit_length() - 1
    return [
        *tries,
        _Settings(0, 4 - position, position, position),
        _Settings(element_bytes, 4 - position, position, position),
    ]


def _packed(data: np.ndarray, dictionary: int, settings: _Settings, search: dict[str, int] | None = None) -> bytes:
    contexts = {"lc": settings.lc, "lp": settings.lp, "pb": settings.pb}
    filters = way_filters(Lzma(settings.delta, dictionary, 0), **contexts, **(search or {}))
    return lzma.compress(data.data, lzma.FORMAT_RAW, filters=filters)


def repeated(data: np.ndarray, element_bytes: int = 1) -> float:
    """Return the share of windows of 16 elements that were there before, by a sample that content chooses.

    Not counted are windows whose halves are equal: zeros are short repeats, which a sample shows.

    Args:
        data: (bytes,), uint8.
        element_bytes: of an element; windows of few elements of few different values repeat by chance.
    """
    found, kept_bits = [], _KEPT + (len(data) // _HUGE).bit_length()
    window = _WINDOW * element_bytes
    for start in range(0, len(data) - window, _BLOCK):
        part = data[start : start + _BLOCK + window]
        kept = _chosen(part, len(part) - window, np.uint64(64 - kept_bits))
        windows = np.lib.stride_tricks.as_strided(part, (len(part) - window, window), (1, 1))[kept].view(np.uint64)
        half = windows.shape[1] // 2
        is_one = (windows[:, :half] != windows[:, half:]).any(axis=1)
        found.append(_mixed(windows[is_one]))
        if len(data) > _HUGE:
            forget(part)
    mixed = np.concatenate(found) if found else np.empty(0, dtype=np.uint64)
    return 1 - len(np.unique(mixed)) / len(mixed) if len(mixed) >= 64 else 0.0


def _chosen(part: np.ndarray, count: int, shift: np.uint64) -> np.ndarray:
    """Return the places below `count` whose next eight bytes have a hash of zero, (places,), int64, in no order.

    Zeros have another hash. Of places that are many all the same, for other bytes that are there very often, some are
    left out: what is kept of a window takes memory.
    """
    found = []
    for first in range(min(8, count)):  # each place lies in one of eight rows of words
        words = part[first:][: -(-(count - first) // 8) * 8].view("<u8")
        found.append(np.flatnonzero((words ^ _SPREAD) * _SPREAD >> shift == 0) * 8 + first)
    places = np.concatenate(found)
    return places[:: 1 + len(places) // (_BLOCK >> _KEPT - 2)]


def _mixed(windows: np.ndarray) -> np.ndarray:
    """Return a hash of each window, (windows,), uint64, of (windows, words), uint64."""
    mixed = np.zeros(len(windows), dtype=np.uint64)
    for column in windows.T:
        mixed = (mixed ^ column) * _SPREAD
        mixed ^= mixed >> np.uint64(29)
    return mixed
