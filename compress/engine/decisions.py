"""What a run decides of each stage, and how it says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from compress.artifact import Artifact
from compress.recipe.plan import PlannedStage

_SHOWN_REASONS = 3
NEW = "not made yet"
FIRST = " runs first"
ASKED = "asked for by --from"


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


def changes_text(decisions: Sequence[Decision]) -> str | None:
    """Return what changed since a folder was last filled, None where it is empty or nothing did.

    Only causes are told: not that a stage was never made, nor that one before it runs first.
    """
    labels: dict[str, list[str]] = {}
    for one in decisions:
        for reason in one.reasons:
            if reason not in (NEW, ASKED) and not reason.endswith(FIRST):
                labels.setdefault(reason, []).append(one.planned.label)
    told = [f"{reason} ({', '.join(of[:2])}{', ...' if len(of) > 2 else ''})" for reason, of in labels.items()]
    return f"changed since the last run: {'; '.join(told)}" if told else None


def reasons_text(reasons: Sequence[str]) -> str:
    """Return reasons as one short line."""
    more = len(reasons) - _SHOWN_REASONS
    return "; ".join(reasons[:_SHOWN_REASONS]) + (f"; and {more} more" if more > 0 else "")
