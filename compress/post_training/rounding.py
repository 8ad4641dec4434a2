"""Integers for a layer's weights, chosen together: what one rounding gets wrong, the next ones take back."""

from __future__ import annotations

import numpy as np

from compress.post_training.feedback import Feedback, round_columns
from compress.post_training.moments import InputMoments

DAMPING = 0.01  # of feedback


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
    codes = _round_blocks(by_block, top, moments.second, largest_code)
    return codes.reshape(groups, pieces, rows, width).transpose(0, 2, 1, 3).reshape(weights.shape)


def _round_blocks(weights: np.ndarray, top: np.ndarray, second: np.ndarray, largest_code: int) -> np.ndarray:
    """Round (blocks, rows, width) weights in steps of one; `top` is each row's largest magnitude."""
    order = np.argsort(-np.diagonal(second, axis1=1, axis2=2), axis=1, kind="stable")
    feedback = Feedback.of(second, order, damping=DAMPING)
    ordered = feedback.ordered(weights)
    pinned = (np.abs(ordered) >= feedback.ordered(np.broadcast_to(top, weights.shape))) | (ordered == 0)
    kept = np.clip(np.rint(ordered), -largest_code, largest_code)

    def choose(x: np.ndarray, column: int, _diagonal: np.ndarray) -> np.ndarray:
        nearest = np.clip(np.rint(x), -largest_code, largest_code)
        return np.where(pinned[:, :, column], kept[:, :, column], nearest)

    return round_columns(weights, feedback, choose)
