"""Integers for a layer's weights, chosen together: what one rounding gets wrong, the next ones take back."""

from __future__ import annotations

import numpy as np

from compress.post_training.moments import InputMoments

DAMPING = 0.01  # of the mean second moment, added to each: inputs that were never seen still count a little
_CHUNK = 128  # columns whose feedback is applied one by one; the rest waits for one matrix product


def round_with_feedback(
    weights: np.ndarray, scales: np.ndarray, moments: InputMoments, largest_code: int
) -> np.ndarray:
    """Return the integers whose products with real inputs differ least from those of the weights.

    Rounding to the nearest integer is right for inputs around zero. Behind a ReLU they are not: where all taps of
    a kernel see almost the same value, only the sum of their rounding errors counts, and independent
    errors add up to a shift of the whole channel.

    Args:
        weights: (out, columns) float; output channels in the order of groups.
        scales: (out,) > 0, step of each output channel.
        moments: of the inputs, divided by `blocks_of(groups, columns)`.
        largest_code: e.g. 127 for 8 bits. The largest weight of a channel keeps its code, and zeros stay zero.

    Returns:
        (out, columns) int8 codes, weights are about codes * scales.

    Source:
        Frantar et al. 2023, arXiv 2210.17323 (GPTQ), algorithm 1, columns in the order of falling second moments.
    """
    scaled = weights.astype(np.float64) / scales.astype(np.float64)[:, None]
    blocks, width = moments.first.shape
    pieces = weights.shape[1] // width
    groups = blocks // pieces
    rows = weights.shape[0] // groups
    by_block = scaled.reshape(groups, rows, pieces, width).transpose(0, 2, 1, 3).reshape(blocks, rows, width)
    top = np.abs(scaled).max(axis=1).reshape(groups, 1, rows, 1)
    top = np.broadcast_to(top, (groups, pieces, rows, 1)).reshape(blocks, rows, 1)
    codes = np.empty((blocks, rows, width), np.int8)
    batch = max(1, 2**24 // (width * width))  # a bounded number of inverses at a time
    for start in range(0, blocks, batch):
        part = slice(start, start + batch)
        codes[part] = _round_blocks(by_block[part], top[part], moments.second[part], largest_code)
    return codes.reshape(groups, pieces, rows, width).transpose(0, 2, 1, 3).reshape(weights.shape)


def _round_blocks(weights: np.ndarray, top: np.ndarray, second: np.ndarray, largest_code: int) -> np.ndarray:
    """Round (blocks, rows, width) weights in steps of one; `top` is each row's largest magnitude."""
    order = np.argsort(-np.diagonal(second, axis1=1, axis2=2), axis=1, kind="stable")
    weights = np.take_along_axis(weights, order[:, None, :], axis=2)
    pinned = (np.abs(weights) >= top) | (weights == 0)
    kept = np.clip(np.rint(weights), -largest_code, largest_code)
    propagation = _propagation(second, order)
    codes = np.empty_like(weights)
    width = weights.shape[2]
    for start in range(0, width, _CHUNK):
        stop = min(start + _CHUNK, width)
        missed = np.empty((*weights.shape[:2], stop - start))
        for column in range(start, stop):
            nearest = np.clip(np.rint(weights[:, :, column]), -largest_code, largest_code)
            codes[:, :, column] = np.where(pinned[:, :, column], kept[:, :, column], nearest)
            error = (weights[:, :, column] - codes[:, :, column]) / propagation[:, None, column, column]
            missed[:, :, column - start] = error
            weights[:, :, column + 1 : stop] -= error[:, :, None] * propagation[:, None, column, column + 1 : stop]
        weights[:, :, stop:] -= missed @ propagation[:, start:stop, stop:]
    rounded = np.empty(codes.shape, np.int8)
    np.put_along_axis(rounded, order[:, None, :], codes.astype(np.int8), axis=2)
    return rounded


def _propagation(second: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the upper Cholesky factors of the inverse second moments, (blocks, width, width)."""
    ordered = np.take_along_axis(second.astype(np.float64), order[:, :, None], axis=1)
    ordered = np.take_along_axis(ordered, order[:, None, :], axis=2)
    diagonal = np.diagonal(ordered, axis1=1, axis2=2)
    mean = diagonal.mean(axis=1)
    damping = DAMPING * np.where(mean > 0, mean, 1.0)
    width = ordered.shape[1]
    ordered[:, np.arange(width), np.arange(width)] += damping[:, None]
    return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(ordered)).transpose(0, 2, 1))
