"""A layer as matrices: its rows cut into blocks of columns that see the same inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compress.rate_rounding.code_lengths import entropy_bits

STEPS_AN_OCTAVE = 4  # of the grid of steps, 2 ** (n / 4): one of few values costs some bits, a float 32


@dataclass(frozen=True)
class Layer:
    """What is known of a layer.

    Attributes:
        weights: (out, columns) float, output channels in the order of groups; zeros stay zero.
        steps: (out,) > 0, of each row as it is rounded now.
        largest_code: that the runtime computes rightly with, e.g. 63.
        importance: (out,) what an error of one in a row's outputs costs.
        spread: (blocks, width, width) second moments of the inputs; see `moments.blocks_of`.
    """

    weights: np.ndarray
    steps: np.ndarray
    largest_code: int
    importance: np.ndarray
    spread: np.ndarray

    def to_blocks(self, values: np.ndarray) -> np.ndarray:
        """Return (out, columns) values as (blocks, rows, width)."""
        groups, rows, pieces, width = self._shape
        return values.reshape(groups, rows, pieces, width).transpose(0, 2, 1, 3).reshape(-1, rows, width)

    def from_blocks(self, values: np.ndarray) -> np.ndarray:
        """Return (blocks, rows, width) values as (out, columns)."""
        groups, rows, pieces, width = self._shape
        return values.reshape(groups, pieces, rows, width).transpose(0, 2, 1, 3).reshape(self.weights.shape)

    def rows_to_blocks(self, values: np.ndarray) -> np.ndarray:
        """Return (out,) values as (blocks, rows)."""
        groups, rows, pieces, _ = self._shape
        return np.broadcast_to(values.reshape(groups, 1, rows), (groups, pieces, rows)).reshape(-1, rows)

    @cached_property
    def order(self) -> np.ndarray:
        """Return the columns of each block by rising share in the output, (blocks, width).

        The small ones are rounded first, mostly to zero, and the large ones make up for them. The other way round, as
        GPTQ does where nothing is rounded away, DCFL-MobileNetV2 lost a half more at the same bits before the descent.
        """
        share = (self.to_blocks(self.weights) ** 2 * self.rows_to_blocks(self.importance)[:, :, None]).sum(axis=1)
        order: np.ndarray = np.argsort(share * np.diagonal(self.spread, axis1=1, axis2=2), axis=1, kind="stable")
        return order

    def loss(self, codes: np.ndarray, steps: np.ndarray) -> float:
        """Return by how much the loss of the network grows, to second order; see `row_losses`."""
        return float(self.row_losses(codes, steps).sum())

    def row_losses(self, codes: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return by how much the loss of the network grows with each row, to second order, (out,).

        Args:
            codes: (out, columns) integers.
            steps: (out,).
        """
        error = self.to_blocks(codes * steps.astype(np.float64)[:, None] - self.weights)
        squares = ((error @ self.spread) * error).sum(axis=2)
        groups, rows, pieces, _ = self._shape
        by_row: np.ndarray = squares.reshape(groups, pieces, rows).sum(axis=1).reshape(-1) * self.importance
        return by_row

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        blocks, width = self.spread.shape[:2]
        pieces = self.weights.shape[1] // width
        groups = blocks // pieces
        return groups, self.weights.shape[0] // groups, pieces, width


@dataclass(frozen=True)
class Rounded:
    """What a layer became.

    Attributes:
        codes: (out, columns) int8.
        exponents: (out,) int: the steps are 2 ** (n / STEPS_AN_OCTAVE).
        loss: by which the network suffers, to second order.
        price: loss that a bit was worth; 0 if none was named.
    """

    codes: np.ndarray
    exponents: np.ndarray
    loss: float
    price: float = 0.0

    @cached_property
    def bits(self) -> float:
        """Return what an ideal code of integers and exponents takes."""
        return entropy_bits(self.codes) + entropy_bits(self.exponents)

    @property
    def steps(self) -> np.ndarray:
        """Return the step of each row, (out,) float32."""
        return steps_of(self.exponents)

    @property
    def weights(self) -> np.ndarray:
        """Return what the runtime computes with, (out, columns) float64."""
        return self.codes * self.steps.astype(np.float64)[:, None]


def steps_of(exponents: np.ndarray) -> np.ndarray:
    """Return the steps of the grid, float32."""
    steps: np.ndarray = np.exp2(exponents / STEPS_AN_OCTAVE).astype(np.float32)
    return steps


def exponents_of(steps: np.ndarray) -> np.ndarray:
    """Return the nearest exponents of the grid, int64."""
    exponents: np.ndarray = np.rint(STEPS_AN_OCTAVE * np.log2(steps)).astype(np.int64)
    return exponents
