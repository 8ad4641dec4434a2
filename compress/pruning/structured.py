"""Structured pruning of one step: trace, score, plan, cut, and check that the model costs what was planned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.devices import on_device
from compress.errors import StageError
from compress.metrics.complexity import Complexity, measure_complexity
from compress.pruning.budget import Budget, CostFunction, Limit, Meter
from compress.pruning.cost_model import CostModel, Count
from compress.pruning.coupling import Coupling, PruningGroup, trace_coupling
from compress.pruning.importance import Scores, batch_norm_scores, magnitude_scores, random_scores, taylor_scores
from compress.pruning.kept import unreachable
from compress.pruning.probing import plan_by_measuring, try_widths
from compress.pruning.reasons import Reason, no_score
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.side_widths import SideWidths
from compress.pruning.target import COUNTED
from compress.pruning.trial import groups_at_fault
from compress.pruning.width_plan import apply_widths, plan_widths
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
        before, after: name of a limit -> cost of one image; what is measured on the deployed file as it was measured.
        groups: root -> members and widths, unchanged groups included.
        not_prunable: layer name -> reason.
    """

    before: dict[str, float]
    after: dict[str, float]
    groups: dict[str, GroupWidth]
    not_prunable: dict[str, Reason]


def prune_step(
    model: nn.Module,
    example_input: Tensor,
    targets: Mapping[str, float],
    *,
    rules: PruningRules,
    settings: PruningSettings,
    original_widths: Mapping[str, int] | None = None,
    full_costs: Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
    losses: Iterable[Callable[[], Tensor]] = (),
    device: str = "cpu",
    meter: Meter | None = None,
) -> StepResult:
    """Prune a model in place to what it may cost.

    Args:
        model: float model on the CPU.
        example_input: (N, 3, H, W), at the deployed size.
        targets: what shall stay at most: 'macs' of one image, 'params', and what the meter measures.
        rules: what the detector protects and how its unusual layers are cut.
        settings: ranking and limits.
        original_widths: root -> width before the first of several steps; default: now.
        full_costs: costs before the first of several steps, that messages give shares of; default: now.
        widths: layer name -> channels its group shall have, whatever the ranking says.
        losses: one call a batch, for importance 'group_taylor'.
        device: 'auto', 'cpu' or 'cuda', where the losses run; everything else runs on the CPU.
        meter: measures what is no count; given if and only if a target is none.

    Returns:
        What was done. Targets at or above the present costs change nothing.

    Raises:
        StageError: a target cannot be reached, round_to or a given width does not fit, or the pruned
            model does not cost what was planned.
    """
    coupling = tried_coupling(model, example_input, rules)
    complexity = measure_complexity(model, example_input)
    sides = SideWidths(coupling.groups)
    counts = {name: CostModel(model, complexity, sides, name) for name in _counts(targets)}
    original = original_widths if original_widths is not None else sides.full
    floors = narrowest_widths(
        coupling.groups, original, round_to=settings.round_to, max_pruning_ratio=settings.max_pruning_ratio
    )
    given = given_widths(coupling.groups, widths or {}, round_to=settings.round_to, kept=coupling.not_prunable)
    if meter is not None:
        try_widths(meter, model, coupling, sides.full | given, floors, settings)

    def budget() -> Budget:
        functions: dict[str, CostFunction] = {str(name): one for name, one in counts.items()}
        if meter is not None:
            functions |= meter.cost_functions(model, sides)
        return Budget([Limit(name, functions[name], most) for name, most in targets.items()], sides.full)

    now = budget()
    before = {one.name: one.function.cost(sides.full) for one in now.limits}
    planned, scores, reasons = sides.full | given, {}, dict(coupling.not_prunable)
    if now.used(sides.full) > 1 or planned != sides.full:
        with on_device(model, device if settings.importance == "group_taylor" else "cpu"):
            scores = score_channels(model, coupling.groups, settings, losses)
        reasons |= {group.root: no_score(settings.importance) for group in coupling.groups if group.root not in scores}
        narrowest = sides.full | {root: floors[root] for root in scores} | given
        if now.used(narrowest) > 1 + UNREACHED:
            text = unreachable(model, reasons, complexity, settings, now, narrowest, full=full_costs or before)
            raise StageError(text)

        def plan(by: Budget) -> Widths:
            return plan_widths(coupling.groups, scores, by, floors=floors, settings=settings, given=given)

        if meter is None:
            planned = plan(now)
        else:
            planned, now = plan_by_measuring(meter, model, coupling, scores, budget, plan)
    apply_widths(model, coupling, scores, planned)
    _check_counts(measure_complexity(model, example_input), {name: one.cost(planned) for name, one in counts.items()})
    after = {one.name: one.function.cost(planned) for one in now.limits}
    table = {g.root: GroupWidth(g.producers, g.width, planned[g.root]) for g in coupling.groups}
    return StepResult(before, after, table, reasons)


def _counts(names: Iterable[str]) -> list[Count]:
    return [name for name in COUNTED if name in set(names)]


def _check_counts(found: Complexity, planned: Mapping[Count, int]) -> None:
    """Refuse a network that does not cost what was planned."""
    for name, cost in planned.items():
        if (real := found.macs if name == "macs" else found.params) != cost:
            raise StageError(
                f"the pruned model costs {real:,} {name}; the plan says {cost:,}. "
                "A layer was pruned inconsistently: protect it or give its class a custom pruner."
            )


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


def step_targets(full: float, target: float, steps: int) -> list[float]:
    """Return the cost to reach after each step: equal factors, the last one exactly the target."""
    return [full * (target / full) ** (step / steps) for step in range(1, steps)] + [target]
