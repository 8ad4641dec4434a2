"""The steps that are tried, each on one part of a network while all others stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from compress.pruning.coupling import PruningGroup
from compress.pruning.importance import Scores
from compress.pruning.width_plan import channels_to_remove

What = Literal["channels", "weights", "activations"]


@dataclass(frozen=True)
class Freed:
    """What a step takes off the network, as shares of the whole, 0..1.

    Attributes:
        params: of all parameters.
        macs: of the MACs of one image.
        bytes: of what all weights take as integers of 8 bits, ideally coded.
    """

    params: float = 0.0
    macs: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Step:
    """One change of one part.

    Attributes:
        what: 'channels' of a pruning group are removed; 'weights' of a layer, or the 'activations' that enter it, are
            rounded.
        part: root of the group, or name of the layer.
        amount: share of the channels, 0..1; or bits.
        width: channels of the group.
        channels: those that go.
        ranges: least and greatest input, one pair a call of the layer in a forward pass.
        freed: what it takes off the network.
    """

    what: What
    part: str
    amount: float
    width: int = 0
    channels: tuple[int, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    freed: Freed = Freed()

    @property
    def key(self) -> str:
        """Return a text that no other step of a network has."""
        return f"{self.what} {self.amount:g} {self.part}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Step:
        """Return the step that `to_json` told."""
        ranges = tuple((float(low), float(high)) for low, high in data["ranges"])
        freed = Freed(**data["freed"])
        return cls(**{**data, "channels": tuple(data["channels"]), "ranges": ranges, "freed": freed})


def channel_steps(groups: Sequence[PruningGroup], scores: Scores, shares: Iterable[float]) -> list[Step]:
    """Return the removals of the least important channels of each group, at least one and never all.

    Args:
        groups: as traced; those without a score are left out.
        scores: root -> (width,) importance, larger means keep.
        shares: of each group's channels, 0..1; where two come to the same number of channels, the larger is left out.
    """
    steps = []
    for group in groups:
        if group.root not in scores:
            continue
        parts, size = group.channel_groups, group.width // group.channel_groups
        tried: set[int] = set()
        for share in sorted(shares):
            gone = min(max(round(size * share), 1), size - 1)
            if gone in tried or not gone:
                continue
            tried.add(gone)
            channels = channels_to_remove(group, scores[group.root], group.width - gone * parts)
            steps.append(Step("channels", group.root, share, group.width, tuple(channels)))
    return steps
