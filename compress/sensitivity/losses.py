"""What a network loses on scored pictures, in points."""

from __future__ import annotations

import math
from typing import Any

from compress.dataset import METRICS, Scores
from compress.metrics.paired import loss_interval


def loss_of(before: Scores, after: Scores) -> dict[str, Any]:
    """Return what is lost, of the first metric that can be measured.

    Args:
        before: of the network as it is.
        after: of the changed one, on the same pictures.

    Returns:
        `metric`, its `value` after (0..1), `loss` and `interval` (points, paired bootstrap) and `images`; metric,
        value and loss are None where nothing is there to be found.
    """
    measured = [metric for metric in METRICS if _is_number(getattr(before, metric))]
    if not measured:
        return {"metric": None, "value": None, "loss": None, "interval": None, "images": before.num_images}
    metric = measured[0]
    ends = loss_interval(getattr(before, f"{metric}_resampled"), getattr(after, f"{metric}_resampled"))
    value = float(getattr(after, metric))
    return {
        "metric": metric,
        "value": value,
        "loss": 100 * (float(getattr(before, metric)) - value),
        "interval": None if ends is None else [100 * end for end in ends],
        "images": before.num_images,
    }


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
