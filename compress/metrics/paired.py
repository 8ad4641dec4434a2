"""The paired bootstrap of two models: the interval of a loss, from scores on the same resampled images."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()


def save_resampled(folder: Path, values: np.ndarray, metric: str = "map50") -> None:
    """Write a metric on resampled images, (samples,), beside the scores."""
    np.save(_file(folder, metric), np.asarray(values, np.float64), allow_pickle=False)


def load_resampled(folder: Path, metric: str = "map50") -> np.ndarray | None:
    """Return what `save_resampled` wrote, None if nothing was."""
    path = _file(folder, metric)
    return np.load(path, allow_pickle=False) if path.is_file() else None


def loss_interval(
    reference: np.ndarray | None, other: np.ndarray | None, *, coverage: float = 0.95
) -> tuple[float, float] | None:
    """Return the central interval of reference - other over the resamples.

    Args:
        reference: (samples,) metric of the model that a loss counts from.
        other: (samples,) of the other model; entry i is of the same draw of images.
        coverage: share of the differences inside.

    Returns:
        (low, high), or None if one of the two is missing or they were not drawn alike.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
    """
    if reference is None or other is None or reference.shape != other.shape or not len(reference):
        return None
    tail = (1 - coverage) / 2
    low, high = np.quantile(reference - other, [tail, 1 - tail])
    return float(low), float(high)


def expanded_coverage(count: int, coverage: float = 0.95) -> float:
    """Return the coverage to ask the percentile interval for, so that it holds `coverage` with so few images.

    The percentile interval of a mean of n values is too narrow by sqrt((n - 1) / n), and its ends are those of a normal
    instead of a t distribution: of 10 images it holds 90 % where 95 % are asked for.

    Args:
        count: images that were resampled, at least 2.
        coverage: share that is wanted, 0..1.

    Raises:
        ValueError: fewer than two images have no interval.

    Source:
        Hesterberg 2015, "What Teachers Should Know About the Bootstrap", The American Statistician 69(4), section 3.3
        (expanded percentile interval).
    """
    if count < 2:
        raise ValueError(f"an interval of {count} images; at least 2 are needed")
    end = math.sqrt(count / (count - 1)) * t_quantile((1 + coverage) / 2, count - 1)
    return 2 * _NORMAL.cdf(end) - 1


def t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution, right to 0.001 from 4 degrees of freedom on.

    Args:
        probability: 0.5..1 (exclusive).
        degrees: of freedom, at least 1; exact for 1 and 2.

    Source:
        Abramowitz and Stegun 1964, Handbook of Mathematical Functions, 26.7.5.
    """
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        return (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))
    x = _NORMAL.inv_cdf(probability)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    corrections = [term / degrees**power for power, term in enumerate(terms, start=1)]
    return float(x + math.fsum(corrections))


def needed_count(interval: tuple[float, float], limit: float, count: int) -> int | None:
    """Return how many images would decide on which side of a limit a value lies, None if no number would.

    The interval is taken to stay where it is and to get narrower with the root of the number of images.

    Args:
        interval: (low, high) of the value on `count` images, with the limit inside.
        limit: in the same unit.
        count: images behind the interval.
    """
    middle, half = (interval[0] + interval[1]) / 2, (interval[1] - interval[0]) / 2
    distance = abs(limit - middle)
    if distance <= 1e-9 * max(half, abs(limit), 1e-12):
        return None
    return max(count + 1, math.ceil(count * (half / distance) ** 2 - 1e-6))


def _file(folder: Path, metric: str) -> Path:
    return folder / f"{metric}_resampled.npy"
