"""First and second moments of what a layer's weights are multiplied by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LARGEST_BLOCK = 2304
"""Weights of a row that are rounded together: 256 channels of a 3 x 3 kernel. Wider rows are cut into equal blocks."""


def blocks_of(groups: int, columns: int) -> tuple[int, int]:
    """Return how the columns of a weight matrix are divided: (blocks, columns of each).

    Args:
        groups: of the convolution; a group is at least a block.
        columns: weights of one output channel, in / groups * kernel height * kernel width.
    """
    pieces = next(n for n in range(-(-columns // LARGEST_BLOCK), columns + 1) if columns % n == 0)
    return groups * pieces, columns // pieces


@dataclass
class InputMoments:
    """Sums over all positions that a kernel was laid on.

    Attributes:
        first: (blocks, columns) sum of inputs.
        second: (blocks, columns, columns) sum of products of two inputs.
        positions: how many there were, or the sum of their weights.
    """

    first: np.ndarray
    second: np.ndarray
    positions: float = 0

    @classmethod
    def empty(cls, groups: int, columns: int) -> InputMoments:
        """Return moments of nothing, for a layer of so many groups and weights a row."""
        blocks, width = blocks_of(groups, columns)
        return cls(np.zeros((blocks, width)), np.zeros((blocks, width, width), np.float32))

    @property
    def mean(self) -> np.ndarray:
        """Return the mean input, (blocks, columns)."""
        return self.first / (self.positions or 1)
