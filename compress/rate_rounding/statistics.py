"""What a layer's weights are multiplied by, and how much each of its outputs matters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.post_training.moments import InputMoments


@dataclass
class LayerStatistics:
    """Gathered over images, position by position, each weighted by how much the loss bends with the outputs there.

    Attributes:
        moments: of the inputs; `positions` is the sum of the weights.
        output_weights: (out,) how much the loss bends with each output channel, summed over positions and images.
        bias_weights: (out,) how much the loss bends with a bias, which moves all positions of a call at once.
        images: how many were seen.
    """

    moments: InputMoments
    output_weights: np.ndarray
    bias_weights: np.ndarray
    images: int = 0

    @classmethod
    def empty(cls, groups: int, columns: int, out_channels: int) -> LayerStatistics:
        """Return statistics of nothing, for a layer of so many groups, weights a row and rows."""
        return cls(InputMoments.empty(groups, columns), np.zeros(out_channels), np.zeros(out_channels))

    @property
    def importance(self) -> np.ndarray:
        """Return what an error of one in each output channel costs, summed over an image, (out,)."""
        return self.output_weights / max(self.images, 1)

    @property
    def bias_importance(self) -> np.ndarray:
        """Return what an error of one in each bias costs, (out,)."""
        return self.bias_weights / max(self.images, 1)

    def spread(self, *, centered: bool) -> np.ndarray:
        """Return second moments of the inputs, (blocks, width, width) float64.

        Args:
            centered: about the mean, as a bias takes up what the mean does.
        """
        total = float(self.moments.positions) or 1.0
        second: np.ndarray = self.moments.second.astype(np.float64) / total
        if centered:
            mean = self.moments.first / total
            second -= mean[:, :, None] * mean[:, None, :]
        return second
