"""What a trial came to: read from the sealed folders that it left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.artifact import Artifact, find_folder, open_artifact
from compress.dataset import METRICS
from compress.errors import StageError
from compress.metrics.loss import Loss, loss_of
from compress.metrics.paired import load_resampled
from compress.sweep.trial_recipe import EARLY_LOOK, FLOAT_LOOK, LOOK, TIMING, Looks


@dataclass(frozen=True)
class Score:
    """A model's scores on 'val'.

    Attributes:
        values: metric -> 0..1, as far as it was measured.
        intervals: metric -> (low, high), likewise.
        resampled: metric -> (samples,), for paired differences.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    resampled: dict[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """What a finished trial came to.

    Attributes:
        packed_bytes: of its file.
        score: of its file.
        reference: of the float model.
        latency_ms: p50 of its file's network, None where nothing was timed.
        reference_ms: of the float file, in turns with it.
    """

    packed_bytes: int
    score: Score
    reference: Score
    latency_ms: float | None = None
    reference_ms: float | None = None

    def value(self, objective: str) -> float:
        """Return the value of an objective.

        Raises:
            StageError: it could not be measured.
        """
        found = {"bytes": self.packed_bytes, "ms": self.latency_ms, **self.score.values}.get(objective)
        if found is None:
            raise StageError(
                f"objective {objective}: cannot be measured on split 'val' of this data set. Expected labelled objects "
                "and that metric; name another objective."
            )
        return float(found)


def read_measured(root: Path, looks: Looks) -> Measured:
    """Return what a finished trial came to.

    Args:
        root: the trial's folder.
        looks: where its measurements lie.

    Raises:
        StageError: a folder is missing.
    """
    packed_bytes = _artifact(root, looks.model).file("model.krimp").stat().st_size
    score, reference = read_score(root, LOOK), read_score(root, FLOAT_LOOK)
    if looks.reference is None:
        return Measured(packed_bytes, score, reference)
    models = _artifact(root, TIMING).facts["models"]
    own, float_ms = (float(models[label]["latency_ms_p50"]) for label in (looks.model, looks.reference))
    return Measured(packed_bytes, score, reference, own, float_ms)


def read_score(root: Path, label: str) -> Score:
    """Return the scores that a stage left in the folder of a trial."""
    artifact = _artifact(root, label)
    scores: dict[str, Any] = artifact.facts["scores"]
    values = {name: float(scores[name]) for name in METRICS if scores.get(name) is not None}
    found = {name: scores.get(f"{name}_interval") for name in values}
    intervals = {name: (float(ends[0]), float(ends[1])) for name, ends in found.items() if ends is not None}
    drawn = {name: load_resampled(artifact.path, name) for name in values}
    return Score(values, intervals, {name: samples for name, samples in drawn.items() if samples is not None})


def losses(limits: dict[str, float], before: Score, after: Score) -> list[Loss]:
    """Return what is lost of each metric that is limited, as far as both were measured by it."""
    return [
        loss_of(
            metric,
            limit,
            (before.values[metric], after.values[metric]),
            (before.resampled.get(metric), after.resampled.get(metric)),
        )
        for metric, limit in limits.items()
        if metric in before.values and metric in after.values
    ]


def hopeless_text(root: Path, limits: dict[str, float]) -> str | None:
    """Return what a trial surely lost too much of at the look in passing; None if it goes on."""
    found = losses(limits, read_score(root, FLOAT_LOOK), read_score(root, EARLY_LOOK))
    lost = surely_lost(found)
    return f"given up: lost {', '.join(map(str, lost))}" if lost else None


def surely_lost(found: Sequence[Loss]) -> list[Loss]:
    """Return the losses beyond their limits, whole interval and all."""
    return [loss for loss in found if (loss.points if loss.interval is None else loss.interval[0]) > loss.limit]


def _artifact(root: Path, label: str) -> Artifact:
    folder = find_folder(root, label)
    if folder is None:
        raise StageError(f"{root}: the folder of stage {label} is missing. Run the same command again.")
    return open_artifact(folder)
