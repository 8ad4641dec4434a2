"""Which parts of a tensor have which distribution: channels of a layer differ, and a table for each kind pays.

Sums of products are taken in float64 where all of them are whole numbers below 2 ** 53, so they are
exact, in whatever order a machine adds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compress.codec.entropy.ans_code import log2_table
from compress.codec.kernels.contract import Kernels

_BINS = 24
_SCALE = 12  # bits of a probability
_UNIT = 10  # 2 ** -6 bits: precision of the costs
_TABLE_BITS = 400  # about what a table costs
_WORTH = 200  # at least one 200th must be saved
_SAMPLE = 512  # segments that are looked at first
_PART = 4096  # values of each of them that are


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
    unit = channel or max(256, count >> 12)
    unit *= group // math.gcd(unit, group)
    least = max(128, 16 * group, count >> 14)
    return unit * -(-least // unit)


def find_classes(values: np.ndarray, counts: np.ndarray, segment: int, kernels: Kernels) -> Classes | None:
    """Sort the segments of a plane into classes of similar distribution.

    Args:
        values: (count,), uint8.
        counts: (256,), int64: how often each value occurs.
        segment: values in a segment.
        kernels: what counts.

    Returns:
        None if that would save too little.
    """
    segments = -(-len(values) // segment)
    if segments < 16:
        return None
    bins = _bins(int(np.argmax(counts)))
    step, part = max(segments // _SAMPLE, 1), min(segment, _PART)
    if step > 1 or part < segment:  # is there anything to be gained?
        whole = values[: len(values) // (step * segment) * step * segment]
        some = np.ascontiguousarray(whole.reshape(-1, step, segment)[:, 0, :part]).reshape(-1)
        if _sort(kernels.class_histograms(some, bins, _BINS, part, len(some) // part)) is None:
            return None
    labels = _sort(kernels.class_histograms(values, bins, _BINS, segment, segments))
    if labels is None:
        return None
    used, labels = np.unique(labels, return_inverse=True)
    return Classes(segment, labels.astype(np.uint8), len(used)) if len(used) > 1 else None


def _sort(found: np.ndarray) -> np.ndarray | None:
    """Return a label for each segment, int64; None if that would save too little.

    Args:
        found: (segments, bins), int64: how often each bin occurs in each segment.
    """
    segments = len(found)
    whole = int(_costs(found, found.sum(axis=0, keepdims=True)).sum()) >> 6
    order = np.argsort((found @ np.arange(_BINS) << 12) // found.sum(axis=1), kind="stable")
    best: tuple[int, np.ndarray] | None = None
    for number in (4, 8, 2):
        labels = np.empty(segments, dtype=np.int64)
        labels[order] = np.arange(segments) * number // segments
        for _ in range(3):
            costs = _costs(found, _sums(found, labels, number))
            labels = np.argmin(costs, axis=1)
            bits = int(costs[np.arange(segments), labels].sum()) >> 6
            if number == 4 and bits > whole - whole // (2 * _WORTH):
                return None
        bits += segments * (number - 1).bit_length() + number * _TABLE_BITS
        if best is None or bits < best[0]:
            best = bits, labels
    return best[1] if best is not None and best[0] <= whole - whole // _WORTH else None


def _sums(found: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray:
    """Return the rows of each label added up, (number, bins), int64."""
    members = (np.arange(number)[:, None] == labels[None, :]).astype(np.float64)
    exact: np.ndarray = members @ found.astype(np.float64)
    return exact.astype(np.int64)


def _bins(centre: int) -> np.ndarray:
    """Return (256,), uint8: the bin of each value, by its distance from the centre, finer near it."""
    bounds = np.array([1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20, 24, 28, 33, 39, 46, 54, 64, 76, 90, 107, 128])
    bins: np.ndarray = np.searchsorted(bounds, np.abs(np.arange(256) - centre), side="right").astype(np.uint8)
    return bins


def _costs(found: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Return what each segment costs with the code of each class, (segments, classes), int64, 2 ** -6 bits."""
    size = 1 << _SCALE
    chances = np.maximum((sums << _SCALE) // np.maximum(sums.sum(axis=1, keepdims=True), 1), 1)
    lengths = (_SCALE << 16) - log2_table()[np.minimum(chances, size)] >> _UNIT
    exact: np.ndarray = found.astype(np.float64) @ lengths.T.astype(np.float64)
    return exact.astype(np.int64)
