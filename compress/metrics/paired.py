"""The paired bootstrap of two models: the interval of a loss, from scores on the same resampled images."""

from __future__ import annotations

from pathlib import Path

import numpy as np


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


def _file(folder: Path, metric: str) -> Path:
    return folder / f"{metric}_resampled.npy"
