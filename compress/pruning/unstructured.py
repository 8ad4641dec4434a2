"""Setting single weights to zero: which ones, how many at which step, and keeping them zero."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from compress.errors import StageError
from compress.layer_names import unknown_names
from compress.metrics.complexity import prunable_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Scope = Literal["global", "per_layer"]
ElementImportance = Literal["magnitude", "scaled_magnitude"]
Schedule = Literal["cubic", "one_shot"]


def cubic_sparsity(step: int, total: int, *, initial: float, final: float) -> float:
    """Return the sparsity that the cubic schedule asks for after one step.

    Args:
        step: steps done; clipped to 0..total.
        total: steps of the whole ramp; 0 gives `final` at once.
        initial: sparsity at step 0, 0..1.
        final: sparsity at `total` and later, 0..1.

    Returns:
        initial <= sparsity <= final; steep first, flat at the end.

    Source:
        Zhu and Gupta 2017, arXiv 1710.01878, equation 1.
    """
    if step >= total:
        return final
    left = 1 - max(step, 0) / total
    return final + (initial - final) * left**3


def sparse_layer_names(model: nn.Module, skip: Collection[str] = ()) -> tuple[str, ...]:
    """Return the names of the convolution-like and linear layers whose weights may become zero.

    Args:
        model: any torch model.
        skip: module names or shell patterns ('head.*') to leave out.

    Raises:
        StageError: a pattern matches no layer.
    """
    names = tuple(prunable_weights(model))
    if (wrong := unknown_names("skip", skip, names, what="layer with weights", patterns=True)) is not None:
        raise StageError(wrong)
    return tuple(name for name in names if not any(fnmatchcase(name, pattern) for pattern in skip))


def element_importance(weight: Tensor, kind: ElementImportance) -> Tensor:
    """Return the importance of every weight of one layer.

    Args:
        weight: any shape.
        kind: 'magnitude', or 'scaled_magnitude': divided by the layer's root mean square, so that a
            global ranking does not empty layers whose weights are small as a whole.

    Returns:
        Same shape, float32 or wider, >= 0. Larger means keep.
    """
    size = weight.detach().abs().float()
    if kind == "magnitude":
        return size
    return size / size.square().mean().sqrt().clamp_min(1e-12)


def magnitude_masks(
    weights: Mapping[str, Tensor],
    sparsity: float,
    *,
    scope: Scope = "global",
    importance: ElementImportance = "magnitude",
    max_sparsity_per_layer: float = 0.95,
) -> dict[str, Tensor]:
    """Choose the weights that stay.

    Exactly round(sparsity * number of weights) elements are dropped (per layer with scope
    'per_layer'), ties broken by position. A global ranking drops no more than
    `max_sparsity_per_layer` of a layer; the other layers give the rest.

    Args:
        weights: layer name -> weight.
        sparsity: share to drop, 0..1.
        scope: rank all weights together or every layer by itself.
        importance: see `element_importance`.
        max_sparsity_per_layer: protection of small layers, 0..1.

    Returns:
        Layer name -> bool tensor of the weight's shape, True = keep.

    Raises:
        StageError: sparsity > max_sparsity_per_layer, so it cannot be reached.
    """
    import torch

    if sparsity > max_sparsity_per_layer:
        raise StageError(
            f"sparsity {sparsity:g} cannot be reached: max_sparsity_per_layer is {max_sparsity_per_layer:g}. "
            "Raise it, or ask for less."
        )
    scores = {name: element_importance(weight, importance).flatten() for name, weight in weights.items()}
    if scope == "per_layer":
        drop = {name: _lowest(score, round(sparsity * score.numel())) for name, score in scores.items()}
    else:
        total = sum(score.numel() for score in scores.values())
        candidates = {
            name: _lowest(score, int(max_sparsity_per_layer * score.numel() + 0.5)) for name, score in scores.items()
        }
        pooled = torch.cat([scores[name][index] for name, index in candidates.items()])
        chosen = torch.zeros(pooled.numel(), dtype=torch.bool, device=pooled.device)
        chosen[_lowest(pooled, min(round(sparsity * total), pooled.numel()))] = True
        parts = chosen.split([index.numel() for index in candidates.values()])
        drop = {name: index[part] for (name, index), part in zip(candidates.items(), parts, strict=True)}
    masks = {}
    for name, weight in weights.items():
        keep = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
        keep[drop[name]] = False
        masks[name] = keep.view(weight.shape)
    return masks


def _lowest(scores: Tensor, count: int) -> torch.Tensor:
    """Return the positions of the `count` smallest scores; equal ones in order of position."""
    import torch

    return torch.argsort(scores, stable=True)[:count]


class MaskKeeper:
    """Ramps masks up while a model trains and keeps the dropped weights at zero.

    Pass `after_step` to `training.fit`. It recomputes the masks every `update_every` steps until
    `ramp_share` of the steps are done, then they are frozen. After every optimizer step the masks
    are applied again, so neither momentum nor weight decay can bring a weight back, and weights
    that were zero at the start stay zero. Which masks hold is read from the weights at the first
    forward pass, so a training that was killed and resumed ends with the same weights.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Collection[str],
        *,
        sparsity: float,
        schedule: Schedule = "cubic",
        scope: Scope = "global",
        importance: ElementImportance = "magnitude",
        max_sparsity_per_layer: float = 0.95,
        ramp_share: float = 0.6,
        update_every: int = 10,
    ) -> None:
        self.model = model
        self.layers = tuple(layers)
        self.sparsity = sparsity
        self.schedule = schedule
        self.scope: Scope = scope
        self.importance: ElementImportance = importance
        self.max_sparsity_per_layer = max_sparsity_per_layer
        self.ramp_share = ramp_share
        self.update_every = update_every
        self.initial = _share_of_zeros(self._weights())
        self.masks: dict[str, Tensor] = {}

    def start(self) -> None:
        """Prune at once if the schedule is one_shot, and watch for the first forward pass."""
        if self.schedule == "one_shot":
            self._update(self.sparsity)

        def read_masks(*_: object) -> None:
            handle.remove()
            self.masks = {name: weight.detach() != 0 for name, weight in self._weights().items()}

        handle = self.model.register_forward_pre_hook(read_masks)

    def ramp_steps(self, total_steps: int) -> int:
        """Return the step at which the final sparsity is reached, 0 for one_shot."""
        return 0 if self.schedule == "one_shot" else max(int(self.ramp_share * total_steps), 1)

    def after_step(self, step: int, total_steps: int) -> None:
        """Update the masks if it is time, then apply them.

        Args:
            step: optimizer steps done so far, 1..total_steps.
            total_steps: steps of the whole training.
        """
        ramp_steps = self.ramp_steps(total_steps)
        self.apply()
        if step == ramp_steps or (step < ramp_steps and step % self.update_every == 0):
            self._update(cubic_sparsity(step, ramp_steps, initial=self.initial, final=self.sparsity))

    def finish(self) -> float:
        """Bring the model to the final sparsity, whatever training did.

        Returns:
            Share of zeros among the weights of the layers.

        Raises:
            StageError: it is not the sparsity that was asked for, within one element a layer.
        """
        wanted = {name: int(self.sparsity * mask.numel()) - 1 for name, mask in self.masks.items()}
        if self.masks and sum(int((~m).sum()) for m in self.masks.values()) >= sum(wanted.values()):
            self.apply()
        else:
            self._update(self.sparsity)
        reached = _share_of_zeros(self._weights())
        tolerance = (len(self.layers) if self.scope == "per_layer" else 1) / _count(self._weights())
        if reached < self.sparsity - tolerance:
            raise StageError(f"sparsity is {reached:.6f} after pruning; {self.sparsity:.6f} was asked for.")
        return reached

    def apply(self) -> None:
        """Set the dropped weights to zero."""
        import torch

        weights = self._weights()
        with torch.no_grad():
            for name, mask in self.masks.items():
                weights[name].mul_(mask.to(weights[name].device))

    def _weights(self) -> dict[str, Tensor]:
        modules = dict(self.model.named_modules())
        return {name: modules[name].weight for name in self.layers}

    def _update(self, sparsity: float) -> None:
        self.masks = magnitude_masks(
            self._weights(),
            sparsity,
            scope=self.scope,
            importance=self.importance,
            max_sparsity_per_layer=self.max_sparsity_per_layer,
        )
        self.apply()


def _count(weights: Mapping[str, Tensor]) -> int:
    return max(sum(weight.numel() for weight in weights.values()), 1)


def _share_of_zeros(weights: Mapping[str, Tensor]) -> float:
    return sum(int((weight == 0).sum()) for weight in weights.values()) / _count(weights)
