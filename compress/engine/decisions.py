"""What a run decides of each stage, and how it says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from compress.artifact import Artifact
from compress.recipe.plan import PlannedStage

_SHOWN_REASONS = 3


@dataclass(frozen=True)
class Decision:
    """Whether a stage comes from the cache.

    Attributes:
        planned: the stage.
        state: 'cached' or 'run'.
        reasons: why it must run; empty if cached.
        parts: what its key is made from; digests of inputs that are not there yet read '?'.
        artifact: the sealed artifact if cached.
    """

    planned: PlannedStage
    state: Literal["cached", "run"]
    reasons: tuple[str, ...]
    parts: Mapping[str, object]
    artifact: Artifact | None = None


@dataclass(frozen=True)
class Result:
    """One stage of a finished run."""

    artifact: Artifact
    was_cached: bool


def plan_text(decisions: Sequence[Decision]) -> str:
    """Return one line per stage: name, cached or run, and why."""
    width = max(len(decision.planned.folder_name) for decision in decisions)
    lines = []
    for decision in decisions:
        reasons = reasons_text(decision.reasons)
        lines.append(f"{decision.planned.folder_name:<{width}}  {decision.state:<6}  {reasons}".rstrip())
    return "\n".join(lines)


def reasons_text(reasons: Sequence[str]) -> str:
    """Return reasons as one short line."""
    more = len(reasons) - _SHOWN_REASONS
    return "; ".join(reasons[:_SHOWN_REASONS]) + (f"; and {more} more" if more > 0 else "")
