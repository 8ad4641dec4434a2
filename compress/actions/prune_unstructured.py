"""Action of stage prune_unstructured: set single weights to zero while the model trains on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from compress.actions.model_facts import model_facts, training_facts
from compress.errors import StageError
from compress.metrics.complexity import prunable_weights
from compress.model_folder import Build, keep_zeros, load_model, masks_of, save_model
from compress.pruning.unstructured import MaskKeeper, sparse_layer_names
from compress.stage import StageContext
from compress.stages.prune_unstructured import PruneUnstructured
from compress.training.in_stage import train_in_stage


def run(stage: PruneUnstructured, context: StageContext) -> dict[str, Any]:
    """Train with growing masks, bring the sparsity to the target, save and return counts."""
    detector = context.detector
    model, build = load_model(context.source.path, detector)
    before = model_facts(model, detector)
    keeper = mask_keeper(stage, model)
    if keeper.initial > stage.sparsity + 1e-6:
        raise StageError(
            f"stage {stage.label}: sparsity {stage.sparsity:g} is below the {keeper.initial:.4f} that the model has. "
            "Ask for more."
        )
    keeper.start()
    result = _train(stage, model, build, keeper, context)
    reached = keeper.finish()
    sparse = tuple(dict.fromkeys([*build.sparse_layers, *keeper.layers]))
    provenance = {"stage": stage.stage, "label": stage.label, "sparsity": stage.sparsity}
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


def mask_keeper(stage: PruneUnstructured, model: nn.Module) -> MaskKeeper:
    """Return what chooses and keeps the zeros as a stage's fields say."""
    return MaskKeeper(
        model,
        sparse_layer_names(model, stage.skip),
        sparsity=stage.sparsity,
        schedule=stage.schedule,
        scope=stage.scope,
        importance=stage.importance,
        max_sparsity_per_layer=stage.max_sparsity_per_layer,
        ramp_share=stage.ramp_share,
        update_every=stage.update_every,
    )


def _train(stage: PruneUnstructured, model: nn.Module, build: Build, keeper: MaskKeeper, context: StageContext) -> Any:
    keep_earlier = keep_zeros(model, masks_of(model, build))

    def after_step(step: int, total_steps: int) -> None:
        keep_earlier(step, total_steps)
        keeper.after_step(step, total_steps)

    return train_in_stage(
        model,
        context,
        stage.training,
        label=stage.label,
        distill=stage.distill,
        after_step=after_step,
        best_from_epoch=_first_epoch_at_full_sparsity(stage, keeper.ramp_steps, context),
    )


def _first_epoch_at_full_sparsity(
    stage: PruneUnstructured, ramp_steps: Callable[[int], int], context: StageContext
) -> int:
    """Return the 0-based epoch at whose end the masks are final; earlier weights are never kept."""
    if stage.training.epochs == 0:
        return 0
    detector = context.detector
    loader: Any = detector.data.loader(
        "train", detector.input_format(), batch_size=stage.training.batch_size, augment=True, seed=context.seed
    )
    steps_per_epoch = max(len(loader), 1)
    return max(math.ceil(ramp_steps(stage.training.total_steps(steps_per_epoch)) / steps_per_epoch) - 1, 0)
