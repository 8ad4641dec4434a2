"""Turn the artifacts of a run into the rows of a report. Pure functions; nothing is measured here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compress.artifact import Artifact
from compress.breakdown import Breakdown, load_breakdown
from compress.dataset import METRICS
from compress.kind import Kind
from compress.metrics.paired import load_resampled, loss_interval
from compress.report.document import LeftOut, Row, StageRecord, finite, measured_metrics

MODELS = frozenset({Kind.MODEL, Kind.QUANTIZED, Kind.ONNX, Kind.PACKED})
STARTS = ("train", "load_float")
_COSTS = ("params", "macs", "sparsity", "parameters_bytes", "onnx_bytes", "packed_bytes")
_LATENCIES = ("latency_ms_p50", "latency_ms_p90", "latency_ms_p99", "latency_ms_mean")
_LEFT_OUT = {  # fact of a stage -> what it says
    "not_pruned": "not pruned",
    "not_prunable": "not pruned",
    "not_quantized": "not quantized",
    "not_quantizable": "not quantized",
    "unfused": "not fused",
}


def in_order(inputs: Mapping[str, Artifact]) -> list[Artifact]:
    """Return each artifact once, in the order of the run (the number before its folder's name)."""
    unique = list({artifact.label: artifact for artifact in inputs.values()}.values())
    numbers = [re.match(r"(\d+)_", artifact.path.name) for artifact in unique]
    if all(numbers):
        unique.sort(key=lambda artifact: int(artifact.path.name.split("_", 1)[0]))
    return unique


def float_artifact(artifacts: Sequence[Artifact]) -> Artifact | None:
    """Return the model before the first change."""
    return next((a for a in artifacts if a.label == "float" or a.stage in STARTS), None)


def final_artifact(artifacts: Sequence[Artifact]) -> Artifact | None:
    """Return the model that ships: the last packed one, else the last ONNX one, else the last model."""
    for kind in (Kind.PACKED, Kind.ONNX, Kind.QUANTIZED, Kind.MODEL):
        found = [artifact for artifact in artifacts if artifact.kind is kind]
        if found:
            return found[-1]
    return None


def collect_rows(artifacts: Sequence[Artifact], split: str, baselines: Sequence[str] = ()) -> list[Row]:
    """Return one row a model, with the scores, sizes and latencies that other stages measured of it.

    Args:
        artifacts: of the whole run, in order.
        split: scores of other splits are left out.
        baselines: labels of further float models; the loss of a metric counts from the best of them and the float
            model by that metric.
    """
    start = float_artifact(artifacts)
    scored = {a.facts["of"]: a for a in artifacts if a.kind is Kind.SCORES and a.facts.get("split") == split}
    timed = {
        label: (times, artifact.facts.get("ratios", {}).get(label, {}))
        for artifact in artifacts
        if artifact.kind is Kind.LATENCY
        for label, times in artifact.facts.get("models", {}).items()
    }
    original = _costs(start, scored.get(start.label)).get("parameters_bytes") if start else None
    rows = []
    for artifact in artifacts:
        if artifact.kind not in MODELS:
            continue
        score = scored.get(artifact.label)
        costs = _costs(artifact, score)
        packed = costs.get("packed_bytes")
        times, ratio = timed.get(artifact.label, ({}, {}))
        models = [label for label in artifact.lineage if label != artifact.label]
        fields: dict[str, Any] = {
            "label": artifact.label,
            "stage": artifact.stage,
            "kind": artifact.kind.value,
            "after": models[-1] if models else None,
            "scored_by": score.label if score else None,
            **(_scores(score.facts.get("scores", {})) if score else {}),
            **costs,
            "compression_ratio": original / packed if original and packed else None,
            **{name: times.get(name) for name in _LATENCIES},
            "speedup_p50": ratio.get("speedup_p50"),
            "seconds": artifact.seconds or None,
            "peak_memory_bytes": artifact.peak_memory_bytes or None,
        }
        rows.append(Row.model_validate(finite(fields)))
    candidates = [start.label, *baselines] if start else list(baselines)
    for metric in METRICS:
        rows = _with_losses(rows, scored, best_baseline(rows, candidates, metric), metric)
    return rows


def measured_files(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Return label of each exported file -> packed_bytes and latency_ms, its own or of what was packed from it."""
    found = {}
    for row in rows:
        if row.kind == Kind.ONNX.value:
            both = [row, *(one for one in rows if one.kind == Kind.PACKED.value and one.after == row.label)]
            sizes = [one.packed_bytes for one in reversed(both) if one.packed_bytes is not None]
            times = [one.latency_ms_p50 for one in both if one.latency_ms_p50 is not None]
            found[row.label] = {
                "packed_bytes": float(sizes[0]) if sizes else None,
                "latency_ms": times[0] if times else None,
            }
    return found


def best_baseline(rows: Sequence[Row], labels: Sequence[str], metric: str = "map50") -> str | None:
    """Return which of some models scored best, None if one of them was not scored: it might be the best."""
    by_label = {row.label: row for row in rows}
    known: dict[str, float | None] = {label: getattr(by_label[label], metric) for label in labels if label in by_label}
    if not known or len(known) < len(set(labels)) or None in known.values():
        return None
    return max(known, key=lambda label: known[label] or 0.0)


def best_baselines(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, str | None]:
    """Return `best_baseline` of each metric that some row has."""
    return {metric: best_baseline(rows, labels, metric) for metric in measured_metrics(rows)}


def classes_without_truth(rows: Sequence[Row]) -> list[str]:
    """Return the classes that have no average precision in any scored row, because nothing is there to be found."""
    scored = [row.ap_per_class for row in rows if row.ap_per_class]
    names = dict.fromkeys(name for of_row in scored for name in of_row)
    return [name for name in names if all(of_row.get(name) is None for of_row in scored)]


def _with_losses(rows: Sequence[Row], scored: Mapping[str, Artifact], baseline: str | None, metric: str) -> list[Row]:
    """Return the rows with the loss of a metric against the baseline, and its paired bootstrap interval."""
    if baseline is None:
        return list(rows)
    reference = next(getattr(row, metric) for row in rows if row.label == baseline)
    draws = {label: load_resampled(artifact.path, metric) for label, artifact in scored.items()}
    filled = []
    for row in rows:
        loss, interval = None, None
        value = getattr(row, metric)
        if row.label != baseline and value is not None and reference is not None:
            loss = reference - value
            alike = _images_of(scored[row.label]) == _images_of(scored[baseline])
            interval = loss_interval(draws[baseline], draws[row.label]) if alike else None
        filled.append(row.model_copy(update={f"{metric}_loss": loss, f"{metric}_loss_interval": interval}))
    return filled


def _images_of(score: Artifact) -> tuple[Any, ...]:
    """Return what decides which images a score is of: only scores of the same ones can be paired."""
    return score.facts.get("limit"), score.facts.get("scores", {}).get("num_images")


def stage_records(artifacts: Iterable[Artifact]) -> list[StageRecord]:
    """Return what each stage took and returned."""
    return [
        StageRecord(
            label=artifact.label,
            stage=artifact.stage,
            kind=artifact.kind.value,
            key=artifact.key,
            digest=artifact.digest,
            lineage=list(artifact.lineage),
            seconds=artifact.seconds or None,
            peak_memory_bytes=artifact.peak_memory_bytes or None,
            facts=finite({name: value for name, value in artifact.facts.items() if name != "history"}),
        )
        for artifact in artifacts
    ]


def collect_left_out(artifacts: Iterable[Artifact]) -> list[LeftOut]:
    """Return the layers that stages name as not pruned, not quantized or not fused."""
    found = []
    for artifact in artifacts:
        for fact, what in _LEFT_OUT.items():
            for layer, reason in _named_reasons(artifact.facts.get(fact)):
                found.append(LeftOut(stage=artifact.label, what=what, layer=layer, reason=reason))
    return found


def collect_breakdowns(artifacts: Iterable[Artifact], split: str, labels: Iterable[str | None]) -> dict[str, Breakdown]:
    """Return what the scores of some models on a split are made of, by label, as far as it was written."""
    scored = {a.facts["of"]: a for a in artifacts if a.kind is Kind.SCORES and a.facts.get("split") == split}
    found = {label: load_breakdown(scored[label].path) for label in dict.fromkeys(labels) if label in scored}
    return {str(label): made_of for label, made_of in found.items() if made_of is not None}


def collect_histories(artifacts: Iterable[Artifact]) -> dict[str, list[dict[str, Any]]]:
    """Return the training rows by label, of the stages that trained."""
    return {a.label: finite(a.facts["history"]) for a in artifacts if a.facts.get("history")}


def _costs(artifact: Artifact, score: Artifact | None) -> dict[str, Any]:
    """Return the counts of a model: its own, else those that its evaluation measured."""
    sources = [artifact.facts, score.facts if score else {}]
    return {name: next((f[name] for f in sources if f.get(name) is not None), None) for name in _COSTS}


def _scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in scores.items() if name in Row.model_fields}
    if _nothing_to_find(scores):
        fields |= dict.fromkeys([*METRICS, *(f"{metric}_interval" for metric in METRICS), "recall"])
    return fields | {"extra_scores": dict(scores.get("extra") or {})}


def _nothing_to_find(scores: Mapping[str, Any]) -> bool:
    """Return whether the images scored hold no object, so that the zeros of a score are no measurement."""
    if scores.get("num_objects") is not None:
        return bool(scores["num_objects"] == 0)
    of_class = scores.get("ap_per_class") or {}  # scores from before objects were counted
    return bool(of_class) and all(value is None for value in of_class.values())


def _named_reasons(value: Any) -> list[tuple[str, str]]:
    """Return (layer, reason) pairs from a mapping or a list of {name, reason}."""
    if isinstance(value, Mapping):
        return [(str(layer), str(reason)) for layer, reason in value.items()]
    if isinstance(value, list | tuple):
        return [
            (str(entry.get("name", "?")), str(entry.get("reason", ""))) for entry in value if isinstance(entry, Mapping)
        ]
    return []
