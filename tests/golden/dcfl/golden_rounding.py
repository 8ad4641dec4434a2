"""Whether rounding decides an assignment: of two numbers that a decision compares, both answers are then right.

The published float32 distances, and those of any other arithmetic, may then take another prior at the edge of K, of
Q, of the gate or of the ignore threshold. A folder of other scenes has such scenes now and then; what a flip does not
touch is compared all the same.
"""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2] / "unit" / "detectors" / "dcfl"))

import assigner_oracle as slow

SIMILARITY = 2e-6  # float32 from differences of coordinates, on either side
MARGIN = 2e-5  # of quality and gate; README of the golden numbers: 1e-5 on either side
IGNORE_FROM = 0.8


def allowed(prefix, num_priors):
    """Return how many priors may differ (README of the golden numbers, section 7)."""
    return {"s64": 0, "f32": max(2, 0.0005 * num_priors), "h16": max(8, 0.001 * num_priors)}[prefix]


def assert_map(found, expected, prefix, case, rules):
    """Assert that a map is the stored one, up to what the arithmetic of the stored one, or rounding, leaves open."""
    flips, limit = int((found != expected).sum()), allowed(prefix, len(expected))
    if flips > limit and prefix == "s64" and decided_by_rounding(case, rules):
        limit = allowed("f32", len(expected))
    assert flips <= limit


def decided_by_rounding(case, rules, *, margin=MARGIN):
    """Return whether some decision of an assigner scene lies within rounding."""
    best = case["s64_top24_similarity"].double()
    if best.shape[1] > rules.topk:
        gap = best[:, rules.topk - 1] - best[:, rules.topk]
        if ((gap > 0) & (gap < SIMILARITY)).any():
            return True
    if ((case["s64_max_similarity"].double() - IGNORE_FROM).abs() < SIMILARITY).any():
        return True
    names = ("gt_boxes", "grid_priors", "priors", "deltas", "logits")
    before, slow.MARGIN = slow.MARGIN, margin
    try:
        slow.oracle(*(case[name].double().tolist() for name in names), rules)
    except slow.AmbiguousError:
        return True
    finally:
        slow.MARGIN = before
    return False


def comparable_maps(own, stored):
    """Return the maps to compare losses by: our own if they are the stored ones, else, within the limit, those.

    Args:
        own: (N, P) our maps.
        stored: (N, P) of the folder.
    """
    for found, expected in zip(own, stored, strict=True):
        assert (found != expected).sum() <= allowed("f32", len(expected))
    return own if torch.equal(own, stored) else stored
