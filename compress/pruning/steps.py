"""Structured pruning in several steps, and the check that it left the raw outputs as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import StageError
from compress.progress import say, warn
from compress.pruning.budget import Meter, cost_text
from compress.pruning.cost_model import measure_cost
from compress.pruning.probing import CLOSE
from compress.pruning.reasons import Reason
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.structured import prune_step, step_targets
from compress.pruning.target import COUNTED
from compress.pruning.widths import step_width

if TYPE_CHECKING:
    from torch import Tensor, nn

TARGET_TOLERANCE = 0.01  # of the wanted cost; further off is a warning
Losses = Iterable[Callable[[], "Tensor"]]


@dataclass(frozen=True)
class Reached:
    """One limit: cost before the first step, wanted at most, and after the last."""

    before: float
    wanted: float
    after: float


@dataclass(frozen=True)
class StepsResult:
    """What all steps together did.

    Attributes:
        reached: name of a limit -> its costs.
        groups: root -> members, and width before the first and after the last step.
        not_prunable: layer name -> reason.
        history: one row a step: its number, `wanted` and what was reached of each limit, and what `after_step` gave.
    """

    reached: dict[str, Reached]
    groups: dict[str, dict[str, Any]]
    not_prunable: dict[str, Reason]
    history: list[dict[str, Any]]


def prune_in_steps(
    model: nn.Module,
    example: Tensor,
    wanted: Mapping[str, float],
    *,
    steps: int,
    rules: PruningRules,
    settings: PruningSettings,
    widths: Mapping[str, int],
    losses: Callable[[int], Losses],
    after_step: Callable[[int], dict[str, Any]],
    label: str,
    device: str = "cpu",
    meter: Meter | None = None,
) -> StepsResult:
    """Remove channels in place until every limit holds, in steps of equal factors.

    Args:
        model: changed in place.
        example: one image, (1, 3, H, W) float32.
        wanted: 'macs' and 'params': the share that stays, 0..1; what the meter measures: the most that it may be.
        steps: how many.
        rules: what stays, and rules for unusual layers.
        settings: ranking and rounding; importance is measured anew in each step.
        widths: layer -> final channels, whatever the ranking says.
        losses: number of a step (from 1) -> losses of its training batches; read only if the importance asks.
        after_step: called with the number of each step that removed something; its rows join the history.
        label: of the stage, for what is printed.
        device: where importance is measured.
        meter: measures what is no count.

    Raises:
        StageError: a target cannot be reached, a given width does not fit, or the raw outputs changed.
    """
    shapes = [tuple(output.shape) for output in _outputs(model, example)]
    full: dict[str, float] = {name: measure_cost(model, example, name) for name in COUNTED if name in wanted}
    targets: dict[str, float] = {name: round(full[name] * wanted[name]) for name in full}
    if meter is not None:
        full |= meter.costs(model)
        targets |= {name: wanted[name] for name in wanted if name not in targets}
    by_step = {name: step_targets(full[name], min(most, full[name]), steps) for name, most in targets.items()}
    by_step |= {name: [round(most) for most in by_step[name]] for name in COUNTED if name in by_step}
    first = {name: len(p) for name, p in model.named_parameters() if name.endswith(".weight")}
    original: dict[str, int] | None = None
    groups: dict[str, dict[str, Any]] = {}
    not_prunable: dict[str, Reason] = {}
    history: list[dict[str, Any]] = []
    after: dict[str, float] = {}
    for step in range(1, steps + 1):
        now = {name: of_steps[step - 1] for name, of_steps in by_step.items()}
        result = prune_step(
            model,
            example,
            now,
            rules=rules,
            settings=settings,
            original_widths=original,
            full_costs=full,
            widths=_widths_after(step, steps, widths, first, settings.round_to),
            losses=losses(step),
            device=device,
            meter=meter,
        )
        original = original or {root: group.before for root, group in result.groups.items()}
        for root, group in result.groups.items():
            groups[root] = {"members": list(group.members), "before": original[root], "after": group.after}
        not_prunable, after = result.not_prunable, result.after
        told = ", ".join(f"{name} {cost_text(name, full[name])} -> {cost_text(name, after[name])}" for name in after)
        say(f"{label}: step {step}/{steps}: {told}")
        is_narrower = any(group.after < group.before for group in result.groups.values())
        done = after_step(step) if is_narrower else {}
        history.append({"step": step, "wanted": now} | after | done)
    check_outputs(label, _outputs(model, example), shapes)
    reached = {name: Reached(full[name], most, after[name]) for name, most in targets.items()}
    _warn_if_missed(label, settings, reached)
    return StepsResult(reached, groups, not_prunable, history)


def _widths_after(
    step: int, steps: int, widths: Mapping[str, int], first: Mapping[str, int], round_to: int
) -> dict[str, int]:
    """Return the given widths after one step; a name that is no layer is refused by the pruning itself."""
    return {
        name: step_width(first.get(f"{name}.weight", final), final, step=step, steps=steps, round_to=round_to)
        for name, final in widths.items()
    }


def _warn_if_missed(label: str, settings: PruningSettings, reached: Mapping[str, Reached]) -> None:
    """Say if the limit that decides is missed, or was not used, by more than the tolerance."""
    name, one = max(reached.items(), key=lambda item: item[1].after / item[1].wanted)
    error = one.after / one.wanted - 1
    tolerance = TARGET_TOLERANCE if name in COUNTED else CLOSE
    if abs(error) > tolerance and one.wanted < one.before:
        warn(
            f"stage {label}: {name} {cost_text(name, one.after)} stay, {error:+.1%} off the target: "
            f"widths are multiples of {settings.round_to}. A smaller round_to comes closer."
        )


def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    model.eval()
    with torch.no_grad():
        return list(model(images))


def check_outputs(label: str, outputs: list[Tensor], shapes: list[tuple[int, ...]]) -> None:
    """Refuse raw outputs that pruning changed in form, or that are not finite.

    Args:
        label: of the stage, for the message.
        outputs: of the pruned model.
        shapes: of the outputs before.

    Raises:
        StageError: a shape changed, or an output is not finite.
    """
    now = [tuple(output.shape) for output in outputs]
    if now != shapes:
        wrong = [f"output {i}: {a} -> {b}" for i, (a, b) in enumerate(zip(shapes, now, strict=False)) if a != b]
        raise StageError(f"stage {label}: pruning changed the raw outputs: {'; '.join(wrong) or len(now)}.")
    for index, output in enumerate(outputs):
        if not bool(torch.isfinite(output).all()):
            raise StageError(f"stage {label}: output {index} of the pruned model is not finite.")
