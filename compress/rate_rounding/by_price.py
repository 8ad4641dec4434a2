"""Integers by error and bits together, column by column, with feedback."""

from __future__ import annotations

import numpy as np

from compress.post_training.feedback import Feedback, round_columns
from compress.rate_rounding.code_lengths import CodeLengths


def cheapest(x: np.ndarray, weight: np.ndarray, lengths: CodeLengths, *others: np.ndarray) -> np.ndarray:
    """Return for each value the integer with the least weight * error^2 + bits, float64, same shape.

    Tried are zero, the nearest, the one nearer to zero and the other neighbour.

    Args:
        x: values in steps.
        weight: what an error of one step costs, in bits; broadcasts with x.
        lengths: of the codes.
        others: further integers to try, shape of x.
    """
    nearest = np.rint(x)
    tried = np.stack([np.zeros_like(x), nearest - np.sign(nearest), nearest, nearest + np.sign(x - nearest), *others])
    np.clip(tried, -lengths.largest, lengths.largest, out=tried)
    cost = weight * (tried - x) ** 2 + lengths.of(tried)
    chosen: np.ndarray = np.take_along_axis(tried, cost.argmin(axis=0)[None], axis=0)[0]
    return chosen


def round_by_price(
    weights: np.ndarray, row_weights: np.ndarray, feedback: Feedback, lengths: CodeLengths
) -> np.ndarray:
    """Return integers for weights in steps; zeros stay zero.

    Args:
        weights: (blocks, rows, width) in steps.
        row_weights: (blocks, rows) bits that a unit of squared error costs.
        feedback: of the blocks.
        lengths: of the codes.

    Returns:
        (blocks, rows, width) int8.
    """
    pinned = feedback.ordered(weights) == 0

    def choose(x: np.ndarray, column: int, diagonal: np.ndarray) -> np.ndarray:
        chosen = cheapest(x, row_weights / diagonal**2, lengths)
        chosen[pinned[:, :, column]] = 0
        return chosen

    return round_columns(weights, feedback, choose)
