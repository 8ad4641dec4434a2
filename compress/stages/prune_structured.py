"""Stage prune_structured: remove channels in several steps until a share of MACs or parameters stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.stage import Kind, Stage, StageContext
from compress.training_settings import DistillFields, TrainingFields

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.pruning.structured import PruningRules, PruningSettings

TARGET_TOLERANCE = 0.01  # of the wanted cost; further off is a warning


class PruningTarget(BaseModel):
    """What shall stay, as a share of the model that the stage is given; one of the two."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    macs: float | None = Field(None, gt=0, le=1, description="Share of the multiply-accumulates that stays.")
    params: float | None = Field(None, gt=0, le=1, description="Share of the parameters that stays.")

    @model_validator(mode="after")
    def _exactly_one(self) -> PruningTarget:
        if (self.macs is None) == (self.params is None):
            raise ValueError("target needs exactly one of macs and params, e.g. {macs: 0.6}.")
        return self

    @property
    def metric(self) -> Literal["macs", "params"]:
        """Return what is counted."""
        return "params" if self.macs is None else "macs"

    @property
    def share(self) -> float:
        """Return the share that stays, 0..1."""
        share = self.params if self.macs is None else self.macs
        assert share is not None
        return share


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
        from compress.progress import say, warn
        from compress.pruning.structured import measure_cost, prune_step, step_targets
        from compress.weights import load_model, save_model

        detector = context.detector
        model, build = load_model(context.source.path, detector)
        before = model_facts(model, detector)
        shapes = _output_shapes(model, detector.example_input(1))
        rules, settings = self._rules(model, context), self._settings(context)
        full_cost = measure_cost(model, detector.example_input(1), settings.metric)
        targets = step_targets(full_cost, self.target.share, self.steps)
        original: dict[str, int] | None = None
        first_widths = {name: len(p) for name, p in model.named_parameters() if name.endswith(".weight")}
        groups: dict[str, dict[str, Any]] = {}
        not_prunable: dict[str, str] = {}
        history: list[dict[str, Any]] = []
        for index, target in enumerate(targets, start=1):
            result = prune_step(
                model,
                detector.example_input(1),
                target,
                rules=rules,
                settings=settings,
                original_widths=original,
                widths=self._widths(first_widths, index),
                losses=self._losses(model, context, index),
                device=context.recipe.device,
            )
            original = original or {root: group.before for root, group in result.groups.items()}
            for root, group in result.groups.items():
                row = {"members": list(group.members), "before": original[root], "after": group.after}
                groups[root] = row
            not_prunable = result.not_prunable
            say(f"{self.label}: step {index}/{self.steps}: {settings.metric} {full_cost:,} -> {result.cost_after:,}")
            changed = result.cost_after < result.cost_before
            if changed:
                self._reestimate(model, context, index)
            history.append(
                {"step": index, "target": target, settings.metric: result.cost_after}
                | (self._recover(model, context, index) if self.epochs and changed else {})
            )
        _check_outputs(self.label, model, detector.example_input(1), shapes)
        reached = history[-1][settings.metric]
        error = reached / targets[-1] - 1
        if abs(error) > TARGET_TOLERANCE:
            warn(
                f"stage {self.label}: {settings.metric} {reached:,} stay, {error:+.1%} off the target: "
                f"widths are multiples of {self.round_to}. A smaller round_to comes closer."
            )
        provenance = {"stage": self.stage, "label": self.label, "target": {settings.metric: self.target.share}}
        save_model(context.folder, model, build.model_copy(update={"provenance": [*build.provenance, provenance]}))
        return model_facts(model, detector) | {
            "before": before,
            "target": {"metric": settings.metric, "share": self.target.share, "reached": reached / full_cost},
            "groups": groups,
            "not_prunable": not_prunable,
            "steps": history,
            "history": [row for step in history for row in step.get("history", [])],
        }

    def _widths(self, first: Mapping[str, int], step: int) -> dict[str, int]:
        """Return the given widths after one step; a name that is no layer is refused by the pruning itself."""
        from compress.pruning.widths import step_width

        return {
            name: step_width(
                first.get(f"{name}.weight", final), final, step=step, steps=self.steps, round_to=self.round_to
            )
            for name, final in self.widths.items()
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

    def _losses(self, model: nn.Module, context: StageContext, step: int) -> Iterator[Callable[[], Tensor]]:
        """Yield one loss per training batch, not augmented; nothing is read unless it is asked for."""
        from itertools import islice

        from compress.progress import track
        from compress.training import epoch_seed
        from compress.weights import device_of

        detector = context.detector
        seed = epoch_seed(context.seed, step)
        loader = detector.loader("train", batch_size=self.batch_size, augment=False, seed=seed)
        batches = islice(loader, self.taylor_batches)
        for batch in track(batches, f"{self.label}: importance, step {step}", self.taylor_batches):

            def loss(batch: Any = batch) -> Tensor:
                on_device = batch.to(device_of(model))
                losses = detector.loss(model, tuple(model(on_device.images)), on_device)
                return sum(losses.values())  # type: ignore[return-value]

            yield loss

    def _reestimate(self, model: nn.Module, context: StageContext, step: int) -> None:
        from compress.progress import track
        from compress.pruning.batch_norm import reestimate_batch_norm
        from compress.training import epoch_seed
        from compress.weights import on_device

        if self.bn_batches == 0:
            return
        seed = epoch_seed(context.seed, -step)
        loader = context.detector.loader("train", batch_size=self.batch_size, augment=False, seed=seed)
        with on_device(model, context.recipe.device) as device:
            images = (batch.images.to(device) for batch in loader)
            counted = track(images, f"{self.label}: batch norm, step {step}", self.bn_batches)
            reestimate_batch_norm(model, counted, self.bn_batches)

    def _recover(self, model: nn.Module, context: StageContext, step: int) -> dict[str, Any]:
        from compress.metrics.model_facts import training_facts
        from compress.training import fit, validation_score
        from compress.weights import load_model

        detector, device = context.detector, context.recipe.device
        teacher = None
        if self.distill is not None:
            teacher, _ = load_model(context.inputs[self.distill.teacher].path, detector)
        result = fit(
            model,
            detector=detector,
            settings=self,
            scratch=context.scratch / f"step_{step}",
            label=f"{self.label} step {step}",
            seed=context.seed + step,
            teacher=teacher,
            distill=self.distill,
            score=validation_score(detector, self, device=device),
            device=device,
        )
        return training_facts(result)


def _output_shapes(model: nn.Module, images: Tensor) -> list[tuple[int, ...]]:
    import torch

    model.eval()
    with torch.no_grad():
        return [tuple(output.shape) for output in model(images)]


def _check_outputs(label: str, model: nn.Module, images: Tensor, shapes: list[tuple[int, ...]]) -> None:
    import torch

    from compress.errors import StageError

    model.eval()
    with torch.no_grad():
        outputs = list(model(images))
    now = [tuple(output.shape) for output in outputs]
    if now != shapes:
        wrong = [f"output {i}: {a} -> {b}" for i, (a, b) in enumerate(zip(shapes, now, strict=False)) if a != b]
        raise StageError(f"stage {label}: pruning changed the raw outputs: {'; '.join(wrong) or len(now)}.")
    for index, output in enumerate(outputs):
        if not bool(torch.isfinite(output).all()):
            raise StageError(f"stage {label}: output {index} of the pruned model is not finite.")
