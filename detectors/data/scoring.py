"""Accuracy of detections with MMRotate's rules: rotated IoU, average precision by area and by VOC 2007.

Matching is MMRotate's `tpfp_default` and AP is MMDetection's `average_precision`, the two functions behind
`eval_rbbox_map`. That one is not called itself: it starts new Python processes each time, and in an image
without truth it forgets the ignored boxes. A test holds both equal wherever it is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.ops import box_iou_rotated
from mmdet.evaluation.functional import average_precision
from mmrotate.evaluation.functional.mean_ap import tpfp_default

from compress.detector import Scores
from compress.errors import DataError
from detectors.data.dota import Truth
from detectors.data.records import MatchRecords, bootstrap_map50, interval, precision_recall
from detectors.geometry.detections import Detections

# Lower and upper bound of sqrt(area) in px -> name of the recall in Scores.extra.
SIZE_BINS = {
    "recall_below_16px": (0.0, 16.0),
    "recall_16_to_32px": (16.0, 32.0),
    "recall_from_32px": (32.0, np.inf),
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
        Scores with area AP; 'map50_voc07' and recall by size (sqrt of area) in `extra`.

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
        {label: _average_precision(records, label, mode) for label in scored} for mode in ("area", "11points")
    )
    confident = records.score >= precision_score_threshold
    right, wrong = (int((flags & confident).sum()) for flags in (records.right, records.wrong))
    extra = {"map50_voc07": float(np.mean(list(voc07.values()))) if scored else 0.0}
    for name, (low, high) in SIZE_BINS.items():
        of_size = (records.truth_size_px >= low) & (records.truth_size_px < high)
        if of_size.any():
            extra[name] = float(records.truth_found[of_size].mean())
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
    columns: dict[str, list[np.ndarray]] = {key: [] for key in ("image", "label", "score", "right", "wrong")}
    num_truths = np.zeros((len(truths), len(classes)), np.int64)
    sizes, found = [np.zeros(0, np.float32)], [np.zeros(0, bool)]
    for image, (item, truth) in enumerate(zip(detections, truths, strict=True)):
        _check_labels(item.labels, truth.labels, len(classes), image)
        num_truths[image] = np.bincount(truth.labels, minlength=len(classes))
        for label in np.union1d(item.labels, truth.labels):
            boxes = _canonical(item, label)
            wanted = np.asarray(truth.boxes[truth.labels == label], np.float32).reshape(-1, 5)
            right, wrong, hit = _match(boxes, wanted, truth.ignored_boxes, iou_threshold)
            columns["image"].append(np.full(len(boxes), image, np.int32))
            columns["label"].append(np.full(len(boxes), label, np.int32))
            columns["score"].append(boxes[:, 5])
            columns["right"].append(right)
            columns["wrong"].append(wrong)
            sizes.append(np.sqrt(wanted[:, 2] * wanted[:, 3]))
            found.append(hit)
    empty = {"image": np.int32, "label": np.int32, "score": np.float32, "right": bool, "wrong": bool}
    return MatchRecords(
        classes=tuple(classes),
        iou_threshold=iou_threshold,
        num_truths=num_truths,
        truth_size_px=np.concatenate(sizes),
        truth_found=np.concatenate(found),
        **{key: np.concatenate([np.zeros(0, kind), *columns[key]]) for key, kind in empty.items()},
    )


def _check_labels(found: np.ndarray, wanted: np.ndarray, num_classes: int, image: int) -> None:
    labels = np.concatenate([found, wanted])
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        odd = labels[(labels < 0) | (labels >= num_classes)][0]
        raise DataError(f"scoring: image {image} has the label {odd}, expected 0 to {num_classes - 1}.")


def _canonical(detections: Detections, label: int) -> np.ndarray:
    """Return boxes and scores of one class, (n, 6) float32, best first; ties ordered by the box itself."""
    chosen = detections.labels == label
    rows = np.concatenate([detections.boxes[chosen], detections.scores[chosen, None]], axis=1).astype(np.float32)
    return rows[np.lexsort((rows[:, 4], rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0], -rows[:, 5]))]


def _match(
    boxes: np.ndarray, wanted: np.ndarray, ignored: np.ndarray, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (right, wrong) per detection and found per true box, all bool."""
    found = np.zeros(len(wanted), bool)
    if not len(boxes):
        return np.zeros(0, bool), np.zeros(0, bool), found
    ignored = np.asarray(ignored, np.float32).reshape(-1, 5)
    right, wrong = (flags[0] > 0 for flags in tpfp_default(boxes, wanted, ignored, iou_threshold))
    if right.any():
        overlaps = box_iou_rotated(torch.from_numpy(boxes[right, :5].copy()), torch.from_numpy(wanted))
        found[overlaps.argmax(dim=1).numpy()] = True
    return right, wrong, found


def _average_precision(records: MatchRecords, label: int, mode: str) -> float:
    precision, recall = precision_recall(records, label)
    if not len(recall):
        return 0.0
    return float(average_precision(recall, precision, mode))
