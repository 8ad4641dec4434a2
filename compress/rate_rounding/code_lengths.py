"""How many bits an integer costs in the packed file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_UNSEEN = 0.05  # added to how often each integer occurs, so that one not used yet can still be chosen


@dataclass(frozen=True)
class CodeLengths:
    """Bits of every integer from -largest to largest.

    Attributes:
        bits: (2 * largest + 1,) float64.
    """

    bits: np.ndarray

    @property
    def largest(self) -> int:
        """Return the largest integer that has a code."""
        return len(self.bits) // 2

    @classmethod
    def fitted(cls, codes: np.ndarray, largest: int) -> CodeLengths:
        """Return the lengths that the codec's entropy coders reach on these integers, to a percent.

        Source:
            Shannon 1948: -log2 of how often each occurs.
        """
        counts = np.bincount(codes.ravel().astype(np.int64) + largest, minlength=2 * largest + 1) + _UNSEEN
        return cls(-np.log2(counts / counts.sum()))

    def of(self, codes: np.ndarray) -> np.ndarray:
        """Return the bits of each integer, same shape."""
        found: np.ndarray = self.bits[codes.astype(np.intp) + self.largest]
        return found


def entropy_bits(values: np.ndarray) -> float:
    """Return what an ideal code of these integers takes in all, without its table."""
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    return float(counts.sum() * np.log2(counts.sum()) - (counts * np.log2(counts)).sum())
