"""A tiny plug-in and tiny stages, so that the engine is tested without torch and in milliseconds."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

from fake_plugin import FakePlugin
from pydantic import BaseModel, ConfigDict, Field

from compress import progress
from compress import stages as stage_table
from compress.dataset import Scores
from compress.errors import DataError, DetectorError, StageError
from compress.kind import Kind
from compress.stage import Stage, StageContext

NAME = "engine_fakes:FakeDetector"


def make_deploy(meta):
    """Return what stands for the deployed part; `refused` in the metadata is refused as a real one does it."""
    if "refused" in meta:
        raise DetectorError("krimp.deploy: refused is there. Export the model again.")
    return object()


class FakeConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    channels: int = Field(8, ge=1)
    backbone: Literal["small", "large"] = "small"
    checkpoint: str | None = None


class FakeData(BaseModel):
    model_config = ConfigDict(extra="forbid")

    root: str | None = None
    image_size: tuple[int, int] = (64, 64)
    ignore: list[str] = []


class FakeDataset:
    NAME: ClassVar[str] = "fake"
    REQUIRES: ClassVar[tuple[str, ...]] = ()
    CONFIG: ClassVar[type[BaseModel]] = FakeData

    def __init__(self, config: FakeData, classes) -> None:
        self.config = config
        self.image_size = config.image_size

    def check(self, split: str) -> None:
        if self.config.root is not None and not (Path(self.config.root) / split).exists():
            raise DataError(f"{self.config.root}: split {split!r} is missing. Expected a file of that name.")

    def digest(self, split: str) -> str:
        if self.config.root is None:
            return "none"
        file = Path(self.config.root) / split
        if not file.exists():
            raise DataError(f"{file}: gone")
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def images(self, split: str) -> Any:
        return []

    def loader(self, split: str, input_format, *, batch_size: int, augment: bool, seed: int) -> Any: ...

    def score(self, detections, truths) -> Scores:
        return Scores(0.5, "area", 0.5, {}, 1.0, 1.0, 0.5, 1, 1)


class FakeDetector(FakePlugin):
    REQUIRES: ClassVar[tuple[str, ...]] = ()
    CONFIG: ClassVar[type[BaseModel]] = FakeConfig
    DATA: ClassVar[str] = "engine_fakes:FakeDataset"
    DEPLOY: ClassVar[str] = "engine_fakes"
    data: Any = None

    def __init__(self, config: FakeConfig, data: FakeDataset) -> None:
        self.config = config
        self.data = data

    def build(self) -> Any: ...
    def load(self, model, checkpoint) -> None: ...
    def checkpoint_path(self) -> Path | None:
        return Path(self.config.checkpoint) if self.config.checkpoint else None

    def output_names(self) -> tuple[str, ...]:
        return ("out",)

    def example_input(self, batch_size: int = 1) -> Any: ...

    def loss(self, model, raw, batch) -> dict[str, Any]:
        return {}


class NeedsMissingFramework(FakeDetector):
    REQUIRES: ClassVar[tuple[str, ...]] = ("mmrotate_that_is_not_there", "mmrotate")


class BreaksContract(FakeDetector):
    def not_prunable(self) -> dict[str, str]:
        return {}


class BreaksDatasetContract(FakeDataset):
    def digest(self) -> str:
        return ""


class NeedsMissingReader(FakeDataset):
    REQUIRES: ClassVar[tuple[str, ...]] = ("reader_that_is_not_there",)


class BreaksHook(FakeDetector):
    def distill_loss(self, student, teacher) -> Any: ...


class RefusesExport(FakeDetector):
    def export_refusal(self) -> str | None:
        return "its second stage cannot be exported. Leave out export_onnx."


class MetadataOutOfBounds(FakeDetector):
    def metadata(self) -> dict[str, Any]:
        return {"refused": True}


class _Fake(Stage):
    """Writes its name, seed and input digests, and does as told on the way."""

    sleep_s: float = 0.0
    fault: str | None = None
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"sleep_s", "fault"})

    def run(self, context: StageContext) -> dict[str, Any]:
        started = context.scratch / "started"
        resumed = started.exists()
        started.write_text("yes")
        time.sleep(self.sleep_s)
        if self.fault is not None:
            _fail(self.fault)
        content = [self.stage, *(f"{name}={artifact.digest}" for name, artifact in sorted(context.inputs.items()))]
        content.append(str(self.model_dump(exclude={"name", "from_", "sleep_s", "fault"})))
        (context.folder / "sub").mkdir()
        (context.folder / "sub" / "content.txt").write_text("\n".join(content))
        return {"pid": os.getpid(), "resumed": resumed, "inputs": sorted(context.inputs), "params": 1234567}


def _fail(fault: str) -> None:
    if fault == "stage error":
        raise StageError("the numbers do not match. Use others.")
    if fault == "bug":
        raise ZeroDivisionError("a bug")
    if fault == "disk full":
        raise RuntimeError("could not save") from OSError(errno.ENOSPC, "No space left on device")
    if fault == "killed":
        os.kill(os.getpid(), 9)
    if fault == "warning":
        progress.warn("layer x is skipped")
    if fault == "memory":
        bytearray(200_000_000)


class FakeLoad(_Fake):
    MAKES: ClassVar[Kind] = Kind.MODEL
    stage: Literal["load_float"]


class FakeTrain(_Fake):
    MAKES: ClassVar[Kind] = Kind.MODEL
    SPLITS: ClassVar[tuple[str, ...]] = ("train",)
    stage: Literal["train"]
    epochs: int = 1


class FakePrune(_Fake):
    MAKES: ClassVar[Kind] = Kind.MODEL
    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    NOT_AFTER: ClassVar[tuple[str, ...]] = ("qat",)
    stage: Literal["prune_structured"]
    sparsity: float = Field(ge=0, lt=1, description="Share of zeros")
    schedule: Literal["cubic", "linear"] = "cubic"
    protect: tuple[str, ...] = ()


class FakeDistill(BaseModel):
    model_config = ConfigDict(extra="forbid")

    teacher: str
    weight: float = 1.0


class FakeFinetune(_Fake):
    MAKES: ClassVar[Kind] = Kind.MODEL
    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    SPLITS: ClassVar[tuple[str, ...]] = ("train",)
    stage: Literal["finetune"]
    epochs: int = 1
    distill: FakeDistill | None = None

    def references(self) -> tuple[str, ...]:
        return (self.distill.teacher,) if self.distill else ()


class FakeQat(_Fake):
    MAKES: ClassVar[Kind] = Kind.QUANTIZED
    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    stage: Literal["qat"]
    bit_width: int = Field(7, ge=2, le=8)


class FakeExport(_Fake):
    MAKES: ClassVar[Kind] = Kind.ONNX
    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL, Kind.QUANTIZED)
    stage: Literal["export_onnx"]


class FakePack(_Fake):
    MAKES: ClassVar[Kind] = Kind.PACKED
    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.ONNX,)
    stage: Literal["pack"]


class FakeEvaluate(_Fake):
    MAKES: ClassVar[Kind] = Kind.SCORES
    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL, Kind.QUANTIZED, Kind.ONNX, Kind.PACKED)
    stage: Literal["evaluate"]
    split: str = "val"


class FakeBenchmark(_Fake):
    MAKES: ClassVar[Kind] = Kind.LATENCY
    MACHINE_BOUND: ClassVar[bool] = True
    stage: Literal["benchmark"]
    models: tuple[str, ...]

    def references(self) -> tuple[str, ...]:
        return self.models


class FakeReport(_Fake):
    MAKES: ClassVar[Kind] = Kind.REPORT
    stage: Literal["report"]
    every_stage: bool = False
    split: str = "test"

    def run(self, context: StageContext) -> dict[str, Any]:
        facts = super().run(context)
        (context.folder / "report.md").write_text("\n".join(progress.collected_warnings()))
        return facts


TABLE: dict[str, type[Stage]] = {
    "load_float": FakeLoad,
    "train": FakeTrain,
    "evaluate": FakeEvaluate,
    "prune_structured": FakePrune,
    "finetune": FakeFinetune,
    "qat": FakeQat,
    "export_onnx": FakeExport,
    "pack": FakePack,
    "benchmark": FakeBenchmark,
    "report": FakeReport,
}


def install() -> None:
    """Put the fake stages in place of the real ones, for good; for processes of their own."""
    stage_table.STAGES.clear()
    stage_table.STAGES.update(TABLE)
