"""COCO's matching of detections to boxes, at all overlap thresholds and for all images in one pass. NumPy only."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

# COCO's, computed as `cocoeval.py` does: 0.50, 0.55, ..., 0.95.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
WRONG, NEITHER = -1, -2


class Pairs(NamedTuple):
    """Detections and boxes that overlap; no other pair can be a match.

    Attributes:
        detection: (p,) int64, index of the detection.
        box: (p,) int64, index of the true box; negative: an ignored one.
        overlap: (p,) float64, 0..1.
    """

    detection: np.ndarray
    box: np.ndarray
    overlap: np.ndarray


def match_greedily(
    pairs: Pairs, group: np.ndarray, num_boxes: int, *, thresholds: np.ndarray = IOU_THRESHOLDS
) -> np.ndarray:
    """Let each detection, best score first, take the true box that it overlaps most of those that are left.

    Where no true box is left for it, a detection on an ignored box is neither right nor wrong; an ignored box takes
    any number of them. Equal overlaps go to the box that comes later, as in COCO.

    Args:
        pairs: what overlaps, in any order; both of a pair are of one group.
        group: (n,) integers, ascending: image and class of each detection; best score first inside a group.
        num_boxes: true boxes in all.
        thresholds: (t,) overlaps (>=) that make a match.

    Returns:
        (t, n) int64, the true box that a detection found, or `WRONG`, or `NEITHER`.

    Source:
        COCO API, `cocoeval.py`, evaluateImg (Lin et al. 2014, arXiv 1405.0312).
    """
    found = np.full((len(thresholds), len(group)), WRONG, np.int64)
    taken = np.zeros((len(thresholds), num_boxes + 1), bool)  # the last stands for every ignored box and stays free
    near = pairs.overlap >= thresholds.min(initial=1.0)
    detection, box, overlap = pairs.detection[near], np.maximum(pairs.box[near], -1), pairs.overlap[near]
    turn = _turns(detection, group)
    order = np.lexsort((box, overlap, box >= 0, detection, turn))  # the last possible one of a detection is its best
    detection, box, overlap, turn = detection[order], box[order], overlap[order], turn[order]
    edges = np.flatnonzero(np.diff(turn, prepend=-1, append=-1))
    for start, end in pairwise(edges):
        part = slice(start, end)
        takes = (overlap[part] >= thresholds[:, None]) & ~taken[:, box[part]]
        first = np.flatnonzero(np.diff(detection[part], prepend=-1))
        last = np.maximum.reduceat(np.where(takes, np.arange(end - start), -1), first, axis=1)
        level, which = np.nonzero(last >= 0)
        chosen = box[part][last[level, which]]
        found[level, detection[part][first][which]] = np.where(chosen < 0, NEITHER, chosen)
        taken[level[chosen >= 0], chosen[chosen >= 0]] = True
    return found


def rank_in_group(group: np.ndarray) -> np.ndarray:
    """Return how many members of its group come before each, (n,) int64, for ascending groups."""
    first = np.searchsorted(group, group, side="left")
    ranks: np.ndarray = np.arange(len(group)) - first
    return ranks


def _turns(detection: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return in which round each pair is looked at: in a round, each group has at most one detection."""
    present, at = np.unique(detection, return_inverse=True)
    turns: np.ndarray = rank_in_group(group[present])[at]
    return turns
