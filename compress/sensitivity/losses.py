"""What a network loses on scored pictures, in points."""

from __future__ import annotations

import math
from typing import Any

from compress.dataset import METRICS, Scores
from compress.metrics.loss import loss_of


def loss_row(before: Scores, after: Scores) -> dict[str, Any]:
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
    values = float(getattr(before, metric)), float(getattr(after, metric))
    drawn = f"{metric}_resampled"
    loss = loss_of(metric, 0.0, values, (getattr(before, drawn), getattr(after, drawn)))
    row = {"metric": metric, "value": values[1], "loss": loss.points, "images": before.num_images}
    return row | {"interval": None if loss.interval is None else list(loss.interval)}


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
