"""Torch-Pruning's own pruner at one ratio for all layers, and then our training; for `benchmarks/peers.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.peer_job import Job, Made
from benchmarks.post_training import load_float
from compress.detector import Detector
from compress.export import export_onnx
from compress.metrics.complexity import measure_complexity
from compress.training.in_stage import train_in_stage
from compress.training.settings import TrainingFields

RATIO = 0.2  # of the channels of every layer: about 0.64 of the MACs, near the 0.68 of our recipes
ROUND_TO = 8
TRAINING = TrainingFields(  # that of `finetune` in recipes/dcfl_mbv2_hituav.yaml, without the teacher
    epochs=6,
    batch_size=4,
    optimizer="adamw",
    lr=0.0006,
    weight_decay=0.01,
    schedule="cosine",
    warmup_steps=50,
    ema_decay=0.998,
    precision="bfloat16",
)


def torch_pruning(job: Job) -> Made:
    """Prune uniformly by magnitude and train; a kill costs the minutes since the last checkpoint."""
    model = load_float(job.detector)
    before = measure_complexity(model, job.detector.example_input(1)).macs
    prune_uniformly(model, job.detector, RATIO)
    after = measure_complexity(model, job.detector.example_input(1)).macs
    train_in_stage(model, job.context(), TRAINING, label=job.folder.name)
    export_onnx(model.eval(), job.target, detector=job.detector)
    return Made(job.target.name, note=f"{after / before:.2f} of the MACs, {TRAINING.epochs} epochs, float")


def prune_uniformly(model: nn.Module, detector: Detector, ratio: float) -> None:
    """Take the same share of channels from every layer with Torch-Pruning's magnitude importance, in place."""
    import torch_pruning as tp

    fixed = detector.not_prunable(model)
    pruner: Any = tp.pruner.BasePruner(
        model,
        detector.example_input(1),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=ROUND_TO,
        ignored_layers=[module for name, module in model.named_modules() if name in fixed],
        customized_pruners=detector.custom_pruners(model),
    )
    with torch.enable_grad():
        pruner.step()
    model.zero_grad()
