"""Looks at how much a network lost on 'val' against a model before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.actions.forward_of import forward_of
from compress.artifact import Artifact
from compress.dataset import Scores
from compress.detector import Detector
from compress.errors import StageError
from compress.guard import DropLimits, back_off
from compress.metrics.loss import Loss, loss_of
from compress.progress import say
from compress.rate_rounding.search import Priced
from compress.runtime.forwards import onnx_forward
from compress.scoring import evaluate

SPLIT = "val"


@dataclass
class ScoreGuard:
    """Compares networks with a reference, on the same images.

    Attributes:
        limits: points that may be lost.
        detector: the plug-in.
        reference: scores of the model before.
        label: of the stage, for messages.
        before: label of the model before.
        looks: what was seen: a row a look, with packed_bytes, holds, and of each metric loss (points) and interval.
    """

    limits: DropLimits
    detector: Detector
    reference: Scores
    label: str
    before: str
    looks: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, limits: DropLimits, before: Artifact, detector: Detector, *, device: str, label: str) -> ScoreGuard:
        """Score the model before.

        Raises:
            StageError: the split cannot tell: it has no object, or its scores lack a limited metric.
        """
        say(f"{label}: {before.label} is scored on {SPLIT}, to count losses from")
        reference = evaluate(detector, forward_of(before, detector, device=device), SPLIT)
        for metric in limits.limits:
            value = getattr(reference, metric)
            if value is None or value != value or getattr(reference, f"{metric}_resampled") is None:
                raise StageError(
                    f"stage {label}: max_drop.{metric} cannot be measured on split {SPLIT!r} of this data set. "
                    "Expected labelled objects and that metric; limit another one, or leave max_drop out."
                )
        return cls(limits, detector, reference, label, before.label)

    def holds(self, file: Path, packed_bytes: int) -> bool:
        """Score an ONNX file and say whether it loses no more than it may, in the middle of the paired interval."""
        scores = evaluate(self.detector, onnx_forward(file, 1), SPLIT)
        losses = [self._loss(metric, limit, scores) for metric, limit in self.limits.limits.items()]
        holds = all(one.holds for one in losses)
        seen = {
            one.metric: {"points": one.points, "interval": one.interval, "middle": one.middle, "limit": one.limit}
            for one in losses
        }
        self.looks.append({"packed_bytes": packed_bytes, "holds": holds, "losses": seen})
        verdict = "holds" if holds else "loses too much"
        told = ", ".join(map(str, losses))
        say(f"{self.label}: {packed_bytes:,} bytes, look {len(self.looks)} at {SPLIT}, {verdict}: {told} lost")
        return holds

    def _loss(self, metric: str, limit: float, scores: Scores) -> Loss:
        drawn = f"{metric}_resampled"
        values = getattr(self.reference, metric), getattr(scores, metric)
        return loss_of(metric, limit, values, (getattr(self.reference, drawn), getattr(scores, drawn)))

    def facts(self) -> dict[str, Any]:
        """Return how often the split was looked at, and what was seen."""
        return {"split": SPLIT, "looks": self.looks, "num_looks": len(self.looks)}


def smallest_that_holds(guard: ScoreGuard, first: Priced, at: Callable[[float, Priced], Priced], file: Path) -> Priced:
    """Return the smallest network that loses no more than it may.

    Args:
        guard: looks at what is lost.
        first: the network at the size that is wanted.
        at: makes the network of a price, starting from one near it.
        file: where the network that was made last is exported to.

    Raises:
        StageError: none does.
    """
    found = back_off(first, first.price, at, lambda tried: guard.holds(file, tried.num_bytes))
    if found is None:
        least = min(guard.looks, key=lambda look: max(one["middle"] for one in look["losses"].values()))
        lost = ", ".join(f"{one['middle']:.2f} points of {metric}" for metric, one in least["losses"].items())
        raise StageError(
            f"stage {guard.label}: no size keeps max_drop against {guard.before}: {least['packed_bytes']:,} bytes "
            f"lost {lost} on {SPLIT}, the least of {len(guard.looks)}. Allow more, or train at the size for longer "
            "(`qat.rate`)."
        )
    return found
