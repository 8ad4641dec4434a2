"""Groups of bytes that follow each other unchanged: which, and what is left of a tensor without the repetition."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from compress.codec.format.repetitions import second_ones
from compress.codec.format.ways import MAX_GROUP_BYTES, MAX_GROUPS, MAX_HEAP_BYTES

_SAMPLE = 1 << 16  # bytes in which equal groups are looked for
_LARGEST_SHIFT = 64  # bytes after which repetition is looked for, whatever the shape says
_MOST = 0.9  # groups that may be left
_BY_CHANCE = 0.05  # more groups than by chance that must be equal to the one before
_CLEARLY = 0.6  # groups that may be left of larger groups, for them to be taken before smaller ones


class Repeated(NamedTuple):
    """A tensor without its repetitions.

    Attributes:
        group: bytes of a group.
        announced: equal groups in a row that announce a number, 1 or 2; 0: see `most_common`.
        width: bytes of a number.
        values: (bytes,), uint8: the groups that are left.
        numbers: (bytes,), uint8: how many more follow; or bits.
    """

    group: int
    announced: int
    width: int
    values: np.ndarray
    numbers: np.ndarray


def repeated_group(data: np.ndarray, element_bytes: int, dims: tuple[int, ...], other_than: int = 0) -> int:
    """Return the bytes of the groups that repeat most, 0 if none repeats more than by chance.

    Args:
        data: (bytes,), uint8, whole elements.
        element_bytes: of an element.
        dims: shape of the tensor; a group is an element, what lies in the inner dimensions, or a few elements.
        other_than: bytes of groups that are known to be left at most twice.
    """
    starts = np.linspace(0, max(len(data) - _SAMPLE, 0), 4).astype(np.int64)
    best, least = 0, _MOST
    sample = data[:: max(len(data) // _SAMPLE, 1)]
    same_byte = float(((np.bincount(sample) / len(sample)) ** 2).sum())
    for group in _candidates(data, element_bytes, dims):
        if group == other_than:
            continue
        share = _equal(data, group, starts)
        left = 1 - share
        if share > same_byte**group + _BY_CHANCE and (left < least or left < _CLEARLY):
            best, least = group, left  # smaller ones can be found in what is left
    return best


def _candidates(data: np.ndarray, element_bytes: int, dims: tuple[int, ...]) -> list[int]:
    """Return sizes of groups in ascending order, in bytes; all divide the tensor."""
    found = {element_bytes}
    if math.prod(dims) * element_bytes == len(data):
        found |= {math.prod(dims[axis:]) * element_bytes for axis in range(1, len(dims))}
    sample = data[len(data) // 2 :][:_SAMPLE]
    shifts = range(element_bytes, min(_LARGEST_SHIFT, len(sample) // 4) + 1, element_bytes)
    if shifts:
        found.add(max(shifts, key=lambda shift: float((sample[shift:] == sample[:-shift]).mean())))
    return sorted(size for size in found if 0 < size <= min(MAX_GROUP_BYTES, len(data) // 2) and len(data) % size == 0)


def _equal(data: np.ndarray, group: int, starts: np.ndarray) -> float:
    """Return the share of groups that equal the one before, about."""
    number = max(_SAMPLE // group, 8) * group
    found = total = 0
    for start in np.unique(starts // group * group):
        groups = data[start : start + number].reshape(-1, group)
        found += len(second_ones(groups))
        total += len(groups)
    return found / total


def without_repetition(data: np.ndarray, group: int, announced: int) -> Repeated | None:
    """Return a tensor without its repetitions; None where none is left, or too much.

    Args:
        data: (bytes,), uint8, whole groups.
        group: bytes of a group.
        announced: equal groups in a row that announce a number, 1 or 2.
    """
    groups = data.reshape(-1, group)
    is_first = np.ones(len(groups), dtype=bool)
    is_first[second_ones(groups)] = False
    firsts = np.flatnonzero(is_first)
    lengths = np.diff(np.append(firsts, len(groups)))
    if announced == 1:
        values, more = groups[firsts], lengths - 1
    else:
        values, more = np.repeat(groups[firsts], np.minimum(lengths, 2), axis=0), lengths[lengths > 1] - 2
    if not len(more) or len(values) > MAX_GROUPS or values.size > MAX_HEAP_BYTES:
        return None
    width = next((width for width in (1, 2, 4) if int(more.max()) < 1 << 8 * width), 0)
    if not width or width * len(more) > MAX_HEAP_BYTES:
        return None
    numbers = more.astype(f"<u{width}").view(np.uint8)
    return Repeated(group, announced, width, np.ascontiguousarray(values).reshape(-1), numbers)
