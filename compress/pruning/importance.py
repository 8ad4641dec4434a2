"""Scores of the channels of a pruning group: larger means keep.

The formulas are those of Torch-Pruning's importance classes (a test compares them). They are
written here on named layers so that layers with a custom pruning rule count as well, and so that
the Taylor score can be squared per batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from compress.errors import StageError

if TYPE_CHECKING:
    from compress.pruning.coupling import Member, PruningGroup
    from compress.pruning.cutting import Side

Importance = Literal["magnitude", "group_taylor", "bn_scale", "random"]
Scores = dict[str, Tensor]  # root of a group -> (width,) float64, >= 0


def channel_sums(module: nn.Module, side: Side, values: Tensor) -> Tensor:
    """Sum a tensor of a weight's shape over everything but the channels of one side.

    Args:
        module: the layer; its `transposed` and `groups` decide where the channels lie.
        side: 'out' or 'in'.
        values: (out, in / groups, ...), transposed layers (in, out / groups, ...), or (channels,).

    Returns:
        (channels of that side,).
    """
    if values.dim() == 1:
        return values
    groups = int(getattr(module, "groups", 1))
    leading: Side = "in" if getattr(module, "transposed", False) else "out"
    if side == leading:
        return values.flatten(1).sum(1)
    per_group = values.reshape(groups, values.shape[0] // groups, values.shape[1], -1)
    return per_group.sum((1, 3)).flatten()


def magnitude_scores(model: nn.Module, groups: Sequence[PruningGroup]) -> Scores:
    """Score channels by the squared weights of every layer in the group, averaged over the layers.

    Returns:
        Root -> (width,), 0 where a group has no weights.

    Source:
        Fang et al. 2023, DepGraph, arXiv 2301.12900, section 3.3 (`GroupMagnitudeImportance`, p = 2,
        before its normalization).
    """

    def local(module: nn.Module, member: Member) -> Tensor | None:
        weight = getattr(module, "weight", None)
        return None if weight is None else channel_sums(module, member.side, weight.detach().double().square())

    return _averaged(model, groups, local)


def batch_norm_scores(model: nn.Module, groups: Sequence[PruningGroup]) -> Scores:
    """Score channels by the absolute scale of the group's batch norms; groups without one are left out.

    Source:
        Liu et al. 2017, Network Slimming, arXiv 1708.06519, section 3.
    """

    def local(module: nn.Module, member: Member) -> Tensor | None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            return module.weight.detach().double().abs()
        return None

    modules = dict(model.named_modules())
    with_norm = [
        group for group in groups if any(local(modules[member.name], member) is not None for member in group.members)
    ]
    return _averaged(model, with_norm, local)


def random_scores(groups: Sequence[PruningGroup], seed: int) -> Scores:
    """Score channels at random; the seed alone decides."""
    generator = torch.Generator().manual_seed(seed)
    return {group.root: torch.rand(group.width, generator=generator, dtype=torch.float64) for group in groups}


def taylor_scores(
    model: nn.Module, groups: Sequence[PruningGroup], losses: Iterable[Callable[[], Tensor]]
) -> tuple[Scores, int]:
    """Score channels by the squared change of the loss if the channel were scaled to zero.

    For each layer of the group the derivative of the loss by a gate on the channel is
    sum(weight * gradient) over the weights of that channel. It is squared per batch, averaged over
    the layers of the group and summed over the batches.

    Args:
        model: in evaluation mode while this runs; its gradients are cleared.
        groups: as traced on this model.
        losses: each call runs one batch forward and returns its scalar loss.

    Returns:
        Root -> (width,), and the number of batches.

    Raises:
        StageError: no batch, or a loss that is not finite.

    Source:
        Molchanov et al. 2019, arXiv 1906.10771, equations 8 and 9; summed over coupled layers as in
        Liu et al. 2021, Group Fisher Pruning, arXiv 2108.00708, section 3.2.
    """
    training = {module: module.training for module in model.modules()}
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    total = {group.root: torch.zeros(group.width, dtype=torch.float64) for group in groups}
    count = 0
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        model.eval()
        for loss_of_batch in losses:
            model.zero_grad(set_to_none=True)
            loss = loss_of_batch()
            if not bool(torch.isfinite(loss)):
                raise StageError(f"the loss of batch {count} is {loss.item()} while importance is measured.")
            loss.backward()
            for root, score in _averaged(model, groups, _squared_gate_gradient).items():
                total[root] += score
            count += 1
    finally:
        model.zero_grad(set_to_none=True)
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, was_training in training.items():
            module.training = was_training
    if count == 0:
        raise StageError("importance group_taylor needs at least one training batch, and the loader gave none.")
    return total, count


def _squared_gate_gradient(module: nn.Module, member: Member) -> Tensor | None:
    weight = getattr(module, "weight", None)
    if weight is None or weight.grad is None:
        return None
    gate = channel_sums(module, member.side, (weight.detach() * weight.grad).double())
    bias = getattr(module, "bias", None)
    if member.side == "out" and bias is not None and bias.grad is not None:
        gate = gate + (bias.detach() * bias.grad).double()
    return gate.square()


def _averaged(
    model: nn.Module, groups: Sequence[PruningGroup], local: Callable[[nn.Module, Member], Tensor | None]
) -> Scores:
    """Add up each layer's own scores per channel of the group, divided by the number of layers."""
    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    scores: Scores = {}
    for group in groups:
        total, count = torch.zeros(group.width, dtype=torch.float64), 0
        for member in group.members:
            if member.side in ("table", "size"):
                continue
            values = local(modules[member.name], member)
            if values is not None:
                total.index_add_(0, torch.tensor(member.roots), values.cpu()[list(member.channels)])
                count += 1
        scores[group.root] = total / max(count, 1)
    return scores
