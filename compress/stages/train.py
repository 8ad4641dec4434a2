"""Stage train: the float baseline, from the plug-in's fresh model."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from compress.kind import Kind
from compress.stage import Stage
from compress.training.settings import TrainingFields


class Train(Stage):
    """Train a fresh model (backbone weights as the plug-in's configuration says).

    Its result is the model that every other stage calls `float`.
    """

    MAKES: ClassVar[Kind] = Kind.MODEL
    NOT_AFTER: ClassVar[tuple[str, ...]] = (
        "train", "load_float", "finetune", "prune_structured", "prune_unstructured", "qat", "export_onnx", "pack",
    )  # fmt: skip
    SPLITS: ClassVar[tuple[str, ...]] = ("train",)
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"training.checkpoint_minutes"})
    TRAINS: ClassVar[bool] = True
    ACTION: ClassVar[str] = "compress.actions.train"

    stage: Literal["train"] = "train"
    training: TrainingFields = Field(default_factory=TrainingFields, description="How it is trained.")

    def splits(self) -> tuple[str, ...]:
        """Return 'train', and 'val' if the training is scored."""
        return ("train", "val") if self.training.evaluate_every else ("train",)
