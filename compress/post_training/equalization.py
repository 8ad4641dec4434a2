"""Channels of very different size share one activation range; factors that even them out cost nothing.

A layer's output channel is multiplied and the next layer's input channel divided by the same factor. Between them may
stand a ReLU, and a ReLU6 for channels that stay below six.
"""

from __future__ import annotations

import numpy as np

EXPONENT = 0.5
"""Half of the difference in size is evened out. All of it would leave rare large values of a quiet channel no room."""
LARGEST_FACTOR = 16.0


def equalizing_factors(largest: np.ndarray, *, limit: float | None = None) -> np.ndarray:
    """Return what each channel is multiplied by; quiet channels grow, no channel shrinks.

    Args:
        largest: (channels,) greatest magnitude seen in each channel, >= 0.
        limit: where the activation function cuts off (6), or None. A channel that would come near it keeps its size.

    Returns:
        (channels,) float64 factors between 1 and LARGEST_FACTOR, powers of two: products with them are exact.

    Source:
        Cross-layer equalization: Nagel et al. 2019, arXiv 1906.04721, section 4.1, with scales of channels
        (here of activations) and not of weights, because weights have a scale per channel of their own.
    """
    top = float(largest.max(initial=0.0))
    if top <= 0:
        return np.ones_like(largest, dtype=np.float64)
    wanted = (top / np.maximum(largest, top * 1e-12)) ** EXPONENT
    factors: np.ndarray = np.exp2(np.floor(np.log2(np.clip(wanted, 1, LARGEST_FACTOR))))
    return factors if limit is None else np.where(largest * factors < limit, factors, 1.0)


def scale_input_channels(weights: np.ndarray, factors: np.ndarray, groups: int) -> np.ndarray:
    """Return weights, (out, in / groups, ...), divided by the factor of each input channel, (in,)."""
    out_channels, width = weights.shape[:2]
    by_group = weights.reshape(groups, out_channels // groups, width, -1)
    scaled: np.ndarray = by_group / factors.reshape(groups, 1, width, 1)
    return scaled.reshape(weights.shape).astype(weights.dtype)
