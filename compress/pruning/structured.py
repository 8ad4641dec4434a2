"""Structured pruning: how many channels each group keeps for a budget, and which ones.

The budget is exact arithmetic on the widths, so a plan costs no forward pass: a bisection over
one global ratio, widths rounded up, then single blocks of channels to come closest to the target.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from compress.devices import on_device
from compress.errors import StageError
from compress.metrics.complexity import Complexity, measure_complexity
from compress.pruning.coupling import Coupling, PruningGroup, remove_channels, trace_coupling
from compress.pruning.importance import (
    Importance,
    Scores,
    batch_norm_scores,
    magnitude_scores,
    random_scores,
    taylor_scores,
)
from compress.pruning.trial import groups_at_fault
from compress.pruning.widths import Widths, given_widths, narrowest_widths, round_up

if TYPE_CHECKING:
    from torch import Tensor, nn

Metric = Literal["macs", "params"]
# Layer -> side -> root of a group, how many of the layer's channels are the group's, and how many the group has.
_Changes = dict[str, dict[str, list[tuple[str, int, int]]]]
BISECTIONS = 40  # halvings of the ratio; more than any network has channels


@dataclass(frozen=True)
class PruningSettings:
    """How channels are ranked and how far layers may shrink.

    Attributes:
        metric: what the budget counts.
        importance: score of a channel.
        global_pruning: rank all groups together; False gives each group the same ratio.
        isomorphic: rank only groups of equal structure together (wins over global_pruning).
        cost_aware: divide scores by what a channel of the group costs in the metric.
        round_to: kept widths are multiples of it, rounded up.
        max_pruning_ratio: largest share of a group's original channels that may go, 0..1.
        seed: of importance 'random'.
    """

    metric: Metric = "macs"
    importance: Importance = "magnitude"
    global_pruning: bool = True
    isomorphic: bool = False
    cost_aware: bool = False
    round_to: int = 8
    max_pruning_ratio: float = 0.8
    seed: int = 0


@dataclass(frozen=True)
class PruningRules:
    """What the detector says about its network.

    Attributes:
        protected: module name -> reason; outputs of these layers stay.
        custom_pruners: exact class -> Torch-Pruning rule.
    """

    protected: Mapping[str, str] = field(default_factory=dict)
    custom_pruners: Mapping[type, Any] = field(default_factory=dict)


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
    not_prunable: dict[str, str]


class CostModel:
    """MACs or parameters of a model as an exact function of the widths of its groups."""

    def __init__(
        self, model: nn.Module, complexity: Complexity, groups: Sequence[PruningGroup], metric: Metric
    ) -> None:
        self.full = {group.root: group.width for group in groups}
        changes: _Changes = defaultdict(lambda: defaultdict(list))
        for group in groups:
            for member in group.members:
                key = f"{member.name}:{member.dim}" if member.side == "table" else member.name
                changes[key][member.side].append((group.root, len(member.channels), group.width))
        self._fixed = 0
        # Each term: cost now, width of each side now, and the groups that narrow that side: root, how many of this
        # layer's channels are theirs, and how many channels they have.
        self._terms: list[tuple[int, list[tuple[int, list[tuple[str, int, int]]]]]] = []
        for cost, width, dim_changes in _tables(model, changes) if metric == "params" else ():
            self._terms.append((cost, [(width, dim_changes)]))
            self._fixed -= cost  # counted once more below, as a parameter of its module
        for name, module in model.named_modules():
            for cost, sides in _terms_of(name, module, complexity, metric):
                narrowed = [
                    (_side_width(module, side), changes[name][side])
                    for side in sides
                    if changes.get(name, {}).get(side)
                ]
                if narrowed:
                    self._terms.append((cost, narrowed))
                else:
                    self._fixed += cost

    def cost(self, kept: Mapping[str, int]) -> int:
        """Return the cost if each group keeps so many channels."""
        total = self._fixed
        for cost, sides in self._terms:
            for width, changes in sides:
                left = width - sum(own * (self.full[root] - kept[root]) // full for root, own, full in changes)
                cost = cost * left // width
            total += cost
        return total


def _tables(model: nn.Module, changes: _Changes) -> Iterable[tuple[int, int, list[tuple[str, int, int]]]]:
    """Yield values, width and groups of every parameter that is cut and belongs to no layer."""
    for name, parameter in model.named_parameters():
        for dim, width in enumerate(parameter.shape):
            if narrowed := changes.get(f"{name}:{dim}", {}).get("table"):
                yield parameter.numel(), width, narrowed


def _terms_of(
    name: str, module: nn.Module, complexity: Complexity, metric: Metric
) -> Iterable[tuple[int, tuple[str, ...]]]:
    if metric == "macs":
        if name in complexity.layers:
            yield complexity.layers[name].macs, ("out", "in")
        return
    for parameter in module.parameters(recurse=False):
        yield parameter.numel(), ("out", "in") if parameter.dim() > 1 else ("out",)


def _side_width(module: nn.Module, side: str) -> int:
    names = {
        "out": ("out_channels", "out_features", "num_features", "num_channels", "num_parameters"),
        "in": ("in_channels", "in_features"),
    }
    for name in names[side]:
        if isinstance(width := getattr(module, name, None), int):
            return width
    raise StageError(f"{type(module).__name__} has no attribute for its {side} width, so it cannot be planned.")


def plan_widths(
    groups: Sequence[PruningGroup],
    scores: Scores,
    cost_model: CostModel,
    target_cost: int,
    *,
    floors: Mapping[str, int],
    settings: PruningSettings,
    given: Mapping[str, int] | None = None,
) -> Widths:
    """Choose the widths whose cost comes closest to the target.

    Args:
        groups: as traced.
        scores: root -> (width,) importance; groups without scores keep their width.
        cost_model: of the model as it is.
        target_cost: wanted cost.
        floors: root -> narrowest width.
        settings: ranking and rounding.
        given: root -> width that is not up to the ranking.

    Returns:
        Root -> width, between floor and present width, or as given.

    Raises:
        StageError: even the narrowest widths cost more than 1 % above the target.
    """
    start = {group.root: group.width for group in groups} | dict(given or {})
    if target_cost >= cost_model.cost(start):
        return start
    ranking = _Ranking(groups, scores, cost_model, floors, settings, given or {})
    low, high = 0.0, 1.0
    narrow = ranking.widths(high)
    if (least := cost_model.cost(narrow)) > target_cost * 1.01:
        raise StageError(
            f"target {settings.metric} {target_cost:,} cannot be reached: {least:,} stay at max_pruning_ratio "
            f"{settings.max_pruning_ratio:g}, round_to {settings.round_to}, with {len(ranking.ranks)} of {len(groups)} "
            f"groups scored by {settings.importance}. Ask for less or raise max_pruning_ratio."
        )
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if cost_model.cost(ranking.widths(middle)) > target_cost:
            low = middle
        else:
            high = middle
    return _closest(ranking, ranking.widths(low), ranking.widths(high), cost_model, target_cost)


class _Ranking:
    """The order in which channels go, per scope."""

    def __init__(
        self,
        groups: Sequence[PruningGroup],
        scores: Scores,
        cost_model: CostModel,
        floors: Mapping[str, int],
        settings: PruningSettings,
        given: Mapping[str, int],
    ) -> None:
        self.groups = groups
        self.floors = floors
        self.given = given
        self.units = {group.root: group.unit(settings.round_to) for group in groups}
        self.full = {group.root: group.width for group in groups}
        scopes: dict[str, list[str]] = defaultdict(list)
        comparable: dict[str, Tensor] = {}
        for group in groups:
            if group.root not in scores or group.root in given:
                continue
            score = part_scores(group, scores[group.root])
            if settings.cost_aware:
                fewer = self.full | {group.root: group.width - self.units[group.root]}
                freed = (cost_model.cost(self.full) - cost_model.cost(fewer)) / self.units[group.root]
                score = score * group.channel_groups / max(freed, 1.0)
            elif settings.importance != "random":
                score = score / score.mean().clamp_min(1e-30)
            comparable[group.root] = score
            scope = group.pattern if settings.isomorphic else "all" if settings.global_pruning else group.root
            scopes[scope].append(group.root)
        # Rank of each removable part within its scope, as a share of the scope, 0..1.
        self.ranks: dict[str, Tensor] = {}
        for roots in scopes.values():
            pooled = torch.cat([comparable[root] for root in roots])
            order = torch.empty_like(pooled)
            order[torch.argsort(pooled, stable=True)] = torch.arange(len(pooled), dtype=pooled.dtype)
            shares = (order / len(pooled)).split([len(comparable[root]) for root in roots])
            self.ranks.update(zip(roots, shares, strict=True))

    def widths(self, ratio: float) -> Widths:
        """Return the widths when `ratio` of every scope goes, rounded up and not below the floors."""
        widths = {}
        for group in self.groups:
            root = group.root
            gone = int((self.ranks[root] < ratio).sum()) * group.channel_groups if root in self.ranks else 0
            wanted = round_up(group.width - gone, self.units[root])
            widths[root] = self.given.get(root, min(max(wanted, self.floors[root]), group.width))
        return widths


def _closest(ranking: _Ranking, wide: Widths, narrow: Widths, cost_model: CostModel, target: int) -> Widths:
    """Return the widths nearest to the target among plans between and one block beside the two."""
    candidates = [wide, narrow]
    current = dict(wide)
    for root in sorted(wide, key=lambda name: wide[name] - narrow[name], reverse=True):
        while current[root] > narrow[root]:
            current = current | {root: current[root] - ranking.units[root]}
            candidates.append(current)
    for root, unit in ranking.units.items():
        if root in ranking.ranks and wide[root] - unit >= ranking.floors[root]:
            candidates.append(wide | {root: wide[root] - unit})
        if root in ranking.ranks and narrow[root] + unit <= ranking.full[root]:
            candidates.append(narrow | {root: narrow[root] + unit})
    return min(candidates, key=lambda widths: abs(cost_model.cost(widths) - target))


def part_scores(group: PruningGroup, score: Tensor) -> Tensor:
    """Average the scores over the equal parts of a group, (width,) -> (width / channel_groups,)."""
    return score.view(group.channel_groups, -1).mean(0)


def channels_to_remove(group: PruningGroup, score: Tensor, width: int) -> list[int]:
    """Return the least important channels of a group, the same positions in each equal part."""
    parts = group.channel_groups
    size = group.width // parts
    lowest = torch.argsort(part_scores(group, score), stable=True)[: (group.width - width) // parts].tolist()
    return sorted(part * size + position for part in range(parts) for position in lowest)


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


def tried_coupling(model: nn.Module, example_input: Tensor, rules: PruningRules) -> Coupling:
    """Return the pruning groups of a model that compute the same without channels as with them at zero."""
    how: dict[str, Any] = {"protected": rules.protected, "custom_pruners": rules.custom_pruners}
    coupling, refused = trace_coupling(model, example_input, **how), dict[str, str]()
    while wrong := groups_at_fault(model, example_input[:1], coupling):
        refused |= wrong
        coupling = trace_coupling(model, example_input, refused=refused, **how)
    return coupling


def prune_step(
    model: nn.Module,
    example_input: Tensor,
    target_cost: int,
    *,
    rules: PruningRules,
    settings: PruningSettings,
    original_widths: Mapping[str, int] | None = None,
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
    given = given_widths(coupling.groups, widths or {}, round_to=settings.round_to)
    planned, scores = cost_model.full | given, {}
    if target_cost < before or planned != cost_model.full:
        with on_device(model, device if settings.importance == "group_taylor" else "cpu"):
            scores = score_channels(model, coupling.groups, settings, losses)
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
    reasons = dict(coupling.not_prunable)
    if scores:
        reasons |= {
            group.root: f"importance {settings.importance} gives its group no score"
            for group in coupling.groups
            if group.root not in scores
        }
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


def measure_cost(model: nn.Module, example_input: Tensor, metric: Metric) -> int:
    """Return MACs of one image, or parameters, of a model as it is."""
    complexity = measure_complexity(model, example_input)
    return complexity.macs if metric == "macs" else complexity.params


def step_targets(full_cost: int, share: float, steps: int) -> list[int]:
    """Return the cost to reach after each step: equal factors, the last one exactly the target."""
    return [round(full_cost * share ** (step / steps)) for step in range(1, steps + 1)]
