"""Action of stage benchmark: latency of several models in one run, how they compare, and where it goes."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession

from compress import codec
from compress.artifact import Artifact, to_json
from compress.errors import StageError
from compress.kind import Kind
from compress.layer_names import layer_of, layers_of
from compress.machine import cpu_name, latency_machine
from compress.names_file import names_beside
from compress.plugins import deploy_of
from compress.predictor import Predictor
from compress.progress import track
from compress.runtime.forwards import MODEL_FILES, session_forward
from compress.runtime.latency import compare
from compress.runtime.profile import seconds_by_layer
from compress.runtime.session import open_session
from compress.stage import StageContext
from compress.stages.benchmark import Benchmark


def run(stage: Benchmark, context: StageContext) -> dict[str, Any]:
    """Time the models and write latency.json.

    Raises:
        StageError: a name is not of an ONNX or packed model.
    """
    paths = {label: _model_file(context.inputs[label]) for label in stage.models}
    sessions = {label: open_session(path, threads=stage.threads) for label, path in paths.items()}
    images = context.detector.example_input(1).numpy()
    calls = {label: _network_call(session, images) for label, session in sessions.items()}
    steps = iter(track(range(stage.warmup + stage.runs), f"{stage.label}: network"))
    next(steps)
    facts = compare(calls, warmup=stage.warmup, runs=stage.runs, tick=lambda _: next(steps, None))
    if stage.end_to_end:
        facts["end_to_end"] = _end_to_end(stage, context, sessions)
    facts["layers"] = {label: _layers_ms(context.inputs[label], images, stage.threads) for label in stage.models}
    facts |= {
        "threads": stage.threads,
        "warmup": stage.warmup,
        "runs": stage.runs,
        "batch_size": 1,
        "image_size": list(images.shape[2:]),
        "cpu": cpu_name(),
        "environment": latency_machine(),
    }
    context.folder.joinpath("latency.json").write_text(to_json(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def _end_to_end(stage: Benchmark, context: StageContext, sessions: dict[str, InferenceSession]) -> dict[str, Any]:
    """Return percentiles and ratios of picture-to-boxes."""
    deploy = deploy_of(context.detector)
    _, image, _ = next(iter(context.detector.data.images(stage.split)))
    predictors = {label: Predictor(session_forward(session), deploy) for label, session in sessions.items()}
    calls = {label: partial(predictor.detect, image) for label, predictor in predictors.items()}
    steps = iter(track(range(stage.warmup + stage.runs), f"{stage.label}: end to end"))
    next(steps)
    facts = compare(calls, warmup=stage.warmup, runs=stage.runs, tick=lambda _: next(steps, None))
    detections = {label: len(call()) for label, call in calls.items()}
    return facts | {"num_detections": detections, "split": stage.split}


def _layers_ms(artifact: Artifact, images: np.ndarray, threads: int) -> dict[str, float]:
    """Return layer -> milliseconds of an image, by the runtime's profile; see `seconds_by_layer`."""
    path = _model_file(artifact)
    names = names_beside(path)
    with tempfile.TemporaryDirectory(prefix="krimp-layers-") as folder:
        if artifact.kind is Kind.PACKED:
            unpacked = Path(folder) / "model.onnx"
            codec.unpack_file(path, unpacked)
            path = unpacked
        layers = layers_of([names.get(fact.name, fact.name) for fact in codec.inspect_file(path)])
        found = seconds_by_layer(
            path, images, threads=threads, layer_of=lambda name: layer_of(names.get(name, name), layers)
        )
    return {layer: round(1e3 * seconds, 4) for layer, seconds in found.items()}


def _model_file(artifact: Artifact) -> Path:
    if artifact.kind not in MODEL_FILES:
        raise StageError(
            f"benchmark: {artifact.label!r} holds {artifact.kind.value}, expected onnx or packed. "
            "Put an export_onnx stage after it and name that one."
        )
    return artifact.file(MODEL_FILES[artifact.kind])


def _network_call(session: InferenceSession, images: np.ndarray) -> Any:
    name = session.get_inputs()[0].name

    def call() -> Any:
        return session.run(None, {name: images})

    return call
