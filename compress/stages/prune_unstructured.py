"""Stage prune_unstructured: set single weights to zero while the model trains on."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from compress.kind import Kind
from compress.stage import Stage
from compress.training.settings import DistillFields, TrainingFields


class PruneUnstructured(Stage):
    """Zero the least important weights on a schedule; they stay zero in every later stage."""

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    MAKES: ClassVar[Kind] = Kind.MODEL
    NOT_AFTER: ClassVar[tuple[str, ...]] = ("qat",)
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"training.checkpoint_minutes"})
    TRAINS: ClassVar[bool] = True
    ACTION: ClassVar[str] = "compress.actions.prune_unstructured"

    stage: Literal["prune_unstructured"] = "prune_unstructured"
    sparsity: float = Field(..., ge=0, lt=1, description="Share of zeros among the weights of the layers not skipped.")
    schedule: Literal["cubic", "one_shot"] = Field(
        "cubic", description="How sparsity grows: with every few steps, or at once before training."
    )
    scope: Literal["global", "per_layer"] = Field("global", description="Rank all weights together, or each layer's.")
    importance: Literal["magnitude", "scaled_magnitude"] = Field(
        "magnitude", description="scaled_magnitude divides by the layer's root mean square."
    )
    ramp_share: float = Field(0.6, gt=0, le=1, description="Share of the steps after which the masks are frozen.")
    update_every: int = Field(10, ge=1, description="Steps between two updates of the masks during the ramp.")
    max_sparsity_per_layer: float = Field(0.95, gt=0, le=1, description="Protects small layers in a global ranking.")
    skip: tuple[str, ...] = Field((), description="Layers left dense: module names or patterns ('head.*').")
    training: TrainingFields = Field(
        default_factory=TrainingFields, description="How it is trained while the zeros grow, and after."
    )
    distill: DistillFields | None = Field(None, description="Learn from a teacher as well.")

    @model_validator(mode="after")
    def _reachable(self) -> PruneUnstructured:
        if self.sparsity > self.max_sparsity_per_layer:
            raise ValueError(
                f"sparsity {self.sparsity:g} is above max_sparsity_per_layer {self.max_sparsity_per_layer:g}. "
                "Raise the latter, or ask for less."
            )
        return self

    def references(self) -> tuple[str, ...]:
        """Return the teacher's label, if there is one."""
        return (self.distill.teacher,) if self.distill and self.training.epochs else ()

    def splits(self) -> tuple[str, ...]:
        """Return 'train' if anything is trained, and 'val' if the training is scored."""
        return self.training.trained_splits()
