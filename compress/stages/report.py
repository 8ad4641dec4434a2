"""Stage report: everything the run found out, as JSON, markdown, charts and pictures."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compress.report.requirements import Requirements
from compress.stage import Kind, Stage, StageContext

if TYPE_CHECKING:
    from compress.artifact import Artifact
    from compress.report.document import Document


class Report(Stage):
    """Write report.json and report.md about all stages before this one.

    Limits that are missed do not stop the report: it is written, names them, and the fact
    `requirements_met` is False, which makes the run end with exit code 1.
    """

    MAKES: ClassVar[Kind] = Kind.REPORT
    LIBRARIES: ClassVar[tuple[str, ...]] = ("matplotlib",)

    stage: Literal["report"] = "report"
    split: str = Field("test", description="Data split whose scores are reported.")
    every_stage: bool = Field(True, description="Score each model of the run on that split, not only named ones.")
    pictures: int = Field(4, ge=0, description="Images with the boxes of the float and the final model.")
    baselines: tuple[str, ...] = Field((), description="Further float models; a loss counts from the best of all.")
    final: str | None = Field(None, description="The model that ships; default: the last packed one.")
    require: Requirements | None = Field(None, description="Limits; the run exits with 1 if one is missed.")

    def references(self) -> tuple[str, ...]:
        """Return the labels of the further baselines and of the final model, as far as named."""
        return tuple(dict.fromkeys([*self.baselines, *([self.final] if self.final else [])]))

    def run(self, context: StageContext) -> dict[str, Any]:
        """Collect, draw, write and return the table, the files and whether the limits were kept."""
        from compress.progress import say
        from compress.report.collect import float_artifact, in_order
        from compress.report.document import dump, parse
        from compress.report.markdown import plain_table, render
        from compress.report.pictures import draw_pictures

        artifacts = in_order(context.inputs)
        document = self._document(context)
        self._draw_charts(context, document)
        ends = [a for a in (float_artifact(artifacts), self._final(context)) if a is not None]
        if self.pictures and ends:
            models = list({artifact.label: artifact for artifact in ends}.values())
            document.pictures, reason = draw_pictures(
                context.folder, models, context.detector, split=self.split, count=self.pictures,
                score_threshold=_picture_threshold(document), device=context.recipe.device,
            )  # fmt: skip
            document.warnings += [reason] if reason else []
        text = dump(document)
        parse(text)  # what is written keeps the schema
        (context.folder / "report.json").write_text(text, encoding="utf-8")
        (context.folder / "report.md").write_text(render(document), encoding="utf-8")
        table = plain_table(document)
        say(table)
        return {
            "table": table,
            "requirements_met": document.requirements_met,
            "requirements": [entry.model_dump() for entry in document.requirements],
            "files": ["report.md", "report.json", *document.charts, *(picture.file for picture in document.pictures)],
        }

    def _final(self, context: StageContext) -> Artifact | None:
        from compress.report.collect import final_artifact, in_order

        return context.inputs[self.final] if self.final else final_artifact(in_order(context.inputs))

    def _document(self, context: StageContext) -> Document:
        from compress.progress import collected_warnings
        from compress.report import collect
        from compress.report.document import Document, finite
        from compress.report.environment import describe_environment
        from compress.report.requirements import check_requirements

        artifacts = collect.in_order(context.inputs)
        start, final = collect.float_artifact(artifacts), self._final(context)
        labels = [context.inputs[name].label for name in self.baselines]
        rows = collect.collect_rows(artifacts, self.split, labels)
        baseline = collect.best_baseline(rows, [*([start.label] if start else []), *labels])
        requirements = []
        if self.require is not None and start is not None and final is not None:
            requirements = check_requirements(
                self.require, rows, float_label=start.label, final_label=final.label, baseline_label=baseline
            )
        recipe = context.recipe.model_dump(mode="json", by_alias=True)
        return Document(
            name=context.recipe.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            split=self.split,
            seed=context.recipe.seed,
            recipe=finite(recipe),
            recipe_digest=_digest(recipe),
            float_label=start.label if start else None,
            final_label=final.label if final else None,
            baseline_label=baseline,
            deployed_score_threshold=context.detector.metadata().get("score_threshold"),
            rows=rows,
            stages=collect.stage_records(artifacts),
            benchmarks={a.label: finite(a.facts) for a in artifacts if a.kind is Kind.LATENCY},
            histories=collect.collect_histories(artifacts),
            requirements=requirements,
            requirements_met=all(entry.ok for entry in requirements),
            left_out=collect.collect_left_out(artifacts),
            warnings=collected_warnings(),
            environment=describe_environment(),
        )

    def _draw_charts(self, context: StageContext, document: Document) -> None:
        from compress.report.charts import draw_results, draw_training

        if draw_results(document.rows, context.folder / "results.png", final_label=document.final_label):
            document.charts.append("results.png")
        for label, history in document.histories.items():
            draw_training(label, history, context.folder / f"training_{label}.png")
            document.charts.append(f"training_{label}.png")


def _picture_threshold(document: Document) -> float | None:
    """Return the threshold that the table's precision is stated at: pictures and numbers then say the same."""
    return next((r.precision_score_threshold for r in document.rows if r.precision_score_threshold is not None), None)


def _digest(recipe: dict[str, Any]) -> str:
    """Return the sha256 of a recipe without the place of its data: the same recipe elsewhere has the same digest."""
    data = {name: value for name, value in recipe.get("data", {}).items() if name != "root"}
    return hashlib.sha256(json.dumps(recipe | {"data": data}, sort_keys=True).encode()).hexdigest()
