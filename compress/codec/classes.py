"""Which parts of a tensor have which distribution: channels of a layer differ, and a table for each kind pays.

Sums of products are taken in float64 where all of them are whole numbers below 2 ** 53, so they are
exact, in whatever order a machine adds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.codec.ans_code import log2_table
from compress.codec.bitstream import choose_backend

_BINS = 24
_SCALE = 12  # bits of a probability
_UNIT = 10  # 2 ** -6 bits: precision of the costs
_TABLE_BITS = 400  # about what a table costs
_WORTH = 200  # at least one 200th must be saved


@dataclass(frozen=True)
class Classes:
    """A class for every segment.

    Attributes:
        segment: values in a segment.
        labels: (segments,), uint8, 0 .. count - 1, all of them used.
        count: number of classes.
    """

    segment: int
    labels: np.ndarray
    count: int


def segment_values(count: int, channel: int, group: int) -> int:
    """Return how many values share a class: whole channels, whole symbols.

    Args:
        count: values of the tensor.
        channel: values of a channel, 0 if unknown.
        group: values of a symbol.
    """
    unit = channel or 256
    while unit % group:
        unit += channel or 256
    least = max(128, 16 * group, count >> 16)
    return unit * -(-least // unit)


def find_classes(values: np.ndarray, counts: np.ndarray, segment: int, backend: str) -> Classes | None:
    """Sort the segments of a plane into classes of similar distribution.

    Args:
        values: (count,), uint8.
        counts: (256,), int64: how often each value occurs.
        segment: values in a segment.
        backend: see `bitstream`; the result is the same.

    Returns:
        None if that would save too little.
    """
    segments = -(-len(values) // segment)
    if segments < 8:
        return None
    bins = _bins(int(np.argmax(counts)))
    found = _histograms(values, bins, segment, segments, backend)
    total = found.sum(axis=0, keepdims=True)
    single = _costs(found, total)[:, 0]
    whole = int(single.sum())
    order = np.argsort((found @ np.arange(_BINS) << 12) // found.sum(axis=1), kind="stable")
    best: tuple[int, np.ndarray, int] | None = None
    for number in (2, 4, 8):
        if segments < 4 * number:
            break
        labels = np.empty(segments, dtype=np.int64)
        labels[order] = np.arange(segments) * number // segments
        for _ in range(3):
            sums = np.zeros((number, _BINS), dtype=np.int64)
            np.add.at(sums, labels, found)
            costs = _costs(found, sums)
            labels = np.argmin(costs, axis=1)
        bits = int(costs[np.arange(segments), labels].sum()) >> 6
        bits += segments * (number - 1).bit_length() + number * _TABLE_BITS
        if best is None or bits < best[0]:
            best = bits, labels, number
    if best is None or best[0] > (whole >> 6) - (whole >> 6) // _WORTH:
        return None
    used, labels = np.unique(best[1], return_inverse=True)
    return Classes(segment, labels.astype(np.uint8), len(used)) if len(used) > 1 else None


def _bins(centre: int) -> np.ndarray:
    """Return (256,), uint8: the bin of each value, by its distance from the centre, finer near it."""
    bounds = np.array([1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20, 24, 28, 33, 39, 46, 54, 64, 76, 90, 107, 128])
    return np.searchsorted(bounds, np.abs(np.arange(256) - centre), side="right").astype(np.uint8)


def _histograms(values: np.ndarray, bins: np.ndarray, segment: int, segments: int, backend: str) -> np.ndarray:
    """Return (segments, bins), int64."""
    if choose_backend(backend, len(values)) == "numba":
        from compress.codec import fast_encode

        return fast_encode.class_histograms(values, bins, _BINS, segment, segments)
    found = np.zeros((segments, _BINS), dtype=np.int64)
    step = max((1 << 20) // segment, 1)
    for first in range(0, segments, step):
        part = bins[values[first * segment : (first + step) * segment]].astype(np.int64)
        part += np.arange(len(part)) // segment * _BINS
        rows = min(step, segments - first)
        found[first : first + rows] = np.bincount(part, minlength=rows * _BINS).reshape(rows, _BINS)
    return found


def _costs(found: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Return what each segment costs with the code of each class, (segments, classes), int64, 2 ** -6 bits."""
    size = 1 << _SCALE
    chances = np.maximum((sums << _SCALE) // np.maximum(sums.sum(axis=1, keepdims=True), 1), 1)
    lengths = (_SCALE << 16) - log2_table()[np.minimum(chances, size)] >> _UNIT
    exact: np.ndarray = found.astype(np.float64) @ lengths.T.astype(np.float64)
    return exact.astype(np.int64)
