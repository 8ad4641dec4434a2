"""Scores: made of logits, checked, and the best of them chosen."""

from __future__ import annotations

import numpy as np

from compress.errors import DetectorError

_SLACK = 0.05  # integers of a quantized output reach a little beyond 0..1


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), float32, without overflow."""
    return (0.5 + 0.5 * np.tanh(np.asarray(logits, np.float64) / 2)).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return exp(x) / sum of exp(x) over the last axis, float32; NaN where the logits are not finite."""
    logits = np.asarray(logits, np.float64)
    logits = np.where(np.isfinite(logits), logits, np.nan)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-1e300))
    shares: np.ndarray = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return shares


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Return scores that the network gives as probabilities, clipped to 0..1; NaN stays.

    Raises:
        DetectorError: they are none, so the head or its settings do not fit the network.
    """
    finite = scores[~np.isnan(scores)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low < -_SLACK or high > 1 + _SLACK:
        raise DetectorError(
            f"raw outputs: scores from {low:.4g} to {high:.4g}, expected 0..1. Choose another head, or its settings."
        )
    clipped: np.ndarray = np.clip(np.asarray(scores, np.float32), 0, 1)
    return clipped


def best_pairs(scores: np.ndarray, threshold: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row, column, score) of the best entries above the threshold, at most `count`, best first.

    A box is a candidate for every class that it scores enough in. NaN is above nothing.

    Args:
        scores: (boxes, classes) float32.
        threshold: scores are strictly above it.
        count: at most so many.
    """
    above = np.flatnonzero(scores.ravel() > np.float32(threshold))
    values = scores.ravel()[above]
    order = np.argsort(-values, kind="stable")[:count]
    row, column = np.divmod(above[order], max(scores.shape[1], 1))
    return row, column, values[order]


def best_classes(scores: np.ndarray, threshold: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row, column, score) of the best class of each box, where it is above the threshold; see `best_pairs`."""
    rows = np.arange(len(scores))
    labels = np.nan_to_num(scores, nan=-1.0).argmax(axis=1) if scores.size else np.zeros(len(scores), np.int64)
    values = scores[rows, labels] if scores.size else np.zeros(len(scores), np.float32)
    row, _, value = best_pairs(values[:, None], threshold, count)
    return row, labels[row], value
