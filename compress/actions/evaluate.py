"""Action of stage evaluate: score any model on a split, and say what it costs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from compress.actions.forward_of import forward_of
from compress.actions.model_facts import model_facts
from compress.artifact import Artifact, to_json
from compress.codec import PackedFile, pack_file
from compress.dataset import METRICS, Scores
from compress.detector import Detector
from compress.export import export_onnx
from compress.kind import Kind
from compress.metrics.paired import save_resampled
from compress.model_folder import load_model
from compress.progress import track, warn
from compress.scoring import break_down, find_in_split
from compress.stage import StageContext
from compress.stages.evaluate import Evaluate

UNMEASURED = "map, map75, map50 and recall cannot be measured on it."
_LINEAGE_FACTS = ("params", "macs", "sparsity")


def run(stage: Evaluate, context: StageContext) -> dict[str, Any]:
    """Score, measure and write scores.json, and beside it what the score is made of."""
    source, detector = context.source, context.detector
    forward = forward_of(source, detector, threads=stage.threads, device=context.device)
    progress = _progress(f"score {source.label}")
    looked = find_in_split(detector, forward, stage.split, limit=stage.limit, progress=progress)
    del forward
    scores = detector.data.score(looked.found, looked.truths)
    if scores.num_objects != 0 and (made_of := break_down(detector, looked)) is not None:
        made_of.save(context.folder)
    for metric in METRICS:
        if (resampled := getattr(scores, f"{metric}_resampled")) is not None:
            save_resampled(context.folder, resampled, metric)
    if scores.num_objects == 0:
        warn(
            f"{stage.label}: no object in the {scores.num_images} images scored of split {stage.split!r}: {UNMEASURED}"
        )
    facts = {
        "scores": plain_scores(scores),
        "split": stage.split,
        "limit": stage.limit,
        "of": source.label,
        **_cost(source, detector, stage.sizes),
    }
    context.folder.joinpath("scores.json").write_text(to_json(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def plain_scores(scores: Scores) -> dict[str, Any]:
    """Return the scores as JSON-able data; NaN (a class without truth) becomes None."""
    resampled = {f"{metric}_resampled" for metric in METRICS}  # each has a file of its own
    names = [entry.name for entry in fields(scores) if entry.name not in resampled]
    return {name: _without_nan(getattr(scores, name)) for name in names}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _cost(source: Artifact, detector: Detector, with_sizes: bool) -> dict[str, Any]:
    """Return params, macs, sparsity, onnx_bytes, packed_bytes; None where it is not known."""
    if source.kind in (Kind.MODEL, Kind.QUANTIZED):
        return _torch_cost(source, detector, with_sizes)
    cost: dict[str, Any] = {name: source.facts.get(name) for name in _LINEAGE_FACTS}
    if source.kind is Kind.PACKED:
        path = source.file("model.krimp")
        with PackedFile(path) as packed:
            return cost | {"onnx_bytes": packed.header.original_bytes, "packed_bytes": packed.file_bytes}
    path = source.file("model.onnx")
    return cost | {"onnx_bytes": path.stat().st_size, "packed_bytes": _packed_bytes(path) if with_sizes else None}


def _torch_cost(source: Artifact, detector: Detector, with_sizes: bool) -> dict[str, Any]:
    model, _ = load_model(source.path, detector)
    cost = model_facts(model, detector)
    if not with_sizes:
        return cost | {"onnx_bytes": None, "packed_bytes": None}

    with tempfile.TemporaryDirectory(prefix="krimp-size-") as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path, detector=detector)
        return cost | {"onnx_bytes": path.stat().st_size, "packed_bytes": _packed_bytes(path)}


def _packed_bytes(path: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="krimp-size-") as folder:
        packed = Path(folder) / "model.krimp"
        pack_file(path, packed)
        return packed.stat().st_size


def _progress(label: str) -> Callable[[int, int], None]:
    """Return a callback (done, total) that drives a progress display."""
    steps: Iterator[int] | None = None
    shown = 0

    def advance(done: int, total: int) -> None:
        nonlocal steps, shown
        if steps is None:
            steps = iter(track(range(total), label, total))
            next(steps, None)
        while shown < done:
            next(steps, None)
            shown += 1

    return advance
