"""Action of stage finetune: recover a float model after pruning, or train it on, with or without a teacher."""

from __future__ import annotations

from typing import Any

from compress.actions.model_facts import model_facts, training_facts
from compress.model_folder import keep_zeros, load_model, masks_of, save_model
from compress.stage import StageContext
from compress.stages.finetune import Finetune
from compress.training.in_stage import train_in_stage


def run(stage: Finetune, context: StageContext) -> dict[str, Any]:
    """Train, save and return counts and history."""
    detector = context.detector
    model, build = load_model(context.source.path, detector)
    keep = keep_zeros(model, masks_of(model, build))
    result = train_in_stage(model, context, stage.training, label=stage.label, distill=stage.distill, after_step=keep)
    save_model(context.folder, model, build)
    return model_facts(model, detector) | training_facts(result)
