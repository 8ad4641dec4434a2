"""How far raw outputs are from those of another model on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return ||found - expected|| / ||expected||, 0 if both are zero.

    >>> relative_error(np.array([3.0, 4.0]), np.array([3.0, 5.0])) < 0.172
    True
    """
    return _ratio(*_squares(found, expected))


class OutputErrors:
    """Relative errors of several outputs over all images together, summed up image by image.

    Attributes:
        sums: (outputs, 2) float64: squared differences, squared expected values.
    """

    def __init__(self, num_outputs: int) -> None:
        self.sums = np.zeros((num_outputs, 2))

    def add(self, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
        """Add the outputs of one batch."""
        self.sums += [_squares(a, b) for a, b in zip(found, expected, strict=True)]

    @property
    def each(self) -> list[float]:
        """Return the relative error of each output, as `relative_error`; infinite if it is no number."""
        return [_ratio(*row) for row in self.sums]

    @property
    def together(self) -> float:
        """Return one number: the root of the mean square of the outputs' errors, each in units of its own size."""
        each = self.each
        return math.sqrt(sum(error**2 for error in each) / len(each))


class ChannelErrors:
    """Relative error of one output over all images together, after the best gain of each channel.

    Layers whose channels were scaled against the next layer's (equalization) carry the same in other units, and only
    what no gain makes good is an error.

    Attributes:
        sums: (3, channels) float64: found * found, found * expected, expected * expected.
    """

    def __init__(self) -> None:
        self.sums = np.zeros((3, 1))

    def add(self, found: np.ndarray, expected: np.ndarray) -> None:
        """Add outputs of one batch, (N, channels, ...)."""
        one, other = (
            np.moveaxis(values, 1, 0).reshape(values.shape[1], -1).astype(float) for values in (found, expected)
        )
        self.sums = self.sums + [(a * b).sum(axis=1) for a, b in ((one, one), (one, other), (other, other))]

    @property
    def error(self) -> float:
        """Return ||gain * found - expected|| / ||expected||, gains by least squares; 0 if all is expected to be zero.

        >>> errors = ChannelErrors()
        >>> errors.add(np.array([[[1.0, 0.0], [3.0, 3.0]]]), np.array([[[2.0, 0.0], [1.0, 1.0]]]))
        >>> errors.error
        0.0
        """
        own, both, expected = self.sums
        explained = np.divide(both**2, own, out=np.zeros_like(own), where=own > 0)
        left = np.maximum(expected - explained, 0).sum()
        return math.sqrt(left / expected.sum()) if expected.sum() > 0 else 0.0


def _squares(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    wanted = expected.astype(np.float64)
    difference = found.astype(np.float64) - wanted
    return float((difference**2).sum()), float((wanted**2).sum())


def _ratio(difference: float, scale: float) -> float:
    if math.isnan(difference):
        return math.inf
    return math.sqrt(difference / scale) if scale else float(difference > 0)
