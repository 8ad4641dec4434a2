"""Stage train: the float baseline, from the plug-in's fresh model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from compress.stage import Kind, Stage, StageContext
from compress.stage_training import train_in_stage
from compress.training_settings import TrainingFields


class Train(Stage, TrainingFields):
    """Train a fresh model (backbone weights as the plug-in's configuration says).

    Its result is the model that every other stage calls `float`.
    """

    MAKES: ClassVar[Kind] = Kind.MODEL
    NOT_AFTER: ClassVar[tuple[str, ...]] = (
        "train", "load_float", "finetune", "prune_structured", "prune_unstructured", "qat", "export_onnx", "pack",
    )  # fmt: skip
    SPLITS: ClassVar[tuple[str, ...]] = ("train",)
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"checkpoint_minutes"})
    TRAINS: ClassVar[bool] = True

    stage: Literal["train"] = "train"

    def splits(self) -> tuple[str, ...]:
        """Return 'train', and 'val' if the training is scored."""
        return ("train", "val") if self.evaluate_every else ("train",)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train, save and return counts and history."""
        import torch

        from compress.metrics.model_facts import model_facts, training_facts
        from compress.weights import Build, save_model

        torch.manual_seed(context.seed)
        model = context.detector.build()
        result = train_in_stage(model, context, self, label=self.label)
        save_model(context.folder, model, Build())
        return model_facts(model, context.detector) | training_facts(result)
