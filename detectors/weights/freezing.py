"""Which parts of a network stay as they are in training. Imports no torch at the top."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# What `frozen_stages` counts: the stem first, then stage by stage (names below the backbone).
RESNET_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
MOBILENET_V2_STAGES = (("conv1",), ("layer1",), ("layer2",), ("layer3",), ("layer4",))


def stage_prefixes(stages: Sequence[Iterable[object]], count: int, below: str) -> tuple[str, ...]:
    """Return how the names of the stem and the first stages begin, dot included; none for count 0.

    Args:
        stages: names of the stem's modules, then of each stage's.
        count: how many stages beside the stem; 0: not even the stem.
        below: name of the module that holds them.
    """
    return tuple(f"{below}.{name}." for stage in stages[: count + 1] for name in stage) if count else ()


def set_training(
    model: nn.Module, *, frozen: Sequence[str] = (), still_norms: Sequence[str] = (), norms_learn: bool = True
) -> None:
    """Put a network in training mode, but for what stays as it is.

    Works by module name, so rebuilt, pruned and traced models are treated alike.

    Args:
        model: changed in place.
        frozen: name prefixes of parts whose parameters get no gradient and whose BatchNorm keeps its statistics.
        still_norms: name prefixes of further BatchNorm that keeps its statistics; "" is all.
        norms_learn: whether scale and shift of BatchNorm that keeps its statistics are trained.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    model.train()
    still = (*frozen, *still_norms)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and f"{name}.".startswith(still):
            module.eval()
            if not norms_learn:
                module.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(frozen)):
            parameter.requires_grad_(False)
