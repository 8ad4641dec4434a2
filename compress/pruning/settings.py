"""How pruning ranks and limits, and what a plug-in says about its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compress.pruning.importance import Importance


@dataclass(frozen=True)
class PruningSettings:
    """How channels are ranked and how far layers may shrink.

    Attributes:
        importance: score of a channel.
        global_pruning: rank all groups together; False gives each group the same ratio.
        isomorphic: rank only groups of equal structure together (wins over global_pruning).
        cost_aware: divide scores by what a channel of the group costs, by what is limited.
        round_to: kept widths are multiples of it, rounded up.
        max_pruning_ratio: largest share of a group's original channels that may go, 0..1.
        seed: of importance 'random'.
    """

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
