"""Re-estimation of batch norm statistics after the layers before them changed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def reestimate_batch_norm(model: nn.Module, batches: Iterable[Tensor], num_batches: int) -> int:
    """Replace the running statistics of every batch norm by the average over some batches.

    Only batch norms run in training mode meanwhile, dropout and the like stay off; modes and
    momenta are as before afterwards. Weights do not change.

    Args:
        model: changed in place (running_mean, running_var, num_batches_tracked).
        batches: image tensors (N, 3, H, W), on the model's device.
        num_batches: how many of them to use; 0 leaves the model as it is.

    Returns:
        How many batches were used, at most `num_batches`.

    Raises:
        ValueError: num_batches > 0 and there was no batch.

    Source:
        Cumulative average: `momentum=None` of torch.nn.BatchNorm2d. Re-estimation after pruning:
        Li et al. 2020, EagleEye, arXiv 2007.02491, section 3.3.
    """
    import torch
    from torch import nn

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if num_batches == 0 or not norms:
        return 0
    training = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    used = 0
    try:
        model.eval()
        with torch.no_grad():
            for images in islice(batches, num_batches):
                if used == 0:
                    for norm in norms:
                        norm.reset_running_stats()
                        norm.momentum = None
                        norm.training = True
                model(images)
                used += 1
    finally:
        for module, was_training in training.items():
            module.training = was_training
        for norm, momentum in momenta.items():
            norm.momentum = momentum
    if used == 0:
        raise ValueError(f"no batch to re-estimate the batch norms with, and {num_batches} were asked for")
    return used
