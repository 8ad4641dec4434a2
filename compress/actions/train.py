"""Action of stage train: the float baseline, from the plug-in's fresh model."""

from __future__ import annotations

from typing import Any

import torch

from compress.actions.model_facts import model_facts, training_facts
from compress.model_folder import Build, save_model
from compress.stage import StageContext
from compress.stages.train import Train
from compress.training.in_stage import train_in_stage


def run(stage: Train, context: StageContext) -> dict[str, Any]:
    """Train, save and return counts and history."""
    torch.manual_seed(context.seed)
    model = context.detector.build()
    result = train_in_stage(model, context, stage.training, label=stage.label)
    save_model(context.folder, model, Build())
    return model_facts(model, context.detector) | training_facts(result)
