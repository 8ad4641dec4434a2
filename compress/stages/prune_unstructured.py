"""Stage prune_unstructured: set single weights to zero while the model trains on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from compress.errors import StageError
from compress.stage import Kind, Stage, StageContext
from compress.stage_training import train_in_stage
from compress.training_settings import DistillFields, TrainingFields

if TYPE_CHECKING:
    from torch import nn

    from compress.pruning.unstructured import MaskKeeper
    from compress.weights import Build


class PruneUnstructured(Stage, TrainingFields):
    """Zero the least important weights on a schedule; they stay zero in every later stage."""

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    MAKES: ClassVar[Kind] = Kind.MODEL
    NOT_AFTER: ClassVar[tuple[str, ...]] = ("qat",)
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"checkpoint_minutes"})
    TRAINS: ClassVar[bool] = True

    stage: Literal["prune_unstructured"] = "prune_unstructured"
    sparsity: float = Field(..., ge=0, lt=1, description="Share of zeros among the weights of the layers not skipped.")
    schedule: Literal["cubic", "one_shot"] = Field(  # type: ignore[assignment]
        "cubic", description="How sparsity grows: with every few steps, or at once before training."
    )
    lr_schedule: Literal["step", "cosine", "constant"] = Field("step", description="Schedule of the learning rate.")
    scope: Literal["global", "per_layer"] = Field("global", description="Rank all weights together, or each layer's.")
    importance: Literal["magnitude", "scaled_magnitude"] = Field(
        "magnitude", description="scaled_magnitude divides by the layer's root mean square."
    )
    ramp_share: float = Field(0.6, gt=0, le=1, description="Share of the steps after which the masks are frozen.")
    update_every: int = Field(10, ge=1, description="Steps between two updates of the masks during the ramp.")
    max_sparsity_per_layer: float = Field(0.95, gt=0, le=1, description="Protects small layers in a global ranking.")
    skip: tuple[str, ...] = Field((), description="Layers left dense: module names or patterns ('head.*').")
    distill: DistillFields | None = Field(None, description="Learn from a teacher as well.")

    @model_validator(mode="after")
    def _fits_together(self) -> PruneUnstructured:
        try:
            self.training_settings()
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        return self

    @model_validator(mode="after")
    def _reachable(self) -> PruneUnstructured:
        if self.sparsity > self.max_sparsity_per_layer:
            raise ValueError(
                f"sparsity {self.sparsity:g} is above max_sparsity_per_layer {self.max_sparsity_per_layer:g}. "
                "Raise the latter, or ask for less."
            )
        return self

    def training_settings(self) -> TrainingFields:
        """Return the training fields, with the learning rate's schedule under its usual name."""
        fields = {name: getattr(self, name) for name in TrainingFields.model_fields}
        return TrainingFields(**fields | {"schedule": self.lr_schedule})

    def references(self) -> tuple[str, ...]:
        """Return the teacher's label, if there is one."""
        return (self.distill.teacher,) if self.distill and self.epochs else ()

    def splits(self) -> tuple[str, ...]:
        """Return 'train' if anything is trained, and 'val' if the training is scored."""
        return ("train", *(("val",) if self.evaluate_every else ())) if self.epochs else ()

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train with growing masks, bring the sparsity to the target, save and return counts."""
        from compress.metrics.complexity import prunable_weights
        from compress.metrics.model_facts import model_facts, training_facts
        from compress.weights import load_model, save_model

        detector = context.detector
        model, build = load_model(context.source.path, detector)
        before = model_facts(model, detector)
        keeper = self._keeper(model)
        if keeper.initial > self.sparsity + 1e-6:
            raise StageError(
                f"stage {self.label}: sparsity {self.sparsity:g} is below the {keeper.initial:.4f} that the model has. "
                "Ask for more."
            )
        keeper.start()
        result = self._train(model, build, keeper, context)
        reached = keeper.finish()
        sparse = tuple(dict.fromkeys([*build.sparse_layers, *keeper.layers]))
        provenance = {"stage": self.stage, "label": self.label, "sparsity": self.sparsity}
        build = build.model_copy(update={"sparse_layers": sparse, "provenance": [*build.provenance, provenance]})
        save_model(context.folder, model, build)
        weights = prunable_weights(model)
        return (
            model_facts(model, detector)
            | training_facts(result)
            | {
                "before": before,
                "sparsity_of_layers": reached,
                "sparsity_by_layer": {name: float((weights[name] == 0).float().mean()) for name in keeper.layers},
                "skipped": [name for name in weights if name not in keeper.layers],
            }
        )

    def _keeper(self, model: nn.Module) -> MaskKeeper:
        from compress.pruning.unstructured import MaskKeeper, sparse_layer_names

        return MaskKeeper(
            model,
            sparse_layer_names(model, self.skip),
            sparsity=self.sparsity,
            schedule=self.schedule,
            scope=self.scope,
            importance=self.importance,
            max_sparsity_per_layer=self.max_sparsity_per_layer,
            ramp_share=self.ramp_share,
            update_every=self.update_every,
        )

    def _train(self, model: nn.Module, build: Build, keeper: MaskKeeper, context: StageContext) -> Any:
        from compress.weights import keep_zeros, masks_of

        keep_earlier = keep_zeros(model, masks_of(model, build))

        def after_step(step: int, total_steps: int) -> None:
            keep_earlier(step, total_steps)
            keeper.after_step(step, total_steps)

        return train_in_stage(
            model,
            context,
            self.training_settings(),
            label=self.label,
            distill=self.distill,
            after_step=after_step,
            best_from_epoch=self._first_epoch_at_full_sparsity(keeper.ramp_steps, context),
        )

    def _first_epoch_at_full_sparsity(self, ramp_steps: Callable[[int], int], context: StageContext) -> int:
        """Return the 0-based epoch at whose end the masks are final; earlier weights are never kept."""
        if self.epochs == 0:
            return 0
        loader: Any = context.detector.loader("train", batch_size=self.batch_size, augment=True, seed=context.seed)
        steps_per_epoch = max(len(loader), 1)
        return max(math.ceil(ramp_steps(self.total_steps(steps_per_epoch)) / steps_per_epoch) - 1, 0)
