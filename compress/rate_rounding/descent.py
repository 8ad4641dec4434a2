"""Integers made better one by one: each becomes what is best while all others stay."""

from __future__ import annotations

import numpy as np

from compress.rate_rounding.by_price import cheapest
from compress.rate_rounding.code_lengths import CodeLengths

_CHUNK = 128  # columns whose changes are told to each other one by one; the rest waits for one matrix product


def descend(
    weights: np.ndarray, codes: np.ndarray, row_weights: np.ndarray, spread: np.ndarray, lengths: CodeLengths
) -> np.ndarray:
    """Return integers whose error and bits together are not larger than those of `codes`; one pass over the columns.

    Feedback decides each column once, before it knows what becomes of the ones behind it. Here all are known.

    Args:
        weights: (blocks, rows, width) in steps; zeros stay zero.
        codes: (blocks, rows, width) integers.
        row_weights: (blocks, rows) bits that a unit of squared error costs.
        spread: (blocks, width, width) second moments.
        lengths: of the codes.

    Returns:
        (blocks, rows, width) int8.
    """
    found = codes.astype(np.float64)
    pull = (found - weights) @ spread  # half the slope of the error
    curve = np.maximum(np.diagonal(spread, axis1=1, axis2=2), np.finfo(np.float32).tiny)
    pinned = weights == 0
    width = weights.shape[2]
    for start in range(0, width, _CHUNK):
        stop = min(start + _CHUNK, width)
        before = found[:, :, start:stop].copy()
        for column in range(start, stop):
            current, bend = found[:, :, column], curve[:, None, column]
            best = np.clip(current - pull[:, :, column] / bend, -lengths.largest, lengths.largest)
            chosen = cheapest(best, row_weights * bend, lengths, current)
            chosen[pinned[:, :, column]] = 0
            change = chosen - current
            if change.any():
                pull[:, :, column:stop] += change[:, :, None] * spread[:, None, column, column:stop]
                found[:, :, column] = chosen
        pull[:, :, stop:] += (found[:, :, start:stop] - before) @ spread[:, start:stop, stop:]
    return found.astype(np.int8)
