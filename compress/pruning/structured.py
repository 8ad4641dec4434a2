"""Structured pruning of one step: trace, score, plan, cut, and check that the model costs what was planned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.devices import on_device
from compress.errors import StageError
from compress.metrics.complexity import measure_complexity
from compress.pruning.cost_model import CostModel, measure_cost
from compress.pruning.coupling import Coupling, PruningGroup, remove_channels, trace_coupling
from compress.pruning.importance import Scores, batch_norm_scores, magnitude_scores, random_scores, taylor_scores
from compress.pruning.kept import unreachable
from compress.pruning.reasons import Reason, no_score
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.trial import groups_at_fault
from compress.pruning.width_plan import channels_to_remove, plan_widths
from compress.pruning.widths import Widths, given_widths, narrowest_widths

if TYPE_CHECKING:
    from torch import Tensor, nn


UNREACHED = 0.01  # of the target; what comes closer is told as a warning


@dataclass(frozen=True)
class GroupWidth:
    """What one step did to a group: layers that lost output channels, width before and after."""

    members: tuple[str, ...]
    before: int
    after: int


@dataclass(frozen=True)
class StepResult:
    """What one pruning step did.

    Attributes:
        cost_before, cost_after: in the metric, one image.
        groups: root -> members and widths, unchanged groups included.
        not_prunable: layer name -> reason.
    """

    cost_before: int
    cost_after: int
    groups: dict[str, GroupWidth]
    not_prunable: dict[str, Reason]


def prune_step(
    model: nn.Module,
    example_input: Tensor,
    target_cost: int,
    *,
    rules: PruningRules,
    settings: PruningSettings,
    original_widths: Mapping[str, int] | None = None,
    full_cost: int | None = None,
    widths: Mapping[str, int] | None = None,
    losses: Iterable[Callable[[], Tensor]] = (),
    device: str = "cpu",
) -> StepResult:
    """Prune a model in place to a cost.

    Args:
        model: float model on the CPU.
        example_input: (N, 3, H, W), at the deployed size.
        target_cost: MACs of one image, or parameters, that shall stay.
        rules: what the detector protects and how its unusual layers are cut.
        settings: ranking and limits.
        original_widths: root -> width before the first of several steps; default: now.
        full_cost: cost before the first of several steps, that messages give shares of; default: now.
        widths: layer name -> channels its group shall have, whatever the ranking says.
        losses: one call a batch, for importance 'group_taylor'.
        device: 'auto', 'cpu' or 'cuda', where the losses run; everything else runs on the CPU.

    Returns:
        What was done. A target at or above the present cost changes nothing.

    Raises:
        StageError: the target cannot be reached, round_to or a given width does not fit, or the pruned
            model does not cost what was planned.
    """
    coupling = tried_coupling(model, example_input, rules)
    complexity = measure_complexity(model, example_input)
    cost_model = CostModel(model, complexity, coupling.groups, settings.metric)
    before = cost_model.cost(cost_model.full)
    original = original_widths if original_widths is not None else cost_model.full
    floors = narrowest_widths(
        coupling.groups, original, round_to=settings.round_to, max_pruning_ratio=settings.max_pruning_ratio
    )
    given = given_widths(coupling.groups, widths or {}, round_to=settings.round_to, kept=coupling.not_prunable)
    planned, scores, reasons = cost_model.full | given, {}, dict(coupling.not_prunable)
    if target_cost < before or planned != cost_model.full:
        with on_device(model, device if settings.importance == "group_taylor" else "cpu"):
            scores = score_channels(model, coupling.groups, settings, losses)
        reasons |= {group.root: no_score(settings.importance) for group in coupling.groups if group.root not in scores}
        narrowest = cost_model.full | {root: floors[root] for root in scores} | given
        if (least := cost_model.cost(narrowest)) > target_cost * (1 + UNREACHED):
            text = unreachable(
                model, reasons, complexity, settings, target=target_cost, least=least, full=full_cost or before
            )
            raise StageError(text)
        planned = plan_widths(
            coupling.groups, scores, cost_model, target_cost, floors=floors, settings=settings, given=given
        )
    apply_widths(model, coupling, scores, planned)
    after = measure_cost(model, example_input, settings.metric)
    if after != cost_model.cost(planned):
        raise StageError(
            f"the pruned model costs {after:,} {settings.metric}; the plan says {cost_model.cost(planned):,}. "
            "A layer was pruned inconsistently: protect it or give its class a custom pruner."
        )
    table = {g.root: GroupWidth(g.producers, g.width, planned[g.root]) for g in coupling.groups}
    return StepResult(before, after, table, reasons)


def apply_widths(model: nn.Module, coupling: Coupling, scores: Scores, widths: Widths) -> None:
    """Remove the least important channels of each group that the widths make narrower."""
    removals = {
        group.root: channels_to_remove(group, scores[group.root], widths[group.root])
        for group in coupling.groups
        if widths[group.root] < group.width
    }
    remove_channels(coupling, model, removals)


def tried_coupling(model: nn.Module, example_input: Tensor, rules: PruningRules) -> Coupling:
    """Return the pruning groups of a model that compute the same without channels as with them at zero."""
    how: dict[str, Any] = {"protected": rules.protected, "custom_pruners": rules.custom_pruners}
    coupling, refused = trace_coupling(model, example_input, **how), dict[str, Reason]()
    while wrong := groups_at_fault(model, example_input[:1], coupling):
        refused |= wrong
        coupling = trace_coupling(model, example_input, refused=refused, **how)
    return coupling


def score_channels(
    model: nn.Module,
    groups: Sequence[PruningGroup],
    settings: PruningSettings,
    losses: Iterable[Callable[[], Tensor]],
) -> Scores:
    """Score the channels of every group by the importance that the settings name."""
    if settings.importance == "magnitude":
        return magnitude_scores(model, groups)
    if settings.importance == "bn_scale":
        return batch_norm_scores(model, groups)
    if settings.importance == "random":
        return random_scores(groups, settings.seed)
    return taylor_scores(model, groups, losses)[0]


def step_targets(full_cost: int, share: float, steps: int) -> list[int]:
    """Return the cost to reach after each step: equal factors, the last one exactly the target."""
    return [round(full_cost * share ** (step / steps)) for step in range(1, steps + 1)]
