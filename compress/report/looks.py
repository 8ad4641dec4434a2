"""How often 'val' was looked at to choose anything, and what was seen: the more looks, the less it proves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from compress.artifact import Artifact
from compress.dataset import METRICS
from compress.kind import Kind
from compress.metrics.loss import loss_of
from compress.metrics.paired import load_resampled
from compress.number_text import DASH, size_text

SPLIT = "val"


class SeenLoss(BaseModel):
    """Points lost of one metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: float
    interval: tuple[float, float] | None = Field(None, description="95 % paired bootstrap interval, points.")


class Look(BaseModel):
    """One scoring of 'val' that something was chosen by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field(description="Label of the stage that looked.")
    of: str = Field(description="Label of the model that was scored.")
    packed_bytes: int | None = None
    losses: dict[str, SeenLoss] = Field(default_factory=dict, description="By metric, against the float model.")


class Looks(BaseModel):
    """All looks of a run at 'val'."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_training: int = Field(0, description="Scorings that training chose its weights by.")
    in_sensitivity: int = Field(0, description="Networks with one part changed that were scored.")
    others: list[Look] = Field(default_factory=list)

    @property
    def count(self) -> int:
        """Return how often it was looked at."""
        return self.in_training + self.in_sensitivity + len(self.others)


def collect_looks(artifacts: Sequence[Artifact]) -> Looks:
    """Return what was seen of 'val' in a run, in order."""
    histories = [row for artifact in artifacts for row in artifact.facts.get("history") or ()]
    in_training = sum(any(row.get(metric) is not None for metric in METRICS) for row in histories)
    rows = [row for a in artifacts if a.kind is Kind.SENSITIVITY for row in a.facts["rows"]]
    in_sensitivity = sum(row["loss"] is not None for row in rows)
    scored = [a for a in artifacts if a.kind is Kind.SCORES and a.facts.get("split") == SPLIT]
    reference = scored[0] if scored else None
    others: list[Look] = []
    for artifact in artifacts:
        others += [_guarded(artifact, look) for look in (artifact.facts.get("guard") or {}).get("looks", ())]
        if artifact in scored:
            others.append(_evaluated(artifact, None if artifact is reference else reference))
    return Looks(in_training=in_training, in_sensitivity=in_sensitivity, others=others)


def _guarded(artifact: Artifact, look: Mapping[str, Any]) -> Look:
    losses = {
        metric: SeenLoss(points=seen["points"], interval=seen["interval"]) for metric, seen in look["losses"].items()
    }
    return Look(stage=artifact.label, of=artifact.label, packed_bytes=look["packed_bytes"], losses=losses)


def _evaluated(artifact: Artifact, reference: Artifact | None) -> Look:
    losses = {}
    for metric in METRICS if reference is not None else ():
        assert reference is not None
        values = [one.facts["scores"].get(metric) for one in (reference, artifact)]
        if None not in values:
            drawn = [load_resampled(one.path, metric) for one in (reference, artifact)]
            loss = loss_of(metric, 0.0, (values[0], values[1]), (drawn[0], drawn[1]))
            losses[metric] = SeenLoss(points=loss.points, interval=loss.interval)
    size = artifact.facts.get("packed_bytes")
    return Look(stage=artifact.label, of=str(artifact.facts["of"]), packed_bytes=size, losses=losses)


def looks_sentence(looks: Looks) -> str:
    """Return how often it was looked at, '' if never."""
    if not looks.count:
        return ""
    times = "once" if looks.count == 1 else f"{looks.count} times"
    rest = " Points lost against the float model there:" if looks.others else ""
    parts = f" and {looks.in_sensitivity} at networks with one part changed" if looks.in_sensitivity else ""
    training = f"{looks.in_training} of them to choose weights in training"
    return f"Split `{SPLIT}` was looked at {times}, {training}{parts}.{rest}"


def looks_rows(looks: Looks) -> list[list[str]]:
    """Return the looks outside training as a table, its head first."""
    metrics = [metric for metric in METRICS if any(metric in look.losses for look in looks.others)]
    rows = [["stage", "model", "bytes, packed", *metrics]]
    for look in looks.others:
        size = DASH if look.packed_bytes is None else size_text(look.packed_bytes)
        rows.append([look.stage, look.of, size, *(_points(look.losses.get(metric)) for metric in metrics)])
    return rows


def _points(loss: SeenLoss | None) -> str:
    if loss is None:
        return DASH
    between = "" if loss.interval is None else f" [{loss.interval[0]:.2f} to {loss.interval[1]:.2f}]"
    return f"{loss.points:.2f}{between}"
