"""Action of stage report: everything the run found out, as JSON, markdown, a page, charts and pictures."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from compress.actions.forward_of import forward_of
from compress.actions.layer_table import layer_table
from compress.artifact import Artifact
from compress.detector import Detector
from compress.errors import CompressError
from compress.kind import Kind
from compress.machine import describe_machine
from compress.progress import collected_warnings, say, warn
from compress.report import collect
from compress.report.charts import draw_results, draw_training
from compress.report.collect import final_artifact, float_artifact, in_order
from compress.report.document import Document, Row, dump, finite, parse
from compress.report.forecast import Forecast, ForecastCheck, compared
from compress.report.html import write_page
from compress.report.looks import collect_looks
from compress.report.markdown import plain_table, render
from compress.report.pictures import draw_pictures
from compress.report.requirements import check_requirements
from compress.report.sensitivity import Sensitivity
from compress.report.sensitivity_chart import draw_sensitivity
from compress.stage import StageContext
from compress.stages.report import Report


def run(stage: Report, context: StageContext) -> dict[str, Any]:
    """Collect, draw, write and return the table, the files and whether the limits were kept."""
    artifacts = in_order(context.inputs)
    document = _document(stage, context)
    _draw_charts(stage, context, document)
    ends = [a for a in (float_artifact(artifacts), _final(stage, context)) if a is not None]
    if stage.pictures and ends:
        detector = context.detector
        document.pictures, reason = draw_pictures(
            context.folder,
            list({artifact.label: artifact for artifact in ends}.values()),
            detector,
            forward_of=lambda artifact: forward_of(artifact, detector, device=context.device),
            split=stage.split,
            count=stage.pictures,
            score_threshold=_picture_threshold(document),
            breakdowns=document.breakdowns,
        )
        document.warnings += [reason] if reason else []
    if ends:
        _add_layers(document, artifacts, context.detector, ends[-1])
    document.breakdowns = {label: made_of.without_corners() for label, made_of in document.breakdowns.items()}
    text = dump(document)
    parse(text)  # what is written keeps the schema
    (context.folder / "report.json").write_text(text, encoding="utf-8")
    (context.folder / "report.md").write_text(render(document), encoding="utf-8")
    page = write_page(context.folder / "report.json", context.folder / "report.html")
    if page is not None:
        warn(page)
    table = plain_table(document)
    say(table)
    return {
        "table": table,
        "requirements_met": document.requirements_met,
        "requirements": [entry.model_dump() for entry in document.requirements],
        "files": [
            "report.md",
            "report.json",
            *(["report.html"] if page is None else []),
            *document.charts,
            *(picture.file for picture in document.pictures),
        ],
    }


def _final(stage: Report, context: StageContext) -> Artifact | None:
    return context.inputs[stage.final] if stage.final else final_artifact(in_order(context.inputs))


def _document(stage: Report, context: StageContext) -> Document:
    artifacts = collect.in_order(context.inputs)
    start, final = collect.float_artifact(artifacts), _final(stage, context)
    labels = [context.inputs[name].label for name in stage.baselines]
    rows = collect.collect_rows(artifacts, stage.split, labels)
    best = collect.best_baselines(rows, [*([start.label] if start else []), *labels])
    requirements = []
    if stage.require is not None and start is not None and final is not None:
        requirements = check_requirements(
            stage.require,
            rows,
            float_label=start.label,
            final_label=final.label,
            baseline_label=best.get("map50"),
            baseline_labels=best,
        )
    recipe = dict(context.record)
    foreseen = None if context.forecast is None else Forecast.model_validate(context.forecast)
    return Document(
        name=str(context.record["name"]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        split=stage.split,
        seed=int(context.record["seed"]),
        recipe=finite(recipe),
        recipe_digest=_digest(recipe),
        float_label=start.label if start else None,
        final_label=final.label if final else None,
        baseline_label=best.get("map50"),
        baseline_labels=best,
        classes_without_truth=collect.classes_without_truth(rows),
        deployed_score_threshold=context.detector.metadata().get("score_threshold"),
        rows=rows,
        stages=collect.stage_records(artifacts),
        benchmarks={a.label: finite(a.facts) for a in artifacts if a.kind is Kind.LATENCY},
        histories=collect.collect_histories(artifacts),
        forecast=foreseen,
        forecast_checks=[] if foreseen is None else _checks(foreseen, artifacts, rows),
        looks=collect_looks(artifacts),
        breakdowns=collect.collect_breakdowns(
            artifacts, stage.split, [*(one.label for one in (start, final) if one is not None), *best.values()]
        ),
        sensitivities={a.label: _sensitivity(a) for a in artifacts if a.kind is Kind.SENSITIVITY},
        requirements=requirements,
        requirements_met=all(entry.ok for entry in requirements),
        left_out=collect.collect_left_out(artifacts),
        warnings=collected_warnings(),
        environment=describe_machine(),
    )


def _checks(foreseen: Forecast, artifacts: list[Artifact], rows: list[Row]) -> list[ForecastCheck]:
    """Compare with what was measured; times of another machine say nothing."""
    measured = collect.measured_files(rows)
    if any(a.kind is Kind.LATENCY and a.facts.get("cpu") != foreseen.cpu for a in artifacts):
        measured = {label: {**one, "latency_ms": None} for label, one in measured.items()}
    return compared(foreseen, measured)


def _draw_charts(stage: Report, context: StageContext, document: Document) -> None:
    if draw_results(document.rows, context.folder / "results.png", final_label=document.final_label):
        document.charts.append("results.png")
    for label, history in document.histories.items():
        draw_training(label, history, context.folder / f"training_{label}.png")
        document.charts.append(f"training_{label}.png")
    for label, found in document.sensitivities.items():
        document.charts += draw_sensitivity(found, context.folder, prefix=f"{label}_")


def _add_layers(document: Document, artifacts: list[Artifact], detector: Detector, final: Artifact) -> None:
    """Fill in the layers; a network that cannot be read costs a line, not the report."""
    try:
        document.layers = layer_table(document, artifacts, detector, final)
    except CompressError as error:
        document.warnings.append(f"no table of layers: {error}")


def _sensitivity(artifact: Artifact) -> Sensitivity:
    return Sensitivity.model_validate({k: v for k, v in artifact.facts.items() if k in Sensitivity.model_fields})


def _picture_threshold(document: Document) -> float | None:
    """Return the threshold that the table's precision is stated at: pictures and numbers then say the same."""
    return next((r.precision_score_threshold for r in document.rows if r.precision_score_threshold is not None), None)


def _digest(recipe: dict[str, Any]) -> str:
    """Return the sha256 of a recipe without the place of its data: the same recipe elsewhere has the same digest."""
    data = {name: value for name, value in recipe.get("data", {}).items() if name != "root"}
    return hashlib.sha256(json.dumps(recipe | {"data": data}, sort_keys=True).encode()).hexdigest()
