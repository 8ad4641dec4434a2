"""What the levels of an activation should cover: neither all that was ever seen, nor a fixed share of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

BINS = 8192
LEVELS = 255  # steps between the levels of uint8
LARGEST_SAMPLE = 2**19  # values of one tensor and image
POWER = 2.4
"""Exponent of the error that a range is chosen by. What a detector finds lies in few large values: squares (2.0) cut
off too much of them, and 3.0 spares them at the cost of all others (measured, benchmarks/LOG.md)."""

_SMALLEST_SHARE = 0.02  # of the observed extreme that a candidate may go down to
_CANDIDATES = 28  # for each end, evenly spread on a logarithmic scale


@dataclass
class ValueHistogram:
    """How often the values of one tensor occurred, between two ends that are known beforehand.

    Attributes:
        low: least value, at most 0.
        high: greatest value, at least 0.
        counts: (BINS,) occurrences. Exact zeros are left out: they cost nothing, wherever the range ends.
    """

    low: float
    high: float
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS))

    def add(self, values: np.ndarray) -> None:
        """Count values, any shape; those outside of the ends count at the ends, of very many only every so many.

        What is no finite number, as a mask of minus infinity, is left out: no level is near it.
        """
        values = values.reshape(-1)[:: max(1, values.size // LARGEST_SAMPLE)]
        values = values[(values != 0) & np.isfinite(values)]
        if self.high > self.low:
            bins = ((values - self.low) * (BINS / (self.high - self.low))).astype(np.int32)
            self.counts += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)

    @property
    def centers(self) -> np.ndarray:
        """Return the middle of each bin, (BINS,)."""
        width = (self.high - self.low) / BINS
        return self.low + (np.arange(BINS) + 0.5) * width


def least_error_range(histogram: ValueHistogram, *, power: float = POWER) -> tuple[float, float]:
    """Return the range whose 256 levels miss the values by least, sum of |error| ** power.

    Candidates are the observed extremes and what remains of them down to 2 %, each end on its own, so the
    plain minimum and maximum and every percentile in between are among them.

    Args:
        histogram: what the tensor held.
        power: of the error; 2 is the mean squared error.

    Returns:
        Least and greatest value, around zero.

    Source:
        Choice of a clipping range by an L_p norm: Nahshan et al. 2021, arXiv 1911.07190, section 4.
    """
    if histogram.high <= histogram.low or not histogram.counts.any():
        return histogram.low, histogram.high
    shares = np.geomspace(1, _SMALLEST_SHARE, _CANDIDATES)
    lows = histogram.low * shares if histogram.low < 0 else np.zeros(1)
    highs = histogram.high * shares if histogram.high > 0 else np.zeros(1)
    counts, centers = histogram.counts, histogram.centers
    cut_low = (counts * np.maximum(lows[:, None] - centers, 0) ** power).sum(1)
    cut_high = (counts * np.maximum(centers - highs[:, None], 0) ** power).sum(1)
    errors = cut_low[:, None] + cut_high[None, :] + _rounding_errors(histogram, lows, highs, power)
    best_low, best_high = np.unravel_index(int(errors.argmin()), errors.shape)
    return float(lows[best_low]), float(highs[best_high])


def _rounding_errors(histogram: ValueHistogram, lows: np.ndarray, highs: np.ndarray, power: float) -> np.ndarray:
    """Return the expected error inside each range, (lows, highs); a value far below half a step loses but itself."""
    sizes = np.abs(histogram.centers) ** power
    mass, itself = (np.append(0.0, np.cumsum(histogram.counts * factor)) for factor in (1.0, sizes))
    steps = (highs[None, :] - lows[:, None]) / LEVELS
    typical = (steps / 2) ** power / (power + 1)
    width = (histogram.high - histogram.low) / BINS

    def bins_below(values: np.ndarray) -> np.ndarray:
        return np.clip(np.rint((values - histogram.low) / width), 0, BINS).astype(np.int64)

    small = typical ** (1 / power)  # magnitude at which losing itself and the typical error are equal
    left, right = bins_below(-small), bins_below(small)
    inside = mass[bins_below(highs)][None, :] - mass[bins_below(lows)][:, None]
    found: np.ndarray = itself[right] - itself[left] + typical * np.maximum(inside - (mass[right] - mass[left]), 0)
    return found
