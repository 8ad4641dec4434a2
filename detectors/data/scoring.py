"""Accuracy of detections by rotated overlap: `map` and `map75` as COCO defines them, `map50` by MMRotate's rules.

`map50` is the area under the curve (and by VOC 2007), matched as in MMRotate's `tpfp_default`, with an exact overlap:
MMCV's `box_iou_rotated` gives 0.3 to 0.6 instead of 1 for some pairs of nearly identical boxes, so that a perfect
detection counted as wrong. In an image without truth its `eval_rbbox_map` forgets the ignored boxes. A test holds both
equal wherever it is right.

`map` is COCO's: ten thresholds, 101 recall points, its greedy matching; a test holds it equal to pycocotools. Ignored
boxes mean the same in both: a detection on one, by the same overlap, is neither right nor wrong, whatever its class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compress.dataset import Scores
from detectors.data.matching import MAX_DETS, match_records
from detectors.data.records import (
    AT_75,
    MatchRecords,
    area_map50,
    as_they_are,
    average_precision,
    bootstrap,
    class_precision_at,
    eleven_point_precision,
    interval,
    mean_precisions,
    of_size,
    precision_recall,
)
from detectors.data.samples import Truth
from detectors.geometry.detections import Detections

__all__ = ["MAX_DETS", "SIZE_BINS", "match_records", "score_detections", "score_records"]

# Lower and upper bound of sqrt(area) in px; Scores.extra has the recall, map, map75 and map50 of each.
SIZE_BINS = {"below_16px": (0.0, 16.0), "16_to_32px": (16.0, 32.0), "from_32px": (32.0, np.inf)}


def score_detections(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    classes: Sequence[str],
    *,
    iou_threshold: float = 0.5,
    max_dets: int = MAX_DETS,
    precision_score_threshold: float = 0.3,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Scores:
    """Score the detections of a split.

    Args:
        detections: one object an image.
        truths: one object an image, same order. Ignored boxes count for every class: a detection whose
            best overlap is with one of them is neither right nor wrong.
        classes: names.
        iou_threshold: overlap (>=) that makes a match for map50, recall and precision.
        max_dets: so many detections of a class in an image, the best ones, count for `map` and `map75`.
        precision_score_threshold: detections below do not enter `precision`.
        bootstrap: resamples of the images for the intervals; 0 for none.
        seed: of the resampling.

    Returns:
        Scores; `extra` has 'map50_voc07', 'map50_coco' (COCO's rules at IoU 0.5) and, by size (sqrt of area), recall,
        map, map75 and map50.

    Raises:
        DataError: the two lists differ in length, or a label is no index into the classes.
    """
    records = match_records(detections, truths, classes, iou_threshold=iou_threshold, max_dets=max_dets)
    return score_records(records, precision_score_threshold=precision_score_threshold, bootstrap=bootstrap, seed=seed)


def score_records(
    records: MatchRecords, *, precision_score_threshold: float = 0.3, bootstrap: int = 1000, seed: int = 0
) -> Scores:
    """Return the scores of matched detections; arguments as in `score_detections`."""
    truths = records.num_truths.sum(axis=0)
    scored = [label for label in range(len(records.classes)) if truths[label]]
    area, voc07 = (
        {label: method(*precision_recall(records, label)) for label in scored}
        for method in (average_precision, eleven_point_precision)
    )
    weights = as_they_are(records)
    by_class = {label: class_precision_at(records, label, weights)[:, 0] for label in scored}
    at = np.mean(list(by_class.values()), axis=0) if scored else np.zeros(len(records.right_at))
    confident = records.score >= precision_score_threshold
    right, wrong = (int((flags & confident).sum()) for flags in (records.right, records.wrong))
    voc = {"map50_voc07": float(np.mean(list(voc07.values()))) if scored else 0.0, "map50_coco": float(at[0])}
    return Scores(
        map50=float(np.mean(list(area.values()))) if scored else 0.0,
        ap_method="area",
        iou_threshold=records.iou_threshold,
        ap_per_class={name: area.get(label, float("nan")) for label, name in enumerate(records.classes)},
        recall=float(records.right.sum() / max(truths.sum(), 1)),
        precision=right / max(right + wrong, 1),
        precision_score_threshold=precision_score_threshold,
        num_detections=len(records.score),
        num_images=len(records.num_truths),
        extra=voc | _by_size(records),
        map=float(at.mean()),
        map75=float(at[AT_75]),
        map_per_class=_named(records, {label: values.mean() for label, values in by_class.items()}),
        map75_per_class=_named(records, {label: values[AT_75] for label, values in by_class.items()}),
        max_dets=records.max_dets,
        num_objects=int(truths.sum()),
        **(_resampled(records, bootstrap, seed) if bootstrap and scored else {}),
    )


def _named(records: MatchRecords, by_label: dict[int, float]) -> dict[str, float]:
    """Return values by class name, NaN where a class has none."""
    return {name: float(by_label.get(label, np.nan)) for label, name in enumerate(records.classes)}


def _by_size(records: MatchRecords) -> dict[str, float]:
    """Return recall, map, map75 and map50 of each size that boxes have."""
    found: dict[str, float] = {}
    for name, (low, high) in SIZE_BINS.items():
        part = of_size(records, low, high)
        if len(part.truth_found):
            means = mean_precisions(part, as_they_are(part))
            found |= {
                f"recall_{name}": float(part.truth_found.mean()),
                f"map_{name}": float(means.map[0]),
                f"map75_{name}": float(means.map75[0]),
                f"map50_{name}": area_map50(part),
            }
    return found


def _resampled(records: MatchRecords, samples: int, seed: int) -> dict[str, Any]:
    """Return the fields of `Scores` that resampling the images gives."""
    drawn = bootstrap(records, samples=samples, seed=seed)
    fields: dict[str, Any] = {}
    for name, values in (("map", drawn.map), ("map75", drawn.map75), ("map50", drawn.map50)):
        fields |= {f"{name}_interval": interval(values), f"{name}_resampled": values}
    return fields
