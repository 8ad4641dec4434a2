"""Stage prune_structured: remove channels in several steps until a share of MACs or parameters stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compress.pruning.target import PruningTarget
from compress.stage import Kind, Stage, StageContext
from compress.stage_training import train_in_stage
from compress.training_settings import DistillFields, TrainingFields

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.detector import Batch
    from compress.pruning.structured import PruningRules, PruningSettings


class PruneStructured(Stage, TrainingFields):
    """Remove whole channels, with batch norm re-estimation and a short recovery after each step."""

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.MODEL,)
    MAKES: ClassVar[Kind] = Kind.MODEL
    NOT_AFTER: ClassVar[tuple[str, ...]] = ("prune_unstructured", "qat")
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "torch-pruning")
    COSMETIC: ClassVar[frozenset[str]] = frozenset({"checkpoint_minutes"})
    TRAINS: ClassVar[bool] = True

    stage: Literal["prune_structured"] = "prune_structured"
    target: PruningTarget
    importance: Literal["magnitude", "group_taylor", "bn_scale", "random"] = "group_taylor"
    steps: int = Field(1, ge=1, le=50, description="Equal factors of cost; importance is measured anew in each.")
    round_to: int = Field(8, ge=1, description="Kept widths are multiples of it, rounded up.")
    max_pruning_ratio: float = Field(0.8, ge=0, lt=1, description="Largest share of a layer's channels that may go.")
    global_pruning: bool = Field(True, description="Rank all groups together; false: each group loses the same share.")
    isomorphic: bool = Field(False, description="Rank only groups of equal structure together.")
    cost_aware: bool = Field(False, description="Divide importance by what a channel of the group costs.")
    taylor_batches: int = Field(20, ge=1, description="Training batches for importance group_taylor, each step.")
    bn_batches: int = Field(50, ge=0, description="Training batches that re-estimate batch norm, each step; 0 = none.")
    protect: dict[str, str] = Field(
        default_factory=dict, description="Further layers that keep their width: module name -> reason."
    )
    widths: dict[str, int] = Field(
        default_factory=dict,
        description="Layer -> final channels, whatever the ranking says; for layers that cost more time than MACs.",
    )
    epochs: int = Field(0, ge=0, alias="recovery_epochs", description="Training epochs after each step; 0 = none.")
    distill: DistillFields | None = Field(None, description="Learn from a teacher as well during recovery.")

    def references(self) -> tuple[str, ...]:
        """Return the teacher's label, if recovery has one."""
        return (self.distill.teacher,) if self.distill and self.epochs else ()

    def splits(self) -> tuple[str, ...]:
        """Return the splits that importance, batch norm and recovery read."""
        reads_train = self.importance == "group_taylor" or self.bn_batches or self.epochs
        return (("train",) if reads_train else ()) + (("val",) if self.epochs and self.evaluate_every else ())

    def run(self, context: StageContext) -> dict[str, Any]:
        """Prune step by step, check, save, and return counts and the table of groups."""
        from compress.metrics.model_facts import model_facts
        from compress.pruning.steps import prune_in_steps
        from compress.weights import load_model, save_model

        detector = context.detector
        model, build = load_model(context.source.path, detector)
        before = model_facts(model, detector)
        result = prune_in_steps(
            model,
            detector.example_input(1),
            self.target.share,
            steps=self.steps,
            rules=self._rules(model, context),
            settings=self._settings(context),
            widths=self.widths,
            losses=lambda step: self._losses(model, context, step),
            after_step=lambda step: self._after_step(model, context, step),
            label=self.label,
            device=context.recipe.device,
        )
        target = {self.target.metric: self.target.share}
        provenance = {"stage": self.stage, "label": self.label, "target": target}
        save_model(context.folder, model, build.model_copy(update={"provenance": [*build.provenance, provenance]}))
        return model_facts(model, detector) | {
            "before": before,
            "target": {"metric": self.target.metric, "share": self.target.share, "reached": result.share},
            "groups": result.groups,
            "not_prunable": result.not_prunable,
            "steps": result.history,
            "history": [row for step in result.history for row in step.get("history", [])],
        }

    def _settings(self, context: StageContext) -> PruningSettings:
        from compress.pruning.structured import PruningSettings

        return PruningSettings(
            metric=self.target.metric,
            importance=self.importance,
            global_pruning=self.global_pruning,
            isomorphic=self.isomorphic,
            cost_aware=self.cost_aware,
            round_to=self.round_to,
            max_pruning_ratio=self.max_pruning_ratio,
            seed=context.seed,
        )

    def _rules(self, model: nn.Module, context: StageContext) -> PruningRules:
        from compress.pruning.structured import PruningRules

        protected = {**context.detector.not_prunable(model), **self.protect}
        return PruningRules(protected=protected, custom_pruners=context.detector.custom_pruners(model))

    def _batches(self, context: StageContext, what: str, step: int, *, count: int, seed: int) -> Iterator[Batch]:
        from compress.pruning.batches import train_batches

        label = f"{self.label}: {what}, step {step}"
        return train_batches(context.detector, count=count, batch_size=self.batch_size, seed=seed, label=label)

    def _losses(self, model: nn.Module, context: StageContext, step: int) -> Iterator[Callable[[], Tensor]]:
        """Return the losses that importance group_taylor reads."""
        from compress.pruning.batches import batch_losses
        from compress.seeds import epoch_seed

        seed = epoch_seed(context.seed, step)
        batches = self._batches(context, "importance", step, count=self.taylor_batches, seed=seed)
        return batch_losses(model, context.detector, batches)

    def _after_step(self, model: nn.Module, context: StageContext, step: int) -> dict[str, Any]:
        """Re-estimate batch norm and train, as far as the recipe asks for it; return the facts of the training."""
        self._reestimate(model, context, step)
        return self._recover(model, context, step) if self.epochs else {}

    def _reestimate(self, model: nn.Module, context: StageContext, step: int) -> None:
        from compress.devices import on_device
        from compress.pruning.batch_norm import reestimate_batch_norm
        from compress.seeds import epoch_seed

        if self.bn_batches == 0:
            return
        seed = epoch_seed(context.seed, -step)  # other batches than those of the importance
        batches = self._batches(context, "batch norm", step, count=self.bn_batches, seed=seed)
        with on_device(model, context.recipe.device) as device:
            reestimate_batch_norm(model, (batch.images.to(device) for batch in batches), self.bn_batches)

    def _recover(self, model: nn.Module, context: StageContext, step: int) -> dict[str, Any]:
        from compress.metrics.model_facts import training_facts

        result = train_in_stage(
            model,
            context,
            self,
            label=f"{self.label} step {step}",
            distill=self.distill,
            seed=context.seed + step,
            scratch=context.scratch / f"step_{step}",
        )
        return training_facts(result)
