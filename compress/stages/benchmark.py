"""Stage benchmark: latency of several models in one run, and how they compare."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from compress.artifact import to_json
from compress.errors import StageError
from compress.progress import track
from compress.stage import Kind, Stage, StageContext

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession

    from compress.artifact import Artifact


class Benchmark(Stage):
    """Time ONNX and packed models in turns; the first model is the reference of all ratios."""

    MAKES: ClassVar[Kind] = Kind.LATENCY
    LIBRARIES: ClassVar[tuple[str, ...]] = ("onnxruntime", "numpy")
    MACHINE_BOUND: ClassVar[bool] = True

    stage: Literal["benchmark"] = "benchmark"
    models: tuple[str, ...] = Field(min_length=1, description="Names of stages that export or pack; reference first.")
    threads: int = Field(1, ge=0, description="Threads of ONNX Runtime; 0 is one per core.")
    warmup: int = Field(10, ge=0, description="Rounds that are not counted.")
    runs: int = Field(50, ge=3, description="Counted rounds; every model runs once a round.")
    end_to_end: bool = Field(True, description="Also time picture to boxes, on the first image of `split`.")
    split: str = Field("val", description="Where the picture of the end-to-end timing comes from.")

    @field_validator("models")
    @classmethod
    def _named_once(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(models)) != len(models):
            msg = "a model is named twice; name each one once"
            raise ValueError(msg)
        return models

    def references(self) -> tuple[str, ...]:
        """Return the labels of the models."""
        return self.models

    def splits(self) -> tuple[str, ...]:
        """Return the split of the picture, if one is used."""
        return (self.split,) if self.end_to_end else ()

    def run(self, context: StageContext) -> dict[str, Any]:
        """Time the models and write latency.json.

        Raises:
            StageError: a name is not of an ONNX or packed model.
        """
        from compress.runtime.latency import compare, cpu_name, environment
        from compress.runtime.session import open_session

        paths = {label: _model_file(context.inputs[label]) for label in self.models}
        sessions = {label: open_session(path, threads=self.threads) for label, path in paths.items()}
        images = context.detector.example_input(1).numpy()
        calls = {label: _network_call(session, images) for label, session in sessions.items()}
        steps = iter(track(range(self.warmup + self.runs), f"{self.label}: network"))
        next(steps)
        facts = compare(calls, warmup=self.warmup, runs=self.runs, tick=lambda _: next(steps, None))
        if self.end_to_end:
            facts["end_to_end"] = self._end_to_end(context, sessions)
        facts |= {
            "threads": self.threads,
            "warmup": self.warmup,
            "runs": self.runs,
            "batch_size": 1,
            "image_size": list(images.shape[2:]),
            "cpu": cpu_name(),
            "environment": environment(),
        }
        context.folder.joinpath("latency.json").write_text(to_json(facts, indent=2) + "\n", encoding="utf-8")
        return facts

    def _end_to_end(self, context: StageContext, sessions: dict[str, InferenceSession]) -> dict[str, Any]:
        """Return percentiles and ratios of picture-to-boxes."""
        from compress.runtime.end_to_end import end_to_end_call, picture_of
        from compress.runtime.latency import compare

        meta = context.detector.metadata()
        deploy = importlib.import_module(context.detector.DEPLOY)
        batch = next(iter(context.detector.loader(self.split, batch_size=1, augment=False, seed=context.seed)))
        image = picture_of(batch.images[0].numpy(), meta)
        calls = {label: end_to_end_call(session, deploy, meta, image) for label, session in sessions.items()}
        steps = iter(track(range(self.warmup + self.runs), f"{self.label}: end to end"))
        next(steps)
        facts = compare(calls, warmup=self.warmup, runs=self.runs, tick=lambda _: next(steps, None))
        detections = {label: len(call()[0]) for label, call in calls.items()}
        return facts | {"num_detections": detections, "split": self.split}


def _model_file(artifact: Artifact) -> Any:
    from compress.runtime.forwards import MODEL_FILES

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
