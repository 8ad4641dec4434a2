"""What a model lost of a metric against another, in points, with the interval of the paired resamples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.metrics.paired import loss_interval

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Loss:
    """What is lost of one metric, in points.

    Attributes:
        metric: its name.
        points: reference minus model.
        interval: (low, high) of the paired resamples; None without any.
        limit: points that may be lost.
    """

    metric: str
    points: float
    interval: tuple[float, float] | None
    limit: float

    @property
    def middle(self) -> float:
        """Return the middle of the interval, or the points where there is none."""
        return self.points if self.interval is None else sum(self.interval) / 2

    @property
    def holds(self) -> bool:
        """Return whether the middle is within the limit."""
        return self.middle <= self.limit

    def __str__(self) -> str:
        between = "" if self.interval is None else f" ({self.interval[0]:.2f} to {self.interval[1]:.2f})"
        return f"{self.metric} {self.points:.2f}{between} of {self.limit:g} points"


def loss_of(
    metric: str,
    limit: float,
    values: tuple[float, float],
    resampled: tuple[np.ndarray | None, np.ndarray | None],
) -> Loss:
    """Return what is lost of a metric.

    Args:
        metric: its name.
        limit: points that may be lost.
        values: of the reference and of the model, 0..1.
        resampled: (samples,) of both, of the same draws of images.
    """
    interval = loss_interval(*resampled)
    ends = None if interval is None else (100 * interval[0], 100 * interval[1])
    return Loss(metric, 100 * (values[0] - values[1]), ends, limit)
