"""How many channels each group keeps for a budget, and which ones.

A plan costs no forward pass: a bisection over one global ratio, widths rounded up, then single blocks of channels to
come closest to the target.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from compress.pruning.budget import Budget
from compress.pruning.coupling import Coupling, PruningGroup, remove_channels
from compress.pruning.importance import Scores
from compress.pruning.settings import PruningSettings
from compress.pruning.widths import Widths, round_up

if TYPE_CHECKING:
    from torch import Tensor, nn


BISECTIONS = 40  # halvings of the ratio; more than any network has channels


def plan_widths(
    groups: Sequence[PruningGroup],
    scores: Scores,
    budget: Budget,
    *,
    floors: Mapping[str, int],
    settings: PruningSettings,
    given: Mapping[str, int] | None = None,
) -> Widths:
    """Choose the widths that come closest to using the budget.

    Args:
        groups: as traced.
        scores: root -> (width,) importance; groups without scores keep their width.
        budget: of the model as it is; where even the narrowest widths cost more, these are returned.
        floors: root -> narrowest width.
        settings: ranking and rounding.
        given: root -> width that is not up to the ranking.

    Returns:
        Root -> width, between floor and present width, or as given.
    """
    start = {group.root: group.width for group in groups} | dict(given or {})
    if budget.used(start) <= 1:
        return start
    ranking = _Ranking(groups, scores, budget, floors, settings, given or {})
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if budget.used(ranking.widths(middle)) > 1:
            low = middle
        else:
            high = middle
    return _closest(ranking, ranking.widths(low), ranking.widths(high), budget)


class _Ranking:
    """The order in which channels go, per scope."""

    def __init__(
        self,
        groups: Sequence[PruningGroup],
        scores: Scores,
        budget: Budget,
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
                freed = budget.freed(fewer) / self.units[group.root]
                score = score * group.channel_groups / max(freed, 1e-12)
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


def _closest(ranking: _Ranking, wide: Widths, narrow: Widths, budget: Budget) -> Widths:
    """Return the widths nearest to the budget among plans between and one block beside the two."""
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
    return min(candidates, key=lambda widths: abs(budget.used(widths) - 1))


def part_scores(group: PruningGroup, score: Tensor) -> Tensor:
    """Average the scores over the equal parts of a group, (width,) -> (width / channel_groups,)."""
    return score.view(group.channel_groups, -1).mean(0)


def channels_to_remove(group: PruningGroup, score: Tensor, width: int) -> list[int]:
    """Return the least important channels of a group, the same positions in each equal part."""
    parts = group.channel_groups
    size = group.width // parts
    lowest = torch.argsort(part_scores(group, score), stable=True)[: (group.width - width) // parts].tolist()
    return sorted(part * size + position for part in range(parts) for position in lowest)


def apply_widths(model: nn.Module, coupling: Coupling, scores: Scores, widths: Widths) -> None:
    """Remove the least important channels of each group that the widths make narrower."""
    removals = {
        group.root: channels_to_remove(group, scores[group.root], widths[group.root])
        for group in coupling.groups
        if widths[group.root] < group.width
    }
    remove_channels(coupling, model, removals)
