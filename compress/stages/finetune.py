"""Stage finetune: recover a float model after pruning, or train it on, with or without a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compress.stage import Kind, Stage, StageContext
from compress.training_settings import DistillFields, TrainingFields

if TYPE_CHECKING:
    from torch import Tensor, nn


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
        from compress.training import fit, validation_score
        from compress.weights import load_model, masks_of, save_model

        detector = context.detector
        model, build = load_model(context.source.path, detector)
        teacher = None
        if self.distill is not None:
            teacher, _ = load_model(context.inputs[self.distill.teacher].path, detector)
        result = fit(
            model,
            detector=detector,
            settings=self,
            scratch=context.scratch,
            label=self.label,
            seed=context.seed,
            teacher=teacher,
            distill=self.distill,
            after_step=_keep_zeros(model, masks_of(model, build)),
            score=validation_score(detector, self, device=context.recipe.device),
            device=context.recipe.device,
        )
        save_model(context.folder, model, build)
        return model_facts(model, detector) | training_facts(result)


def _keep_zeros(model: nn.Module, masks: Mapping[str, Tensor]) -> Callable[[int, int], None]:
    """Return a function for `fit(after_step=...)` that sets the masked weights of named modules to zero again."""
    import torch

    weights = {name: model.get_submodule(name).weight for name in masks}

    def after_step(_step: int, _total_steps: int) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(masks[name].to(weight.device))  # type: ignore[operator, arg-type]

    return after_step
