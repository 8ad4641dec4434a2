"""From what somebody types to a `Side`: a run, one of its stages, a report, or a model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compress.artifact import MANIFEST, Artifact, open_artifact
from compress.breakdown import load_breakdown
from compress.compare.sides import Images, Scored, Side
from compress.dataset import METRICS
from compress.errors import DataError, StageError, suggest
from compress.kind import Kind
from compress.metrics.paired import load_resampled
from compress.report.collect import MODELS, final_artifact, in_order
from compress.report.document import Document, Row, parse
from compress.runtime.forwards import MODEL_FILES

REPORT_FILE = "report.json"
_SUFFIXES = (".onnx", ".krimp")


def open_side(path: Path, split: str | None = None) -> Side:
    """Return what lies at a path.

    Args:
        path: folder of a run (`out/demo`), of one stage of it (`out/demo/07_pack`), a report.json or a model file.
        split: whose scores are taken; None: that of the run's report, else the one that its model was scored on.

    Raises:
        DataError: nothing of the kind lies there.
        StageError: a stage of the run cannot be read.
    """
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return _of_run(path, path.parent, split, open_artifact(path).label)
        if _stage_folders(path):
            return _of_run(path, path, split)
        runs = sorted(place.name for place in path.iterdir() if place.is_dir() and _stage_folders(place))
        raise DataError(f"{path}: is no folder of a run.{suggest(path.name, runs) if runs else ' Expected one.'}")
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder. Expected a run, a {REPORT_FILE}, or an ONNX or .krimp file.")
    if path.suffix.lower() == ".json":
        return _of_report(path, split)
    if path.suffix.lower() not in _SUFFIXES:
        raise DataError(f"{path}: expected a run, a {REPORT_FILE}, or a file {' or '.join(_SUFFIXES)}.")
    return Side(str(path), "file", model=path, num_bytes=path.stat().st_size)


def _stage_folders(root: Path) -> list[Path]:
    return sorted(place.parent for place in root.glob(f"[0-9]*_*/{MANIFEST}"))


def _of_run(path: Path, root: Path, split: str | None, label: str | None = None) -> Side:
    artifacts = in_order({place.name: open_artifact(place) for place in _stage_folders(root)})
    document = _report_of(artifacts)
    by_label = {artifact.label: artifact for artifact in artifacts}
    wanted = label or (document.final_label if document else None)
    model = by_label.get(wanted) if wanted else final_artifact(artifacts)
    if model is None or model.kind not in MODELS:
        models = [one.label for one in artifacts if one.kind in MODELS]
        told = f"one of the stages {', '.join(models)}" if models else "a run that has made one"
        raise DataError(f"{path}: holds no model. Expected {told}.")
    score = _score_of(model, artifacts, split or (document.split if document else None))
    file = model.file(MODEL_FILES[model.kind]) if model.kind in MODEL_FILES else None
    latency = _latency_of(model, artifacts)
    return Side(
        str(path),
        "run",
        label=model.label,
        model=file,
        num_bytes=file.stat().st_size if file is not None and file.is_file() else None,
        latency_ms=latency[0] if latency else None,
        latency_how=latency[1] if latency else None,
        scored=None if score is None else _stored(score),
        recipe=document.recipe if document else None,
    )


def _report_of(artifacts: Sequence[Artifact]) -> Document | None:
    """Return the last report of a run, None without any or where it is of another version of Krimp."""
    for artifact in reversed(artifacts):
        if artifact.kind is Kind.REPORT and artifact.file(REPORT_FILE).is_file():
            try:
                return parse(artifact.file(REPORT_FILE).read_text(encoding="utf-8"))
            except ValidationError:
                return None
    return None


def _score_of(model: Artifact, artifacts: Sequence[Artifact], split: str | None) -> Artifact | None:
    """Return the scores of a model; those of the ONNX file where only that was scored, which a packed one equals."""
    scores = [one for one in artifacts if one.kind is Kind.SCORES]
    labels = [model.label]
    if model.kind is Kind.PACKED:
        exported = {one.label for one in artifacts if one.kind is Kind.ONNX}
        labels += [label for label in reversed(model.lineage) if label in exported][:1]
    for label in labels:
        mine = [one for one in scores if one.facts.get("of") == label]
        fitting = [one for one in mine if split is None or one.facts.get("split") == split]
        if fitting:
            return fitting[-1]
    return None


def _stored(score: Artifact) -> Scored:
    facts, parts = score.facts, score.key_parts or {}
    scores = facts.get("scores", {})
    measured = bool(scores.get("num_objects", True))
    resampled = {metric: load_resampled(score.path, metric) for metric in METRICS}
    breakdown = load_breakdown(score.path)
    return Scored(
        images=Images(
            split=str(facts.get("split")),
            digest=parts.get("data", {}).get(facts.get("split")),
            limit=facts.get("limit"),
            num_images=scores.get("num_images"),
            num_objects=scores.get("num_objects"),
            classes=_classes(parts.get("detector", {})),
            max_dets=scores.get("max_dets"),
        ),
        values={metric: scores.get(metric) if measured else None for metric in METRICS},
        intervals={metric: tuple(ends) for metric in METRICS if (ends := scores.get(f"{metric}_interval"))},
        resampled={metric: values for metric, values in resampled.items() if values is not None},
        outcomes=() if breakdown is None else tuple(breakdown.images),
        score_threshold=None if breakdown is None else breakdown.score_threshold,
    )


def _classes(detector: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = detector.get("classes")
    return None if names is None else tuple(map(str, names))


def _latency_of(model: Artifact, artifacts: Sequence[Artifact]) -> tuple[float, str] | None:
    for artifact in reversed(artifacts):
        times = artifact.facts.get("models", {}).get(model.label) if artifact.kind is Kind.LATENCY else None
        if times:
            return times["latency_ms_p50"], f"{artifact.facts.get('cpu')}, {artifact.facts.get('threads')} thread(s)"
    return None


def _of_report(path: Path, split: str | None) -> Side:
    """Return the side of a report.json: that of its run where it lies in one, else what stands in it alone."""
    try:
        document = parse(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no {REPORT_FILE} of this version: {_first(error)}. Expected one.") from error
    root = path.parent.parent
    if (path.parent / MANIFEST).is_file() and document.final_label is not None:
        try:
            return _of_run(path, root, split or document.split, document.final_label)
        except (DataError, StageError):
            pass  # its stages were removed: what the report says is left
    row = document.row(document.final_label)
    if row is None:
        raise DataError(f"{path}: names no final model. Expected a report of a run that ends in one.")
    if split not in (None, document.split):
        raise DataError(f"{path}: is of the split {document.split!r}, --split is {split!r}. Leave --split out.")
    benchmark = next((facts for facts in document.benchmarks.values() if row.label in facts.get("models", {})), {})
    return Side(
        str(path),
        "report",
        label=row.label,
        num_bytes=row.packed_bytes or row.onnx_bytes,
        latency_ms=row.latency_ms_p50,
        latency_how=f"{benchmark.get('cpu')}, {benchmark.get('threads')} thread(s)" if benchmark else None,
        scored=_reported(row, document),
        recipe=document.recipe,
    )


def _reported(row: Row, document: Document) -> Scored | None:
    values = {metric: getattr(row, metric) for metric in METRICS}
    if all(value is None for value in values.values()):
        return None
    breakdown = document.breakdowns.get(row.label)
    return Scored(
        images=Images(
            split=document.split,
            num_images=row.num_images,
            num_objects=row.num_objects,
            classes=_classes(document.recipe.get("detector", {})),
            max_dets=row.max_dets,
        ),
        values=values,
        intervals={metric: ends for metric in METRICS if (ends := getattr(row, f"{metric}_interval"))},
        outcomes=() if breakdown is None else tuple(breakdown.images),
        score_threshold=None if breakdown is None else breakdown.score_threshold,
    )


def _first(error: ValidationError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
