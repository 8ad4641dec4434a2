"""The numbers and habits of training: ours, the published ones, or any mixture. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rules:
    """How labels are assigned and losses divided. The defaults are ours; numbers in brackets are rows of the
    plug-in's README, section 7.

    Attributes:
        topk: candidates of a box, K.
        topq: candidates left after the ranking by prediction, Q.
        gauss_threshold: g; a sample stays if its gate value is at least exp(-g).
        ranking: what the ranking decodes on (2, 3): 'grid' as the loss does, 'moved' priors, or 'published':
            moved priors with the angle delta taken as radians.
        fill_short_boxes: boxes with fewer than Q candidates are filled up with those of other boxes (5).
        gate_ignored: ignored priors outside the gate of the first box become background (6).
        shift_by_height: priors move by image height / 256 * 2^level instead of stride / 2 (11).
        divisor_by_image: an image without positives counts 1 and each process divides by its own number (16).
    """

    topk: int = 16
    topq: int = 12
    gauss_threshold: float = 0.8
    ranking: Literal["grid", "moved", "published"] = "grid"
    fill_short_boxes: bool = False
    gate_ignored: bool = False
    shift_by_height: bool = False
    divisor_by_image: bool = False


def published_rules(
    topk: int = 16,
    topq: int = 12,
    gauss_threshold: float = 0.6,
    ranking: Literal["grid", "moved", "published"] = "published",
) -> Rules:
    """Return the rules of the published code (`compat: true`); its own numbers are the defaults."""
    return Rules(
        topk,
        topq,
        gauss_threshold,
        ranking,
        fill_short_boxes=True,
        gate_ignored=True,
        shift_by_height=True,
        divisor_by_image=True,
    )
