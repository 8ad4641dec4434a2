"""What rounded weights add to the mean of a layer's output, to be taken back by its bias."""

from __future__ import annotations

import numpy as np

from compress.post_training.moments import InputMoments


def bias_shift(weights: np.ndarray, rounded: np.ndarray, moments: InputMoments) -> np.ndarray:
    """Return what must be added to the bias so that the mean output stays what it was.

    Args:
        weights: (out, columns) float.
        rounded: the same as the layer will use them.
        moments: of the inputs.

    Returns:
        (out,) float64.

    Source:
        Nagel et al. 2019, arXiv 1906.04721, section 4.2, with measured instead of assumed means.
    """
    blocks, width = moments.first.shape
    pieces = weights.shape[1] // width
    groups, out_channels = blocks // pieces, weights.shape[0]
    difference = (weights.astype(np.float64) - rounded.astype(np.float64)).reshape(groups, out_channels // groups, -1)
    mean = moments.mean.reshape(groups, 1, -1)
    shift: np.ndarray = (difference * mean).sum(axis=2).reshape(out_channels)
    return shift
