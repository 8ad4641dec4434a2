"""Accuracy of detections with MMRotate's rules: rotated IoU, average precision by area and by VOC 2007.

Matching follows MMRotate's `tpfp_default`, with an exact overlap: MMCV's `box_iou_rotated` gives 0.3 to 0.6 instead
of 1 for some pairs of nearly identical boxes, so that a perfect detection counted as wrong. In an image without truth
its `eval_rbbox_map` forgets the ignored boxes. A test holds both equal wherever it is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.dataset import Scores
from compress.errors import DataError
from detectors.data.records import (
    MatchRecords,
    area_map50,
    average_precision,
    bootstrap_map50,
    eleven_point_precision,
    interval,
    of_size,
    precision_recall,
)
from detectors.data.samples import Truth
from detectors.geometry.detections import Detections
from detectors.geometry.iou import overlapping_pairs, pairwise_iou

# Lower and upper bound of sqrt(area) in px; Scores.extra has the recall and the map50 of each.
SIZE_BINS = {"below_16px": (0.0, 16.0), "16_to_32px": (16.0, 32.0), "from_32px": (32.0, np.inf)}

_COLUMNS = {
    "image": np.int32,
    "label": np.int32,
    "score": np.float32,
    "size_px": np.float32,
    "right": bool,
    "wrong": bool,
    "truth_image": np.int32,
    "truth_label": np.int32,
    "truth_size_px": np.float32,
    "truth_found": bool,
}


def score_detections(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    classes: Sequence[str],
    *,
    iou_threshold: float = 0.5,
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
        iou_threshold: overlap (>=) that makes a match.
        precision_score_threshold: detections below do not enter `precision`.
        bootstrap: resamples of the images for the interval of map50; 0 for none.
        seed: of the resampling.

    Returns:
        Scores with area AP; 'map50_voc07' and, by size (sqrt of area), recall and map50 in `extra`.

    Raises:
        DataError: the two lists differ in length, or a label is no index into the classes.
    """
    records = match_records(detections, truths, classes, iou_threshold=iou_threshold)
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
    confident = records.score >= precision_score_threshold
    right, wrong = (int((flags & confident).sum()) for flags in (records.right, records.wrong))
    extra = {"map50_voc07": float(np.mean(list(voc07.values()))) if scored else 0.0}
    for name, (low, high) in SIZE_BINS.items():
        part = of_size(records, low, high)
        if len(part.truth_found):
            extra |= {f"recall_{name}": float(part.truth_found.mean()), f"map50_{name}": area_map50(part)}
    sampled = bootstrap_map50(records, samples=bootstrap, seed=seed) if bootstrap and scored else None
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
        map50_interval=None if sampled is None else interval(sampled),
        map50_resampled=sampled,
        extra=extra,
    )


def match_records(
    detections: Sequence[Detections], truths: Sequence[Truth], classes: Sequence[str], *, iou_threshold: float = 0.5
) -> MatchRecords:
    """Match detections to truth, image by image and class by class.

    Each detection is held against the box it overlaps most (truth of its class, or any ignored box). A second
    detection on a true box is wrong. Detections are first brought into a canonical order, so permuting
    them changes nothing.

    Args and errors: as in `score_detections`.

    Source:
        MMRotate 1.x, `tpfp_default`; ignored boxes as in PASCAL VOC 2010 (difficult).
    """
    if len(detections) != len(truths):
        raise DataError(
            f"scoring: {len(detections)} images with detections, {len(truths)} with truth. Give one per image."
        )
    columns: dict[str, list[np.ndarray]] = {name: [np.zeros(0, kind)] for name, kind in _COLUMNS.items()}
    num_truths = np.zeros((len(truths), len(classes)), np.int64)
    for image, (item, truth) in enumerate(zip(detections, truths, strict=True)):
        _check_labels(item.labels, truth.labels, len(classes), image)
        num_truths[image] = np.bincount(truth.labels, minlength=len(classes))
        for label in np.union1d(item.labels, truth.labels):
            boxes = _canonical(item, label)
            wanted = np.asarray(truth.boxes[truth.labels == label], np.float32).reshape(-1, 5)
            match = _match(boxes, wanted, truth.ignored_boxes, iou_threshold)
            rows = {
                "image": np.full(len(boxes), image),
                "label": np.full(len(boxes), label),
                "score": boxes[:, 5],
                "size_px": np.where(match.right, _sizes(wanted, match.best), _sizes(boxes)),
                "right": match.right,
                "wrong": match.wrong,
                "truth_image": np.full(len(wanted), image),
                "truth_label": np.full(len(wanted), label),
                "truth_size_px": _sizes(wanted),
                "truth_found": match.found,
            }
            for name, values in rows.items():
                columns[name].append(values.astype(_COLUMNS[name]))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return MatchRecords(classes=tuple(classes), iou_threshold=iou_threshold, num_truths=num_truths, **joined)


def _check_labels(found: np.ndarray, wanted: np.ndarray, num_classes: int, image: int) -> None:
    labels = np.concatenate([found, wanted])
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        odd = labels[(labels < 0) | (labels >= num_classes)][0]
        raise DataError(f"scoring: image {image} has the label {odd}, expected 0 to {num_classes - 1}.")


def _canonical(detections: Detections, label: int) -> np.ndarray:
    """Return boxes and scores of one class, (n, 6) float32, best first; ties ordered by the box itself."""
    chosen = detections.labels == label
    rows = np.concatenate([detections.boxes[chosen], detections.scores[chosen, None]], axis=1).astype(np.float32)
    order = np.lexsort((rows[:, 4], rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0], -rows[:, 5]))
    best_first: np.ndarray = rows[order]
    return best_first


@dataclass(frozen=True)
class _Match:
    """Of each detection: right, wrong, index of the box it overlaps most; of each true box: found."""

    right: np.ndarray
    wrong: np.ndarray
    best: np.ndarray
    found: np.ndarray


def _match(boxes: np.ndarray, wanted: np.ndarray, ignored: np.ndarray, iou_threshold: float) -> _Match:
    """Match detections, best first; `best` counts the true boxes first, then the ignored ones."""
    right, wrong, found = np.zeros(len(boxes), bool), np.ones(len(boxes), bool), np.zeros(len(wanted), bool)
    best, overlap = _best_overlaps(boxes[:, :5], np.concatenate([wanted, np.asarray(ignored).reshape(-1, 5)]))
    hits = np.flatnonzero(overlap >= iou_threshold)
    wrong[hits[best[hits] >= len(wanted)]] = False
    true_hits = hits[best[hits] < len(wanted)]
    objects, first = np.unique(best[true_hits], return_index=True)
    right[true_hits[first]], wrong[true_hits[first]], found[objects] = True, False, True
    return _Match(right, wrong, best, found)


def _sizes(boxes: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
    """Return the square root of the area of each box, px; `at`: of the boxes of these indices, 0 past the end."""
    sizes: np.ndarray = np.sqrt(boxes[:, 2] * boxes[:, 3])
    return sizes if at is None else np.append(sizes, 0)[np.minimum(at, len(sizes))]


def _best_overlaps(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each box the index of the other that it overlaps most (the first of equals), and that overlap."""
    best, overlap = np.zeros(len(boxes), np.int64), np.zeros(len(boxes))
    box, other = overlapping_pairs(boxes, others)
    values = pairwise_iou(boxes[box], others[other])
    order = np.lexsort((other, -values, box))
    rows, first = np.unique(box[order], return_index=True)
    best[rows], overlap[rows] = other[order][first], values[order][first]
    return best, overlap
