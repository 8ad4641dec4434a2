"""What a plan and a run come to, as data: for the command line, for programs, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.artifact import Artifact
from compress.engine.decisions import Decision, Result, plan_text
from compress.engine.dry_pass import DryPass
from compress.kind import Kind
from compress.report.forecast import Forecast

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        recipe: its name.
        folder: of the artifacts.
        decisions: one a stage, in order.
        dry_pass: how it went; None where it was not asked for, or no stage needs one.
        forecast: what the stages should leave, or why nobody knows; None likewise.
    """

    recipe: str
    folder: Path
    decisions: tuple[Decision, ...]
    dry_pass: DryPass | None = None
    forecast: Forecast | str | None = None

    def __iter__(self) -> Iterator[Decision]:
        """Yield the decisions."""
        return iter(self.decisions)

    def __len__(self) -> int:
        """Return the number of stages."""
        return len(self.decisions)

    def __str__(self) -> str:
        return plan_text(self.decisions)

    def to_json(self) -> dict[str, Any]:
        """Return plain data: `format_version`, `recipe`, `folder`, `stages`, `dry_pass`, `forecast`.

        `dry_pass` has `state` ('passed', 'cached' or 'not run'), `reason`, `seconds` and `kept` (layers whose channels
        pruning leaves, a line each block); left out if there was none. `forecast` is that of
        `compress.report.forecast`, or {"reason": why there is none}; likewise.
        A stage has `label`, `stage`, `folder`, `state` ('cached' or 'run'), `reasons` (why it must run) and `inputs`
        (input name -> label of the stage that makes it).
        """
        passed = {} if self.dry_pass is None else {"dry_pass": self.dry_pass.to_json()}
        foreseen = {} if self.forecast is None else {"forecast": _plain_forecast(self.forecast)}
        return (
            passed
            | foreseen
            | {
                "format_version": FORMAT_VERSION,
                "recipe": self.recipe,
                "folder": str(self.folder),
                "stages": [
                    {
                        "label": decision.planned.label,
                        "stage": decision.planned.stage.stage,
                        "folder": decision.planned.folder_name,
                        "state": decision.state,
                        "reasons": list(decision.reasons),
                        "inputs": dict(decision.planned.inputs),
                    }
                    for decision in self.decisions
                ],
            }
        )


def _plain_forecast(found: Forecast | str) -> dict[str, Any]:
    return {"reason": found} if isinstance(found, str) else found.model_dump(mode="json")


@dataclass(frozen=True)
class RunResult:
    """What a finished run came to.

    Attributes:
        recipe: its name.
        folder: of the artifacts.
        results: one a stage, in order.
    """

    recipe: str
    folder: Path
    results: tuple[Result, ...]

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """Return the sealed folder of each stage by its label, in order."""
        return {result.artifact.label: result.artifact for result in self.results}

    @property
    def facts(self) -> dict[str, Mapping[str, Any]]:
        """Return what each stage measured, by its label."""
        return {label: artifact.facts for label, artifact in self.artifacts.items()}

    @property
    def report(self) -> Path | None:
        """Return the readable file of the last report, or None."""
        reports = self._reports()
        if not reports:
            return None
        markdown = reports[-1].file("report.md")
        return markdown if markdown.exists() else reports[-1].path

    @property
    def requirements(self) -> list[dict[str, Any]]:
        """Return the limits of all reports: name, limit, value, ok, how, and the label of the `report`."""
        return [
            {"report": report.label, **entry}
            for report in self._reports()
            for entry in report.facts.get("requirements", ())
        ]

    @property
    def requirements_met(self) -> bool:
        """Return whether every limit holds; true where the recipe sets none."""
        return all(entry["ok"] for entry in self.requirements)

    @property
    def missed(self) -> list[str]:
        """Return a line for each limit that does not hold."""
        return [
            f"{entry['report']}: {entry['name']} is {_limit_text(entry['value'])}, limit {entry['limit']:g} "
            f"({entry['how']})"
            for entry in self.requirements
            if not entry["ok"]
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain data: `format_version`, `recipe`, `folder`, `stages`, `report` and the limits.

        A stage has `label`, `stage`, `kind`, `folder`, `was_cached`, `seconds`, `peak_memory_bytes`, `digest`,
        `lineage` and `facts`. `requirements` are as the property; `requirements_met` says whether all hold.
        """
        return {
            "format_version": FORMAT_VERSION,
            "recipe": self.recipe,
            "folder": str(self.folder),
            "stages": [
                {
                    "label": artifact.label,
                    "stage": artifact.stage,
                    "kind": artifact.kind.value,
                    "folder": artifact.path.name,
                    "was_cached": result.was_cached,
                    "seconds": artifact.seconds,
                    "peak_memory_bytes": artifact.peak_memory_bytes,
                    "digest": artifact.digest,
                    "lineage": list(artifact.lineage),
                    "facts": artifact.facts,
                }
                for result in self.results
                for artifact in (result.artifact,)
            ],
            "report": None if self.report is None else str(self.report),
            "requirements": self.requirements,
            "requirements_met": self.requirements_met,
        }

    def _reports(self) -> list[Artifact]:
        return [result.artifact for result in self.results if result.artifact.kind is Kind.REPORT]


def _limit_text(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
