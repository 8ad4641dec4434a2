"""Action of stage prune_structured: remove channels in several steps until every limit of the target holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.actions.deployed import DeployedMeter
from compress.actions.model_facts import model_facts, training_facts
from compress.dataset import Batch
from compress.detector import Detector
from compress.devices import on_device
from compress.errors import StageError
from compress.layer_names import unknown_names
from compress.model_folder import load_model, save_model
from compress.pruning.batch_norm import reestimate_batch_norm
from compress.pruning.batches import batch_losses, train_batches
from compress.pruning.budget import Meter
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.steps import prune_in_steps
from compress.pruning.target import COUNTED
from compress.quantization.graph import outputs_of
from compress.seeds import epoch_seed
from compress.stage import StageContext
from compress.stages.prune_structured import PruneStructured
from compress.training.in_stage import train_in_stage

_CURE = (
    "A layer of the network has a state whose size build.json cannot tell: name it in `protect`, or keep the state in "
    "parameters and buffers that are cut like channels."
)


def run(stage: PruneStructured, context: StageContext) -> dict[str, Any]:
    """Prune step by step, check, save, and return counts and the table of groups."""
    detector = context.detector
    model, build = load_model(context.source.path, detector)
    before = model_facts(model, detector)
    wanted, meter = meter_of(stage, model, detector, context.scratch / "measured")
    result = prune_in_steps(
        model,
        detector.example_input(1),
        wanted,
        steps=stage.steps,
        rules=pruning_rules(stage, model, detector),
        settings=pruning_settings(stage, context.seed),
        widths=stage.widths,
        losses=lambda step: _losses(stage, model, context, step),
        after_step=lambda step: _after_step(stage, model, context, step),
        label=stage.label,
        device=context.device,
        meter=meter,
    )
    provenance = {"stage": stage.stage, "label": stage.label, "target": dict(stage.target.wanted)}
    save_model(context.folder, model, build.model_copy(update={"provenance": [*build.provenance, provenance]}))
    check_loads(model, context.folder, detector, label=stage.label)
    return model_facts(model, detector) | {
        "before": before,
        "target": dict(stage.target.wanted),
        "reached": {name: asdict(one) for name, one in result.reached.items()},
        "groups": result.groups,
        "not_prunable": result.not_prunable,
        "steps": result.history,
        "history": [row for step in result.history for row in step.get("history", [])],
    }


def meter_of(
    stage: PruneStructured, model: nn.Module, detector: Detector, folder: Path
) -> tuple[Mapping[str, float], Meter | None]:
    """Return the limits of a target, a speedup as milliseconds, and what measures those that are no counts.

    Args:
        stage: has the target.
        model: that the target is about.
        detector: the plug-in.
        folder: takes files that are measured.
    """
    wanted = dict(stage.target.wanted)
    if not stage.target.is_measured:
        return wanted, None
    names = ["latency_ms" if name == "speedup" else name for name in wanted if name not in COUNTED]
    meter = DeployedMeter(detector, folder, names)
    if (speedup := wanted.pop("speedup", None)) is not None:
        wanted["latency_ms"] = meter.latency_for(speedup, model)
    return wanted, meter


def check_loads(model: nn.Module, folder: Path, detector: Detector, *, label: str) -> None:
    """Load what was written, and compare: a model that the next stage cannot read must not be sealed.

    Args:
        model: pruned, as it was saved.
        folder: it was saved into.
        detector: builds the network anew.
        label: of the stage, for the message.

    Raises:
        StageError: it cannot be loaded, or it computes something else.
    """
    try:
        again, _ = load_model(folder, detector)
        images = detector.example_input(1)
        found, expected = outputs_of(again, images), outputs_of(model.eval(), images)
    except (StageError, RuntimeError) as error:
        text = " ".join(str(error).split())[:400].removesuffix(".")
        raise StageError(f"stage {label}: the pruned model cannot be loaded again: {text}. {_CURE}") from error
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        if not torch.equal(one, other):
            raise StageError(
                f"stage {label}: output {index} of the pruned model changed when it was saved and loaded. {_CURE}"
            )


def pruning_settings(stage: PruneStructured, seed: int) -> PruningSettings:
    """Return how the stage ranks channels."""
    return PruningSettings(
        importance=stage.importance,
        global_pruning=stage.global_pruning,
        isomorphic=stage.isomorphic,
        cost_aware=stage.is_cost_aware,
        round_to=stage.round_to,
        max_pruning_ratio=stage.max_pruning_ratio,
        seed=seed,
    )


def pruning_rules(stage: PruneStructured, model: nn.Module, detector: Detector) -> PruningRules:
    """Return what plug-in and recipe keep as it is.

    Raises:
        StageError: one of them names a module that is not there.
    """
    protected, names = detector.not_prunable(model), [name for name, _ in model.named_modules()]
    for where, wanted in ((f"{detector.NAME}.not_prunable", protected), ("protect", stage.protect)):
        if (wrong := unknown_names(where, wanted, names)) is not None:
            raise StageError(wrong)
    protected = {**protected, **stage.protect}
    return PruningRules(protected=protected, custom_pruners=detector.custom_pruners(model))


def _batches(
    stage: PruneStructured, context: StageContext, what: str, step: int, *, count: int, seed: int
) -> Iterator[Batch]:
    label = f"{stage.label}: {what}, step {step}"
    return train_batches(context.detector, count=count, batch_size=stage.training.batch_size, seed=seed, label=label)


def _losses(
    stage: PruneStructured, model: nn.Module, context: StageContext, step: int
) -> Iterator[Callable[[], Tensor]]:
    """Return the losses that importance group_taylor reads."""
    seed = epoch_seed(context.seed, step)
    batches = _batches(stage, context, "importance", step, count=stage.taylor_batches, seed=seed)
    return batch_losses(model, context.detector, batches)


def _after_step(stage: PruneStructured, model: nn.Module, context: StageContext, step: int) -> dict[str, Any]:
    """Re-estimate batch norm and train, as far as the recipe asks for it; return the facts of the training."""
    _reestimate(stage, model, context, step)
    return _recover(stage, model, context, step) if stage.training.epochs else {}


def _reestimate(stage: PruneStructured, model: nn.Module, context: StageContext, step: int) -> None:
    if stage.bn_batches == 0:
        return
    seed = epoch_seed(context.seed, -step)  # other batches than those of the importance
    batches = _batches(stage, context, "batch norm", step, count=stage.bn_batches, seed=seed)
    with on_device(model, context.device) as device:
        reestimate_batch_norm(model, (batch.images.to(device) for batch in batches), stage.bn_batches)


def _recover(stage: PruneStructured, model: nn.Module, context: StageContext, step: int) -> dict[str, Any]:
    result = train_in_stage(
        model,
        context,
        stage.training,
        label=f"{stage.label} step {step}",
        distill=stage.distill,
        seed=context.seed + step,
        scratch=context.scratch / f"step_{step}",
    )
    return training_facts(result)
