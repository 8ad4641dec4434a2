"""Columns rounded one after the other: what one gets wrong, the columns behind it make up for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_CHUNK = 128  # columns whose feedback is applied one by one; the rest waits for one matrix product
_BATCH = 2**24  # elements of second moments that are inverted at a time

Choose = Callable[[np.ndarray, int, np.ndarray], np.ndarray]


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
    def of(cls, second: np.ndarray, order: np.ndarray, *, damping: float) -> Feedback:
        """Return the feedback for second moments.

        Args:
            second: (blocks, width, width), symmetric and not negative.
            order: (blocks, width).
            damping: share of the mean second moment that is added to each: inputs never seen still count a little.

        Source:
            Frantar et al. 2023, arXiv 2210.17323 (GPTQ), section 3.3, step 3.
        """
        blocks, width = order.shape
        factor = np.empty(second.shape)
        batch = max(1, _BATCH // (width * width))
        for start in range(0, blocks, batch):
            part = slice(start, start + batch)
            ordered = np.take_along_axis(second[part].astype(np.float64), order[part, :, None], axis=1)
            ordered = np.take_along_axis(ordered, order[part, None, :], axis=2)
            mean = np.diagonal(ordered, axis1=1, axis2=2).mean(axis=1)
            ordered[:, np.arange(width), np.arange(width)] += (damping * np.where(mean > 0, mean, 1.0))[:, None]
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

    def ordered(self, values: np.ndarray) -> np.ndarray:
        """Return (blocks, rows, width) values, columns in the order in which they are rounded."""
        return np.take_along_axis(values, self.order[:, None, :], axis=2)


def round_columns(weights: np.ndarray, feedback: Feedback, choose: Choose) -> np.ndarray:
    """Return integers for weights in steps.

    Args:
        weights: (blocks, rows, width) in steps.
        feedback: of the blocks.
        choose: given what a column has become, (blocks, rows), its number in the order of rounding and its diagonal of
            the factor, (blocks, 1); returns its integers.

    Returns:
        (blocks, rows, width) int8.

    Source:
        Frantar et al. 2023 (GPTQ), algorithm 1.
    """
    weights = feedback.ordered(weights.astype(np.float64))
    factor = feedback.factor
    codes = np.empty(weights.shape, np.int8)
    width = weights.shape[2]
    for start in range(0, width, _CHUNK):
        stop = min(start + _CHUNK, width)
        missed = np.empty((*weights.shape[:2], stop - start))
        for column in range(start, stop):
            x, diagonal = weights[:, :, column], factor[:, None, column, column]
            chosen = choose(x, column, diagonal)
            codes[:, :, column] = chosen
            error = (x - chosen) / diagonal
            missed[:, :, column - start] = error
            weights[:, :, column + 1 : stop] -= error[:, :, None] * factor[:, None, column, column + 1 : stop]
        weights[:, :, stop:] -= missed @ factor[:, start:stop, stop:]
    rounded = np.empty_like(codes)
    np.put_along_axis(rounded, feedback.order[:, None, :], codes, axis=2)
    return rounded
