"""Torch-Pruning rule of the deformable layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch_pruning as tp
from torch import nn

from detectors.dcfl.deform import ModulatedDeformConv


class DeformPruner(tp.pruner.function.BasePruningFunc):
    """Cuts `weight` (out, in, 3, 3) along dimension 0 or 1; the sampling field never changes."""

    TARGET_MODULES = (ModulatedDeformConv,)

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Remove output channels `idxs` in place."""
        return self._cut(layer, idxs, dim=0, field="out_channels")

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Remove input channels `idxs` in place."""
        return self._cut(layer, idxs, dim=1, field="in_channels")

    def get_out_channels(self, layer: nn.Module) -> int:
        """Return the number of output channels."""
        return layer.out_channels

    def get_in_channels(self, layer: nn.Module) -> int:
        """Return the number of input channels."""
        return layer.in_channels

    def get_in_channel_groups(self, layer: nn.Module) -> int:
        """Return 1: no groups."""
        return 1

    def get_out_channel_groups(self, layer: nn.Module) -> int:
        """Return 1: no groups."""
        return 1

    def _cut(self, layer: nn.Module, idxs: Sequence[int], *, dim: int, field: str) -> nn.Module:
        gone = set(idxs)
        kept = torch.tensor([i for i in range(getattr(layer, field)) if i not in gone], device=layer.weight.device)
        layer.weight = self._prune_parameter_and_grad(layer.weight, kept.tolist(), dim)
        setattr(layer, field, len(kept))
        return layer
