"""Average precision for many weightings of the images at once: by area, and at COCO's 101 recall points. NumPy only.

Recall moves only at true positives, and the largest precision at or after one of them is reached at a true positive,
so the curves are evaluated at these alone. A column is a weighting, so that running sums go over whole rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

RECALL_POINTS = np.linspace(0.0, 1.0, 101)
_BLOCK = 2048  # true positives whose counts are made at a time
_FEW_COLUMNS = 64  # below, NumPy's own accumulation is faster than a loop over rows


@dataclass(frozen=True)
class Ranking:
    """The detections of one class, best score first, judged at t overlaps; neither right nor wrong: left out.

    Attributes:
        image: (n,) index of the image of each.
        right: (t, n) bool, true positive.
        wrong: (t, n) bool, false positive.
        truths: (images,) boxes to be found.
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    truths: np.ndarray


def area_precision(ranking: Ranking, weights: np.ndarray) -> np.ndarray:
    """Return the area under the precision that is reached at each recall or beyond.

    Args:
        ranking: detections of one class.
        weights: (images, s) float: how often each image counts. Sums of whole numbers are exact in float32 too.

    Returns:
        (t, s), 0..1; 0 where there is no truth.

    Source:
        PASCAL VOC 2010.
    """
    truths = np.maximum(ranking.truths @ weights, 1)
    areas = [np.einsum("ks,ks->s", gained, reached) / truths for gained, _, reached in _curves(ranking, weights)]
    return np.array(areas).reshape(len(ranking.right), weights.shape[1])


def recall_point_precision(ranking: Ranking, weights: np.ndarray) -> np.ndarray:
    """Return the mean of the precision that is reached at recall 0, 0.01, ..., 1 or beyond; arguments as above.

    Source:
        COCO API, `cocoeval.py`, accumulate: its points and its comparison with them, to the last bit.
    """
    passed = _points_passed(ranking.truths @ weights)
    columns = np.arange(weights.shape[1])
    means = []
    for _, found, reached in _curves(ranking, weights):
        points = np.take(passed, found.astype(np.int64) * len(columns) + columns).astype(weights.dtype)
        points[1:] -= points[:-1].copy()
        means.append(np.einsum("ks,ks->s", points, reached) / len(RECALL_POINTS))
    return np.array(means).reshape(len(ranking.right), weights.shape[1])


def _curves(ranking: Ranking, weights: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each overlap, at its k true positives: weight, weight so far, precision here or beyond, (k, s)."""
    judged = ranking.right | ranking.wrong
    ever, union = judged.any(axis=0), np.flatnonzero(ranking.right.any(axis=0))
    total = _counts_at(union, np.flatnonzero(ever), ranking.image, weights)
    for right, counted in zip(ranking.right, judged, strict=True):
        at = np.flatnonzero(right)
        so_far = total[np.searchsorted(union, at)]
        left_out = np.flatnonzero(ever & ~counted)
        if len(left_out):
            so_far = so_far - _counts_at(at, left_out, ranking.image, weights)
        gained = weights[ranking.image[at]]
        found = _accumulated(np.add, gained)
        reached = _accumulated(np.maximum, (found / np.maximum(so_far, 1))[::-1])[::-1]
        yield gained, found, reached


def _counts_at(at: np.ndarray, counted: np.ndarray, image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weight of the counted detections at or before each position of `at`, (len(at), s)."""
    images, samples = weights.shape
    step = np.searchsorted(at, counted)  # the first position that each is at or before
    grown = np.empty((len(at), samples), weights.dtype)
    for start in range(0, len(at), _BLOCK):
        end = min(start + _BLOCK, len(at))
        inside = (step >= start) & (step < end)
        cells = (step[inside] - start) * images + image[counted[inside]]
        new = np.bincount(cells, minlength=(end - start) * images).reshape(end - start, images)
        grown[start:end] = new.astype(weights.dtype) @ weights
    return _accumulated(np.add, grown)


def _accumulated(ufunc: np.ufunc, rows: np.ndarray) -> np.ndarray:
    """Return the running result of a ufunc down the rows, (k, s)."""
    if rows.shape[1] < _FEW_COLUMNS:
        result: np.ndarray = ufunc.accumulate(rows, axis=0)
        return result
    result = rows.copy()
    step: Callable[..., np.ndarray] = ufunc
    for above, row in pairwise(result):
        step(above, row, out=row)
    return result


def _points_passed(truths: np.ndarray) -> np.ndarray:
    """Return how many recall points f found of `truths` boxes reach, flat (largest count + 1, s) uint8."""
    truths = np.asarray(truths, np.float64)
    whole = np.maximum(truths, 1)
    least = np.ceil(RECALL_POINTS[:, None] * whole)  # up to rounding; COCO compares the quotient
    least -= (least - 1) / whole >= RECALL_POINTS[:, None]
    least += least / whole < RECALL_POINTS[:, None]
    # No precision is reached before something is found, not even at recall 0.
    cells = np.maximum(least, 1).astype(np.int64) * len(truths) + np.arange(len(truths))
    rows = int(whole.max(initial=1)) + 1
    passed: np.ndarray = np.bincount(cells.ravel(), minlength=rows * len(truths)).reshape(rows, -1).cumsum(axis=0)
    return passed.astype(np.uint8).ravel()
