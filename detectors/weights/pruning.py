"""Torch-Pruning rule of layers that have one kernel and nothing else to cut."""

from __future__ import annotations

from collections.abc import Sequence

import torch_pruning as tp
from torch import Tensor, nn


class KernelPruner(tp.pruner.function.BasePruningFunc):  # type: ignore[misc]  # torch-pruning has no types
    """Cuts `weight` (out, in, h, w) along dimension 0 or 1, and `out_channels` or `in_channels` with it.

    For `custom_pruners` of a plug-in, under the exact class of the layer: no bias, no groups.
    """

    TARGET_MODULES = None  # any layer

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Remove output channels `idxs` in place."""
        return self._cut(layer, idxs, dim=0, field="out_channels")

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Remove input channels `idxs` in place."""
        return self._cut(layer, idxs, dim=1, field="in_channels")

    def get_out_channels(self, layer: nn.Module) -> int:
        """Return the number of output channels."""
        return _weight(layer).shape[0]

    def get_in_channels(self, layer: nn.Module) -> int:
        """Return the number of input channels."""
        return _weight(layer).shape[1]

    def _cut(self, layer: nn.Module, idxs: Sequence[int], *, dim: int, field: str) -> nn.Module:
        gone = set(idxs)
        weight = _weight(layer)
        kept = [i for i in range(weight.shape[dim]) if i not in gone]
        layer.weight = self._prune_parameter_and_grad(weight, kept, dim)
        setattr(layer, field, len(kept))
        return layer


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight
