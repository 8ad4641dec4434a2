"""Stage report: everything the run found out, as JSON, markdown, charts and pictures."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from compress.kind import Kind
from compress.report.requirements import Requirements
from compress.stage import Stage


class Report(Stage):
    """Write report.json, report.md and report.html about all stages before this one.

    Limits that are missed do not stop the report: it is written, names them, and the fact
    `requirements_met` is False, which makes the run end with exit code 1.
    """

    MAKES: ClassVar[Kind] = Kind.REPORT
    LIBRARIES: ClassVar[tuple[str, ...]] = ("matplotlib",)
    ACTION: ClassVar[str] = "compress.actions.report"

    stage: Literal["report"] = "report"
    split: str = Field("test", description="Data split whose scores are reported.")
    every_stage: bool = Field(True, description="Score each model of the run on that split, not only named ones.")
    pictures: int = Field(
        7, ge=0, description="Images with the boxes of the float and the final model: a usual one, then the worst."
    )
    baselines: tuple[str, ...] = Field((), description="Further float models; a loss counts from the best of all.")
    final: str | None = Field(None, description="The model that ships; default: the last packed one.")
    require: Requirements | None = Field(None, description="Limits; the run exits with 1 if one is missed.")

    def references(self) -> tuple[str, ...]:
        """Return the labels of the further baselines and of the final model, as far as named."""
        return tuple(dict.fromkeys([*self.baselines, *([self.final] if self.final else [])]))
