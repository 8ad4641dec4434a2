"""Stage finetune: recover a float model after pruning, or train it on, with or without a teacher."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from compress.kind import Kind
from compress.stage import Stage
from compress.training.settings import DistillFields, TrainingFields


class Finetune(Stage):
    """Train an existing float model further. Weights that are zero in sparse layers stay zero."""

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    MAKES: ClassVar[Kind] = Kind.MODEL
    NOT_AFTER: ClassVar[tuple[str, ...]] = ("qat",)
    SPLITS: ClassVar[tuple[str, ...]] = ("train",)
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"training.checkpoint_minutes"})
    TRAINS: ClassVar[bool] = True
    ACTION: ClassVar[str] = "compress.actions.finetune"

    stage: Literal["finetune"] = "finetune"
    training: TrainingFields = Field(default_factory=TrainingFields, description="How it is trained.")
    distill: DistillFields | None = Field(None, description="Learn from a teacher as well; default: labels only.")

    def references(self) -> tuple[str, ...]:
        """Return the teacher's label, if there is one."""
        return (self.distill.teacher,) if self.distill else ()

    def splits(self) -> tuple[str, ...]:
        """Return 'train', and 'val' if the training is scored."""
        return ("train", "val") if self.training.evaluate_every else ("train",)
