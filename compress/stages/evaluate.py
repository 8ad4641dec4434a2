"""Stage evaluate: score any model on a split, and say what it costs."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from compress.kind import Kind
from compress.stage import Stage


class Evaluate(Stage):
    """Score the source through the deployed post-processing; torch, ONNX and packed models alike."""

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL, Kind.QUANTIZED, Kind.ONNX, Kind.PACKED)
    MAKES: ClassVar[Kind] = Kind.SCORES
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "onnxruntime", "onnx")
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"threads"})
    CODE_VERSION: ClassVar[int] = 4  # 2: keeps the resampled map50; 3: map and map75; 4: what they are made of
    ACTION: ClassVar[str] = "compress.actions.evaluate"

    stage: Literal["evaluate"] = "evaluate"
    split: str = Field("val", description="Data split to score.")
    limit: int | None = Field(None, ge=1, description="Score only so many images; the whole split if left out.")
    sizes: bool = Field(True, description="Also export and pack torch models, to know their bytes at this point.")
    threads: int = Field(0, ge=0, description="Threads of ONNX Runtime; 0 is one per core.")
