"""Stage finetune: recover a float model after pruning, or train it on, with or without a teacher."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from compress.stage import Kind, Stage, StageContext
from compress.stage_training import train_in_stage
from compress.training_settings import DistillFields, TrainingFields


class Finetune(Stage, TrainingFields):
    """Train an existing float model further. Weights that are zero in sparse layers stay zero."""

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    MAKES: ClassVar[Kind] = Kind.MODEL
    NOT_AFTER: ClassVar[tuple[str, ...]] = ("qat",)
    SPLITS: ClassVar[tuple[str, ...]] = ("train",)
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"checkpoint_minutes"})
    TRAINS: ClassVar[bool] = True

    stage: Literal["finetune"] = "finetune"
    distill: DistillFields | None = Field(None, description="Learn from a teacher as well; default: labels only.")

    def references(self) -> tuple[str, ...]:
        """Return the teacher's label, if there is one."""
        return (self.distill.teacher,) if self.distill else ()

    def splits(self) -> tuple[str, ...]:
        """Return 'train', and 'val' if the training is scored."""
        return ("train", "val") if self.evaluate_every else ("train",)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train, save and return counts and history."""
        from compress.metrics.model_facts import model_facts, training_facts
        from compress.weights import keep_zeros, load_model, masks_of, save_model

        detector = context.detector
        model, build = load_model(context.source.path, detector)
        keep = keep_zeros(model, masks_of(model, build))
        result = train_in_stage(model, context, self, label=self.label, distill=self.distill, after_step=keep)
        save_model(context.folder, model, build)
        return model_facts(model, detector) | training_facts(result)
