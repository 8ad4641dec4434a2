"""Integers column by column: what one column gets wrong, the columns behind it make up for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.rate_rounding.code_lengths import CodeLengths

DAMPING = 0.03  # of the mean second moment, added to each: inputs that were never seen still count a little
_CHUNK = 128  # columns whose feedback is applied one by one; the rest waits for one matrix product
_BATCH = 2**24  # elements of second moments that are inverted at a time


@dataclass(frozen=True)
class Feedback:
    """How an error is made up for, block by block.

    Attributes:
        order: (blocks, width) in which columns are rounded.
        factor: (blocks, width, width) upper Cholesky factor of the inverse second moments, in that order.
    """

    order: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, spread: np.ndarray, order: np.ndarray) -> Feedback:
        """Return the feedback for second moments (blocks, width, width), symmetric and not negative.

        Source:
            Frantar et al. 2023, arXiv 2210.17323 (GPTQ), section 3.3, step 3.
        """
        blocks, width = order.shape
        factor = np.empty(spread.shape)
        batch = max(1, _BATCH // (width * width))
        for start in range(0, blocks, batch):
            part = slice(start, start + batch)
            ordered = np.take_along_axis(spread[part].astype(np.float64), order[part, :, None], axis=1)
            ordered = np.take_along_axis(ordered, order[part, None, :], axis=2)
            mean = np.diagonal(ordered, axis1=1, axis2=2).mean(axis=1)
            ordered[:, np.arange(width), np.arange(width)] += (DAMPING * np.where(mean > 0, mean, 1.0))[:, None]
            factor[part] = np.linalg.cholesky(np.linalg.inv(ordered)).transpose(0, 2, 1)
        return cls(order, factor)

    @property
    def losses(self) -> np.ndarray:
        """Return what an error of one in a column loses after those behind made up for it, (blocks, width).

        In the order of the layer.
        """
        ordered = np.diagonal(self.factor, axis1=1, axis2=2) ** -2.0
        found = np.empty_like(ordered)
        np.put_along_axis(found, self.order, ordered, axis=1)
        return found


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


def round_with_feedback(
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

    Source:
        Frantar et al. 2023 (GPTQ), algorithm 1; the bits beside the error are ours.
    """
    weights = np.take_along_axis(weights.astype(np.float64), feedback.order[:, None, :], axis=2)
    pinned = weights == 0
    factor = feedback.factor
    codes = np.empty(weights.shape, np.int8)
    width = weights.shape[2]
    for start in range(0, width, _CHUNK):
        stop = min(start + _CHUNK, width)
        missed = np.empty((*weights.shape[:2], stop - start))
        for column in range(start, stop):
            x, diagonal = weights[:, :, column], factor[:, None, column, column]
            chosen = cheapest(x, row_weights / diagonal**2, lengths)
            chosen[pinned[:, :, column]] = 0
            codes[:, :, column] = chosen
            error = (x - chosen) / diagonal
            missed[:, :, column - start] = error
            weights[:, :, column + 1 : stop] -= error[:, :, None] * factor[:, None, column, column + 1 : stop]
        weights[:, :, stop:] -= missed @ factor[:, start:stop, stop:]
    rounded = np.empty_like(codes)
    np.put_along_axis(rounded, feedback.order[:, None, :], codes, axis=2)
    return rounded
