"""The schema of report.json. `python -m compress.report.document` writes it to schema.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from compress.breakdown import Breakdown, Corners
from compress.dataset import METRICS
from compress.report.forecast import Forecast, ForecastCheck
from compress.report.layers import LayerRow
from compress.report.looks import Looks
from compress.report.sensitivity import Sensitivity

FORMAT_VERSION = 1
SCHEMA_FILE = Path(__file__).with_name("schema.json")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Row(_Part):
    """One model of the run; null means not measured."""

    label: str
    stage: str
    kind: str
    after: str | None = Field(None, description="Label of the model that this one was made from.")
    scored_by: str | None = Field(None, description="Label of the evaluate stage that gave the scores.")
    map: float | None = Field(None, description="mAP50-95: ten IoU thresholds, 101 recall points, `max_dets`.")
    map_interval: tuple[float, float] | None = Field(None, description="95 % bootstrap interval over images.")
    map_loss: float | None = Field(None, description="map of `baseline_labels.map` - of this model.")
    map_loss_interval: tuple[float, float] | None = Field(None, description="As map50_loss_interval.")
    map75: float | None = Field(None, description="The same at the IoU threshold 0.75 alone.")
    map75_interval: tuple[float, float] | None = Field(None, description="95 % bootstrap interval over images.")
    map75_loss: float | None = Field(None, description="map75 of `baseline_labels.map75` - of this model.")
    map75_loss_interval: tuple[float, float] | None = Field(None, description="As map50_loss_interval.")
    max_dets: int | None = Field(None, description="Detections of a class in an image that count for map and map75.")
    map50: float | None = None
    map50_interval: tuple[float, float] | None = Field(None, description="95 % bootstrap interval over images.")
    map50_loss: float | None = Field(None, description="map50 of `baseline_label` - of this model.")
    map50_loss_interval: tuple[float, float] | None = Field(
        None, description="95 % paired bootstrap interval of map50_loss: both models on the same resampled images."
    )
    ap_method: str | None = None
    iou_threshold: float | None = None
    ap_per_class: dict[str, float | None] = Field(default_factory=dict, description="Of map50; null: no truth.")
    map_per_class: dict[str, float | None] = Field(default_factory=dict, description="Of map; null: no truth.")
    map75_per_class: dict[str, float | None] = Field(default_factory=dict, description="Of map75; null: no truth.")
    recall: float | None = None
    precision: float | None = None
    precision_score_threshold: float | None = None
    num_detections: int | None = None
    num_images: int | None = None
    num_objects: int | None = Field(None, description="Boxes to be found; without any no metric is measured.")
    extra_scores: dict[str, float | None] = Field(default_factory=dict)
    params: int | None = None
    macs: int | None = None
    sparsity: float | None = None
    parameters_bytes: int | None = Field(None, description="Float32 safetensors file of the parameters.")
    onnx_bytes: int | None = None
    packed_bytes: int | None = Field(None, description="Size if exported and packed at this point.")
    compression_ratio: float | None = Field(None, description="parameters_bytes of `float` / packed_bytes.")
    latency_ms_p50: float | None = None
    latency_ms_p90: float | None = None
    latency_ms_p99: float | None = None
    latency_ms_mean: float | None = None
    speedup_p50: float | None = Field(None, description="Against the reference of its benchmark.")
    seconds: float | None = None
    peak_memory_bytes: int | None = None


class StageRecord(_Part):
    """One stage of the run, in order."""

    label: str
    stage: str
    kind: str
    key: str
    digest: str
    lineage: list[str]
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    facts: dict[str, Any] = Field(default_factory=dict, description="As the stage returned them.")


class Requirement(_Part):
    """One limit of the recipe; `value` null means that it was not measured, which is not ok."""

    name: str
    limit: float
    value: float | None
    interval: tuple[float, float] | None = Field(None, description="95 % interval of the value, where one is known.")
    ok: bool
    how: str = Field(description="What was compared.")


class LeftOut(_Part):
    """A layer that a pass did not touch, with the reason."""

    stage: str
    what: str = Field(description="'not pruned', 'not quantized' or 'not fused'.")
    layer: str
    reason: str


class Picture(_Part):
    """One test image with the boxes of several models side by side."""

    file: str
    image: str
    num_detections: dict[str, int] = Field(description="By label of the model, left to right.")
    score_threshold: float | None = Field(None, description="Boxes score more than this; null: the deployed one.")
    size: tuple[int, int] | None = Field(None, description="(height, width) of the image, px.")
    panel: tuple[int, int, int, int] | None = Field(
        None, description="(x, y, width, height) of the first model's picture in the file, px; null: not known."
    )
    gap: int | None = Field(None, description="px between the pictures in the file; all have the same size.")
    missed: dict[str, list[Corners]] = Field(
        default_factory=dict, description="By label: corners of the objects that were not found, px of the image."
    )
    wrong: dict[str, list[Corners]] = Field(
        default_factory=dict, description="By label: corners of the detections that are wrong."
    )


class Document(_Part):
    """report.json."""

    format_version: int = FORMAT_VERSION
    name: str
    created: str = Field(description="UTC, ISO 8601.")
    split: str
    seed: int
    recipe: dict[str, Any] = Field(description="The whole recipe, defaults filled in.")
    recipe_digest: str = Field(description="sha256 of the recipe as sorted JSON, without data.root.")
    float_label: str | None
    final_label: str | None
    baseline_label: str | None = Field(
        None, description="Best of `float` and the report's baselines by map50; losses of map50 count from it."
    )
    baseline_labels: dict[str, str | None] = Field(
        default_factory=dict, description="By metric: the best of them, which the losses of that metric count from."
    )
    classes_without_truth: list[str] = Field(
        default_factory=list, description="Classes that no image scored has an object of; no mean counts them."
    )
    deployed_score_threshold: float | None = Field(None, description="What `num_detections` of a row counts above.")
    rows: list[Row]
    stages: list[StageRecord]
    benchmarks: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Facts by benchmark label.")
    histories: dict[str, list[dict[str, Any]]] = Field(default_factory=dict, description="Training rows by label.")
    forecast: Forecast | None = Field(None, description="What the plan should leave, said before the run.")
    forecast_checks: list[ForecastCheck] = Field(
        default_factory=list, description="Forecast beside measurement, as far as there is one."
    )
    looks: Looks = Field(default_factory=Looks, description="At 'val', to choose anything by it.")
    sensitivities: dict[str, Sensitivity] = Field(
        default_factory=dict, description="What parts can bear, by label of the stage that measured it."
    )
    breakdowns: dict[str, Breakdown] = Field(
        default_factory=dict,
        description="What the scores of the float model, the baselines and the final model are made of.",
    )
    layers: list[LayerRow] = Field(default_factory=list, description="Of the final model, in its own order.")
    requirements: list[Requirement] = Field(default_factory=list)
    requirements_met: bool = True
    left_out: list[LeftOut] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    pictures: list[Picture] = Field(default_factory=list)
    charts: list[str] = Field(default_factory=list)
    environment: dict[str, Any] = Field(default_factory=dict)

    def metrics(self) -> list[str]:
        """Return the metrics that some row has, the one that models are told by first."""
        return measured_metrics(self.rows)

    def row(self, label: str | None) -> Row | None:
        """Return the row of a label, or None."""
        return next((row for row in self.rows if row.label == label), None)


def measured_metrics(rows: Sequence[Row]) -> list[str]:
    """Return the metrics that some row has, in the order of `METRICS`."""
    return [metric for metric in METRICS if any(getattr(row, metric) is not None for row in rows)]


def history_metric(history: Sequence[Mapping[str, Any]]) -> str:
    """Return the metric by which a training kept its weights; map50 in those from before it could be chosen."""
    return next((str(row["metric"]) for row in history if row.get("metric")), "map50")


def dump(document: Document) -> str:
    """Return the JSON text of a report; NaN and infinity become null."""
    return json.dumps(finite(document.model_dump(mode="json")), indent=1, sort_keys=True, allow_nan=False) + "\n"


def parse(text: str) -> Document:
    """Read a report and check it against the schema.

    Raises:
        pydantic.ValidationError: a field is missing, unknown or of the wrong type.
    """
    return Document.model_validate_json(text)


def finite(value: Any) -> Any:
    """Return JSON-able data with every float that is not finite replaced by None."""
    if isinstance(value, dict):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def schema_text() -> str:
    """Return the JSON Schema of report.json."""
    schema = Document.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"Krimp report, format {FORMAT_VERSION}"
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
