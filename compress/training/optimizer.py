"""The optimizer of a training, and which parameters decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compress.training.settings import TrainingFields


def make_optimizer(model: nn.Module, settings: TrainingFields) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the trainable parameters, as a stage's fields say."""
    groups = parameter_groups(model, settings.weight_decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: with and without weight decay.

    Biases, norm parameters and learned scales (everything with fewer than two dimensions) do not decay.

    Source:
        He et al. 2019, arXiv 1812.01187, section 3.1 ("no bias decay").
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
