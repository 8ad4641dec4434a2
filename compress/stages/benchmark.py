"""Stage benchmark: latency of several models in one run, and how they compare."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from compress.kind import Kind
from compress.stage import Stage


class Benchmark(Stage):
    """Time ONNX and packed models in turns; the first model is the reference of all ratios."""

    MAKES: ClassVar[Kind] = Kind.LATENCY
    LIBRARIES: ClassVar[tuple[str, ...]] = ("onnxruntime", "numpy")
    MACHINE_BOUND: ClassVar[bool] = True
    CODE_VERSION: ClassVar[int] = 2  # 2: milliseconds of each layer
    ACTION: ClassVar[str] = "compress.actions.benchmark"

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
