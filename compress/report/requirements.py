"""The limits that a recipe may set for its own result, and whether they were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ByteSize, ConfigDict, Field

from compress.dataset import METRICS
from compress.report.document import Requirement, Row

_FORMS = (("min_float", ""), ("min", ""), ("max", "_loss"))  # of the limits of a metric


class Requirements(BaseModel):
    """Limits; a number that was not measured fails its limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_float_map: float | None = Field(None, ge=0, le=1, description="map (mAP50-95) of the float model.")
    min_map: float | None = Field(None, ge=0, le=1, description="map (mAP50-95) of the final model.")
    max_map_loss: float | None = Field(
        None, ge=0, le=1, description="map of the best baseline minus that of the final model, 0.02 is two points."
    )
    min_float_map75: float | None = Field(None, ge=0, le=1, description="map75 of the float model.")
    min_map75: float | None = Field(None, ge=0, le=1, description="map75 of the final model.")
    max_map75_loss: float | None = Field(None, ge=0, le=1, description="As max_map_loss, of map75.")
    min_float_map50: float | None = Field(None, ge=0, le=1, description="map50 of the float model.")
    min_map50: float | None = Field(None, ge=0, le=1, description="map50 of the final model.")
    max_map50_loss: float | None = Field(None, ge=0, le=1, description="As max_map_loss, of map50.")

    def of_accuracy(self) -> list[str]:
        """Return the names of the limits that only images with objects can keep."""
        names = [f"{form}_{metric}{end}" for metric in METRICS for form, end in _FORMS]
        return [name for name in names if getattr(self, name) is not None]

    min_compression_ratio: float | None = Field(None, gt=0, description="Float parameters / packed bytes.")
    max_packed_bytes: ByteSize | None = Field(None, gt=0, description="Bytes of the packed file: 330000, 330kB, 1.2MB.")
    max_latency_ms: float | None = Field(None, gt=0, description="p50 of the final model in the benchmark.")
    min_speedup: float | None = Field(None, gt=0, description="p50 of the benchmark's reference / of the final model.")
    min_sparsity: float | None = Field(None, ge=0, le=1, description="Zeros among the final weights.")
    min_macs_removed: float | None = Field(None, ge=0, le=1, description="Share of the float model's MACs.")


def check_requirements(
    required: Requirements,
    rows: Sequence[Row],
    *,
    float_label: str,
    final_label: str,
    baseline_label: str | None,
    baseline_labels: Mapping[str, str | None] | None = None,
) -> list[Requirement]:
    """Compare the measured numbers with the limits.

    Args:
        required: limits; those that are None are not checked.
        rows: of the whole run.
        float_label: the model before the first change.
        final_label: the model that ships.
        baseline_label: the model that the losses of map50 count from; None if it is not known.
        baseline_labels: by metric, the same of the others.

    Returns:
        One entry a limit, in the order of the fields.
    """
    by_label = {row.label: row for row in rows}
    start, final = by_label[float_label], by_label[final_label]
    macs, sparsity = _inherited("macs", final, by_label), _inherited("sparsity", final, by_label)
    removed = None if start.macs in (None, 0) or macs is None else 1 - macs / start.macs
    best = {metric: label or "the best baseline" for metric, label in (baseline_labels or {}).items()}
    best["map50"] = baseline_label or "the best baseline"
    values: dict[str, tuple[float | None, str]] = {}
    for metric in METRICS:
        of_best = f"{metric} of {best.get(metric, 'the best baseline')}"
        values |= {
            f"min_float_{metric}": (getattr(start, metric), f"{metric} of {float_label}"),
            f"min_{metric}": (getattr(final, metric), f"{metric} of {final_label}"),
            f"max_{metric}_loss": (getattr(final, f"{metric}_loss"), f"{of_best} - of {final_label}"),
        }
    values |= {
        "min_compression_ratio": (final.compression_ratio, f"parameters_bytes of {float_label} / {final_label}"),
        "max_packed_bytes": (final.packed_bytes, f"bytes of the packed file of {final_label}"),
        "max_latency_ms": (final.latency_ms_p50, f"latency p50 of {final_label}"),
        "min_speedup": (final.speedup_p50, f"latency p50 of the benchmark's reference / of {final_label}"),
        "min_sparsity": (sparsity, f"zeros among the weights of {final_label}"),
        "min_macs_removed": (removed, f"1 - MACs of {final_label} / of {float_label}"),
    }
    checked = []
    for name, (value, how) in values.items():
        limit = getattr(required, name)
        if limit is None:
            continue
        ok = value is not None and (value <= limit if name.startswith("max_") else value >= limit)
        lost = name.removeprefix("max_") if name.endswith("_loss") else None
        interval = getattr(final, f"{lost}_interval") if lost else None
        checked.append(Requirement(name=name, limit=limit, value=value, interval=interval, ok=ok, how=how))
    return checked


def _inherited(name: str, row: Row, by_label: dict[str, Row]) -> float | None:
    """Return a count of a row, or of the nearest model before it that has one: export changes none."""
    current: Row | None = row
    while current is not None:
        value = getattr(current, name)
        if value is not None:
            return float(value)
        current = by_label.get(current.after) if current.after else None
    return None
